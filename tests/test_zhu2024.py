"""Zhu et al.: where Local GD converges to, and how fast, against real runs."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from sklearn.svm import SVC

import ntk_fed as nf
from ntk_fed.errors import NonFiniteError, ShapeMismatchError, UnknownNameError
from ntk_fed.measured import Enclosure, Verdict, exact
from ntk_fed.theory import zhu2024

SIZES = (3, 1, 4)  # samples of the clients
D = 14
WEIGHTS = {"samples": np.array(SIZES) / sum(SIZES), "uniform": np.full(3, 1 / 3)}


@pytest.fixture
def random(seed):
    return np.random.default_rng(seed)


def clients(random, d=D):
    return [random.standard_normal((n, d)) for n in SIZES]


def stable(xs):
    """1 over the largest curvature of a client."""
    return 1 / zhu2024.largest_step(xs, step_size=1.0)


def local_descent(xs, ys, w0, *, step_size, local_steps, weights, rounds):
    """The models after 0, 1, … rounds, step by step, all clients at once.

    ``w0`` may hold several starts, ``(d, s)``.
    """
    h = np.array([x.T @ x / len(x) for x in xs])
    g = np.array([x.T @ y / len(x) for x, y in zip(xs, ys, strict=True)])[:, :, None]
    found = [w0.reshape(len(w0), -1)]
    for _ in range(rounds):
        own = np.broadcast_to(found[-1], (len(g), *found[-1].shape))
        for _ in range(local_steps):
            own = own - step_size * (h @ own - g)
        found.append(np.tensordot(weights, own, axes=1))
    return np.array(found).reshape(-1, *w0.shape)


def split_of(xs, ys):
    x, y = (torch.from_numpy(np.concatenate(list(part))) for part in (xs, ys))
    held = torch.arange(len(x)).split([len(one) for one in xs])
    return nf.data.Partition(nf.data.Dataset(x, y[:, None]), list(held))


def network_run(xs, ys, w0, **options):
    """The models of a run after 0, 1, … rounds, by the package's own rounds."""
    model = nf.models.Linear(xs[0].shape[1])
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(w0)[None])
    run = nf.fedavg.rounds(model, split_of(xs, ys), **options)
    return np.array([w0] + [item.params["weight"].numpy()[0] for item in run])


@pytest.mark.parametrize("local_steps", [1, 5, 50, 500])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_the_limit_and_the_rate_hold_for_every_number_of_steps(
    local_steps, weights, random
):
    xs = clients(random)
    truth = random.standard_normal(D)
    ys = [x @ truth for x in xs]
    shares = {"weights": WEIGHTS[weights]}
    options = {"step_size": 0.9 * stable(xs), "local_steps": local_steps}
    theta = zhu2024.theta(xs, **shares, **options)
    assert zhu2024.rate(xs, **shares, **options) == pytest.approx(1 - theta, rel=1e-12)
    rounds = math.ceil(math.log(1e-12) / math.log1p(-theta))
    w0 = random.standard_normal(D)
    starts = np.stack([np.zeros(D), w0], axis=1)  # (d, 2)
    run = local_descent(xs, ys, starts, **shares, **options, rounds=rounds)
    least_norm = np.linalg.pinv(np.concatenate(xs)) @ np.concatenate(ys)
    np.testing.assert_allclose(run[-1, :, 0], least_norm, rtol=0, atol=1e-10)
    aims = np.stack([zhu2024.limit(xs, ys, start) for start in starts.T], axis=1)
    np.testing.assert_allclose(aims[:, 0], least_norm, rtol=0, atol=1e-12)
    # From elsewhere what the samples do not see stays.
    np.testing.assert_allclose(run[-1, :, 1], aims[:, 1], rtol=0, atol=1e-10)
    assert np.linalg.norm(aims[:, 1] - aims[:, 0]) > 0.1
    for gaps in np.linalg.norm(run - aims, axis=1).T:
        bound = zhu2024.distance_bound(gaps[0], theta, np.arange(rounds + 1))
        # Each round rounds by some 100 eps of the model, of which 1 − θ stays, each
        # local step by another where no sample looks, which stays whole.
        size = 2.2e-16 * np.linalg.norm(run, axis=1).max()
        slack = size * (100 / theta + local_steps * np.arange(rounds + 1.0))
        assert (gaps <= bound * (1 + 1e-12) + slack).all()


def test_runs_of_the_network_are_those(random):
    """Once by ``rounds`` and Linear; clients' inputs as tensors."""
    d = 200  # samples nearly orthogonal: a hundred rounds do
    xs, truth, w0 = clients(random, d), *random.standard_normal((2, d))
    ys = [x @ truth for x in xs]
    options = {"step_size": 0.9 * stable(xs), "local_steps": 5}
    weights = WEIGHTS["samples"]
    theta = zhu2024.theta(xs, weights=weights, **options)
    assert zhu2024.theta(xs, weights="samples", **options) == theta
    options["rounds"] = math.ceil(math.log(1e-13) / math.log1p(-theta))
    run = network_run(xs, ys, w0, **options)
    expected = local_descent(xs, ys, w0, weights=weights, **options)
    np.testing.assert_allclose(run, expected, rtol=0, atol=1e-12)
    tensors = [[torch.from_numpy(one) for one in part] for part in (xs, ys, [w0])]
    aim = zhu2024.limit(*tensors[:2], tensors[2][0])
    np.testing.assert_allclose(run[-1], aim, rtol=0, atol=1e-10)
    del options["rounds"]
    again = zhu2024.theta(tensors[0], weights=torch.from_numpy(weights), **options)
    assert again == theta


