"""FedAvg's derived rate: ten thousand linear problems, pyramids, and the checks."""

import dataclasses
import functools
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pyramids import (
    bounds,
    certified,
    curvature,
    data,
    flat,
    flat_outputs,
    inside,
    plain,
    started,
)

import ntk_fed as nf
from ntk_fed.measured import Enclosure, Verdict, estimate, exact
from ntk_fed.theory import nguyen2020, pyramid, song2023


def test_the_step_size_limit_by_hand():
    assert song2023.smoothness_limit(2.0) == 0.125
    # √(5 / (20 · ¼)) / (2 · 4)
    options = {"smoothness": 2.0, "jacobian": 4.0, "pl": 5.0, "spread": 0.25}
    assert song2023.drift_limit(**options) == pytest.approx(0.125, rel=1e-14)
    assert song2023.step_size_limit(**options) == 0.125
    tight = options | {"pl": 1.25}
    assert song2023.step_size_limit(**tight) == pytest.approx(0.0625, rel=1e-14)
    loose = options | {"pl": 20.0}
    assert song2023.step_size_limit(**loose) == 0.125
    assert song2023.drift_limit(**options | {"pl": -1.0}) == 0.0
    assert song2023.drift_limit(**options | {"smoothness": math.inf}) == 0.0
    assert song2023.drift_limit(**options | {"jacobian": 0.0}) == math.inf


def test_spread_is_clients_over_samples_and_skips_empty_clients():
    assert song2023.spread([3, 2, 1]) == 0.5
    assert song2023.spread([3, 0, 1]) == 0.5
    shares = [0.5, 1 / 3, 1 / 6]
    assert song2023.spread([3, 2, 1], shares) == pytest.approx(0.5)
    assert song2023.spread([3, 0, 1], [1 / 3] * 3) == pytest.approx(4 / 9)
    with pytest.raises(ValueError, match="sizes must be numbers of samples"):
        song2023.spread([0, 0])
    with pytest.raises(ValueError, match="sizes must be numbers of samples"):
        song2023.spread([3, -1])


def test_the_worst_ratio_by_hand():
    losses = np.array([8.0, 7.2, 7.0])
    # 1 − 0.1 · 2 / 2 = 0.9 a round: 7.2 / 7.2, 7 / 6.48
    found = song2023.worst_ratio(losses, step_size=0.1, pl=2.0)
    assert found == pytest.approx(7.0 / 6.48, rel=1e-14)
    solved = np.array([8.0, 0.0, 0.0])
    assert song2023.worst_ratio(solved, step_size=0.1, pl=2.0) == 0.0
    woken = np.array([8.0, 0.0, 1.0])
    assert song2023.worst_ratio(woken, step_size=0.1, pl=2.0) == math.inf
    assert math.isnan(song2023.worst_ratio(losses[:1], step_size=0.1, pl=2.0))
    assert math.isnan(song2023.worst_ratio(losses, step_size=1.1, pl=2.0))


# Linear networks, where S, J and μ are exact and so is the worst start of all.

STEPS = 20
ALIKE, ONE_LARGE = (4,) * 5, (1, 1, 1, 1, 1, 20)  # room for samples, client by client


@dataclasses.dataclass
class Linear:
    """Linear problems, one row a slot; a client leaves those it has no samples for.

    Attributes:
        jacobian: ``(b, s, d)``, zero where a slot is empty.
        sizes: ``(b, c)``.
        client: of each slot, ``(s,)``.
        held: is there a sample in the slot? ``(b, s)``
    """

    jacobian: np.ndarray
    sizes: np.ndarray
    client: np.ndarray
    held: np.ndarray

    @property
    def theta(self):
        return self.jacobian @ self.jacobian.transpose(0, 2, 1)

    @property
    def own(self):
        """The clients' blocks of Θ, each over its number of samples."""
        blocks = self.theta * (self.client[:, None] == self.client)
        return blocks / np.maximum(self.sizes, 1)[:, self.client, None]

    def by_slot(self, weights):
        """``w_i / n_i``; zero at empty slots."""
        rate = weights / np.maximum(self.sizes, 1)
        return np.where(self.held, rate[:, self.client], 0.0)


