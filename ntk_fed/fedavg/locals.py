"""What a round leaves at the clients: their parameters, stacked only when asked for.

Floor 4. An engine may keep factors instead of parameters; what everyone needs of them,
their weighted movement and its size, is then computed from the factors.
"""

import abc
from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ntk_fed.params import Params, squared_norm


class Locals(Mapping[str, Tensor], abc.ABC):
    """Parameters of the clients of a round: name -> ``(c, *shape)``.

    Attributes:
        start: parameters at the round's start.
    """

    start: Params

    @abc.abstractmethod
    def client(self, position: int) -> Params:
        """The parameters of the client at that position, without stacking."""

    @abc.abstractmethod
    def movement(self, weights: Float[Tensor, " c"]) -> Params:
        """``Σ w_i (θ_i − θ)`` from the round's start θ: a sum of differences."""

    @abc.abstractmethod
    def squared_movements(self) -> Float64[Tensor, " c"]:
        """``‖θ_i − θ‖²`` of each client."""

    def __iter__(self) -> Iterator[str]:
        """Names of the parameters."""
        return iter(self.start)

    def __len__(self) -> int:
        """Number of parameters (names, not entries)."""
        return len(self.start)


class Stacked(Locals):
    """Parameters that are there, one dictionary for each client."""

    def __init__(self, clients: Sequence[Params], start: Params) -> None:
        self._clients = clients
        self.start = start

    def __getitem__(self, name: str) -> Tensor:
        """All clients' values of one parameter, ``(c, *shape)``."""
        return torch.stack([params[name] for params in self._clients])

    def client(self, position: int) -> Params:
        """The parameters of the client at that position."""
        return self._clients[position]

    def movement(self, weights: Float[Tensor, " c"]) -> Params:
        """One client after the other."""
        moved = {}
        for name, origin in self.start.items():
            total = torch.zeros_like(origin)
            for own, weight in zip(self._clients, weights.tolist(), strict=True):
                total.add_(own[name] - origin, alpha=weight)
            moved[name] = total
        return moved

    def squared_movements(self) -> Float64[Tensor, " c"]:
        """One client after the other."""
        found = [
            squared_norm({k: v - self.start[k] for k, v in own.items()})
            for own in self._clients
        ]
        return torch.tensor(found, dtype=torch.float64)