def test_a_smaller_factor_is_broken(random):
    """The rate is no loose bound: the slowest direction shrinks by it exactly."""
    xs = clients(random)
    options = {"step_size": 0.9 * stable(xs), "local_steps": 5}
    weights = WEIGHTS["samples"]
    total = np.zeros((D, D))
    for x, weight in zip(xs, weights, strict=True):
        step = np.eye(D) - options["step_size"] / len(x) * x.T @ x
        total += weight * (np.eye(D) - np.linalg.matrix_power(step, 5))
    values, vectors = np.linalg.eigh(total)
    slow = vectors[:, values > 1e-9][:, 0]
    ys = [x @ slow for x in xs]
    run = local_descent(xs, ys, np.zeros(D), weights=weights, rounds=1, **options)
    gap = np.linalg.norm(run[1] - slow) / np.linalg.norm(run[0] - slow)
    theta = zhu2024.theta(xs, weights=weights, **options)
    assert gap == pytest.approx(1 - theta, rel=1e-12)


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=list(WEIGHTS))
def test_theta_rises_with_the_local_steps_to_its_limit(weights, random):
    xs = clients(random)
    found = [
        zhu2024.theta(xs, step_size=stable(xs), local_steps=k, weights=weights)
        for k in (1, 2, 5, 20, 1000, 10**7)
    ]
    last = zhu2024.theta_limit(xs, weights=weights)
    assert (np.diff(found) >= -1e-14).all()
    assert found[0] < 0.9 * last  # there is something to rise by
    assert found[-1] == pytest.approx(last, rel=1e-9)
    # By its definition, the mean of the projectors.
    projectors = [np.linalg.pinv(x) @ x for x in xs]
    mean = sum(w * p for w, p in zip(weights, projectors, strict=True))
    smallest = np.linalg.eigvalsh(mean)
    assert last == pytest.approx(smallest[smallest > 1e-9][0], rel=1e-9)


def test_one_client_with_orthonormal_samples_by_hand():
    """Curvature 1/2 each: after K steps of size 1 a gap is closed but for 2^-K."""
    xs = [np.eye(4)[:2]]
    one = {"step_size": 1.0, "weights": [1.0]}
    assert zhu2024.theta(xs, local_steps=3, **one) == pytest.approx(7 / 8)
    assert zhu2024.largest_step(xs, step_size=1.0) == pytest.approx(0.5)
    # A million steps of 1e-12: 1 − (1 − x)^K by its first two terms, x = 5e-13.
    tiny = zhu2024.theta(xs, step_size=1e-12, local_steps=10**6, weights=[1.0])
    assert tiny == pytest.approx(5e-7 - 1.25e-13, rel=1e-12, abs=0)
    # At a step of 5, x = 5/2: every step multiplies the gap by −3/2.
    big = {"step_size": 5.0, "weights": [1.0]}
    assert zhu2024.rate(xs, local_steps=3, **big) == pytest.approx(27 / 8)
    # Two clients of one sample each, orthogonal: half of what each alone closes.
    two = [np.eye(4)[:1], np.eye(4)[1:2]]
    both = {"step_size": 0.5, "weights": [0.5, 0.5]}
    assert zhu2024.theta(two, local_steps=2, **both) == pytest.approx(3 / 8)
    assert zhu2024.theta_limit(two, weights=[0.5, 0.5]) == pytest.approx(0.5)
    # Samples of weight 0 do not count, nor does a client without any.
    more = [*two, np.eye(4)[2:], np.ones((0, 4))]
    weights = [0.5, 0.5, 0.0, 0.0]
    assert zhu2024.theta(
        more, step_size=0.5, local_steps=2, weights=weights
    ) == pytest.approx(3 / 8)
    assert zhu2024.limit(xs, [np.array([2.0, 3.0])], np.ones(4)) == pytest.approx(
        np.array([2.0, 3.0, 1.0, 1.0])
    )


def test_small_formulas_by_hand():
    # 3 (1 − ½)^t.
    found = zhu2024.distance_bound(3.0, 0.5, np.array([0, 1, 3]))
    assert found.tolist() == [3.0, 1.5, 0.375]
    # ‖X‖² / n of three clients: 4/2, 1/1 and none; the last has no samples.
    xs = [np.diag([2.0, 1.0]), np.eye(2)[:1], np.ones((0, 2))]
    assert zhu2024.largest_step(xs, step_size=0.25) == pytest.approx(0.5)
    assert zhu2024.largest_step(xs[2:], step_size=0.25) == 0.0
    assert zhu2024.shares(xs, "samples").tolist() == [2 / 3, 1 / 3, 0.0]
    assert zhu2024.shares(xs, "uniform").tolist() == [1 / 3] * 3
    # 10 (n + d + K) eps to either side; bounds near 7/8 are multiples of eps/2.
    theta = zhu2024.enclosed_theta(
        [np.eye(4)[:2]], step_size=1.0, local_steps=3, weights=[1.0]
    )
    error = 90 * 2**-52
    assert theta.upper - theta.value == pytest.approx(error, rel=0.02, abs=0)
    assert theta.value - theta.lower == pytest.approx(error, rel=0.02, abs=0)
    # The best model is (2, 2); it misses (1, −1, 0), of ‖X‖₂ ‖w‖ + ‖y‖ = 4√2 + √26.
    x = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    missed = zhu2024.misfit([x], [np.array([3.0, 1.0, 4.0])])
    expected = math.sqrt(2) / (3 * 2**-52 * (4 * math.sqrt(2) + math.sqrt(26)))
    assert missed == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("x", [0.25, 0.45, 0.55, 0.75, 1.25])
