"""Where Local GD of a linear model goes, and how fast, against what theory says."""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

import ntk_fed as nf
from ntk_fed import seeds
from ntk_fed.data import Dataset, Partition, load, partition
from ntk_fed.features import last_features
from ntk_fed.fedavg import losses
from ntk_fed.params import frozen_state
from ntk_fed.theory import zhu2024

DATA_SEED = 0  # of the images
TOLERANCE = 1e-10  # of the distance to the limit, relative to that at the start
PRETRAINING = 300  # samples of the classes that the network is trained on


@dataclasses.dataclass(frozen=True)
class Case:
    """One run of Local GD with full batches, all clients and weights n_i/n.

    Attributes:
        part: "regression"; "direction": separable classification beside centralised
            descent; "projection": exact local solves; "last layer": as "direction", on
            features of a network trained here.
        labels: of regression. "consistent": fewer samples than parameters;
            "contradicting": as many, but two clients share an input and not its label;
            "few parameters": fewer parameters than samples.
        start: of regression: "random", or "slowest": from the interpolator along the
            direction in which a round contracts least.
        loss: of the classification parts, logistic or exponential.
        rule: of projection, average or anchored.
        local_steps: K.
        steps: K t at the end of the classification parts.
        rounds: of projection.
        strength: step size over 1 / max_i λ_max(X_iᵀX_i)/n_i.
        samples: over all clients.
        dimension: parameters, but for the last layer.
        clients: how many; samples are cut across a direction, or by class.
        data: images of the last layer.
        width: of the network whose last layer is trained anew.
        epochs: gradient steps that trained the network.
        seed: of the samples and the start; in "last layer" of the network's weights.
    """

    part: str = "regression"
    labels: str = "consistent"
    start: str = "random"
    loss: str = "logistic"
    rule: str = "average"
    local_steps: int = 5
    steps: int = 8192
    rounds: int = 512
    strength: float = 0.9
    samples: int = 40
    dimension: int = 128
    clients: int = 4
    data: str = "digits"
    width: int = 256
    epochs: int = 200
    seed: int = 0


Found = Iterator[tuple[int, str, Any]]  # round, quantity, number
Models = dict[int, np.ndarray]  # round -> w


def measure(case: Case) -> Iterator[dict[str, Any]]:
    """Rows of one case: ``round``, ``quantity``, ``value``."""
    match case.part:
        case "regression":
            found = _regression(case)
        case "direction":
            found = _classification(case, _split(case, "separable"), None)
        case "projection":
            found = _projection(case)
        case "last layer":
            found = _classification(case, *_new_classes(case))
        case _:
            raise ValueError(f"part is unknown: {case.part!r}.")
    for t, quantity, value in found:
        yield {"round": t, "quantity": quantity, "value": float(value)}


def _split(case: Case, name: str) -> Partition:
    """Points on the sphere, cut along their principal direction or the hyperplane's."""
    options = {"dimension": case.dimension, "seed": case.seed, "targets": "sign"}
    data = load(name, n=case.samples, normalise=True, **options)
    return partition(data, "slices", clients=case.clients)


