"""The exponential loss of margins.

Floor 4.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ntk_fed.fedavg.losses.targets import require_signs


def loss(
    outputs: Float[Tensor, "*n o"], targets: Float[Tensor, "*n o"]
) -> Float[Tensor, "*n"]:
    """``Σ_k exp(−y_k f_k)`` per sample, targets −1 or +1; dimensionless.

    It overflows to infinity, and is left so, where ``y f`` is below −709 in float64 and
    −88 in float32; so does its gradient.

    Source:
        Field standard; Soudry, Hoffer, Nacson, Gunasekar, Srebro (2018),
        arXiv:1710.10345.
    """
    return torch.exp(-targets * outputs).sum(dim=-1)


def gradient(
    outputs: Float[Tensor, "*n o"], targets: Float[Tensor, "*n o"]
) -> Float[Tensor, "*n o"]:
    """``−y exp(−y f)``."""
    return -targets * torch.exp(-targets * outputs)


def check(outputs: Tensor, targets: Tensor) -> None:
    """Refuse targets that are not −1 or +1."""
    require_signs("exponential", outputs, targets)
