"""Required widths: run what is missing, apply the decision rule, write the pages.

python analyses/02_required_width/analysis.py [--out reports/02_required_width]
    [--spec tiny.toml]

The sphere goes to OUT_sphere. With another specification than study.toml only that
one is run.
"""

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from ntk_fed.report import Answer, render_required
from ntk_fed.studies import read_requirement, run_requirement

HERE = Path(__file__).parent
CONTROL = "theorem:du2019.gradient_descent"
LEAST = 3  # n with two-sided brackets, of the decision rule in QUESTION.md


def below_theory(exponents: Any) -> dict[str, str]:
    """Conditions whose measured exponent is surely below every theorem's, in words."""
    found = {}
    for condition in ("eigenvalue", "kernel"):
        own = exponents[exponents["condition"] == condition].set_index("kind")
        if "least squares" not in own.index:
            continue
        one = own.loc["least squares"]
        theory = own.drop(["least squares", "power laws"])["exponent"]
        enough = one["points"] >= LEAST and len(theory) > 0
        if enough and one["upper"] < theory.min():
            text = f"[{one['lower']:.2f}, {one['upper']:.2f}]".replace("-", "−")
            found[condition] = (
                f"the required width of {condition} grows with an exponent in {text} "
                f"({one['points']} brackets), the theory's is {theory.min():.1f} or "
                "more"
            )
    return found


def decision(folder: Path) -> Answer:
    """The decision rule of QUESTION.md."""
    names = ("brackets", "exponents", "theory")
    tables: list[Any] = [pd.read_parquet(folder / f"{name}.parquet") for name in names]
    brackets, exponents, theory = tables
    control: Any = brackets[brackets["condition"] == CONTROL]
    both: Any = brackets.merge(
        theory, on=["value", "condition"], suffixes=("", "_theory")
    )
    above = both[both["upper"] > 10 ** both["log10"]]
    wrong = [
        f"n = {row['value']}, {row['condition']}: {why}"
        for table, why in (
            (control[control["upper"].notna()], "the negative control is met"),
            (brackets[~brackets["consistent"]], "the bracket contradicts itself"),
            (above, "the upper end is above a width that a theorem asks for"),
        )
        for row in table.to_dict("records")
    ]
    if wrong:
        return Answer("fails", "; ".join(wrong) + ".")
    slower = below_theory(exponents)
    if slower and len(control):
        words = "; ".join(slower.values())
        return Answer("holds", f"{words}; the negative control is met at no width.")
    return Answer(
        "undecided",
        "too few two-sided brackets, or their enclosure reaches a theorem's exponent"
        + ("." if len(control) else "; no negative control was run."),
    )


def run_and_render(name: str, out: Path) -> None:
    """One search of this folder, and its page."""
    spec = read_requirement(HERE / name)
    folder = run_requirement(spec, out, report=lambda text: print(text, flush=True))
    answer = decision(folder)
    question = (HERE / "QUESTION.md").read_text()
    print(render_required(folder, question=question, answer=answer))
    print(f"{answer.verdict}: {answer.words}")


def main() -> None:
    """Run what is not done yet, then write the pages and print where they are."""
    parser = argparse.ArgumentParser(description="Required widths, and their report.")
    parser.add_argument("--spec", default="study.toml", help="file beside this one")
    parser.add_argument("--out", default="reports/02_required_width", help="folder")
    options = parser.parse_args()
    out = Path(options.out).resolve()
    run_and_render(options.spec, out)
    if options.spec == "study.toml":
        run_and_render("sphere.toml", out.with_name(f"{out.name}_sphere"))


if __name__ == "__main__":  # worker processes import this file again
    main()
