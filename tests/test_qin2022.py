"""Qin et al. (2022): instances against direct runs, bounds on random problems."""

import itertools
import math

import numpy as np
import pytest

from ntk_fed.errors import NonFiniteError
from ntk_fed.theory import qin2022


def local_descent(hessians, x, step_size, local_steps, rounds):
    """Averages of the clients at every local step, ``(T + 1, d)``; minimiser 0."""
    averages = [x]
    for _ in range(rounds):
        own = np.broadcast_to(x, (len(hessians), len(x)))
        for _ in range(local_steps):
            own = own - step_size * np.einsum("cij,cj->ci", hessians, own)
            averages.append(own.mean(axis=0))
        x = averages[-1]
    return np.array(averages)


def quadratics(random, clients, d, lowest=0.0):
    """Symmetric positive definite, badly conditioned, unlike each other."""
    found = []
    for _ in range(clients):
        q = np.linalg.qr(random.standard_normal((d, d)))[0]
        found.append(q * (lowest + random.random(d) ** 4 + 1e-6) @ q.T)
    return np.array([(h + h.T) / 2 for h in found])


@pytest.fixture
def random(seed):
    return np.random.default_rng(seed)


STEPS = list(itertools.product([1, 2, 5, 20], [1, 3, 10], [0.1, 0.5, 1.0]))


@pytest.mark.parametrize(("local_steps", "rounds", "step_size"), STEPS)
def test_instances_are_what_local_descent_does(local_steps, rounds, step_size):
    smoothness = 3.0
    eta = step_size / smoothness
    one = np.zeros((4 * rounds, 1, 1))
    one[0] = smoothness
    two = np.array([[[smoothness]], [[-smoothness / 2]]])
    for function, hessians in (
        (qin2022.proposition1, one),
        (qin2022.proposition2, two),
    ):
        run = local_descent(hessians, np.ones(1), eta, local_steps, rounds)
        found = function(smoothness, local_steps, rounds, eta)
        # Products of at most 200 factors near 1, each rounded.
        np.testing.assert_allclose(found, run[::local_steps, 0], rtol=1e-12)


@pytest.mark.parametrize(("local_steps", "rounds", "step_size"), STEPS)
def test_the_first_instance_keeps_its_gap(local_steps, rounds, step_size):
    model = qin2022.proposition1(2.0, local_steps, rounds, step_size / 2)
    gap = qin2022.proposition1_gap(2.0, rounds, model)
    clients = 4 * rounds
    assert gap[-1] == pytest.approx(2.0 / 2 * model[-1] ** 2 / clients)
    assert gap[-1] >= qin2022.proposition1_bound(2.0, local_steps, rounds)


def test_a_larger_bound_would_be_broken():
    """The constant is not idle: 9/8 of it fails for full steps and many rounds."""
    model = qin2022.proposition1(1.0, 5, 1000, 1.0)
    gap = qin2022.proposition1_gap(1.0, 1000, model)[-1]
    assert gap < 1.3 * qin2022.proposition1_bound(1.0, 5, 1000)


@pytest.mark.parametrize(
    ("local_steps", "expected"),
    [(2, 1.60), (3, 1.34), (5, 1.164), (10, 1.055), (20, 1.007), (100, 0.971)],
)
def test_the_second_instance_diverges_from_there_on(local_steps, expected):
    found = qin2022.instability(local_steps)
    assert found == pytest.approx(expected, abs=5e-3)
    for side, relation in ((0.999, np.less), (1.001, np.greater)):
        eta = side * found / local_steps
        assert relation(qin2022.proposition2_factor(1.0, local_steps, eta), 1.0)


def test_the_threshold_falls_to_the_golden_ratio():
    golden = (1 + math.sqrt(5)) / 2
    assert qin2022.instability(10**6) == pytest.approx(2 * math.log(golden), rel=1e-5)


def test_the_slips_are_what_the_instance_says():
    """L = 1: mean curvature, growth and the bound, from the two clients themselves."""
    curvatures = np.array([1.0, -0.5])
    assert curvatures.mean() / 2 == 1 / 8
    assert (curvatures**2).max() / curvatures.mean() ** 2 == 16
    assert any("L/8" in slip for slip in qin2022.SLIPS)
    assert any("16, not 2" in slip for slip in qin2022.SLIPS)


def test_similarity_is_its_definition(random):
    """No choice of the clients' points goes below it, and one reaches it."""
    for _ in range(50):
        c, d = random.integers(2, 5), random.integers(1, 4)
        h = quadratics(random, c, d, lowest=0.01)
        s = qin2022.similarity(h)
        mean = h.mean(axis=0)
        for _ in range(20):
            x = random.standard_normal((c, d))
            left = np.einsum("ci,cij,cj->", x, h, x) / c
            middle = x.mean(axis=0)
            assert left >= s * (middle @ mean @ middle) * (1 - 1e-9)
        parallel = np.linalg.inv(np.mean([np.linalg.inv(one) for one in h], axis=0))
        values, vectors = np.linalg.eig(np.linalg.solve(mean, parallel))
        middle = vectors[:, values.real.argmin()].real
        x = np.array([np.linalg.solve(one, parallel @ middle) for one in h])
        left = np.einsum("ci,cij,cj->", x, h, x) / c
        assert left == pytest.approx(s * (middle @ mean @ middle), rel=1e-6)


