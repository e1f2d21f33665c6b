"""Density of a spectrum by stochastic Lanczos quadrature.

Floor 2: imports ``errors``, ``seeds``, ``lanczos`` and ``symmetric``. Only products
``v -> A v`` are taken, so a kernel whose Gram matrix cannot be formed has a density.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import scipy.linalg
import scipy.special
import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from ntk_fed.errors import NonFiniteError, NotSymmetricError, ShapeMismatchError
from ntk_fed.seeds import generator
from ntk_fed.spectrum.lanczos import Vector, lanczos, ritz
from ntk_fed.spectrum.symmetric import symmetric_matrix

ROUNDINGS = 32  # allowed for one product, in units of sqrt(n) eps |A v|
CONFIDENCE = 0.95  # of every error bar, over the random probes

Function = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Density:
    """Nodes and weights of one quadrature of the spectrum for each random probe.

    Every error is a half-width: Student's t at 95 % over the random probes, 0 where all
    agree. Where a single eigenvalue decides (a moment under an outlier, a bin of one)
    the estimates are skewed, and 16 probes hold the truth in 87 % of cases instead.
    What the finite number of Lanczos steps leaves out is NOT in it, and is alike in
    every probe: eigenvalues closer than the nodes are not told apart. Only polynomials
    of degree up to 2 m - 1 are free of it at m steps, and everything else once the
    steps reach the number of distinct eigenvalues.

    Attributes:
        nodes: Ritz values of each probe, ascending, ``(m,)``, in the unit of the
            matrix; fewer than ``steps`` where the Krylov space was exhausted.
        weights: of the same shapes, at least 0, summing to 1 for each probe.
        points: edges that :meth:`histogram` makes where none are given.
    """

    nodes: tuple[Float[np.ndarray, " _"], ...]
    weights: tuple[Float[np.ndarray, " _"], ...]
    points: int

    def cumulative(self, x: float | int) -> tuple[float, float]:
        """Fraction of the eigenvalues that are at most ``x``, and its error.

        Nodes carry rounding: an ``x`` on top of an eigenvalue may count it or not.

        Raises:
            ValueError: ``x`` is not a number.
        """
        if math.isnan(x):
            raise ValueError("x must be a number, got NaN.")
        return self._mean(lambda nodes: nodes <= x)

    def histogram(
        self, edges: Float[np.ndarray, " b"] | None = None
    ) -> tuple[Float[np.ndarray, " bins"], Float[np.ndarray, " bins"]]:
        """Fraction of the eigenvalues in each bin, and the error of each.

        Args:
            edges: ascending, ``(b,)``, in the unit of the matrix; a bin holds its upper
                edge, and the first its lower one too. ``points`` equally spaced from
                the least node to the greatest where left out.

        Raises:
            ValueError: fewer than two edges, or not ascending.
        """
        if edges is None:
            low, high = (f([f(n) for n in self.nodes]) for f in (np.min, np.max))
            edges = np.linspace(float(low), float(high), self.points)
        given = np.asarray(edges)
        if len(given) < 2 or not (np.diff(given) >= 0).all():
            raise ValueError(f"edges must be two or more, ascending, got {given!r}.")
        lower = [np.nextafter(given[0], -np.inf), *given[1:-1]]
        pairs = zip(lower, given[1:], strict=True)
        bins = [self._mean(lambda n, a=a, b=b: (n > a) & (n <= b)) for a, b in pairs]
        mass, half_width = np.array(bins).T
        return mass, half_width

    def moment(self, k: int) -> tuple[float, float]:
        """Mean of ``λ**k`` over the eigenvalues, and its error, in the unit's power k.

        Raises:
            ValueError: ``k`` is below 0.
            NonFiniteError: a power leaves the range of float64.
        """
        if k < 0:
            raise ValueError(f"k must be at least 0, got {k}.")
        with np.errstate(over="ignore", invalid="ignore"):
            found = self._mean(lambda nodes: nodes**k)
        if not all(map(math.isfinite, found)):
            raise NonFiniteError(f"moment {k} lies outside the range of float64.")
        return found

    def _mean(self, function: Function) -> tuple[float, float]:
        """Mean over the probes of what the quadrature makes of a function."""
        pairs = zip(self.nodes, self.weights, strict=True)
        found = np.array([float(w @ function(nodes)) for nodes, w in pairs])
        quantile = scipy.special.stdtrit(len(found) - 1, (1 + CONFIDENCE) / 2)
        error = quantile * found.std(ddof=1) / math.sqrt(len(found))
        return float(found.mean()), float(error)


def density(
    gram_or_operator: Tensor | LinearOperator,
    *,
    probes: int = 16,
    steps: int = 80,
    seed: int = 0,
    points: int = 50,
) -> Density:
    r"""Where the eigenvalues of a symmetric matrix lie, from random probes.

    For a probe z of random signs, m Lanczos steps from :math:`z / \sqrt n` give the
    Gauss quadrature of :math:`z^\top f(A) z / n`, whose mean over z is
    :math:`\mathrm{tr} f(A) / n`: nodes are the Ritz values, weights the squared first
    components of their vectors.

    Args:
        gram_or_operator: symmetric tensor ``(n, n)``, float32 or float64, or a SciPy
            ``LinearOperator``, whose symmetry is tested on two random vectors.
        probes: at least 2; errors fall as one over the square root.
        steps: Lanczos steps for each, at least 1; resolution grows with them.
        seed: of the probes.
        points: edges of the default histogram, at least 2.

    Raises:
        ValueError: dtype, size or an option is unfit.
        ShapeMismatchError: not square.
        NonFiniteError: NaN or infinity in the matrix or in a product.
        NotSymmetricError: it differs from its transpose by more than rounding.

    Cost:
        ``probes * steps`` products and ``4 probes * steps²`` n multiplications; memory
        ``steps`` vectors.

    Source:
        Ubaru, Chen, Saad (2017), SIAM J. Matrix Anal. Appl. 38, section 3, and Lin,
        Saad, Yang (2016), SIAM Review 58, arXiv:1308.5467. Student's t is ours.
    """
    if probes < 2 or steps < 1 or points < 2:
        given = f"{probes}, {steps} and {points}"
        raise ValueError(f"needed: 2 probes, 1 step, 2 points or more; got {given}.")
    exponent = 0
    if isinstance(gram_or_operator, Tensor):
        matrix = symmetric_matrix(gram_or_operator)
        n, exponent = len(matrix.entries), matrix.exponent
        product: Function = matrix.times
    else:
        product = Products(gram_or_operator, None)
        product.refuse_asymmetry(seed)
        n = product.n
    nodes, weights = [], []
    for probe in range(probes):
        random = generator(seed, "density probes", probe)
        signs = 2 * torch.randint(2, (n,), generator=random).double() - 1
        *_, (on, beside, _) = lanczos(product, signs.numpy() / math.sqrt(n), steps)
        values, vectors = ritz(on, beside)
        nodes.append(np.ldexp(values, exponent))
        weights.append(vectors[0] ** 2)
    return Density(tuple(nodes), tuple(weights), points)


class Products:
    """``v -> A v`` in float64 for ``n`` rows, every result checked.

    ``rounding`` is the error of a product allowed for, relative to its norm: ROUNDINGS
    times ``sqrt(n) * eps`` of the coarsest dtype met. It is not a proven bound.
    """

    def __init__(self, operator: LinearOperator | Function, n: int | None) -> None:
        self.n, self.rounding = _rows(operator, n), 0.0
        self._apply: Function = operator
        if isinstance(operator, LinearOperator):
            self._apply = operator.matvec
            self._meet(np.dtype(operator.dtype))

    def __call__(self, vector: Vector) -> Vector:
        """The product, ``(n,)``; refuses another shape or dtype, NaN and infinity."""
        product = np.asarray(self._apply(vector.copy()))
        if product.shape not in ((self.n,), (self.n, 1)):
            raise ShapeMismatchError(
                f"operator must turn ({self.n},) into ({self.n},), got {product.shape}."
            )
        self._meet(product.dtype)
        if bad := int((~np.isfinite(product)).sum()):
            raise NonFiniteError(
                f"operator gave {bad} non-finite entries of {product.size}. "
                "Look upstream: overflow in the forward pass is the usual cause."
            )
        return product.reshape(-1).astype(np.float64)

    def _meet(self, dtype: np.dtype) -> None:
        if dtype not in (np.float32, np.float64):
            raise ValueError(f"operator must be float64 (or float32), got {dtype}.")
        eps = float(np.finfo(dtype).eps)
        self.rounding = max(self.rounding, ROUNDINGS * math.sqrt(self.n) * eps)

    def refuse_asymmetry(self, seed: int) -> None:
        """Compare ``<v, A u>`` with ``<u, A v>`` for random unit vectors: two products.

        The difference is of the size of ``|A - Aᵀ|_F / n``: gross asymmetry is seen,
        that of a few entries among many may not be.

        Raises:
            NotSymmetricError: they differ by more than rounding.
        """
        u, v = (unit_vector(self.n, seed, f"symmetry {name}") for name in "uv")
        left, right = self(u), self(v)
        size = float(scipy.linalg.norm(left) + scipy.linalg.norm(right))
        difference = abs(float(v @ left) - float(u @ right))
        if difference > self.rounding * size:
            raise NotSymmetricError(
                f"operator is not symmetric: <v, A u> and <u, A v> differ by "
                f"{difference / size:.3e} of the norms of the products; rounding "
                f"explains {self.rounding:.3e}. Was a cross-kernel of two sets passed?"
            )


def _rows(operator: object, n: int | None) -> int:
    """Rows; refuses what is not square or has none."""
    if isinstance(operator, LinearOperator):
        rows, columns = operator.shape
        if rows != columns or n not in (None, rows):
            raise ShapeMismatchError(
                f"operator must be square (n, n), got shape {operator.shape}, n = {n}."
            )
    elif not callable(operator):
        kind = type(operator).__name__
        raise ValueError(f"operator must be a LinearOperator, got {kind}.")
    elif n is None:
        raise ValueError("a function does not know its size: pass n as well.")
    else:
        rows = n
    if rows < 1:
        raise ValueError("operator has no rows; an empty matrix has no eigenvalue.")
    return int(rows)


def unit_vector(n: int, seed: int, purpose: str) -> Vector:
    """A random vector, uniform on the unit sphere, ``(n,)`` float64."""
    draw = torch.randn(n, generator=generator(seed, purpose), dtype=torch.float64)
    return (draw / torch.linalg.vector_norm(draw)).numpy()
