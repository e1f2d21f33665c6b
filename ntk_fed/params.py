"""Parameters of a network as dictionaries, vectors and functional copies.

Floor 1. A parameter dictionary maps the names of
``dict(model.named_parameters())`` (trainable ones only) to tensors. The network and
its buffers are never changed: every evaluation goes through a functional copy.
"""

import contextlib
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ntk_fed.errors import ShapeMismatchError, UnknownNameError
from ntk_fed.names import nearest

Params = dict[str, Tensor]


def trainable(model: torch.nn.Module) -> Params:
    """The parameters that require a gradient: detached, sharing memory with them."""
    found = {
        name: value.detach()
        for name, value in model.named_parameters()
        if value.requires_grad
    }
    if not found:
        raise ValueError(
            "model has no trainable parameter. Set requires_grad on at least one."
        )
    return found


def complete(model: torch.nn.Module, params: Mapping[str, Tensor] | None) -> Params:
    """A full dictionary: given values, and the model's own for names left out.

    Args:
        model: the network whose names count.
        params: a dictionary that may be partial; ``None`` is the model itself.

    Raises:
        UnknownNameError: a name the model does not train.
        ShapeMismatchError: a value of another shape than the model's.
    """
    own = trainable(model)
    given = dict(params or {})
    for name, value in given.items():
        if name not in own:
            raise UnknownNameError(
                f"params has {name!r}, which is no trainable parameter of the model; "
                f"known are {sorted(own)}.{nearest(name, own)}"
            )
        if value.shape != own[name].shape:
            raise ShapeMismatchError(
                f"params[{name!r}] has shape {tuple(value.shape)}, the model's has "
                f"{tuple(own[name].shape)}."
            )
    return {name: given.get(name, value).detach() for name, value in own.items()}


def frozen_state(model: torch.nn.Module, dtype: torch.dtype | None = None) -> Params:
    """Frozen parameters and *copies* of the buffers, optionally cast to ``dtype``.

    Together with :func:`complete` this is all a functional call needs; because buffers
    are copies, layers that update them (batch statistics) leave the model as it was.
    """
    values = {
        name: value.detach()
        for name, value in model.named_parameters()
        if not value.requires_grad
    }
    values |= {name: value.detach().clone() for name, value in model.named_buffers()}
    return {name: cast(value, dtype) for name, value in values.items()}


def cast(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    """``value`` in ``dtype`` if it is a floating tensor and a dtype is asked for."""
    if dtype is None or not value.is_floating_point():
        return value
    return value.to(dtype)


def call(
    model: torch.nn.Module,
    params: Mapping[str, Tensor],
    x: Tensor,
    state: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Outputs of the network at ``params``; the module itself stays as it is.

    Args:
        model: the network.
        params: trainable parameters, as from :func:`complete`.
        x: inputs, ``(n, ...)``.
        state: frozen parameters and buffers, as from :func:`frozen_state`.

    Returns:
        Outputs, ``(n, o)``.

    Raises:
        ShapeMismatchError: the network does not return ``(n, o)``.
    """
    state = frozen_state(model) if state is None else state
    outputs = torch.func.functional_call(model, {**state, **params}, (x,))
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != len(x):
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs)
        raise ShapeMismatchError(
            f"model must return a tensor (n, o) with n = {len(x)} samples, got {got}. "
            "A network with a single output returns (n, 1)."
        )
    return outputs


def own_buffers(model: torch.nn.Module, state: Mapping[str, Tensor]) -> Params:
    """``state`` with copies of the buffers, for a call that may update them."""
    buffers = {name for name, _ in model.named_buffers()}
    return {k: v.clone() if k in buffers else v for k, v in state.items()}


def graph_without_gaps() -> contextlib.AbstractContextManager[None]:
    """Refuse activation checkpointing, which would run a part again, on its own.

    That happens after the functional call has ended: with the module's own parameters.
    """
    return torch.autograd.graph.disable_saved_tensors_hooks(
        "model recomputes activations (torch.utils.checkpoint): gradients would be "
        "taken at its own parameters, not at those asked for. Switch that off."
    )


def flatten(params: Mapping[str, Tensor]) -> Float[Tensor, " p"]:
    """All values in one vector ``(p,)``, in the dictionary's order."""
    return torch.cat([value.reshape(-1) for value in params.values()])


def unflatten(vector: Float[Tensor, " p"], like: Mapping[str, Tensor]) -> Params:
    """The inverse of :func:`flatten` for the names and shapes of ``like``."""
    sizes = [value.numel() for value in like.values()]
    if sum(sizes) != len(vector):
        raise ShapeMismatchError(
            f"vector has {len(vector)} entries, the parameters have {sum(sizes)}."
        )
    pieces = vector.split(sizes)
    return {
        name: piece.reshape(value.shape)
        for (name, value), piece in zip(like.items(), pieces, strict=True)
    }


def copied(params: Mapping[str, Tensor]) -> Params:
    """Contiguous copies: what later happens to the model leaves them alone."""
    layout = torch.contiguous_format
    return {name: v.clone(memory_format=layout) for name, v in params.items()}


def zeros_like(params: Mapping[str, Tensor]) -> Params:
    """The zero element of parameter dictionaries."""
    return {name: torch.zeros_like(value) for name, value in params.items()}


def shifted(params: Mapping[str, Tensor], by: Params, alpha: float = 1.0) -> Params:
    """``params + alpha · by`` in new tensors."""
    return {k: torch.add(v, by[k], alpha=alpha) for k, v in params.items()}


def difference(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> Params:
    """``left − right``, name by name."""
    return {name: value - right[name] for name, value in left.items()}


def squared_norm(params: Mapping[str, Tensor]) -> float:
    """Sum of the squares of all entries."""
    return sum(float(value.square().sum()) for value in params.values())
