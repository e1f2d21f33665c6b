"""Theorems 1 to 3 of Qin et al. and Lemmas 4 and 5, held against a run.

Floor 6. Gradients are full ones here, so that a client is one sample of the paper's:
L, μ and ρ are those of the clients' losses.
"""

import math

from ntk_fed.measured import Enclosure, exact, monotone
from ntk_fed.theory.condition import Condition, Stated, TheoremCheck
from ntk_fed.theory.qin2022.bounds import (
    theorem1_bound,
    theorem2_bound,
    theorem3_bound,
)
from ntk_fed.theory.qin2022.measurements import ROUNDING, Measurements

SOURCE = "Qin, Etesami, Uribe (2022), arXiv:2201.12719"
STATUS = "full text"
_condition = Stated(SOURCE, STATUS, "mean")
_KINKS = "the gradient is not Lipschitz (ReLU, say), so that no L exists"
_EVERY = "needs every iteration: observers.local_sgd in a run with steps=True"


def theorem1(found: Measurements) -> TheoremCheck:
    """Convex losses: the gap of the weighted average falls like ``1/T``."""
    limit = _inverse(found.smoothness, 2.0)
    bound = None
    if found.rounds and found.distance is not None and found.similarity is not None:
        rounds, distance, s = found.rounds, found.distance, found.similarity
        bound = monotone(
            lambda d, value: theorem1_bound(
                d, found.step_size, found.local_steps, rounds, value
            ),
            distance,
            s,
        )
    return TheoremCheck(
        "qin2022.theorem1",
        "Convex losses with one common minimiser: the gap of a weighted average of the "
        "iterates falls like 1/T, faster by K the more alike the clients are.",
        SOURCE,
        STATUS,
        [
            *_setting(found),
            _local_steps(found),
            _condition("step size against 1/(2L)", exact(found.step_size), "<=", limit),
        ],
        _constants(found, ("smoothness", "similarity", "distance"), bound=bound),
        _condition(
            "gap of the weighted average against K‖x0 − x*‖²/(η(sKT + 2(1 − s)T))",
            found.average_gap,
            "<=",
            bound,
            note="bounded above by the average of the gaps",
        ),
        why_not=""
        if found.convex
        else "the loss is not known to be convex in the "
        "parameters, as it is for a linear model",
    )


def theorem2(found: Measurements) -> TheoremCheck:
    """Any losses: some gradient along the run is as small as ``1/T``."""
    limit, bound = _limit(found), None
    if found.rounds and found.gap is not None:
        bound = found.gap.scaled(
            theorem2_bound(1.0, found.step_size, found.local_steps, found.rounds)
        )
    return TheoremCheck(
        "qin2022.theorem2",
        "Smooth losses with one common minimiser and strong growth: the smallest "
        "squared gradient of the run is at most 9 (f(x0) − f*)/(ηT).",
        SOURCE,
        STATUS,
        [
            *_setting(found),
            _local_steps(found),
            _condition(
                "step size against 1/(3KLρ)", exact(found.step_size), "<=", limit
            ),
        ],
        _constants(found, ("smoothness", "growth", "gap"), bound=bound, limit=limit),
        _condition(
            "smallest ‖∇f(x̄)‖² against 9 (f(x0) − f*)/(ηT)",
            found.smallest_gradient,
            "<=",
            bound,
        ),
        why_not="" if found.smooth else _KINKS,
    )


