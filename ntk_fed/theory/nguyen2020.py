r"""Nguyen, Mondelli (2020): gradient descent on one wide layer and a pyramid after it.

Floor 6: numbers in, numbers out. The theorem is recalled and was derived again in this
project, where every constant agreed: its status is *derived*. Network: that of
:mod:`~ntk_fed.theory.pyramid` with ``n_1 ≥ n``, ``n_2 ≥ … ≥ n_L``; no ReLU.

Sum form: ``Φ = ½ ‖F_L − Y‖²`` with step size ``eta_sum``; for the pooled mean loss
``eta_mean = n · eta_sum``.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from ntk_fed.measured import Enclosure, exact
from ntk_fed.theory.condition import Condition, Stated, TheoremCheck
from ntk_fed.theory.pyramid import Start, divided, furthest

SOURCE = "Nguyen, Mondelli (2020), arXiv:2002.07867, derived again"
STATUS = "derived"
_condition = Stated(SOURCE, STATUS)


@dataclasses.dataclass(frozen=True)
class Conditions:
    """N1 and N2, both sides of each, and what they promise.

    Attributes:
        left1: ``λ_F²``.
        right1: what N1 asks of it.
        left2: ``λ_F³``.
        right2: what N2 asks of it.
        alpha0: ``‖∇Φ‖² ≥ 2 α₀ Φ`` on the region.
    """

    left1: Enclosure
    right1: Enclosure
    left2: Enclosure
    right2: Enclosure
    alpha0: Enclosure

    @property
    def ratios(self) -> tuple[float, float]:
        """Left over right of N1 and of N2, each at its pessimistic end."""
        return (
            divided(self.left1.lower, self.right1.upper),
            divided(self.left2.lower, self.right2.upper),
        )

    def demanding(self, factor: float) -> "Conditions":
        """The same with both right sides times ``factor``."""
        one, two = self.right1.scaled(factor), self.right2.scaled(factor)
        return dataclasses.replace(self, right1=one, right2=two)


def conditions(start: Start) -> Conditions:
    r"""N1, N2 and :math:`\alpha_0` at the start.

    .. math::
        \lambda_F^2 &\ge \frac{\gamma^4}{3}\Big(\frac{6}{\gamma^2}\Big)^L \|X\|_F
        \sqrt{2\Phi_0}\,\frac{\bar\lambda_{3\to L}}{\lambda_{3\to L}^2} \max\Big(
        \frac{2\bar\lambda_1\bar\lambda_2}{\min_{l\ge3}\lambda_l\bar\lambda_l},
        \bar\lambda_1, \bar\lambda_2\Big) \\
        \lambda_F^3 &\ge \frac{2\gamma^4}{3}\Big(\frac{6}{\gamma^2}\Big)^L \|X\|_2
        \|X\|_F\sqrt{2\Phi_0}\,\frac{\bar\lambda_{3\to L}}{\lambda_{3\to L}^2}
        \bar\lambda_2 \\
        \alpha_0 &= \frac{4}{\gamma^4}\Big(\frac{\gamma^2}{4}\Big)^L \lambda_F^2
        \lambda_{3\to L}^2

    Together: :func:`displacement_bounds` do not exceed ``start.radii``.
    """
    depth, gamma, bars = len(start.largest), start.gamma, start.bars
    tail = math.prod(start.smallest[2:]) ** 2
    pairs = zip(start.smallest[2:], bars[2:], strict=True)
    steepest = max(divided(2 * bars[0] * bars[1], low * high) for low, high in pairs)
    growth = gamma**4 / 3 * (6 / gamma**2) ** depth
    common = growth * start.x_frobenius * start.residual * math.prod(bars[2:])
    rate = 4 / gamma**4 * (gamma**2 / 4) ** depth
    need1 = need2 = 0.0
    if common:
        need1 = divided(common, tail) * max(steepest, bars[0], bars[1])
        need2 = divided(2 * common * start.x_norm * bars[1], tail)

    alpha0 = rate * start.features**2 * tail
    sides = (start.features**2, need1, start.features**3, need2, alpha0)
    # None of the five has more than 3 L factors that carry an error.
    return Conditions(*(_within(side, start.error, 3 * depth) for side in sides))


def displacement_bounds(start: Start) -> tuple[float, ...]:
    """``2 ‖X‖_F √(2Φ₀) (3/2)^(L−1) Π_{j≠l} λ̄_j / α₀``: how far each layer may move."""
    alpha0, bars = conditions(start).alpha0.value, start.bars
    size = 2 * start.x_frobenius * start.residual * 1.5 ** (len(bars) - 1)
    others = [math.prod(bars[:i] + bars[i + 1 :]) for i in range(len(bars))]
    return tuple(divided(size * other, alpha0) for other in others)


def loss_bound(
    initial: float, alpha0: float, n: int, step_size: float, steps: np.ndarray
) -> Float[np.ndarray, " k"]:
    """``(1 − eta_sum α₀)^k`` times the initial loss, for gradient descent.

    Args:
        initial: loss at the start, of either form.
        alpha0: of the sum form.
        n: samples.
        step_size: in mean form.
        steps: numbers of gradient steps ``k``, ``(k,)``.

    Returns:
        The promise after each number of steps; NaN where ``eta_sum α₀ > 1``.
    """
    factor = 1 - step_size / n * alpha0
    return initial * (factor if factor >= 0 else math.nan) ** np.asarray(steps, float)


def certified_scale(
    ratios: Callable[[float], tuple[float, float]],
    wanted: float = 1.0,
    *,
    exponents: Sequence[int] = range(13),
) -> float:
    """The smallest power of ten for which N1 and N2 hold with room to spare.

    Args:
        ratios: left over right of N1 and N2 at a scale of the layers from the third on.
        wanted: what both ratios are to reach.
        exponents: of ten, ascending.

    Raises:
        ValueError: none of these scales does.
    """
    best = -math.inf
    for exponent in exponents:
        found = min(ratios(10.0**exponent))
        if found >= wanted:
            return 10.0**exponent
        best = max(best, found)
    raise ValueError(
        f"exponents {list(exponents)} hold no power of ten that brings N1 and N2 to "
        f"{wanted:.3g}; the best reaches {best:.3g}. Is W_2 = 0, and the first layer "
        "at least as wide as there are samples?"
    )


@dataclasses.dataclass(frozen=True)
class Measurements:
    """What the theorem's conditions are evaluated on; ``None`` where not measured.

    Attributes:
        n: samples.
        widths: ``n_1 … n_L``; empty where the network is no chain of layers.
        step_size: in mean form.
        is_pyramid: dense layers without biases, squared loss, smooth leaky ReLU?
        is_gradient_descent: one full-batch step, weights n_i/n, server step 1?
        start: numbers of the network at the start.
        smoothness: Q, of ``Φ`` on the region, in sum form.
        displacements: largest ``‖W_l − W_l⁰‖_F`` of the average along the run; no
            upper bound where a round was not seen.
        worst_ratio: largest loss over promised loss along the run.
    """

    n: int
    widths: tuple[int, ...]
    step_size: float
    is_pyramid: bool
    is_gradient_descent: bool
    start: Start | None = None
    smoothness: Enclosure | None = None
    displacements: tuple[Enclosure, ...] | None = None
    worst_ratio: Enclosure | None = None


def check(found: Measurements) -> TheoremCheck:
    """The theorem's hypotheses, constants and conclusion on these measurements.

    The region is no hypothesis: it is part of the proof that the iterates stay in it.
    Where displacements were measured they are held against it all the same.
    """
    asked = None if found.start is None else conditions(found.start)
    return TheoremCheck(
        "nguyen2020.gradient_descent",
        "With one layer at least as wide as there are samples and a pyramid after it, "
        "gradient descent brings the loss to zero at the rate 1 − eta α₀ per step.",
        SOURCE,
        STATUS,
        [
            _condition("layers", exact(float(len(found.widths))), ">=", exact(3.0)),
            *shape(found.n, found.widths, _condition),
            _condition.yes(
                "algorithm is gradient descent (K = 1, weights n_i/n, server step 1)",
                found.is_gradient_descent,
            ),
            *inequalities(asked, _condition),
            _step_size(found),
            *inside(found.start, found.displacements, _condition),
        ],
        constants(found.start),
        _condition(
            "loss / promised loss, worst along the run",
            found.worst_ratio, "<=", exact(1.0), "sum",
            "" if found.is_gradient_descent else "k = K·t steps of gradient descent",
        ),
        why_not=""
        if found.is_pyramid
        else "the network is no models.Pyramid with a smooth leaky ReLU, trained on "
        "the squared loss; ReLU is not covered",
    )  # fmt: skip


def shape(
    n: int, widths: tuple[int, ...], stated: Stated, *, first: int = 2
) -> list[Condition]:
    """One wide layer, and widths that do not increase from layer ``first`` on."""
    widest = growth = None
    if widths:
        widest = exact(float(widths[0]))
        steps = [
            after / before for before, after in itertools.pairwise(widths[first - 1 :])
        ]
        growth = exact(max(steps, default=0.0))
    return [
        stated(
            "width of the first layer against the number of samples",
            widest, ">=", exact(float(n)), "",
        ),
        stated(
            f"largest growth of a width from layer {first} on",
            growth, "<=", exact(1.0), "",
        ),
    ]  # fmt: skip


def inequalities(asked: Conditions | None, stated: Stated) -> list[Condition]:
    """N1 and N2."""
    sides = (None,) * 4
    if asked is not None:
        sides = (asked.left1, asked.right1, asked.left2, asked.right2)
    return [
        stated("N1: λ_F²", sides[0], ">=", sides[1], "sum"),
        stated("N2: λ_F³", sides[2], ">=", sides[3], "sum"),
    ]


def inside(
    start: Start | None, moved: tuple[Enclosure, ...] | None, stated: Stated
) -> list[Condition]:
    """Did the averages stay in the region? Nothing where that was not measured."""
    if start is None or moved is None:
        return []
    ends = ([getattr(one, end) for one in moved] for end in ("value", "lower", "upper"))
    # A norm of differences of float64 weights is far inside 1e-12 of itself; the radii
    # carry the error of the start.
    value, low, high = (
        _within(furthest(end, start.radii), start.error + 1e-12, 2) for end in ends
    )
    left = dataclasses.replace(value, lower=low.lower, upper=high.upper)
    unseen = any(math.isinf(one.upper) for one in moved)
    return [
        stated(
            "‖W_l − W_l⁰‖_F / R_l of the average, largest along the run",
            left, "<=", exact(1.0), "",
            "not every round was seen" if unseen else "",
        )
    ]  # fmt: skip


def constants(start: Start | None) -> dict[str, Enclosure]:
    """What the theorem's constants come to."""
    if start is None:
        return {}
    asked = conditions(start)
    return {
        "λ_F": _within(start.features, start.error, 1),
        "alpha0": asked.alpha0,
    } | {
        f"radius of layer {i}": _within(radius, start.error, 2)
        for i, radius in enumerate(start.radii, 1)
    }


def _step_size(found: Measurements) -> Condition:
    limit, q = None, found.smoothness
    if q is not None:
        lower, upper = divided(found.n, q.upper), divided(found.n, max(q.lower, 0.0))
        limit = Enclosure(divided(found.n, q.value), lower, upper, method=q.method)
    name = "step size against n / Q, Q the smoothness of Φ on the region"
    return _condition(name, exact(found.step_size), "<=", limit, "mean")


def _within(value: float, error: float, powers: int) -> Enclosure:
    """A product of that many factors, each known up to a relative error."""
    if error >= 1:
        return Enclosure(value, 0.0, math.inf, method="lost in rounding")
    factor = (1 - error) ** powers
    return Enclosure(value, value * factor, value / factor, method="rounding")
