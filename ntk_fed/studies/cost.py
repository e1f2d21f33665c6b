"""What a run will take: seconds by a fitted model, bytes by counting.

Floor 8. Seconds are ``a + b·steps + c·work + d·kernel`` with non-negative coefficients,
fitted to a few short runs of the study itself on the machine it will run on. They are
for planning: right within a factor of two or so, never a result.
"""

import dataclasses
import itertools
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.optimize

from ntk_fed.params import trainable
from ntk_fed.studies.build import model_of, partition_of
from ntk_fed.studies.compute import words
from ntk_fed.studies.run import run
from ntk_fed.studies.spec import RunSpec

_PROCESS = 450 * 2**20  # bytes of a worker that has imported everything
_SHORT = (2, 6)  # rounds of the runs the model is fitted to
_PROBES = 3  # specifications that are tried at each of these lengths


@dataclasses.dataclass(frozen=True)
class Size:
    """What the cost of a run grows with.

    Attributes:
        samples: n.
        outputs: o.
        parameters: p, trainable ones.
        hidden: numbers per sample that a forward pass keeps, about.
        clients: c.
    """

    samples: int
    outputs: int
    parameters: int
    hidden: int
    clients: int

    def terms(self, spec: RunSpec) -> np.ndarray:
        """``(1, steps, work, kernel)`` of a run: what the coefficients belong to."""
        steps = spec.rounds * spec.local_steps * self.clients
        work = self.samples * self.parameters * spec.rounds
        work *= spec.local_steps + 12 / spec.every  # observers: about 12 passes a look
        looks = 2 + spec.rounds // spec.kernel_every
        rows = self.samples * self.outputs
        kernel = looks * (rows**2 * (self.hidden + 50) + 10 * rows**3)
        return np.array([1.0, steps, work, kernel])

    def bytes(self, spec: RunSpec) -> int:
        """At the peak, about: kernels and their factors, models, activations."""
        rows = self.samples * self.outputs
        numbers = 8 * rows**2 + 3 * (self.clients + 3) * self.parameters
        kept = 12 if spec.smoothness_every is None else 32  # second derivatives too
        numbers += kept * self.samples * self.hidden
        return _PROCESS + 8 * numbers


def size_of(spec: RunSpec) -> Size:
    """Builds the network, narrow if it is ours, and counts.

    Raises:
        ValueError: the specification cannot be built.
    """
    partition = partition_of(spec)
    dataset = partition.dataset
    inputs, outputs = dataset.x[0].numel(), dataset.y.shape[1]
    clients = sum(size > 0 for size in partition.sizes)
    m = spec.width
    if spec.model == "two-layer":
        return Size(len(dataset), outputs, m * inputs, m, clients)
    if spec.model == "mlp":
        sizes = [inputs, *[m] * spec.depth, outputs]
        count = sum(a * b for a, b in itertools.pairwise(sizes))
        return Size(len(dataset), outputs, count, m * spec.depth, clients)
    model = model_of(spec, partition)
    count = sum(value.numel() for value in trainable(model).values())
    return Size(len(dataset), outputs, count, m * 8, clients)


@dataclasses.dataclass(frozen=True)
class CostModel:
    """Seconds of a run from its size.

    Attributes:
        coefficients: seconds per unit of :meth:`Size.terms`.
        error: largest ratio of measured to fitted seconds, or its inverse, over the
            runs it was fitted to.
    """

    coefficients: np.ndarray
    error: float

    def seconds(self, spec: RunSpec, size: Size) -> float:
        """Wall time of a run on one thread."""
        return float(self.coefficients @ size.terms(spec))


def fit(terms: np.ndarray, seconds: np.ndarray) -> CostModel:
    """Non-negative coefficients that leave the smallest relative error.

    Args:
        terms: ``(runs, 4)``.
        seconds: ``(runs,)``, above 0.
    """
    relative = terms / seconds[:, None]
    scale = relative.max(axis=0)
    scale[scale == 0] = 1.0
    found = scipy.optimize.nnls(relative / scale, np.ones(len(seconds)))[0] / scale
    ratio = seconds / (terms @ found)
    return CostModel(found, float(np.maximum(ratio, 1 / ratio).max()))


def probe(specs: Sequence[RunSpec]) -> CostModel:
    """Run a few of them for a few rounds, and fit.

    The cheapest, one in the middle and the dearest, each for 2 and for 6 rounds.
    """
    ranked = sorted(specs, key=lambda spec: size_of(spec).terms(spec)[2:].sum())
    places = np.linspace(0, len(ranked) - 1, _PROBES).round().astype(int)
    run(
        dataclasses.replace(ranked[0], rounds=_SHORT[0])
    )  # what only the first run pays
    terms, seconds = [], []
    for spec in {ranked[i].key: ranked[i] for i in places}.values():
        size = size_of(spec)
        for rounds in _SHORT:
            short = dataclasses.replace(spec, rounds=min(rounds, spec.rounds))
            began = time.perf_counter()
            run(short)
            seconds.append(time.perf_counter() - began)
            terms.append(size.terms(short))
    return fit(np.array(terms), np.array(seconds))


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What a study will take.

    Attributes:
        runs: how many.
        new: how many of them are not done yet.
        seconds: of the new runs, together, on one thread each.
        wall: with so many at a time.
        longest: of one run.
        bytes: of the largest run.
        workers: runs at a time.
        error: of the model, as a factor.
    """

    runs: int
    new: int
    seconds: float
    wall: float
    longest: float
    bytes: int
    workers: int
    error: float

    def lines(self) -> list[str]:
        """For a reader."""
        return [
            f"runs: {self.runs}, of which {self.new} are new",
            f"time: about {words(self.wall)} with {self.workers} at a time "
            f"({words(self.seconds)} of one core, the longest run "
            f"{words(self.longest)})",
            f"memory: about {self.bytes / 2**30:.1f} GiB for the largest run",
            f"the cost model is off by a factor of {self.error:.2f} at most on the "
            "short runs it was fitted to",
        ]


def forecast(
    specs: Sequence[RunSpec], new: Sequence[RunSpec], workers: int
) -> Forecast:
    """Predicted time and memory; runs a few short ones to know this machine.

    Args:
        specs: all runs of the study.
        new: those that are to be computed.
        workers: runs at a time.
    """
    if not new:
        return Forecast(len(specs), 0, 0.0, 0.0, 0.0, 0, workers, 1.0)
    sizes = [size_of(spec) for spec in new]
    model = probe(new)
    each: list[Any] = [model.seconds(*pair) for pair in zip(new, sizes, strict=True)]
    return Forecast(
        len(specs),
        len(new),
        sum(each),
        makespan(each, workers),
        max(each),
        max(size.bytes(spec) for spec, size in zip(new, sizes, strict=True)),
        workers,
        model.error,
    )


def makespan(seconds: Sequence[float], workers: int) -> float:
    """When the last worker is done, if each takes the longest run that is left."""
    loads = [0.0] * workers
    for one in sorted(seconds, reverse=True):
        loads[loads.index(min(loads))] += one
    return max(loads)