def test_similarity_of_known_clients():
    alike = np.stack([np.diag([1.0, 2.0])] * 3)
    assert qin2022.similarity(alike) == pytest.approx(1.0)
    # Curvatures a, b in one dimension: the harmonic mean over the mean.
    assert qin2022.similarity(np.array([[[1.0]], [[3.0]]])) == pytest.approx(1.5 / 2)
    # One flat where the other is not: 0, where a pseudo-inverse would say otherwise.
    flat = np.array([np.diag([1.0, 0.0]), np.diag([1.0, 1.0])])
    assert qin2022.similarity(flat) == 0.0
    # Flat together: that direction does not count.
    together = np.array([np.diag([1.0, 0.0]), np.diag([3.0, 0.0])])
    assert qin2022.similarity(together) == pytest.approx(0.75)
    assert qin2022.similarity(np.zeros((2, 3, 3))) == 1.0


@pytest.mark.parametrize(
    ("hessians", "error", "words"),
    [
        (np.full((1, 1, 1), np.nan), NonFiniteError, "NaN"),
        (np.array([[[1.0, 2.0], [0.0, 1.0]]]), ValueError, "symmetric"),
        (np.array([[[-1.0]]]), ValueError, "positive semi-definite"),
    ],
)
def test_bad_hessians_are_refused(hessians, error, words):
    with pytest.raises(error, match=words):
        qin2022.similarity(hessians)


def worst(random, problems, check):
    """The largest left side over right side of a theorem on random problems."""
    found = 0.0
    for _ in range(problems):
        c, d = int(random.integers(2, 6)), int(random.integers(1, 5))
        local_steps, rounds = int(random.integers(2, 8)), int(random.integers(1, 6))
        x = random.standard_normal(d)
        found = max(found, check(c, d, local_steps, rounds, x))
    return found


def test_theorem_1_is_never_violated(random):
    """1,000 random quadratics with one minimiser, s exact, the largest step allowed."""

    def check(c, d, local_steps, rounds, x, factor=1.0):
        h = quadratics(random, c, d)
        eta = factor / (2 * max(np.linalg.eigvalsh(one)[-1] for one in h))
        s = qin2022.similarity(h)
        run = local_descent(h, x, eta, local_steps, rounds)[:-1]
        middle = qin2022.theorem1_weights(local_steps, rounds, s) @ run
        gap = middle @ h.mean(axis=0) @ middle / 2
        distance = float(np.linalg.norm(x))
        return gap / qin2022.theorem1_bound(distance, eta, local_steps, rounds, s)

    assert worst(random, 1000, check) <= 1.0
    # Far beyond the step size it asks for the same test fails: it can.
    assert worst(random, 200, lambda *a: check(*a, factor=8.0)) > 1.0


def test_theorem_2_is_never_violated(random):
    """Growth and smoothness of one-dimensional clients are exact: no sign is asked."""

    def check(c, d, local_steps, rounds, x, factor=1.0):
        a = random.random(c) * 2 - 0.3
        mean = a.mean()
        if mean < 0.05:  # no minimum, or growth without bound
            return 0.0
        smoothness, growth = np.abs(a).max(), (a**2).max() / mean**2
        eta = factor * qin2022.theorem2_step_size(smoothness, growth, local_steps)
        run = local_descent(a[:, None, None], x[:1], eta, local_steps, rounds)[:-1, 0]
        least = np.min((mean * run) ** 2)
        gap = mean * x[0] ** 2 / 2
        return least / qin2022.theorem2_bound(gap, eta, local_steps, rounds)

    assert worst(random, 1000, check) <= 1.0


def test_theorem_3_is_never_violated(random):
    def check(c, d, local_steps, rounds, x):
        h = quadratics(random, c, d, lowest=0.05)
        values = np.array([np.linalg.eigvalsh(one) for one in h])
        eta, mu = 1 / values.max(), values.min()
        last = local_descent(h, x, eta, local_steps, rounds)[-1]
        distance = float(np.linalg.norm(x))
        bound = qin2022.theorem3_bound(distance, eta, mu, local_steps, rounds)
        # Where all curvatures are alike a single step ends at the minimiser: 0 of 0.
        return last @ last / bound if bound > 1e-25 else 0.0

    assert worst(random, 1000, check) <= 1.0


def test_theorem_3_fails_with_more_convexity_than_there_is():
    """(1 − 0.1)² is 0.81 a step: above 1 − 0.25, below the 1 − 0.1 that is promised."""
    last = local_descent(np.ones((3, 1, 1)), np.ones(1), 0.1, 4, 5)[-1, 0] ** 2
    assert last <= qin2022.theorem3_bound(1.0, 0.1, 1.0, 4, 5)
    assert last > qin2022.theorem3_bound(1.0, 0.1, 2.5, 4, 5)
    with pytest.raises(ValueError, match="at most 1/L"):
        qin2022.theorem3_bound(1.0, 0.5, 3.0, 4, 5)


def test_whole_numbers_are_asked_for():
    with pytest.raises(ValueError, match="local_steps must be a whole number"):
        qin2022.proposition1(1.0, 0, 3, 0.1)
    with pytest.raises(ValueError, match="rounds must be a whole number"):
        qin2022.proposition2(1.0, 2, 0, 0.1)
    with pytest.raises(ValueError, match="at least 2"):
        qin2022.instability(1)
