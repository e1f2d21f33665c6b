"""Both findings of Zhu, Vardhan, Mazumdar, held against a run.

Floor 6. Regression is derived in this project; classification is the abstract's.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float, Num

from ntk_fed.measured import Enclosure, estimate, exact
from ntk_fed.theory.condition import Stated, TheoremCheck

SOURCE = "Zhu, Vardhan, Mazumdar (2024), arXiv:2412.07971"
_derived = Stated(SOURCE, "derived", "mean")
_abstract = Stated(SOURCE, "abstract", "mean")
_PLAIN = "algorithm is Local GD: full batches, all clients, plain averages"


@dataclasses.dataclass(frozen=True)
class Regression:
    """What the regression theorem is evaluated on; ``None`` where not measured.

    Attributes:
        is_linear: is the model linear in its inputs, all of its parameters trained?
        is_squared: is the loss the squared one?
        is_plain: full batches, all clients, plain averages with server step 1?
        largest_step: largest ``η λ_max(X_iᵀX_i)/n_i``.
        misfit: :func:`regression.misfit` of the clients' data.
        theta: :func:`regression.enclosed_theta`.
        theta_limit: θ_∞.
        rate: ``max |1 − λ|``.
        worst_ratio: of the run, by :func:`worst_ratio`.
    """

    is_linear: bool
    is_squared: bool
    is_plain: bool
    largest_step: float | None = None
    misfit: float | None = None
    theta: Enclosure | None = None
    theta_limit: float | None = None
    rate: float | None = None
    worst_ratio: Enclosure | None = None


@dataclasses.dataclass(frozen=True)
class Classification:
    """What the classification theorem is evaluated on; ``None`` where not measured.

    Attributes:
        is_linear: is the model linear in its inputs, all of its parameters trained?
        is_exponential: is the loss logistic or exponential?
        is_plain: full batches, all clients, plain averages with server step 1?
        margin: :func:`margins.margin` of all samples of clients; 0 if not separable.
        first: ``1 − cos`` to the SVM at the first model of the run that is not 0.
        last: ``1 − cos`` to the SVM at the end.
    """

    is_linear: bool
    is_exponential: bool
    is_plain: bool
    margin: float | None = None
    first: float | None = None
    last: float | None = None


def worst_ratio(
    rounds: Num[np.ndarray, " t"],
    distances: Float[np.ndarray, " t"],
    theta: Enclosure,
    *,
    size: float,
    local_steps: int,
) -> Enclosure | None:
    """Largest ``‖w_t − w_∞‖ / ((1 − θ_K)^t ‖w_0 − w_∞‖)`` over recorded rounds t ≥ 1.

    A distance is taken to err by ``(100/θ + K t) eps`` of ``size``: some hundred
    roundings in a round, of which ``1 − θ`` stay, and one in every local step where no
    sample looks, which stays whole. Rounds in which that is more than a thousandth of
    the bound are left out.

    Args:
        rounds: t, ascending from 0.
        distances: ``‖w_t − w_∞‖``.
        theta: θ_K, :func:`regression.enclosed_theta`.
        size: largest norm of the models and of ``w_∞``.
        local_steps: K.

    Returns:
        ``None`` where no round is left, or θ_K cannot be told from 0.
    """
    if theta.lower <= 0 or not rounds.size or rounds[0] != 0:
        return None
    error = (
        float(np.finfo(float).eps) * size * (100 / theta.lower + local_steps * rounds)
    )  # (t,)
    met = np.where(np.isnan(distances), np.inf, distances)  # of a run that diverged
    ends = []
    for value, slack in (
        (theta.value, 0 * error),
        (min(theta.lower, 1.0), -error),  # the loosest bound, the least distance
        (min(theta.upper, 1.0), error),
    ):
        bound = (met[0] - slack[0]) * (1 - min(value, 1.0)) ** rounds
        ends.append((met + slack, bound))
    told = (rounds > 0) & (ends[2][1] > 1000 * error)
    if not told.any():
        return None
    value, lower, upper = (
        float((left[told] / right[told]).max()) for left, right in ends
    )
    return Enclosure(value, lower, upper, method="rounding of distances and of θ_K")


def check_regression(found: Regression) -> TheoremCheck:
    """Consistent labels: the interpolator nearest the start, at a known rate."""
    constants: dict[str, Enclosure] = {}
    if found.theta is not None:
        constants["θ_K"] = found.theta
        rounding = found.theta.width / 2
        for name, value in (
            ("θ_∞, what θ_K rises to with K", found.theta_limit),
            ("factor of a round, max |1 − λ|", found.rate),
        ):
            if value is not None:
                constants[name] = estimate(value, rounding, "eigvalsh")
    largest = misfit = None
    if found.largest_step is not None:
        # A singular value and a product: a few dozen roundings, squared.
        largest = estimate(found.largest_step, 1e-13 * found.largest_step, "rounding")
    if found.misfit is not None:
        misfit = exact(found.misfit)
    return TheoremCheck(
        "zhu2024.regression_limit",
        "Linear regression with consistent labels: for every number of local steps "
        "Local GD converges to the interpolator nearest its start, by 1 − θ_K a round.",
        SOURCE,
        "derived",
        [
            _derived.yes(_PLAIN, found.is_plain),
            _derived(
                "misfit of the best model, over what rounding may leave",
                misfit, "<=", exact(1.0),
                note="labels are consistent as far as float64 can tell",
            ),
            _derived(
                "η λ_max(X_iᵀX_i)/n_i, largest", largest, "<=", exact(1.0),
                note="beyond it the factor is max |1 − λ|",
            ),
            _derived("θ_K", found.theta, ">", exact(0.0)),
        ],
        constants,
        _derived(
            "‖w_t − w_∞‖ / ((1 − θ_K)^t ‖w_0 − w_∞‖), worst along the run",
            found.worst_ratio, "<=", exact(1.0),
        ),
        why_not=_why_not(found.is_linear, found.is_squared, "the squared loss"),
    )  # fmt: skip


def check_classification(found: Classification) -> TheoremCheck:
    """Separable data: the direction of the SVM, whatever the number of local steps."""
    constants: dict[str, Enclosure] = {}
    margin = None
    if found.margin is not None:
        margin = constants["margin γ"] = estimate(
            found.margin, 1e-9 * found.margin, "least-distance programming"
        )
    sides = {}
    for name, gap in (("first", found.first), ("last", found.last)):
        if gap is not None and math.isfinite(gap):
            # The SVM's direction is known to about 1e-9: d(1 − cos) = sin · d(angle).
            error = 1e-9 * math.sqrt(2 * gap) + 1e-18
            sides[name] = estimate(gap, error, "least-distance programming")
    return TheoremCheck(
        "zhu2024.direction",
        "A linear model on separable data, with the logistic or exponential loss: for "
        "every number of local steps Local GD converges in direction to the SVM of all "
        "samples.",
        SOURCE,
        "abstract",
        [
            _abstract.yes(_PLAIN, found.is_plain),
            _abstract(
                "margin of all samples", margin, ">", exact(0.0),
                note="a margin below 1e-5 of the shortest sample counts as none",
            ),
        ],
        constants,
        _abstract(
            "1 − cos to the SVM, end of the run against its beginning",
            sides.get("last"), "<", sides.get("first"),
            note="a run shows that it falls, never where to: it falls only with log t",
        ),
        why_not=_why_not(
            found.is_linear, found.is_exponential, "the logistic or exponential loss"
        ),
    )  # fmt: skip


def _why_not(is_linear: bool, has_loss: bool, loss: str) -> str:
    faults = [] if is_linear else ["the network is not linear in its inputs"]
    faults += [] if has_loss else [f"the loss is not {loss}"]
    return " and ".join(faults)
