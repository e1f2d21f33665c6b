r"""Jian, Liu (2025): FedAvg on networks of large width m.

Floor 6: numbers in, numbers out. The formulas come from a summary and from the authors'
code, not from the paper's text: they are *recalled*.

**Their units.** Weights of size :math:`m^{-1/2}` and no factor in the network, so that
J is of order :math:`\sqrt m`; step size :math:`\eta = \eta_0 / m`, kernel
:math:`\Theta = J J^\top / m`. A network with the factors inside (scaling "ntk") is the
same function of parameters :math:`\sqrt m` times as large: its own step size is
:math:`\eta_0`, its own kernel is Θ, and its distances are :math:`\sqrt m` times theirs,
since :math:`\eta_{ours} \Theta_{ours} = \eta J J^\top`. See :func:`units`.
That is so for layers between m units and others. The first layer is an exception: its
gradient does not grow with m, so that without factors its share of the kernel falls as
1/m; with factors it stays.

Losses are means of ``½ ‖f − y‖²``; the authors' code has no ½ and divides by the number
of outputs, so that its step size is ``o/2`` times ours.

Their equality with centralised gradient descent at infinite width holds only as
``eta_0 K → 0`` (derived in this project); what holds at any step size is the federated
tangent kernel.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ntk_fed.measured import Enclosure, exact, monotone
from ntk_fed.theory.condition import Condition, Stated, TheoremCheck
from ntk_fed.theory.slopes import loglog_slope

SOURCE = "Jian, Liu (2025), arXiv:2508.12576"
STATUS = "recalled"
_condition = Stated(SOURCE, STATUS)
EXPECTED_SLOPE = -0.5
_FROM_BELOW = "the Lipschitz constant C is known only from below"


class Units(NamedTuple):
    """What our numbers are multiplied by to be theirs.

    Attributes:
        step_size: gives ``eta_0``.
        kernel: gives Θ; the product with ``step_size`` is 1.
        distance: of parameters.
    """

    step_size: float
    kernel: float
    distance: float


def units(width: int, *, factors_inside: bool) -> Units:
    """From a network's own step size, kernel and distances to the paper's.

    Args:
        width: m.
        factors_inside: has the network its ``1/√m`` inside (scaling "ntk",
            ``TwoLayerReLU``), rather than in the size of its weights?
    """
    if factors_inside:
        return Units(1.0, 1.0, 1 / math.sqrt(width))
    return Units(float(width), 1.0 / width, 1.0)


def jacobian_constant(
    norm: float, slope: float, width: int, *, factors_inside: bool
) -> float:
    """``C``: both ``‖J(θ)‖ ≤ C √m`` and ``‖J(θ) − J(θ')‖ ≤ C √m ‖θ − θ'‖``.

    Frobenius norms, in the paper's units; that this is their C is recalled.

    Args:
        norm: largest ``‖J‖_F`` met, of the network as it is.
        slope: largest ``‖J(θ) − J(θ')‖_F / ‖θ − θ'‖`` met; 0 for a linear model.
        width: m.
        factors_inside: see :func:`units`.
    """
    root = math.sqrt(width)
    return max(norm, slope * root) if factors_inside else max(norm, slope) / root


def contraction_q(
    step_size: float, local_steps: int, lambda_min: float, n: int, lipschitz: float
) -> float:
    """``1 − eta_0 K λ_min/(3n) + (eta_0² K² C⁴ / 2) e^{eta_0 K C²}``.

    Args:
        step_size: ``eta_0``.
        local_steps: K.
        lambda_min: smallest eigenvalue of Θ.
        n: samples of all clients.
        lipschitz: C.

    Returns:
        The factor of the residual in a round, at infinite width; the theorem needs it
        below 1. Infinite where the exponential overflows.
    """
    product = step_size * local_steps
    x = product * lipschitz**2
    if x > 700:
        return math.inf
    return 1 - product * lambda_min / (3 * n) + x**2 / 2 * math.exp(x)


def zeta(
    step_size: float,
    local_steps: int,
    lipschitz: float,
    residual: float,
    width: int,
    q: float,
) -> float:
    """``2 eta_0 K C R_0 / (√m (1 − q))``: bound on ``Σ w_i ‖θ_i − θ̄‖``.

    Args:
        step_size: ``eta_0``.
        local_steps: K.
        lipschitz: C.
        residual: ``R_0``, at least ``‖f − y‖`` at the start.
        width: m.
        q: :func:`contraction_q`.

    Returns:
        In the paper's units; NaN where q is not below 1: no promise.
    """
    if not q < 1:
        return math.nan
    moved = 2 * step_size * local_steps * lipschitz * residual
    return moved / (math.sqrt(width) * (1 - q))


def width_slopes(
    widths: Iterable[Any],
    values: Mapping[str, Iterable[Any]],
    *,
    confidence: float = 0.95,
) -> list[Condition]:
    """Slopes of ``log value`` on ``log width`` against the −1/2 of ``O(m^{-1/2})``.

    Holds where a quantity surely falls at least so fast, fails where it surely falls
    more slowly; undecided where the interval contains −1/2, which agrees with it.

    Args:
        widths: three at least.
        values: by name, one number per width: kernel change, linearisation gap.
        confidence: of the t intervals.

    Raises:
        ValueError: as :func:`ntk_fed.theory.slopes.loglog_slope`.
    """
    widths = list(widths)
    return [
        _condition(
            f"slope of log {name} on log width",
            loglog_slope(widths, own, confidence=confidence), "<=",
            exact(EXPECTED_SLOPE), "", "undecided: the interval contains -1/2",
        )
        for name, own in values.items()
    ]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Measurements:
    """What the theorem's conditions are evaluated on; ``None`` where not measured.

    In the network's own units, but for ``lipschitz``.

    Attributes:
        n: samples of all clients.
        width: m, smallest hidden width; ``None`` for a network that has none.
        factors_inside: see :func:`units`.
        local_steps: K.
        step_size: in mean form.
        is_fedavg: squared loss, full batches, all clients, server step 1?
        inputs_bounded: are all inputs of norm at most 1?
        smallest: smallest eigenvalue of the tangent kernel, best of its limit.
        lipschitz: C, see :func:`jacobian_constant`.
        residual: ``R_0 = ‖f − y‖`` at the start.
        distance: largest ``Σ w_i ‖θ_i − θ̄‖`` before an averaging along the run.
        kernel_change: ``‖Θ_t − Θ_0‖ / ‖Θ_0‖``, largest along the run.
        linearisation_gap: ``‖f − f_lin‖ / ‖f_lin‖``, largest along the run.
    """

    n: int
    width: int | None
    factors_inside: bool
    local_steps: int
    step_size: float
    is_fedavg: bool
    inputs_bounded: bool
    smallest: Enclosure | None = None
    lipschitz: Enclosure | None = None
    residual: Enclosure | None = None
    distance: Enclosure | None = None
    kernel_change: Enclosure | None = None
    linearisation_gap: Enclosure | None = None


def check(found: Measurements) -> TheoremCheck:
    """The theorem's hypotheses, constants and conclusion on these measurements."""
    constants = _constants(found)
    bound, c = constants.get("zeta"), found.lipschitz
    open_above = c is not None and math.isinf(c.upper)
    return TheoremCheck(
        "jian2025.wide_limit",
        "In a wide network the clients' models stay within ζ = O(m^{-1/2}) of their "
        "average, and the kernel within O(m^{-1/2}) of its start.",
        SOURCE,
        STATUS,
        _hypotheses(found, constants),
        constants,
        _condition(
            "Σ w_i ‖θ_i − θ̄‖, worst along the run, against ζ",
            constants.get("distance of local models"), "<=", bound, "mean",
            f"{_FROM_BELOW}: its promise stays undecided" if open_above else
            "in the paper's units" if bound else "no promise unless q is below 1",
        ),
        why_not="" if found.width else "the network has no single hidden width",
    )  # fmt: skip


def _constants(found: Measurements) -> dict[str, Enclosure]:
    seen = {
        "C": found.lipschitz,
        "R_0": found.residual,
        "kernel change": found.kernel_change,
        "linearisation gap": found.linearisation_gap,
    }
    constants = {name: value for name, value in seen.items() if value is not None}
    if not found.width:
        return constants
    own = units(found.width, factors_inside=found.factors_inside)
    eta = own.step_size * found.step_size
    constants["eta_0"] = monotone(lambda v: v * own.step_size, exact(found.step_size))
    for name, value, factor in (
        ("λ_min of Θ", found.smallest, own.kernel),
        ("distance of local models", found.distance, own.distance),
    ):
        if value is not None:
            scaled = monotone(lambda v, by=factor: v * by, value)
            constants[name] = dataclasses.replace(scaled, note=value.note)
    smallest, c, k = constants.get("λ_min of Θ"), found.lipschitz, found.local_steps
    if smallest is None or c is None:
        return constants
    m, n = found.width, found.n
    q = monotone(lambda v, u: contraction_q(eta, k, v, n, u), smallest, c)
    constants["q"] = q
    if found.residual is not None and q.upper < 1:
        constants["zeta"] = monotone(
            lambda u, r, p: zeta(eta, k, u, r, m, p), c, found.residual, q
        )
    return constants


def _hypotheses(
    found: Measurements, constants: dict[str, Enclosure]
) -> list[Condition]:
    c = found.lipschitz
    return [
        _condition.yes(
            "algorithm is FedAvg (squared loss, full batches, all clients)",
            found.is_fedavg, "mean",
        ),
        _condition.yes("inputs of norm at most 1", found.inputs_bounded),
        _condition("λ_min of Θ", constants.get("λ_min of Θ"), ">", exact(0.0)),
        _condition(
            "q = 1 − eta_0 K λ_min/(3n) + (eta_0² K² C⁴/2) e^{eta_0 K C²}",
            constants.get("q"), "<", exact(1.0), "mean",
            f"{_FROM_BELOW}: this may fail, and never holds"
            if c is not None and math.isinf(c.upper) else "",
        ),
    ]  # fmt: skip
