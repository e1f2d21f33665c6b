"""From factors to kernel blocks: tiled products that stay in the cache.

Floor 4. The share of one parameter is ``Σ (d dᵀ) ∘ (u uᵀ)`` over pairs of its uses. It
is formed in bands of rows, in buffers that are used again and again. Of a symmetric
kernel only what lies on and above the diagonal is formed.
"""

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ntk_fed.kernel.layerwise import Factors, multiplied_sum
from ntk_fed.kernel.rules import Factor
from ntk_fed.kernel.terms import COLUMNS, Part, Scratch, Term, band, term


def block(
    left: Factors, right: Factors, outputs: str, *, symmetric: bool, by_layer: bool
) -> dict[str, Tensor]:
    """The kernel between two sets of samples, from their factors.

    Args:
        left: factors of ``n`` samples.
        right: factors of ``n2`` samples; the same object when ``symmetric``.
        outputs: ``"trace"``, ``"full"`` or ``"diagonal"``.
        symmetric: form one triangle and mirror it.
        by_layer: one kernel per parameter; otherwise their sum under ``""``.

    Returns:
        Name -> ``(n, n2)``, ``(n, n2, o, o)`` or ``(n, n2, o)``.
    """
    first, second = next(iter(left.values()))[0], next(iter(right.values()))[0]
    o, n = first.outputs, first.sensitivities.shape[1]
    n2 = second.sensitivities.shape[1]
    groups = {name: [name] for name in left} if by_layer else {"": list(left)}
    found = {}
    for group, names in groups.items():
        planes = _Planes(outputs, first.sensitivities.new_empty, (o, n, n2), symmetric)
        terms = [
            term(u, v, outputs, min(band(first.sensitivities.element_size()), n))
            for name in names
            for u, v in itertools.product(*_in_one_form(left[name], right[name]))
        ]
        _fill(planes, terms)
        found[group] = planes.arranged()
    return found


def _in_one_form(
    left: list[Factor], right: list[Factor]
) -> tuple[list[Factor], list[Factor]]:
    """Both sides as pairs of factors, or both multiplied out."""
    if len({use.inputs is None for use in (*left, *right)}) == 1:
        return left, right
    return [multiplied_sum(left)], [multiplied_sum(right)]


class _Planes:
    """The kernel as one ``(n, n2)`` plane for each pair of outputs that is kept."""

    def __init__(
        self,
        outputs: str,
        new: Callable[..., Tensor],
        sizes: tuple[int, int, int],
        symmetric: bool,
    ) -> None:
        o, self.n, self.n2 = sizes
        self.outputs, self.symmetric = outputs, symmetric
        pairs = {"trace": (1, 1), "diagonal": (o, 1), "full": (o, o)}[outputs]
        self.values = new(*pairs, self.n, self.n2)

    def seconds(self, a: int) -> slice:
        """Outputs on the right to be formed with output ``a`` on the left."""
        if self.outputs == "full":
            return slice(a if self.symmetric else 0, len(self.values))
        return slice(a, a + 1)

    def columns(self, start: int, *, own: bool) -> slice:
        """Samples on the right to be formed with samples from ``start`` on."""
        return slice(start if own and self.symmetric else 0, self.n2)

    def place(self, part: Part, total: Tensor) -> None:
        """Write ``(rows, outputs, columns)`` where it belongs, and its mirror image."""
        for k, b in enumerate(range(part.second.start, part.second.stop)):
            share = total[:, k]
            c = b if self.outputs == "full" else 0
            if self.symmetric and part.first != b:
                self.values[b, part.first, part.columns, part.rows] = share.T
            elif self.symmetric:
                if part.columns.start == part.rows.start:
                    corner = share[:, : len(share)]
                    corner.copy_(torch.triu(corner) + torch.triu(corner, 1).T)
                self.values[part.first, c, part.columns, part.rows] = share.T
            self.values[part.first, c, part.rows, part.columns] = share

    def arranged(self) -> Tensor:
        """Sample axes first, as a view."""
        match self.outputs:
            case "trace":
                return self.values[0, 0]
            case "diagonal":
                return self.values[:, 0].permute(1, 2, 0)
            case _:
                return self.values.permute(2, 3, 0, 1)


def _fill(planes: _Planes, terms: list[Term]) -> None:
    """Sum all terms, band by band and part by part."""
    scratch = Scratch(planes.values)
    firsts = len(planes.values)
    step = band(planes.values.element_size())
    for start in range(0, planes.n, step):
        rows = slice(start, min(start + step, planes.n))
        # Two different outputs see both triangles of what all outputs share.
        one_pair = planes.values.shape[1] == 1
        for one in terms:
            one.begin(rows, planes.columns(start, own=one_pair), scratch)
        for a in range(firsts):
            for part in _parts(planes, rows, a):
                planes.place(part, _summed(terms, part, scratch))


def _parts(planes: _Planes, rows: slice, a: int) -> Iterator[Part]:
    """A band's rectangles of output ``a``, none with too many columns.

    Several outputs stand side by side where all their columns are wanted.
    """
    seconds = planes.seconds(a)
    b = seconds.start
    while b < seconds.stop:
        own = a == b
        columns = planes.columns(rows.start, own=own)
        beside = 1
        if not (own and planes.symmetric):
            beside = min(max(1, COLUMNS // planes.n2), seconds.stop - b)
        # From the diagonal block on, so that it is one part.
        for start in range(columns.start, columns.stop, COLUMNS):
            some = slice(start, min(start + COLUMNS, columns.stop))
            yield Part(rows, a, slice(b, b + beside), some)
        b += beside


def _summed(terms: list[Term], part: Part, scratch: Scratch) -> Tensor:
    """``(rows, outputs, columns)`` of the sum of all terms."""
    total = scratch.buffer("total", *part.shape)
    for k, one in enumerate(terms):
        share, gram = one.share(part, scratch)
        if gram is None:
            total.copy_(share) if k == 0 else total.add_(share)
        elif k == 0:
            torch.mul(share, gram, out=total)
        else:
            total.addcmul_(share, gram)
    return total
