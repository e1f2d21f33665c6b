"""Results of one local step in memory that the next one uses again, in either order.

Floor 4. Fresh pages cost more than many of the products written to them: without this
a quarter of a round of large layers is the system's work.
"""

import math
from collections.abc import Hashable

import torch
from torch import Tensor


class Scratch:
    """Memory by name, as large as was ever asked for under that name."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, Tensor] = {}

    def take(self, name: Hashable, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Memory of that shape, with what was left in it."""
        size = math.prod(shape)
        found = self._kept.get(name)
        if found is None or len(found) < size:
            found = self._kept[name] = like.new_empty(size)
        return found[:size].view(shape)


class Place:
    """Where one layer's products go.

    Args:
        columns: lay a result ``(c, b, out)`` out in memory as ``(c, out, b)``.
        scratch: memory to use again; ``None`` is new memory for every result.
        name: of the layer.
    """

    def __init__(
        self,
        *,
        columns: bool = False,
        scratch: Scratch | None = None,
        name: Hashable = None,
    ) -> None:
        self.columns, self.scratch, self.name = columns, scratch, name

    def product(self, role: str, a: Tensor, b: Tensor) -> Tensor:
        """``a b`` of every client, ``(c, ·, ·)``."""
        if self.columns:
            return torch.bmm(b.mT, a.mT, out=self._out(role, b.mT, a.mT)).mT
        return torch.bmm(a, b, out=self._out(role, a, b))

    def sum(self, role: str, base: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """``base + a b`` of every client."""
        if self.columns:
            out = self._out(role, b.mT, a.mT)
            return torch.baddbmm(base.mT, b.mT, a.mT, out=out).mT
        return torch.baddbmm(base, a, b, out=self._out(role, a, b))

    def _out(self, role: str, a: Tensor, b: Tensor) -> Tensor | None:
        if self.scratch is None:
            return None
        shape = (a.shape[0], a.shape[1], b.shape[2])
        return self.scratch.take((self.name, role), shape, a)


FRESH = Place()
