"""Local models against the averaged one: parameters and gradients.

Floor 5. Definitions are those of the
vocabulary: the averaged model is ``θ̄ = Σ w_i θ_i``, at every iteration.
"""

import dataclasses
import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from ntk_fed.fedavg.local import Objective
from ntk_fed.fedavg.server import average
from ntk_fed.measured import ratio
from ntk_fed.params import Params, difference, squared_norm, zeros_like

Data = Sequence[tuple[Tensor, Tensor]]


def consensus_error(
    start: Params, locals_: Sequence[Params], weights: Float[Tensor, " c"]
) -> float:
    """``Σ w_i ‖θ_i − θ̄‖²``, squared parameter units.

    Args:
        start: any point near the local models, such as the round's start: averages sum
            differences from it.
        locals_: parameters of each client.
        weights: their weights, summing to 1.
    """
    middle = average(start, locals_, weights)
    pairs = zip(locals_, weights.tolist(), strict=True)
    return sum(w * squared_norm(difference(own, middle)) for own, w in pairs)


@dataclasses.dataclass(frozen=True)
class GradientDrift:
    """Gradients of the clients' losses at their own models and at the averaged one.

    Attributes:
        by_client: ``‖∇F_i(θ_i) − ∇F_i(θ̄)‖`` of each client.
        by_layer: the same for each parameter, one list per name.
        relative: ``by_client`` over ``‖∇F_i(θ̄)‖``; NaN where that is 0.
        aggregate: ``‖Σ w_i ∇F_i(θ_i) − ∇F(θ̄)‖``.
        displacement: ``‖θ_i − θ̄‖`` of each client.
        displacement_by_layer: the same for each parameter.
        loss: ``F_i(θ̄)`` of each client.
    """

    by_client: list[float]
    by_layer: dict[str, list[float]]
    relative: list[float]
    aggregate: float
    displacement: list[float]
    displacement_by_layer: dict[str, list[float]]
    loss: list[float]


def gradient_drift(
    objective: Objective,
    data: Data,
    start: Params,
    locals_: Sequence[Params],
    weights: Float[Tensor, " c"],
) -> GradientDrift:
    """How far local gradients are from gradients at the averaged model.

    Args:
        objective: the loss of a network.
        data: inputs and targets of each client, in the order of ``locals_``.
        start: a point near the local models.
        locals_: parameters of each client.
        weights: their weights, summing to 1.

    Cost:
        Two gradients per client; memory three parameter vectors.

    Source:
        Deng, Kamani, Mahdavi (2022), arXiv:2107.10868, the quantity its key lemma
        bounds (as the abstract states).
    """
    middle = average(start, locals_, weights)
    by_layer: dict[str, list[float]] = {name: [] for name in start}
    moved_by_layer: dict[str, list[float]] = {name: [] for name in start}
    by_client, relative, displacement, loss = [], [], [], []
    total = zeros_like(start)
    for (x, y), own, weight in zip(data, locals_, weights.tolist(), strict=True):
        value, at_middle = objective.value_and_gradient(middle, x, y)
        loss.append(value)
        moved = difference(own, middle)
        displacement.append(math.sqrt(squared_norm(moved)))
        for name, value in moved.items():
            moved_by_layer[name].append(value.norm().item())
        gap = difference(objective.gradient(own, x, y), at_middle)
        for name, value in gap.items():
            by_layer[name].append(value.norm().item())
            total[name].add_(value, alpha=weight)
        by_client.append(math.sqrt(squared_norm(gap)))
        relative.append(ratio(by_client[-1], math.sqrt(squared_norm(at_middle))))
    return GradientDrift(
        by_client,
        by_layer,
        relative,
        math.sqrt(squared_norm(total)),
        displacement,
        moved_by_layer,
        loss,
    )


@dataclasses.dataclass(frozen=True)
class PooledGradient:
    """Gradients of all clients at one point.

    Attributes:
        loss: ``F = Σ w_i F_i``.
        squared_norm: ``‖∇F‖²``.
        mean_squared_norm: ``Σ w_i ‖∇F_i‖²``.
    """

    loss: float
    squared_norm: float
    mean_squared_norm: float

    @property
    def dissimilarity(self) -> float:
        """``Σ w_i‖∇F_i‖² / ‖∇F‖²``: 1 for identical clients; NaN at a zero gradient."""
        return ratio(self.mean_squared_norm, self.squared_norm)

    @property
    def pl_constant(self) -> float:
        """``‖∇F‖² / (2F)``, the local Polyak-Łojasiewicz constant; NaN at zero loss."""
        return ratio(self.squared_norm, 2 * self.loss)


def pooled_gradient(
    objective: Objective, data: Data, params: Params, weights: Float[Tensor, " c"]
) -> PooledGradient:
    """Loss and gradients of every client at one point.

    Cost:
        One gradient per client.
    """
    total = zeros_like(params)
    loss, mean = 0.0, 0.0
    for (x, y), weight in zip(data, weights.tolist(), strict=True):
        value, gradient = objective.value_and_gradient(params, x, y)
        loss += weight * value
        mean += weight * squared_norm(gradient)
        for name, value in gradient.items():
            total[name].add_(value, alpha=weight)
    return PooledGradient(loss, squared_norm(total), mean)
