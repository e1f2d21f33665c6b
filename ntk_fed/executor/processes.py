"""Tasks on worker processes that are watched: time, memory, sudden death.

Floor 1. A worker takes one task at a time through a pipe. One that dies takes only its
task with it, which is tried once more on a new worker; one that is over its time is
killed. A worker whose parent has gone ends itself.
"""

import dataclasses
import functools
import math
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from ntk_fed.executor.common import (
    DONE,
    FAILED,
    LATE,
    LOST,
    REFUSED,
    Outcome,
    Task,
    longest_first,
    sendable,
    single_thread,
    told,
)

_CHANCES = 2  # a task whose worker died may have been its victim, not the cause
_PATIENCE = 0.2  # seconds between two looks at a parent or a clock


class Processes:
    """Worker processes with one torch thread each.

    Args:
        workers: how many, at least 1.
        time_limit: seconds a task may take; none is as long as it likes.
        memory: bytes all running tasks may take together by their own estimates; none
            does not look.

    Workers end with the last outcome. Inside ``with Processes(...) as executor:`` idle
    ones are kept for the next call of the same function with nothing shared.
    """

    def __init__(
        self,
        workers: int,
        *,
        time_limit: float | None = None,
        memory: int | None = None,
    ) -> None:
        if workers < 1:
            raise ValueError(f"processes must be at least 1, got {workers}.")
        if time_limit is not None and not time_limit > 0:
            raise ValueError(f"time_limit must be above 0 seconds, got {time_limit}.")
        self.workers, self.time_limit, self.memory = workers, time_limit, memory
        self._kept: list[_Worker] | None = None

    def __enter__(self) -> "Processes":
        """Keep workers from call to call."""
        self._kept = []
        return self

    def __exit__(self, *_: object) -> None:
        """End them."""
        for worker in self._kept or []:
            worker.kill()
        self._kept = None

    def outcomes(
        self, function: Callable[..., Any], tasks: Sequence[Task], *, shared: Any = None
    ) -> Iterator[Outcome]:
        """As :class:`~ntk_fed.executor.Executor`.

        Raises:
            ValueError: function, tasks or ``shared`` cannot be sent to a process.
        """
        start = sendable((function, shared))
        sent = [sendable(task.arguments) for task in tasks]
        return self._outcomes(start, sent, tasks)

    def _outcomes(
        self, start: bytes, sent: list[bytes], tasks: Sequence[Task]
    ) -> Iterator[Outcome]:
        open_, tries = longest_first(tasks), [0] * len(tasks)
        pool = [one for one in self._kept or [] if one.start == start]
        try:
            for index in self._too_large(tasks):
                open_.remove(index)
                yield Outcome(index, REFUSED, error=self._why(tasks[index]))
            while open_ or any(one.busy for one in pool):
                self._fill(pool, open_, start, sent, tasks, tries)
                for worker, outcome in self._ended(pool):
                    if outcome.status in (LATE, LOST):
                        worker.kill()
                        pool.remove(worker)
                    if outcome.status == LOST and tries[outcome.index] < _CHANCES:
                        open_.insert(0, outcome.index)
                    else:
                        yield outcome
        finally:
            for worker in pool:
                if worker.busy or self._kept is None:
                    worker.kill()
            if self._kept is not None:
                self._kept = [worker for worker in pool if not worker.busy]

    def _too_large(self, tasks: Sequence[Task]) -> list[int]:
        if self.memory is None:
            return []
        return [i for i, task in enumerate(tasks) if task.bytes > self.memory]

    def _why(self, task: Task) -> str:
        needed, free = task.bytes / 2**30, (self.memory or 0) / 2**30
        return (
            f"it needs {needed:.2f} GiB and {free:.2f} GiB are free. Take less width "
            "or fewer samples, or a larger machine."
        )

    def _fill(
        self,
        pool: "list[_Worker]",
        open_: list[int],
        start: bytes,
        sent: list[bytes],
        tasks: Sequence[Task],
        tries: list[int],
    ) -> None:
        """Hand out what fits beside what runs, the longest first."""
        used = sum(tasks[one.index].bytes for one in pool if one.index is not None)
        idle = [one for one in pool if not one.busy]
        for index in list(open_):
            if not idle and len(pool) >= self.workers:
                return
            if self.memory is not None and used + tasks[index].bytes > self.memory:
                continue
            if not idle:
                pool.append(_Worker(start))
                idle.append(pool[-1])
            idle.pop().begin(index, sent[index])
            open_.remove(index)
            tries[index] += 1
            used += tasks[index].bytes

    def _ended(self, pool: "list[_Worker]") -> "Iterator[tuple[_Worker, Outcome]]":
        """Workers whose task came to an end since the last look."""
        busy = {one.pipe: one for one in pool if one.busy}
        ready = wait(list(busy), timeout=_PATIENCE if self.time_limit else None)
        for pipe in ready:
            worker = busy.pop(pipe)  # pyright: ignore[reportArgumentType]
            if (outcome := worker.end()) is not None:
                yield worker, outcome
        for worker in busy.values():
            if self.time_limit is not None and worker.seconds > self.time_limit:
                error = f"over the time limit of {self.time_limit:g} s"
                yield worker, worker.outcome(LATE, error=error)


