"""The squared hinge of margins.

Floor 4.
"""

from jaxtyping import Float
from torch import Tensor

from ntk_fed.fedavg.losses.targets import require_signs


def loss(
    outputs: Float[Tensor, "*n o"], targets: Float[Tensor, "*n o"]
) -> Float[Tensor, "*n"]:
    """``Σ_k max(0, 1 − y_k f_k)²`` per sample, targets −1 or +1; without a ½.

    Units: those of the outputs, squared. Exactly 0 from margin 1 on.

    Source:
        Field standard; Qin, Etesami, Uribe (2022), arXiv:2201.12719, perceptron
        experiment, in mean form.
    """
    return (1 - targets * outputs).clamp(min=0).square().sum(dim=-1)


def gradient(
    outputs: Float[Tensor, "*n o"], targets: Float[Tensor, "*n o"]
) -> Float[Tensor, "*n o"]:
    """``−2 y max(0, 1 − y f)``: continuous, and exactly 0 from margin 1 on."""
    return -2 * targets * (1 - targets * outputs).clamp(min=0)


def check(outputs: Tensor, targets: Tensor) -> None:
    """Refuse targets that are not −1 or +1."""
    require_signs("squared-hinge", outputs, targets)
