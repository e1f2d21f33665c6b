"""Extreme eigenvalues of small rational matrices, without rounding.

Elimination in integers decides on which side of a float an eigenvalue lies, and
bisection over the floats ends at its two neighbours.
"""

import math
import struct
from fractions import Fraction
from typing import NamedTuple

import numpy as np

Rational = list[list[Fraction]]


class Neighbours(NamedTuple):
    """A real number between two floats with no float between them.

    Both ends are the number if it is a float itself; otherwise it lies strictly
    between. Compared as tuples, the smaller pair holds the smaller number or the same.
    """

    below: float
    above: float


class Built(NamedTuple):
    """A matrix, its smallest and its largest eigenvalue."""

    matrix: np.ndarray
    smallest: Neighbours
    largest: Neighbours


def lowest_sign(rows: list[list[int]]) -> int:
    """Sign of the smallest eigenvalue of a symmetric matrix of integers, exactly.

    Elimination without fractions: with positive pivots before it, a pivot has the sign
    of the one of Gauss. A zero pivot takes its row out if that is zero too, otherwise
    the matrix has a negative eigenvalue. Only the upper triangle is read.

    Source:
        Bareiss (1968), Mathematics of Computation 22:565.
    """
    a = [list(row) for row in rows]
    n, previous, lowest = len(a), 1, 1
    for k in range(n):
        row, pivot = a[k], a[k][k]
        if pivot < 0 or (pivot == 0 and any(row[k + 1 :])):
            return -1
        if pivot == 0:
            lowest = 0
            continue
        for i in range(k + 1, n):
            other, factor = a[i], row[i]
            for j in range(i, n):
                other[j] = (other[j] * pivot - factor * row[j]) // previous
        previous = pivot
    return lowest


def nearest(number: Fraction) -> Neighbours:
    """The floats next to a rational number."""
    value = float(number)  # rounded correctly by the language
    if value == number:
        return Neighbours(value, value)
    if value < number:
        return Neighbours(value, math.nextafter(value, math.inf))
    return Neighbours(math.nextafter(value, -math.inf), value)


def smallest_of(matrix: Rational) -> Neighbours:
    """The floats next to the smallest eigenvalue of a symmetric rational matrix.

    An eigensolver says where to look first; what is returned was decided exactly.

    Args:
        matrix: finite floats, or small combinations of them: denominators are powers of
            two.
    """
    n = len(matrix)
    scale = max(v.denominator for row in matrix for v in row)
    rows = [[int(v * scale) for v in row] for row in matrix]
    common = math.gcd(*(v for row in rows for v in row)) or 1
    rows, unit = [[v // common for v in row] for row in rows], Fraction(common, scale)

    def sign(x: float) -> int:
        """Of the smallest eigenvalue less ``x``."""
        shift = Fraction(x) / unit
        scaled = [[v * shift.denominator for v in row] for row in rows]
        for i in range(n):
            scaled[i][i] -= shift.numerator
        return lowest_sign(scaled)

    floats = np.array([[float(v) for v in row] for row in matrix])
    size = float(np.abs(floats).max())
    guess = float(np.linalg.eigvalsh(floats)[0])
    step = max(n * 2.0**-52 * size, 2.0**-1074)
    low, high = guess - step, guess + step
    while (side := sign(low)) < 0:
        low, step = low - 8 * step, 8 * step
    if side == 0:
        return Neighbours(low, low)
    while (side := sign(high)) > 0:
        high, step = high + 8 * step, 8 * step
    if side == 0:
        return Neighbours(high, high)
    below, above, first = _ordinal(low), _ordinal(high), 0
    while above - below > 1:
        # Zero first: the floats lie dense around it, and a singular matrix is common.
        middle = first if below < 0 < above else (below + above) // 2
        side = sign(_float(middle))
        if side == 0:
            return Neighbours(_float(middle), _float(middle))
        below, above = (middle, above) if side > 0 else (below, middle)
    return Neighbours(_float(below), _float(above))


def largest_of(matrix: Rational) -> Neighbours:
    """The floats next to the largest eigenvalue: minus the smallest of the negative."""
    below, above = smallest_of([[-v for v in row] for row in matrix])
    return Neighbours(-above, -below)


def _ordinal(x: float) -> int:
    """Place of a float among all floats in ascending order; 0 for zero."""
    bits = struct.unpack("<q", struct.pack("<d", x))[0]
    return bits if bits >= 0 else -(bits & (2**63 - 1))


def _float(ordinal: int) -> float:
    return math.copysign(
        struct.unpack("<d", struct.pack("<q", abs(ordinal)))[0], ordinal
    )


def rational(matrix: np.ndarray) -> Rational:
    """The symmetric part of an array of floats, exactly."""
    rows = [[Fraction(v) for v in row] for row in matrix.tolist()]
    n = range(len(rows))
    return [[(rows[i][j] + rows[j][i]) / 2 for j in n] for i in n]


def shuffled(matrix: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Rows and columns permuted alike, some of them with the other sign."""
    order = draw.permutation(len(matrix))
    signs = draw.choice([-1.0, 1.0], len(matrix))
    return matrix[np.ix_(order, order)] * signs[:, None] * signs
