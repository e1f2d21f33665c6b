"""Data sets by name: embedded, drawn from a seed, or read from official files.

``"digits"``: the 1,797 images of 8×8 pixels embedded in scikit-learn. It has no
official split; "train" and "test" are a fixed cut of 1,437 and 360 samples, drawn
once and the same for every ``seed``. ``"mnist"``: the official IDX files below
``root/mnist``, gzipped or plain; "all" is every set that is present. ``"cifar10"``:
the binary files below ``root/cifar-10-batches-bin``, those of them that are present;
images ``(n, 3, 32, 32)``, or ``(n, 3072)`` with the option ``flat=True``. ``"sphere"``:
points uniform on the unit sphere with random labels 0 and 1, all drawn from the
seed; "train" and "test" are independent draws; option ``dimension`` (default 16).
``"separable"``: points uniform in the box [−1, 1]^d without those nearer than ``gap``
to a random hyperplane through 0, all drawn from the seed; the class says the side.
"train" and "test" are independent draws about one hyperplane, whose unit normal is
the dataset's ``direction``. Options ``dimension`` (default 100) and ``gap``, the
distance each point keeps (default 0.05, which is ours: Qin, Etesami, Uribe (2022),
arXiv:2201.12719, whose perceptron experiment this is, give no size).

Floor 2: imports ``errors``, ``seeds``, ``names`` and its own folder. A new source is
one function that returns :class:`Raw`, and one line in ``SOURCES``; its options are its
keyword-only arguments.
"""

import dataclasses
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from ntk_fed import seeds
from ntk_fed.data import cifar, idx, separable
from ntk_fed.data.dataset import Dataset
from ntk_fed.errors import DataFileError
from ntk_fed.names import require_known

SPLITS = ("all", "train", "test")
TARGETS = ("label", "one-hot", "sign")


@dataclasses.dataclass(frozen=True)
class Raw:
    """Samples as they are stored, before normalisation: what a source returns.

    Attributes:
        x: samples, ``(n, ...)``.
        labels: the class of each, from 0.
        class_count: number of classes.
        direction: see :class:`Dataset`.
        normalise: what ``normalise=None`` means for this source.
    """

    x: Tensor
    labels: Int64[Tensor, " n"]
    class_count: int
    direction: Tensor | None = None
    normalise: bool = True

    def rows(self, indices: Int64[Tensor, " k"]) -> "Raw":
        """These samples in this order."""
        x, labels = self.x[indices], self.labels[indices]
        return dataclasses.replace(self, x=x, labels=labels)


@dataclasses.dataclass(frozen=True)
class Request:
    """What a source is asked for; the meaning of each field is that of :func:`load`."""

    name: str
    n: int | None
    split: str
    seed: int
    root: str | Path | None

    def choose(self, raw: Raw) -> Raw:
        """``n`` samples at random without replacement; all, as stored, for ``None``."""
        there = len(raw.labels)
        if self.n is None:
            return raw
        if self.n > there:
            raise ValueError(
                f"n = {self.n} samples of {self.name!r} (split {self.split!r}) were "
                f"asked for, but only {there} are there. Ask for at most {there}."
            )
        stream = seeds.generator(self.seed, f"data/{self.name}/{self.split}")
        return raw.rows(torch.randperm(there, generator=stream)[: self.n])

    def folder(self, name: str) -> Path:
        """The folder ``name`` below the data root.

        Raises:
            DataFileError: no root was given, or the folder is not there.
        """
        root = self.root or os.environ.get("NTK_FED_DATA")
        if not root:
            raise DataFileError(
                f"{self.name!r} is read from files. Set root= or the environment "
                f"variable NTK_FED_DATA to the folder that holds {name}/."
            )
        if not (Path(root) / name).is_dir():
            raise DataFileError(
                f"{root} holds no folder {name}/. Set root= or NTK_FED_DATA to the "
                f"folder that does."
            )
        return Path(root) / name