def test_what_three_steps_close_by_hand(x):
    """On both sides of where the form for small x ends: 1 − (1 − x)³."""
    found = zhu2024.theta([np.ones((1, 1))], step_size=x, local_steps=3, weights=[1.0])
    assert found == pytest.approx(1 - (1 - x) ** 3, rel=1e-14)


@pytest.mark.parametrize(("factor", "rank"), [(15.0, 1), (25.0, 2)])
def test_a_rank_is_decided_at_rounding_of_the_larger_side(factor, rank):
    """Two samples of 20 features: 20 eps of the largest singular value, here 3."""
    x = np.zeros((2, 20))
    x[0, 0], x[1, 1] = 3.0, 3.0 * factor * 2**-52
    found = zhu2024.eigenvalues([x], step_size=0.1, local_steps=1, weights=[1.0])
    assert len(found) == rank


# Sample sizes s, and their x = η s²/n short of 2 by that many eps. What two steps move,
# x (2 − x), is then twice that.
@pytest.mark.parametrize(
    ("sizes", "short", "refused"),
    [
        ([1.0], 4, True),  # up to 10 eps
        ([1.0], 8, False),
        ([1.0, 1.0], 8, True),  # up to 20 eps along two directions
        ([1.0, 1.0], 16, False),
        ([1.0], -(2**52), False),  # x = 3: gaps grow fourfold, one model stays
        ([1.0, 4.0], 32, True),  # and of what moves most: x = 32 moves by −960
    ],
)
def test_a_round_that_moves_no_more_than_rounding_has_no_fixed_point(
    sizes, short, refused
):
    n = len(sizes)
    options = {"step_size": n * (2 - short * 2**-52), "local_steps": 2}
    xs, ys = [np.diag(sizes)], [np.full(n, 3.0)]
    if refused:
        with pytest.raises(ValueError, match="moves nothing along some direction"):
            zhu2024.fixed_point(xs, ys, np.zeros(n), weights=[1.0], **options)
        return
    found = zhu2024.fixed_point(xs, ys, np.zeros(n), weights=[1.0], **options)
    assert found == pytest.approx(ys[0])


@pytest.mark.parametrize("weights", WEIGHTS)
def test_its_spectrum_is_that_of_the_federated_kernel(weights, random):
    """Section 8's P^½ΘP^½ is the same operator seen from the samples."""
    xs = clients(random)
    split = split_of(xs, [np.zeros(len(x)) for x in xs])
    x = split.dataset.x
    options = {"step_size": stable(xs), "local_steps": 7}
    kernel = nf.federated_kernel(x @ x.T, split, weights=weights, **options)
    found = zhu2024.eigenvalues(xs, weights=weights, **options)
    assert len(found) == sum(SIZES)
    expected = np.sort(kernel.eigenvalues.numpy())
    # Eigenvalues up to 1 of matrices of 8 rows: a hundred eps, absolutely.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


def test_steps_too_large_diverge(random):
    xs = clients(random)
    w0 = random.standard_normal(D)
    ys = [np.zeros(len(x)) for x in xs]
    options = {"step_size": 4 * stable(xs), "local_steps": 3}
    weights = WEIGHTS["samples"]
    assert zhu2024.rate(xs, weights=weights, **options) > 1
    run = local_descent(xs, ys, w0, weights=weights, rounds=30, **options)
    assert np.linalg.norm(run[-1]) > 10 * np.linalg.norm(run[0])


def federated_p(xs, *, step_size, local_steps, weights):
    """P of section 8 by its definition: weighted sums of powers, block by block."""
    n = sum(len(x) for x in xs)
    found, at = np.zeros((n, n)), 0
    for x, weight in zip(xs, weights, strict=True):
        step = np.eye(len(x)) - step_size / len(x) * x @ x.T
        powers = [np.linalg.matrix_power(step, k) for k in range(local_steps)]
        own = weight * step_size / len(x) * sum(powers)
        found[at : at + len(x), at : at + len(x)] = own
        at += len(x)
    return found


def test_with_fewer_parameters_than_samples_the_limit_depends_on_the_steps(random):
    """The negative control: no model fits, and centralised GD ends elsewhere."""
    xs = clients(random, d=2)
    ys = [random.standard_normal(len(x)) for x in xs]
    x, y = np.concatenate(xs), np.concatenate(ys)
    weights = WEIGHTS["samples"]
    ends = []
    for local_steps in (1, 50):
        options = {"step_size": stable(xs), "local_steps": local_steps}
        options["weights"] = weights
        theta = zhu2024.theta(xs, **options)
        rounds = math.ceil(math.log(1e-13) / math.log1p(-theta))
        run = local_descent(xs, ys, np.ones(2), rounds=rounds, **options)
        found = zhu2024.fixed_point(xs, ys, np.ones(2), **options)
        np.testing.assert_allclose(run[-1], found, rtol=0, atol=1e-10)
        # It minimises rᵀPr: no gradient.
        gradient = x.T @ federated_p(xs, **options) @ (x @ found - y)
        np.testing.assert_allclose(gradient, 0, atol=1e-12)
        ends.append(found)
    least = np.linalg.lstsq(x, y, rcond=None)[0]
    np.testing.assert_allclose(ends[0], least, rtol=0, atol=1e-10)
    assert np.linalg.norm(ends[1] - least) > 1e-2
    assert zhu2024.misfit(xs, ys) > 1e10


