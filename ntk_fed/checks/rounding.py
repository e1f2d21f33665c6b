"""What rounding leaves of norms and of losses, and of ratios of losses.

Floor 7.
"""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd

from ntk_fed.measured import Enclosure, estimate

TOLD = 1000  # a residual that many times its rounding is known to three digits
_EPS = float(np.finfo(float).eps)


def rounded(value: float, eps: float = _EPS) -> Enclosure:
    """A norm or a loss: some thousands of roundings, 1e-12 of itself in float64."""
    if math.isinf(value):
        return Enclosure(value, value, value, method="out of range")
    return estimate(value, 4500 * eps * abs(value), "rounding")


def ends(
    losses: np.ndarray, slack: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Losses and their ends; the lower one is 0 where there is nothing but rounding.

    Args:
        losses: ``(t,)``.
        slack: what each root may be off by, ``(t,)``.
    """
    roots = np.sqrt(losses)
    return losses, np.maximum(roots - slack, 0.0) ** 2, (roots + slack) ** 2


def told(losses: np.ndarray, slack: np.ndarray) -> np.ndarray:
    """Which losses are more than rounding; arguments as of :func:`ends`."""
    return np.sqrt(losses) > TOLD * slack


def over_promise(
    losses: pd.Series,
    slack: np.ndarray,
    promised: Callable[[float], np.ndarray],
    rate: Enclosure,
) -> Enclosure | None:
    """Largest loss over its promise after the start, at both ends of a rate.

    A loss that is nothing but rounding contradicts no promise, and no loss contradicts
    one that begins with such a loss.

    Args:
        losses: by round, the start first, as :attr:`Subject.losses`.
        slack: as of :func:`ends`.
        promised: what a rate promises of each of these losses, ``(t,)``.
        rate: a larger one promises smaller losses.

    Returns:
        ``None`` where a promise has no sense, or is too small for a float.
    """
    value, lower, upper = ends(losses.to_numpy(), slack)
    worst = []
    with np.errstate(all="ignore"):  # what leaves the floats is answered by None
        for end in (rate.value, rate.lower, rate.upper):
            promise = promised(end)
            kept = promise / promise[0]
            pairs = ((value, value[0]), (lower, upper[0]), (upper, lower[0]))
            worst.append(
                [float((left / (kept * first))[1:].max()) for left, first in pairs]
            )
    least = min(one[1] for one in worst)
    if not all(math.isfinite(one) for own in worst for one in own[:2]):
        return None
    most = max(one[2] for one in worst)
    return Enclosure(
        worst[0][0], least, math.inf if math.isnan(most) else most, method="rounding"
    )


def growth(losses: np.ndarray, slack: np.ndarray) -> Enclosure | None:
    """Largest loss over the loss one round before.

    Rounds in which both are rounding are left out.

    Args:
        losses: of every round, ``(t,)``.
        slack: as of :func:`ends`.
    """
    seen = told(losses, slack)
    pairs = seen[:-1] | seen[1:]
    if not pairs.any():
        return None
    own, low, high = ends(losses, slack)
    with np.errstate(all="ignore"):
        value, lower, upper = (
            float((after[1:] / before[:-1])[pairs].max())
            for after, before in ((own, own), (low, high), (high, low))
        )
    if not (math.isfinite(value) and math.isfinite(lower)):
        return None
    return Enclosure(value, lower, upper, method="rounding")
