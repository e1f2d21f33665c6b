"""Matrix products by the faster of the BLAS libraries present.

Floor 1. torch and NumPy each bring their own; which is faster depends on the processor
and the dtype. Their threads spin for a while after each product and hold up those of
the other: kernels with both at work took up to three times as long. So one library does
a whole job, and where that is NumPy's, torch rests on one thread meanwhile.

The first job of a dtype that is worth it times both and keeps the winner;
``NTK_FED_BLAS=torch`` or ``numpy`` decides instead. Memory is shared, nothing is
copied. Results may differ by rounding between libraries, so the choice belongs into the
provenance of a result.
"""

import contextlib
import os
import time
from collections.abc import Iterator

import numpy as np
import threadpoolctl
import torch
from torch import Tensor

from ntk_fed.names import require_known

LIBRARIES = ("torch", "numpy")
_SIZE = 768  # of the probe: large enough to reach full speed
_REST = 0.05  # seconds until the threads of a library stop waiting for work
# A job of fewer operations is torch's without a probe: milliseconds are not worth
# results that differ in the last bit from one process to the next.
_WORTH_IT = 2**32
_chosen: dict[torch.dtype, str] = {}
_threads: list[int] = []  # OpenBLAS threads last set; empty before the first time
_jobs: list[str] = []  # libraries of the jobs in hand, the innermost last


def library(dtype: torch.dtype) -> str:
    """The library used for jobs on CPU tensors of ``dtype``."""
    if dtype not in (torch.float32, torch.float64):
        return "torch"
    if dtype not in _chosen:
        asked = os.environ.get("NTK_FED_BLAS")
        if asked is not None:
            require_known("library in NTK_FED_BLAS", asked, LIBRARIES)
        _chosen[dtype] = asked or _faster(dtype)
    return _chosen[dtype]


def choose(dtype: torch.dtype, name: str) -> None:
    """Use this library for jobs of ``dtype`` from now on, e.g. on a resume."""
    require_known("library", name, LIBRARIES)
    _chosen[dtype] = name


def restore(choices: dict[str, str]) -> None:
    """Choose again what :func:`chosen` gave earlier, for the same bits on a resume."""
    for name, found in choices.items():
        choose(getattr(torch, name), found)


def chosen() -> dict[str, str]:
    """What has been chosen so far, by dtype, for the provenance."""
    return {str(dtype).removeprefix("torch."): name for dtype, name in _chosen.items()}


@contextlib.contextmanager
def job(like: Tensor, operations: float) -> Iterator[None]:
    """All products inside are those of one library.

    Args:
        like: a tensor of the dtype and device of the products.
        operations: about how many the job takes, of products alone. Decides whether
            it is worth a choice, and nothing else does: so that a job has the same bits
            wherever it runs.
    """
    name = "torch"
    if like.device.type == "cpu" and operations >= _WORTH_IT:
        name = library(like.dtype)
    with _numpy_alone() if name == "numpy" else contextlib.nullcontext():
        _jobs.append(name)
        try:
            yield
        finally:
            _jobs.pop()


@contextlib.contextmanager
def _numpy_alone() -> Iterator[None]:
    """Torch on one thread, and its threads for NumPy."""
    threads = torch.get_num_threads()
    if _threads != [threads] and "numpy" not in _jobs:
        _threads[:] = [threads]
        libraries = threadpoolctl.ThreadpoolController()
        libraries.select(internal_api="openblas").limit(limits=threads)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def by_numpy(like: Tensor) -> bool:
    """Are products of such tensors NumPy's at the moment?"""
    return _jobs[-1:] == ["numpy"] and like.device.type == "cpu"


def product(
    a: Tensor, b: Tensor, *, out: Tensor | None = None, add: bool = False
) -> Tensor:
    """``a @ b`` of two matrices, without a graph; torch's outside of a :func:`job`.

    Args:
        a: ``(n, k)``.
        b: ``(k, m)``; a transposed view is as good as a contiguous matrix.
        out: ``(n, m)``, contiguous, overwritten; saves an allocation.
        add: add the product to what ``out`` holds instead.
    """
    numpy = by_numpy(a)
    if add:
        assert out is not None
        return out.add_(_multiplied(a, b, None)) if numpy else out.addmm_(a, b)
    return _multiplied(a, b, out) if numpy else torch.mm(a, b, out=out)


def _multiplied(a: Tensor, b: Tensor, out: Tensor | None) -> Tensor:
    if out is None:
        out = a.new_empty(a.shape[0], b.shape[1])
    np.matmul(a.detach().numpy(), b.detach().numpy(), out=out.numpy())
    return out


def _faster(dtype: torch.dtype) -> str:
    """Time both as a job uses them; NumPy has to be faster by a quarter.

    With less between them noise would choose, and results would differ in their last
    bits from one process to the next for nothing. Each product is followed by an
    operation of torch, as everywhere in this package.
    """
    a = torch.full((_SIZE, _SIZE), 0.5, dtype=dtype)
    out = torch.empty_like(a)
    best = {}
    for name in LIBRARIES:
        time.sleep(_REST)
        with _numpy_alone() if name == "numpy" else contextlib.nullcontext():
            times = []
            for _ in range(6):
                began = time.perf_counter()
                if name == "torch":
                    torch.mm(a, a, out=out)
                else:
                    _multiplied(a, a, out)
                torch.mul(out, a, out=out)
                times.append(time.perf_counter() - began)
            best[name] = min(times)
    time.sleep(_REST)
    return "numpy" if 1.25 * best["numpy"] < best["torch"] else "torch"
