r"""Qin, Etesami, Uribe (2022): local SGD when all clients share a minimiser.

Floor 6: numbers in, numbers out. Statements are the paper's own text unless one says
otherwise; what is derived in this project says so.

Mean form with **uniform** weights, :math:`f = \frac1c \sum_i f_i`, each :math:`f_i`
smooth with constant L per sample and all of them with one common minimiser. ``x̄`` is
the average of the clients' iterates at *every* local step t, ``T = rounds · K`` is
their number.
"""

import numpy as np
import scipy.linalg
import scipy.optimize
from jaxtyping import Float

from ntk_fed.errors import NonFiniteError, ShapeMismatchError

SOURCE = "Qin, Etesami, Uribe (2022), arXiv:2201.12719"
STATUS = "full text"
SLIPS = (  # derived in this project, from the instances themselves
    "Proposition 2: the mean of the clients' losses is (L/8) x², not (L/4) x²",
    "Proposition 2: ρ is then 16, not 2",
    "Proposition 2: the gradient bound is L²/64, not L²/16",
    "Assumption 3 is said to imply Assumption 2; it is Assumption 4 that implies 3",
    "Lemma 3: its second display lacks 1/n",
    "gradient descent diverges for step sizes above 2/L, not 1/L",
)


def proposition1(
    smoothness: float, local_steps: int, rounds: int, step_size: float
) -> Float[np.ndarray, " t"]:
    """The averaged model of Proposition 1's instance after 0, 1, … rounds.

    ``c = 4 · rounds`` clients, of which one has ``(L/2) x²`` and the others nothing to
    learn: the more there are, the less of a round is left of what it does.

    Args:
        smoothness: L, above 0.
        local_steps: K.
        rounds: R.
        step_size: η.

    Returns:
        ``x̄``, started at 1, ``(rounds + 1,)``.
    """
    clients = 4 * _counted("rounds", rounds)
    own = (1 - step_size * smoothness) ** _counted("local_steps", local_steps)
    factor = (clients - 1) / clients + own / clients
    return factor ** np.arange(rounds + 1.0)


def proposition1_gap(
    smoothness: float, rounds: int, model: Float[np.ndarray, " t"]
) -> Float[np.ndarray, " t"]:
    """``f(x̄) − f* = L x̄² / (2c)`` of that instance, ``c = 4 · rounds``."""
    return smoothness * np.square(model) / (8 * rounds)


def proposition1_bound(smoothness: float, local_steps: int, rounds: int) -> float:
    """``K L / (16 T)``: no step size up to 1/L brings the gap below it."""
    return local_steps * smoothness / (16 * rounds * local_steps)


def proposition2_factor(smoothness: float, local_steps: int, step_size: float) -> float:
    """What a round multiplies the model of Proposition 2's instance by (derived).

    Two clients, ``(L/2) x²`` and ``−(L/4) x²``: ``½ [(1 − ηL)^K + (1 + ηL/2)^K]``.
    """
    u, k = step_size * smoothness, _counted("local_steps", local_steps)
    return ((1 - u) ** k + (1 + u / 2) ** k) / 2


def proposition2(
    smoothness: float, local_steps: int, rounds: int, step_size: float
) -> Float[np.ndarray, " t"]:
    """The averaged model of Proposition 2's instance after 0, 1, … rounds.

    It diverges for ``2/(LK) ≤ η ≤ 1/L`` and K of at least 2, although gradient descent
    converges. Arguments and result as :func:`proposition1`.
    """
    factor = proposition2_factor(smoothness, local_steps, step_size)
    return factor ** np.arange(_counted("rounds", rounds) + 1.0)


def instability(local_steps: int) -> float:
    """The ``η L K`` above which Proposition 2's instance diverges (derived).

    The positive zero of the factor minus 1; it falls to ``2 ln φ ≈ 0.962`` with K, φ
    the golden ratio.

    Raises:
        ValueError: K below 2: at one step, the instance diverges only from η L = 4.
    """
    if _counted("local_steps", local_steps) < 2:
        raise ValueError("local_steps must be at least 2; one local step is GD.")

    def excess(product: float) -> float:
        return proposition2_factor(1.0, local_steps, product / local_steps) - 1

    # The factor is below 1 at 1/2 and above it at 2, where the second client alone has
    # (1 + 1/K)^K >= 9/4 and the first not less than 0.
    found = scipy.optimize.root_scalar(
        excess, bracket=(0.5, 2.0), method="brentq", xtol=1e-15
    )
    return float(found.root)


