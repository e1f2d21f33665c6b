"""Huang et al. (2021), FL-NTK: formulas by hand, FedAvg on a wide network."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import ntk_fed as nf
from ntk_fed import limits
from ntk_fed.fedavg import Objective
from ntk_fed.measured import Enclosure, Verdict, exact
from ntk_fed.theory import huang2021


def test_constants_by_hand():
    # 2⁴ · 10⁴ · log(100)
    assert huang2021.width(10, 0.5, 0.1) == pytest.approx(1.6e5 * math.log(100))
    assert huang2021.width(10, 1e-100, 0.1) == math.inf
    # 0.5 / (4 · 5 · 100)
    assert huang2021.step_size_limit(10, 0.5, 4.0, 5) == pytest.approx(2.5e-4)
    # 1 − 2 · 0.1 · 0.5 · 4 / (2 · 5) = 0.96
    found = huang2021.loss_bound(8.0, 0.5, 0.1, 2.0, 4, 5, np.array([0, 1, 2]))
    np.testing.assert_allclose(found, [8.0, 7.68, 7.3728], rtol=1e-15)
    assert np.isnan(huang2021.loss_bound(8.0, 0.5, 100.0, 1.0, 4, 5, np.array([1])))


def test_condition_numbers_enclose_every_quotient():
    found = huang2021.condition_number(Enclosure(0.5, 0.4, 0.6), Enclosure(3, 2.9, 3.1))
    assert found is not None
    assert found.value == 6.0
    assert found.lower == pytest.approx(2.9 / 0.6)
    assert found.upper == pytest.approx(3.1 / 0.4)
    assert huang2021.condition_number(Enclosure(0.1, -0.1, 0.3), exact(3.0)) is None


@pytest.mark.parametrize(
    ("sizes", "uniform", "local_steps", "expected"),
    [
        ((4, 4, 4), True, 5, 0.03),
        ((4, 4, 4), False, 5, 0.03),
        ((2, 4, 6), True, 5, None),
        ((2, 4, 6), False, 5, None),
        ((2, 4, 6), True, 1, None),
        ((2, 4, 6), False, 1, 0.03),
        ((4, 4, 0), False, 1, None),
        ((0, 0), True, 1, None),
        ((), True, 1, None),
    ],
)
def test_the_local_step_size(sizes, uniform, local_steps, expected):
    found = huang2021.local_step_size(
        0.12, sizes, uniform=uniform, local_steps=local_steps
    )
    assert found == (None if expected is None else pytest.approx(expected))


class Sums:
    """The theorem's own algorithm: local sums, one step size, uniform average."""

    def __init__(self, model, split):
        self.objective = Objective.of(model)
        self.clients = [split.client(i) for i in range(split.clients)]

    def round(self, params, step_size, local_steps):
        ends = []
        for x, y in self.clients:
            own = params
            for _ in range(local_steps):
                gradient = self.objective.gradient(own, x, y)  # of the mean
                own = {k: v - step_size * len(x) * gradient[k] for k, v in own.items()}
            ends.append(own)
        return {k: torch.stack([e[k] for e in ends]).mean(dim=0) for k in params}


@pytest.mark.parametrize(
    ("sizes", "local_steps", "weights"),
    [((4, 4, 4), 3, "uniform"), ((4, 4, 4), 3, "samples"), ((2, 4, 6), 1, "samples")],
)
def test_the_local_step_size_makes_a_run_the_theorems_algorithm(
    sizes, local_steps, weights
):
    data = nf.data.load("sphere", n=12, targets="sign", seed=2)
    split = nf.data.Partition(data, torch.arange(12).split(list(sizes)))
    model = nf.models.TwoLayerReLU(16, 30, seed=0)
    local = huang2021.local_step_size(
        0.3, sizes, uniform=weights == "uniform", local_steps=local_steps
    )
    assert local is not None
    run = nf.simulate(
        model,
        split,
        rounds=1,
        local_steps=local_steps,
        step_size=0.3,
        weights=weights,
    )
    start = {"weight": model.weight.detach()}
    expected = Sums(model, split).round(start, local, local_steps)
    moved = (expected["weight"] - start["weight"]).abs().max()
    assert moved > 1e-3
    # A few roundings of weights of order one.
    torch.testing.assert_close(
        run.params["weight"], expected["weight"], rtol=0.0, atol=1e-14
    )
    each = huang2021.mean_step_sizes(local, sizes)
    if len(set(sizes)) == 1:
        np.testing.assert_allclose(each, 0.3, rtol=1e-15)
    else:
        np.testing.assert_allclose(each, local * np.array(sizes), rtol=1e-15)


def test_asymmetric_extremes_by_hand():
    # Eigenvalues 1 ± 2i; the symmetric part is the identity.
    turning = np.array([[1.0, 2.0], [-2.0, 1.0]])
    assert huang2021.asymmetric_extremes(turning) == pytest.approx((1.0, 1.0))
    # Eigenvalues 1 and 2; symmetric part [[1, 3], [3, 2]]: (3 − √37)/2.
    sheared = np.array([[1.0, 6.0], [0.0, 2.0]])
    assert huang2021.asymmetric_extremes(sheared) == pytest.approx(
        (1.0, (3 - math.sqrt(37)) / 2)
    )


