"""The demo: run the study, apply the decision rule, write the page.

python analyses/00_demo/analysis.py [--out reports/00_demo]
"""

import argparse
from pathlib import Path

from ntk_fed.report import render
from ntk_fed.report.study import Frame, read
from ntk_fed.report.summary import per_run
from ntk_fed.studies import read_study, run_study

HERE = Path(__file__).parent

# The decision rule of QUESTION.md.
NARROW, WIDE = 256, 4096
LARGEST_ERROR = 0.05
LARGEST_RESIDUAL = 0.6


def decision(table: Frame) -> str:
    """The decision rule of QUESTION.md on the medians over seeds."""
    medians = table.groupby("width")[["prediction_error", "residual_ratio"]].median()
    wide, narrow = medians.loc[WIDE], medians.loc[NARROW]
    checks = {
        f"prediction error at width {WIDE} at most {LARGEST_ERROR:.0%}": (
            wide["prediction_error"],
            wide["prediction_error"] <= LARGEST_ERROR,
        ),
        f"prediction error at width {NARROW} above {LARGEST_ERROR:.0%}": (
            narrow["prediction_error"],
            narrow["prediction_error"] > LARGEST_ERROR,
        ),
    }
    for width, found in ((WIDE, wide), (NARROW, narrow)):
        value = found["residual_ratio"]
        checks[f"residual ratio at width {width} at most {LARGEST_RESIDUAL}"] = (
            value,
            value <= LARGEST_RESIDUAL,
        )
    lines = [
        f"- {name}: {value:.3f}, {'yes' if holds else 'no'}"
        for name, (value, holds) in checks.items()
    ]
    answer = "accepted" if all(holds for _, holds in checks.values()) else "refused"
    above = table[table["residual_ratio"] > LARGEST_RESIDUAL]
    single = ", ".join(
        f"width {run['width']} seed {run['seed']} ({run['residual_ratio']:.3f})"
        for run in above.to_dict("records")
    )
    return "\n".join(
        [
            "# Decision, by this rule, after the run",
            "",
            f"The prediction of residuals is **{answer}** (medians over seeds):",
            "",
            *lines,
            "",
            f"Single runs whose residual ratio is above {LARGEST_RESIDUAL}: "
            f"{single or 'none'}.",
        ]
    )


def main() -> None:
    """Run what is not done yet, then write the page and print where it is."""
    parser = argparse.ArgumentParser(description="Run the demo study and report it.")
    parser.add_argument("--out", default="reports/00_demo", help="study folder")
    out = parser.parse_args().out
    study = read_study(HERE / "study.toml")
    folder = run_study(study, out, report=lambda now: print(now.line(), flush=True))
    question = (HERE / "QUESTION.md").read_text()
    answer = decision(per_run(read(folder)))
    print(render(folder, question=f"{question}\n{answer}\n"))


if __name__ == "__main__":  # worker processes import this file again
    main()