def test_with_consistent_labels_the_fixed_point_is_the_limit(random):
    xs, truth, w0 = clients(random), *random.standard_normal((2, D))
    ys = [x @ truth for x in xs]
    options = {"step_size": stable(xs), "weights": WEIGHTS["uniform"]}
    aim = zhu2024.limit(xs, ys, w0)
    for local_steps in (1, 30):
        found = zhu2024.fixed_point(xs, ys, w0, local_steps=local_steps, **options)
        np.testing.assert_allclose(found, aim, rtol=0, atol=1e-11)
    assert zhu2024.misfit(xs, ys) <= 1
    assert zhu2024.misfit(xs, [0 * y for y in ys]) == 0.0


# --- separable classification ---------------------------------------------------------


def separable(random, n=24, d=6, gap=0.2):
    """Samples on both sides of a hyperplane through 0, in three unlike groups."""
    truth = random.standard_normal(d)
    x = random.standard_normal((400, d))
    score = x @ truth / np.linalg.norm(truth)
    x = x[np.abs(score) > gap][:n]
    y = np.sign(x @ truth)
    order = np.argsort(x[:, 0])
    parts = np.split(order, [n // 2, n // 2 + n // 4])
    return [x[part] for part in parts], [y[part] for part in parts]


def svm_of_scikit_learn(xs, ys):
    """Through 0: with every sample mirrored the offset is 0 by symmetry."""
    x, y = np.concatenate(xs), np.concatenate(ys)
    found = SVC(kernel="linear", C=1e6, tol=1e-10)
    found.fit(np.concatenate([x, -x]), np.concatenate([y, -y]))
    assert abs(found.intercept_[0]) < 1e-6
    return found.coef_[0]


def assert_same_svm(found, expected):
    """To 1e-5: libsvm keeps its kernel in float32."""
    assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected)


def pooled(xs, ys):
    return np.concatenate(xs), np.concatenate(ys)


def test_the_svm_is_that_of_scikit_learn(random):
    for _ in range(10):
        xs, ys = separable(random)
        found = zhu2024.max_margin(*pooled(xs, ys))
        assert_same_svm(found, svm_of_scikit_learn(xs, ys))
        gamma = zhu2024.margin(*pooled(xs, ys))
        assert gamma == pytest.approx(1 / np.linalg.norm(found))


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_projections_are_what_characterises_them(scale, random):
    """Feasible, and moved by active samples only, outwards."""
    for _ in range(20):
        xs, ys = separable(random)
        w = random.standard_normal(6) / scale
        x, y = scale * xs[0], ys[0]
        found = zhu2024.project(x, y, w)
        a = y[:, None] * x
        margins = a @ found
        assert margins.min() >= 1 - 1e-9
        active = a[margins < 1 + 1e-9]
        moved = found - w
        if len(active) == 0:
            assert not moved.any()
            continue
        multipliers = np.linalg.lstsq(active.T, moved)[0]
        size = np.linalg.norm(moved)
        np.testing.assert_allclose(active.T @ multipliers, moved, atol=1e-9 * size)
        assert (multipliers * scale >= -1e-9 * size).all()


def test_a_projection_by_hand():
    x, y = np.array([[2.0, 0.0], [0.0, -1.0]]), np.array([1.0, -1.0])
    assert zhu2024.project(x, y, np.zeros(2)) == pytest.approx(np.array([0.5, 1.0]))
    inside = np.array([3.0, 2.0])
    assert (zhu2024.project(x, y, inside) == inside).all()
    assert (zhu2024.project(x[:0], y[:0], inside) == inside).all()
    assert zhu2024.margin(x, y) == pytest.approx(1 / math.hypot(0.5, 1.0))


def test_a_model_on_a_margin_is_its_own_projection():
    x, y = np.array([[2.0, 0.0], [0.0, -4.0]]), np.array([1.0, -1.0])
    found = zhu2024.project(x, y, np.array([0.5, 0.25]))
    assert found.tolist() == [0.5, 0.25]


def test_a_sample_many_times_as_long_does_not_hide_a_short_one():
    """Both ask for w_1: the short one for 1, the long one for 1e-17."""
    x = np.array([[1.0, 0.0], [1e17, 0.0]])
    found = zhu2024.max_margin(x, np.ones(2))
    assert found == pytest.approx(np.array([1.0, 0.0]), abs=1e-12)


def test_a_thin_margin_is_solved_for_to_rounding_or_refused():
    """(1, e) and (−1, e): the SVM is (0, 1/e), and e² is compared with 1e-10."""
    y = np.ones(2)
    # Rounding times the condition number 1e4 is 1e-12; by the residual of the
    # least-squares problem, e², alone it would be 1e-8.
    found = zhu2024.max_margin(np.array([[1.0, 1e-4], [-1.0, 1e-4]]), y)
    assert found == pytest.approx(np.array([0.0, 1e4]), rel=1e-11, abs=1e-7)
    found = zhu2024.margin(np.array([[1.0, 1.1e-5], [-1.0, 1.1e-5]]), y)
    assert found == pytest.approx(1.1e-5, rel=1e-9, abs=0)
    assert zhu2024.margin(np.array([[1.0, 0.9e-5], [-1.0, 0.9e-5]]), y) == 0.0


def test_two_rounds_of_projections_by_hand():
    """Three samples ask for w_1 ≥ 1, one of the other client for w_2 ≥ 1."""
    xs, ys = [np.eye(2)[[0, 0, 0]], np.eye(2)[1:]], [np.ones(3), np.ones(1)]
    start = np.array([0.0, -2.0])
    given = {"weights": "samples", "rounds": 2}
    found = zhu2024.parallel_projection(xs, ys, start, **given)
    # From (1, −2) and (0, 1), then (1, −5/4) and (3/4, 1), at weights ¾ and ¼.
    assert found == pytest.approx(
        np.array([[0.0, -2.0], [0.75, -1.25], [0.9375, -0.6875]])
    )
    found = zhu2024.parallel_projection(xs, ys, start, anchored=True, **given)
    # Half the start, then a third of it.
    assert found == pytest.approx(
        np.array([[0.0, -2.0], [0.375, -1.625], [0.5625, -1.3125]])
    )


@pytest.mark.parametrize("number", range(4))
def test_averaging_stalls_off_the_svm_and_the_anchored_rule_goes_on(number):
    """Four draws, fixed: that averaging misses the SVM is the rule, not a law."""
    xs, ys = separable(np.random.default_rng(number), n=12, d=8, gap=0.5)
    svm = zhu2024.max_margin(*pooled(xs, ys))
    size = np.linalg.norm(svm)
    assert_same_svm(svm, svm_of_scikit_learn(xs, ys))
    options = {"weights": [0.6, 0.2, 0.2], "rounds": 400}
    plain, anchored = (
        zhu2024.parallel_projection(xs, ys, np.zeros(8), anchored=rule, **options)
        for rule in (False, True)
    )
    x, y = pooled(xs, ys)
    assert (y * (x @ plain[-1])).min() > 1 - 1e-6  # feasible
    stalled = np.linalg.norm(plain - svm, axis=1)[[100, 400]]
    decaying = np.linalg.norm(anchored - svm, axis=1)[[100, 400]]
    assert stalled[1] > 0.04 * size
    assert stalled[1] > 0.9999 * stalled[0]
    # Halpern's rule is as far off as 1/t: a quarter after four times the rounds.
    assert decaying[1] == pytest.approx(decaying[0] / 4, rel=0.05)
    assert decaying[1] < 0.25 * stalled[1]
    gaps = zhu2024.direction_gap(np.array([plain[-1], anchored[-1]]), svm)
    assert gaps[1] < 0.25 * gaps[0]


@pytest.mark.parametrize("rule", ["average", "anchored"])
def test_rounds_of_exact_solves_are_these_projections(rule, random):
    """Two implementations: the engine's for a network, and this one."""
    xs, ys = separable(random)
    w0 = random.standard_normal(6)
    run = network_run(
        xs, ys, w0, rounds=25, local_steps=1, step_size=1.0, local="exact",
        loss="squared-hinge", rule=rule,
    )  # fmt: skip
    found = zhu2024.parallel_projection(
        xs, ys, w0, weights="samples", rounds=25, anchored=rule == "anchored"
    )
    np.testing.assert_allclose(found, run, rtol=0, atol=1e-8)


def pulled(random):
    """Two support vectors, one per client, and six samples that pull elsewhere.

    With labels multiplied in: (1, 1) and (1, −1), whose SVM is (1, 0), and (2, 3),
    turned into six dimensions at random and given random labels.
    """
    axes = np.linalg.qr(random.standard_normal((6, 6)))[0][:2]
    a = np.array([[1.0, 1.0], *[[2.0, 3.0]] * 3, [1.0, -1.0], *[[2.0, 3.0]] * 3])
    y = random.choice([-1.0, 1.0], size=8)
    x = y[:, None] * (a @ axes)
    return [x[:4], x[4:]], [y[:4], y[4:]]


@pytest.mark.parametrize("loss", ["logistic", "exponential"])
def test_local_descent_turns_to_the_svm(loss, random):
    xs, ys = pulled(random)
    svm = zhu2024.max_margin(*pooled(xs, ys))
    run = network_run(
        xs, ys, np.zeros(6), rounds=90, local_steps=10, step_size=0.3, loss=loss
    )
    gaps = zhu2024.direction_gap(run[[1, 3, 10, 90]], svm)
    assert (np.diff(gaps) < 0).all()
    found = zhu2024.check_classification(
        zhu2024.Classification(
            is_linear=True,
            is_exponential=True,
            is_plain=True,
            margin=zhu2024.margin(*pooled(xs, ys)),
            first=gaps[0],
            last=gaps[-1],
        )
    )
    assert found.verdict is found.conclusion.verdict is Verdict.holds
    # Away from a direction that is not the SVM's the same check fails: it can.
    other = zhu2024.direction_gap(run[[1, 90]], run[1])
    assert other[1] > other[0]


def test_the_gap_of_directions_has_no_cancellation():
    angle = 1e-9
    models = np.array([[3.0, 0.0], [2 * math.cos(angle), 2 * math.sin(angle)]])
    found = zhu2024.direction_gap(models, np.array([5.0, 0.0]))
    assert found[0] == 0.0
    assert found[1] == pytest.approx(angle**2 / 2, rel=1e-6, abs=0)
    quarter = zhu2024.direction_gap(np.array([0.0, 1.0]), np.array([1.0, 0.0]))
    assert quarter == pytest.approx(1.0)
    assert np.isnan(zhu2024.direction_gap(np.zeros((1, 2)), models[0])).all()


def test_the_bound_of_crawshaw_by_hand():
    given = {"step_size": 2.0, "local_steps": 4, "margin": 0.5}
    transition = zhu2024.crawshaw_transition(clients=3, **given)
    assert transition == pytest.approx(2 * 4 * 3 * 8)
    rounds = np.array([0.0, 192.0, 200.0])
    found = zhu2024.crawshaw_bound(rounds, transition=transition, **given)
    assert zhu2024.CRAWSHAW.endswith("arXiv:2506.13974")
    # 16 / (2 · ¼ · 4 · 8)
    assert found.tolist() == [math.inf, math.inf, pytest.approx(1.0)]


# --- the checks -----------------------------------------------------------------------


GOOD = zhu2024.Regression(
    is_linear=True,
    is_squared=True,
    is_plain=True,
    largest_step=0.9,
    misfit=0.1,
    theta=Enclosure(0.1, 0.0999, 0.1001),
    theta_limit=0.2,
    rate=0.9,
    worst_ratio=exact(0.99),
)
FAULTS = {
    "algorithm is Local GD": {"is_plain": False},
    "misfit": {"misfit": 1.1},
    "η λ_max": {"largest_step": 1.01},
    "θ_K": {"theta": Enclosure(-1.0, -1.1, -0.9)},
}


def test_regression_holds_where_everything_is_as_asked():
    found = zhu2024.check_regression(GOOD)
    assert found.applies
    assert found.verdict is found.conclusion.verdict is Verdict.holds
    assert found.status == "derived"
    assert found.constants["θ_∞, what θ_K rises to with K"].value == 0.2
    assert found.constants["factor of a round, max |1 − λ|"].value == 0.9


@pytest.mark.parametrize("name", FAULTS)
def test_each_hypothesis_of_regression_fails_on_its_own(name):
    found = zhu2024.check_regression(dataclasses.replace(GOOD, **FAULTS[name]))
    failed = [h.name for h in found.hypotheses if h.verdict is Verdict.fails]
    assert len(failed) == 1
    assert failed[0].startswith(name)
    assert found.conclusion.verdict is Verdict.holds


@pytest.mark.parametrize(
    ("change", "hypotheses", "conclusion"),
    [
        ({"worst_ratio": exact(1.001)}, "holds", "fails"),
        ({"worst_ratio": Enclosure(1.0, 0.999, 1.001)}, "holds", "undecided"),
        ({"worst_ratio": None}, "holds", "undecided"),
        ({"theta": None}, "undecided", "holds"),
        ({"theta": Enclosure(1e-17, -1e-15, 1e-15)}, "undecided", "holds"),
        ({"misfit": None}, "undecided", "holds"),
        ({"largest_step": None}, "undecided", "holds"),
        ({"largest_step": 1.0}, "undecided", "holds"),  # rounding reaches across
    ],
)
def test_regression_is_undecided_where_it_cannot_be_told(
    change, hypotheses, conclusion
):
    found = zhu2024.check_regression(dataclasses.replace(GOOD, **change))
    assert found.verdict == hypotheses
    assert found.conclusion.verdict == conclusion


@pytest.mark.parametrize(
    ("change", "hypotheses", "conclusion"),
    [
        ({"misfit": 1.0}, "holds", "holds"),
        ({"misfit": 1 + 1e-15}, "fails", "holds"),
        # Of the largest step 1e-13 is taken for rounding.
        ({"largest_step": 1 - 2e-13}, "holds", "holds"),
        ({"largest_step": 1 - 0.5e-13}, "undecided", "holds"),
        ({"largest_step": 1 + 0.5e-13}, "undecided", "holds"),
        ({"largest_step": 1 + 2e-13}, "fails", "holds"),
        ({"theta": exact(0.0)}, "fails", "holds"),
        ({"theta": exact(1e-300)}, "holds", "holds"),
        ({"worst_ratio": exact(1.0)}, "holds", "holds"),
        ({"worst_ratio": exact(1 + 1e-15)}, "holds", "fails"),
    ],
)
def test_regression_decides_at_its_thresholds(change, hypotheses, conclusion):
    found = zhu2024.check_regression(dataclasses.replace(GOOD, **change))
    assert found.verdict == hypotheses
    assert found.conclusion.verdict == conclusion


def test_the_rounding_of_theta_is_that_of_what_is_computed_like_it():
    constants = zhu2024.check_regression(GOOD).constants
    assert constants["θ_K"] == GOOD.theta
    for name, value in (
        ("θ_∞, what θ_K rises to with K", 0.2),
        ("factor of a round, max |1 − λ|", 0.9),
    ):
        found = constants[name]
        # Half of 0.1001 − 0.0999 to either side.
        ends = [found.lower, found.value, found.upper]
        assert ends == pytest.approx([value - 1e-4, value, value + 1e-4], rel=1e-12)
    without = dataclasses.replace(GOOD, theta_limit=None, rate=None)
    assert list(zhu2024.check_regression(without).constants) == ["θ_K"]
    assert not zhu2024.check_regression(dataclasses.replace(GOOD, theta=None)).constants


def test_every_line_says_where_it_is_from():
    for check, given, name, status in (
        (zhu2024.check_regression, GOOD, "zhu2024.regression_limit", "derived"),
        (zhu2024.check_classification, SEPARABLE, "zhu2024.direction", "abstract"),
    ):
        found = check(given)
        assert found.name == name
        assert found.source == "Zhu, Vardhan, Mazumdar (2024), arXiv:2412.07971"
        for line in (found, *found.hypotheses, found.conclusion):
            assert line.status == status
            assert line.source == found.source
        for line in (*found.hypotheses, found.conclusion):
            assert line.form == "mean"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"is_linear": False}, "the network is not linear in its inputs"),
        ({"is_squared": False}, "the loss is not the squared loss"),
    ],
)
def test_regression_says_what_it_does_not_speak_about(change, words):
    found = zhu2024.check_regression(dataclasses.replace(GOOD, **change))
    assert not found.applies
    assert found.why_not == words


