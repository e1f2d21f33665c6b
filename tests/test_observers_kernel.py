"""Observers of the kernel and of the linearisation, against formed matrices."""

import math

import pytest
import torch
from federations import federation
from networks import Recurrent
from test_observers import outputs, states, values, watched
from torch.testing import assert_close

import ntk_fed as nf
from ntk_fed import curvature, derivatives, fedavg
from ntk_fed.observers.kernelshape import asymmetric_kernel
from ntk_fed.params import flatten, frozen_state, trainable, unflatten

RUN = {"rounds": 6, "local_steps": 3, "step_size": 0.1}


def cosine(a, b):
    return ((a * b).sum() / a.norm() / b.norm()).item()


def flat_jacobian(model, params, x):
    """(n·o, p)."""
    found = nf.jacobian(model, x, params=params)
    return torch.cat([v.flatten(2) for v in found.values()], dim=2).flatten(0, 1)


def flat_function(model, x):
    """Outputs as a function of one vector of parameters."""
    start = trainable(model)

    def function(vector):
        params = unflatten(vector, start)
        return torch.func.functional_call(model, params, (x,)).flatten()

    return function, flatten(start)


@pytest.mark.parametrize("outputs_", [1, 2])
def test_distance_velocity_and_alignment_are_their_formulas(outputs_, seed):
    model, split = federation(seed, outputs_)
    rows = watched(model, split, [nf.observers.kernel_alignment(model, split)])
    data = split.dataset
    grams = [nf.gram(model, data.x, params=p) for p in states(model, split, **RUN)]
    distance = values(rows, "kernel distance")
    velocity = values(rows, "kernel velocity")
    alignment = values(rows, "target alignment")
    assert distance[0] == 0
    assert list(velocity) == list(range(1, 7))
    for t, now in enumerate(grams):
        # 1 - cos rounds by a few eps of 1; the observer's own form does not.
        assert distance[t] == pytest.approx(1 - cosine(grams[0], now), abs=1e-14)
        assert alignment[t] == pytest.approx(cosine(now, data.y @ data.y.T), rel=1e-12)
        if t:
            expected = 1 - cosine(grams[t - 1], now)
            assert velocity[t] == pytest.approx(expected, abs=1e-14)
    assert distance[6] > 1e-5


def test_a_small_distance_keeps_its_digits():
    k = torch.eye(3, dtype=torch.float64)
    other = k.clone()
    other[0, 1] = other[1, 0] = 1e-9
    # ½ angle², the angle being √2·1e-9/√3
    found = nf.observers.kernelshape._distance(k, other, 3)
    assert found == pytest.approx(1e-18 / 3, rel=1e-6, abs=0)
    # a multiple of the kernel is at distance 0 but for the rounding of 3·1e-9
    assert nf.observers.kernelshape._distance(k, 3 * k, 3) == pytest.approx(
        0, abs=1e-16
    )


def test_every_other_round_has_the_same_velocity(seed):
    model, split = federation(seed)
    often, seldom = (
        values(
            watched(
                model, split, [nf.observers.kernel_alignment(model, split, every=k)]
            ),
            "kernel velocity",
        )
        for k in (1, 3)
    )
    assert set(seldom) == {3, 6}
    assert all(seldom[t] == pytest.approx(often[t], rel=1e-9) for t in seldom)


@pytest.mark.parametrize("outputs_", [1, 2])
def test_asymmetry_is_that_of_the_products_of_jacobians(outputs_, seed):
    model, split = federation(seed, outputs_)
    watch = [nf.observers.kernel_asymmetry(model, split)]
    rows = watched(model, split, watch, steps=True)
    run = list(fedavg.rounds(model, split, steps=True, **RUN))
    item = next(i for i in run if isinstance(i, fedavg.LocalStep) and i.round == 2)
    x = torch.cat([split.client(i)[0] for i in range(3)])
    left = flat_jacobian(model, item.start, x)
    right = torch.cat(
        [
            flat_jacobian(model, item.locals.client(i), split.client(i)[0])
            for i in range(3)
        ]
    )
    h = left @ right.T
    expected = ((h - h.T).norm() / h.norm()).item()
    assert expected > 1e-6
    rows = rows[rows["quantity"] == "kernel asymmetry"]
    found = rows[(rows["round"] == 3) & (rows["step"] == 1)]["value"].item()
    assert found == pytest.approx(expected, rel=1e-9)
    ends = rows[rows["step"].isna()]
    assert ends["round"].tolist() == [1, 2, 3, 4, 5, 6]


