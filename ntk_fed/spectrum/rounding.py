"""Bounds on float64 rounding, and directed rounding of exact rationals.

Floor 2: imports ``errors`` only.

``UNIT`` is half the machine epsilon; ``gamma(k)`` is the bound for k roundings in a row
(Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed. 2002, section 3.1). It
holds for any order of summation, with or without fused multiply-add.
"""

import math
from collections.abc import Iterable
from fractions import Fraction

import numpy as np

from ntk_fed.errors import NonFiniteError

UNIT = Fraction(1, 2**53)  # rounding to nearest is off by at most this, relatively
TINY = Fraction(1, 2**1074)  # the smallest positive float64
SAFE_EXPONENT = 400  # within 2**±400, products and squares of entries stay in range


def gamma(k: int) -> Fraction:
    """Relative error of k roundings in a row, ``k u / (1 - k u)``, exactly.

    Raises:
        ValueError: ``k u`` is a quarter or more; no bound here is meant for that.
    """
    if 4 * k * UNIT >= 1:
        raise ValueError(
            f"{k} float64 roundings in a row leave no digit to certify; the bound "
            f"needs fewer than {2**51}."
        )
    return k * UNIT / (1 - k * UNIT)


def underflow(n: int) -> Fraction:
    """What products below the normal range can lose, in norm, when n terms are summed.

    Generous: it still covers n by n sums of n terms when subnormals are flushed.
    """
    return (n + 2) ** 2 * Fraction(1, 2**1021)


def sum_of_squares(arrays: Iterable[np.ndarray]) -> Fraction:
    """Upper bound for the sum of all squares in finite arrays, close to it.

    Squares of entries far from 1 would leave the range of float64 unnoticed (a residual
    of 1e-170 has a computed norm of zero), so such arrays are scaled first.

    Raises:
        NonFiniteError: an entry is none.
    """
    sums: dict[int, list[float]] = {}  # by the power of four taken out
    entries, longest = 0, 0
    for array in arrays:
        flat = array.ravel(order="K")
        size = max(float(flat.max()), -float(flat.min()))
        if not math.isfinite(size):
            raise NonFiniteError("an array holds NaN or infinity; it has no norm.")
        exponent = math.frexp(size)[1]
        if abs(exponent) > SAFE_EXPONENT:
            flat = np.ldexp(flat, -exponent)
        else:
            exponent = 0
        # einsum stays on this thread: waking others takes longer than the sum of a
        # piece.
        sums.setdefault(exponent, []).append(float(np.einsum("i,i", flat, flat)))
        entries, longest = entries + flat.size, max(longest, flat.size)
    # Twice TINY an entry: its square, and the scaling, may fall below the range. The
    # sum of sums rounds once more.
    bound = sum(
        (Fraction(math.fsum(computed)) + 2 * entries * TINY) * Fraction(4) ** exponent
        for exponent, computed in sums.items()
    )
    return bound / (1 - gamma(longest + 1))


def frobenius_norm(array: np.ndarray) -> Fraction:
    """Upper bound for the Frobenius norm of a finite array, close to it."""
    return root(sum_of_squares([array]))


def root(square: Fraction) -> Fraction:
    """Upper bound for the square root of a number of at least 0, close to it."""
    if square == 0:
        return Fraction(0)
    # An even power of two is taken out, for a square of 1e-400 is no float64.
    half = (square.numerator.bit_length() - square.denominator.bit_length()) // 2
    upper = math.sqrt(round_up(square / Fraction(4) ** half))
    return Fraction(math.nextafter(upper, math.inf)) * Fraction(2) ** half


def round_up(number: Fraction) -> float:
    """A float64 at least ``number``, less than one step above it."""
    return -round_down(-number) + 0.0  # and no minus zero


def round_down(number: Fraction) -> float:
    """A float64 at most ``number``, less than one step below it.

    Raises:
        NonFiniteError: ``number`` lies outside the range of float64.
    """
    try:
        nearest = float(number)  # correctly rounded by the language
    except OverflowError:
        nearest = math.inf if number > 0 else -math.inf
    if nearest > number:
        nearest = math.nextafter(nearest, -math.inf)
    if not math.isfinite(nearest):
        raise NonFiniteError(
            "a bound for an eigenvalue of gram lies outside the range of float64. "
            "Divide gram by a power of two first."
        )
    return nearest
