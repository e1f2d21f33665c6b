"""Smallest eigenvalue of a pair of matrices, between proven bounds.

Floor 2. ``A v = λ B v`` with B positive definite: the federated kernel ``ΘP`` has
the eigenvalues of the pair ``(Θ, P⁻¹)``. What proves one matrix's smallest eigenvalue
proves this one: λ is at least ``s`` if ``A − sB`` is positive semi-definite.
"""

import dataclasses
from fractions import Fraction

import numpy as np
import scipy.linalg
from jaxtyping import Float
from torch import Tensor

from ntk_fed.errors import ShapeMismatchError
from ntk_fed.measured import Enclosure
from ntk_fed.spectrum.certificate import lower_bound, quadratic_form
from ntk_fed.spectrum.extreme import (
    WIDENING,
    check_options,
    room_below,
    shortfall,
    smallest_eigenvalue,
)
from ntk_fed.spectrum.rounding import (
    TINY,
    UNIT,
    frobenius_norm,
    round_down,
    round_up,
)
from ntk_fed.spectrum.symmetric import SymmetricMatrix, symmetric_matrix

_ATTEMPTS = 12  # shifts tried, each further below the estimate


def smallest_generalised(a: Tensor, b: Tensor, *, rtol: float = 1e-3) -> Enclosure:
    r"""Smallest :math:`\lambda` with :math:`A v = \lambda B v`, between two bounds.

    Args:
        a: symmetric, ``(n, n)``, float64 or float32; of any sign.
        b: symmetric and positive definite, ``(n, n)``; has to be proven so.
        rtol: ``upper - lower`` is to be at most ``rtol * |lower|``; what is not reached
            is told in ``note``.

    Returns:
        Value and bounds in the unit of ``a`` over that of ``b``; proven for both
        matrices as stored.

    Raises:
        ValueError: ``b`` is not proven positive definite, or as
            :func:`smallest_eigenvalue`.
        ShapeMismatchError: the two differ in size.

    Cost:
        A generalised eigensolver, about 3 n³ multiplications, the enclosure of ``b``
        and one certificate.

    Source:
        Sylvester's law of inertia; the certificate as in :func:`smallest_eigenvalue`.

    Example:
        >>> one = torch.eye(2, dtype=torch.float64)
        >>> round(smallest_generalised(6 * one, 2 * one).value, 9)
        3.0
    """
    check_options(rtol, 0.0)
    left, right = symmetric_matrix(a), symmetric_matrix(b)
    if len(left.entries) != len(right.entries):
        raise ShapeMismatchError(
            f"a and b must be of one size, got {tuple(a.shape)} and {tuple(b.shape)}."
        )
    floor = Fraction(smallest_eigenvalue(b).lower) / right.unit
    if floor <= 0:
        raise ValueError(
            "b must be positive definite; its smallest eigenvalue is proven only to be "
            f"at least {float(floor * right.unit):.3e}."
        )
    values, vectors = scipy.linalg.eigh(
        left.entries, right.entries, subset_by_index=[0, 0], check_finite=False
    )
    value, vector = Fraction(float(values[0])), vectors[:, 0]
    unit = left.unit / right.unit
    upper = round_up(_quotient(left, right, vector) * unit)
    found, note = _lower(left, right, value, floor)
    lower = min(round_down(found * unit), upper)
    nearest = min(max(round_down(value * unit), lower), upper)
    notes = [left.note, right.note, note, shortfall((lower, upper), rtol)]
    return Enclosure(
        nearest,
        lower,
        upper,
        certified=True,
        method="Cholesky certificate of A - sB, Rayleigh quotient, as stored",
        note="; ".join(one for one in notes if one),
    )


def _quotient(
    a: SymmetricMatrix, b: SymmetricMatrix, vector: Float[np.ndarray, " n"]
) -> Fraction:
    """``vᵀAv / vᵀBv`` rounded up: at or above the smallest eigenvalue."""
    vector = vector / np.linalg.norm(vector)
    square = Fraction(float(vector @ vector)) * (1 + Fraction(1, 2**20))
    above = quadratic_form(a, vector)[1] + a.rounding * square
    low, high = quadratic_form(b, vector)
    low, high = low - b.rounding * square, high + b.rounding * square
    if low <= 0:
        raise ValueError("b is too close to singular for float64 at the eigenvector.")
    return above / (low if above >= 0 else high)


def _lower(
    a: SymmetricMatrix, b: SymmetricMatrix, value: Fraction, floor: Fraction
) -> tuple[Fraction, str]:
    """A proven lower bound, and a note if it is crude.

    If ``A − sB`` is at least ``-e`` then λ is at least ``s − e / floor``.
    """
    gap = Fraction(0)
    for _ in range(_ATTEMPTS):
        shift = round_down(value - gap)
        pair = _difference(a, b, shift)
        below = room_below(pair, Fraction(0))
        proven = lower_bound(pair, round_down(-below))
        if proven is not None:
            return Fraction(shift) + min(Fraction(0), proven / floor), ""
        gap = WIDENING * gap if gap else (below + pair.rounding) / floor
    norm = frobenius_norm(a.entries) + a.rounding
    return -norm / floor, "every factorisation was refused; one bound is a norm"


def _difference(
    a: SymmetricMatrix, b: SymmetricMatrix, shift: float
) -> SymmetricMatrix:
    """``A − sB`` as stored, with what its forming rounded away."""
    product = shift * b.entries
    entries = a.entries - product
    n = len(entries)
    rounding = UNIT * (frobenius_norm(product) + frobenius_norm(entries)) / (1 - UNIT)
    rounding += 2 * n * TINY + a.rounding + abs(Fraction(shift)) * b.rounding
    largest = float(np.abs(entries).max())
    return dataclasses.replace(
        a, entries=entries, exponent=0, rounding=rounding, largest=largest
    )
