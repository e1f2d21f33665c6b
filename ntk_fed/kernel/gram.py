"""The empirical tangent kernel of any network, by blocks that fit the memory given.

Floor 4. Two engines, one result: ``jacobian`` multiplies per-sample Jacobians and is
obviously right; ``layerwise`` never forms one.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ntk_fed import blas, records
from ntk_fed.errors import ShapeMismatchError
from ntk_fed.executor import Executor, Processes
from ntk_fed.inputs import check_inputs, check_per_sample
from ntk_fed.kernel.assemble import Job, Side, assemble
from ntk_fed.kernel.forming import FormingError, forming_error
from ntk_fed.kernel.plan import choose
from ntk_fed.kernel.request import check_request
from ntk_fed.kernel.select import Selected
from ntk_fed.kernel.tiles import TiledFile
from ntk_fed.params import call, cast, complete, frozen_state, own_buffers


@torch.inference_mode(False)
def gram(
    model: torch.nn.Module,
    x: Tensor,
    x2: Tensor | None = None,
    *,
    params: Mapping[str, Tensor] | None = None,
    params2: Mapping[str, Tensor] | None = None,
    outputs: str = "trace",
    engine: str = "auto",
    by_layer: bool = False,
    dtype: torch.dtype | None = None,
    memory: int | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: bool = False,
    select: Sequence[int] | None = None,
    processes: int | Executor = 1,
    with_error: bool = False,
) -> Any:
    r"""Gram matrix of the empirical tangent kernel, :math:`J(x)\,J(x_2)^\top`.

    Args:
        model: network returning ``(n, o)``; neither it nor its buffers change.
        x: inputs, ``(n, ...)``, finite.
        x2: second point set, ``(n2, ...)``; ``None`` means ``x``.
        params: parameters of the left Jacobian; names left out are the model's own.
        params2: parameters of the right Jacobian (the asymmetric kernel); ``None``
            means those of the left.
        outputs: ``"trace"`` sums over outputs; ``"full"`` keeps both output axes;
            ``"diagonal"`` keeps equal outputs only.
        engine: ``"jacobian"``, ``"layerwise"`` (parameters without a rule go a generic
            way inside it), or ``"auto"``: the one with fewer operations.
        by_layer: one kernel per parameter instead of their sum.
        dtype: computes and returns in this dtype; ``None`` is that of the parameters.
        memory: bytes that may be taken, the result included unless it goes to ``out``;
            ``None`` is half of what is free.
        out: an ``.npy`` file to hold the result, as a memory map: for a Gram larger
            than memory. Killed and called again, it computes the missing tiles only
            and ends with the same bytes.
        progress: show a progress bar, with the time left.
        select: outputs to look at, counted from 0; ``None`` is all. What is left out
            is not computed.
        processes: worker processes for the blocks, with one torch thread each, or an
            executor (``ntk_fed.executor``: a cluster, say). The result has the bits of
            the same blocks in one process with one thread.
        with_error: give a :class:`FormingError` too, how far the result may be from the
            kernel meant; for one point set, one parameter set, and ``"trace"`` or
            ``"full"``. Its ``bound`` is what :func:`smallest_eigenvalue` takes as
            ``forming_error``.

    Returns:
        ``(n, n2)``, ``(n, n2, o, o)`` or ``(n, n2, o)`` in squared output units per
        squared parameter unit; a dictionary of those with ``by_layer``; the pair
        ``(kernel, error)`` with ``with_error``. With one point set and one parameter
        set the result is bitwise symmetric under exchange of (sample, output) pairs.

    Raises:
        NotPerSampleError: an output depends on chance or on other samples.
        NonFiniteError: ``x`` or ``x2`` holds NaN or infinity, or a gradient or the
            kernel does.
        OutOfMemoryError: one pair of samples needs more than ``memory``.
        RunFolderError: ``out`` cannot be written, or holds another matrix.

    Cost:
        ``layerwise``: two matrix products, together ``n·n2·(width in + width out)``,
        per dense layer. ``jacobian``: one of ``n·n2·p``, times ``o²`` for ``"full"``.

    Source:
        Jacot, Gabriel, Hongler (2018), arXiv:1806.07572; contraction by layers: Novak,
        Sohl-Dickstein, Schoenholz (2022), arXiv:2206.08720, section 3.

    Example:
        >>> gram(torch.nn.Linear(3, 1), torch.ones(2, 3))
        tensor([[4., 4.],
                [4., 4.]])
    """
    count = processes.workers if isinstance(processes, Executor) else processes
    check_request(model, outputs, engine, count, memory)
    where = processes if isinstance(processes, Executor) else None
    if where is None and count > 1:
        where = Processes(count)
    if select is not None:
        model = Selected(model, select)
    symmetric = x2 is None and params2 is None
    plain = symmetric and not by_layer and outputs != "diagonal" and out is None
    if with_error and not plain:
        raise ValueError(
            "with_error=True is for the kernel of one point set and one parameter set, "
            "outputs 'trace' or 'full', without by_layer and out."
        )
    if by_layer and out is not None:
        raise ValueError("out= holds one matrix; with by_layer=True there are many.")
    left = right = _side(model, x, params, dtype, "x")
    if not symmetric:
        right = _side(
            model,
            x if x2 is None else x2,
            params if params2 is None else params2,
            dtype,
            "x" if x2 is None else "x2",
        )
        check_per_sample(model, right.params, right.state, right.x)
    plan = choose(
        model,
        left.params,
        left.state,
        left.x,
        right.x,
        outputs=outputs,
        engine=engine,
        memory=memory,
        symmetric=symmetric,
        on_disk=out is not None,
        kernels=len(left.params) if by_layer else 1,
        processes=count,
    )
    job = Job(left, right, plan, outputs, symmetric, by_layer)
    tiles = None
    if out is not None:
        tiles = _file(out, job, select)
        job.plan = dataclasses.replace(plan, block=tiles.block)
    if where is not None:
        blas.library(next(iter(left.params.values())).dtype)
        job.libraries = blas.chosen()
    found = assemble(job, progress=progress, tiles=tiles, executor=where)
    if with_error:
        return found[""], _error(job, found[""])
    return found if by_layer else found[""]


def gram_matrix(full: Tensor) -> Tensor:
    """The kernel with both output axes as one matrix, ``row = sample·o + output``.

    Args:
        full: ``(n, n2, o, o)`` from ``gram(..., outputs="full")``.

    Returns:
        ``(n·o, n2·o)``: what an eigensolver and ``federated_kernel`` take for o > 1.
    """
    if full.ndim != 4 or full.shape[2] != full.shape[3]:
        raise ShapeMismatchError(
            f"full must be (n, n2, o, o) as from gram(..., outputs='full'), got "
            f"{tuple(full.shape)}."
        )
    n, n2, o, _ = full.shape
    return full.transpose(1, 2).reshape(n * o, n2 * o)


def _side(
    model: torch.nn.Module,
    x: Tensor,
    params: Mapping[str, Tensor] | None,
    dtype: torch.dtype | None,
    name: str,
) -> Side:
    values = {k: cast(v, dtype) for k, v in complete(model, params).items()}
    x = cast(x, dtype)
    check_inputs(x, values, name=name)
    x = x.clone() if x.is_inference() else x.detach()
    return Side(model, values, frozen_state(model, dtype), x)


def _error(job: Job, kernel: Tensor) -> FormingError:
    """How far a kernel of one point set may be from the one meant."""
    matrix = gram_matrix(kernel) if job.outputs == "full" else kernel
    one = job.left
    return forming_error(
        one.model,
        one.params,
        one.x,
        matrix,
        state=one.state,
        engine=job.plan.engine,
    )


def _file(
    out: str | os.PathLike[str], job: Job, select: Sequence[int] | None
) -> TiledFile:
    """The file, whose identity is everything that decides its bytes."""
    left, right, plan = job.left, job.right, job.plan
    named = {"x": left.x, "x2": right.x}
    for side, own in (("left", left), ("right", right)):
        for name, value in {**own.params, **own.state}.items():
            named[f"{side} {name}"] = value
    own = own_buffers(left.model, left.state)
    few = call(left.model, left.params, left.x[:1].clone(), own)
    if few.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"out= holds float32 or float64, got {few.dtype}. Set dtype=.")
    o, shape = few.shape[1], (len(left.x), len(right.x))
    shape += {"trace": (), "diagonal": (o,), "full": (o, o)}[job.outputs]
    identity = f"{records.digest(named)} {job.outputs} {plan.engine} {left.model} "
    identity += f"{job.symmetric} "
    identity += f"{sorted(plan.loose)} {'' if select is None else list(select)}"
    return TiledFile(out, shape, few.dtype, fingerprint=identity, block=plan.block)
