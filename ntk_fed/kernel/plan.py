"""Which engine computes a kernel, in blocks of how many samples, in how much memory.

Floor 4. Sizes are read off a probe of a few samples, not guessed from class names.
"""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ntk_fed.errors import OutOfMemoryError
from ntk_fed.inputs import check_inputs, check_per_sample
from ntk_fed.kernel.probe import Probe, probe
from ntk_fed.kernel.request import check_request
from ntk_fed.kernel.select import Selected
from ntk_fed.kernel.terms import COLUMNS, band
from ntk_fed.params import Params, call, cast, complete, frozen_state, own_buffers

_LIBRARIES = 2**24  # bytes a BLAS library keeps for packing operands, measured
_SLACK = 1.15  # allocators lose some between pieces of different sizes, measured
_PASSES = 2**26  # bytes of a pass through the network, where passes take the most


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a Gram matrix will be computed.

    Attributes:
        engine: ``"jacobian"`` or ``"layerwise"``.
        why: the reason for that engine, and what goes through the generic path.
        block: samples per block.
        chunk: samples that go through the network together; ``None``: a block's.
        bytes: memory at the peak, result included, process and libraries not.
        operations: multiplications and additions, of passes and contraction.
        loose: parameters that go through the generic path.
        dense: is nearly all work that of products of dense layers on vectors?
    """

    engine: str
    why: str
    block: int
    chunk: int | None
    bytes: int
    operations: int
    loose: frozenset[str] = frozenset()
    dense: bool = False


def free_memory(device: torch.device) -> int:
    """Bytes that can be taken on ``device`` now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


