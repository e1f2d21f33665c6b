"""What ``nf.check`` measures and hands to the theorems, by the door users take."""

import dataclasses
import itertools
import math
import warnings
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch

import ntk_fed as nf
from ntk_fed.checks import (
    THEOREMS,
    Subject,
    certified_pyramid,
    deep,
    interpolation,
    named,
    twolayer,
)
from ntk_fed.checks import lazy as lazy_checks
from ntk_fed.checks import linear as linear_checks
from ntk_fed.checks import pyramid as pyramid_checks
from ntk_fed.checks import quadratic as quadratic_checks
from ntk_fed.checks.pyramidstart import numbers
from ntk_fed.checks.quadratic import quadratic, residual_at
from ntk_fed.checks.rounding import growth, over_promise
from ntk_fed.errors import UnknownNameError
from ntk_fed.measured import Enclosure, Verdict
from ntk_fed.records import Row, frame
from ntk_fed.simulate import History
from ntk_fed.start import measure
from ntk_fed.theory import (
    arora2019,
    collins2022,
    deng2022,
    du2019,
    huang2021,
    jian2025,
    lazy,
    nguyen2020,
    pyramid,
    qin2022,
    song2023,
    zhu2024,
)


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def split_of(x, y, sizes):
    indices = list(torch.arange(len(x)).split(list(sizes)))
    return nf.data.Partition(nf.data.Dataset(x, y), indices)


def linear(*, d=3, sizes=(8, 6, 10), label=lambda x, w: x @ w):
    x, w = draw(sum(sizes), d), draw(d, 1, seed=1)
    return nf.models.Linear(d), split_of(x, label(x, w), sizes)


def checked(model, split, name, *, rounds=15, watch=None, loss=None, **options):
    """One theorem, held against a run of these options."""
    options = {"local_steps": 3, "step_size": 0.05, "weights": "samples", **options}
    losses = {} if loss is None else {"loss": loss}
    weighted = {**losses, "weights": options["weights"]}
    watch = [nf.observers.loss(model, split, **weighted), *(watch or [])]
    run = nf.simulate(model, split, rounds=rounds, observers=watch, **losses, **options)
    return nf.check(model, split, run=run, theorems=[name], **options)[0]


def subject(
    model, split, rows=(), *, params=None, status="finished", options=None, **changes
):
    start = measure(model, split, local_steps=1, step_size=0.1)
    last = dict(model.named_parameters()) if params is None else params
    run = History(frame(list(rows)), last, 3, status, options or {})
    given = {"local_steps": 1, "step_size": 0.1, "weights": "samples"}
    given |= {"server_step_size": 1.0, "failure": 0.1} | changes
    return Subject(model, split, start, **given, run=run)


def failing(check):
    return [h.name for h in check.hypotheses if h.verdict is Verdict.fails]


def test_theorems_are_named_in_full_or_by_their_paper():
    assert named(None) == list(THEOREMS)
    assert named(["qin2022"]) == [n for n in THEOREMS if n.startswith("qin2022.")]
    assert named(["lazy", "qin2022.lemma4"]) == [
        "lazy.linear_convergence",
        "qin2022.lemma4",
    ]
    with pytest.raises(UnknownNameError, match=r"qin2022\.theorem2"):
        named(["qin2022.theorem22"])


def test_every_theorem_speaks_under_its_own_name_without_a_run():
    model, split = linear()
    found = nf.check(model, split, local_steps=2, step_size=0.1)
    assert [one.name for one in found] == list(THEOREMS)
    for one in found:
        if one.applies:
            assert one.conclusion.verdict is Verdict.undecided, one.name
        else:
            assert one.verdict is Verdict.fails, one.name


def test_a_run_with_another_loss_is_not_what_theorems_of_the_squared_loss_are_about():
    model, split = linear(label=lambda x, w: torch.sign(x @ w))
    squared = checked(model, split, "qin2022.theorem1", loss="logistic")
    assert "has logistic" in squared.why_not
    assert squared.conclusion.verdict is Verdict.undecided
    # Nor does its run speak for a theorem whose numbers could be taken from it.
    wide = linear(d=30, label=lambda x, w: torch.sign(x @ w))
    for loss, left in (("squared", True), ("logistic", False)):
        found = checked(*wide, "zhu2024.regression_limit", loss=loss)
        assert (found.conclusion.left is not None) is left
    assert checked(model, split, "zhu2024.direction", loss="logistic").applies


def test_rows_with_one_end_are_bounds_and_rows_without_a_number_are_none():
    model, split = linear()
    rows = [
        Row(1, None, None, None, "both", 2.0, 1.5, 2.5, "certified"),
        Row(1, None, None, None, "below", 2.0, 2.0, None, "estimate"),
        Row(2, None, None, None, "below", math.nan),
        Row(0, None, None, None, "start only", 9.0),
        Row(1, None, None, None, "plain", 3.0),
    ]
    found = subject(model, split, rows)
    both, below, plain = (found.largest(name) for name in ("both", "below", "plain"))
    assert (both.lower, both.upper, both.certified) == (1.5, 2.5, True)
    assert (below.lower, below.upper) == (2.0, math.inf)
    assert found.smallest("start only") is None
    assert 0 < plain.width <= 1e-11


def test_a_quadratic_is_what_numpy_says_of_it():
    model, split = linear(d=5, sizes=(2, 3, 0))
    found = quadratic(subject(model, split))
    x = split.dataset.x.numpy()
    assert found.basis.shape == (5, 5)
    for i, rows in enumerate((slice(0, 2), slice(2, 5))):
        whole = found.basis @ found.hessians[i] @ found.basis.T
        own = x[rows].T @ x[rows] / len(x[rows])
        assert np.allclose(whole, own, rtol=0, atol=1e-13 * np.abs(own).max())
    assert not found.hessians[2].any()
    # Squares of the residual along (1, −1)/√2 stay: half of those of (0, −2).
    two = split_of(
        torch.ones(2, 1).double(), torch.tensor([[0.0], [2.0]]).double(), [2]
    )
    assert quadratic(subject(nf.models.Linear(1), two)).unreached() == pytest.approx(
        0.5
    )


def test_only_linear_models_are_quadratics():
    split = split_of(draw(4, 3), draw(4, 1), [2, 2])
    assert quadratic(subject(nf.models.MLP([3, 4, 1], seed=0), split)) is None
    biased = quadratic(subject(nf.models.Linear(3, bias=True), split))
    assert biased.basis.shape == (4, 4)


# --- the algorithm and the run --------------------------------------------------------


def handed(statement, paper, held, name="check") -> Any:
    """The numbers that a statement hands to its paper's module."""
    with mock.patch.object(paper, name, wraps=getattr(paper, name)) as spy:
        statement(held)
    return spy.call_args.kwargs or spy.call_args.args[0]


def seen(quantity, *values, first=1, client=None):
    """Rows of whole rounds; a value may be one with its ends."""
    rows = []
    for t, value in enumerate(values, first):
        ends = (*value, "estimate") if isinstance(value, tuple) else (value,)
        rows.append(Row(t, None, client, None, quantity, *ends))
    return rows


def test_who_averages_what_is_told_from_the_weights_and_the_options():
    model = nf.models.Linear(2)
    x, y = draw(6, 2), draw(6, 1, seed=1)
    alike, unlike = split_of(x, y, (3, 3)), split_of(x, y, (2, 4))
    left_out = nf.data.Partition(nf.data.Dataset(x, y), [torch.arange(5)])
    one = subject(model, alike)
    assert (one.covers, one.uniform, one.by_samples, one.plain) == (True,) * 4
    assert one.is_descent
    assert not subject(model, left_out).covers
    assert not subject(model, left_out).is_descent
    by_size, evenly = subject(model, unlike), subject(model, unlike, weights="uniform")
    assert (by_size.uniform, by_size.by_samples) == (False, True)
    assert (evenly.uniform, evenly.by_samples) == (True, False)
    assert by_size.is_descent
    assert not evenly.is_descent
    assert not subject(model, alike, local_steps=2).is_descent
    half = subject(model, alike, server_step_size=0.5)
    assert not half.is_descent
    assert not half.plain
    assert not one.diverged
    assert subject(model, alike, status="diverged").diverged


@pytest.mark.parametrize(
    "option",
    [
        {"rule": "fedexp"},
        {"rule": "anchored"},
        {"batch_size": 2},
        {"participation": 0.5},
        {"local": "exact"},
        {"weight_decay": 0.1},
    ],
    ids=str,
)
def test_a_run_with_other_rules_or_parts_of_the_data_is_no_gradient_descent(option):
    model, split = linear(sizes=(4, 4))
    usual = {"rule": "average", "batch_size": None, "participation": 1.0}
    usual |= {"local": "sgd", "momentum": 0.0, "weight_decay": 0.0}
    assert subject(model, split, options=usual).is_descent
    found = subject(model, split, options=usual | option)
    assert not found.is_descent
    assert not found.plain
    assert not handed(twolayer.gradient_descent, du2019, found).is_gradient_descent


def test_losses_are_those_from_the_start_on():
    model, split = linear()
    whole = subject(model, split, seen("loss", 3.0, 2.0, first=0)).losses
    assert whole.to_dict() == {0: 3.0, 1: 2.0}
    assert subject(model, split, seen("loss", 3.0, 2.0)).losses is None
    assert subject(model, split, seen("loss", 3.0, first=0)).losses is None


def test_the_extremes_of_enclosures_are_those_of_their_ends():
    model, split = linear()
    rows = [*seen("q", (3.0, 1.0, 9.0), (4.0, 3.9, 4.1)), *seen("far", math.inf)]
    found = subject(model, split, rows)
    largest, smallest = found.largest("q"), found.smallest("q")
    assert (largest.value, largest.lower, largest.upper) == (4.0, 3.9, 9.0)
    assert (smallest.value, smallest.lower, smallest.upper) == (3.0, 1.0, 4.1)
    assert (found.largest("far").lower, found.largest("far").upper) == (math.inf,) * 2
    # A round that tells nothing hides no failure of another, and is not passed over.
    lost = seen("gone", (5.0, 5.0, 6.0), (math.nan, 0.0, math.inf))
    largest = subject(model, split, lost).largest("gone")
    assert (largest.value, largest.lower, largest.upper) == (5.0, 5.0, math.inf)
    only_start = subject(model, split, seen("q", 1.0, first=0))
    assert only_start.along("q") is None


def test_a_check_refuses_what_is_not_its_run():
    model, split = linear()
    options = {"local_steps": 2, "step_size": 0.01}
    run = nf.simulate(model, split, rounds=1, **options)
    asked = {**options, "theorems": ["du2019"]}
    nf.check(model, split, run=run, **asked)
    with pytest.raises(ValueError, match="run was made with local_steps=2"):
        nf.check(model, split, run=run, **{**asked, "local_steps": 3})
    for name, value in (("participation", 0.5), ("batch_size", 2)):
        part = dataclasses.replace(run, options={**run.options, name: value})
        with pytest.raises(ValueError, match=f"run was made with {name}={value}"):
            nf.check(model, split, run=part, **asked)
    for failure in (0.0, 1.0):
        with pytest.raises(ValueError, match="failure must be in"):
            nf.check(model, split, failure=failure, **asked)


def test_the_start_given_is_the_one_used():
    model, split = sphere(width=8)
    start = measure(model, split, local_steps=1, step_size=0.1)
    marked = dataclasses.replace(start, residual=start.residual + 7)
    options = {"local_steps": 1, "step_size": 0.1, "theorems": ["du2019"]}
    with mock.patch.object(du2019, "check", wraps=du2019.check) as spy:
        nf.check(model, split, start=marked, **options)
    assert spy.call_args.args[0].residual == marked.residual.norm().item()


