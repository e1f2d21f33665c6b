"""Drift and flips of all clients, cheap enough for every local step.

Floor 7.
"""

from collections.abc import Iterator

import torch

from ntk_fed import divergence as sides
from ntk_fed.data import Partition
from ntk_fed.fedavg import Objective
from ntk_fed.observers.common import (
    Moment,
    Observer,
    clients_data,
    due,
    moment_of,
    observer,
)
from ntk_fed.records import Row


@observer
def divergence(
    model: torch.nn.Module,
    partition: Partition,
    *,
    every: int = 1,
    loss: str = "squared",
    by_layer: bool = True,
) -> Observer:
    """Gradient drift and flips local-averaged of every client, by passes over all.

    The numbers of ``gradient_drift`` and ``flips`` by these names, without their other
    rows. Dense networks run by their own engine are watched without forming a client's
    parameters; any other network one client after the other.

    Args:
        model: network returning ``(n, o)``.
        partition: the data and who holds it.
        every: rounds between two measurements.
        loss: as the run has it.
        by_layer: rows of single layers too.

    Cost: about two forward and backward passes over the clients' samples each time.

    Source: THEORY section 10.
    """
    objective, data = Objective.of(model, loss), clients_data(partition)

    def observe(moment: Moment) -> Iterator[Row]:
        if not due(moment, every):
            return
        own = [data[i] for i in moment.clients]
        found = sides.divergence(objective, own, moment.locals, moment.weights)
        t, k = moment_of(moment)
        drift = {None: found.gradient_drift}
        flips = {None: found.flipped()} if found.flips else {}
        if by_layer:
            drift |= {name: squares.sqrt() for name, squares in found.drift.items()}
            if len(found.flips) > 1:
                flips |= {name: found.flipped(name) for name in found.flips}
        held = [len(x) > 0 for x, _ in own]
        for layer, values in drift.items():
            for i, value in zip(moment.clients, values.tolist(), strict=True):
                yield Row(t, k, i, layer, "gradient drift", value)
        for layer, values in flips.items():
            for i, value, any_ in zip(
                moment.clients, values.tolist(), held, strict=True
            ):
                if any_:
                    yield Row(t, k, i, layer, "flips local-averaged", value)

    return observe
