"""What moves inside the network: gates, their margins, and parameters.

Floor 7.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ntk_fed.activations import ActivationPattern, Margins, activation_pattern
from ntk_fed.data import Partition
from ntk_fed.errors import NoGatesError
from ntk_fed.fedavg import Round
from ntk_fed.fedavg.server import average
from ntk_fed.measured import Enclosure
from ntk_fed.models import TwoLayerReLU, on_the_sphere
from ntk_fed.observers.common import (
    Moment,
    Observer,
    clients_data,
    global_models,
    local_models,
    measured,
    moment_of,
    observer,
    own_start,
)
from ntk_fed.params import difference, squared_norm
from ntk_fed.records import Row
from ntk_fed.subsample import METHOD, mean, subset
from ntk_fed.theory.flips import flip_bound

When = tuple[int, int | None]


@observer
def flips(
    model: torch.nn.Module,
    partition: Partition,
    *,
    every: int = 1,
    failure: float = 0.1,
    samples: int | None = None,
    seed: int = 0,
) -> Observer:
    """Fractions of ReLU gates that differ, over all samples that clients hold.

    Since the start of the run and since the round began, of the global model; and per
    client, on its own samples and at local steps too: local against averaged model,
    and the local model ("local flips") since the start and since the round began. Each
    per layer and pooled. For the two-layer network on unit inputs also what theory
    allows since the start: by the exact law (each gate within reach of its own neuron's
    movement), and in probability (every neuron as far as the one that moved most; it
    may fail with ``failure``).

    Args:
        model: the network; its parameters now are the start of the run.
        partition: whose samples are looked at.
        every: rounds between two measurements.
        failure: probability with which the bound may fail.
        samples: look at so many samples drawn once, of all and of each client; the
            fractions are then estimates with their error (what theory allows stays
            that of the samples looked at).
        seed: decides the draw.

    Cost: two forward passes over the data and two over each client's; another over
    each client's once per round.

    Source: the exact law and the bound are derived in this project (flips.py).
    """
    data = clients_data(partition)
    whole = torch.cat([x for x, _ in data])
    x = whole[subset(len(whole), samples, seed=seed)]
    own_x = [
        x[subset(len(x), samples, seed=seed, index=i + 1)]
        for i, (x, _) in enumerate(data)
    ]
    start = own_start(model)
    at_start = activation_pattern(model, x, params=start)
    own_start_gates = _gates(model, own_x, start)
    latest = (start, own_start_gates)  # of the round's start, kept while it lasts
    unit = isinstance(model, TwoLayerReLU) and on_the_sphere(x)
    distance = at_start.margins().distance if unit else None

    def at_round_start(params: dict[str, Tensor]) -> list[ActivationPattern | None]:
        nonlocal latest
        if params is not latest[0]:
            latest = (params, _gates(model, own_x, params))
        return latest[1]

    def observe(moment: Moment) -> Iterator[Row]:
        found = local_models(moment, every)
        if found is None:
            return
        when, n = moment_of(moment), len(whole)
        if isinstance(moment, Round):
            now = activation_pattern(model, x, params=moment.params)
            before = activation_pattern(model, x, params=moment.start)
            yield from _flip_rows(when, "flips since start", now, at_start, n)
            yield from _flip_rows(when, "flips since round start", now, before, n)
            if distance is not None:
                moved = moment.params["weight"] - start["weight"]
                yield from _allowed_rows(when, moved, distance, failure)
        middle = average(moment.start, found, moment.weights)
        before = at_round_start(moment.start)
        for i, own in zip(moment.clients, found, strict=True):
            if len(own_x[i]) == 0:
                continue
            n = len(data[i][0])
            local = activation_pattern(model, own_x[i], params=own)
            averaged = activation_pattern(model, own_x[i], params=middle)
            for quantity, other in (
                ("flips local-averaged", averaged),
                ("local flips since start", own_start_gates[i]),
                ("local flips since round start", before[i]),
            ):
                yield from _flip_rows(when, quantity, local, other, n, client=i)

    return observe


def _gates(
    model: torch.nn.Module, data: list[Tensor], params: dict[str, Tensor]
) -> list[ActivationPattern | None]:
    """Gates of one model on every client's samples; ``None`` without samples."""
    return [
        activation_pattern(model, x, params=params) if len(x) else None for x in data
    ]


def _allowed_rows(
    when: When, moved: Tensor, distance: Tensor, failure: float
) -> Iterator[Row]:
    """What theory allows a two-layer network whose rows have moved so, ``(m, d)``."""
    reach = torch.linalg.vector_norm(moved, dim=1)  # (m,)
    bound = flip_bound(
        reach.max().item(), len(reach), failure=failure, samples=len(distance)
    )
    law = (distance <= reach).double().mean().item()
    for name, value, status in (
        ("flips the exact law allows", law, "exact law"),
        ("flips bound in probability", bound, "derived"),
    ):
        yield Row(*when, None, None, name, value, status=status)