def problems(random, count, room=ALIKE, full=False):
    """Random problems with as many parameters as samples, or more."""
    slots, d = sum(room), 2 * sum(room)
    client = np.repeat(np.arange(len(room)), room)
    place = np.arange(slots) - np.repeat(np.cumsum([0, *room[:-1]]), room)
    sizes = random.integers(1, np.array(room) + 1, (count, len(room)))
    if full:
        sizes[:] = room
    else:
        clients = random.integers(1, len(room) + 1, (count, 1))
        sizes *= np.arange(len(room)) < clients
    held = place < sizes[:, client]
    jacobian = random.standard_normal((count, slots, d))
    if not full:  # inputs of unlike size; in a third, those of a client nearly alike
        shared = random.standard_normal((count, len(room), d))[:, client]
        alike = random.integers(0, 3, (count, 1, 1)) == 0
        jacobian = np.where(alike, 0.3 * jacobian + shared, jacobian)
        jacobian *= 10 ** random.uniform(-0.5, 0.5, (count, len(room), 1))[:, client]
    parameters = random.integers(sizes.sum(axis=1), d + 1)
    used = held[..., None] & (np.arange(d) < parameters[:, None, None])
    return Linear(jacobian * used, sizes, client, held)


def weights_of(found, kind, random):
    """Weights ``(b, c)`` that sum to 1, zero for clients without samples."""
    raw = (found.sizes > 0).astype(float)
    if kind == "samples":
        raw = found.sizes.astype(float)
    elif kind == "random":
        raw = raw * random.uniform(0.01, 1, found.sizes.shape)
    return raw / raw.sum(axis=1, keepdims=True)


def limits(found, weights, default=False):
    """``eta K`` at its limit and μ, problem by problem; exact constants.

    ``default`` takes those of weights n_i/n, whatever the weights are.
    """
    if default:
        weights = found.sizes / found.sizes.sum(axis=1, keepdims=True)
    root = np.sqrt(found.by_slot(weights))
    values = np.linalg.eigvalsh(root[:, :, None] * found.theta * root[:, None, :])
    # Ascending, the eigenvalues 0 of empty slots first.
    empty = (~found.held).sum(axis=1)[:, None]
    pl = np.take_along_axis(values, empty, axis=1)[:, 0]
    smoothness = np.linalg.eigvalsh(found.own)[:, -1]
    jacobian = np.sqrt(np.linalg.eigvalsh(found.theta)[:, -1])
    product = [
        song2023.step_size_limit(
            smoothness=s,
            jacobian=j,
            pl=m,
            spread=song2023.spread(sizes, None if default else own),
        )
        for s, j, m, sizes, own in zip(
            smoothness.tolist(), jacobian.tolist(), pl.tolist(),
            found.sizes.tolist(), weights.tolist(), strict=True,
        )
    ]  # fmt: skip
    return np.array(product), pl


def worst_rounds(found, weights, step_size, local_steps):
    """``F(θ̄⁺) / F(θ̄)`` of the worst start: ``‖D^½ (I − Θ W S) D^-½‖²``."""
    eye = np.eye(len(found.client))
    step = eye - step_size[:, None, None] * found.own
    total, power = np.zeros_like(step), np.broadcast_to(eye, step.shape)
    for k in range(STEPS):
        total = total + power * (k < local_steps)[:, None, None]
        power = step @ power
    rate = found.by_slot(weights)
    moved = total * (step_size[:, None] * rate)[:, :, None]
    root = np.sqrt(rate)
    back = np.divide(1.0, root, out=np.zeros_like(root), where=root > 0)
    after = root[:, :, None] * (eye - found.theta @ moved) * back[:, None, :]
    return np.linalg.eigvalsh(after.transpose(0, 2, 1) @ after)[:, -1]


