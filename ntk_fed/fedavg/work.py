"""What the clients of one round are to do, the same for every engine.

Floor 4.
"""

import dataclasses
import math

import torch
from torch import Tensor

from ntk_fed.fedavg.local import Objective

Batch = Tensor | None  # sample indices of one client; ``None`` is all of them


@dataclasses.dataclass(frozen=True)
class Steps:
    """How clients step, the same in every round.

    Attributes:
        momentum: β of ``v ← β v + g``, ``θ ← θ − η v``; a client forgets v between
            rounds.
        weight_decay: λ of ``g + λ θ``, the gradient of the loss plus ``½ λ ‖θ‖²``.
        frozen_point: take all gradients of a round at its start (minibatch SGD).
    """

    momentum: float = 0.0
    weight_decay: float = 0.0
    frozen_point: bool = False

    @property
    def plain(self) -> bool:
        """Neither momentum nor weight decay."""
        return self.momentum == 0 and self.weight_decay == 0


@dataclasses.dataclass(frozen=True)
class Work:
    """One round of the clients that take part.

    Attributes:
        objective: the mean loss of a network.
        data: inputs and targets of each of them.
        clients: their numbers.
        batches: for each of them, one entry per local step of its own.
        step_sizes: one number per local step, as many as the longest client has.
        steps: how they step.
        watched: are all clients wanted after every local step, or only at the end?
    """

    objective: Objective
    data: list[tuple[Tensor, Tensor]]
    clients: list[int]
    batches: list[list[Batch]]
    step_sizes: list[float]
    steps: Steps
    watched: bool

    def batch(self, position: int, step: int) -> tuple[Tensor, Tensor] | None:
        """Samples of a client's local step; ``None`` if it has none left to do."""
        x, y = self.data[position]
        own = self.batches[position]
        if len(x) == 0 or step >= len(own):
            return None
        chosen = own[step]
        return (x, y) if chosen is None else (x[chosen], y[chosen])

    def drawn(self, position: int, step: int) -> int:
        """Samples in a client's local step."""
        own = self.batches[position]
        if step >= len(own):
            return 0
        chosen = own[step]
        return len(self.data[position][0]) if chosen is None else len(chosen)


def batches(
    n: int,
    size: int | None,
    count: int,
    generator: torch.Generator,
    *,
    replacement: bool = False,
) -> list[Batch]:
    """Sample indices of ``count`` consecutive minibatches of one client.

    Without replacement samples are shuffled again when they run out, and the last batch
    before that may be smaller.

    Args:
        n: the client's samples.
        size: samples per batch; ``None``, or without replacement at least ``n``: the
            full batch.
        count: how many batches.
        generator: the stream of this client in this round.
        replacement: draw each sample from all, independently of the others.

    Returns:
        Index tensors; ``None`` stands for all samples in their order.
    """
    if size is None or n == 0 or (size >= n and not replacement):
        return [None] * count
    if replacement:
        drawn = torch.randint(n, (count, size), generator=generator)
        return list(drawn)
    found: list[Batch] = []
    while len(found) < count:
        order = torch.randperm(n, generator=generator)
        found.extend(order[: size * (count - len(found))].split(size))
    return found


def steps_of_epochs(n: int, size: int | None, epochs: int) -> int:
    """Local steps in which a client sees each of its samples ``epochs`` times."""
    return epochs * (1 if size is None or n == 0 else math.ceil(n / size))
