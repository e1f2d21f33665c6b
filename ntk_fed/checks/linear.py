"""Linear models: where Local GD converges to, and what representation it learns.

Floor 7.
"""

import math

import numpy as np
import torch

from ntk_fed.checks.quadratic import Quadratic, quadratic
from ntk_fed.checks.subject import Subject, unbroken
from ntk_fed.fedavg import Objective
from ntk_fed.measured import Enclosure, exact
from ntk_fed.models import SharedRepresentation
from ntk_fed.params import Params, complete
from ntk_fed.theory import TheoremCheck, collins2022, zhu2024


def regression_limit(subject: Subject) -> TheoremCheck:
    """Zhu, Vardhan, Mazumdar: the interpolator nearest the start."""
    form = quadratic(subject)
    if form is None or subject.start.residual.shape[1] != 1:
        return zhu2024.check_regression(
            zhu2024.Regression(False, subject.loss == "squared", subject.plain)
        )
    xs, first = _clients(subject, form), _flat(complete(subject.model, None))
    labels = _labels(subject)
    ys = [labels[own.cpu().numpy()] for own in subject.partition.indices]
    weights = subject.partition.weights(subject.weights).tolist()
    options = {"step_size": subject.step_size, "local_steps": subject.local_steps}
    largest = zhu2024.largest_step(xs, step_size=subject.step_size)
    if not any(x.any() for x in xs):  # no sample looks anywhere, and nothing moves
        return zhu2024.check_regression(
            zhu2024.Regression(
                True,
                subject.loss == "squared",
                subject.plain,
                largest_step=largest,
                misfit=zhu2024.misfit(xs, ys),
                theta=exact(0.0),
            )
        )
    theta = zhu2024.enclosed_theta(xs, weights=weights, **options)
    end = zhu2024.limit(xs, ys, first)
    return zhu2024.check_regression(
        zhu2024.Regression(
            True,
            subject.loss == "squared",
            subject.plain,
            largest_step=largest,
            misfit=zhu2024.misfit(xs, ys),
            theta=theta,
            theta_limit=zhu2024.theta_limit(xs, weights=weights),
            rate=zhu2024.rate(xs, weights=weights, **options),
            worst_ratio=_worst_ratio(subject, first, end, theta),
        )
    )


def _worst_ratio(
    subject: Subject, first: np.ndarray, end: np.ndarray, theta: Enclosure
) -> Enclosure | None:
    """By the rounds where the distance to this very limit was observed, and the last.

    Without an observer :func:`ntk_fed.observers.distance` there is the last round only.
    """
    run = subject.run
    if run is None:
        return None
    last = _flat(complete(subject.model, run.params))
    with np.errstate(over="ignore"):  # an infinite distance is one
        begin, final = (float(np.linalg.norm(w - end)) for w in (first, last))
    seen = {0: begin, run.rounds: math.nan if subject.diverged else final}
    rows = run.rows.loc[run.rows["quantity"] == "distance to the target"]
    if len(rows) and math.isclose(rows["value"].iloc[0], begin, rel_tol=1e-9):
        seen |= dict(zip(rows["round"].astype(int), rows["value"], strict=True))
    rounds = np.array(sorted(seen))
    size = max(float(np.linalg.norm(w)) for w in (first, end))
    distances = np.array([seen[int(t)] for t in rounds])
    return zhu2024.worst_ratio(
        rounds,
        distances,
        theta,
        size=max(size, begin),
        local_steps=subject.local_steps,
    )


