"""What every executor takes and gives.

Floor 1.
"""

import dataclasses
import pickle
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import threadpoolctl
import torch

from ntk_fed.errors import TaskError

DONE, FAILED, LATE, LOST, REFUSED = "done", "failed", "late", "lost", "refused"


@dataclasses.dataclass(frozen=True)
class Task:
    """Arguments of one call.

    Attributes:
        arguments: of the function.
        seconds: what it is expected to take; the longest are begun first.
        bytes: memory it is expected to take at its peak.
    """

    arguments: tuple[Any, ...]
    seconds: float = 0.0
    bytes: int = 0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a call ended.

    Attributes:
        index: of the task in the list given.
        status: ``done``; ``failed`` (it raised), ``late`` (over the time limit),
            ``lost`` (its process died, twice), ``refused`` (more memory than there is).
        result: what the function gave, ``None`` unless done.
        error: traceback or reason, empty if done.
        raised: the exception, where it could be sent.
        seconds: wall time of the call itself.
    """

    index: int
    status: str
    result: Any = None
    error: str = ""
    raised: BaseException | None = None
    seconds: float = 0.0


@runtime_checkable
class Executor(Protocol):
    """Something that runs tasks."""

    @property
    def workers(self) -> int:
        """How many tasks run at a time."""
        ...

    def outcomes(
        self, function: Callable[..., Any], tasks: Sequence[Task], *, shared: Any = None
    ) -> Iterator[Outcome]:
        """``function(*task.arguments)`` for every task; outcomes as they come.

        Args:
            function: at the top level of a module (it is sent by name).
            tasks: the longest are begun first, equal ones in their order.
            shared: if not ``None``, the first argument of every call; sent to each
                worker once.
        """
        ...


def run(
    function: Callable[..., Any],
    tasks: Sequence[tuple[Any, ...]],
    *,
    executor: Executor,
    shared: Any = None,
) -> Iterator[tuple[int, Any]]:
    """``function(*task)`` for every task; results as they come, an error is raised.

    Args:
        function: as :class:`Executor` takes it.
        tasks: arguments of each call, started in this order.
        executor: where they run.
        shared: as :class:`Executor` takes it.

    Yields:
        ``(index of the task, result)``.

    Raises:
        TaskError: a task was lost, late or refused. A task's own error is raised as it
            was, and tasks that have not started are dropped.
    """
    own = [Task(task) for task in tasks]
    outcomes = executor.outcomes(function, own, shared=shared)
    try:
        for outcome in outcomes:
            if outcome.status != DONE:
                if outcome.raised is not None:
                    raise outcome.raised
                raise TaskError(
                    f"task {outcome.index} {outcome.status}: {outcome.error}"
                )
            yield outcome.index, outcome.result
    finally:
        outcomes.close()  # pyright: ignore[reportAttributeAccessIssue] # generators


def longest_first(tasks: Sequence[Task]) -> list[int]:
    """Indices of the tasks in the order they are begun."""
    return sorted(range(len(tasks)), key=lambda i: -tasks[i].seconds)


def sendable(content: Any) -> bytes:
    """By value: torch would send tensors through shared memory, which may be small.

    Raises:
        ValueError: something in it cannot be sent.
    """
    try:
        return pickle.dumps(content)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            f"something cannot be sent to another process ({error}). Define networks "
            "and functions at the top level of a module, or run in this process."
        ) from error


def single_thread() -> None:
    """Two busy processes with two threads each slow small products 10-100 times."""
    torch.set_num_threads(1)
    threadpoolctl.threadpool_limits(1)  # NumPy's and SciPy's libraries too


def told(error: BaseException) -> tuple[str, BaseException | None]:
    """Traceback as text, and the exception where it can be sent."""
    text = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))  # our own, just written
    except Exception:  # whatever a user's exception raises when copied
        return text, None
    return text, error
