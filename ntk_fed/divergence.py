"""Every client against the averaged model at once: gradients and gates.

Floor 5. The same numbers as :func:`ntk_fed.drift.gradient_drift` and the flips of two
activation patterns, which are what it falls back to; for a run of the engine for dense
networks both come from two passes over all clients' samples together, without forming
a client's parameters.
"""

import dataclasses
from collections.abc import Iterator

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from ntk_fed import drift
from ntk_fed.activations import activation_pattern
from ntk_fed.errors import NoGatesError
from ntk_fed.fedavg import Locals, Objective
from ntk_fed.fedavg.engines import passes
from ntk_fed.fedavg.engines.chain import RELU, Chain
from ntk_fed.fedavg.engines.factored import Factored, Left
from ntk_fed.fedavg.engines.samples import Samples, whole
from ntk_fed.fedavg.engines.weights import Shared, Weights
from ntk_fed.names import require_known
from ntk_fed.params import Params, shifted


@dataclasses.dataclass(frozen=True)
class Divergence:
    """Local models against their average, on each client's own samples.

    Attributes:
        drift: parameter -> ``‖∇F_i(θ_i) − ∇F_i(θ̄)‖²`` restricted to it, ``(c,)``.
        flips: layer -> gates that differ, ``(c,)``.
        gates: layer -> gates per sample.
        samples: of each client, ``(c,)``.
    """

    drift: dict[str, Float64[Tensor, " c"]]
    flips: dict[str, Int64[Tensor, " c"]]
    gates: dict[str, int]
    samples: Int64[Tensor, " c"]

    @property
    def gradient_drift(self) -> Float64[Tensor, " c"]:
        """``‖∇F_i(θ_i) − ∇F_i(θ̄)‖`` of each client."""
        return torch.stack(list(self.drift.values())).sum(dim=0).sqrt()

    def flipped(self, layer: str | None = None) -> Float64[Tensor, " c"]:
        """Fraction of gates that differ; pooled without a layer; NaN without samples.

        Raises:
            KeyError: no such layer, or no gates at all.
        """
        layers = list(self.flips) if layer is None else [layer]
        if not layers:
            raise KeyError("the network has no ReLU, and so no gates that could flip")
        differ = torch.stack([self.flips[name] for name in layers]).sum(dim=0)
        return differ.double() / (
            self.samples * sum(self.gates[name] for name in layers)
        )


def divergence(
    objective: Objective,
    data: drift.Data,
    found: Locals,
    weights: Tensor,
    *,
    engine: str = "auto",
) -> Divergence:
    """How far clients are from their average, in gradients and in gates.

    Args:
        objective: the loss of a network.
        data: inputs and targets of each client, in the order of ``found``.
        found: the clients' models, as a round or local step has them.
        weights: of the clients, summing to 1.
        engine: ``"loop"`` for one client after the other in any case.

    Cost:
        About two forward and backward passes over the samples.

    Source:
        Definitions: THEORY section 10; the factored form is derived in this project.
    """
    require_known("engine", engine, ["auto", "loop"])
    if engine == "auto" and isinstance(found, Factored):
        return _factored(objective, data, found, weights)
    return _one_by_one(objective, data, found, weights)


def _one_by_one(
    objective: Objective, data: drift.Data, found: Locals, weights: Tensor
) -> Divergence:
    """The slow, obvious way."""
    clients = [found.client(i) for i in range(len(data))]
    gaps = drift.gradient_drift(objective, data, found.start, clients, weights)
    middle = shifted(found.start, found.movement(weights))
    flips: dict[str, list[int]] = {}
    gates: dict[str, int] = {}
    for i, ((x, _), own) in enumerate(zip(data, clients, strict=True)):
        if len(x) == 0:
            continue
        try:
            local = activation_pattern(objective.model, x, params=own)
        except NoGatesError:
            break
        averaged = activation_pattern(objective.model, x, params=middle)
        gates = local.units
        for layer, count in local.flips(averaged).count.items():
            flips.setdefault(layer, [0] * len(data))[i] = count
    squares = {
        name: torch.tensor(values, dtype=torch.float64).square()
        for name, values in gaps.by_layer.items()
    }
    counted = {name: torch.tensor(counts) for name, counts in flips.items()}
    return Divergence(squares, counted, gates, _sizes(data))


def _sizes(data: drift.Data) -> Tensor:
    return torch.tensor([len(x) for x, _ in data])