def similarity(hessians: Float[np.ndarray, "c d d"]) -> float:
    """Definition 1's constant (``c`` in the paper) of quadratics with one minimiser.

    The largest s in [0, 1] with ``(1/c) Σ (f_i(x_i) − f_i*) ≥ s (f(x̄) − f*)`` for all
    x_i of mean x̄ (derived): on the range of the mean Hessian the smallest generalised
    eigenvalue of ``(mean H_i⁻¹)⁻¹`` against the mean, and 0 if some client is flat in a
    direction in which the mean is not.

    Args:
        hessians: symmetric and positive semi-definite.

    Returns:
        s; 1 where all are zero. Ranks are decided at ``d · eps`` times the largest
        eigenvalue of the mean.

    Raises:
        ShapeMismatchError: not ``(c, d, d)``.
        NonFiniteError: NaN or infinity.
        ValueError: not symmetric, or with a negative eigenvalue beyond rounding.
    """
    given = _checked(hessians)
    mean = given.mean(axis=0)
    values, vectors = np.linalg.eigh(mean)
    tolerance = len(mean) * np.finfo(float).eps * max(values[-1], 0.0)
    basis = vectors[:, values > tolerance]
    if basis.shape[1] == 0:
        return 1.0
    own = basis.T @ given @ basis  # (c, r, r)
    if min(np.linalg.eigvalsh(one)[0] for one in own) <= tolerance:
        return 0.0
    parallel = np.linalg.inv(np.linalg.inv(own).mean(axis=0))
    smallest = scipy.linalg.eigh(
        (parallel + parallel.T) / 2,
        basis.T @ mean @ basis,
        eigvals_only=True,
        subset_by_index=[0, 0],
    )[0]
    return float(min(max(smallest, 0.0), 1.0))


def theorem1_weights(local_steps: int, rounds: int, s: float) -> np.ndarray:
    """Weights of ``x̄^0 … x̄^(T−1)`` in Theorem 1's average, ``(T,)``, summing to 1.

    1 where t or t + 1 is a communication time, else s.
    """
    position = np.arange(rounds * local_steps) % local_steps
    weights = np.where((position == 0) | (position == local_steps - 1), 1.0, s)
    return weights / weights.sum()


def theorem1_bound(
    distance: float, step_size: float, local_steps: int, rounds: int, s: float
) -> float:
    """``K ‖x0 − x*‖² / (η (s K T + 2 (1 − s) T))``: the gap of the weighted average.

    Convex, ``η ≤ 1/(2L)``, K of at least 2.

    Args:
        distance: ``‖x0 − x*‖``, x* the minimiser nearest x0.
        step_size: η.
        local_steps: K.
        rounds: communication rounds; ``T = rounds · K``.
        s: similarity.
    """
    total = rounds * local_steps
    spread = s * local_steps * total + 2 * (1 - s) * total
    return local_steps * distance**2 / (step_size * spread)


def theorem2_bound(
    gap: float, step_size: float, local_steps: int, rounds: int
) -> float:
    """``9 (f(x0) − f*) / (η T)``: the smallest ``‖∇f(x̄^t)‖²`` of the run.

    Not necessarily convex, ``η ≤ 1/(3 K L ρ)``, K of at least 2.
    """
    return 9 * gap / (step_size * rounds * local_steps)


def theorem2_step_size(smoothness: float, growth: float, local_steps: int) -> float:
    """``1/(3 K L ρ)``, ρ the strong growth constant."""
    return 1 / (3 * local_steps * smoothness * growth)


def theorem3_bound(
    distance: float,
    step_size: float,
    convexity: float,
    local_steps: int,
    rounds: int,
) -> float:
    """``(1 − η μ)^T ‖x0 − x*‖²``: of ``‖x̄^T − x*‖²``, for every K.

    Every sample's loss is μ-strongly convex, ``η ≤ 1/L``.

    Raises:
        ValueError: ``η μ`` above 1, or negative.
    """
    product = step_size * convexity
    if not 0 <= product <= 1:
        raise ValueError(
            f"step_size times convexity must be in [0, 1], got {product}: the theorem "
            "asks for a step size of at most 1/L."
        )
    return (1 - product) ** (rounds * local_steps) * distance**2


def _counted(name: str, value: int) -> int:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}.")
    return value


def _checked(hessians: np.ndarray) -> np.ndarray:
    given = np.asarray(hessians, float)
    if given.ndim != 3 or given.shape[1] != given.shape[2] or not given.size:
        raise ShapeMismatchError(
            f"hessians must be (clients, d, d), got {given.shape}. Stack them."
        )
    if not np.isfinite(given).all():
        raise NonFiniteError("hessians hold NaN or infinity.")
    size = np.abs(given).max()
    slack = 100 * given.shape[1] * np.finfo(float).eps * size
    if np.abs(given - given.transpose(0, 2, 1)).max() > slack:
        raise ValueError("hessians must be symmetric; pass (H + Hᵀ)/2 of each.")
    lowest = min(np.linalg.eigvalsh(one)[0] for one in given)
    if lowest < -slack:
        raise ValueError(
            f"hessians must be positive semi-definite, the lowest eigenvalue is "
            f"{lowest:.3g}. Similarity is defined for convex losses."
        )
    return given