# --- two-layer networks -------------------------------------------------------------


def sphere(*, sizes=(6, 6), width=512):
    x = draw(sum(sizes), 5)
    x = x / x.norm(dim=1, keepdim=True)
    split = split_of(x, torch.sign(draw(len(x), 1, seed=2)), sizes)
    return nf.models.TwoLayerReLU(5, width, seed=0), split


def test_the_trajectory_is_predicted_by_the_limit_kernel():
    model, split = sphere(width=4096)
    check = checked(model, split, "arora2019.trajectory", local_steps=1, step_size=1.0)
    limit = nf.limits.two_layer_relu(split.dataset.x).numpy()
    values, vectors = np.linalg.eigh(limit)
    first = (model(split.dataset.x) - split.dataset.y).detach().numpy().ravel()
    predicted = arora2019.residual_norms(
        values, vectors.T @ first, 1 / 12, np.arange(16)
    )
    rounds = nf.fedavg.rounds(model, split, rounds=15, local_steps=1, step_size=1.0)
    norms = [np.linalg.norm(first)]
    for one in rounds:
        outputs = torch.func.functional_call(model, one.params, split.dataset.x)
        norms.append((outputs - split.dataset.y).norm().item())
    worst = np.abs(np.array(norms) - predicted).max() / norms[0]
    assert check.conclusion.verdict is Verdict.holds
    assert check.conclusion.left.value == pytest.approx(worst, rel=1e-9)
    y = split.dataset.y.numpy().ravel()
    complexity = math.sqrt(2 * y @ np.linalg.solve(limit, y) / 12)
    assert check.constants["data complexity"].value == pytest.approx(complexity)


def test_the_promise_of_fl_ntk_by_hand_and_who_gets_none():
    model, split = sphere()
    options = {"weights": "uniform", "local_steps": 2, "step_size": 0.5}
    watch = [nf.observers.kernel_asymmetry(model, split)]
    check = checked(model, split, "huang2021.fl_ntk", watch=watch, **options)
    limit = nf.limits.two_layer_relu(split.dataset.x)
    lambda0 = torch.linalg.eigvalsh(limit)
    assert check.constants["condition number"].value == pytest.approx(
        (lambda0[-1] / lambda0[0]).item(), rel=1e-3
    )
    run = nf.simulate(
        model, split, rounds=15, observers=[nf.observers.loss(model, split)], **options
    )
    losses = run.rows.loc[run.rows["quantity"] == "loss", "value"].to_numpy()
    # eta_local = 0.5 / 6; per round 1 − eta_local λ K / (2c) with K = 2 and c = 2
    factor = 1 - 0.5 / 6 * lambda0[0].item() / 2
    worst = (losses / losses[0] / factor ** np.arange(16))[1:].max()
    assert check.conclusion.left.value == pytest.approx(worst, rel=1e-3)
    names = [name for name in check.constants if name.startswith("asymmetric")]
    assert len(names) == 2
    unequal = sphere(sizes=(4, 8))
    found = checked(*unequal, "huang2021.fl_ntk", **options)
    assert any("algorithm" in name for name in failing(found))
    assert found.conclusion.verdict is Verdict.undecided


def test_rows_of_the_asymmetric_kernel_are_those_of_its_matrix():
    model, split = sphere()
    watch = nf.observers.kernel_asymmetry(model, split)
    run = nf.simulate(
        model, split, rounds=1, local_steps=4, step_size=5.0, observers=[watch]
    )
    last = next(nf.fedavg.rounds(model, split, rounds=1, local_steps=4, step_size=5.0))
    columns = [
        nf.gram(model, split.dataset.x, split.dataset.x[own], params2=params)
        for own, params in (
            (own, {"weight": last.locals["weight"][i]})
            for i, own in enumerate(split.indices)
        )
    ]
    ends = huang2021.asymmetric_extremes(torch.cat(columns, dim=1).numpy())
    seen = run.rows.loc[run.rows["quantity"].str.startswith("asymmetric"), "value"]
    assert seen.tolist() == pytest.approx(list(ends), rel=1e-9)


def test_what_gradient_descent_is_told_of_a_two_layer_network():
    model, split = sphere(width=8)
    rows = [
        *seen("kernel displacement", 0.2, 0.3, 0.1),
        *seen("smallest eigenvalue", 0.2, 0.05, 0.1),
        *seen("neuron displacement", 0.4, 0.6, 0.5),
        *seen("loss", 4.0, 3.9, 3.0, first=0),
    ]
    held = subject(model, split, rows, local_steps=3, step_size=0.7)
    found = handed(twolayer.gradient_descent, du2019, held)
    start, (x, y) = held.start, (split.dataset.x, split.dataset.y)
    assert (found.n, found.width, found.step_size) == (12, 8, 0.7)
    assert (found.failure, found.is_two_layer) == (0.1, True)
    assert not found.is_gradient_descent  # three local steps
    assert found.lambda0 == start.lambda0
    assert found.smallest == start.smallest
    assert found.distance == start.distance
    # The same sum in another order: a few roundings.
    expected = (model(x) - y).norm().item()
    assert found.residual == pytest.approx(expected, rel=1e-14)
    assert found.change_along.value == 0.3
    assert found.smallest_along.value == 0.05
    assert found.displacement.value == 0.6
    # After 3 and 6 steps of 1 − η λ0 / (2 n), at any λ0 of its enclosure; a dozen steps
    # and 12 samples leave 1e-13 of the losses uncertain.
    for end in (start.lambda0.lower, start.lambda0.value, start.lambda0.upper):
        kept = 1 - 0.7 * end / 24
        worst = max(3.9 / (4 * kept**3), 3.0 / (4 * kept**6))
        ratio = found.worst_ratio
        assert ratio.lower * (1 - 1e-14) <= worst <= ratio.upper * (1 + 1e-14)
    assert ratio.upper == pytest.approx(worst, rel=1e-12)  # the upper end promises most
    # Losses that fall faster: the start's own ratio of 1 is no part of the largest.
    fast = subject(model, split, seen("loss", 4.0, 1e-3, first=0))
    assert handed(twolayer.gradient_descent, du2019, fast).worst_ratio.upper < 1e-3
    gone = subject(model, split, status="diverged")
    ratio = handed(twolayer.gradient_descent, du2019, gone).worst_ratio
    assert ratio.lower == math.inf
    other, own = linear()
    assert handed(twolayer.gradient_descent, du2019, subject(other, own)).width == 0


def test_what_the_trajectory_is_told_of_a_two_layer_network():
    model, split = sphere(width=8)
    start = subject(model, split).start
    limit = nf.limits.two_layer_relu(split.dataset.x).numpy()
    first = start.residual.numpy().ravel()
    # After two rounds of two steps: (I − η/n H∞)⁴ r_0
    power = np.linalg.matrix_power(np.eye(12) - 0.7 / 12 * limit, 4)
    norms = [np.linalg.norm(first), np.linalg.norm(power @ first) + 0.25]
    rows = [
        Row(t, None, None, None, "residual norm", value)
        for t, value in zip((0, 2), norms, strict=True)
    ]
    held = subject(model, split, rows, local_steps=2, step_size=0.7)
    found = handed(twolayer.trajectory, arora2019, held)
    assert (found.n, found.width, found.step_size) == (12, 8, 0.7)
    # 0.25 off, over ‖r_0‖; cancellation leaves 1e-16 of the norms
    assert found.deviation.value == pytest.approx(0.25 / norms[0], rel=1e-12)
    assert found.lambda0 == start.lambda0
    assert found.residual == pytest.approx(norms[0], rel=1e-14)
    assert 0 < found.complexity.width < 1e-6 * found.complexity.value
    gone = subject(model, split, status="diverged")
    found = handed(twolayer.trajectory, arora2019, gone)
    assert found.deviation.lower == math.inf
    # Two inputs alike: no inverse, so no complexity.
    x = split.dataset.x[[0, 0, 1, 2]]
    double = split_of(x, draw(4, 1, seed=5), [2, 2])
    assert handed(
        twolayer.trajectory, arora2019, subject(model, double)
    ).complexity is (None)
    # Nearly alike: an inverse, of which rounding leaves no digit.
    near = torch.eye(4, 5, dtype=torch.float64)
    near[1] = near[0]
    near[1, 1] = 1e-13
    found = handed(
        twolayer.trajectory,
        arora2019,
        subject(model, split_of(near, draw(4, 1, seed=5), [2, 2])),
    )
    assert found.lambda0.value > 0
    assert found.complexity is None
    # Inputs off the sphere have no limit kernel of the theorem's.
    off = subject(model, split_of(2 * split.dataset.x, split.dataset.y, [6, 6]))
    found = handed(twolayer.trajectory, arora2019, off)
    assert not found.is_two_layer
    assert found.complexity is None


def test_what_fl_ntk_is_told_of_a_two_layer_network():
    model, split = sphere(sizes=(4, 4, 4), width=8)
    rows = [
        *seen("loss", 4.0, 3.95, 3.6, first=0),
        *seen("asymmetric kernel, smallest real part", 9.0, 2.0),
        *seen("asymmetric kernel, smallest symmetric eigenvalue", 1.0, 8.0),
    ]
    given = {"local_steps": 2, "step_size": 0.7, "server_step_size": 1.5}
    held = subject(model, split, rows, weights="uniform", **given)
    wide = dataclasses.replace(held.start, lambda0=Enclosure(0.05, 0.04, 0.06))
    held = dataclasses.replace(held, start=wide)
    found = handed(twolayer.fl_ntk, huang2021, held)
    assert (found.n, found.width, list(found.sizes)) == (12, 8, [4, 4, 4])
    assert (found.uniform, found.server_step_size) == (True, 1.5)
    assert found.asymmetric == (2.0, 1.0)
    lambda0 = held.start.lambda0
    assert found.lambda0 == lambda0
    ends = []
    for end in (lambda0.lower, lambda0.upper):
        promised = huang2021.loss_bound(
            4.0, end, 0.7 / 4, server=1.5, local_steps=2, clients=3,
            rounds=np.arange(3),
        )  # fmt: skip
        ends.append(max(3.95 / promised[1], 3.6 / promised[2]))
    ratio = found.worst_ratio
    # What rounding leaves of the losses is added, 1e-13 of them.
    assert (ratio.lower, ratio.upper) == pytest.approx(tuple(ends), rel=1e-12)
    by_size = subject(model, split, rows, **given)
    assert not handed(twolayer.fl_ntk, huang2021, by_size).uniform
    gone = subject(model, split, status="diverged")
    assert handed(twolayer.fl_ntk, huang2021, gone).worst_ratio.lower == math.inf
    # λ0 that may be 0 has no condition number.
    maybe = dataclasses.replace(held.start, lambda0=Enclosure(1e-3, -1e-3, 2e-3))
    unsure = dataclasses.replace(held, start=maybe)
    assert handed(twolayer.fl_ntk, huang2021, unsure).condition is None


