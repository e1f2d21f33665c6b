"""A Gram matrix from its blocks: one after another, on disk, or on many processes.

Floor 4. A block needs the factors of its rows and of its columns and nothing else, so
blocks can be computed anywhere and in any order, and have the same bits.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from ntk_fed import blas
from ntk_fed.errors import NonFiniteError
from ntk_fed.executor import Executor, run
from ntk_fed.jacobians import raw_jacobian
from ntk_fed.kernel import layerwise
from ntk_fed.kernel.contract import block
from ntk_fed.kernel.plan import Plan
from ntk_fed.kernel.rules import Factor
from ntk_fed.kernel.tiles import TiledFile
from ntk_fed.params import Params


@dataclasses.dataclass(frozen=True)
class Side:
    """One side of the kernel: a network at some parameters, on some samples."""

    model: torch.nn.Module
    params: Params
    state: Params
    x: Tensor

    def factors(self, plan: Plan, rows: slice) -> layerwise.Factors:
        """What the engine multiplies, by parameter."""
        args = (self.model, self.params, self.state, self.x[rows])
        if plan.engine == "layerwise":
            return layerwise.factors(*args, loose=plan.loose, chunk=plan.chunk)
        return {
            name: [Factor.explicit(j.transpose(0, 1))]
            for name, j in raw_jacobian(*args).items()
        }


@dataclasses.dataclass
class Job:
    """All that a block is computed from.

    Attributes:
        left: side of the rows.
        right: side of the columns; that of the rows when ``symmetric``.
        plan: engine and sizes.
        outputs: ``"trace"``, ``"full"`` or ``"diagonal"``.
        symmetric: one point set and one parameter set?
        by_layer: one kernel per parameter?
        libraries: which library multiplies, by dtype, as chosen where the job began.
    """

    left: Side
    right: Side
    plan: Plan
    outputs: str
    symmetric: bool
    by_layer: bool
    libraries: dict[str, str] = dataclasses.field(default_factory=dict)
    _mine: tuple[slice, layerwise.Factors] | None = None

    def blocks(self) -> list[tuple[slice, slice]]:
        """Rows by rows, of a symmetric kernel from the diagonal on."""
        n, n2, size = len(self.left.x), len(self.right.x), self.plan.block
        return [
            (slice(i, min(i + size, n)), slice(j, min(j + size, n2)))
            for i in range(0, n, size)
            for j in range(i if self.symmetric else 0, n2, size)
        ]

    def block(self, rows: slice, columns: slice) -> dict[str, Tensor]:
        """The shares of one block; factors of the rows are kept for the next."""
        # Other networks have work for torch's threads between products.
        operations = self.plan.operations if self.plan.dense else 0
        with blas.job(self.left.x, operations):
            if self._mine is None or self._mine[0] != rows:
                self._mine = None  # its memory is free before more is taken
                self._mine = rows, self.left.factors(self.plan, rows)
            same = self.symmetric and rows == columns
            mine = self._mine[1]
            other = mine if same else self.right.factors(self.plan, columns)
            found = block(
                mine, other, self.outputs, symmetric=same, by_layer=self.by_layer
            )
        for share in found.values():
            if not all(math.isfinite(end) for end in share.aminmax()):
                raise NonFiniteError(_why_not_finite(mine, rows, other, columns))
        return found


def _why_not_finite(
    mine: layerwise.Factors, rows: slice, other: layerwise.Factors, columns: slice
) -> str:
    """Which samples have no finite gradient, if that is it."""
    for factors, where, word in ((mine, rows, "x"), (other, columns, "the columns' x")):
        for name, uses in factors.items():
            for use in uses:
                by_sample = use.sensitivities.transpose(0, 1).flatten(1)
                bad = (~by_sample.isfinite().all(dim=1)).nonzero().flatten()
                if len(bad):
                    return (
                        f"the gradient by {name!r} is NaN or infinite for {len(bad)} "
                        f"samples of {word}, the first at {bad[0].item() + where.start}"
                        ". Remove those samples, or look for a root, norm or division "
                        "at zero in the forward pass."
                    )
    return (
        "entries of the kernel lie outside the range of its dtype, though all "
        "gradients are finite. Scale the inputs down, or pass dtype=torch.float64."
    )


def _block_elsewhere(job: Job, rows: slice, columns: slice) -> dict[str, Any]:
    """One block in a worker process, as arrays: these travel by value."""
    blas.restore(job.libraries)
    found = job.block(rows, columns)
    return {name: share.cpu().contiguous().numpy() for name, share in found.items()}


def assemble(
    job: Job, *, progress: bool, tiles: TiledFile | None, executor: Executor | None
) -> dict[str, Tensor]:
    """All blocks in one matrix per name; a symmetric one is mirrored.

    Args:
        job: what to compute.
        progress: show a progress bar, with the time left.
        tiles: the file to write to and what of it is done already.
        executor: where the blocks are computed; ``None`` is this process.
    """
    blocks = job.blocks()
    if len(blocks) == 1 and tiles is None:
        return job.block(*blocks[0])
    found: dict[str, Tensor] = {} if tiles is None else {"": tiles.tensor}
    missing = [k for k in range(len(blocks)) if tiles is None or k not in tiles.done]
    results = _computed(job, [blocks[k] for k in missing], executor)
    for k, shares in track(results, "kernel", total=len(missing), disable=not progress):
        index = missing[k]
        _place(found, shares, job, *blocks[index])
        if tiles is not None:
            tiles.finish(index)
    return found


def _computed(
    job: Job, blocks: list[tuple[slice, slice]], executor: Executor | None
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """``(index, shares)`` of every block, here or elsewhere, as they finish."""
    if executor is None:
        for k, (rows, columns) in enumerate(blocks):
            yield k, job.block(rows, columns)
        return
    device = job.left.x.device
    for k, arrays in run(_block_elsewhere, blocks, executor=executor, shared=job):
        yield k, {n: torch.from_numpy(a).to(device) for n, a in arrays.items()}


def _place(
    found: dict[str, Tensor],
    shares: dict[str, Tensor],
    job: Job,
    rows: slice,
    columns: slice,
) -> None:
    n, n2 = len(job.left.x), len(job.right.x)
    for name, share in shares.items():
        if name not in found:
            found[name] = share.new_empty(n, n2, *share.shape[2:])
        found[name][rows, columns] = share
        if job.symmetric and rows != columns:
            turned = share.transpose(0, 1)
            turned = turned.transpose(2, 3) if job.outputs == "full" else turned
            found[name][columns, rows] = turned
