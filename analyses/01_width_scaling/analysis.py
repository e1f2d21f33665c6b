"""Width scaling: run study, control and deep networks, apply the rule, write the pages.

python analyses/01_width_scaling/analysis.py [--out reports/01_width_scaling]
    [--spec tiny.toml]

The control and the deep networks go to OUT_control and OUT_deep. With another
specification than study.toml only that one is run, and the page has no verdict.
"""

import argparse
import contextlib
from pathlib import Path

from ntk_fed.measured import Verdict
from ntk_fed.report import Answer, render
from ntk_fed.report.laws import Fitted, laws
from ntk_fed.report.study import read
from ntk_fed.report.summary import exponent_words
from ntk_fed.report.words import listed
from ntk_fed.studies import read_study, run_study

HERE = Path(__file__).parent

# The decision rule of QUESTION.md; the band ± 0.1 is report.laws.TOLERANCE.
JUDGED = ("flips since start", "flips local-averaged", "kernel change (Frobenius)")
CONTROLLED = ("flips since start", "kernel change (Frobenius)")


def decision(study: list[Fitted], control: list[Fitted]) -> Answer:
    """The decision rule of QUESTION.md."""
    own, other = _judged(study, JUDGED), _judged(control, CONTROLLED)
    found = [one.verdict for one in own]
    if {one.verdict for one in other} != {Verdict.fails}:
        return Answer(
            "undecided",
            "the negative control is not told from lazy scaling, so the check has no "
            f"power here: {_said(other)}.",
        )
    if Verdict.fails in found:
        verdict, word = "fails", "refused"
    elif set(found) == {Verdict.holds}:
        verdict, word = "holds", "accepted"
    else:
        verdict, word = "undecided", "neither accepted nor refused"
    return Answer(
        verdict,
        f"lazy scaling, exponent −½ ± 0.1, is {word} at these widths: {_said(own)}. "
        f"The negative control is told from it: {_said(other)}.",
    )


def afterwards(study: list[Fitted]) -> str:
    """What the prediction had wrong, where the kernel changes less than it said."""
    (kernel,) = _judged(study, JUDGED[2:])
    if kernel.verdict is not Verdict.fails or kernel.line.exponent > kernel.law.slope:
        return ""
    return (
        "\n# After the run: why the kernel may change less than predicted\n\n"
        "This argument was found after the numbers had been seen; no run here tests "
        "it. The prediction of −½ adds up the gates that flip as if each changed the "
        "kernel in the same direction. In this network they do not: units with head +1 "
        "and −1 move in opposite directions, as many gates open as close, and a sum of "
        "m^½ flips of random sign is of the order m^¼. Divided by m that is m^(−¾). "
        "The prediction −½ is then an upper bound here, and −¾ the slope to test next, "
        "with seeds that were not used here.\n"
    )


def _judged(found: list[Fitted], quantities: tuple[str, ...]) -> list[Fitted]:
    by_name = {one.law.quantity: one for one in found}
    if lacking := [name for name in quantities if name not in by_name]:
        raise ValueError(
            f"no exponent for {listed(lacking)}: too few runs have it above 0. Look at "
            "the failures in the study folder."
        )
    return [by_name[name] for name in quantities]


def _said(found: list[Fitted]) -> str:
    return "; ".join(f"{o.law.name} {exponent_words(o.line)}" for o in found)


def run_and_render(spec: str, out: Path) -> Path:
    """One study of this folder, with the question on its page."""
    study = read_study(HERE / spec)
    run_study(study, out, report=lambda now: print(now.line(), flush=True))
    print(render(out, question=(HERE / "QUESTION.md").read_text()))
    return out


def main() -> None:
    """Run what is not done yet, then write the pages and print where they are."""
    parser = argparse.ArgumentParser(description="Run the width study and report it.")
    parser.add_argument("--out", default="reports/01_width_scaling", help="folder")
    parser.add_argument("--spec", default="study.toml", help="file beside this one")
    options = parser.parse_args()
    out = Path(options.out).resolve()
    # The control's network is named by a path from the root of the repository.
    with contextlib.chdir(HERE.resolve().parents[1]):
        run_and_render(options.spec, out)
        if options.spec != "study.toml":
            return
        control = run_and_render("control.toml", out.with_name(f"{out.name}_control"))
        run_and_render("deep.toml", out.with_name(f"{out.name}_deep"))
    found = laws(read(out))[0]
    answer = decision(found, laws(read(control))[0])
    question = (HERE / "QUESTION.md").read_text() + afterwards(found)
    print(render(out, question=question, answer=answer))
    print(f"{answer.verdict}: {answer.words}")


if __name__ == "__main__":  # worker processes import this file again
    main()