def theorem3(found: Measurements) -> TheoremCheck:
    """Strongly convex losses: the distance contracts in every local step."""
    bound = None
    mu, distance, rounds = found.convexity, found.distance, found.rounds
    if rounds and mu is not None and distance is not None:
        if mu.lower >= 0 and found.step_size * mu.upper <= 1:
            bound = monotone(
                lambda d, value: theorem3_bound(
                    d, found.step_size, value, found.local_steps, rounds
                ),
                distance,
                mu,
            )
    flat = mu is not None and mu.upper <= 0
    why = (
        "no client's loss is strongly convex: it holds fewer samples than the model "
        "has parameters"
        if flat
        else "the loss is not known to be convex in the parameters"
    )
    return TheoremCheck(
        "qin2022.theorem3",
        "Strongly convex losses with one common minimiser: the squared distance to it "
        "contracts by 1 − ημ in every local step, whatever K.",
        SOURCE,
        STATUS,
        [
            *_setting(found),
            _condition("strong convexity μ", found.convexity, ">", exact(0.0)),
            _condition(
                "step size against 1/L",
                exact(found.step_size),
                "<=",
                _inverse(found.smoothness, 1.0),
            ),
        ],
        _constants(found, ("smoothness", "convexity", "distance"), bound=bound),
        _condition(
            "‖x̄^T − x*‖² against (1 − ημ)^T ‖x0 − x*‖²",
            found.last_distance,
            "<=",
            bound,
        ),
        why_not="" if found.convex and not flat else why,
    )


def lemma4(found: Measurements) -> TheoremCheck:
    """The gap falls but for what the clients' spread adds, at every iteration."""
    return _lemma(
        found,
        "qin2022.lemma4",
        "One iteration lowers the gap by η h/3 at least, but for ⅔ η L² V.",
        ("smoothness",),
        "e_{t+1} / (e_t − η h_t/3 + ⅔ η L² V_t), worst along the run",
        found.descent,
    )


def lemma5(found: Measurements) -> TheoremCheck:
    """Clients spread no further than the gradients since they last met allow."""
    return _lemma(
        found,
        "qin2022.lemma5",
        "The variance of the iterates is at most 3 η² K ρ times the sum of the squared "
        "gradients since the last communication.",
        ("growth",),
        "V_t / (3 η² K ρ Σ h_j), worst along the run",
        found.spread,
    )


def _lemma(
    found: Measurements,
    name: str,
    statement: str,
    constants: tuple[str, ...],
    conclusion: str,
    ratio: Enclosure | None,
) -> TheoremCheck:
    return TheoremCheck(
        name,
        statement,
        SOURCE,
        STATUS,
        [
            *_setting(found),
            _condition(
                "step size against 1/(3KLρ)",
                exact(found.step_size),
                "<=",
                _limit(found),
            ),
        ],
        _constants(found, constants),
        _condition(
            conclusion, ratio, "<=", exact(1.0), note=_EVERY if ratio is None else ""
        ),
        why_not="" if found.smooth else _KINKS,
    )


def _setting(found: Measurements) -> list[Condition]:
    return [
        _condition.yes(
            "all clients averaged plainly, with weights 1/c", found.averages
        ),
        _condition(
            "least loss of any model, over the loss at the start",
            found.least,
            "<=",
            exact(ROUNDING),
            note="interpolation, to rounding",
        ),
    ]


def _local_steps(found: Measurements) -> Condition:
    return _condition("local steps", exact(float(found.local_steps)), ">=", exact(2.0))


def _constants(
    found: Measurements, names: tuple[str, ...], **more: Enclosure | None
) -> dict[str, Enclosure]:
    values = {name: getattr(found, name) for name in names} | more
    return {name: value for name, value in values.items() if value is not None}


def _limit(found: Measurements) -> Enclosure | None:
    """``1/(3 K L ρ)``."""
    smoothness, growth = found.smoothness, found.growth
    if smoothness is None or growth is None:
        return None
    product = monotone(lambda a, b: a * b, smoothness, growth)
    return _inverse(product, 3.0 * found.local_steps)


def _inverse(found: Enclosure | None, factor: float) -> Enclosure | None:
    """``1/(factor · number)`` of a number above 0, rounded outwards."""
    if found is None or not found.value > 0:
        return None
    return monotone(lambda v: 1 / (factor * v) if v > 0 else math.inf, found)
