"""What a run yields: local steps and rounds.

Floor 4.
"""

import dataclasses

from jaxtyping import Float
from torch import Tensor

from ntk_fed.fedavg.locals import Locals
from ntk_fed.params import Params


@dataclasses.dataclass(frozen=True, eq=False)
class LocalStep:
    """All clients after the same number of local steps; some may have finished.

    Attributes:
        round: index of the round, from 0.
        step: local steps done in it, from 1.
        locals: name -> ``(c, *shape)``, stacked on access.
        start: parameters at the round's start.
        clients: the clients that take part.
        weights: their weights, ``(c,)``.
        last: is this the last round asked for?
    """

    round: int
    step: int
    locals: Locals
    start: Params
    clients: list[int]
    weights: Float[Tensor, " c"]
    last: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Round:
    """One communication round.

    Attributes:
        index: index of the round, from 0.
        start: parameters at its start.
        locals: each client's parameters after its local steps, name -> ``(c, *shape)``,
            stacked on access.
        params: parameters after the server's step; never changed later.
        clients: the clients that took part.
        weights: their weights, ``(c,)``.
        last: is this the last round asked for?
    """

    index: int
    start: Params
    locals: Locals
    params: Params
    clients: list[int]
    weights: Float[Tensor, " c"]
    last: bool = False