def _flip_rows(
    when: When,
    quantity: str,
    one: ActivationPattern,
    other: ActivationPattern | None,
    n: int,
    *,
    client: int | None = None,
) -> Iterator[Row]:
    """Pooled and by layer; with an error where fewer than ``n`` samples were seen."""
    assert other is not None  # of the same samples as ``one``
    counts, units = one.flips_by_sample(other), one.units
    every_unit, pooled = sum(units.values()), sum(counts.values(), torch.tensor(0))

    def fraction(count: Tensor, width: int) -> Enclosure | float:
        if len(count) == n:  # counts are exact; their fraction rounds once
            return int(count.sum()) / (n * width)
        return mean(count.double() / width, n)

    yield measured(when, quantity, fraction(pooled, every_unit), client=client)
    if len(counts) > 1:
        for layer, count in counts.items():
            found = fraction(count, units[layer])
            yield measured(when, quantity, found, client=client, layer=layer)


@observer
def margins(
    model: torch.nn.Module,
    partition: Partition,
    *,
    every: int = 1,
    quantiles: tuple[float, ...] = (0.01, 0.1, 0.5),
    samples: int | None = None,
    seed: int = 0,
) -> Observer:
    r"""How near the gates are to flipping: quantiles over (unit, sample) pairs.

    .. math:: \text{distance} = |w_r \cdot x| / \|x\|, \qquad
        \text{angle} = |w_r \cdot x| / (\|w_r\| \|x\|)

    with x what enters the layer. The distance is in parameter units, the smallest
    change of the row that can flip the gate, and what a movement R is compared with;
    the angle is scale free.

    Args:
        model: network with dense layers followed by a ReLU.
        partition: whose samples are looked at.
        every: rounds between two measurements; the start is measured too.
        quantiles: levels in (0, 1), the lower ones being what flips first.
        samples: look at so many samples drawn once; ends are then those of Woodruff:
            quantiles at the level 1.96 standard errors of it lower and higher.
        seed: decides the draw.

    Raises:
        NoGatesError: no dense layer is directly followed by a ReLU.

    Cost: two forward passes and a sort of all gates each time.

    Source: THEORY section 10; Woodruff (1952), J. Amer. Statist. Assoc. 47 (recalled).
    """
    if not quantiles or not all(0 < level < 1 for level in quantiles):
        raise ValueError(f"quantiles must lie in (0, 1), got {quantiles}.")
    whole = torch.cat([x for x, _ in clients_data(partition)])
    x, n = whole[subset(len(whole), samples, seed=seed)], len(whole)
    start = own_start(model)
    if not activation_pattern(model, x[:1], params=start).all_margins():
        raise NoGatesError(
            f"{type(model).__name__} has no dense layer directly followed by a ReLU, "
            "so margins are not defined. Watch flips instead."
        )

    def observe(moment: Moment) -> Iterator[Row]:
        for t, params in global_models(moment, every):
            found = activation_pattern(model, x, params=params).all_margins()
            for layer, margin in found.items():
                yield from _margin_rows(t, layer, margin, quantiles, n)

    return observe


def _margin_rows(
    t: int, layer: str, margin: Margins, levels: tuple[float, ...], n: int
) -> Iterator[Row]:
    for name in ("distance", "angle"):
        values = getattr(margin, name).double().cpu().numpy()  # (n, units)
        for level in levels:
            found = _quantile(values, level, n)
            quantity = f"margin {name} (quantile {level:g})"
            yield measured((t, None), quantity, found, layer=layer)


def _quantile(values: np.ndarray, level: float, n: int) -> Enclosure | float:
    """A quantile of all entries, with its error if fewer than ``n`` rows were seen."""
    middle = float(np.quantile(values, level))
    if len(values) == n:
        return middle
    below = mean(torch.from_numpy((values <= middle).mean(axis=1)), n)
    assert isinstance(below, Enclosure)
    off = below.width / 2
    low, high = np.quantile(values, [max(0.0, level - off), min(1.0, level + off)])
    return Enclosure(middle, float(low), float(high), method=f"{METHOD} (Woodruff)")


@observer
def displacement(
    model: torch.nn.Module, partition: Partition, *, every: int = 1
) -> Observer:
    """Distance from the start: laziness, and the furthest row of each matrix.

    Laziness is ``‖θ_t − θ_0‖/‖θ_0‖``, a number without unit; the furthest row is in
    parameter units. Cost: one pass over the parameters.
    """
    start = own_start(model)
    size = squared_norm(start) ** 0.5

    def observe(moment: Moment) -> Iterator[Row]:
        for t, params in global_models(moment, every):
            moved = difference(params, start)
            if size > 0:
                ratio = squared_norm(moved) ** 0.5 / size
                yield Row(t, None, None, None, "laziness", ratio)
            for layer, value in moved.items():
                if value.ndim == 2:
                    furthest = torch.linalg.vector_norm(value, dim=1).max().item()
                    yield Row(t, None, None, layer, "neuron displacement", furthest)

    return observe
