"""Smallest and largest eigenvalue of a Gram matrix, each between proven bounds.

Floor 2: an eigensolver guesses, ``certificate`` proves. No jitter is added anywhere: a
shift large enough to make a factorisation succeed is a shift of the very number asked
for. A refused factorisation only moves the bound.
"""

import math
from fractions import Fraction

import numpy as np
import scipy.linalg
from jaxtyping import Float
from torch import Tensor

from ntk_fed.measured import Enclosure
from ntk_fed.spectrum.certificate import lower_bound, upper_bound
from ntk_fed.spectrum.rounding import (
    UNIT,
    frobenius_norm,
    gamma,
    round_down,
    round_up,
)
from ntk_fed.spectrum.search import largest, smallest
from ntk_fed.spectrum.symmetric import SymmetricMatrix, symmetric_matrix

SEARCHED = 300  # samples from which a search is faster than a reduction
WIDENING = 8  # of the gap below the estimate, after each refused factorisation


def smallest_eigenvalue(
    gram: Tensor,
    *,
    rtol: float | int = 1e-3,
    certify: bool = True,
    forming_error: float | int = 0.0,
) -> Enclosure:
    r"""Smallest eigenvalue of a symmetric matrix, between two bounds.

    Certified bounds are proven for the numbers stored in ``gram``, whatever the
    eigensolver did: a Cholesky factor just below the estimate gives ``lower``, a
    Rayleigh quotient gives ``upper``. How far the stored numbers are from the kernel
    that was meant is ``forming_error``, which widens both (Weyl's inequality).

    Args:
        gram: symmetric matrix, ``(n, n)``, ``n >= 1``, float64 or float32, any device.
            An asymmetry as small as rounding is accepted and told in ``note``.
        rtol: ``upper - lower`` is to be at most ``rtol * |lower|``; what is not reached
            is told in ``note``. Matrices below 300 rows get the sharpest bounds in any
            case.
        certify: ``False`` skips the proof: the bounds are the residual of the pair that
            search or eigensolver found.
        forming_error: bound on the spectral norm of ``gram`` less the matrix meant.

    Returns:
        Value and bounds in the unit of ``gram``, as finite Python floats.

    Raises:
        ValueError: dtype, shape or an option is unfit.
        NonFiniteError: NaN or infinity in ``gram``, or bounds beyond float64.
        NotSymmetricError: ``gram`` differs from its transpose by more than rounding.

    Cost:
        Most often one factorisation in float32 (n³/6 multiplications) to find it, and
        one in float64 to prove it (twice as many multiplications where the library is
        not known to substitute, or much rounds); at worst two searches of four
        factorisations, each with a certificate. A reduction of 2/3 n³ slow
        multiplications where the matrix is small, not positive definite or beyond the
        search. Memory one matrix beside ``gram``.

    Example:
        >>> smallest_eigenvalue(torch.eye(3, dtype=torch.float64)).lower
        1.0
    """
    check_options(rtol, forming_error)
    return _end(symmetric_matrix(gram), 1, rtol, certify, forming_error)


def largest_eigenvalue(
    gram: Tensor,
    *,
    rtol: float | int = 1e-3,
    certify: bool = True,
    forming_error: float | int = 0.0,
) -> Enclosure:
    """Largest eigenvalue of a symmetric matrix, between two bounds.

    It is minus the smallest eigenvalue of minus the matrix, and that is how it is
    computed; see :func:`smallest_eigenvalue` for arguments, bounds, errors and cost.
    """
    check_options(rtol, forming_error)
    return _end(symmetric_matrix(gram), -1, rtol, certify, forming_error)


def _end(
    matrix: SymmetricMatrix,
    sign: int,
    rtol: float | int,
    certify: bool,
    forming_error: float | int,
) -> Enclosure:
    """One end of the spectrum, from that of each block that zeros set apart."""
    parts = matrix.apart()
    found = [enclosure(part, sign, rtol, certify, forming_error) for part in parts]
    if len(found) == 1:
        return found[0]
    pick = min if sign > 0 else max
    notes = dict.fromkeys(one.note for one in found if one.note)
    return Enclosure(
        value=pick(one.value for one in found),
        lower=pick(one.lower for one in found),
        upper=pick(one.upper for one in found),
        certified=all(one.certified for one in found),
        method=f"{found[-1].method}; {len(found)} blocks that zeros set apart",
        note="; ".join(notes),
    )


def enclosure(
    matrix: SymmetricMatrix,
    sign: int,
    rtol: float | int,
    certify: bool,
    forming_error: float | int,
) -> Enclosure:
    """The smallest (sign 1) or largest (-1) eigenvalue, in the unit handed in."""
    signed = matrix if sign > 0 else matrix.negated()
    notes = [matrix.note]
    if matrix.is_diagonal:
        value = Fraction(float(np.diagonal(signed.entries).min()))
        lower, upper = value - matrix.rounding, value + matrix.rounding
        method, certify = "diagonal matrix, read off", True
    else:
        value, vector, lower, note = _bottom(signed, sign, rtol, certify)
        if lower is not None:
            upper = upper_bound(signed, vector)
            method = "Cholesky certificate, Rayleigh quotient"
            notes.append(note)
        else:
            error = _residual(signed, value, vector) + matrix.rounding
            lower, upper = value - error, value + error
            method = "search or eigensolver, residual of the eigenpair"
            notes.append("an estimate: the bounds are not proven")
    if forming_error:
        notes.append(f"both bounds hold a forming error of {forming_error:.3e}")
    else:
        method += ", of the matrix as stored"
    widening = Fraction(forming_error)
    lower = lower * matrix.unit - widening
    upper = upper * matrix.unit + widening
    if sign < 0:
        lower, upper = -upper, -lower
    bounds = (round_down(lower), round_up(upper))
    notes.append(shortfall(bounds, rtol))
    # The clamp removes rounding only: an estimate may miss its bounds by that.
    nearest = round_down(sign * value * matrix.unit)
    return Enclosure(
        value=min(max(nearest, bounds[0]), bounds[1]),
        lower=bounds[0],
        upper=bounds[1],
        certified=certify,
        method=method,
        note="; ".join(note for note in notes if note),
    )