@dataclasses.dataclass(frozen=True)
class _Cost:
    """Of an engine: bytes per sample, operations per sample and per pair.

    Attributes:
        held: bytes that stay until the products are done.
        passing: bytes while a sample goes through the network.
        terms: products that are kept for a band.
        passes: operations per sample.
        pair: operations per pair of samples.
        itemsize: bytes of a number.
    """

    held: int
    passing: int
    terms: int
    passes: int
    pair: int
    itemsize: int

    @property
    def chunk(self) -> int | None:
        """Samples that go through the network together, ``None`` for any number.

        That where passes take little more than what stays: large products are fast.
        """
        if self.passing <= 2 * self.held:
            return None
        return max(1, _PASSES // self.passing)

    def operations(self, n: int, n2: int, symmetric: bool) -> int:
        samples = n if symmetric else n + n2
        pairs = n * (n + 1) // 2 if symmetric else n * n2
        return 2 * (self.passes * samples + self.pair * pairs)


@torch.inference_mode(False)
def plan(
    model: torch.nn.Module,
    x: Tensor,
    x2: Tensor | None = None,
    *,
    params: Mapping[str, Tensor] | None = None,
    outputs: str = "trace",
    engine: str = "auto",
    dtype: torch.dtype | None = None,
    memory: int | None = None,
    select: Sequence[int] | None = None,
    processes: int = 1,
    by_layer: bool = False,
    on_disk: bool = False,
) -> Plan:
    """What ``gram`` with the same arguments would do, and what it would take.

    Args:
        model: network returning ``(n, o)``.
        x: inputs, ``(n, ...)``.
        x2: second point set, ``(n2, ...)``; ``None`` means ``x``.
        params: parameters to look at; names left out are the model's own.
        outputs: ``"trace"``, ``"full"`` or ``"diagonal"``.
        engine: ``"auto"``, ``"jacobian"`` or ``"layerwise"``.
        dtype: of the computation; ``None`` is that of the parameters.
        memory: bytes that may be taken; ``None`` is half of what is free.
        select: outputs to look at; ``None`` is all.
        processes: worker processes.
        by_layer: one kernel per parameter?
        on_disk: with ``out=``, where the result takes no memory?

    Raises:
        OutOfMemoryError: result and smallest block exceed ``memory``.
        ValueError: as :func:`gram`.

    Cost:
        A few passes over at most six samples.
    """
    check_request(model, outputs, engine, processes, memory)
    model = model if select is None else Selected(model, select)
    values = {k: cast(v, dtype) for k, v in complete(model, params).items()}
    check_inputs(cast(x, dtype), values)
    return choose(
        model,
        values,
        frozen_state(model, dtype),
        cast(x, dtype),
        cast(x if x2 is None else x2, dtype),
        outputs=outputs,
        engine=engine,
        memory=memory,
        symmetric=x2 is None,
        on_disk=on_disk,
        processes=processes,
        kernels=len(values) if by_layer else 1,
    )


def explain(model: torch.nn.Module, x: Tensor, **options: Any) -> str:
    """The plan in words: engine and why, samples per block, memory, operations.

    Args:
        model: network returning ``(n, o)``.
        x: inputs, ``(n, ...)``.
        options: further arguments of :func:`plan`.
    """
    found = plan(model, x, **options)
    return (
        f"engine {found.engine}: {found.why}. Blocks of {found.block} samples, "
        f"{found.bytes / 2**20:,.0f} MiB, {found.operations:.3g} operations."
    )


def choose(
    model: torch.nn.Module,
    params: Params,
    state: Params,
    x: Tensor,
    x2: Tensor,
    *,
    outputs: str,
    engine: str,
    memory: int | None,
    symmetric: bool = False,
    on_disk: bool = False,
    processes: int = 1,
    kernels: int = 1,
) -> Plan:
    """Engine and block size for a kernel between ``x`` and ``x2``.

    Raises:
        OutOfMemoryError: result and smallest block exceed ``memory``.
    """
    p = sum(value.numel() for value in params.values())
    itemsize = next(iter(params.values())).element_size()
    n, n2 = len(x), len(x2)
    loose: frozenset[str] = frozenset()
    dense = False
    costs, words = {}, {"jacobian": "its Jacobian is small enough to be formed"}
    if engine == "jacobian":
        check_per_sample(model, params, state, x)
        own = own_buffers(model, state)
        o = call(model, params, x[:1].clone(), own).shape[1]
    else:
        found = probe(model, params, state, x if n >= n2 else x2)
        o, loose = found.outputs, frozenset(found.loose)
        sizes = {name: value.numel() for name, value in params.items()}
        costs["layerwise"] = _layerwise_cost(found, sizes, outputs, itemsize)
        words["layerwise"] = _reason(found.loose)
        dense = not loose and all(
            positions == 1 for uses in found.sizes.values() for positions, *_ in uses
        )
    several = o if outputs == "full" else 1  # output pairs per output in the products
    costs["jacobian"] = _Cost(
        o * p * itemsize, 0, 0, 3 * o * p, o * p * several, itemsize
    )
    totals = {name: cost.operations(n, n2, symmetric) for name, cost in costs.items()}
    why = f"engine={engine!r} was asked for"
    if engine == "auto":
        # Equal counts: the obviously right one.
        engine = min(totals, key=lambda name: (totals[name], name != "jacobian"))
        other = ", ".join(f"{name} {count:.3g}" for name, count in totals.items())
        why = f"{words[engine]}; operations: {other}"
    per_pair = {"trace": 1, "diagonal": o, "full": o * o}[outputs] * itemsize
    available = free_memory(x.device) // 2 if memory is None else int(memory)
    result = 0 if on_disk else n * n2 * per_pair * kernels
    cost, largest = costs[engine], max(n, n2)
    copies = 0 if processes == 1 else (p + x.numel() + x2.numel()) * itemsize
    left = (available - result) // processes - copies
    block = block_size(largest, cost, per_pair, left)
    if processes > 1:  # about two blocks of a triangle for each
        block = min(block, math.ceil(largest / math.ceil(math.sqrt(4 * processes))))
    needed = result + processes * (copies + _block_bytes(block, cost, per_pair, n))
    dense = dense and engine == "layerwise"
    return Plan(engine, why, block, cost.chunk, needed, totals[engine], loose, dense)


def _reason(loose: dict[str, str]) -> str:
    if not loose:
        return "every operation on a parameter has a rule"
    words = [f"{name} ({why})" for name, why in sorted(loose.items())]
    return f"generic path for {', '.join(words)}, rules for the rest"


def _layerwise_cost(
    found: Probe, sizes: dict[str, int], outputs: str, itemsize: int
) -> _Cost:
    o, pair, kept = found.outputs, 0, 0
    several = o * o if outputs == "full" else o
    for name, uses in found.sizes.items():
        if name in found.loose:
            kept += o * sizes[name]
            pair += several * sizes[name]
        kept += sum(positions * (a + o * b) for positions, a, b in uses)
        for positions, a, _ in uses:
            for positions2, _, b in uses:
                pair += positions * positions2 * (a + b * several)
    passing = found.graph + itemsize * (o * found.left + found.passing)
    if found.loose:  # vectorised backward passes keep a graph for each output, and
        passing += (1 + o) * found.graph + kept * itemsize  # gradients join them
    terms = sum(len(uses) ** 2 for uses in found.sizes.values())
    p = sum(sizes.values())
    return _Cost(kept * itemsize, passing, terms, p * (1 + o), pair, itemsize)


def _block_bytes(block: int, cost: _Cost, pair: int, n: int) -> int:
    """Factors of two blocks, or one; the block's own result unless it is the whole."""
    held, passing = block * cost.held, min(block, cost.chunk or block) * cost.passing
    # What passes is kept where all pass together: counted once.
    side = max(held, passing) if cost.chunk is None else held + passing
    own = 0
    if block < n:
        side, own = held + side, block * block * pair
    rows, size = min(band(cost.itemsize), block), cost.itemsize
    bands = rows * (2 * min(block * pair, COLUMNS * size) + cost.terms * block * size)
    return int(_SLACK * (side + own + bands)) + min(_LIBRARIES, held)


def block_size(n: int, cost: _Cost, pair: int, memory: int) -> int:
    """The largest block of at most ``n`` samples that fits ``memory`` bytes.

    Args:
        n: samples of the larger point set.
        cost: of the engine.
        pair: bytes of the result per pair of samples.
        memory: bytes left beside the result.

    Raises:
        OutOfMemoryError: not even one sample fits; says by how much.
    """
    least = _block_bytes(1, cost, pair, n)
    if least > memory:
        raise OutOfMemoryError(
            f"memory: one pair of samples needs {least:,} bytes beside the result, "
            f"{max(memory, 0):,} are left. Raise memory=, take fewer samples, or "
            "outputs='trace'."
        )
    low, high = 1, n
    while low < high:
        middle = (low + high + 1) // 2
        if _block_bytes(middle, cost, pair, n) <= memory:
            low = middle
        else:
            high = middle - 1
    return low
