"""Conditions and theorem checks: both sides with their errors, three-valued verdicts.

Floor 6: imports ``measured``.
"""

import dataclasses
import math
from collections.abc import Sequence

import pandas as pd

from ntk_fed.measured import Enclosure, Verdict, compare, exact

STATUSES = ("full text", "abstract", "recalled", "derived")
FORMS = ("mean", "sum", "")
SEEN = "seen at"  # with it a note begins that says how much of a run was seen
LOCAL_GD = (
    "algorithm is Local GD: full batches, all clients, averages, no momentum or decay"
)
WORDING = {
    "full text": "the paper's own text",
    "abstract": "as the abstract states",
    "recalled": "recalled, constants unverified",
    "derived": "derived in this project",
}


@dataclasses.dataclass(frozen=True)
class Condition:
    """One inequality of a theorem, evaluated.

    Attributes:
        name: what is compared, in a few words.
        left: left side with its error; ``None`` when it could not be computed.
        relation: ``>=``, ``>``, ``<=`` or ``<``.
        right: right side with its error; ``None`` when it could not be computed.
        form: loss convention it is stated in: ``"mean"``, ``"sum"`` or ``""``.
        status: how well the statement is known, one of ``STATUSES``.
        source: author, year, number of the statement.
        note: what a reader must know, e.g. whose constant was set to 1.
    """

    name: str
    left: Enclosure | None
    relation: str
    right: Enclosure | None
    form: str
    status: str
    source: str
    note: str = ""

    def __post_init__(self) -> None:
        """Refuse a status that is not one of the four, a form not one of the three."""
        for name, known in (("status", STATUSES), ("form", FORMS)):
            if (given := getattr(self, name)) not in known:
                raise ValueError(f"{name} must be one of {known}, got {given!r}.")

    @property
    def verdict(self) -> Verdict:
        """Undecided when an error reaches across, or a side is missing."""
        if self.left is None or self.right is None:
            return Verdict.undecided
        return compare(self.left, self.relation, self.right)

    @property
    def margin(self) -> float:
        """Orders of magnitude to spare, negative when short; NaN if it has no sense.

        ``log10(left / right)``, turned so that positive means room to spare.
        """
        if self.left is None or self.right is None:
            return math.nan
        left, right = self.left.value, self.right.value
        if not (left > 0 and right > 0) or math.isinf(left) or math.isinf(right):
            return math.nan
        margin = math.log10(left) - math.log10(right)
        return margin if self.relation.startswith(">") else -margin


@dataclasses.dataclass(frozen=True)
class Stated:
    """Makes the conditions of one statement, so that a module names its source once.

    Attributes:
        source: author, year, number of the statement.
        status: how well the statement is known, one of ``STATUSES``.
        form: loss convention of the conditions that name none.
    """

    source: str
    status: str
    form: str = ""

    def __call__(
        self,
        name: str,
        left: Enclosure | None,
        relation: str,
        right: Enclosure | None,
        form: str | None = None,
        note: str = "",
    ) -> Condition:
        """A condition of this statement; arguments as of :class:`Condition`.

        Where a side was not seen in every round, the note says so.
        """
        own = self.form if form is None else form
        note = "; ".join(one for one in (note, coverage(left, right)) if one)
        return Condition(
            name, left, relation, right, own, self.status, self.source, note
        )

    def yes(
        self, name: str, is_so: bool, form: str | None = None, note: str = ""
    ) -> Condition:
        """A question with a known answer: 1 or 0 against 1."""
        return self(name, exact(float(is_so)), ">=", exact(1.0), form, note)


@dataclasses.dataclass(frozen=True)
class TheoremCheck:
    """A theorem held against one model, one split and, if given, one run.

    Attributes:
        name: ``paper.theorem``.
        statement: what it promises, in one sentence.
        source: author, year, arXiv number.
        status: how well the statement is known.
        hypotheses: what it asks for at the start and along the run.
        constants: what its constants come to.
        conclusion: what it promises, against the run; undecided without a run.
        why_not: why the theorem does not speak about this network, data or algorithm
            at all; empty where it does.
    """

    name: str
    statement: str
    source: str
    status: str
    hypotheses: list[Condition]
    constants: dict[str, Enclosure]
    conclusion: Condition
    why_not: str = ""

    @property
    def applies(self) -> bool:
        """Does the theorem speak about what is here at all?"""
        return not self.why_not

    @property
    def verdict(self) -> Verdict:
        """Do all hypotheses hold? One that fails is enough for ``fails``.

        So is that the theorem does not apply at all. The conclusion has a verdict of
        its own, against the run.
        """
        if self.why_not:
            return Verdict.fails
        return together([h.verdict for h in self.hypotheses])

    def to_frame(self) -> pd.DataFrame:
        """All conditions as a table, one row each."""
        return table([self])


def table(checks: Sequence[TheoremCheck]) -> pd.DataFrame:
    """All conditions of several theorems, one row each."""
    rows = []
    for check in checks:
        rows += [_row(check, "hypothesis", h) for h in check.hypotheses]
        rows += [_row(check, "conclusion", check.conclusion)]
    return pd.DataFrame(rows)


def coverage(*sides: Enclosure | None) -> str:
    """In which rounds of a run these were seen, where that was not in all of them."""
    notes = [one.note for one in sides if one is not None]
    return "; ".join(dict.fromkeys(note for note in notes if note.startswith(SEEN)))


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on all of several statements at once."""
    if any(v is Verdict.fails for v in verdicts):
        return Verdict.fails
    if any(v is Verdict.undecided for v in verdicts):
        return Verdict.undecided
    return Verdict.holds


def _row(check: TheoremCheck, kind: str, condition: Condition) -> dict[str, object]:
    def side(found: Enclosure | None) -> tuple[float, float, float]:
        if found is None:
            return math.nan, math.nan, math.nan
        return found.value, found.lower, found.upper

    left, right = side(condition.left), side(condition.right)
    return {
        "theorem": check.name,
        "kind": kind,
        "condition": condition.name,
        "left": left[0],
        "left_lower": left[1],
        "left_upper": left[2],
        "relation": condition.relation,
        "right": right[0],
        "right_lower": right[1],
        "right_upper": right[2],
        "margin": condition.margin,
        "verdict": str(condition.verdict),
        "form": condition.form,
        "status": condition.status,
        "source": condition.source,
        "note": condition.note,
        "why_not": check.why_not,
    }
