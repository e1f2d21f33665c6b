"""One wide layer and a pyramid after it: Nguyen and Mondelli, Song et al.

Floor 7.
"""

import dataclasses
import functools
import math
from typing import Any

import numpy as np
import torch

from ntk_fed.checks.pyramidstart import gamma_of, numbers, weights_of, widths_of
from ntk_fed.checks.quadratic import quadratic
from ntk_fed.checks.rounding import ends as ends_of
from ntk_fed.checks.rounding import growth
from ntk_fed.checks.subject import Subject, unbroken
from ntk_fed.measured import Enclosure, estimate, exact
from ntk_fed.models import Pyramid
from ntk_fed.models.activations import SmoothLeakyReLU
from ntk_fed.params import complete
from ntk_fed.theory import TheoremCheck, nguyen2020, pyramid, song2023

SMOOTH = (torch.nn.Tanh, torch.nn.Sigmoid, torch.nn.GELU, torch.nn.SiLU)


def gradient_descent(subject: Subject) -> TheoremCheck:
    """Nguyen and Mondelli (2020)."""
    start, bounds, n = _start(subject), _bounds(subject), len(subject.x)
    found = nguyen2020.Measurements(
        n=n,
        widths=widths_of(subject.model),
        step_size=subject.step_size,
        is_pyramid=gamma_of(subject.model) is not None,
        is_gradient_descent=subject.is_descent,
        start=start,
        smoothness=None if bounds is None else _above(bounds.smoothness),
        displacements=_moved(subject),
    )

    def promised(end: float) -> np.ndarray:
        losses, step = subject.losses, subject.step_size
        assert losses is not None
        steps = losses.index.to_numpy() * subject.local_steps
        return nguyen2020.loss_bound(float(losses.iloc[0]), end, n, step, steps)

    alpha0 = None if start is None else nguyen2020.conditions(start).alpha0
    worst = subject.over_promise(promised, alpha0)
    if worst is not None:
        worst = dataclasses.replace(worst, upper=worst.upper * (1 + 1e-12))
    return nguyen2020.check(dataclasses.replace(found, worst_ratio=worst))


def wide_layer(subject: Subject) -> TheoremCheck:
    """Song et al. (2023), what the abstract says."""
    return song2023.check(_song(subject))


def a_priori(subject: Subject) -> TheoremCheck:
    """The derived theorem, from the start alone."""
    found, bounds, start = _song(subject), _bounds(subject), _start(subject)
    changes: dict[str, Any] = {"start": start, "displacements": _moved(subject)}
    if bounds is not None:
        worst = max(one.smoothness for one in _client_bounds(subject))
        changes["smoothness"] = _above(worst)
        changes["jacobian"] = _above(bounds.jacobian)
    if start is not None:
        pl = nguyen2020.conditions(start).alpha0.scaled(1 / len(subject.x))
        changes["worst_ratio"] = _worst_ratio(subject, pl)
    return song2023.check_a_priori(dataclasses.replace(found, **changes))


def a_posteriori(subject: Subject) -> TheoremCheck:
    """The derived theorem, from what the run went through."""
    found, changes = _song(subject), _of_the_run(subject)
    pl = changes["pl"]
    if pl is not None:
        changes["worst_ratio"] = _worst_ratio(subject, pl)
    return song2023.check_a_posteriori(dataclasses.replace(found, **changes))


def _of_the_run(subject: Subject) -> dict[str, Any]:
    """μ and J at the averages and S on the segments; exact for linear models."""
    if quadratic(subject) is not None:
        return _of_the_blocks(subject)
    weights = subject.partition.weights(subject.weights)
    pl = subject.smallest("smallest eigenvalue", averages=True)
    if pl is not None:
        # D ≥ its smallest entry: exact for weights n_i/n, a lower bound for others.
        pairs = zip(weights.tolist(), subject.partition.sizes, strict=True)
        shares = [weight / size for weight, size in pairs if size]
        low, high = min(shares), max(shares)
        ends = sorted((max(pl.lower, 0.0) * low, max(pl.upper, 0.0) * high))
        value = min(max(pl.value * low, ends[0]), ends[1])
        pl = Enclosure(value, *ends, note=pl.note)
    slope = subject.largest("Jacobian norm", averages=True)
    if slope is not None and not subject.covers:
        slope = dataclasses.replace(slope, lower=0.0)  # of owned rows: at most this
    return {
        "smoothness": _seen(subject, "smoothness (clients, sampled)"),
        "jacobian": slope,
        "pl": pl if subject.covers else None,
    }