def excess(found, weights, random, *, default=False, rate=1.0):
    """Worst ratio of a round over the promise, minus 1; and what is promised."""
    limit, pl = limits(found, weights, default)
    share = 10 ** random.uniform(-3, 0, len(limit))
    share[random.random(len(limit)) < 0.5] = 1.0
    local_steps = random.integers(1, STEPS + 1, len(limit))
    product = share * limit
    ratio = worst_rounds(found, weights, product / local_steps, local_steps)
    fall = product * pl / 2
    return ratio / (1 - rate * fall) - 1, fall


# Products of 40 terms and of 20 contractions: a few 1e-15.
ROUNDING = 1e-13


@pytest.mark.parametrize("kinds", [["samples"], ["uniform", "random"]])
def test_no_start_of_ten_thousand_linear_problems_breaks_the_promise(kinds, seed):
    random = np.random.default_rng(seed)
    over, fall = [], []
    for kind in kinds * (10 // len(kinds)):
        found = problems(random, 1000)
        pair = excess(found, weights_of(found, kind, random), random)
        over.append(pair[0])
        fall.append(pair[1])
    assert np.concatenate(over).max() <= ROUNDING
    # Nearly all would have shown a promise that is twice too good.
    assert (np.concatenate(fall) > 10 * ROUNDING).mean() > 0.95


def test_the_check_of_linear_problems_can_fail(seed):
    """Negative controls: a promise 5 times better, and the wrong constants."""
    random = np.random.default_rng(seed)
    found = problems(random, 1000)
    for kind in ("samples", "uniform", "random"):
        over, _ = excess(found, weights_of(found, kind, random), random, rate=5.0)
        assert (over > ROUNDING).mean() > 0.9
    # Constants of weights n_i/n where the weights are others.
    weights = weights_of(found, "random", random)
    over, _ = excess(found, weights, random, default=True)
    assert 0.02 < (over > ROUNDING).mean() < 0.2
    large = problems(random, 300, ONE_LARGE, full=True)
    weights = weights_of(large, "uniform", random)
    over, _ = excess(large, weights, random, default=True)
    assert (over > ROUNDING).mean() > 0.1
    over, _ = excess(large, weights, random)
    assert over.max() <= ROUNDING


def simulated(jacobian, sizes, weights, start, targets, step_size, local_steps, rounds):
    """Mean losses of FedAvg on a linear network, parameters stepped one by one."""
    cuts = np.cumsum(sizes)[:-1]
    parts = list(zip(np.split(jacobian, cuts), np.split(targets, cuts), strict=True))

    def loss(theta):
        return sum(
            w * np.sum((a @ theta - y) ** 2) / (2 * len(y))
            for w, (a, y) in zip(weights, parts, strict=True)
        )

    theta, losses = start, [loss(start)]
    for _ in range(rounds):
        moved = np.zeros_like(theta)
        for w, (a, y) in zip(weights, parts, strict=True):
            own = theta.copy()
            for _ in range(local_steps):
                own -= step_size * a.T @ (a @ own - y) / len(y)
            moved += w * (own - theta)
        theta = theta + moved
        losses.append(loss(theta))
    return np.array(losses)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    extra=st.integers(0, 4),
    local_steps=st.integers(1, 20),
    share=st.floats(1e-3, 1.0),
    spoilt=st.floats(-3.0, 0.0),
    default=st.booleans(),
)
def test_a_search_finds_no_linear_run_that_breaks_the_promise(
    seed, sizes, extra, local_steps, share, spoilt, default
):
    random = np.random.default_rng(seed)
    n = sum(sizes)
    jacobian = random.standard_normal((n, n + extra)) * 10.0 ** (
        spoilt * random.random((n, 1))
    )
    raw = np.array(sizes, float) if default else random.random(len(sizes)) + 1e-3
    weights = raw / raw.sum()
    theta = jacobian @ jacobian.T
    cuts = np.cumsum([0, *sizes])
    blocks = [theta[i:j, i:j] / (j - i) for i, j in itertools.pairwise(cuts)]
    root = np.sqrt(np.repeat(weights / sizes, sizes))
    values = np.linalg.eigvalsh(root[:, None] * theta * root)
    pl = float(values[0])
    assume(pl > 1e-12 * values[-1])  # below, μ is rounding
    limit = song2023.step_size_limit(
        smoothness=max(float(np.linalg.eigvalsh(b)[-1]) for b in blocks),
        jacobian=float(np.linalg.norm(jacobian, 2)),
        pl=pl,
        spread=song2023.spread(sizes, None if default else weights.tolist()),
    )
    losses = simulated(
        jacobian,
        sizes,
        weights,
        random.standard_normal(n + extra),
        random.standard_normal(n),
        share * limit / local_steps,
        local_steps,
        6,
    )
    # Losses are sums of 20 squares of sums of 24 terms, of residuals near their start.
    ratio = song2023.worst_ratio(losses, step_size=share * limit, pl=pl)
    assert ratio <= 1 + 1e-12


