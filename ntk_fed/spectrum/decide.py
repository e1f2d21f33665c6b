"""Is the smallest eigenvalue at least a threshold? One factorisation, three answers.

Floor 2: stands on ``certificate``; where one factorisation leaves it open, ``extreme``
encloses the eigenvalue.
"""

import math
from fractions import Fraction

import numpy as np
from torch import Tensor

from ntk_fed.measured import Verdict
from ntk_fed.spectrum.certificate import factorised, upper_bound
from ntk_fed.spectrum.extreme import check_options, enclosure
from ntk_fed.spectrum.rounding import gamma, round_up, underflow
from ntk_fed.spectrum.symmetric import SymmetricMatrix, symmetric_matrix


def at_least(
    gram: Tensor, threshold: float | int, *, forming_error: float | int = 0.0
) -> Verdict:
    """Is the smallest eigenvalue at least ``threshold``?

    Cheaper than the eigenvalue: one factorisation if the answer is yes, and a part of
    one if it is no, for elimination stops where it finds a vector that proves it.

    Args:
        gram: as for :func:`smallest_eigenvalue`.
        threshold: finite, in the unit of ``gram``.
        forming_error: as for :func:`smallest_eigenvalue`.

    Returns:
        ``holds`` or ``fails`` when proven, ``undecided`` when rounding and
        ``forming_error`` reach across the threshold.

    Raises:
        ValueError: as :func:`smallest_eigenvalue`, or the threshold is not finite.
    """
    if not math.isfinite(threshold):
        raise ValueError(f"threshold must be a finite number, got {threshold!r}.")
    # Whole numbers may be none of float64: they are not rounded either.
    exactly = Fraction(threshold if isinstance(threshold, int) else float(threshold))
    check_options(1.0, forming_error)
    answer = Verdict.holds
    for part in symmetric_matrix(gram).apart():
        verdict = _part_at_least(part, exactly, forming_error)
        if verdict is Verdict.fails:
            return verdict
        answer = verdict if verdict is Verdict.undecided else answer
    return answer


def _part_at_least(
    matrix: SymmetricMatrix, threshold: Fraction, forming_error: float | int
) -> Verdict:
    diagonal = np.diagonal(matrix.entries)
    n = len(diagonal)
    widening = Fraction(forming_error) / matrix.unit
    target = threshold / matrix.unit
    # Each diagonal entry is a Rayleigh quotient: the eigenvalue lies at or below it.
    if Fraction(float(diagonal.min())) + matrix.rounding + widening < target:
        return Verdict.fails
    if not matrix.is_diagonal:
        trace = Fraction(math.fsum(diagonal)) - n * target
        # Twice the a priori error, so that what is left above the target suffices.
        room = 2 * gamma(n + 3) * max(trace, Fraction(0)) + underflow(n)
        shift = target + widening + matrix.rounding + room
        if abs(shift) <= 4 * n * Fraction(matrix.largest):
            proven, vector = factorised(matrix, round_up(shift))
            if proven is not None and proven >= target + widening:
                return Verdict.holds
            if vector is not None and upper_bound(matrix, vector) + widening < target:
                return Verdict.fails
    found = enclosure(matrix, 1, 1.0, True, forming_error)
    if Fraction(found.lower) >= threshold:
        return Verdict.holds
    return Verdict.fails if Fraction(found.upper) < threshold else Verdict.undecided