def test_the_lazy_regime_is_told_of_the_federated_kernel():
    model, split = sphere(sizes=(4, 8), width=8)
    rows = [
        *seen("P-norm over its bound", 0.5, 0.9, 0.7),
        *seen("prediction error", 0.1, 0.3, math.nan, 0.2),
    ]
    held = subject(model, split, rows, server_step_size=0.5)
    kernel = held.start.federated
    # Eigenvalues that are open by 1/4 leave the server's half steps open by 1/8.
    coarse = dataclasses.replace(kernel, resolution=0.25)
    start = dataclasses.replace(held.start, federated=coarse)
    open_ends = dataclasses.replace(held, start=start)
    coarse = handed(lazy_checks.linear_convergence, lazy, open_ends)
    for name, half in (("rate", 0.125), ("smallest", 0.25), ("largest", 0.25)):
        assert coarse[name].width == pytest.approx(2 * half), name
    found = handed(lazy_checks.linear_convergence, lazy, held)
    # One step of 0.1 and weights n_i/n: 0.1 Θ/n, formed in another order.
    values = torch.linalg.eigvalsh(nf.gram(model, split.dataset.x) * 0.1 / 12)
    ends = (values[0].item(), values[-1].item())
    for name, end in zip(("smallest", "largest"), ends, strict=True):
        assert found[name].value == pytest.approx(end, rel=1e-10)
    assert found["server_step_size"] == 0.5
    assert found["rate"].value == kernel.rate
    assert (found["worst_ratio"].value, found["prediction_error"]) == (0.9, 0.3)
    assert found["definite"]
    gone = subject(model, split, rows, status="diverged")
    found = handed(lazy_checks.linear_convergence, lazy, gone)
    assert found["worst_ratio"].lower == found["prediction_error"] == math.inf
    # Two steps of 3 and of 2 on a sample of curvature 1: η (2 − η x) is −3 and 0.
    one = torch.ones(1, 1, dtype=torch.float64)
    for step_size in (3.0, 2.0):
        model, split = nf.models.Linear(1), split_of(one, one, [1])
        start = measure(model, split, local_steps=2, step_size=step_size)
        held = dataclasses.replace(subject(model, split), start=start)
        assert not handed(lazy_checks.linear_convergence, lazy, held)["definite"]


# --- deep networks ------------------------------------------------------------------


def test_the_fit_is_over_every_client_and_step_that_was_seen():
    model = nf.models.MLP([4, 16, 16, 1], seed=0)
    split = split_of(draw(9, 4), draw(9, 1, seed=1), [4, 5])
    watch = nf.observers.semi_lipschitz(model, split)
    run = nf.simulate(
        model, split, rounds=3, local_steps=4, step_size=0.1,
        observers=[watch], steps=True,
    )  # fmt: skip
    found = nf.check(
        model, split, run=run, theorems=["deng2022"], local_steps=4, step_size=0.1
    )[0]
    # The last local step of a round is seen once more at its end, and counts once.
    rows = run.rows[run.rows["layer"].isna() & run.rows["step"].notna()]
    columns = [
        rows.loc[rows["quantity"] == name, "value"].to_numpy()
        for name in (
            "squared gradient drift",
            "squared displacement",
            "local loss at average",
        )
    ]
    assert len(columns[0]) == 3 * 2 * 4  # rounds, clients, local steps
    fitted = deng2022.fit(*columns)
    assert found.constants["A (least squares)"].value == pytest.approx(fitted.A)
    expected = deng2022.envelope(*columns)
    assert found.constants["A (envelope)"].value == pytest.approx(expected.A)
    assert found.constants["B (envelope)"].value == pytest.approx(expected.B)
    assert found.conclusion.verdict is Verdict.undecided  # no losses were observed


def test_consensus_error_bounds_the_distance_of_clients():
    model = nf.models.MLP([4, 16, 1], seed=0)
    split = split_of(draw(6, 4), draw(6, 1, seed=1), [1, 2, 3])
    watch = [nf.observers.consensus_error(model, split)]
    found = checked(model, split, "jian2025.wide_limit", watch=watch, rounds=2)
    seen = found.constants["distance of local models"]
    last = list(nf.fedavg.rounds(model, split, rounds=2, local_steps=3, step_size=0.05))
    worst = 0.0
    for one in last:
        clients = [one.locals.client(i) for i in range(3)]
        weights = one.weights.tolist()
        middle = {
            k: sum(w * c[k] for w, c in zip(weights, clients, strict=True))
            for k in one.start
        }
        apart = [
            math.sqrt(sum(float((c[k] - middle[k]).square().sum()) for k in middle))
            for c in clients
        ]
        worst = max(worst, float(np.dot(weights, apart)))
    paper = math.sqrt(16)  # its network has weights √m times ours
    assert seen.lower * paper <= worst <= seen.upper * paper < 2 * worst


def test_relu_widths_by_hand():
    dense, relu, tanh = torch.nn.Linear, torch.nn.ReLU(), torch.nn.Tanh()
    plain = torch.nn.Sequential(dense(3, 7), relu, dense(7, 5), relu, dense(5, 1))
    assert deep.relu_widths(plain) == [7, 5]
    smooth = torch.nn.Sequential(dense(3, 7), tanh, dense(7, 1))
    assert deep.relu_widths(smooth) == []
    assert deep.relu_widths(torch.nn.Sequential(dense(3, 7), dense(7, 1))) == []
    assert deep.relu_widths(nf.models.MLP([4, 16, 8, 2], seed=0)) == [16, 8]
    assert deep.relu_widths(nf.models.Pyramid(4, 16, [8, 2], seed=0)) == [16, 8]
    tanh = nf.models.MLP([4, 16, 8, 2], activation="tanh", seed=0)
    assert deep.relu_widths(tanh) == []


def test_what_local_sgd_is_told_of_a_deep_network():
    model = nf.models.MLP([4, 16, 8, 1], seed=0)
    split = split_of(draw(5, 4), draw(5, 1, seed=1), [2, 3])
    moments = [(1, 1, 0), (1, 1, 1), (1, 2, 0), (1, 2, 1), (2, 1, 0), (2, 1, 1)]
    columns = np.abs(draw(3, 6, seed=7).numpy())
    names = ("squared gradient drift", "squared displacement", "local loss at average")
    rows = [
        Row(t, step, client, None, name, value)
        for name, column in zip(names, columns, strict=True)
        for (t, step, client), value in zip(moments, column.tolist(), strict=True)
    ]
    losses = seen("loss", 4.0, 2.0, 0.5, 0.25, first=0)
    found = handed(deep.local_sgd, deng2022, subject(model, split, [*rows, *losses]))
    assert (found.n, found.width, found.is_deep_relu) == (5, 8, True)
    assert (found.ends_fixed, found.on_sphere) == (False, False)
    for own, method in (
        (found.fitted, deng2022.fit),
        (found.bounding, deng2022.envelope),
    ):
        expected = method(*columns)
        assert (own.A, own.B) == pytest.approx((expected.A, expected.B), rel=1e-10)
        assert own.pairs == 6
    x = split.dataset.x
    least = min((x[i] - x[j]).norm().item() for i in range(5) for j in range(i))
    assert found.separation.value == pytest.approx(least, rel=1e-14)
    slope = deng2022.straightness(np.array([4.0, 2.0, 0.5, 0.25])).slope
    assert found.path.slope == slope
    # The same losses of every second round fall half as fast.
    apart = [Row(2 * t, None, None, None, "loss", row.value) for t, row in enumerate(
        losses)]  # fmt: skip
    slower = handed(deep.local_sgd, deng2022, subject(model, split, apart)).path
    assert slower.slope == pytest.approx(slope / 2, rel=1e-14)
    # A loss of 0 has no logarithm, a run that diverged is on no line that falls.
    still = subject(model, split, seen("loss", 4.0, 2.0, 0.0, first=0))
    assert handed(deep.local_sgd, deng2022, still).path is None
    gone = subject(model, split, losses, status="diverged")
    assert not handed(deep.local_sgd, deng2022, gone).path.falls
    assert deep.local_sgd(gone).conclusion.verdict is Verdict.fails
    other = subject(model, split, options={"loss": "logistic"})
    assert not handed(deep.local_sgd, deng2022, other).is_deep_relu


@pytest.mark.parametrize(
    ("frozen", "hidden", "expected"),
    [((0, -1), 2, True), ((0,), 2, False), ((-1,), 2, False), ((0, -1), 1, False)],
)
def test_ends_are_fixed_where_both_are_and_a_layer_between_is_not(
    frozen, hidden, expected
):
    sizes = [4, 6, 5, 1] if hidden == 2 else [4, 6, 1]
    layers = []
    for one, other in itertools.pairwise(sizes):
        layers += [torch.nn.Linear(one, other, dtype=torch.float64), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1])
    for i in frozen:
        model[2 * (i % (hidden + 1))].weight.requires_grad_(False)
    split = split_of(draw(5, 4), draw(5, 1, seed=1), [2, 3])
    found = handed(deep.local_sgd, deng2022, subject(model, split))
    assert found.ends_fixed is expected


@pytest.mark.parametrize("scaling", ["ntk", "standard"])
def test_what_the_wide_limit_is_told_of_a_deep_network(scaling):
    model = nf.models.MLP([4, 16, 8, 1], scaling=scaling, seed=0)
    x = draw(5, 4)
    x = 0.5 * x / x.norm(dim=1, keepdim=True)
    split = split_of(x, draw(5, 1, seed=1), [2, 3])
    rows = [
        *seen("kernel change (Frobenius)", 0.1, 0.4, 0.2),
        *seen("linearisation gap", 0.2, 0.7, 0.3),
        *seen("consensus error", (0.04, 0.03, 0.09), (0.05, 0.05, 0.06)),
    ]
    held = subject(model, split, rows, local_steps=3, step_size=0.7)
    found = handed(lazy_checks.wide_limit, jian2025, held)
    assert (found.n, found.width, found.local_steps) == (5, 8, 3)
    assert (found.step_size, found.factors_inside) == (0.7, scaling == "ntk")
    assert (found.is_fedavg, found.inputs_bounded) == (True, True)
    assert found.smallest == held.start.smallest
    residual = (model(x) - split.dataset.y).norm().item()
    # Sums in another order here and below: a few roundings.
    assert found.residual.value == pytest.approx(residual, rel=1e-14)
    assert (found.kernel_change.value, found.linearisation_gap.value) == (0.4, 0.7)
    distance = found.distance
    assert (distance.value, distance.lower, distance.upper) == (0.3, 0.0, 0.3)
    norm = torch.linalg.norm(
        torch.cat([v.flatten(1) for v in nf.jacobian(model, x).values()], dim=1)
    ).item()
    c = norm if scaling == "ntk" else norm / math.sqrt(8)
    assert found.lipschitz.value == pytest.approx(c, rel=1e-12)
    assert 0 < c - found.lipschitz.lower < 1e-11 * c
    assert found.lipschitz.upper == math.inf
    gone = subject(model, split, rows, status="diverged")
    distance = handed(lazy_checks.wide_limit, jian2025, gone).distance
    assert distance.lower == math.inf
    for options in ({"loss": "logistic"}, {"rule": "adam"}):
        other = subject(model, split, options=options)
        assert not handed(lazy_checks.wide_limit, jian2025, other).is_fedavg


@pytest.mark.parametrize(
    ("norms", "bounded"),
    [((0.5, 1.0 + 2**-52), True), ((0.5, 1.001), False), ((1.001, 1.001), False)],
)
def test_norms_of_inputs_may_round_above_one_and_no_more(norms, bounded):
    x = torch.tensor([[size, 0.0] for size in norms], dtype=torch.float64)
    model = nf.models.TwoLayerReLU(2, 8, seed=0)
    held = subject(model, split_of(x, draw(2, 1), [2]))
    found = handed(lazy_checks.wide_limit, jian2025, held)
    assert found.inputs_bounded is bounded
    assert (found.width, found.factors_inside) == (8, True)


# --- linear models ------------------------------------------------------------------


