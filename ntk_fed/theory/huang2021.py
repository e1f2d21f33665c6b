"""Huang, Li, Song, Yang (2021), FL-NTK: FedAvg on a wide two-layer ReLU network.

Floor 6: numbers in, numbers out. That the rate is linear is in the abstract; the forms
of width, step size and rate are *recalled* (width and rate as Qin, Etesami, Uribe
(2022), arXiv:2201.12719, §1.1, state them), not checked against the paper's text.
Where the paper hides a constant in O(·) or Ω(·) it is set to 1 here, which is ours and
said in every condition.

The network is that of Du et al. (2019). Local losses are *sums*, ``½ Σ (f − y)²`` over
a client's samples, with one step size ``eta_local``, and the average of updates is
uniform. With mean losses a client takes the same steps at ``eta_i = n_i · eta_local``.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from ntk_fed.measured import Enclosure, estimate, exact, monotone
from ntk_fed.theory.condition import LOCAL_GD, Condition, Stated, TheoremCheck

SOURCE = "Huang, Li, Song, Yang (2021), arXiv:2105.05001"
STATUS = "recalled"
_condition = Stated(SOURCE, STATUS)
_OURS = "the paper hides a constant; 1 is ours"
_EPS = float(np.finfo(float).eps)


def local_step_size(
    step_size: float, sizes: Sequence[int], *, uniform: bool, local_steps: int
) -> float | None:
    """The ``eta_local`` that makes a run with mean losses the theorem's algorithm.

    ``eta_mean / n_i`` where all clients hold equally many samples. Where they do not,
    one mean step size is the theorem's only for K = 1 and weights n_i/n: that is
    gradient descent, at ``eta_local = c · eta_mean / n``.

    Args:
        step_size: of every client, in mean form.
        sizes: samples of each client, ``n_i``.
        uniform: are the weights of the average 1/c rather than n_i/n?
        local_steps: K.

    Returns:
        ``None`` where there is no such number; a client without samples is none of
        the theorem's.
    """
    if not sizes or min(sizes) < 1:
        return None
    if len(set(sizes)) == 1:
        return step_size / sizes[0]
    if local_steps == 1 and not uniform:
        return len(sizes) * step_size / sum(sizes)
    return None


def mean_step_sizes(
    step_size_local: float, sizes: Sequence[int]
) -> Float[np.ndarray, " c"]:
    """``eta_i = n_i · eta_local``: the theorem's steps on mean losses, ``(c,)``."""
    return step_size_local * np.array(sizes, float)


def width(n: int, lambda0: float, failure: float) -> float:
    """``λ⁻⁴ n⁴ log(n/δ)``, hidden constant 1."""
    try:
        return lambda0**-4 * float(n) ** 4 * math.log(n / failure)
    except OverflowError:
        return math.inf


def step_size_limit(
    n: int, lambda0: float, condition: float, local_steps: int
) -> float:
    """``λ / (κ K n²)`` for ``eta_local``, hidden constant 1.

    Args:
        n: samples of all clients.
        lambda0: smallest eigenvalue of the limit kernel, λ.
        condition: its condition number, κ.
        local_steps: K.
    """
    return lambda0 / (condition * local_steps * n**2)


def condition_number(smallest: Enclosure, largest: Enclosure) -> Enclosure | None:
    """``κ = λ_max / λ_min`` of a kernel; ``None`` unless λ_min is surely positive."""
    if smallest.lower <= 0:
        return None
    return monotone(lambda top, bottom: top / bottom, largest, smallest)


def loss_bound(
    initial: float,
    lambda0: float,
    step_size_local: float,
    server: float,
    local_steps: int,
    clients: int,
    rounds: Int[np.ndarray, " t"],
) -> Float[np.ndarray, " t"]:
    """``(1 − eta_g eta_local λ K / (2c))^t`` times the initial loss.

    Args:
        initial: ``‖y(0) − y‖²``, or any multiple of it.
        lambda0: smallest eigenvalue of the limit kernel, λ.
        step_size_local: ``eta_local``, see :func:`local_step_size`.
        server: server step size ``eta_g``.
        local_steps: K.
        clients: c.
        rounds: numbers of rounds ``t``.

    Returns:
        The promise after each number of rounds; NaN where the factor is negative.
    """
    factor = 1 - server * step_size_local * lambda0 * local_steps / (2 * clients)
    if factor < 0:  # far beyond the step size the theorem allows: no promise
        factor = math.nan
    return initial * factor ** rounds.astype(float)


def asymmetric_extremes(matrix: Float[np.ndarray, "n n"]) -> tuple[float, float]:
    """Smallest real part of the spectrum, smallest eigenvalue of the symmetric part.

    Of the asymmetric kernel, global model by clients' models. The second is never above
    the first; only where it is positive does every residual fall at first.

    Args:
        matrix: rows at the global model, column j at the model of the client that
            holds sample j.
    """
    symmetric = np.linalg.eigvalsh((matrix + matrix.T) / 2)
    return float(np.linalg.eigvals(matrix).real.min()), float(symmetric[0])


