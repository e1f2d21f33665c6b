r"""Matrices of any size whose eigenvalues are put in.

Products Q D Qᵀ with Q a Hadamard matrix, reflections or integer orthogonal blocks over
a power of two, so that every entry is a float and the eigenvalues are the numbers in D;
low ranks with a multiple of the identity; Kronecker products.
"""

from fractions import Fraction

import numpy as np
from exact import (
    Built,
    Neighbours,
    largest_of,
    nearest,
    rational,
    shuffled,
    smallest_of,
)

FLOAT_BITS = 53


def spectrum(n: int, bits: int, draw: np.random.Generator) -> np.ndarray:
    """Integers up to ``2**bits`` for eigenvalues, in one of several shapes."""
    top = 2**bits
    values = draw.integers(1, top + 1, n)
    lowest = 2 ** int(bits * draw.random() ** 2)
    some = 1 + int(draw.integers(0, n))
    match draw.integers(0, 8):
        case 0:  # one small, the others alike
            values = draw.integers(max(1, top // 2), top + 1, n)
            values[0] = lowest
        case 1:  # graded
            values = 2 ** draw.integers(0, bits + 1, n)
        case 2:  # a cluster at the bottom, a few units wide
            values[:some] = lowest + draw.integers(0, 4, some)
        case 3:  # a multiple eigenvalue at the bottom
            values = np.maximum(values, lowest)
            values[:some] = lowest
        case 4:  # all within a few units
            values = top - draw.integers(0, 2, n)
        case 5:  # both signs
            values = draw.integers(-top, top + 1, n)
        case 6:  # one small and negative
            values[0] = -lowest
        case 7:  # singular
            values[:some] = 0
    return np.minimum(values, top).astype(np.int64)


def _bits(most: int, draw: np.random.Generator) -> int:
    """How many bits the eigenvalues get: often all there are."""
    return most if draw.random() < 0.5 else int(draw.integers(2, most + 1))


def exact_floats(entries: np.ndarray) -> np.ndarray:
    """int64 numbers as floats.

    Raises:
        ArithmeticError: one of them is no float.
    """
    floats = entries.astype(np.float64)
    if np.abs(entries).max() >= 2**62 or (floats.astype(np.int64) != entries).any():
        raise ArithmeticError("an entry has more than 53 bits; draw fewer")
    return floats


def _put_in(matrix: np.ndarray, unit: Fraction, values: np.ndarray) -> Built:
    """With eigenvalues ``unit * values``."""
    ends = (int(values.min()), int(values.max()))
    return Built(matrix, *(nearest(unit * value) for value in ends))


def diagonal(n: int, draw: np.random.Generator) -> Built:
    match draw.integers(0, 5):
        case 0:
            values = np.zeros(n)
        case 1:
            values = np.full(n, float(draw.standard_normal()))
        case 2:
            values = draw.standard_normal(n)
        case 3:
            values = 2.0 ** draw.integers(-60, 61, n)
        case _:
            values = exact_floats(spectrum(n, 52, draw))
    ends = (float(values.min()), float(values.max()))
    return Built(np.diag(values), *(Neighbours(v, v) for v in ends))


def hadamard_product(values: np.ndarray) -> np.ndarray:
    """``H diag(values) H`` for Sylvester's H of entries ±1, in int64.

    Entry (i, j) depends on the bits in which i and j differ alone, so one transform of
    ``values`` gives them all.

    Args:
        values: ``(2**k,)``, int64, of a sum below ``2**62`` in size.
    """
    n, sums = len(values), values.reshape(-1, 1)
    if n & (n - 1):
        raise ValueError(f"a Hadamard matrix here has 2**k rows, not {n}.")
    while len(sums) > 1:
        even, odd = sums[0::2], sums[1::2]
        sums = np.hstack([even + odd, even - odd])
    index = np.arange(n)
    return sums[0][index[:, None] ^ index]


def hadamard(n: int, draw: np.random.Generator) -> Built:
    k = n.bit_length() - 1
    values = spectrum(n, _bits(FLOAT_BITS - k, draw), draw)
    matrix = exact_floats(hadamard_product(values))
    return _put_in(shuffled(matrix, draw), Fraction(n), values)


def reflections(n: int, draw: np.random.Generator) -> Built:
    """Householder reflections I - 2 v vᵀ / 2**j along vectors v of 2**j entries ±1."""
    powers, left = [], FLOAT_BITS - 2
    for _ in range(3):
        most = min(n.bit_length() - 1, (left - 2) // 2)
        if most >= 2:
            powers.append(int(draw.integers(2, most + 1)) if powers else most)
            left -= 2 * powers[-1]
    values = spectrum(n, _bits(left, draw), draw)
    entries, unit = np.diag(values), Fraction(1)
    for power in powers:
        m = 2**power
        v = np.zeros(n, dtype=np.int64)
        v[draw.choice(n, m, replace=False)] = draw.choice([-1, 1], m)
        image = entries @ v
        cross = np.outer(v, image)
        entries = m * m * entries - 2 * m * (cross + cross.T)
        entries += 4 * int(v @ image) * np.outer(v, v)
        unit *= m * m
    return _put_in(shuffled(exact_floats(entries), draw), unit, values)


def _orthogonal(n: int, draw: np.random.Generator) -> tuple[np.ndarray, int]:
    """An integer matrix V of n rows and c with V Vᵀ = c I; n has factors 2 and 3."""
    if n == 1:
        return np.ones((1, 1), dtype=np.int64), 1
    a, b, c, d = 0, 0, 0, 0
    while a * a + b * b == 0:
        a, b, c, d = (int(v) for v in draw.integers(-2, 3, 4))
    if n % 4 == 0 and draw.random() < 0.5:  # a quaternion
        block = [[a, -b, -c, -d], [b, a, -d, c], [c, d, a, -b], [d, -c, b, a]]
        square = a * a + b * b + c * c + d * d
    elif n % 3 == 0:  # the rotation that belongs to one
        c, d = c % 2, d % 2
        block = [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a - b * b + c * c - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a - b * b - c * c + d * d],
        ]
        square = (a * a + b * b + c * c + d * d) ** 2
    else:
        block, square = [[a, -b], [b, a]], a * a + b * b
    rest, factor = _orthogonal(n // len(block), draw)
    return np.kron(np.array(block, dtype=np.int64), rest), square * factor


def integer_orthogonal(n: int, draw: np.random.Generator) -> Built:
    basis, square = _orthogonal(n, draw)
    most = FLOAT_BITS - square.bit_length()  # entries are at most square * 2**bits
    values = spectrum(n, _bits(most, draw), draw)
    matrix = exact_floats((basis * values) @ basis.T)
    return _put_in(shuffled(matrix, draw), Fraction(square), values)


def samples(n: int, draw: np.random.Generator) -> Built:
    """More samples than dimensions: X Xᵀ + c I has the smallest eigenvalue c.

    The largest is c more than that of the small Xᵀ X.
    """
    d = int(draw.integers(1, min(n, 7)))
    size = 2 ** int(draw.integers(0, 15))
    rows = draw.integers(-size, size + 1, (n, d)).astype(np.float64)
    lift = 2.0 ** int(draw.integers(0, 22))  # 6 * 2**28 * 2**21 + 2**39 < 2**53
    sign = float(draw.choice([-1, 0, 1, 1, 1]))
    shift = sign * 2.0 ** int(draw.integers(0, 40))
    matrix = lift * (rows @ rows.T) + shift * np.eye(n)
    dual = rational(lift * (rows.T @ rows))
    for i in range(d):
        dual[i][i] += Fraction(shift)  # a sum that may be no float
    return Built(matrix, Neighbours(shift, shift), largest_of(dual))


def steep(n: int, draw: np.random.Generator) -> Built:
    """Eigenvalues down to 2**-600 of the largest, in a matrix that is no direct sum.

    Two layers of reflections along four neighbours each, (0, 1, 2, 3), (6, 7, 8, 9), ..
    and (3, 4, 5, 6), ..: nearly all are linked, but each entry sees a dozen at most.
    """
    depth = min(int(draw.choice([40, 150, 300, 600])), 2 * n)
    exponents = depth - depth * np.arange(n) // max(n - 1, 1)
    heads = draw.integers(1, 8, n)
    values = [int(d) << int(e) for d, e in zip(heads, exponents, strict=True)]
    entries = np.diag(np.array(values, dtype=object)) * 16
    for first in (3, 0):
        for at in range(first, n - 3, 6):
            v = draw.choice([-1, 1], 4).astype(object)
            some = slice(at, at + 4)
            entries[some] -= np.outer(v, v @ entries[some]) // 2
            entries[:, some] -= np.outer(entries[:, some] @ v, v) // 2
    floats = entries.astype(np.float64)
    if any(int(a) != b for a, b in zip(floats.flat, entries.flat, strict=True)):
        raise ArithmeticError("an entry has more than 53 bits; draw fewer")
    ends = (nearest(Fraction(16 * v)) for v in (min(values), max(values)))
    return Built(shuffled(floats, draw), *ends)


def kronecker(n: int, draw: np.random.Generator) -> Built:
    """An integer matrix, often singular or nearly so, times a Hadamard product."""
    many = n & -n  # the power of two in n
    while n // many < 3:
        many //= 2
    few = n // many
    if draw.random() < 0.5:
        rows = draw.integers(-9, 10, (few, few)).astype(float)
        block = rows @ rows.T - float(draw.choice([0, 0, 100])) * np.eye(few)
    else:  # of determinant 1; entries stay below 2**10 either way
        rows = np.tril(draw.integers(-9, 10, (few, few)), -1) + np.eye(few)
        block = rows @ rows.T
    k = many.bit_length() - 1
    values = np.abs(spectrum(many, _bits(FLOAT_BITS - 11 - k, draw), draw))
    matrix = np.kron(block, exact_floats(hadamard_product(values)))
    exact = rational(block)
    ends = [
        [[many * int(value) * v for v in row] for row in exact]
        for value in (values.min(), values.max())
    ]
    smallest = min(smallest_of(end) for end in ends)
    largest = max(largest_of(end) for end in ends)
    return Built(shuffled(matrix, draw), smallest, largest)
