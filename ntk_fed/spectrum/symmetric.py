"""A symmetric matrix, checked once, in the form the certificates work on.

Floor 2: imports ``errors`` and ``rounding``. Checks run over square pieces that fit the
cache, a piece and its mirror image together, so that a matrix of gigabytes is read once
and nothing of its size is made.
"""

import dataclasses
import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Float
from scipy.linalg import get_blas_funcs
from torch import Tensor

from ntk_fed.errors import NonFiniteError, NotSymmetricError, ShapeMismatchError
from ntk_fed.spectrum.rounding import SAFE_EXPONENT, TINY, UNIT, frobenius_norm

(dgemv,) = get_blas_funcs(("gemv",), dtype=np.float64)

_PIECE = 192  # rows and columns looked at together: 288 KiB, and as much mirrored


@dataclasses.dataclass(frozen=True)
class SymmetricMatrix:
    """A bitwise symmetric float64 matrix, and how it relates to the one handed in.

    Attributes:
        entries: the matrix, ``(n, n)``; that handed in is ``entries * 2**exponent``
            up to ``rounding``. Never changed.
        exponent: power of two taken out; 0 for entries of ordinary size.
        rounding: bound on the spectral norm of what scaling and symmetrising rounded
            away, in the unit of ``entries``.
        note: what a reader of the result must know; empty for a symmetric matrix.
        largest: the largest magnitude of an entry.
        is_diagonal: is every entry off the diagonal an exact zero?
    """

    entries: Float[np.ndarray, "n n"]
    exponent: int
    rounding: Fraction
    note: str
    largest: float
    is_diagonal: bool

    @property
    def unit(self) -> Fraction:
        """One unit of ``entries`` in the unit of the matrix handed in."""
        return Fraction(2) ** self.exponent

    def times(self, vector: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """The product with a vector, by the library that factorises too.

        NumPy brings a second one, whose waiting threads would hold up those of SciPy.
        """
        return dgemv(1.0, self.entries.T, vector, trans=1)

    def negated(self) -> "SymmetricMatrix":
        """The matrix times -1, which rounds nothing."""
        return dataclasses.replace(self, entries=-self.entries)

    def apart(self) -> list["SymmetricMatrix"]:
        """Blocks that exact zeros set apart, whose eigenvalues are those of the whole.

        Kernels of networks whose outputs share nothing fall apart so, in any order of
        rows. Blocks of one row stay with each other, as one diagonal block.
        """
        # A row without a zero holds everything together; most kernels have that.
        if self.is_diagonal or self.entries[0].all():
            return [self]
        n = len(self.entries)
        if 2 * np.count_nonzero(self.entries) > n * n:
            return [self]
        graph = scipy.sparse.csr_array(self.entries != 0.0)
        count, label = scipy.sparse.csgraph.connected_components(graph, directed=False)
        if count == 1:
            return [self]
        alone = np.bincount(label)[label] == 1
        groups = [np.flatnonzero(alone)] if alone.any() else []
        groups += [np.flatnonzero(label == k) for k in np.unique(label[~alone])]
        parts = []
        for k, rows in enumerate(groups):
            entries = np.ascontiguousarray(self.entries[np.ix_(rows, rows)])
            diagonal = k == 0 and bool(alone.any())
            largest = float(np.abs(entries).max())
            parts.append(
                dataclasses.replace(
                    self, entries=entries, largest=largest, is_diagonal=diagonal
                )
            )
        return parts


def symmetric_matrix(gram: Tensor) -> SymmetricMatrix:
    """Check a matrix and bring it into the form the certificates work on.

    An asymmetry up to ``n * eps * max|gram|``, ``eps`` that of the dtype handed in, is
    what a product of matrices leaves; every statement is then about the symmetric part
    ``(gram + gram.mT) / 2``, and the note says so.

    Args:
        gram: ``(n, n)``, float32 or float64, on any device. float32 converts exactly.

    Raises:
        ValueError: the dtype is another one, or the matrix is empty.
        ShapeMismatchError: ``gram`` is not a square matrix.
        NonFiniteError: ``gram`` holds NaN or infinity.
        NotSymmetricError: the asymmetry is larger than that.
    """
    _check(gram)
    n = gram.shape[0]
    matrix = gram.detach().cpu().double().numpy()
    found = _look(matrix)
    if not found.finite:
        bad = int((~np.isfinite(matrix)).sum())
        raise NonFiniteError(
            f"gram has {bad} non-finite entries of {gram.numel()}. "
            "Look upstream: overflow in the forward pass is the usual cause."
        )
    largest, asymmetry = found.largest, found.asymmetry
    exponent = math.frexp(largest)[1]
    if abs(exponent) <= SAFE_EXPONENT or found.is_diagonal:
        exponent = 0
    rounding = Fraction(0)
    if exponent:
        matrix, largest = np.ldexp(matrix, -exponent), math.ldexp(largest, -exponent)
        # Only entries that fall below the normal range are rounded, by TINY / 2 each.
        rounding += n * TINY if exponent > 0 else 0
        asymmetry = _look(matrix).asymmetry
    allowed = n * torch.finfo(gram.dtype).eps * largest
    if asymmetry > allowed:
        raise NotSymmetricError(
            f"gram differs from its transpose by {asymmetry / largest:.3e} of its "
            f"largest entry; rounding explains {allowed / largest:.3e}. Was a "
            "cross-Gram of two sets or an asymmetric kernel passed? If not, pass "
            "(gram + gram.mT) / 2."
        )
    note = ""
    if asymmetry > 0.0:
        matrix = (matrix + matrix.T) / 2
        # The sum rounds by u relatively, the half only below the normal range.
        rounding += UNIT * frobenius_norm(matrix) + n * TINY
        note = (
            f"gram differs from its transpose by up to {asymmetry / largest:.1e} of "
            "its largest entry; the statement is about the symmetric part "
            "(gram + gram.mT) / 2"
        )
    return SymmetricMatrix(matrix, exponent, rounding, note, largest, found.is_diagonal)


@dataclasses.dataclass(frozen=True)
class _Look:
    """What one reading of a matrix shows.

    Attributes:
        finite: no entry is NaN or infinite.
        largest: magnitude of an entry.
        asymmetry: largest difference of an entry and its mirror image.
        is_diagonal: nothing but zeros off the diagonal.
    """

    finite: bool
    largest: float
    asymmetry: float
    is_diagonal: bool


def _look(values: Float[np.ndarray, "n n"]) -> _Look:
    """One thread of NumPy: it keeps up with memory, and wakes no pool of threads."""
    largest = asymmetry = beside = 0.0
    for piece, mirrored, on_diagonal in _pieces(values):
        size, differ = _size(piece), 0.0
        if not (piece == mirrored.T).all():  # NaN differs from itself
            size = float(np.maximum(size, _size(mirrored)))
            differ = _size(piece - mirrored.T) if math.isfinite(size) else math.nan
        if not math.isfinite(size):
            return _Look(False, math.nan, math.nan, False)
        largest, asymmetry = max(largest, size), max(asymmetry, differ)
        if not on_diagonal:
            beside = max(beside, size)
        elif beside == 0.0:
            beside = float(np.count_nonzero(piece) - np.count_nonzero(piece.diagonal()))
    return _Look(True, largest, asymmetry, beside == 0.0)


def _size(piece: np.ndarray) -> float:
    """The largest magnitude; NaN if there is one."""
    return float(np.maximum(piece.max(), -piece.min()))


def _pieces(
    values: Float[np.ndarray, "n n"],
) -> Iterator[tuple[np.ndarray, np.ndarray, bool]]:
    """Square pieces on and above the diagonal, each with its mirror image."""
    starts = range(0, len(values), _PIECE)
    for i in starts:
        for j in starts[i // _PIECE :]:
            rows, columns = slice(i, i + _PIECE), slice(j, j + _PIECE)
            yield values[rows, columns], values[columns, rows], i == j


def _check(gram: Tensor) -> None:
    """Refuse what is no square matrix of float32 or float64 numbers."""
    if not isinstance(gram, Tensor) or gram.layout != torch.strided or gram.is_meta:
        kind = f"{gram.layout}" if isinstance(gram, Tensor) else type(gram).__name__
        raise ValueError(
            f"gram must be a dense torch tensor, got {kind}. Convert it with "
            "torch.as_tensor or .to_dense()."
        )
    if gram.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"gram must be float64 (or float32, which converts exactly), got "
            f"{gram.dtype}. Convert it with gram.double() if that is what is meant."
        )
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1]:
        raise ShapeMismatchError(
            f"gram must be a square matrix (n, n), got shape {tuple(gram.shape)}. "
            'A kernel with outputs="full" becomes one by gram_matrix.'
        )
    if gram.shape[0] == 0:
        raise ValueError("gram has no rows; an empty matrix has no eigenvalue.")
    if not np.ldexp(1.0, -1074) * np.ones(1) > 0:
        raise ValueError(
            "the processor takes subnormal numbers for zero at the moment, and what it "
            "does not see nothing can be proven of. Call "
            "torch.set_flush_denormal(False) first."
        )