# Smooth pyramids, with bounds that hold all over the region.

SIZES = (3, 2, 1)


@dataclasses.dataclass
class Federation:
    """A certified pyramid, its data on three clients, and its constants."""

    model: torch.nn.Module
    split: nf.data.Partition
    start: pyramid.Start
    smoothness: float
    jacobian: float

    @property
    def pl(self):
        return nguyen2020.conditions(self.start).alpha0.value / sum(SIZES)

    @property
    def limit(self):
        return song2023.step_size_limit(
            smoothness=self.smoothness,
            jacobian=self.jacobian,
            pl=self.pl,
            spread=song2023.spread(SIZES),
        )


@functools.cache
def federation(seed):
    x, y = data(6, 4, 2, seed)
    wanted = 2 * math.sqrt(3) + 1

    def built(scale):
        return certified(4, 8, [4, 2], seed, scale)

    scale = nguyen2020.certified_scale(
        lambda s: nguyen2020.conditions(started(built(s), x, y)).ratios, wanted
    )
    model = built(scale)
    held = torch.split(torch.arange(6), SIZES)
    split = nf.data.Partition(nf.data.Dataset(x, y), list(held))
    start = started(model, x, y)
    own = [bounds(model, start, x[rows], y[rows]) for rows in held]
    return Federation(
        model,
        split,
        start,
        max(b.smoothness / n for b, n in zip(own, SIZES, strict=True)),
        bounds(model, start, x, y).jacobian,
    )


def run(found, product, rounds, local_steps):
    """Losses of the averages, and how far any iterate came from the start."""
    x, y = found.split.dataset.x, found.split.dataset.y
    origin = plain(found.model)
    losses = [found.start.residual**2 / 12]
    reach = np.zeros(len(origin))

    def look(params):
        now = [value.T.numpy() for value in params.values()]
        np.maximum(reach, pyramid.displacements(now, origin), out=reach)

    for item in nf.fedavg.rounds(
        found.model,
        found.split,
        rounds=rounds,
        local_steps=local_steps,
        step_size=product / local_steps,
        steps=True,
    ):
        if isinstance(item, nf.fedavg.LocalStep):
            for client in range(3):
                look(item.locals.client(client))
            continue
        look(item.params)
        outputs = torch.func.functional_call(found.model, item.params, (x,))
        losses.append((outputs - y).square().sum().item() / 12)
    return np.array(losses), tuple(reach.tolist())


@pytest.mark.parametrize("local_steps", [1, 7])
def test_a_certified_pyramid_keeps_the_promise_at_the_limit(local_steps, seed):
    found = federation(seed)
    product = found.limit * (1 - 1e-9)  # beyond the errors of the start
    losses, reach = run(found, product, 10, local_steps)
    ratio = song2023.worst_ratio(losses, step_size=product, pl=found.pl)
    checked = song2023.check_a_priori(
        song2023.Measurements(
            sizes=SIZES,
            widths=(8, 4, 2),
            local_steps=local_steps,
            step_size=product / local_steps,
            is_pyramid=True,
            is_smooth=True,
            is_fedavg=True,
            start=found.start,
            smoothness=exact(found.smoothness),
            jacobian=exact(found.jacobian),
            displacements=tuple(map(exact, reach)),
            # A loss is a sum of 12 squares; each round's is rounded afresh.
            worst_ratio=estimate(ratio, 1e-14),
        )
    )
    assert checked.applies
    assert checked.verdict is Verdict.holds
    assert checked.conclusion.verdict is Verdict.holds
    assert pyramid.furthest(reach, found.start.radii) > 0


