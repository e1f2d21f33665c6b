"""One self-contained page from the recorded rows of a run or a study, and their index.

Floor 9. Nothing is computed by running a network: every number comes from the folder.
"""

import dataclasses
import json
import os
from pathlib import Path

from ntk_fed.errors import RunFolderError
from ntk_fed.names import require_known
from ntk_fed.report.answers import VERDICTS
from ntk_fed.report.conclusion import (
    Conclusion,
    Finding,
    Panel,
    Part,
    Shown,
    finding,
    is_conclusion,
)
from ntk_fed.report.findings import render_findings
from ntk_fed.report.index import entries, index_html
from ntk_fed.report.page import html
from ntk_fed.report.required import is_required, render_required
from ntk_fed.report.study import Answer, read
from ntk_fed.report.template import write

__all__ = [
    "Answer",
    "Conclusion",
    "Finding",
    "Panel",
    "Part",
    "Shown",
    "finding",
    "render",
    "render_findings",
    "render_index",
    "render_required",
]


def render(
    folder: str | os.PathLike[str],
    *,
    question: str | None = None,
    answer: Answer | None = None,
) -> Path:
    """Write ``index.html`` into a run folder or study folder.

    The page needs nothing but itself: figures and tables are inside and nothing is
    loaded. One small script sorts a table when its header is clicked; without it the
    page is the same. Equal rows give equal bytes.

    Args:
        folder: what was given as ``out`` to ``studies.run`` or ``studies.run_study``.
        question: text shown below the answers: question, prediction and decision rule
            as written before the run; headings, lists, ``code`` and **bold**. It is
            kept in the folder as ``question.md``; ``None`` takes the one kept there.
        answer: what the decision rule of the question says, the first line of the
            page; kept as ``answer.json``; ``None`` takes the one kept there.

    Returns:
        The path of the page.

    Raises:
        RunFolderError: the folder is no finished run or study, a file in it is damaged,
            or the page cannot be written.
        UnknownNameError: the answer's verdict is none of the three.
    """
    if is_conclusion(Path(folder)) and answer is None:
        return render_findings(folder, question=question)
    if is_required(Path(folder)):
        return render_required(folder, question=question, answer=answer)
    study, kept = read(folder), Path(folder) / "question.md"
    if question is not None:
        write(kept, question)
    elif kept.exists():
        question = kept.read_text()
    if answer is not None:
        require_known("verdict of the answer", answer.verdict, VERDICTS)
        text = json.dumps(answer._asdict(), ensure_ascii=False, indent=1) + "\n"
        write(Path(folder) / "answer.json", text)
        study = dataclasses.replace(study, answer=answer)
    return write(Path(folder) / "index.html", html(study, question))


def render_index(folder: str | os.PathLike[str] = "reports") -> Path:
    """Write ``index.html`` into a folder of report folders: one row each, with a link.

    Args:
        folder: its folders that are finished runs or studies with a page are listed, in
            the order of their names; others are left out.

    Returns:
        The path of the page.

    Raises:
        RunFolderError: the folder holds no report, is a report itself, or a file in it
            is damaged.
    """
    path = Path(folder)
    if (path / "spec.toml").exists():
        raise RunFolderError(
            f"{str(folder)!r} is a run or a study itself. Give the folder it lies in."
        )
    if not (found := entries(path)):
        raise RunFolderError(
            f"{str(folder)!r} holds no report folder (looked for */index.html beside "
            "*/spec.toml). Render one first: ntk-fed report FOLDER."
        )
    return write(path / "index.html", index_html(found))
