"""Derivatives of a network along directions of its parameters, no Jacobian formed.

Floor 3. Forward mode where the network has it, two backward passes where it has not.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ntk_fed.jacobians import quiet_vmap
from ntk_fed.params import Params, call, graph_without_gaps, own_buffers

Outputs = Callable[[Params], Tensor]


def along(function: Outputs, at: Params, direction: Params) -> tuple[Tensor, Tensor]:
    """``f(θ)`` and ``Df(θ) v``, both of the shape of the outputs.

    Args:
        function: of a parameter dictionary, differentiable.
        at: ``θ``.
        direction: ``v``, of the same names and shapes.

    Cost:
        About two forward passes; three and two backward where a layer has no forward
        derivative.
    """
    try:
        with torch.enable_grad(), quiet_vmap():
            found = torch.func.jvp(function, (at,), (direction,))
        return found[0], found[1]
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, NotImplementedError):
        return _by_two_vjps(function, at, direction)


def _by_two_vjps(
    function: Outputs, at: Params, direction: Params
) -> tuple[Tensor, Tensor]:
    """``u ↦ Jᵀu`` is linear; its own transpose at ``v`` is ``J v``."""
    with torch.enable_grad():
        value, pull, *_ = torch.func.vjp(function, at)
        transposed = torch.func.vjp(lambda u: pull(u)[0], torch.zeros_like(value))
        (slope,) = transposed[1](direction)
    return value.detach(), slope.detach()


def outputs_of(model: torch.nn.Module, state: Params, x: Tensor) -> Outputs:
    """Outputs of a network on ``x`` as a function of its parameters, ``(n, o)``."""

    def outputs(params: Params) -> Tensor:
        with graph_without_gaps():
            return call(model, params, x, own_buffers(model, state))

    return outputs


def linearised(function: Outputs, start: Params, params: Params) -> Tensor:
    r""":math:`f(\theta_0) + Df(\theta_0)(\theta - \theta_0)`, shaped as the outputs."""
    moved = {name: value - start[name] for name, value in params.items()}
    value, slope = along(function, start, moved)
    return (value + slope).detach()


def pulled_back(function: Outputs, at: Params, outputs: Tensor) -> Params:
    """``Df(θ)ᵀ z``: the gradient of ``⟨z, f(θ)⟩``."""
    with torch.enable_grad():
        return torch.func.vjp(function, at)[1](outputs)[0]


def second_along(function: Outputs, at: Params, direction: Params) -> Tensor:
    """``D²f(θ)(v, v)``, shaped as the outputs."""

    def slope(params: Params) -> Tensor:
        return torch.func.jvp(function, (params,), (direction,))[1]

    return torch.func.jvp(slope, (at,), (direction,))[1].detach()


def hessian_product(function: Outputs, at: Params, direction: Params) -> Params:
    """``∇²F(θ) v`` of a scalar function, by a gradient of ``⟨∇F, v⟩``.

    Cost:
        Two backward passes, one of them through the other.
    """
    leaves = {name: value.detach().requires_grad_() for name, value in at.items()}
    with torch.enable_grad():
        first = torch.autograd.grad(
            function(leaves), list(leaves.values()),
            create_graph=True, materialize_grads=True,
        )  # fmt: skip
        pairs = zip(leaves, first, strict=True)
        inner = sum((g * direction[name]).sum() for name, g in pairs)
        zeros = {name: torch.zeros_like(value) for name, value in at.items()}
        if not isinstance(inner, Tensor) or not inner.requires_grad:
            return zeros  # a linear function has no curvature
        found = torch.autograd.grad(
            inner, list(leaves.values()), allow_unused=True, materialize_grads=True
        )
    return dict(zip(leaves, found, strict=True))
