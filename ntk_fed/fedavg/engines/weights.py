"""The weights of one dense layer at several clients: what every form of them can do.

Floor 4. :class:`Explicit` keeps each client's weight itself, :class:`Shared` is frozen;
:mod:`lowrank` has the forms that keep what clients learned. All are exact.

Shapes: ``c`` clients, ``b`` samples of a step, ``u`` rows kept, ``(out, in)`` the
layer.
"""

import abc
import copy

import torch
from jaxtyping import Float
from torch import Tensor

from ntk_fed.fedavg.engines.movement import Movement
from ntk_fed.fedavg.engines.scratch import FRESH, Place

Where = slice | Tensor | None  # rows of a step: a range, ``(c, b)`` numbers, or all


class Weights(abc.ABC):
    """One layer's weights at the clients of a group."""

    trained = True
    place = FRESH

    @abc.abstractmethod
    def forward(self, a: Tensor, where: Where) -> Float[Tensor, "c b out"]:
        """``a W_iᵀ``; a first layer in the space of its samples ignores ``a``."""

    @abc.abstractmethod
    def backward(self, d: Float[Tensor, "c b out"]) -> Float[Tensor, "c b in"]:
        """``d W_i``."""

    @abc.abstractmethod
    def update(self, d: Tensor, a: Tensor, step_size: float, where: Where) -> None:
        """``W_i ← W_i − step_size · dᵀ a``."""

    @abc.abstractmethod
    def add_movement(self, total: Movement, share: Float[Tensor, " c"]) -> None:
        """Add ``Σ share_i (W_i − W)`` to a total."""

    @abc.abstractmethod
    def moved(self, i: int) -> Float[Tensor, "out in"]:
        """``W_i − W``."""

    def at(self, a: Float[Tensor, "c r in"]) -> Float[Tensor, "c r out"]:
        """``a W_iᵀ`` at any inputs, those of a step or not."""
        return self.forward(a, None)

    def kept(self) -> "Weights":
        """As they are now, whatever is updated later; results in memory of their own.

        What is watched is never overwritten.
        """
        found = copy.copy(self)
        found.place = FRESH
        return found


class Shared(Weights):
    """A weight that is the same at all clients and never moves."""

    trained = False

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def forward(self, a: Tensor, where: Where) -> Tensor:
        """``a Wᵀ``."""
        return a @ self.weight.T

    def backward(self, d: Tensor) -> Tensor:
        """``d W``."""
        return d @ self.weight

    def update(self, d: Tensor, a: Tensor, step_size: float, where: Where) -> None:
        """Never called."""
        raise AssertionError("a frozen weight was updated")

    def add_movement(self, total: Movement, share: Tensor) -> None:
        """Nothing."""

    def moved(self, i: int) -> Tensor:
        """Zero."""
        return torch.zeros_like(self.weight)


class Explicit(Weights):
    """Each client's own weight, ``(c, out, in)``."""

    def __init__(
        self, weight: Tensor, clients: int, *, watched: bool, place: Place = FRESH
    ) -> None:
        self.place = place
        self.start = weight
        self.own = weight.expand(clients, *weight.shape)
        self.mine = False  # nobody else's memory: it may be overwritten
        self.watched = watched

    def forward(self, a: Tensor, where: Where) -> Tensor:
        """``a W_iᵀ``, one product per client."""
        return self.place.product("forward", a, self.own.mT)

    def backward(self, d: Tensor) -> Tensor:
        """``d W_i``."""
        return self.place.product("backward", d, self.own)

    def update(self, d: Tensor, a: Tensor, step_size: float, where: Where) -> None:
        """In place, unless somebody keeps what was there."""
        if self.mine:
            self.own.baddbmm_(d.mT, a, alpha=-step_size)
            return
        self.own = torch.baddbmm(self.own, d.mT, a, alpha=-step_size)
        self.mine = not self.watched

    def add_movement(self, total: Movement, share: Tensor) -> None:
        """From the differences."""
        gaps = (self.own - self.start).flatten(1)
        total.total.view(-1).addmv_(gaps.T, share)

    def moved(self, i: int) -> Tensor:
        """The difference."""
        return self.own[i] - self.start


def taken(values: Tensor, where: Where) -> Tensor:
    """Rows ``(c, b, …)`` of ``(c, u, …)``."""
    if where is None:
        return values
    if isinstance(where, slice):
        return values[:, where]
    clients = torch.arange(len(values), device=values.device)[:, None]
    return values[clients, where]
