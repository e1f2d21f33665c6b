"""Nguyen and Mondelli (2020): constants by hand, the region, bounds, both starts."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyramids import (
    bounds,
    certified,
    curvature,
    data,
    flat,
    flat_outputs,
    plain,
    smooth,
    started,
)
from pyramids import inside as somewhere

import ntk_fed as nf
from ntk_fed.errors import ShapeMismatchError
from ntk_fed.measured import Enclosure, Verdict, exact
from ntk_fed.theory import nguyen2020, pyramid
from ntk_fed.theory.pyramid import Start

BY_HAND = Start(
    smallest=(9.0, 9.0, 4.0),
    largest=(0.5, 0.0, 6.0),
    features=3.0,
    x_norm=1.5,
    x_frobenius=2.0,
    residual=0.1,
    gamma=0.5,
)


@pytest.mark.parametrize(
    ("change", "need1", "need2", "alpha0"),
    [
        # λ̄ = 1, 2/3, 6. (γ⁴/3)(6/γ²)³ = 288, times 2 · 0.1 · 6/16 = 21.6; of the
        # maximum, 2 · 1 · ⅔ / 24, 1 and ⅔ compete. N2: 2 · 1.5 · ⅔ = 2 times as much.
        # α₀ = 64 / 16³ · 9 · 16.
        ({}, 21.6, 43.2, 2.25),
        # λ̄_2 = 2 is the largest of the three.
        ({"largest": (0.5, 2.0, 6.0)}, 43.2, 129.6, 2.25),
        # λ_3 λ̄_3 = ⅛: 2 · ⅔ / ⅛ = 32/3 is; λ̄_3 / λ_3² = 2.
        (
            {"smallest": (9.0, 9.0, 0.25), "largest": (0.5, 0.0, 0.5)},
            288 * 0.2 * 8 * 32 / 3,
            288 * 0.2 * 8 * 2,
            9 / 64 / 16,
        ),
        # Four layers: 48² / 2 = 1152 · 6; λ̄/λ² = 0.5 · 2 / 0.25 = 4; the smaller of
        # the products λ_l λ̄_l is ¼.
        (
            {"smallest": (9.0, 9.0, 0.5, 1.0), "largest": (0.5, 0.0, 0.5, 2.0)},
            6912 * 0.2 * 4 * 16 / 3,
            6912 * 0.2 * 4 * 2,
            64 / 16**4 * 9 / 4,
        ),
    ],
)
def test_the_conditions_by_hand(change, need1, need2, alpha0):
    found = nguyen2020.conditions(dataclasses.replace(BY_HAND, **change))
    assert found.left1.value == 9.0
    assert found.left2.value == 27.0
    assert found.right1.value == pytest.approx(need1, rel=1e-14)
    assert found.right2.value == pytest.approx(need2, rel=1e-14)
    assert found.alpha0.value == pytest.approx(alpha0, rel=1e-14)
    assert found.ratios == pytest.approx((9 / need1, 27 / need2))
    hard = found.demanding(3.0)
    assert hard.right1.value == pytest.approx(3 * need1)
    assert hard.right2.value == pytest.approx(3 * need2)
    assert hard.left1 == found.left1


positive = st.floats(1e-3, 1e3)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(data=st.data(), depth=st.integers(3, 6))
def test_n1_and_n2_say_that_no_layer_may_leave_its_ball(data, depth):
    """Two ways to the same: the inequalities, and layer by layer."""
    largest = [data.draw(positive) for _ in range(depth)]
    smallest = [norm * data.draw(st.floats(0.01, 1.0)) for norm in largest]
    names = ("features", "x_norm", "x_frobenius", "residual")
    numbers = {name: data.draw(positive) for name in names}
    gamma = data.draw(st.floats(0.1, 1.0))
    start = Start(tuple(smallest), tuple(largest), gamma=gamma, **numbers)
    reach = nguyen2020.displacement_bounds(start)
    spare = [r / d for r, d in zip(start.radii, reach, strict=True)]
    # A few dozen roundings either way.
    assert min(nguyen2020.conditions(start).ratios) == pytest.approx(
        min(spare), rel=1e-12
    )


@pytest.mark.parametrize("gamma", [0.3, 1.0])
@pytest.mark.parametrize("depth", [3, 5])
def test_alpha0_is_what_the_second_layer_has_left_at_the_edge_of_the_region(
    gamma, depth
):
    """One unit a layer, slope γ everywhere: the bound is attained."""
    weights = np.array([2.0, 0.7, 1.3, 3.0, 0.9][:depth])
    x, rest = 1.5, 0.4
    start = Start(
        tuple(weights), tuple(weights), gamma * x * weights[0], x, x, rest, gamma
    )
    edge = weights.copy()
    edge[0] /= 2  # ‖F_1 − F_1⁰‖ = λ_F / 2
    edge[2:] /= 2
    gradient = x * gamma ** (depth - 1) * edge.prod() / edge[1] * rest
    alpha0 = nguyen2020.conditions(start).alpha0.value
    assert gradient**2 == pytest.approx(alpha0 * rest**2, rel=1e-13)


def test_radii_displacements_and_promise_by_hand():
    assert BY_HAND.radii == (1.0, 1.0, 2.0)
    narrow = dataclasses.replace(BY_HAND, features=0.3)
    assert narrow.radii == pytest.approx((0.1, 1.0, 2.0))
    then = [np.zeros((2, 2)), np.ones((2, 1))]
    now = [np.array([[3.0, 0.0], [0.0, 4.0]]), np.ones((2, 1))]
    assert pyramid.displacements(now, then) == (5.0, 0.0)
    assert pyramid.furthest((5.0, 1.0), (10.0, 0.5)) == 2.0
    assert pyramid.furthest((0.0, 1.0), (0.0, 4.0)) == 0.25
    assert pyramid.furthest((1.0, 1.0), (0.0, 4.0)) == math.inf
    # eta_sum = 0.2 / 10, times α₀ = 5: 0.9 a step.
    curve = nguyen2020.loss_bound(8.0, 5.0, 10, 0.2, np.arange(3))
    assert curve.tolist() == pytest.approx([8.0, 7.2, 6.48])
    assert np.isnan(nguyen2020.loss_bound(8.0, 5.0, 10, 2.1, np.arange(1, 3))).all()


def test_a_rank_that_cannot_be_makes_the_conditions_fail():
    wide = dataclasses.replace(BY_HAND, features=0.0)
    found = nguyen2020.conditions(wide)
    assert found.ratios == (0.0, 0.0)
    assert found.alpha0.value == 0.0
    flat = dataclasses.replace(BY_HAND, smallest=(9.0, 9.0, 0.0))
    assert nguyen2020.conditions(flat).right1.lower == math.inf
    solved = dataclasses.replace(flat, residual=0.0)
    assert nguyen2020.conditions(solved).right1.upper == 0.0


def test_an_error_of_the_singular_values_widens_all_sides():
    rough = dataclasses.replace(BY_HAND, error=0.01)
    found = nguyen2020.conditions(rough)
    low, high = (
        nguyen2020.conditions(
            dataclasses.replace(
                BY_HAND,
                smallest=(9.0, 9.0, 4.0 * sign),
                largest=(0.5 / sign, 0.0, 6.0 / sign),
                features=3.0 * sign,
                x_norm=1.5 / sign,
                x_frobenius=2.0 / sign,
                residual=0.1 / sign,
            )
        )
        for sign in (0.99, 1.01)
    )
    for name in ("left1", "left2", "alpha0"):
        known: Enclosure = getattr(found, name)
        assert known.lower <= getattr(low, name).value
        assert getattr(high, name).value <= known.upper
    for name in ("right1", "right2"):
        known = getattr(found, name)
        assert known.lower <= getattr(high, name).value
        assert getattr(low, name).value <= known.upper
    lost = nguyen2020.conditions(dataclasses.replace(BY_HAND, error=1.0))
    assert lost.right1 == dataclasses.replace(lost.right1, lower=0.0, upper=math.inf)
    assert lost.ratios == (0.0, 0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gamma": 0.0}, r"gamma must be in \(0, 1\], got 0.0"),
        ({"smallest": (1.0, 1.0)}, "each of at least 3 layers, got 2 and 3"),
        (
            {"smallest": (1.0, 1.0), "largest": (1.0, 1.0)},
            "each of at least 3 layers, got 2 and 2",
        ),
    ],
)
def test_a_start_refuses_what_the_theorem_does_not_know(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(BY_HAND, **change)


# Of plain weights.


def planted(random, rows, columns, values):
    """A matrix with these singular values."""
    left = np.linalg.qr(random.standard_normal((rows, len(values))))[0]
    right = np.linalg.qr(random.standard_normal((columns, len(values))))[0]
    return left * np.asarray(values) @ right.T


def test_the_numbers_of_plain_weights_are_those_planted(seed):
    random = np.random.default_rng(seed)
    weights = [
        planted(random, 4, 6, [3.0, 2.0, 1.0, 0.5]),
        planted(random, 6, 3, [2.0, 1.0, 0.25]),
        planted(random, 3, 2, [7.0, 1e-9]),
    ]
    x = planted(random, 5, 4, [2.0, 1.0, 1.0, 1.0])
    features = planted(random, 5, 6, [4.0, 3.0, 2.0, 1.0, 0.1])
    residual = planted(random, 5, 2, [3.0, 4.0])
    found = pyramid.constants_of(weights, x, features, residual, gamma=0.5)
    # The planted 1e-9 is known to eps · 7 only, and the error has to say so; the
    # planting itself costs as much again.
    assert found.error > 1e-7
    assert abs(found.smallest[2] / 1e-9 - 1) <= 2 * found.error < 1e-5
    assert found.smallest[:2] == pytest.approx((0.0, 0.25))
    assert found.largest == pytest.approx((3.0, 2.0, 7.0))
    assert found.features == pytest.approx(0.1)
    assert found.x_norm == pytest.approx(2.0)
    assert found.x_frobenius == pytest.approx(math.sqrt(7.0))
    assert found.residual == pytest.approx(5.0)


@pytest.mark.parametrize("small", ["features", "residual"])
def test_what_is_small_against_its_parts_is_known_badly(small, seed):
    """1e-9 left of numbers of order one: 7 digits and no more."""
    normal = np.random.default_rng(seed).standard_normal
    weights = [normal((4, 6)), np.eye(6, 3), np.eye(3, 2)]
    features, residual = np.eye(5, 6), normal((5, 2))
    error = pyramid.constants_of(
        weights, normal((5, 4)), features, residual, gamma=0.5
    ).error
    assert error < 1e-11
    if small == "features":
        features[4] *= 1e-9
    else:
        residual *= 1e-9
    error = pyramid.constants_of(
        weights, normal((5, 4)), features, residual, gamma=0.5
    ).error
    assert 1e-7 < error < 1e-3


def test_too_few_rows_or_columns_leave_no_smallest_singular_value(seed):
    random = np.random.default_rng(seed)
    normal = random.standard_normal
    weights = [normal((4, 6)), normal((6, 2)), normal((2, 3))]
    found = pyramid.constants_of(
        weights, normal((8, 4)), normal((8, 6)), normal((8, 3)), gamma=0.5
    )
    assert found.features == 0.0  # 8 samples, 6 units
    assert found.smallest[2] == 0.0  # a layer that grows
    assert found.error < 1e-10  # and that is known, not lost in rounding


def test_weights_that_are_no_chain_are_refused():
    weights = [np.ones((4, 6)), np.ones((6, 3)), np.ones((3, 2))]
    x, features, residual = np.ones((5, 4)), np.ones((5, 6)), np.ones((5, 2))
    turned: Any = [w.T for w in weights]
    with pytest.raises(ShapeMismatchError, match="the transpose of torch's weight"):
        pyramid.constants_of(turned, x, features, residual, gamma=0.5)
    with pytest.raises(ShapeMismatchError, match="must lead from x"):
        pyramid.constants_of(weights, x, features, residual[:, :1], gamma=0.5)
    torn = [weights[0], np.ones((5, 3)), weights[2]]
    with pytest.raises(ShapeMismatchError, match="must lead from x"):
        pyramid.constants_of(torn, x, features, residual, gamma=0.5)
    with pytest.raises(ShapeMismatchError, match="must lead from x"):
        pyramid.constants_of([], x, features, residual, gamma=0.5)


# Bounds on the region.


def majorant(weights, x, beta):
    """A chain of one unit a layer whose derivatives are the bounds' own."""

    def outputs(w):
        value = x
        for index in range(len(weights)):
            value = value * w[index]
            if index < len(weights) - 1:
                centre = x * math.prod(weights[: index + 1])
                value = value + beta / 2 * (value - centre) ** 2
        return value

    return outputs


