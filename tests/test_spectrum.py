"""Certified eigenvalues against exact rational arithmetic, their laws, their refusals.

The oracle is elimination in fractions: whether a matrix of floats less a float times
the identity is positive semi-definite is decided without any rounding.
"""

import copy
import dataclasses
import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ntk_fed as nf
import ntk_fed.spectrum as spectrum
from ntk_fed.errors import NonFiniteError, NotSymmetricError, ShapeMismatchError
from ntk_fed.measured import Enclosure, Verdict
from ntk_fed.spectrum import (
    at_least,
    certificate,
    decide,
    extreme,
    rounding,
    search,
    whole,
)
from ntk_fed.spectrum import largest_eigenvalue as largest
from ntk_fed.spectrum import smallest_eigenvalue as smallest
from ntk_fed.spectrum.symmetric import symmetric_matrix

KINDS = [
    "integers",
    "negative",
    "rank deficient",
    "nearly singular",
    "duplicate rows",
    "graded",
    "tiny",
    "huge",
    "subnormal",
    "one by one",
]
many = settings(max_examples=150, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 2**32 - 1)


def symmetric(kind, n, seed):
    """A random symmetric float64 matrix of a kind that has broken certificates."""
    draw = np.random.default_rng(seed)
    square = draw.standard_normal((n, n))
    gram = square @ square.T
    match kind:
        case "integers":
            gram = np.round(3 * square)
        case "negative":
            gram = square + square.T - 2 * n * np.eye(n)
        case "rank deficient":  # small integers: the product is exact, and so the rank
            factor = draw.integers(-4, 5, (n, max(1, n - 1 - seed % 2))).astype(float)
            gram = factor @ factor.T
        case "nearly singular":
            gram -= (np.linalg.eigvalsh(gram)[0] * (1 - 1e-13)) * np.eye(n)
        case "duplicate rows":
            square[-1] = square[0] * (1 + (seed % 3) * 1e-15)
            gram = square @ square.T
        case "graded":
            scale = 2.0 ** draw.integers(-60, 1, n)
            gram = gram * scale[:, None] * scale
        case "tiny" | "huge" | "subnormal":
            power = {"tiny": -700, "huge": 950, "subnormal": -1060}[kind]
            gram = np.ldexp(gram, power)
        case "one by one":
            gram = square[:1, :1]
    return np.triu(gram) + np.triu(gram, 1).T


def exact_pivots(matrix, shift, sign=1):
    """Signs met while sign * (matrix - shift) is eliminated exactly; stops at a -1."""
    n = len(matrix)
    a = [[sign * Fraction(v) for v in row] for row in matrix]
    for i in range(n):
        a[i][i] -= sign * Fraction(shift)
    signs = []
    for k in range(n):
        pivot = a[k][k]
        if pivot < 0 or (pivot == 0 and any(a[k][k + 1 :])):
            return [*signs, -1]
        signs.append(1 if pivot else 0)
        for i in range(k + 1, n if pivot else 0):
            ratio = a[i][k] / pivot
            for j in range(k + 1, n):
                a[i][j] -= ratio * a[k][j]
    return signs


def is_lower(matrix, bound):
    """Exactly: is every eigenvalue at least ``bound``?"""
    return -1 not in exact_pivots(matrix, bound)


def is_upper(matrix, bound):
    """Exactly: is some eigenvalue at most ``bound``?"""
    return min(exact_pivots(matrix, bound)) < 1


def tensor(matrix, device="cpu"):
    return torch.tensor(np.asarray(matrix), dtype=torch.float64).to(device)


def with_ones(n):
    """Ones plus the identity: eigenvalues exactly 1 and n + 1."""
    return torch.ones(n, n, dtype=torch.float64) + torch.eye(n, dtype=torch.float64)


def test_the_exact_oracle_counts_as_it_should():
    assert is_lower([[2, 1], [1, 2]], 1)
    assert not is_lower([[2, 1], [1, 2]], 1.0000000000000002)
    assert is_upper([[2, 1], [1, 2]], 1)
    assert not is_upper([[2, 1], [1, 2]], 0.9999999999999999)
    assert not is_lower([[0, 1], [1, 0]], 0)  # a zero pivot hides a negative eigenvalue


@pytest.mark.parametrize("kind", KINDS)
@many
@given(n=st.integers(2, 6), seed=seeds)
def test_certified_bounds_hold_exactly(kind, n, seed):
    matrix = symmetric(kind, n, seed)
    low, high = smallest(tensor(matrix)), largest(tensor(matrix))
    assert low.certified
    assert high.certified
    assert low.lower <= low.value <= low.upper
    assert is_lower(matrix, low.lower)
    assert is_upper(matrix, low.upper)
    assert is_lower(-matrix, -high.upper)
    assert is_upper(-matrix, -high.lower)


@pytest.mark.parametrize("form", ["residual", "cholesky"])
@many
@given(kind=st.sampled_from(KINDS), n=st.integers(2, 9), seed=seeds)
def test_a_bound_below_the_highest_accepted_shift_holds_exactly(form, kind, n, seed):
    given_matrix = symmetric(kind, n, seed)
    matrix = symmetric_matrix(tensor(given_matrix))
    shift = highest_accepted(matrix, form)
    bound = certificate.lower_bound(matrix, shift, form=form) * matrix.unit
    assert is_lower(given_matrix, bound)


