"""Du, Zhai, Poczos, Singh (2019): gradient descent on a wide two-layer ReLU network.

Floor 6: numbers in, numbers out. All statements here are *recalled*: known from the
literature, not checked against the paper's text. Where the paper hides a constant in
O(·) or Ω(·) it is set to 1 here, which is ours and said in every condition.

Sum form: ``Φ = ½ Σ (f − y)²`` with step size ``eta_sum``; for the pooled mean loss
``eta_mean = n · eta_sum``.
"""

import dataclasses
import math

from jaxtyping import Float
from torch import Tensor

from ntk_fed.measured import Enclosure, exact, monotone
from ntk_fed.theory.condition import Condition, Stated, TheoremCheck

SOURCE = "Du, Zhai, Poczos, Singh (2019), arXiv:1810.02054"
STATUS = "recalled"
_condition = Stated(SOURCE, STATUS)
_OURS = "the paper hides a constant; 1 is ours"


def width_near_limit(n: int, lambda0: float, failure: float) -> float:
    """``n² λ0⁻² log(n/δ)``, hidden constant 1: the kernel at the start is near H∞."""
    return float(n) ** 2 * _inverse(lambda0, 2) * math.log(n / failure)


def width_for_convergence(n: int, lambda0: float, failure: float) -> float:
    """``n⁶ λ0⁻⁴ δ⁻³``, hidden constant 1: gradient descent converges linearly."""
    return float(n) ** 6 * _inverse(lambda0, 4) * failure**-3


def _inverse(lambda0: float, power: int) -> float:
    """``λ0^-power``, infinite where a float cannot hold it."""
    try:
        return lambda0**-power
    except OverflowError:
        return math.inf


def radius(n: int, lambda0: float, failure: float) -> float:
    """``R = δ λ0 / n²``, hidden constant 1: within it ``λ_min(H) > λ0/2``."""
    return failure * lambda0 / n**2


def step_size_limit(n: int, lambda0: float) -> float:
    """``λ0 / n`` in mean form (``λ0 / n²`` in sum form), hidden constant 1."""
    return lambda0 / n


def displacement_bound(n: int, width: int, lambda0: float, residual: float) -> float:
    """``4 √n ‖y − u(0)‖ / (√m λ0)``, the furthest any neuron moves."""
    return 4 * math.sqrt(n) * residual / (math.sqrt(width) * lambda0)


def loss_bound(
    initial: float, lambda0: float, n: int, step_size: float, steps: Tensor
) -> Float[Tensor, " k"]:
    """``(1 − eta_sum λ0 / 2)^k`` times the initial loss, for gradient descent.

    Args:
        initial: loss at the start, of either form.
        lambda0: smallest eigenvalue of the limit kernel.
        n: samples.
        step_size: in mean form.
        steps: numbers of gradient steps ``k``.

    Returns:
        The promise after each number of steps; NaN where ``eta_sum λ0 / 2 > 1``.
    """
    factor = 1 - step_size / n * lambda0 / 2
    if factor < 0:  # far beyond the step size the theorem allows: no promise
        factor = math.nan
    return initial * factor ** steps.double()


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
        lambda0: smallest eigenvalue of the limit kernel.
        smallest: smallest eigenvalue of the kernel at the start.
        distance: ``‖H(0) − H∞‖₂``.
        residual: ``‖y − u(0)‖``.
        displacement: largest ``‖w_r − w_r(0)‖`` along the run.
        smallest_along: smallest eigenvalue of the kernel along the run.
        change_along: largest ``‖H(t) − H(0)‖₂`` along the run.
        worst_ratio: largest loss over promised loss along the run.
    """

    n: int
    width: int
    step_size: float
    failure: float
    is_two_layer: bool
    is_gradient_descent: bool
    lambda0: Enclosure | None = None
    smallest: Enclosure | None = None
    distance: Enclosure | None = None
    residual: float | None = None
    displacement: Enclosure | None = None
    smallest_along: Enclosure | None = None
    change_along: Enclosure | None = None
    worst_ratio: Enclosure | None = None


def check(found: Measurements) -> TheoremCheck:
    """The theorem's hypotheses, constants and conclusion on these measurements."""
    constants: dict[str, Enclosure] = {}
    if found.lambda0 is not None:
        constants["lambda0"] = found.lambda0
        if found.lambda0.lower > 0:
            constants |= _constants(found, found.lambda0)
    if found.smallest is not None:
        constants["smallest eigenvalue at the start"] = found.smallest
    return TheoremCheck(
        "du2019.gradient_descent",
        "A two-layer ReLU network that is wide enough is driven to zero loss by "
        "gradient descent at the rate 1 − eta λ0 / 2 per step.",
        SOURCE,
        STATUS,
        _at_start(found, constants) + _along_run(found, constants),
        constants,
        _condition(
            "loss / promised loss, worst along the run",
            found.worst_ratio,
            "<=",
            exact(1.0),
            "sum",
            "" if found.is_gradient_descent else "k = K·t steps of gradient descent",
        ),
        why_not=""
        if found.is_two_layer
        else "the network is not TwoLayerReLU with one output and inputs of norm 1",
    )


