r"""Proven bounds for the smallest eigenvalue of a symmetric matrix, rounding included.

Floor 2: stands on ``symmetric`` and ``rounding``. Nothing here searches; ``extreme``,
``decide`` and ``pencil`` choose the shifts and the vectors, and a bad choice costs
sharpness, never truth.

Arrays are worked on in float64, so each step over an array carries an error bound. The
few numbers that such a step leaves are combined in exact rational arithmetic, so that
the formulas read as on paper; ``rounding`` holds the bounds and the way back.
"""

import functools
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Literal

import numpy as np
import scipy
import scipy.linalg
from jaxtyping import Float
from scipy.linalg import get_blas_funcs, get_lapack_funcs

from ntk_fed.errors import NonFiniteError
from ntk_fed.spectrum.rounding import (
    TINY,
    UNIT,
    gamma,
    root,
    sum_of_squares,
    underflow,
)
from ntk_fed.spectrum.symmetric import SymmetricMatrix

dgemm, dtrsm = get_blas_funcs(("gemm", "trsm"), dtype=np.float64)

Form = Literal["residual", "cholesky"]
_BAND = 256  # rows worked on together
_ACROSS = 512  # columns worked on together
_SHARP = Fraction(1, 2**13)  # of the shift: an a priori error that costs no digit
_BEYOND = 32  # rows from a refused one on, looked at together
_PIECE = 2**18  # entries moved together


def lower_bound(
    matrix: SymmetricMatrix, shift: float, *, form: Form | None = None
) -> Fraction | None:
    r"""A proven lower bound a little below ``shift``, if ``shift`` lies low enough.

    With B at most the matrix less ``shift`` times the identity (the diagonal is rounded
    down), a Cholesky factor R of B shows B to be positive semi-definite up to the error
    of the factorisation: the smallest eigenvalue is at least ``shift - error``.

    ``"residual"`` bounds ``error`` by the norm of RᵀR - B, formed by one plain float64
    product of triangular matrices (no Strassen, no TF32, no emulation). It trusts
    nothing about how R came to be. ``"cholesky"`` takes the a priori bound
    :math:`\gamma_{n+3} / (1 - \gamma_{n+3}) \operatorname{tr} B`, the trace of B and
    not of the matrix. That saves the product and holds for LAPACK implementations by
    substitution, in any blocking and order; not for those that invert diagonal blocks
    (GPU libraries), nor provably for closed ones.

    A refused factorisation leads to ``None``, and never to a jitter on the matrix.

    Args:
        matrix: from :func:`symmetric_matrix`.
        shift: in the unit of ``matrix.entries``, at most about n times its largest.
        form: how the error is bounded; ``None`` takes the a priori bound where SciPy's
            LAPACK is known to substitute and the bound is small beside ``shift``, and
            the residual elsewhere.

    Returns:
        The bound in the unit of ``matrix.entries``, or ``None``.

    Cost:
        n³/6 multiplications for the factor, and as many for the product where the
        residual is formed; memory n² numbers beside the matrix.

    Source:
        Rump (2006), BIT 46:433; Higham (2002), theorem 10.3.
    """
    return factorised(matrix, shift, form=form)[0]


def factorised(
    matrix: SymmetricMatrix, shift: float, *, form: Form | None = None
) -> tuple[Fraction | None, Float[np.ndarray, " n"] | None]:
    """:func:`lower_bound`, and if the factorisation was refused a vector that says why.

    Where elimination stops it leaves vectors whose Rayleigh quotient lies at or below
    ``shift``, but for rounding: the best, handed to :func:`upper_bound`, may prove it.

    Returns:
        ``(bound, None)`` or ``(None, vector of norm 1)``; ``(None, None)`` if neither
        came of it.
    """
    n = len(matrix.entries)
    diagonal = np.nextafter(np.diagonal(matrix.entries) - shift, -np.inf)
    if not (diagonal > 0).all():
        return None, np.eye(1, n, int(diagonal.argmin()))[0]
    factor, order = _eliminate(matrix.entries, diagonal, np.float64)
    if order != 0:
        return None, _witness(matrix, factor, order, shift)
    if not _is_factor(factor):
        return None, None
    trace = Fraction(math.fsum(diagonal)) * (1 + 2 * UNIT)  # fsum rounds once
    ratio = gamma(n + 3) / (1 - gamma(n + 3))
    error = ratio * trace + 3 * n * (2 * n + Fraction(diagonal.max())) * TINY
    error += underflow(n)
    if form is None:
        sharp = error <= abs(Fraction(shift)) * _SHARP
        form = "cholesky" if sharp and substitutes() else "residual"
    if form == "residual":
        # |RᵀR as computed - RᵀR| <= gamma(n) |Rᵀ||R|, whose norm is at most ‖R‖_F².
        error = gamma(n) * sum_of_squares([factor])
        residual = _residual(factor, matrix.entries, diagonal)
        if residual is None:
            return None, None
        error += (1 + UNIT) * residual + underflow(n)
    return Fraction(shift) - error - matrix.rounding, None