def _bottom(
    matrix: SymmetricMatrix, sign: int, rtol: float | int, certify: bool
) -> tuple[Fraction, Float[np.ndarray, " n"], Fraction | None, str]:
    """Estimate and vector; a proven lower bound if one is wanted; what to note.

    Large matrices are searched by factorisations, which is several times faster than
    a reduction; where the search or its certificate fails, the reduction decides.
    """
    if len(matrix.entries) >= SEARCHED:
        search = smallest if sign > 0 else largest
        for tolerance in (0.4 * min(rtol, 0.1), 0.004 * min(rtol, 0.1)):
            found = search(matrix, tolerance)
            if found is None:
                break
            value = Fraction(found.value)
            if not certify:
                return value, found.vector, None, ""
            gap = max(2 * Fraction(tolerance) * abs(value), room_below(matrix, value))
            proven = lower_bound(matrix, round_down(value - gap))
            if proven is not None:
                return value, found.vector, proven, ""
    value, vector = _eigenpair(matrix)
    if not certify:
        return value, vector, None, ""
    return value, vector, *_certified_lower(matrix, value)


def _eigenpair(matrix: SymmetricMatrix) -> tuple[Fraction, Float[np.ndarray, " n"]]:
    """Estimate of the smallest eigenvalue and a vector of norm 1; nothing is proven."""
    values, vectors = scipy.linalg.eigh(
        matrix.entries, subset_by_index=[0, 0], check_finite=False
    )
    return Fraction(float(values[0])), vectors[:, 0]


def _certified_lower(matrix: SymmetricMatrix, value: Fraction) -> tuple[Fraction, str]:
    """A proven lower bound as sharp as rounding lets it be, and a note if it is crude.

    The first shift lies below the estimate by the a priori error of the factorisation,
    which nearly always suffices; wider gaps cover an eigensolver that was worse.
    """
    n = len(matrix.entries)
    gap = room_below(matrix, value)
    while gap <= 4 * n * Fraction(matrix.largest):
        shift = round_down(value - gap)
        proven = lower_bound(matrix, shift)
        if proven is not None:
            return proven, ""
        gap *= WIDENING
    norm = frobenius_norm(matrix.entries) + matrix.rounding
    return -norm, "every factorisation was refused; one bound is the Frobenius norm"


def room_below(matrix: SymmetricMatrix, value: Fraction) -> Fraction:
    """The a priori error of a factorisation just below the smallest eigenvalue."""
    n = len(matrix.entries)
    trace = Fraction(math.fsum(np.diagonal(matrix.entries))) - n * value
    return gamma(n + 3) * max(trace, Fraction(matrix.largest))


def _residual(
    matrix: SymmetricMatrix, value: Fraction, vector: Float[np.ndarray, " n"]
) -> Fraction:
    """Norm of A v - λ v, and what rounding can hide in it; an estimate."""
    residual = matrix.times(vector) - float(value) * vector
    hidden = len(vector) * UNIT * frobenius_norm(matrix.entries)
    return frobenius_norm(residual) + hidden


def shortfall(bounds: tuple[float, float], rtol: float | int) -> str:
    """What to note when the bounds are wider than asked for; else empty."""
    lower, upper = map(Fraction, bounds)
    width, size = upper - lower, abs(lower)
    if width <= Fraction(rtol) * size:
        return ""
    reached = (
        f"{float(width / size):.1e} times" if width < 10**99 * size else "not near"
    )
    return f"rtol {rtol:g} was not reached: upper - lower is {reached} |lower|"


def check_options(rtol: float | int, forming_error: float | int) -> None:
    """Refuse tolerances and errors that are no positive or non-negative floats."""
    if not (_is_number(rtol) and math.isfinite(rtol) and rtol > 0):
        raise ValueError(f"rtol must be a positive number, got {rtol!r}.")
    if not (
        _is_number(forming_error)
        and math.isfinite(forming_error)
        and forming_error >= 0
    ):
        raise ValueError(
            f"forming_error must be a finite number of at least 0, got "
            f"{forming_error!r}. It is a bound on a norm, in the unit of gram: the "
            "bound that gram(..., with_error=True) gives, for one."
        )


def _is_number(value: object) -> bool:
    """Is it a Python number? NumPy's float64 is one; others say .item() or float()."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def spectral_norm(
    matrix: Tensor, *, rtol: float = 1e-3, forming_error: float = 0.0
) -> Enclosure:
    """``‖A‖₂`` of a symmetric matrix: the larger of its two ends.

    Args:
        matrix: symmetric, ``(n, n)``; of either sign.
        rtol: relative width asked of both ends.
        forming_error: spectral norm of what the matrix may be off by.

    Raises:
        ValueError: as :func:`smallest_eigenvalue`.
        NonFiniteError: likewise; also where a bound is beyond float64.

    Cost: two extreme eigenvalues.
    """
    high = largest_eigenvalue(matrix, rtol=rtol, forming_error=forming_error)
    low = smallest_eigenvalue(matrix, rtol=rtol, forming_error=forming_error)
    return Enclosure(
        max(high.value, -low.value),
        max(high.lower, -low.upper, 0.0),
        max(high.upper, -low.lower),
        high.certified and low.certified,
        "the larger of both ends",
    )
