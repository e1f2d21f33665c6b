"""The losses that have a name, and one door for them and for the user's own.

Floor 4.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ntk_fed.errors import ShapeMismatchError
from ntk_fed.fedavg.losses import (
    cross_entropy,
    exponential,
    logistic,
    own,
    squared,
    squared_hinge,
)
from ntk_fed.fedavg.losses.own import PerSample
from ntk_fed.names import defined, require_known

Loss = str | PerSample


@dataclasses.dataclass(frozen=True)
class _Named:
    """What there is of a loss with a name."""

    loss: PerSample
    gradient: PerSample
    check: Callable[[Tensor, Tensor], None]


_NAMED = {
    "squared": _Named(squared.loss, squared.gradient, squared.check),
    "logistic": _Named(logistic.loss, logistic.gradient, logistic.check),
    "exponential": _Named(exponential.loss, exponential.gradient, exponential.check),
    "squared-hinge": _Named(
        squared_hinge.loss, squared_hinge.gradient, squared_hinge.check
    ),
    "cross-entropy": _Named(
        cross_entropy.loss, cross_entropy.gradient, cross_entropy.check
    ),
}
LOSSES: dict[str, PerSample] = {name: found.loss for name, found in _NAMED.items()}


def named(loss: Loss) -> PerSample:
    """The loss of that name; a function is returned as it is.

    Raises:
        UnknownNameError: there is none of that name; the nearest is named.
    """
    if callable(loss):
        return loss
    require_known("loss", loss, LOSSES)
    return LOSSES[loss]


def describe(loss: Loss | Callable[..., Any]) -> str:
    """The name, or where a function is defined, for messages.

    Example:
        >>> describe("squared")
        'squared'
    """
    return loss if isinstance(loss, str) else defined(loss)


def check_targets(loss: Loss, outputs: Tensor, targets: Tensor) -> None:
    """Refuse targets the loss cannot take; nothing is converted or broadcast.

    A function is tried on the samples whose outputs are given.

    Args:
        loss: name or function.
        outputs: those of the first samples, ``(k, o)``; one sample is enough.
        targets: of all samples, ``n >= k``. All are looked at: a class that the model
            has no output for may be in the last.

    Raises:
        UnknownNameError: no loss of that name.
        ValueError: targets of the wrong kind, or with values the loss does not take; a
            function that is no differentiable loss.
        ShapeMismatchError: targets of another shape or dtype than the loss needs; a
            function that does not return one number per sample.
        NotPerSampleError: a function whose loss of a sample depends on other samples.
    """
    named(loss)
    if isinstance(loss, str):
        _NAMED[loss].check(outputs, targets)
    else:
        own.check(loss, outputs, targets)


def output_gradient(
    loss: Loss,
    outputs: Float[Tensor, "*n o"],
    targets: Tensor,
    row_weights: Float[Tensor, "*n"],
) -> Float[Tensor, "*n o"]:
    r"""Gradient of :math:`\sum_i w_i\,\ell(f_i, y_i)` by the outputs ``f``.

    Closed forms for the names, automatic differentiation for a function.

    Args:
        loss: name or function.
        outputs: any leading axes, such as ``(c, n, o)`` for ``c`` clients.
        targets: of the shape of ``outputs``; class labels without the last axis.
        row_weights: ``1/n_i`` for the mean of a client. Weight 0 is padding: the
            gradient there is exactly 0 whatever the outputs, the loss or the label.

    Returns:
        The gradient in the dtype of ``outputs``, to which the weights are converted;
        without a graph if ``loss`` is a function.

    Raises:
        ShapeMismatchError: shapes that do not match; nothing is broadcast. What the
            targets hold is the business of :func:`check_targets`.

    Cost:
        A few passes over the outputs.
    """
    rows, weights = outputs.shape[:-1], row_weights.to(outputs.dtype)
    labels = loss == "cross-entropy" and not targets.is_floating_point()
    expected = rows if labels else outputs.shape
    if not isinstance(loss, str):
        expected = rows + targets.shape[len(rows) :]  # its own last axes
    if weights.shape != rows or targets.shape != expected:
        raise ShapeMismatchError(
            f"outputs {tuple(outputs.shape)} need row_weights {tuple(rows)} and, for "
            f"loss {describe(loss)!r}, targets {tuple(expected)}; got "
            f"{tuple(weights.shape)} and {tuple(targets.shape)}. Nothing is broadcast."
        )
    if not isinstance(loss, str):
        return own.gradient(loss, outputs, targets, weights)
    named(loss)
    padding = weights == 0
    if labels:
        targets = targets.masked_fill(padding, 0)  # padding may hold −1
    gradient = _NAMED[loss].gradient(outputs, targets) * weights.unsqueeze(-1)
    return gradient.masked_fill(padding.unsqueeze(-1), 0)  # where the loss overflows
