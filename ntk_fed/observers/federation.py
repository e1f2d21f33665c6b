"""Loss, gradients and how far clients drift apart.

Floor 7.
"""

from collections.abc import Callable, Iterator

import torch

from ntk_fed import drift
from ntk_fed.data import Partition
from ntk_fed.fedavg import Objective
from ntk_fed.observers.common import (
    Moment,
    Observer,
    clients_data,
    global_models,
    local_models,
    moment_of,
    observer,
)
from ntk_fed.records import Row


@observer
def loss(
    model: torch.nn.Module,
    partition: Partition,
    *,
    every: int = 1,
    loss: str = "squared",
    weights: str = "samples",
) -> Observer:
    """Training loss ``F = Σ w_i F_i`` and residual norm ``‖f − y‖``, mean form.

    Class labels have no residual.

    Cost: one forward pass over the data each time.
    """
    objective, data = Objective.of(model, loss), clients_data(partition)
    w = partition.weights(weights).tolist()
    residual = partition.dataset.y.is_floating_point()

    def observe(moment: Moment) -> Iterator[Row]:
        for t, params in global_models(moment, every):
            total, squares = 0.0, 0.0
            for (x, y), weight in zip(data, w, strict=True):
                if len(x):
                    outputs = objective.outputs(params, x)
                    total += weight * objective.sample_losses(outputs, y).mean().item()
                    if y.shape == outputs.shape:
                        squares += (outputs - y).square().sum().item()
            yield Row(t, None, None, None, "loss", total)
            if residual:
                yield Row(t, None, None, None, "residual norm", squares**0.5)

    return observe


@observer
def consensus_error(
    model: torch.nn.Module, partition: Partition, *, every: int = 1
) -> Observer:
    """``Σ w_i ‖θ_i − θ̄‖²`` before each averaging, and at local steps if yielded."""

    def observe(moment: Moment) -> Iterator[Row]:
        found = local_models(moment, every)
        if found is not None:
            t, k = moment_of(moment)
            value = drift.consensus_error(moment.start, found, moment.weights)
            yield Row(t, k, None, None, "consensus error", value)

    return observe


@observer
def gradient_drift(
    model: torch.nn.Module,
    partition: Partition,
    *,
    every: int = 1,
    loss: str = "squared",
) -> Observer:
    """Gradient drift per client and layer, relative, and of the aggregate.

    Cost: two gradients per client each time.
    """
    objective, data = Objective.of(model, loss), clients_data(partition)

    def observe(moment: Moment) -> Iterator[Row]:
        found = local_models(moment, every)
        if found is None:
            return
        t, k = moment_of(moment)
        own = [data[i] for i in moment.clients]
        gaps = drift.gradient_drift(objective, own, moment.start, found, moment.weights)
        for j, i in enumerate(moment.clients):
            yield Row(t, k, i, None, "gradient drift", gaps.by_client[j])
            yield Row(t, k, i, None, "relative gradient drift", gaps.relative[j])
            for layer, values in gaps.by_layer.items():
                yield Row(t, k, i, layer, "gradient drift", values[j])
        yield Row(t, k, None, None, "aggregate gradient drift", gaps.aggregate)

    return observe


@observer
def gradient_dissimilarity(
    model: torch.nn.Module,
    partition: Partition,
    *,
    every: int = 1,
    loss: str = "squared",
    weights: str = "samples",
) -> Observer:
    """``Σ w_i‖∇F_i‖² / ‖∇F‖²`` at the global model.

    Cost: one gradient per client each time.
    """
    return _pooled(
        model, partition, every, loss, weights,
        "gradient dissimilarity", lambda found: found.dissimilarity,
    )  # fmt: skip


@observer
def pl_constant(
    model: torch.nn.Module,
    partition: Partition,
    *,
    every: int = 1,
    loss: str = "squared",
    weights: str = "samples",
) -> Observer:
    """Local PL constant ``‖∇F‖²/(2F)`` at the global model.

    Never below ``λ_min(D^½ΘD^½)`` at the same parameters. Cost: one gradient per client
    each time.
    """
    return _pooled(
        model, partition, every, loss, weights,
        "local PL constant", lambda found: found.pl_constant,
    )  # fmt: skip


def _pooled(
    model: torch.nn.Module,
    partition: Partition,
    every: int,
    loss: str,
    weights: str,
    quantity: str,
    value: Callable[[drift.PooledGradient], float],
) -> Observer:
    """A number that all clients' gradients at the global model give."""
    objective, data = Objective.of(model, loss), clients_data(partition)
    w = partition.weights(weights)

    def observe(moment: Moment) -> Iterator[Row]:
        for t, params in global_models(moment, every):
            found = drift.pooled_gradient(objective, data, params, w)
            yield Row(t, None, None, None, quantity, value(found))

    return observe