def test_beyond_the_limit_a_certified_pyramid_can_fail(seed):
    """Negative control: the conclusion is no matter of course."""
    found = federation(seed)
    theta = flat(plain(found.model))
    outputs = flat_outputs(found.model, found.split.dataset.x)
    jacobian = torch.func.jacrev(outputs)(theta).reshape(12, -1)
    steepest = torch.linalg.matrix_norm(jacobian, 2).item() ** 2 / 6
    losses, _ = run(found, 2.5 / steepest, 3, 1)
    assert song2023.worst_ratio(losses, step_size=found.limit, pl=found.pl) > 1


def test_s_and_j_hold_for_every_client_all_over_the_region(seed):
    found = federation(seed)
    random = np.random.default_rng(seed)
    origin = plain(found.model)
    for _ in range(3):
        here, there = (flat(inside(random, origin, found.start.radii)) for _ in "ab")
        gap = torch.linalg.vector_norm(there - here)
        for client in range(3):
            x, y = found.split.client(client)
            outputs = flat_outputs(found.model, x)

            def loss(theta, outputs=outputs, y=y):
                return (outputs(theta) - y).square().sum() / (2 * len(y))

            gradient = torch.func.grad(loss)
            moved = torch.linalg.vector_norm(gradient(there) - gradient(here))
            assert moved <= found.smoothness * gap
            norm = torch.linalg.matrix_norm(curvature(loss, here), 2)
            assert norm <= found.smoothness
        outputs = flat_outputs(found.model, found.split.dataset.x)
        jacobian = torch.func.jacrev(outputs)(here).reshape(12, -1)
        assert torch.linalg.matrix_norm(jacobian, 2) <= found.jacobian


# The checks.

START = pyramid.Start(
    smallest=(9.0, 9.0, 4.0),
    largest=(0.5, 0.0, 6.0),
    features=3.0,
    x_norm=1.5,
    x_frobenius=2.0,
    residual=0.01,
    gamma=0.5,
)  # N1 asks 2.16 of 9, N2 4.32 of 27; α₀ = 2.25
GOOD = song2023.Measurements(
    sizes=(4, 0, 6),
    widths=(12, 5, 2),
    local_steps=5,
    step_size=0.001,
    is_pyramid=True,
    is_smooth=True,
    is_fedavg=True,
    almost_zero=0.01,
    start=START,
    smoothness=exact(10.0),  # 1/(4S) = 0.025
    jacobian=exact(2.0),  # √(0.225 / (20 · 2/10)) / 20 = 0.01186 with μ = α₀/10
    pl=exact(0.3),  # √(0.3 / 4) / 20 = 0.01369
    displacements=(exact(0.5), exact(0.5), exact(1.5)),
    worst_ratio=exact(0.9),
    last_over_first=exact(0.001),
    worst_round=exact(0.8),
)
CHECKS = {
    "wide_layer": song2023.check,
    "a_priori": song2023.check_a_priori,
    "a_posteriori": song2023.check_a_posteriori,
}


@pytest.mark.parametrize("name", CHECKS)
def test_the_checks_hold_where_everything_is_as_asked(name):
    found = CHECKS[name](GOOD)
    assert found.name == f"song2023.{name}"
    assert found.applies
    assert found.verdict is Verdict.holds
    assert found.conclusion.verdict is Verdict.holds
    own = "abstract" if name == "wide_layer" else "derived"
    statuses = {h.status for h in [*found.hypotheses, found.conclusion]}
    assert statuses == {found.status} == {own}


