"""Means over seeds with intervals.

Floor 2: imports ``measured``.
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import scipy.stats

from ntk_fed.measured import Enclosure


def mean_interval(values: Iterable[Any], *, confidence: float = 0.95) -> Enclosure:
    """The mean of independent values with Student's interval.

    For a comparison over the same seeds give the differences, seed by seed; for a
    ratio, its logarithms. Right for values that are about normal; below some twenty
    values a strong skew makes it too short.

    Args:
        values: finite, two at least.
        confidence: of the two-sided interval, in (0, 1).

    Raises:
        ValueError: fewer than two values, or one that is not finite.
    """
    own = np.array(list(values), dtype=float)
    if len(own) < 2 or not np.isfinite(own).all():
        raise ValueError(
            f"values must be two finite numbers at least, got {own.tolist()}. Leave "
            "out runs that diverged, and say so."
        )
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}.")
    mean = float(own.mean())
    half = float(own.std(ddof=1)) / math.sqrt(len(own))
    half *= float(scipy.stats.t.ppf((1 + confidence) / 2, len(own) - 1))
    method = f"t interval, {confidence:.0%}, {len(own)} values"
    return Enclosure(mean, mean - half, mean + half, method=method)


def geometric_mean_interval(
    values: Iterable[Any], *, confidence: float = 0.95
) -> Enclosure:
    """The geometric mean of positive values: :func:`mean_interval` of logarithms.

    Args:
        values: positive and finite, two at least; ratios, losses, errors.
        confidence: of the two-sided interval, in (0, 1).

    Raises:
        ValueError: fewer than two values, or one that is not positive and finite.
    """
    own = np.array(list(values), dtype=float)
    if not (own > 0).all():
        raise ValueError(f"values must be positive, got {own.tolist()}.")
    found = mean_interval(np.log(own), confidence=confidence)
    value, lower, upper = map(math.exp, (found.value, found.lower, found.upper))
    return Enclosure(value, lower, upper, method=f"geometric, {found.method}")
