r"""Symmetric matrices whose extreme eigenvalues are known without an eigensolver.

``planted(kind, size, seed)`` builds each of them again from these three alone. Small
ones are ``searched``, large ones ``constructed``; direct sums hold both.
"""

import math
import zlib
from collections.abc import Callable
from typing import NamedTuple

import constructed
import numpy as np
import searched
from exact import Built, Neighbours, shuffled

SAFE = 2.0**-1000  # scaling by a power of two keeps numbers above this to the last bit
POWERS = (-900, -300, 300, 900)


class Planted(NamedTuple):
    """What was built, and the recipe; the matrix is float64 or float32."""

    kind: str
    size: int
    seed: int
    matrix: np.ndarray
    smallest: Neighbours
    largest: Neighbours


class Kind(NamedTuple):
    """How a kind is built, and the sizes it is built in: many small, a few large."""

    build: Callable[[int, np.random.Generator], Built]
    sizes: tuple[int, ...]
    large: tuple[int, ...] = ()


def direct_sum(n: int, draw: np.random.Generator) -> Built:
    """Blocks of one scale or of many, permuted; half are positive definite."""
    deepest, positive = int(draw.choice([0, 20, 60, 150, 600])), draw.random() < 0.5
    matrix, blocks, at = np.zeros((n, n)), [], 0
    while at < n:
        name = str(draw.choice(BLOCKS))
        fitting = [m for m in KINDS[name].sizes if m <= n - at]
        if not fitting:
            name, fitting = "diagonal", [1]
        m = fitting[-1] if draw.random() < 0.5 else int(draw.choice(fitting))
        block = KINDS[name].build(m, draw)
        if positive and block.smallest.below <= 0.0:
            continue
        if block.matrix.dtype == np.float32:  # asymmetric by more than float64 may be
            continue
        block = _scaled(block, -int(draw.integers(0, deepest + 1))) or block
        matrix[at : at + m, at : at + m] = block.matrix
        blocks.append(block)
        at += m
    smallest = min(block.smallest for block in blocks)
    largest = max(block.largest for block in blocks)
    return Built(shuffled(matrix, draw), smallest, largest)


FEW = tuple(range(2, 11))
KINDS = {
    "gaussian": Kind(searched.gaussian, FEW),
    "indefinite": Kind(searched.indefinite, FEW),
    "nearly singular": Kind(searched.nearly_singular, FEW),
    "graded": Kind(searched.graded, FEW),
    "subnormal": Kind(searched.subnormal, FEW[:5]),
    "asymmetric": Kind(searched.asymmetric, FEW),
    "integers": Kind(searched.integers, FEW),
    "near duplicates": Kind(searched.near_duplicates, FEW),
    "small determinant": Kind(searched.small_determinant, FEW),
    "classical": Kind(searched.classical, FEW),
    "clustered": Kind(searched.clustered, FEW),
    "diagonal": Kind(constructed.diagonal, (1, 2, 3, 5, 8, 20)),
    "hadamard": Kind(
        constructed.hadamard, (2, 4, 8, 16, 32, 64, 128), (512, 1024, 2048)
    ),
    "reflections": Kind(
        constructed.reflections,
        (4, 5, 7, 10, 17, 33, 70, 128),
        (500, 777, 1024, 1500, 2000),
    ),
    "integer orthogonal": Kind(
        constructed.integer_orthogonal, (2, 3, 4, 6, 8, 9, 12, 16, 24, 36)
    ),
    "samples": Kind(constructed.samples, (2, 3, 5, 8, 16, 40, 100), (500, 1000, 2000)),
    "direct sum": Kind(direct_sum, (4, 7, 12, 30, 64, 128), (500, 1000, 2000)),
    "steep": Kind(constructed.steep, (4, 7, 10, 22, 64, 127), (499, 700, 1000)),
    "kronecker": Kind(
        constructed.kronecker, (6, 10, 12, 24, 40, 80, 112), (640, 1024, 1792)
    ),
}
BLOCKS = (
    "gaussian",
    "asymmetric",
    "small determinant",
    "diagonal",
    "hadamard",
    "reflections",
    "integer orthogonal",
    "samples",
)


def planted(kind: str, size: int, seed: int) -> Planted:
    """The matrix that belongs to a recipe; the same one each time.

    Many are scaled by a power of two, and every other one whose entries are float32
    numbers is handed out in float32.

    Args:
        kind: a key of ``KINDS``.
        size: number of rows; not every kind has every size.
        seed: 0 or more.
    """
    draw = np.random.default_rng((zlib.crc32(kind.encode()), size, seed))
    built = KINDS[kind].build(size, draw)
    if built.matrix.dtype == np.float32:
        return Planted(kind, size, seed, *built)
    power = int(draw.choice([*POWERS, *draw.integers(-60, 61, 4)]))
    if draw.random() < 0.25 or kind in ("hadamard", "reflections"):
        built = _scaled(built, power) or built
    matrix = built.matrix
    with np.errstate(over="ignore", under="ignore"):
        single = matrix.astype(np.float32)
    if draw.random() < 0.5 and np.array_equal(single.astype(np.float64), matrix):
        matrix = single
    return Planted(kind, size, seed, matrix, built.smallest, built.largest)


def _scaled(built: Built, power: int) -> Built | None:
    """Times ``2**power``; ``None`` where that would round something."""
    ends = np.array([*built.smallest, *built.largest])
    numbers = np.concatenate([built.matrix.ravel(), ends])
    sizes = np.abs(numbers[numbers != 0])
    if not sizes.size:
        return built
    scaled = math.frexp(float(sizes.min()))[1] + power
    least, most = min(float(sizes.min()), math.ldexp(0.5, scaled)), float(sizes.max())
    if least < SAFE or math.frexp(most)[1] + power > 1000:
        return None
    matrix = np.ldexp(built.matrix, power)
    a, b, c, d = np.ldexp(ends, power).tolist()
    return Built(matrix, Neighbours(a, b), Neighbours(c, d))
