"""What one parameter adds to a rectangle of the kernel, for each form of its factors.

Floor 4. A term is a pair of uses of one parameter. It is told the band of rows first,
so that what all outputs share is formed once, and then gives its share of one part of
that band after the other, as a product of two matrices entry by entry.
"""

import dataclasses
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ntk_fed import blas
from ntk_fed.kernel.rules import Factor

COLUMNS = 8192  # of a part: with a band a few MiB, the size of a second-level cache
_POSITION_ENTRIES = 2**22  # of a product over pairs of positions, at most
_UNIT_ENTRIES = 2**23  # of the Grams of single units in one band, at most


@dataclasses.dataclass(frozen=True)
class Part:
    """A rectangle of the kernel.

    Attributes:
        rows: samples on the left, those of the band.
        first: output on the left.
        second: outputs on the right.
        columns: samples on the right.
    """

    rows: slice
    first: int
    second: slice
    columns: slice

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(rows, outputs on the right, columns)``, the layout of a share."""
        return length(self.rows), length(self.second), length(self.columns)


def band(itemsize: int) -> int:
    """Rows of a band: few are formed below the diagonal, and products still run fast.

    Both were measured: products of 128 rows reach full speed in float64; in float32
    they reach two thirds of it, and those of 256 rows all.
    """
    return 256 if itemsize <= 4 else 128


def length(part: slice) -> int:
    """How many a slice with both ends takes."""
    return part.stop - part.start


class Scratch:
    """Buffers by name, used again and again: fresh memory costs as much as sums."""

    def __init__(self, like: Tensor) -> None:
        self.like = like
        self.kept: dict[object, Tensor] = {}

    def buffer(self, name: object, *shape: int) -> Tensor:
        """A contiguous tensor whose content is whatever was in it last."""
        entries = torch.Size(shape).numel()
        if name not in self.kept or len(self.kept[name]) < entries:
            self.kept[name] = self.like.new_empty(entries)
        return self.kept[name][:entries].view(shape)


@runtime_checkable
class Term(Protocol):
    """One pair of uses of one parameter."""

    def begin(self, rows: slice, columns: slice, scratch: Scratch) -> None:
        """A new band of rows; its parts will lie within ``columns``."""
        ...

    def share(self, part: Part, scratch: Scratch) -> tuple[Tensor, Tensor | None]:
        """``(rows, outputs, columns)`` to be multiplied by ``(rows, 1, columns)``."""
        ...


def term(left: Factor, right: Factor, outputs: str, band: int) -> Term:
    """The cheapest form for a pair of factors.

    Args:
        left: of the samples of the rows.
        right: of the samples of the columns.
        outputs: ``"trace"``, ``"full"`` or ``"diagonal"``.
        band: rows in a band.
    """
    if left.mix is not None and right.mix is not None:
        if outputs == "trace":  # Σ_a d_a d'_a = Σ_units (Σ_a m_a m'_a) s s'
            mix = (left.mix * right.mix).sum(dim=0, keepdim=True)
            left = Factor(left.sensitivities, left.inputs, mix)
            right = Factor(right.sensitivities, right.inputs)
        elif _worth_units(left, right, band):
            return _Units(left, right)
    left, right = left.per_output(), right.per_output()
    if left.sensitivities.shape[2] == right.sensitivities.shape[2] == 1:
        return _Dense(left, right, summed=outputs == "trace")
    return _Positions(left, right, summed=outputs == "trace")


def _worth_units(left: Factor, right: Factor, band: int) -> bool:
    """Are Grams of single units cheaper than one product for each pair of outputs?"""
    assert left.mix is not None
    units = left.mix.shape[1]
    entries = units * band * right.sensitivities.shape[1]
    each = left.sensitivities.shape[-1] // units
    return left.inputs is None and each > 4 and entries <= _UNIT_ENTRIES


class _Dense:
    """One position: the Gram of sensitivities times the Gram of inputs."""

    def __init__(self, left: Factor, right: Factor, *, summed: bool) -> None:
        self.d, self.d2 = left.sensitivities[:, :, 0], right.sensitivities[:, :, 0]
        self.u, self.v = left.inputs, right.inputs
        self.summed = summed
        self.gram: Tensor | None = None
        self.start = 0

    def begin(self, rows: slice, columns: slice, scratch: Scratch) -> None:
        if self.u is None or self.v is None:
            return
        self.gram = scratch.buffer((id(self), "gram"), length(rows), length(columns))
        self.start = columns.start
        blas.product(self.u[rows, 0], self.v[columns, 0].T, out=self.gram)

    def share(self, part: Part, scratch: Scratch) -> tuple[Tensor, Tensor | None]:
        share = scratch.buffer("share", *part.shape)
        if self.summed:
            for a, (d, d2) in enumerate(zip(self.d, self.d2, strict=True)):
                blas.product(
                    d[part.rows], d2[part.columns].T, out=share[:, 0], add=a > 0
                )
        else:
            d, d2 = self.d[part.first, part.rows], self.d2[part.second, part.columns]
            blas.product(d, d2.flatten(0, 1).T, out=share.flatten(1))
        return share, _columns(self.gram, self.start, part)


def _columns(gram: Tensor | None, start: int, part: Part) -> Tensor | None:
    """The part's columns of what a band keeps from column ``start`` on."""
    if gram is None:
        return None
    columns = gram[..., part.columns.start - start : part.columns.stop - start]
    return columns.unsqueeze(-2)


