"""Linear models: one matrix, and a head on a representation that clients share.

Floor 2: imports ``errors``, ``names`` and its own folder.
"""

import math

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ntk_fed.errors import NonFiniteError, ShapeMismatchError
from ntk_fed.models.dense import (
    orthonormal_rows,
    require_floating,
    require_sizes,
    require_width,
    standard_normal,
)
from ntk_fed.names import require_known


class Linear(torch.nn.Module):
    r"""One trained matrix, :math:`f(x) = W x + b`.

    Args:
        inputs: input size d.
        outputs: output size o.
        bias: add a trained ``b``; without it f is a hyperplane through 0.
        initial: "zeros" (then ``seed`` is not read) or "normal": independent N(0, 1)
            entries of ``W`` and ``b``.
        seed: decides the parameters of "normal", each by a stream of its own.
        dtype: of the parameters; drawn in float64, rounded last.

    Attributes:
        weight: ``W``, ``(outputs, inputs)``.
        bias: ``b``, ``(outputs,)``, or ``None``.

    Raises:
        UnknownNameError: another ``initial``.
        ValueError: a size below 1, or a ``dtype`` that is not floating.

    Example:
        >>> Linear(3)(torch.ones(5, 3, dtype=torch.float64)).shape
        torch.Size([5, 1])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int = 1,
        *,
        bias: bool = False,
        initial: str = "zeros",
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        require_sizes("inputs", (inputs,))
        require_sizes("outputs", (outputs,))
        require_known("initial", initial, ["zeros", "normal"])
        require_floating(dtype)
        weight = standard_normal((outputs, inputs), seed, "models/linear/weight")
        offset = standard_normal((outputs,), seed, "models/linear/bias")
        if initial == "zeros":
            weight, offset = torch.zeros_like(weight), torch.zeros_like(offset)
        self.weight = torch.nn.Parameter(weight.to(dtype))
        self.bias = torch.nn.Parameter(offset.to(dtype)) if bias else None

    def forward(self, x: Tensor) -> Float[Tensor, "*n o"]:
        """Outputs, ``(n, outputs)``, at ``x``, ``(n, inputs)``.

        Raises:
            ShapeMismatchError: ``x`` has another width.
        """
        require_width(x, self.weight.shape[1])
        return torch.nn.functional.linear(x, self.weight, self.bias)


class SharedRepresentation(torch.nn.Module):
    r"""A linear representation and a linear head on it, both trained.

    .. math:: f(x) = \langle B w, x \rangle, \qquad
        \nabla_B f(x) = x\,w^\top, \quad \nabla_w f(x) = B^\top x

    Starts where the analysis does: :math:`\eta\,B_0^\top B_0 = I`, as
    :math:`B_0 = Q/\sqrt{\eta}` with Q uniform among matrices of orthonormal columns,
    and :math:`w_0 = 0`. There f is 0 and so is its gradient in B: the first local step
    moves the head only.

    Args:
        inputs: input size d.
        rank: size k of the representation; at most ``inputs`` unless ``start`` is
            given.
        step_size: η of the federated run to come, parameter units per gradient unit.
            It sets the size of :math:`B_0` and nothing else.
        start: :math:`B_0` itself, ``(inputs, rank)``, taken as it is in place of a
            draw; then ``seed`` is not read. Give this or ``step_size``.
        seed: decides Q.
        dtype: of the parameters; drawn in float64, rounded last.

    Attributes:
        representation: B, ``(inputs, rank)``.
        head: w, ``(rank,)``.

    Raises:
        ShapeMismatchError: ``start`` has another shape.
        NonFiniteError: ``start`` holds NaN or infinity.
        ValueError: a size below 1, a ``rank`` above ``inputs`` with nothing to take it
            from, both or neither of ``step_size`` and ``start``, a ``step_size`` that
            is not positive and finite, or a ``dtype`` that is not floating.

    Source:
        Collins, Hassani, Mokhtari, Shakkottai (2022), arXiv:2205.13692: model and
        start. That Q is uniform is our choice.

    Example:
        >>> model = SharedRepresentation(6, 2, step_size=0.25)
        >>> model(torch.ones(5, 6, dtype=torch.float64)).shape
        torch.Size([5, 1])
    """

    def __init__(
        self,
        inputs: int,
        rank: int,
        *,
        step_size: float | None = None,
        start: Tensor | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        require_sizes("inputs", (inputs,))
        require_sizes("rank", (rank,))
        require_floating(dtype)
        if step_size is not None and start is None:
            first = _draw(inputs, rank, step_size, seed)
        elif start is not None and step_size is None:
            _require_start(start, (inputs, rank))
            first = start.detach().clone()
        else:
            raise ValueError(
                "give step_size (η B₀ᵀB₀ = I, drawn from the seed) or start (B₀ "
                f"itself), got {'neither' if start is None else 'both'}."
            )
        head = torch.zeros(rank, dtype=dtype, device=first.device)
        self.representation = torch.nn.Parameter(first.to(dtype))
        self.head = torch.nn.Parameter(head)

    def forward(self, x: Tensor) -> Float[Tensor, "*n 1"]:
        """Outputs, ``(n, 1)``, at ``x``, ``(n, inputs)``.

        Raises:
            ShapeMismatchError: ``x`` has another width.
        """
        require_width(x, self.representation.shape[0])
        return ((x @ self.representation) @ self.head).unsqueeze(-1)


def _draw(
    inputs: int, rank: int, step_size: float, seed: int
) -> Float64[Tensor, "d k"]:
    """Orthonormal columns over the square root of ``step_size``."""
    if rank > inputs:
        raise ValueError(
            f"rank must be at most inputs = {inputs}, got {rank}: {rank} columns of "
            f"{inputs} entries cannot be orthonormal. Give B₀ as start= if you mean it."
        )
    if not 0 < step_size < math.inf:
        raise ValueError(f"step_size must be positive and finite, got {step_size}.")
    purpose = "models/shared-representation/representation"
    rows = orthonormal_rows(standard_normal((rank, inputs), seed, purpose))
    return rows.mT.contiguous() / math.sqrt(step_size)


def _require_start(start: Tensor, shape: tuple[int, int]) -> None:
    if tuple(start.shape) != shape:
        raise ShapeMismatchError(
            f"start must be of shape (inputs, rank) = {shape}, got "
            f"{tuple(start.shape)}. Its columns span the representation."
        )
    finite = torch.isfinite(start)
    if not finite.all():
        raise NonFiniteError(
            f"start has {int((~finite).sum())} non-finite entries of {start.numel()}. "
            "Look at what it was computed from."
        )
