"""Per-sample Jacobians of any network, at one moment of it.

Floor 3.
"""

import contextlib
import warnings
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ntk_fed.inputs import check_inputs, check_per_sample
from ntk_fed.params import (
    Params,
    call,
    complete,
    frozen_state,
    graph_without_gaps,
    own_buffers,
)


@torch.inference_mode(False)
def jacobian(
    model: torch.nn.Module,
    x: Tensor,
    *,
    params: Mapping[str, Tensor] | None = None,
    chunk_size: int | None = None,
) -> Params:
    r"""Per-sample Jacobian :math:`\partial f_a(x_i) / \partial\theta`.

    Args:
        model: network returning ``(n, o)``; neither it nor its buffers change.
        x: inputs, ``(n, ...)``, finite.
        params: parameters to differentiate at; names left out are the model's own.
        chunk_size: samples per vectorised call; ``None`` takes all at once. The
            result does not depend on it beyond rounding.

    Returns:
        For each trainable parameter its Jacobian, ``(n, o, *shape)``, in output units
        per parameter unit.

    Raises:
        NonFiniteError: ``x`` holds NaN or infinity.
        NotPerSampleError: an output depends on chance or on other samples.
        UnknownNameError: ``params`` has a name the model does not train.

    Cost:
        ``n`` forward passes and ``n·o`` backward passes, vectorised where
        ``torch.func.vmap`` can go and one sample at a time where it cannot; memory
        ``n·o·p`` for the result.

    Example:
        >>> model = torch.nn.Linear(3, 2)
        >>> jacobian(model, torch.zeros(5, 3))["weight"].shape
        torch.Size([5, 2, 2, 3])
    """
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1 or None, got {chunk_size}.")
    values, state = complete(model, params), frozen_state(model)
    check_inputs(x, values)
    check_per_sample(model, values, state, x)
    return raw_jacobian(model, values, state, x, chunk_size=chunk_size)


def raw_jacobian(
    model: torch.nn.Module,
    params: Params,
    state: Params,
    x: Tensor,
    *,
    chunk_size: int | None = None,
) -> Params:
    """:func:`jacobian` without its checks, for callers that made them once."""
    x = x.detach()
    try:
        with quiet_vmap(), graph_without_gaps():
            found = _by_vmap(model, params, state, x.clone(), chunk_size)
        if _first_sample_agrees(found, by_backward_passes(model, params, state, x[:1])):
            return found
        # vmap has had wrong backward passes before.
        return by_backward_passes(model, params, state, x)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, NotImplementedError):
        # vmap has no rule for some operations and forbids data-dependent ones. What
        # is wrong with the network itself is raised again by the loop below.
        return by_backward_passes(model, params, state, x)


def _first_sample_agrees(found: Params, plain: Params) -> bool:
    """Is the first Jacobian that of plain backward passes, to half the digits?"""
    for name, value in plain.items():
        slack = torch.finfo(value.dtype).eps ** 0.5 * value.abs().max()
        gap = (found[name][:1] - value).abs()
        if bool((gap > slack + torch.finfo(value.dtype).tiny).any()):
            return False
    return True


@contextlib.contextmanager
def quiet_vmap() -> Iterator[None]:
    """Without what torch.func says of itself: a slower loop, its own deprecations."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*performance drop.*")
        warnings.filterwarnings("ignore", message=".*torch.jit.script.*")
        yield


def _by_vmap(
    model: torch.nn.Module,
    params: Params,
    state: Params,
    x: Tensor,
    chunk_size: int | None,
) -> Params:
    def outputs(values: Params, sample: Tensor) -> Tensor:
        return call(model, values, sample[None], own_buffers(model, state))[0]  # (o,)

    # One output at a time: vmap over outputs inside vmap over samples has wrong
    # backward passes for some operations (PReLU and cdist in torch 2.13).
    per_output = torch.func.jacrev(outputs, chunk_size=1)
    per_sample = torch.func.vmap(per_output, in_dims=(None, 0), chunk_size=chunk_size)
    return per_sample(params, x)


def by_backward_passes(
    model: torch.nn.Module, params: Params, state: Params, x: Tensor
) -> Params:
    """Obviously right and slow: one backward pass per sample and output."""
    leaves = {
        name: value.detach().clone().requires_grad_() for name, value in params.items()
    }
    rows: dict[str, list[Tensor]] = {name: [] for name in params}
    for sample in x:
        with torch.enable_grad(), graph_without_gaps():
            own = own_buffers(model, state)
            outputs = call(model, leaves, sample[None].clone(), own)[0]  # (o,)
        for output in outputs:
            gradients = [torch.zeros_like(leaf) for leaf in leaves.values()]
            if output.requires_grad:
                gradients = torch.autograd.grad(
                    output,
                    list(leaves.values()),
                    retain_graph=True,
                    materialize_grads=True,
                )
            for name, gradient in zip(leaves, gradients, strict=True):
                rows[name].append(gradient)
    o = call(model, params, x[:1].clone(), own_buffers(model, state)).shape[1]
    return {
        name: torch.stack(found).reshape(len(x), o, *params[name].shape)
        for name, found in rows.items()
    }
