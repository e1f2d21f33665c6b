"""Every run of a study, through any executor, and their merged tables.

Floor 8. A run that is done is never repeated; one that fails is noted and stops no
other; two processes may work on the same folder, each on runs of its own.
"""

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from ntk_fed import records
from ntk_fed.errors import RunFolderError
from ntk_fed.executor import Executor, Task
from ntk_fed.studies.compute import (
    DONE,
    ELSEWHERE,
    Job,
    Progress,
    compute,
    processes,
)
from ntk_fed.studies.cost import size_of
from ntk_fed.studies.run import run
from ntk_fed.studies.spec import RunSpec
from ntk_fed.studies.store import Store
from ntk_fed.studies.study import StudySpec


def run_in_folder(spec: RunSpec, folder: str) -> str:
    """A run for an executor: skipped when it is done, or being done elsewhere."""
    store = Store(Path(folder))
    with store.claim(spec.key) as own:
        if not own:
            return ELSEWHERE
        if not store.is_done(spec.key):
            run(spec, out=store.run(spec.key))
    return DONE


def run_study(
    study: StudySpec,
    out: str | os.PathLike[str],
    *,
    executor: Executor | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Path:
    """Every run of a study, finished ones skipped, and their rows merged.

    Args:
        study: the runs.
        out: study folder: ``runs/KEY/`` for each run, merged tables beside them, and
            ``failures/KEY.json`` with the traceback of each run that failed.
        executor: where runs are computed; ``None`` takes as many processes as the study
            says, within the memory that is free. Workers on other machines must see
            ``out`` under the same path.
        report: called whenever a run has ended.

    Raises:
        RunFolderError: ``out`` cannot be written, or no run at all has succeeded.
    """
    began = time.monotonic()
    store = Store(records.prepare(out))
    specs = study.runs()
    new = [spec for spec in specs if not store.is_done(spec.key)]
    if new:
        where = executor or processes(study.processes, study.time_limit)
        jobs = jobs_of(new, store.folder, study.swept)
        before = len(specs) - len(new)
        compute(run_in_folder, jobs, store, where, before=before, report=report)
    _merge(study, [s for s in specs if store.is_done(s.key)], store.folder)
    if new or not (store.folder / "provenance.json").exists():  # not of a mere look
        seconds = round(time.monotonic() - began, 3)
        about = records.provenance(seconds=seconds, failed=len(failures(study, store)))
        records.write_json(store.folder / "provenance.json", about)
    return store.folder


def failures(study: StudySpec, store: Store) -> list[str]:
    """Keys of the runs that have been tried and are not done."""
    keys = [spec.key for spec in study.runs()]
    return [k for k in keys if store.failure(k).exists() and not store.is_done(k)]


def jobs_of(
    specs: Sequence[RunSpec], folder: Path, swept: Sequence[str] = ()
) -> list[Job]:
    """Runs as jobs for :func:`run_in_folder`, with what they are expected to take."""
    found, known = [], {}
    for spec in specs:
        alike = dataclasses.replace(spec, seed=0, data_seed=0).key
        if alike not in known:
            known[alike] = 0.0, 0
            with contextlib.suppress(Exception):  # what cannot be built fails as a run
                size = size_of(spec)
                known[alike] = float(size.terms(spec)[2:].sum()), size.bytes(spec)
        task = Task((spec, str(folder)), *known[alike])
        label = ", ".join(f"{name} {getattr(spec, name)}" for name in swept)
        found.append(Job(spec.key, task, label, records.plain(spec)))
    return found


def _merge(study: StudySpec, specs: list[RunSpec], folder: Path) -> None:
    """One table of all runs' rows, and one of their conditions."""
    if not specs:
        first = next(iter(sorted((folder / "failures").glob("*.json"))), None)
        raise RunFolderError(
            f"no run of the study has succeeded. The first reason is in {str(first)!r}."
        )
    rows, conditions = [], []
    for spec in specs:
        own = folder / "runs" / spec.key
        swept = {name: getattr(spec, name) for name in study.swept}
        for table, found in (
            (rows, pd.read_parquet(own / "rows" / "rows.parquet")),
            (conditions, pd.read_parquet(own / "conditions.parquet")),
        ):
            labels = {"run": spec.key, **swept}
            front = pd.DataFrame(labels, index=found.index)
            table.append(pd.concat([front, found], axis=1))
        spectra = records.read_arrays(own / "arrays" / "spectra.npz")
        records.write_arrays(folder / "arrays" / f"{spec.key}.npz", spectra)
    merged = pd.concat(rows, ignore_index=True)
    records.write_table(folder / "rows" / "rows.parquet", merged)
    merged = pd.concat(conditions, ignore_index=True)
    records.write_table(folder / "conditions.parquet", merged)
    records.write_toml(folder / "spec.toml", study.written())