class _Positions:
    """Several positions: ``Σ_pq (d_p·d'_q)(u_p·u'_q)``."""

    def __init__(self, left: Factor, right: Factor, *, summed: bool) -> None:
        self.d, self.d2 = left.sensitivities, right.sensitivities
        self.u, self.v = left.inputs, right.inputs
        if summed:
            self.d, self.d2 = _outputs_inside(self.d), _outputs_inside(self.d2)

    def begin(self, rows: slice, columns: slice, scratch: Scratch) -> None:
        pass

    def share(self, part: Part, scratch: Scratch) -> tuple[Tensor, Tensor | None]:
        share = scratch.buffer("share", *part.shape)
        d, d2 = self.d[part.first], self.d2[part.second, part.columns]
        q = d2.shape[2]
        step = max(1, _POSITION_ENTRIES // (d.shape[1] * d2.shape[:3].numel()))
        for start in range(part.rows.start, part.rows.stop, step):
            few = slice(start, min(start + step, part.rows.stop))
            shape = (length(few), d.shape[1], *d2.shape[:3])  # (n, P, o, n2, Q)
            product = blas.product(_matrix(d[few]), _matrix(d2).T).view(shape)
            if self.u is not None and self.v is not None:
                v = self.v[part.columns]
                gram = blas.product(_matrix(self.u[few]), _matrix(v).T)
                product *= gram.view(length(few), d.shape[1], 1, len(v), q)
            begin = start - part.rows.start
            torch.sum(product, dim=(1, 4), out=share[begin : begin + length(few)])
        return share, None


def _outputs_inside(d: Tensor) -> Tensor:
    """``(o, n, P, b)`` as ``(1, n, P, o·b)``: products then sum over outputs."""
    return d.permute(1, 2, 0, 3).flatten(2)[None]


def _matrix(values: Tensor) -> Tensor:
    return values.reshape(-1, values.shape[-1])


class _Units:
    """All outputs see a unit in one way: a Gram for each unit, mixed for each pair."""

    def __init__(self, left: Factor, right: Factor) -> None:
        assert left.mix is not None
        assert right.mix is not None
        self.mix, self.mix2 = left.mix, right.mix
        units = self.mix.shape[1]
        d, d2 = left.sensitivities[0, :, 0], right.sensitivities[0, :, 0]
        self.d = d.unflatten(-1, (units, -1)).transpose(0, 1)  # (c, n, r)
        self.d2 = d2.unflatten(-1, (units, -1)).transpose(0, 1)
        self.grams: Tensor | None = None
        self.start = 0

    def begin(self, rows: slice, columns: slice, scratch: Scratch) -> None:
        self.start = columns.start
        self.grams = torch.bmm(self.d[:, rows], self.d2[:, columns].mT)

    def share(self, part: Part, scratch: Scratch) -> tuple[Tensor, Tensor | None]:
        grams = _columns(self.grams, self.start, part)
        assert grams is not None
        mix = self.mix[part.first] * self.mix2[part.second]  # (outputs, c)
        return torch.einsum("oc,cron->ron", mix, grams.expand(-1, -1, 1, -1)), None
