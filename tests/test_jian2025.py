"""Jian and Liu (2025): formulas by hand, units, FedAvg on linear models."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import ntk_fed as nf
from ntk_fed.measured import Enclosure, Verdict, exact
from ntk_fed.theory import jian2025
from ntk_fed.theory.slopes import loglog_slope


def test_q_by_hand():
    # eta_0 K = 0.2, C = 2: x = 0.8; 1 − 0.2 · 3 / (3 · 10) + 0.64/2 · e^0.8
    found = jian2025.contraction_q(0.1, 2, 3.0, 10, 2.0)
    assert found == pytest.approx(0.98 + 0.32 * math.exp(0.8), rel=1e-15)
    # Where steps are small the first term wins: 1 − 1e-4/3 + 1e-8/2 · …
    small = jian2025.contraction_q(1e-4, 1, 1.0, 1, 1.0)
    assert small == pytest.approx(1 - 1e-4 / 3 + 5e-9 * math.exp(1e-4), rel=1e-15)
    assert jian2025.contraction_q(1.0, 1, 1.0, 1, 30.0) == math.inf
    # x = 750 has no exponential in float64; x = 650 has one, x² e^x / 2 included.
    assert jian2025.contraction_q(750.0, 1, 1.0, 1, 1.0) == math.inf
    large = jian2025.contraction_q(650.0, 1, 1.0, 1, 1.0)
    assert large == pytest.approx(650**2 / 2 * math.exp(650), rel=1e-14)


def test_zeta_by_hand():
    # 2 · 0.1 · 3 · 2 · 5 / (√16 · 0.25)
    assert jian2025.zeta(0.1, 3, 2.0, 5.0, 16, 0.75) == pytest.approx(6.0)
    assert math.isnan(jian2025.zeta(0.1, 3, 2.0, 5.0, 16, 1.0))
    assert math.isnan(jian2025.zeta(0.1, 3, 2.0, 5.0, 16, 1.5))
    assert math.isnan(jian2025.zeta(0.1, 3, 2.0, 5.0, 16, math.nan))


def test_units_by_hand():
    assert jian2025.units(16, factors_inside=True) == (1.0, 1.0, 0.25)
    assert jian2025.units(16, factors_inside=False) == (16.0, 1 / 16, 1.0)
    # ‖J‖ = 3 and slope 2: inside, max(3, 2 · 4); outside, max(3, 2) / 4.
    inside = jian2025.jacobian_constant(3.0, 2.0, 16, factors_inside=True)
    assert inside == 8.0
    assert jian2025.jacobian_constant(3.0, 0.5, 16, factors_inside=True) == 3.0
    outside = jian2025.jacobian_constant(3.0, 2.0, 16, factors_inside=False)
    assert outside == 0.75
    assert jian2025.jacobian_constant(3.0, 8.0, 16, factors_inside=False) == 2.0


class Twin(torch.nn.Module):
    """A two-layer tanh network, its factors inside or in the size of its weights."""

    def __init__(self, inside, width, generator):
        super().__init__()
        self.root = math.sqrt(width)
        draw = {"generator": generator, "dtype": torch.float64}
        first, last = torch.randn(width, 3, **draw), torch.randn(1, width, **draw)
        self.inside = inside
        size = 1.0 if inside else 1 / self.root
        self.first = torch.nn.Parameter(size * first)
        self.last = torch.nn.Parameter(size * last)

    def forward(self, x):
        # Both layers have a factor 1/√m; a √m restores the size of the input layer.
        factor = 1 / self.root if self.inside else 1.0
        hidden = torch.tanh(self.root * factor * (x @ self.first.T))
        return factor * hidden @ self.last.T


def test_both_conventions_are_the_same_run_in_the_papers_units(seed):
    """The same function, step size eta_0 or eta_0/m: one eta_0, one Θ, one distance."""
    width, rounds = 32, 3
    data = nf.data.load("sphere", n=6, targets="sign", dimension=3, seed=3)
    split = nf.data.partition(data, "iid", clients=2)
    shown = []
    for inside in (True, False):
        model = Twin(inside, width, torch.Generator().manual_seed(seed))
        own = jian2025.units(width, factors_inside=inside)
        step = 0.3 / own.step_size
        theta = own.kernel * nf.gram(model, data.x)
        *_, last = nf.fedavg.rounds(
            model, split, rounds=rounds, local_steps=4, step_size=step
        )
        distance = own.distance * _distance(last)
        norm = math.sqrt(nf.gram(model, data.x).trace().item())  # ‖J‖_F
        c = jian2025.jacobian_constant(norm, 0.0, width, factors_inside=inside)
        shown.append((theta, distance, c, own.step_size * step))
    (theta, distance, c, eta), (theta2, distance2, c2, eta2) = shown
    # The same numbers by other factors: a few hundred roundings.
    torch.testing.assert_close(theta, theta2, rtol=1e-12, atol=1e-13)
    assert distance == pytest.approx(distance2, rel=1e-11)
    assert c == pytest.approx(c2, rel=1e-12)
    assert eta == pytest.approx(eta2, rel=1e-15)
    assert distance > 1e-3


def _distance(item):
    """``Σ w_i ‖θ_i − θ̄‖`` before the averaging of a round."""
    total = 0.0
    for i, weight in enumerate(item.weights.tolist()):
        own = item.locals.client(i)
        squares = sum(
            float((own[name] - item.params[name]).square().sum()) for name in own
        )
        total += weight * math.sqrt(squares)
    return total


GOOD = jian2025.Measurements(
    n=10,
    width=100,
    factors_inside=True,
    local_steps=2,
    step_size=0.005,
    is_fedavg=True,
    inputs_bounded=True,
    smallest=exact(0.9),
    lipschitz=exact(1.0),
    residual=exact(3.0),
    distance=exact(1.0),
    kernel_change=exact(0.02),
    linearisation_gap=exact(0.03),
)
# eta_0 K = 0.01, C = 1: 1 − 0.01 · 0.9/30 + 1e-4/2 · e^0.01
Q = 1 - 3e-4 + 5e-5 * math.exp(0.01)
FAULTS = {
    "algorithm is FedAvg": {"is_fedavg": False},
    "inputs of norm at most 1": {"inputs_bounded": False},
    "q = ": {"lipschitz": exact(2.0)},
}


def test_jian2025_holds_where_everything_is_as_asked():
    found = jian2025.check(GOOD)
    assert found.name == "jian2025.wide_limit"
    assert found.verdict is found.conclusion.verdict is Verdict.holds
    assert found.applies
    assert [h.form for h in found.hypotheses] == ["mean", "", "", "mean"]
    assert found.conclusion.form == "mean"
    assert found.status == "recalled"
    assert {h.status for h in found.hypotheses} == {"recalled"}
    values = {name: c.value for name, c in found.constants.items()}
    assert values == {
        "C": 1.0,
        "R_0": 3.0,
        "kernel change": 0.02,
        "linearisation gap": 0.03,
        "eta_0": 0.005,
        "λ_min of Θ": 0.9,
        "distance of local models": 0.1,
        "q": pytest.approx(Q, rel=1e-15),
        # 2 · 0.01 · 1 · 3 / (10 (1 − q)), whose last digits q has rounded away
        "zeta": pytest.approx(0.006 / (1 - Q), rel=1e-11),
    }
    assert len(found.to_frame()) == 5


@pytest.mark.parametrize("name", FAULTS)
def test_each_condition_fails_on_its_own(name):
    found = jian2025.check(dataclasses.replace(GOOD, **FAULTS[name]))
    failed = [h.name for h in found.hypotheses if h.verdict is Verdict.fails]
    assert len(failed) == 1
    assert failed[0].startswith(name)
    assert found.applies


def test_a_singular_kernel_fails_and_brings_q_above_one():
    found = jian2025.check(dataclasses.replace(GOOD, smallest=exact(0.0)))
    failed = [h.name for h in found.hypotheses if h.verdict is Verdict.fails]
    assert failed[0] == "λ_min of Θ"
    assert failed[1].startswith("q = ")


def test_other_units_are_converted():
    """Factors in the weights: m times the kernel, 1/m of the step size, no 1/√m."""
    outside = dataclasses.replace(
        GOOD,
        factors_inside=False,
        step_size=0.005 / 100,
        smallest=exact(90.0),
        distance=exact(0.1),
    )
    ours, theirs = jian2025.check(GOOD).constants, jian2025.check(outside).constants
    assert {k: v.value for k, v in theirs.items()} == pytest.approx(
        {k: v.value for k, v in ours.items()}, rel=1e-10
    )


def test_the_conclusion_against_zeta():
    def conclusion(**change):
        return jian2025.check(dataclasses.replace(GOOD, **change)).conclusion

    limit = 0.006 / (1 - Q)  # about 24, in the paper's units; ours are √100 larger
    assert conclusion(distance=exact(10 * limit * 0.999)).verdict is Verdict.holds
    assert conclusion(distance=exact(10 * limit * 1.001)).verdict is Verdict.fails
    assert conclusion(distance=exact(math.inf)).verdict is Verdict.fails
    assert conclusion(distance=None).verdict is Verdict.undecided
    # q above 1 promises nothing, not even to an infinite distance.
    hopeless = conclusion(lipschitz=exact(2.0), distance=exact(math.inf))
    assert hopeless.right is None
    assert hopeless.verdict is Verdict.undecided
    assert "no promise" in hopeless.note


def test_an_undecided_q_leaves_everything_undecided():
    across = dataclasses.replace(GOOD, lipschitz=Enclosure(1.0, 1.0, math.inf))
    found = jian2025.check(across)
    assert found.verdict is found.conclusion.verdict is Verdict.undecided
    for name in ("smallest", "lipschitz"):
        found = jian2025.check(dataclasses.replace(GOOD, **{name: None}))
        assert found.verdict is Verdict.undecided
    unknown = dataclasses.replace(GOOD, residual=None)
    assert jian2025.check(unknown).conclusion.verdict is Verdict.undecided


def test_constants_enclose_what_any_numbers_within_their_bounds_give():
    found = jian2025.check(
        dataclasses.replace(
            GOOD,
            smallest=Enclosure(0.9, 0.8, 1.0),
            lipschitz=Enclosure(1.0, 0.9, 1.1),
            residual=Enclosure(3.0, 2.9, 3.1),
        )
    ).constants
    for lambda_min in (0.8, 0.93, 1.0):
        for c in (0.9, 1.02, 1.1):
            q = jian2025.contraction_q(0.005, 2, lambda_min, 10, c)
            assert found["q"].lower <= q <= found["q"].upper
            for residual in (2.9, 3.1):
                bound = jian2025.zeta(0.005, 2, c, residual, 100, q)
                assert found["zeta"].lower <= bound <= found["zeta"].upper


@pytest.mark.parametrize("width", [None, 0])
def test_a_network_without_a_width_is_told(width):
    found = jian2025.check(dataclasses.replace(GOOD, width=width))
    assert not found.applies
    assert "width" in found.why_not
    assert found.verdict is Verdict.fails
    assert found.conclusion.verdict is Verdict.undecided


def test_slopes_against_one_half():
    widths = [64, 256, 1024, 4096]
    wobble = [1.1, 0.9, 0.9, 1.1]

    def law(exponent):
        return [w * m**exponent for m, w in zip(widths, wobble, strict=True)]

    found = jian2025.width_slopes(
        widths,
        {"kernel change": law(-1.0), "gap": law(-0.5), "loss": law(0.0)},
    )
    assert [c.verdict for c in found] == ["holds", "undecided", "fails"]
    assert [c.name.split()[3] for c in found] == ["kernel", "gap", "loss"]
    assert found[1].left is not None
    assert found[1].left.value == pytest.approx(-0.5)
    assert {c.status for c in found} == {"recalled"}
    assert {c.right.value for c in found if c.right is not None} == {-0.5}


def test_widths_serve_every_quantity_at_the_confidence_asked_for():
    widths, values = [64, 256, 1024, 4096], [1.1, 0.4, 0.25, 0.11]
    named = {"gap": values, "loss": values}
    asked = jian2025.width_slopes(iter(widths), named, confidence=0.6)
    by_default = jian2025.width_slopes(iter(widths), named)
    for found, confidence in ((asked, 0.6), (by_default, 0.95)):
        expected = loglog_slope(widths, values, confidence=confidence)
        assert [c.left for c in found] == [expected, expected]


@pytest.mark.parametrize("weights", ["samples", "uniform"])
def test_a_linear_problem_keeps_within_zeta(generator, weights):
    """A linear model of 24 weights: its kernel never changes, C is ‖J‖_F/√m."""
    n, d = 8, 24
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    x = torch.linalg.qr(x.T)[0].T  # orthonormal: λ_min = 1
    y = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    split = nf.data.Partition(
        nf.data.Dataset(x, y), [torch.arange(2), torch.arange(2, 8)]
    )
    model = nf.models.Linear(d)
    c = jian2025.jacobian_constant(math.sqrt(n), 0.0, d, factors_inside=True)
    # q < 1 needs eta_0 K below about 2 λ_min / (3 n C⁴) = 0.0013.
    local_steps, step = 4, 1e-4
    worst = max(
        _distance(item)
        for item in nf.fedavg.rounds(
            model,
            split,
            rounds=50,
            local_steps=local_steps,
            step_size=step,
            weights=weights,
        )
        if isinstance(item, nf.fedavg.Round)
    )
    found = jian2025.check(
        jian2025.Measurements(
            n=n,
            width=d,
            factors_inside=True,
            local_steps=local_steps,
            step_size=step,
            is_fedavg=True,
            inputs_bounded=True,
            smallest=exact(1.0),
            lipschitz=exact(c),
            residual=exact(y.norm().item()),
            distance=exact(worst),
        )
    )
    assert worst > 0
    assert found.verdict is found.conclusion.verdict is Verdict.holds
    # Larger steps and the theorem says nothing.
    assert np.isnan(jian2025.zeta(1e-3, local_steps, c, 1.0, d, _q(1e-3, n, c)))


def _q(step, n, c):
    return jian2025.contraction_q(step, 4, 1.0, n, c)