@many
@given(kind=st.sampled_from(KINDS), n=st.integers(1, 6), seed=seeds)
def test_any_vector_gives_an_upper_bound(kind, n, seed):
    given_matrix = symmetric(kind, n, seed)
    matrix = symmetric_matrix(tensor(given_matrix))
    vector = np.random.default_rng(seed).standard_normal(len(given_matrix))
    vector /= np.linalg.norm(vector)
    bound = certificate.upper_bound(matrix, vector)
    assert is_upper(given_matrix, bound * matrix.unit)
    v = [Fraction(float(value)) for value in vector]
    quotient = rayleigh(given_matrix, v)
    assert bound * matrix.unit >= quotient
    # Sharp too: the bound is off by roundings of |v|ᵀ|A||v| <= n max|A| only.
    size = Fraction(float(np.abs(given_matrix).max()))
    slack = 8 * n * n * Fraction(2**-52) * size + Fraction(1, 2**1000) * matrix.unit
    assert bound * matrix.unit - quotient <= slack


def rayleigh(matrix, v):
    """Exact Rayleigh quotient."""
    a = [[Fraction(float(value)) for value in row] for row in matrix]
    n = range(len(v))
    return sum(v[i] * a[i][j] * v[j] for i in n for j in n) / sum(e * e for e in v)


def test_the_plain_rayleigh_quotient_is_no_upper_bound():
    """Negative control: rounding alone puts it below the exact one, and often."""
    below = 0
    for seed in range(50):
        matrix = symmetric("integers", 5, seed)
        vector = np.random.default_rng(seed).standard_normal(5)
        plain = float(vector @ matrix @ vector / (vector @ vector))
        below += plain < rayleigh(matrix, [Fraction(float(v)) for v in vector])
    assert below > 5


def highest_accepted(matrix, form):
    """Where the factorisation starts to refuse, by bisection; a shift it accepts."""
    size = float(np.abs(matrix.entries).max())
    low, high = -2.0 * len(matrix.entries) * size - 1e-300, 2.0 * size
    for _ in range(60):
        middle = (low + high) / 2
        if certificate.lower_bound(matrix, middle, form=form) is None:
            high = middle
        else:
            low = middle
    return low


def test_the_trace_of_the_unshifted_matrix_gives_false_certificates():
    """Negative control: with a negative shift, tr A is no bound for the size of B."""
    given_matrix = symmetric("negative", 5, 3)
    matrix = symmetric_matrix(tensor(given_matrix))
    shift = highest_accepted(matrix, "cholesky")
    ratio = rounding.gamma(8) / (1 - rounding.gamma(8))
    wrong = Fraction(shift) - ratio * sum(map(Fraction, np.diagonal(given_matrix)))
    assert not is_lower(given_matrix, wrong)
    right = certificate.lower_bound(matrix, shift, form="cholesky")
    assert is_lower(given_matrix, right)


def replaced_factor(monkeypatch, change):
    """Let the factorisation succeed and return something else."""
    original = certificate.get_lapack_funcs

    def functions(names, arrays):
        (potrf,) = original(names, arrays)
        return (lambda *args, **options: (change(potrf(*args, **options)[0]), 0),)

    monkeypatch.setattr(certificate, "get_lapack_funcs", functions)


@pytest.mark.parametrize("form", ["residual", "cholesky"])
@pytest.mark.parametrize("entry", [(0, 2), (1, 1)])
@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_success_reported_on_a_senseless_factor_is_not_believed(
    monkeypatch, form, entry, value
):
    def spoilt(factor):
        factor[entry] = value
        return factor

    if value == -1.0 and entry == (0, 2):
        value = math.nan  # a negative entry off the diagonal is no fault
    replaced_factor(monkeypatch, spoilt)
    matrix = symmetric_matrix(with_ones(3))
    assert certificate.lower_bound(matrix, 0.5, form=form) is None


@pytest.mark.parametrize("form", ["residual", "cholesky"])
@many
@given(kind=st.sampled_from(KINDS), n=st.integers(2, 6), seed=seeds)
def test_the_error_covers_what_the_factor_misses(form, kind, n, seed):
    """The step of the proof itself, which is stricter than the truth of the bound."""
    matrix = symmetric_matrix(tensor(symmetric(kind, n, seed)))
    shift = highest_accepted(matrix, form)
    seen = []

    def remembered(factor):
        seen.append(factor.copy())
        return factor

    with pytest.MonkeyPatch.context() as patch:
        replaced_factor(patch, remembered)
        bound = certificate.lower_bound(matrix, shift, form=form)
    entries, size = matrix.entries.tolist(), len(matrix.entries)
    factor = [[Fraction(v) for v in row] for row in seen[0].tolist()]
    square = Fraction(0)
    for i in range(size):
        for j in range(size):
            product = sum(row[i] * row[j] for row in factor)
            target = Fraction(entries[i][j])
            if i == j:
                rounded = math.nextafter(entries[i][i] - shift, -math.inf)
                assert Fraction(rounded) <= target - Fraction(shift)
                target = Fraction(rounded)
            square += (product - target) ** 2
    assert square <= (Fraction(shift) - bound - matrix.rounding) ** 2


