r"""Arora, Du, Hu, Li, Wang (2019): the path of gradient descent, from the limit kernel.

Floor 6: numbers in, numbers out. All statements here are *recalled*: known from the
literature, not checked against the paper's text. Where the paper hides a constant in
O(·) or Ω(·) it is set to 1 here, which is ours and said in every condition.

The network is that of Du et al. (2019), sum form, ``eta_sum = eta_mean / n`` for the
pooled mean loss. The paper starts from weights of size κ = O(εδ/√n), so small that
:math:`u(0)` may be left out, and asks for
:math:`m = \Omega(n^7 \lambda_0^{-4} \kappa^{-2} \delta^{-4} \epsilon^{-2})`. Weights
here are of size κ = 1, and :math:`u(0)` is kept: ``r_0 = u(0) − y``.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float, Int

from ntk_fed.errors import NonFiniteError
from ntk_fed.measured import Enclosure, estimate, exact, monotone, ratio
from ntk_fed.theory.condition import Condition, Stated, TheoremCheck

SOURCE = "Arora, Du, Hu, Li, Wang (2019), arXiv:1901.08584"
STATUS = "recalled"
_condition = Stated(SOURCE, STATUS)
_OURS = "the paper hides a constant; 1 is ours"
_EPS = float(np.finfo(float).eps)


def residual_norms(
    eigenvalues: Float[np.ndarray, " n"],
    projections: Float[np.ndarray, " n"],
    step_size_sum: float,
    steps: Int[np.ndarray, " k"],
) -> Float[np.ndarray, " k"]:
    """``sqrt(Σ_i (1 − eta λ_i)^{2k} (v_i·r_0)²)``: predicted norms of the residual.

    Args:
        eigenvalues: of the limit kernel, ``λ_i``.
        projections: of the first residual on its eigenvectors, ``v_i·r_0``.
        step_size_sum: step size in sum form, the mean form's divided by n.
        steps: numbers of gradient steps ``k``, at least 0.

    Returns:
        In output units; infinite where a step size beyond ``2/λ`` makes it overflow.

    Raises:
        NonFiniteError: an eigenvalue or a projection is NaN or infinite.
        ValueError: a negative number of steps.
    """
    if not (np.isfinite(eigenvalues).all() and np.isfinite(projections).all()):
        raise NonFiniteError(
            "eigenvalues and projections must be finite; look at the kernel and the "
            "residual they come from."
        )
    if (steps < 0).any():
        raise ValueError(f"steps must be at least 0, got {steps.min()}.")
    there = projections != 0  # a part that is not there stays away: no inf · 0
    factors = np.abs(1 - step_size_sum * eigenvalues[there])
    with np.errstate(over="ignore", under="ignore"):
        powers = factors ** steps[:, None].astype(float)  # (k, n)
        return np.hypot.reduce(powers * np.abs(projections[there]), axis=1)


def deviation(
    norms: Float[np.ndarray, " k"], predicted: Float[np.ndarray, " k"]
) -> float:
    """Worst ``|‖r_k‖ − predicted| / ‖r_0‖`` of a run; the start comes first.

    Args:
        norms: ``‖r_k‖`` of the run; one that is not finite makes the result infinite.
        predicted: :func:`residual_norms` at the same steps.
    """
    if not np.isfinite(norms).all():
        return math.inf
    return ratio(float(np.abs(norms - predicted).max()), float(norms[0]))


def data_complexity(
    values: Float[np.ndarray, " n"],
    vectors: Float[np.ndarray, "n n"],
    y: Float[np.ndarray, " n"],
) -> float:
    """``sqrt(2 yᵀ (H∞)⁻¹ y / n)``: the paper's complexity measure of the labels.

    Args:
        values: eigenvalues of the limit kernel.
        vectors: its eigenvectors, one per column.
        y: labels.

    Returns:
        Without unit; infinite where the kernel is singular, its smallest eigenvalue not
        above ``n·eps`` times the largest.

    Raises:
        ValueError: an eigenvalue is negative beyond that.
    """
    slack = len(values) * _EPS * float(np.abs(values).max())
    smallest = float(values.min())
    if smallest < -slack:
        raise ValueError(
            f"values must be those of a kernel, none negative; got {smallest:.3g}. "
            "Was a kernel's change or a difference of kernels passed?"
        )
    if smallest <= slack:
        return math.inf
    return math.sqrt(2 * float((np.square(vectors.T @ y) / values).sum()) / len(y))


def width_for_trajectory(n: int, lambda0: float, failure: float, error: float) -> float:
    """``n⁷ λ0⁻⁴ δ⁻⁴ ε⁻²`` for weights of size κ = 1, hidden constant 1.

    Args:
        n: samples.
        lambda0: smallest eigenvalue of the limit kernel.
        failure: probability ``δ`` the theorem may fail with.
        error: ``ε`` in output units.
    """
    try:
        return float(n) ** 7 * lambda0**-4 * failure**-4 * error**-2
    except (OverflowError, ZeroDivisionError):
        return math.inf


def step_size_limit(n: int, lambda0: float) -> float:
    """``λ0 / n²`` in sum form, hidden constant 1."""
    return lambda0 / n**2


@dataclasses.dataclass(frozen=True)
class Measurements:
    """What the theorem's conditions are evaluated on; ``None`` where not measured.

    Attributes:
        n: samples.
        width: hidden units.
        step_size: in mean form.
        failure: probability ``δ`` the theorem may fail with.
        is_two_layer: is the network the theorem's, with unit-norm inputs?
        is_gradient_descent: one local step, weights n_i/n, server step 1?
        accuracy: ``ε`` over ``‖r_0‖``, chosen by the caller.
        lambda0: smallest eigenvalue of the limit kernel.
        residual: ``‖r_0‖``.
        complexity: :func:`data_complexity`.
        deviation: :func:`deviation` of the run.
    """

    n: int
    width: int
    step_size: float
    failure: float
    is_two_layer: bool
    is_gradient_descent: bool
    accuracy: float = 0.1
    lambda0: Enclosure | None = None
    residual: float | None = None
    complexity: Enclosure | None = None
    deviation: Enclosure | None = None


def check(found: Measurements) -> TheoremCheck:
    """The theorem's hypotheses, constants and conclusion on these measurements."""
    constants = _constants(found)
    return TheoremCheck(
        "arora2019.trajectory",
        "On a two-layer ReLU network that is wide enough, the residual of gradient "
        "descent follows the eigenvalues and eigenvectors of the limit kernel.",
        SOURCE,
        STATUS,
        _hypotheses(found, constants),
        constants,
        _condition(
            "|‖r_k‖ − predicted| / ‖r_0‖, worst along the run",
            found.deviation,
            "<=",
            exact(found.accuracy),
            "sum",
            f"the accuracy {found.accuracy:g} was chosen by the caller",
        ),
        why_not=""
        if found.is_two_layer
        else "the network is not TwoLayerReLU with one output and inputs of norm 1",
    )


