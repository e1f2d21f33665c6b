"""Local steps and unlike clients: run the study, apply the rule, write the page.

python analyses/03_local_steps_and_heterogeneity/analysis.py
    [--out reports/03_local_steps_and_heterogeneity] [--spec tiny.toml]
"""

import argparse
import itertools
from pathlib import Path

from ntk_fed.report import Answer, render
from ntk_fed.report.study import Frame, Study, read
from ntk_fed.report.summary import per_run
from ntk_fed.report.words import number, percent
from ntk_fed.studies import read_study, run_study

HERE = Path(__file__).parent

# The decision rule of QUESTION.md.
LARGEST_ERROR = 0.05
SAME, DIFFERENT = 1e-9, 1e-3  # relative differences of residual norms over the splits
ORDER = ["iid", "shards", "one-class"]
CELL = ["width", "local_steps", "partition"]


def numbers(study: Study) -> Frame:
    """One row per run: what the rule reads."""
    own = per_run(study)
    columns = {
        "residual": study.each("residual norm", "last"),
        "drift": study.each("relative gradient drift", "mean"),
    }
    return own.assign(
        **{k: v.reindex(own["run"]).to_numpy() for k, v in columns.items()}
    )


def spread(table: Frame, local_steps: int) -> tuple[float, float]:
    """Smallest and largest difference over the splits, of all widths and seeds."""
    own = table[table["local_steps"] == local_steps]
    ends = own.groupby(["width", "seed"])["residual"].agg(["min", "max"])
    gaps = ends["max"] / ends["min"] - 1
    return float(gaps.min()), float(gaps.max())


def decision(table: Frame) -> Answer:
    """The decision rule of QUESTION.md."""
    steps, wide = sorted(table["local_steps"].unique()), table["width"].max()
    same, different = spread(table, steps[0])[1], spread(table, steps[-1])[0]
    control = (
        f"at K = {steps[0]} the splits differ by {number(same, 2)} at most, at "
        f"K = {steps[-1]} by {number(different, 2)} at least"
    )
    if steps[0] != 1 or not same <= SAME or not different > DIFFERENT:
        return Answer("undecided", f"the negative control has failed: {control}.")
    errors = table.groupby(CELL)["prediction_error"].median()
    own = errors.loc[wide]
    narrow = errors.loc[(table["width"].min(), steps[-1], "one-class")]
    accepted = bool((own <= LARGEST_ERROR).all() and narrow > LARGEST_ERROR)
    cells, worst = int((own <= LARGEST_ERROR).sum()), own.idxmax()
    return Answer(
        "holds" if accepted else "fails",
        f"that the kernel governs the run is {'accepted' if accepted else 'refused'}: "
        f"at width {wide} the prediction error is at most {LARGEST_ERROR:.0%} in "
        f"{cells} of {len(own)} cells, the largest {percent(own.max())} at "
        f"K = {worst[0]}, {worst[1]}; at width {table['width'].min()} with "
        f"K = {steps[-1]} and one class per client it is {percent(narrow)}. "
        f"Control: {control}.",
    )


def further(table: Frame) -> str:
    """What is reported beside the verdict, each yes or no."""
    medians = table.groupby(CELL)[["drift", "residual_ratio", "prediction_error"]]
    found = medians.median()
    most, widths = table["local_steps"].max(), sorted(table["width"].unique())
    splits = [name for name in ORDER if name in set(table["partition"])]
    lines = ["# After the run, beside the verdict", ""]
    for column, words in (
        ("drift", "relative gradient drift"),
        ("residual_ratio", "residual norm after the last round"),
    ):
        for width in widths:
            values = [found.loc[(width, most, name), column] for name in splits]
            lines.append(
                f"- {words} grows over {', '.join(splits)} at K = {most}, width "
                f"{width}: {_answer(values)}"
            )
    for name in splits:
        for k in sorted(table["local_steps"].unique()):
            values = [found.loc[(w, k, name), "prediction_error"] for w in widths]
            lines.append(
                f"- prediction error falls with width at K = {k}, {name}: "
                f"{_answer(values[::-1], shown=values)}"
            )
    for name in splits:
        steps = sorted(table["local_steps"].unique())
        values = [found.loc[(widths[-1], k, name), "drift"] for k in steps]
        lines.append(
            f"- relative gradient drift grows with K at width {widths[-1]}, {name}: "
            f"{_answer(values)}"
        )
    return "\n".join(lines)


def _answer(values: list[float], shown: list[float] | None = None) -> str:
    rises = all(a < b for a, b in itertools.pairwise(values))
    return f"{'yes' if rises else 'no'} ({', '.join(map(number, shown or values))})"


def main() -> None:
    """Run what is not done yet, then write the page and print where it is."""
    parser = argparse.ArgumentParser(description="Run the study and report it.")
    default = "reports/03_local_steps_and_heterogeneity"
    parser.add_argument("--out", default=default, help="study folder")
    parser.add_argument("--spec", default="study.toml", help="file beside this one")
    options = parser.parse_args()
    study = read_study(HERE / options.spec)
    out = run_study(
        study, options.out, report=lambda now: print(now.line(), flush=True)
    )
    table = numbers(read(out))
    answer = decision(table)
    question = (HERE / "QUESTION.md").read_text()
    print(render(out, question=f"{question}\n{further(table)}\n", answer=answer))
    print(f"{answer.verdict}: {answer.words}")


if __name__ == "__main__":  # worker processes import this file again
    main()