def _clients(split: Partition) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and labels, client by client."""
    parts = [split.client(i) for i in range(split.clients)]
    return [x for x, _ in parts], [y[:, 0] for _, y in parts]


def _marks(rounds: int) -> list[int]:
    """Rounds that are recorded: powers of 2, and the last."""
    return sorted({rounds, *(2**j for j in range(rounds.bit_length()))})


def _run(
    case: Case, split: Partition, rounds: int, first: np.ndarray, **options: Any
) -> Models:
    """The models at the start and the marks; NaN where a run had diverged."""
    models = {t: np.full_like(first, math.nan) for t in _marks(rounds)}
    own: dict[str, Any] = {"local_steps": case.local_steps} | options

    def keep(moment: Any) -> Any:
        if moment.index + 1 in models:
            models[moment.index + 1] = moment.params["weight"].numpy()[0].copy()
        return ()

    nf.simulate(
        nf.models.Linear(len(first)),
        split,
        rounds=rounds,
        params={"weight": torch.from_numpy(first)[None]},
        observers=[keep],
        **own,
    )
    return {0: first} | models


def _regression(case: Case) -> Found:
    """Distances to the interpolator and the exact limit, and the factor of a round."""
    split = _split(case, "sphere")
    if case.labels == "contradicting":
        one, other = (int(split.indices[i][0]) for i in (0, -1))
        x, y = split.dataset.x.clone(), split.dataset.y.clone()
        x[other], y[other] = x[one], -y[one]
        split = Partition(Dataset(x, y), split.indices)
    xs, ys = _clients(split)
    step_size = case.strength / zhu2024.largest_step(xs, step_size=1.0)
    options: dict[str, Any] = {"step_size": step_size, "local_steps": case.local_steps}
    theta = zhu2024.enclosed_theta(xs, weights="samples", **options)
    first = _start(case, xs, ys, step_size)
    exact = zhu2024.fixed_point(xs, ys, first, weights="samples", **options)
    rounds = math.ceil(math.log(TOLERANCE) / math.log1p(-theta.value))
    models = _run(case, split, rounds, first, step_size=step_size)
    apart = {t: float(np.linalg.norm(w - exact)) for t, w in models.items()}
    for t, distance in apart.items():
        yield t, "distance", distance / apart[0]
    for name, aim in (
        ("interpolator", zhu2024.limit(xs, ys, first)),
        ("fixed point", exact),
        ("minimiser of rPr", _minimiser(split, first, options)),
    ):
        left = float(np.linalg.norm(models[rounds] - aim)) / apart[0]
        yield rounds, f"distance to the {name}", left
    worst = zhu2024.worst_ratio(
        np.array([*apart]),
        np.array([*apart.values()]),
        theta,
        size=float(max(np.linalg.norm(w) for w in (*models.values(), exact))),
        local_steps=case.local_steps,
    )
    half = max(t for t in apart if t <= rounds / 2)
    yield rounds, "worst ratio to the bound", worst.upper if worst else math.nan
    yield rounds, "factor of a round", (apart[half] / apart[0]) ** (1 / half)
    yield rounds, "θ_K", theta.value
    yield rounds, "θ_∞", zhu2024.theta_limit(xs, weights="samples")


def _start(
    case: Case, xs: list[Tensor], ys: list[Tensor], step_size: float
) -> np.ndarray:
    """w_0 from N(0, I), or the interpolator plus the slowest direction."""
    if case.start == "random":
        stream = seeds.generator(case.seed, "analysis 13/start")
        return torch.randn(case.dimension, generator=stream).double().numpy()
    one = np.eye(case.dimension)
    total = np.zeros_like(one)  # of what a round closes
    for x in map(Tensor.numpy, xs):
        step = one - step_size / len(x) * x.T @ x
        closed = one - np.linalg.matrix_power(step, case.local_steps)
        total += len(x) / case.samples * closed
    values, vectors = np.linalg.eigh((total + total.T) / 2)
    slowest = vectors[:, values > 1e-9][:, 0]
    return zhu2024.limit(xs, ys, np.zeros(case.dimension)) + slowest


def _minimiser(
    split: Partition, first: np.ndarray, options: dict[str, Any]
) -> np.ndarray:
    """Nearest to w_0 of the minimisers of rᵀPr, P that of the federated kernel."""
    x, y = split.dataset.x, split.dataset.y[:, 0]
    kernel = nf.federated_kernel(x @ x.T, split, weights="samples", **options)
    p = kernel.apply_p(torch.eye(len(x), dtype=x.dtype)).numpy()
    root = np.linalg.cholesky((p + p.T) / 2).T
    gap = y.numpy() - x.numpy() @ first
    return first + np.linalg.pinv(root @ x.numpy(), rcond=1e-12) @ (root @ gap)


def _classification(case: Case, split: Partition, tests: Dataset | None) -> Found:
    """Local GD beside centralised descent with the same step size and K t steps."""
    xs, ys = _clients(split)
    x, y, k = torch.cat(xs), torch.cat(ys), case.local_steps
    svm = zhu2024.max_margin(x, y)
    own = [zhu2024.max_margin(*client) for client in zip(xs, ys, strict=True)]
    shares = [len(a) / np.linalg.norm(w) for a, w in zip(xs, own, strict=True)]
    mean = np.array(shares) @ np.array(own)  # of unit vectors
    step_size = case.strength / zhu2024.largest_step(xs, step_size=1.0)
    rounds, zero = case.steps // k, np.zeros(x.shape[1])
    options: dict[str, Any] = {"step_size": step_size, "loss": case.loss}
    models = _run(case, split, rounds, zero, **options)
    central = {0: zero}
    alone = Partition(split.dataset, [torch.cat(list(split.indices))])
    for s, t in itertools.pairwise([0, *_marks(rounds)]):  # in one round of many steps
        central[t] = central[s]
        if np.isfinite(central[s]).all():
            many = options | {"local_steps": k * (t - s)}
            central[t] = _run(case, alone, 1, central[s], **many)[1]
    given = {
        "step_size": step_size,
        "local_steps": k,
        "margin": 1 / np.linalg.norm(svm),
    }
    after = zhu2024.crawshaw_transition(clients=case.clients, **given)
    for t in _marks(rounds):
        w, v = models[t], central[t]
        yield t, "loss", _loss(case.loss, x, y, w)
        yield t, "centralised loss", _loss(case.loss, x, y, v)
        yield t, "gap to the SVM", zhu2024.direction_gap(w, svm)
        yield t, "centralised gap to the SVM", zhu2024.direction_gap(v, svm)
        yield t, "gap to the centralised model", zhu2024.direction_gap(w, v)
        yield t, "gap to the clients' SVMs", zhu2024.direction_gap(w, mean)
        yield t, "norm", np.linalg.norm(w)
        bound = zhu2024.crawshaw_bound(np.array([t]), transition=after, **given)
        yield t, "Crawshaw bound", bound[0]
        if tests is not None:
            signs = [np.sign(tests.x.numpy() @ one) for one in (w, v, svm)]
            truth = tests.y[:, 0].numpy()
            for name, sign in zip(("", "centralised ", "SVM "), signs, strict=True):
                yield t, f"{name}test accuracy", (sign == truth).mean()
            yield t, "agreement", (signs[0] == signs[1]).mean()
    yield rounds, "Crawshaw transition", after
    yield rounds, "margin", given["margin"]
    yield rounds, "step size", step_size


def _loss(name: str, x: Tensor, y: Tensor, w: np.ndarray) -> float:
    """Mean over all samples: Σ w_i F_i with weights n_i/n."""
    outputs = (x @ torch.from_numpy(w))[:, None]
    return losses.named(name)(outputs, y[:, None]).mean().item()


def _new_classes(case: Case) -> tuple[Partition, Dataset]:
    """Features of images of classes 5 to 9, one class per client, and test images.

    Labels are +1 for odd classes; the largest norm of a training sample becomes 1.
    """
    images = load(case.data, seed=DATA_SEED)
    stream = seeds.generator(DATA_SEED, "analysis 13/images")
    order = torch.randperm(len(images), generator=stream)
    x, labels = images.x.flatten(1)[order], images.labels[order]
    x = x * x.shape[1] ** 0.5  # pixels of mean square 1
    model, old = nf.models.MLP([x.shape[1], case.width, 5], seed=case.seed), labels < 5
    known = Dataset(x[old][:PRETRAINING], labels[old][:PRETRAINING])
    trained = nf.simulate(
        model,
        partition(known, "single", clients=1),
        rounds=1,
        local_steps=case.epochs,
        step_size=0.5,
        loss="cross-entropy",
    )
    classes, n = labels[~old] - 5, case.samples
    features = last_features(model, trained.params, frozen_state(model), x[~old])
    features = features / torch.linalg.vector_norm(features[:n], dim=1).max()
    signs = (1.0 - 2.0 * (classes[:, None] % 2)).to(x.dtype)  # 5, 7 and 9 are odd
    train = Dataset(features[:n], signs[:n], classes=classes[:n], class_count=5)
    split = partition(train, "one-class", clients=case.clients, seed=DATA_SEED)
    return split, Dataset(features[n:], signs[n:])


def _projection(case: Case) -> Found:
    """Exact local solves: distance to the SVM along the run, and smallest margins."""
    split = _split(case, "separable")
    x, y = split.dataset.x.numpy(), split.dataset.y[:, 0].numpy()
    svm = zhu2024.max_margin(x, y)
    options = {"local": "exact", "loss": "squared-hinge", "rule": case.rule}
    zero = np.zeros(case.dimension)  # exact solves do not read the step size
    models = _run(
        case, split, case.rounds, zero, local_steps=1, step_size=1.0, **options
    )
    for t in _marks(case.rounds):
        w = models[t]
        yield t, "distance to the SVM", np.linalg.norm(w - svm) / np.linalg.norm(svm)
        yield t, "gap to the SVM", zhu2024.direction_gap(w, svm)
        yield t, "smallest margin", (y * (x @ w)).min()
