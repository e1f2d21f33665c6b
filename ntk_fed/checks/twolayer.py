"""Theorems about the two-layer ReLU network whose second layer is fixed.

Floor 7.
"""

import dataclasses
import math
from typing import Any

import numpy as np
import torch

from ntk_fed import limits
from ntk_fed.checks.subject import Subject
from ntk_fed.measured import Enclosure, estimate, exact
from ntk_fed.models import TwoLayerReLU
from ntk_fed.observers.kernelshape import ASYMMETRIC
from ntk_fed.theory import TheoremCheck, arora2019, du2019, huang2021


def gradient_descent(subject: Subject) -> TheoremCheck:
    """Du et al. (2019)."""
    two_layer, start = isinstance(subject.model, TwoLayerReLU), subject.start
    found = du2019.Measurements(
        n=len(subject.x),
        width=width_of(subject),
        step_size=subject.step_size,
        failure=subject.failure,
        is_two_layer=subject.is_two_layer,
        is_gradient_descent=subject.is_descent,
        lambda0=start.lambda0,
        smallest=start.smallest if two_layer else None,
        distance=start.distance,
        residual=start.residual.norm().item(),
        displacement=subject.largest("neuron displacement"),
        change_along=subject.largest("kernel displacement"),
        smallest_along=subject.smallest("smallest eigenvalue"),
        worst_ratio=_over_du(subject),
    )
    return du2019.check(found)


def width_of(subject: Subject) -> int:
    """Hidden units of a two-layer network; 0 of any other."""
    model = subject.model
    return model.weight.shape[0] if isinstance(model, TwoLayerReLU) else 0


def _over_du(subject: Subject) -> Enclosure | None:
    """Largest loss over Du et al.'s promise, at both ends of λ0."""

    def promised(end: float) -> np.ndarray:
        losses, n = subject.losses, len(subject.x)
        assert losses is not None
        times = torch.tensor(losses.index.to_numpy()) * subject.local_steps
        first = float(losses.iloc[0])
        return du2019.loss_bound(first, end, n, subject.step_size, times).numpy()

    return subject.over_promise(promised, subject.start.lambda0)


def trajectory(subject: Subject) -> TheoremCheck:
    """Arora et al. (2019)."""
    limit = _limit(subject)
    found = arora2019.Measurements(
        n=len(subject.x),
        width=width_of(subject),
        step_size=subject.step_size,
        failure=subject.failure,
        is_two_layer=subject.is_two_layer,
        is_gradient_descent=subject.is_descent,
        lambda0=subject.start.lambda0,
        residual=subject.start.residual.norm().item(),
    )
    if limit is None:
        return arora2019.check(found)
    values, vectors = np.linalg.eigh(limit)
    y = subject.partition.dataset.y.double().cpu().numpy().ravel()
    complexity = arora2019.data_complexity(values, vectors, y)
    # y projected on an eigenvector errs by n·eps, its eigenvalue by n·eps·λ_max.
    error = 100 * len(y) * np.finfo(float).eps * values[-1] / max(values[0], 1e-300)
    changes: dict[str, Any] = {}
    if math.isfinite(complexity) and error < 1:
        changes["complexity"] = estimate(complexity, complexity * error, "eigh")
    changes["deviation"] = _deviation(subject, values, vectors)
    return arora2019.check(dataclasses.replace(found, **changes))


def _deviation(
    subject: Subject, values: np.ndarray, vectors: np.ndarray
) -> Enclosure | None:
    """Of the run's residual norms from the limit kernel's, each with its rounding."""
    if subject.diverged:
        return exact(math.inf)
    if subject.run is None:
        return None
    rows = subject.run.rows.loc[subject.run.rows["quantity"] == "residual norm"]
    if len(rows) < 2 or rows["round"].iloc[0] != 0:
        return None
    first = subject.start.residual.double().cpu().numpy().ravel()
    rounds, norms = rows["round"].to_numpy("int64"), rows["value"].to_numpy("float64")
    predicted = arora2019.residual_norms(
        values,
        vectors.T @ first,
        subject.step_size / len(subject.x),
        rounds * subject.local_steps,
    )
    worst = arora2019.deviation(norms, predicted)
    if not math.isfinite(worst):
        return None if math.isnan(worst) else exact(worst)
    slack = subject.residual_slack(rounds)
    apart, slack = np.abs(norms - predicted), slack + slack[0]
    # Predictions come from eigenvectors: 1e-9 of the first residual is theirs.
    least = float((apart - slack).max()) / (norms[0] + slack[0]) - 1e-9
    room = norms[0] - slack[0]
    most = float((apart + slack).max()) / room + 1e-9 if room > 0 else math.inf
    return Enclosure(worst, max(least, 0.0), most, method="rounding of norms")


def fl_ntk(subject: Subject) -> TheoremCheck:
    """Huang et al. (2021)."""
    limit, lambda0 = _limit(subject), subject.start.lambda0
    found = huang2021.Measurements(
        n=len(subject.x),
        width=width_of(subject),
        failure=subject.failure,
        is_two_layer=subject.is_two_layer,
        sizes=subject.partition.sizes,
        is_local_descent=subject.is_local_descent,
        uniform=subject.weights == "uniform",
        local_steps=subject.local_steps,
        step_size=subject.step_size,
        server_step_size=subject.server_step_size,
        lambda0=lambda0,
    )
    changes: dict[str, Any] = {}
    if limit is not None and lambda0 is not None and lambda0.lower > 0:
        top = float(np.linalg.eigvalsh(limit)[-1])
        slack = len(limit) * np.finfo(float).eps * top
        largest = estimate(top, slack, "eigvalsh")
        changes["condition"] = huang2021.condition_number(lambda0, largest)
    extremes = [subject.smallest(name) for name in ASYMMETRIC]
    if all(one is not None for one in extremes):
        changes["asymmetric"] = tuple(one.value for one in extremes if one is not None)
    changes["worst_ratio"] = _over_huang(subject, found)
    return huang2021.check(dataclasses.replace(found, **changes))


def _over_huang(subject: Subject, found: huang2021.Measurements) -> Enclosure | None:
    """Largest loss over Huang et al.'s promise, at both ends of λ."""
    step = found.step_size_local

    def promised(end: float) -> np.ndarray:
        losses = subject.losses
        assert losses is not None
        assert step is not None
        return huang2021.loss_bound(
            float(losses.iloc[0]),
            end,
            step_size_local=step,
            server=found.server_step_size,
            local_steps=found.local_steps,
            clients=len(found.sizes),
            rounds=losses.index.to_numpy(),
        )

    return subject.over_promise(promised, None if step is None else found.lambda0)


def _limit(subject: Subject) -> np.ndarray | None:
    """The limit kernel of the theorems' network; ``None`` of any other."""
    if not subject.is_two_layer:
        return None
    return limits.two_layer_relu(subject.x).double().cpu().numpy()
