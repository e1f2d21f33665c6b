"""What the last hidden layer makes of the samples, along the run.

Floor 7.
"""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Int64
from torch import Tensor

from ntk_fed.data import Partition
from ntk_fed.errors import ShapeMismatchError
from ntk_fed.features import (
    cosine_totals,
    last_features,
    leading_space,
    principal_angles,
)
from ntk_fed.fedavg.server import average
from ntk_fed.observers.common import (
    Moment,
    Observer,
    global_models,
    local_models,
    measured,
    moment_of,
    observer,
    own_start,
)
from ntk_fed.params import Params, frozen_state
from ntk_fed.records import Row
from ntk_fed.subsample import function_of, subset

Features = Callable[[Params, Tensor], Tensor]
When = tuple[int, int | None]


@observer
def feature_cosines(
    model: torch.nn.Module,
    partition: Partition,
    *,
    every: int = 1,
    features: Features | None = None,
    labels: Int64[Tensor, " n"] | None = None,
    samples: int | None = None,
    seed: int = 0,
) -> Observer:
    r"""Mean cosine between features of the same class, and of different classes.

    .. math:: \text{mean over pairs } i \ne j \text{ of }
        \frac{\varphi_i \cdot \varphi_j}{\|\varphi_i\| \|\varphi_j\|}

    at the global model, over all samples of the dataset; without unit. Samples whose
    features are all zero have no angle: they are left out, and their number is a row
    "samples without features". NaN where a kind of pair does not occur.

    Args:
        model: the network.
        partition: all samples of its dataset are looked at.
        every: rounds between two measurements; the start is measured too.
        features: a function of (params, x) that returns ``(n, q)``; left out, the
            inputs of the last dense layer, found by watching the forward pass.
        labels: classes, ``(n,)``; the dataset's own if left out.
        samples: so many samples drawn once; the means are then estimates with error.
        seed: decides the draw.

    Cost: one forward pass and the cosines of all pairs, O(n² q).

    Source: THEORY section 6, after Collins et al. (2022), arXiv:2205.13692; the
    finding is in the abstract, this measure is our design.
    """
    data = partition.dataset
    classes = data.labels if labels is None else labels
    if len(classes) != len(data):
        raise ShapeMismatchError(
            f"labels must be one per sample ({len(data)}), got {len(classes)}."
        )
    chosen = subset(len(data), samples, seed=seed)
    x, classes, n = data.x[chosen], classes[chosen], len(data)
    read = _reader(model, features)

    def observe(moment: Moment) -> Iterator[Row]:
        for t, params in global_models(moment, every):
            found, when = read(params, x), (t, None)
            seen = found.abs().amax(dim=1) > 0
            dead = int((~seen).sum())
            yield Row(*when, None, None, "samples without features", float(dead))
            if not bool(seen.any()):
                continue
            rows, of = found[seen], int(seen.sum())
            if len(chosen) < n:  # those seen stand for their share of the whole
                of = round(n * of / len(chosen))
            totals = cosine_totals(rows, classes[seen], of)
            for kind, pair in totals.items():
                value = function_of(torch.div, *pair)
                yield measured(when, f"feature cosine ({kind})", value)

    return observe


@observer
def feature_angles(
    model: torch.nn.Module,
    partition: Partition,
    *,
    rank: int,
    every: int = 1,
    features: Features | None = None,
    samples: int | None = None,
    seed: int = 0,
) -> Observer:
    r"""Principal angles between feature subspaces: start and now, local and averaged.

    A subspace is spanned by the ``rank`` leading left singular vectors of the feature
    matrix ``(n, q)``: the k strongest directions, in the space of samples, of what a
    linear head can express. It does not see a rotation of the features. Rows: largest
    and root-mean-square angle, radians in [0, π/2], of the global model against the
    start, and per client of the local against the averaged model (at local steps too);
    and "feature gap" ``1 − σ_{k+1}/σ_k`` of the global model: near 0 the subspace is
    ill defined, NaN where there are fewer than k directions.

    Args:
        model: the network; its parameters now are the start of the run.
        partition: all samples of its dataset are looked at.
        rank: dimension k, at most the number of samples and of features; small against
            both, or the angles are 0 by counting.
        every: rounds between two measurements.
        features: as for :func:`feature_cosines`.
        samples: the subspaces on so many samples drawn once; that is another number,
            not an estimate of the whole's with a known error, and marked "estimate".
        seed: decides the draw.

    Cost: a forward pass and a singular value decomposition per model looked at.

    Source: THEORY section 6 (our design); for a linear representation with rank k the
    sine of the largest angle is dist of Collins et al. (2022), on these samples.
    """
    x = partition.dataset.x
    chosen = subset(len(x), samples, seed=seed)
    status = "estimate" if len(chosen) < len(x) else None
    x = x[chosen]
    read, start = _reader(model, features), own_start(model)
    at_start = leading_space(read(start, x), rank)[0]

    def rows(
        when: When, against: str, one: Tensor, other: Tensor, client: int | None = None
    ) -> Iterator[Row]:
        angles = principal_angles(one, other)
        for name, value in (
            ("largest", angles.max().item()),
            ("rms", angles.square().mean().sqrt().item()),
        ):
            quantity = f"feature angle {against} ({name})"
            yield Row(*when, client, None, quantity, value, status=status)

    def observe(moment: Moment) -> Iterator[Row]:
        for t, params in global_models(moment, every):
            space, gap = leading_space(read(params, x), rank)
            yield from rows((t, None), "since start", space, at_start)
            yield Row(t, None, None, None, "feature gap", gap, status=status)
        found = local_models(moment, every)
        if found is None:
            return
        when = moment_of(moment)
        middle = average(moment.start, found, moment.weights)
        averaged = leading_space(read(middle, x), rank)[0]
        for i, own in zip(moment.clients, found, strict=True):
            local = leading_space(read(own, x), rank)[0]
            yield from rows(when, "local-averaged", local, averaged, client=i)

    return observe


def _reader(model: torch.nn.Module, features: Features | None) -> Features:
    """Features of the model, by watching it or by the user's function."""
    state = frozen_state(model)

    def watched(params: Params, x: Tensor) -> Tensor:
        return last_features(model, params, state, x)

    def given(params: Params, x: Tensor) -> Tensor:
        assert features is not None
        with torch.no_grad():
            found = features(params, x)
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(x):
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found)
            raise ShapeMismatchError(
                f"features(params, x) must return a tensor (n, q) with n = {len(x)}, "
                f"got {got}. Flatten what belongs to one sample."
            )
        return found.detach()

    return watched if features is None else given
