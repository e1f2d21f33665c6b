"""Power laws with intervals, and what they say about an exponent.

Floor 2: imports ``measured``.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from ntk_fed import measured
from ntk_fed.measured import Enclosure, Verdict, exact
from ntk_fed.scaling.regression import coefficient, logarithms


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """``y = prefactor · x^exponent`` by least squares on log-log axes.

    Attributes:
        exponent: slope.
        lower: lower end of its two-sided interval.
        upper: upper end.
        prefactor: ``y`` at ``x = 1``.
        points: number of points used.
        confidence: of the interval.
        residual: standard deviation of ``log y`` about the line.
        interval: how the interval was made, "t" or "bootstrap".
    """

    exponent: float
    lower: float
    upper: float
    prefactor: float
    points: int
    confidence: float
    residual: float
    interval: str = "t"

    def agrees_with(self, exponent: float) -> bool:
        """Does the interval contain this exponent?"""
        return bool(self.lower <= exponent <= self.upper)

    def below(self, exponent: float) -> Verdict:
        """Is the exponent below this one? Undecided inside the interval."""
        return measured.compare(self.enclosure, "<", exact(exponent))

    @property
    def enclosure(self) -> Enclosure:
        """The exponent with its interval."""
        method = f"{self.interval} interval, {self.confidence:.0%}"
        return Enclosure(self.exponent, self.lower, self.upper, method=method)


def power_law(
    x: Iterable[Any],
    y: Iterable[Any],
    *,
    confidence: float = 0.95,
    interval: str = "t",
    seed: int = 0,
) -> PowerLaw:
    """Fit a power law and give its exponent an interval.

    Both intervals assume independent errors of ``log y``, and that the law is a
    straight line: look at the points and at :func:`straightness` as well.

    Args:
        x: positive, at least two different values.
        y: positive, one for each ``x``; at least three.
        confidence: of the two-sided interval, in (0, 1).
        interval: "t" (Student's; normal errors of one spread) or "bootstrap"
            (studentised wild bootstrap: right also when the spread of ``log y``
            differs with ``x``; six points at least).
        seed: of the bootstrap; the same seed gives the same interval.

    Raises:
        ValueError: too few points, one that is not positive, equal ``x``, or an
            option that does not exist.
    """
    a, b = logarithms("x", x), logarithms("y", y)
    if len(a) != len(b) or len(a) < 3 or np.ptp(a) == 0:
        raise ValueError(
            "a power law needs one y per x and three points at two different x at "
            f"least, got {len(a)} x and {len(b)} y. Measure at more x."
        )
    design = np.column_stack([np.ones_like(a), a - a.mean()])
    found = coefficient(design, b, confidence=confidence, interval=interval, seed=seed)
    intercept = float(b.mean() - found.value * a.mean())
    return PowerLaw(
        found.value,
        found.value - found.half,
        found.value + found.half,
        math.exp(intercept) if intercept < 709 else math.inf,
        len(a),
        confidence,
        found.residual,
        interval,
    )


def compare(
    law: PowerLaw, exponent: float, *, tolerance: float, relation: str = "=="
) -> Verdict:
    """Does the law's exponent stand in this relation to another one?

    ============ ============================== ==============================
    relation     holds                          fails
    ============ ============================== ==============================
    ``"=="``     the interval lies within       it does not meet this band
                 ``exponent ± tolerance``
    ``"<="``     it ends by                     it begins above that
                 ``exponent + tolerance``
    ``">="``     it begins at ``exponent -      it ends below that
                 tolerance`` or above
    ============ ============================== ==============================

    Undecided otherwise. A law whose interval covers with its confidence gets a wrong
    "holds" or "fails" with probability at most ``1 - confidence``.

    Args:
        law: of :func:`power_law`.
        exponent: to compare with, of a theorem say.
        tolerance: how far apart exponents may be that count as equal, at least 0;
            choose it before looking. With 0, ``"=="`` cannot be shown, only refuted.
        relation: one of the three.

    Raises:
        ValueError: an unknown relation, a number that is not finite, or a negative
            tolerance.
    """
    if not (math.isfinite(exponent) and math.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(
            "exponent and tolerance must be finite and the tolerance not negative, got "
            f"{exponent} and {tolerance}. Use 0 for no tolerance."
        )
    own = law.enclosure
    match relation:
        case "<=":
            return measured.compare(own, "<=", exact(exponent + tolerance))
        case ">=":
            return measured.compare(own, ">=", exact(exponent - tolerance))
        case "==":
            sides = [
                measured.compare(own, "<=", exact(exponent + tolerance)),
                measured.compare(own, ">=", exact(exponent - tolerance)),
            ]
        case _:
            raise ValueError(f"relation must be one of ==, <=, >=, got {relation!r}.")
    if Verdict.fails in sides:
        return Verdict.fails
    return Verdict.holds if set(sides) == {Verdict.holds} else Verdict.undecided
