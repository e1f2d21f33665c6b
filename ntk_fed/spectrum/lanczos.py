"""The Lanczos process, with every vector kept orthogonal to all before it.

Floor 2. One engine for the search of an end, for densities and for operators: they
differ in the product and in what they read off the tridiagonal matrix.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float
from scipy.linalg import get_blas_funcs, get_lapack_funcs

from ntk_fed.errors import NonFiniteError

dgemv, dnrm2 = get_blas_funcs(("gemv", "nrm2"), dtype=np.float64)
(dstev,) = get_lapack_funcs(("stev",), dtype=np.float64)

_NOTHING = 2.0**-50  # a residual of this relative size is rounding alone

Vector = Float[np.ndarray, " n"]


def lanczos(
    product: Callable[[Vector], Vector], start: Vector, steps: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Lanczos with full reorthogonalisation, one step for each item taken.

    Args:
        product: ``v -> A v``, A symmetric.
        start: of norm 1, ``(n,)``.
        steps: at most these; n are enough.

    Yields:
        After step k: the diagonal ``(k,)`` and subdiagonal ``(k,)`` of the tridiagonal
        matrix, and the basis ``(k, n)``. The last entry of the subdiagonal leads out of
        the space; it is an exact 0 when k = n. The arrays are views, to be left alone.

    Raises:
        NonFiniteError: a norm leaves the range of float64.

    Cost:
        k products and 2 k² n multiplications; memory ``steps`` vectors.
    """
    n, steps = len(start), min(steps, len(start))
    basis = np.empty((steps, n))
    on, beside, size = np.zeros(steps), np.zeros(steps), 0.0
    vector = start
    for k in range(1, steps + 1):
        basis[k - 1] = vector
        vector = product(vector)
        # BLAS scales this norm: squares of small entries do not vanish from it.
        size = max(size, float(dnrm2(vector)))
        if not math.isfinite(size):
            raise NonFiniteError(
                "a product's norm lies outside float64. Scale the operator down first."
            )
        on[k - 1] = basis[k - 1] @ vector
        known = basis[:k].T  # in SciPy's order: nothing is copied
        for _ in range(2):  # once leaves rounding of the size of the largest part
            vector = dgemv(-1.0, known, dgemv(1.0, known, vector, trans=1), 1.0, vector)
        beside[k - 1] = dnrm2(vector) if k < n else 0.0
        yield on[:k], beside[:k], basis[:k]
        if beside[k - 1] <= _NOTHING * size:
            return
        vector = vector / beside[k - 1]


def combined(
    basis: Float[np.ndarray, "k n"], weights: Float[np.ndarray, " j"]
) -> Vector:
    """``basis.T @ weights``, by the library of the other products.

    Args:
        basis: ``(k, n)``, of which the first rows are taken.
        weights: ``(j,)``, j at most k.
    """
    return dgemv(1.0, basis[: len(weights)].T, weights)


def ritz(on: Vector, beside: Vector) -> tuple[Vector, np.ndarray]:
    """Eigenvalues, ascending, and eigenvectors of what :func:`lanczos` has found.

    Args:
        on: diagonal, ``(k,)``, as yielded.
        beside: subdiagonal, ``(k,)``, as yielded.

    Returns:
        ``(k,)`` and, in columns, ``(k, k)``.

    Raises:
        NonFiniteError: LAPACK could not find them.
    """
    values, vectors, failed = dstev(on, beside[: max(len(on) - 1, 1)])
    if failed:
        raise NonFiniteError("a tridiagonal matrix of Lanczos has no finite spectrum.")
    return values, vectors
