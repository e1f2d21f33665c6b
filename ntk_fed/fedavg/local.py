"""What one client descends: the mean loss of a network over its samples.

Floor 4.
"""

import dataclasses

import torch
from torch import Tensor

from ntk_fed.fedavg import losses
from ntk_fed.params import (
    Params,
    call,
    frozen_state,
    graph_without_gaps,
    own_buffers,
    zeros_like,
)


@dataclasses.dataclass(frozen=True)
class Objective:
    """Mean loss of a network over samples, as a function of its parameters.

    Attributes:
        model: network returning ``(n, o)``.
        loss: name of the loss, or a function, see :mod:`losses`.
        state: frozen parameters and buffers, copied from the model.
    """

    model: torch.nn.Module
    loss: losses.Loss
    state: Params

    @classmethod
    def of(cls, model: torch.nn.Module, loss: losses.Loss = "squared") -> "Objective":
        """The objective of a model; what is frozen is copied now."""
        losses.named(loss)
        state = {name: value.clone() for name, value in frozen_state(model).items()}
        return cls(model, loss, state)

    def outputs(self, params: Params, x: Tensor) -> Tensor:
        """Outputs, ``(n, o)``, without a graph."""
        with torch.no_grad():
            return self._call(params, x)

    def value(self, params: Params, x: Tensor, y: Tensor) -> Tensor:
        """Mean loss over the samples, a scalar; 0 without samples."""
        if len(x) == 0:
            return x.new_zeros(())
        return self.sample_losses(self._call(params, x), y).mean()

    def gradient(self, params: Params, x: Tensor, y: Tensor) -> Params:
        """Gradient of :meth:`value`; zero without samples."""
        return self.value_and_gradient(params, x, y)[1]

    def value_and_gradient(
        self, params: Params, x: Tensor, y: Tensor
    ) -> tuple[float, Params]:
        """:meth:`value` and its gradient, by one forward and one backward pass."""
        if len(x) == 0:
            return 0.0, zeros_like(params)
        leaves = {k: v.detach().requires_grad_() for k, v in params.items()}
        with torch.enable_grad(), graph_without_gaps():
            value = self.value(leaves, x, y)
            found = torch.autograd.grad(
                value, list(leaves.values()), materialize_grads=True
            )
        return value.item(), dict(zip(leaves, found, strict=True))

    def _call(self, params: Params, x: Tensor) -> Tensor:
        """Copies of inputs and buffers: a network may write to what it is given."""
        state = own_buffers(self.model, self.state)
        return call(self.model, params, x.clone(), state)

    def sample_losses(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Loss of each sample, ``(n,)``, from its outputs."""
        return losses.named(self.loss)(outputs, y)
