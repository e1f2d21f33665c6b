"""What the server makes of the clients' movements: one small file per rule.

Floor 4. A rule is a function of one :class:`Averaging` that returns parameters.
"""

from collections.abc import Callable

from ntk_fed.fedavg.rules.anchored import anchored
from ntk_fed.fedavg.rules.average import average
from ntk_fed.fedavg.rules.averaging import Averaging
from ntk_fed.fedavg.rules.fedexp import fedexp
from ntk_fed.params import Params

RULES: dict[str, Callable[[Averaging], Params]] = {
    "average": average,
    "fedexp": fedexp,
    "anchored": anchored,
}

__all__ = ["RULES", "Averaging"]
