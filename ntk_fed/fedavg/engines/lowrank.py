"""The weights of one dense layer at several clients, as what the clients learned.

Floor 4. Clients start a round from one weight ``W`` and differ by what they learn,

    W_i = W + Σ_s d_sᵀ a_s      (d: − step size × sensitivities, a: the layer's inputs)

which has low rank as long as few samples were seen. :class:`Rows` keeps the d of inputs
that stay the same (a first layer), summed over steps, and works in the space of those
samples' Gram matrix; :class:`Series` keeps all d and a one after another. Shapes as in
:mod:`weights`.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from ntk_fed.fedavg.engines.movement import Movement
from ntk_fed.fedavg.engines.scratch import FRESH, Place
from ntk_fed.fedavg.engines.weights import Weights, Where, taken


class Rows(Weights):
    """A first layer whose samples come again: their d summed, ``(c, u, out)``.

    Args:
        weight: where the round starts.
        x: the rows, ``(c, u, in)``; a row of zeros stands for none.
        gram: gives ``x xᵀ``, ``(c, u, u)``, when it is needed.
        before: ``x Wᵀ``, ``(c, u, out)``: what the round starts from.
    """

    def __init__(
        self,
        weight: Tensor,
        x: Tensor,
        gram: Callable[[], Tensor],
        before: Tensor,
        *,
        watched: bool,
        place: Place = FRESH,
    ) -> None:
        self.place = place
        self.weight, self.x, self.gram = weight, x, gram
        self.before = before
        self.d: Tensor | None = None
        self.watched = watched

    def forward(self, a: Tensor, where: Where) -> Tensor:
        """``x Wᵀ + (x xᵀ) d`` at the rows of the step."""
        before = taken(self.before, where)
        if self.d is None:
            return before.clone()
        return self.place.sum("forward", before, taken(self.gram(), where), self.d)

    def at(self, a: Tensor) -> Tensor:
        """``a Wᵀ + (a xᵀ) d``; what is known of the rows themselves is used."""
        if a is self.x:
            return self.forward(a, None)
        z = _times(a, self.weight)
        return z if self.d is None else z.baddbmm_(torch.bmm(a, self.x.mT), self.d)

    def backward(self, d: Tensor) -> Tensor:
        """Never called."""
        raise AssertionError("nothing lies below a first layer")

    def update(self, d: Tensor, a: Tensor, step_size: float, where: Where) -> None:
        """Add to the d of those rows."""
        if self.d is None:
            if where is None:
                self.d = d.mul(-step_size)
                return
            self.d = torch.zeros_like(self.before)
        elif self.watched:
            self.d = self.d.clone()
        if where is None:
            self.d.add_(d, alpha=-step_size)
        else:
            _add_rows(self.d, where, d, -step_size)

    def add_movement(self, total: Movement, share: Tensor) -> None:
        """``Σ dᵀ x``."""
        if self.d is not None:
            total.add_products(self.d, share[:, None, None] * self.x)

    def moved(self, i: int) -> Tensor:
        """``dᵀ x``."""
        if self.d is None:
            return torch.zeros_like(self.weight)
        return self.d[i].T @ self.x[i]


@dataclasses.dataclass
class _History:
    """All d and a of a round, filled step by step; d are yet to be scaled."""

    d: Tensor | None  # (c, r, out)
    a: Tensor | None  # (c, r, in)
    scale: float


class Series(Weights):
    """All d and a of the round, one step after another.

    Args:
        weight: where the round starts.
        clients: how many.
        rows: samples a client sees in the round, in all.
        x: the inputs of all steps where they are known beforehand (a first layer),
            ``(c, rows, in)``.
        before: their ``x Wᵀ``, ``(c, rows, out)``, which is overwritten.
    """

    def __init__(
        self,
        weight: Tensor,
        clients: int,
        rows: int,
        x: Tensor | None = None,
        before: Tensor | None = None,
    ) -> None:
        self.weight, self.clients, self.rows = weight, clients, rows
        self.history = _History(None, x, 1.0)
        self.before = before
        self.first = x is not None
        self.filled = 0

    def forward(self, a: Tensor, where: Where) -> Tensor:
        """``a Wᵀ + (a a_sᵀ) d_s`` over the steps s before."""
        if self.before is None:
            z = _times(a, self.weight)
        elif a.shape[1] == self.rows:
            z = self.before
        else:
            step = slice(self.filled, self.filled + a.shape[1])
            z = self.before[:, step].contiguous()
        return self._corrected(z, a)

    def at(self, a: Tensor) -> Tensor:
        """``a Wᵀ + (a a_sᵀ) d_s`` over all steps s so far."""
        return self._corrected(_times(a, self.weight), a)

    def _corrected(self, z: Tensor, a: Tensor) -> Tensor:
        if self.filled == 0:
            return z
        d, seen, scale = self._seen()
        return z.baddbmm_(torch.bmm(a, seen.mT), d, alpha=scale)

    def backward(self, d: Tensor) -> Tensor:
        """``d W + (d d_sᵀ) a_s`` over the steps s before."""
        da = (d.flatten(0, 1) @ self.weight).unflatten(0, d.shape[:2])
        if self.filled == 0:
            return da
        kept, seen, scale = self._seen()
        return da.baddbmm_(torch.bmm(d, kept.mT), seen, alpha=scale)

    def update(self, d: Tensor, a: Tensor, step_size: float, where: Where) -> None:
        """Append."""
        history, rows = self.history, d.shape[1]
        step = slice(self.filled, self.filled + rows)
        if rows == self.rows:  # the only step: nothing to put it behind
            self.history = _History(d, a, -step_size)
        else:
            if history.d is None:
                history.d = d.new_empty(self.clients, self.rows, d.shape[2])
            torch.mul(d, -step_size, out=history.d[:, step])
            if not self.first:
                if history.a is None:
                    history.a = a.new_empty(self.clients, self.rows, a.shape[2])
                history.a[:, step] = a
        self.filled += rows

    def add_movement(self, total: Movement, share: Tensor) -> None:
        """``Σ d_sᵀ a_s``."""
        d, a, scale = self._seen()
        total.add_products(d, (scale * share)[:, None, None] * a)

    def moved(self, i: int) -> Tensor:
        """``Σ d_sᵀ a_s``."""
        if self.filled == 0:
            return torch.zeros_like(self.weight)
        d, a, scale = self._seen()
        return scale * (d[i].T @ a[i])

    def _seen(self) -> tuple[Tensor, Tensor, float]:
        history = self.history
        assert history.d is not None
        assert history.a is not None
        filled = slice(self.filled)
        return history.d[:, filled], history.a[:, filled], history.scale


def _times(a: Tensor, weight: Tensor) -> Tensor:
    """``a Wᵀ`` of all clients in one product, ``(c, r, out)``."""
    return (a.flatten(0, 1) @ weight.T).unflatten(0, a.shape[:2])


def _add_rows(total: Tensor, where: slice | Tensor, d: Tensor, factor: float) -> None:
    """``total[i, where_ij] += factor · d_ij``; a row may be named more than once."""
    if isinstance(where, slice):
        total[:, where].add_(d, alpha=factor)
        return
    rows = torch.arange(len(total), device=total.device)[:, None] * total.shape[1]
    flat = (rows + where).flatten()
    total.flatten(0, 1).index_add_(0, flat, d.flatten(0, 1), alpha=factor)