@pytest.mark.parametrize("status", ["abstract", "derived"])
def test_no_constant_is_attributed_to_song(status):
    """Only what the abstract says carries the paper's name alone."""
    for function in CHECKS.values():
        found = function(GOOD)
        for condition in [*found.hypotheses, found.conclusion]:
            theirs = condition.source.startswith("Song")
            assert theirs == (condition.status == "abstract")
    numbers = [h.right.value for h in song2023.check(GOOD).hypotheses]
    assert numbers == [10.0, 1.0, 1.0]  # n, and twice "yes"
    assert "is ours" in song2023.check(GOOD).conclusion.note


FAULTS = [
    ("wide_layer", "width of the first layer", {"widths": (9, 5, 2)}),
    ("wide_layer", "largest growth", {"widths": (12, 2, 5)}),
    ("wide_layer", "largest growth", {"widths": (12, 13, 5)}),
    ("wide_layer", "algorithm is FedAvg", {"is_fedavg": False}),
    ("a_priori", "width of the first layer", {"widths": (9, 5, 2)}),
    ("a_priori", "largest growth", {"widths": (12, 2, 5)}),
    ("a_priori", "algorithm is FedAvg", {"is_fedavg": False}),
    ("a_priori", "weights are n_i/n", {"weights": (0.5, 0.0, 0.5)}),
    # √2 · 2 + 1 = 3.83 times 2.16 · 1.1 is more than 9, times 2.16 · 1.08 is not.
    ("a_priori", "N1", {"start": dataclasses.replace(START, residual=0.011)}),
    ("a_priori", "N2", {"start": dataclasses.replace(START, x_norm=2.5)}),
    ("a_priori", "eta K against 1", {"step_size": 0.0051, "jacobian": exact(0.1)}),
    ("a_priori", "eta K against √", {"step_size": 0.0024}),
    (
        "a_priori",
        "‖W_l − W_l⁰‖_F",
        {"displacements": (exact(0.5), exact(1.1), exact(1.5))},
    ),
    ("a_posteriori", "algorithm is FedAvg", {"is_fedavg": False}),
    ("a_posteriori", "eta K against 1", {"step_size": 0.0051, "jacobian": exact(0.1)}),
    ("a_posteriori", "eta K against √", {"step_size": 0.0028}),
    # Σ w_i/n_i = 0.7/4 + 0.3/6 = 0.225 instead of 0.2: 0.0129
    (
        "a_posteriori",
        "eta K against √",
        {"step_size": 0.0026, "weights": (0.7, 0.0, 0.3)},
    ),
]


@pytest.mark.parametrize(("name", "condition", "change"), FAULTS)
def test_each_condition_fails_on_its_own(name, condition, change):
    found = CHECKS[name](dataclasses.replace(GOOD, **change))
    failed = [h.name for h in found.hypotheses if h.verdict is Verdict.fails]
    assert len(failed) == 1
    assert failed[0].startswith(condition)


