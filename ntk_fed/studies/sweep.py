"""Every run of a study, through any executor, and their merged tables.

Floor 8. A run that is done is never repeated; one that fails is noted and stops no
other; two processes may work on the same folder, each on runs of its own.
"""

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd
import torch

from ntk_fed import records
from ntk_fed.errors import RunFolderError
from ntk_fed.executor import Executor, Outcome, Processes, Task
from ntk_fed.kernel.plan import free_memory
from ntk_fed.studies.cost import size_of, words
from ntk_fed.studies.run import run
from ntk_fed.studies.spec import RunSpec
from ntk_fed.studies.store import Store
from ntk_fed.studies.study import StudySpec

DONE, ELSEWHERE = "done", "elsewhere"
_PATIENCE = 0.5  # seconds between two looks at a run that another process has claimed
_SHARE = 0.9  # of free memory that runs may take together


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a study is.

    Attributes:
        done: runs that are complete.
        failed: that failed, were late or lost.
        total: all runs.
        running: at a time, at most.
        seconds: since the beginning.
        left: seconds until the end, about; NaN while nothing is known.
        latest: the run that has just ended, in words.
    """

    done: int
    failed: int
    total: int
    running: int
    seconds: float
    left: float
    latest: str

    def line(self) -> str:
        """For a log."""
        failed = f", {self.failed} failed" if self.failed else ""
        left = "" if self.left != self.left else f", about {words(self.left)} left"
        return (
            f"{self.done} of {self.total} done{failed}, {self.running} running after "
            f"{words(self.seconds)}{left}: {self.latest}"
        )


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
        where = executor or Processes(
            study.processes,
            time_limit=study.time_limit,
            memory=int(_SHARE * free_memory(torch.device("cpu"))),
        )
        _compute(study, new, store, where, report)
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


def tasks_of(specs: Sequence[RunSpec], folder: Path) -> list[Task]:
    """Runs as tasks, with what they are expected to take."""
    found, known = [], {}
    for spec in specs:
        alike = dataclasses.replace(spec, seed=0, data_seed=0).key
        if alike not in known:
            known[alike] = 0.0, 0
            with contextlib.suppress(Exception):  # what cannot be built fails as a run
                size = size_of(spec)
                known[alike] = float(size.terms(spec)[2:].sum()), size.bytes(spec)
        seconds, needed = known[alike]
        found.append(Task((spec, str(folder)), seconds, needed))
    return found


def _compute(
    study: StudySpec,
    specs: list[RunSpec],
    store: Store,
    executor: Executor,
    report: Callable[[Progress], None],
) -> None:
    """Compute what is missing; what others compute is waited for."""
    began, total = time.monotonic(), len(study.runs())
    tasks = tasks_of(specs, store.folder)
    ended = bad = 0
    for outcome in until_done(executor, tasks, specs, store):
        spec, task = specs[outcome.index], tasks[outcome.index]
        ended += 1
        if outcome.status == DONE:
            store.forget_failure(spec.key)
        else:
            bad += 1
            store.note_failure(
                spec.key,
                status=outcome.status,
                error=outcome.error,
                seconds=outcome.seconds,
                spec=records.plain(spec),
            )
        left = len(specs) - ended
        seconds = time.monotonic() - began
        swept = [f"{name} {getattr(spec, name)}" for name in study.swept]
        reason = f" {outcome.status}" if outcome.status != DONE else ""
        report(
            Progress(
                total - len(specs) + ended - bad,
                bad,
                total,
                min(executor.workers, left),
                seconds,
                _left(seconds, tasks, task, ended),
                (", ".join(swept) or spec.key) + reason,
            )
        )


def _left(seconds: float, tasks: list[Task], last: Task, ended: int) -> float:
    """Time left if work goes on at the speed so far; the longest went first."""
    order = sorted((task.seconds for task in tasks), reverse=True)
    done, rest = sum(order[:ended]), sum(order[ended:])
    return seconds * rest / done if done > 0 else float("nan")


def until_done(
    executor: Executor, tasks: list[Task], specs: list[RunSpec], store: Store
) -> Iterator[Outcome]:
    """Outcomes of all tasks; those claimed elsewhere are asked for until done."""
    waiting = list(range(len(tasks)))
    while waiting:
        own, waiting = waiting, []
        for outcome in executor.outcomes(run_in_folder, [tasks[i] for i in own]):
            outcome = dataclasses.replace(outcome, index=own[outcome.index])
            if outcome.status == DONE and outcome.result == ELSEWHERE:
                waiting.append(outcome.index)
            else:
                yield outcome
        for index in list(waiting):
            if _wait(store, specs[index].key):
                waiting.remove(index)
                yield Outcome(index, DONE, DONE)


def _wait(store: Store, key: str) -> bool:
    """Until the run is done elsewhere (``True``) or was given up there (``False``)."""
    while not store.is_done(key):
        with store.claim(key) as free:
            if free:
                return store.is_done(key)
        time.sleep(_PATIENCE)
    return True


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