@pytest.mark.parametrize("beta", [0.0, 0.4])
@pytest.mark.parametrize("depth", [3, 4, 6])
def test_the_bounds_are_attained_by_a_chain_of_single_units(depth, beta):
    weights = [1.5, 0.7, 2.0, 0.4, 1.1, 3.0][:depth]
    x, rest = 1.3, 0.6
    at = torch.tensor(weights, dtype=torch.float64)
    outputs = majorant(weights, x, beta)
    target = outputs(at).item() - rest
    jacobian = torch.func.jacrev(outputs)(at)
    hessian = curvature(lambda w: (outputs(w) - target) ** 2 / 2, at)
    found = pyramid.region_bounds(
        weights, [0.0] * depth, x_norm=x, x_frobenius=x, residual=rest, beta=beta
    )
    # A few hundred roundings of numbers of order one.
    assert found.jacobian == pytest.approx(jacobian.norm().item(), rel=1e-12)
    assert found.residual == rest
    norm = torch.linalg.matrix_norm(hessian, 2).item()
    assert found.smoothness == pytest.approx(norm, rel=1e-12)


def test_the_bounds_take_the_radii_and_both_norms_of_the_inputs():
    largest, radii = [1.0, 0.5, 2.0], [0.5, 1.0, 1.0]  # 1.5, 1.5, 3 in the region
    found = pyramid.region_bounds(
        largest, radii, x_norm=2.0, x_frobenius=3.0, residual=0.5, beta=0.0
    )
    # ‖X‖₂ for the first layer: 2 · 1.5 · 3; ‖X‖_F after: 3 · 1.5 · 3 and 3 · 1.5².
    slope = (9.0, 13.5, 6.75)
    assert found.jacobian == pytest.approx(math.hypot(*slope))
    assert found.residual == pytest.approx(0.5 + 4.5 + 13.5 + 6.75)
    there = pyramid.region_bounds(
        [1.5, 1.5, 3.0],
        [0.0] * 3,
        x_norm=2.0,
        x_frobenius=3.0,
        residual=found.residual,
        beta=0.0,
    )
    assert found == there


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("initial", ["lecun", "certified"])
def test_the_bounds_hold_all_over_the_region(initial, scale, seed):
    x, y = data(5, 3, 2, seed)
    model = (
        certified(3, 7, [4, 3, 2], seed, scale)
        if initial == "certified"
        else smooth(3, 7, [4, 3, 2], seed)
    )
    start, weights = started(model, x, y), plain(model)
    found = bounds(model, start, x, y)
    alpha0 = nguyen2020.conditions(start).alpha0.value
    outputs = flat_outputs(model, x)

    def loss(theta):
        return (outputs(theta) - y).square().sum() / 2

    random = np.random.default_rng(seed)
    for _ in range(4):
        theta = flat(somewhere(random, weights, start.radii))
        jacobian = torch.func.jacrev(outputs)(theta).reshape(-1, len(theta))
        assert torch.linalg.matrix_norm(jacobian, 2) <= found.jacobian
        assert torch.linalg.vector_norm(outputs(theta) - y) <= found.residual
        hessian = curvature(loss, theta)
        assert torch.linalg.matrix_norm(hessian, 2) <= found.smoothness
        gradient = torch.func.grad(loss)(theta)
        assert gradient.square().sum() >= 2 * alpha0 * loss(theta)


