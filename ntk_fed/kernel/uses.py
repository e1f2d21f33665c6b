"""Where a network uses its parameters: found by watching one forward pass.

Floor 4. Every operation that touches a trainable parameter is intercepted. If a rule
covers it, what enters and what leaves is kept as a :class:`Use`. A parameter met in any
other operation is *loose*: its Jacobian has to be formed by the generic path.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode, resolve_name

from ntk_fed import blas
from ntk_fed.kernel.rules import RULES, Rule
from ntk_fed.params import Params, call, graph_without_gaps, own_buffers

# Reading these off a parameter creates no function of its values.
_HARMLESS = {
    getattr(torch.Tensor, name).__get__
    for name in (
        *("shape", "dtype", "device", "ndim", "requires_grad", "is_cuda", "layout"),
        *("is_leaf", "grad_fn", "is_sparse", "is_quantized", "itemsize"),
    )
} | {
    torch.Tensor.size,
    torch.Tensor.dim,
    torch.Tensor.numel,
    torch.Tensor.is_floating_point,
    torch.Tensor.is_complex,
    torch.Tensor.stride,
}


@dataclasses.dataclass(frozen=True)
class Use:
    """One operation on trainable parameters that a rule covers.

    Attributes:
        rule: the rule.
        parameters: argument of the operation -> name of the parameter.
        arguments: all its arguments, by name.
        inputs: what entered, detached.
        edge: where in the graph the gradient by what left is found. Not what left
            itself: nothing else may need it, and its memory is then used again.
        shape: of what left.
    """

    rule: Rule
    parameters: dict[str, str]
    arguments: dict[str, Any]
    inputs: Tensor
    edge: GradientEdge
    shape: torch.Size


@dataclasses.dataclass(frozen=True)
class Record:
    """What one forward pass showed.

    Attributes:
        outputs: of the network, ``(n, o)``, with a graph.
        uses: operations that rules cover.
        loose: parameter -> an operation on it that no rule covers, or where else it is
            used.
        leaves: the parameters, as leaves of the graph.
    """

    outputs: Tensor
    uses: list[Use]
    loose: dict[str, str]
    leaves: Params


class _Watch(TorchFunctionMode):
    def __init__(self, params: Params, samples: int) -> None:
        super().__init__()
        self.samples = samples
        self.names = {id(value): name for name, value in params.items()}
        self.uses: list[Use] = []
        self.loose: dict[str, str] = {}

    def name_of(self, value: Any) -> str | None:
        return self.names.get(id(value)) if isinstance(value, Tensor) else None

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        touched = {
            name
            for value in _flat((*args, *kwargs.values()))
            if (name := self.name_of(value)) is not None
        }
        if not touched or func in _HARMLESS:
            return func(*args, **kwargs)
        rule = RULES.get(func)
        arguments = rule.signature(*args, **kwargs) if rule else {}
        roles = {
            role: name
            for role in (rule.parameters if rule else ())
            if (name := self.name_of(arguments.get(role))) is not None
        }
        if (
            rule is None
            or set(roles.values()) != touched
            or not rule.covers(arguments)
            or len(arguments[rule.inputs]) != self.samples  # the batch was reshaped
        ):
            words = resolve_name(func) or getattr(func, "__name__", str(func))
            self.loose |= dict.fromkeys(touched, words)
            return func(*args, **kwargs)
        if rule.run is not None and blas.by_numpy(arguments[rule.inputs]):
            output = rule.run(arguments)
        else:
            output = func(*args, **kwargs)
        leaf = not output.requires_grad  # integer inputs: nothing before has a graph
        if leaf:
            output.requires_grad_()
        inputs = arguments[rule.inputs].detach()
        edge = get_gradient_edge(output)
        self.uses.append(Use(rule, roles, arguments, inputs, edge, output.shape))
        return output.clone() if leaf else output  # a leaf refuses to change in place


def _flat(values: Any) -> Iterator[Any]:
    """The values, with lists and tuples opened (recurrent layers pass weight lists)."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value


def record(model: torch.nn.Module, params: Params, state: Params, x: Tensor) -> Record:
    """Run the network once and note every use of its trainable parameters.

    What is intercepted is held against autograd's own graph, where nothing can hide (an
    extension of torch shows no operation, a list holds a parameter no one lists).

    Args:
        model: network returning ``(n, o)``.
        params: trainable parameters, detached.
        state: frozen parameters and buffers; copies of the buffers are used.
        x: inputs, ``(n, ...)``; a copy is used.

    Raises:
        ValueError: a trainable tensor is used that is not among ``params``.
    """
    leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
    leaf = x.detach()
    if x.is_floating_point():  # every output is then inside the graph, none a leaf
        leaf.requires_grad_()
    watch = _Watch(leaves, len(x))
    with torch.enable_grad(), graph_without_gaps(), watch:
        outputs = call(model, leaves, leaf.clone(), own_buffers(model, state))
    graph = nodes(outputs)
    counted = _uses_in_graph(graph, leaves, [leaf])
    for use in watch.uses:
        if use.edge.node in graph:
            for name in use.parameters.values():
                counted[name] -= 1
    hidden = [name for name, more in counted.items() if more > 0]
    loose = dict.fromkeys(hidden, "used where no operation shows it") | watch.loose
    uses = [u for u in watch.uses if not set(u.parameters.values()) <= set(loose)]
    return Record(outputs, uses, loose, leaves)


def _uses_in_graph(
    graph: set[Any], params: Params, known: list[Tensor]
) -> dict[str, int]:
    """How often each parameter is used in a graph."""
    names = {id(value): name for name, value in params.items()}
    others = {id(value) for value in known}
    found = dict.fromkeys(params, 0)
    for node in graph:
        for following, _ in node.next_functions:
            leaf = getattr(following, "variable", None)
            if leaf is None or id(leaf) in others:
                continue
            if id(leaf) not in names:
                raise ValueError(
                    f"model uses a trainable tensor of shape {tuple(leaf.shape)} that "
                    "is not among its named parameters. Register it (an attribute that "
                    "is a Parameter, ParameterList), or detach it."
                )
            found[names[id(leaf)]] += 1
    return found


def nodes(outputs: Tensor) -> set[Any]:
    """All nodes of the graph behind ``outputs``."""
    seen, waiting = set(), [outputs.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
    return seen


def gradients(
    total: Tensor,
    places: Sequence[GradientEdge],
    shapes: Sequence[torch.Size],
    **options: Any,
) -> list[Tensor]:
    """``torch.autograd.grad`` with zeros for what ``total`` does not depend on."""
    if not total.requires_grad:
        return [total.new_zeros(shape) for shape in shapes]
    found = torch.autograd.grad(total, tuple(places), allow_unused=True, **options)
    return [
        total.new_zeros(shape) if gradient is None else gradient
        for gradient, shape in zip(found, shapes, strict=True)
    ]