def load(
    name: str,
    *,
    n: int | None = None,
    split: str = "all",
    targets: str = "label",
    normalise: bool | None = None,
    seed: int = 0,
    root: str | Path | None = None,
    dtype: torch.dtype = torch.float64,
    **options: Any,
) -> Dataset:
    """A data set by name.

    Args:
        name: "digits", "mnist", "cifar10", "sphere" or "separable"; see the module.
        n: number of samples, drawn at random without replacement, in drawn order.
            Default: all, in stored order; for "sphere" 100, "separable" 10,000.
        split: "all", "train" or "test".
        targets: "label" (int64, ``(n,)``), "one-hot" (``(n, classes)``) or "sign"
            (``(n, 1)``: +1 for the upper half of the classes, −1 below), the last two
            in ``dtype``. Labels stay known in every case.
        normalise: divide each sample by its Euclidean norm (an image: over all its
            pixels and channels). Otherwise pixels are as stored: 0 to 16 in "digits",
            0 to 255 in "mnist" and "cifar10". Default: yes, but for "separable" no:
            its box and gap are what it is. With ``True`` its points go to the sphere,
            still separated by the same hyperplane, the gap divided by their norms.
        seed: decides which samples, and what a synthetic source draws.
        root: folder that holds ``mnist/`` or ``cifar-10-batches-bin/``; default:
            environment NTK_FED_DATA.
        dtype: floating dtype of ``x``. Norms are taken in float64 and rounded last.
        **options: options of the source, such as ``dimension``, ``gap`` or ``flat``.

    Raises:
        UnknownNameError: an unknown name, split, target or option.
        DataFileError: a file is missing or damaged.
        ValueError: ``n`` is below 1 or more than there is, ``dtype`` is not floating,
            or a sample of norm 0 cannot be normalised.

    Example:
        >>> load("digits", n=10, targets="sign").y.shape
        torch.Size([10, 1])
    """
    source = _source(name, split, targets, options)
    if n is not None and n < 1:
        raise ValueError(f"n must be at least 1 or None, got {n}.")
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be floating, got {dtype}. Use torch.float64.")
    raw = source(Request(name, n, split, seed, root), **options)
    x = raw.x.to(torch.float64)
    unit = raw.normalise if normalise is None else normalise
    x = (_unit_rows(x, name) if unit else x).to(dtype)
    along = None if raw.direction is None else raw.direction.to(dtype)
    data = Dataset(x, raw.labels, class_count=raw.class_count, direction=along)
    match targets:
        case "one-hot":
            return data.one_hot()
        case "sign":
            return data.sign()
        case _:
            return data


def _source(
    name: str, split: str, targets: str, options: dict[str, Any]
) -> Callable[..., Raw]:
    """The function behind ``name``, once every name asked for is known."""
    require_known("data set", name, SOURCES)
    require_known("split", split, SPLITS)
    require_known("targets", targets, TARGETS)
    for option in options:
        require_known(f"option of {name!r}", option, _options_of(SOURCES[name]))
    return SOURCES[name]


def _options_of(source: Callable[..., Raw]) -> list[str]:
    parameters = inspect.signature(source).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def _unit_rows(x: Float64[Tensor, "n ..."], name: str) -> Float64[Tensor, "n ..."]:
    norms = torch.linalg.vector_norm(x.flatten(1), dim=1)
    if (norms == 0).any():
        row = int((norms == 0).nonzero()[0])
        raise ValueError(
            f"sample {row} of the {len(x)} from {name!r} is zero and has no "
            "direction: it cannot be normalised. Choose others, or normalise=False."
        )
    return x / norms.reshape(-1, *[1] * (x.ndim - 1))


