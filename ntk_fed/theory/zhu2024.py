r"""Zhu, Vardhan, Mazumdar: where Local GD converges to in overparameterized regression.

Floor 6: numbers in, numbers out. The finding is the abstract's; the formulas here are
derived in this project.

Client i holds ``X_i`` (n_i, d) and takes K gradient steps of size η on the mean of
:math:`\frac12(x^\top w - y)^2`; the server averages with weights :math:`w_i`. A round
is linear, :math:`w^+ - w_\infty = (I - A)(w - w_\infty)` where labels are consistent,
with :math:`A = \sum_i w_i [I - (I - \frac{\eta}{n_i} X_i^\top X_i)^K]`.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from ntk_fed.errors import ShapeMismatchError

SOURCE = "Zhu, Vardhan, Mazumdar (2024), arXiv:2412.07971"
STATUS = "derived"

Matrix = Float[np.ndarray, "n d"]


def limit(
    xs: Sequence[Matrix],
    ys: Sequence[Float[np.ndarray, " n"]],
    w0: Float[np.ndarray, " d"],
) -> Float[np.ndarray, " d"]:
    """``X⁺ y + (I − X⁺X) w_0``: where Local GD converges to, for every K (derived).

    For consistent labels: some model fits all of them. It is the interpolator nearest
    to the start, as of centralised gradient descent.

    Args:
        xs: each client's inputs.
        ys: each client's labels.
        w0: the start.
    """
    x, y = np.concatenate(list(xs)), np.concatenate(list(ys))
    return w0 + np.linalg.pinv(x) @ (y - x @ w0)


def eigenvalues(
    xs: Sequence[Matrix],
    *,
    step_size: float,
    local_steps: int,
    weights: Float[np.ndarray, " c"],
) -> Float[np.ndarray, " r"]:
    """Those of A on the span of all samples, ascending, ``(rank,)``.

    Args:
        xs: each client's inputs; one may have none.
        step_size: η.
        local_steps: K.
        weights: of the clients.

    Raises:
        ShapeMismatchError: not one weight per client, or unlike widths.

    Cost:
        A singular value decomposition of all samples and of each client's.
    """
    if len(weights) != len(xs) or len({x.shape[1] for x in xs}) != 1:
        widths = sorted({x.shape[1] for x in xs})
        raise ShapeMismatchError(
            f"needed: one weight per client and inputs of one width, got {len(xs)} "
            f"clients, {len(weights)} weights, widths {widths}."
        )
    pooled = np.concatenate(list(xs))
    _, s, vt = np.linalg.svd(pooled, full_matrices=False)
    basis = vt[s > max(pooled.shape) * np.finfo(float).eps * s[0]]  # (rank, d)
    total = np.zeros((len(basis), len(basis)))
    for x, weight in zip(xs, weights, strict=True):
        if len(x):
            _, s, vt = np.linalg.svd(x, full_matrices=False)
            own = basis @ vt.T
            moved = _progress(step_size * s**2 / len(x), local_steps)
            total += weight * (own * moved) @ own.T
    return np.linalg.eigvalsh((total + total.T) / 2)


def _progress(x: np.ndarray, local_steps: int) -> np.ndarray:
    """``1 − (1 − x)^K``, to full precision where x is small."""
    inside = np.clip(x, 0.0, 0.5)
    small = -np.expm1(local_steps * np.log1p(-inside))
    return np.where(x <= 0.5, small, 1 - (1 - x) ** local_steps)


def theta(
    xs: Sequence[Matrix],
    *,
    step_size: float,
    local_steps: int,
    weights: Float[np.ndarray, " c"],
) -> float:
    """θ_K, the smallest eigenvalue of A on the span of all samples.

    For ``η λ_max(X_iᵀX_i)/n_i ≤ 1`` the distance to :func:`limit` falls by ``1 − θ_K``
    a round or faster, and θ_K does not fall with K. Arguments as :func:`eigenvalues`.
    """
    options = {"step_size": step_size, "local_steps": local_steps}
    return float(eigenvalues(xs, weights=weights, **options)[0])


def rate(
    xs: Sequence[Matrix],
    *,
    step_size: float,
    local_steps: int,
    weights: Float[np.ndarray, " c"],
) -> float:
    """``max |1 − λ|`` over :func:`eigenvalues`, for step sizes of any size.

    The factor by which a round contracts the distance to :func:`limit`; above 1 Local
    GD diverges from some starts.
    """
    options = {"step_size": step_size, "local_steps": local_steps}
    found = eigenvalues(xs, weights=weights, **options)
    return float(np.abs(1 - found).max())
