r"""The constants of semi-gradient-Lipschitzness, fitted.

Floor 6: numbers in, numbers out.

.. math:: \|\nabla F_i(\theta_i) - \nabla F_i(\bar\theta)\|^2
    \le A\,\|\theta_i - \bar\theta\|^2 + B\,F_i(\bar\theta)

A gradient that is Lipschitz has B = 0, so a B that falls with width means smooth in
effect. The shape is recalled; A and B are nobody's but the data's.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Float

from ntk_fed.errors import NonFiniteError, ShapeMismatchError
from ntk_fed.measured import Enclosure, ratio
from ntk_fed.theory.envelope import nonnegative_fit, upper_envelope
from ntk_fed.theory.slopes import loglog_slope

COLLINEAR_BELOW = 1e-6  # sine: below it A and B keep less than 10 of 16 digits

Numbers = Float[np.ndarray, " j"]


@dataclasses.dataclass(frozen=True)
class Fit:
    """``A d + B F`` against squared gradient drifts g.

    Attributes:
        A: in squared loss units per parameter unit to the fourth.
        B: in loss units per squared parameter unit.
        residual: ``‖A d + B F − g‖ / ‖g‖``; NaN where every g is 0.
        sine: of the angle between d and F; 0 where one of them vanishes.
        pairs: (client, step) pairs used.
    """

    A: float
    B: float
    residual: float
    sine: float
    pairs: int

    @property
    def collinear(self) -> bool:
        """Do d and F leave open what is A and what is B? The sum is still fitted."""
        return self.sine < COLLINEAR_BELOW


def fit(drift_squared: Numbers, displacement_squared: Numbers, losses: Numbers) -> Fit:
    """A and B of at least 0 by least squares over (client, step) pairs.

    Large drifts weigh most; the inequality itself holds for :func:`envelope` only.

    Args:
        drift_squared: ``g = ‖∇F_i(θ_i) − ∇F_i(θ̄)‖²`` of each pair.
        displacement_squared: ``d = ‖θ_i − θ̄‖²``.
        losses: ``F_i(θ̄)``.

    Raises:
        ShapeMismatchError: no pair.
        NonFiniteError: NaN or infinity.
        ValueError: a negative number.
    """
    g, d, f = _checked(drift_squared, displacement_squared, losses)
    found = nonnegative_fit(np.stack([d, f], axis=1), g).coefficients
    return _fitted(float(found[0]), float(found[1]), g, d, f)


def envelope(
    drift_squared: Numbers, displacement_squared: Numbers, losses: Numbers
) -> Fit:
    """A and B of at least 0 with ``A d + B F ≥ g`` on every pair, as low as possible.

    What :func:`~ntk_fed.theory.envelope.upper_envelope` finds. Arguments and errors as
    :func:`fit`.

    Raises:
        ValueError: also where d and F are 0 and the drift is not.
    """
    g, d, f = _checked(drift_squared, displacement_squared, losses)
    found = upper_envelope(np.stack([d, f], axis=1), g).coefficients
    return _fitted(float(found[0]), float(found[1]), g, d, f)


def width_trend(
    widths: Iterable[Any], b: Iterable[Any], *, confidence: float = 0.95
) -> Enclosure:
    """Slope of ``log B`` on ``log width`` with its t interval: below 0, B shrinks.

    Raises:
        ValueError: as :func:`loglog_slope`; so does a B of 0, which is smooth already.
    """
    return loglog_slope(widths, b, confidence=confidence)


def _checked(*columns: np.ndarray) -> list[np.ndarray]:
    sizes = [len(column) for column in columns]
    if len(set(sizes)) != 1 or sizes[0] == 0:
        raise ShapeMismatchError(
            "drifts, displacements and losses must be one each per pair, at least one "
            f"pair, got {sizes}. Give one entry per client and step."
        )
    stacked = [np.asarray(column, float) for column in columns]
    if not all(np.isfinite(column).all() for column in stacked):
        raise NonFiniteError(
            "drifts, displacements or losses hold NaN or infinity. Leave out what came "
            "after a run diverged."
        )
    if any((column < 0).any() for column in stacked):
        raise ValueError(
            "drifts, displacements and losses must not be negative: squared norms are "
            "meant."
        )
    return stacked


def _fitted(a: float, b: float, g: np.ndarray, d: np.ndarray, f: np.ndarray) -> Fit:
    gap = np.linalg.norm((a * d + b * f - g) / _top(g))
    size = np.linalg.norm(g / _top(g))
    residual = ratio(float(gap), float(size))
    return Fit(a, b, residual, _sine(d, f), len(g))


def _sine(d: np.ndarray, f: np.ndarray) -> float:
    if not (d.any() and f.any()):
        return 0.0
    u, v = d / _top(d), f / _top(f)
    u, v = u / np.linalg.norm(u), v / np.linalg.norm(v)
    return float(np.linalg.norm(u - (u @ v) * v))


def _top(column: np.ndarray) -> float:
    """The largest entry, or 1 where all are 0."""
    return float(column.max()) or 1.0
