"""Rank correlations with intervals, over groups that belong together.

Floor 2: imports ``measured``.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import scipy.stats

from ntk_fed.measured import Enclosure

_DRAWS = 500


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
    (a,), b, places = _checked([x], y, groups)
    drawn = [_spearman(a[rows], b[rows]) for rows in _draws([a, b], places, seed)]
    return _enclosure(_spearman(a, b), drawn, len(places), confidence)


def rank_correlation_gain(
    x: Iterable[Any],
    other: Iterable[Any],
    y: Iterable[Any],
    groups: Iterable[Any],
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> Enclosure:
    """By how much ``x`` is more rank correlated with ``y`` than ``other`` is.

    The difference of both correlations on the same draws of whole groups; arguments and
    errors as :func:`rank_correlation`.
    """
    (a, c), b, places = _checked([x, other], y, groups)
    drawn = [
        _spearman(a[rows], b[rows]) - _spearman(c[rows], b[rows])
        for rows in _draws([a, b, c], places, seed)
    ]
    value = _spearman(a, b) - _spearman(c, b)
    return _enclosure(value, drawn, len(places), confidence)


def _checked(
    xs: list[Iterable[Any]], y: Iterable[Any], groups: Iterable[Any]
) -> tuple[list[np.ndarray], np.ndarray, list[np.ndarray]]:
    """The columns, and the places of each group."""
    *found, b = (np.array(list(v), dtype=float) for v in (*xs, y))
    names = np.array(list(groups))
    sizes = [len(column) for column in (*found, b, names)]
    if len(set(sizes)) > 1 or not all(np.isfinite(v).all() for v in (*found, b)):
        raise ValueError(
            "a rank correlation needs finite numbers, and one of each kind and a group "
            f"for every point, got {sizes} of them."
        )
    places = [np.flatnonzero(names == name) for name in np.unique(names)]
    if len(places) < 2 or any(np.ptp(v) == 0 for v in (*found, b)):
        raise ValueError(
            "a rank correlation needs two groups at least and values that differ, got "
            f"{len(places)} groups."
        )
    return found, b, places


def _draws(
    columns: list[np.ndarray], places: list[np.ndarray], seed: int
) -> Iterator[np.ndarray]:
    """Rows of whole groups drawn with replacement, on which no column is constant."""
    random = np.random.default_rng(seed)
    left = _DRAWS
    while left:
        picked = random.integers(len(places), size=len(places))
        rows = np.concatenate([places[i] for i in picked])
        if all(np.ptp(column[rows]) > 0 for column in columns):
            left -= 1
            yield rows


def _enclosure(
    value: float, drawn: list[float], groups: int, confidence: float
) -> Enclosure:
    tail = (1 - confidence) / 2
    lower, upper = np.quantile(drawn, (tail, 1 - tail))
    method = f"bootstrap over {groups} groups, {confidence:.0%}"
    ends = min(float(lower), value), max(float(upper), value)
    return Enclosure(value, *ends, method=method)


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    ranks = scipy.stats.rankdata(a), scipy.stats.rankdata(b)
    return float(np.corrcoef(*ranks)[0, 1])
