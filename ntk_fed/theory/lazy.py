"""Linear convergence of FedAvg in the lazy regime, by the federated tangent kernel.

Floor 6: numbers in, numbers out. Derived in this project.
"""

from ntk_fed.measured import Enclosure, estimate, exact
from ntk_fed.theory.condition import LOCAL_GD, Stated, TheoremCheck

SOURCE = "the federated tangent kernel"
STATUS = "derived"
_condition = Stated(SOURCE, STATUS, "mean")


def check(
    *,
    smallest: Enclosure,
    largest: Enclosure,
    server_step_size: float,
    rate: Enclosure,
    definite: bool,
    is_local_descent: bool,
    worst_ratio: Enclosure | None = None,
    prediction_error: float | None = None,
) -> TheoremCheck:
    """Does the linearised network converge linearly, and did the network follow?

    Args:
        smallest: ``λ_min(P^½ΘP^½)``, where clients hold samples.
        largest: ``λ_max(P^½ΘP^½)``.
        server_step_size: ``η_g``.
        rate: ``ρ``, per round.
        definite: is ``P`` positive definite on the samples that clients hold?
        is_local_descent: full batches, all clients, averages, no momentum or decay?
        worst_ratio: largest ``‖P^½ r_t‖ / (ρ^t ‖P^½ r_0‖)`` along the run.
        prediction_error: largest ``‖r_t − r_t^predicted‖ / ‖r_0‖`` along the run.
    """
    constants = {
        "smallest eigenvalue": smallest,
        "largest eigenvalue": largest,
        "rate": rate,
    }
    if prediction_error is not None:
        # A ratio of norms of residuals that hundreds of steps have rounded by eps each.
        constants["prediction error"] = estimate(
            prediction_error, 1e-12, "rounding of residuals"
        )
    return TheoremCheck(
        "lazy.linear_convergence",
        "While the network stays near its linearisation, the residual contracts by "
        "rho per round in the P-norm, for every split of the data and every K.",
        SOURCE,
        STATUS,
        [
            _condition.yes(LOCAL_GD, is_local_descent),
            _condition.yes("P positive definite where clients hold samples", definite),
            _condition("λ_min(P^½ΘP^½)", smallest, ">", exact(0.0)),
            _condition(
                "η_g λ_max(P^½ΘP^½)", largest.scaled(server_step_size), "<", exact(2.0)
            ),
        ],
        constants,
        _condition(
            "‖P^½ r_t‖ / (ρ^t ‖P^½ r_0‖), worst along the run",
            worst_ratio,
            "<=",
            exact(1.0),
            note="exact for the linearised network; the network itself may exceed 1",
        ),
    )