# The two starts.

WIDTHS = (40, [8, 4, 2])  # n = 24; after THEORY's own example


def ratios_of(x, y, seed):
    def ratios(scale):
        model = certified(x.shape[1], *WIDTHS, seed, scale)
        return nguyen2020.conditions(started(model, x, y)).ratios

    return ratios


@pytest.mark.parametrize("draw", range(3))
def test_both_starts_side_by_side(draw):
    x, y = data(24, 16, 2, draw)
    lecun = nguyen2020.conditions(started(smooth(16, *WIDTHS, draw), x, y))
    # Twelve orders short, give or take three for the draw.
    assert -15 <= math.log10(min(lecun.ratios)) <= -9
    ratios = ratios_of(x, y, draw)
    scale = nguyen2020.certified_scale(ratios)
    assert 1e5 <= scale <= 1e7
    assert min(ratios(scale)) >= 1 > min(ratios(scale / 10))


def test_the_search_takes_the_first_scale_at_which_both_reach_what_is_asked():
    def ratios(scale):
        return scale / 3e5, scale / 2e2

    assert nguyen2020.certified_scale(ratios) == 1e6
    assert nguyen2020.certified_scale(lambda s: ratios(s)[::-1]) == 1e6
    assert nguyen2020.certified_scale(ratios, wanted=5.0) == 1e7
    assert nguyen2020.certified_scale(lambda s: (s / 100, s / 100)) == 100.0
    with pytest.raises(
        ValueError, match=r"brings N1 and N2 to 1; the best reaches 0.0"
    ):
        nguyen2020.certified_scale(ratios, exponents=range(4))


