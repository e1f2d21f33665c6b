"""Theorems applied to a model, a partition and, if given, a run.

Floor 7: measures what the theorems ask for and hands the numbers to ``theory``.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ntk_fed.checks import deep, interpolation, lazy, linear, pyramid, twolayer
from ntk_fed.checks.pyramidstart import certified_pyramid
from ntk_fed.checks.subject import Subject
from ntk_fed.data import Partition
from ntk_fed.names import require_known
from ntk_fed.params import trainable
from ntk_fed.simulate import History
from ntk_fed.start import Start, measure
from ntk_fed.theory import TheoremCheck

__all__ = ["THEOREMS", "Subject", "certified_pyramid", "check", "named"]

THEOREMS: dict[str, Callable[[Subject], TheoremCheck]] = {
    "du2019.gradient_descent": twolayer.gradient_descent,
    "lazy.linear_convergence": lazy.linear_convergence,
    "arora2019.trajectory": twolayer.trajectory,
    "huang2021.fl_ntk": twolayer.fl_ntk,
    "deng2022.local_sgd": deep.local_sgd,
    "nguyen2020.gradient_descent": pyramid.gradient_descent,
    "song2023.wide_layer": pyramid.wide_layer,
    "song2023.a_priori": pyramid.a_priori,
    "song2023.a_posteriori": pyramid.a_posteriori,
    "qin2022.theorem1": interpolation.theorem1,
    "qin2022.theorem2": interpolation.theorem2,
    "qin2022.theorem3": interpolation.theorem3,
    "qin2022.lemma4": interpolation.lemma4,
    "qin2022.lemma5": interpolation.lemma5,
    "zhu2024.regression_limit": linear.regression_limit,
    "zhu2024.direction": linear.direction,
    "collins2022.representation": linear.representation,
    "jian2025.wide_limit": lazy.wide_limit,
}
OTHER_LOSSES = ("zhu2024.direction",)


def check(
    model: torch.nn.Module,
    partition: Partition,
    *,
    local_steps: int,
    step_size: float,
    weights: str = "samples",
    server_step_size: float = 1.0,
    failure: float = 0.1,
    run: History | None = None,
    start: Start | None = None,
    theorems: Sequence[str] | None = None,
) -> list[TheoremCheck]:
    """Every theorem's hypotheses, constants and conclusion here.

    Args:
        model: network at its initial parameters.
        partition: the data and who holds it.
        local_steps: ``K``.
        step_size: local step size, mean form.
        weights: ``"samples"`` or ``"uniform"``.
        server_step_size: ``η_g``.
        failure: probability ``δ`` the theorems may fail with.
        run: a run of this model; without one, conclusions are undecided.
        start: what :func:`measure` gave for the same arguments, to save its cost.
        theorems: names, or papers for all of theirs (``"qin2022"``); none takes all.

    Returns:
        One :class:`TheoremCheck` per theorem; a failed hypothesis is a result.

    Raises:
        UnknownNameError: a theorem that is not here, with the nearest that is.
        ValueError: ``failure`` out of range, or a run made with other options.

    Cost:
        One kernel, a few eigenvalue problems of its size.
    """
    if not 0 < failure < 1:
        raise ValueError(f"failure must be in (0, 1), got {failure}.")
    chosen = named(theorems)
    algorithm = {
        "local_steps": local_steps,
        "step_size": step_size,
        "weights": weights,
        "server_step_size": server_step_size,
    }
    if run is not None:
        _check_run(run, algorithm, model)
    if start is None:
        start = measure(model, partition, **algorithm)
    subject = Subject(model, partition, start, **algorithm, failure=failure, run=run)
    return [_held(name, subject) for name in chosen]


def _held(name: str, subject: Subject) -> TheoremCheck:
    """One theorem; one about the squared loss says nothing of runs with another."""
    if subject.loss == "squared" or name in OTHER_LOSSES:
        return THEOREMS[name](subject)
    found = THEOREMS[name](dataclasses.replace(subject, run=None))
    why = f"it is about the squared loss, the run has {subject.loss}"
    return dataclasses.replace(found, why_not=found.why_not or why)


def named(theorems: Sequence[str] | None) -> list[str]:
    """Full names of theorems, each given so or by its paper.

    Args:
        theorems: names; ``None`` is all.

    Raises:
        UnknownNameError: one that is not here, with the nearest that is.
    """
    if theorems is None:
        return list(THEOREMS)
    papers = list(dict.fromkeys(name.split(".")[0] for name in THEOREMS))
    for name in theorems:
        require_known("theorem", name, [*THEOREMS, *papers])
    return [
        name for name in THEOREMS if name in theorems or name.split(".")[0] in theorems
    ]


def _check_run(run: History, asked: dict[str, Any], model: torch.nn.Module) -> None:
    """Refuse a run of another network, or with other options than are asked for."""
    own, found = (
        {name: tuple(value.shape) for name, value in params.items()}
        for params in (trainable(model), run.params)
    )
    if own != found:
        raise ValueError(
            f"run is one of a network with parameters {found}, the model has {own}. "
            "Give the model the run was made of, at its initial parameters."
        )
    full_batches = {"batch_size": None, "participation": 1.0}
    for name, value in (asked | full_batches).items():
        if run.options.get(name, value) != value:
            raise ValueError(
                f"run was made with {name}={run.options[name]!r}, the check is for "
                f"{value!r}. Pass the run's own options; the theorems here are about "
                "full batches and full participation."
            )
