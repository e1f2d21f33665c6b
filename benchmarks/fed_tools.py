"""FedAvg written directly in torch: what other environments can import as well.

A tool is a generator: each ``next`` is one round and gives the global weights after it.
All clients hold equally many samples, so that the average is a plain mean.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

CHUNK = 5  # clients at once in ``batched``: their weights stay in the last-level cache


@dataclasses.dataclass(frozen=True)
class Problem:
    """A federation of equal clients and a network without biases, ReLU between layers.

    Attributes:
        x: ``(c, n, d)``.
        y: ``(c, n, o)``.
        weights: one ``(out, in)`` per layer.
        seeds: of the minibatches, ``(rounds, c)``.
        batch: samples per local step; 0: all.
    """

    x: Tensor
    y: Tensor
    weights: list[Tensor]
    seeds: np.ndarray
    local_steps: int
    batch: int
    step_size: float

    def save(self, path: Path) -> None:
        """Everything into one file, for tools with an environment of their own."""
        arrays = {f"weight{k}": w.numpy() for k, w in enumerate(self.weights)}
        numbers = {
            name: np.array(getattr(self, name))
            for name in ("local_steps", "batch", "step_size")
        }
        data = {"x": self.x.numpy(), "y": self.y.numpy(), "seeds": self.seeds}
        np.savez(path, **data, **numbers, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> "Problem":
        """What :meth:`save` wrote."""
        with np.load(path) as file:
            found = {name: file[name] for name in file.files}
        layers = sum(name.startswith("weight") for name in found)
        return cls(
            torch.from_numpy(found["x"]),
            torch.from_numpy(found["y"]),
            [torch.from_numpy(found[f"weight{k}"]) for k in range(layers)],
            found["seeds"],
            int(found["local_steps"]),
            int(found["batch"]),
            float(found["step_size"]),
        )

    def to(self, dtype: torch.dtype) -> "Problem":
        """The same problem in another precision."""
        return dataclasses.replace(
            self,
            x=self.x.to(dtype),
            y=self.y.to(dtype),
            weights=[w.to(dtype) for w in self.weights],
        )

    def plan(self, round: int, client: int) -> list[Tensor | None]:
        """Sample indices of every local step, drawn as ntk_fed does; ``None``: all."""
        n = self.x.shape[1]
        if self.batch == 0 or self.batch >= n:
            return [None] * self.local_steps
        stream = torch.Generator().manual_seed(int(self.seeds[round, client]))
        found: list[Tensor | None] = []
        while len(found) < self.local_steps:
            found.extend(torch.randperm(n, generator=stream).split(self.batch))
        return found[: self.local_steps]

    def samples(self, round: int, client: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets of every local step of one client."""
        x, y = self.x[client], self.y[client]
        for indices in self.plan(round, client):
            yield (x, y) if indices is None else (x[indices], y[indices])

    def stacked(self, round: int, clients: range) -> Iterator[tuple[Tensor, Tensor]]:
        """The same of several clients at once: ``(c, b, d)`` and ``(c, b, o)``."""
        who = torch.arange(clients.start, clients.stop)[:, None]  # (c, 1)
        plans = [self.plan(round, client) for client in clients]
        for step in zip(*plans, strict=True):
            if step[0] is None:
                own = slice(clients.start, clients.stop)
                yield self.x[own], self.y[own]
            else:
                drawn = torch.stack(step)  # (c, b)
                yield self.x[who, drawn], self.y[who, drawn]


def network(weights: list[Tensor]) -> torch.nn.Sequential:
    """The network as plain torch modules, with a copy of these weights."""
    layers: list[torch.nn.Module] = []
    for weight in weights:
        layer = torch.nn.Linear(*weight.shape[::-1], bias=False, dtype=weight.dtype)
        with torch.no_grad():
            layer.weight.copy_(weight)
        layers += [layer, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean over samples of ``½‖f − y‖²``."""
    return (outputs - targets).square().sum(dim=1).mean() / 2


def descend(
    model: torch.nn.Module, samples: Iterator[tuple[Tensor, Tensor]], step_size: float
) -> None:
    """The local steps of one client, as PyTorch's tutorials write them."""
    optimizer = torch.optim.SGD(model.parameters(), lr=step_size)
    for x, y in samples:
        optimizer.zero_grad()
        squared(model(x), y).backward()
        optimizer.step()


def plain(problem: Problem) -> Iterator[list[Tensor]]:
    """One module per client, loaded, trained by autograd and SGD, then averaged."""
    server = network(problem.weights)
    clients = [network(problem.weights) for _ in problem.x]
    for round in itertools.count():
        start = server.state_dict()
        for i, client in enumerate(clients):
            client.load_state_dict(start)
            descend(client, problem.samples(round, i), problem.step_size)
        total = {name: torch.zeros_like(value) for name, value in start.items()}
        for client in clients:
            for name, value in client.state_dict().items():
                total[name] += value
        server.load_state_dict({k: v / len(clients) for k, v in total.items()})
        yield [p.detach().clone() for p in server.parameters()]


def vmapped(problem: Problem) -> Iterator[list[Tensor]]:
    """``vmap(grad)`` over all clients' parameters in one stack."""
    model = network(problem.weights)
    names = [name for name, _ in model.named_parameters()]
    clients = len(problem.x)

    def loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return squared(functional_call(model, params, (x,)), y)

    gradient = vmap(grad(loss))
    weights = dict(zip(names, problem.weights, strict=True))
    for round in itertools.count():
        own = {name: w.expand(clients, *w.shape).clone() for name, w in weights.items()}
        for x, y in problem.stacked(round, range(clients)):
            for name, found in gradient(own, x, y).items():
                own[name].sub_(found, alpha=problem.step_size)
        weights = {name: stack.mean(dim=0) for name, stack in own.items()}
        yield list(weights.values())


def batched(problem: Problem) -> Iterator[list[Tensor]]:
    """Derivatives by hand, batched products over a few clients at a time.

    The best direct method: every client's weights are formed at every local step.
    """
    weights, clients = problem.weights, len(problem.x)
    for round in itertools.count():
        moved = [torch.zeros_like(w) for w in weights]
        for first in range(0, clients, CHUNK):
            some = range(first, min(first + CHUNK, clients))
            own = [w.expand(len(some), *w.shape).clone() for w in weights]
            for x, y in problem.stacked(round, some):
                _step_by_hand(own, x, y, problem.step_size)
            for total, stack, w in zip(moved, own, weights, strict=True):
                total += (stack - w).sum(dim=0)
        weights = [w + m / clients for w, m in zip(weights, moved, strict=True)]
        yield weights


def _step_by_hand(own: list[Tensor], x: Tensor, y: Tensor, step_size: float) -> None:
    """One local step of stacked clients, in place."""
    layers = [x]
    for weight in own[:-1]:
        layers.append(torch.bmm(layers[-1], weight.mT).relu_())
    residual = torch.bmm(layers[-1], own[-1].mT) - y
    backward = residual / x.shape[1]  # (c, b, o): of the mean over samples
    for weight, layer in zip(own[::-1], layers[::-1], strict=True):
        below = None if layer is x else torch.bmm(backward, weight) * (layer > 0)
        weight.baddbmm_(backward.mT, layer, alpha=-step_size)
        if below is not None:
            backward = below


DIRECT = {"plain": plain, "vmap": vmapped, "batched": batched}
