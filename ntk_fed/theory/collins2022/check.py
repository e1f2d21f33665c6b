"""The finding of Collins et al., held against a run.

Floor 6. The finding is the abstract's, the rate is derived in this project.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from ntk_fed.measured import Enclosure, estimate, exact
from ntk_fed.theory.collins2022.representation import (
    contraction,
    diversity,
    largest_head,
)
from ntk_fed.theory.condition import Stated, TheoremCheck

SOURCE = "Collins, Hassani, Mokhtari, Shakkottai (2022), arXiv:2205.13692"
_abstract = Stated(SOURCE, "abstract", "mean")
_derived = Stated(SOURCE, "derived", "mean")
SMALL = 0.1  # dist from which on the formula is used: what it leaves out is dist²
# What the formula leaves out of a round's factor: the first step's movement along the
# mean head. At η = 0.12 and 40 standard normal heads in 5 dimensions it is below this.
ALLOWANCE = 1e-3
ROUNDING = 1e-9  # of an orthonormal start and of whitened inputs
RESOLVED = 1e-9  # dist below which rounding shows


@dataclasses.dataclass(frozen=True, eq=False)
class Measurements:
    """What the statement is evaluated on; ``None`` where not measured.

    Attributes:
        step_size: η.
        local_steps: K.
        is_representation: is the network SharedRepresentation, the loss squared?
        is_plain: full batches, all clients, uniform averages with server step 1?
        heads: the true ones, ``(c, k)``.
        start_gap: larger one of ``‖η B_0ᵀB_0 − I‖₂`` and ``‖w_0‖``.
        covariance_gap: largest ``‖X_iᵀX_i/n_i − I‖₂``; the theorem is about 0.
        dists: ``dist`` after every round, the start first.
    """

    step_size: float
    local_steps: int
    is_representation: bool
    is_plain: bool
    heads: Float[np.ndarray, "c k"] | None = None
    start_gap: float | None = None
    covariance_gap: float | None = None
    dists: Float[np.ndarray, " t"] | None = None


def late_contraction(dists: Float[np.ndarray, " t"]) -> Enclosure | None:
    """Factor of ``dist`` in a round, over the last half of a run.

    Its bounds are the smallest and the largest factor of any round there. Where the run
    does not end below its start, that of the whole run, at least 1. Rounds after the
    first that ends below 1e-9 are left out.

    Args:
        dists: after every round, the start first.

    Returns:
        ``None`` with fewer than four rounds to go by.
    """
    seen = _resolved(dists)
    if len(seen) < 5:
        return None
    whole = float((seen[-1] / seen[0]) ** (1 / (len(seen) - 1)))
    late = _late(seen)
    factors = late[1:] / late[:-1]
    mean = float((late[-1] / late[0]) ** (1 / len(factors)))
    lower, upper = float(factors.min()), float(factors.max())
    if whole >= 1:
        mean, lower, upper = (max(value, whole) for value in (mean, lower, upper))
    method = "smallest and largest factor of a round"
    return Enclosure(min(max(mean, lower), upper), lower, upper, method=method)


def check(found: Measurements) -> TheoremCheck:
    """Diverse clients and two local steps or more: the representation is learned."""
    constants: dict[str, Enclosure] = {}
    mu2 = noise = largest = right = left = late = None
    if found.heads is not None:
        rounding = 1e-13 * float(np.square(found.heads).sum(axis=1).max())
        mu2, noise = exact(diversity(found.heads)), exact(rounding)
        constants["diversity μ²"] = estimate(mu2.value, rounding, "eigvalsh")
        value = largest_head(found.heads, found.step_size)
        largest = estimate(value, 1e-13 * value, "rounding")
        if value < 2:
            formula = contraction(found.heads, found.step_size, found.local_steps)
            constants["contraction per round"] = estimate(formula, 1e-13, "eigvalsh")
            right = exact(min(formula + ALLOWANCE, 1.0))
    if found.dists is not None and len(found.dists):
        constants["dist at the start"] = exact(float(found.dists[0]))
        constants["dist at the end"] = exact(float(found.dists[-1]))
        late = exact(float(_late(_resolved(found.dists))[0]))
        left = late_contraction(found.dists)
    return TheoremCheck(
        "collins2022.representation",
        "Multi-task linear regression: FedAvg with two local steps or more learns the "
        "representation that diverse clients share; with one it does not.",
        SOURCE,
        "abstract",
        [
            _abstract.yes(
                "algorithm is FedAvg: full batches, all clients, uniform averages",
                found.is_plain,
            ),
            _abstract(
                "local steps", exact(float(found.local_steps)), ">=", exact(2.0)
            ),
            _abstract(
                "diversity μ² against 0, or what rounding makes of it", mu2, ">", noise,
            ),
            _derived("η² ‖w_{*,i}‖², largest", largest, "<", exact(2.0)),
            _abstract(
                "start: ‖η B_0ᵀB_0 − I‖₂ and ‖w_0‖",
                _small(found.start_gap), "<=", exact(ROUNDING),
                note="0 but for rounding",
            ),
            _abstract(
                "population loss: ‖X_iᵀX_i/n_i − I‖₂, largest",
                _small(found.covariance_gap), "<=", exact(ROUNDING),
                note="0 but for rounding; sampled inputs have a gap of about √(d/n_i)",
            ),
            _derived(
                "dist where the last half of the run begins", late, "<=", exact(SMALL),
                note="the rate is that of dist ≪ 1; 0.1 is ours",
            ),
        ],
        constants,
        _derived(
            "contraction of dist per round, last half of the run",
            left, "<", right,
            note="against the formula plus 0.001 for what it leaves out, 1 at most; a "
            "run that ends above its start is taken as a whole",
        ),
        why_not=""
        if found.is_representation
        else "the network is not SharedRepresentation with the squared loss",
    )  # fmt: skip


def _resolved(dists: Float[np.ndarray, " t"]) -> Float[np.ndarray, " s"]:
    """Up to the first that rounding shows in; the start in any case."""
    below = np.flatnonzero(dists[1:] <= RESOLVED)
    return dists[: below[0] + 1] if len(below) else dists


def _late(seen: Float[np.ndarray, " s"]) -> Float[np.ndarray, " l"]:
    return seen[(len(seen) - 1) // 2 :]


def _small(gap: float | None) -> Enclosure | None:
    return None if gap is None else exact(gap)