def direction(subject: Subject) -> TheoremCheck:
    """Zhu, Vardhan, Mazumdar: the direction of the pooled support vector machine."""
    form, y = quadratic(subject), subject.partition.dataset.y
    exponential = subject.loss in ("logistic", "exponential")
    linear = form is not None and subject.start.residual.shape[1] == 1
    if form is None or not linear or not exponential or not bool((y.abs() == 1).all()):
        why = zhu2024.Classification(linear, exponential, subject.plain)
        return zhu2024.check_classification(why)
    x = form.jacobian[form.owned]
    labels = y.double().cpu().numpy().ravel()[form.owned]
    margin, first, last = zhu2024.margin(x, labels), None, None
    if margin > 0 and subject.run is not None and not subject.diverged:
        aim = zhu2024.max_margin(x, labels)
        final = _flat(complete(subject.model, subject.run.params))
        last = float(zhu2024.direction_gap(final, aim))
        if (rows := subject.along("direction gap")) is not None:
            near = math.isclose(rows["value"].iloc[-1], last, rel_tol=1e-6)
            first = float(rows["value"].iloc[0]) if near else None
    return zhu2024.check_classification(
        zhu2024.Classification(True, True, subject.plain, margin, first, last)
    )


def representation(subject: Subject) -> TheoremCheck:
    """Collins et al.: a representation shared by clients of different heads."""
    model = subject.model
    shared = isinstance(model, SharedRepresentation) and subject.loss == "squared"
    found = {
        "step_size": subject.step_size,
        "local_steps": subject.local_steps,
        "is_representation": shared,
        "is_plain": subject.plain and subject.uniform,
    }
    if not isinstance(model, SharedRepresentation) or not shared:
        return collins2022.check(collins2022.Measurements(**found))
    clients = [subject.partition.client(i) for i in range(subject.partition.clients)]
    first = complete(model, None)
    b = first["representation"].double().cpu().numpy()
    start = np.linalg.norm(subject.step_size * b.T @ b - np.eye(b.shape[1]), 2)
    head = float(first["head"].double().norm())
    seen = None
    if subject.run is not None:
        rows = subject.run.rows
        rows = rows.loc[rows["quantity"] == "subspace distance"]
        if len(rows) and unbroken(rows["round"]):
            seen = rows["value"].to_numpy(float)
    return collins2022.check(
        collins2022.Measurements(
            **found,
            heads=_heads(clients, b.shape[1]),
            start_gap=max(float(start), head),
            covariance_gap=_covariance_gap(clients),
            dists=seen,
        )
    )


def _heads(clients: list[tuple[torch.Tensor, torch.Tensor]], rank: int):
    """The true heads in some basis of the truth, read from each client's own data.

    ``None`` where a client has too few samples to tell its model, or no model fits, or
    the models span more than the representation can hold.
    """
    models = []
    for x, y in clients:
        samples, labels = x.double().cpu().numpy(), y.double().cpu().numpy()
        found, _, known, _ = np.linalg.lstsq(samples, labels, rcond=None)
        missed = np.linalg.norm(samples @ found - labels)
        if known < samples.shape[1] or missed > 1e-9 * np.linalg.norm(labels):
            return None
        models.append(found[:, 0])
    _, values, right = np.linalg.svd(np.stack(models, axis=1), full_matrices=False)
    if (values[rank:] > 1e-9 * values[0]).any():
        return None
    return (values[:rank, None] * right[:rank]).T


def _covariance_gap(clients: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    gaps = []
    for x, _ in clients:
        samples = x.double().cpu().numpy()
        moment = samples.T @ samples / max(len(samples), 1)
        gaps.append(float(np.linalg.norm(moment - np.eye(moment.shape[0]), 2)))
    return max(gaps)


def _labels(subject: Subject) -> np.ndarray:
    """What ``J w`` is to be, ``(n,)``: targets less what is not trained, at w = 0."""
    zero = {name: 0 * value for name, value in complete(subject.model, None).items()}
    frozen = Objective.of(subject.model).outputs(zero, subject.x)
    labels = subject.partition.dataset.y.double() - frozen.double()
    return labels.cpu().numpy().ravel()


def _clients(subject: Subject, form: Quadratic) -> list[np.ndarray]:
    return [form.jacobian[own.cpu().numpy()] for own in subject.partition.indices]


def _flat(params: Params) -> np.ndarray:
    """In the order of the Jacobian's columns."""
    return torch.cat([v.double().flatten() for v in params.values()]).cpu().numpy()
