"""What an engine for dense networks leaves: clients whose weights are factors.

Floor 4.
"""

import dataclasses

import torch
from torch import Tensor

from ntk_fed.fedavg.engines.chain import Chain
from ntk_fed.fedavg.engines.movement import Movement
from ntk_fed.fedavg.engines.samples import Samples
from ntk_fed.fedavg.engines.weights import Weights
from ntk_fed.fedavg.locals import Locals
from ntk_fed.params import Params, squared_norm


@dataclasses.dataclass(frozen=True)
class Left:
    """What a group leaves.

    Attributes:
        part: positions of its clients.
        start: parameters at the round's start.
        weights: of the layers that are trained, in their forms.
        biases: that are trained, ``(c, out)``.
        full: the clients' samples, if every step was the full batch.
    """

    part: list[int]
    start: Params
    weights: dict[str, Weights]
    biases: Params
    full: Samples | None

    def client(self, i: int) -> Params:
        """Parameters of the i-th client of the group."""
        moved = self.moved(i)
        return {
            name: value + moved[name] if name in moved else value
            for name, value in self.start.items()
        }

    def moved(self, i: int) -> Params:
        """What of its parameters moved, and by how much."""
        moved = {name: own.moved(i) for name, own in self.weights.items()}
        return moved | {k: v[i] - self.start[k] for k, v in self.biases.items()}

    def add_movement(self, totals: dict[str, Movement], weights: Tensor) -> None:
        """Add the group's share, ``weights`` those of all clients."""
        share = weights[self.part]
        for name, own in self.weights.items():
            own.add_movement(totals[name], share)
        for name, values in self.biases.items():
            totals[name].total += share @ (values - self.start[name])


class Factored(Locals):
    """The clients of a round by groups, their weights in whatever form they are."""

    def __init__(
        self,
        chain: Chain,
        state: Params,
        groups: list[Left],
        start: Params,
        clients: int,
    ) -> None:
        self.chain, self.state, self.start = chain, state, start
        self._where: dict[int, tuple[Left, int]] = {
            i: (group, k) for group in groups for k, i in enumerate(group.part)
        }
        self.groups, self._clients = groups, clients

    def __getitem__(self, name: str) -> Tensor:
        """All clients' values of one parameter, ``(c, *shape)``."""
        return torch.stack([self.client(i)[name] for i in range(self._clients)])

    def client(self, position: int) -> Params:
        """The client at that position; one without samples is at the start."""
        if position not in self._where:
            return self.start
        group, k = self._where[position]
        return group.client(k)

    def movement(self, weights: Tensor) -> Params:
        """From the factors, in few products."""
        totals = {name: Movement(value) for name, value in self.start.items()}
        for group in self.groups:
            origin = next(iter(self.start.values()))
            group.add_movement(totals, weights.to(origin))
        return {name: total.finished() for name, total in totals.items()}

    def squared_movements(self) -> Tensor:
        """One client after the other."""
        found = torch.zeros(self._clients, dtype=torch.float64)
        for i, (group, k) in self._where.items():
            found[i] = squared_norm(group.moved(k))
        return found