GOOD = huang2021.Measurements(
    n=10,
    width=10**6,
    failure=0.1,
    is_two_layer=True,
    sizes=(5, 5),
    is_local_descent=True,
    uniform=True,
    local_steps=5,
    step_size=0.00124,
    server_step_size=1.0,
    lambda0=exact(0.5),
    condition=exact(4.0),
    asymmetric=(0.4, 0.3),
    worst_ratio=exact(0.9),
)
FAULTS = {
    "network is the theorem's": {"is_two_layer": False},
    "algorithm is Local GD": {"is_local_descent": False},
    "width": {"width": 7 * 10**5},  # of 1.6e5 · log(100) = 7.4e5
    "eta_local against": {"step_size": 0.00126},  # of 5 · 2.5e-4
    "server step size": {"server_step_size": 1.1},
    "λ of the limit kernel": {"lambda0": exact(-0.1)},
}


def test_huang2021_holds_where_everything_is_as_asked():
    found = huang2021.check(GOOD)
    assert found.name == "huang2021.fl_ntk"
    assert found.verdict is found.conclusion.verdict is Verdict.holds
    assert found.applies
    assert found.status == "recalled"
    assert {h.status for h in found.hypotheses} == {"recalled"}
    assert found.constants["width"].value == pytest.approx(1.6e5 * math.log(100))
    assert found.constants["local step size"].value == pytest.approx(0.000248)
    shown = [v.value for k, v in found.constants.items() if k.startswith("asymmetric")]
    assert shown == [0.4, 0.3]
    ours = [h.name.split()[0] for h in found.hypotheses if "1 is ours" in h.note]
    assert ours == ["width", "eta_local", "server"]
    assert len(found.to_frame()) == 8


@pytest.mark.parametrize("name", FAULTS)
def test_each_condition_fails_on_its_own(name):
    found = huang2021.check(dataclasses.replace(GOOD, **FAULTS[name]))
    failed = [h.name for h in found.hypotheses if h.verdict is Verdict.fails]
    assert len(failed) == 1
    assert failed[0].startswith(name)
    assert found.applies == (name != "network is the theorem's")


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({"sizes": (4, 6)}, "fails"),
        ({"sizes": (4, 6), "uniform": False}, "fails"),
        ({"sizes": (4, 4)}, "fails"),  # two samples that nobody holds
        ({"sizes": (4, 6), "uniform": False, "local_steps": 1}, "holds"),
        ({"uniform": False}, "holds"),
    ],
)
def test_another_algorithm_is_a_hypothesis_that_fails(change, verdict):
    found = huang2021.check(dataclasses.replace(GOOD, **change))
    by_name = {h.name.split()[0]: h for h in found.hypotheses}
    algorithm, step = by_name["algorithm"], by_name["eta_local"]
    assert algorithm.verdict == verdict
    assert found.applies
    assert bool(algorithm.note) == (verdict == "fails")
    assert (step.verdict is Verdict.undecided) == (verdict == "fails")


@pytest.mark.parametrize("name", ["lambda0", "condition"])
def test_what_is_missing_leaves_it_undecided(name):
    found = huang2021.check(dataclasses.replace(GOOD, **{name: None}))
    assert found.verdict is Verdict.undecided


def test_errors_that_reach_across_are_undecided():
    across = dataclasses.replace(GOOD, lambda0=Enclosure(0.5, 0.4, 0.6))
    assert huang2021.check(across).verdict is Verdict.undecided
    late = dataclasses.replace(GOOD, worst_ratio=exact(1.1))
    assert huang2021.check(late).conclusion.verdict is Verdict.fails
    unrun = dataclasses.replace(GOOD, worst_ratio=None)
    assert huang2021.check(unrun).conclusion.verdict is Verdict.undecided


def test_constants_enclose_what_any_numbers_within_their_bounds_give():
    found = huang2021.check(
        dataclasses.replace(
            GOOD, lambda0=Enclosure(0.5, 0.4, 0.6), condition=Enclosure(4, 3, 6)
        )
    ).constants
    for value in (0.4, 0.47, 0.6):
        expected = huang2021.width(10, value, 0.1)
        assert found["width"].lower <= expected <= found["width"].upper
        for kappa in (3.0, 4.2, 6.0):
            expected = huang2021.step_size_limit(10, value, kappa, 5)
            limit = found["step size limit"]
            assert limit.lower <= expected <= limit.upper


@pytest.fixture(scope="module")
def wide():
    """Losses of FedAvg with 4 clients, and both ends of the limit kernel."""
    data = nf.data.load("sphere", n=20, targets="sign", seed=1)
    split = nf.data.Partition(data, torch.arange(20).split(5))
    model = nf.models.TwoLayerReLU(16, 1024, seed=0)
    run = nf.simulate(
        model,
        split,
        rounds=100,
        local_steps=5,
        step_size=1.0,
        weights="uniform",
        observers=[nf.observers.loss(model, split)],
    )
    rows = run.rows.loc[run.rows["quantity"] == "loss"]
    losses = np.array(rows["value"], float)
    values = torch.linalg.eigvalsh(limits.two_layer_relu(data.x))
    return losses, values[0].item(), values[-1].item()


def promised(losses, lambda0):
    local = huang2021.local_step_size(1.0, (5,) * 4, uniform=True, local_steps=5)
    assert local is not None
    rounds = np.arange(len(losses))
    return huang2021.loss_bound(losses[0], lambda0, local, 1.0, 5, 4, rounds)


def test_the_bound_holds_in_a_wide_run(wide):
    losses, smallest, _ = wide
    bound = promised(losses, smallest)
    assert bound[-1] < 0.9 * bound[0]  # it promises something
    assert (losses <= bound).all()


def test_a_larger_eigenvalue_would_promise_too_much(wide):
    """Negative control: with the largest eigenvalue the same run breaks the bound."""
    losses, _, largest = wide
    assert (losses > promised(losses, largest)).any()