def _constants(found: Measurements, lambda0: Enclosure) -> dict[str, Enclosure]:
    """Each constant at both ends of λ0, since all are monotone in it."""
    n, m, failure = found.n, found.width, found.failure

    constants = {
        "width near limit": monotone(
            lambda v: width_near_limit(n, v, failure), lambda0
        ),
        "width for convergence": monotone(
            lambda v: width_for_convergence(n, v, failure), lambda0
        ),
        "radius": monotone(lambda v: radius(n, v, failure), lambda0),
        "step size limit": monotone(lambda v: step_size_limit(n, v), lambda0),
    }
    if found.residual is not None:
        u = found.residual
        constants["displacement bound"] = monotone(
            lambda v: displacement_bound(n, m, v, u), lambda0
        )
    return constants


def _at_start(found: Measurements, constants: dict[str, Enclosure]) -> list[Condition]:
    lambda0 = constants.get("lambda0")
    quarter = None if lambda0 is None else lambda0.scaled(0.25)
    most = None if lambda0 is None else lambda0.scaled(0.75)
    width = exact(float(found.width))
    return [
        _condition.yes(
            "network is the theorem's, inputs on the sphere", found.is_two_layer
        ),
        _condition.yes(
            "algorithm is gradient descent (K = 1, weights n_i/n, server step 1)",
            found.is_gradient_descent,
        ),
        _condition("λ0 of the limit kernel", lambda0, ">", exact(0.0)),
        _condition("‖H(0) − H∞‖₂ against λ0/4", found.distance, "<=", quarter),
        _condition("λ_min(H(0)) against ¾ λ0", found.smallest, ">=", most),
        _condition(
            "width against n² λ0⁻² log(n/δ)",
            width, ">=", constants.get("width near limit"), "sum", _OURS,
        ),
        _condition(
            "width against n⁶ λ0⁻⁴ δ⁻³",
            width, ">=", constants.get("width for convergence"), "sum", _OURS,
        ),
        _condition(
            "step size against λ0 / n",
            exact(found.step_size), "<=", constants.get("step size limit"),
            "mean", _OURS,
        ),
    ]  # fmt: skip


def _along_run(found: Measurements, constants: dict[str, Enclosure]) -> list[Condition]:
    lambda0 = constants.get("lambda0")
    moved = found.displacement
    half = None if lambda0 is None else lambda0.scaled(0.5)
    quarter = None if lambda0 is None else lambda0.scaled(0.25)
    return [
        _condition(
            "displacement of neurons against R = δ λ0 / n²",
            moved, "<=", constants.get("radius"), "", _OURS,
        ),
        _condition(
            "displacement of neurons against 4 √n ‖y − u(0)‖ / (√m λ0)",
            moved, "<=", constants.get("displacement bound"),
        ),
        _condition(
            "‖H(t) − H(0)‖₂ against λ0/4, worst along the run",
            found.change_along, "<", quarter,
        ),
        _condition(
            "λ_min(H(t)) against λ0/2, worst along the run",
            found.smallest_along, ">", half,
        ),
    ]  # fmt: skip