def test_regression_keeps_its_rate_and_a_step_too_large_is_told():
    model, split = linear(d=30)
    found = checked(model, split, "zhu2024.regression_limit")
    assert found.verdict is Verdict.holds
    assert found.conclusion.verdict is Verdict.holds
    worst = max(
        torch.linalg.matrix_norm(split.client(i)[0], 2).item() ** 2 / split.sizes[i]
        for i in range(3)
    )
    wild = checked(model, split, "zhu2024.regression_limit", step_size=1.5 / worst)
    assert failing(wild) == ["η λ_max(X_iᵀX_i)/n_i, largest"]
    noisy = linear(label=lambda x, w: x @ w + draw(24, 1, seed=5))
    assert failing(checked(*noisy, "zhu2024.regression_limit"))[0].startswith("misfit")


def test_distances_to_another_target_are_not_taken_for_those_to_the_limit():
    model, split = linear(d=30)
    options = {"rounds": 60, "name": "zhu2024.regression_limit"}
    x, y = split.dataset.x, split.dataset.y
    target = {"weight": (torch.linalg.pinv(x) @ y).T}
    seen = [nf.observers.distance(model, split, target=target)]
    right = checked(model, split, watch=seen, **options)
    other = {"weight": target["weight"] + 1}
    strange = [nf.observers.distance(model, split, target=other)]
    wrong = checked(model, split, watch=strange, **options)
    bare = checked(model, split, **options)
    # By every round the first one is the worst; by the last alone the ratio is smaller.
    assert right.conclusion.left.value > bare.conclusion.left.value
    assert wrong.conclusion.left == bare.conclusion.left


def test_directions_are_those_of_the_svm_or_there_is_none():
    model, split = linear(label=lambda x, w: torch.sign(x @ w))
    options = {"loss": "logistic", "rounds": 100, "step_size": 1.0}
    aim = nf.theory.zhu2024.max_margin(
        split.dataset.x.numpy(), split.dataset.y.numpy().ravel()
    )
    target = {"weight": torch.tensor(aim)[None]}
    watch = [nf.observers.direction(model, split, target=target)]
    found = checked(model, split, "zhu2024.direction", watch=watch, **options)
    assert found.verdict is Verdict.holds
    assert found.conclusion.verdict is Verdict.holds
    assert found.constants["margin γ"].value == pytest.approx(1 / np.linalg.norm(aim))
    bare = checked(model, split, "zhu2024.direction", **options)
    assert bare.conclusion.verdict is Verdict.undecided
    mixed = linear(label=lambda x, w: torch.sign(draw(24, 1, seed=3)))
    lost = checked(*mixed, "zhu2024.direction", **options)
    assert failing(lost) == ["margin of all samples"]


def shared(heads, *, d=6, step_size=0.1, near=0.01):
    k, clients = heads.shape[1], len(heads)
    truth = torch.linalg.qr(draw(d, k)).Q
    x = math.sqrt(d) * torch.eye(d, dtype=torch.float64)
    y = torch.cat([x @ truth @ head for head in heads])[:, None]
    split = split_of(x.repeat(clients, 1), y, [d] * clients)
    first = torch.linalg.qr(truth + near * draw(d, k, seed=4)).Q / math.sqrt(step_size)
    model = nf.models.SharedRepresentation(d, k, start=first)
    watch = [nf.observers.subspace(model, split, truth=truth)]
    options = {"local_steps": 4, "step_size": step_size, "weights": "uniform"}
    return model, split, {"watch": watch, **options}


def test_a_representation_is_learned_where_heads_differ_and_clients_take_steps():
    name, heads = "collins2022.representation", draw(8, 2, seed=6)
    model, split, options = shared(heads)
    found = checked(model, split, name, rounds=40, **options)
    assert found.verdict is Verdict.holds
    assert found.conclusion.verdict is Verdict.holds
    centred = heads - heads.mean(dim=0)
    mu2 = torch.linalg.eigvalsh(centred.T @ centred / 8)[0].item()
    assert found.constants["diversity μ²"].value == pytest.approx(mu2, rel=1e-9)
    alone = checked(model, split, name, rounds=40, **{**options, "local_steps": 1})
    assert failing(alone) == ["local steps"]
    # One step is the slow case: the formula says 1, and 40 rounds move it by 2 %.
    assert alone.conclusion.left.value > 0.999 > found.conclusion.left.value + 0.01
    alike = shared(heads[:1].repeat(8, 1))
    flat = checked(alike[0], alike[1], name, rounds=40, **alike[2])
    assert any("diversity" in one for one in failing(flat))


def test_what_theorems_of_interpolation_are_told():
    x, y = draw(6, 3), draw(6, 1, seed=1)
    model, split = nf.models.Linear(3), split_of(x, y, (2, 4, 0))
    with torch.no_grad():
        model.weight.copy_(draw(1, 3, seed=2))
    params = {"weight": draw(1, 3, seed=3)}
    rows = seen("squared gradient at average", 0.5, 0.2, 0.4)
    given = {"weights": "uniform", "local_steps": 4, "step_size": 0.7}
    found = interpolation.measurements(
        subject(model, split, rows, params=params, **given)
    )
    assert (found.step_size, found.local_steps, found.rounds) == (0.7, 4, 3)
    assert (found.averages, found.convex) == (True, True)
    assert found.smallest_gradient.value == 0.2
    residual = (model(x) - y).detach().ravel()
    # Weights 1/c, halves of means, and nothing of the client without samples.
    means = residual[:2].square().mean() / 2, residual[2:].square().mean() / 2
    assert found.gap.value == pytest.approx(sum(means).item() / 3, rel=1e-13)
    best = torch.linalg.lstsq(x, y).solution.T
    far = (model.weight - best).norm().item()
    assert found.distance.value == pytest.approx(far, rel=1e-12)
    last = (params["weight"] - best).square().sum().item()
    assert found.last_distance.value == pytest.approx(last, rel=1e-12)
    left = (x @ best.T - y).square().sum().item() / residual.square().sum().item()
    assert found.least.value == pytest.approx(left, rel=1e-10)
    assert found.least.width == pytest.approx(qin2022.ROUNDING, rel=1e-6)
    for change in ({"weights": "samples"}, {"options": {"rule": "adam"}}):
        other = subject(model, split, **{**given, **change})
        assert not interpolation.measurements(other).averages
    gone = subject(model, split, rows, status="diverged", **given)
    found = interpolation.measurements(gone)
    assert found.smallest_gradient is None
    assert found.last_distance.lower == math.inf


def test_curvatures_of_a_linear_model_are_extremes_over_clients():
    # Hessians diag(4, 9)/2 and diag(1, 16)/2: L = 8, and 1/2 is the least.
    x = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0], [0.0, 4.0]]).double()
    split = split_of(x, draw(4, 1), [2, 2])
    found = interpolation.measurements(subject(nf.models.Linear(2), split))
    assert found.smoothness.value == pytest.approx(8.0, rel=1e-14)
    assert found.convexity.value == pytest.approx(0.5, rel=1e-13)
    # In three dimensions no sample looks along the third axis.
    flat = split_of(torch.cat([x, torch.zeros_like(x[:, :1])], 1), draw(4, 1), [2, 2])
    found = interpolation.measurements(subject(nf.models.Linear(3), flat))
    assert found.convexity.upper == 0.0
    hessians = quadratic(subject(nf.models.Linear(2), split)).hessians
    found = interpolation.measurements(subject(nf.models.Linear(2), split))
    assert found.growth.value == pytest.approx(qin2022.growth(hessians), rel=1e-12)
    similar = qin2022.similarity(hessians)
    assert found.similarity.value == pytest.approx(similar, rel=1e-12)


def test_constants_of_a_network_are_open_above():
    model = nf.models.MLP([3, 8, 1], seed=0)
    split = split_of(draw(6, 3), draw(6, 2, seed=1)[:, :1], (2, 4))
    rows = [*seen("smoothness", 2.0, 5.0), *seen("SGC ratio", 3.0, 1.5)]
    found = interpolation.measurements(subject(model, split, rows))
    assert not found.convex
    for one, value in ((found.smoothness, 5.0), (found.growth, 3.0)):
        assert (one.value, one.upper) == (value, math.inf)
        assert one.lower == pytest.approx(value, rel=1e-11)
    assert found.distance is found.convexity is None
    two = nf.models.MLP([3, 8, 2], seed=0)
    wide = split_of(draw(6, 3), draw(6, 2, seed=1), (2, 4))
    residual = (two(wide.dataset.x) - wide.dataset.y).detach()
    means = [residual[:2].square().sum() / 4, residual[2:].square().sum() / 8]
    gap = interpolation.measurements(subject(two, wide)).gap.value
    assert gap == pytest.approx(sum(means).item() / 2, rel=1e-13)


def test_iterations_are_counted_within_rounds_and_none_is_missing():
    model, split = linear()
    names = ("excess loss", "squared gradient at average", "variance of iterates")
    moments = [(0, None), (1, 1), (1, None), (2, 1), (2, None), (3, 1), (3, None)]
    # One row of a client beside them is no row of the average.
    rows = [Row(1, None, 0, None, "excess loss", 99.0)]
    for j, name in enumerate(names):
        for i, (t, step) in enumerate(moments):
            rows.append(Row(t, step, None, None, name, 10.0 * j + i))
    given = {"local_steps": 2, "weights": "uniform"}
    held = subject(model, split, rows, **given)
    with mock.patch.object(qin2022, "along", wraps=qin2022.along) as spy:
        interpolation.measurements(held)
        table = spy.call_args.args[1]
        interpolation.measurements(subject(model, split, rows[:-1], **given))
        short = spy.call_args.args[1]
    assert list(table.index) == list(range(7))
    for j, name in enumerate(("gap", "gradient", "variance")):
        assert table[name].tolist() == [10.0 * j + i for i in range(7)]
    assert short is None


def test_what_the_regression_theorem_is_told():
    d, sizes = 9, (2, 4)
    x, y = draw(6, d), draw(6, 1, seed=1)
    model, split = nf.models.Linear(d), split_of(x, y, sizes)
    with torch.no_grad():
        model.weight.copy_(draw(1, d, seed=2))
    first = model.weight.detach().numpy().ravel()
    xs, ys = ([v.numpy() for v in z.split(sizes)] for z in (x, y.ravel()))
    end = zhu2024.limit(xs, ys, first)
    params = {"weight": torch.tensor(end)[None] + 1e-3}
    begin = float(np.linalg.norm(first - end))
    given = {"local_steps": 4, "step_size": 0.01}
    held = subject(model, split, params=params, **given)
    name = "check_regression"
    found = handed(linear_checks.regression_limit, zhu2024, held, name)
    assert (found.is_linear, found.is_squared, found.is_plain) == (True, True, True)
    weights = [2 / 6, 4 / 6]
    assert found.rate == pytest.approx(zhu2024.rate(xs, weights=weights, **given))
    theta = zhu2024.enclosed_theta(xs, weights=weights, **given)
    assert found.theta.value == pytest.approx(theta.value, rel=1e-9)
    limit = zhu2024.theta_limit(xs, weights=weights)
    assert found.theta_limit == pytest.approx(limit, rel=1e-9)
    most = max(np.linalg.norm(own, 2) ** 2 / len(own) for own in xs)
    assert found.largest_step == pytest.approx(0.01 * most, rel=1e-12)
    assert found.misfit <= 1  # in units of rounding
    # Three rounds, of which the last was seen: 3e-3 from the limit.
    kept = (1 - theta.value) ** 3
    last = 1e-3 * math.sqrt(d) / begin / kept
    assert found.worst_ratio.value == pytest.approx(last, rel=1e-9)
    for first_seen, worst in (
        (begin, 0.5 * begin / begin / (kept ** (1 / 3))),
        (9, last),
    ):
        rows = seen("distance to the target", first_seen, 0.5 * begin, first=0)
        watched = subject(model, split, rows, params=params, **given)
        own = handed(linear_checks.regression_limit, zhu2024, watched, name)
        assert own.worst_ratio.value == pytest.approx(worst, rel=1e-9)
    gone = subject(model, split, params=params, status="diverged", **given)
    own = handed(linear_checks.regression_limit, zhu2024, gone, name)
    assert own.worst_ratio.value == math.inf
    mixed = split_of(x, draw(6, 2, seed=1), sizes)
    for other in (
        subject(nf.models.Linear(d, 2), mixed),
        subject(nf.models.MLP([d, 4, 1], seed=0), split),
    ):
        own = handed(linear_checks.regression_limit, zhu2024, other, name)
        assert own == zhu2024.Regression(False, True, True)


