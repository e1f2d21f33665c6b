"""The page of a study of required widths: brackets, exponents, the theory beside them.

Floor 9. Nothing is run: every number comes from the folder's tables.
"""

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

import pandas as pd

from ntk_fed import records
from ntk_fed.errors import RunFolderError
from ntk_fed.names import require_known
from ntk_fed.report.answers import VERDICTS
from ntk_fed.report.brackets import drawings
from ntk_fed.report.study import Answer, Frame
from ntk_fed.report.tables import Cell, Table, csv_uri, provenance
from ntk_fed.report.template import filled, write
from ntk_fed.report.words import (
    NOTHING,
    counted,
    enclosure,
    listed,
    number,
    paragraphs,
)

_TABLES = ("brackets", "verdicts", "exponents", "theory", "lambda0")
_MARKS = {"holds": "✓", "fails": "✗", "undecided": "?"}
WORDS = {
    "eigenvalue": "λ_min(Θ_0) ≥ ¾ λ0",
    "kernel": "‖Θ_t − Θ_0‖₂ ≤ λ0/4 at every look",
    "rounds": "‖r_t‖ ≤ ε ‖r_0‖ within (1 + slack) times the predicted rounds",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Required:
    """What a folder of required widths holds.

    Attributes:
        title: one line.
        tables: brackets, verdicts, exponents, theory, lambda0, outcomes.
        spec: the table ``[required]`` of ``spec.toml``.
        spec_text: ``spec.toml``, as it stands.
        provenance: ``provenance.json``.
        answer: what the decision rule says, if it was put down.
    """

    title: str
    tables: dict[str, Frame]
    spec: dict[str, Any]
    spec_text: str
    provenance: dict[str, Any]
    answer: Answer | None

    @property
    def over(self) -> str:
        """The field the required width is a function of."""
        return str(self.spec["over"])

    @property
    def open_brackets(self) -> int:
        """Brackets without an upper or a lower end."""
        table = self.tables["brackets"]
        return int(table[["lower", "upper"]].isna().any(axis=1).sum())

    @property
    def first_line(self) -> Answer:
        """The answer, or what can be said without a decision rule."""
        if self.answer is not None:
            return self.answer
        total = len(self.tables["brackets"])
        closed = total - self.open_brackets
        words = f"{closed} of {total} required widths are bracketed from both sides"
        return Answer("holds" if closed == total else "undecided", words)


def is_required(folder: Path) -> bool:
    """Does a folder hold a study of required widths?"""
    return (folder / "brackets.parquet").is_file()


def read_required(folder: str | os.PathLike[str]) -> Required:
    """A folder of required widths.

    Raises:
        RunFolderError: a file is missing or damaged.
    """
    path = Path(folder)
    content = records.read_toml(path / "spec.toml")
    try:
        tables: dict[str, Frame] = {
            name: pd.read_parquet(path / f"{name}.parquet") for name in _TABLES
        }
        tables["outcomes"] = pd.read_parquet(path / "rows" / "outcomes.parquet")
        about = json.loads((path / "provenance.json").read_text())
        text = (path / "spec.toml").read_text()
        kept = path / "answer.json"
        answer = Answer(**json.loads(kept.read_text())) if kept.exists() else None
        own = content["required"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunFolderError(
            f"{str(folder)!r} is no finished study of required widths: {error}. Run it "
            "again; runs that are done are not repeated."
        ) from error
    title = str(content.get("title") or "Required widths")
    return Required(title, tables, own, text, about, answer)


def render_required(
    folder: str | os.PathLike[str],
    *,
    question: str | None = None,
    answer: Answer | None = None,
) -> Path:
    """Write ``index.html`` into a folder of required widths.

    Args:
        folder: what was given as ``out`` to ``studies.run_requirement``.
        question: question, prediction and decision rule as written before the run; kept
            as ``question.md``; ``None`` takes the one kept there.
        answer: what the decision rule says, the first line; kept as ``answer.json``;
            ``None`` takes the one kept there.

    Raises:
        RunFolderError: a file is missing, damaged or cannot be written.
        UnknownNameError: the answer's verdict is none of the three.
    """
    path, kept = Path(folder), Path(folder) / "question.md"
    if answer is not None:
        require_known("verdict of the answer", answer.verdict, VERDICTS)
        text = json.dumps(answer._asdict(), ensure_ascii=False, indent=1) + "\n"
        write(path / "answer.json", text)
    if question is not None:
        write(kept, question)
    elif kept.exists():
        question = kept.read_text()
    return write(path / "index.html", _html(read_required(path), question))


def _html(found: Required, question: str | None) -> str:
    return filled(
        "required.html.j2",
        found=found,
        answer=found.first_line,
        question=paragraphs(question) if question else [],
        remarks=_remarks(found),
        figures=drawings(found.tables, found.spec),
        brackets=_brackets(found),
        exponents=_exponents(found),
        theory=_theory(found),
        provenance=provenance(found.provenance),
    )


def _remarks(found: Required) -> list[str]:
    """What a reader must know before the figures."""
    spec, table = found.spec, found.tables["brackets"]
    texts = [
        "A width is enough when it meets its condition with probability "
        f"{1 - spec['failure']:.3g} over initial weights; the data are the same for "
        f"all seeds. Each bracket is wrong with probability {spec['error']:.3g} at "
        "most: one-sided Clopper-Pearson bounds at planned looks, the error split over "
        f"all {len(spec['widths'])} widths of the ladder, visited or not. A bracket "
        "assumes that the probability does not fall with width."
    ]
    if found.open_brackets:
        texts.append(
            f"{found.open_brackets} of {len(table)} brackets are open: the ladder "
            f"ends, or {spec['most_seeds']} seeds do not decide. They are left out of "
            "the exponents."
        )
    unknown = int(table["undecided"].sum())
    if unknown:
        texts.append(
            f"{counted(unknown, 'outcome')} could not be told and count as not met: a "
            "lower end that rests on them says 'not shown to be met'."
        )
    wrong = table[~table["consistent"]]
    texts += [
        f"{found.over} {row['value']}, {row['condition']}: {row['note']}"
        for row in wrong.to_dict("records")
    ]
    return texts


def interval(lower: float, upper: float) -> str:
    """A bracket in words: its open ends too."""
    if math.isnan(lower):
        return NOTHING if math.isnan(upper) else f"at most {upper:.0f}"
    if math.isnan(upper):
        return f"above {lower:.0f}"
    return f"({lower:.0f}, {upper:.0f}]"


def _brackets(found: Required) -> Table:
    table, verdicts = found.tables["brackets"], found.tables["verdicts"]
    rows: list[list[Cell]] = []
    for condition, group in table.groupby("condition", sort=False):
        rows.append([Cell(str(condition), (WORDS.get(str(condition), ""),))])
        for own in group.to_dict("records"):
            mine = verdicts["condition"].eq(condition)
            mine &= verdicts["value"].eq(own["value"])
            counts = [
                f"{one['width']:.0f} {_MARKS[one['verdict']]} "
                f"{one['successes']}/{one['used']} in "
                f"[{number(one['lower'], 3)}, {number(one['upper'], 3)}]"
                for one in verdicts[mine].to_dict("records")
            ]
            rows.append(
                [
                    Cell(f"{found.over} {own['value']}"),
                    Cell(interval(own["lower"], own["upper"])),
                    Cell("", tuple(counts)),
                    Cell(str(own["seeds"])),
                    Cell(str(own["undecided"])),
                ]
            )
    header = (
        found.over, "required width", "decided widths: met / seeds used in bounds",
        "seeds spent", "cannot be told",
    )  # fmt: skip
    caption = (
        "Every width that was visited: ✓ enough, ✗ not enough, ? not decided, with "
        "one-sided Clopper-Pearson bounds of the probability at the deciding look."
    )
    return Table("brackets", caption, header, rows, csv_uri(table))


def _exponents(found: Required) -> Table:
    table = found.tables["exponents"]
    rows: list[list[Cell]] = []
    for condition, group in table.groupby("condition", sort=False):
        rows.append([Cell(str(condition), (WORDS.get(str(condition), ""),))])
        for own in group.to_dict("records"):
            theory = own["kind"] not in ("least squares", "power laws")
            name = f"theory: {own['kind']}" if theory else f"measured: {own['kind']}"
            known = not math.isnan(own["exponent"])
            ends = f"[{own['lower']:.2f}, {own['upper']:.2f}]".replace("-", "−")
            cells = (
                Cell(number(own["exponent"], 3) if known else NOTHING),
                Cell(NOTHING if theory or not known else ends),
                Cell(str(own["points"])),
                Cell("", (own["note"],)),
            )
            rows.append([Cell(name), *cells])
    header = ("law", "exponent", "enclosure", f"{found.over}: values", "note")
    caption = (
        f"Exponent of the required width in {found.over}. Measured: the line through "
        "points anywhere in their brackets, and all exact power laws through them. "
        "Theory: slope of its whole requirement with the measured λ0, hidden constants "
        "1, over all values."
    )
    return Table("exponents", caption, header, rows, csv_uri(table))


def _theory(found: Required) -> Table:
    table, lambda0 = found.tables["theory"], found.tables["lambda0"]
    names = list(dict.fromkeys(table["theorem"]))
    formulas = dict(zip(table["theorem"], table["formula"], strict=True))
    rows = []
    for own in lambda0.to_dict("records"):
        needs = table[table["value"] == own["value"]].drop_duplicates("theorem")
        exponent = needs.set_index("theorem")["log10"]
        cells = [
            Cell(f"10^{exponent[name]:.1f}" if name in exponent else NOTHING)
            for name in names
        ]
        smallest = enclosure(own["lower"], own["upper"])
        rows.append([Cell(str(own["value"])), Cell(smallest), *cells])
    header = (found.over, "λ0", *(f"{name}: {formulas[name]}" for name in names))
    caption = (
        "Widths the theorems ask for, with the measured λ0, δ as above and every "
        f"hidden constant 1, which is ours: {listed(names)}. Recalled, not checked "
        "against the papers' text."
    )
    return Table("theory", caption, header, rows, csv_uri(table))
