"""How wide must a network be? A search over widths for each condition and each value.

Floor 8. Seeds are spent where a decision is open; runs lie in a store, shared by all
conditions and never repeated. Probabilities are over initial weights: the data are the
same for all seeds of a value.
"""

import contextlib
import functools
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ntk_fed import records
from ntk_fed.errors import RunFolderError, TaskError
from ntk_fed.executor import Executor, Processes
from ntk_fed.scaling import Bracket, search
from ntk_fed.scaling.bisection import Pair
from ntk_fed.studies.compute import compute
from ntk_fed.studies.conditions import (
    Answer,
    Recorded,
    answer,
    read_run,
)
from ntk_fed.studies.exponents import exponents_of, needs_of
from ntk_fed.studies.requirementspec import RequirementSpec
from ntk_fed.studies.spec import RunSpec
from ntk_fed.studies.store import Store
from ntk_fed.studies.sweep import jobs_of, run_in_folder

OUTCOMES = ("value", "condition", "width", "seed", "met", "number")


def run_requirement(
    spec: RequirementSpec,
    out: str | os.PathLike[str],
    *,
    executor: Executor | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Path:
    """Search the required width of every condition at every value, and its law.

    A run that cannot be told whether it meets a condition counts as one that does not;
    how many there were is in the table of brackets.

    Args:
        spec: what is asked.
        out: folder: ``runs/KEY/`` for each run, which need not be kept, and tables.
            ``rows/outcomes.parquet`` (every run that was judged), ``brackets``,
            ``verdicts`` (every width), ``exponents``, ``theory``, ``lambda0``.
        executor: where runs are computed; ``None`` takes processes of this machine.
        report: called with a line when a bracket is found.

    Returns:
        The folder.

    Raises:
        TaskError: a run failed; the reason is kept in ``failures/KEY.json``. Runs that
            are done stay done.
        ValueError: runs are too short for a condition, or too few seeds to decide.
        RunFolderError: ``out`` cannot be written, or holds something else.
    """
    began = time.monotonic()
    folder = _claim(spec, out)
    with contextlib.ExitStack() as stack:
        where = executor or stack.enter_context(Processes(spec.processes))
        trials = _Trials(spec, Store(folder), where)
        brackets: dict[tuple[Any, str], Bracket] = {}
        for value in spec.values:
            for condition in spec.conditions:
                found = search(
                    functools.partial(trials.met, value, condition),
                    spec.widths,
                    failure=spec.failure,
                    error=spec.error,
                    most_seeds=spec.most_seeds,
                    batch=spec.batch,
                )
                brackets[value, condition] = found
                report(_line(spec, value, condition, found))
    _write(spec, folder, trials, brackets)
    if trials.computed or not (folder / "provenance.json").exists():
        about = records.provenance(
            seconds=round(time.monotonic() - began, 3), runs=len(trials.read)
        )
        records.write_json(folder / "provenance.json", about)
    return folder


class _Trials:
    """Outcomes of runs, computed where they are missing."""

    def __init__(self, spec: RequirementSpec, store: Store, executor: Executor) -> None:
        self.spec, self.store, self.executor = spec, store, executor
        self.outcomes: dict[tuple[Any, str, int, int], Answer] = {}
        self.read: set[str] = set()
        self.lambda0: dict[Any, Any] = {}
        self.computed = 0

    def met(self, value: Any, condition: str, pairs: list[Pair]) -> list[bool]:
        """The trial of a search."""
        specs = [self.spec.run(value, *pair) for pair in pairs]
        self._compute([one for one in specs if not self.store.is_done(one.key)])
        found = []
        for pair, one in zip(pairs, specs, strict=True):
            run = read_run(self.store.run(one.key), one)
            self._note(value, run)
            own = answer(
                condition, run, epsilon=self.spec.epsilon, slack=self.spec.slack
            )
            self.outcomes[value, condition, *pair] = own
            found.append(own.met is True)
        return found

    def _note(self, value: Any, run: Recorded) -> None:
        """λ0 is of the data alone: every run of a value has the same."""
        self.read.add(run.spec.key)
        if value not in self.lambda0:
            with contextlib.suppress(RunFolderError):  # a network without one here
                self.lambda0[value] = run.lambda0

    def _compute(self, specs: list[RunSpec]) -> None:
        if not specs:
            return
        self.computed += len(specs)
        jobs = jobs_of(specs, self.store.folder)
        failed = compute(run_in_folder, jobs, self.store, self.executor)
        if failed:
            raise TaskError(
                f"a run failed, and without it no width can be decided. The reason is "
                f"in {str(self.store.failure(failed[0]))!r}; start again after that."
            )


def _claim(spec: RequirementSpec, out: str | os.PathLike[str]) -> Path:
    """A folder that is empty, or holds a study of required widths."""
    folder = Path(out)
    path = folder / "spec.toml"
    if path.exists() and "required" not in records.read_toml(path):
        raise RunFolderError(
            f"out = {str(out)!r} holds something else: its spec.toml has no "
            "[required]. Choose another folder."
        )
    records.prepare(folder)
    records.write_toml(path, spec.written())
    return folder


def _line(spec: RequirementSpec, value: Any, condition: str, found: Bracket) -> str:
    low, high = ("?" if end is None else str(end) for end in (found.lower, found.upper))
    return (
        f"{spec.over} {value}, {condition}: required width in ({low}, {high}], "
        f"{found.trials} seeds"
    )


def _write(
    spec: RequirementSpec,
    folder: Path,
    trials: _Trials,
    brackets: Mapping[tuple[Any, str], Bracket],
) -> None:
    """All tables; brackets, by which a report knows the folder, come last."""
    keys = sorted(
        trials.outcomes,
        key=lambda k: (spec.values.index(k[0]), spec.conditions.index(k[1]), *k[2:]),
    )
    rows = [(*key, *trials.outcomes[key]) for key in keys]
    outcomes = pd.DataFrame(rows, columns=pd.Index(OUTCOMES))
    outcomes = outcomes.astype({"met": "boolean", "number": "float64"})
    records.write_table(folder / "rows" / "outcomes.parquet", outcomes)
    tables = {
        "verdicts": _verdicts(brackets),
        "lambda0": _lambda0(spec, trials.lambda0),
    }
    tables["theory"] = needs_of(tables["lambda0"], spec.failure, spec.epsilon)
    tables["exponents"] = exponents_of(brackets, tables["theory"])
    tables["brackets"] = _brackets(brackets, outcomes)
    for name, table in tables.items():
        records.write_table(folder / f"{name}.parquet", table)


def _verdicts(brackets: Mapping[tuple[Any, str], Bracket]) -> pd.DataFrame:
    found = []
    for (value, condition), one in brackets.items():
        table = one.table.assign(verdict=one.table["verdict"].map(str))
        table.insert(0, "condition", condition)
        table.insert(0, "value", value)
        found.append(table)
    return pd.concat(found, ignore_index=True)


def _brackets(
    brackets: Mapping[tuple[Any, str], Bracket], outcomes: Any
) -> pd.DataFrame:
    unknown = outcomes[outcomes["met"].isna()]
    counts = unknown.groupby(["value", "condition"]).size()
    rows = [
        {
            "value": value,
            "condition": condition,
            "lower": math.nan if one.lower is None else float(one.lower),
            "upper": math.nan if one.upper is None else float(one.upper),
            "consistent": one.consistent,
            "seeds": one.trials,
            "undecided": int(counts.get((value, condition), 0)),
            "note": one.note,
        }
        for (value, condition), one in brackets.items()
    ]
    return pd.DataFrame(rows)


def _lambda0(spec: RequirementSpec, found: Mapping[Any, Any]) -> pd.DataFrame:
    rows = [
        (value, spec.run(value, spec.widths[0], 0).samples, own.value, own.lower,
         own.upper)
        for value, own in found.items()
    ]  # fmt: skip
    names = pd.Index(("value", "samples", "lambda0", "lower", "upper"))
    return pd.DataFrame(rows, columns=names)
