"""Studies of a measurement of one's own: a grid of cases, a function, rows.

Floor 8. A measurement is a Python file with a frozen dataclass ``Case``, whose fields
have defaults and plain values, and a function ``measure(case)`` that gives rows, each a
dictionary of plain values. What holds for studies of runs holds here: finished cases
are never repeated, failures stop no other, two processes may share a folder.
"""

import dataclasses
import functools
import hashlib
import importlib.util
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from ntk_fed import records
from ntk_fed.errors import RunFolderError, UnknownNameError
from ntk_fed.executor import Executor, Task
from ntk_fed.names import require_known
from ntk_fed.studies.compute import (
    DONE,
    ELSEWHERE,
    Job,
    Progress,
    compute,
    processes,
)
from ntk_fed.studies.spec import RESULT_VERSION
from ntk_fed.studies.store import Store

_KEYS = ("title", "processes", "time_limit", "shared", "grid")


@dataclasses.dataclass(frozen=True)
class CaseStudy:
    """Cases of one measurement.

    Attributes:
        title: one line for the report.
        measurement: the Python file with ``Case`` and ``measure``.
        cases: all of them, each once.
        content: the specification as it was read.
        processes: cases at a time, one torch thread each.
        time_limit: seconds a case may take; none is as long as it likes.
    """

    title: str
    measurement: Path
    cases: list[Any]
    content: dict[str, Any]
    processes: int = 2
    time_limit: float | None = None

    def key(self, case: Any) -> str:
        """Identity of a case.

        A hash of its fields, of the file that measures it and of the package's result
        version.
        """
        content = {
            "case": dataclasses.asdict(case),
            "measurement": hashlib.sha256(self.measurement.read_bytes()).hexdigest(),
            "version": RESULT_VERSION,
        }
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_cases(
    spec: str | os.PathLike[str], measurement: str | os.PathLike[str]
) -> CaseStudy:
    """A study of cases from its TOML file.

    The table ``[shared]`` holds fields that all cases share; each ``[[grid]]`` is a
    part of its own: lists are swept in all combinations, single values are taken.

    Args:
        spec: the TOML file.
        measurement: the Python file with ``Case`` and ``measure``.

    Raises:
        UnknownNameError: a key or field that means nothing, with the nearest that does.
        ValueError: a value of a wrong type, an empty grid, a field given twice, or what
            ``Case`` itself refuses.
        RunFolderError: the specification cannot be read.
    """
    path, source = Path(spec), Path(measurement).resolve()
    content = records.read_toml(path)
    for key in content:
        require_known(f"key in {path.name}", key, _KEYS)
    kind = _module(str(source)).Case
    shared = content.get("shared", {})
    _check("[shared]", shared, kind)
    grids = content.get("grid", [{}])
    if not isinstance(grids, list) or not grids:
        raise ValueError(f"grid must be tables [[grid]], got {grids!r}.")
    found: dict[Any, None] = {}
    for grid in grids:
        if twice := sorted(grid.keys() & shared.keys()):
            raise ValueError(f"{twice[0]} stands in [shared] and in [[grid]].")
        lists = {k: v if isinstance(v, list) else [v] for k, v in grid.items()}
        for name, values in lists.items():
            if not values:
                raise ValueError(f"[[grid]] {name} is empty.")
            for value in values:
                _check("[[grid]]", {name: value}, kind)
        for values in itertools.product(*lists.values()):
            case = kind(**shared, **dict(zip(lists, values, strict=True)))
            found[case] = None
    limit = content.get("time_limit")
    return CaseStudy(
        str(content.get("title", path.resolve().parent.name)),
        source,
        list(found),
        content,
        int(content.get("processes", 2)),
        None if limit is None else float(limit),
    )


