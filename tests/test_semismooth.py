"""Semi-smoothness constants: planted, of functions in closed form, and refused."""

import math

import numpy as np
import pytest
import torch
from federations import federation
from test_observers import watched

import ntk_fed as nf
from ntk_fed.theory import semismooth


def planted(seed, n=40, a=0.7, b=0.3):
    draw = np.random.default_rng(seed)
    distance, loss = 10.0 ** draw.uniform(-2, 0, n), draw.random(n)
    return a * distance * np.sqrt(loss) + b * distance**2, distance, loss


def test_planted_constants_are_found_by_both_fits(seed):
    found = semismooth.fit(*planted(seed))
    # Exact data: least squares to rounding, the programme to its tolerance of 1e-7.
    assert found.average.coefficients == pytest.approx([0.7, 0.3], rel=1e-9)
    assert found.envelope.coefficients == pytest.approx([0.7, 0.3], rel=1e-5)
    assert (found.pairs, found.unmoved) == (40, 0)
    assert not found.average.collinear


def test_the_envelope_is_above_every_pair_and_the_average_is_not(seed):
    whole, distance, loss = planted(seed)
    excess = whole * np.random.default_rng(seed + 1).uniform(-1, 1, len(whole))
    found = semismooth.fit(excess, distance, loss)

    def promised(fit):
        a, b = fit.coefficients
        return a * distance * np.sqrt(loss) + b * distance**2

    # One operation more or less than the fit's own sum: a few eps.
    assert (promised(found.envelope) * (1 + 1e-14) >= excess).all()
    assert (promised(found.average) < excess).any()


@pytest.mark.parametrize("curvature", [0.5, 8.0])
def test_a_smooth_function_has_half_its_smoothness_and_no_first_term(curvature):
    """F = (L/2) x²: the excess is (L/2) d² whatever the point."""
    start, end = np.array([0.0, 1.0, -2.0, 5.0]), np.array([1.0, 3.0, 2.0, 5.5])
    loss, moved = curvature / 2 * start**2, end - start
    excess = semismooth.excess(loss, curvature * start * moved, curvature / 2 * end**2)
    found = semismooth.fit(excess, np.abs(moved), loss)
    for fit in (found.average, found.envelope):
        # Exact in a handful of operations; the first constant is 0 to rounding.
        assert fit.coefficients[1] == pytest.approx(curvature / 2, rel=1e-9)
        assert abs(fit.coefficients[0]) < 1e-9


def test_a_kink_is_paid_for_by_the_first_term():
    """F = ½ (relu(θ) + 1)² from ε/2 to −ε/2: a = 1/√2 and b = 1/8, by hand.

    The excess is ε/2 + 3ε²/8 and √F(θ) = (1 + ε/2)/√2: no b alone is enough as ε → 0.
    """
    width = np.array([1e-4, 1e-3, 1e-2, 0.1, 1.0])
    before, after = (width / 2 + 1) ** 2 / 2, np.full(5, 0.5)
    excess = semismooth.excess(before, -(width / 2 + 1) * width, after)
    found = semismooth.fit(excess, width, before)
    for fit in (found.average, found.envelope):
        # Excesses of 5e-5 from losses of 0.5 keep 11 digits; the programme keeps 7.
        assert fit.coefficients == pytest.approx([1 / math.sqrt(2), 1 / 8], rel=1e-5)
    assert (excess / width**2).max() > 1e3  # negative control: what b would have to be


def test_pairs_that_have_not_moved_are_left_out_and_counted(seed):
    excess, distance, loss = planted(seed)
    still = np.zeros(3)
    found = semismooth.fit(
        np.append(excess, 1e-18 + still), np.append(distance, still),
        np.append(loss, 1 + still),
    )  # fmt: skip
    assert (found.pairs, found.unmoved) == (40, 3)
    alone = semismooth.fit(excess, distance, loss).average.coefficients
    assert found.average.coefficients.tolist() == alone.tolist()


def test_pairs_all_alike_cannot_tell_the_constants_apart():
    found = semismooth.fit(np.array([1.0, 2.0]), np.full(2, 0.1), np.full(2, 3.0))
    assert found.average.collinear
    assert found.envelope.collinear


def test_bad_input_is_refused():
    one, two = np.ones(2), np.array([1.0, -2.0])
    with pytest.raises(ValueError, match=r"distance must be at least 0, got -2\.000"):
        semismooth.fit(one, two, one)
    with pytest.raises(ValueError, match=r"loss must be at least 0, got -2\.000"):
        semismooth.fit(one, one, two)
    with pytest.raises(ValueError, match=r"distance .* got -1\.000e-09"):
        semismooth.fit(one, -1e-9 * one, one)
    with pytest.raises(ValueError, match="no pair of 2 has moved"):
        semismooth.fit(one, 0 * one, one)


def columns(rows, client):
    """The three columns of the fit from recorded rows, in the order of rounds."""
    kind = rows[rows["client"].isna() if client is None else rows["client"] == client]
    names = ("semi-smoothness excess", "squared step", "loss at round start")
    excess, moved, loss = (
        kind[kind["quantity"] == name]["value"].to_numpy() for name in names
    )
    return excess, np.sqrt(moved), loss


@pytest.mark.parametrize("client", [0, 1, 2, None])
def test_a_linear_model_on_record_is_no_steeper_than_its_smoothness(client, seed):
    """Excess = ½ ΔᵀHΔ: no pair is above a = 0, b = S/2, nor is the average."""
    _, split = federation(seed)
    model = torch.nn.Linear(4, 1, bias=False).double()
    watch = [nf.observers.semi_smoothness(model, split)]
    found = columns(watched(model, split, watch), client)
    held = split.indices if client is None else [split.indices[client]]
    x = [split.dataset.x[own] for own in held]
    share = [len(part) / (10 if client is None else len(part)) for part in x]
    hessian = sum(
        s * part.T @ part / len(part) for s, part in zip(share, x, strict=True)
    )
    smooth = torch.linalg.matrix_norm(hessian, 2).item()
    excess, distance, _ = found
    assert len(excess) == 6
    assert (excess > 0).all()
    # Differences of losses of order 1 against excesses above 1e-6: ten digits left.
    assert (excess <= smooth / 2 * distance**2 * (1 + 1e-8)).all()
    constants = semismooth.fit(*found)
    assert constants.average.coefficients[1] <= smooth / 2 * (1 + 1e-8)