def test_the_ratio_of_a_run_is_measured_and_decides(random):
    xs, truth, w0 = clients(random), *random.standard_normal((2, D))
    ys = [x @ truth for x in xs]
    options = {"step_size": 0.9 * stable(xs), "local_steps": 5}
    options["weights"] = WEIGHTS["samples"]
    theta = zhu2024.enclosed_theta(xs, **options)
    assert theta.lower < zhu2024.theta(xs, **options) < theta.upper
    assert theta.width < 1e-12
    rounds = math.ceil(math.log(1e-13) / math.log1p(-theta.value)) * 2
    run = local_descent(xs, ys, w0, rounds=rounds, **options)
    aim = zhu2024.limit(xs, ys, w0)
    gaps = np.linalg.norm(run - aim, axis=1)
    size = float(np.linalg.norm(run, axis=1).max())
    # Long after rounding has stopped the run, which must not count against it.
    given = {"size": size, "local_steps": 5}
    found = zhu2024.worst_ratio(np.arange(rounds + 1), gaps, theta, **given)
    early = gaps[1:50] / gaps[0] / (1 - theta.value) ** np.arange(1, 50)
    assert found.value == pytest.approx(early.max(), rel=1e-9)
    check = zhu2024.check_regression(
        dataclasses.replace(
            GOOD,
            largest_step=zhu2024.largest_step(xs, step_size=options["step_size"]),
            misfit=zhu2024.misfit(xs, ys),
            theta=theta,
            worst_ratio=found,
        )
    )
    assert check.verdict is check.conclusion.verdict is Verdict.holds
    # A θ a tenth too large promises too much, and a run that diverged fails.
    large = exact(1.1 * theta.value)
    broken = zhu2024.worst_ratio(np.arange(rounds + 1), gaps, large, **given)
    assert broken.lower > 1
    gaps[10:] = np.nan
    lost = zhu2024.worst_ratio(np.arange(rounds + 1), gaps, theta, **given)
    assert lost.lower == math.inf


