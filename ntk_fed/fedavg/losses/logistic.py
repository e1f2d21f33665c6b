"""The logistic loss of margins.

Floor 4.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ntk_fed.fedavg.losses.targets import require_signs


def loss(
    outputs: Float[Tensor, "*n o"], targets: Float[Tensor, "*n o"]
) -> Float[Tensor, "*n"]:
    """``Σ_k log(1 + exp(−y_k f_k))`` per sample, targets −1 or +1.

    Units: nats. Some authors write ``2 y f`` for the margin; here it is ``y f``.

    Source:
        Field standard; Soudry, Hoffer, Nacson, Gunasekar, Srebro (2018),
        arXiv:1710.10345, treat it beside the exponential loss.
    """
    # −log σ(u) is softplus(−u), which torch makes linear beyond 20: it leaves out 2e-9.
    return -torch.nn.functional.logsigmoid(targets * outputs).sum(dim=-1)


def gradient(
    outputs: Float[Tensor, "*n o"], targets: Float[Tensor, "*n o"]
) -> Float[Tensor, "*n o"]:
    """``−y σ(−y f)`` with ``σ(u) = 1/(1 + exp(−u))``: at most 1 in absolute value."""
    return -targets * torch.sigmoid(-targets * outputs)


def check(outputs: Tensor, targets: Tensor) -> None:
    """Refuse targets that are not −1 or +1."""
    require_signs("logistic", outputs, targets)
