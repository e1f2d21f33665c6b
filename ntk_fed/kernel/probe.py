"""A look at a network before its kernel: sizes, and where no rule can be trusted.

Floor 4. A few samples are sent through once, forwards and backwards. Cheap next to the
kernel even where parameters are many: no gradient of a large parameter is formed.
"""

import dataclasses
import itertools
import math

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ntk_fed import seeds
from ntk_fed.errors import ShapeMismatchError
from ntk_fed.inputs import check_per_sample, refuse_batch_dependence
from ntk_fed.jacobians import quiet_vmap
from ntk_fed.kernel.rules import Call, Factor
from ntk_fed.kernel.uses import Record, Use, gradients, nodes, record
from ntk_fed.params import Params

_PASSES = 4
_SAMPLES = 6  # pairs of passes: none is a part of another
_SMALL = 2**16  # entries of a parameter whose gradient costs nothing


@dataclasses.dataclass(frozen=True)
class Probe:
    """What a few samples showed.

    Attributes:
        outputs: of the network, ``o``.
        sizes: parameter -> for each use positions and the entries per position of
            inputs and sensitivities, ``(P, a, b)``; nothing where it is loose.
        loose: parameter -> why its Jacobian has to be formed.
        graph: bytes per sample that autograd keeps for a backward pass.
        left: entries per sample of what leaves the operations with rules, in all.
        passing: entries per sample that come and go while one use is treated, at most.
    """

    outputs: int
    sizes: dict[str, list[tuple[int, int, int]]]
    loose: dict[str, str]
    graph: int
    left: int
    passing: int


def probe(model: torch.nn.Module, params: Params, state: Params, x: Tensor) -> Probe:
    """Look at a network and refuse one whose outputs are no functions of one sample.

    Three things make the rules' answer right, and each is looked at. What leaves an
    operation for a sample depends on that sample's row alone: the other rows have
    gradient exactly 0. No parameter is used anywhere else: autograd's graph is
    searched. A rule's factors are those of its operation: for small parameters they
    are compared with the gradient. Where one fails the parameter is *loose*.

    Args:
        model: network returning ``(n, o)``.
        params: trainable parameters, detached.
        state: frozen parameters and buffers.
        x: inputs, ``(n, ...)``; up to six, spread evenly, are looked at.

    Raises:
        NotPerSampleError: an output depends on chance or on other samples.

    Cost:
        Two forward passes over at most six samples, four backward passes together.
    """
    refuse_batch_dependence(model)
    few = x[torch.linspace(0, len(x) - 1, min(_SAMPLES, len(x))).long()]
    found = record(model, params, state, few)
    outputs = found.outputs
    if outputs.shape[1] == 0:
        raise ShapeMismatchError("model must return (n, o) with o >= 1, got o = 0.")
    check_per_sample(model, params, state, few, together=outputs.detach())
    sizes: dict[str, list[tuple[int, int, int]]] = {name: [] for name in params}
    loose = dict(found.loose)
    memory = {
        "graph": _kept_for_backward(found) // len(few),
        "left": sum(use.shape[1:].numel() for use in found.uses),
        "passing": max([_passing(use) for use in found.uses], default=0),
    }
    factors, mixing, gradients = _coded(found)
    loose |= dict.fromkeys(mixing - set(loose), "its samples are reordered on the way")
    wrong = _disagreeing(factors, gradients)
    loose |= dict.fromkeys(wrong - set(loose), "its rule disagreed")
    for name, list_ in factors.items():
        for factor in list_ if name not in loose else []:
            positions, b = factor.sensitivities.shape[2:]
            a = 0 if factor.inputs is None else factor.inputs.shape[2]
            sizes[name].append((positions, a, b))
    return Probe(outputs.shape[1], sizes, loose, **memory)


def _kept_for_backward(found: Record) -> int:
    """Bytes that the graph holds, parameters apart, each storage counted once."""
    own = {leaf.untyped_storage().data_ptr() for leaf in found.leaves.values()}
    sizes: dict[int, int] = {}
    for node in nodes(found.outputs):
        for name in dir(node):
            value = getattr(node, name) if name.startswith("_saved_") else None
            for tensor in value if isinstance(value, tuple | list) else (value,):
                if isinstance(tensor, Tensor):
                    storage = tensor.untyped_storage()
                    sizes[storage.data_ptr()] = storage.nbytes()
    return sum(size for place, size in sizes.items() if place not in own)


