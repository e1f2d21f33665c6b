"""Tables of the page: cells of text, with the numbers beside them as CSV.

Floor 9: numbers come from ``report.summary`` and the recorded conditions.
"""

import base64
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from ntk_fed.report.answers import VERDICTS, verdict_counts
from ntk_fed.report.study import Column, Frame, Study
from ntk_fed.report.words import (
    NOTHING,
    counted,
    enclosure,
    number,
    percent,
    signed,
)
from ntk_fed.theory.condition import WORDING


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell: its text, lines of small text below it, and a kind for its colour."""

    text: str
    small: tuple[str, ...] = ()
    kind: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of the page; a row of one cell is a heading across all columns."""

    name: str
    caption: str
    header: tuple[str, ...]
    rows: list[list[Cell]]
    csv: str | None = None


def csv_uri(table: Frame) -> str:
    """A table as a data URI that a browser saves as a file."""
    text = base64.b64encode(table.to_csv(index=False).encode()).decode()
    return f"data:text/csv;charset=utf-8;base64,{text}"


def verdict_cell(counts: dict[str, int], small: tuple[str, ...] = ()) -> Cell:
    """``holds`` when all agree, else how often each answer was given."""
    given = [name for name in VERDICTS if counts[name]]
    if not given:
        return Cell(NOTHING, small)
    total = sum(counts.values())
    if len(given) == 1:
        text = given[0] if total == 1 else f"{given[0]} {total}/{total}"
        return Cell(text, small, given[0])
    text = ", ".join(f"{name} {counts[name]}/{total}" for name in given)
    return Cell(text, small, "undecided" if counts["undecided"] else "mixed")


def overview(table: Frame) -> Table:
    """One row per width: what the first screen needs."""
    rows = []
    for width, own in table.groupby("width"):
        lowest = own["lambda_min_lower"]
        at = own.loc[lowest.idxmin()] if lowest.notna().any() else None
        positive = own["certified"] & (lowest > 0)
        rounds = own["rounds"].sum()
        rows.append(
            [
                Cell(str(width)),
                verdict_cell(verdict_counts(own["verdict"])),
                Cell(_enclosed(at) if at is not None else NOTHING),
                Cell(f"{int(positive.sum())} of {len(own)}"),
                Cell(
                    f"{own['rounds_within'].sum():.0f} of {rounds:.0f}"
                    if rounds
                    else NOTHING
                ),
                Cell(percent(own["prediction_error"].median())),
                Cell(number(own["residual_ratio"].median())),
                Cell(percent(own["flips_since_start"].median())),
            ]
        )
    header = (
        "width", "λ_min(H(0)) ≥ ¾ λ0", "lowest λ_min of the seeds", "certified > 0",
        "rounds at ρ or faster", "largest prediction error, median",
        "‖r_T‖/‖r_0‖, median", "gates flipped, median",
    )  # fmt: skip
    return Table("overview", "By width; medians are over seeds.", header, rows)


def _enclosed(row: Column) -> str:
    return enclosure(row["lambda_min_lower"], row["lambda_min_upper"])


def runs(study: Study, table: Frame) -> Table:
    """Every run, one row each."""
    rows = []
    for _, own in table.iterrows():
        rounds = own["rounds"]
        known = isinstance(own["verdict"], str)
        counts = {name: int(own["verdict"] == name) for name in VERDICTS}
        rows.append(
            [
                *(Cell(str(own[key])) for key in ("width", "seed", *study.swept)),
                Cell(_enclosed(own) if pd.notna(own["lambda_min"]) else NOTHING),
                verdict_cell(counts) if known else Cell(NOTHING),
                Cell(number(own["rate"], 5)),
                Cell(number(own["worst_over_rate"], 5) if rounds else NOTHING),
                Cell(number(own["p_norm_over_bound"])),
                Cell(number(own["residual_ratio"])),
                Cell(percent(own["prediction_error"])),
                Cell(number(own["loss_over_promised"])),
                Cell(percent(own["flips_since_start"])),
                Cell(percent(own["kernel_change"])),
            ]
        )
    header = (
        "width", "seed", *study.swept, "λ_min(Θ_0)", "≥ ¾ λ0", "ρ",
        "slowest round / ρ", "largest P-norm / bound", "‖r_T‖/‖r_0‖",
        "largest prediction error", "loss / promised, at T", "gates flipped",
        "kernel change",
    )  # fmt: skip
    caption = (
        "Every width and seed. λ_min is printed as its common digits and the two ends "
        "of its enclosure, rounded outwards."
    )
    return Table("runs", caption, header, rows, csv_uri(table))


# Long texts, the same in every run: on the page, and in conditions.parquet.
_TOLD_ONCE = ("statement", "form", "status", "source", "note", "why_not")


