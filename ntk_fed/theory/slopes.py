"""Slopes on log-log axes with their intervals.

Floor 6: imports ``measured`` and ``scaling``.
"""

from collections.abc import Iterable
from typing import Any

from ntk_fed.measured import Enclosure
from ntk_fed.scaling.powerlaw import power_law


def loglog_slope(
    x: Iterable[Any], y: Iterable[Any], *, confidence: float = 0.95
) -> Enclosure:
    """Slope of ``log y`` on ``log x`` by least squares, with its Student t interval.

    The exponent of :func:`ntk_fed.scaling.power_law`, which says what is assumed.

    Args:
        x: positive, at least two different values.
        y: positive, one for each ``x``; at least three.
        confidence: of the two-sided interval, in (0, 1).

    Raises:
        ValueError: too few points, one that is not positive, equal ``x``, or a
            ``confidence`` out of its range.
    """
    return power_law(x, y, confidence=confidence).enclosure