def _of_the_blocks(subject: Subject) -> dict[str, Any]:
    """Of a linear model: eigenvalues of the kernel on the samples clients hold."""
    gram, o = subject.start.gram.double().cpu(), subject.start.residual.shape[1]
    weights = subject.partition.weights(subject.weights).tolist()
    tops, owned, scale = [], [], []
    for own, weight in zip(subject.partition.indices, weights, strict=True):
        if len(own):
            rows = (own.cpu()[:, None] * o + torch.arange(o)).flatten()
            block = gram[rows][:, rows]
            tops.append(torch.linalg.eigvalsh(block)[-1].item() / len(own))
            owned.append(rows)
            scale += [weight / len(own)] * len(rows)
    rows, root = torch.cat(owned), torch.tensor(scale, dtype=torch.float64).sqrt()
    theta = gram[rows][:, rows]
    values = torch.linalg.eigvalsh(root[:, None] * theta * root)
    top = math.sqrt(max(torch.linalg.eigvalsh(theta)[-1].item(), 0.0))
    slack = len(root) * torch.finfo(subject.start.gram.dtype).eps
    return {
        "smoothness": estimate(max(tops), slack * max(tops), "eigvalsh"),
        "jacobian": estimate(top, slack * top, "eigvalsh"),
        "pl": estimate(values[0].item(), slack * values[-1].item(), "eigvalsh"),
    }


def _seen(subject: Subject, quantity: str) -> Enclosure | None:
    """A sampled maximum: the true one is at least this."""
    found = subject.largest(quantity)
    if found is None:
        return None
    return Enclosure(found.value, found.lower, math.inf, method="sampled")


def _song(subject: Subject) -> song2023.Measurements:
    ends: dict[str, Any] = {
        "last_over_first": _last_over_first(subject),
        "worst_round": _growth(subject),
    }
    weights = subject.partition.weights(subject.weights).tolist()
    return song2023.Measurements(
        sizes=tuple(subject.partition.sizes),
        widths=widths_of(subject.model),
        local_steps=subject.local_steps,
        step_size=subject.step_size,
        is_pyramid=isinstance(subject.model, Pyramid),
        is_smooth=quadratic(subject) is not None or may_be_smooth(subject.model),
        is_fedavg=subject.plain,
        weights=None if subject.by_samples else tuple(weights),
        **ends,
    )


def _last_over_first(subject: Subject) -> Enclosure | None:
    losses = subject.losses
    if subject.lost:
        return exact(math.inf)
    if losses is None or not losses.iloc[0] > 0:
        return None
    values, low, high = ends_of(losses.to_numpy(), subject.loss_slack(losses))
    most = high[-1] / low[0] if low[0] > 0 else math.inf
    # What is promised is a limit: while the loss still falls it may be anything below.
    falling = len(values) > 1 and values[-1] < values[-2]
    return Enclosure(
        float(values[-1] / values[0]),
        0.0 if falling else float(low[-1] / high[0]),
        float(most),
        method="the loss still falls" if falling else "rounding",
    )


def _growth(subject: Subject) -> Enclosure | None:
    """Largest loss over the loss one round before; ``None`` if a round was skipped."""
    losses = subject.losses
    if subject.lost:
        return exact(math.inf)
    if losses is None or not unbroken(losses.index):
        return None
    return growth(losses.to_numpy(), subject.loss_slack(losses))


