"""Local SGD on a deep network: gradients at local models and at the averaged model.

The first and the last layer are fixed; the square hidden layers, of N(0, 2/m) entries,
are trained. Watched rounds are measured after every local step.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

import ntk_fed as nf
from ntk_fed import drift, start
from ntk_fed.data import Partition
from ntk_fed.fedavg import LocalStep, Objective, Round
from ntk_fed.fedavg.server import average
from ntk_fed.observers.common import clients_data, local_models
from ntk_fed.params import Params, difference, shifted, squared_norm, trainable
from ntk_fed.theory import deng2022

SHARES = tuple(2.0**-k for k in range(7))  # of the way from averaged to local model
CURVE = 60  # losses kept of a run, at most
EPS = torch.finfo(torch.float64).eps

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """One run of Local SGD.

    Attributes:
        part: what the run is for.
        data: name of the samples; the targets are their signs.
        samples: n.
        clients: c; samples are sorted by label and cut into so many shards.
        width: m.
        hidden: hidden layers; the square matrices between them are trained.
        activation: of ``nf.models.MLP``.
        local_steps: K.
        iterations: K times the number of rounds.
        share: the step size, as a share of the largest that is stable on every client.
        watched: rounds whose local steps are watched, spread evenly; 0 is none.
        seed: of the weights.
    """

    part: str = "width"
    data: str = "digits"
    samples: int = 24
    clients: int = 4
    width: int = 64
    hidden: int = 3
    activation: str = "relu"
    local_steps: int = 4
    iterations: int = 24
    share: float = 0.5
    watched: int = 3
    seed: int = 0


def federation(case: Case) -> tuple[torch.nn.Module, Partition]:
    """The network at its start, and the data of the clients."""
    data = nf.data.load(case.data, n=case.samples, targets="sign", normalise=True)
    split = nf.data.partition(data, "shards", clients=case.clients, shards_per_client=1)
    d = data.x.shape[1]
    model = nf.models.MLP(
        [d, *[case.width] * case.hidden, 1],
        activation=case.activation,
        scaling="standard",
        seed=case.seed,
    )
    ends: Any = (model.layers[0], model.layers[-1])
    for layer in ends:
        layer.weight.requires_grad_(requires_grad=False)
    ends[0].weight.mul_(math.sqrt(d / 2))  # N(0, 1): signals of order 1
    return model, split


def measure(case: Case) -> Iterator[Row]:
    """Rows of the run, its losses, its pairs of models, its segments and their fits."""
    model, split = federation(case)
    k = case.local_steps
    first = start.measure(model, split, local_steps=k, step_size=None, rtol=0.1)
    eta = case.share * first.step_size
    kernel = nf.federated_kernel(first.gram, split, local_steps=k, step_size=eta)
    rounds = case.iterations // k
    marks = np.linspace(0, rounds - 1, min(case.watched, rounds)).round()
    watched = set(marks.astype(int).tolist())
    objective = Objective.of(model)
    losses, pairs, segments = [_loss(objective, split, trainable(model))], [], []
    for moment in nf.fedavg.rounds(
        model, split, rounds=rounds, local_steps=k, step_size=eta,
        steps=bool(watched),
    ):  # fmt: skip
        if isinstance(moment, Round):
            losses.append(_loss(objective, split, moment.params))
        elif moment.round in watched:
            pairs += _pairs(objective, split, moment, case.activation == "relu")
            if moment.step == k:
                segments += _segments(objective, split, moment)
    path = kernel.predict(first.residual, rounds).flatten(1)
    found = _curve(losses, (path.square().mean(dim=1) / 2).tolist())
    found += pairs + segments + _fits(pairs, segments)
    x = split.dataset.x.flatten(1).numpy()
    about = {
        "step_size": eta,
        "stable": first.step_size,
        "separation": deng2022.separation(x).value,
        "smallest": first.smallest.value,
    }
    for row in [{"kind": "run"}, *found]:
        yield {**about, **row}


def _loss(objective: Objective, split: Partition, params: Params) -> float:
    """Mean over all samples: clients weigh by how many they hold."""
    return objective.value(params, split.dataset.x, split.dataset.y).item()


def _curve(losses: list[float], predicted: list[float]) -> list[Row]:
    """Losses of the run and of the linearised network, at most ``CURVE`` of them."""
    last = len(losses) - 1
    marks = np.linspace(0, last, min(CURVE, last + 1)).round().astype(int)
    return [
        {"kind": "loss", "round": t, "loss": losses[t], "predicted": predicted[t]}
        for t in sorted(set(marks.tolist()))
    ]


def _pairs(
    objective: Objective, split: Partition, moment: LocalStep, gated: bool
) -> list[Row]:
    """One row per client in total and per layer: the lemma's numbers, gates and law."""
    data = clients_data(split)
    found = local_models(moment, 1)
    assert found is not None
    middle = average(moment.start, found, moment.weights)
    gaps = drift.gradient_drift(objective, data, moment.start, found, moment.weights)
    rows = []
    for i, own in enumerate(found):
        x, y = data[i]
        part = gate_part(objective, middle, own, x, y) if gated else {}
        when = {"kind": "pair", "round": moment.round + 1, "step": moment.step}
        when |= {"client": i, "loss": gaps.loss[i]}
        whole = {
            "layer": "all",
            "drift": gaps.by_client[i] ** 2,
            "moved": gaps.displacement[i] ** 2,
            "relative": gaps.relative[i],
            "gates": squared_norm(part) if part else 0.0,
        }
        rows.append({**when, **whole})
        laws = flip_laws(objective.model, middle, own, x) if gated else {}
        for name in own:
            rows.append(
                {
                    **when,
                    "layer": name,
                    "drift": gaps.by_layer[name][i] ** 2,
                    "moved": gaps.displacement_by_layer[name][i] ** 2,
                    "gates": part[name].square().sum().item() if part else 0.0,
                    **laws.get(name, {}),
                }
            )
    return rows


