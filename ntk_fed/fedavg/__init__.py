"""The federated algorithm. It measures nothing."""

from ntk_fed.fedavg import schedules
from ntk_fed.fedavg.local import Objective
from ntk_fed.fedavg.locals import Locals, Stacked
from ntk_fed.fedavg.moments import LocalStep, Round
from ntk_fed.fedavg.rounds import explain, rounds

__all__ = [
    "LocalStep",
    "Locals",
    "Objective",
    "Round",
    "Stacked",
    "explain",
    "rounds",
    "schedules",
]