@many
@given(power=st.sampled_from([-900, 0, 950]), n=st.integers(2, 6), seed=seeds)
def test_what_preparing_rounds_away_is_bounded_and_counted(power, n, seed):
    given_matrix = np.ldexp(symmetric("negative", n, seed), power)
    if power > 0:  # one entry that scaling pushes below the range of float64
        given_matrix[-1, -1] = math.ldexp(1 + seed, -1000)
    bumps = np.random.default_rng(seed).uniform(-1, 1, (n, n)) * 2**-52
    given_matrix = given_matrix * (1 + np.triu(bumps, 1))
    matrix = symmetric_matrix(tensor(given_matrix))
    square = Fraction(0)
    for i in range(n):
        for j in range(n):
            pair = given_matrix[i, j].item(), given_matrix[j, i].item()
            part = (Fraction(pair[0]) + Fraction(pair[1])) / 2 / matrix.unit
            square += (part - Fraction(matrix.entries[i, j].item())) ** 2
    assert square <= matrix.rounding**2
    more = dataclasses.replace(matrix, rounding=matrix.rounding + 1)
    vector = np.full(n, 1 / math.sqrt(n))
    lower = certificate.lower_bound(matrix, -99.0)
    upper = certificate.upper_bound(matrix, vector)
    assert certificate.lower_bound(more, -99.0) == lower - 1
    assert certificate.upper_bound(more, vector) == upper + 1


def test_the_residual_form_survives_a_wrong_factor(monkeypatch):
    """And the other form does not: it is for libraries that are known."""
    given_matrix = symmetric("negative", 5, 3)
    matrix = symmetric_matrix(tensor(given_matrix))
    truth = np.linalg.eigvalsh(given_matrix)[0]
    replaced_factor(
        monkeypatch, lambda factor: np.triu(np.nan_to_num(factor)) + np.eye(5)
    )
    shift = float(truth + 0.05)
    true = certificate.lower_bound(matrix, shift, form="residual")
    assert is_lower(given_matrix, true)
    monkeypatch.setattr(certificate, "substitutes", lambda: False)
    assert certificate.lower_bound(matrix, shift) == true  # of an unknown library
    false = certificate.lower_bound(matrix, shift, form="cholesky")
    assert not is_lower(given_matrix, false)


@many
@given(
    st.lists(
        st.floats(allow_nan=False, allow_infinity=False, width=64),
        min_size=1,
        max_size=9,
    )
)
def test_sums_of_squares_and_norms_are_rounded_up(values):
    truth = sum(Fraction(v) ** 2 for v in values)
    found = rounding.sum_of_squares([np.array(values)])
    assert truth <= found <= truth * (1 + Fraction(30, 2**53)) + Fraction(1, 2**1060)
    norm = rounding.frobenius_norm(np.array(values))
    assert truth <= norm**2 <= found * (1 + Fraction(9, 2**52))


def test_the_plain_norm_of_a_small_residual_vanishes():
    """Negative control: squares of 1e-170 underflow, and with them the error bound."""
    residual = np.full(4, 1e-170)
    assert math.sqrt(float(residual @ residual)) == 0.0
    assert rounding.frobenius_norm(residual) >= Fraction(2e-170)


@many
@given(
    st.fractions(max_denominator=10**9)
    | st.floats(allow_nan=False, allow_infinity=False).map(lambda v: Fraction(v) / 3)
)
def test_directed_rounding_brackets_the_rational_number(number):
    down, up = rounding.round_down(number), rounding.round_up(number)
    assert Fraction(down) <= number <= Fraction(up)
    assert up <= math.nextafter(down, math.inf)


def test_gamma_refuses_so_many_roundings_that_nothing_is_left():
    with pytest.raises(ValueError, match="leave no digit to certify"):
        rounding.gamma(2**51)


@pytest.mark.parametrize("n", [2, 7, 60, 200])
def test_bounds_hold_the_eigenvalues_of_a_chain(n, device):
    chain = 2 * torch.eye(n, dtype=torch.float64)
    chain -= torch.diag(torch.ones(n - 1, dtype=torch.float64), 1)
    chain -= torch.diag(torch.ones(n - 1, dtype=torch.float64), -1)
    with mpmath.workdps(40):
        low = 2 - 2 * mpmath.cos(mpmath.pi / (n + 1))
        high = 2 + 2 * mpmath.cos(mpmath.pi / (n + 1))
        first, last = smallest(chain.to(device)), largest(chain.to(device))
        assert first.lower <= low <= first.upper
        assert last.lower <= high <= last.upper
    assert first.width <= 1e-6 * first.lower
    assert first.note == ""


def test_a_well_conditioned_matrix_is_enclosed_to_many_digits(device):
    found = smallest(with_ones(100).to(device), rtol=1e-9)
    assert found.lower <= 1.0 <= found.upper
    assert found.width <= 1e-9 * found.lower
    assert found.note == ""
    assert all(type(v) is float for v in (found.value, found.lower, found.upper))


def test_a_tolerance_that_rounding_forbids_is_admitted_in_the_note():
    found = smallest(torch.ones(4, 4, dtype=torch.float64))
    assert found.lower <= 0.0 <= found.upper
    assert "rtol 0.001 was not reached" in found.note
    assert "rtol 1e-15 was not reached" in smallest(with_ones(9), rtol=1e-15).note


