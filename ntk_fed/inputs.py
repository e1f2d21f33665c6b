"""Inputs and networks that nothing can be computed from are refused, by name.

Floor 1.
"""

import torch
from torch import Tensor

from ntk_fed.errors import NonFiniteError, NotPerSampleError, ShapeMismatchError
from ntk_fed.params import Params, call, own_buffers


def check_inputs(x: Tensor, params: Params, *, name: str = "x") -> None:
    """Refuse what no kernel can be computed from: NaN, nothing, mixed precision."""
    if not isinstance(x, Tensor) or x.ndim < 1 or len(x) == 0:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ShapeMismatchError(
            f"{name} must be a tensor of n >= 1 samples (n, ...), got {got}."
        )
    dtypes = sorted({str(value.dtype) for value in params.values()})
    if len(dtypes) > 1:
        raise ShapeMismatchError(
            f"the parameters must be of one dtype, got {' and '.join(dtypes)}. Pass "
            "dtype=, or convert the model, e.g. model.double()."
        )
    if not next(iter(params.values())).is_floating_point() or x.is_complex():
        raise ValueError(
            f"parameters and {name} must be real, got {dtypes[0]} and {x.dtype}. Split "
            "a complex network into real and imaginary parts."
        )
    if torch.is_autocast_enabled(x.device.type):
        raise ValueError(
            "this is inside torch.autocast, where layers round to a lower precision "
            "than their weights have. Leave the region, or enter "
            f"torch.autocast({x.device.type!r}, enabled=False)."
        )
    if not x.is_floating_point():
        return
    # A finite sum of finite numbers may overflow, never the other way round.
    if not torch.isfinite(x.sum()) and not torch.isfinite(x).all():
        bad = int((~torch.isfinite(x)).sum())
        raise NonFiniteError(
            f"{name} has {bad} non-finite entries of {x.numel()}. Remove or impute "
            "those samples; every number computed from them would be NaN."
        )
    dtype = next(iter(params.values())).dtype
    if x.dtype != dtype:
        raise ShapeMismatchError(
            f"{name} is {x.dtype} but the parameters are {dtype}. Convert one of them, "
            f"e.g. {name}.to({dtype})."
        )


def check_per_sample(
    model: torch.nn.Module,
    params: Params,
    state: Params,
    x: Tensor,
    *,
    together: Tensor | None = None,
) -> None:
    """Refuse a network whose output for a sample is no function of that sample.

    Layers that are known to do this are refused by name; anything else is found by
    evaluating a few samples together, in another order, and one alone; where their
    outputs in a larger batch are known, the second suffices.

    Args:
        model: network returning ``(n, o)``.
        params: trainable parameters.
        state: frozen parameters and buffers.
        x: inputs, ``(n, ...)``; the first four are used.
        together: their outputs in a larger batch, where known.

    Raises:
        NotPerSampleError: which of them differ, and by how much.
        NonFiniteError: outputs are NaN or infinite.
        ValueError: outputs are complex or integers.
    """
    refuse_batch_dependence(model)
    few = x[: min(len(x), 4)]
    order = torch.tensor([2, 0, 3, 1], device=x.device)
    order = order[order < len(few)]

    def outputs(samples: Tensor) -> Tensor:
        # Copies for each call: a layer may update what it is given.
        return call(model, params, samples.clone(), own_buffers(model, state))

    larger = together is not None and len(together) > len(few)
    with torch.no_grad():
        together = outputs(few) if together is None else together[: len(few)]
        if not together.is_floating_point():
            raise ValueError(
                f"model must return real numbers (n, o), got {together.dtype}. Give "
                "its real part, or its outputs before they are rounded."
            )
        if not torch.isfinite(together).all():
            raise NonFiniteError(
                "model returns NaN or infinity on finite inputs. Look for overflow in "
                "the forward pass, or for parameters that have diverged."
            )
        # Batched and single products round differently, by a small multiple of eps
        # times the size of the terms inside; mixing samples changes leading digits.
        slack = torch.finfo(together.dtype).eps ** 0.5
        slack *= 1 + together.abs().max().item()
        gap = (together[order] - outputs(few[order])).abs().max().item()
        if not larger and gap <= slack:
            gap = (together[:1] - outputs(few[:1])).abs().max().item()
        if gap <= slack:  # NaN is not
            return
        random = (outputs(few) - outputs(few)).abs().max().item() > slack
    words = "changes with the other samples of the batch"
    if random:
        words = "differs between two calls on the same samples: it is random"
    raise NotPerSampleError(
        f"model output {words} (by {gap:.2e}). Call model.eval() or remove the layer; "
        "per-sample Jacobians of it do not exist."
    )


def refuse_batch_dependence(model: torch.nn.Module) -> None:
    """Refuse dropout (p > 0) and batch statistics in training mode, by name.

    So is an embedding that shortens its vectors as they are looked up: that changes the
    parameters of the model, and is no part of any gradient.

    Raises:
        NotPerSampleError: the name and kind of the first such layer.
    """
    for name, module in model.named_modules():
        kind = type(module).__name__
        if getattr(module, "max_norm", None) is not None:
            raise NotPerSampleError(
                f"model has {kind} {name!r} with max_norm = {module.max_norm}, which "
                "changes its weights whenever it runs. Shorten them once "
                "(torch.renorm) and set max_norm = None."
            )
        if not module.training:
            continue
        if "Dropout" in kind and getattr(module, "p", 0) > 0:
            reason = f"drops units at random (p = {getattr(module, 'p', None)})"
        elif isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            reason = "mixes the samples of a batch"
        else:
            continue
        raise NotPerSampleError(
            f"model has {kind} {name!r} in training mode, which {reason}: the output "
            "of one sample is then no function of that sample. Call model.eval()."
        )
