"""Size of the gradient of each sample's own loss.

Floor 5.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ntk_fed.fedavg import Objective
from ntk_fed.jacobians import quiet_vmap
from ntk_fed.params import (
    Params,
    call,
    graph_without_gaps,
    own_buffers,
    squared_norm,
)

ENTRIES = 2**25  # of all gradients held at once


def squared_norms(
    objective: Objective, params: Params, x: Tensor, y: Tensor
) -> Float[Tensor, " n"]:
    r"""``‖∇ℓ(f(x_j), y_j)‖²`` of each sample, ``(n,)``.

    Args:
        objective: the loss of a network.
        params: where to differentiate.
        x: inputs, ``(n, ...)``.
        y: targets, of the shape of the outputs.

    Cost:
        A forward and a backward pass per sample, vectorised where ``torch.func.vmap``
        can go; memory 256 MiB of gradients in float64, or one of them if it is larger.
    """
    if len(x) == 0:
        return x.new_zeros(0)
    try:
        found = _by_vmap(objective, params, x, y)
        first = one_by_one(objective, params, x[:1], y[:1])
        slack = torch.finfo(found.dtype).eps ** 0.5 * first[0]
        if abs(found[0] - first[0]) <= slack:
            return found
        # vmap has had wrong backward passes before.
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, NotImplementedError):
        pass  # vmap has no rule for some operations; the loop raises what is wrong
    return one_by_one(objective, params, x, y)


def one_by_one(
    objective: Objective, params: Params, x: Tensor, y: Tensor
) -> Float[Tensor, " n"]:
    """:func:`squared_norms`, obviously right and slow."""
    each = [
        squared_norm(objective.gradient(params, x[j : j + 1], y[j : j + 1]))
        for j in range(len(x))
    ]
    return torch.tensor(each, dtype=torch.float64, device=x.device)


def _by_vmap(
    objective: Objective, params: Params, x: Tensor, y: Tensor
) -> Float[Tensor, " n"]:
    model, state = objective.model, objective.state

    def loss(values: Params, sample: Tensor, target: Tensor) -> Tensor:
        outputs = call(model, values, sample[None], own_buffers(model, state))
        return objective.sample_losses(outputs, target[None])[0]

    def squared(sample: Tensor, target: Tensor) -> Tensor:
        found = torch.func.grad(loss)(params, sample, target)
        return sum(
            (value.square().sum() for value in found.values()), sample.new_zeros(())
        )

    entries = sum(value.numel() for value in params.values())
    chunk = max(1, ENTRIES // entries)
    with torch.enable_grad(), quiet_vmap(), graph_without_gaps():
        found = torch.func.vmap(squared, chunk_size=chunk)(x, y)
    return found.detach().double()
