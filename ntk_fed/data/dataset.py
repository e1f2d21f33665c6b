"""Samples with targets, and the class labels behind the targets where they are known.

Floor 2: imports torch and ``errors`` only.
"""

import dataclasses
import math
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from ntk_fed.errors import NonFiniteError, ShapeMismatchError


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Inputs ``x`` with targets ``y``, one row each per sample.

    A one-axis ``y`` of integers (or booleans) is taken as class labels. Any other
    target may come with its labels in ``classes``: :meth:`one_hot` and :meth:`sign`
    do so, and a split by label still works on what they return.

    Attributes:
        x: inputs, ``(n, ...)``, finite.
        y: targets, ``(n,)`` or ``(n, o)``, finite.
        classes: the class of each sample, int64 ``(n,)``; ``None``: not known.
        class_count: number of classes, counting those without a sample here.
            Default: the largest label plus one.
        direction: a direction among the inputs that means something, such as the
            normal of a separating hyperplane, ``(d,)`` with d the entries of one
            sample; a split into "slices" cuts across it. ``None``: not known.

    Raises:
        NonFiniteError: ``x`` or ``y`` holds NaN or infinity.
        ShapeMismatchError: lengths differ, ``x`` has no axis, or ``y`` not one or two;
            ``direction`` is not as long as a sample.
        TypeError: ``x`` or ``y`` is no tensor.
        ValueError: ``classes`` are no integers, or reach beyond ``class_count``;
            ``direction`` is zero or not finite.
    """

    x: Tensor
    y: Tensor
    classes: Tensor | None = dataclasses.field(default=None, kw_only=True)
    class_count: int | None = dataclasses.field(default=None, kw_only=True)
    direction: Tensor | None = dataclasses.field(default=None, kw_only=True)

    def __repr__(self) -> str:
        """One line: sizes, not values."""
        x, y = tuple(self.x.shape), tuple(self.y.shape)
        known = "" if self.class_count is None else f", classes={self.class_count}"
        return f"Dataset(x={x} {self.x.dtype}, y={y} {self.y.dtype}{known})"

    def __post_init__(self) -> None:
        """Check shapes and values, then settle what is known of the classes."""
        for name in ("x", "y"):
            value: Any = getattr(self, name)
            if not isinstance(value, Tensor):
                raise TypeError(
                    f"{name} must be a tensor, got {type(value).__name__}. Convert it "
                    f"with torch.as_tensor({name})."
                )
        if self.x.ndim < 1 or self.y.ndim not in (1, 2):
            raise ShapeMismatchError(
                "a dataset needs x of shape (n, ...) and y of shape (n,) or (n, o), "
                f"got x {tuple(self.x.shape)} and y {tuple(self.y.shape)}."
            )
        for name in ("y", "classes"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.x):
                raise ShapeMismatchError(
                    f"x has {len(self.x)} samples and {name} has {len(value)}. "
                    "Give one row of each per sample."
                )
        for name in ("x", "y"):
            finite = torch.isfinite(getattr(self, name))
            if not finite.all():
                bad = int((~finite).sum())
                row = int((~finite.reshape(len(finite), -1)).any(1).nonzero()[0])
                raise NonFiniteError(
                    f"{name} has {bad} non-finite entries of {finite.numel()}, the "
                    f"first in sample {row}. Remove or repair those samples."
                )
        self._settle_classes()
        self._check_direction()

    def _settle_classes(self) -> None:
        classes = self.classes
        if classes is None and self.y.ndim == 1 and _whole(self.y):
            classes = self.y
        if classes is None:
            return
        if classes.ndim != 1 or not _whole(classes):
            raise ValueError(
                "classes has to be one integer per sample, got "
                f"{classes.dtype} of shape {tuple(classes.shape)}."
            )
        needed = int(classes.max()) + 1 if len(classes) else 0
        if self.class_count is not None and self.class_count < needed:
            raise ValueError(
                f"class_count is {self.class_count}, but the labels go up to "
                f"{needed - 1}. Count classes from 0."
            )
        object.__setattr__(self, "classes", classes.to(torch.int64))
        object.__setattr__(self, "class_count", self.class_count or needed)

    def _check_direction(self) -> None:
        if self.direction is None:
            return
        entries = math.prod(self.x.shape[1:])
        if tuple(self.direction.shape) != (entries,):
            raise ShapeMismatchError(
                f"direction must be of shape ({entries},), one number for each entry "
                f"of a sample, got {tuple(self.direction.shape)}. Flatten it."
            )
        size = self.direction.abs().max().item() if entries else 0.0
        if not 0 < size < math.inf:
            raise ValueError(
                f"direction must be finite and not zero, got a largest entry of {size}."
                " Give a vector that points somewhere."
            )

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.x)

    @property
    def labels(self) -> Int64[Tensor, " n"]:
        """The class of each sample.

        Raises:
            ValueError: no labels are known (``y`` is a regression target).
        """
        if self.classes is None:
            raise ValueError(
                f"this dataset has no class labels: y is {self.y.dtype} of shape "
                f"{tuple(self.y.shape)}. Give integer y of shape (n,), or classes=."
            )
        return self.classes

    def one_hot(self) -> "Dataset":
        """The same samples with ``y`` of shape ``(n, class_count)``: 1 at the label.

        The dtype is that of ``x``, or float64 where ``x`` is not floating.

        Raises:
            ValueError: labels are not known, or negative.
        """
        labels, count = self._counted_labels()
        y = torch.nn.functional.one_hot(labels, count).to(self._target_dtype())
        return dataclasses.replace(self, y=y)

    def sign(self) -> "Dataset":
        """The same samples with ``y`` of shape ``(n, 1)``: +1 upper half, −1 lower.

        Class ``k`` of ``C`` gets +1 when ``2k >= C``: for an odd ``C`` the middle
        class belongs to the lower half. The dtype is chosen as in :meth:`one_hot`.

        Raises:
            ValueError: labels are not known, or negative.
        """
        labels, count = self._counted_labels()
        upper = (2 * labels >= count).to(self._target_dtype())
        return dataclasses.replace(self, y=(2 * upper - 1).unsqueeze(1))

    def _counted_labels(self) -> tuple[Int64[Tensor, " n"], int]:
        """Labels counted from 0, and the number of classes."""
        labels = self.labels
        if len(labels) and int(labels.min()) < 0:
            raise ValueError(
                f"class labels are counted from 0, got {int(labels.min())}. "
                "Renumber them, or give the targets as a float y of shape (n, o)."
            )
        return labels, self.class_count or 0

    def _target_dtype(self) -> torch.dtype:
        return self.x.dtype if self.x.is_floating_point() else torch.float64


def _whole(values: Tensor) -> bool:
    """Are these integers or booleans?"""
    return not (values.is_floating_point() or values.is_complex())
