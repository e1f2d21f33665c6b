"""What all eigenvalues of a Gram matrix together say.

Floor 2: stands on ``extreme``, which certifies both ends.
"""

import dataclasses
import math
from fractions import Fraction

import numpy as np
import scipy.linalg
import torch
from jaxtyping import Float
from torch import Tensor

from ntk_fed.measured import Enclosure
from ntk_fed.spectrum.extreme import largest_eigenvalue, smallest_eigenvalue
from ntk_fed.spectrum.rounding import round_down, round_up
from ntk_fed.spectrum.symmetric import symmetric_matrix


@dataclasses.dataclass(frozen=True)
class Summary:
    """What the spectrum of one Gram matrix says.

    Attributes:
        eigenvalues: all of them, ascending, ``(n,)``, float64 on the CPU; computed, not
            certified: off by about ``n * eps`` times the largest.
        smallest: certified.
        largest: certified.
        condition_number: ``largest / smallest``, certified from both; the upper bound
            is infinite unless the smallest is proven positive, and the whole then an
            estimate: of a matrix that is not positive definite it is none.
        trace: sum of the diagonal.
        effective_rank: ``trace² / ‖gram‖_F²``, in [1, n] for a non-zero positive
            semi-definite matrix; NaN for the zero matrix.
        exponent: slope of log λ_k on log k by least squares, λ_1 the largest, over the
            eigenvalues above ``n * eps`` times the largest (below is rounding); NaN
            with fewer than two of them.
    """

    eigenvalues: Float[Tensor, " n"]
    smallest: Enclosure
    largest: Enclosure
    condition_number: Enclosure
    trace: float
    effective_rank: float
    exponent: float


def summary(gram: Tensor) -> Summary:
    """All eigenvalues of a Gram matrix, and the figures drawn from them.

    Args:
        gram: as for :func:`smallest_eigenvalue`; so are the errors raised.

    Cost:
        A tridiagonal reduction for all of them, and both ends as
        :func:`smallest_eigenvalue`.
    """
    smallest, largest = smallest_eigenvalue(gram), largest_eigenvalue(gram)
    matrix = symmetric_matrix(gram)
    eigenvalues = scipy.linalg.eigvalsh(matrix.entries, check_finite=False)
    diagonal = np.diagonal(matrix.entries)
    trace = sum(map(Fraction, diagonal.tolist()), Fraction(0))
    return Summary(
        eigenvalues=torch.from_numpy(np.ldexp(eigenvalues, matrix.exponent)),
        smallest=smallest,
        largest=largest,
        condition_number=_condition_number(smallest, largest),
        trace=round_down(trace * matrix.unit),
        effective_rank=_effective_rank(matrix.entries),
        exponent=_exponent(eigenvalues),
    )


def _effective_rank(entries: Float[np.ndarray, "n n"]) -> float:
    """Square of the trace over the squared Frobenius norm."""
    largest = float(np.abs(entries).max())
    if largest == 0.0:
        return math.nan
    scaled = entries / largest  # the ratio does not see it, the squares stay in range
    return math.fsum(np.diagonal(scaled)) ** 2 / float(np.vdot(scaled, scaled))


def _condition_number(smallest: Enclosure, largest: Enclosure) -> Enclosure:
    """Largest over smallest, from both enclosures, rounded outwards."""
    if smallest.lower <= 0:
        note = "the smallest eigenvalue is not proven positive"
        lower = 1.0
        if smallest.upper > 0:
            ratio = Fraction(largest.lower) / Fraction(smallest.upper)
            lower = max(lower, round_down(ratio))
        return Enclosure(math.inf, lower, math.inf, False, "ratio of enclosures", note)
    low = Fraction(largest.lower) / Fraction(smallest.upper)
    high = Fraction(largest.upper) / Fraction(smallest.lower)
    lower, upper = round_down(low), round_up(high)
    value = min(max(largest.value / smallest.value, lower), upper)
    return Enclosure(value, lower, upper, True, "ratio of enclosures")


def _exponent(eigenvalues: Float[np.ndarray, " n"]) -> float:
    """Slope of log λ_k on log k, over the eigenvalues that rounding has not made."""
    n = len(eigenvalues)
    descending = eigenvalues[::-1]
    if descending[0] <= 0:
        return math.nan
    kept = descending[descending > n * np.finfo(np.float64).eps * descending[0]]
    if len(kept) < 2:
        return math.nan
    logarithm = np.log(np.arange(1, len(kept) + 1))
    centred = logarithm - logarithm.mean()
    return float(centred @ np.log(kept) / (centred @ centred))
