"""The smallest width that meets a condition with high probability, and its law.

Floor 2: imports ``measured``.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ntk_fed.measured import Enclosure, Verdict
from ntk_fed.scaling.regression import logarithms
from ntk_fed.scaling.sequential import booleans, decide, require_probability


@dataclasses.dataclass(frozen=True)
class AtWidth:
    """What was decided at one width.

    Attributes:
        width: the width.
        verdict: does the condition hold there with probability ``1 - failure``?
        lower: Clopper-Pearson bound of that probability at the deciding look.
        upper: the same from above.
        successes: among the seeds used.
        used: seeds used by the decision.
        trials: seeds there are.
    """

    width: float
    verdict: Verdict
    lower: float
    upper: float
    successes: int
    used: int
    trials: int


@dataclasses.dataclass(frozen=True)
class Bracket:
    """Two widths with the required one between them: ``lower < required <= upper``.

    The required width is the smallest of the ladder at which the condition holds with
    probability ``1 - failure``. The bracket is wrong with probability at most
    ``error``, if that probability does not fall with width.

    Attributes:
        lower: largest width at which the condition was shown not to hold so often;
            ``None``: shown at none, the required width may be the smallest tried.
        upper: smallest width at which it was shown to hold; ``None``: at none, no
            width tried was shown to be enough.
        verdicts: every width with outcomes, by width.
        note: what was assumed, and what contradicts it.
        failure: probability of failure that is allowed.
        error: probability that a verdict among these is wrong, at most.
    """

    lower: float | None
    upper: float | None
    verdicts: tuple[AtWidth, ...]
    note: str
    failure: float
    error: float

    @property
    def consistent(self) -> bool:
        """Is every width that fails below every width that holds?"""
        if self.lower is None or self.upper is None:
            return True
        return bool(self.lower < self.upper)

    @property
    def trials(self) -> int:
        """Seeds spent at all widths together."""
        return sum(one.trials for one in self.verdicts)

    @property
    def table(self) -> pd.DataFrame:
        """The verdicts, a row per width."""
        names = [field.name for field in dataclasses.fields(AtWidth)]
        rows = [dataclasses.astuple(one) for one in self.verdicts]
        return pd.DataFrame(rows, columns=pd.Index(names))


@dataclasses.dataclass(frozen=True)
class Exponents:
    """Exponent of the required width, as far as brackets tell it.

    Attributes:
        least_squares: value: slope of the least-squares line through the geometric
            midpoints; bounds: the slopes of that line when each point may lie anywhere
            in its bracket. Assumes no law.
        power_law: bounds: the exponents of all exact power laws that pass through
            every bracket; value: their middle. Never wider than the other; ``None``
            when no power law passes.
        error: probability that a bracket is wrong, and with it the bounds, at most.
    """

    least_squares: Enclosure
    power_law: Enclosure | None
    error: float


def required_width(
    rows: Any,
    *,
    failure: float = 0.1,
    error: float = 0.05,
    width: str = "width",
    met: str = "met",
    seed: str = "seed",
    widths: Sequence[float] | None = None,
) -> Bracket:
    """Bracket the smallest width that is enough, from outcomes that are there.

    Each width is decided by :func:`decide` in the order of its seeds with an equal
    share of ``error``: by the union bound all verdicts are right with probability
    ``1 - error``, also when widths share seeds. It assumes that the probability does
    not fall with width; verdicts that contradict this are reported in the note.

    Args:
        rows: a table with a row per width and seed, or what ``DataFrame`` takes.
        failure: probability of failure that is allowed, in (0, 1).
        error: probability of a wrong bracket that is allowed, in (0, 1).
        width: column of the widths.
        met: column of the outcomes, booleans.
        seed: column of the seeds, numbers; their order is the order of the looks.
        widths: the whole ladder, where outcomes decided which of it were tried; the
            error is split over it. By default the widths in ``rows``.

    Raises:
        ValueError: a column is missing, a number is missing or not finite, an outcome
            is no boolean, a pair (width, seed) comes twice, or a width is not on the
            ladder.
    """
    table = pd.DataFrame(rows)
    absent = [name for name in (width, met, seed) if name not in table.columns]
    if absent or table.empty:
        raise ValueError(
            f"rows must have the columns {width!r}, {met!r}, {seed!r} and a row at "
            f"least, got {list(table.columns)} and {len(table)} rows. Name the columns "
            "by width=, met=, seed=."
        )
    found: dict[float, dict[float, bool]] = {}
    met_by_row = booleans(f"column {met!r}", table[met])
    for own, number, one in zip(table[width], table[seed], met_by_row, strict=True):
        finite_number(f"column {width!r}", own)
        finite_number(f"column {seed!r}", number)
        at = found.setdefault(own, {})
        if number in at:
            raise ValueError(
                f"rows hold width {own} with seed {number} twice. Keep one of them, "
                "decided without looking at the outcome."
            )
        at[number] = one
    ladder = ladder_of(found if widths is None else widths)
    return bracket(found, ladder, failure=failure, error=error)


def bracket(
    outcomes: Mapping[Any, Mapping[Any, bool]],
    ladder: Sequence[float],
    *,
    failure: float,
    error: float,
) -> Bracket:
    """The bracket of checked outcomes by width and seed; see :func:`required_width`."""
    off = sorted(set(outcomes) - set(ladder))
    if off:
        raise ValueError(
            f"widths {off} are not on the ladder {list(ladder)}. Add them."
        )
    require_probability("error", error)
    share = error / len(ladder)
    verdicts = []
    for own, at in sorted(outcomes.items()):
        ordered = [at[number] for number in sorted(at)]
        found = decide(ordered, failure=failure, error=share)
        verdicts.append(
            AtWidth(own, found.verdict, found.lower, found.upper, found.successes,
                    found.used, len(ordered))
        )  # fmt: skip
    fails = [one.width for one in verdicts if one.verdict is Verdict.fails]
    holds = [one.width for one in verdicts if one.verdict is Verdict.holds]
    lower, upper = max(fails, default=None), min(holds, default=None)
    note = (
        f"Each of {len(ladder)} widths was decided with error {share:.3g}, together at "
        f"most {error:.3g}; assumes that the probability does not fall with width."
    )
    if lower is not None and upper is not None and lower > upper:
        note += (
            f" CONTRADICTED: it holds at {upper} and fails at {lower}. Either a "
            "verdict is wrong or wider is not better here; this is no bracket."
        )
    return Bracket(lower, upper, tuple(verdicts), note, failure, error)


def exponent_in(x: Iterable[Any], brackets: Iterable[Bracket]) -> Exponents:
    """Exponent of the required width against ``x``, as ``required ~ x^exponent``.

    Args:
        x: positive, at least two different values: number of samples, say.
        brackets: one for each ``x``, with both ends and no contradiction.

    Raises:
        ValueError: counts differ, equal ``x``, one that is not positive, or a bracket
            that is open or contradicts itself.
    """
    a, brackets = logarithms("x", x), list(brackets)
    if len(a) != len(brackets) or len(a) < 2 or np.ptp(a) == 0:
        raise ValueError(
            "an exponent needs one bracket per x and two different x at least, got "
            f"{len(a)} x and {len(brackets)} brackets."
        )
    for place, one in zip(np.exp(a), brackets, strict=True):
        if one.lower is None or one.upper is None or not one.consistent:
            raise ValueError(
                f"the bracket at x = {place:.6g} is ({one.lower}, {one.upper}], but "
                "both ends in this order are needed. Try more widths or seeds there, "
                "or leave it out and say so."
            )
    low = logarithms("lower ends", [one.lower for one in brackets])
    high = logarithms("upper ends", [one.upper for one in brackets])
    # Logarithms are rounded, and so is what is made of them: wider brackets hold it.
    top = float(max(np.abs(low).max(), np.abs(high).max(), np.abs(a).max())) + 1
    slack = 4 * len(a) * np.finfo(float).eps * top
    low, high = low - slack, high + slack
    centred = a - a.mean()
    weights = centred / float(centred @ centred)
    value = float(weights @ (low + high)) / 2
    half = float(np.abs(weights) @ (high - low)) / 2
    method = "least squares through points anywhere in their brackets"
    anywhere = Enclosure(value, value - half, value + half, method=method)
    wrong = min(1.0, sum(one.error for one in brackets))
    return Exponents(anywhere, _through(a, low, high), wrong)


def _through(a: np.ndarray, low: np.ndarray, high: np.ndarray) -> Enclosure | None:
    """Slopes of the lines through all intervals.

    A line of slope s passes when ``low_i - s a_i <= high_j - s a_j`` for all i and j:
    each pair bounds s, which solves the linear programme in closed form.
    """
    run = a[None, :] - a[:, None]  # (i, j): a_j - a_i
    rise = high[None, :] - low[:, None]  # the most from i to j
    if np.any(rise[run == 0] < 0):
        return None
    forward = run > 0
    most = float(np.min(rise[forward] / run[forward]))
    least = float(np.max(rise[run < 0] / run[run < 0]))
    if least > most:
        return None
    method = "all exact power laws through the brackets"
    return Enclosure((least + most) / 2, least, most, method=method)


def finite_number(name: str, value: Any) -> None:
    """Refuse what is not a finite number; a boolean is not one."""
    number = isinstance(value, int | float | np.number)
    if not number or isinstance(value, bool | np.bool_) or not math.isfinite(value):
        raise ValueError(
            f"{name} must be finite numbers, got {value!r}. Drop rows without one."
        )


def ladder_of(widths: Iterable[Any]) -> list[Any]:
    """The widths, sorted; refuses none, one that is not positive, and a repeat."""
    found = list(widths)
    for one in found:
        finite_number("widths", one)
    if not found or min(found) <= 0 or len(set(found)) < len(found):
        raise ValueError(
            f"widths must be different positive numbers, one at least, got {found}."
        )
    return sorted(found)
