"""The squared loss, with its ½.

Floor 4.
"""

from jaxtyping import Float
from torch import Tensor

from ntk_fed.fedavg.losses.targets import require_real


def loss(
    outputs: Float[Tensor, "*n o"], targets: Float[Tensor, "*n o"]
) -> Float[Tensor, "*n"]:
    """``½‖f − y‖²`` per sample; torch's MSELoss has no ½ and divides by o.

    Units: those of the outputs, squared.
    """
    return (outputs - targets).square().sum(dim=-1) / 2


def gradient(
    outputs: Float[Tensor, "*n o"], targets: Float[Tensor, "*n o"]
) -> Float[Tensor, "*n o"]:
    """``f − y``, the residual."""
    return outputs - targets


def check(outputs: Tensor, targets: Tensor) -> None:
    """Refuse targets that are not real numbers of the shape of the outputs."""
    require_real(
        "squared",
        outputs,
        targets,
        "use dataset.one_hot() or dataset.sign(), or load with targets='one-hot' or "
        "'sign'",
    )
