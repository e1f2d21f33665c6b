"""Which ReLU gates are open: patterns, flips between two of them, margins.

Floor 3. The gate of a ReLU is
``1[z > 0]``, torch's own; papers write ``>=``, which differs at exact zeros only.
Gates are found by watching the forward pass, however the ReLU is written: as a module,
a function, a tensor method or a clamp at zero.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ntk_fed.errors import NoGatesError, ShapeMismatchError
from ntk_fed.inputs import check_inputs, refuse_batch_dependence
from ntk_fed.params import Params, call, complete, frozen_state

_RELUS = {
    torch.relu,
    torch.relu_,
    torch.nn.functional.relu,
    torch.nn.functional.relu_,
    torch.Tensor.relu,
    torch.Tensor.relu_,
}
_CLAMPS = {torch.clamp, torch.Tensor.clamp, torch.Tensor.clamp_, torch.clamp_}
_LOWER_CLAMPS = {
    torch.clamp_min,
    torch.clamp_min_,
    torch.Tensor.clamp_min,
    torch.Tensor.clamp_min_,
}


@dataclasses.dataclass(frozen=True)
class Margins:
    """How far the gates of one layer are from flipping.

    ``x`` is what entered the layer. A trained bias belongs to the row, with an input of
    1 beside ``x``.

    Attributes:
        distance: ``|w_r·x| / ‖x‖``, ``(n, units)``: the smallest change of the row
            ``w_r`` that can flip the gate, in parameter units. Infinite where nothing
            can, ``x = 0``.
        angle: ``|w_r·x| / (‖w_r‖ ‖x‖)``, ``(n, units)``, at most 1.
    """

    distance: Float[Tensor, "n units"]
    angle: Float[Tensor, "n units"]


@dataclasses.dataclass(frozen=True)
class Flips:
    """Fractions of (unit, sample) pairs whose gates differ.

    Attributes:
        total: fraction over all layers together.
        by_layer: fraction in each layer.
        count: number of differing gates in each layer.
    """

    total: float
    by_layer: dict[str, float]
    count: dict[str, int]


@dataclasses.dataclass(frozen=True)
class ActivationPattern:
    """All gates of a network on some samples, eight to a byte.

    Attributes:
        bits: layer -> packed gates, ``(n, ceil(units / 8))``. A layer is named by the
            parameter of the dense layer before the ReLU, or ``relu.k``.
        units: layer -> number of gates per sample.
        samples: ``n``.
    """

    bits: dict[str, UInt8[Tensor, "n bytes"]]
    units: dict[str, int]
    samples: int
    _margins: Callable[[], dict[str, Margins]]

    def gates(self, layer: str) -> Bool[Tensor, "n units"]:
        """The gates of one layer, unpacked."""
        return unpack(self.bits[layer], self.units[layer])

    def flips(self, other: "ActivationPattern") -> Flips:
        """Gates that differ between two patterns of the same network and samples.

        Raises as :meth:`flips_by_sample`.
        """
        found = self.flips_by_sample(other)
        count = {layer: int(each.sum()) for layer, each in found.items()}
        pairs = {layer: self.samples * width for layer, width in self.units.items()}
        return Flips(
            sum(count.values()) / sum(pairs.values()),
            {layer: count[layer] / pairs[layer] for layer in count},
            count,
        )

    def flips_by_sample(
        self, other: "ActivationPattern"
    ) -> dict[str, Int64[Tensor, " n"]]:
        """Number of gates that differ on each sample, layer by layer.

        Raises:
            ShapeMismatchError: other layers, widths or numbers of samples.
        """
        if self.units != other.units or self.samples != other.samples:
            raise ShapeMismatchError(
                f"patterns differ in shape: {self.samples} samples, units {self.units} "
                f"against {other.samples} samples, units {other.units}. Compare "
                "patterns of one network on the same samples."
            )
        return {
            layer: _POPCOUNT.to(b.device)[(b ^ other.bits[layer]).long()].sum(dim=1)
            for layer, b in self.bits.items()
        }

    def all_margins(self) -> dict[str, Margins]:
        """:meth:`margins` of every layer that has them, by one forward pass."""
        return self._margins()

    def margins(self, layer: str | None = None) -> Margins:
        """Margin distance and angle of one layer; it need not be named if it is alone.

        Raises:
            NoGatesError: the layer is unknown, or its ReLU does not directly follow a
                dense layer on one vector per sample.

        Cost:
            One more forward pass; two numbers per gate.
        """
        found = self._margins()
        if layer is None and len(found) == 1:
            (layer,) = found
        if layer not in found:
            raise NoGatesError(
                f"no margins of layer {layer!r}; dense layers followed by a ReLU are "
                f"{list(found)}. Name one of these."
            )
        return found[layer]


_POPCOUNT = torch.tensor([bin(byte).count("1") for byte in range(256)])


def norms(rows: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Euclidean norms of rows, scaled so that no square over- or underflows."""
    peak = rows.abs().amax(dim=1)
    scale = torch.where(peak > 0, peak, 1.0)
    return scale * torch.linalg.vector_norm(rows / scale[:, None], dim=1)


