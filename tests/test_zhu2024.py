"""Zhu et al.: where Local GD converges to, and how fast, against real runs."""

import numpy as np
import pytest
import torch

import ntk_fed as nf
from ntk_fed.errors import ShapeMismatchError
from ntk_fed.theory import zhu2024

SIZES = (3, 1, 4)  # samples of the clients
D = 14


def clients(seed, d=D):
    random = np.random.default_rng(seed)
    return [random.standard_normal((n, d)) for n in SIZES], random


def largest_step(xs):
    """1 over the largest curvature of a client."""
    return 1 / max(np.linalg.norm(x, 2) ** 2 / len(x) for x in xs)


def models(xs, ys, w0, *, weights, **options):
    """The models of a run after 0, 1, … rounds, by the package's own rounds."""
    x, y = (torch.from_numpy(np.concatenate(list(part))) for part in (xs, ys))
    held = torch.arange(len(x)).split([len(one) for one in xs])
    split = nf.data.Partition(nf.data.Dataset(x, y[:, None]), list(held))
    model = nf.models.Linear(x.shape[1])
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(w0)[None])
    run = nf.fedavg.rounds(model, split, weights=weights, **options)
    return np.array([w0] + [item.params["weight"].numpy()[0] for item in run])


def shares(weights):
    sizes = np.array(SIZES, float)
    return sizes / sizes.sum() if weights == "samples" else np.full(3, 1 / 3)


@pytest.mark.parametrize("local_steps", [1, 5, 50, 500])
@pytest.mark.parametrize("weights", ["samples", "uniform"])
def test_the_limit_and_the_rate_hold_for_every_number_of_steps(
    local_steps, weights, seed
):
    xs, random = clients(seed)
    truth, w0 = random.standard_normal((2, D))
    ys = [x @ truth for x in xs]
    eta = largest_step(xs)
    options = {"step_size": eta, "local_steps": local_steps}
    factor = zhu2024.rate(xs, weights=shares(weights), **options)
    rounds = int(np.ceil(np.log(1e-13) / np.log(factor))) + 1
    run = models(xs, ys, w0, weights=weights, rounds=rounds, **options)
    aim = zhu2024.limit(xs, ys, w0)
    gaps = np.linalg.norm(run - aim, axis=1)
    assert gaps[-1] < 1e-10
    slack = 1e-12 * gaps[0]  # what rounding leaves at the end
    assert (gaps[1:] <= factor * gaps[:-1] + slack).all()
    theta = zhu2024.theta(xs, weights=shares(weights), **options)
    assert factor == pytest.approx(1 - theta)
    # From zero it is the least-norm solution.
    pooled = np.concatenate(xs)
    least = np.linalg.pinv(pooled) @ np.concatenate(ys)
    np.testing.assert_allclose(zhu2024.limit(xs, ys, 0 * w0), least, atol=1e-12)


def test_a_smaller_factor_is_broken(seed):
    """The rate is no loose bound: the slowest direction shrinks by it exactly."""
    xs, _ = clients(seed)
    options = {"step_size": largest_step(xs), "local_steps": 5}
    weights = shares("samples")
    factor = zhu2024.rate(xs, weights=weights, **options)
    total = np.zeros((D, D))
    for x, weight in zip(xs, weights, strict=True):
        step = np.eye(D) - options["step_size"] / len(x) * x.T @ x
        total += weight * (np.eye(D) - np.linalg.matrix_power(step, 5))
    values, vectors = np.linalg.eigh(total)
    slow = vectors[:, values > 1e-9][:, 0]
    ys = [x @ slow for x in xs]
    run = models(xs, ys, np.zeros(D), weights="samples", rounds=1, **options)
    gap = np.linalg.norm(run[1] - slow) / np.linalg.norm(run[0] - slow)
    assert gap == pytest.approx(factor, rel=1e-10)


def test_theta_does_not_fall_with_more_local_steps(seed):
    xs, _ = clients(seed)
    eta, weights = largest_step(xs), shares("samples")
    found = [
        zhu2024.theta(xs, step_size=eta, local_steps=k, weights=weights)
        for k in (1, 2, 5, 20, 1000)
    ]
    assert (np.diff(found) >= -1e-14).all()
    # With many steps each client's progress is the projector on its samples.
    projectors = [np.linalg.pinv(x) @ x for x in xs]
    mean = sum(w * p for w, p in zip(weights, projectors, strict=True))
    smallest = np.linalg.eigvalsh(mean)
    assert found[-1] <= smallest[smallest > 1e-9][0] * (1 + 1e-9)


def test_its_spectrum_is_that_of_the_federated_kernel(seed):
    """Section 8's P^½ΘP^½ is the same operator seen from the samples."""
    xs, _ = clients(seed)
    x = torch.from_numpy(np.concatenate(xs))
    held = torch.arange(len(x)).split([len(one) for one in xs])
    y = torch.zeros(len(x), 1, dtype=torch.float64)
    split = nf.data.Partition(nf.data.Dataset(x, y), list(held))
    options = {"step_size": largest_step(xs), "local_steps": 7}
    kernel = nf.federated_kernel(x @ x.T, split, **options)
    found = zhu2024.eigenvalues(xs, weights=shares("samples"), **options)
    expected = np.sort(kernel.eigenvalues.numpy())[-len(found) :]
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_steps_too_large_diverge(seed):
    xs, random = clients(seed)
    w0 = random.standard_normal(D)
    ys = [np.zeros(len(x)) for x in xs]
    options = {"step_size": 4 * largest_step(xs), "local_steps": 3}
    assert zhu2024.rate(xs, weights=shares("samples"), **options) > 1
    run = models(xs, ys, w0, weights="samples", rounds=30, **options)
    assert np.linalg.norm(run[-1]) > 10 * np.linalg.norm(run[0])


def test_with_fewer_parameters_than_samples_the_limit_depends_on_the_steps(seed):
    """The negative control: no model fits, and centralised GD ends elsewhere."""
    xs, random = clients(seed, d=2)
    ys = [random.standard_normal(len(x)) for x in xs]
    eta = largest_step(xs)
    ends = [
        models(xs, ys, np.zeros(2), weights="samples", rounds=3000, step_size=eta,
               local_steps=k)[-1]
        for k in (1, 50)
    ]  # fmt: skip
    least = np.linalg.lstsq(np.concatenate(xs), np.concatenate(ys), rcond=None)[0]
    np.testing.assert_allclose(ends[0], least, atol=1e-9)
    assert np.linalg.norm(ends[1] - least) > 1e-2


def test_shapes_that_do_not_match_are_refused():
    with pytest.raises(ShapeMismatchError, match="one weight per client"):
        zhu2024.theta(
            [np.ones((2, 3))], step_size=0.1, local_steps=1, weights=np.ones(2)
        )
