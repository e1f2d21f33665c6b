"""Functions of each entry, and their derivatives without autograd.

Floor 4.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

aten = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class Activation:
    """A function of each entry and its derivative.

    Attributes:
        value: of the pre-activations, which it may overwrite.
        pull: gradient by the values, and what was kept, to gradient by pre-activations,
            which it may write over the former.
        keeps_input: does ``pull`` need the pre-activations, or the values?
    """

    value: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor, Tensor], Tensor]
    keeps_input: bool = False


def _identity(values: Tensor) -> Tensor:
    return values


IDENTITY = Activation(_identity, lambda gradient, kept: gradient)
RELU = Activation(
    torch.relu_,
    lambda g, kept: aten.threshold_backward.grad_input(g, kept, 0, grad_input=g),
)
TANH = Activation(
    torch.tanh_,
    lambda g, kept: aten.tanh_backward.grad_input(g, kept, grad_input=g),
)
SIGMOID = Activation(
    torch.sigmoid_,
    lambda g, kept: aten.sigmoid_backward.grad_input(g, kept, grad_input=g),
)
