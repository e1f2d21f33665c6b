"""Where the smallest eigenvalue lies, by factorisations instead of a reduction.

Floor 2. Nothing here is proven; ``certificate`` proves, and a bad guess costs time,
never truth. The bottom of a kernel's spectrum is crowded: inverse iteration stalls, but
Lanczos on the inverse closes in within tens of solves, and a factor at a shift just
below sets the smallest eigenvalue apart. Solves cost next to nothing beside a factor,
and a factor in float32 a third of one in float64.
"""

import dataclasses
import math

import numpy as np
from scipy.linalg import get_blas_funcs

from ntk_fed.spectrum.certificate import cholesky
from ntk_fed.spectrum.lanczos import Vector, combined, lanczos, ritz
from ntk_fed.spectrum.symmetric import SymmetricMatrix

_RANGE = 2.0**400  # entries of vectors, whose squares then stay in range
_STEPS = 64  # of Lanczos for one factor; a further factor is cheaper than more
_LOOK = 2  # steps between two looks at the estimate
_CAREFUL = 2000  # rows; of more a refused proof costs more than further steps
_FACTORS = 4  # tried before the search gives up


@dataclasses.dataclass(frozen=True)
class Found:
    """An estimate of the smallest eigenvalue.

    Attributes:
        value: Rayleigh quotient of ``vector``, at or above it but for rounding.
        vector: of norm 1, ``(n,)``.
        uncertainty: how far below ``value`` the eigenvalue may lie, as far as the
            iteration shows.
    """

    value: float
    vector: Vector
    uncertainty: float


def smallest(matrix: SymmetricMatrix, rtol: float) -> Found | None:
    """Close in on the smallest eigenvalue of a positive definite matrix.

    Args:
        matrix: to look at.
        rtol: wanted uncertainty, relative to the eigenvalue.

    Returns:
        The best estimate, or ``None``: not positive definite, or no progress.

    Cost:
        One to four factors, n³/6 multiplications each, the first in float32 where that
        works; tens of solves of n² each.
    """
    entries, diagonal = matrix.entries, np.diagonal(matrix.entries)
    start = np.random.default_rng(0).standard_normal(len(diagonal))
    found: Found | None = None
    shift, failed, dtype = 0.0, math.inf, np.float32
    if not 2.0**-60 < matrix.largest < 2.0**60:  # float32 would leave its range
        dtype = np.float64
    for _ in range(_FACTORS):
        factor = cholesky(entries, diagonal - shift, dtype)
        if factor is None and dtype == np.float32:
            dtype = np.float64
            continue
        if factor is None:
            if shift == 0.0 or found is None:
                return None
            failed = shift
        else:
            next_ = _on_inverse(matrix, factor, shift, start, rtol)
            if next_ is None and dtype == np.float32:
                dtype = np.float64
                continue
            if next_ is None:
                return found
            found = next_
            start = found.vector
            if not found.value > 0.0:
                return None
            if found.uncertainty <= rtol * found.value:
                return found
        below = 0.0 if failed == math.inf else shift / 2
        shift = min(found.value - 2 * found.uncertainty, (failed + below) / 2)
        shift, dtype = max(shift, 0.5 * found.value), np.float64
    return found


def _on_inverse(
    matrix: SymmetricMatrix,
    factor: np.ndarray,
    shift: float,
    start: Vector,
    rtol: float,
) -> Found | None:
    """Lanczos on the inverse of a factored matrix.

    ``None`` if a solve leaves the range of the factor's dtype, as where the smallest
    eigenvalue is 2**-128 of the largest.
    """
    # One right side at a time: potrs would treat it as a matrix, 5 to 10 times slower.
    (trsv,) = get_blas_funcs(("trsv",), (factor,))

    def solve(vector: Vector) -> Vector:
        solved = trsv(factor, vector.astype(factor.dtype), trans=1)
        solved = trsv(factor, solved, overwrite_x=1)
        if not float(np.abs(solved).max()) < _RANGE:  # nor is NaN
            raise OverflowError
        return solved.astype(np.float64)

    care = min(1.0, _CAREFUL / len(start))
    last, gain, uncertainty = math.inf, math.inf, math.inf
    weights, basis = np.ones(1), start[None]
    start = start / np.linalg.norm(start)
    try:
        for step in lanczos(solve, start, _STEPS):
            on, beside, basis = step
            if len(on) % _LOOK != 0 and not _ended(on, beside):
                continue
            values, vectors = ritz(on, beside)
            weights, top = vectors[:, -1], values[-1]
            distance = 1.0 / top if top > 0 else math.inf
            # Two views of what is still missing: the residual, which is a bound, and
            # twice what the last gains leave to come if each is a part of the one
            # before.
            residual = distance * beside[-1] * abs(weights[-1]) / max(top, 1e-300)
            before, gain = gain, last - distance
            part = gain / before if 0 < before < math.inf else 1.0
            to_come = gain * max(0.5, 2 * part / (1 - part)) if part < 1 else math.inf
            uncertainty = min(residual, to_come)
            last = distance
            if uncertainty <= care * rtol * (shift + distance):
                break
        # One more solve: what the vector holds of large eigenvalues costs the inverse
        # nothing, but is most of its Rayleigh quotient on the matrix itself.
        vector = solve(combined(basis, weights))
    except OverflowError:
        return None
    return _found(matrix, vector, uncertainty)


def _ended(on: Vector, beside: Vector) -> bool:
    """Is this the last step, or does nothing lead out of the space?"""
    return len(on) == _STEPS or not beside[-1] > 1e-12 * abs(on[0])


def _found(matrix: SymmetricMatrix, vector: Vector, uncertainty: float) -> Found:
    vector = vector / np.linalg.norm(vector)
    return Found(float(vector @ matrix.times(vector)), vector, uncertainty)


def largest(matrix: SymmetricMatrix, rtol: float) -> Found | None:
    """Close in on the smallest eigenvalue of minus a positive matrix, by products.

    The top of a kernel's spectrum stands alone; Lanczos on the matrix itself finds it.

    Args:
        matrix: minus a matrix whose largest eigenvalue is wanted.
        rtol: wanted uncertainty, relative to the eigenvalue.

    Returns:
        The estimate, or ``None`` without enough progress.
    """
    start = np.random.default_rng(0).standard_normal(len(matrix.entries))
    start /= np.linalg.norm(start)
    for on, beside, basis in lanczos(matrix.times, start, _STEPS):
        if len(on) % _LOOK == 0 or _ended(on, beside):
            values, vectors = ritz(on, beside)
            uncertainty = beside[-1] * abs(vectors[-1, 0])
            if uncertainty <= rtol * abs(values[0]):
                return _found(matrix, combined(basis, vectors[:, 0]), uncertainty)
    return None
