"""What is missing of a study, through any executor: failures noted, progress told.

Floor 8. A task is known by a key; what is done is never repeated, one that fails is
noted and stops no other, and two processes may work on the same folder.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from ntk_fed.executor import Executor, Outcome, Processes, Task
from ntk_fed.kernel.plan import free_memory
from ntk_fed.studies.store import Store

DONE, ELSEWHERE = "done", "elsewhere"
_SHARE = 0.9  # of free memory that all workers may take together
_PATIENCE = 0.5  # seconds between two looks at a run that another process has claimed


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


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of a study.

    Attributes:
        key: its identity, by which the store knows it.
        task: what an executor is given; its function gives ``DONE`` or ``ELSEWHERE``.
        label: the run in words.
        content: its specification, kept when it fails.
    """

    key: str
    task: Task
    label: str
    content: dict[str, Any]


def words(seconds: float) -> str:
    """A length of time as one reads it."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds" if seconds >= 10 else f"{seconds:.1f} seconds"


def processes(count: int, time_limit: float | None) -> Processes:
    """Where a study is computed when nobody says where: on this machine."""
    memory = int(_SHARE * free_memory(torch.device("cpu")))
    return Processes(count, time_limit=time_limit, memory=memory)


def compute(
    function: Callable[..., str],
    jobs: Sequence[Job],
    store: Store,
    executor: Executor,
    *,
    before: int = 0,
    report: Callable[[Progress], None] = lambda progress: None,
) -> list[str]:
    """Run jobs; what others compute is waited for.

    Args:
        function: at the top level of a module, called as ``function(*task.arguments)``.
        jobs: what is missing.
        store: where the runs lie.
        executor: where they are computed.
        before: how many runs of the study were done already.
        report: called whenever a run has ended.

    Returns:
        Keys of the runs that failed, each noted with its reason.
    """
    began, bad = time.monotonic(), []
    for ended, outcome in enumerate(_until_done(function, jobs, store, executor), 1):
        job = jobs[outcome.index]
        if outcome.status == DONE:
            store.forget_failure(job.key)
        else:
            bad.append(job.key)
            store.note_failure(
                job.key,
                status=outcome.status,
                error=outcome.error,
                seconds=outcome.seconds,
                spec=job.content,
            )
        seconds = time.monotonic() - began
        reason = f" {outcome.status}" if outcome.status != DONE else ""
        report(
            Progress(
                before + ended - len(bad),
                len(bad),
                before + len(jobs),
                min(executor.workers, len(jobs) - ended),
                seconds,
                _left(seconds, jobs, ended),
                (job.label or job.key) + reason,
            )
        )
    return bad


def _left(seconds: float, jobs: Sequence[Job], ended: int) -> float:
    """Time left if work goes on at the speed so far; the longest went first."""
    order = sorted((job.task.seconds or 1.0 for job in jobs), reverse=True)
    done, rest = sum(order[:ended]), sum(order[ended:])
    return seconds * rest / done if done > 0 else float("nan")


def _until_done(
    function: Callable[..., str],
    jobs: Sequence[Job],
    store: Store,
    executor: Executor,
) -> Iterator[Outcome]:
    """Outcomes of all jobs; those claimed elsewhere are asked for until done."""
    waiting = list(range(len(jobs)))
    while waiting:
        own, waiting = waiting, []
        for outcome in executor.outcomes(function, [jobs[i].task for i in own]):
            outcome = dataclasses.replace(outcome, index=own[outcome.index])
            if outcome.status == DONE and outcome.result == ELSEWHERE:
                waiting.append(outcome.index)
            else:
                yield outcome
        for index in list(waiting):
            if _wait(store, jobs[index].key):
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
