"""The negative control: the network of the study divided by m instead of √m.

Weights then move by a distance that does not shrink with width, and gates with them.
"""

import torch
from torch import Tensor

from ntk_fed.models import TwoLayerReLU


class MeanField(torch.nn.Module):
    r"""``f(x) = m⁻¹ Σ_r a_r relu(w_r · x)``, with the weights of ``TwoLayerReLU``."""

    head: Tensor

    def __init__(self, inputs: int, width: int, seed: int) -> None:
        super().__init__()
        lazy = TwoLayerReLU(inputs, width, seed=seed)
        self.hidden = torch.nn.Linear(inputs, width, bias=False, dtype=torch.float64)
        self.hidden.weight = torch.nn.Parameter(lazy.weight.detach().clone())
        self.activation = torch.nn.ReLU()
        self.register_buffer("head", lazy.head.clone())
        self.scale = 1 / width

    def forward(self, x: Tensor) -> Tensor:
        """Outputs, ``(n, 1)``."""
        return self.scale * (self.activation(self.hidden(x)) @ self.head)[:, None]


def network(inputs: int, outputs: int, width: int, seed: int) -> MeanField:
    """For ``model = "analyses/01_width_scaling/meanfield.py:network"``."""
    if outputs != 1:
        raise ValueError(f"outputs must be 1, got {outputs}. Use targets = 'sign'.")
    return MeanField(inputs, width, seed)
