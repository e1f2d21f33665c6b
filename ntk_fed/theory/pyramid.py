r"""One wide layer and a pyramid after it: its numbers at the start, and its region.

Floor 6: numbers in, numbers out.

.. math:: F_0 = X,\qquad F_l = \sigma(F_{l-1} W_l),\qquad F_L = F_{L-1} W_L

with :math:`L \ge 3`, no biases, :math:`W_l` of shape :math:`(n_{l-1}, n_l)`;
:math:`\sigma' \in [\gamma, 1]`, :math:`|\sigma(x)| \le |x|`, and :math:`\sigma'` is
β-Lipschitz. The region is a product of balls in the Frobenius norm around the start.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from ntk_fed.errors import ShapeMismatchError

_EPS = float(np.finfo(float).eps)


@dataclasses.dataclass(frozen=True)
class Start:
    """The numbers at the start of training that Nguyen and Mondelli's theorem needs.

    Attributes:
        smallest: ``λ_l``, the smallest of the ``n_l`` singular values of each ``W_l``.
        largest: ``‖W_l‖₂``.
        features: ``λ_F``, the smallest of the n singular values of ``F_1 = σ(X W_1)``.
        x_norm: ``‖X‖₂``.
        x_frobenius: ``‖X‖_F``.
        residual: ``‖F_L − Y‖_F = √(2Φ₀)``.
        gamma: smallest slope of the activation.
        error: relative error of the least accurate of these; from 1 on nothing is
            known.
    """

    smallest: tuple[float, ...]
    largest: tuple[float, ...]
    features: float
    x_norm: float
    x_frobenius: float
    residual: float
    gamma: float
    error: float = 0.0

    def __post_init__(self) -> None:
        """Refuse fewer than three layers, and a slope out of range."""
        if not len(self.smallest) == len(self.largest) >= 3:
            raise ValueError(
                "smallest and largest need one number for each of at least 3 layers, "
                f"got {len(self.smallest)} and {len(self.largest)}. The theorem says "
                "nothing about fewer layers."
            )
        if not 0 < self.gamma <= 1:
            raise ValueError(
                f"gamma must be in (0, 1], got {self.gamma}. It is the smallest slope "
                "of the activation; a ReLU has none."
            )

    @property
    def bars(self) -> tuple[float, ...]:
        """``λ̄_l``: ``(2/3)(1 + ‖W_l‖)`` for l = 1, 2 and ``‖W_l‖`` after."""
        wide = tuple(2 / 3 * (1 + norm) for norm in self.largest[:2])
        return wide + self.largest[2:]

    @property
    def radii(self) -> tuple[float, ...]:
        """``R_l``: the region is ``‖W_l − W_l⁰‖_F ≤ R_l`` for all l.

        ``min(1, λ_F / (2 ‖X‖₂))``, 1, and ``λ_l / 2`` from the third layer on.
        """
        first = min(1.0, divided(self.features, 2 * self.x_norm))
        return (first, 1.0, *(value / 2 for value in self.smallest[2:]))


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Upper bounds that hold everywhere in the region, in sum form.

    Attributes:
        jacobian: of ``‖∂F_L/∂θ‖₂``.
        residual: of ``‖F_L − Y‖_F``.
        smoothness: of ``‖∇²Φ‖₂``, ``Φ = ½ ‖F_L − Y‖_F²``.
    """

    jacobian: float
    residual: float
    smoothness: float


def constants_of(
    weights: Sequence[Float[np.ndarray, "_ _"]],
    x: Float[np.ndarray, "n d"],
    features: Float[np.ndarray, "n m"],
    residual: Float[np.ndarray, "n o"],
    *,
    gamma: float,
    eps: float = _EPS,
) -> Start:
    """The numbers of a network and its data.

    Args:
        weights: ``W_1 … W_L``, each ``(n_{l−1}, n_l)``: torch's, transposed.
        x: inputs.
        features: ``F_1 = σ(X W_1)``.
        residual: ``F_L − Y``.
        gamma: smallest slope of the activation.
        eps: of the dtype they were computed in.

    Returns:
        The numbers, in float64. A matrix with too few rows (``W_l``) or columns
        (``F_1``) has the smallest singular value 0.

    Raises:
        ShapeMismatchError: the weights are no chain from ``x`` to ``residual``.
        ValueError: fewer than three layers, or ``gamma`` out of range.

    Cost:
        One singular value decomposition of each matrix.
    """
    sizes = [x.shape[1], *(w.shape[1] for w in weights)]
    ends = [features.shape[1], residual.shape[1]]
    inward = [w.shape[0] for w in weights]
    if not weights or inward != sizes[:-1] or ends != [sizes[1], sizes[-1]]:
        raise ShapeMismatchError(
            f"weights {[w.shape for w in weights]} must lead from x {x.shape} by "
            f"features {features.shape} to residual {residual.shape}. W_l is "
            "(n_{l−1}, n_l), the transpose of torch's weight."
        )
    found = [_extremes(w, w.shape[1]) for w in weights]
    narrowest = _extremes(features, len(x))[0]
    frobenius, rest = float(np.linalg.norm(x)), float(np.linalg.norm(residual))
    # A backward stable decomposition moves singular values by max(shape) · eps · ‖A‖
    # at most; a product of matrices adds its inner size times eps and their norms.
    errors = [
        max(w.shape) * divided(high, low)
        for w, (low, high) in zip(weights[2:], found[2:], strict=True)
        if w.shape[0] >= w.shape[1]
    ]
    norms = [float(np.linalg.norm(w)) for w in weights]
    if features.shape[1] >= len(x):
        steps = sizes[0] + max(features.shape)
        errors.append(steps * divided(frobenius * norms[0], narrowest))
    steps = sum(sizes) + residual.size
    errors.append(steps * (1 + divided(frobenius * math.prod(norms), rest)))
    return Start(
        tuple(low for low, _ in found),
        tuple(high for _, high in found),
        narrowest,
        _extremes(x, 1)[1],
        frobenius,
        rest,
        gamma,
        eps * max(errors),
    )


