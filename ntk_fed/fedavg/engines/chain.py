"""A network seen as a chain of dense layers, or not at all.

Floor 4. One forward pass is watched; what it did is kept as a list of layers if each
operation took what the one before it gave, and refused otherwise. The chain is then
compared with the network, so that a wrong reading costs speed and never digits.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ntk_fed import seeds
from ntk_fed.fedavg.engines.entrywise import IDENTITY, RELU, SIGMOID, TANH, Activation
from ntk_fed.fedavg.local import Objective
from ntk_fed.params import Params, call, own_buffers

aten = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class Layer:
    """``activation((factor · h) Wᵀ + b)``.

    Attributes:
        weight: name of W among parameters and frozen state, or W itself where the
            network computes it from its buffers.
        bias: name of b; ``None`` for none.
        factor: number that the input is multiplied by.
        activation: after the layer.
    """

    weight: str | Tensor
    bias: str | None
    factor: float
    activation: Activation


@dataclasses.dataclass(frozen=True)
class Chain:
    """Dense layers, one after the other, and a number the outputs are multiplied by."""

    layers: tuple[Layer, ...]
    factor: float

    def outputs(self, params: Params, state: Params, x: Tensor) -> Tensor:
        """What the network returns, ``(n, o)``, the slow way."""
        *_, last = self._values(params, state, x)
        return self.factor * last

    def moderate(self, params: Params, state: Params, x: Tensor) -> bool:
        """Can products of two inputs of a layer be formed without over- or underflow?

        Forms of weights in the space of samples need them; others do not.
        """
        few = some(x)
        *inputs, _ = self._values(params, state, few)
        return _moderate(x * self.layers[0].factor) and all(map(_moderate, inputs))

    def _values(self, params: Params, state: Params, x: Tensor) -> Iterator[Tensor]:
        """What each layer takes, ``(n, in)``, and what the last one gives."""
        values = {**state, **params}
        h = x.flatten(1)
        for layer in self.layers:
            h = layer.factor * h
            yield h
            weight = layer.weight
            weight = values[weight] if isinstance(weight, str) else weight
            bias = None if layer.bias is None else values[layer.bias]
            h = layer.activation.value(F.linear(h, weight, bias))
        yield h


def chain_of(objective: Objective, params: Params, x: Tensor, y: Tensor) -> Chain | str:
    """The network as a chain, or why it is none.

    Outputs are compared on up to 256 samples and gradients on two, at ``params`` and
    at a point beside it: of a network whose last layer is zero outputs show nothing.

    Args:
        objective: the network and its loss.
        params: trainable parameters.
        x: inputs, ``(n, ...)``.
        y: targets.
    """
    model, state = objective.model, objective.state
    watch = _Watch(params, state, x[:2].clone())
    with torch.no_grad(), watch:
        # Copies of the buffers made inside are watched as constants.
        outputs = call(model, params, watch.value, own_buffers(model, state))
    if watch.reason is None and outputs is not watch.value:
        watch.reason = "its outputs are not those of its last dense layer"
    if watch.reason is None and not watch.layers:
        watch.reason = "it has no dense layer"
    if watch.reason is not None:
        return watch.reason
    found = Chain(tuple(watch.layers), watch.factor)
    few = some(x)
    for point in (params, beside(params)):
        with torch.no_grad():
            ours = found.outputs(point, state, few)
        if not close(ours, objective.outputs(point, few)):
            return "it does more than its dense layers show"
        if not _same_gradient(found, objective, point, x[:2], y[:2]):
            return "its gradient is not that of its dense layers"
    return found


def some(x: Tensor) -> Tensor:
    """At most 256 samples, spread over all."""
    return x[torch.linspace(0, len(x) - 1, min(256, len(x))).long()]


def _moderate(h: Tensor) -> bool:
    kind, most = torch.finfo(h.dtype), float(h.abs().amax())
    low, high = math.sqrt(kind.tiny) / kind.eps, math.sqrt(kind.max) / h[0].numel()
    return most == 0 or low < most < high


def beside(params: Params) -> Params:
    """A point near by that has no zeros, the same in every process."""
    stream = seeds.generator(0, "a point beside")
    return {
        name: value + 0.1 * torch.randn(value.shape, generator=stream).to(value)
        for name, value in params.items()
    }


def close(ours: Tensor, theirs: Tensor) -> bool:
    """Equal but for rounding? Other sums round otherwise; other functions differ."""
    if ours.shape != theirs.shape:
        return False
    slack = torch.finfo(theirs.dtype).eps ** 0.75 * (1 + theirs.abs().max())
    return bool((ours - theirs).abs().max() <= slack)  # NaN is not


def _same_gradient(
    chain: Chain, objective: Objective, params: Params, x: Tensor, y: Tensor
) -> bool:
    leaves = {k: v.detach().clone().requires_grad_() for k, v in params.items()}
    with torch.enable_grad():
        outputs = chain.outputs(leaves, objective.state, x)
        loss = objective.sample_losses(outputs, y).mean()
    ours = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    theirs = objective.gradient(params, x, y).values()
    return all(close(a, b) for a, b in zip(ours, theirs, strict=True))


class _Watch(TorchFunctionMode):
    """Follows one tensor through a forward pass."""

    def __init__(self, params: Params, state: Params, x: Tensor) -> None:
        super().__init__()
        values = {**state, **params}
        self.names = {id(value): name for name, value in values.items()}
        self.value: Tensor = x
        # What no training changes; kept alive, so that no other tensor has their id.
        self.constants = {id(value): value for value in state.values()}
        self.layers: list[Layer] = []
        self.used: set[str] = set()
        self.factor = 1.0
        self.fresh = False  # has the last layer its activation still to come?
        self.reason: str | None = None

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self.reason is not None:
            return result
        if not isinstance(result, Tensor):
            if result is None and any(v is self.value for v in args):
                self.reason = f"{_name(func)} changes a tensor in place"
            return result
        given = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)]
        if not any(v is self.value for v in given):
            if given and all(id(v) in self.constants for v in given):
                self.constants[id(result)] = result
        else:
            self.reason = self._follow(func, args, kwargs, given, result)
            self.value = result
        return result

    def _follow(
        self, func: Any, args: tuple, kwargs: dict, given: list[Tensor], result: Tensor
    ) -> str | None:
        """Take one operation on the followed tensor into the chain, or say why not."""
        if func is F.linear:
            return self._linear(*args, **kwargs)
        if len(given) > 1:
            return f"{_name(func)} combines two tensors"
        number = None if kwargs else _scaling(func, args)
        if number is not None:
            self.factor *= number
            self.fresh = False
            return None
        if result.numel() == self.value.numel() and func in _RESHAPES:
            if result.ndim == 2 and len(result) == len(self.value):
                return None
            return f"{_name(func)} gives shape {tuple(result.shape)}"
        activation = _activation(func, args[1:], kwargs)
        if activation is None:
            return f"{_name(func)} is no operation of a chain"
        if activation is IDENTITY:
            return None
        if not self.fresh:
            return f"{_name(func)} does not follow a dense layer"
        self.layers[-1] = dataclasses.replace(self.layers[-1], activation=activation)
        self.fresh = False
        return None

    def _linear(
        self, input: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> str | None:
        if input is not self.value or input.ndim != 2:
            return "a dense layer acts on more than the samples' vectors"
        names = [self.names.get(id(v)) for v in (weight, bias) if v is not None]
        if any(name in self.used for name in names if name is not None):
            return "a parameter is used twice"
        self.used |= {name for name in names if name is not None}
        own = self.names.get(id(weight))
        if own is None and id(weight) not in self.constants:
            return "a weight is computed on the way"
        if bias is not None and self.names.get(id(bias)) is None:
            return "a bias is computed on the way"
        name = None if bias is None else self.names[id(bias)]
        weight_ = weight if own is None else own
        self.layers.append(Layer(weight_, name, self.factor, IDENTITY))
        self.factor, self.fresh = 1.0, True
        return None


def _name(func: Any) -> str:
    return getattr(func, "__name__", str(func)).strip("_")


_RESHAPES = {
    torch.flatten,
    torch.Tensor.flatten,
    torch.Tensor.reshape,
    torch.reshape,
    torch.Tensor.view,
}
_UNARY = {
    **dict.fromkeys(
        (torch.relu, torch.relu_, F.relu, F.relu_, torch.Tensor.relu), RELU
    ),
    **dict.fromkeys((torch.tanh, F.tanh, torch.Tensor.tanh), TANH),
    **dict.fromkeys((torch.sigmoid, F.sigmoid, torch.Tensor.sigmoid), SIGMOID),
}


def _activation(func: Any, rest: tuple, options: dict) -> Activation | None:
    """The activation that a call is; ``None`` if it is none of ours."""
    if func in _UNARY:
        return _UNARY[func]
    if func is F.silu:
        return Activation(F.silu, aten.silu_backward, keeps_input=True)
    if func is F.gelu:
        kind = rest[0] if rest else options.get("approximate", "none")
        return Activation(
            lambda z: F.gelu(z, approximate=kind),
            lambda g, z: aten.gelu_backward(g, z, approximate=kind),
            keeps_input=True,
        )
    if func is F.leaky_relu:
        slope = rest[0] if rest else options.get("negative_slope", 0.01)
        return Activation(
            lambda z: F.leaky_relu(z, slope),
            lambda g, z: aten.leaky_relu_backward(g, z, slope, False),
            keeps_input=True,
        )
    if func is F.dropout:
        training = rest[1] if len(rest) > 1 else options.get("training", True)
        p = rest[0] if rest else options.get("p", 0.5)
        return IDENTITY if not training or p == 0 else None
    return None


def _scaling(func: Any, args: tuple) -> float | None:
    """The number that a call multiplies by."""
    numbers = [v for v in args if isinstance(v, int | float)]
    if len(args) != 2 or len(numbers) != 1:
        return None
    if func in (
        torch.Tensor.mul,
        torch.Tensor.__mul__,
        torch.Tensor.__rmul__,
        torch.mul,
    ):
        return float(numbers[0])
    divides = func in (torch.Tensor.div, torch.Tensor.__truediv__, torch.div)
    if divides and isinstance(args[1], int | float) and args[1] != 0:
        return 1 / args[1]
    return None