def test_a_kernel_between_equal_models_is_symmetric(seed):
    model, split = federation(seed, outputs=2)
    moment = next(iter(fedavg.rounds(model, split, **RUN)))
    owner = torch.repeat_interleave(torch.tensor(split.sizes))
    x = torch.cat([split.client(i)[0] for i in range(3)])
    same = asymmetric_kernel(model, x, owner, moment, [moment.start] * 3)
    assert_close(same, nf.gram(model, x, params=moment.start, outputs="full"))
    h = nf.gram_matrix(same)
    assert (h - h.T).norm() < 1e-13 * h.norm()


def test_asymmetry_of_a_sampled_federation_is_over_those_who_take_part(seed):
    model, split = federation(seed)
    watch = [nf.observers.kernel_asymmetry(model, split)]
    options = {**RUN, "participation": 0.67, "seed": 3}
    rows = watched(model, split, watch, **options)
    item = list(fedavg.rounds(model, split, **options))[1]
    assert len(item.clients) == 2
    x = torch.cat([split.client(i)[0] for i in item.clients])
    left = flat_jacobian(model, item.start, x)
    parts = [
        flat_jacobian(model, item.locals.client(j), split.client(i)[0])
        for j, i in enumerate(item.clients)
    ]
    h = left @ torch.cat(parts).T
    expected = ((h - h.T).norm() / h.norm()).item()
    assert values(rows, "kernel asymmetry")[2] == pytest.approx(expected, rel=1e-9)


def test_spectrum_rows_are_those_of_the_eigenvalues(seed):
    model, split = federation(seed, outputs=2, width=40)
    rows = watched(model, split, [nf.observers.kernel_spectrum(model, split)])
    params = states(model, split, **RUN)[3]
    full = nf.gram(model, split.dataset.x, params=params, outputs="full")
    found = torch.linalg.eigvalsh(nf.gram_matrix(full))
    rank = (found.sum() ** 2 / found.square().sum()).item()
    assert values(rows, "effective rank")[3] == pytest.approx(rank, rel=1e-9)
    condition = (found[-1] / found[0]).item()
    row = rows[(rows["quantity"] == "condition number") & (rows["round"] == 3)]
    assert row["value"].item() == pytest.approx(condition, rel=1e-3)
    assert row["status"].item() == "estimate"
    k = torch.arange(1, 21, dtype=torch.float64).log()
    slope = torch.linalg.lstsq(
        torch.stack([torch.ones(20, dtype=torch.float64), k], dim=1),
        found.flip(0).log()[:, None],
    ).solution[1, 0]
    assert values(rows, "spectrum exponent")[3] == pytest.approx(slope.item(), rel=1e-6)


