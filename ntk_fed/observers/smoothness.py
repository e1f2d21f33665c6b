"""Smoothness along a run, and the numbers a semi-smoothness inequality is fitted to.

Floor 7.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ntk_fed import smoothness as bounds
from ntk_fed.data import Partition
from ntk_fed.derivatives import outputs_of
from ntk_fed.fedavg import Objective, Round
from ntk_fed.measured import Enclosure, estimate
from ntk_fed.observers.common import (
    Moment,
    Observer,
    clients_data,
    global_models,
    local_models,
    measured,
    moment_of,
    observer,
)
from ntk_fed.params import Params, difference, frozen_state, shifted, squared_norm
from ntk_fed.records import Row

When = tuple[int, int | None]
_ROUNDINGS = 64  # of a loss or a slope, in units of eps of itself: an estimate


@observer
def smoothness(
    model: torch.nn.Module,
    partition: Partition,
    *,
    every: int = 1,
    iterations: int = 60,
    rtol: float = 1e-2,
    certify: bool = True,
    points: int = 0,
    loss: str = "squared",
    seed: int = 0,
) -> Observer:
    r"""Smoothness of every client's loss, at the global models and between them.

    - "smoothness": :math:`\|\nabla^2 F_i(\theta_t)\|_2` of each client and the largest,
      at the global model, between two bounds;
    - "Jacobian norm": :math:`\|\partial f / \partial \theta\|_2 = \sqrt{\lambda_{\max}
      (\Theta_t)}` there, over all samples and outputs;
    - with ``points``, "smoothness (clients, sampled)" of each client and the largest:
      the largest met at the global model of the round's start and at so many further
      points of the segments to the client's own model and to the next global model. A
      maximum over points is a lower end of that over the segment: there is no upper.
      With steps yielded, of the segment to the model of each local step as well.

    In loss units per squared parameter unit; the Jacobian's in output units per
    parameter unit. At a ReLU network these are numbers of the smooth piece θ lies on;
    what its kinks add is in none. For a linear model under the squared loss one point
    is as good as all. No row is "certified": the bounds hold an estimate of the
    rounding of derivatives, and above 400 parameters upper ends hold with probability
    2e-6 of failing, for each Hessian.

    Args:
        model: network, twice differentiable where it is asked.
        partition: the clients and their data.
        every: rounds between two measurements; the start is measured too.
        iterations: Hessian-vector products for each client and point, at most.
        rtol: relative width asked for.
        certify: form Hessians of up to 400 parameters; else products in any case.
        points: of each segment, its start not counted; 0 leaves the segments out.
        loss: name of the loss.
        seed: of the random starts.

    Cost: a Hessian is up to ``iterations`` times two backward passes over the client's
    data; one for each client, with ``points`` 1 + 2 ``points`` more each round.

    Source: the S and J of THEORY section 3 and the L of section 4.
    """
    if points < 0:
        raise ValueError(f"points must be at least 0, got {points}.")
    objective, data = Objective.of(model, loss), clients_data(partition)
    held = [i for i, (x, _) in enumerate(data) if len(x)]
    options = {"iterations": iterations, "rtol": rtol, "seed": seed}
    bounds.check_options(iterations, rtol)
    outputs = outputs_of(model, frozen_state(model), partition.dataset.x)

    def at(i: int, params: Params) -> Enclosure:
        function = functools.partial(_loss, objective, *data[i])
        return bounds.smoothness(function, params, certify=certify, **options)

    def observe(moment: Moment) -> Iterator[Row]:
        for t, params in global_models(moment, every):
            found = {i: at(i, params) for i in held}
            for i, one in found.items():
                yield _estimated((t, None), "smoothness", one, client=i)
            if found:
                largest = _largest(list(found.values()))
                yield _estimated((t, None), "smoothness", largest)
            norm = bounds.jacobian_norm(outputs, params, **options)
            yield _estimated((t, None), "Jacobian norm", norm)
        between = _between(moment, every, points, held) if points else {}
        met = {i: [at(i, place) for place in where] for i, where in between.items()}
        quantity, when = "smoothness (clients, sampled)", moment_of(moment)
        for i, ones in met.items():
            yield _from_below(when, quantity, _largest(ones), client=i)
        if met:
            everything = [one for ones in met.values() for one in ones]
            yield _from_below(when, quantity, _largest(everything))

    return observe


def _between(
    moment: Moment, every: int, points: int, held: Sequence[int]
) -> dict[int, list[Params]]:
    """Points of the segments of a moment, for each client that has samples."""
    found = local_models(moment, every)
    if found is None:
        return {}
    ends: dict[int, list[Params]] = {i: [] for i in held}
    for i, own in zip(moment.clients, found, strict=True):
        if i in ends:
            ends[i].append(own)
    if isinstance(moment, Round):  # every client's loss is descended to the next model
        ends = {i: [*own, moment.params] for i, own in ends.items()}
    first = [moment.start] if isinstance(moment, Round) else []
    return {
        i: first + [p for end in own for p in _segment(moment.start, end, points)]
        for i, own in ends.items()
        if own
    }


def _segment(start: Params, end: Params, points: int) -> Iterator[Params]:
    """So many points at equal distances, the end among them and the start not."""
    moved = difference(end, start)
    for j in range(1, points + 1):
        yield shifted(start, moved, alpha=j / points)


@observer
def semi_smoothness(
    model: torch.nn.Module,
    partition: Partition,
    *,
    every: int = 1,
    loss: str = "squared",
    weights: str = "samples",
) -> Observer:
    r"""The three numbers of the semi-smoothness inequality, from each round's start.

    .. math:: F(\theta') \le F(\theta) + \langle \nabla F(\theta), \theta' - \theta
        \rangle + a\,\|\theta' - \theta\|\,\sqrt{F(\theta)} + b\,\|\theta' - \theta\|^2

    Rows "semi-smoothness excess" :math:`F(\theta') - F(\theta) - \langle \nabla
    F(\theta), \theta' - \theta \rangle`, "squared step" and "loss at round start": of
    each client's loss to its own model (at every local step if steps are yielded), and
    of F = Σ w_i F_i to the next global model. :func:`ntk_fed.theory.semismooth.fit`
    takes them. Clients without samples have no rows.

    Args:
        model: the network.
        partition: the clients and their data.
        every: rounds between two measurements.
        loss: name of the loss.
        weights: those of the run, for F.

    Cost: two forward passes and a gradient per client each time.

    Source: Allen-Zhu, Li, Song (2019), arXiv:1811.03962, Theorem 4; Li et al. (2022);
    the shape is recalled, its constants unknown: they are fitted, never assumed.
    """
    objective, data = Objective.of(model, loss), clients_data(partition)
    w = partition.weights(weights).tolist()
    held = [i for i, (x, _) in enumerate(data) if len(x)]

    def from_start(i: int, start: Params, ends: list[Params]) -> list[_Pair]:
        eps = torch.finfo(next(iter(start.values())).dtype).eps
        value, slope = objective.value_and_gradient(start, *data[i])
        found = []
        for end in ends:
            moved = difference(end, start)
            along = sum((slope[k] * v).sum().item() for k, v in moved.items())
            after = objective.value(end, *data[i]).item()
            found.append(_Pair(value, along, after, squared_norm(moved), eps))
        return found

    def observe(moment: Moment) -> Iterator[Row]:
        found = local_models(moment, every)
        if found is None:
            return
        when, own = moment_of(moment), dict(zip(moment.clients, found, strict=True))
        next_ = [moment.params] if isinstance(moment, Round) else []
        whole = []
        for i in held:
            ends = ([own[i]] if i in own else []) + next_
            pairs = from_start(i, moment.start, ends) if ends else []
            if i in own:
                yield from pairs[0].rows(when, i)
            if next_:
                whole.append((w[i], pairs[-1]))
        if whole:
            yield from _mean(whole).rows(when, None)

    return observe


@dataclasses.dataclass(frozen=True)
class _Pair:
    """Loss and slope at one point, loss at another, and their squared distance."""

    before: float
    slope: float
    after: float
    moved: float
    eps: float

    def rows(self, when: When, client: int | None) -> Iterator[Row]:
        """The excess is a small difference: it comes with its rounding.

        Nothing is known of it where a loss has left the floats.
        """
        excess = self.after - self.before - self.slope
        size = abs(self.after) + abs(self.before) + abs(self.slope)
        found = Enclosure(excess, -math.inf, math.inf, method="out of range")
        if math.isfinite(size):
            off = _ROUNDINGS * self.eps * size
            found = estimate(excess, off, "rounding of losses")
        yield measured(when, "semi-smoothness excess", found, client=client)
        yield Row(*when, client, None, "squared step", self.moved)
        yield Row(*when, client, None, "loss at round start", self.before)


def _mean(pairs: Sequence[tuple[float, _Pair]]) -> _Pair:
    """The same of the weighted mean of losses, all between the same two points."""
    return dataclasses.replace(
        pairs[0][1],
        before=sum(w * pair.before for w, pair in pairs),
        slope=sum(w * pair.slope for w, pair in pairs),
        after=sum(w * pair.after for w, pair in pairs),
    )


def _largest(found: Sequence[Enclosure]) -> Enclosure:
    """The enclosure of the largest of several numbers."""
    return Enclosure(
        max(one.value for one in found),
        max(one.lower for one in found),
        max(one.upper for one in found),
    )


def _estimated(
    when: When, quantity: str, found: Enclosure, *, client: int | None = None
) -> Row:
    """Its row: bounds that hold an estimate of rounding are an estimate."""
    found = dataclasses.replace(found, certified=False)
    return measured(when, quantity, found, client=client)


def _from_below(
    when: When, quantity: str, found: Enclosure, *, client: int | None = None
) -> Row:
    """The row of a maximum over some points of many: it has no upper end."""
    row = _estimated(when, quantity, found, client=client)
    return row._replace(upper=None)


def _loss(objective: Objective, x: Tensor, y: Tensor, params: Params) -> Tensor:
    return objective.value(params, x, y)
