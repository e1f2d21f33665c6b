"""Some outputs of a network, as a network with the same parameters.

Floor 4.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ntk_fed.errors import ShapeMismatchError
from ntk_fed.inputs import refuse_batch_dependence


class Selected(torch.nn.Module):
    """A network that gives some outputs of another, under its parameters' names."""

    whole: torch.nn.Module

    def __init__(self, model: torch.nn.Module, outputs: Sequence[int]) -> None:
        """Take ``outputs`` (columns, counted from 0) of ``model``."""
        super().__init__()
        refuse_batch_dependence(model)  # named as in the model, before it is wrapped
        # The very dictionaries of the other network: what is put in here by a
        # functional call is what it sees.
        self.__dict__["_parameters"] = model._parameters
        self.__dict__["_buffers"] = model._buffers
        self.__dict__["_modules"] = model._modules
        self.__dict__["whole"] = model
        self.training = model.training
        self.outputs = list(outputs)
        if isinstance(outputs, torch.Tensor):
            self.outputs = outputs.tolist()
        whole = all(type(k) is int or isinstance(k, np.integer) for k in self.outputs)
        if not whole or len(set(self.outputs)) < len(self.outputs):
            raise ValueError(
                f"select must be different whole numbers, the outputs counted from 0, "
                f"got {outputs!r}. From a mask: mask.nonzero().flatten()."
            )

    def forward(self, x: Tensor) -> Tensor:
        """``(n, o)`` in, ``(n, len(outputs))`` out."""
        values = self.whole(x)
        known = range(values.shape[1])
        wrong = [k for k in self.outputs if k not in known]
        if wrong or not self.outputs:
            raise ShapeMismatchError(
                f"select must name outputs of the model, each from 0 to "
                f"{len(known) - 1}, at least one; got {wrong or self.outputs}."
            )
        return values[:, self.outputs]