def test_what_the_direction_theorem_is_told():
    # Samples ±(1, 0.2), ±(0.5, 1) of labels ±1, and one that no client holds.
    half = torch.tensor([[1.0, 0.2], [0.5, 1.0]]).double()
    x = torch.cat([half, -half, torch.tensor([[-5.0, 0.0]]).double()])
    y = torch.tensor([[1.0], [1.0], [-1.0], [-1.0], [1.0]]).double()
    indices = [torch.tensor([0, 2]), torch.tensor([1, 3])]
    split = nf.data.Partition(nf.data.Dataset(x, y), indices)
    aim = zhu2024.max_margin(x[:4].numpy(), y[:4].numpy().ravel())
    params = {"weight": torch.tensor([[2.0, 0.0]]).double()}
    gap = 1 - aim[0] / np.linalg.norm(aim)
    name = "check_classification"

    def told(rows=(), *, own=split, loss="logistic", **changes):
        held = subject(
            nf.models.Linear(2), own, rows, params=params, options={"loss": loss},
            **changes,
        )  # fmt: skip
        return handed(linear_checks.direction, zhu2024, held, name)

    for loss in ("logistic", "exponential"):
        found = told(loss=loss)
        assert (found.is_linear, found.is_exponential, found.is_plain) == (True,) * 3
        assert found.margin == pytest.approx(1 / np.linalg.norm(aim), rel=1e-9)
        assert found.last == pytest.approx(gap, rel=1e-9)
        assert found.first is None
    assert told(seen("direction gap", 0.9, 0.5, gap)).first == 0.9
    assert told(seen("direction gap", 0.9, 0.5, 0.1)).first is None
    assert told(status="diverged").last is None
    assert told(loss="squared") == zhu2024.Classification(True, False, True)
    graded = nf.data.Partition(nf.data.Dataset(x, 2 * y), indices)
    assert told(own=graded).margin is None
    mixed = nf.data.Partition(nf.data.Dataset(x, y.abs()), indices)
    lost = told(own=mixed)
    assert (lost.margin, lost.last) == (0.0, None)


def test_what_the_representation_theorem_is_told():
    heads = draw(5, 2, seed=6)
    model, split, _ = shared(heads, step_size=0.1)
    with torch.no_grad():
        model.representation.mul_(1.1)
        model.head.copy_(torch.tensor([0.03, 0.04], dtype=torch.float64))
    rows = seen("subspace distance", 0.5, 0.4, first=0)
    given = {"local_steps": 4, "step_size": 0.1, "weights": "uniform"}
    found = handed(
        linear_checks.representation, collins2022, subject(model, split, rows, **given)
    )
    assert (found.step_size, found.local_steps) == (0.1, 4)
    assert (found.is_representation, found.is_plain) == (True, True)
    # The heads up to a rotation of the truth; η B_0ᵀB_0 = 1.21 I.
    assert np.allclose(found.heads @ found.heads.T, (heads @ heads.T).numpy())
    assert found.start_gap == pytest.approx(0.21, rel=1e-12)
    assert found.covariance_gap < 1e-12
    assert found.dists.tolist() == [0.5, 0.4]
    # Rounds 0 and 5: what a round contracts by cannot be told, and is not.
    apart = [*rows[:1], *seen("subspace distance", 0.1, first=5)]
    late = subject(model, split, apart, **given)
    assert handed(linear_checks.representation, collins2022, late).dists is None
    with torch.no_grad():
        model.head.mul_(10)  # norm 0.5
    # One client's inputs doubled: covariance 4 I for it alone, the same truth.
    x, y = split.dataset.x.clone(), split.dataset.y.clone()
    x[:6], y[:6] = 2 * x[:6], 2 * y[:6]
    larger = split_of(x, y, split.sizes)
    found = handed(
        linear_checks.representation, collins2022, subject(model, larger, **given)
    )
    assert found.start_gap == pytest.approx(0.5, rel=1e-12)
    assert found.covariance_gap == pytest.approx(3.0, rel=1e-12)
    assert found.dists is None
    # Too few samples; labels that no model fits, of two clients, whose models no rank
    # of 2 is too small for; models beyond the rank.
    few = nf.data.Partition(split.dataset, [torch.arange(5), torch.arange(6, 12)])
    noisy = split_of(split.dataset.x[:24], draw(24, 1, seed=8), [12, 12])
    beyond = split_of(split.dataset.x, draw(30, 1, seed=8), [6] * 5)
    for own in (few, noisy, beyond):
        held = subject(model, own, **given)
        assert handed(linear_checks.representation, collins2022, held).heads is None
    # Weights 1/c are asked for by name or by equal sizes.
    few = handed(linear_checks.representation, collins2022, subject(model, few))
    assert not few.is_plain


def test_a_quadratic_knows_its_owners_its_outputs_and_its_size():
    x, y = draw(5, 3), draw(5, 2, seed=1)
    some = nf.data.Partition(
        nf.data.Dataset(x, y), [torch.tensor([0, 3]), torch.tensor([1])]
    )
    model = nf.models.Linear(3, 2)
    with torch.no_grad():
        model.weight.copy_(draw(2, 3, seed=2))
    held = subject(model, some)
    found = quadratic(held)
    assert found.owned.tolist() == [0, 1, 6, 7, 2, 3]
    own = torch.kron(x[[0, 3]].contiguous(), torch.eye(2, dtype=torch.float64))
    values = torch.linalg.eigvalsh(own.T @ own / 2)[-4:]
    assert np.linalg.eigvalsh(found.hessians[0])[-4:] == pytest.approx(
        values.numpy(), rel=1e-12
    )
    # Only what clients hold counts: three samples in three dimensions are all met.
    best = torch.linalg.solve(x[[0, 3, 1]], y[[0, 3, 1]]).T
    moved = found.displacement(found.residual)
    away = (model.weight - best).norm().item()
    assert np.linalg.norm(moved) == pytest.approx(away, rel=1e-11)
    at = residual_at(held, {"weight": best})
    assert at == pytest.approx((x @ best.T - y).numpy().ravel(), rel=1e-13)
    # A direction a thousand times fainter is one all the same.
    faint = x * torch.tensor([1.0, 1.0, 1e-3])
    thin = quadratic(subject(nf.models.Linear(3), split_of(faint, y[:, :1], [5])))
    assert thin.basis.shape == (3, 3)
    assert quadratic(subject(torch.nn.Linear(3, 1, dtype=torch.float64), split_of(
        x, y[:, :1], [2, 3]))) is not None  # fmt: skip
    # Two clients of 9 numbers each: 18 are too many for 17.
    whole = subject(nf.models.Linear(3), split_of(x, y[:, :1], [2, 3]))
    for largest, known in ((18, True), (17, False)):
        with mock.patch.object(quadratic_checks, "LARGEST", largest):
            assert (quadratic(whole) is not None) is known


# --- pyramids and the derived theorem ----------------------------------------------


def test_constants_of_a_linear_run_are_exact_and_its_promise_is_kept():
    model, split = linear(d=30, sizes=(5, 3, 4))
    for weights in ("samples", "uniform"):
        w = split.weights(weights)
        x = split.dataset.x
        theta = x @ x.T
        diagonal = torch.cat([w[i].repeat(n) / n for i, n in enumerate(split.sizes)])
        root = diagonal.sqrt()
        mu = torch.linalg.eigvalsh(root[:, None] * theta * root)[0].item()
        s = max(
            torch.linalg.matrix_norm(split.client(i)[0], 2).item() ** 2 / n
            for i, n in enumerate(split.sizes)
        )
        j = math.sqrt(torch.linalg.eigvalsh(theta)[-1].item())
        amount = sum(w[i].item() / n for i, n in enumerate(split.sizes))
        most = song2023.step_size_limit(smoothness=s, jacobian=j, pl=mu, spread=amount)
        options = {"weights": weights, "local_steps": 3}
        name = "song2023.a_posteriori"
        found = checked(model, split, name, step_size=0.999 * most / 3, **options)
        values = [found.constants[key].value for key in ("S", "J", "mu")]
        assert values == pytest.approx([s, j, mu], rel=1e-9)
        assert found.verdict is Verdict.holds
        assert found.conclusion.verdict is Verdict.holds
        above = checked(model, split, name, step_size=1.001 * most / 3, **options)
        assert above.verdict is Verdict.fails


def test_the_certified_scale_is_the_smallest_power_of_ten_that_is_enough():
    split = split_of(draw(6, 5), draw(6, 1, seed=1), [3, 3])
    model = certified_pyramid(split, 10, [4, 3, 1], seed=0)
    scale = torch.linalg.matrix_norm(model.layers[2].weight, 2).item()
    assert math.log10(scale) == pytest.approx(round(math.log10(scale)), abs=1e-9)

    def ratios(tail):
        own = nf.models.Pyramid(
            5, 10, [4, 3, 1], activation="smooth_leaky_relu", initial="certified",
            tail_scale=tail, seed=0,
        )  # fmt: skip
        residual = own(split.dataset.x) - split.dataset.y
        start = numbers(own, split.dataset.x, residual.detach(), 0.5)
        return nguyen2020.conditions(start).demanding(2 * math.sqrt(2) + 1).ratios

    assert min(ratios(scale)) >= 1 > min(ratios(scale / 10))
    found = nf.check(
        model, split, local_steps=1, step_size=1e-30, theorems=["song2023.a_priori"]
    )[0]
    assert not [name for name in failing(found) if name.startswith("N")]
    relu = nf.models.Pyramid(5, 10, [4, 3, 1], seed=0)
    why = nf.check(
        relu, split, local_steps=1, step_size=1e-3, theorems=["nguyen2020", "song2023"]
    )
    reasons = {one.name: one.why_not for one in why}
    assert "ReLU" in reasons["nguyen2020.gradient_descent"]
    assert not reasons["song2023.wide_layer"]
    assert "ReLU" in reasons["song2023.a_priori"]


def test_a_pyramid_at_lecuns_start_fails_by_orders_of_magnitude():
    split = split_of(draw(6, 5), draw(6, 1, seed=1), [3, 3])
    model = nf.models.Pyramid(5, 10, [4, 3, 1], activation="smooth_leaky_relu", seed=0)
    found = checked(model, split, "nguyen2020.gradient_descent", local_steps=1)
    margins = {h.name: h.margin for h in found.hypotheses}
    assert margins["N1: λ_F²"] < -6
    assert found.conclusion.verdict is Verdict.holds  # it trains all the same


def region(start, x, residual, beta):
    """Bounds of some samples' losses on the region."""
    return pyramid.region_bounds(
        start.largest, start.radii, x_norm=float(np.linalg.norm(x, 2)),
        x_frobenius=float(np.linalg.norm(x)), residual=residual.norm().item(),
        beta=beta,
    )  # fmt: skip


