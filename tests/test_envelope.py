"""Fitted constants of an inequality: by hand, by brute force, laws and refusals."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntk_fed.errors import NonFiniteError
from ntk_fed.theory.envelope import nonnegative_fit, upper_envelope

many = settings(max_examples=100, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 2**32 - 1)
FITS = [nonnegative_fit, upper_envelope]
KNOWN = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])


def pairs(seed, n, spread=0.0):
    """Two unlike columns and a target near ``2 c_1 + 3 c_2``; rows of unlike size."""
    draw = np.random.default_rng(seed)
    columns = draw.random((n, 2)) * 10.0 ** draw.uniform(-spread, spread, (n, 1))
    return columns, columns @ [2.0, 3.0] * draw.uniform(0.5, 1.0, n)


def brute_force(columns, target):
    """The least sum of ``C a`` over all corners of the admissible set."""
    sides = [*columns, *np.eye(2)]
    wanted = [*target, 0.0, 0.0]
    best = math.inf
    for i, j in itertools.combinations(range(len(sides)), 2):
        square = np.array([sides[i], sides[j]])
        if abs(np.linalg.det(square)) < 1e-14:
            continue
        corner = np.linalg.solve(square, [wanted[i], wanted[j]])
        if (corner >= -1e-12).all() and (columns @ corner >= target - 1e-12).all():
            best = min(best, float((columns @ corner).sum()))
    return best


@pytest.mark.parametrize("fit", FITS)
def test_an_inequality_that_is_an_equality_is_found(fit):
    found = fit(KNOWN, np.array([2.0, 3.0, 5.0]))
    # A few operations of float64, and the corner is exact but for rounding.
    assert found.coefficients == pytest.approx([2.0, 3.0], rel=1e-12)
    assert found.residual < 1e-12
    # Cosine 1/2 between the columns: singular values of the pair are √(1 ± 1/2).
    assert found.condition == pytest.approx(math.sqrt(3), rel=1e-12)
    assert not found.collinear


def test_one_column_by_hand():
    columns, target = np.array([[1.0], [2.0]]), np.array([1.0, 1.0])
    average = nonnegative_fit(columns, target)
    always = upper_envelope(np.insert(columns, 1, 0.0, axis=1), target)
    assert average.coefficients[0] == pytest.approx(3 / 5, rel=1e-12)
    # Off by (−2/5, 1/5) of (1, 1).
    assert average.residual == pytest.approx(math.sqrt(0.2 / 2), rel=1e-12)
    assert always.coefficients[0] == pytest.approx(1.0, rel=1e-12)
    assert always.residual == pytest.approx(math.sqrt(1 / 2), rel=1e-12)


@pytest.mark.parametrize("fit", FITS)
def test_a_column_the_target_speaks_against_gets_nothing(fit):
    """Unconstrained least squares would take the second with a negative sign."""
    found = fit(np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]]), np.array([3.0, 2.0, 1]))
    assert found.coefficients[1] == 0
    assert found.coefficients[0] == pytest.approx({0: 2.0, 1: 3.0}[FITS.index(fit)])


@many
@given(seed=seeds, n=st.integers(2, 12))
def test_the_envelope_is_the_cheapest_of_all_corners(seed, n):
    columns, target = pairs(seed, n)
    found = upper_envelope(columns, target).coefficients
    cost = float((columns @ found).sum())
    # Corners round by 1e-12 of each row, and may lie as much below the set.
    assert cost == pytest.approx(brute_force(columns, target), rel=1e-11)


@many
@given(seed=seeds, n=st.integers(1, 60), spread=st.sampled_from([0.0, 3.0, 8.0]))
def test_no_pair_is_above_its_envelope(seed, n, spread):
    columns, target = pairs(seed, n, spread)
    assert (columns @ upper_envelope(columns, target).coefficients >= target).all()


def test_a_small_pair_counts_as_much_as_a_large_one():
    """A solver with a tolerance forgives 5e-9 and takes 0 for the second constant."""
    columns = np.array([[1.0, 0.0], [0.0, 1e-9], [10.0, 1.0]])
    found = upper_envelope(columns, np.array([1.0, 5e-9, 0.0])).coefficients
    assert found == pytest.approx([1.0, 5.0], rel=1e-12)


@pytest.mark.parametrize("fit", FITS)
def test_units_are_carried(fit, seed):
    columns, target = pairs(seed, 20)
    plain = fit(columns, target)
    scaled = fit(columns * [1e-9, 1e6], target * 1e4)
    expected = plain.coefficients * [1e13, 1e-2]
    # The same corner: a few roundings.
    assert scaled.coefficients == pytest.approx(expected, rel=1e-11, abs=0)
    assert scaled.condition == pytest.approx(plain.condition, rel=1e-9)


@pytest.mark.parametrize("fit", FITS)
def test_columns_that_say_the_same_are_called_collinear(fit, seed):
    columns, target = pairs(seed, 20)
    draw = np.random.default_rng(seed)
    twin = columns[:, 0] * (1 + 1e-3 * draw.standard_normal(20))
    near = fit(np.stack([columns[:, 0], twin], axis=1), target)
    assert near.collinear
    assert 1e2 < near.condition < 1e5
    assert not fit(columns, target).collinear
    same = fit(columns[:, [0, 0]], target)
    # Dependent columns: rounding may leave a singular value of eps in place of 0.
    assert same.condition > 1e14
    assert same.collinear
    one = fit(columns[:1], target[:1])  # one pair cannot tell two constants apart
    assert math.isinf(one.condition)


@pytest.mark.parametrize(("condition", "collinear"), [(29.0, False), (31.0, True)])
@pytest.mark.parametrize("fit", FITS)
def test_collinear_is_a_condition_number_above_30(fit, condition, collinear):
    """Unit columns of cosine c have condition number √((1 + c)/(1 − c))."""
    cosine = (condition**2 - 1) / (condition**2 + 1)
    columns = np.array([[1.0, cosine], [0.0, math.sqrt(1 - cosine**2)]]) * [7.0, 1e-3]
    found = fit(columns, np.ones(2))
    assert found.condition == pytest.approx(condition, rel=1e-9)
    assert found.collinear is collinear


def test_a_ratio_far_below_rounding_of_the_largest_is_kept():
    found = upper_envelope(np.eye(2), np.array([1.0, 1e-29])).coefficients
    assert (found >= [1.0, 1e-29]).all()
    assert found == pytest.approx([1.0, 1e-29], rel=1e-12, abs=0)


@pytest.mark.parametrize(("column", "target"), [(1e-200, 1e200), (1e200, 1e-200)])
def test_constants_beyond_float64_are_refused(column, target):
    with np.errstate(over="ignore", invalid="ignore"):
        with pytest.raises(ValueError, match="range of float64"):
            upper_envelope(np.array([[column, 0.0]]), np.array([target]))
        if column < 1:
            with pytest.raises(ValueError, match="range of float64"):
                nonnegative_fit(np.array([[column]]), np.array([target]))


def test_a_column_of_zeros_gets_nothing_and_disturbs_nothing(seed):
    columns, target = pairs(seed, 20)
    plain = nonnegative_fit(columns, target)
    padded = nonnegative_fit(np.insert(columns, 1, 0.0, axis=1), target)
    assert padded.coefficients[1] == 0
    # The same problem, up to the order of its operations.
    assert padded.coefficients[[0, 2]] == pytest.approx(plain.coefficients, rel=1e-12)
    assert padded.condition == pytest.approx(plain.condition, rel=1e-12)
    for place in (0, 1):
        lone = np.insert(columns[:, :1], place, 0.0, axis=1)
        found = upper_envelope(lone, target).coefficients
        assert found[place] == 0
        # Alone, a column must cover its worst row.
        assert found[1 - place] == pytest.approx((target / columns[:, 0]).max())


def test_targets_below_zero_ask_for_nothing():
    found = upper_envelope(KNOWN, np.array([-1.0, 0.0, -3.0]))
    assert found.coefficients.tolist() == [0.0, 0.0]
    half = upper_envelope(KNOWN, np.array([-1.0, 4.0, -3.0]))
    assert half.coefficients == pytest.approx([0.0, 4.0], rel=1e-12)


@pytest.mark.parametrize("fit", FITS)
def test_bad_input_is_refused(fit):
    with pytest.raises(ValueError, match="must have rows and columns, got shape"):
        fit(np.empty((0, 2)), np.empty(0))
    with pytest.raises(ValueError, match=r"at least 0, got -1\.000e\+00"):
        fit(-KNOWN, np.ones(3))
    for columns, target in (
        (KNOWN * math.nan, np.ones(3)),
        (KNOWN, np.full(3, np.inf)),
    ):
        with pytest.raises(NonFiniteError, match="run that diverged"):
            fit(columns, target)


def test_a_target_nothing_can_explain_is_refused():
    columns = np.array([[1.0, 2.0], [0.0, 0.0]])
    with pytest.raises(ValueError, match="row 1 has target 3"):
        upper_envelope(columns, np.array([1.0, 3.0]))
    assert upper_envelope(columns, np.array([1.0, 0.0])).coefficients.max() <= 1.0