@pytest.mark.parametrize("scale", [0.0, 1.0, -3.0, 1e-320, 1e308])
def test_a_diagonal_matrix_is_read_off_exactly(scale):
    gram = scale * torch.diag(torch.tensor([1.0, 0.25, 0.5], dtype=torch.float64))
    found = [smallest(gram), largest(gram)]
    values = sorted(torch.diagonal(gram).tolist())
    assert [(f.lower, f.upper) for f in found] == [(v, v) for v in values[::2]]
    assert at_least(gram, values[0]) is Verdict.holds
    assert smallest(gram, certify=False).certified  # nothing is left to estimate


def test_a_forming_error_counts_for_a_diagonal_matrix_too():
    identity = torch.eye(3, dtype=torch.float64)
    assert at_least(identity, 1.1, forming_error=0.2) is Verdict.undecided
    assert at_least(identity, 1.3, forming_error=0.2) is Verdict.fails
    assert smallest(identity, forming_error=0.5).lower == 0.5


def test_a_bound_of_next_to_nothing_is_noted_without_overflow():
    gram = torch.diag(torch.tensor([1.0, 1e-320], dtype=torch.float64))
    assert "not reached" in smallest(gram, forming_error=1e-320).note
    found = smallest(gram * 2.0**900, forming_error=1.0)
    assert "not reached" in found.note


def test_the_smallest_is_minus_the_largest_of_the_negative():
    gram = tensor(symmetric("negative", 5, 1))
    one, other = smallest(gram), largest(-gram)
    assert (one.lower, one.upper) == (-other.upper, -other.lower)


@pytest.mark.parametrize("power", [-900, -500, 500, 900])
def test_a_power_of_two_scales_the_bounds_and_nothing_else(power):
    gram = tensor(symmetric("integers", 6, 2))
    plain, scaled = smallest(gram), smallest(gram * 2.0**power)
    assert (plain.note, plain.method) == (scaled.note, scaled.method)
    # The eigensolver may pick another last digit: a few ulps of the largest entry.
    back = [
        float(Fraction(v) / Fraction(2) ** power) for v in (scaled.lower, scaled.upper)
    ]
    assert back == pytest.approx([plain.lower, plain.upper], rel=0.0, abs=1e-13)


def test_single_precision_is_converted_exactly_and_the_input_left_alone():
    gram = with_ones(5).float() / 3
    before = gram.clone()
    assert smallest(gram) == smallest(gram.double())
    assert torch.equal(gram, before)


def test_gradients_do_not_stand_in_the_way():
    assert smallest(with_ones(3).requires_grad_()).certified


@many
@given(n=st.integers(2, 6), seed=seeds)
def test_a_slight_asymmetry_is_told_and_the_symmetric_part_enclosed(n, seed):
    matrix = symmetric("nearly singular", n, seed)
    bumps = np.random.default_rng(seed).uniform(-1, 1, (n, n)) * 2**-52
    matrix = matrix + np.abs(matrix).max() * np.triu(bumps, 1)
    matrix[0, -1] = np.nextafter(matrix[-1, 0], np.inf)
    found = smallest(tensor(matrix))
    pairs = zip(matrix.tolist(), matrix.T.tolist(), strict=True)
    part = [
        [(Fraction(a) + Fraction(b)) / 2 for a, b in zip(row, column, strict=True)]
        for row, column in pairs
    ]
    assert "symmetric part" in found.note
    assert is_lower(part, found.lower)
    assert is_upper(part, found.upper)


def test_a_forming_error_widens_both_ends_outwards():
    gram = with_ones(4)
    plain, wide = smallest(gram), smallest(gram, forming_error=0.1)
    assert Fraction(wide.lower) <= 1 - Fraction(0.1)
    assert Fraction(wide.upper) >= 1 + Fraction(0.1)
    assert wide.width <= plain.width + 0.2 + 1e-15
    assert "forming error" in wide.note


def test_without_a_proof_the_bounds_are_called_an_estimate(monkeypatch):
    monkeypatch.setattr(extreme, "lower_bound", None)  # a call would fail
    found = smallest(with_ones(50), certify=False)
    assert not found.certified
    assert found.lower <= 1.0 <= found.upper
    assert found.width < 1e-11
    assert "not proven" in found.note


def test_a_poor_eigensolver_costs_sharpness_and_not_truth(monkeypatch):
    vector = np.full(6, 1 / math.sqrt(6))
    monkeypatch.setattr(extreme, "_eigenpair", lambda _: (Fraction(3, 2), vector))
    found = smallest(with_ones(6))
    assert found.certified
    assert found.lower <= 1.0 <= found.upper
    assert "not reached" in found.note


def test_a_factorisation_that_never_succeeds_leaves_a_true_bound(monkeypatch):
    monkeypatch.setattr(extreme, "lower_bound", lambda *_: None)
    found = smallest(with_ones(6))
    assert found.lower <= 1.0 <= found.upper
    assert "every factorisation was refused" in found.note


