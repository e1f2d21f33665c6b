"""Local SGD in the interpolation regime: runs of five kinds, told apart by ``part``.

``"phases"``: a small LayerNorm network on images sorted by label (E1, E3), with one
number of local steps or two in turn. ``"perceptron"``: a separable problem at full
size (E2). ``"strongly"``: least squares with one common solution (E4, Theorem 3).
``"theorems"``: Theorems 1 and 2, Lemmas 4 and 5 on least squares. ``"instances"``: the
paper's two instances run by FedAvg.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

import ntk_fed as nf
from ntk_fed import seeds
from ntk_fed.data import Dataset, Partition
from ntk_fed.fedavg import Objective
from ntk_fed.models import Linear, ResNet18
from ntk_fed.params import squared_norm
from ntk_fed.theory import qin2022, twophases

DATA_SEED = 0  # of the images
SMOOTHNESS = 1.0  # L of the instances
GAIN = 2.0  # of the inputs of tanh
Found = Iterator[tuple[int, str, float]]


@dataclasses.dataclass(frozen=True)
class Case:
    """One run, or the few runs of one instance.

    Attributes:
        part: phases, perceptron, strongly, theorems or instances.
        what: words that tell variants of a part apart; nothing reads them.
        split: phases: "one label", "two labels" or "iid"; perceptron: "iid", "slices"
            or "single"; theorems: "alike" or "flat" clients.
        weights: of the clients, perceptron.
        network: phases: "cnn" or "resnet18".
        data: phases: "cifar10" or "digits".
        samples: in all.
        dimension: inputs, of the linear problems.
        clients: how many.
        pool: pixels a side that are averaged into one.
        channels: of the first convolution; the second has twice as many.
        batch: samples of a local step; 0 is the full batch.
        step_size: η; of theorems, over the largest that the theorem allows.
        local_steps: K.
        switch: phases: rounds after which K changes; 0 for never.
        later_steps: phases: K from there on.
        rounds: of communication.
        records: losses written down, about.
        looks: phases: times that gradients of samples are taken in a run, and whether
            a change of slope is sought; 0 for neither.
        stop: perceptron: loss at which a run ends.
        gap: perceptron: distance of the points from the hyperplane.
        number: theorems: 1 or 2; instances: 1 or 2.
        seed: phases: weights and batches; else the data.
    """

    part: str = "phases"
    what: str = ""
    split: str = "one label"
    weights: str = "uniform"
    network: str = "cnn"
    data: str = "cifar10"
    samples: int = 100
    dimension: int = 100
    clients: int = 20
    pool: int = 4
    channels: int = 16
    batch: int = 4
    step_size: float = 0.4
    local_steps: int = 1
    switch: int = 0
    later_steps: int = 1
    rounds: int = 100
    records: int = 200
    looks: int = 0
    stop: float = 0.0
    gap: float = 0.05
    number: int = 1
    seed: int = 0


def measure(case: Case) -> Iterator[dict[str, Any]]:
    """Rows of one case: ``round``, ``quantity``, ``value``.

    Raises:
        ValueError: a part that there is not.
    """
    parts = {
        "phases": _phases,
        "perceptron": _perceptron,
        "strongly": _strongly,
        "theorems": _theorems,
        "instances": _instances,
    }
    if case.part not in parts:
        raise ValueError(f"part must be one of {sorted(parts)}, got {case.part!r}.")
    for t, quantity, value in parts[case.part](case):
        yield {"round": t, "quantity": quantity, "value": float(value)}


class Network(torch.nn.Module):
    """Two convolutions with layer normalisation and tanh, then a dense head.

    Filters of 2×2 with stride 2, without biases, scales and shifts: products of
    matrices, so that clients can run side by side.
    """

    def __init__(self, channels: int, side: int, outputs: int, width: int, seed: int):
        super().__init__()
        ends = 2 * width * (side // 4) ** 2
        shapes = [(4 * channels, width), (4 * width, 2 * width), (ends, outputs)]
        stream = seeds.generator(seed, "analysis 12/network")
        self.weights = torch.nn.ParameterList(
            torch.randn(a, b, generator=stream) * math.sqrt(2 / a) for a, b in shapes
        )
        self.bias = torch.nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs, ``(n, outputs)``, at images ``(n, channels, side, side)``."""
        x = x.permute(0, 2, 3, 1)
        for filters in (self.weights[0], self.weights[1]):
            n, h, w, c = x.shape
            x = x.reshape(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5)
            x = x.flatten(3) @ filters  # (n, h/2, w/2, channels)
            x = torch.tanh(GAIN * torch.nn.functional.layer_norm(x, x.shape[1:]))
        return x.flatten(1) @ self.weights[2] + self.bias