def test_a_ratio_that_cannot_be_formed_is_none():
    rounds, gaps = np.arange(3), np.array([1.0, 0.5, 0.2])
    given = {"size": 1.0, "local_steps": 700}
    assert zhu2024.worst_ratio(rounds, gaps, exact(0.0), **given) is None
    assert zhu2024.worst_ratio(rounds[1:], gaps[1:], exact(0.1), **given) is None
    assert zhu2024.worst_ratio(rounds, 1e-15 * gaps, exact(0.1), **given) is None
    # So many local steps that their rounding might hide the bound.
    many = {"size": 1.0, "local_steps": 10**13}
    assert zhu2024.worst_ratio(rounds, gaps, exact(0.25), **many) is None
    found = zhu2024.worst_ratio(rounds, gaps, exact(0.25), **given)
    assert found.value == pytest.approx(0.5 / 0.75)
    # 0.5 + e over 0.75 (1 − e₀), e = (400 + 700) eps and e₀ = 400 eps; and the reverse.
    error = (1100 / 0.75 + 400 * 0.5 / 0.75) * 2**-52
    assert found.upper - found.value == pytest.approx(error, rel=0.01, abs=0)
    assert found.value - found.lower == pytest.approx(error, rel=0.01, abs=0)


def test_the_ends_of_a_ratio_by_hand():
    """θ in [¼, ¾]: the looser bound below, the tighter one above, by one round."""
    theta = Enclosure(0.5, 0.25, 0.75)
    rounds, gaps = np.array([0, 1]), np.array([1.0, 0.4])
    unit = 2.0**-22  # eps of the size; an error of (100/¼ + 100 t) of it
    start, end = 400 * unit, 500 * unit
    found = zhu2024.worst_ratio(rounds, gaps, theta, size=2.0**30, local_steps=100)
    assert found.value == pytest.approx(0.4 / 0.5, rel=1e-12)
    lower = (0.4 - end) / (0.75 * (1 + start))
    assert found.lower == pytest.approx(lower, rel=1e-12)
    upper = (0.4 + end) / (0.25 * (1 - start))
    assert found.upper == pytest.approx(upper, rel=1e-12)