@pytest.mark.parametrize(
    ("threshold", "forming_error", "expected"),
    [
        (0.999, 0.0, Verdict.holds),
        (1.0, 0.0, Verdict.undecided),
        (1.001, 0.0, Verdict.fails),
        (100.0, 0.0, Verdict.fails),
        (-1e300, 0.0, Verdict.holds),
        (0.9, 0.2, Verdict.undecided),
        (1.1, 0.2, Verdict.undecided),
        (0.7, 0.2, Verdict.holds),
        (1.3, 0.2, Verdict.fails),
        (0, 0, Verdict.holds),
    ],
)
def test_at_least_has_three_answers(threshold, forming_error, expected, device):
    gram = with_ones(30).to(device)
    assert at_least(gram, threshold, forming_error=forming_error) is expected


@many
@given(
    kind=st.sampled_from(KINDS),
    n=st.integers(2, 6),
    seed=seeds,
    steps=st.integers(-1000, 1000),
)
def test_at_least_is_never_wrong_close_to_the_eigenvalue(kind, n, seed, steps):
    matrix = symmetric(kind, n, seed)
    found = smallest(tensor(matrix), certify=False)
    threshold = found.value + steps * np.spacing(np.abs(matrix).max()).item() / 4
    verdict = at_least(tensor(matrix), threshold)
    if verdict is Verdict.holds:
        assert is_lower(matrix, threshold)
    elif verdict is Verdict.fails:
        assert not is_lower(matrix, threshold)
    else:  # gamma(n + 3) tr B twice over, and the ends of the Rayleigh quotient
        assert abs(steps) <= 32 * n * n


@pytest.mark.parametrize("answer", [Verdict.holds, Verdict.fails])
def test_at_least_takes_one_factorisation(answer, monkeypatch):
    calls = []

    def counted(matrix, shift):
        calls.append(shift)
        return certificate.factorised(matrix, shift)

    monkeypatch.setattr(decide, "factorised", counted)
    monkeypatch.setattr(decide, "enclosure", None)  # a call would fail
    distance = -1e-11 if answer is Verdict.holds else 1e-11
    assert at_least(with_ones(40), 1 + distance) is answer
    assert len(calls) == 1


def test_at_least_does_not_take_a_bound_below_the_threshold_for_an_answer(monkeypatch):
    crude = lambda *_: (Fraction(-1), None)  # noqa: E731
    monkeypatch.setattr(decide, "factorised", crude)
    monkeypatch.setattr(extreme, "lower_bound", lambda *_: Fraction(-1))
    assert at_least(with_ones(5), 0.9) is Verdict.undecided


def test_a_witness_that_proves_nothing_is_no_answer(monkeypatch):
    """Planted fault: the vector left by elimination points anywhere."""
    anywhere = np.eye(1, 40, 3)[0]
    monkeypatch.setattr(certificate, "_witness", lambda *_: anywhere)
    assert at_least(with_ones(40), 1 + 1e-11) is Verdict.fails  # by the enclosure
    assert at_least(with_ones(40), 1 - 1e-11) is Verdict.holds


@given(st.sampled_from(KINDS), st.integers(1, 12), seeds, st.integers(-40, 3))
@many
def test_what_elimination_leaves_proves_the_refusal(kind, n, seed, magnitude):
    given_matrix = symmetric(kind, n, seed)
    matrix = symmetric_matrix(tensor(given_matrix))
    ends = np.linalg.eigvalsh(matrix.entries)
    shift = float(ends[0] + 2.0**magnitude * max(ends[-1] - ends[0], abs(ends[0])))
    bound, vector = certificate.factorised(matrix, shift)
    if vector is None:
        return
    assert bound is None
    upper = certificate.upper_bound(matrix, vector)
    room = 1e-290 + 1000 * n * n * 2.0**-53 * np.abs(matrix.entries).max()
    assert upper <= shift + room
    assert is_upper(given_matrix, upper * matrix.unit)


@given(st.sampled_from(KINDS), st.integers(1, 4), st.integers(0, 5), seeds)
@many
def test_blocks_set_apart_by_zeros_are_treated_alone(kind, n, alone, seed):
    draw = np.random.default_rng(seed)
    blocks = [symmetric(kind, n, seed + k) for k in range(3)]
    blocks += [np.diag(draw.standard_normal(alone))] if alone else []
    whole = scipy.linalg.block_diag(*blocks)
    order = draw.permutation(len(whole))
    mixed = whole[order][:, order]
    found = smallest(tensor(mixed))
    assert is_lower(whole, found.lower)
    assert is_upper(whole, found.upper)
    top = largest(tensor(mixed))
    assert is_lower(-whole, -top.upper)
    assert is_upper(-whole, -top.lower)
    for threshold in (found.lower, found.upper, found.value):
        verdict = at_least(tensor(mixed), threshold)
        if verdict is not Verdict.undecided:
            assert is_lower(whole, threshold) is (verdict is Verdict.holds)


def test_outputs_that_share_nothing_fall_apart():
    gram = np.kron(kernel(60, 4), np.diag([1.0, 3.0, 2.0]))
    found = smallest(tensor(gram))
    alone = smallest(tensor(kernel(60, 4)))
    assert "3 blocks that zeros set apart" in found.method
    assert (found.lower, found.upper) == (alone.lower, alone.upper)


def kernel(n, seed):
    """A kernel like those of ReLU networks: one large eigenvalue, a crowded bottom."""
    draw = np.random.default_rng(seed)
    features = np.maximum(
        draw.standard_normal((n, 16)) @ draw.standard_normal((16, 4 * n)), 0
    )
    return features @ features.T / n


