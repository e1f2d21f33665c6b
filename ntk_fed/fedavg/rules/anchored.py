"""Modified Local GD: the average is drawn back to where the run began.

Floor 4. Halpern's iteration (1967) on the averaged map; the rule of Zhu, Vardhan,
Mazumdar, arXiv:2412.07971, in the form recalled there: ``α_t = 1/(t + 2)``.
"""

from ntk_fed.fedavg.rules.average import average
from ntk_fed.fedavg.rules.averaging import Averaging
from ntk_fed.params import Params


def anchored(given: Averaging) -> Params:
    """``(1 − α_t)(θ + η_g Δ̄) + α_t θ_0`` with ``α_t = 1/(t + 2)``, t from 0."""
    alpha = 1 / (given.index + 2)
    return {
        name: value + alpha * (given.anchor[name] - value)
        for name, value in average(given).items()
    }