def _weights(model: Any, params: Params) -> list[Tensor]:
    """Weights of all layers, in order, those of ``params`` in their places."""
    frozen = {name: value.detach() for name, value in model.named_parameters()}
    return list({**frozen, **params}.values())


def signals(model: Any, params: Params, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """What enters each hidden layer of a ReLU network, and its pre-activations."""
    entering, before = [], []
    for weight in _weights(model, params)[:-1]:
        entering.append(x)
        before.append(x @ weight.mT)
        x = before[-1].relu()
    return entering, before


def gate_part(
    objective: Objective, middle: Params, own: Params, x: Tensor, y: Tensor
) -> Params:
    """``∇F_i(θ_i)`` less the same gradient with the gates of the averaged model.

    With gates held the network is smooth in its weights: this difference is what the
    kinks of the ReLU add to the gradient drift.
    """
    model = objective.model
    gates = [z > 0 for z in signals(model, middle, x)[1]]
    leaves = {name: value.clone().requires_grad_() for name, value in own.items()}
    (*hidden, head), signal = _weights(model, leaves), x
    for weight, gate in zip(hidden, gates, strict=True):
        signal = (signal @ weight.mT) * gate
    loss = objective.sample_losses(signal @ head.mT, y).mean()
    held = torch.autograd.grad(loss, list(leaves.values()))
    smooth = dict(zip(leaves, held, strict=True))
    return difference(objective.gradient(own, x, y), smooth)


def flip_laws(model: Any, middle: Params, own: Params, x: Tensor) -> dict[str, Row]:
    r"""Gates that differ, of each trained layer, and how far they are within the law.

    A gate r that differs has

    .. math:: |\bar w_r \cdot \bar h| \le \|w_r - \bar w_r\| \|\bar h\|
        + \|w_r\| \|h - \bar h\|

    with h what enters the layer. The second term is 0 in the first trained layer, whose
    input does not move. Derived in this project; rounding is added.
    """
    entering, before = signals(model, own, x)
    entering_middle, before_middle = signals(model, middle, x)
    found = {}
    for k, (h, mean_h) in enumerate(zip(entering, entering_middle, strict=True)):
        name = f"layers.{k}.weight"
        if name not in own:
            continue
        flipped = (before[k] > 0) != (before_middle[k] > 0)
        moved = torch.linalg.vector_norm(own[name] - middle[name], dim=1)  # (m,)
        size = torch.linalg.vector_norm(own[name], dim=1)
        length = torch.linalg.vector_norm(mean_h, dim=1)[:, None]
        shift = torch.linalg.vector_norm(h - mean_h, dim=1)[:, None]
        rows_only = (moved + 4 * h.shape[1] * EPS * size) * length  # (n_i, m)
        margin = before_middle[k].abs()
        ratio = (margin / (rows_only + size * shift))[flipped]
        found[name] = {
            "flips": int(flipped.sum()),
            "all_gates": flipped.numel(),
            "reach": ratio.max().item() if len(ratio) else 0.0,
            "broken": int((ratio > 1).sum()),
            "broken_rows_only": int((margin > rows_only)[flipped].sum()),
            "broken_tenth": int((ratio > 0.1).sum()),
        }
    return found


def _segments(objective: Objective, split: Partition, moment: LocalStep) -> list[Row]:
    """Gradients on the way from the averaged to each local model."""
    found = local_models(moment, 1)
    assert found is not None
    middle = average(moment.start, found, moment.weights)
    rows = []
    for i, own in enumerate(found):
        x, y = split.client(i)
        loss, at_middle = objective.value_and_gradient(middle, x, y)
        way = difference(own, middle)
        for share in SHARES:
            there = shifted(middle, way, share)
            gap = difference(objective.gradient(there, x, y), at_middle)
            one = {"kind": "segment", "round": moment.round + 1, "client": i}
            one |= {"way": share, "loss": loss}
            for layer in ("all", *way):
                names = [*way] if layer == "all" else [layer]
                drifted = squared_norm({name: gap[name] for name in names})
                moved = share**2 * squared_norm({name: way[name] for name in names})
                rows.append({**one, "layer": layer, "drift": drifted, "moved": moved})
    return rows


def _fits(pairs: list[Row], segments: list[Row]) -> list[Row]:
    """A and B over all pairs, in total and per layer, and over each segment alone."""
    rows = []
    for layer in dict.fromkeys(row["layer"] for row in pairs):
        own = [row for row in pairs if row["layer"] == layer]
        for method in ("least squares", "envelope"):
            rows.append({"layer": layer, **_fit(own, method)})
    segments = sorted(segments, key=_segment)
    for (layer, *_), one in itertools.groupby(segments, _segment):
        rows.append({"layer": layer, **_fit(list(one), "segment")})
    return [{"kind": "fit", **row} for row in rows]


def _segment(row: Row) -> tuple[str, int, int]:
    return row["layer"], row["round"], row["client"]


def _fit(rows: list[Row], method: str) -> Row:
    columns = [
        np.array([row[name] for row in rows]) for name in ("drift", "moved", "loss")
    ]
    found = (deng2022.envelope if method == "envelope" else deng2022.fit)(*columns)
    cosine = math.sqrt(max(0.0, 1 - found.sine**2))
    condition = (1 + cosine) / found.sine if found.sine else math.inf
    return {
        "method": method,
        "A": found.A,
        "B": found.B,
        "residual": found.residual,
        "sine": found.sine,
        "columns_condition": condition,
    }
