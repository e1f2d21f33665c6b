"""The federations whose rounds are timed, and what a round costs at least."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from fed_tools import Problem, network
from torch import Tensor

import ntk_fed as nf
from ntk_fed import seeds

CLASSES = 10
MNIST = 2000  # the first images of the test files
STEP_SIZE = 0.02  # below 2 over the largest eigenvalue of the kernel's mean, every case
ROUNDS = 110  # more are never asked for: 10 turns of 10, and one before
SEED = 0


@dataclasses.dataclass(frozen=True)
class Case:
    """Equal clients and a network without biases, ten outputs.

    Attributes:
        data: "digits", "mnist" or "random", the last of 3,072 inputs, unit norm.
        hidden: widths.
        batch: samples per local step; 0: all.
    """

    data: str
    clients: int
    hidden: tuple[int, ...]
    local_steps: int
    batch: int = 0

    @property
    def name(self) -> str:
        widths = "x".join(map(str, self.hidden))
        size = f"b{self.batch}" if self.batch else "full"
        return f"{self.data}-c{self.clients}-w{widths}-k{self.local_steps}-{size}"

    def problem(self) -> Problem:
        """Data dealt at random, weights N(0, 2 / fan-in), float32."""
        whole = samples(self.data)
        trimmed = len(whole) // self.clients * self.clients
        whole = nf.data.Dataset(whole.x[:trimmed], whole.y[:trimmed])
        split = nf.data.partition(whole, "iid", clients=self.clients, seed=SEED)
        held = [split.client(i) for i in range(self.clients)]
        stream = torch.Generator().manual_seed(SEED)
        sizes = (whole.x.shape[1], *self.hidden, CLASSES)
        weights = [
            torch.randn(o, i, generator=stream) * (2 / i) ** 0.5
            for i, o in itertools.pairwise(sizes)
        ]
        of_batches = [
            [seeds.derive(SEED, "minibatches", r, c) for c in range(self.clients)]
            for r in range(ROUNDS)
        ]
        x, y = (torch.stack(part) for part in zip(*held, strict=True))
        return Problem(
            x,
            y,
            weights,
            np.array(of_batches),
            self.local_steps,
            self.batch,
            STEP_SIZE,
        )


@functools.cache
def samples(data: str) -> nf.data.Dataset:
    """Inputs ``(n, d)`` and targets, in float32."""
    if data == "random":
        stream = torch.Generator().manual_seed(SEED)
        x = torch.randn(400, 3072, generator=stream)
        labels = torch.arange(len(x)) % CLASSES
        return nf.data.Dataset(x / x.norm(dim=1, keepdim=True), labels).one_hot()
    if data == "mnist":
        whole = nf.data.load(data, split="test", targets="one-hot", dtype=torch.float32)
        return nf.data.Dataset(whole.x[:MNIST].flatten(1), whole.y[:MNIST])
    return nf.data.load(data, targets="one-hot", dtype=torch.float32)


def federation(problem: Problem) -> tuple[torch.nn.Module, nf.data.Partition]:
    """What our own functions take: the same network, samples and clients."""
    count, n, _ = problem.x.shape
    data = nf.data.Dataset(problem.x.flatten(0, 1), problem.y.flatten(0, 1))
    indices = torch.arange(count * n).reshape(count, n)
    return network(problem.weights), nf.data.Partition(data, tuple(indices))


def ours(problem: Problem, engine: str) -> Iterator[list[Tensor]]:
    """Our rounds; gives the global weights after each, like the tools of fed_tools."""
    return _rounds(problem, [], engine=engine)


def watched(problem: Problem) -> Iterator[list[Tensor]]:
    """Our rounds with drift and flips of all clients at every local step."""
    return _rounds(problem, [nf.observers.divergence], steps=True)


def _rounds(
    problem: Problem, watching: list[Callable[..., Any]], **options: Any
) -> Iterator[list[Tensor]]:
    model, split = federation(problem)
    observers = [watch(model, split) for watch in watching]
    run = nf.fedavg.rounds(
        model,
        split,
        rounds=ROUNDS,
        local_steps=problem.local_steps,
        step_size=problem.step_size,
        batch_size=problem.batch or None,
        seed=SEED,
        **options,
    )
    for item in run:
        for observe in observers:
            list(observe(item))
        if isinstance(item, nf.fedavg.Round):
            yield list(item.params.values())


def wide(problem: Problem) -> bool:
    """Full batches of many more inputs than a client has samples."""
    _, n, d = problem.x.shape
    return problem.batch == 0 and d >= 784 and n <= 20


def operations(problem: Problem) -> int:
    """Multiplications and additions of the direct method, by products, in one round.

    Outputs, gradients, and what goes back through every layer but the first.
    """
    weights = [w.numel() for w in problem.weights]
    steps = problem.plan(0, 0)
    n = problem.x.shape[1]
    seen = sum(n if indices is None else len(indices) for indices in steps)
    return 2 * len(problem.x) * seen * (2 * sum(weights) + sum(weights[1:]))


def traffic(problem: Problem) -> int:
    """Bytes of the direct method: each client's weights read and written per step."""
    size = sum(w.numel() * w.element_size() for w in problem.weights)
    return 2 * size * len(problem.x) * problem.local_steps


DATA, CLIENTS, WIDTHS = ("digits", "mnist"), (10, 100), (128, 1024, 4096)
STEPS, BATCHES = (1, 5, 20), (0, 8)
GRID = [
    Case(data, clients, (width,), local_steps, batch)
    for data in DATA
    for clients in CLIENTS
    for batch in BATCHES
    for width in WIDTHS
    for local_steps in STEPS
]
DEEP = [Case("mnist", clients, (1024, 1024), 5) for clients in CLIENTS]
WIDE = [Case("random", 20, (1024,), k) for k in STEPS]
WATCHED = [Case(data, c, (1024,), 5) for data in DATA for c in CLIENTS]
EXACT = [Case(data, 100, (4096,), 5) for data in DATA]


def sampled(case: Case) -> bool:
    """Is this cell of the third of the grid that slow tools take part in?

    For each data set, number of clients and batch size three cells, in which every
    width and every number of local steps occurs once: a Latin square's diagonal, moved
    on from one block to the next, so that the longest cells are not among them.
    """
    shift = DATA.index(case.data) + CLIENTS.index(case.clients)
    shift += BATCHES.index(case.batch)
    step = STEPS.index(case.local_steps)
    return (WIDTHS.index(case.hidden[0]) + step + shift) % 3 == 2
