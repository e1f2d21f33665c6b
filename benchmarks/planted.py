r"""Symmetric matrices whose extreme eigenvalues are known without an eigensolver.

Two routes. Small matrices of any floats: elimination in integers decides, without
rounding, on which side of a float an eigenvalue lies, and bisection over the floats
ends at its two neighbours. Large ones: products Q D Qᵀ with Q a Hadamard matrix,
reflections or integer orthogonal blocks over a power of two, so that every entry is a
float and the eigenvalues are the numbers in D; direct sums and Kronecker products.

``planted(kind, size, seed)`` builds each of them again from these three alone.
"""

import math
import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import numpy as np

Rational = list[list[Fraction]]
FLOAT_BITS = 53
SAFE = 2.0**-1000  # scaling by a power of two keeps numbers above this to the last bit
POWERS = (-900, -300, 300, 900)


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


# Exact comparisons.


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


# Small matrices of any floats: the eigenvalues come from exact comparisons.


def _searched(matrix: np.ndarray) -> Built:
    matrix = np.asarray(matrix, dtype=np.float64)
    exact = rational(matrix)
    return Built(matrix, smallest_of(exact), largest_of(exact))


def _symmetric(square: np.ndarray) -> np.ndarray:
    return np.triu(square) + np.triu(square, 1).T


def _gram(n: int, draw: np.random.Generator) -> np.ndarray:
    rows = draw.standard_normal((n, n + int(draw.integers(0, 3))))
    return _symmetric(rows @ rows.T)


def _gaussian(n: int, draw: np.random.Generator) -> Built:
    gram = _gram(n, draw)
    if draw.random() < 0.5:
        gram = gram.astype(np.float32)
    return _searched(gram)


def _indefinite(n: int, draw: np.random.Generator) -> Built:
    square = draw.standard_normal((n, n))
    shift = n * float(draw.integers(-2, 3))
    return _searched(_symmetric(square) + shift * np.eye(n))


def _nearly_singular(n: int, draw: np.random.Generator) -> Built:
    gram = _gram(n, draw)
    lowest = np.linalg.eigvalsh(gram)[0]  # a guess will do: the truth is looked for
    factor = 1 + float(draw.choice([-1, 1])) * 2.0 ** -int(draw.integers(1, 53))
    return _searched(gram - factor * lowest * np.eye(n))


def _graded(n: int, draw: np.random.Generator) -> Built:
    scale = 2.0 ** draw.integers(-60, 1, n)
    return _searched(_gram(n, draw) * scale[:, None] * scale)


def _subnormal(n: int, draw: np.random.Generator) -> Built:
    return _searched(np.ldexp(_gram(n, draw), -int(draw.integers(1000, 1070))))


def _asymmetric(n: int, draw: np.random.Generator) -> Built:
    """By less than rounding, so that the statement is about the symmetric part."""
    gram = _gram(n, draw)
    if draw.random() < 0.5:
        gram -= np.linalg.eigvalsh(gram)[0] * np.eye(n)
    bumps = np.triu(draw.uniform(-1, 1, (n, n)), 1) * np.abs(gram).max()
    if draw.random() < 0.7:
        return _searched(gram + bumps * 2.0**-53)
    single = (gram + bumps * 2.0**-24).astype(np.float32)
    return _searched(single)._replace(matrix=single)


def _integers(n: int, draw: np.random.Generator) -> Built:
    """Gram matrices of small integers, often of less than full rank."""
    rows = draw.integers(-4, 5, (n, int(draw.integers(1, n + 2)))).astype(float)
    return _searched(rows @ rows.T)


def _near_duplicates(n: int, draw: np.random.Generator) -> Built:
    """Gram matrices of integer samples, two of which differ by one unit."""
    size = 2 ** int(draw.integers(1, 24))  # (n + 1) size² stays below 2**53
    rows = draw.integers(-size, size + 1, (n, n + 1)).astype(float)
    rows[-1] = rows[0]
    rows[-1, draw.integers(n + 1)] += 1
    return _searched(rows @ rows.T)


def _small_determinant(n: int, draw: np.random.Generator) -> Built:
    """L D Lᵀ in integers, L with a unit diagonal: condition numbers beyond 1e18."""
    size = int(2 ** draw.uniform(0, 22 / n + 11 * (n == 2)))
    lower = np.tril(draw.integers(-size, size + 1, (n, n)), -1) + np.eye(n)
    middle = np.ones(n)
    middle[-1] = draw.choice([1, 1, 1, 0, -1, 2])
    matrix = (lower * middle) @ lower.T
    return _searched(_shuffled(matrix, draw))


