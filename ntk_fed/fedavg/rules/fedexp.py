"""FedExP: the server extrapolates as far as the clients disagree.

Floor 4. Jhunjhunwala, Wang, Joshi (2023), arXiv:2301.09604, Algorithm 1 with ε = 0
(recalled). The paper has equal weights and returns the mean of the last two iterates;
here weights are those of the run, and every iterate is returned as it is.
"""

from ntk_fed.fedavg.rules.averaging import Averaging
from ntk_fed.params import Params, shifted, squared_norm


def fedexp(given: Averaging) -> Params:
    """``θ + η_g a Δ̄`` with ``a = max(1, Σ w_i ‖Δ_i‖² / (2 ‖Δ̄‖²))``, Δ̄ = Σ w_i Δ_i."""
    moved = given.locals.movement(given.weights)
    factor = extrapolation(given, moved)
    return shifted(given.start, moved, given.step_size * factor)


def extrapolation(given: Averaging, moved: Params) -> float:
    """``a`` above; 1 where nothing moved on average."""
    mean = float(given.weights.double().cpu() @ given.locals.squared_movements().cpu())
    pooled = squared_norm(moved)
    return max(1.0, mean / (2 * pooled)) if pooled > 0 else 1.0
