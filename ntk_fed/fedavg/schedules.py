"""Step sizes that change during a run: functions of the round and the local step.

Floor 4. Any function ``(round, step) -> float`` will do, both counted from 0; those
here name themselves in the record of a run.
"""

import dataclasses
import math
from collections.abc import Callable

Schedule = Callable[[int, int], float]


@dataclasses.dataclass(frozen=True)
class Power:
    """``initial · (1 + t)^(−exponent)`` with t the round.

    Example:
        >>> Power(0.1, 0.5)(3, 0)
        0.05
    """

    initial: float
    exponent: float

    def __call__(self, round: int, step: int) -> float:
        """The step size, the same at all local steps of a round."""
        return self.initial * (1 + round) ** -self.exponent


@dataclasses.dataclass(frozen=True)
class Milestones:
    """``initial · factor^j`` after the j-th of the given rounds.

    Example:
        >>> Milestones(1.0, (10, 20), 0.5)(15, 0)
        0.5
    """

    initial: float
    rounds: tuple[int, ...]
    factor: float = 0.1

    def __call__(self, round: int, step: int) -> float:
        """The step size, the same at all local steps of a round."""
        return self.initial * self.factor ** sum(round >= r for r in self.rounds)


def step_sizes(given: float | Schedule, round: int, count: int) -> list[float]:
    """The step sizes of one round.

    Raises:
        ValueError: a schedule gives what no step can have.
    """
    if not callable(given):
        return [given] * count
    found = [given(round, k) for k in range(count)]
    for k, value in enumerate(found):
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(
                f"step_size must give a number above 0, got {value!r} at round "
                f"{round}, step {k}. Both count from 0."
            )
    return [float(value) for value in found]