def _classical(n: int, draw: np.random.Generator) -> Built:
    """Hilbert matrices as integers, and Pascal's."""
    index = range(n)
    if draw.random() < 0.5:
        common = math.lcm(*range(1, 2 * n))
        entries = [[common // (i + j + 1) for j in index] for i in index]
    else:
        entries = [[math.comb(i + j, i) for j in index] for i in index]
    return _searched(_shuffled(np.array(entries, dtype=np.float64), draw))


def _clustered(n: int, draw: np.random.Generator) -> Built:
    """All eigenvalues within a few units in the last place, or nearly so."""
    noise = _symmetric(draw.integers(-2, 3, (n, n))).astype(float)
    return _searched(noise + 2.0 ** int(draw.integers(30, 52)) * np.eye(n))


# Matrices of any size: the eigenvalues are put in.


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


def _shuffled(matrix: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Rows and columns permuted alike, some of them with the other sign."""
    order = draw.permutation(len(matrix))
    signs = draw.choice([-1.0, 1.0], len(matrix))
    return matrix[np.ix_(order, order)] * signs[:, None] * signs


def _diagonal(n: int, draw: np.random.Generator) -> Built:
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


def hadamard(values: np.ndarray) -> np.ndarray:
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


def _hadamard(n: int, draw: np.random.Generator) -> Built:
    k = n.bit_length() - 1
    values = spectrum(n, _bits(FLOAT_BITS - k, draw), draw)
    matrix = exact_floats(hadamard(values))
    return _put_in(_shuffled(matrix, draw), Fraction(n), values)


def _reflections(n: int, draw: np.random.Generator) -> Built:
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
    return _put_in(_shuffled(exact_floats(entries), draw), unit, values)


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


def _integer_orthogonal(n: int, draw: np.random.Generator) -> Built:
    basis, square = _orthogonal(n, draw)
    most = FLOAT_BITS - square.bit_length()  # entries are at most square * 2**bits
    values = spectrum(n, _bits(most, draw), draw)
    matrix = exact_floats((basis * values) @ basis.T)
    return _put_in(_shuffled(matrix, draw), Fraction(square), values)


def _samples(n: int, draw: np.random.Generator) -> Built:
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


def _direct_sum(n: int, draw: np.random.Generator) -> Built:
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
    return Built(_shuffled(matrix, draw), smallest, largest)


def _steep(n: int, draw: np.random.Generator) -> Built:
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
    return Built(_shuffled(floats, draw), *ends)


def _kronecker(n: int, draw: np.random.Generator) -> Built:
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
    matrix = np.kron(block, exact_floats(hadamard(values)))
    exact = rational(block)
    ends = [
        [[many * int(value) * v for v in row] for row in exact]
        for value in (values.min(), values.max())
    ]
    smallest = min(smallest_of(end) for end in ends)
    largest = max(largest_of(end) for end in ends)
    return Built(_shuffled(matrix, draw), smallest, largest)


# All of them.

FEW = tuple(range(2, 11))
KINDS = {
    "gaussian": Kind(_gaussian, FEW),
    "indefinite": Kind(_indefinite, FEW),
    "nearly singular": Kind(_nearly_singular, FEW),
    "graded": Kind(_graded, FEW),
    "subnormal": Kind(_subnormal, FEW[:5]),
    "asymmetric": Kind(_asymmetric, FEW),
    "integers": Kind(_integers, FEW),
    "near duplicates": Kind(_near_duplicates, FEW),
    "small determinant": Kind(_small_determinant, FEW),
    "classical": Kind(_classical, FEW),
    "clustered": Kind(_clustered, FEW),
    "diagonal": Kind(_diagonal, (1, 2, 3, 5, 8, 20)),
    "hadamard": Kind(_hadamard, (2, 4, 8, 16, 32, 64, 128), (512, 1024, 2048)),
    "reflections": Kind(
        _reflections, (4, 5, 7, 10, 17, 33, 70, 128), (500, 777, 1024, 1500, 2000)
    ),
    "integer orthogonal": Kind(_integer_orthogonal, (2, 3, 4, 6, 8, 9, 12, 16, 24, 36)),
    "samples": Kind(_samples, (2, 3, 5, 8, 16, 40, 100), (500, 1000, 2000)),
    "direct sum": Kind(_direct_sum, (4, 7, 12, 30, 64, 128), (500, 1000, 2000)),
    "steep": Kind(_steep, (4, 7, 10, 22, 64, 127), (499, 700, 1000)),
    "kronecker": Kind(_kronecker, (6, 10, 12, 24, 40, 80, 112), (640, 1024, 1792)),
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
