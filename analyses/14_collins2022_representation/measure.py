"""FedAvg and D-GD on a representation that clients share.

Four parts. ``"linear"``: population losses, exactly. ``"samples"``: the same with noisy
samples. ``"new clients"``: a new client's head on the representation that was learned,
from few samples. ``"images"``: a small convolutional network, compared at one training
loss.
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
from ntk_fed.features import cosine_totals, last_features
from ntk_fed.theory import collins2022

FITTED = 20  # rounds the contraction is fitted over: the last that rounding leaves
RESOLVED = 1e-9  # dist below which rounding shows
POINTS = 60  # of a curve
BATCH = 500  # new clients at a time
PIXELS = 14  # a side, of CIFAR-10 images averaged down
FEWER = 5  # classes of a new client
STEPS = 100  # of fine-tuning, on the head


@dataclasses.dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        part: "linear", "samples", "new clients" or "images".
        dimension: d.
        rank: k.
        clients: c.
        step_size: η.
        local_steps: K; 1 is D-GD.
        rounds: of all parts but "images".
        start: "near" the true representation, or "random".
        spread: of the normal entries added to the truth for a start near it.
        distinct: orthogonal directions of all heads; 0: independent normal heads.
        samples: of a client ("samples"), of a new client ("new clients").
        noise: σ of the labels.
        draws: new clients; of "images" too.
        data: cifar10 or digits.
        classes: C, classes of a client's images.
        seen: classes of all training images.
        images: per class, in training.
        shots: images per class of a new client.
        width: of the LeNet.
        names: of classes: "shared", or "own": each client permutes the ten labels.
        level: training loss at which networks are compared.
        limit: gradient steps of a client at most.
        seed: decides everything that is drawn, the images too.
    """

    part: str = "linear"
    dimension: int = 100
    rank: int = 5
    clients: int = 40
    step_size: float = 0.12
    local_steps: int = 10
    rounds: int = 120
    start: str = "near"
    spread: float = 0.01
    distinct: int = 0
    samples: int = 20
    noise: float = 0.5
    draws: int = 4000
    data: str = "cifar10"
    classes: int = 2
    seen: int = 10
    images: int = 40
    shots: int = 5
    width: float = 0.5
    names: str = "shared"
    level: float = 1.5
    limit: int = 1000
    seed: int = 0


def measure(case: Case) -> Iterator[dict[str, Any]]:
    """Rows of one case: ``round``, ``layer``, ``quantity``, ``value``.

    Raises:
        ValueError: a part or a start that there is not.
    """
    if case.start not in ("near", "random"):
        raise ValueError(f"start must be near or random, got {case.start!r}.")
    parts = {
        "linear": _linear,
        "samples": _samples,
        "new clients": _new_clients,
        "images": _images,
    }
    if case.part not in parts:
        raise ValueError(f"part must be one of {sorted(parts)}, got {case.part!r}.")
    for t, layer, quantity, value in parts[case.part](case):
        row = {"round": int(t), "layer": layer, "quantity": quantity}
        yield row | {"value": float(value)}


Found = Iterator[tuple[int, str, str, float]]


def _random(case: Case, purpose: str) -> np.random.Generator:
    return np.random.default_rng(seeds.derive(case.seed, f"collins/{purpose}"))


