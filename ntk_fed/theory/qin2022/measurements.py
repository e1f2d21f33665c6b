"""What Qin et al.'s statements are evaluated on.

Floor 6.
"""

import dataclasses
import math

import numpy as np
import pandas as pd

from ntk_fed.measured import Enclosure
from ntk_fed.theory.qin2022.bounds import theorem1_weights

FADED = 1e-12  # of the first gap: below it a loss is mostly rounding of the residual
ROUNDING = 1e-9  # of a gap above that: eps over the square root of FADED, and to spare


@dataclasses.dataclass(frozen=True)
class Measurements:
    """What the statements are evaluated on; ``None`` where it was not measured.

    Attributes:
        step_size: η.
        local_steps: K.
        averages: does the server average all clients, plainly and uniformly?
        convex: are the clients' losses known to be convex?
        smooth: may gradients be Lipschitz? Those of ReLU networks are not.
        rounds: of the run.
        smoothness: L.
        convexity: μ, 0 if some client's loss is flat somewhere.
        growth: ρ.
        similarity: s.
        least: the loss no model goes below, over the loss at the start; 0 means
            interpolation.
        distance: ``‖x0 − x*‖`` to the nearest minimiser.
        gap: ``f(x0) − f*``.
        average_gap: ``f(x̂) − f*`` of Theorem 1's average.
        smallest_gradient: smallest ``‖∇f(x̄^t)‖²`` seen.
        last_distance: ``‖x̄^T − x*‖²``.
        descent: worst ``e_{t+1} / (e_t − η h_t / 3 + ⅔ η L² V_t)``.
        spread: worst ``V_t / (3 η² K ρ Σ h_j)``.
    """

    step_size: float
    local_steps: int
    averages: bool
    convex: bool = False
    smooth: bool = True
    rounds: int | None = None
    smoothness: Enclosure | None = None
    convexity: Enclosure | None = None
    growth: Enclosure | None = None
    similarity: Enclosure | None = None
    least: Enclosure | None = None
    distance: Enclosure | None = None
    gap: Enclosure | None = None
    average_gap: Enclosure | None = None
    smallest_gradient: Enclosure | None = None
    last_distance: Enclosure | None = None
    descent: Enclosure | None = None
    spread: Enclosure | None = None


def along(found: Measurements, seen: pd.DataFrame | None) -> Measurements:
    """Add what the gaps, gradients and variances of *every* iteration come to.

    Args:
        found: the constants.
        seen: one row per iteration ``0, 1, …, T`` with ``"gap"``, ``"gradient"`` (the
            squared norm at the average) and ``"variance"``; ``None`` adds nothing.
    """
    if seen is None or found.rounds is None:
        return found
    gap, h, variance = (
        seen[name].to_numpy(float) for name in ("gap", "gradient", "variance")
    )
    eta, k = found.step_size, found.local_steps
    told = gap[:-1] > FADED * gap[0]
    changes: dict[str, Enclosure | None] = {}
    if found.similarity is not None:
        gaps = [
            float(theorem1_weights(k, found.rounds, s) @ gap[:-1])
            for s in ends(found.similarity)
        ]
        changes["average_gap"] = Enclosure(gaps[0], 0.0, max(gaps) * (1 + ROUNDING))
    if found.smoothness is not None and math.isfinite(found.smoothness.upper):
        falls = gap[:-1] - eta * h[:-1] / 3
        spreads = 2 / 3 * eta * variance[:-1]
        rights = [falls + big**2 * spreads for big in ends(found.smoothness)]
        changes["descent"] = _worst(gap[1:], rights, gap[:-1], told)
    if found.growth is not None and math.isfinite(found.growth.upper):
        sums = h[:-1].reshape(-1, k).cumsum(axis=1)
        sums = np.hstack([np.zeros((len(sums), 1)), sums[:, :-1]]).ravel()
        inside = told & (sums > 0)  # where clients have just met, both sides are 0
        rights = [3 * eta**2 * k * rho * sums for rho in ends(found.growth)]
        changes["spread"] = _worst(variance[:-1], rights, rights[0], inside)
    return dataclasses.replace(found, **changes)


def _worst(
    left: np.ndarray, rights: list[np.ndarray], size: np.ndarray, told: np.ndarray
) -> Enclosure | None:
    """Largest ``left / right`` with ends, for a right side of three values.

    Args:
        left: at least 0.
        rights: best estimate, lower and upper end.
        size: of the terms the right side is made of, which its rounding goes with.
        told: iterations to look at.
    """
    if not told.any():
        return None

    def largest(right: np.ndarray, slack: float) -> float:
        up, down = left[told] * (1 + slack), (right - slack * size)[told]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.where(down > 0, up / down, np.where(up > 0, np.inf, 0.0))
        return float(ratios.max())

    value, lower, upper = rights
    return Enclosure(
        largest(value, 0.0), largest(upper, -ROUNDING), largest(lower, ROUNDING)
    )


def ends(found: Enclosure) -> tuple[float, float, float]:
    """Best estimate, lower and upper end."""
    return found.value, found.lower, found.upper
