"""The network with one wide layer followed by layers of decreasing width.

Floor 2: imports its own folder.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ntk_fed.models.activations import (
    SmoothLeakyReLU,
    activation_by_name,
)
from ntk_fed.models.dense import (
    ScaledLinear,
    orthonormal_rows,
    require_floating,
    require_sizes,
    standard_normal,
)
from ntk_fed.names import require_known


class Pyramid(torch.nn.Module):
    r"""One wide layer, then a pyramid; no biases, linear output.

    .. math:: F_0 = X, \qquad F_l = \sigma(F_{l-1} W_l), \qquad F_L = F_{L-1} W_L

    with L = 1 + ``len(widths)``. ``layers[l − 1].weight`` is the transpose of
    :math:`W_l`, ``(out, in)``, as torch has it.

    Initialisation "lecun": entries from N(0, 1/fan_in). "certified": :math:`W_1` as
    before, :math:`W_2 = 0`, and each later :math:`W_l` has orthonormal columns times
    ``tail_scale``, so that all its singular values are ``tail_scale`` (here
    :math:`\lambda_l = \bar\lambda_l`). The output is then zero. The scale that makes
    the conditions hold (the smallest power of ten) depends on data and draw, and is
    found by whoever checks the conditions, not here.

    Args:
        inputs: input size d.
        wide: width of the first layer; the theorem asks for at least n samples.
        widths: widths after it, which never increase; the last is the output size.
        activation: "relu" or "smooth_leaky_relu"; the theorem covers the second only.
        gamma: slope of the smooth leaky ReLU far below zero.
        initial: "lecun" or "certified".
        tail_scale: of "certified" only.
        seed: decides all parameters. Each layer has its own stream; :math:`W_1` is the
            same for both initialisations.
        dtype: of the parameters; drawn in float64, rounded last.

    Raises:
        UnknownNameError: an unknown activation or initialisation.
        ValueError: widths that increase, sizes below 1, "certified" with fewer than
            two widths or with ReLU, or a ``tail_scale`` that would not be used.

    Source:
        Nguyen, Mondelli (2020), arXiv:2002.07867: network and initialisation with
        W_2 = 0 (recalled). Song et al. (2023) train it by FedAvg.
    """

    def __init__(
        self,
        inputs: int,
        wide: int,
        widths: Sequence[int],
        *,
        activation: str = "relu",
        gamma: float = 0.5,
        initial: str = "lecun",
        tail_scale: float = 1.0,
        seed: int,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        require_known("activation", activation, ["relu", "smooth_leaky_relu"])
        require_known("initial", initial, ["lecun", "certified"])
        require_sizes("inputs", (inputs,))
        require_sizes("wide", (wide,))
        _require_pyramid(widths)
        require_floating(dtype)
        if initial == "certified":
            _require_certifiable(activation, widths, tail_scale)
        elif tail_scale != 1.0:
            raise ValueError(
                f'tail_scale = {tail_scale} has no meaning for initial="lecun". '
                'Leave it out, or use initial="certified".'
            )
        self.activation = (
            SmoothLeakyReLU(gamma)
            if activation == "smooth_leaky_relu"
            else activation_by_name(activation)
        )
        sizes = [inputs, wide, *widths]
        self.layers = torch.nn.ModuleList()
        for index, shape in enumerate(zip(sizes[1:], sizes[:-1], strict=True)):
            normal = standard_normal(shape, seed, "models/pyramid/weight", index)
            if initial == "lecun" or index == 0:
                weight = normal / math.sqrt(shape[1])
            elif index == 1:
                weight = torch.zeros_like(normal)
            else:
                weight = tail_scale * orthonormal_rows(normal)
            self.layers.append(ScaledLinear(weight.to(dtype)))

    def forward(self, x: Tensor) -> Float[Tensor, "*n o"]:
        """Outputs, ``(n, widths[-1])``, at ``x``, ``(n, inputs)``.

        Raises:
            ShapeMismatchError: ``x`` has another width.
        """
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


def _require_pyramid(widths: Sequence[int]) -> None:
    if len(widths) == 0:
        raise ValueError("widths is empty; its last entry is the output size.")
    require_sizes("widths", tuple(widths))
    if any(after > before for before, after in itertools.pairwise(widths)):
        raise ValueError(
            f"widths must not increase, got {list(widths)}. Only the wide layer may "
            "come before a smaller one; sort them downwards."
        )


def _require_certifiable(
    activation: str, widths: Sequence[int], tail_scale: float
) -> None:
    if len(widths) < 2:
        raise ValueError(
            f"certified needs at least 2 widths after the wide layer, got {len(widths)}"
            ": W_2 is zero, and only a later layer carries the scale."
        )
    if activation == "relu":
        raise ValueError(
            'initial="certified" needs activation="smooth_leaky_relu", got "relu": '
            "W_2 = 0 puts every ReLU at 0, where its gradient is 0, and nothing moves."
        )
    if not 0 < tail_scale < math.inf:
        raise ValueError(f"tail_scale must be positive and finite, got {tail_scale}.")
