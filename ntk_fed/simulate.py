"""A federated run with everything that watches it; interrupted, it goes on.

Floor 7: imports ``fedavg``, ``observers`` and ``records``.
"""

import dataclasses
import functools
import inspect
import math
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from rich.progress import track
from torch import Tensor

from ntk_fed import records
from ntk_fed.data import Partition
from ntk_fed.errors import NonFiniteError
from ntk_fed.fedavg import LocalStep, Objective, Round, Stacked
from ntk_fed.fedavg import rounds as federated_rounds
from ntk_fed.fedavg.schedules import Schedule
from ntk_fed.names import definition
from ntk_fed.observers import Observer
from ntk_fed.observers.common import (
    check_observers,
    described_as,
    moment_of,
    rows_of,
)
from ntk_fed.params import Params, complete, copied, frozen_state
from ntk_fed.records import Row
from ntk_fed.runfolder import (
    DIVERGED,
    FINISHED,
    RUNNING,
    RunFolder,
    Saved,
    fingerprint_of,
)

OUT_OF_RANGE = "out of range"
_NOT_IN_SPEC = ("model", "partition", "params", "first", "anchor")


@dataclasses.dataclass(frozen=True, eq=False)
class History:
    """What a run leaves.

    Attributes:
        rows: everything the observers said, in long form (see :class:`records.Row`).
        params: parameters at the end; of a diverged run, the last finite ones.
        rounds: rounds done.
        status: ``"finished"``, or ``"diverged"`` when parameters became non-finite.
        options: what the run was made with, defaults written out.
    """

    rows: pd.DataFrame
    params: Params
    rounds: int
    status: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


def simulate(
    model: torch.nn.Module,
    partition: Partition,
    *,
    rounds: int,
    local_steps: Any = None,
    step_size: float | Schedule,
    observers: Sequence[Observer] = (),
    out: str | os.PathLike[str] | None = None,
    save_seconds: float = 10.0,
    progress: bool = False,
    params: Mapping[str, Tensor] | None = None,
    **options: Any,
) -> History:
    """Run FedAvg and record what the observers see.

    Args:
        model: network returning ``(n, o)``; neither it nor its buffers change.
        partition: the data and who holds it.
        rounds: communication rounds.
        local_steps: gradient steps per client and round; ``local_epochs`` instead is
            one of the options.
        step_size: local step size, or a schedule.
        observers: functions of a ``Round`` or ``LocalStep`` that give rows.
        out: run folder. A run interrupted there goes on from its last saved round with
            the same result bit for bit; a finished one is read back.
        save_seconds: seconds between two saves to ``out``; the end and an interruption
            save as well.
        progress: show a progress bar.
        params: starting parameters; names left out are the model's own.
        options: further options of :func:`ntk_fed.fedavg.rounds`.

    Returns:
        The rows, the last finite parameters, and how it ended. A run stops as diverged
        when parameters are no longer finite. Before that an observer's own numbers may
        leave the floats (outputs, a kernel): its rows of that moment are then NaN with
        infinite ends and status "out of range", with a warning, and the run goes on as
        if it were not watched. An observer that fails at the start is an error.

    Raises:
        RunFolderError: ``out`` cannot be written, or holds another run.
        ValueError: as :func:`ntk_fed.fedavg.rounds`, and what observers raise.

    Cost:
        The rounds, and what the observers cost.
    """
    check_observers(observers, options.get("loss", "squared"))
    if "first" in options:
        raise ValueError(
            "first is kept by the run folder: leave it out, and give out=."
        )
    start = copied(complete(model, params))
    # A run that goes on is drawn back to its beginning, not to where it goes on.
    options["anchor"] = copied(complete(model, options.get("anchor") or start))
    federation = functools.partial(
        federated_rounds,
        model,
        partition,
        local_steps=local_steps,
        step_size=step_size,
        **options,
    )
    # Arguments are checked before anything is written.
    federation(rounds=rounds, params=start)
    bound = inspect.signature(federated_rounds).bind(
        model, partition, rounds=rounds, **federation.keywords
    )
    bound.apply_defaults()
    bound.arguments["step_size"] = _schedule(step_size, rounds)
    spec = {k: _plain(v) for k, v in bound.arguments.items() if k not in _NOT_IN_SPEC}
    folder = None
    done, rows = Saved(0, RUNNING, start), []
    if out is not None:
        state = {**frozen_state(model), **start}
        if options.get("rule") == "anchored":
            state |= {f"anchor {name}": v for name, v in options["anchor"].items()}
        fingerprint = fingerprint_of(state, partition)
        outputs = Objective.of(model).outputs(start, partition.dataset.x)
        folder = RunFolder(records.prepare(out), fingerprint)
        watching = [described_as(watch) for watch in observers]
        done = folder.open({**spec, "observers": watching}, start, outputs)
    if done.status == RUNNING:
        items = federation(
            rounds=rounds - done.round, params=done.params, first=done.round
        )
        if progress:
            items = _tracked(items, rounds, done.round)
        done = _watch(items, observers, done, folder, rows, save_seconds, start)
    table = records.frame(rows) if folder is None else folder.rows()
    return History(table, done.params, done.round, done.status, spec)