def pack(gates: Bool[Tensor, "n units"]) -> UInt8[Tensor, "n bytes"]:
    """Eight gates to a byte, the first in the lowest bit, zero-padded."""
    n, units = gates.shape
    padded = torch.nn.functional.pad(gates, (0, -units % 8))
    eights = padded.reshape(n, -1, 8).to(torch.uint8)
    powers = 2 ** torch.arange(8, dtype=torch.uint8, device=gates.device)
    return (eights * powers).sum(dim=2, dtype=torch.uint8)


def unpack(bits: UInt8[Tensor, "n bytes"], units: int) -> Bool[Tensor, "n units"]:
    """The inverse of :func:`pack` for ``units`` gates."""
    powers = 2 ** torch.arange(8, dtype=torch.uint8, device=bits.device)
    return ((bits[:, :, None] & powers) > 0).flatten(1)[:, :units]


class _Watch(TorchFunctionMode):
    """Collects what enters every ReLU, and which dense layer it came from."""

    def __init__(self, params: Params, margins: bool) -> None:
        super().__init__()
        self.names = {id(value): name for name, value in params.items()}
        self.keep_margins = margins
        self.bits: dict[str, Tensor] = {}
        self.units: dict[str, int] = {}
        self.margins: dict[str, Margins] = {}
        self.trained = set(self.names)
        self.dense: dict[int, tuple[Tensor, dict[str, Any]]] = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if _is_relu(func, args, kwargs):
            self._gate(args[0] if args else kwargs["input"])
        result = func(*args, **kwargs)
        if func is torch.nn.functional.linear and result.ndim == 2:
            named: dict[str, Any] = {**kwargs}
            named |= zip(("input", "weight", "bias"), args, strict=False)
            # The result is kept so that its id is not given to another tensor.
            self.dense[id(result)] = (result, named)
        return result

    def _gate(self, z: Tensor) -> None:
        _, dense = self.dense.get(id(z), (None, {}))
        weight = dense.get("weight")
        name = self.names.get(id(weight)) or f"relu.{len(self.bits)}"
        while name in self.bits:  # a layer used more than once
            name += "'"
        flat = z.detach().reshape(len(z), -1)
        self.units[name] = flat.shape[1]
        self.bits[name] = pack(flat > 0)
        if self.keep_margins and weight is not None:
            self.margins[name] = self._margins_of(flat, **dense)

    def _margins_of(
        self, z: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> Margins:
        """A trained bias is one more weight on an input of 1; a frozen one is not."""
        if bias is not None and id(bias) in self.trained:
            input = torch.nn.functional.pad(input, (0, 1), value=1.0)
        rows = weight
        if bias is not None:
            rows = torch.cat([weight, bias[:, None]], dim=1)
        sizes, length = norms(input)[:, None], norms(rows)[None, :]
        distance = torch.where(sizes > 0, z.abs() / sizes, math.inf)
        whole = sizes
        if bias is not None and id(bias) not in self.trained:
            whole = norms(torch.nn.functional.pad(input, (0, 1), value=1.0))[:, None]
        return Margins(distance, z.abs() / whole / length)


def _is_relu(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if func in _RELUS:
        return True
    if func not in _CLAMPS and func not in _LOWER_CLAMPS:
        return False
    lower = args[1] if len(args) > 1 else kwargs.get("min")
    upper = args[2] if len(args) > 2 else kwargs.get("max")
    return not isinstance(lower, Tensor) and lower == 0 and upper is None


def activation_pattern(
    model: torch.nn.Module,
    x: Tensor,
    *,
    params: Mapping[str, Tensor] | None = None,
) -> ActivationPattern:
    """The ReLU gates of a network on some samples.

    Args:
        model: network returning ``(n, o)``; neither it nor its buffers change.
        x: inputs, ``(n, ...)``, finite.
        params: parameters to evaluate at; names left out are the model's own.

    Raises:
        NoGatesError: the network has no ReLU.
        NonFiniteError: ``x`` holds NaN or infinity.

    Cost:
        One forward pass; memory one bit per gate, and one copy of those parameters
        that are the model's own (so that margins can be asked for later).

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 9), torch.nn.ReLU())
        >>> activation_pattern(model, torch.ones(2, 3)).units
        {'0.weight': 9}
    """
    given = params or {}
    values = {
        name: value if name in given else value.clone()
        for name, value in complete(model, params).items()
    }
    state = frozen_state(model)
    check_inputs(x, values)
    refuse_batch_dependence(model)

    def watched(*, margins: bool) -> _Watch:
        watch = _Watch(values, margins)
        with torch.no_grad(), watch:
            call(model, values, x, state)
        return watch

    watch = watched(margins=False)
    if not watch.bits:
        raise NoGatesError(
            f"{type(model).__name__} ran without any ReLU (module, function, method or "
            "clamp at zero), so it has no gates. Smooth activations have none."
        )
    return ActivationPattern(
        watch.bits, watch.units, len(x), lambda: watched(margins=True).margins
    )