def _constants(found: Measurements) -> dict[str, Enclosure]:
    constants: dict[str, Enclosure] = {}
    if found.complexity is not None:
        constants["data complexity"] = found.complexity
    if found.lambda0 is None:
        return constants
    constants["lambda0"] = found.lambda0
    if found.lambda0.lower <= 0:
        return constants
    n = found.n
    constants["step size limit"] = monotone(
        lambda v: step_size_limit(n, v), found.lambda0
    )
    if found.residual is not None:
        error = found.accuracy * found.residual
        constants["width for the trajectory"] = monotone(
            lambda v: width_for_trajectory(n, v, found.failure, error), found.lambda0
        )
    return constants


def _hypotheses(
    found: Measurements, constants: dict[str, Enclosure]
) -> list[Condition]:
    step = found.step_size / found.n
    return [
        _condition.yes(
            "network is the theorem's, inputs on the sphere", found.is_two_layer
        ),
        _condition.yes(
            "algorithm is gradient descent (K = 1, weights n_i/n, server step 1)",
            found.is_gradient_descent,
        ),
        _condition("λ0 of the limit kernel", found.lambda0, ">", exact(0.0)),
        _condition(
            "width against n⁷ λ0⁻⁴ δ⁻⁴ ε⁻²",
            exact(float(found.width)), ">=", constants.get("width for the trajectory"),
            "sum", f"weights of size κ = 1, u(0) kept; {_OURS}",
        ),
        _condition(
            "step size against λ0 / n²",
            estimate(step, _EPS * step, "rounding"), "<=",
            constants.get("step size limit"), "sum", _OURS,
        ),
    ]  # fmt: skip
