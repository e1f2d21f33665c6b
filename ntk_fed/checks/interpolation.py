"""Qin et al. (2022): local SGD when one model fits all clients.

Floor 7.
"""

import dataclasses
import functools
import math
from typing import Any

import numpy as np
import pandas as pd

from ntk_fed.checks.pyramid import may_be_smooth
from ntk_fed.checks.quadratic import Quadratic, quadratic, residual_at
from ntk_fed.checks.rounding import rounded
from ntk_fed.checks.subject import Subject
from ntk_fed.measured import Enclosure, estimate, exact
from ntk_fed.theory import TheoremCheck, qin2022


def theorem1(subject: Subject) -> TheoremCheck:
    """Convex losses."""
    return qin2022.theorem1(measurements(subject))


def theorem2(subject: Subject) -> TheoremCheck:
    """Losses that need not be convex."""
    return qin2022.theorem2(measurements(subject))


def theorem3(subject: Subject) -> TheoremCheck:
    """Strongly convex losses."""
    return qin2022.theorem3(measurements(subject))


def lemma4(subject: Subject) -> TheoremCheck:
    """Descent of the gap in one iteration."""
    return qin2022.lemma4(measurements(subject))


def lemma5(subject: Subject) -> TheoremCheck:
    """Spread of the clients since they last met."""
    return qin2022.lemma5(measurements(subject))


@functools.lru_cache(maxsize=1)  # five statements are about the same numbers
def measurements(subject: Subject) -> qin2022.Measurements:
    """Everything the statements ask for, as far as it is known here.

    For linear models all constants are exact up to rounding. For networks, L is what
    was met along the run and may be larger elsewhere.
    """
    form, run = quadratic(subject), subject.run
    averages = subject.uniform and subject.plain
    found = qin2022.Measurements(
        step_size=subject.step_size,
        local_steps=subject.local_steps,
        averages=averages,
        convex=form is not None,
        smooth=form is not None or may_be_smooth(subject.model),
        rounds=run.rounds if run is not None and run.rounds else None,
        gap=_gap(subject),
        smallest_gradient=_least(subject, "squared gradient at average"),
    )
    known = _of_a_network(subject) if form is None else _of_a_quadratic(subject, form)
    changes: dict[str, Any] = dict(known)
    found = dataclasses.replace(found, **changes)
    return qin2022.along(found, _iterations(subject))


def _of_a_quadratic(subject: Subject, form: Quadratic) -> dict[str, Enclosure | None]:
    smallest, largest = math.inf, 0.0
    for one in form.hessians:
        values = np.linalg.eigvalsh(one) if one.size else np.zeros(1)  # zero inputs
        smallest, largest = min(smallest, values[0]), max(largest, values[-1])
    slack = len(form.basis) * np.finfo(float).eps * largest
    convexity = exact(0.0)  # flat where no sample looks
    if form.definite and smallest > slack:
        convexity = estimate(smallest, slack, "eigvalsh")
    first, last = float(np.linalg.norm(form.displacement(form.residual))), None
    if subject.run is not None and not subject.diverged:
        final = form.displacement(residual_at(subject, subject.run.params))
        with np.errstate(over="ignore"):  # an infinite distance is one
            last = rounded(float(final @ final), subject.eps)
    elif subject.diverged:
        last = exact(math.inf)
    flat = not form.hessians.size
    return {
        "smoothness": estimate(largest, slack, "eigvalsh"),
        "convexity": convexity,
        "growth": _relative(1.0 if flat else qin2022.growth(form.hessians)),
        "similarity": _relative(1.0 if flat else qin2022.similarity(form.hessians)),
        "least": estimate(form.unreached(), qin2022.ROUNDING / 2, "least squares"),
        "distance": rounded(first, subject.eps),
        "last_distance": last,
    }


def _relative(value: float) -> Enclosure:
    """Of two inversions of matrices: eight digits of sixteen are kept in hand."""
    return estimate(value, 1e-8 * abs(value), "eigvalsh")


def _of_a_network(subject: Subject) -> dict[str, Enclosure | None]:
    """L and ρ where they were met; a larger one may be elsewhere."""

    def from_below(quantity: str) -> Enclosure | None:
        seen = subject.largest(quantity)
        if seen is None:
            return None
        note = "met along the run; it may be larger elsewhere"
        note = f"{seen.note}; {note}" if seen.note else note
        return Enclosure(seen.value, seen.lower, math.inf, method="seen", note=note)

    return {
        "smoothness": from_below("smoothness"),
        "growth": from_below("SGC ratio"),
    }


def _gap(subject: Subject) -> Enclosure:
    """``f(x0) − f*``: f* is at least 0 and at most the smallest loss that was met."""
    first, losses = _loss_at_start(subject), subject.losses
    if losses is None or not subject.uniform or subject.lost:
        return first if losses is None else dataclasses.replace(first, lower=0.0)
    return dataclasses.replace(
        first, lower=max(first.lower - float(losses.min()), 0.0), method="f* seen"
    )


def _loss_at_start(subject: Subject) -> Enclosure:
    """``f(x0)`` with weights 1/c."""
    squares = subject.start.residual.square().sum(dim=1).double()
    means = [
        squares[own].mean().item() for own in subject.partition.indices if len(own)
    ]
    return rounded(sum(means) / (2 * subject.partition.clients), subject.eps)


def _least(subject: Subject, quantity: str) -> Enclosure | None:
    """The smallest number met: no iteration's can be below the smallest of all."""
    if subject.diverged:
        return None
    return subject.smallest(quantity)


def _iterations(subject: Subject) -> pd.DataFrame | None:
    """Gap, squared gradient and variance of iterates at every iteration from 0 on.

    ``None`` unless every single one was observed.
    """
    if subject.run is None or subject.diverged:
        return None
    rows, k = subject.run.rows, subject.local_steps
    columns = {}
    for name, quantity in (
        ("gap", "excess loss"),
        ("gradient", "squared gradient at average"),
        ("variance", "variance of iterates"),
    ):
        own = rows.loc[(rows["quantity"] == quantity) & rows["client"].isna()]
        whole = own["round"] * k
        inside = (own["round"] - 1) * k + own["step"]
        times = whole.where(own["step"].isna(), inside).astype("int64")
        columns[name] = pd.Series(own["value"].to_numpy(), index=times.to_numpy())
    found = pd.DataFrame(columns).sort_index()
    complete = len(found) == subject.run.rounds * k + 1
    return found if complete and not found.isna().any(axis=None) else None