def _digits(request: Request) -> Raw:
    # Imported here because it takes longer than torch, and few callers need it.
    from sklearn.datasets import load_digits

    x, labels = load_digits(return_X_y=True)
    raw = Raw(torch.from_numpy(x), torch.from_numpy(labels).to(torch.int64), 10)
    if request.split != "all":
        fixed = torch.randperm(len(x), generator=seeds.generator(0, "data/digits/cut"))
        train = len(x) * 4 // 5
        part = fixed[:train] if request.split == "train" else fixed[train:]
        raw = raw.rows(part.sort().values)
    return request.choose(raw)


def _separable(request: Request, *, dimension: int = 100, gap: float = 0.05) -> Raw:
    n = 10_000 if request.n is None else request.n
    stream = seeds.generator(request.seed, f"data/separable/{request.split}")
    normal = separable.unit_normal(dimension, request.seed)
    x = separable.points(n, normal, gap, stream)
    side = (x @ normal > 0).to(torch.int64)
    return Raw(x, side, 2, direction=normal, normalise=False)


def _sphere(request: Request, *, dimension: int = 16) -> Raw:
    if dimension < 1:
        raise ValueError(f"dimension must be at least 1, got {dimension}.")
    n = 100 if request.n is None else request.n
    stream = seeds.generator(request.seed, f"data/sphere/{request.split}")
    normal = torch.randn(n, dimension, generator=stream, dtype=torch.float64)
    labels = torch.randint(2, (n,), generator=stream)
    return Raw(_unit_rows(normal, "sphere"), labels, 2)


def _mnist(request: Request) -> Raw:
    folder = request.folder("mnist")
    names = {"train": ["train"], "test": ["t10k"], "all": ["train", "t10k"]}
    parts = [
        _mnist_files(folder, name)
        for name in names[request.split]
        if request.split != "all" or _present(folder, f"{name}-images-idx3-ubyte")
    ]
    if not parts:
        raise DataFileError(
            f"{folder} holds none of the MNIST files. Expected train-images-idx3-ubyte "
            "or t10k-images-idx3-ubyte and their labels, plain or with .gz."
        )
    x = torch.cat([images for images, _ in parts])
    return request.choose(Raw(x, torch.cat([labels for _, labels in parts]), 10))


def _mnist_files(folder: Path, name: str) -> tuple[Tensor, Tensor]:
    """Flat images as bytes, ``(n, 784)``, and labels of one official set."""
    paths = []
    for stem in (f"{name}-images-idx3-ubyte", f"{name}-labels-idx1-ubyte"):
        found = _present(folder, stem)
        if found is None:
            raise DataFileError(
                f"{folder} holds neither {stem} nor {stem}.gz. Put the official file "
                "there, or set root= or NTK_FED_DATA to the folder that holds mnist/."
            )
        paths.append(found)
    images, labels = idx.read(paths[0], axes=3), idx.read(paths[1], axes=1)
    if images.shape[1:] != (28, 28):
        raise DataFileError(
            f"{paths[0]} is not MNIST: expected images of 28×28 pixels, got "
            f"{'×'.join(map(str, images.shape[1:]))}."
        )
    if len(images) != len(labels):
        raise DataFileError(
            f"{paths[0]} holds {len(images)} images and {paths[1]} {len(labels)} "
            "labels. Take both from the same set."
        )
    if int(labels.max()) > 9:
        raise DataFileError(
            f"{paths[1]} is damaged: expected labels 0 to 9, got {int(labels.max())}."
        )
    return images.flatten(1), labels.to(torch.int64)


def _present(folder: Path, stem: str) -> Path | None:
    """The plain file where there is one, else the gzipped one."""
    for path in (folder / stem, folder / f"{stem}.gz"):
        if path.is_file():
            return path
    return None


def _cifar10(request: Request, *, flat: bool = False) -> Raw:
    images, labels = cifar.read_split(request.folder(cifar.FOLDER), request.split)
    return request.choose(Raw(images.flatten(1) if flat else images, labels, 10))


SOURCES: dict[str, Callable[..., Raw]] = {
    "digits": _digits,
    "mnist": _mnist,
    "cifar10": _cifar10,
    "sphere": _sphere,
    "separable": _separable,
}
