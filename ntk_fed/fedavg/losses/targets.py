"""What a loss refuses to be given as targets; nothing is converted or broadcast.

Floor 4. Outputs may be those of the first samples only; targets are all looked at.
"""

from torch import Tensor

from ntk_fed.errors import ShapeMismatchError


def first_bad(bad: Tensor) -> int | None:
    """Index of the first true entry, ``None`` without one."""
    return int(bad.nonzero()[0, 0]) if bad.any() else None


def require_real(loss: str, outputs: Tensor, targets: Tensor, advice: str) -> None:
    """Refuse targets that are no real numbers of the outputs' shape and dtype.

    Args:
        loss: its name.
        outputs: those of the first samples, ``(k, o)``.
        targets: of all samples, ``(n, o)`` with ``n >= k``.
        advice: how to convert integers.

    Raises:
        ValueError: integer targets.
        ShapeMismatchError: another shape or dtype than that of the outputs.
    """
    if not targets.is_floating_point():
        raise ValueError(
            f"loss {loss!r} needs real targets, y is {targets.dtype}. Class labels are "
            f"no quantities: {advice}."
        )
    if targets.shape[1:] != outputs.shape[1:] or len(targets) < len(outputs):
        raise ShapeMismatchError(
            f"y has shape {tuple(targets.shape)}, the model returns "
            f"{tuple(outputs.shape)}; sample by sample they must match, nothing is "
            "broadcast. A single output needs y of shape (n, 1): y[:, None]."
        )
    if targets.dtype != outputs.dtype:
        raise ShapeMismatchError(
            f"y is {targets.dtype}, the model returns {outputs.dtype}. Convert one."
        )


def require_signs(loss: str, outputs: Tensor, targets: Tensor) -> None:
    """Refuse targets that are not exactly −1 or +1, one for each output.

    With several outputs each has a margin of its own, and the loss is their sum.

    Raises:
        ValueError: integer targets, or another number.
        ShapeMismatchError: another shape or dtype than that of the outputs.
    """
    advice = "use dataset.sign(), or load with targets='sign'"
    require_real(loss, outputs, targets, advice)
    if (row := first_bad(targets.abs() != 1)) is not None:
        raise ValueError(
            f"loss {loss!r} needs targets of exactly -1 or +1, y holds "
            f"{targets[row].tolist()} in sample {row}. For class labels {advice}; 0 "
            "and 1 become 2 * y - 1."
        )
