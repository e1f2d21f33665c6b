"""The page of an analysis: answer, findings with intervals, figures, tables.

Floor 9. Nothing is run: every number comes from the folder's tables.
"""

import json
import math
import os
from pathlib import Path
from typing import Any

import pandas as pd

from ntk_fed import records
from ntk_fed.errors import RunFolderError
from ntk_fed.report.conclusion import Conclusion, Part, Shown, keep, read_conclusion
from ntk_fed.report.panels import drawing
from ntk_fed.report.study import Frame
from ntk_fed.report.tables import Cell, Table, csv_uri, provenance
from ntk_fed.report.template import filled, write
from ntk_fed.report.words import NOTHING, number, paragraphs

_MOST_ROWS = 400  # of a table on the page; its CSV has them all


def render_findings(
    folder: str | os.PathLike[str],
    *,
    question: str | None = None,
    conclusion: Conclusion | None = None,
) -> Path:
    """Write ``index.html`` into the folder of an analysis.

    Args:
        folder: what was given as ``out`` to ``studies.run_cases``.
        question: question, prediction and decision rule as written before the run; kept
            as ``question.md``; ``None`` takes the one kept there.
        conclusion: what the analysis says; kept as ``conclusion.json`` and ``tables/``;
            ``None`` takes the one kept there.

    Raises:
        RunFolderError: a file is missing, damaged or cannot be written.
        UnknownNameError: the conclusion has a verdict, table or column that there is
            not.
    """
    path, kept = Path(folder), Path(folder) / "question.md"
    if conclusion is not None:
        keep(path, conclusion)
    if question is not None:
        write(kept, question)
    elif kept.exists():
        question = kept.read_text()
    return write(path / "index.html", _html(path, question))


def title_of(folder: Path) -> str:
    """Title of the study a folder holds."""
    return str(records.read_toml(folder / "spec.toml").get("title") or folder.name)


def about(folder: Path) -> dict[str, Any]:
    """Provenance of a folder.

    Raises:
        RunFolderError: it is missing or damaged.
    """
    try:
        return json.loads((folder / "provenance.json").read_text())
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{str(folder)!r}: provenance.json: {error}.") from error


def _html(folder: Path, question: str | None) -> str:
    found = read_conclusion(folder)
    return filled(
        "findings.html.j2",
        title=title_of(folder),
        answer=found.answer,
        remarks=found.remarks,
        findings=_findings(found),
        question=paragraphs(question) if question else [],
        parts=[_section(i, part, found) for i, part in enumerate(found.parts)],
        spec_text=(folder / "spec.toml").read_text(),
        analysis=folder.name,
        provenance=provenance(about(folder)),
    )


def _findings(found: Conclusion) -> Table:
    rows = []
    for one in found.findings:
        if math.isnan(one.lower) or math.isnan(one.upper):
            ends = NOTHING
        else:
            ends = f"[{number(one.lower)}, {number(one.upper)}]"
        rows.append(
            [
                Cell(one.claim, (one.source,) if one.source else ()),
                Cell(one.verdict, kind=one.verdict),
                Cell(number(one.estimate), (one.words,) if one.words else ()),
                Cell(ends),
                Cell(one.negation),
            ]
        )
    header = ("claim", "verdict", "estimate", "interval", "false if")
    caption = (
        "A claim holds when its interval excludes the values under which it is false, "
        "fails when the interval lies within them, and is undecided otherwise."
    )
    csv = csv_uri(pd.DataFrame([vars(one) for one in found.findings]))
    return Table("findings", caption, header, rows, csv)


def _section(index: int, part: Part, found: Conclusion) -> dict[str, Any]:
    return {
        "name": f"part-{index}",
        "title": part.title,
        "notes": part.notes,
        "figures": [drawing(panel, found.tables) for panel in part.panels],
        "tables": [_shown(one, found.tables[one.table]) for one in part.shown],
    }


def _shown(one: Shown, table: Frame) -> Table:
    columns = one.columns or {str(name): str(name) for name in table.columns}
    rows = [
        [Cell(_text(row[name])) for name in columns]
        for row in table.head(_MOST_ROWS).to_dict("records")
    ]
    caption = one.caption
    if len(table) > _MOST_ROWS:
        caption += f" The first {_MOST_ROWS} of {len(table)} rows."
    return Table(one.table, caption, tuple(columns.values()), rows, csv_uri(table))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    return number(value) if isinstance(value, float) else str(value)
