"""The cross-entropy of the softmax of several outputs.

Floor 4.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ntk_fed.errors import ShapeMismatchError
from ntk_fed.fedavg.losses.targets import first_bad, require_real

NAME = "cross-entropy"


def loss(outputs: Float[Tensor, "*n o"], targets: Tensor) -> Float[Tensor, "*n"]:
    """``−Σ_k y_k log p_k`` per sample, ``p = softmax(f)``.

    Units: nats. It rounds by machine epsilon absolutely: far below, it becomes 0.

    Args:
        outputs: one per class, at least two.
        targets: class labels ``(*n,)`` of an integer type, counted from 0; or
            probabilities ``(*n, o)``, one-hot rows among them.

    Source:
        Field standard; Bishop (2006), Pattern Recognition and Machine Learning, section
        4.3.4.
    """
    log_p = outputs.log_softmax(dim=-1)
    if targets.is_floating_point():
        return -(targets * log_p).sum(dim=-1)
    return -log_p.gather(-1, targets.long().unsqueeze(-1)).squeeze(-1)


def gradient(outputs: Float[Tensor, "*n o"], targets: Tensor) -> Float[Tensor, "*n o"]:
    """``p Σ_k y_k − y``, where the sum is 1 but for the rounding of the targets."""
    p = outputs.softmax(dim=-1)
    if targets.is_floating_point():
        return targets.sum(dim=-1, keepdim=True) * p - targets
    label = targets.long().unsqueeze(-1)  # (*n, 1)
    return p.scatter_add(-1, label, -torch.ones_like(label, dtype=p.dtype))


def check(outputs: Tensor, targets: Tensor) -> None:
    """Refuse what is neither a label of each sample nor probabilities of its classes.

    Probabilities may miss 1 by the rounding of a sum of ``o`` float32 numbers.
    """
    o = outputs.shape[-1]
    if o < 2:
        raise ValueError(
            f"loss {NAME!r} needs at least two outputs, one per class; the model "
            f"returns {tuple(outputs.shape)}. For a single output use loss='logistic' "
            "with dataset.sign()."
        )
    if not targets.is_floating_point():
        _check_labels(targets, o)
        return
    if targets.ndim == 1:
        raise ShapeMismatchError(
            f"y is {targets.dtype} of shape {tuple(targets.shape)}. Loss {NAME!r} "
            "takes labels of an integer type, y.long(), or probabilities of shape "
            f"(n, {o}), such as dataset.one_hot()."
        )
    require_real(NAME, outputs, targets, "use dataset.one_hot()")
    allowed = o * max(torch.finfo(d).eps for d in (torch.float32, targets.dtype))
    off = (targets.sum(dim=-1) - 1).abs() > allowed
    if (row := first_bad(off | (targets < 0).any(dim=-1))) is not None:
        raise ValueError(
            f"loss {NAME!r} needs probabilities that sum to 1, y holds "
            f"{targets[row].tolist()} in sample {row}. Divide each row by its sum, or "
            "use dataset.one_hot()."
        )


def _check_labels(targets: Tensor, o: int) -> None:
    if targets.ndim != 1:
        raise ShapeMismatchError(
            f"y is {targets.dtype} of shape {tuple(targets.shape)}. Loss {NAME!r} "
            "takes integer labels of shape (n,), such as y[:, 0], or probabilities in "
            f"the dtype of the outputs of shape (n, {o}), such as dataset.one_hot()."
        )
    if (row := first_bad((targets < 0) | (targets >= o))) is not None:
        raise ValueError(
            f"loss {NAME!r} of {o} outputs needs labels from 0 to {o - 1}, y holds "
            f"{int(targets[row])} in sample {row}. Give the model an output for each "
            "class, and count classes from 0."
        )