@functools.cache
def substitutes() -> bool:
    """Is SciPy's LAPACK one whose Cholesky factor comes from substitution?

    The reference one and OpenBLAS's do, in blocks of any size (their source is open);
    of others nothing is known here.
    """
    config: dict = scipy.show_config(mode="dicts") or {}
    name = config.get("Build Dependencies", {}).get("lapack", {}).get("name", "")
    return any(known in name.lower() for known in ("openblas", "netlib"))


def _witness(
    matrix: SymmetricMatrix, factor: np.ndarray, order: int, shift: float
) -> Float[np.ndarray, " n"] | None:
    """A vector of small Rayleigh quotient, from the rows before the refused one.

    The refused pivot alone often lies below zero by rounding only, for leading minors
    sink slowly. So ``_BEYOND`` rows from it on are eliminated together: for them the
    lowest eigenvector of what is left, in the norm it has on the whole.
    """
    if not 1 < order <= len(factor):
        return None
    k, n = order - 1, len(factor)
    if not (np.diagonal(factor)[:k] > 0).all():
        return None
    factor = _leading(factor, k)
    rows = slice(k, min(k + _BEYOND, n))
    beyond = np.zeros((len(factor), rows.stop - k), order="F")
    beyond[:k] = matrix.entries[:k, rows]
    beyond = dtrsm(1.0, factor, beyond, trans_a=1, overwrite_b=1)
    left = matrix.entries[rows, rows] - dgemm(1.0, beyond, beyond, trans_a=1)
    np.einsum("ii->i", left)[:] -= shift
    beyond = dtrsm(-1.0, factor, beyond, overwrite_b=1)
    norms = dgemm(1.0, beyond, beyond, trans_a=1) + np.eye(rows.stop - k)
    if not (np.isfinite(left).all() and np.isfinite(norms).all()):
        return None
    try:
        lowest = scipy.linalg.eigh(left, norms, subset_by_index=[0, 0])[1][:, 0]
    except np.linalg.LinAlgError:
        return None
    vector = np.zeros(n)
    vector[:k] = np.einsum("ij,j", beyond[:k], lowest)
    vector[rows] = lowest
    size = np.linalg.norm(vector)
    return vector / size if math.isfinite(size) and size > 0 else None


def _leading(factor: np.ndarray, k: int) -> np.ndarray:
    """An upper triangle to solve with whose leading part is that of the factor.

    LAPACK's order of columns has no views of it: a small part is copied, and after a
    large one the rest is made the identity.
    """
    n = len(factor)
    if 2 * k <= n:
        return np.asfortranarray(factor[:k, :k])
    factor[:, k:] = 0.0
    np.einsum("ii->i", factor)[k:] = 1.0
    return factor


def cholesky(
    entries: Float[np.ndarray, "n n"],
    diagonal: Float[np.ndarray, " n"],
    dtype: type = np.float64,
) -> np.ndarray | None:
    """Upper Cholesky factor of a matrix with another diagonal; ``None`` if refused.

    Args:
        entries: symmetric; the diagonal does not matter.
        diagonal: what stands there instead.
        dtype: of the factor and the arithmetic.

    Returns:
        R, ``(n, n)``, in LAPACK's order of columns, zero below the diagonal.
    """
    factor, order = _eliminate(entries, diagonal, dtype)
    return factor if order == 0 and _is_factor(factor) else None


def _eliminate(
    entries: Float[np.ndarray, "n n"], diagonal: Float[np.ndarray, " n"], dtype: type
) -> tuple[np.ndarray, int]:
    """What LAPACK leaves, and the order of the minor it refused; 0 for none."""
    shifted = np.array(entries, dtype=dtype, order="C")
    np.fill_diagonal(shifted, diagonal)
    # The transpose of a C-ordered array is what LAPACK calls its own; it is symmetric.
    (potrf,) = get_lapack_funcs(("potrf",), (shifted,))
    return potrf(shifted.T, lower=0, clean=1, overwrite_a=1)