@pytest.mark.parametrize("rtol", [1e-1, 1e-3, 1e-6])
def test_large_matrices_are_searched_and_certified(rtol, monkeypatch):
    monkeypatch.setattr(extreme, "_eigenpair", None)  # a call would fail
    gram = kernel(600, 1)
    ends = np.linalg.eigvalsh(gram)[[0, -1]]
    for found, truth in zip(
        (smallest(tensor(gram), rtol=rtol), largest(tensor(gram), rtol=rtol)),
        ends,
        strict=True,
    ):
        assert found.certified
        assert found.lower <= truth * (1 + 1e-12)
        assert found.upper >= truth * (1 - 1e-12)
        assert found.width <= rtol * abs(found.lower)
        assert not found.note


@pytest.mark.parametrize("kind", ["indefinite", "singular", "huge", "tiny", "ill"])
def test_what_a_search_cannot_do_is_still_right(kind):
    n = 520
    gram = kernel(n, 2)
    values = np.linalg.eigvalsh(gram)
    match kind:
        case "indefinite":
            gram = gram - 2 * values[0] * np.eye(n)
        case "singular":
            gram = np.round(gram[:, :200]) @ np.round(gram[:, :200]).T
        case "huge":
            gram = gram * 2.0**300
        case "tiny":
            gram = gram * 2.0**-300
        case "ill":  # beyond float32: condition 1e12
            gram = gram - values[0] * (1 - 1e-9) * np.eye(n)
    truth = np.linalg.eigvalsh(gram)
    room = 1e-13 * np.abs(truth).max() * n
    found = smallest(tensor(gram))
    assert found.certified
    assert found.lower <= truth[0] + room
    assert found.upper >= truth[0] - room
    assert found.lower <= found.value <= found.upper
    assert found.width <= max(1e-3 * abs(found.lower), 10 * room)


@pytest.mark.parametrize("span", [65, 300])
def test_graded_matrices_beyond_the_range_of_a_solve(span):
    """The smallest eigenvalue is 4**-span, a diagonal entry, or half of it at least.

    Rows of ``near`` leave it 1/2 (Gershgorin), and so ``gram`` is ``scale**2 / 2`` at
    least; powers of two lose nothing.
    """
    n = 520
    scale = 2.0 ** -np.linspace(0, span, n).round()
    near = np.eye(n) + 0.25 * (np.eye(n, k=1) + np.eye(n, k=-1))
    gram = tensor(scale[:, None] * near * scale)
    found = smallest(gram)
    assert found.certified
    assert found.lower <= 4.0**-span
    assert found.upper >= 0.5 * 4.0**-span
    assert at_least(gram, 1e-3) is Verdict.fails


def test_a_search_that_is_wrong_costs_time_and_not_truth(monkeypatch):
    """Planted fault: an estimate well above the smallest eigenvalue, called certain."""
    gram = kernel(600, 3)
    vectors = np.linalg.eigh(gram)[1]
    wrong = vectors[:, 5]
    value = float(wrong @ gram @ wrong)
    made_up = lambda *_: search.Found(value, wrong, 0.0)  # noqa: E731
    monkeypatch.setattr(extreme, "smallest", made_up)
    found = smallest(tensor(gram))
    truth = np.linalg.eigvalsh(gram)[0]
    assert found.certified
    assert found.lower <= truth * (1 + 1e-12)
    assert found.upper >= truth * (1 - 1e-12)
    assert found.width <= 1e-3 * found.lower


@pytest.mark.parametrize("seed", [0, 2, 3, 4])
def test_a_search_of_many_rows_takes_more_solves_and_errs_less(seed, monkeypatch):
    """A third of the rows that ``_CAREFUL`` names, and then six times as many."""
    matrix = symmetric_matrix(tensor(kernel(600, seed)))
    truth = np.linalg.eigvalsh(matrix.entries)[0]
    plain, solves = search.lanczos, []

    def counted(solve, start, steps):
        return plain(lambda v: solves.append(1) or solve(v), start, steps)

    monkeypatch.setattr(search, "lanczos", counted)
    quick = search.smallest(matrix, 4e-3)
    few = len(solves)
    monkeypatch.setattr(search, "_CAREFUL", 100)
    careful = search.smallest(matrix, 4e-3)
    assert len(solves) - few > few
    # Errors of 1e-6 of it and more, where those of ``eigvalsh`` are about 1e-10.
    assert 0 < careful.value - truth < quick.value - truth


def test_the_condition_number_lies_between_the_ratios_of_the_bounds():
    low, high = Enclosure(1.5, 1.0, 2.0), Enclosure(7.5, 6.0, 9.0)
    found = whole._condition_number(low, high)
    assert (found.lower, found.value, found.upper) == (3.0, 5.0, 9.0)
    found = whole._condition_number(Enclosure(0.0, -1.0, 2.0), high)
    assert (found.lower, found.upper) == (3.0, math.inf)
    assert "not proven positive" in found.note