def test_a_round_counts_up_to_a_thousandth_of_its_tightest_bound():
    theta = Enclosure(0.5, 0.25, 0.75)
    rounds, gaps = np.array([0, 1]), np.array([1.0, 0.4])
    # The error after a round is 500 eps of the size, and the bound ¼ but for 1e-4.
    size = 0.25 / (1000 * 500 * 2**-52)
    given = {"local_steps": 100}
    found = zhu2024.worst_ratio(rounds, gaps, theta, size=0.99 * size, **given)
    assert found is not None
    found = zhu2024.worst_ratio(rounds, gaps, theta, size=1.01 * size, **given)
    assert found is None


def test_the_worst_ratio_is_that_of_any_recorded_round():
    rounds, gaps = np.array([0, 1, 3, 4]), np.array([2.0, 0.8, 0.6, 0.02])
    found = zhu2024.worst_ratio(rounds, gaps, exact(0.5), size=2.0, local_steps=1)
    assert found.value == pytest.approx(0.6 / (2 / 8))
    given = {"size": 1.0, "local_steps": 1}
    # Nothing is recorded but the start, or not even that.
    assert zhu2024.worst_ratio(rounds[:1], gaps[:1], exact(0.5), **given) is None
    assert zhu2024.worst_ratio(rounds[:0], gaps[:0], exact(0.5), **given) is None
    # A θ that may be 1 promises that nothing is left: no ratio. Nor with one that may
    # be 0, which promises nothing.
    for theta in (Enclosure(0.9, 0.8, 1.1), Enclosure(0.1, -0.1, 0.3)):
        assert zhu2024.worst_ratio(rounds, gaps, theta, **given) is None


