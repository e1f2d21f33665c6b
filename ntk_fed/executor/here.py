"""Tasks one after the other in this process, with the threads it has.

Floor 1.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ntk_fed.executor.common import DONE, FAILED, Outcome, Task, longest_first, told


class Here:
    """No other process: for few tasks, for debugging, and for what cannot be sent."""

    workers = 1

    def outcomes(
        self, function: Callable[..., Any], tasks: Sequence[Task], *, shared: Any = None
    ) -> Iterator[Outcome]:
        """As :class:`~ntk_fed.executor.Executor`."""
        front = () if shared is None else (shared,)
        for index in longest_first(tasks):
            began = time.perf_counter()
            try:
                result = function(*front, *tasks[index].arguments)
            except Exception as error:
                seconds = time.perf_counter() - began
                text, _ = told(error)
                yield Outcome(index, FAILED, None, text, error, seconds)
            else:
                seconds = time.perf_counter() - began
                yield Outcome(index, DONE, result, seconds=seconds)
