"""Any network: the clients of a group through ``torch.func.vmap``.

Floor 4. It saves the calls that a loop over clients makes, and nothing else: worth it
for small networks, and where the engine for dense ones does not apply.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ntk_fed.fedavg import losses
from ntk_fed.fedavg.engines.chain import beside, close
from ntk_fed.fedavg.engines.samples import padded_step
from ntk_fed.fedavg.local import Objective
from ntk_fed.fedavg.locals import Locals, Stacked
from ntk_fed.fedavg.work import Work
from ntk_fed.jacobians import quiet_vmap
from ntk_fed.params import Params, call, own_buffers, shifted

MEMORY = 2**28  # bytes of stacked parameters and gradients of a group


class Vectorised:
    """Engine ``"vmap"``.

    Args:
        group: clients in a group; ``None`` is as many as the memory above takes.
    """

    def __init__(self, *, group: int | None = None) -> None:
        self.group = group

    def run(self, start: Params, work: Work) -> Iterator[Locals]:
        """The clients after each local step if watched, else after the last."""
        busy = [i for i in range(len(work.clients)) if work.batches[i]]
        busy.sort(key=lambda i: (-len(work.data[i][0]), i))
        size = self.group or _fitting(start, work)
        parts = [busy[k : k + size] for k in range(0, len(busy), size)]
        count = len(work.step_sizes)
        if not work.watched:
            found: dict[int, Params] = {}
            for part in parts:
                one = _Group(part, start, work)
                for k in range(count):
                    one.step(k, work.step_sizes[k])
                found |= one.clients()
            yield _stacked(found, start, work)
            return
        running = [_Group(part, start, work) for part in parts]
        for k in range(count):
            for one in running:
                one.step(k, work.step_sizes[k])
            found = {i: own for one in running for i, own in one.clients().items()}
            yield _stacked(found, start, work)


def _stacked(found: dict[int, Params], start: Params, work: Work) -> Stacked:
    return Stacked([found.get(i, start) for i in range(len(work.clients))], start)


class _Group:
    """Some clients in one round: name -> ``(c, *shape)``."""

    def __init__(self, part: list[int], start: Params, work: Work) -> None:
        self.part, self.work = part, work
        self.start = {k: v.expand(len(part), *v.shape) for k, v in start.items()}
        self.own = self.start
        self.velocity: Params | None = None

    def step(self, k: int, step_size: float) -> None:
        """All clients that have a step left descend once."""
        steps = self.work.steps
        x, y, weights = padded_step(self.work, self.part, k)
        if x.shape[1] == 0:
            return
        at = self.start if steps.frozen_point else self.own
        gradient = gradients(self.work.objective, at, x, y, weights)
        if steps.weight_decay:
            gradient = shifted(gradient, at, steps.weight_decay)
        if steps.momentum and self.velocity is not None:
            gradient = shifted(gradient, self.velocity, steps.momentum)
        self.velocity = gradient
        resting = [k >= len(self.work.batches[i]) for i in self.part]
        moved = shifted(self.own, gradient, -step_size)
        if any(resting):
            keep = torch.tensor(resting, device=x.device)
            moved = {
                name: torch.where(_column(keep, value), self.own[name], value)
                for name, value in moved.items()
            }
        self.own = moved

    def clients(self) -> dict[int, Params]:
        """Position -> parameters, views of the stack."""
        return {
            i: {name: value[row] for name, value in self.own.items()}
            for row, i in enumerate(self.part)
        }


def gradients(
    objective: Objective, params: Params, x: Tensor, y: Tensor, weights: Tensor
) -> Params:
    """Gradient of each client's ``Σ weights · loss`` at its own parameters.

    Args:
        objective: network and loss.
        params: name -> ``(c, *shape)``.
        x: inputs, ``(c, b, …)``.
        y: targets, ``(c, b, …)``.
        weights: of the samples, ``(c, b)``.
    """

    def outputs(own: Params) -> Tensor:
        def one(values: Params, samples: Tensor) -> Tensor:
            state = own_buffers(objective.model, objective.state)
            return call(objective.model, values, samples.clone(), state)

        return torch.func.vmap(one)(own, x)

    with quiet_vmap():
        found, pull = torch.func.vjp(outputs, params)[:2]
        with torch.no_grad():
            d = losses.output_gradient(objective.loss, found.detach(), y, weights)
        return pull(d)[0]


def usable(objective: Objective, params: Params, x: Tensor, y: Tensor) -> str | None:
    """Why ``torch.func.vmap`` cannot run this network; ``None`` if it can.

    Tried on two samples at two clients and compared with autograd.
    """
    few, targets = x[:2], y[:2]
    other = beside(params)
    stacked = {name: torch.stack([v, other[name]]) for name, v in params.items()}
    each = torch.full((2, len(few)), 1 / len(few), dtype=torch.float64)
    weights = each.to(few.device)
    try:
        found = gradients(
            objective,
            stacked,
            torch.stack([few, few]),
            torch.stack([targets, targets]),
            weights,
        )
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, NotImplementedError) as error:
        return f"torch.func.vmap cannot run it: {str(error).splitlines()[0]}"
    for row in range(2):
        own = {name: value[row] for name, value in stacked.items()}
        expected = objective.gradient(own, few, targets)
        for name, value in expected.items():
            if not close(found[name][row], value):
                return f"torch.func.vmap gives another gradient of {name!r}"
    return None


def _column(mask: Tensor, like: Tensor) -> Tensor:
    return mask.view(-1, *[1] * (like.ndim - 1))


def _fitting(start: Params, work: Work) -> int:
    """Clients whose parameters and gradients fit."""
    own = sum(value.numel() * value.element_size() for value in start.values())
    return max(1, MEMORY // (4 * own))