@dataclasses.dataclass(eq=False)
class _Worker:
    """One process, and what it is at.

    Attributes:
        start: function and what all tasks share, as sent.
        index: of its task, ``None`` while idle.
        began: when it could begin with that; infinite before. A clock's seconds.
    """

    start: bytes
    index: int | None = None
    began: float = math.inf

    def __post_init__(self) -> None:
        context = multiprocessing.get_context("spawn")  # fork is unsafe with threads
        self.pipe, other = context.Pipe()
        self.process = context.Process(
            target=_work, args=(other, self.start, os.getpid()), daemon=True
        )
        self.ready = False
        self.process.start()
        other.close()  # so that the death of the process ends the pipe

    @property
    def busy(self) -> bool:
        return self.index is not None

    @property
    def seconds(self) -> float:
        return max(time.perf_counter() - self.began, 0.0)

    def begin(self, index: int, sent: bytes) -> None:
        self.index = index
        self.began = time.perf_counter() if self.ready else math.inf
        try:
            self.pipe.send_bytes(sent)
        except OSError:
            pass  # it died while idle: the pipe is at its end, which is seen next

    def end(self) -> Outcome | None:
        """What came through the pipe, or that it has ended; ``None`` if it woke up."""
        try:
            found = pickle.loads(self.pipe.recv_bytes())
        except (EOFError, OSError):
            self.process.join(1)
            code = self.process.exitcode
            return self.outcome(LOST, error=f"its process died (exit code {code})")
        if found is None:
            self.ready, self.began = True, time.perf_counter()
            return None
        status, result, error, raised, seconds = found
        outcome = self.outcome(status, result=result, error=error, raised=raised)
        self.index = None
        return dataclasses.replace(outcome, seconds=seconds)

    def outcome(self, status: str, **more: Any) -> Outcome:
        assert self.index is not None
        return Outcome(self.index, status, seconds=self.seconds, **more)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.process.close()
        self.pipe.close()


def _work(pipe: Connection, start: bytes, parent: int) -> None:
    """The life of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what ends
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    single_thread()
    function, shared = pickle.loads(start)  # from our own parent
    if shared is not None:
        function = functools.partial(function, shared)
    pipe.send_bytes(pickle.dumps(None))  # awake: importing has taken its time
    while True:
        try:
            arguments = pickle.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            return
        began = time.perf_counter()
        answer: tuple[Any, ...]
        try:
            answer = (DONE, function(*arguments), "", None)
        except Exception as error:
            answer = (FAILED, None, *told(error))
        seconds = time.perf_counter() - began
        try:
            content = sendable((*answer, seconds))
        except ValueError as error:
            content = sendable((FAILED, None, *told(error), seconds))
        pipe.send_bytes(content)


def _watch(parent: int) -> None:
    """End this process when its parent has ended, whatever it is at."""
    while os.getppid() == parent:
        time.sleep(_PATIENCE)
    os._exit(1)
