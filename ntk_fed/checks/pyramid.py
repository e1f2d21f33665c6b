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
from ntk_fed.checks.subject import Subject, over_promise, rounded, unbroken
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
    worst, losses = None, subject.losses
    if subject.diverged:
        worst = exact(math.inf)
    elif start is not None and losses is not None:
        first, step = float(losses.iloc[0]), subject.step_size
        steps = losses.index.to_numpy() * subject.local_steps
        worst = over_promise(
            losses,
            lambda end: nguyen2020.loss_bound(first, end, n, step, steps),
            nguyen2020.conditions(start).alpha0,
        )
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
    sizes, start = subject.partition.sizes, subject.start
    weights = subject.partition.weights(subject.weights)
    if quadratic(subject) is not None:
        per_sample = torch.zeros(len(subject.x), dtype=torch.float64)
        tops = []
        o = start.residual.shape[1]
        for own, weight in zip(subject.partition.indices, weights, strict=True):
            if len(own):
                per_sample[own.cpu()] = weight.item() / len(own)
                rows = (own[:, None] * o + torch.arange(o)).flatten()
                block = start.gram[rows][:, rows]
                tops.append(torch.linalg.eigvalsh(block)[-1].item() / len(own))
        root = per_sample.repeat_interleave(o).sqrt()
        matrix = root[:, None] * start.gram.double().cpu() * root
        values = torch.linalg.eigvalsh(matrix)
        top = torch.linalg.eigvalsh(start.gram)[-1].item()
        slack = len(root) * torch.finfo(torch.float64).eps
        return {
            "smoothness": estimate(max(tops), slack * max(tops), "eigvalsh"),
            "jacobian": estimate(math.sqrt(top), slack * math.sqrt(top), "eigvalsh"),
            "pl": estimate(values[0].item(), slack * values[-1].item(), "eigvalsh"),
        }
    pl = subject.smallest("smallest eigenvalue")
    if pl is not None:
        # D ≥ its smallest entry: exact for weights n_i/n, a lower bound for others.
        pairs = zip(weights.tolist(), sizes, strict=True)
        shares = [weight / size for weight, size in pairs if size]
        low, high = min(shares), max(shares)
        ends = sorted((max(pl.lower, 0.0) * low, max(pl.upper, 0.0) * high))
        pl = Enclosure(min(max(pl.value * low, ends[0]), ends[1]), *ends)
    return {
        "smoothness": _seen(subject, "smoothness (clients, sampled)"),
        "jacobian": subject.largest("Jacobian norm"),
        "pl": pl if subject.covers else None,
    }


def _seen(subject: Subject, quantity: str) -> Enclosure | None:
    """A sampled maximum: the true one is at least this."""
    found = subject.largest(quantity)
    if found is None:
        return None
    return Enclosure(found.value, found.lower, math.inf, method="sampled")


def _song(subject: Subject) -> song2023.Measurements:
    losses = subject.losses
    ends: dict[str, Any] = {}
    if losses is not None and losses.iloc[0] > 0:
        values = losses.to_numpy()
        ends["last_over_first"] = rounded(float(values[-1] / values[0]))
        if unbroken(losses.index) and (values > 0).all():
            ends["worst_round"] = rounded(float((values[1:] / values[:-1]).max()))
    if subject.diverged:
        ends["last_over_first"] = exact(math.inf)
    weights = subject.partition.weights(subject.weights).tolist()
    return song2023.Measurements(
        sizes=tuple(subject.partition.sizes),
        widths=widths_of(subject.model),
        local_steps=subject.local_steps,
        step_size=subject.step_size,
        is_pyramid=isinstance(subject.model, Pyramid),
        is_smooth=quadratic(subject) is not None or _is_smooth(subject.model),
        is_fedavg=subject.plain,
        weights=None if subject.by_samples else tuple(weights),
        **ends,
    )


def _worst_ratio(subject: Subject, pl: Enclosure) -> Enclosure | None:
    """Of every round, at both ends of μ; ``None`` if a round was not observed."""
    losses = subject.losses
    if subject.diverged:
        return exact(math.inf)
    if losses is None or not unbroken(losses.index):
        return None
    values, step = losses.to_numpy(), subject.step_size * subject.local_steps
    # Below 1e-24 of the start a loss is the rounding of its residual.
    values = values[: int((values > 1e-24 * values[0]).cumprod().sum())]
    ends = [
        song2023.worst_ratio(values, step_size=step, pl=max(end, 0.0))
        for end in (pl.value, pl.lower, pl.upper)
    ]
    if not all(math.isfinite(end) for end in ends):
        return None
    return Enclosure(ends[0], min(ends) * (1 - 1e-12), max(ends) * (1 + 1e-12))


def _is_smooth(model: torch.nn.Module) -> bool:
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
