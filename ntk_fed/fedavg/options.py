"""What can be asked of a run, and the refusal of what cannot.

Floor 4.
"""

import dataclasses
import math
from typing import Any

from ntk_fed.fedavg.engines import ENGINES, LOCALS
from ntk_fed.fedavg.rules import RULES
from ntk_fed.fedavg.schedules import Schedule
from ntk_fed.fedavg.work import Steps, steps_of_epochs
from ntk_fed.names import require_known


@dataclasses.dataclass(frozen=True)
class Options:
    """The numbers of a run, as :func:`ntk_fed.fedavg.rounds` takes them.

    Raises:
        ValueError: a number out of its range, or two that exclude each other.
        UnknownNameError: an unknown rule, engine or kind of local work.
    """

    rounds: int
    local_steps: Any
    local_epochs: Any
    step_size: float | Schedule
    batch_size: int | None
    replacement: bool
    server_step_size: float
    participation: float
    momentum: float
    weight_decay: float
    rule: str
    local: str
    engine: str

    def __post_init__(self) -> None:
        """Check every number."""
        _whole("rounds", self.rounds, 0)
        if (self.local_steps is None) == (self.local_epochs is None):
            raise ValueError(
                "give local_steps or local_epochs, one of them; got "
                f"{self.local_steps!r} and {self.local_epochs!r}."
            )
        for name in ("local_steps", "local_epochs"):
            value = getattr(self, name)
            if isinstance(value, list | tuple):
                for one in value:
                    _whole(name, one, 1)
            elif value is not None:
                _whole(name, value, 1)
        _positive("server_step_size", self.server_step_size)
        if not callable(self.step_size):  # a schedule is checked round by round
            _positive("step_size", self.step_size)
        if not _number(self.participation) or not 0 < self.participation <= 1:
            raise ValueError(
                f"participation must be in (0, 1], got {self.participation!r}: the "
                "share of the clients that take part in a round."
            )
        if self.batch_size is not None:
            _whole("batch_size", self.batch_size, 1)
        if self.replacement and self.batch_size is None:
            raise ValueError(
                "replacement=True needs batch_size: a full batch draws nothing."
            )
        if self.replacement and self.local_epochs is not None:
            raise ValueError(
                "local_epochs has no meaning with replacement=True: no number of draws "
                "meets every sample. Use local_steps."
            )
        if not _number(self.momentum) or not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum!r}.")
        if not _number(self.weight_decay) or not 0 <= self.weight_decay < math.inf:
            raise ValueError(
                f"weight_decay must be finite, at least 0; got {self.weight_decay!r}."
            )
        require_known("engine", self.engine, ENGINES)
        require_known("rule", self.rule, list(RULES))
        require_known("local", self.local, LOCALS)
        if self.local == "exact":
            self._check_exact()

    def _check_exact(self) -> None:
        asked = {
            "local_steps": self.local_steps not in (None, 1),
            "local_epochs": self.local_epochs not in (None, 1),
            "batch_size": self.batch_size is not None,
            "momentum": self.momentum != 0,
            "weight_decay": self.weight_decay != 0,
        }
        for name, given in asked.items():
            if given:
                raise ValueError(
                    f'local="exact" solves a client\'s problem at once: {name} has no '
                    f"meaning, got {getattr(self, name)!r}. Use local_steps=1 and "
                    "leave the others out."
                )

    @property
    def steps(self) -> Steps:
        """How clients step."""
        return Steps(self.momentum, self.weight_decay, self.local == "minibatch")

    def counts(self, sizes: list[int]) -> list[int]:
        """Local steps of each client, from the samples they hold.

        Raises:
            ValueError: a list of another length than there are clients.
        """
        name = "local_epochs" if self.local_steps is None else "local_steps"
        given = getattr(self, name)
        each = list(given) if isinstance(given, list | tuple) else [given] * len(sizes)
        if len(each) != len(sizes):
            raise ValueError(
                f"{name} has {len(each)} entries for {len(sizes)} clients. Give one "
                "number, or one for each client."
            )
        if name == "local_steps":
            return each
        return [
            steps_of_epochs(n, self.batch_size, epochs)
            for n, epochs in zip(sizes, each, strict=True)
        ]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _positive(name: str, value: Any) -> None:
    if not _number(value) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be above 0 and finite, got {value!r}.")


def _whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be an integer, got {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}.")
