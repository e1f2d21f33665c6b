"""The user's own loss: a function of outputs and targets, one number per sample.

Floor 4.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ntk_fed.errors import NotPerSampleError, ShapeMismatchError

PerSample = Callable[[Tensor, Tensor], Tensor]


def gradient(
    loss: PerSample,
    outputs: Float[Tensor, "*n o"],
    targets: Tensor,
    weights: Float[Tensor, "*n"],
) -> Float[Tensor, "*n o"]:
    """Gradient of ``Σ_i w_i ℓ_i`` by automatic differentiation, without a graph.

    The function sees the rows of all leading axes as one ``(k, o)``, and never a row of
    weight 0, whose gradient is exactly 0.
    """
    live = weights != 0
    found = torch.zeros_like(outputs)
    rows = outputs.detach()[live].requires_grad_()  # (k, o)
    if len(rows):
        values = _values(loss, rows, targets[live])
        cotangent = weights[live].to(values.dtype)
        found[live] = torch.autograd.grad(values, rows, cotangent)[0]
    return found


def check(loss: PerSample, outputs: Tensor, targets: Tensor) -> None:
    """Try the function on the first samples, shrunk copies of which make ``o + 2``.

    So many that a mean over samples, or a loss of each output, has another shape. That
    no sample counts in the loss of another is seen in derivatives there, not proven.

    Raises:
        ValueError: no floating-point tensor, or none that can be differentiated.
        ShapeMismatchError: not one number per sample.
        NotPerSampleError: the loss of one sample depends on the outputs of another.
    """
    if not len(outputs):
        return
    count = outputs.shape[-1] + 2
    rows = torch.arange(count, device=outputs.device) % len(outputs)
    factors = torch.linspace(1, 0.8, count, dtype=outputs.dtype, device=outputs.device)
    tried = (outputs.detach()[rows] * factors.unsqueeze(-1)).requires_grad_()
    values = _values(loss, tried, targets[rows])
    if not values.requires_grad:
        raise ValueError(
            "loss must be differentiable, it returned numbers without a gradient. "
            "Compute it from the outputs by torch functions, without detach(), item(), "
            "argmax() or no_grad()."
        )
    only_first = (torch.arange(count, device=values.device) == 0).to(values.dtype)
    (found,) = torch.autograd.grad(values, tried, only_first, materialize_grads=True)
    # NaN, from 0 times an infinite slope, tells nothing.
    if (found[1:].abs() > 0).any():
        raise NotPerSampleError(
            "loss of one sample depends on the outputs of others. Leave out means, "
            "norms and softmax over samples (dim=0)."
        )


def _values(loss: PerSample, rows: Tensor, targets: Tensor) -> Tensor:
    """Losses of the rows, ``(k,)``, with a graph."""
    with torch.enable_grad():
        values = loss(rows, targets)
    if not isinstance(values, Tensor) or not values.is_floating_point():
        got = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"loss must return a floating-point tensor of shape (n,), got {got}. Give a"
            " function of (outputs, targets), not its class, that returns numbers."
        )
    if values.shape != rows.shape[:1]:
        raise ShapeMismatchError(
            f"loss must return one number per sample, shape ({len(rows)},) for outputs "
            f"{tuple(rows.shape)}, got {tuple(values.shape)}. Leave out the mean over "
            "samples, which is taken outside, and sum over outputs: sum(dim=1)."
        )
    return values
