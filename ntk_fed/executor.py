"""Independent tasks on processes, one torch thread each.

Floor 1. The interface is one function: a module-level function and its arguments in,
``(index, result)`` out as they finish. Other executors can stand behind it.
"""

import functools
import multiprocessing
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

import threadpoolctl
import torch


def _single_thread() -> None:
    """Two busy processes with two threads each slow small products 10-100 times."""
    torch.set_num_threads(1)
    threadpoolctl.threadpool_limits(1)  # NumPy's and SciPy's libraries too


_shared: Any = None  # in a worker: what all its tasks have in common


def _start(shared: bytes | None) -> None:
    global _shared
    _single_thread()
    # Bytes that this program pickled itself, for its own workers: nothing from outside.
    _shared = None if shared is None else pickle.loads(shared)


def _with_shared(function: Callable[..., Any], *task: Any) -> Any:
    return function(_shared, *task)


def run(
    function: Callable[..., Any],
    tasks: Sequence[tuple[Any, ...]],
    *,
    processes: int = 1,
    shared: Any = None,
) -> Iterator[tuple[int, Any]]:
    """``function(*task)`` for every task; results as they finish.

    Args:
        function: a function at the top level of a module (it is sent by name).
        tasks: arguments of each call, started in this order.
        processes: worker processes with one torch thread each; 1 runs the tasks in
            this process, with the threads it has.
        shared: if not ``None``, the first argument of every call; sent to each
            process once.

    Yields:
        ``(index of the task, result)``.

    Raises:
        ValueError: ``processes`` below 1, or ``shared`` cannot be sent. A task's own
            error is raised here, and tasks that have not started are dropped.
    """
    if processes < 1:
        raise ValueError(f"processes must be at least 1, got {processes}.")
    if shared is not None:
        function = functools.partial(
            *((function, shared) if processes == 1 else (_with_shared, function))
        )
    if processes == 1:
        for index, task in enumerate(tasks):
            yield index, function(*task)
        return
    sent = None if shared is None else _sendable(shared)
    context = multiprocessing.get_context("spawn")  # fork is unsafe with BLAS threads
    with ProcessPoolExecutor(
        min(processes, max(len(tasks), 1)),
        mp_context=context,
        initializer=_start,
        initargs=(sent,),
    ) as pool:
        futures = {pool.submit(function, *t): i for i, t in enumerate(tasks)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _sendable(shared: Any) -> bytes:
    """By value: torch would send tensors through shared memory, which may be small."""
    try:
        return pickle.dumps(shared)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            f"processes > 1: something cannot be sent to another process ({error}). "
            "Define networks and functions at the top level of a module, or take "
            "processes=1."
        ) from error
