"""The dense layer all networks here are made of, and the checks they share.

Floor 2: imports torch, ``errors`` and ``seeds`` only.
"""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ntk_fed import seeds
from ntk_fed.errors import ShapeMismatchError


class ScaledLinear(torch.nn.Module):
    """``W (factor · x) + b``.

    The factor goes to the *input*, so that whoever watches
    ``torch.nn.functional.linear`` sees an ordinary dense layer.

    Args:
        weight: initial weight, ``(out, in)``, trainable.
        factor: fixed number each input is multiplied by.
        bias: initial bias, ``(out,)``, trainable; ``None`` for none.
    """

    def __init__(
        self,
        weight: Float[Tensor, "o d"],
        *,
        factor: float = 1.0,
        bias: Float[Tensor, " o"] | None = None,
    ) -> None:
        super().__init__()
        self.factor = factor
        self.weight = torch.nn.Parameter(weight)
        self.bias = None if bias is None else torch.nn.Parameter(bias)

    def forward(self, x: Tensor) -> Float[Tensor, "*n o"]:
        """The layer at ``x``, ``(*n, in)``."""
        require_width(x, self.weight.shape[1])
        scaled = x if self.factor == 1.0 else self.factor * x
        return torch.nn.functional.linear(scaled, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Sizes and factor."""
        outputs, inputs = self.weight.shape
        return f"{inputs}, {outputs}, factor={self.factor:.6g}"


def standard_normal(
    shape: tuple[int, ...], seed: int, purpose: str, *index: int
) -> Float64[Tensor, "..."]:
    """Independent N(0, 1) entries in float64; round them last."""
    stream = seeds.generator(seed, purpose, *index)
    return torch.randn(shape, generator=stream, dtype=torch.float64)


def orthonormal_rows(normal: Float64[Tensor, "o d"]) -> Float64[Tensor, "o d"]:
    """Rows spanning those of a normal draw, ``o <= d``, uniform by Haar's measure."""
    q, r = torch.linalg.qr(normal.mT)  # (d, o), (o, o)
    return (q * r.diagonal().sign()).mT  # the sign makes the draw uniform


def require_width(x: Tensor, inputs: int) -> None:
    """Refuse inputs whose last axis is not ``inputs``."""
    if x.ndim == 0 or x.shape[-1] != inputs:
        raise ShapeMismatchError(
            f"expected inputs of shape (n, {inputs}), got {tuple(x.shape)}. "
            "Flatten images first, or build the network for this width."
        )


def require_sizes(what: str, sizes: tuple[int, ...]) -> None:
    """Refuse sizes below 1."""
    if any(size < 1 for size in sizes):
        shown = sizes[0] if len(sizes) == 1 else list(sizes)
        raise ValueError(f"{what} must be at least 1, got {shown}.")


def require_floating(dtype: torch.dtype) -> None:
    """Refuse a dtype that has no gradients."""
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be floating, got {dtype}. Use torch.float64.")