def _is_factor(factor: np.ndarray) -> bool:
    """LAPACK has been seen to report success on NaN: what came back is looked at."""
    finite = np.isfinite((factor.min(), factor.max())).all()
    return bool(finite and (np.diagonal(factor) > 0).all())


def _residual(
    factor: np.ndarray,
    entries: Float[np.ndarray, "n n"],
    diagonal: Float[np.ndarray, " n"],
) -> Fraction | None:
    """Bound on the Frobenius norm of RᵀR less the matrix; the factor is overwritten.

    With both axes turned round R becomes a lower triangle L, and LAPACK forms LᵀL, a
    third of a full product: it is RᵀR turned round.
    """
    _turn_round(factor.ravel(order="K"))
    (lauum,) = get_lapack_funcs(("lauum",), (factor,))
    product = lauum(factor, lower=1, overwrite_c=1)[0].T  # rows run along memory again
    try:
        beside = sum_of_squares(_above(product, entries[::-1, ::-1]))
        on = sum_of_squares([np.diagonal(product) - diagonal[::-1]])
    except NonFiniteError:
        return None
    return root(2 * beside + on)


def _above(left: np.ndarray, right: np.ndarray) -> Iterator[np.ndarray]:
    """The difference of two matrices above the diagonal, in pieces for the cache."""
    n = len(left)
    for start in range(0, n, _BAND):
        rows = slice(start, min(start + _BAND, n))
        corner = left[rows, rows] - right[rows, rows]
        np.copyto(corner, 0.0, where=np.tri(len(corner), dtype=bool))
        yield corner
        for first in range(rows.stop, n, _ACROSS):
            columns = slice(first, min(first + _ACROSS, n))
            yield left[rows, columns] - right[rows, columns]


def _turn_round(flat: np.ndarray) -> None:
    """Reverse an array in place, a piece at a time."""
    half = len(flat) // 2
    for start in range(0, half, _PIECE):
        stop = min(start + _PIECE, half)
        left, right = flat[start:stop], flat[len(flat) - stop : len(flat) - start]
        kept = left.copy()
        left[:] = right[::-1]
        right[:] = kept[::-1]


def upper_bound(matrix: SymmetricMatrix, vector: Float[np.ndarray, " n"]) -> Fraction:
    """A proven upper bound for the smallest eigenvalue: a Rayleigh quotient rounded up.

    Any vector gives a true bound, an eigenvector the sharpest one. The plain quotient
    in floating point lies below the exact one about every other time.

    Args:
        matrix: from :func:`symmetric_matrix`.
        vector: of norm about 1.

    Returns:
        The bound in the unit of ``matrix.entries``.

    Raises:
        ValueError: the norm of ``vector`` is not within [1/2, 2].
    """
    n = len(vector)
    square = float(vector @ vector)
    if not 0.25 <= square <= 4.0:
        raise ValueError(
            f"vector needs a norm within [1/2, 2], got {math.sqrt(square)}. Divide it "
            "by its norm first."
        )
    numerator = quadratic_form(matrix, vector)[1]
    exact_square = Fraction(square)
    if numerator >= 0:
        denominator = (exact_square - underflow(n)) / (1 + gamma(n))
    else:
        denominator = (exact_square + underflow(n)) / (1 - gamma(n))
    return numerator / denominator + matrix.rounding


def quadratic_form(
    matrix: SymmetricMatrix, vector: Float[np.ndarray, " n"]
) -> tuple[Fraction, Fraction]:
    """Bounds for ``vᵀAv`` with A the stored entries; ``matrix.rounding`` is not in."""
    n = len(vector)
    quadratic = Fraction(float(vector @ matrix.times(vector)))
    size = np.abs(vector)
    # |v|ᵀ|A||v| bounds the roundings of vᵀ(Av), both products together.
    bands = (slice(k, k + _BAND) for k in range(0, n, _BAND))
    sizes = [np.einsum("ij,j", np.abs(matrix.entries[k]), size) for k in bands]
    absolute = Fraction(float(size @ np.concatenate(sizes)))
    ratio = gamma(2 * n) / (1 - gamma(2 * n))
    error = ratio * (absolute + underflow(n)) + underflow(n)
    return quadratic - error, quadratic + error
