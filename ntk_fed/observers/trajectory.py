"""Raw numbers that theorems are judged by: of local models, at every iteration.

Floor 7. Nothing is judged here. Iteration ``T = (round − 1)·K + step`` for rows with a
step, ``round·K`` for rows without.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ntk_fed import drift, samplegradients
from ntk_fed.data import Partition
from ntk_fed.fedavg import Objective, Round
from ntk_fed.fedavg.server import average
from ntk_fed.measured import Enclosure, ratio
from ntk_fed.observers.common import (
    Moment,
    Observer,
    at_least,
    clients_data,
    due,
    local_models,
    measured,
    moment_of,
    observer,
)
from ntk_fed.params import Params
from ntk_fed.records import Row
from ntk_fed.subsample import mean, subset

When = tuple[int, int | None]


@observer
def semi_lipschitz(
    model: torch.nn.Module,
    partition: Partition,
    *,
    every: int = 1,
    loss: str = "squared",
) -> Observer:
    r"""The three numbers of the semi-gradient-Lipschitz inequality, per client.

    .. math:: \|\nabla F_i(\theta_i) - \nabla F_i(\bar\theta)\|^2
        \le A\,\|\theta_i - \bar\theta\|^2 + B\,F_i(\bar\theta)

    Rows "squared gradient drift" and "squared displacement" in total and per layer, and
    "local loss at average"; at every local step if steps are yielded. Units: squared
    loss per squared parameter unit, squared parameter units, loss units. A client
    without samples has no rows.

    Args:
        model: the network.
        partition: the clients and their data.
        every: rounds between two measurements.
        loss: name of the loss.

    Cost: two gradients per client each time.

    Source: Deng, Kamani, Mahdavi (2022), arXiv:2107.10868; the shape of the inequality
    is recalled, its constants unknown: they are fitted, never assumed.
    """
    objective, data = Objective.of(model, loss), clients_data(partition)

    def observe(moment: Moment) -> Iterator[Row]:
        found = local_models(moment, every)
        if found is None:
            return
        when = moment_of(moment)
        own = [data[i] for i in moment.clients]
        gaps = drift.gradient_drift(objective, own, moment.start, found, moment.weights)
        for j, i in enumerate(moment.clients):
            if len(data[i][0]) == 0:
                continue
            for quantity, norm, layers in (
                ("squared gradient drift", gaps.by_client, gaps.by_layer),
                ("squared displacement", gaps.displacement, gaps.displacement_by_layer),
            ):
                yield Row(*when, i, None, quantity, norm[j] ** 2)
                for layer, norms in layers.items():
                    yield Row(*when, i, layer, quantity, norms[j] ** 2)
            yield Row(*when, i, None, "local loss at average", gaps.loss[j])

    return observe


@observer
def local_sgd(
    model: torch.nn.Module,
    partition: Partition,
    *,
    local_steps: int,
    every: int = 1,
    loss: str = "squared",
    weights: str = "uniform",
    minimum: float = 0.0,
    minima: list[float] | None = None,
    samples: int | None = None,
    seed: int = 0,
) -> Observer:
    r"""The numbers of Local SGD in the interpolation regime, at every iteration.

    At the average x̄ of the local iterates, f = Σ w_i f_i:

    - "squared gradient at average" :math:`h = \|\nabla f(\bar x)\|^2`,
    - "variance of iterates" :math:`V = \sum_i w_i \|x_i - \bar x\|^2`, 0 once averaged,
    - "excess loss" :math:`e = f(\bar x) - f^*`,
    - "sample gradient over global gradient"
      :math:`r = \max_j \|\nabla \ell_j(\bar x)\| / \|\nabla f(\bar x)\|`,
    - "SGC ratio", of each client and the largest,
      :math:`\rho_i = n_i^{-1} \sum_{j \in i} \|\nabla \ell_j(\bar x)\|^2 / h`: that of
      batches of one sample, which no larger batch exceeds,
    - "local loss" :math:`f_i(x_i)` of each client,
    - "similarity" :math:`s = [\sum_i w_i (f_i(x_i) - f_i^*)] / [f(\bar x) - f^*]` at
      interior iterations only: neither this one nor the next is a communication time.

    Quotients by zero are NaN. Local iterates need ``steps=True`` in the run; without it
    there are only communication times, and no s. Clients without samples have loss 0
    and no ratio. The paper's setting is plain averaging of all clients.

    Args:
        model: the network.
        partition: the clients and their data.
        local_steps: K of the run, which decides what is interior.
        every: rounds between two measurements; the start is measured too.
        loss: name of the loss.
        weights: those of the run; the paper has "uniform", and nothing else is its f.
        minimum: ``f*``; 0 in the interpolation regime.
        minima: ``f_i*`` of each client; all 0 if left out.
        samples: gradients of so many samples of each client, drawn once; ρ is then an
            estimate with its error, r one from below.
        seed: decides the draw.

    Cost: at every iteration one gradient per client and one per sample looked at.

    Source: Qin, Etesami, Uribe (2022), arXiv:2201.12719, Definition 1, Assumption 2,
    Lemmas 4 and 5, Theorem 1's proof (full text). V is taken *after* averaging.
    """
    if local_steps < 1:
        raise ValueError(f"local_steps must be at least 1, got {local_steps}.")
    lowest = [0.0] * partition.clients if minima is None else minima
    if len(lowest) != partition.clients:
        raise ValueError(
            f"minima must hold one number per client ({partition.clients}), got "
            f"{len(lowest)}."
        )
    objective, data = Objective.of(model, loss), clients_data(partition)
    w = partition.weights(weights)
    chosen = [
        subset(len(x), samples, seed=seed, index=i) for i, (x, _) in enumerate(data)
    ]

    def at_average(when: When, middle: Params) -> Iterator[Row]:
        pooled = drift.pooled_gradient(objective, data, middle, w)
        h = pooled.squared_norm
        yield Row(*when, None, None, "squared gradient at average", h)
        yield Row(*when, None, None, "excess loss", pooled.loss - minimum)
        norms = [
            samplegradients.squared_norms(objective, middle, x[own], y[own])
            for (x, y), own in zip(data, chosen, strict=True)
        ]
        yield from _gradient_ratios(when, norms, [len(x) for x, _ in data], h)

    def observe(moment: Moment) -> Iterator[Row]:
        _check_setting(moment, local_steps, w)
        for when, middle, found, variance in _iterates(moment, every, local_steps):
            yield from at_average(when, middle)
            yield Row(*when, None, None, "variance of iterates", variance)
            own, total = 0.0, 0.0
            for i, params in zip(moment.clients, found, strict=True):
                value = objective.value(params, *data[i]).item()
                own += w[i].item() * (value - lowest[i])
                total += w[i].item() * objective.value(middle, *data[i]).item()
                yield Row(*when, i, None, "local loss", value)
            step = when[1]
            if step is not None and step + 1 < local_steps:
                s = ratio(own, total - minimum)
                yield Row(*when, None, None, "similarity", s)

    return observe


def _iterates(
    moment: Moment, every: int, local_steps: int
) -> Iterator[tuple[When, Params, list[Params], float]]:
    """Iterations of a moment: when, average, local iterates, their variance.

    The last local step is left out: it is the communication time, seen as the round.
    """
    if isinstance(moment, Round):
        everyone = len(moment.clients)
        if moment.index == 0:
            yield (0, None), moment.start, [moment.start] * everyone, 0.0
        if due(moment, every):
            after = moment.params
            yield (moment.index + 1, None), after, [after] * everyone, 0.0
        return
    found = local_models(moment, every)
    if found is not None and moment.step < local_steps:
        middle = average(moment.start, found, moment.weights)
        variance = drift.consensus_error(moment.start, found, moment.weights)
        yield moment_of(moment), middle, found, variance


def _gradient_ratios(
    when: When, norms: list[Tensor], sizes: list[int], h: float
) -> Iterator[Row]:
    """Rows of r and ρ from squared gradient norms of each client's samples."""
    largest, worst, partial = 0.0, None, False
    for i, (own, n) in enumerate(zip(norms, sizes, strict=True)):
        if n == 0:
            continue
        partial |= len(own) < n
        largest = max(largest, own.max().item())
        found = mean(own / h if h else own * torch.nan, n)
        yield measured(when, "SGC ratio", found, client=i)
        if worst is None or not _value(found) <= _value(worst):
            worst = found
    if worst is not None:
        yield measured(when, "SGC ratio", worst)
        r, quantity = ratio(largest, h) ** 0.5, "sample gradient over global gradient"
        yield at_least(when, quantity, r) if partial else measured(when, quantity, r)


def _value(found: Enclosure | float) -> float:
    return found.value if isinstance(found, Enclosure) else found


def _check_setting(moment: Moment, local_steps: int, weights: Tensor) -> None:
    """Refuse to look at another run than the one described."""
    if not isinstance(moment, Round) and moment.step > local_steps:
        raise ValueError(
            f"local_sgd was made for local_steps = {local_steps}, but the run does "
            f"step {moment.step}. Give it the run's local_steps."
        )
    whole = len(moment.clients) == len(weights)
    if whole and not torch.allclose(moment.weights, weights, rtol=1e-9, atol=0.0):
        raise ValueError(
            f"local_sgd was made for client weights {weights.tolist()}, the run "
            f"averages with {moment.weights.tolist()}. Give both the same weights=."
        )
