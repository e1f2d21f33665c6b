r"""Collins, Hassani, Mokhtari, Shakkottai (2022): FedAvg learns representations.

Floor 6: numbers in, numbers out. The finding is the abstract's; the formulas here are
derived in this project.

Every client i regresses on :math:`\langle B_* w_{*,i}, x\rangle` with inputs of unit
covariance and learns ``B`` (d, k) and ``w`` (k,) of the population loss
:math:`\frac12\|Bw - B_* w_{*,i}\|^2`, K steps on both at once; the server averages
both. One local step is distributed gradient descent, D-GD.
"""

import numpy as np
from jaxtyping import Float

from ntk_fed.errors import ShapeMismatchError

SOURCE = "Collins, Hassani, Mokhtari, Shakkottai (2022), arXiv:2205.13692"
STATUS = "derived"

Matrix = Float[np.ndarray, "d k"]


def orthonormal(b: Matrix) -> Matrix:
    """An orthonormal basis of the columns, ``(d, k)``.

    Raises:
        ShapeMismatchError: more columns than rows.
    """
    if b.ndim != 2 or b.shape[1] > b.shape[0]:
        raise ShapeMismatchError(
            f"a representation is (d, k) with k of at most d, got {b.shape}."
        )
    return np.linalg.qr(b)[0]


def dist(b: Matrix, truth: Matrix) -> float:
    """``‖(I − B̂B̂ᵀ) B̂_*‖₂``, sine of the largest principal angle; 0 to 1."""
    own, other = orthonormal(b), orthonormal(truth)
    return float(np.linalg.norm(other - own @ (own.T @ other), 2))


def start(b: Matrix, step_size: float) -> Matrix:
    """``B̂ / √η``: the start the analysis asks for, ``η B_0ᵀB_0 = I``; heads are 0."""
    return orthonormal(b) / np.sqrt(step_size)


def diversity(heads: Float[np.ndarray, "c k"]) -> float:
    """``λ_min((1/c) Σ (w_{*,i} − w̄)(w_{*,i} − w̄)ᵀ)``, μ² of the paper."""
    apart = heads - heads.mean(axis=0)
    return float(max(np.linalg.eigvalsh(apart.T @ apart / len(heads))[0], 0.0))


def contraction(
    heads: Float[np.ndarray, "c k"], step_size: float, local_steps: int
) -> float:
    r"""Factor of ``dist`` in a round, where it is small already (derived).

    :math:`1 - \lambda_{\min}\bigl(\frac1c \sum_i [1 - (1 - \eta^2\|w_i\|^2)^{K-1}]
    \hat w_i \hat w_i^\top\bigr)`: a client's first step only finds its head.

    Args:
        heads: the true ones.
        step_size: η, with ``η² ‖w_i‖² < 2``.
        local_steps: K; at 1 nothing contracts.

    Raises:
        ValueError: a head for which the step is too large, or K below 1.
    """
    if local_steps < 1:
        raise ValueError(f"local_steps must be at least 1, got {local_steps}.")
    sizes = np.square(heads).sum(axis=1)
    if (step_size**2 * sizes >= 2).any():
        raise ValueError(
            f"η² ‖w‖² must be below 2 for every head, the largest is "
            f"{step_size**2 * sizes.max():.3g}. Use a smaller step_size."
        )
    # [1 − (1 − x)^(K−1)] / x, x = η² ‖w‖²: no division by a head of length 0.
    x = step_size**2 * sizes
    small = np.where(x > 0, x, 1.0)
    learned = np.where(
        x > 0, (1 - (1 - small) ** (local_steps - 1)) / small, local_steps - 1.0
    )
    weighted = heads * (step_size**2 * learned)[:, None]
    return float(1 - np.linalg.eigvalsh(weighted.T @ heads / len(heads))[0])


def run(
    b: Matrix,
    w: Float[np.ndarray, " k"],
    truth: Matrix,
    heads: Float[np.ndarray, "c k"],
    *,
    step_size: float,
    local_steps: int,
    rounds: int,
) -> Float[np.ndarray, " t"]:
    """``dist`` after 0, 1, … rounds of FedAvg on the population losses.

    Args:
        b: representation at the start, such as :func:`start` gives.
        w: head at the start.
        truth: ``B_*``.
        heads: ``w_{*,i}``.
        step_size: η.
        local_steps: K.
        rounds: R.

    Returns:
        ``(rounds + 1,)``.

    Cost:
        Per local step ``c d k`` operations and memory.
    """
    targets = heads @ truth.T  # (c, d)
    found = [dist(b, truth)]
    for _ in range(rounds):
        own_b = np.broadcast_to(b, (len(heads), *b.shape))
        own_w = np.broadcast_to(w, (len(heads), *w.shape))
        for _ in range(local_steps):
            gap = np.einsum("cdk,ck->cd", own_b, own_w) - targets
            step_b = np.einsum("cd,ck->cdk", gap, own_w)
            step_w = np.einsum("cdk,cd->ck", own_b, gap)
            own_b, own_w = own_b - step_size * step_b, own_w - step_size * step_w
        b, w = own_b.mean(axis=0), own_w.mean(axis=0)
        found.append(dist(b, truth))
    return np.array(found)


def fine_tuning_excess(missed: float, noise: float, k: int, n: int) -> float:
    """Expected excess risk of a new client that fits its head alone (derived, exact).

    ``½ ‖b_⊥‖² + ½ (σ² + ‖b_⊥‖²) k / (n − k − 1)`` for Gaussian inputs.

    Args:
        missed: ``‖b_⊥‖``, the part of ``B_* w`` outside the representation's span.
        noise: σ, standard deviation of the labels' noise.
        k: columns of the representation.
        n: samples of the new client, above ``k + 1``.

    Raises:
        ValueError: too few samples: the expectation is infinite.
    """
    if n <= k + 1:
        raise ValueError(f"n must be above k + 1 = {k + 1}, got {n}.")
    return (missed**2 + (noise**2 + missed**2) * k / (n - k - 1)) / 2
