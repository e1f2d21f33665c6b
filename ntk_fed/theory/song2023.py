r"""Song et al. (2023): FedAvg on one wide layer and a pyramid after it.

Floor 6: numbers in, numbers out. Of the paper only the abstract is known, and no
constant is attributed to it. The rate, for any split of the data and any number of
local steps, is *derived* in this project from Nguyen and Mondelli's conditions. With
``‖∇F‖² ≥ 2 μ F``, every ``F_i`` S-smooth, ``‖∂F_L/∂θ‖₂ ≤ J``, full batches, and A for
``Σ w_i / n_i`` (which is c/n for weights n_i/n): where

.. math:: \eta K \le \min\Big\{\frac{1}{4S},\; \frac{\sqrt{\mu/(20 A)}}{S J}\Big\}

the mean loss obeys :math:`F(\bar\theta_{t+1}) \le (1 - \eta K \mu/2) F(\bar\theta_t)`.

Proof, with ``h = eta K``: a client moves by at most ``2 h ‖∇F_i‖``; Cauchy and Schwarz
give ``Σ w_i ‖∇F_i‖ ≤ J √(2 A F)``; the round is ``−h ∇F`` and an error of at most
``2 h² S J √(2 A F)``; then the descent lemma, with ``h S ≤ 1/4``.

*A priori* μ, S and J hold on the region of :mod:`~ntk_fed.theory.pyramid`,
``μ = α₀/n``, and N1 and N2 with right sides times ``2 √c + 1`` keep all iterates in it.
*A posteriori* μ and J are those of the averages, and S holds on the segments from each
average to the local models and to the next average.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from ntk_fed.measured import Enclosure, exact
from ntk_fed.theory import nguyen2020
from ntk_fed.theory.condition import Condition, Stated, TheoremCheck, coverage
from ntk_fed.theory.pyramid import Start, divided

SOURCE = "Song et al. (2023), PMLR 202:32304"
OURS = "derived in this project, in the setting of Song et al. (2023)"
_abstract = Stated(SOURCE, "abstract", "mean")
_derived = Stated(OURS, "derived", "mean")
_ALMOST = (
    "what counts as almost zero is ours; the abstract names no number, and no number "
    "of rounds: undecided while the loss still falls"
)
NO_PYRAMID = "the network is no models.Pyramid, the chain of dense layers meant here"
_SAMPLED = "S was sampled: consistent at the value found, which certifies nothing"
_RELU = "the gradient is not Lipschitz (ReLU, say), so that no S exists"


def spread(sizes: Sequence[int], weights: Sequence[float] | None = None) -> float:
    """``Σ w_i / n_i`` over the clients that hold samples.

    Args:
        sizes: ``n_i``.
        weights: ``w_i``; ``None``: ``n_i / n``, which gives c/n.

    Raises:
        ValueError: lengths differ, a size is negative, or all are zero.
    """
    if min(sizes, default=0) < 0 or sum(sizes) == 0:
        raise ValueError(
            f"sizes must be numbers of samples, not all zero, got {list(sizes)}."
        )
    if weights is None:
        return sum(size > 0 for size in sizes) / sum(sizes)
    pairs = zip(weights, sizes, strict=True)
    return math.fsum(weight / size for weight, size in pairs if size > 0)


def smoothness_limit(smoothness: float) -> float:
    """``1 / (4S)``, S of every client's mean loss: ``eta K`` may not exceed it."""
    return divided(1.0, 4 * smoothness)


def drift_limit(
    *, smoothness: float, jacobian: float, pl: float, spread: float
) -> float:
    """``√(μ / (20 Σ w_i/n_i)) / (S J)``: ``eta K`` may not exceed it either.

    Args:
        smoothness: S, of every client's mean loss.
        jacobian: J, of ``‖∂F_L/∂θ‖₂``.
        pl: μ: ``α₀/n``, or ``λ_min(D^½ΘD^½)``. Not positive: the limit is 0.
        spread: ``Σ w_i / n_i``.
    """
    reach = math.sqrt(max(pl, 0.0) / (20 * spread))
    return divided(reach, smoothness * jacobian if jacobian else 0.0)


