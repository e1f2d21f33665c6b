"""Products of the tangent kernel with vectors, without the Gram matrix.

Floor 4.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from ntk_fed.inputs import check_inputs, check_per_sample
from ntk_fed.jacobians import quiet_vmap
from ntk_fed.params import Params, call, complete, frozen_state, own_buffers


class KernelOperator(LinearOperator):
    """``v -> J(x) J(x)ᵀ v`` on residuals, ``(n·o, n·o)``, row = sample·o + output.

    One product is one backward pass (``Jᵀ v``) and one forward-mode pass over the data,
    in batches; memory one parameter vector and one batch.
    """

    def __init__(
        self, model: torch.nn.Module, params: Params, x: Tensor, batch: int
    ) -> None:
        self.model, self.x, self.batch = model, x.detach(), batch
        self.params = {name: value.clone() for name, value in params.items()}
        self.state = frozen_state(model)
        self.outputs = self._call(params, x[:1]).shape[1]
        size = len(x) * self.outputs
        self.like = next(iter(params.values()))
        dtype = np.dtype(str(self.like.dtype).removeprefix("torch."))
        super().__init__(dtype, (size, size))

    def torch(self, vector: Tensor) -> Tensor:
        """The product with a torch tensor ``(n, o)`` or ``(n·o,)``, of the same shape.

        Args:
            vector: values of the outputs on the samples.
        """
        v = vector.reshape(len(self.x), self.outputs).to(self.like)
        direction = {k: torch.zeros_like(p) for k, p in self.params.items()}
        for part, own in zip(
            self.x.split(self.batch), v.split(self.batch), strict=True
        ):
            pulled: Any = torch.func.vjp(
                lambda p, b=part: self._call(p, b), self.params
            )
            for name, value in pulled[1](own)[0].items():
                direction[name] += value
        with quiet_vmap():
            pieces = [
                torch.func.jvp(
                    lambda p, b=part: self._call(p, b), (self.params,), (direction,)
                )[1]
                for part in self.x.split(self.batch)
            ]
        return torch.cat(pieces).reshape(vector.shape)

    def _call(self, params: Params, x: Tensor) -> Tensor:
        # Copies: a layer may update its buffers, or what it is given.
        return call(self.model, params, x.clone(), own_buffers(self.model, self.state))

    def _matvec(self, x: np.ndarray) -> np.ndarray:
        vector = torch.from_numpy(np.ascontiguousarray(x.reshape(-1)))
        return self.torch(vector).cpu().numpy()

    def _adjoint(self) -> "KernelOperator":
        return self  # symmetric


def kernel_operator(
    model: torch.nn.Module,
    x: Tensor,
    *,
    params: Mapping[str, Tensor] | None = None,
    batch: int = 1024,
) -> KernelOperator:
    """The tangent kernel as a SciPy ``LinearOperator``; the Gram is never formed.

    Args:
        model: network returning ``(n, o)``; forward-mode differentiable.
        x: inputs, ``(n, ...)``.
        params: parameters to take it at; names left out are the model's own, as they
            are now.
        batch: samples per pass.

    Raises:
        NotPerSampleError: an output depends on chance or on other samples.
        ValueError: ``batch`` below 1, parameters that are not float32 or float64, or an
            operation without forward-mode derivatives.

    Cost:
        Two passes over the data per product.

    Example:
        >>> op = kernel_operator(torch.nn.Linear(3, 2), torch.ones(4, 3))
        >>> op.shape
        (8, 8)
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}.")
    values = complete(model, params)
    check_inputs(x, values)
    dtype = next(iter(values.values())).dtype
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"parameters must be float32 or float64, got {dtype}. Convert the model, "
            "e.g. model.float()."
        )
    check_per_sample(model, values, frozen_state(model), x)
    one = KernelOperator(model, values, x[:1], 1)
    try:  # what cannot be done is to show here, not at the first product
        one.torch(torch.ones(one.outputs))
    except (NotImplementedError, RuntimeError) as error:
        raise ValueError(
            "model has an operation without forward-mode derivatives: "
            f"{str(error).splitlines()[0]} Replace it (attention: torch.nn.attention."
            "sdpa_kernel with SDPBackend.MATH), or form the kernel by gram."
        ) from error
    return KernelOperator(model, values, x, batch)
