"""The tangent kernel layer by layer, in factors small enough to keep.

Floor 4. For a dense layer ``z = u Wᵀ`` the Jacobian of output ``a`` is ``d_a ⊗ u``, so
its share of the kernel is ``(d dᵀ) ∘ (u uᵀ)``: two small products instead of one of
length ``p``. Rules say the same for other layers. A parameter that no rule covers gets
its own Jacobian, so that the answer is always right.
"""

import dataclasses

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from ntk_fed.jacobians import quiet_vmap, raw_jacobian
from ntk_fed.kernel.rules import Call, Factor
from ntk_fed.kernel.uses import Record, Use, gradients, record
from ntk_fed.params import Params

Factors = dict[str, list[Factor]]
_LOOKED_AT = 2**18  # entries compared at a time: a cache's worth
_AT_ONCE = 2**18  # entries of sensitivities up to which outputs go back together


def factors(
    model: torch.nn.Module,
    params: Params,
    state: Params,
    x: Tensor,
    *,
    loose: frozenset[str] = frozenset(),
    chunk: int | None = None,
) -> Factors:
    """The factors of every use of every trainable parameter, for the samples ``x``.

    Args:
        model: network returning ``(n, o)``.
        params: trainable parameters, detached.
        state: frozen parameters and buffers.
        x: inputs, ``(n, ...)``.
        loose: parameters to send through the generic path in any case.
        chunk: samples that go through the network together; ``None`` is all.

    Cost:
        One forward pass and one backward pass per output; memory ``n`` times the
        layers' inputs plus ``n·o`` times their outputs. For loose parameters their
        Jacobian.
    """
    parts = [
        _factors(model, params, state, part, loose) for part in x.split(chunk or len(x))
    ]
    if len(parts) == 1:
        return parts[0]
    return {name: _joined([part[name] for part in parts]) for name in params}


def _joined(parts: list[list[Factor]]) -> list[Factor]:
    """One list of uses for all samples; summed where samples differ in their uses."""
    forms = {
        tuple((f.inputs is None, *f.sensitivities.shape[2:]) for f in part)
        for part in parts
    }
    if len(forms) > 1:
        parts = [[multiplied_sum(part)] for part in parts]
    return [Factor.joined(uses) for uses in zip(*parts, strict=True)]


def multiplied_sum(uses: list[Factor]) -> Factor:
    """The Jacobian of all uses of a parameter together."""
    total: Tensor | int = 0
    for use in uses:
        total = total + use.per_output().multiplied().sensitivities
    assert isinstance(total, Tensor)
    return Factor(total)


def _factors(
    model: torch.nn.Module,
    params: Params,
    state: Params,
    x: Tensor,
    loose: frozenset[str],
) -> Factors:
    found = record(model, params, state, x)
    generic = loose | set(found.loose)
    o = found.outputs.shape[1]
    result: Factors = {name: [] for name in params}
    used = [u for u in found.uses if not set(u.parameters.values()) <= generic]
    sensitivities = _sensitivities(found, used)
    for use in used:
        d = sensitivities.pop(0)  # its memory is free for the next
        for role, factor in _by_rule(use, d).items():
            if use.parameters[role] not in generic:
                result[use.parameters[role]].append(factor)
    if generic:
        own = {name: params[name] for name in params if name in generic}
        rest = {**state, **{k: v for k, v in params.items() if k not in generic}}
        for name, j in raw_jacobian(model, own, rest, x).items():
            result[name] = [Factor.explicit(j.transpose(0, 1))]
    unused = Factor(found.outputs.new_zeros(o, len(x), 1, 1))
    return {name: _alike(list_) or [unused] for name, list_ in result.items()}


def _by_rule(use: Use, d: Tensor) -> dict[str, Factor]:
    """The factors of one use by role, for one output only where all are alike."""
    mix = None
    if use.rule.units is not None and len(d) > 1:
        units = use.rule.units % (d.ndim - 1) + 1  # outputs stand in front
        alike = in_one_way(d, units)
        if alike is not None:
            d, mix = alike
    found = use.rule.factors(Call(use.arguments, use.inputs, d))
    return {role: dataclasses.replace(found[role], mix=mix) for role in use.parameters}