def step_size_limit(
    *, smoothness: float, jacobian: float, pl: float, spread: float
) -> float:
    """The largest ``eta K`` of the theorem; arguments as :func:`drift_limit`."""
    drift = drift_limit(smoothness=smoothness, jacobian=jacobian, pl=pl, spread=spread)
    return min(smoothness_limit(smoothness), drift)


def worst_ratio(losses: np.ndarray, *, step_size: float, pl: float) -> float:
    """Largest ``F(θ̄_{t+1}) / ((1 − eta K μ / 2) F(θ̄_t))`` over the rounds.

    Args:
        losses: of the average after 0, 1, … rounds, none left out, ``(t,)``.
        step_size: ``eta K``.
        pl: μ.

    Returns:
        The ratio; a loss that stays 0 keeps its promise. NaN for fewer than two losses
        or ``eta K μ > 2``, where nothing is promised.
    """
    factor = 1 - step_size * pl / 2
    if len(losses) < 2 or factor < 0:
        return math.nan
    pairs = zip(losses[1:].tolist(), losses[:-1].tolist(), strict=True)
    return max(divided(after, factor * before) for after, before in pairs)


@dataclasses.dataclass(frozen=True)
class Measurements:
    """What the three checks are evaluated on; ``None`` where not measured.

    Attributes:
        sizes: ``n_i``.
        widths: ``n_1 … n_L``; empty where the network is no chain of layers.
        local_steps: K.
        step_size: eta.
        is_pyramid: dense layers without biases?
        is_smooth: is the gradient of the loss Lipschitz? ReLU's is not.
        is_fedavg: squared loss, full batches, all clients in every round, server
            step 1?
        weights: ``w_i``; ``None``: ``n_i / n``.
        almost_zero: last loss over first that counts as almost zero.
        start: a priori: numbers of the network at the start.
        smoothness: S; a priori on the region, a posteriori on the run's segments.
            Sampled: unbounded above.
        jacobian: J; a priori on the region, a posteriori at the averages.
        pl: a posteriori: μ, smallest ``λ_min(D^½ΘD^½)`` at the averages.
        displacements: a priori: largest ``‖W_l − W_l⁰‖_F`` of the average along the
            run; no upper bound where a round was not seen.
        worst_ratio: see :func:`worst_ratio`.
        last_over_first: loss at the end over the loss at the start.
        worst_round: largest loss over the loss one round before.
    """

    sizes: tuple[int, ...]
    widths: tuple[int, ...]
    local_steps: int
    step_size: float
    is_pyramid: bool
    is_smooth: bool
    is_fedavg: bool
    weights: tuple[float, ...] | None = None
    almost_zero: float = 1e-3
    start: Start | None = None
    smoothness: Enclosure | None = None
    jacobian: Enclosure | None = None
    pl: Enclosure | None = None
    displacements: tuple[Enclosure, ...] | None = None
    worst_ratio: Enclosure | None = None
    last_over_first: Enclosure | None = None
    worst_round: Enclosure | None = None


def check(found: Measurements) -> TheoremCheck:
    """What the abstract says, and no constant."""
    n, measured = sum(found.sizes), {}
    if found.worst_round is not None:
        measured["loss / loss one round before, largest"] = found.worst_round
    return TheoremCheck(
        "song2023.wide_layer",
        "With one layer at least as wide as there are samples in all and smaller "
        "layers after it, FedAvg converges linearly to almost zero training loss, "
        "whatever the clients' distributions.",
        SOURCE,
        "abstract",
        [
            *nguyen2020.shape(n, found.widths, _abstract, first=1),
            _fedavg(found, _abstract),
        ],
        measured,
        _abstract(
            "loss at the end / loss at the start",
            found.last_over_first, "<=", exact(found.almost_zero), note=_ALMOST,
        ),
        why_not="" if found.is_pyramid else NO_PYRAMID,
    )  # fmt: skip