def test_summary_agrees_with_another_eigensolver(generator, device):
    inputs = torch.randn(30, 40, generator=generator, dtype=torch.float64)
    gram = inputs @ inputs.mT
    found = spectrum.summary(gram.to(device))
    expected = torch.linalg.eigvalsh(gram)
    # Both solvers are off by at most about n eps times the largest eigenvalue.
    atol = 30 * 2.3e-16 * float(expected[-1]) * 4
    torch.testing.assert_close(found.eigenvalues, expected, rtol=0.0, atol=atol)
    assert found.smallest == smallest(gram)
    assert found.largest == largest(gram)
    assert found.trace == pytest.approx(float(expected.sum()), rel=1e-13)
    rank = float(expected.sum() ** 2 / (expected**2).sum())
    assert found.effective_rank == pytest.approx(rank, rel=1e-13)
    condition = float(expected[-1] / expected[0])
    assert found.condition_number.lower <= found.condition_number.upper
    assert found.condition_number.value == pytest.approx(condition, rel=1e-9)


def test_summary_finds_the_power_law_it_was_given():
    law = torch.arange(1, 41, dtype=torch.float64) ** -1.5
    found = spectrum.summary(torch.diag(7 * law))
    assert found.exponent == pytest.approx(-1.5, abs=1e-12)
    assert spectrum.summary(torch.diag(law) * 2.0**-900).exponent == pytest.approx(-1.5)


def test_summary_of_identity_and_of_degenerate_matrices():
    identity = spectrum.summary(torch.eye(5, dtype=torch.float64))
    assert (identity.effective_rank, identity.condition_number.value) == (5.0, 1.0)
    ones = spectrum.summary(torch.ones(5, 5, dtype=torch.float64))
    assert ones.effective_rank == pytest.approx(1.0)
    assert ones.condition_number.upper == math.inf
    assert math.isnan(ones.exponent)
    zero = spectrum.summary(torch.zeros(3, 3, dtype=torch.float64))
    assert math.isnan(zero.effective_rank)
    assert math.isnan(zero.exponent)


ONES = torch.ones(3, 3, dtype=torch.float64)


@pytest.mark.parametrize("function", [smallest, largest, spectrum.summary])
@pytest.mark.parametrize(
    ("gram", "error", "message"),
    [
        (ONES.long(), ValueError, "must be float64"),
        (ONES.to(torch.complex128), ValueError, "must be float64"),
        (ONES.half(), ValueError, r"Convert it with gram.double\(\)"),
        (ONES[:2], ShapeMismatchError, r"square matrix \(n, n\), got shape \(2, 3\)"),
        (ONES[0], ShapeMismatchError, "got shape"),
        (ONES[:0, :0], ValueError, "empty matrix has no eigenvalue"),
        (ONES * math.nan, NonFiniteError, "9 non-finite entries of 9"),
        (ONES / 0, NonFiniteError, "non-finite"),
        (ONES.triu(), NotSymmetricError, "Was a cross-Gram"),
    ],
)
def test_unfit_matrices_are_refused(function, gram, error, message):
    with pytest.raises(error, match=message):
        function(gram)


def test_a_bound_that_no_float_can_hold_is_refused():
    gram = 1.7e308 * torch.ones(9, 9, dtype=torch.float64)
    assert smallest(gram).lower <= 0.0
    with pytest.raises(NonFiniteError, match="outside the range of float64"):
        largest(gram)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rtol": 0.0}, "rtol must be a positive number"),
        ({"rtol": math.nan}, "rtol must be a positive number"),
        ({"forming_error": -1.0}, "forming_error must be a finite number"),
        ({"forming_error": math.inf}, "forming_error must be a finite number"),
    ],
)
def test_unfit_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        smallest(ONES, **options)
    with pytest.raises(ValueError, match=message):
        largest(ONES, **options)


@pytest.mark.parametrize("threshold", [math.nan, math.inf])
def test_a_threshold_has_to_be_finite(threshold):
    with pytest.raises(ValueError, match="threshold must be a finite number"):
        at_least(ONES, threshold)


def test_a_vector_far_from_norm_one_is_refused():
    matrix = symmetric_matrix(ONES)
    with pytest.raises(ValueError, match="norm within"):
        certificate.upper_bound(matrix, np.full(3, 9.0))


def test_a_minor_refused_by_a_hair_still_decides(monkeypatch):
    """Leading minors sink slowly: the refused one may reach no further than rounding.

    The threshold lies between the smallest eigenvalue of a leading part and the shift
    tried, so that no vector of that part proves anything; the rows beyond it do.
    """
    draw = np.random.default_rng(0)
    factor = draw.standard_normal((90, 100))
    matrix = torch.from_numpy(factor @ factor.T)
    leading = torch.linalg.eigvalsh(matrix[:80, :80])[0].item()
    room = float(2 * rounding.gamma(93) * Fraction(matrix.trace().item()))
    threshold = leading - room / 2
    assert torch.linalg.eigvalsh(matrix)[0].item() < threshold
    monkeypatch.setattr(decide, "enclosure", None)  # the long way: not needed
    assert spectrum.at_least(matrix, threshold) is Verdict.fails


@pytest.mark.parametrize("n", [500, 1000])
def test_an_enclosure_of_a_kernel_takes_two_factors(n, monkeypatch):
    """One to find it, one to prove it: a poor vector would cost as many again."""
    model = nf.models.MLP([64, 2048, 2048, 1], scaling="standard", seed=0).double()
    x = torch.randn(n, 64, generator=torch.Generator().manual_seed(1)).double()
    gram, calls = nf.gram(model, x), []
    eliminate = certificate._eliminate
    monkeypatch.setattr(
        certificate, "_eliminate", lambda *args: calls.append(1) or eliminate(*args)
    )
    found = smallest(gram, rtol=1e-3)
    assert len(calls) == 2
    assert found.note == ""


