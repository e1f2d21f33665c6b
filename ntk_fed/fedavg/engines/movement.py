"""The sum that the server needs of what clients learned.

Floor 4.
"""

import torch
from torch import Tensor


class Movement:
    """A sum of ``dᵀ a`` over many groups, multiplied in few large products."""

    _ENOUGH = 256  # rows

    def __init__(self, like: Tensor) -> None:
        self.total = torch.zeros_like(like)
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._rows = 0

    def add_products(self, d: Tensor, a: Tensor) -> None:
        """``total += Σ_i d_iᵀ a_i``, now or later, for ``(c, r, out)``, ``(c, r, in)``.

        Where features lie before samples nothing is moved to bring clients together.
        """
        if not d.is_contiguous() and d.mT.is_contiguous():
            self.total.addbmm_(d.mT, a)
            return
        self._waiting.append((d.flatten(0, 1), a.flatten(0, 1)))
        self._rows += d.shape[:2].numel()
        if self._rows >= self._ENOUGH:
            self._multiply()

    def finished(self) -> Tensor:
        """The sum, ``(out, in)``."""
        self._multiply()
        return self.total

    def _multiply(self) -> None:
        if self._waiting:
            left, right = (
                parts[0] if len(parts) == 1 else torch.cat(parts)
                for parts in zip(*self._waiting, strict=True)
            )
            self.total.addmm_(left.T, right)
        self._waiting, self._rows = [], 0
