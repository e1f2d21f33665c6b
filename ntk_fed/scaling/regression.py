"""One coefficient of a least-squares fit, with its interval.

Floor 2: imports nothing of the package.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import special

_DRAWS = 999  # with it 0.95 · (draws + 1) is a whole number
_FEWEST = 8  # with 6 points it covered 91 % instead of 95 %, with 8 95 %


@dataclasses.dataclass(frozen=True)
class Coefficient:
    """Coefficient of the last column of a design.

    Attributes:
        value: by least squares.
        half: half the width of its two-sided interval, rounding included.
        residual: standard deviation about the fit.
    """

    value: float
    half: float
    residual: float


def coefficient(
    design: Float[np.ndarray, "n p"],
    y: Float[np.ndarray, " n"],
    *,
    confidence: float,
    interval: str,
    seed: int,
) -> Coefficient:
    """Least-squares coefficient of the last column, with an interval.

    ``"t"`` assumes independent normal errors of equal spread. ``"bootstrap"`` is the
    wild bootstrap of the studentised coefficient, right when the spread differs from
    point to point: residuals divided by ``1 − h`` (h the leverage) get independent
    random signs; each draw is divided by its own HC3 standard error; the interval is
    symmetric, from the quantile of ``|t*|``.

    Args:
        design: of full column rank, more rows than columns.
        y: what is fitted.
        confidence: of the two-sided interval.
        interval: "t" or "bootstrap".
        seed: of the bootstrap's signs.

    Raises:
        ValueError: an unknown interval, a confidence out of range, or too few points
            for the bootstrap.

    Source:
        Wu (1986), Jackknife, bootstrap and other resampling methods in regression
        analysis, section 7; signs: Davidson, Flachaire (2008), The wild bootstrap,
        tamed at last. Named from memory; the coverage is ours (tests).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}. Try 0.95.")
    if interval not in ("t", "bootstrap"):
        raise ValueError(f"interval must be 't' or 'bootstrap', got {interval!r}.")
    n, p = design.shape
    q, r = np.linalg.qr(design)
    weights = q[:, -1] / r[-1, -1]
    rest = y - q @ (q.T @ y)
    residual = math.sqrt(float(rest @ rest) / (n - p))
    norm = float(np.linalg.norm(weights))
    # Points that lie on the curve exactly still carry the rounding of their logarithms.
    rounding = 4 * np.finfo(float).eps * (float(np.abs(y).max()) + 1) * norm
    if interval == "t":
        reach = float(special.stdtrit(n - p, (1 + confidence) / 2))
        half = reach * residual * norm
    else:
        half = _wild(q, weights, rest, confidence, seed)
    return Coefficient(float(weights @ y), half + rounding, residual)


def _wild(
    q: Float[np.ndarray, "n p"],
    weights: Float[np.ndarray, " n"],
    rest: Float[np.ndarray, " n"],
    confidence: float,
    seed: int,
) -> float:
    """Half the width of the studentised wild bootstrap interval."""
    n = len(rest)
    room = 1 - (q**2).sum(axis=1)
    if n < _FEWEST or room.min() < 1e-9 or 0.5**n > 1 - confidence:
        raise ValueError(
            f"a bootstrap needs {_FEWEST} points at least, more the higher the "
            "confidence, and a fit that is still possible without any one of them; "
            f"got {n} points. Measure more seeds, or take interval='t'."
        )
    if float(np.abs(rest).max()) == 0:
        return 0.0
    scaled = rest / room
    error = float(np.linalg.norm(weights * scaled))
    signs = 2.0 * np.random.default_rng(seed).integers(0, 2, (_DRAWS, n)) - 1
    drawn = signs * scaled  # (draws, n)
    left = (drawn - (drawn @ q) @ q.T) / room
    studentised = np.abs(drawn @ weights) / np.sqrt(left**2 @ weights**2)
    place = min(math.ceil(confidence * (_DRAWS + 1)), _DRAWS) - 1
    return error * float(np.partition(studentised, place)[place])


def logarithms(name: str, values: Iterable[Any]) -> Float[np.ndarray, " n"]:
    """Logarithms of a list, array, series or tensor of positive numbers."""
    found = np.array([float(value) for value in values])
    bad = found[~(np.isfinite(found) & (found > 0))]
    if len(bad):
        raise ValueError(
            f"{name} must be positive and finite on log axes, got {bad[0]}. Drop such "
            "points and say so."
        )
    return np.log(found)