def in_one_way(d: Tensor, units: int) -> tuple[Tensor, Tensor] | None:
    """``s`` and ``m`` with ``d_a = m_a s`` unit by unit, if all outputs see units so.

    True of the layer below a dense last one: ``d_a = W_a ∘ g`` with the gates ``g``,
    also with a mean over positions between. Found by comparing every entry, to the
    rounding of one product; no other sensitivities are taken for such by accident.

    Args:
        d: sensitivities, ``(o, n, ...)``.
        units: the axis of ``d`` that counts units.

    Returns:
        ``s``, ``(1, n, ...)``, and ``m``, ``(o, units)``; ``None`` if there are none.
    """
    sides = d.shape[1:units].numel(), d.shape[units + 1 :].numel()
    flat = d.reshape(len(d), sides[0], -1, sides[1])  # (o, A, units, R)
    few = flat[:, : max(2, _LOOKED_AT // flat[0, 0].numel())]
    amplitude = torch.stack([part.abs().amax(dim=(0, 2)) for part in few])
    loudest = amplitude.argmax(dim=0)  # the output that sees a unit most
    first = few.gather(0, loudest[:, None].expand(1, *few.shape[1:]))[
        0
    ]  # (A, units, R)
    by_unit = first.transpose(0, 1).flatten(1)
    where = by_unit.abs().argmax(dim=1, keepdim=True)  # its largest entry there
    peak = by_unit.gather(1, where)[:, 0]
    entries = [part.transpose(0, 1).flatten(1).gather(1, where)[:, 0] for part in few]
    mix = torch.stack(entries) / torch.where(peak == 0, 1.0, peak)
    if not _matches(few, first, mix):
        return None
    s = torch.empty_like(flat[0])
    for a in loudest.unique().tolist():
        seen = loudest == a
        s[:, seen] = flat[a][:, seen]
    if not _matches(flat, s, mix):
        return None
    return s.reshape(1, *d.shape[1:]), mix


def _matches(d: Tensor, s: Tensor, mix: Tensor) -> bool:
    """Is ``d_a = m_a s`` in every entry, to the rounding of a product?"""
    slack = 4 * torch.finfo(d.dtype).eps
    step = max(1, _LOOKED_AT // s[0].numel())
    for start in range(0, len(s), step):
        part = s[start : start + step]
        for one, m in zip(d[:, start : start + step], mix, strict=True):
            meant = m[:, None] * part
            gap = (one - meant).abs_()
            if not (gap <= meant.abs_().mul_(slack)).all():  # NaN matches nothing
                return False
    return True


def _alike(uses: list[Factor]) -> list[Factor]:
    """Cross products of uses need all of them in one form."""
    if len({use.inputs is None for use in uses}) > 1:
        return [use.multiplied() for use in uses]
    return uses


def _sensitivities(found: Record, used: list[Use]) -> list[Tensor]:
    """Outputs of the network by what left each use, ``(o, n, ...)``."""
    if not used:
        return []
    edges, shapes = [use.edge for use in used], [use.shape for use in used]
    o = found.outputs.shape[1]
    if o > 1 and o * max(shape.numel() for shape in shapes) <= _AT_ONCE:
        try:
            return _all_outputs_at_once(found.outputs, edges, shapes)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            pass  # an operation without a batched backward pass: one output at a time
    kept = (
        [found.outputs.detach().new_empty(o, *shape) for shape in shapes]
        if o > 1
        else []
    )
    for a in range(o):
        one = torch.zeros_like(found.outputs)
        one[:, a] = 1.0
        grads = gradients(
            found.outputs, edges, shapes, grad_outputs=one, retain_graph=a < o - 1
        )
        if o == 1:
            return [grad[None] for grad in grads]
        for k, grad in zip(kept, grads, strict=True):
            k[a] = grad
    return kept


def _all_outputs_at_once(
    outputs: Tensor, edges: list[GradientEdge], shapes: list[torch.Size]
) -> list[Tensor]:
    n, o = outputs.shape
    ones = torch.eye(o, dtype=outputs.dtype, device=outputs.device)
    ones = ones[:, None, :].expand(o, n, o)
    with quiet_vmap():
        return gradients(
            outputs,
            edges,
            [torch.Size((o, *shape)) for shape in shapes],
            grad_outputs=ones,
            retain_graph=True,
            is_grads_batched=True,
        )