def test_gradient_descent_keeps_the_promise_and_stays_in_the_region(seed):
    x, y = data(6, 4, 2, seed)

    def ratios(scale):
        model = certified(4, 8, [4, 2], seed, scale)
        return nguyen2020.conditions(started(model, x, y)).ratios

    model = certified(4, 8, [4, 2], seed, nguyen2020.certified_scale(ratios))
    start = started(model, x, y)
    most = bounds(model, start, x, y).smoothness
    step = 6 / most  # mean form, at the limit
    split = nf.data.Partition(nf.data.Dataset(x, y), [torch.arange(6)])
    losses, reach = [start.residual**2 / 12], 0.0
    for item in nf.fedavg.rounds(
        model, split, rounds=50, local_steps=1, step_size=step
    ):
        now = [w.T.numpy() for w in item.params.values()]
        moved = pyramid.displacements(now, plain(model))
        reach = max(reach, pyramid.furthest(moved, start.radii))
        outputs = torch.func.functional_call(model, item.params, (x,))
        losses.append((outputs - y).square().sum().item() / 12)
    alpha0 = nguyen2020.conditions(start).alpha0.value
    bound = nguyen2020.loss_bound(losses[0], alpha0, 6, step, np.arange(51))
    found = nguyen2020.check(
        nguyen2020.Measurements(
            n=6,
            widths=(8, 4, 2),
            step_size=step * (1 - 1e-12),
            is_pyramid=True,
            is_gradient_descent=True,
            start=start,
            smoothness=exact(most),
            displacements=tuple(map(exact, moved)),
            worst_ratio=exact((np.array(losses) / bound)[1:].max()),
        )
    )
    assert found.applies
    assert found.verdict is Verdict.holds
    assert found.conclusion.verdict is Verdict.holds
    assert 0 < reach < 1
    assert losses[-1] < bound[-1] < losses[0]


