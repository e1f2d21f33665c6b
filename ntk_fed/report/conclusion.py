"""What an analysis concludes from its rows: answer, findings, tables, panels.

Floor 9. An analysis makes a :class:`Conclusion`; it is kept in the report's folder as
``conclusion.json`` and ``tables/*.parquet``, from which the page is rendered again.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from ntk_fed import records
from ntk_fed.errors import RunFolderError
from ntk_fed.measured import Enclosure, compare, exact
from ntk_fed.names import require_known
from ntk_fed.report.answers import VERDICTS
from ntk_fed.report.study import Answer, Frame
from ntk_fed.report.words import number

_FILE = "conclusion.json"
_NUMBERS = ("estimate", "lower", "upper")
_NEGATED = {">=": "<", ">": "≤", "<=": ">", "<": "≥"}


@dataclasses.dataclass(frozen=True)
class Finding:
    """One statement, held against the data.

    Attributes:
        claim: the statement, a sentence without its full stop.
        verdict: holds, fails or undecided.
        estimate: the number that decides.
        lower: lower end of its interval.
        upper: upper end of its interval.
        negation: values of the number under which the claim is false, in words.
        words: what the number is, and over how many seeds.
        source: where the claim comes from, with its status.
    """

    claim: str
    verdict: str
    estimate: float
    lower: float
    upper: float
    negation: str
    words: str = ""
    source: str = ""


def finding(
    claim: str,
    found: Enclosure,
    relation: str,
    bound: float,
    *,
    words: str = "",
    source: str = "",
) -> Finding:
    """A claim that a number stands in a relation to a bound.

    Args:
        claim: a sentence without its full stop.
        found: the number with its interval.
        relation: one of ``>=``, ``>``, ``<=``, ``<``.
        bound: exact.
        words: what the number is.
        source: where the claim comes from, with its status.
    """
    verdict = compare(found, relation, exact(bound))
    negation = f"{_NEGATED[relation]} {number(bound)}"
    ends = found.value, found.lower, found.upper
    return Finding(claim, str(verdict), *ends, negation, words, source)


@dataclasses.dataclass(frozen=True)
class Panel:
    """A figure over a table of the conclusion; every row is drawn.

    Attributes:
        table: its name.
        x: column on the horizontal axis.
        y: column on the vertical axis.
        title: above the axes.
        caption: what to look for, and what would have refuted it.
        hue: column that gives the colour; numbers from light to dark.
        unit: column (or columns) that tells lines apart; without it there are points,
            and a line through their medians.
        log: axes with a logarithmic scale: ``"x"``, ``"y"``, ``"xy"`` or ``""``.
        slope: a dashed reference line of this slope, through the median of the first
            points; of log-log axes.
        levels: dashed horizontal lines, ``(value, label)``.
        diagonal: a dashed line ``y = x``.
        where: column -> the value it has in this panel.
        xlabel: for the axis; ``""`` takes the column's name.
        ylabel: likewise.
    """

    table: str
    x: str
    y: str
    title: str
    caption: str
    hue: str = ""
    unit: tuple[str, ...] = ()
    log: str = ""
    slope: float | None = None
    levels: tuple[tuple[float, str], ...] = ()
    diagonal: bool = False
    where: tuple[tuple[str, Any], ...] = ()
    xlabel: str = ""
    ylabel: str = ""


@dataclasses.dataclass(frozen=True)
class Shown:
    """A table of the conclusion as it stands on the page.

    Attributes:
        table: its name.
        caption: above it.
        columns: column -> heading, in this order; empty takes all under their names.
    """

    table: str
    caption: str
    columns: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Part:
    """A section of the page.

    Attributes:
        title: its heading.
        notes: paragraphs.
        panels: figures.
        shown: tables.
    """

    title: str
    notes: tuple[str, ...] = ()
    panels: tuple[Panel, ...] = ()
    shown: tuple[Shown, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Conclusion:
    """What an analysis says.

    Attributes:
        answer: the page's first line, by the decision rule.
        findings: every statement with its interval.
        parts: sections of the page, in this order.
        tables: name -> table; panels and shown tables refer to these.
        remarks: what a reader must know before the figures: sizes cut, statuses.
    """

    answer: Answer
    findings: tuple[Finding, ...]
    parts: tuple[Part, ...]
    tables: dict[str, Frame]
    remarks: tuple[str, ...] = ()


def is_conclusion(folder: Path) -> bool:
    """Does a folder hold a conclusion?"""
    return (folder / _FILE).is_file()


def keep(folder: Path, found: Conclusion) -> None:
    """Write a conclusion into a report's folder; its JSON file comes last.

    Raises:
        UnknownNameError: a verdict, table or column that there is not.
        ValueError: an interval that does not hold its estimate.
    """
    _check(found)
    place = records.prepare(folder / "tables")
    for old in place.glob("*.parquet"):
        old.unlink()
    for name, table in found.tables.items():
        records.write_table(place / f"{name}.parquet", table)
    content = {
        "answer": found.answer._asdict(),
        "findings": [_written(one) for one in found.findings],
        "parts": [dataclasses.asdict(one) for one in found.parts],
        "remarks": list(found.remarks),
    }
    records.write_json(folder / _FILE, content)


def read_conclusion(folder: Path) -> Conclusion:
    """The conclusion of a folder.

    Raises:
        RunFolderError: a file is missing or damaged.
    """
    try:
        content = json.loads((folder / _FILE).read_text())
        tables = {
            path.stem: pd.read_parquet(path)
            for path in sorted((folder / "tables").glob("*.parquet"))
        }
        found = Conclusion(
            Answer(**content["answer"]),
            tuple(_finding(one) for one in content["findings"]),
            tuple(_part(one) for one in content["parts"]),
            tables,
            tuple(content["remarks"]),
        )
        _check(found)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunFolderError(
            f"{str(folder)!r} holds no whole conclusion: {error}. Render it again with "
            "its analysis: python analyses/NAME/analysis.py --render."
        ) from error
    return found


def _written(one: Finding) -> dict[str, Any]:
    """JSON has no infinity: the three numbers are kept as text where not finite."""
    content = dataclasses.asdict(one)
    for name in _NUMBERS:
        value = float(content[name])
        content[name] = value if math.isfinite(value) else str(value)
    return content


def _finding(content: dict[str, Any]) -> Finding:
    return Finding(**{**content, **{name: float(content[name]) for name in _NUMBERS}})


def _part(content: dict[str, Any]) -> Part:
    panels = [
        Panel(**{k: _tuples(v) for k, v in one.items()}) for one in content["panels"]
    ]
    shown = [Shown(**one) for one in content["shown"]]
    return Part(content["title"], tuple(content["notes"]), tuple(panels), tuple(shown))


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _check(found: Conclusion) -> None:
    for verdict in (found.answer.verdict, *(one.verdict for one in found.findings)):
        require_known("verdict", verdict, VERDICTS)
    for one in found.findings:
        ends = one.lower, one.estimate, one.upper
        known = not any(math.isnan(end) for end in ends)
        if known and not one.lower <= one.estimate <= one.upper:
            raise ValueError(
                f"the interval of {one.claim!r} must hold its estimate, got {ends}."
            )
    for part in found.parts:
        for one in (*part.panels, *part.shown):
            require_known("table", one.table, tuple(found.tables))
            columns = tuple(map(str, found.tables[one.table].columns))
            wanted = one.columns if isinstance(one, Shown) else _columns(one)
            for name in wanted:
                require_known(f"column of {one.table}", name, columns)


def _columns(panel: Panel) -> list[str]:
    hue = [panel.hue] if panel.hue else []
    return [panel.x, panel.y, *hue, *panel.unit, *(name for name, _ in panel.where)]