def test_what_the_theorems_about_pyramids_are_told():
    split = split_of(draw(6, 5), draw(6, 1, seed=1), (2, 4, 0))
    model = nf.models.Pyramid(5, 10, [4, 3, 1], activation="smooth_leaky_relu", seed=0)
    x, residual = split.dataset.x, subject(model, split).start.residual
    start = numbers(model, x, residual, 0.5)
    alpha = nguyen2020.conditions(start).alpha0.value
    moved = {name: value + 0.1 for name, value in model.named_parameters()}
    rows = seen("loss", 4.0, 3.9, 3.89, first=0)
    # η α₀ / n = 0.01
    given = {"local_steps": 3, "step_size": 0.06 / alpha}
    held = subject(model, split, rows, params=moved, **given)
    found = handed(pyramid_checks.gradient_descent, nguyen2020, held)
    assert (found.n, found.widths, found.is_pyramid) == (6, (10, 4, 3, 1), True)
    assert found.step_size == given["step_size"]
    assert not found.is_gradient_descent  # three local steps
    one = subject(model, split)
    assert handed(pyramid_checks.gradient_descent, nguyen2020, one).is_gradient_descent
    assert found.start == start
    beta = model.activation.beta
    pooled = region(start, x, residual, beta)
    # Above, by some roundings and no more; here and below.
    assert pooled.smoothness <= found.smoothness.lower
    assert found.smoothness.upper == pytest.approx(pooled.smoothness, rel=1e-11)
    apart = [0.1 * math.sqrt(size) for size in (50, 40, 12, 3)]
    assert [one.lower for one in found.displacements] == pytest.approx(apart, rel=1e-12)
    assert {one.upper for one in found.displacements} == {math.inf}  # the end alone
    # Steps 3 and 6 of 0.99 each
    worst = max(3.9 / 4 / 0.99**3, 3.89 / 4 / 0.99**6)
    assert found.worst_ratio.value == pytest.approx(worst, rel=1e-12)
    # 1e-12 above the ratio at the upper end of α₀, to some roundings.
    kept = 1 - 0.01 * nguyen2020.conditions(start).alpha0.upper / alpha
    above = max(3.9 / 4 / kept**3, 3.89 / 4 / kept**6)
    assert above * (1 + 9e-13) < found.worst_ratio.upper < above * (1 + 2e-12)
    prior = handed(pyramid_checks.a_priori, song2023, held, "check_a_priori")
    assert prior.start == start
    assert prior.displacements == found.displacements
    assert prior.jacobian.value == pytest.approx(pooled.jacobian, rel=1e-11)
    clients = [
        region(start, x[own], residual[own], beta).smoothness / len(own)
        for own in split.indices[:2]
    ]
    assert prior.smoothness.value == pytest.approx(max(clients), rel=1e-11)
    # μ = α₀/n, so that η K μ / 2 = 0.015
    worst = max(3.9 / 4, 3.89 / 3.9) / 0.985
    assert prior.worst_ratio.value == pytest.approx(worst, rel=1e-12)
    gone = subject(model, split, rows, status="diverged", **given)
    found = handed(pyramid_checks.gradient_descent, nguyen2020, gone)
    assert found.worst_ratio.lower == math.inf
    # Two layers are too few for a start.
    short = nf.models.Pyramid(5, 10, [1], activation="smooth_leaky_relu", seed=0)
    found = handed(pyramid_checks.gradient_descent, nguyen2020, subject(short, split))
    assert found.start is found.smoothness is None


def rows_moved(model, *furthest, first=0, last=3):
    """Rows of the observer of displacements, one number for all layers of a round."""
    return [
        Row(t, None, None, name, "neuron displacement", value)
        for t, value in zip(range(first, last + 1), furthest, strict=True)
        for name, _ in model.named_parameters()
    ]


def test_a_run_is_inside_the_region_only_where_every_round_was_seen():
    split = split_of(draw(6, 5), draw(6, 1, seed=1), (2, 4))
    model = nf.models.Pyramid(5, 10, [4, 3, 1], activation="smooth_leaky_relu", seed=0)

    def told(*rows, by=0.0, **given):
        params = {name: value + by for name, value in model.named_parameters()}
        held = subject(model, split, rows, params=params, **given)
        moved = handed(pyramid_checks.gradient_descent, nguyen2020, held).displacements
        for check in (pyramid_checks.gradient_descent, pyramid_checks.a_priori):
            inside = check(held).hypotheses[-1]
            assert inside.name.startswith("‖W_l − W_l⁰‖_F / R_l")
        return moved, inside

    # Rows of 10, 4, 3 and 1 units: a layer moved √rows times as far as one at most.
    moved, inside = told(*rows_moved(model, 0.0, 1e-3, 2e-3, 1e-3))
    assert [one.lower for one in moved] == [2e-3] * 4
    most = [2e-3 * math.sqrt(rows) for rows in (10, 4, 3, 1)]
    assert [one.upper for one in moved] == pytest.approx(most, rel=1e-12)
    assert moved[-1].upper > 2e-3  # a norm is rounded
    assert inside.verdict is Verdict.holds
    assert not inside.note
    away = rows_moved(model, 0.0, 9.0, 2e-3, 1e-3)  # it left, and came back
    assert told(*away)[1].verdict is Verdict.fails
    # The end alone; without a round, the last, the start; one round told twice.
    twice = away[:8] + away[4:8] + away[12:]
    for rows in ([], away[:4] + away[8:], away[:12], away[4:], twice):
        steady = [row._replace(value=0.0) for row in rows]
        moved, inside = told(*steady)
        assert {one.upper for one in moved} == {math.inf}
        assert inside.verdict is Verdict.undecided
        assert inside.note == "not every round was seen"
    still = rows_moved(model, *[0.0] * 4)
    assert told(*still)[1].verdict is Verdict.holds
    assert told(*still, status="diverged")[1].verdict is Verdict.undecided
    # What is outside in the end was outside.
    assert told(by=2.0)[1].verdict is Verdict.fails


def test_a_real_run_that_was_watched_in_every_round_stays_inside():
    split = split_of(draw(6, 5), draw(6, 1, seed=1), [3, 3])
    model = certified_pyramid(split, 10, [4, 3, 1], seed=0)
    for every, verdict in ((1, Verdict.holds), (2, Verdict.undecided)):
        watch = [nf.observers.displacement(model, split, every=every)]
        found = checked(
            model, split, "nguyen2020", rounds=4, watch=watch, local_steps=1,
            step_size=1e-33,
        )  # fmt: skip
        assert found.hypotheses[-1].verdict is verdict


def losses_of(*values, by=1):
    return pd.Series(values, index=np.arange(len(values)) * by, dtype="float64")


def test_losses_are_held_against_a_promise_at_both_ends_of_its_rate():
    losses = losses_of(4.0, 1.0, 2.0)

    def promised(rate):
        return 4.0 * (1 - rate) ** np.arange(3)

    none = np.zeros(3)
    found = over_promise(losses, none, promised, Enclosure(0.5, 0.25, 0.75))
    # Round 2: 2 / (4 · ½²), at the ends ¾² and ¼²; the start's ratio of 1 is left out.
    ends = (found.value, found.lower, found.upper)
    assert ends == pytest.approx((2.0, 2 / (4 * 0.5625), 8.0), rel=1e-14)
    fast = over_promise(
        losses_of(4.0, 1e-3), none[:2], lambda rate: np.array([4.0, 2.0]), found
    )
    assert fast.upper == pytest.approx(5e-4)
    # No promise at one end.
    missing = Enclosure(0.5, 0.5, 2.0)
    nothing = over_promise(
        losses, none, lambda rate: promised(rate if rate < 1 else math.nan), missing
    )
    assert nothing is None


@pytest.mark.parametrize("last", [0.0, 1e-300])
def test_a_promise_that_leaves_the_floats_is_no_promise_and_no_warning(last):
    """The tests make a warning of NumPy's an error."""
    model, split = sphere(width=8)
    rows = [*seen("loss", 4.0, first=0), *seen("loss", last, first=10**7)]
    held = subject(model, split, rows, weights="uniform", step_size=3.0)
    for statement, paper in (
        (twolayer.gradient_descent, du2019),
        (twolayer.fl_ntk, huang2021),
    ):
        assert handed(statement, paper, held).worst_ratio is None
    tall = nf.models.Pyramid(5, 10, [4, 3, 1], activation="smooth_leaky_relu", seed=0)
    split = split_of(draw(6, 5), draw(6, 1, seed=1), (2, 4))
    alpha = nguyen2020.conditions(
        numbers(tall, split.dataset.x, subject(tall, split).start.residual, 0.5)
    ).alpha0
    held = subject(tall, split, rows, step_size=3.0 / alpha.value)
    found = handed(pyramid_checks.gradient_descent, nguyen2020, held)
    assert found.worst_ratio is None


def test_losses_below_rounding_promise_nothing_and_those_above_it_do():
    split = split_of(draw(6, 5), draw(6, 1, seed=1), (2, 4))
    model = nf.models.Pyramid(5, 10, [4, 3, 1], activation="smooth_leaky_relu", seed=0)
    for losses, worst in (
        ((4.0, 1.0, 4e-25, 8e-25), 0.25),  # doubled by its rounding
        ((4.0, 0.03, 0.024), 0.8),
    ):
        held = subject(model, split, seen("loss", *losses, first=0), step_size=1e-30)
        found = handed(pyramid_checks.a_priori, song2023, held, "check_a_priori")
        # The step is too small to promise anything but 1.
        assert found.worst_ratio.value == pytest.approx(worst, rel=1e-12)


def test_what_a_run_of_a_network_tells_the_derived_theorem():
    split = split_of(draw(6, 5), draw(6, 1, seed=1), (2, 4))
    model = nf.models.Pyramid(5, 10, [4, 3, 1], seed=0)
    rows = [
        # Rounds begin at the averages 0, 1 and 2; what follows the last is none.
        *seen("smallest eigenvalue", (0.3, 0.24, 0.36), (0.5, 0.48, 0.52), first=0),
        *seen("smallest eigenvalue", 0.4, 0.1, first=2),
        *seen("Jacobian norm", 5.0, 2.0, 3.0, 9.0, first=0),
        *seen("smoothness (clients, sampled)", 1.0, 7.0, 2.0),
        *seen("loss", 4.0, 2.0, 3.0, first=0),
    ]
    name, statement = "check_a_posteriori", pyramid_checks.a_posteriori
    given = {"weights": "uniform", "local_steps": 3, "step_size": 0.5}
    found = handed(statement, song2023, subject(model, split, rows, **given), name)
    assert (found.sizes, found.widths) == ((2, 4), (10, 4, 3, 1))
    assert (found.local_steps, found.step_size) == (3, 0.5)
    assert (found.is_pyramid, found.is_smooth, found.is_fedavg) == (True, False, True)
    assert found.weights == (0.5, 0.5)
    # D is 1/4 for two samples and 1/8 for four.
    ends = (found.pl.value, found.pl.lower, found.pl.upper)
    assert ends == pytest.approx((0.3 / 8, 0.24 / 8, 0.36 / 4), rel=1e-14)
    assert (found.jacobian.value, found.smoothness.value) == (5.0, 7.0)
    assert found.smoothness.upper == math.inf
    assert found.smoothness.lower == pytest.approx(7.0, rel=1e-11)
    assert (found.last_over_first.value, found.worst_round.value) == (0.75, 1.5)
    # 1 − 0.5 · 3 · μ / 2
    worst = 1.5 / (1 - 0.75 * 0.3 / 8)
    assert found.worst_ratio.value == pytest.approx(worst, rel=1e-12)
    by_size = subject(model, split, rows, **{**given, "weights": "samples"})
    assert handed(statement, song2023, by_size, name).weights is None
    other = subject(model, split, rows, options={"rule": "adam"}, **given)
    assert not handed(statement, song2023, other, name).is_fedavg
    gone = subject(model, split, rows, status="diverged", **given)
    assert handed(statement, song2023, gone, name).last_over_first.lower == math.inf
    some = nf.data.Partition(split.dataset, [torch.arange(2), torch.arange(2, 5)])
    held = subject(model, some, rows, **given)
    assert handed(statement, song2023, held, name).pl is None


