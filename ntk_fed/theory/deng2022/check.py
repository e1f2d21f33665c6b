"""Local SGD on deep ReLU networks: data, width, and a loss that falls on a line.

Floor 6: numbers in, numbers out. The setting is recalled.
"""

import dataclasses
import math
from typing import Any

import numpy as np
import scipy.spatial.distance
import scipy.stats
from jaxtyping import Float

from ntk_fed.errors import NonFiniteError
from ntk_fed.measured import Enclosure, estimate, exact
from ntk_fed.theory.condition import Condition, Stated, TheoremCheck
from ntk_fed.theory.deng2022.lemma import Fit

SOURCE = "Deng, Kamani, Mahdavi (2022), arXiv:2107.10868"
QIN = "as stated in Qin, Etesami, Uribe (2022), arXiv:2201.12719, §1.1"
STATUS = "recalled"
_condition = Stated(SOURCE, STATUS)
_FITTED = "fitted, never assumed"
_EPS = float(np.finfo(float).eps)
_ROWS = 512  # of a block of distances

Numbers = Float[np.ndarray, " t"]


def separation(x: Float[np.ndarray, "n d"]) -> Enclosure:
    """``δ = min ‖x_i − x_j‖`` over all pairs, from differences.

    Differences below 1e-154 have no square in float64 and count as none.

    Args:
        x: inputs of all clients, ``(n, d)``, n of at least 2.

    Raises:
        NonFiniteError: NaN or infinity.
        ValueError: a single sample.

    Cost:
        O(n² d) operations, O(n) memory.
    """
    if len(x) < 2:
        raise ValueError(f"x must hold two samples at least, got {len(x)}.")
    if not np.isfinite(x).all():
        raise NonFiniteError("x holds NaN or infinity. Clean the data first.")
    smallest = math.inf
    for first in range(0, len(x), _ROWS):
        own, rest = x[first : first + _ROWS], x[first:]
        apart = scipy.spatial.distance.cdist(own, rest)
        later = np.arange(len(rest)) > np.arange(len(own))[:, None]
        smallest = min(smallest, float(apart.min(initial=math.inf, where=later)))
    # d differences and squares, a sum, a root.
    return estimate(smallest, (x.shape[1] + 4) * _EPS * smallest, "rounding")


@dataclasses.dataclass(frozen=True)
class Straightness:
    """Losses against a line on a log axis.

    Attributes:
        slope: of the logarithm, per round.
        deviation: largest distance of a logarithm from the line over their range;
            ``None`` where they are all equal.
        r_squared: share of their variance that the line explains.
        falls: is the last loss below the first?
    """

    slope: float
    deviation: Enclosure | None
    r_squared: float
    falls: bool


def straightness(losses: Numbers, rounds: Numbers | None = None) -> Straightness:
    """How far the logarithms of the losses are from a line, by least squares.

    Args:
        losses: positive, three at least, in order of time.
        rounds: when; default 0, 1, 2, …

    Raises:
        ValueError: fewer than three, or one that has no logarithm.
    """
    if len(losses) < 3 or not (np.isfinite(losses) & (losses > 0)).all():
        raise ValueError(
            "losses must be three positive finite numbers at least. Stop where the "
            "loss is rounding, or the run diverged."
        )
    logs = np.log(losses)
    times = np.arange(float(len(logs))) if rounds is None else rounds
    line: Any = scipy.stats.linregress(times, logs)
    away = np.abs(logs - line.intercept - line.slope * times).max()
    spread = float(np.ptp(logs))
    error = 16 * _EPS * (float(np.abs(logs).max()) + 1)
    return Straightness(
        float(line.slope),
        estimate(float(away) / spread, error / spread, "rounding") if spread else None,
        float(line.rvalue) ** 2,
        bool(losses[-1] < losses[0]),
    )


def width(n: int) -> float:
    """``n¹⁶``, hidden constant 1; what depends on δ and depth is hidden with it."""
    return float(n) ** 16


@dataclasses.dataclass(frozen=True)
class Measurements:
    """What the theorem's conditions are evaluated on; ``None`` where not measured.

    Attributes:
        n: samples of all clients.
        width: smallest hidden width; 0 for another network.
        is_deep_relu: dense ReLU layers, hidden ones among them, and squared loss?
        is_local_sgd: all clients, plain averages, no momentum or decay?
        ends_fixed: are the first and last layers not trained?
        on_sphere: are all inputs of norm 1?
        straight_within: deviation that passes for a line, chosen by the caller.
        separation: :func:`separation`.
        fitted: :func:`fit`.
        bounding: :func:`envelope`.
        trend: :func:`width_trend` of B, from a study of widths.
        path: :func:`straightness` of the run's losses.
    """

    n: int
    width: int
    is_deep_relu: bool
    is_local_sgd: bool
    ends_fixed: bool
    on_sphere: bool
    straight_within: float = 0.1
    separation: Enclosure | None = None
    fitted: Fit | None = None
    bounding: Fit | None = None
    trend: Enclosure | None = None
    path: Straightness | None = None


def check(found: Measurements) -> TheoremCheck:
    """The theorem's hypotheses, constants and conclusion on these measurements."""
    return TheoremCheck(
        "deng2022.local_sgd",
        "Local SGD drives the loss of a deep ReLU network that is wide enough to zero "
        "in polynomial time: a line on a log axis.",
        SOURCE,
        STATUS,
        _hypotheses(found),
        _constants(found),
        _conclusion(found),
        why_not=""
        if found.is_deep_relu
        else "the network is not one of dense ReLU layers with hidden ones among them, "
        "or the loss is not squared",
    )


def _hypotheses(found: Measurements) -> list[Condition]:
    return [
        _condition.yes("network is a deep ReLU network", found.is_deep_relu),
        _condition.yes(
            "algorithm is Local SGD: all clients, plain averages, no momentum or decay",
            found.is_local_sgd,
        ),
        _condition.yes("first and last layers are fixed", found.ends_fixed),
        _condition.yes("inputs of norm 1", found.on_sphere),
        _condition("separation δ of the data", found.separation, ">", exact(0.0)),
        _condition(
            "width against n¹⁶",
            exact(float(found.width)), ">=", exact(width(found.n)),
            note=f"{QIN}; the paper hides a constant; 1 is ours",
        ),
    ]  # fmt: skip


def _constants(found: Measurements) -> dict[str, Enclosure]:
    constants: dict[str, Enclosure] = {}
    if found.separation is not None:
        constants["separation"] = found.separation
    for method, own in (("least squares", found.fitted), ("envelope", found.bounding)):
        if own is None:
            continue
        note = f"{_FITTED}; {own.pairs} pairs"
        if own.collinear:
            note += "; displacement and loss are collinear: A and B apart mean nothing"
        for name, value in (("A", own.A), ("B", own.B)):
            constants[f"{name} ({method})"] = Enclosure(
                value, value, value, method=method, note=note
            )
    if found.trend is not None:
        constants["slope of log B on log width"] = found.trend
    if found.path is not None:
        slope = found.path.slope
        constants["slope of log loss per round"] = Enclosure(slope, slope, slope)
    return constants


def _conclusion(found: Measurements) -> Condition:
    """A straight line that does not fall is no conclusion: infinitely far from it."""
    note = f"the bound {found.straight_within:g} is ours"
    away = None if found.path is None else found.path.deviation
    if found.path is not None and not found.path.falls:
        away, note = exact(math.inf), f"the loss did not fall; {note}"
    return _condition(
        "log loss, largest deviation from a falling line over its range",
        away, "<=", exact(found.straight_within), "", note,
    )  # fmt: skip