def _passing(use: Use) -> int:
    """Entries per sample of a use's patches, gradient and a copy of either."""
    left = use.shape[1:].numel()
    units = use.rule.units
    weight = use.arguments.get("weight")
    if units is None or weight is None:
        return 2 * left
    channels = use.shape[units]
    groups = use.arguments.get("groups", 1)
    return 2 * left + 2 * left // channels * weight.numel() // channels * groups


def _coded(found: Record) -> tuple[dict[str, list[Factor]], set[str], Params]:
    """Factors of one pass; parameters whose samples mix; gradients of small ones.

    Each pass goes back from some of the samples, two of every four passes from each: of
    any two samples, some pass goes back from the first and not from the second. A row
    of a sample that a pass leaves out has gradient exactly 0, or samples mix.
    """
    outputs = found.outputs
    passes = [pair for pair in itertools.combinations(range(_PASSES), 2)]
    code = torch.zeros(_PASSES, len(outputs))
    for sample in range(len(outputs)):
        code[list(passes[sample]), sample] = 1.0
    stream = seeds.generator(0, "kernel probe")
    mixture = torch.randn(outputs.shape[1], generator=stream, dtype=torch.float64)
    weights = code[:, :, None].to(outputs) * mixture.to(outputs)
    small = [name for name, leaf in found.leaves.items() if leaf.numel() <= _SMALL]
    edges = [use.edge for use in found.uses]
    edges += [get_gradient_edge(found.leaves[name]) for name in small]
    shapes = [use.shape for use in found.uses]
    shapes += [found.leaves[name].shape for name in small]
    grads = _all_passes(outputs, weights, edges, shapes)
    factors: dict[str, list[Factor]] = {name: [] for name in found.leaves}
    mixing: set[str] = set()
    with torch.no_grad():
        for use, d in zip(found.uses, grads, strict=False):
            left_out = d.flatten(2)[code.to(d.device) == 0]
            if left_out.any():
                mixing |= set(use.parameters.values())
            for role, factor in _factors(use, d[:1]).items():
                factors[use.parameters[role]].append(factor)
    own = [grad[0] for grad in grads[len(found.uses) :]]
    return factors, mixing, dict(zip(small, own, strict=True))


def _all_passes(
    outputs: Tensor,
    weights: Tensor,
    edges: list[GradientEdge],
    shapes: list[torch.Size],
) -> list[Tensor]:
    """Gradients of ``outputs`` weighted by each of ``weights``, stacked."""
    try:
        with quiet_vmap():
            stacked = [torch.Size((len(weights), *shape)) for shape in shapes]
            return gradients(
                outputs,
                edges,
                stacked,
                grad_outputs=weights,
                retain_graph=True,
                is_grads_batched=True,
            )
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # an operation without a batched backward pass
        one_by_one = [
            gradients(outputs, edges, shapes, grad_outputs=w, retain_graph=True)
            for w in weights
        ]
        return [torch.stack(parts) for parts in zip(*one_by_one, strict=True)]


def _factors(use: Use, d: Tensor) -> dict[str, Factor]:
    by_role = use.rule.factors(Call(use.arguments, use.inputs, d))
    return {role: by_role[role] for role in use.parameters}


def _disagreeing(factors: dict[str, list[Factor]], gradients: Params) -> set[str]:
    """Parameters whose factors do not sum to their gradient."""
    sizes = {name: sum(f.size() for f in list_) for name, list_ in factors.items()}
    wrong = set()
    for name, gradient in gradients.items():
        flat = gradient.flatten()
        summed = [factor.summed() for factor in factors[name]]
        if any(part.shape != flat.shape for part in summed):
            wrong.add(name)
            continue
        gap = flat
        for part in summed:
            gap = gap - part
        # A sum of terms of either sign rounds by a small multiple of eps times their
        # size; a mistake shows in leading digits. The tolerance lies between. Terms
        # that cancelled before they got here leave rounding of the network's scale.
        eps = torch.finfo(flat.dtype).eps
        slack = eps**0.5 * sizes[name] + 100 * eps * max(sizes.values())
        if not torch.linalg.vector_norm(gap, math.inf).item() <= slack:
            wrong.add(name)
    return wrong
