"""One run of FedAvg on a pyramid, an image network, or at a certified start."""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import torch

import ntk_fed as nf
from ntk_fed import observers, start
from ntk_fed.data import Dataset, Partition

DATA_SEED = 0
GAMMA = 0.1  # slope of the smooth leaky ReLU far below zero, parts A and B
CURVE = 40  # recorded rounds of a run, about


@dataclasses.dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        part: "pyramid", "image" or "certificate".
        model: of "image": "lenet" or "resnet".
        width: of "pyramid" the wide layer; of "image" hundredths of the full network.
        split: "iid", "dirichlet" or "one-class".
        local_steps: K.
        rounds: of communication.
        activation: of "pyramid".
        side: images are averaged to so many pixels a side.
        images: samples in all; the same number of every class.
        clients: as many as classes.
        initial: of "certificate": "lecun" or "certified".
        small: width of the layer after the wide one; at most the wide one.
        seed: of the initial weights.
    """

    part: str = "pyramid"
    model: str = "pyramid"
    width: int = 40
    split: str = "one-class"
    local_steps: int = 5
    rounds: int = 400
    activation: str = "relu"
    side: int = 7
    images: int = 40
    clients: int = 10
    initial: str = "lecun"
    small: int = 16
    seed: int = 0


def measure(case: Case) -> Iterator[dict[str, Any]]:
    """Loss over rounds, and what was measured before the first."""
    match case.part:
        case "pyramid":
            yield from _pyramid(case)
        case "image":
            yield from _image(case)
        case "certificate":
            yield from _certificate(case)
        case _:
            raise ValueError(f"part must be pyramid, image or certificate: {case}.")


def _pyramid(case: Case) -> Iterator[dict[str, Any]]:
    """A wide layer, a small one and one output; target +1 for the digits 5 to 9."""
    data = _images(case, "mnist")
    y = torch.where(data.y >= 5, 1.0, -1.0).to(data.x.dtype)[:, None]
    data = Dataset(data.x.flatten(1), y, classes=data.y)
    model = nf.models.Pyramid(
        data.x.shape[1],
        case.width,
        [min(case.small, case.width), 1],
        activation=case.activation,
        gamma=GAMMA,
        seed=case.seed,
    )
    theta = nf.gram_matrix(nf.gram(model, data.x, outputs="full", engine="layerwise"))
    splits = {kind: _split(data, kind, case) for kind in ("iid", case.split)}
    splits["one-class"] = _split(data, "one-class", case)
    step_size = min(start.stable_step_size(theta, own) for own in splits.values())
    split = splits[case.split]
    kernel = nf.federated_kernel(
        theta, split, local_steps=case.local_steps, step_size=step_size
    )
    with torch.no_grad():
        residual = (model(data.x) - data.y).flatten()
    smallest = torch.linalg.eigvalsh(theta)[0].item() / case.images
    yield _row("step size", step_size)
    yield _row("PL constant at the start", smallest)
    yield from _curve(model, split, case, step_size)
    predicted = kernel.predict(residual, case.rounds).square().sum(1)
    for t in _recorded(case.rounds):
        yield _row("predicted loss", predicted[t].item() / (2 * case.images), t)


def _image(case: Case) -> Iterator[dict[str, Any]]:
    """LeNet, or ResNet-18 with LayerNorm, on CIFAR-10, one-hot targets."""
    data = _images(case, "cifar10")
    y = torch.nn.functional.one_hot(data.y, case.clients).to(data.x.dtype)
    data = Dataset(data.x, y, classes=data.y)
    options: Any = {"size": case.side, "outputs": case.clients, "seed": case.seed}
    model = (
        nf.models.LeNet(case.width / 100, **options)
        if case.model == "lenet"
        else nf.models.ResNet18("layer", case.width / 100, **options)
    )
    splits = {kind: _split(data, kind, case) for kind in ("iid", "one-class")}
    tops = []
    for x, _ in (own.client(i) for own in splits.values() for i in range(own.clients)):
        theta = nf.gram_matrix(nf.gram(model, x, outputs="full"))
        tops.append(torch.linalg.eigvalsh(theta)[-1].item() / len(x))
    yield _row("step size", 1 / max(tops))
    yield from _curve(model, splits[case.split], case, 1 / max(tops), engine="vmap")


def _certificate(case: Case) -> Iterator[dict[str, Any]]:
    """N1 and N2, the step size they allow, and the run at a practical one.

    Four digits, one for each client; the targets are the two bits of the digit, as
    signs.
    """
    data = _images(case, "mnist")
    bits = torch.stack([data.y // 2, data.y % 2], dim=1)
    data = Dataset(data.x.flatten(1), 2 * bits.to(data.x.dtype) - 1, classes=data.y)
    split = _split(data, case.split, case)
    widths = [8, 4, 2]
    if case.initial == "certified":
        model = nf.checks.certified_pyramid(split, case.width, widths, seed=case.seed)
    else:
        model = nf.models.Pyramid(
            data.x.shape[1],
            case.width,
            widths,
            activation="smooth_leaky_relu",
            seed=case.seed,
        )
    own = start.measure(model, split, local_steps=case.local_steps, step_size=None)
    (prior,) = nf.check(
        model,
        split,
        local_steps=case.local_steps,
        step_size=own.step_size,
        start=own,
        theorems=["song2023.a_priori"],
    )
    limits = [one.right for one in prior.hypotheses if one.name.startswith("eta K")]
    limit = min(one.value for one in limits if one) / case.local_steps
    for one in prior.hypotheses:
        if one.name.startswith("N"):
            yield _row(f"margin of {one.name[:2]}", one.margin)
    yield _row("step size", own.step_size)
    yield _row("step size of the theorem", limit)
    for name, step_size in (("practical", own.step_size), ("theorem", limit)):
        promised = step_size * case.local_steps * prior.constants["mu"].value / 2
        yield _row(f"promised rate, {name} step", promised)
    yield from _curve(model, split, case, own.step_size)


def _curve(
    model: torch.nn.Module,
    split: Partition,
    case: Case,
    step_size: float,
    *,
    engine: str = "auto",
) -> Iterator[dict[str, Any]]:
    """The training loss at the recorded rounds; infinite where it diverged."""
    run = nf.simulate(
        model,
        split,
        rounds=case.rounds,
        local_steps=case.local_steps,
        step_size=step_size,
        observers=[observers.loss(model, split, every=_every(case.rounds))],
        engine=engine,
    )
    rows = run.rows[run.rows["quantity"] == "loss"]
    for t, value in zip(rows["round"], rows["value"], strict=True):
        yield _row("loss", float(value), int(t))
    if run.status == "diverged":
        yield _row("loss", math.inf, case.rounds)


def _every(rounds: int) -> int:
    return max(rounds // CURVE, 1)


def _recorded(rounds: int) -> list[int]:
    return sorted({*range(0, rounds + 1, _every(rounds)), rounds})


def _images(case: Case, name: str) -> Dataset:
    """As many images of each of the first classes, the mean image taken away.

    They are averaged to ``side`` pixels a side and scaled so that every sample has
    norm ``side``; targets are labels.
    """
    each = case.images // case.clients
    some = _drawn(name)
    kinds = range(case.clients)
    chosen = torch.cat([(some.y == kind).nonzero()[:each, 0] for kind in kinds])
    x = some.x[chosen]
    if name == "mnist":
        x = x.reshape(-1, 1, 28, 28)
    x = torch.nn.functional.adaptive_avg_pool2d(x, case.side)
    x = x - x.mean(0)
    norms = x.flatten(1).norm(dim=1)[:, None, None, None]  # (n, 1, 1, 1)
    return Dataset(x / norms * case.side, some.y[chosen])


@functools.cache
def _drawn(name: str) -> Dataset:
    """Two thousand images with labels, kept while the process lasts."""
    return nf.data.load(name, n=2000, targets="label", seed=DATA_SEED)


def _split(data: Dataset, kind: str, case: Case) -> Partition:
    return nf.data.partition(data, kind, clients=case.clients, seed=DATA_SEED)


def _row(quantity: str, value: float, t: int = 0) -> dict[str, Any]:
    return {"round": t, "quantity": quantity, "value": value}