@pytest.mark.parametrize(
    ("model", "smooth"),
    [
        (nf.models.Linear(5), True),
        (nf.models.MLP([5, 4, 1], seed=0), False),
        (nf.models.Pyramid(5, 6, [4, 1], seed=0), False),
        (
            nf.models.Pyramid(5, 6, [4, 1], activation="smooth_leaky_relu", seed=0),
            True,
        ),
        (torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh()).double(), True),
        (torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.ReLU()).double(), False),
    ],
)
def test_which_networks_are_smooth(model, smooth):
    x = draw(4, 5)
    split = split_of(x, torch.zeros_like(model(x)).detach(), [4])
    found = handed(pyramid_checks.wide_layer, song2023, subject(model, split))
    assert found.is_smooth is smooth
    assert found.is_pyramid is isinstance(model, nf.models.Pyramid)


def test_two_outputs_of_a_linear_model_are_two_rows_of_each_sample():
    x = draw(6, 9)
    split = split_of(x, draw(6, 2, seed=1), (2, 4))
    held = subject(nf.models.Linear(9, 2), split, weights="uniform")
    found = handed(pyramid_checks.a_posteriori, song2023, held, "check_a_posteriori")
    # Both outputs have the kernel x xᵀ: its eigenvalues, twice each.
    root = torch.tensor([1 / 4, 1 / 4, *[1 / 8] * 4]).double().sqrt()
    pl = torch.linalg.eigvalsh(root[:, None] * (x @ x.T) * root)[0].item()
    tops = [torch.linalg.matrix_norm(own, 2).item() ** 2 for own in x.split((2, 4))]
    top = torch.linalg.matrix_norm(x, 2).item()
    values = (found.smoothness.value, found.jacobian.value, found.pl.value)
    assert values == pytest.approx((max(tops[0] / 2, tops[1] / 4), top, pl), rel=1e-10)


@pytest.mark.parametrize(("federated", "factor"), [(True, 1 + 8**0.5), (False, 1.0)])
def test_a_certified_start_asks_for_room_by_its_clients_with_samples(federated, factor):
    split = split_of(draw(6, 5), draw(6, 1, seed=1), [3, 3, 0])
    own = nguyen2020.certified_scale
    with mock.patch.object(nguyen2020, "certified_scale", wraps=own) as spy:
        model = certified_pyramid(split, 10, [4, 3, 1], seed=0, federated=federated)
    ratios, wanted = spy.call_args.args
    scale = torch.linalg.matrix_norm(model.layers[2].weight, 2).item()
    residual = (model(split.dataset.x) - split.dataset.y).detach()
    plain = nguyen2020.conditions(numbers(model, split.dataset.x, residual, 0.5)).ratios
    assert wanted == 1.0
    expected = [ratio / factor for ratio in plain]
    # The scale is read off the weights, to a few roundings.
    assert ratios(scale) == pytest.approx(expected, rel=1e-9)


def test_losses_of_a_run_that_skips_rounds_promise_nothing_round_by_round():
    model, split = linear(d=30)
    name, options = "song2023.a_posteriori", {"local_steps": 3, "step_size": 0.001}
    every = nf.observers.loss(model, split, every=2)
    run = nf.simulate(model, split, rounds=10, observers=[every], **options)
    found = nf.check(model, split, run=run, theorems=[name], **options)[0]
    assert found.conclusion.verdict is Verdict.undecided


def test_a_table_says_why_a_theorem_does_not_apply():
    model, split = linear()
    one = nf.check(model, split, local_steps=1, step_size=0.1, theorems=["du2019"])[0]
    assert isinstance(one.to_frame(), pd.DataFrame)
    assert set(one.to_frame()["why_not"]) == {one.why_not}
    assert "TwoLayerReLU" in one.why_not
    assert dataclasses.replace(one, why_not="").applies


def test_distance_direction_and_subspace_by_hand():
    split = split_of(draw(2, 2), draw(2, 1), [2])
    model = nf.models.Linear(2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 4.0]]))
    far = {"weight": torch.tensor([[0.0, 0.0]], dtype=torch.float64)}
    side = {"weight": torch.tensor([[7.0, 0.0]], dtype=torch.float64)}
    o = nf.observers
    watch = [
        o.distance(model, split, target=far),
        o.direction(model, split, target=side),
    ]
    still = {"rounds": 1, "local_steps": 1, "step_size": 1e-300}
    rows = nf.simulate(model, split, observers=watch, **still).rows
    first = rows[rows["round"] == 0].set_index("quantity")["value"]
    assert first["distance to the target"] == pytest.approx(5.0, rel=1e-15)
    assert first["direction gap"] == pytest.approx(1 - 3 / 5, rel=1e-14)
    with pytest.raises(ValueError, match="target must be finite and not 0"):
        o.direction(model, split, target=far)
    start = torch.tensor([[1.0], [1.0]], dtype=torch.float64)
    shared_model = nf.models.SharedRepresentation(2, 1, start=start)
    truth = torch.tensor([[2.0], [0.0]], dtype=torch.float64)
    watch = [o.subspace(shared_model, split, truth=truth)]
    rows = nf.simulate(shared_model, split, observers=watch, **still).rows
    assert rows["value"].iloc[0] == pytest.approx(math.sqrt(1 / 2), rel=1e-14)
    with pytest.raises(nf.errors.ShapeMismatchError, match="representation"):
        o.subspace(model, split, truth=truth)


# --- what must not be called refuted ------------------------------------------------


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (nf.models.Linear(5), "lazy.linear_convergence"),
        (nf.models.Linear(5), "zhu2024.regression_limit"),
        (nf.models.TwoLayerReLU(5, 16, seed=0), "huang2021.fl_ntk"),
        (nf.models.MLP([5, 8, 1], seed=0), "deng2022.local_sgd"),
    ],
    ids=str,
)
def test_a_theorem_about_local_descent_is_not_held_against_other_algorithms(
    model, name
):
    _, split = sphere(width=8)

    def algorithm(**options):
        given = {"local_steps": 3, "step_size": 0.05} | options
        run = nf.simulate(
            model, split, rounds=2, observers=[nf.observers.loss(model, split)], **given
        )
        names = ("local_steps", "step_size", "server_step_size")
        asked = {key: value for key, value in given.items() if key in names}
        found = nf.check(model, split, run=run, theorems=[name], **asked)[0]
        return next(one for one in found.hypotheses if "algorithm" in one.name).verdict

    assert algorithm() is Verdict.holds
    half = algorithm(server_step_size=0.5)
    server = name.startswith(("lazy", "huang"))  # they know a server's step size
    assert half is (Verdict.holds if server else Verdict.fails)
    others = [{"weight_decay": 0.5}, {"momentum": 0.5}, {"local": "minibatch"}]
    for other in [*others, {"rule": "anchored"}]:
        assert algorithm(**other) is Verdict.fails, other
    # A single step knows neither velocity nor another point than the round's.
    for same in others[1:]:
        assert algorithm(local_steps=1, **same) is Verdict.holds, same
    assert algorithm(local_steps=1, weight_decay=0.5) is Verdict.fails


def test_one_step_with_momentum_is_the_step_without_it():
    model, split = linear()
    options = {"rounds": 5, "local_steps": 1, "step_size": 0.05}
    plain = nf.simulate(model, split, **options).params["weight"]
    for other in ({"momentum": 0.9}, {"local": "minibatch"}):
        found = nf.simulate(model, split, **options, **other).params["weight"]
        # Another engine adds in another order: a few roundings.
        assert torch.allclose(found, plain, rtol=1e-14, atol=0)


def converged(*, rounds=600, **changes):
    """Two samples fitted to the last digit, long before the last round."""
    x = draw(2, 5, seed=3)
    x = x / x.norm(dim=1, keepdim=True)
    y = draw(2, 1, seed=5)
    model = nf.models.TwoLayerReLU(5, 512, seed=0)
    if changes.pop("fitted", False):
        y = model(x).detach()
    split = split_of(x, y, (2,))
    watch = [nf.observers.loss(model, split)]
    if changes.pop("lazy", False):
        kernel = measure(model, split, local_steps=1, step_size=2.0).federated
        watch.append(nf.observers.contraction(model, split, kernel=kernel))
    options = {"local_steps": 1, "step_size": 2.0}
    run = nf.simulate(model, split, rounds=rounds, observers=watch, **options)
    return nf.check(model, split, run=run, **options)


def test_a_run_that_has_converged_refutes_no_rate():
    for found in converged():
        assert found.conclusion.verdict is not Verdict.fails, found.name
    rates = ("du2019.gradient_descent", "huang2021.fl_ntk")
    held = {one.name: one.conclusion for one in converged(rounds=20)}
    for name in rates:
        assert held[name].verdict is Verdict.holds  # before rounding is reached


def test_a_run_that_starts_at_the_labels_refutes_nothing():
    found = {one.name: one for one in converged(rounds=20, fitted=True, lazy=True)}
    for name in ("du2019.gradient_descent", "huang2021.fl_ntk", "arora2019.trajectory"):
        assert found[name].conclusion.verdict is Verdict.undecided
    model = nf.models.MLP([5, 8, 8, 1], seed=0)
    x = draw(4, 5)
    split = split_of(x, model(x).detach() * (1 + 1e-16), (4,))
    deng = checked(model, split, "deng2022", local_steps=1)
    assert deng.conclusion.verdict is Verdict.undecided


def test_the_floor_of_losses_is_that_of_the_dtype():
    for dtype in (torch.float64, torch.float32):
        rows = torch.linalg.qr(draw(30, 4)).Q.T[:2].contiguous().to(dtype)
        split = split_of(rows, draw(2, 1, seed=3).to(dtype), (1, 1))
        model = nf.models.Linear(30, initial="normal", dtype=dtype)
        found = checked(
            model, split, "song2023.a_posteriori", rounds=400, local_steps=1,
            step_size=0.15,
        )  # fmt: skip
        assert found.verdict is Verdict.holds
        assert found.conclusion.verdict is Verdict.holds
        # Six and two digits are left of a ratio at its floor, 1000 roundings.
        assert found.conclusion.left.value < 0.94


def test_what_rounding_leaves_of_a_residual_by_hand():
    model, split = linear(sizes=(4, 8))
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 4.0, 0.0]]))
    params = {"weight": torch.tensor([[0.0, 6.0, 8.0]]).double()}
    held = subject(model, split, params=params, local_steps=3)
    x, y = split.dataset.x, split.dataset.y
    size = (model(x) - y).norm() + 2 * y.norm()
    expected = (3 * 5 + 24) * 2.0**-52 * size.item()
    found = held.residual_slack(np.array([5]))
    assert found == pytest.approx([expected], rel=1e-12)
    # Half of n_i/n over n_i, or of 1/c over the smallest n_i.
    losses = pd.Series([4.0], index=[5])
    for weights, share in (("samples", 1 / 12), ("uniform", 1 / 8)):
        held = subject(model, split, params=params, local_steps=3, weights=weights)
        both = 39 * 2.0**-52 * 2 + math.sqrt(share / 2) * expected
        assert held.loss_slack(losses) == pytest.approx([both], rel=1e-12)
    coarse = nf.models.Linear(3, dtype=torch.float32)
    single = split_of(x.float(), y.float(), (4, 8))
    held = subject(coarse, single, seen("q", 2.0))
    assert held.eps == 2.0**-23
    # 4500 eps: some thousands of roundings
    assert held.largest("q").width == pytest.approx(9000 * 2.0**-23 * 2)