@pytest.mark.parametrize("outputs_", [1, 2])
def test_the_linearisation_gap_against_the_formed_jacobian(outputs_, seed):
    model, split = federation(seed, outputs_)
    test = torch.randn(
        5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    rows = watched(
        model, split, [nf.observers.linearisation_gap(model, split, test=test)]
    )
    path = states(model, split, **RUN)
    for name, x in (("", split.dataset.x), (" (test)", test)):
        found = values(rows, f"linearisation gap{name}")
        assert found[0] == 0
        jacobian = flat_jacobian(model, path[0], x)
        moved = flatten(path[5]) - flatten(path[0])
        line = outputs(model, path[0], x).flatten() + jacobian @ moved
        gap = outputs(model, path[5], x).flatten() - line
        expected = (gap.norm() / line.norm()).item()
        assert found[5] == pytest.approx(expected, rel=1e-9)
        assert expected > 1e-4


def test_a_linear_model_is_its_linearisation(seed):
    _, split = federation(seed)
    model = torch.nn.Linear(4, 1).double()
    rows = watched(model, split, [nf.observers.linearisation_gap(model, split)])
    assert max(values(rows, "linearisation gap").values()) < 1e-14


def test_derivatives_without_forward_mode_agree_with_those_with_it(seed):
    model, split = federation(seed, outputs=2)
    outputs_ = derivatives.outputs_of(model, frozen_state(model), split.dataset.x)
    start = trainable(model)
    direction = {k: torch.cos(v) for k, v in start.items()}
    value, slope = derivatives.along(outputs_, start, direction)
    again, other = derivatives._by_two_vjps(outputs_, start, direction)
    assert_close(again, value)
    assert_close(other, slope)
    expected = flat_jacobian(model, start, split.dataset.x) @ flatten(direction)
    assert_close(slope.flatten(), expected)


def test_a_network_without_forward_derivatives_is_linearised_all_the_same(generator):
    model = Recurrent().double()
    x = torch.randn(3, 6, dtype=torch.float64, generator=generator)
    start = trainable(model)
    now = {k: v + 0.1 * torch.cos(v) for k, v in start.items()}
    function = derivatives.outputs_of(model, frozen_state(model), x)
    found = derivatives.linearised(function, start, now)
    moved = flatten(now) - flatten(start)
    expected = flat_jacobian(model, start, x) @ moved
    assert_close(found.flatten(), outputs(model, start, x).flatten() + expected)


def test_norms_of_second_derivatives_against_formed_hessians(seed):
    model, split = federation(seed, outputs=2, width=3)
    model.first.bias.data += 1  # no gate is near its boundary by accident
    x = split.dataset.x[:4]
    function, vector = flat_function(model, x)
    params = trainable(model)
    outputs_ = derivatives.outputs_of(model, frozen_state(model), x)
    hessians = torch.stack(
        [
            torch.autograd.functional.hessian(lambda v, j=j: function(v)[j], vector)
            for j in range(8)
        ]
    )  # (n·o, p, p)
    direction = torch.sin(torch.arange(len(vector), dtype=torch.float64))
    second = derivatives.second_along(outputs_, params, unflatten(direction, params))
    expected = torch.einsum("jab,a,b->j", hessians, direction, direction)
    assert_close(second.flatten(), expected)
    # The true norm from many starts of a plain alternating search on formed tensors.
    random = torch.Generator().manual_seed(seed)
    best = 0.0
    for _ in range(50):
        v = torch.randn(len(vector), generator=random, dtype=torch.float64)
        for _ in range(60):
            v = v / v.norm()
            z = torch.einsum("jab,a,b->j", hessians, v, v)
            v = torch.einsum("jab,j,b->a", hessians, z, v)
        best = max(best, z.norm().item())
    found = curvature.second_derivative_norm(outputs_, params, iterations=60, rtol=1e-9)
    assert 0.5 * best < found <= best * (1 + 1e-6)  # from below; local maxima allowed
    first = curvature.derivative_norm(outputs_, params, iterations=200, rtol=1e-12)
    truth = torch.linalg.matrix_norm(flat_jacobian(model, params, x), 2).item()
    assert first == pytest.approx(truth, rel=1e-6)
    assert first <= truth * (1 + 1e-12)


def test_smoothness_is_the_norm_of_the_clients_hessian(seed):
    model, split = federation(seed, width=3)
    watch = [nf.observers.smoothness(model, split)]
    rows = watched(model, split, watch, rounds=1)
    found = values(rows, "smoothness", client=None)[0]
    norms = []
    for i in range(3):
        x, y = split.client(i)
        function, vector = flat_function(model, x)

        def loss(v, function=function, x=x, y=y):
            return (function(v) - y.flatten()).square().sum() / 2 / len(x)

        hessian = torch.autograd.functional.hessian(loss, vector)
        norms.append(torch.linalg.matrix_norm(hessian, 2).item())
        own = values(rows, "smoothness", client=i)[0]
        assert own == pytest.approx(norms[-1], rel=1e-10)  # formed: rounding alone
    assert found == pytest.approx(max(norms), rel=1e-10)
    assert set(rows["status"]) == {"estimate"}


def test_kappa_is_its_formula_and_zero_for_a_linear_model(seed):
    model, split = federation(seed, outputs=2, width=6)
    rows = watched(model, split, [nf.observers.chizat_kappa(model, split)], rounds=2)
    data, path = split.dataset, states(model, split, **{**RUN, "rounds": 2})
    outputs_ = derivatives.outputs_of(model, frozen_state(model), data.x)
    residual = (outputs(model, path[2], data.x) - data.y).norm().item()
    first = torch.linalg.matrix_norm(flat_jacobian(model, path[2], data.x), 2).item()
    second = curvature.second_derivative_norm(outputs_, path[2])
    found = values(rows, "kappa (Chizat, recalled)")[2]
    assert found == pytest.approx(residual * second / first**2, rel=1e-2)
    assert found > 0
    linear = torch.nn.Linear(4, 2).double()
    rows = watched(linear, split, [nf.observers.chizat_kappa(linear, split)])
    assert set(values(rows, "kappa (Chizat, recalled)").values()) == {0.0}


def test_a_wider_network_is_lazier_by_every_measure():
    """Negative control of the three measures of laziness: all fall with the width."""
    data = nf.data.load("digits", n=30, targets="sign")
    split = nf.data.partition(data, "shards", clients=3)
    found = []
    for width in (32, 2048):
        model = nf.models.MLP([64, width, 1], seed=0)
        watch = [
            nf.observers.linearisation_gap(model, split),
            nf.observers.kernel_alignment(model, split),
            nf.observers.chizat_kappa(model, split),
            nf.observers.kernel_asymmetry(model, split),
        ]
        rows = watched(model, split, watch, rounds=3, step_size=1.0)
        found.append(
            [
                values(rows, quantity)[3]
                for quantity in (
                    "linearisation gap",
                    "kernel distance",
                    "kappa (Chizat, recalled)",
                    "kernel asymmetry",
                )
            ]
        )
    assert all(wide < 0.5 * narrow for narrow, wide in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("factory", "quantity"),
    [
        (nf.observers.kernel_alignment, "target alignment"),
        (nf.observers.kernel_alignment, "kernel distance"),
        (nf.observers.kernel_asymmetry, "kernel asymmetry"),
        (nf.observers.linearisation_gap, "linearisation gap"),
    ],
)
def test_a_subset_estimates_the_whole_within_its_error(factory, quantity):
    """24 of 60 samples, 30 draws: 95 % intervals hold the whole's number.

    Tanh, so that no few samples decide (see subsample.function_of). At a coverage of
    only 0.9 fewer than 21 of 30 have a probability below 1e-3.
    """
    data = nf.data.load("sphere", n=60, targets="sign")
    split = nf.data.partition(data, "iid", clients=3)
    model = nf.models.MLP([16, 24, 1], activation="tanh", seed=0)
    run = {**RUN, "rounds": 2, "step_size": 0.5}
    watch = [factory(model, split)]
    watch += [factory(model, split, samples=24, seed=s) for s in range(30)]
    (_, last) = fedavg.rounds(model, split, **run)
    rows = [[r for r in w(last) if r.quantity == quantity][-1] for w in watch]
    truth, *found = rows
    assert truth.status is None
    assert truth.lower is None
    inside = sum(r.lower <= truth.value <= r.upper for r in found)
    assert inside >= 21
    assert {r.status for r in found} == {"estimate"}
    assert len({r.value for r in found}) == 30
    mean = sum(r.value for r in found) / 30
    error = sum(r.upper - r.lower for r in found) / 30  # 3.9 standard errors of one
    assert abs(mean - truth.value) < error / 3.9  # 5.5 standard errors of the mean
    assert all(math.isfinite(r.upper) for r in found)