def test_limits_are_met_just_below_and_not_just_above():
    for function, limit in (
        (song2023.check_a_priori, math.sqrt(0.225 / 4) / 20),
        (song2023.check_a_posteriori, math.sqrt(0.3 / 4) / 20),
    ):
        for factor, verdict in ((1 - 1e-12, "holds"), (1 + 1e-12, "fails")):
            step = factor * limit / 5
            found = function(dataclasses.replace(GOOD, step_size=step))
            assert found.verdict == verdict
        at_limit = function(dataclasses.replace(GOOD, step_size=limit / 5))
        assert at_limit.verdict is Verdict.undecided  # rounding reaches across


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, "holds"),
        ({"smoothness": None}, "undecided"),
        ({"jacobian": None}, "undecided"),
        ({"pl": None}, "undecided"),
        ({"pl": Enclosure(1e-17, -1e-16, 1e-16)}, "fails"),
        ({"pl": Enclosure(0.2, -0.1, 0.5)}, "undecided"),
        ({"pl": exact(-0.1)}, "fails"),
        ({"start": None}, "holds"),
        # eta K = 0.005 against √(0.3 / 4) / (S J): 0.0274 at J = 1, 0.00456 at 6.
        ({"jacobian": Enclosure(2.0, 1.0, 6.0)}, "undecided"),
        ({"smoothness": Enclosure(10.0, 5.0, 30.0)}, "undecided"),
        # eta K = 0.014 is above 0.01369, and below 0.0144 at 1.9, 0.0152 at 9.
        ({"step_size": 0.0028}, "fails"),
        ({"step_size": 0.0028, "jacobian": Enclosure(2.0, 1.9, 2.0)}, "undecided"),
        ({"step_size": 0.0028, "smoothness": Enclosure(10.0, 9.0, 10.0)}, "undecided"),
        # A lower bound below 0 says no more than 0 does: no limit from above.
        ({"step_size": 0.0028, "jacobian": Enclosure(2.0, -1.0, 2.0)}, "undecided"),
        ({"step_size": 1.0, "smoothness": Enclosure(10.0, -1.0, 10.0)}, "undecided"),
    ],
)
def test_a_posteriori_needs_mu_s_and_j_and_nothing_of_the_start(change, verdict):
    found = song2023.check_a_posteriori(dataclasses.replace(GOOD, **change))
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({"pl": None}, "holds"),
        ({"start": None}, "undecided"),
        ({"smoothness": None}, "undecided"),
        ({"displacements": None}, "holds"),  # decided at the start
        ({"displacements": (Enclosure(0.1, 0.1, math.inf),) * 3}, "undecided"),
        ({"weights": (0.4, 0.0, 0.6)}, "holds"),
        ({"widths": (12, 13, 5)}, "holds"),  # n_2 may exceed n_1
        ({"start": dataclasses.replace(START, error=0.1)}, "undecided"),
    ],
)
def test_a_priori_needs_the_start_s_and_j_and_no_run(change, verdict):
    found = song2023.check_a_priori(dataclasses.replace(GOOD, **change))
    assert found.verdict == verdict


def test_a_sampled_s_is_consistent_at_most():
    sampled = dataclasses.replace(GOOD, smoothness=Enclosure(10.0, 10.0, math.inf))
    found = song2023.check_a_posteriori(sampled)
    assert found.verdict is Verdict.undecided
    notes = {h.name: h.note for h in found.hypotheses if h.name.startswith("eta K")}
    assert len(notes) == 2
    assert all("consistent" in note for note in notes.values())
    # What was found breaks a limit already: more can only be worse.
    steep = dataclasses.replace(sampled, step_size=0.0028)
    found = song2023.check_a_posteriori(steep)
    assert found.verdict is Verdict.fails
    assert ["consistent" in h.note for h in found.hypotheses] == [False, True, False]
    certain = song2023.check_a_posteriori(GOOD)
    assert not any(h.note for h in certain.hypotheses)


def test_the_conclusions_are_decided_by_the_run_alone():
    for function in (song2023.check_a_priori, song2023.check_a_posteriori):
        worse = function(dataclasses.replace(GOOD, worst_ratio=exact(1.1)))
        assert worse.conclusion.verdict is Verdict.fails
        unrun = function(dataclasses.replace(GOOD, worst_ratio=None))
        assert unrun.conclusion.verdict is Verdict.undecided
        assert worse.verdict is unrun.verdict is Verdict.holds
    slow = dataclasses.replace(GOOD, last_over_first=exact(0.02))
    assert song2023.check(slow).conclusion.verdict is Verdict.fails
    unrun = dataclasses.replace(GOOD, last_over_first=None)
    assert song2023.check(unrun).conclusion.verdict is Verdict.undecided


def test_other_networks_are_told_so():
    other = dataclasses.replace(GOOD, is_pyramid=False, widths=())
    assert "no models.Pyramid" in song2023.check(other).why_not
    shape = [h.verdict for h in song2023.check(other).hypotheses[:2]]
    assert shape == [Verdict.undecided] * 2
    assert "no models.Pyramid" in song2023.check_a_priori(other).why_not
    assert song2023.check_a_posteriori(other).applies
    kinked = dataclasses.replace(GOOD, is_smooth=False)
    assert song2023.check(kinked).applies
    for function in (song2023.check_a_priori, song2023.check_a_posteriori):
        assert "no S exists" in function(kinked).why_not