@dataclasses.dataclass(frozen=True)
class Measurements:
    """What the theorem's conditions are evaluated on; ``None`` where not measured.

    Attributes:
        n: samples of the data set.
        width: hidden units.
        failure: probability ``δ`` the theorem may fail with.
        is_two_layer: is the network the theorem's, with unit-norm inputs?
        sizes: samples of each client.
        is_local_descent: full batches, all clients, averages, no momentum or decay?
        uniform: are the weights of the average 1/c rather than n_i/n?
        local_steps: K.
        step_size: in mean form.
        server_step_size: ``eta_g``.
        lambda0: smallest eigenvalue of the limit kernel.
        condition: condition number of the limit kernel.
        asymmetric: :func:`asymmetric_extremes`, the smallest of each along the run.
        worst_ratio: largest loss over promised loss along the run.
    """

    n: int
    width: int
    failure: float
    is_two_layer: bool
    sizes: Sequence[int]
    is_local_descent: bool
    uniform: bool
    local_steps: int
    step_size: float
    server_step_size: float
    lambda0: Enclosure | None = None
    condition: Enclosure | None = None
    asymmetric: tuple[float, float] | None = None
    worst_ratio: Enclosure | None = None

    @property
    def step_size_local(self) -> float | None:
        """``eta_local``; ``None`` where the run is not the theorem's algorithm."""
        if sum(self.sizes) != self.n:
            return None
        return local_step_size(
            self.step_size,
            self.sizes,
            uniform=self.uniform,
            local_steps=self.local_steps,
        )


def check(found: Measurements) -> TheoremCheck:
    """The theorem's hypotheses, constants and conclusion on these measurements."""
    constants = _constants(found)
    return TheoremCheck(
        "huang2021.fl_ntk",
        "FedAvg drives a two-layer ReLU network that is wide enough to zero loss, by "
        "the factor 1 − eta_g eta_local λ K / (2c) per round.",
        SOURCE,
        STATUS,
        _hypotheses(found, constants),
        constants,
        _condition(
            "loss / promised loss, worst along the run",
            found.worst_ratio,
            "<=",
            exact(1.0),
            "sum",
            "that the rate is linear: abstract",
        ),
        why_not=""
        if found.is_two_layer
        else "the network is not TwoLayerReLU with one output and inputs of norm 1",
    )


def _constants(found: Measurements) -> dict[str, Enclosure]:
    n, k, lambda0, kappa = found.n, found.local_steps, found.lambda0, found.condition
    constants: dict[str, Enclosure] = {}
    if found.step_size_local is not None:
        step = found.step_size_local
        constants["local step size"] = estimate(step, 2 * _EPS * step, "rounding")
    if lambda0 is not None:
        constants["lambda0"] = lambda0
    if kappa is not None:
        constants["condition number"] = kappa
    if lambda0 is not None and lambda0.lower > 0:
        constants["width"] = monotone(lambda v: width(n, v, found.failure), lambda0)
        if kappa is not None:
            constants["step size limit"] = monotone(
                lambda v, q: step_size_limit(n, v, q, k), lambda0, kappa
            )
    if found.asymmetric is not None:
        names = "smallest real part", "smallest eigenvalue of the symmetric part"
        for name, value in zip(names, found.asymmetric, strict=True):
            constants[f"asymmetric kernel, {name}"] = Enclosure(
                value, value, value, note="its rounding is not bounded"
            )
    return constants


def _hypotheses(
    found: Measurements, constants: dict[str, Enclosure]
) -> list[Condition]:
    local = constants.get("local step size")
    return [
        _condition.yes(
            "network is the theorem's, inputs on the sphere", found.is_two_layer
        ),
        _condition.yes(LOCAL_GD, found.is_local_descent),
        _condition.yes(
            "algorithm is the theorem's (one step size on sums, uniform average)",
            local is not None, "sum",
            "" if local is not None else
            "needs equal clients that hold all samples, or K = 1 and weights n_i/n",
        ),
        _condition("λ of the limit kernel", found.lambda0, ">", exact(0.0)),
        _condition(
            "width against λ⁻⁴ n⁴ log(n/δ)",
            exact(float(found.width)), ">=", constants.get("width"), "sum", _OURS,
        ),
        _condition(
            "eta_local against λ / (κ K n²)",
            local, "<=", constants.get("step size limit"), "sum", _OURS,
        ),
        _condition(
            "server step size against O(1)",
            exact(found.server_step_size), "<=", exact(1.0), "", _OURS,
        ),
    ]  # fmt: skip
