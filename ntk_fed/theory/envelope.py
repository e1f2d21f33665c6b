"""Constants fitted to an inequality: on the average, and so that it always holds.

Floor 6: numbers in, numbers out. For theorems of the shape "there are constants
``a_k ≥ 0`` with ``g_j ≤ Σ_k a_k c_jk`` at every pair j" whose constants no paper tells.
"""

import dataclasses
import math

import numpy as np
import scipy.optimize
from jaxtyping import Float

from ntk_fed.errors import NonFiniteError

COLLINEAR = 30.0  # condition number above which single coefficients mean little
_OUTSIDE = (
    "the constants lie outside the range of float64. Give columns and target in units "
    "in which they are of order 1."
)
_NUDGES = 64  # of 4 eps each; a handful is the most that rounding asks for

Columns = Float[np.ndarray, "n k"]
Pairs = Float[np.ndarray, "n 2"]
Target = Float[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """Non-negative constants of an inequality, and how far to trust each alone.

    Attributes:
        coefficients: ``a_k``, ``(k,)``, in units of the target per unit of column k;
            0 for a column of zeros, which says nothing.
        residual: ``‖C a − g‖ / ‖g‖``; 0 where the target is 0 and so is ``C a``.
        condition: condition number of the columns scaled to norm 1, zero columns left
            out; infinite when they are dependent.
        collinear: is it above 30? Their sum is then known much better than they are.
            Source of the 30: Belsley, Kuh, Welsch (1980), Regression Diagnostics
            (recalled).
    """

    coefficients: Float[np.ndarray, " k"]
    residual: float
    condition: float
    collinear: bool


def nonnegative_fit(columns: Columns, target: Target) -> Fit:
    """``a ≥ 0`` that minimises ``‖C a − g‖``: the inequality as an equality on average.

    Args:
        columns: C, ``(n, k)``, n and k at least 1, entries at least 0.
        target: g, ``(n,)``, of either sign.

    Raises:
        ValueError: no rows or columns, a negative entry of ``columns``, or constants
            beyond float64.
        NonFiniteError: NaN or infinity.

    Cost: one non-negative least squares problem of k unknowns.

    Source: Lawson, Hanson (1974), Solving Least Squares Problems, chapter 23 (scipy).
    """
    _check(columns, target)
    sizes, goal = _sizes(columns), _size(target)
    found = scipy.optimize.nnls(columns / sizes, target / goal)[0]
    return _fit(columns, target, found * (goal / sizes))


def upper_envelope(columns: Pairs, target: Target) -> Fit:
    r"""The least two constants with which the inequality holds at every pair given.

    .. math:: \min_{a \ge 0} \sum_j (C a)_j \quad\text{subject to}\quad C a \ge g

    A linear programme of two unknowns: its corner is walked to, for a general solver
    keeps constraints within a tolerance that hides a converged run's last pairs. What
    rounding leaves short is made up by enlarging both, until ``C a >= g`` in float64.

    Args:
        columns: C, ``(n, 2)``, n at least 1, entries at least 0.
        target: g, ``(n,)``, of either sign; a row with g at most 0 asks for nothing.

    Raises:
        ValueError: as :func:`nonnegative_fit`; or a row whose columns are all 0 has a
            positive target, which no constants explain.
        NonFiniteError: NaN or infinity.

    Cost: O(n) for each corner on the way, seldom more than ten.

    Source: THEORY section 2.
    """
    _check(columns, target)
    asks = target > 0
    if lost := np.flatnonzero(asks & ~columns.any(axis=1)).tolist():
        raise ValueError(
            f"row {lost[0]} has target {target[lost[0]]:.3e} and all its columns 0: no "
            "constants explain it. Leave pairs that have not moved, or are rounding, "
            "out."
        )
    if not asks.any():
        return _fit(columns, target, np.zeros(2))
    sizes = columns.max(axis=0)
    sizes[sizes == 0] = 1.0
    scaled = columns[asks] / sizes
    rows = scaled.max(axis=1, keepdims=True)
    needed = target[asks] / rows[:, 0]  # each row now has 1 as its largest entry
    goal = float(needed.max())
    price = (columns / sizes).mean(axis=0)
    corner = _corner(scaled / rows, needed / goal, float(price[0]), float(price[1]))
    short = float((needed / goal / ((scaled / rows) @ corner)).max())
    found = corner * max(short, 1.0) * (goal / sizes)
    enough = target + np.abs(target) * 2.0**-50  # in whatever order C a is summed
    for _ in range(_NUDGES):
        if (columns @ found >= enough).all():
            return _fit(columns, target, found)
        found = found * (1 + 2.0**-50)  # what dividing and multiplying has rounded
    raise ValueError(_OUTSIDE)


def _corner(c: Pairs, g: Target, first: float, second: float) -> np.ndarray:
    """The a of at least 0 with ``C a >= g`` that is least in ``first·a1 + second·a2``.

    Each row with a second entry asks for ``a2 >= (g - c1 a1) / c2``, a line that falls
    with a1. On the steep ones a larger a1 pays, on the others it does not: the cheapest
    point of their upper envelope is where it passes from a steep line to another.
    Crossings of one with one are climbed until no line lies above.
    """
    seen = c[:, 1] > 0
    least = float((g[~seen] / c[~seen, 0]).max(initial=0.0))  # no a2 helps these
    heights = np.append(g[seen] / c[seen, 1], 0.0)  # the last line is a2 = 0
    slopes = np.append(c[seen, 0] / c[seen, 1], 0.0)
    steep = slopes * second > first
    if steep.any():
        one, other = int(np.where(steep, heights, -1.0).argmax()), len(heights) - 1
        for _ in heights:
            a = (heights[one] - heights[other]) / (slopes[one] - slopes[other])
            highest = int((heights - slopes * a).argmax())
            if highest in (one, other):
                break
            one, other = (highest, other) if steep[highest] else (one, highest)
        if a >= least:  # of the two lines the flat one loses fewer digits
            level = max(float(heights[other] - slopes[other] * a), 0.0)
            return np.array([a, level])
    return np.array([least, max(float((heights - slopes * least).max()), 0.0)])


def _fit(columns: Columns, target: Target, coefficients: np.ndarray) -> Fit:
    if not np.isfinite(coefficients).all():
        raise ValueError(_OUTSIDE)
    goal = _size(target)
    gap = float(np.linalg.norm(columns @ coefficients / goal - target / goal))
    seen = columns[:, columns.any(axis=0)]
    condition = 1.0
    if seen.shape[1]:
        singular = np.linalg.svd(seen / _sizes(seen), compute_uv=False)
        lowest = float(singular[-1]) if seen.shape[1] <= len(seen) else 0.0
        condition = float(singular[0]) / lowest if lowest > 0 else math.inf
    return Fit(coefficients, gap, condition, condition > COLLINEAR)


def _sizes(columns: Columns) -> Float[np.ndarray, " k"]:
    """Norms of the columns; 1 for a column of zeros."""
    return np.array([_size(column) for column in columns.T])


def _size(vector: Float[np.ndarray, " n"]) -> float:
    """A norm to divide by, safe of overflow; 1 for the vector of zeros."""
    largest = float(np.abs(vector).max())
    return largest * float(np.linalg.norm(vector / largest)) if largest else 1.0


def _check(columns: Columns, target: Target) -> None:
    """Refuse what has no rows or columns, is not finite, or has a negative column."""
    if not columns.size:
        raise ValueError(
            f"columns must have rows and columns, got shape {columns.shape}. Give one "
            "row for each pair of models."
        )
    if not (np.isfinite(columns).all() and np.isfinite(target).all()):
        raise NonFiniteError(
            "columns and target must be finite. Look upstream: a run that diverged is "
            "the usual cause; leave its last rounds out."
        )
    if (lowest := float(columns.min())) < 0:
        raise ValueError(
            f"columns must be at least 0, got {lowest:.3e}: norms, squares or losses "
            "are meant."
        )