def displacements(
    weights: Sequence[Float[np.ndarray, "_ _"]],
    start: Sequence[Float[np.ndarray, "_ _"]],
) -> tuple[float, ...]:
    """``‖W_l − W_l⁰‖_F`` of each layer."""
    pairs = zip(weights, start, strict=True)
    return tuple(float(np.linalg.norm(now - then)) for now, then in pairs)


def furthest(moved: Sequence[float], radii: Sequence[float]) -> float:
    """Largest displacement over its radius; inside the region it is at most 1."""
    return max(divided(own, most) for own, most in zip(moved, radii, strict=True))


def region_bounds(
    largest: Sequence[float],
    radii: Sequence[float],
    *,
    x_norm: float,
    x_frobenius: float,
    residual: float,
    beta: float,
) -> Bounds:
    r"""Bounds on the region from norms alone (derived).

    Let :math:`\rho_l = \|W_l^0\|_2 + R_l \ge \|W_l\|_2` and let V be a direction with
    :math:`v_l = \|V_l\|_F`, :math:`\sum v_l^2 = 1`. Write :math:`G_l = F_{l-1} W_l`,
    and dots for derivatives along V.

    1. :math:`\|F_l\|_F \le \|X\|_F \prod_{j\le l} \rho_j` since
       :math:`|\sigma(x)| \le |x|`.
    2. :math:`\dot G_l = \dot F_{l-1} W_l + F_{l-1} V_l` and
       :math:`|\sigma'| \le 1` give :math:`\|\dot F_l\|_F \le \|\dot G_l\|_F \le
       \rho_l \|\dot F_{l-1}\|_F + a_l v_l`, with :math:`a_1 = \|X\|_2` and
       :math:`a_l = \|F_{l-1}\|_F` after. So :math:`\|\dot G_l\|_F \le c_l \cdot v`,
       :math:`c_l = \rho_l c_{l-1} + a_l e_l`, and :math:`J = |c_L|`.
    3. :math:`\ddot G_l = \ddot F_{l-1} W_l + 2 \dot F_{l-1} V_l` and
       :math:`\ddot F_l = \sigma''(G_l)\,\dot G_l^2 + \sigma'(G_l)\,\ddot G_l` entry by
       entry. :math:`|\sigma''| \le \beta`, and squares of entries have a Frobenius norm
       of at most :math:`\|\dot G_l\|_F^2`. So :math:`\|\ddot G_l\|_F \le v^\top B_l v`
       with :math:`B_l = \rho_l (B_{l-1} + \beta c_{l-1} c_{l-1}^\top) +
       c_{l-1} e_l^\top + e_l c_{l-1}^\top`.
    4. One layer after the other is moved: :math:`\|F_L - Y\|_F \le r =
       \|F_L^0 - Y\|_F + c_L \cdot R`.
    5. :math:`\ddot\Phi = \|\dot F_L\|_F^2 + \langle F_L - Y, \ddot F_L\rangle`, so
       :math:`\|\nabla^2 \Phi\|_2 \le \lambda_{\max}(c_L c_L^\top + r B_L)`.

    Rounding, a few dozen eps, is not added. For one client's mean loss take the norms
    of its samples, and divide the smoothness by their number.

    Args:
        largest: ``‖W_l⁰‖₂``.
        radii: ``R_l``.
        x_norm: ``‖X‖₂`` of the samples in question.
        x_frobenius: ``‖X‖_F``.
        residual: ``‖F_L − Y‖_F`` at the start.
        beta: Lipschitz constant of ``σ'``.
    """
    depth = len(largest)
    slope, bend = np.zeros(depth), np.zeros((depth, depth))
    inputs, reach = x_norm, x_frobenius
    for index, (norm, radius) in enumerate(zip(largest, radii, strict=True)):
        rho, own = norm + radius, np.eye(depth)[index]
        bend = rho * (bend + beta * np.outer(slope, slope))
        bend += np.outer(slope, own) + np.outer(own, slope)
        slope = rho * slope + inputs * own
        reach *= rho
        inputs = reach
    most = residual + float(slope @ np.asarray(radii))
    hessian = np.outer(slope, slope) + most * bend
    smoothness = float(np.linalg.eigvalsh(hessian)[-1])
    return Bounds(float(np.linalg.norm(slope)), most, smoothness)


def divided(numerator: float, denominator: float) -> float:
    """The quotient of numbers that are not negative; over 0 infinite, or 0 if both."""
    if denominator:
        return numerator / denominator
    return math.inf if numerator else 0.0


def _extremes(matrix: np.ndarray, rank: int) -> tuple[float, float]:
    """The ``rank``-th and the first singular value; 0 where there are fewer."""
    values = np.linalg.svd(matrix, compute_uv=False)
    last = float(values[rank - 1]) if rank <= len(values) else 0.0
    return last, float(values[0])
