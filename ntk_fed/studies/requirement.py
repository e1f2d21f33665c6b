"""How wide must a network be? A search over widths for each condition and each value.

Floor 8. Seeds are spent where a decision is open; runs lie in a store, shared by all
conditions and never repeated. Probabilities are over initial weights: the data are the
same for all seeds of a value.
"""

import contextlib
import dataclasses
import functools
import math
import os
import time
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ntk_fed import records
from ntk_fed.errors import RunFolderError, TaskError
from ntk_fed.executor import Executor, Processes
from ntk_fed.names import require_known
from ntk_fed.scaling import Bracket, search
from ntk_fed.scaling.bisection import Pair
from ntk_fed.studies.conditions import (
    Answer,
    Recorded,
    answer,
    read_run,
    require_condition,
)
from ntk_fed.studies.exponents import exponents_of, needs_of
from ntk_fed.studies.spec import RunSpec, check_types
from ntk_fed.studies.store import Store
from ntk_fed.studies.sweep import DONE, tasks_of, until_done

_KEYS = ("title", "processes", "run", "required")
_DECIDED = ("width", "seed", "failure")  # not for [run] to say
OUTCOMES = ("value", "condition", "width", "seed", "met", "number")


@dataclasses.dataclass(frozen=True)
class RequirementSpec:
    """A study of required widths.

    Attributes:
        title: one line for the report.
        base: what all runs share.
        over: the field of :class:`RunSpec` that the required width is a function of.
        values: what it takes.
        widths: the ladder.
        conditions: names of ``studies.conditions``.
        most_seeds: seeds a width may take for a condition.
        failure: probability δ of a failure that is allowed, of conditions and theorems.
        error: probability of a wrong bracket that is allowed, for each bracket.
        epsilon: of the condition ``rounds``.
        slack: of the condition ``rounds``.
        batch: runs asked for at once.
        processes: runs at a time, one torch thread each.
    """

    title: str
    base: RunSpec
    over: str
    values: list[Any]
    widths: list[int]
    conditions: list[str]
    most_seeds: int
    failure: float = 0.1
    error: float = 0.05
    epsilon: float = 0.1
    slack: float = 0.1
    batch: int = 8
    processes: int = 2

    def __post_init__(self) -> None:
        """Refuse values out of their range, by name, before the first run."""
        known = [f.name for f in dataclasses.fields(RunSpec)]
        require_known("field in over", self.over, set(known) - {*_DECIDED})
        for name in ("values", "widths", "conditions"):
            found = getattr(self, name)
            if not found or len({*map(str, found)}) < len(found):
                raise ValueError(f"{name} must be different, one at least: {found}.")
        for name in self.conditions:
            require_condition(name)
        for name in ("failure", "error", "epsilon"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be in (0, 1), got {getattr(self, name)}."
                )
        if not 0 <= self.slack < math.inf:
            raise ValueError(f"slack must be at least 0, got {self.slack}.")
        for name in ("most_seeds", "batch", "processes"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 1, got {getattr(self, name)}."
                )
        for value in self.values:
            check_types({self.over: value})
            for width in self.widths:
                check_types({"width": width})
                self.run(value, width, 0)

    def run(self, value: Any, width: int, seed: int) -> RunSpec:
        """The run of a value, a width and a seed."""
        decided = {"width": width, "seed": seed, "failure": self.failure}
        return dataclasses.replace(self.base, **decided, **{self.over: value})

    def written(self) -> dict[str, Any]:
        """For a file: what :func:`read_requirement` reads back as this."""
        left = {*_DECIDED, self.over}
        own = records.plain(self)
        table = {k: v for k, v in own.items() if k not in ("title", "processes")}
        del table["base"]
        run = {k: v for k, v in self.base.written().items() if k not in left}
        return {
            "title": self.title,
            "processes": self.processes,
            "run": run,
            "required": table,
        }


def read_requirement(path: Path) -> RequirementSpec:
    """A study of required widths from its TOML file.

    Raises:
        UnknownNameError: a key that means nothing, with the nearest that does.
        ValueError: a value of a wrong type or out of its range, or a key missing.
        RunFolderError: the file cannot be read.
    """
    content = records.read_toml(path)
    _known(path.name, content, _KEYS)
    run, table = content.get("run", {}), content.get("required", {})
    if not isinstance(run, dict) or not isinstance(table, dict):
        raise ValueError(f"{path.name}: [run] and [required] must be tables.")
    fields = dataclasses.fields(RequirementSpec)
    for field in fields:
        if field.name in ("title", "processes") and field.name in content:
            _check_kind(field, content[field.name])
    own = [f for f in fields if f.name not in ("title", "base", "processes")]
    _known("[required]", table, [f.name for f in own])
    _known("[run]", run, [f.name for f in dataclasses.fields(RunSpec)])
    for field in own:
        if field.name not in table:
            if field.default is dataclasses.MISSING:
                raise ValueError(f"{path.name}: [required] needs {field.name}.")
            continue
        _check_kind(field, table[field.name])
    for name in (*_DECIDED, table["over"]):
        if name in run:
            raise ValueError(f"{name} is decided by [required]. Leave it out of [run].")
    check_types(run)
    return RequirementSpec(
        title=content.get("title", path.resolve().parent.name),
        base=RunSpec(**run),
        processes=content.get("processes", 2),
        **table,
    )


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
        tasks = tasks_of(specs, self.store.folder)
        failed = ""
        for outcome in until_done(self.executor, tasks, specs, self.store):
            one = specs[outcome.index]
            self.computed += 1
            if outcome.status == DONE:
                self.store.forget_failure(one.key)
                continue
            self.store.note_failure(
                one.key,
                status=outcome.status,
                error=outcome.error,
                seconds=outcome.seconds,
                spec=records.plain(one),
            )
            failed = one.key
        if failed:
            raise TaskError(
                f"a run failed, and without it no width can be decided. The reason is "
                f"in {str(self.store.failure(failed))!r}; start again after that."
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


def _known(place: str, found: Mapping[str, Any], known: Any) -> None:
    for key in found:
        require_known(f"key in {place}", key, known)


def _check_kind(field: dataclasses.Field[Any], value: Any) -> None:
    """A list, a word or a number, as the field says; an int is a float."""
    kind: Any = field.type
    outer = typing.get_origin(kind) or kind
    inner = (typing.get_args(kind) or (Any,))[0]
    right = _is(value, outer)
    if right and outer is list and inner is not Any:
        right = all(_is(one, inner) for one in value)
    if not right:
        name = getattr(kind, "__name__", str(kind))
        raise ValueError(f"{field.name} must be {name}, got {value!r}.")


def _is(value: Any, kind: Any) -> bool:
    allowed = (int, float) if kind is float else kind
    return isinstance(value, allowed) and not isinstance(value, bool)
