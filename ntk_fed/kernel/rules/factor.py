"""What a rule hands back: the Jacobian of one use of one parameter, in two factors."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Factor:
    r"""Jacobian of one use of one parameter, multiplied out only where that is cheaper.

    .. math:: \partial f_a(x_i)/\partial W = \sum_p d_{a i p} \otimes u_{i p}
        \quad\text{(the sum of } d_{a i p} \text{ alone when there is no } u)

    Attributes:
        sensitivities: ``d``, ``(o, n, P, b)``: output ``a`` by what left the layer at
            each of ``P`` positions (1 for a dense layer on vectors).
        inputs: ``u``, ``(n, P, a)``: what entered the layer, or ``None``.
        mix: ``(o, c)``, where all outputs see a unit in one way: then ``sensitivities``
            is ``(1, n, P, b)`` with ``b = c·r`` and ``d_a`` is ``mix_a`` times it, unit
            by unit. True of the layer below a dense last one; ``None`` elsewhere.
    """

    sensitivities: Tensor
    inputs: Tensor | None = None
    mix: Tensor | None = None

    @property
    def outputs(self) -> int:
        """How many outputs the Jacobian has."""
        return len(self.sensitivities if self.mix is None else self.mix)

    def per_output(self) -> "Factor":
        """The same with the sensitivities of every output written out."""
        if self.mix is None:
            return self
        d = self.sensitivities[0].unflatten(-1, (self.mix.shape[1], -1))
        mixed = self.mix[:, None, None, :, None] * d
        return Factor(mixed.flatten(-2), self.inputs)

    @classmethod
    def cheapest(cls, sensitivities: Tensor, inputs: Tensor) -> "Factor":
        """The pair as it is, or its Jacobian, whichever contracts with fewer products.

        Per pair of samples the pair costs ``P²(a + b)``, the Jacobian ``a·b``.
        """
        positions, b = sensitivities.shape[2:]
        a = inputs.shape[2]
        factor = cls(sensitivities, inputs)
        if positions == 1 or positions**2 * (a + b) < a * b:
            return factor
        return factor.multiplied()

    @classmethod
    def explicit(cls, jacobian: Tensor) -> "Factor":
        """From the Jacobian itself, ``(o, n, *shape)``."""
        o, n = jacobian.shape[:2]
        return cls(jacobian.reshape(o, n, 1, -1))

    def multiplied(self) -> "Factor":
        """The same Jacobian, multiplied out."""
        if self.inputs is None:
            return self
        o, n, _, b = self.sensitivities.shape
        product = self.inputs.new_empty(o, n, b, self.inputs.shape[2])
        for d, out in zip(self.sensitivities, product, strict=True):
            torch.bmm(d.mT, self.inputs, out=out)  # no copies, unlike einsum's
        return dataclasses.replace(self.explicit(product), mix=self.mix)

    @staticmethod
    def joined(parts: Sequence["Factor"]) -> "Factor":
        """One factor for the samples of all ``parts``, one part after another."""
        if len(parts) == 1:
            return parts[0]
        mixes = [part.mix for part in parts if part.mix is not None]
        mix = mixes[0] if len(mixes) == len(parts) else None
        if mix is not None and any(not torch.equal(mix, other) for other in mixes):
            mix = None
        if mix is None:
            parts = [part.per_output() for part in parts]
        inputs = [part.inputs for part in parts if part.inputs is not None]
        return Factor(
            torch.cat([part.sensitivities for part in parts], dim=1),
            torch.cat(inputs) if inputs else None,
            mix,
        )

    def size(self) -> float:
        """A bound on the terms of :meth:`summed`, to judge its rounding."""
        if self.mix is not None:
            return self.per_output().size()
        inputs = 1.0 if self.inputs is None else self.inputs.abs().max().item()
        return self.sensitivities.abs().sum(dim=(0, 1, 2)).max().item() * inputs

    def summed(self) -> Tensor:
        """``Σ ∂f_a(x_i)/∂W`` over samples and outputs, flat."""
        if self.mix is not None:
            return self.per_output().summed()
        if self.inputs is None:
            return self.sensitivities.sum(dim=(0, 1, 2))
        left = self.sensitivities.sum(dim=0).flatten(0, 1)  # (n·P, b)
        return (left.T @ self.inputs.flatten(0, 1)).flatten()


@dataclasses.dataclass(frozen=True)
class Call:
    """One operation on parameters: its arguments by name, what it was given and gave.

    Attributes:
        arguments: all arguments by name, tensors detached, parameters left in place.
        inputs: what entered, detached.
        sensitivities: ``(o, n, ...)``: outputs of the network by what the call gave.
    """

    arguments: dict[str, Any]
    inputs: Tensor
    sensitivities: Tensor


@dataclasses.dataclass(frozen=True)
class Rule:
    """How to treat one operation.

    Attributes:
        signature: from its arguments to a dictionary by name.
        inputs: name of the argument that carries the samples.
        parameters: names of the arguments that may be parameters.
        factors: from a call to a factor for each of those names, linear in the
            sensitivities, unit by unit of what left.
        covers: is this call one that the rule can treat?
        units: axis of what left that counts units, outermost in the ``b`` of every
            factor; ``None`` where there is no such axis.
        run: the operation from its arguments, with a graph that leads back to what
            entered and no gradient of parameters; used where it beats torch's own.
    """

    signature: Callable[..., dict[str, Any]]
    inputs: str
    parameters: tuple[str, ...]
    factors: Callable[[Call], dict[str, Factor]]
    covers: Callable[[dict[str, Any]], bool] = lambda arguments: True
    units: int | None = None
    run: Callable[[dict[str, Any]], Tensor] | None = None
