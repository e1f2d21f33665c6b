"""Convolutions in one and two dimensions, with any stride, padding, dilation, groups.

A convolution is a dense layer on patches: its inputs at ``P`` output positions are the
patches under the filter.
"""

from typing import Any

import torch
from torch import Tensor

from ntk_fed.kernel.rules.factor import Call, Factor, Rule


def _signature(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> dict[str, Any]:
    return locals()


def _covers(arguments: dict[str, Any]) -> bool:
    dimensions = arguments["weight"].ndim - 2
    return dimensions in (1, 2) and arguments["input"].ndim == dimensions + 2


def _factors(call: Call) -> dict[str, Factor]:
    arguments, d = call.arguments, call.sensitivities
    o, n, channels = d.shape[:3]
    groups = arguments["groups"]
    d = d.reshape(o, n, groups, channels // groups, -1)  # (o, n, g, b, P)
    patches = _patches(call.inputs, arguments)  # (n, g, a, P)
    if groups == 1:
        weight = Factor.cheapest(d[:, :, 0].mT, patches[:, 0].mT)
    else:
        explicit = torch.einsum("ongbp,ngap->ongba", d, patches)
        weight = Factor.explicit(explicit)
    found = {"weight": weight}
    if arguments["bias"] is not None:
        found["bias"] = Factor.explicit(d.sum(dim=4))
    return found


def _patches(u: Tensor, arguments: dict[str, Any]) -> Tensor:
    """What lies under the filter at each output position, ``(n, g, a, P)``."""
    weight = arguments["weight"]
    flat = weight.ndim == 3  # one dimension is two with a height of 1
    kernel = (1, weight.shape[2]) if flat else tuple(weight.shape[2:])
    stride = _both(arguments["stride"], flat, 1)
    dilation = _both(arguments["dilation"], flat, 1)
    padding = arguments["padding"]
    if flat:
        u = u[:, :, None]
    if isinstance(padding, str):
        u = _padded(u, padding, kernel, dilation)
        padding = 0
    patches = torch.nn.functional.unfold(
        u, kernel, dilation, _both(padding, flat, 0), stride
    )  # (n, channels · kernel, P)
    groups = arguments["groups"]
    return patches.reshape(len(u), groups, -1, patches.shape[-1])


def _both(value: Any, flat: bool, missing: int) -> tuple[int, int]:
    """A one- or two-dimensional setting as a pair."""
    values = (value,) if isinstance(value, int) else tuple(value)
    if flat:
        return missing, values[0]
    return values if len(values) == 2 else (values[0], values[0])


def _padded(
    u: Tensor, padding: str, kernel: tuple[int, int], dilation: tuple[int, int]
) -> Tensor:
    """Inputs padded as ``"same"`` or ``"valid"`` asks: the odd pixel at the end."""
    if padding == "valid":
        return u
    sizes = []
    for k, d in zip(reversed(kernel), reversed(dilation), strict=True):
        total = d * (k - 1)
        sizes += [total // 2, total - total // 2]
    return torch.nn.functional.pad(u, sizes)


CONV = Rule(_signature, "input", ("weight", "bias"), _factors, _covers, units=1)
