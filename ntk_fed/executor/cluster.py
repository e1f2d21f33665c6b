"""Tasks through a Dask scheduler: on this machine or on many.

Floor 1. Needs the extra ``cluster``. A task whose worker dies is tried again by Dask on
another one; results do not depend on where they were computed.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ntk_fed.errors import MissingExtraError
from ntk_fed.executor.common import (
    DONE,
    FAILED,
    LATE,
    LOST,
    Outcome,
    Task,
    longest_first,
    sendable,
    single_thread,
    told,
)

_LOST = ("KilledWorker", "CancelledError", "FutureCancelledError")


class Dask:
    """A scheduler that somebody has started.

    Args:
        address: of the scheduler, ``tcp://host:port``.
        time_limit: seconds a task may take; none is as long as it likes. A task over
            it is given up, and its worker goes on with it: Dask cannot stop a call.
        patience: seconds to wait for the scheduler.

    Raises:
        MissingExtraError: ``distributed`` is not installed.
        OSError: no scheduler answers.
    """

    def __init__(
        self, address: str, *, time_limit: float | None = None, patience: float = 30.0
    ) -> None:
        try:
            import distributed
        except ImportError as error:
            raise MissingExtraError(
                "the executor 'dask' needs the extra 'cluster': pip install "
                "'ntk-fed[cluster]'."
            ) from error
        if time_limit is not None and not time_limit > 0:
            raise ValueError(f"time_limit must be above 0 seconds, got {time_limit}.")
        self.client = distributed.Client(address, timeout=patience)
        self.time_limit = time_limit

    @property
    def workers(self) -> int:
        """Threads of all workers: how many tasks run at a time."""
        threads: Any = self.client.nthreads()
        return sum(threads.values())

    def close(self) -> None:
        """Leave the scheduler."""
        self.client.close()

    def outcomes(
        self, function: Callable[..., Any], tasks: Sequence[Task], *, shared: Any = None
    ) -> Iterator[Outcome]:
        """As :class:`~ntk_fed.executor.Executor`."""
        import distributed

        sendable(function)
        common = None if shared is None else self.client.scatter(shared, broadcast=True)
        waiting = {}
        for place, index in enumerate(longest_first(tasks)):
            future = self.client.submit(
                _call, function, common, tasks[index].arguments, self.time_limit,
                pure=False, priority=-place, retries=0,
            )  # fmt: skip
            waiting[future] = index
        try:
            for future in distributed.as_completed(list(waiting)):
                yield _outcome(waiting[future], future)
                future.release()
        finally:
            self.client.cancel(list(waiting))


def _outcome(index: int, future: Any) -> Outcome:
    error = future.exception()
    if error is None:
        status, result, text, raised, seconds = future.result()
        return Outcome(index, status, result, text, raised, seconds)
    status = LOST if type(error).__name__ in _LOST else FAILED
    return Outcome(index, status, error=f"{type(error).__name__}: {error}")


def _call(
    function: Callable[..., Any],
    shared: Any,
    arguments: tuple[Any, ...],
    time_limit: float | None,
) -> tuple[Any, ...]:
    """On a worker: the call, its result or its error, and its time."""
    single_thread()
    front = () if shared is None else (shared,)
    began = time.perf_counter()
    answer: tuple[Any, ...]
    try:
        answer = (DONE, function(*front, *arguments), "", None)
    except Exception as error:
        answer = (FAILED, None, *told(error))
    seconds = time.perf_counter() - began
    if time_limit is not None and seconds > time_limit:
        answer = (LATE, None, f"over the time limit of {time_limit:g} s", None)
    return (*answer, seconds)
