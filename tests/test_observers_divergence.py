"""Observers at the ends of what floats hold: converged runs, and diverging ones."""

import dataclasses
import math

import pytest
import torch
from pyramids import certified

import ntk_fed as nf
from ntk_fed import fedavg


def watched(model, split, observers, **options):
    return nf.simulate(model, split, observers=observers, **options).rows


def dense(*shape, seed, dtype=torch.float64):
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draws, dtype=torch.float64).to(dtype)


def over_its_bound(model, split, rounds, **options):
    """Rows "P-norm over its bound" of a run, and the rate."""
    theta = nf.gram_matrix(nf.gram(model, split.dataset.x, outputs="full"))
    kernel = nf.federated_kernel(theta.double(), split, **options)
    watch = nf.observers.contraction(model, split, kernel=kernel)
    rows = watched(model, split, [watch], rounds=rounds, **options)
    return rows[rows["quantity"] == "P-norm over its bound"], kernel


def test_a_residual_at_its_rounding_contradicts_no_rate():
    # 0.57^1400 is below the smallest float; the residual ends at its rounding.
    model = nf.models.Linear(30)
    data = nf.data.Dataset(dense(4, 30, seed=3), dense(4, 1, seed=4))
    split = nf.data.Partition(data, list(torch.arange(4).split(2)))
    found, kernel = over_its_bound(model, split, 1400, local_steps=1, step_size=0.12)
    assert 0.56 < kernel.rate < 0.57
    assert kernel.rate**1400 == 0.0
    assert (found["lower"] <= 1).all()
    assert found["lower"].iloc[-1] == 0.0
    assert found["upper"].iloc[-1] == math.inf
    # Up to round 25 the bound, 0.57^25 = 8e-7, is far above rounding: it is decided.
    assert (found["upper"].iloc[:25] <= 1).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_floor_of_a_residual_is_that_of_the_runs_precision(dtype):
    rows = torch.linalg.qr(dense(30, 4, seed=0))[0].T[:2].contiguous().to(dtype)
    data = nf.data.Dataset(rows, dense(2, 1, seed=3, dtype=dtype))
    split = nf.data.Partition(data, list(torch.arange(2).split(1)))
    model = nf.models.Linear(30, initial="normal", dtype=dtype)
    options = {"local_steps": 1, "step_size": 0.15}
    found, kernel = over_its_bound(model, split, 400, **options)
    assert kernel.rate == pytest.approx(0.925, rel=1e-6)  # 1 − 0.15/2
    # Orthonormal rows: the ratio is 1 in every round, as far as it can be told.
    assert (found["lower"] <= 1).all()
    assert (found["upper"] >= 1).all()
    # eps·400·(size of the run over its residual, below 100) stays below 1 % of
    # 0.925^40 = 0.04 in float32, and of 0.925^250 = 3e-9 in float64.
    told = 250 if dtype == torch.float64 else 40
    assert found["upper"].iloc[:told].max() < 1.01
    assert found["lower"].iloc[:told].min() > 0.99


def test_a_residual_that_outgrows_its_bound_is_seen_beyond_the_floats():
    # The rate of a large step against a run whose step is so small that nothing
    # moves: 0.5^1200 underflows, and the residual is as at the start.
    model, split = nf.models.Linear(1), federation_of_one()
    kernel = nf.federated_kernel(
        nf.gram(model, split.dataset.x), split, local_steps=1, step_size=0.5
    )
    assert kernel.rate == pytest.approx(0.5, rel=1e-12)
    watch = nf.observers.contraction(model, split, kernel=kernel, every=1200)
    options = {"rounds": 1200, "local_steps": 1, "step_size": 1e-12}
    rows = watched(model, split, [watch], **options)
    found = rows[rows["quantity"] == "P-norm over its bound"].iloc[-1]
    assert found["value"] == found["upper"] == math.inf
    assert found["lower"] == torch.finfo(torch.float64).max


def federation_of_one():
    one = torch.ones(1, 1, dtype=torch.float64)
    return nf.data.Partition(nf.data.Dataset(one, one), [torch.tensor([0])])


def on_the_sphere(n, d):
    x = dense(n, d, seed=0)
    data = nf.data.Dataset(x / x.norm(dim=1, keepdim=True), dense(n, 1, seed=2))
    return nf.data.Partition(data, list(torch.arange(n).split([2, n - 2])))


def linear_contraction(split, options):
    model = nf.models.Linear(5)
    theta = nf.gram(model, split.dataset.x)
    kernel = nf.federated_kernel(theta, split, **options)
    return model, nf.observers.contraction(model, split, kernel=kernel)


def linear_semi_smoothness(split, options):
    model = nf.models.Linear(5)
    return model, nf.observers.semi_smoothness(model, split)


def kernel_of_a_pyramid(split, options):
    model = certified(5, 8, [4, 1], 0, 1.0)
    return model, nf.observers.kernel(model, split)


@pytest.mark.parametrize(
    ("make", "step_size", "quantity"),
    [
        (linear_contraction, 50.0, "P-norm over its bound"),
        (linear_semi_smoothness, 50.0, "semi-smoothness excess"),
        (kernel_of_a_pyramid, 5.0, "kernel displacement"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*(diverged|left the range):RuntimeWarning")
def test_an_observer_lets_a_diverging_run_end(make, step_size, quantity):
    split = on_the_sphere(6, 5)
    options = {"local_steps": 1 if step_size < 50 else 3, "step_size": step_size}
    model, watch = make(split, options)
    found = nf.simulate(model, split, rounds=300, observers=[watch], **options)
    alone = nf.simulate(model, split, rounds=300, **options)
    assert (found.status, found.rounds) == (alone.status, alone.rounds)
    assert found.status == "diverged"
    for name, value in alone.params.items():
        assert torch.equal(found.params[name], value)
    rows = found.rows[found.rows["quantity"] == quantity]
    unknown = rows[rows["upper"] == math.inf]
    assert 0 < len(unknown) < len(rows)
    assert (unknown["lower"] <= 0).all()
    assert rows["round"].max() == alone.rounds


@pytest.mark.filterwarnings("ignore:.*diverged:RuntimeWarning")
def test_dependent_columns_of_a_representation_have_no_distance():
    model = nf.models.SharedRepresentation(5, 2, step_size=0.1)
    split, truth = on_the_sphere(6, 5), dense(5, 2, seed=5)
    watch = nf.observers.subspace(model, split, truth=truth)
    moment = next(
        iter(fedavg.rounds(model, split, rounds=1, local_steps=1, step_size=0.1))
    )
    column = torch.ones(5, 1, dtype=torch.float64)
    flat = moment.params | {"representation": column.expand(5, 2)}
    before, after = watch(dataclasses.replace(moment, params=flat))
    assert 0 < before.value <= 1
    assert math.isnan(after.value)
    with pytest.raises(ValueError, match="dependent"):
        nf.observers.subspace(model, split, truth=column.expand(5, 2))