@pytest.mark.parametrize("power", [-600, 600])
def test_a_forming_error_is_in_the_unit_of_the_matrix_handed_in(power):
    """Entries so far from 1 are scaled inside; what widens the bounds is not."""
    matrix = torch.eye(12, dtype=torch.float64) + 1.0
    plain = smallest(matrix, forming_error=0.25)
    scaled = smallest(matrix * 2.0**power, forming_error=math.ldexp(0.25, power))
    assert scaled.lower == math.ldexp(plain.lower, power)
    assert scaled.upper == math.ldexp(plain.upper, power)
    for threshold, answer in (
        (0.7, Verdict.holds),
        (0.8, Verdict.undecided),
        (1.2, Verdict.undecided),
        (1.3, Verdict.fails),
    ):
        found = at_least(
            matrix * 2.0**power,
            math.ldexp(threshold, power),
            forming_error=math.ldexp(0.25, power),
        )
        assert found is answer


@pytest.mark.parametrize("power", [-600, 0, 600])
def test_a_diagonal_entry_within_the_forming_error_decides_nothing(power):
    """The shortcut by diagonal entries knows of what may be off, in the right unit."""
    matrix = torch.tensor([[1.0, 1e-9], [1e-9, 3.0]], dtype=torch.float64)
    unit = 2.0**power
    for error, answer in ((0.2, Verdict.undecided), (0.05, Verdict.fails)):
        found = at_least(matrix * unit, 1.1 * unit, forming_error=error * unit)
        assert found is answer


def test_a_diagonal_entry_within_the_asymmetry_decides_nothing():
    """The symmetric part was rounded: a threshold within that is not below the entry.

    With two rows the smallest eigenvalue is the first entry but for 1e-30.
    """
    matrix = torch.tensor([[1.0, 2e-16], [0.0, 3.0]], dtype=torch.float64)
    rounding_ = symmetric_matrix(matrix).rounding
    assert rounding_ > 0
    threshold = math.nextafter(1.0, math.inf)
    assert Fraction(threshold) - 1 < rounding_
    assert at_least(matrix, threshold) is Verdict.undecided


def test_one_block_read_off_proves_nothing_of_the_others():
    """The diagonal part is exact in any case, the other was not proven."""
    matrix = torch.zeros(6, 6, dtype=torch.float64)
    matrix[:2, :2] = torch.diag(torch.tensor([5.0, 6.0]))
    matrix[2:, 2:] = torch.eye(4) + 1.0
    assert not smallest(matrix, certify=False).certified
    assert smallest(matrix).certified


def test_whole_thresholds_are_not_rounded():
    """2**53 + 1 is no float64."""
    matrix = torch.eye(2, dtype=torch.float64) * 2.0**53
    assert at_least(matrix, 2**53 + 1) is Verdict.fails
    assert at_least(matrix, 2**53) is Verdict.holds


def test_nothing_is_proven_while_subnormals_are_flushed():
    matrix = torch.diag(torch.tensor([-1e-40, 1.0]))
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor does not flush")
    try:
        with pytest.raises(ValueError, match="set_flush_denormal"):
            smallest(matrix)
        with pytest.raises(ValueError, match="set_flush_denormal"):
            at_least(matrix, 0.0)
    finally:
        torch.set_flush_denormal(False)
    assert smallest(matrix).upper < 0


def test_the_condition_of_what_is_not_positive_is_not_certified():
    found = whole.summary(torch.diag(torch.tensor([-2.0, 1.0], dtype=torch.float64)))
    assert not found.condition_number.certified
    assert found.condition_number.upper == math.inf


def test_the_form_is_chosen_by_library_and_by_what_it_costs(monkeypatch):
    """The a priori bound where it is known to hold and blunts nothing."""
    matrix = symmetric_matrix(torch.eye(30, dtype=torch.float64) + 1.0)
    by_form = {
        form: {s: certificate.lower_bound(matrix, s, form=form) for s in (0.5, 1e-12)}
        for form in ("residual", "cholesky")
    }
    monkeypatch.setattr(certificate, "substitutes", lambda: True)
    assert certificate.lower_bound(matrix, 0.5) == by_form["cholesky"][0.5]
    assert certificate.lower_bound(matrix, 1e-12) == by_form["residual"][1e-12]
    monkeypatch.setattr(certificate, "substitutes", lambda: False)
    assert certificate.lower_bound(matrix, 0.5) == by_form["residual"][0.5]
    assert by_form["residual"][0.5] > by_form["cholesky"][0.5]
    original = copy.deepcopy(certificate.scipy.show_config(mode="dicts"))
    monkeypatch.undo()
    certificate.substitutes.cache_clear()
    original["Build Dependencies"]["lapack"]["name"] = "mkl-sdl"
    with monkeypatch.context() as patch:
        patch.setattr(certificate.scipy, "show_config", lambda **_: original)
        assert not certificate.substitutes()
    certificate.substitutes.cache_clear()
