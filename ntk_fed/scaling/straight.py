"""Is a law a straight line on log-log axes, and which points carry it?

Floor 2: imports ``measured``.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import special

from ntk_fed.measured import Enclosure, Verdict
from ntk_fed.scaling.regression import coefficient, logarithms


@dataclasses.dataclass(frozen=True)
class Straightness:
    """How straight a law is, and how far its exponent rests on single ``x``.

    Attributes:
        curvature: coefficient of ``(log x - mean)²`` in a parabola fitted to
            ``log y``, with its interval.
        bend: what it does to the exponent: the parabola's slope at the largest ``x``
            less the one at the smallest, ``2 · curvature · range of log x``.
        straight: holds when the interval of ``bend`` lies within ``± tolerance``;
            fails when it excludes 0 and is not so small; undecided otherwise.
        tolerance: of ``bend``.
        confidence: of the intervals.
        exponent: of the straight line through all points.
        without: exponent when all points at one ``x`` are left out, by that ``x``.
        lowest: smallest of them.
        highest: largest of them.
        most_moving: the ``x`` without which the exponent moves most.
        lack_of_fit: p-value of the F test of the line against free means, ``None``
            where no ``x`` has replicates or they are equal to rounding on a line.
    """

    curvature: Enclosure
    bend: Enclosure
    straight: Verdict
    tolerance: float
    confidence: float
    exponent: float
    without: dict[float, float]
    lowest: float
    highest: float
    most_moving: float
    lack_of_fit: float | None


def straightness(
    x: Iterable[Any],
    y: Iterable[Any],
    *,
    confidence: float = 0.95,
    tolerance: float = 0.1,
    interval: str = "t",
    seed: int = 0,
) -> Straightness:
    """Judge whether ``log y`` is a straight line in ``log x``.

    Args:
        x: positive, at least three different values.
        y: positive, one for each ``x``; at least four.
        confidence: of the two-sided interval of the curvature, in (0, 1).
        tolerance: change of the local exponent over the range of ``x`` that still
            counts as straight, at least 0; choose it before looking.
        interval: "t" or "bootstrap", as for :func:`power_law`. The F test assumes
            normal errors of one spread in either case.
        seed: of the bootstrap.

    Raises:
        ValueError: too few points or ``x``, a point that is not positive, or an
            option out of its range.
    """
    x = np.array([float(value) for value in x])
    a, b = logarithms("x", x), logarithms("y", y)
    levels, group = np.unique(x, return_inverse=True)
    if len(a) != len(b) or len(a) < 4 or len(levels) < 3:
        raise ValueError(
            "straightness needs one y per x and four points at three different x at "
            f"least, got {len(a)} x ({len(levels)} different) and {len(b)} y. Measure "
            "at more x."
        )
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"tolerance must be at least 0, got {tolerance}. Try 0.1.")
    u = a - a.mean()
    design = np.column_stack([np.ones_like(u), u, u**2])
    found = coefficient(design, b, confidence=confidence, interval=interval, seed=seed)
    method = f"{interval} interval, {confidence:.0%}"
    ends = found.value - found.half, found.value + found.half
    curvature = Enclosure(found.value, *ends, method=method)
    bend = curvature.scaled(2 * float(np.ptp(a)))
    exponent = _slope(a, b)
    without = {
        float(level): _slope(a[group != i], b[group != i])
        for i, level in enumerate(levels)
    }
    return Straightness(
        curvature,
        bend,
        _verdict(bend, tolerance),
        tolerance,
        confidence,
        exponent,
        without,
        min(without.values()),
        max(without.values()),
        max(without, key=lambda level: abs(without[level] - exponent)),
        _lack_of_fit(a, b, group),
    )


def _verdict(bend: Enclosure, tolerance: float) -> Verdict:
    if -tolerance <= bend.lower and bend.upper <= tolerance:
        return Verdict.holds
    excludes = bend.lower > 0 or bend.upper < 0
    return Verdict.fails if excludes else Verdict.undecided


def _slope(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    centred = a - a.mean()
    return float(centred @ b) / float(centred @ centred)


def _lack_of_fit(
    a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"], group: np.ndarray
) -> float | None:
    """p-value of ``F = (lack / (levels - 2)) / (pure / (n - levels))``."""
    n, levels = len(a), int(group.max()) + 1
    if n == levels:
        return None
    means = np.bincount(group, b) / np.bincount(group)
    pure = float(np.sum((b - means[group]) ** 2))
    line = b.mean() + _slope(a, b) * (a - a.mean())
    lack = float(np.sum((means[group] - line) ** 2))
    # Sums of squares of nothing but rounding of logarithms have no ratio.
    rounding = n * (4 * np.finfo(float).eps * (float(np.abs(b).max()) + 1)) ** 2
    if pure <= rounding:
        return None if lack <= rounding else 0.0
    ratio = (lack / (levels - 2)) / (pure / (n - levels))
    return float(special.fdtrc(levels - 2, n - levels, ratio))
