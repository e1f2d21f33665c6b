"""Dense layers, on one vector per sample or on sequences: ``z = u Wᵀ + b``."""

from typing import Any

import torch
from torch import Tensor

from ntk_fed import blas
from ntk_fed.kernel.rules.factor import Call, Factor, Rule


def _signature(
    input: Tensor, weight: Tensor, bias: Tensor | None = None
) -> dict[str, Any]:
    return locals()


def _factors(call: Call) -> dict[str, Factor]:
    d, u = call.sensitivities, call.inputs
    d = d.reshape(*d.shape[:2], -1, d.shape[-1])  # (o, n, P, b)
    u = u.reshape(len(u), -1, u.shape[-1])  # (n, P, a)
    found = {"weight": Factor.cheapest(d, u)}
    if call.arguments["bias"] is not None:
        found["bias"] = Factor(d if d.shape[2] == 1 else d.sum(dim=2, keepdim=True))
    return found


class _ByBlas(torch.autograd.Function):
    """A dense layer by the library of the job, forward and back to what entered."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        # No view is handed out: what follows may change it in place.
        found = input.new_empty(*input.shape[:-1], len(weight))
        flat = found.view(-1, len(weight))
        blas.product(input.reshape(-1, input.shape[-1]), weight.T, out=flat)
        if bias is not None:
            flat += bias
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (weight,), (d,) = ctx.saved_tensors, grads
        flat = blas.product(d.reshape(-1, d.shape[-1]), weight)
        return flat.view(*d.shape[:-1], weight.shape[1]), None, None


LINEAR = Rule(
    _signature,
    "input",
    ("weight", "bias"),
    _factors,
    lambda arguments: arguments["input"].ndim >= 2 and arguments["weight"].ndim == 2,
    units=-1,
    run=lambda arguments: _ByBlas.apply(*arguments.values()),
)