def test_losses_that_are_rounding_contradict_no_promise():
    slack = np.full(3, 1e-3)

    def promised(rate):
        return 4.0 * (1 - rate) ** np.arange(3)

    rate = Enclosure(0.999, 0.999, 0.999)
    low = over_promise(losses_of(4.0, 1e-4, 9e-7), slack, promised, rate)
    # Round 1: (0.01 − 0.001)² / (2.001² · 1e-3); in round 2 nothing is left.
    assert low.lower == pytest.approx(8.1e-5 / (2.001**2 * 1e-3), rel=1e-9)
    assert low.value == pytest.approx(9e-7 / 4e-6, rel=1e-9)
    assert low.upper > 0.9
    start = over_promise(losses_of(1e-7, 1e-6, 1e-6), slack, promised, rate)
    assert (start.lower, start.upper) == (0.0, math.inf)
    # From 1 to what is rounding, and up again: that is told.
    up = growth(np.array([1.0, 1e-7, 4.0]), slack)
    assert up.lower == pytest.approx((1.999 / (1e-7**0.5 + 1e-3)) ** 2)
    assert up.upper == math.inf
    assert growth(np.array([1e-7, 5e-7]), slack[:2]) is None


def test_labels_that_are_small_against_the_start_are_consistent():
    x = draw(24, 3)
    model = nf.models.Linear(3, initial="normal")
    small = 1e-9 * x @ draw(3, 1, seed=1)
    for y in (torch.zeros_like(small), small):
        split = split_of(x, y, (8, 6, 10))
        found = checked(model, split, "zhu2024.regression_limit", step_size=0.01)
        assert found.verdict is Verdict.holds
    # What is not trained, a bias, is no part of them.
    biased = torch.nn.Linear(3, 1, dtype=torch.float64)
    biased.bias.requires_grad_(False)
    shifted = split_of(x, small + biased.bias.detach(), (8, 6, 10))
    held = subject(biased, shifted)
    labels = linear_checks._labels(held)
    assert np.abs(labels - small.numpy().ravel()).max() < 1e-15


def test_samples_without_an_owner_change_nothing_of_a_linear_model():
    x, y = draw(4, 30, seed=3), draw(4, 1, seed=4)
    own = [torch.tensor([0]), torch.tensor([1, 2])]
    model = nf.models.Linear(30)
    found = []
    for n in (3, 4):
        split = nf.data.Partition(nf.data.Dataset(x[:n], y[:n]), own)
        names = ["song2023.a_posteriori", "lazy"]
        found.append(
            nf.check(model, split, local_steps=2, step_size=5e-4, theorems=names)
        )
    for whole, more in zip(*found, strict=True):
        assert more.verdict is whole.verdict is Verdict.holds
        for name, value in whole.constants.items():
            assert more.constants[name].value == pytest.approx(value.value, rel=1e-9)
    # Of a network J was seen on all samples: that of those held is at most that.
    net = nf.models.MLP([30, 4, 1], seed=0)
    held = subject(net, split, seen("Jacobian norm", 2.0, 3.0, 2.0, first=0))
    slope = handed(pyramid_checks.a_posteriori, song2023, held, "check_a_posteriori")
    assert (slope.jacobian.lower, slope.jacobian.value) == (0.0, 3.0)


@pytest.mark.parametrize("model", ["Linear", "MLP"])
def test_a_run_of_one_round_is_undecided_and_no_error(model):
    split = split_of(draw(6, 5), draw(6, 1, seed=2), (3, 3))
    net = nf.models.Linear(5) if model == "Linear" else nf.models.MLP([5, 8, 1], seed=0)
    options = {"local_steps": 2, "step_size": 0.1}
    watch = [nf.observers.loss(net, split)]
    run = nf.simulate(net, split, rounds=1, observers=watch, **options)
    found = {one.name: one for one in nf.check(net, split, run=run, **options)}
    assert found["deng2022.local_sgd"].conclusion.verdict is Verdict.undecided


@pytest.mark.parametrize(
    ("model", "rounds", "status"),
    [
        (nf.models.Linear(5), 160, "diverged"),
        (nf.models.Linear(5), 90, "finished"),
        (nf.models.TwoLayerReLU(5, 16, seed=0), 200, "diverged"),
        (nf.models.TwoLayerReLU(5, 16, seed=0), 120, "finished"),
        (
            nf.models.Pyramid(5, 12, [4, 3, 1], activation="smooth_leaky_relu", seed=0),
            60,
            "diverged",
        ),
    ],
)
def test_a_loss_beyond_the_floats_keeps_no_promise(model, rounds, status):
    _, split = sphere(width=8)
    options = {"local_steps": 1, "step_size": 500.0}
    watch = [nf.observers.loss(model, split), nf.observers.displacement(model, split)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # it diverged
        run = nf.simulate(model, split, rounds=rounds, observers=watch, **options)
    last = run.rows.loc[run.rows["quantity"] == "loss", "value"].iloc[-1]
    assert run.status == status
    assert status == "diverged" or math.isinf(last)
    found = {one.name: one for one in nf.check(model, split, run=run, **options)}
    names = ["song2023.wide_layer", "song2023.a_priori", "song2023.a_posteriori"]
    names = names[:2] if isinstance(model, nf.models.Pyramid) else names[:1]
    names += ["du2019.gradient_descent"] * isinstance(model, nf.models.TwoLayerReLU)
    names += ["nguyen2020.gradient_descent"] * isinstance(model, nf.models.Pyramid)
    for name in names:
        assert found[name].conclusion.verdict is Verdict.fails, name


def test_an_infinite_loss_of_a_finished_run_is_a_lost_one():
    model, split = sphere(width=8)
    rows = seen("loss", 4.0, 1e300, math.inf, math.inf, first=0)
    held = subject(model, split, rows)
    assert held.lost
    assert not held.diverged
    assert not subject(model, split, seen("loss", 4.0, 1e300, first=0)).lost
    for statement in (
        twolayer.gradient_descent, twolayer.fl_ntk, pyramid_checks.wide_layer
    ):  # fmt: skip
        assert statement(held).conclusion.verdict is Verdict.fails


def test_inputs_that_are_all_zero_are_no_error():
    split = split_of(0 * draw(6, 5), draw(6, 1), (3, 3))
    for model in (nf.models.Linear(5), nf.models.Linear(5, bias=True)):
        found = nf.check(model, split, local_steps=1, step_size=0.5)
        assert [one.name for one in found] == list(THEOREMS)
    flat = nf.check(nf.models.Linear(5), split, local_steps=1, step_size=0.5)
    regression = next(one for one in flat if one.name == "zhu2024.regression_limit")
    assert [name.split()[0] for name in failing(regression)] == ["misfit", "θ_K"]


def test_the_wide_limit_says_that_its_constant_is_known_from_below():
    model, split = sphere(width=64)
    found = checked(model, split, "jian2025.wide_limit", rounds=1)
    assert found.conclusion.verdict is Verdict.undecided
    for one in (found.conclusion, found.hypotheses[-1]):
        assert "Lipschitz constant C is known only from below" in one.note


def test_extremes_of_some_rounds_say_so_in_the_condition():
    model, split = sphere(width=8)
    for every, note in ((1, ""), (2, "seen at 2 of 4 rounds")):
        watch = [nf.observers.kernel(model, split, every=every)]
        watch.append(nf.observers.displacement(model, split, every=every))
        found = checked(model, split, "du2019", rounds=4, watch=watch, local_steps=1)
        notes = [
            one.note
            for one in found.hypotheses
            if "along the run" in one.name or "4 √n" in one.name
        ]
        assert notes == [note] * 3
    # A round whose number is NaN was not seen; of averages the first is one.
    rows = [*seen("q", 5.0, first=0), *seen("q", 1.0, math.nan, 2.0)]
    held = subject(model, split, rows)
    assert held.largest("q").note == "seen at 2 of 3 rounds"
    of_averages = held.largest("q", averages=True)
    assert (of_averages.value, of_averages.note) == (5.0, "seen at 2 of 3 rounds")
    assert held.smallest("q", averages=True).value == 1.0


def test_a_run_of_another_network_is_refused():
    data = nf.data.load("sphere", n=8, targets="sign")
    split = nf.data.partition(data, "iid", clients=2)
    inputs = data.x.shape[1]
    model, other = nf.models.Linear(inputs), nf.models.MLP([inputs, 4, 1], seed=0)
    options = {"local_steps": 1, "step_size": 0.1}
    run = nf.simulate(other, split, rounds=1, **options)
    with pytest.raises(ValueError, match="the model the run was made of"):
        nf.check(model, split, run=run, **options)


@pytest.mark.filterwarnings("ignore:the run diverged")
def test_a_limit_is_undecided_while_the_loss_still_falls():
    data = nf.data.load("sphere", n=6, targets="sign")
    split = nf.data.partition(data, "iid", clients=2)
    model = nf.models.Pyramid(data.x.shape[1], 8, [1], activation="relu", seed=0)
    name, verdicts = "song2023.wide_layer", {}
    for step_size in (1e-4, 20.0):
        options = {"local_steps": 2, "step_size": step_size}
        watch = [nf.observers.loss(model, split)]
        run = nf.simulate(model, split, rounds=4, observers=watch, **options)
        [found] = nf.check(model, split, run=run, theorems=[name], **options)
        verdicts[step_size] = found.conclusion.verdict
    assert verdicts[1e-4] is Verdict.undecided
    assert verdicts[20.0] is Verdict.fails  # negative control: it grew


def test_theorems_on_smooth_losses_do_not_speak_of_relu():
    data = nf.data.load("sphere", n=6, targets="sign")
    split = nf.data.partition(data, "iid", clients=2)
    options = {"local_steps": 2, "step_size": 0.1}
    names = ["qin2022.theorem2", "qin2022.lemma4", "qin2022.lemma5"]
    for activation, applies in (("relu", False), ("smooth_leaky_relu", True)):
        model = nf.models.Pyramid(
            data.x.shape[1], 8, [1], activation=activation, seed=0
        )
        found = nf.check(model, split, theorems=names, **options)
        assert [one.applies for one in found] == [applies] * 3


def test_the_least_loss_of_a_network_is_only_known_from_above():
    data = nf.data.load("sphere", n=6, targets="sign")
    split = nf.data.partition(data, "iid", clients=2)
    model = nf.models.Pyramid(
        data.x.shape[1], 8, [1], activation="smooth_leaky_relu", seed=0
    )
    options = {"local_steps": 2, "step_size": 0.1}
    watch = [
        nf.observers.loss(model, split),
        nf.observers.local_sgd(model, split, local_steps=2),
    ]
    run = nf.simulate(model, split, rounds=3, observers=watch, **options)
    [found] = nf.check(model, split, run=run, theorems=["qin2022.theorem2"], **options)
    losses = run.rows.loc[run.rows["quantity"] == "loss", "value"]
    gap = found.constants["gap"]
    assert gap.value == pytest.approx(losses.iloc[0], rel=1e-12)
    # f* lies between 0 and the smallest loss that was met.
    assert gap.lower == pytest.approx(losses.iloc[0] - losses.min(), rel=1e-9)