def _images(case: Case) -> Partition:
    """As many images of each class, centred, of mean square 1, over the clients."""
    own = nf.data.load(case.data, split="train", seed=DATA_SEED, dtype=torch.float32)
    each = case.samples // 10
    kept = torch.cat([(own.labels == k).nonzero()[:each, 0] for k in range(10)])
    x = own.x[kept]
    if case.data == "digits":
        x = x.reshape(-1, 1, 8, 8)
    x = torch.nn.functional.avg_pool2d(x, case.pool)
    x = x - x.mean(dim=0)
    x = x / x.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    data = Dataset(x, own.labels[kept], class_count=10)
    if case.split == "iid":
        return nf.data.partition(data, "iid", clients=case.clients, seed=DATA_SEED)
    order = data.labels.argsort(stable=True)
    if case.split == "two labels":  # cut half a shard later: every second one has two
        order = order.roll(-(case.samples // case.clients // 2))
    return Partition(data, list(order.tensor_split(case.clients)))


def _model(case: Case, split: Partition) -> torch.nn.Module:
    channels, side = split.dataset.x.shape[1:3]
    if case.network == "resnet18":
        return ResNet18(
            channels=channels, size=side, seed=case.seed, dtype=torch.float32
        )
    return Network(channels, side, 10, case.channels, case.seed)


def _phases(case: Case) -> Found:
    """Loss along the run; where its slope changes; gradients of samples."""
    split = _images(case)
    model, loss = _model(case, split), "cross-entropy"
    stages = [(case.rounds, case.local_steps)]
    if case.switch:
        later = (case.rounds - case.switch, case.later_steps)
        stages = [(case.switch, case.local_steps), later]
    every = max(1, case.rounds // case.records)
    done, params, curve = 0, None, []
    for stage, (rounds, k) in enumerate(stages):
        looks = rounds // case.looks if case.looks else 0
        o = nf.observers
        watch = [o.loss(model, split, every=every, loss=loss, weights="uniform")]
        if looks:
            watch += [o.local_sgd(model, split, local_steps=k, every=looks, loss=loss)]
        history = nf.simulate(
            model, split, rounds=rounds, local_steps=k, step_size=case.step_size,
            loss=loss, batch_size=case.batch or None, weights="uniform",
            observers=watch, params=params, seed=case.seed + 10_000 * stage,
        )  # fmt: skip
        rows: Any = history.rows[history.rows["client"].isna()]
        for row in rows.to_dict("records"):
            if row["quantity"] in ("variance of iterates", "excess loss"):
                continue
            if row["round"] or not stage:  # the start of a stage is the end of another
                yield done + row["round"], row["quantity"], row["value"]
        losses = rows[rows["quantity"] == "loss"]
        curve += [(done + t, v) for t, v in losses[["round", "value"]].to_numpy()]
        done, params = done + rounds, history.params
    if case.looks:
        yield from _change(case, np.array(curve))


def _change(case: Case, curve: np.ndarray) -> Found:
    """Two phases or one? Nothing is said of a curve that left the floats."""
    rounds, losses = curve.T
    if not (np.isfinite(losses) & (losses > 0)).all() or len(losses) < twophases.LEAST:
        return
    found = twophases.detect(rounds, losses, local_steps=case.local_steps, draws=99)
    sign = {"holds": 1.0, "undecided": 0.0, "fails": -1.0}[str(found.verdict)]
    yield case.rounds, "two phases", sign
    if found.change and found.before and found.after:
        yield case.rounds, "change", found.change.value
        yield case.rounds, "change, lower", found.change.lower
        yield case.rounds, "change, upper", found.change.upper
        yield case.rounds, "slope before, per round", found.before.value
        yield case.rounds, "slope after, per iteration", found.after.value


def _perceptron(case: Case) -> Found:
    """Loss over all samples, until ``stop``."""
    data = nf.data.load(
        "separable", n=case.samples, targets="sign", dimension=case.dimension,
        gap=case.gap, seed=case.seed,
    )  # fmt: skip
    split = nf.data.partition(data, case.split, clients=case.clients, seed=case.seed)
    model, loss = Linear(case.dimension), "squared-hinge"
    objective = Objective.of(model, loss)
    every = max(1, case.rounds // case.records)
    yield 0, "loss", 1.0
    moments: Any = nf.fedavg.rounds(
        model, split, rounds=case.rounds, local_steps=case.local_steps,
        step_size=case.step_size, loss=loss, weights=case.weights,
    )  # fmt: skip
    for moment in moments:
        done = moment.index + 1
        if done % every == 0 or moment.last:
            value = objective.value(moment.params, data.x, data.y).item()
            yield done, "loss", value
            if not math.isfinite(value) or value <= case.stop:
                return


def _least_squares(case: Case, each: int) -> tuple[Partition, np.ndarray]:
    """Gaussian inputs, targets of one linear model; the clients' Hessians."""
    stream = seeds.generator(case.seed, "analysis 12/least squares")
    count, d = each * case.clients, case.dimension
    x = torch.randn(count, d, generator=stream, dtype=torch.float64)
    y = x @ torch.randn(d, 1, generator=stream, dtype=torch.float64) / math.sqrt(d)
    split = Partition(Dataset(x, y), list(torch.arange(count).split(each)))
    own = [split.client(i)[0].numpy() for i in range(case.clients)]
    return split, np.stack([one.T @ one / each for one in own])


def _strongly(case: Case) -> Found:
    """Loss along the run, and Theorem 3's promise of the distance at its end."""
    split, _ = _least_squares(case, case.samples // case.clients)
    model = Linear(case.dimension)
    options: dict[str, Any] = {
        "local_steps": case.local_steps,
        "step_size": case.step_size,
        "weights": "uniform",
    }
    watch = nf.observers.loss(model, split, weights="uniform")
    run = nf.simulate(model, split, rounds=case.rounds, observers=[watch], **options)
    rows: Any = run.rows[run.rows["quantity"] == "loss"]
    for t, value in rows[["round", "value"]].to_numpy():
        yield int(t), "loss", value
    yield from _held(case, model, split, run, options, ["qin2022.theorem3"])


def _held(
    case: Case,
    model: torch.nn.Module,
    split: Partition,
    run: nf.History,
    options: dict[str, Any],
    theorems: list[str],
) -> Found:
    """Of each theorem: what was measured over its bound, and are its conditions met?"""
    for one in nf.check(model, split, run=run, theorems=theorems, **options):
        name, own = one.name.removeprefix("qin2022."), one.conclusion
        over = math.nan
        if own.left is not None and own.right is not None:
            over = own.left.upper / own.right.lower  # the worst of both intervals
        yield case.rounds, f"{name}: measured over bound", over
        yield case.rounds, f"{name}: conditions hold", str(one.verdict) == "holds"


def _theorems(case: Case) -> Found:
    """Theorem 1 at 1/(2L) or Theorem 2 and its lemmas at 1/(3KLρ), at every step."""
    each = 4 * case.dimension if case.split == "alike" else case.dimension // 2
    split, hessians = _least_squares(case, each)
    model, k = Linear(case.dimension), case.local_steps
    big = max(np.linalg.eigvalsh(one)[-1] for one in hessians)
    limit = 1 / (2 * big)
    theorems = ["qin2022.theorem1"]
    if case.number == 2:
        limit = qin2022.theorem2_step_size(big, qin2022.growth(hessians), k)
        theorems = [f"qin2022.{one}" for one in ("theorem2", "lemma4", "lemma5")]
    options: dict[str, Any] = {
        "local_steps": k,
        "step_size": case.step_size * limit,
        "weights": "uniform",
    }
    watch = nf.observers.local_sgd(model, split, local_steps=k)
    run = nf.simulate(
        model, split, rounds=case.rounds, observers=[watch], steps=True, **options
    )
    yield from _held(case, model, split, run, options, theorems)
    rows: Any = run.rows
    met = rows.loc[rows["quantity"] == "similarity", "value"].dropna()
    yield case.rounds, "similarity s", qin2022.similarity(hessians)
    if len(met):
        yield case.rounds, "smallest similarity along the run", met.min()


def _curved(outputs: Tensor, targets: Tensor) -> Tensor:
    """``(a/2) f²`` of each sample, its target being the curvature a."""
    return (targets * outputs.square() / 2).sum(dim=-1)


def _instance(curvatures: list[float]) -> tuple[Linear, Partition]:
    """One number for a model, started at 1; client i has ``(a_i/2) x²``."""
    count, model = len(curvatures), Linear(1)
    with torch.no_grad():
        model.weight.fill_(1.0)
    ones = torch.ones(count, 1, dtype=torch.float64)
    data = Dataset(ones, torch.tensor(curvatures, dtype=torch.float64)[:, None])
    return model, Partition(data, list(torch.arange(count).split(1)))


def _ran(curvatures: list[float], k: int, rounds: int, step_size: float) -> np.ndarray:
    """The averaged model after 0, 1, … rounds of FedAvg."""
    model, split = _instance(curvatures)
    options: dict[str, Any] = {"local_steps": k, "step_size": step_size}
    moments: Any = nf.fedavg.rounds(
        model, split, rounds=rounds, loss=_curved, weights="uniform", **options
    )
    return np.array([1.0, *(one.params["weight"].item() for one in moments)])


def _instances(case: Case) -> Found:
    """Propositions 1 and 2 and plain gradient descent (3), run and in closed form.

    ``step_size`` is ηL of 1 and 3, and ηLK over the instability threshold of 2.
    """
    big, k, rounds = SMOOTHNESS, case.local_steps, case.rounds
    if case.number == 1:
        eta = case.step_size / big
        own = _ran([big, *[0.0] * (4 * rounds - 1)], k, rounds, eta)
        told = qin2022.proposition1(big, k, rounds, eta)
        gap = qin2022.proposition1_gap(big, rounds, own)
        yield rounds, "closed form error", np.abs(own / told - 1).max()
        bound = qin2022.proposition1_bound(big, k, rounds)
        yield rounds, "gap over bound", gap[-1] / bound
    elif case.number == 2:
        eta = case.step_size * qin2022.instability(k) / (big * k)
        own = _ran([big, -big / 2], k, rounds, eta)
        told = qin2022.proposition2(big, k, rounds, eta)
        yield rounds, "closed form error", np.abs(own / told - 1).max()
        yield rounds, "factor", abs(own[-1]) ** (1 / rounds)
        yield rounds, "ηLK", eta * big * k
        yield from _slips(k, rounds)
    else:
        own = _ran([big], 1, rounds, case.step_size / big)
        yield rounds, "factor", abs(own[-1]) ** (1 / rounds)


def _slips(k: int, rounds: int) -> Found:
    """Proposition 2's constants as they are met, at 2/(LK) and at Theorem 2's step."""
    big = SMOOTHNESS
    model, split = _instance([big, -big / 2])
    objective = Objective.of(model, _curved)
    params = {name: one.detach() for name, one in model.named_parameters()}
    own = [split.client(i) for i in range(split.clients)]
    value = sum(objective.value(params, x, y).item() for x, y in own) / len(own)
    slopes = [objective.gradient(params, x, y) for x, y in own]
    mean = {"weight": torch.stack([one["weight"] for one in slopes]).mean(dim=0)}
    least = squared_norm(mean)
    yield rounds, "mean loss at 1 over L", value / big
    yield rounds, "ρ met", max(squared_norm(one) for one in slopes) / least
    run = _ran([big, -big / 2], k, rounds, 2 / (big * k))
    slope = least * np.square(run).min()  # the gradient is linear in the model
    yield rounds, "factor at 2/(LK)", abs(run[-1]) ** (1 / rounds)
    yield rounds, "smallest squared gradient at 2/(LK) over L²", slope / big**2
    eta = qin2022.theorem2_step_size(big, 16.0, k)
    run = _ran([big, -big / 2], k, rounds, eta)
    bound = qin2022.theorem2_bound(value, eta, k, rounds)
    yield rounds, "theorem2: measured over bound", least * np.square(run).min() / bound