def run_cases(
    study: CaseStudy,
    out: str | os.PathLike[str],
    *,
    executor: Executor | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Path:
    """Measure every case, finished ones skipped, and merge their rows.

    Args:
        study: the cases.
        out: study folder: ``runs/KEY/`` for each case, which need not be kept, and
            ``rows/rows.parquet``: the fields of the case in front of each of its rows.
        executor: where they are computed; ``None`` takes as many processes as the study
            says.
        report: called whenever a case has ended.

    Returns:
        The folder.

    Raises:
        RunFolderError: ``out`` cannot be written, or a case failed; those that are done
            stay done, and the reasons are in ``failures/KEY.json``.
    """
    began = time.monotonic()
    store = Store(records.prepare(out))
    keys = {study.key(case): case for case in study.cases}
    jobs = [
        Job(
            key,
            Task((str(study.measurement), dataclasses.asdict(case), str(out), key)),
            _label(case),
            dataclasses.asdict(case),
        )
        for key, case in keys.items()
        if not store.is_done(key)
    ]
    if jobs:
        where = executor or processes(study.processes, study.time_limit)
        before = len(keys) - len(jobs)
        bad = compute(_measure, jobs, store, where, before=before, report=report)
        if bad:
            raise RunFolderError(
                f"{len(bad)} of {len(keys)} cases failed; the first reason is in "
                f"{str(store.failure(bad[0]))!r}. The others are done and are not "
                "repeated: start again after that."
            )
    tables = [
        _labelled(pd.read_parquet(store.run(key) / "rows.parquet"), case)
        for key, case in keys.items()
    ]
    records.write_table(
        store.folder / "rows" / "rows.parquet", pd.concat(tables, ignore_index=True)
    )
    records.write_toml(
        store.folder / "spec.toml", {"title": study.title, **study.content}
    )
    if jobs or not (store.folder / "provenance.json").exists():
        seconds = [
            json.loads((store.run(key) / "done.json").read_text())["seconds"]
            for key in keys
        ]
        about = records.provenance(
            seconds=round(time.monotonic() - began, 1),
            core_seconds=round(sum(seconds), 1),
            cases=len(keys),
        )
        records.write_json(store.folder / "provenance.json", about)
    return store.folder


def _measure(measurement: str, fields: dict[str, Any], out: str, key: str) -> str:
    """A case for an executor: skipped when it is done, or being done elsewhere."""
    store, module = Store(Path(out)), _module(measurement)
    with store.claim(key) as own:
        if not own:
            return ELSEWHERE
        if not store.is_done(key):
            began = time.monotonic()
            rows = pd.DataFrame(list(module.measure(module.Case(**fields))))
            if rows.empty:
                raise ValueError("measure gave no rows; it must give one at least.")
            folder = store.run(key)
            folder.mkdir(parents=True, exist_ok=True)
            records.write_table(folder / "rows.parquet", rows)
            seconds = round(time.monotonic() - began, 3)
            records.write_json(folder / "done.json", {"key": key, "seconds": seconds})
    return DONE


def _label(case: Any) -> str:
    """The fields of a case that differ from their defaults."""
    return ", ".join(
        f"{field.name} {getattr(case, field.name)}"
        for field in dataclasses.fields(case)
        if getattr(case, field.name) != field.default
    )


def _labelled(rows: pd.DataFrame, case: Any) -> pd.DataFrame:
    fields = dataclasses.asdict(case)
    if twice := sorted(fields.keys() & set(rows.columns)):
        raise ValueError(
            f"measure gives a column {twice[0]!r}, which is a field of Case. Give the "
            "column another name."
        )
    front = pd.DataFrame([fields] * len(rows), index=rows.index)
    return pd.concat([front, rows], axis=1)


@functools.cache
def _module(path: str) -> ModuleType:
    """The measurement, imported from its file under a name of its own."""
    name = f"ntk_fed_measurement_{hashlib.sha256(path.encode()).hexdigest()[:12]}"
    found = importlib.util.spec_from_file_location(name, path)
    if not Path(path).is_file() or found is None or found.loader is None:
        raise RunFolderError(f"measurement: there is no Python file {path!r}.")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # dataclasses look their module up
    found.loader.exec_module(module)
    for wanted in ("Case", "measure"):
        if not hasattr(module, wanted):
            del sys.modules[name]
            raise UnknownNameError(
                f"measurement {path!r} has no {wanted}. It needs a frozen dataclass "
                "Case and a function measure(case) that gives rows."
            )
    return module


def _check(place: str, found: Mapping[str, Any], kind: Any) -> None:
    """Refuse fields that ``Case`` has not, and values of another type."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name, value in found.items():
        require_known(f"field in {place}", name, tuple(fields))
        wanted = type(fields[name].default)
        fits = type(value) is wanted or (wanted is float and type(value) is int)
        if not fits and fields[name].default is not None:
            raise ValueError(
                f"{place} {name} must be {wanted.__name__}, got {value!r}."
            )
