"""Plain averaging.

Floor 4. McMahan et al. (2017), arXiv:1602.05629, Algorithm 1; with a server's step size
Reddi et al. (2021), arXiv:2003.00295, Algorithm 1.
"""

from ntk_fed.fedavg.rules.averaging import Averaging
from ntk_fed.params import Params, shifted


def average(given: Averaging) -> Params:
    """``θ + η_g Σ w_i (θ_i − θ)``."""
    moved = given.locals.movement(given.weights)
    return shifted(given.start, moved, given.step_size)
