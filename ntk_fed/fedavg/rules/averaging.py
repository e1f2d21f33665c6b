"""What a server's rule is given.

Floor 4.
"""

import dataclasses

from jaxtyping import Float
from torch import Tensor

from ntk_fed.fedavg.locals import Locals
from ntk_fed.params import Params


@dataclasses.dataclass(frozen=True, eq=False)
class Averaging:
    """One round, before the server's step.

    Attributes:
        start: parameters at the round's start.
        locals: the clients' parameters.
        weights: of the clients, ``(c,)``.
        step_size: the server's.
        index: of the round, from 0.
        anchor: parameters at the start of the run.
    """

    start: Params
    locals: Locals
    weights: Float[Tensor, " c"]
    step_size: float
    index: int
    anchor: Params