def _worst_ratio(subject: Subject, pl: Enclosure) -> Enclosure | None:
    """Of every round that is more than rounding, at both ends of μ."""
    found, step = _growth(subject), subject.step_size * subject.local_steps
    if found is None or math.isinf(found.lower):
        return found

    def over(ratio: float, rate: float) -> float:
        # One round in which the loss grows by so much.
        losses = np.array([1.0, ratio])
        return song2023.worst_ratio(losses, step_size=step, pl=max(rate, 0.0))

    value, *corners = (
        over(ratio, rate)
        for ratio, rate in (
            (found.value, pl.value), (found.lower, pl.lower), (found.upper, pl.upper)
        )
    )  # fmt: skip
    if not math.isfinite(value) or math.isnan(corners[1]):
        return None
    return Enclosure(value, corners[0] * (1 - 1e-12), corners[1] * (1 + 1e-12))


def may_be_smooth(model: torch.nn.Module) -> bool:
    """Is every activation one whose derivative is known to be Lipschitz?"""
    kinds = (*SMOOTH, SmoothLeakyReLU, torch.nn.Linear)
    leaves = [m for m in model.modules() if not list(m.children())]
    if isinstance(model, Pyramid):
        return gamma_of(model) is not None
    return bool(leaves) and all(isinstance(m, kinds) for m in leaves)


def _moved(subject: Subject) -> tuple[Enclosure, ...] | None:
    """Largest ``‖W_l − W_l⁰‖_F`` of the average: what is known of it.

    A layer came at least as far as it is in the end, and as its furthest row ever was;
    and at most √rows times as far as that row, if every round was seen.
    """
    run = subject.run
    if run is None or gamma_of(subject.model) is None:
        return None
    first, last = (complete(subject.model, params) for params in (None, run.params))
    ends = pyramid.displacements(weights_of(last), weights_of(first))
    rows = run.rows.loc[run.rows["quantity"] == "neuron displacement"]
    found = []
    for (name, weight), end in zip(first.items(), ends, strict=True):
        own = rows.loc[rows["layer"] == name]
        row = float(own["value"].max()) if len(own) else 0.0
        least, most = max(end, row), math.inf
        whole = unbroken(own["round"]) and len(own) == run.rounds + 1
        if whole and not subject.diverged:
            # A norm of a row was rounded once for each of its entries.
            slack = weight.shape[1] * torch.finfo(weight.dtype).eps
            most = max(least, row * math.sqrt(len(weight)) * (1 + slack))
        found.append(Enclosure(least, least, most, method="furthest row of a layer"))
    return tuple(found)


@functools.lru_cache(maxsize=1)
def _start(subject: Subject) -> pyramid.Start | None:
    gamma = gamma_of(subject.model)
    if gamma is None or len(widths_of(subject.model)) < 3:
        return None
    return numbers(subject.model, subject.x, subject.start.residual, gamma)


def _bounds(subject: Subject) -> pyramid.Bounds | None:
    """Of the pooled sum-form loss on the whole region."""
    start = _start(subject)
    if start is None:
        return None
    return pyramid.region_bounds(
        start.largest,
        start.radii,
        x_norm=start.x_norm,
        x_frobenius=start.x_frobenius,
        residual=start.residual,
        beta=subject.model.activation.beta,  # pyright: ignore
    )


def _client_bounds(subject: Subject) -> list[pyramid.Bounds]:
    """Of every client's mean loss: norms of its own samples, over their number."""
    start, found = _start(subject), []
    assert start is not None
    for own in subject.partition.indices:
        if len(own) == 0:
            continue
        x = subject.x[own].double().cpu().numpy()
        one = pyramid.region_bounds(
            start.largest,
            start.radii,
            x_norm=float(np.linalg.norm(x, 2)),
            x_frobenius=float(np.linalg.norm(x)),
            residual=subject.start.residual[own].norm().item(),
            beta=subject.model.activation.beta,  # pyright: ignore
        )
        smoothness = one.smoothness / len(own)
        found.append(dataclasses.replace(one, smoothness=smoothness))
    return found


def _above(bound: float) -> Enclosure:
    """A number of at most this, a few dozen roundings allowed for."""
    top = bound * (1 + 1e-12)
    return Enclosure(top, top, top, method="bound on the region")
