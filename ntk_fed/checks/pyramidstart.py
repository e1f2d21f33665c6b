"""A pyramid's numbers at its start, and a start at which they are enough.

Floor 7.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

from ntk_fed.data import Partition
from ntk_fed.models import Pyramid
from ntk_fed.models.activations import SmoothLeakyReLU
from ntk_fed.params import Params, complete
from ntk_fed.theory import nguyen2020, pyramid


def gamma_of(model: torch.nn.Module) -> float | None:
    """Smallest slope of the activation of a pyramid the theorem covers."""
    if isinstance(model, Pyramid) and isinstance(model.activation, SmoothLeakyReLU):
        return model.activation.gamma
    return None


def widths_of(model: torch.nn.Module) -> tuple[int, ...]:
    """``n_1 … n_L`` of a pyramid; empty of any other network."""
    if not isinstance(model, Pyramid):
        return ()
    return tuple(weight.shape[1] for weight in weights_of(complete(model, None)))


def weights_of(params: Params) -> list[np.ndarray]:
    """``W_1 … W_L``, torch's transposed."""
    return [value.double().cpu().numpy().T for value in params.values()]


def numbers(
    model: torch.nn.Module, x: torch.Tensor, residual: torch.Tensor, gamma: float
) -> pyramid.Start:
    """Everything N1 and N2 ask of a pyramid.

    Args:
        model: a :class:`Pyramid` with a smooth leaky ReLU.
        x: inputs, ``(n, d)``.
        residual: ``F_L − Y``, ``(n, o)``.
        gamma: smallest slope of its activation.
    """
    params = complete(model, None)
    weights = weights_of(params)
    with torch.no_grad():
        features = model.activation(model.layers[0](x))  # pyright: ignore
    return pyramid.constants_of(
        weights,
        x.double().cpu().numpy(),
        features.double().cpu().numpy(),
        residual.double().cpu().numpy(),
        gamma=gamma,
        eps=max(torch.finfo(value.dtype).eps for value in params.values()),
    )


def certified_pyramid(
    partition: Partition,
    wide: int,
    widths: Sequence[int],
    *,
    gamma: float = 0.5,
    seed: int,
    wanted: float = 1.0,
    federated: bool = True,
) -> Pyramid:
    """A pyramid at Nguyen and Mondelli's start, its scale just large enough.

    W_2 = 0 and orthonormal layers after it, times the smallest power of ten at which N1
    and N2 hold for these data and this draw.

    Args:
        partition: the data.
        wide: width of the first layer, at least as many as there are samples.
        widths: of the layers after it; the last is the number of outputs.
        gamma: smallest slope of the smooth leaky ReLU.
        seed: of the draw.
        wanted: what the left sides of N1 and N2 are to be of their right sides.
        federated: multiply the right sides by ``2 √c + 1``, as FedAvg's proof needs.

    Raises:
        ValueError: no scale up to 10¹² does; the first layer is too narrow, say.
    """
    x, y = partition.dataset.x, partition.dataset.y
    clients = sum(size > 0 for size in partition.sizes)
    factor = 2 * math.sqrt(clients) + 1 if federated else 1.0

    def build(scale: float) -> Pyramid:
        return Pyramid(
            x.shape[1], wide, widths, activation="smooth_leaky_relu", gamma=gamma,
            initial="certified", tail_scale=scale, seed=seed,
        )  # fmt: skip

    def ratios(scale: float) -> tuple[float, float]:
        model = build(scale)
        with torch.no_grad():
            residual = model(x) - y
        found = nguyen2020.conditions(numbers(model, x, residual, gamma))
        return found.demanding(factor).ratios

    return build(nguyen2020.certified_scale(ratios, wanted))