# The check.

GOOD = nguyen2020.Measurements(
    n=10,
    widths=(12, 5, 2),
    step_size=0.01,
    is_pyramid=True,
    is_gradient_descent=True,
    start=dataclasses.replace(BY_HAND, residual=0.01),
    smoothness=exact(900.0),
    displacements=(exact(0.5), exact(0.5), exact(1.5)),
    worst_ratio=exact(0.9),
)
FAULTS = {
    "layers": {"widths": (12, 5)},
    "width of the first layer": {"widths": (9, 5, 2)},
    "largest growth of a width from layer 2": {"widths": (12, 5, 6)},
    "algorithm is gradient descent": {"is_gradient_descent": False},
    "N1": {"start": dataclasses.replace(BY_HAND, residual=0.01, largest=(9, 9, 6.0))},
    "N2": {"start": dataclasses.replace(BY_HAND, residual=0.04, x_norm=99.0)},
    "step size": {"step_size": 0.012},
    "‖W_l − W_l⁰‖_F / R_l": {"displacements": (exact(0.5), exact(0.5), exact(2.5))},
}


def test_the_check_holds_where_everything_is_as_asked():
    found = nguyen2020.check(GOOD)
    assert found.applies
    assert found.verdict is Verdict.holds
    assert found.conclusion.verdict is Verdict.holds
    assert {h.status for h in found.hypotheses} == {"derived"}
    assert "derived again" in found.source
    assert found.constants["alpha0"].value == pytest.approx(2.25)
    assert found.constants["radius of layer 3"].value == 2.0