def conditions(study: Study) -> Table:
    """Every condition of every theorem, one column per width."""
    found, widths = study.conditions, study.widths
    rows = []
    for theorem, group in found.groupby("theorem", sort=False):
        common = _about(group) if _shared(group) else ()
        if reason := _why_not(group):
            said = f"does not apply: {reason}"
            rows.append([Cell(str(theorem), (said, *common))])
            continue
        rows.append([Cell(str(theorem), common)])
        for _, own in group.groupby(["kind", "condition"], sort=False):
            first = own.iloc[0]
            form = f"{first['form']} form" if first["form"] else ""
            details = (form, str(first["note"]), *(() if common else _about(own)))
            cells = [_margin_cell(own[own["width"] == width]) for width in widths]
            kind = "" if first["kind"] == "hypothesis" else f"{first['kind']}: "
            rows.append(
                [
                    Cell(f"{kind}{first['condition']}", tuple(filter(None, details))),
                    *cells,
                ]
            )
    header = ("condition", *(f"width {width}" for width in widths))
    caption = (
        "In each cell: the margin in orders of magnitude (positive: room to spare; "
        "median over seeds), the verdicts over seeds, and both sides (medians). A dash "
        "says that the margin has no meaning, because a side is 0 or missing."
    )
    repeated = [name for name in _TOLD_ONCE if name in found]
    csv = csv_uri(found.drop(columns=repeated))
    return Table("conditions", caption, header, rows, csv)


def _why_not(group: Frame) -> str:
    """Why a theorem speaks about none of the runs; empty if it does about some."""
    if "why_not" not in group or (group["why_not"] == "").any():
        return ""
    return str(group["why_not"].iloc[0])


def _shared(group: Frame) -> bool:
    return bool((group[["status", "source"]].nunique() == 1).all())


def _about(group: Frame) -> tuple[str, ...]:
    status = str(group["status"].iloc[0])
    return (WORDING.get(status, status), str(group["source"].iloc[0]))


def _margin_cell(own: Frame) -> Cell:
    if own.empty:
        return Cell(NOTHING)
    cell = verdict_cell(verdict_counts(own["verdict"]))
    left, right = own["left"].median(), own["right"].median()
    sides = f"{number(left)} {_RELATIONS.get(own['relation'].iloc[0], '?')} "
    if math.isnan(left) and math.isnan(right):
        sides = "not computed"
    else:
        sides += number(right)
    margin = float(own["margin"].median())
    shown = signed(margin, 2 if abs(margin) < 1 else 1)
    return Cell(shown, (cell.text, sides), cell.kind)


_RELATIONS = {">=": "≥", ">": ">", "<=": "≤", "<": "<"}


def normal_outcomes(study: Study) -> list[str]:
    """Theorems whose hypotheses fail somewhere while their conclusion holds."""
    notes = []
    for theorem, group in study.conditions.groupby("theorem", sort=False):
        if _why_not(group):
            continue
        kinds = group.assign(hypothesis=group["kind"] == "hypothesis")
        asked = kinds[kinds["hypothesis"]]
        failing = set(asked.loc[asked["verdict"] == "fails", "run"])
        end = kinds[~kinds["hypothesis"]]
        true = set(end.loc[end["verdict"] == "holds", "run"])
        false = set(end.loc[end["verdict"] == "fails", "run"])
        total = group["run"].nunique()
        if failing & true:
            notes.append(
                f"{theorem}: in {len(failing & true)} of {counted(total, 'run')} a "
                "hypothesis fails and the conclusion is true all the same. That is a "
                "normal outcome: the hypotheses are sufficient, not necessary, and the "
                "margins say by how many orders of magnitude they ask for too much."
            )
        if false - failing:
            notes.append(
                f"{theorem}: in {len(false - failing)} of {counted(total, 'run')} the "
                "conclusion fails although no hypothesis does. That would refute the "
                "statement as coded, unless it is about the linearised network only."
            )
        if false & failing:
            notes.append(
                f"{theorem}: in {len(false & failing)} of {counted(total, 'run')} a "
                "hypothesis fails and the conclusion too: nothing was promised."
            )
    return notes


def provenance(about: Mapping[str, Any]) -> Table:
    """Who computed this, with what: ``provenance.json`` as a table."""
    rows = []
    for name, value in about.items():
        parts = value.items() if isinstance(value, dict) else [(None, value)]
        for part, one in parts:
            label = f"{name}: {part}" if part else name
            text = "not recorded" if one is None else str(one)
            rows.append([Cell(label.replace("_", " ")), Cell(text)])
    return Table("provenance", "From provenance.json.", ("what", "value"), rows)