def _factored(
    objective: Objective, data: drift.Data, found: Factored, weights: Tensor
) -> Divergence:
    """Group by group; what a group needs is gone before the next one."""
    chain, start = found.chain, found.start
    middle = {**found.state, **shifted(start, found.movement(weights))}
    squares = {name: torch.zeros(len(data), dtype=torch.float64) for name in start}
    names = _gate_names(chain, start)
    flips = {name: torch.zeros(len(data), dtype=torch.int64) for name in names.values()}
    shapes = [_tensor(one.weight, middle).shape for one in chain.layers]
    gates = {name: shapes[k][0] for k, name in names.items()}
    for group in found.groups:
        own = [data[i] for i in group.part]
        samples = whole(own, chain.layers[0].factor)
        if group.full is not None and _same(samples, group.full):
            samples = group.full  # what is known of them is used
        values = {**found.state, **start}
        local = _Side(objective, chain, samples, *_own(chain, group, values))
        averaged = _Side(objective, chain, samples, *_shared(chain, middle))
        trained = [
            k
            for k, one in enumerate(chain.layers)
            if {one.weight, one.bias} & set(start)
        ]
        lowest = min(trained, default=len(chain.layers))
        for a, b in zip(local.back(lowest), averaged.back(lowest), strict=True):
            layer = chain.layers[a.layer]
            if isinstance(layer.weight, str) and layer.weight in start:
                gap = _weight_gap(samples, local, averaged, a, b)
                squares[layer.weight][group.part] = gap.double().cpu()
            if layer.bias in start:
                gap = (a.bias - b.bias).sum(dim=1).square().sum(dim=1)
                squares[layer.bias][group.part] = gap.double().cpu()
        counts = _sizes(own).to(samples.x.device)
        real = torch.arange(samples.x.shape[1], device=counts.device) < counts[:, None]
        for k, name in names.items():
            one, other = local.found.kept[k] > 0, averaged.found.kept[k] > 0
            differ = (one ^ other).sum(dim=2) * real
            flips[name][group.part] = differ.sum(dim=1).cpu()
    return Divergence(squares, flips, gates, _sizes(data))


def _same(one: Samples, other: Samples) -> bool:
    """Are these the same samples, in the same order?"""
    y, z = one.batches[0].y, other.batches[0].y
    return torch.equal(one.x, other.x) and torch.equal(y, z)


class _Side:
    """Both passes of one side: the local models, or the averaged one."""

    def __init__(
        self,
        objective: Objective,
        chain: Chain,
        samples: Samples,
        weights: list[Weights],
        biases: Params,
    ) -> None:
        self.objective, self.chain, self.weights = objective, chain, weights
        assert samples.means is not None
        self.targets = samples.batches[0].y, samples.means
        self.found = passes.forward(
            chain, lambda k, h: weights[k].at(h), biases, samples.x
        )

    def back(self, lowest: int) -> Iterator[passes.Sensitivity]:
        """Sensitivities from the last layer down."""
        return passes.backward(
            self.chain,
            self.found,
            self.objective.loss,
            self.targets,
            lambda k, d: self.weights[k].backward(d),
            lowest,
        )


def _own(chain: Chain, group: Left, values: Params) -> tuple[list[Weights], Params]:
    """The clients' weights and biases, in their forms."""
    weights = [
        group.weights.get(one.weight) or Shared(_tensor(one.weight, values))
        if isinstance(one.weight, str)
        else Shared(one.weight)
        for one in chain.layers
    ]
    names = [one.bias for one in chain.layers if one.bias is not None]
    return weights, {k: group.biases.get(k, values[k].unsqueeze(0)) for k in names}


def _shared(chain: Chain, values: Params) -> tuple[list[Weights], Params]:
    """One model for all clients."""
    weights: list[Weights] = [
        Shared(_tensor(one.weight, values)) for one in chain.layers
    ]
    names = [one.bias for one in chain.layers if one.bias is not None]
    return weights, {name: values[name].unsqueeze(0) for name in names}


def _tensor(weight: str | Tensor, values: Params) -> Tensor:
    return values[weight] if isinstance(weight, str) else weight


def _weight_gap(
    samples: Samples,
    local: _Side,
    averaged: _Side,
    a: passes.Sensitivity,
    b: passes.Sensitivity,
) -> Tensor:
    """``‖dᵀ a − d̄ᵀ ā‖²`` of each client, ``(c,)``."""
    x, other = local.found.inputs[a.layer], averaged.found.inputs[a.layer]
    if x is other:  # the first layer: (d − d̄)ᵀ x
        d = a.weight - b.weight
        if d.shape[1] <= x.shape[2]:
            # A sum of squares: what lies below 0 is rounding.
            return (torch.bmm(samples.gram, d) * d).sum(dim=(1, 2)).clamp_min(0)
        return torch.bmm(d.mT, x).square().sum(dim=(1, 2))
    gap = torch.bmm(a.weight.mT, x).baddbmm_(b.weight.mT, other, alpha=-1)
    return gap.square().sum(dim=(1, 2))


def _gate_names(chain: Chain, start: Params) -> dict[int, str]:
    """Layers with ReLU gates, named as activation patterns name them."""
    names: dict[int, str] = {}
    for k, one in enumerate(chain.layers):
        if one.activation is RELU:
            trained = isinstance(one.weight, str) and one.weight in start
            names[k] = str(one.weight) if trained else f"relu.{len(names)}"
    return names
