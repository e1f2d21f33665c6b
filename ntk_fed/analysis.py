"""An analysis: a question, the cases that answer it, a conclusion, a page.

Floor 10. The folder of an analysis holds ``QUESTION.md`` (prediction and decision rule,
written before the run), ``study.toml`` (and others, such as ``tiny.toml``),
``measure.py`` (``Case`` and ``measure``, see ``studies.cases``) and ``analysis.py``,
which hands its function from rows to a conclusion to :func:`main`.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from ntk_fed.errors import RunFolderError
from ntk_fed.report import Conclusion, render_findings
from ntk_fed.report.conclusion import read_conclusion
from ntk_fed.studies import Progress, read_cases, run_cases

Rows = Any  # a pandas table: the fields of the case in front of each of its rows


def run(
    folder: str | os.PathLike[str],
    conclude: Callable[[Rows], Conclusion],
    *,
    out: str | os.PathLike[str],
    spec: str = "study.toml",
    report: Callable[[Progress], None] = lambda progress: None,
) -> Path:
    """Measure what is missing, conclude, render.

    Args:
        folder: of the analysis.
        conclude: from the merged rows to the conclusion.
        out: folder of the report; an interrupted study goes on there.
        spec: name of the specification in ``folder``.
        report: called whenever a case has ended.

    Returns:
        The path of the page.
    """
    study = read_cases(Path(folder) / spec, Path(folder) / "measure.py")
    run_cases(study, out, report=report)
    return render(folder, conclude, out=out)


def render(
    folder: str | os.PathLike[str],
    conclude: Callable[[Rows], Conclusion],
    *,
    out: str | os.PathLike[str],
) -> Path:
    """Conclude from the rows that lie in ``out``, and render; nothing is measured.

    Raises:
        RunFolderError: there are no rows, or they are damaged.
    """
    try:
        rows = pd.read_parquet(Path(out) / "rows" / "rows.parquet")
    except (OSError, ValueError) as error:
        raise RunFolderError(
            f"{str(out)!r} holds no rows of this analysis: {error}. Run it first, "
            "without --render."
        ) from error
    question = (Path(folder) / "QUESTION.md").read_text()
    return render_findings(out, question=question, conclusion=conclude(rows))


def main(script: str, conclude: Callable[[Rows], Conclusion]) -> None:
    """The command line of an ``analysis.py``.

    Args:
        script: its ``__file__``.
        conclude: from the merged rows to the conclusion.
    """
    folder = Path(script).resolve().parent
    parser = argparse.ArgumentParser(description=f"The analysis {folder.name}.")
    parser.add_argument("--out", default=f"reports/{folder.name}", help="folder")
    parser.add_argument("--spec", default="study.toml", help="file beside this one")
    parser.add_argument(
        "--render", action="store_true", help="measure nothing: from the rows in OUT"
    )
    options = parser.parse_args()
    if options.render:
        page = render(folder, conclude, out=options.out)
    else:
        page = run(
            folder,
            conclude,
            out=options.out,
            spec=options.spec,
            report=lambda now: print(now.line(), flush=True),
        )
    print(page)
    verdict, words = read_conclusion(page.parent).answer
    print(f"{verdict}: {words}")