@pytest.mark.parametrize("name", FAULTS)
def test_each_condition_fails_on_its_own(name):
    found = nguyen2020.check(dataclasses.replace(GOOD, **FAULTS[name]))
    failed = [h.name for h in found.hypotheses if h.verdict is Verdict.fails]
    assert found.verdict is Verdict.fails
    assert any(f.startswith(name) for f in failed)
    if not name.startswith("N"):  # the weights enter both
        assert len(failed) == 1


@pytest.mark.parametrize(
    ("change", "verdict", "conclusion"),
    [
        ({"smoothness": None}, "undecided", "holds"),
        ({"start": None}, "undecided", "holds"),
        ({"widths": ()}, "fails", "holds"),  # no layers: not three
        ({"smoothness": Enclosure(900.0, 900.0, math.inf)}, "undecided", "holds"),
        ({"smoothness": Enclosure(1100.0, 1100.0, math.inf)}, "fails", "holds"),
        ({"displacements": None}, "holds", "holds"),
        # The end of the run alone: far inside, and outside.
        ({"displacements": (Enclosure(0.1, 0.1, math.inf),) * 3}, "undecided", "holds"),
        ({"displacements": (Enclosure(3.0, 3.0, math.inf),) * 3}, "fails", "holds"),
        ({"displacements": (Enclosure(0.1, 0.1, 1.1),) * 3}, "undecided", "holds"),
        ({"displacements": (Enclosure(1.1, 0.1, 1.1),) * 3}, "undecided", "holds"),
        ({"widths": (10, 30, 30)}, "holds", "holds"),  # all at their edge
        ({"worst_ratio": None}, "holds", "undecided"),
        ({"worst_ratio": exact(1.1)}, "holds", "fails"),
        (
            {"start": dataclasses.replace(BY_HAND, residual=0.01, error=0.9)},
            "undecided",
            "holds",
        ),
    ],
)
def test_what_is_missing_or_uncertain_stays_undecided(change, verdict, conclusion):
    found = nguyen2020.check(dataclasses.replace(GOOD, **change))
    assert found.verdict == verdict
    assert found.conclusion.verdict == conclusion


def test_another_network_is_told_so():
    found = nguyen2020.check(dataclasses.replace(GOOD, is_pyramid=False))
    assert not found.applies
    assert "ReLU is not covered" in found.why_not