SEPARABLE = zhu2024.Classification(
    is_linear=True,
    is_exponential=True,
    is_plain=True,
    margin=0.1,
    first=0.1,
    last=0.05,
)


@pytest.mark.parametrize(
    ("change", "hypotheses", "conclusion"),
    [
        ({}, "holds", "holds"),
        ({"is_plain": False}, "fails", "holds"),
        ({"margin": 0.0}, "fails", "holds"),
        ({"margin": 1e-12}, "holds", "holds"),
        ({"margin": None}, "undecided", "holds"),
        ({"last": 0.2}, "holds", "fails"),
        ({"last": 0.1 + 1e-11}, "holds", "undecided"),
        ({"last": None}, "holds", "undecided"),
        ({"first": math.nan}, "holds", "undecided"),
    ],
)
def test_the_check_of_directions(change, hypotheses, conclusion):
    found = zhu2024.check_classification(dataclasses.replace(SEPARABLE, **change))
    assert found.applies
    assert found.status == found.conclusion.status == "abstract"
    assert found.verdict == hypotheses
    assert found.conclusion.verdict == conclusion


def test_the_error_of_directions_by_hand():
    """1e-9 √(2 · 0.02) of the angle, and of the margin 1e-9."""
    given = dataclasses.replace(SEPARABLE, last=0.02)
    found = zhu2024.check_classification(given)
    left = found.conclusion.left
    # 0.02 + 2e-10 is rounded by 3.5e-18.
    assert left.upper - left.value == pytest.approx(2e-10, rel=1e-7, abs=0)
    assert left.value - left.lower == pytest.approx(2e-10, rel=1e-7, abs=0)
    gamma = found.constants["margin γ"]
    assert gamma.width == pytest.approx(2e-10, rel=1e-6, abs=0)
    # On the SVM itself nothing can fall.
    there = dataclasses.replace(SEPARABLE, first=0.0, last=0.0)
    found = zhu2024.check_classification(there).conclusion
    assert found.left.upper == 1e-18
    assert found.verdict is Verdict.undecided


def test_directions_are_not_about_other_losses():
    other = dataclasses.replace(SEPARABLE, is_exponential=False, is_linear=False)
    assert zhu2024.check_classification(other).why_not == (
        "the network is not linear in its inputs and the loss is not the logistic or "
        "exponential loss"
    )


ONE = [np.ones((2, 3))]
OPTIONS = {"step_size": 0.1, "local_steps": 1}


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: zhu2024.theta(ONE, weights=[0.5, 0.5], **OPTIONS),
            ShapeMismatchError,
            "one per client",
        ),
        (
            lambda: zhu2024.theta(
                [*ONE, np.ones((2, 4))], weights=[0.5, 0.5], **OPTIONS
            ),
            ShapeMismatchError,
            r"all of one d, got d in \[3, 4\]",
        ),
        (
            lambda: zhu2024.limit(ONE, [np.ones(3)], np.ones(3)),
            ShapeMismatchError,
            r"one label per sample of each client, got \[3\] for \[2\]",
        ),
        (
            lambda: zhu2024.theta(ONE, weights=[-1.0], **OPTIONS),
            ValueError,
            "weights must be at least 0",
        ),
        (
            lambda: zhu2024.theta(ONE, weights=[math.inf], **OPTIONS),
            ValueError,
            "weights must be at least 0 and finite",
        ),
        (
            lambda: zhu2024.theta(ONE, weights="equal", **OPTIONS),
            UnknownNameError,
            "equal",
        ),
        (
            lambda: zhu2024.theta([0 * ONE[0]], weights=[1.0], **OPTIONS),
            ValueError,
            "samples other than 0",
        ),
        (
            lambda: zhu2024.theta(
                ONE, weights=[1.0], step_size=0.1, local_steps=0
            ),
            ValueError,
            "local_steps must be at least 1",
        ),
        (
            lambda: zhu2024.rate(
                ONE, weights=[1.0], step_size=1e9, local_steps=1000
            ),
            NonFiniteError,
            "overflows",
        ),
        (
            lambda: zhu2024.limit([np.nan * ONE[0]], [np.ones(2)], np.ones(3)),
            NonFiniteError,
            "xs hold NaN",
        ),
        (
            # x = η · 6 / 2 = 2 and K = 2: the client is back where it began.
            lambda: zhu2024.fixed_point(
                ONE, [np.ones(2)], np.ones(3), weights=[1.0], step_size=2 / 3,
                local_steps=2,
            ),
            ValueError,
            "moves nothing along some direction",
        ),
        (
            lambda: zhu2024.max_margin(
                np.array([[1.0], [2.0]]), np.array([1.0, -1.0])
            ),
            zhu2024.NotSeparableError,
            "no hyperplane through 0 separates",
        ),
        (
            lambda: zhu2024.max_margin(np.zeros((1, 2)), np.array([1.0])),
            zhu2024.NotSeparableError,
            "a sample is 0",
        ),
        (
            lambda: zhu2024.max_margin(np.eye(3)[:, :2], np.ones(3)),  # the last is 0
            zhu2024.NotSeparableError,
            "a sample is 0",
        ),
        (
            lambda: zhu2024.max_margin(np.ones((1, 2)), np.array([2.0])),
            ValueError,
            "labels must be -1 or 1",
        ),
        (
            lambda: zhu2024.project(
                np.full((1, 2), np.inf), np.array([1.0]), np.zeros(2)
            ),
            NonFiniteError,
            "samples hold NaN",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_samples_that_cannot_be_separated_have_no_margin():
    assert zhu2024.margin(np.array([[1.0], [2.0]]), np.array([1.0, -1.0])) == 0.0