def _watch(
    items: Iterator[Round | LocalStep],
    observers: Sequence[Observer],
    done: Saved,
    folder: "RunFolder | None",
    rows: list[Row],
    save_seconds: float,
    start: Params,
) -> Saved:
    """Pass every item to every observer; save now and then, and at any interruption.

    Rows are appended as they come, and ``done`` says how many belong to whole rounds.
    """
    last = time.monotonic()
    told: set[str] = set()
    try:
        for item in items:
            if isinstance(item, Round) and not _finite(item.params):
                rows.extend(_start_rows(item, observers))
                rows.append(Row(item.index + 1, None, None, None, "diverged", 1.0))
                done = dataclasses.replace(done, status=DIVERGED, rows=len(rows))
                warnings.warn(
                    f"the run diverged in round {item.index + 1}: parameters became "
                    "non-finite. It stops with its last finite state; lower step_size.",
                    RuntimeWarning,
                    stacklevel=3,
                )
                break
            for watch in observers:
                rows.extend(_rows(watch, item, start, told))
            if isinstance(item, Round):
                done = Saved(item.index + 1, RUNNING, item.params, len(rows))
                if folder and time.monotonic() - last > save_seconds:
                    done = folder.save(done, rows)
                    last = time.monotonic()
        else:
            done = dataclasses.replace(done, status=FINISHED)
    finally:
        if folder:
            done = folder.save(done, rows)
    return done


def _start_rows(item: Round, observers: Sequence[Observer]) -> list[Row]:
    """What observers say of the start, when the very first round diverged."""
    if item.index > 0:
        return []
    still = _still(item, item.start)
    return [
        row for watch in observers for row in rows_of(watch, still) if row.round == 0
    ]


def _rows(
    watch: Observer, item: Round | LocalStep, start: Params, told: set[str]
) -> list[Row]:
    """What an observer says; where its numbers leave the floats, that they did.

    Which rows those are is seen at the run's start, where it has to succeed. Observers
    whose warning was given are added to ``told``.
    """
    try:
        return rows_of(watch, item)
    except (NonFiniteError, ArithmeticError, torch.linalg.LinAlgError) as error:
        try:
            found = rows_of(watch, _still(item, start))
        except Exception:
            raise error from None
        name, (done, step) = described_as(watch), moment_of(item)
        if name not in told:
            told.add(name)
            when = f"round {done}" + (f", local step {step}" if step else "")
            warnings.warn(
                f"the observer {name} left the range of floats in {when}; its rows "
                f"there are NaN, as they are wherever it does. It said: {error}",
                RuntimeWarning,
                stacklevel=4,
            )
    unknown = {"value": math.nan, "lower": -math.inf, "upper": math.inf}
    return [
        row if row.round == 0 else row._replace(**unknown, status=OUT_OF_RANGE)
        for row in found
    ]


def _still(item: Round | LocalStep, start: Params) -> Round | LocalStep:
    """The same moment of a run that has not moved from its start."""
    there = {"start": start, "locals": Stacked([start] * len(item.clients), start)}
    if isinstance(item, Round):
        there["params"] = start
    return dataclasses.replace(item, **there)


def _plain(value: Any) -> Any:
    """A value as the record of a run holds it; functions by name and source."""
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return value if not callable(value) else definition(value)


def _schedule(step_size: float | Schedule, rounds: int) -> Any:
    """A number, or a schedule by name and by what it gives early and late."""
    if not callable(step_size):
        return step_size
    named = dataclasses.is_dataclass(step_size)
    name = repr(step_size) if named else definition(step_size)
    some = [step_size(t, 0) for t in (0, 1, 10, 100, 1000) if t < rounds]
    return f"{name} {some}"


def _finite(params: Params) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in params.values())


def _tracked(
    items: Iterator[Round | LocalStep], rounds: int, first: int
) -> Iterator[Round | LocalStep]:
    """The items, with a bar that counts rounds."""

    def by_round() -> Iterator[list[Round | LocalStep]]:
        group = []
        for item in items:
            group.append(item)
            if isinstance(item, Round):
                yield group
                group = []

    for group in track(by_round(), "rounds", total=rounds, completed=first):
        yield from group
