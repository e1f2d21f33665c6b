"""Forward and backward through a chain for many clients at once, without autograd.

Floor 4. What a layer's weights do is given from outside: they may be the clients' own,
in any form, or shared.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from ntk_fed.fedavg import losses
from ntk_fed.fedavg.engines.chain import Chain
from ntk_fed.params import Params

Product = Callable[[int, Tensor], Tensor]  # layer, (c, b, ·) -> (c, b, ·)


@dataclasses.dataclass(frozen=True)
class Forward:
    """What each layer takes, what its activation's derivative needs, and the end.

    Attributes:
        inputs: of each layer, ``(c, b, in)``.
        kept: of each layer, ``(c, b, out)``.
        outputs: of the network, ``(c, b, o)``.
    """

    inputs: list[Tensor]
    kept: list[Tensor]
    outputs: Tensor


def forward(chain: Chain, product: Product, biases: Params, h: Tensor) -> Forward:
    """All layers, from the first one's inputs, which are scaled already.

    Args:
        chain: the network.
        product: ``h W_iᵀ``, in memory that may be overwritten.
        biases: of all layers that have one, ``(c, out)`` or ``(1, out)``.
        h: ``(c, b, in)``.
    """
    inputs, kept = [], []
    for k, layer in enumerate(chain.layers):
        inputs.append(h)
        z = product(k, h)
        if k > 0 and layer.factor != 1.0:
            z.mul_(layer.factor)
        if layer.bias is not None:
            z.add_(biases[layer.bias][:, None])
        h = layer.activation.value(z)
        kept.append(z if layer.activation.keeps_input else h)
    return Forward(inputs, kept, h if chain.factor == 1.0 else h * chain.factor)


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """Gradient of the weighted loss by what a layer gives, before its activation.

    Attributes:
        layer: its number.
        bias: the gradient itself, ``(c, b, out)``; summed over ``b`` that of the bias.
        weight: times the layer's factor; ``weightᵀ inputs`` is that of the weight.
    """

    layer: int
    bias: Tensor
    weight: Tensor


def backward(
    chain: Chain,
    found: Forward,
    loss: Any,
    targets: tuple[Tensor, Tensor],
    product: Product,
    lowest: int,
) -> Iterator[Sensitivity]:
    """Sensitivities from the last layer down to ``lowest``.

    What goes on to the layer below is formed before a layer is yielded: its weights
    may then be changed.

    Args:
        chain: the network.
        found: the forward pass.
        loss: name or function.
        targets: of the samples, and their weights in the client's mean.
        product: ``d W_i``.
        lowest: the lowest layer that is asked for.
    """
    d = losses.output_gradient(loss, found.outputs, *targets)
    if chain.factor != 1.0:
        d = d * chain.factor
    for k in reversed(range(lowest, len(chain.layers))):
        layer = chain.layers[k]
        d = layer.activation.pull(d, found.kept[k])
        scaled = d if k == 0 or layer.factor == 1.0 else d * layer.factor
        below = product(k, scaled) if k > lowest else None
        yield Sensitivity(k, d, scaled)
        if below is not None:
            d = below
