"""Small matrices of any floats; what their eigenvalues are, exact comparisons find."""

import math

import numpy as np
from exact import Built, largest_of, rational, shuffled, smallest_of


def _searched(matrix: np.ndarray) -> Built:
    matrix = np.asarray(matrix, dtype=np.float64)
    exact = rational(matrix)
    return Built(matrix, smallest_of(exact), largest_of(exact))


def _symmetric(square: np.ndarray) -> np.ndarray:
    return np.triu(square) + np.triu(square, 1).T


def _gram(n: int, draw: np.random.Generator) -> np.ndarray:
    rows = draw.standard_normal((n, n + int(draw.integers(0, 3))))
    return _symmetric(rows @ rows.T)


def gaussian(n: int, draw: np.random.Generator) -> Built:
    gram = _gram(n, draw)
    if draw.random() < 0.5:
        gram = gram.astype(np.float32)
    return _searched(gram)


def indefinite(n: int, draw: np.random.Generator) -> Built:
    square = draw.standard_normal((n, n))
    shift = n * float(draw.integers(-2, 3))
    return _searched(_symmetric(square) + shift * np.eye(n))


def nearly_singular(n: int, draw: np.random.Generator) -> Built:
    gram = _gram(n, draw)
    lowest = np.linalg.eigvalsh(gram)[0]  # a guess will do: the truth is looked for
    factor = 1 + float(draw.choice([-1, 1])) * 2.0 ** -int(draw.integers(1, 53))
    return _searched(gram - factor * lowest * np.eye(n))


def graded(n: int, draw: np.random.Generator) -> Built:
    scale = 2.0 ** draw.integers(-60, 1, n)
    return _searched(_gram(n, draw) * scale[:, None] * scale)


def subnormal(n: int, draw: np.random.Generator) -> Built:
    return _searched(np.ldexp(_gram(n, draw), -int(draw.integers(1000, 1070))))


def asymmetric(n: int, draw: np.random.Generator) -> Built:
    """By less than rounding, so that the statement is about the symmetric part."""
    gram = _gram(n, draw)
    if draw.random() < 0.5:
        gram -= np.linalg.eigvalsh(gram)[0] * np.eye(n)
    bumps = np.triu(draw.uniform(-1, 1, (n, n)), 1) * np.abs(gram).max()
    if draw.random() < 0.7:
        return _searched(gram + bumps * 2.0**-53)
    single = (gram + bumps * 2.0**-24).astype(np.float32)
    return _searched(single)._replace(matrix=single)


def integers(n: int, draw: np.random.Generator) -> Built:
    """Gram matrices of small integers, often of less than full rank."""
    rows = draw.integers(-4, 5, (n, int(draw.integers(1, n + 2)))).astype(float)
    return _searched(rows @ rows.T)


def near_duplicates(n: int, draw: np.random.Generator) -> Built:
    """Gram matrices of integer samples, two of which differ by one unit."""
    size = 2 ** int(draw.integers(1, 24))  # (n + 1) size² stays below 2**53
    rows = draw.integers(-size, size + 1, (n, n + 1)).astype(float)
    rows[-1] = rows[0]
    rows[-1, draw.integers(n + 1)] += 1
    return _searched(rows @ rows.T)


def small_determinant(n: int, draw: np.random.Generator) -> Built:
    """L D Lᵀ in integers, L with a unit diagonal: condition numbers beyond 1e18."""
    size = int(2 ** draw.uniform(0, 22 / n + 11 * (n == 2)))
    lower = np.tril(draw.integers(-size, size + 1, (n, n)), -1) + np.eye(n)
    middle = np.ones(n)
    middle[-1] = draw.choice([1, 1, 1, 0, -1, 2])
    matrix = (lower * middle) @ lower.T
    return _searched(shuffled(matrix, draw))


def classical(n: int, draw: np.random.Generator) -> Built:
    """Hilbert matrices as integers, and Pascal's."""
    index = range(n)
    if draw.random() < 0.5:
        common = math.lcm(*range(1, 2 * n))
        entries = [[common // (i + j + 1) for j in index] for i in index]
    else:
        entries = [[math.comb(i + j, i) for j in index] for i in index]
    return _searched(shuffled(np.array(entries, dtype=np.float64), draw))


def clustered(n: int, draw: np.random.Generator) -> Built:
    """All eigenvalues within a few units in the last place, or nearly so."""
    noise = _symmetric(draw.integers(-2, 3, (n, n))).astype(float)
    return _searched(noise + 2.0 ** int(draw.integers(30, 52)) * np.eye(n))
