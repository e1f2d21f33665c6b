"""Matrix products by the faster of the BLAS libraries present.

Floor 1. torch and NumPy each bring their own; which is faster depends on the processor
and the dtype (up to a factor of two was measured, either way). The first product of a
dtype times both once and keeps the winner; ``NTK_FED_BLAS=torch`` or ``numpy`` decides
instead. Memory is shared, nothing is copied. Results may differ by rounding between
libraries, so the choice belongs into the provenance of a result.
"""

import os
import time

import numpy as np
import threadpoolctl
import torch
from torch import Tensor

from ntk_fed.names import require_known

LIBRARIES = ("torch", "numpy")
_SIZE = 768  # of the probe: large enough to reach full speed, 10 ms in all
# Below this many multiplications torch is taken without a probe: milliseconds are not
# worth results that differ in the last bit from one process to the next.
_WORTH_IT = 2**28
_chosen: dict[torch.dtype, str] = {}
_threads: list[int] = []  # OpenBLAS threads last set; empty before the first time


def library(dtype: torch.dtype) -> str:
    """The library used for products of CPU tensors of ``dtype``."""
    if dtype not in (torch.float32, torch.float64):
        return "torch"
    if dtype not in _chosen:
        asked = os.environ.get("NTK_FED_BLAS")
        if asked is not None:
            require_known("library in NTK_FED_BLAS", asked, LIBRARIES)
        _chosen[dtype] = asked or _faster(dtype)
    return _chosen[dtype]


def choose(dtype: torch.dtype, name: str) -> None:
    """Use this library for products of ``dtype`` from now on, e.g. on a resume."""
    require_known("library", name, LIBRARIES)
    _chosen[dtype] = name


def restore(choices: dict[str, str]) -> None:
    """Choose again what :func:`chosen` gave earlier, for the same bits on a resume."""
    for name, found in choices.items():
        choose(getattr(torch, name), found)


def chosen() -> dict[str, str]:
    """What has been chosen so far, by dtype, for the provenance."""
    return {str(dtype).removeprefix("torch."): name for dtype, name in _chosen.items()}


def product(
    a: Tensor, b: Tensor, *, out: Tensor | None = None, add: bool = False
) -> Tensor:
    """``a @ b`` of two matrices, without a graph.

    Args:
        a: ``(n, k)``.
        b: ``(k, m)``; a transposed view is as good as a contiguous matrix.
        out: ``(n, m)``, contiguous, overwritten; saves an allocation.
        add: add the product to what ``out`` holds instead.
    """
    small = a.shape[0] * a.shape[1] * b.shape[1] < _WORTH_IT
    by_torch = small or a.device.type != "cpu" or library(a.dtype) == "torch"
    if add:
        assert out is not None
        if by_torch:
            return out.addmm_(a, b)
        return out.add_(_by_numpy(a, b, None))
    return torch.mm(a, b, out=out) if by_torch else _by_numpy(a, b, out)


def _by_numpy(a: Tensor, b: Tensor, out: Tensor | None) -> Tensor:
    if _threads != [torch.get_num_threads()]:
        _threads[:] = [torch.get_num_threads()]
        libraries = threadpoolctl.ThreadpoolController()
        libraries.select(internal_api="openblas").limit(limits=_threads[0])
    if out is None:
        out = a.new_empty(a.shape[0], b.shape[1])
    np.matmul(a.detach().numpy(), b.detach().numpy(), out=out.numpy())
    return out


def _faster(dtype: torch.dtype) -> str:
    """Time both in alternation; the smaller minimum wins, torch wins ties.

    Each product is followed by an operation of torch, as everywhere in this package:
    threads of one library that still wait for work hold up those of the other.
    """
    a = torch.full((_SIZE, _SIZE), 0.5, dtype=dtype)
    out = torch.empty_like(a)
    best = dict.fromkeys(LIBRARIES, float("inf"))
    for _ in range(3):
        for name in LIBRARIES:
            began = time.perf_counter()
            for _ in range(3):
                torch.mm(a, a, out=out) if name == "torch" else _by_numpy(a, a, out)
                torch.mul(out, a, out=out)
            best[name] = min(best[name], time.perf_counter() - began)
    return "numpy" if best["numpy"] < 0.95 * best["torch"] else "torch"
