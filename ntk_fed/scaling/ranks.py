"""Rank correlations with intervals, over groups that belong together.

Floor 2: imports ``measured``.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import scipy.stats

from ntk_fed.measured import Enclosure

_DRAWS = 1000


def rank_correlation(
    x: Iterable[Any],
    y: Iterable[Any],
    groups: Iterable[Any],
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> Enclosure:
    """Spearman's rank correlation with a bootstrap interval over whole groups.

    Runs of one seed belong together: they share their draw, so that whole groups are
    drawn with replacement. With few groups (below some ten) the interval is short by
    what a bootstrap of so few cannot see.

    Args:
        x: finite numbers.
        y: one for each ``x``.
        groups: what each belongs to, such as its seed; two different ones at least.
        confidence: of the two-sided percentile interval, in (0, 1).
        seed: of the bootstrap.

    Raises:
        ValueError: lengths differ, values are not finite or all equal, or there is one
            group only.
    """
    a, b = (np.array(list(v), dtype=float) for v in (x, y))
    names = np.array(list(groups))
    if not len(a) == len(b) == len(names) or not np.isfinite([a, b]).all():
        raise ValueError(
            "a rank correlation needs finite x and y and a group for each, got "
            f"{len(a)} x, {len(b)} y and {len(names)} groups."
        )
    places = [np.flatnonzero(names == name) for name in np.unique(names)]
    if len(places) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        raise ValueError(
            "a rank correlation needs two groups at least and values that differ, got "
            f"{len(places)} groups."
        )
    random = np.random.default_rng(seed)
    drawn = []
    while len(drawn) < _DRAWS:
        rows = np.concatenate(
            [places[i] for i in random.integers(len(places), size=len(places))]
        )
        if np.ptp(a[rows]) > 0 and np.ptp(b[rows]) > 0:
            drawn.append(_spearman(a[rows], b[rows]))
    tail = (1 - confidence) / 2
    lower, upper = np.quantile(drawn, (tail, 1 - tail))
    value = _spearman(a, b)
    return Enclosure(
        value,
        min(float(lower), value),
        max(float(upper), value),
        method=f"bootstrap over {len(places)} groups, {confidence:.0%}",
    )


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    ranks = scipy.stats.rankdata(a), scipy.stats.rankdata(b)
    return float(np.corrcoef(*ranks)[0, 1])