def _problem(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Start, true representation, true heads: the same for every K."""
    random, k = _random(case, "problem"), case.rank
    truth = collins2022.orthonormal(random.standard_normal((case.dimension, k)))
    heads = random.standard_normal((case.clients, k))
    if case.distinct:
        few = collins2022.orthonormal(random.standard_normal((k, case.distinct))).T
        heads = math.sqrt(k) * few[np.arange(case.clients) % case.distinct]
    first = random.standard_normal((case.dimension, k))
    if case.start == "near":
        first = truth + case.spread * first
    return collins2022.start(first, case.step_size), truth, heads


def _path(case: Case) -> list[tuple[np.ndarray, np.ndarray]]:
    b, truth, heads = _problem(case)
    options = {"step_size": case.step_size, "local_steps": case.local_steps}
    path = collins2022.models(
        b, np.zeros(case.rank), truth, heads, rounds=case.rounds, **options
    )
    return list(path)


def _linear(case: Case) -> Found:
    """Distance and excess loss along the run, contraction and its formula."""
    _, truth, heads = _problem(case)
    path, last = _path(case), case.rounds
    dists = np.array([_missed(b, truth) for b, _ in path])
    aim = truth @ heads.mean(axis=0)  # all that the mean loss asks of B w
    losses = [np.square(b @ w - aim).sum() / 2 for b, w in path]
    every = max(1, math.ceil(last / POINTS))
    for t in sorted({*range(0, last + 1, every), last}):
        yield t, "", "dist", dists[t]
        yield t, "", "excess loss", losses[t]
    yield last, "", "smallest dist", dists.min()
    yield last, "", "fitted contraction", _fitted(dists)
    yield last, "", "diversity", collins2022.diversity(heads)
    largest = collins2022.largest_head(heads, case.step_size)
    yield last, "", "largest η² ‖w‖²", largest
    if largest < 2:
        for name, k in (("formula", 0), ("formula with a step too many", 1)):
            value = collins2022.contraction(heads, case.step_size, case.local_steps + k)
            yield last, "", name, value
    frame = np.linalg.svd(heads)[2].T  # (k, k)
    span = case.distinct or case.rank
    for name, own in (("inside", frame[:, :span]), ("outside", frame[:, span:])):
        if own.shape[1]:
            for t in (0, last):
                yield (
                    t,
                    "",
                    f"dist {name} the heads' span",
                    _missed(path[t][0], truth @ own),
                )


def _missed(b: np.ndarray, wanted: np.ndarray) -> float:
    """``‖(I − B̂B̂ᵀ) wanted‖₂``; NaN where the columns of B span no such space."""
    try:
        own = collins2022.orthonormal(b)
    except ValueError:
        return math.nan
    return float(np.linalg.norm(wanted - own @ (own.T @ wanted), 2))


def _fitted(dists: np.ndarray) -> float:
    """Factor of a round over the last rounds that rounding has not reached."""
    late = dists[~(dists <= RESOLVED)][-FITTED - 1 :]
    return float((late[-1] / late[0]) ** (1 / (len(late) - 1)))


def _samples(case: Case) -> Found:
    """Distance along a run of the network on noisy samples."""
    b, truth, heads = _problem(case)
    random, c, n = _random(case, "samples"), case.clients, case.samples
    x = random.standard_normal((c, n, case.dimension))
    y = (x @ (heads @ truth.T)[:, :, None])[:, :, 0]
    y += case.noise * random.standard_normal((c, n))
    data = nf.data.Dataset(
        torch.from_numpy(x.reshape(c * n, -1)), torch.from_numpy(y.reshape(-1, 1))
    )
    split = nf.data.Partition(data, list(torch.arange(c * n).split(n)))
    model = nf.models.SharedRepresentation(
        case.dimension, case.rank, start=torch.from_numpy(b)
    )
    wanted = torch.from_numpy(truth)
    every = max(1, case.rounds // POINTS)
    history = nf.simulate(
        model,
        split,
        rounds=case.rounds,
        local_steps=case.local_steps,
        step_size=case.step_size,
        observers=[nf.observers.subspace(model, split, truth=wanted, every=every)],
    )
    rows: Any = history.rows
    for row in rows[rows["quantity"] == "subspace distance"].itertuples():
        yield row.round, "", "dist", row.value
    if history.status == "diverged":
        yield case.rounds, "", "dist", math.nan


def _new_clients(case: Case) -> Found:
    """Excess risk of new clients that fit the head alone, and the formula."""
    _, truth, _ = _problem(case)
    first, last = (_path(case)[t][0] for t in (0, -1))
    k, n, random = case.rank, case.samples, _random(case, "new clients")
    yield case.rounds, "", "dist", _missed(last, truth)
    yield 0, "", "dist", _missed(first, truth)
    basis = collins2022.orthonormal(last)
    excess, formula = [], []
    for _ in range(max(1, case.draws // BATCH)):
        target = random.standard_normal((BATCH, k)) @ truth.T  # (BATCH, d)
        x = random.standard_normal((BATCH, n, case.dimension))
        y = (x @ target[:, :, None])[:, :, 0]
        y += case.noise * random.standard_normal((BATCH, n))
        features = x @ basis
        normal = features.mT @ features  # (BATCH, k, k)
        head = np.linalg.solve(normal, features.mT @ y[:, :, None])[:, :, 0]
        excess.append(np.square(head @ basis.T - target).sum(axis=1) / 2)
        missed = np.linalg.norm(target - (target @ basis) @ basis.T, axis=1)
        formula += [
            collins2022.fine_tuning_excess(float(one), case.noise, k, n)
            for one in missed
        ]
    found, expected = np.concatenate(excess), np.array(formula)
    yield case.rounds, "", "excess risk", found.mean()
    yield case.rounds, "", "formula", expected.mean()
    yield case.rounds, "", "excess over formula", (found / expected).mean()


def _images(case: Case) -> Found:
    """New clients, features and movement where the training loss is ``level``."""
    train, test, order = _pictures(case)
    channels, side = train.x.shape[1:3]
    model = nf.models.LeNet(
        case.width, channels=channels, size=side, seed=case.seed, dtype=train.x.dtype
    )
    start = {name: value.detach() for name, value in model.named_parameters()}
    params, rounds, loss = _trained(case, model, _split(case, train, order))
    yield rounds, "", "training loss", loss
    yield rounds, "", "rounds", rounds
    for t, own in ((0, start), (rounds, params)):
        features = last_features(model, own, {}, test.x)
        head = torch.cat([own["head.weight"], own["head.bias"][:, None]], dim=1).mT
        groups = {"": order[: case.seen], ", unseen classes": order[case.seen :]}
        for words, classes in groups.items():
            if len(classes):
                found = _new_heads(case, features, test.labels, classes, head)
                for name, value in found.items():
                    yield t, "", f"{name}{words}", value
        for name, value in _cosines(features, test.labels).items():
            yield t, "", name, value
    for name, value in params.items():
        if name.endswith("weight"):
            moved = (value - start[name]).norm() / start[name].norm()
            yield rounds, name.removesuffix(".weight"), "movement", moved.item()


def _pictures(case: Case) -> tuple[nf.data.Dataset, nf.data.Dataset, list[int]]:
    """Training images, so many of each class; test images; classes in drawn order."""
    options: dict[str, Any] = {"normalise": False, "dtype": torch.float32}
    train = nf.data.load(case.data, split="train", **options)
    test = nf.data.load(case.data, split="test", **options)
    stream = seeds.generator(case.seed, "collins/images")
    order = torch.randperm(10, generator=stream).tolist()
    chosen = []
    for one in sorted(order[: case.seen]):
        own = (train.labels == one).nonzero()[:, 0]
        chosen.append(own[torch.randperm(len(own), generator=stream)[: case.images]])
    x, labels = train.x[torch.cat(chosen)], train.labels[torch.cat(chosen)]
    x, other = (_pooled(one) for one in (x, test.x))
    axes = (0, 2, 3)
    mean, deviation = x.mean(axes, keepdim=True), x.std(axes, keepdim=True)
    return (
        nf.data.Dataset((x - mean) / deviation, labels, class_count=10),
        nf.data.Dataset((other - mean) / deviation, test.labels, class_count=10),
        order,
    )


def _pooled(x: Tensor) -> Tensor:
    """Images ``(n, channels, side, side)``, no more than 14 pixels a side."""
    if x.ndim == 2:
        return x.reshape(len(x), 1, math.isqrt(x.shape[1]), -1)
    return torch.nn.functional.adaptive_avg_pool2d(x, PIXELS)


def _split(case: Case, train: nf.data.Dataset, order: list[int]) -> nf.data.Partition:
    """Client i holds C classes, the i-th and those after it, in equal parts."""
    held: list[list[Tensor]] = [[] for _ in range(case.clients)]
    for place in range(case.seen):
        owners = [
            i for i in range(case.clients) if (place - i) % case.seen < case.classes
        ]
        own = (train.labels == order[place]).nonzero()[:, 0]
        for i, part in zip(owners, own.tensor_split(len(owners)), strict=True):
            held[i].append(part)
    indices, y = [torch.cat(parts) for parts in held], train.labels.clone()
    if case.names == "own":
        for i, own in enumerate(indices):
            stream = seeds.generator(case.seed, "collins/names", i)
            y[own] = torch.randperm(10, generator=stream)[train.labels[own]]
    named = nf.data.Dataset(train.x, y, class_count=10)
    return nf.data.Partition(named, indices)


def _trained(
    case: Case, model: torch.nn.Module, split: nf.data.Partition
) -> tuple[dict[str, Tensor], int, float]:
    """Where the training loss is ``level``: parameters, rounds done, the loss.

    The last round's server step is shortened to end at the level. A run that does not
    get there ends at its limit; a run that diverges has the loss NaN.
    """
    run: Any = nf.fedavg.rounds(
        model,
        split,
        rounds=max(1, case.limit // case.local_steps),
        local_steps=case.local_steps,
        step_size=case.step_size,
        loss="cross-entropy",
    )
    params, t, loss = {}, 0, math.nan
    for item in run:
        loss = _loss(model, item.params, split.dataset)
        if not math.isfinite(loss):
            return item.start, item.index, math.nan
        params, t = item.params, item.index + 1
        if loss > case.level:
            continue
        low, high = 0.0, 1.0
        for _ in range(12):
            share = (low + high) / 2
            params = {
                name: value + share * (item.params[name] - value)
                for name, value in item.start.items()
            }
            loss = _loss(model, params, split.dataset)
            low, high = (low, share) if loss <= case.level else (share, high)
        break
    return params, t, loss


def _loss(
    model: torch.nn.Module, params: dict[str, Tensor], data: nf.data.Dataset
) -> float:
    with torch.no_grad():
        outputs = torch.func.functional_call(model, params, (data.x,))
        return torch.nn.functional.cross_entropy(outputs, data.y).item()


def _new_heads(
    case: Case, features: Tensor, labels: Tensor, classes: list[int], head: Tensor
) -> dict[str, float]:
    """Mean accuracy of new clients before and after they fit a head to few images."""
    rows = torch.cat([features, torch.ones(len(features), 1)], dim=1)  # (n, q + 1)
    names = (
        "accuracy before fine-tuning",
        "new-client accuracy",
        "fresh-head accuracy",
    )
    found = {name: 0.0 for name in names}
    for j in range(case.draws):
        stream = seeds.generator(case.seed, "collins/new client", j)
        pick = torch.randperm(len(classes), generator=stream)[:FEWER].tolist()
        few, rest = [], []
        for one in pick:
            own = (labels == classes[one]).nonzero()[:, 0]
            own = own[torch.randperm(len(own), generator=stream)]
            few.append(own[: case.shots])
            rest.append(own[case.shots :])
        shown, asked = torch.cat(few), torch.cat(rest)
        tuned = _tuned(head, rows[shown], labels[shown])
        fresh = _tuned(torch.zeros_like(head), rows[shown], labels[shown])
        for name, own in zip(names, (head, tuned, fresh), strict=True):
            right = (rows[asked] @ own).argmax(dim=1) == labels[asked]
            found[name] += right.double().mean().item() / case.draws
    return found


def _tuned(head: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
    """The head after gradient descent on the cross-entropy of few images."""
    n = len(rows)
    # Its Hessian is at most half of the covariance: the step is one over that.
    step_size = 2 / torch.linalg.matrix_norm(rows, 2).square() * n
    wanted = torch.nn.functional.one_hot(labels, head.shape[1]).to(rows.dtype)
    for _ in range(STEPS):
        off = (rows @ head).softmax(dim=1) - wanted
        head = head - step_size / n * (rows.mT @ off)
    return head


def _cosines(features: Tensor, labels: Tensor) -> dict[str, float]:
    """Mean cosines of features; samples whose features are all zero are left out."""
    alive = features.abs().amax(dim=1) > 0
    totals = cosine_totals(features[alive], labels[alive], int(alive.sum()))
    found = {
        f"{name} cosine": (one.value / pairs.value).item()
        for name, (one, pairs) in totals.items()
    }
    found["cosine gap"] = found["same class cosine"] - found["different class cosine"]
    return found