def check_a_priori(found: Measurements) -> TheoremCheck:
    """Everything decided at the start; weights n_i/n."""
    n, clients = sum(found.sizes), sum(size > 0 for size in found.sizes)
    asked = pl = None
    if found.start is not None:
        asked = nguyen2020.conditions(found.start)
        asked = asked.demanding(2 * math.sqrt(clients) + 1)
        pl = asked.alpha0.scaled(1 / n)
    shares = tuple(size / n for size in found.sizes)
    default = found.weights in (None, shares)
    why = "" if found.is_pyramid else NO_PYRAMID
    return TheoremCheck(
        "song2023.a_priori",
        "With one wide layer, a pyramid and N1, N2 with right sides times 2√c + 1, a "
        "round of FedAvg multiplies the loss by at most 1 − eta K μ / 2, μ = α₀ / n, "
        "for any split of the data.",
        OURS,
        "derived",
        [
            *nguyen2020.shape(n, found.widths, _derived),
            _fedavg(found, _derived),
            _derived.yes("weights are n_i/n", default),
            *nguyen2020.inequalities(asked, _derived),
            *_step_size(found, pl, spread(found.sizes)),
            *nguyen2020.inside(found.start, found.displacements, _derived),
        ],
        nguyen2020.constants(found.start) | _constants(found, pl),
        _promise(found),
        why_not=why or ("" if found.is_smooth else _RELU),
    )


def check_a_posteriori(found: Measurements) -> TheoremCheck:
    """The same promise from what the run itself went through; any weights.

    Any network with a Lipschitz gradient, N1 and N2 not needed. For linear networks
    ``S = max λ_max(Θ_ii)/n_i`` and ``J² = λ_max(Θ)`` are exact. An S that was sampled
    bounds the true one from below, and its conditions stay undecided or fail.
    """
    return TheoremCheck(
        "song2023.a_posteriori",
        "With μ, S and J of the run, a round of FedAvg multiplies the loss by at most "
        "1 − eta K μ / 2, for any split of the data and any weights.",
        OURS,
        "derived",
        [
            _fedavg(found, _derived),
            *_step_size(found, found.pl, spread(found.sizes, found.weights)),
        ],
        _constants(found, found.pl),
        _promise(found),
        why_not="" if found.is_smooth else _RELU,
    )


def _fedavg(found: Measurements, stated: Stated) -> Condition:
    return stated.yes(
        "algorithm is FedAvg (squared loss, full batches, all clients, server step 1)",
        found.is_fedavg,
    )


def _step_size(
    found: Measurements, pl: Enclosure | None, amount: float
) -> list[Condition]:
    """``eta K`` against both limits, which fall in S and J and rise in μ."""
    product = found.step_size * found.local_steps
    left = _outwards(product, product, product)
    s, j = found.smoothness, found.jacobian
    limits: list[Enclosure | None] = [None, None]
    if s is not None:
        ends = (s.value, s.upper, max(s.lower, 0.0))
        limits[0] = _outwards(*(smoothness_limit(end) for end in ends))
        if j is not None and pl is not None:
            slopes = (j.value, j.upper, max(j.lower, 0.0))
            rates = (pl.value, pl.lower, pl.upper)
            corners = zip(ends, slopes, rates, strict=True)
            limits[1] = _outwards(
                *(
                    drift_limit(smoothness=a, jacobian=b, pl=c, spread=amount)
                    for a, b, c in corners
                )
            )
    partly = coverage(s, j, pl)
    sampled = s is not None and math.isinf(s.upper)
    names = ("1 / (4S)", "√(μ / (20 Σ w_i/n_i)) / (S J)")
    asked = []
    for name, limit in zip(names, limits, strict=True):
        fits = sampled and limit is not None and product <= limit.value
        note = "; ".join(one for one in (_SAMPLED if fits else "", partly) if one)
        asked.append(_derived(f"eta K against {name}", left, "<=", limit, note=note))
    return asked


def _outwards(value: float, lower: float, upper: float) -> Enclosure:
    """A dozen roundings at most were made: widen by 16 units in the last place."""
    slack = 16 * 2.0**-53
    return Enclosure(value, lower * (1 - slack), upper * (1 + slack), method="rounding")


def _constants(found: Measurements, pl: Enclosure | None) -> dict[str, Enclosure]:
    values = {"S": found.smoothness, "J": found.jacobian, "mu": pl}
    return {name: value for name, value in values.items() if value is not None}


def _promise(found: Measurements) -> Condition:
    name = "loss / ((1 − eta K μ / 2) loss one round before), worst along the run"
    return _derived(name, found.worst_ratio, "<=", exact(1.0))
