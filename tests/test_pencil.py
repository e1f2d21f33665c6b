"""The pair's smallest eigenvalue against exact inertia, its laws, its refusals."""

import dataclasses
import math
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_spectrum import exact_pivots, kernel

from ntk_fed.errors import ShapeMismatchError
from ntk_fed.spectrum import pencil, smallest_eigenvalue
from ntk_fed.spectrum.pencil import smallest_generalised
from ntk_fed.spectrum.symmetric import symmetric_matrix

many = settings(max_examples=80, deadline=None, derandomize=True, database=None)


def pair(n, seed, kind):
    """A symmetric matrix of any sign and a positive definite one, in few bits."""
    draw = np.random.default_rng(seed)
    a = draw.integers(-8, 9, (n, n)).astype(float)
    factor = draw.integers(-3, 4, (n, n)).astype(float)
    b = factor @ factor.T + np.eye(n)
    match kind:
        case "graded":
            scale = 2.0 ** draw.integers(-12, 1, n)
            b = scale[:, None] * b * scale
        case "semi-definite":
            a = a[:, : max(1, n - 1)] @ a[:, : max(1, n - 1)].T
        case "rounded":
            a, b = a / 3, b / 7
    return (a + a.T) / 2, (b + b.T) / 2


def exactly(a, b, shift):
    """Signs of the pivots of ``A − sB`` in fractions."""
    fractions = np.array(
        [
            [Fraction(x) - shift * Fraction(y) for x, y in zip(row, other, strict=True)]
            for row, other in zip(a.tolist(), b.tolist(), strict=True)
        ]
    )
    return exact_pivots(fractions, Fraction(0))


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


@given(
    st.integers(1, 7),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["plain", "graded", "semi-definite", "rounded"]),
)
@many
def test_both_ends_are_true_exactly(n, seed, kind):
    a, b = pair(n, seed, kind)
    found = smallest_generalised(tensor(a), tensor(b))
    assert found.certified
    assert -1 not in exactly(a, b, Fraction(found.lower))
    assert min(exactly(a, b, Fraction(found.upper))) < 1
    assert found.lower <= found.value <= found.upper
    assert found.width <= 1e-6 * max(1.0, np.abs(a).max() / np.linalg.eigvalsh(b)[0])


def test_with_the_identity_it_is_the_smallest_eigenvalue():
    gram = tensor(kernel(40, 0))
    found = smallest_generalised(gram, torch.eye(40, dtype=torch.float64))
    alone = smallest_eigenvalue(gram)
    assert found.lower <= alone.upper
    assert found.upper >= alone.lower
    assert found.width <= 1e-9 * alone.value


def test_a_congruence_changes_nothing():
    a, b = pair(6, 3, "plain")
    t = np.diag(2.0 ** np.arange(6)) + np.triu(np.ones((6, 6)), 1)
    plain = smallest_generalised(tensor(a), tensor(b))
    other = smallest_generalised(tensor(t.T @ a @ t), tensor(t.T @ b @ t))
    assert other.lower <= plain.upper
    assert other.upper >= plain.lower


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_a_wrong_estimate_costs_sharpness_and_not_truth(factor, monkeypatch):
    """Planted fault: the pair's eigensolver is off by a tenth, to either side."""
    a, b = pair(6, 5, "plain")
    sharp = smallest_generalised(tensor(a), tensor(b))

    def off(*args, **options):
        values, vectors = scipy.linalg.eigh(*args, **options)
        return values * factor, vectors

    only_here = SimpleNamespace(linalg=SimpleNamespace(eigh=off))
    monkeypatch.setattr(pencil, "scipy", only_here)
    found = smallest_generalised(tensor(a), tensor(b))
    assert found.certified
    assert found.width > 1000 * sharp.width  # the fault was felt
    assert -1 not in exactly(a, b, Fraction(found.lower))
    assert min(exactly(a, b, Fraction(found.upper))) < 1


def test_what_is_no_pair_is_refused():
    one = torch.eye(3, dtype=torch.float64)
    with pytest.raises(ShapeMismatchError, match="of one size"):
        smallest_generalised(one, torch.eye(2, dtype=torch.float64))
    for b in (-one, 0 * one, torch.diag(tensor([1.0, 1.0, 0.0]))):
        with pytest.raises(ValueError, match="b must be positive definite"):
            smallest_generalised(one, b)
    with pytest.raises(ValueError, match="b must be positive definite"):
        smallest_generalised(one, one - torch.ones(3, 3, dtype=torch.float64))
    assert math.isfinite(smallest_generalised(-one, one).lower)


def test_what_preparing_both_matrices_rounded_counts_in_their_difference():
    """Far too much for real matrices, so that each part shows."""
    a, b = pair(4, 0, "plain")
    left = dataclasses.replace(symmetric_matrix(tensor(a)), rounding=Fraction(1, 4))
    right = dataclasses.replace(symmetric_matrix(tensor(b)), rounding=Fraction(1, 8))
    meant = Fraction(1, 4) + 3 * Fraction(1, 8)
    for shift in (3.0, -3.0):
        found = pencil._difference(left, right, shift).rounding
        assert meant < found < meant + Fraction(1, 10**12)
