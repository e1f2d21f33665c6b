"""Collins et al. (2022): the contraction of a round, and what stops it."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import ntk_fed as nf
from ntk_fed.errors import NonFiniteError, ShapeMismatchError
from ntk_fed.measured import Verdict
from ntk_fed.theory import collins2022

D, K, C, ETA = 100, 5, 40, 0.12  # d, k and c of the theory notes, and their step size
ROUNDS = {1: 80, 2: 400, 5: 200, 10: 120}  # by local steps
SEEDS = range(6)


@pytest.fixture
def random(seed):
    return np.random.default_rng(seed)


def problem(seed, heads=None):
    """A start close to the truth, and the truth."""
    random = np.random.default_rng(seed)
    truth = collins2022.orthonormal(random.standard_normal((D, K)))
    heads = random.standard_normal((C, K)) if heads is None else heads
    near = truth + 0.01 * random.standard_normal((D, K))
    return collins2022.start(near, ETA), truth, heads


def path(seed, local_steps, heads=None, rounds=None):
    b, truth, heads = problem(seed, heads)
    rounds = ROUNDS[local_steps] if rounds is None else rounds
    options = {"step_size": ETA, "local_steps": local_steps, "rounds": rounds}
    return collins2022.run(b, np.zeros(K), truth, heads, **options), heads


def fitted(found):
    """Factor of a round over the last 20 that rounding has not reached."""
    late = found[found > 1e-9][-21:]
    return (late[-1] / late[0]) ** (1 / 20)


@pytest.mark.parametrize("local_steps", [2, 5, 10])
@pytest.mark.parametrize("number", SEEDS)
def test_the_fitted_contraction_is_the_formula(local_steps, number, seed):
    """To 1e-3, as the theory notes ask, fitted where the slowest direction is left.

    At 80 rounds and two local steps the others still show, by up to 1.4e-3.
    """
    found, heads = path(seed + number, local_steps)
    expected = collins2022.contraction(heads, ETA, local_steps)
    assert fitted(found) == pytest.approx(expected, abs=1e-3)
    assert expected < 0.998, "a path that hardly moves would agree with anything"


@pytest.mark.parametrize("local_steps", [2, 5, 10])
def test_with_a_mean_head_of_zero_nothing_is_left_out(local_steps, seed):
    """The 1e-3 above is the first step's movement along the mean head."""
    heads = np.random.default_rng(seed).standard_normal((C, K))
    frame = np.linalg.qr(heads - heads.mean(axis=0))[0]
    # Directions of unlike diversity: the slowest is left alone soon.
    heads = math.sqrt(C) * frame * np.array([0.7, 1.0, 1.2, 1.4, 1.6])
    assert collins2022.diversity(heads) == pytest.approx(0.49)
    found, _ = path(seed, local_steps, heads=heads, rounds=2 * ROUNDS[local_steps])
    expected = collins2022.contraction(heads, ETA, local_steps)
    assert fitted(found) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("number", SEEDS)
def test_one_local_step_learns_no_representation(number, seed):
    """D-GD: flat within 1e-2 in 80 rounds, although its own loss falls and falls."""
    b, truth, heads = problem(seed + number)
    options = {"step_size": ETA, "local_steps": 1, "rounds": 80}
    path = list(collins2022.models(b, np.zeros(K), truth, heads, **options))
    found = np.array([collins2022.dist(own, truth) for own, _ in path])
    assert np.ptp(found) < 1e-2
    assert found.min() >= collins2022.one_step_floor(found[0])
    # The mean loss is that of the mean head, up to a constant.
    aim = truth @ heads.mean(axis=0)
    losses = [np.square(own @ w - aim).sum() / 2 for own, w in path]
    assert losses[-1] < found[0] ** 2 * losses[0]  # its head fits within the span
    assert (np.diff(losses) < 0).all()
    assert collins2022.contraction(heads, ETA, 1) == 1.0


def test_identical_heads_teach_one_direction(seed):
    alike = np.ones((C, K))
    found, _ = path(seed, 10, heads=alike)
    different, _ = path(seed, 10)
    assert found[-1] > 0.5 * found[0]
    assert different[-1] < 0.1 * different[0]
    assert collins2022.contraction(alike, ETA, 10) == pytest.approx(1.0, abs=1e-12)
    assert collins2022.diversity(alike) == 0.0


def test_fewer_heads_than_dimensions_teach_their_span(seed):
    three = np.linalg.qr(np.random.default_rng(seed).standard_normal((K, 3)))[0].T
    few = np.tile(2 * three, (14, 1))[:C]
    b, truth, _ = problem(seed, few)
    options = {"step_size": ETA, "local_steps": 10, "rounds": 100}
    *_, (last, _) = collins2022.models(b, np.zeros(K), truth, few, **options)
    inside = np.linalg.svd(few)[2][:3].T  # (k, 3)
    outside = np.linalg.svd(few)[2][3:].T  # (k, 2)

    def missed(representation, heads):
        own = collins2022.orthonormal(representation)
        aim = truth @ heads
        return np.linalg.norm(aim - own @ (own.T @ aim), 2)

    assert missed(last, inside) < 1e-2 * missed(b, inside)
    assert missed(last, outside) > 0.5 * missed(b, outside)
    assert collins2022.diversity(few) == pytest.approx(0.0, abs=1e-12)
    assert collins2022.contraction(few, ETA, 10) == pytest.approx(1.0, abs=1e-12)


def test_dist_is_the_sine_of_the_largest_angle():
    axes = np.eye(4)
    turned = np.stack([axes[0], np.cos(0.3) * axes[1] + np.sin(0.3) * axes[2]], axis=1)
    assert collins2022.dist(7.0 * turned, axes[:, :2]) == pytest.approx(np.sin(0.3))
    assert collins2022.dist(axes[:, 2:], axes[:, :2]) == pytest.approx(1.0)
    mixed = axes[:, :2] @ np.array([[1.0, 5.0], [2.0, 1.0]])
    assert collins2022.dist(mixed, axes[:, :2]) == pytest.approx(0.0, abs=1e-15)
    tensors = torch.from_numpy(turned), torch.from_numpy(axes[:, :2])
    assert collins2022.dist(*tensors) == pytest.approx(np.sin(0.3))


def test_the_formulas_by_hand():
    """Heads (1, 0) and (0, 2) at η = 1/2, K = 3: x = 1/4 and 1, learned 7/16 and 1."""
    heads = np.array([[1.0, 0.0], [0.0, 2.0]])
    assert collins2022.contraction(heads, 0.5, 3) == pytest.approx(1 - 7 / 32)
    assert collins2022.largest_head(heads, 0.5) == pytest.approx(1.0)
    # About the mean (½, 1) both are ±(½, −1): one direction only.
    assert collins2022.diversity(heads) == pytest.approx(0.0, abs=1e-15)
    square = np.array([[1.0, 2.0], [-1.0, 2.0], [1.0, -2.0], [-1.0, -2.0]])
    assert collins2022.diversity(square + 3.0) == pytest.approx(1.0)
    # A head 0 teaches nothing, and divides nothing.
    none = np.array([[1.0], [0.0]])
    assert collins2022.contraction(none, 0.5, 3) == pytest.approx(1 - 7 / 32)
    # log(e³) / (¼ · 4 · ½)
    found = collins2022.rounds_needed(
        math.exp(-3), step_size=0.5, local_steps=4, diversity=0.5
    )
    assert found == pytest.approx(6.0)
    assert collins2022.rounds_needed(
        0.1, step_size=0.5, local_steps=4, diversity=0.0
    ) == math.inf  # fmt: skip
    assert collins2022.one_step_floor(0.5) == pytest.approx(0.35)


def test_a_start_is_orthonormal_but_for_the_step():
    """Twice an orthonormal basis at η = ¼, whatever the length of the columns."""
    found = collins2022.start(np.array([[7.0, 7.0], [0.0, 3.0], [0.0, 0.0]]), 0.25)
    np.testing.assert_allclose(0.25 * found.T @ found, np.eye(2), atol=1e-15)
    assert not found[2].any()


@pytest.mark.parametrize(("factor", "refused"), [(3.0, True), (5.0, False)])
def test_columns_are_dependent_up_to_rounding(factor, refused):
    """Four rows: up to 4 eps of the largest singular value, here 3."""
    given = np.zeros((4, 2))
    given[0, 0], given[1, 1] = 3.0, 3.0 * factor * 2**-52
    if refused:
        with pytest.raises(ValueError, match="dependent"):
            collins2022.orthonormal(given)
        return
    np.testing.assert_allclose(
        np.abs(collins2022.orthonormal(given)), np.eye(4)[:, :2], atol=1e-15
    )


def test_as_many_columns_as_rows_are_a_representation():
    assert collins2022.dist(np.eye(3), np.eye(3)[::-1]) == pytest.approx(0, abs=1e-15)


def test_diversity_is_never_below_0(random):
    """Of heads on a line the smallest eigenvalue is 0, rounded to either side."""
    for _ in range(50):
        heads = np.outer(random.standard_normal(7), random.standard_normal(2))
        assert 0 <= collins2022.diversity(heads) < 1e-14


def test_a_round_of_two_steps_by_hand():
    """One dimension, B_* = 1, heads 2 and 4, η = ½, from B = 1 and w = 0.

    The first step brings w to half of the head, 1 and 2, and leaves B. Then products
    miss 1 and 2: (B, w) end at (3/2, 3/2) and (3, 3), in the mean at 9/4.
    """
    one, heads = np.ones((1, 1)), np.array([[2.0], [4.0]])
    options = {"step_size": 0.5, "local_steps": 2, "rounds": 1}
    found = list(collins2022.models(one, np.zeros(1), one, heads, **options))
    ends = np.array([(b[0, 0], w[0]) for b, w in found])
    assert ends == pytest.approx(np.array([[1.0, 0.0], [2.25, 2.25]]))


def whitened(random, n, d):
    """Inputs whose covariance is exactly 1: a mean loss is a population loss."""
    return math.sqrt(n) * np.linalg.qr(random.standard_normal((n, d)))[0]


@pytest.mark.parametrize("local_steps", [1, 2, 7])
def test_runs_are_those_of_the_network_on_whitened_inputs(local_steps, random):
    """Coordinates in the span of both representations lose nothing."""
    d, k, c, n = 12, 3, 4, 15
    truth = collins2022.orthonormal(random.standard_normal((d, k)))
    heads = random.standard_normal((c, k))
    b = collins2022.start(random.standard_normal((d, k)), ETA)
    w = 0.1 * random.standard_normal(k)
    xs = [whitened(random, n, d) for _ in heads]
    x = torch.from_numpy(np.concatenate(xs))
    y = np.concatenate(
        [one @ truth @ head for one, head in zip(xs, heads, strict=True)]
    )
    data = nf.data.Dataset(x, torch.from_numpy(y)[:, None])
    split = nf.data.Partition(data, list(torch.arange(c * n).split(n)))
    model = nf.models.SharedRepresentation(d, k, start=torch.from_numpy(b))
    with torch.no_grad():
        model.head.copy_(torch.from_numpy(w))
    options = {"step_size": ETA, "local_steps": local_steps, "rounds": 20}
    found = list(collins2022.models(b, w, truth, heads, **options))[1:]
    run = nf.fedavg.rounds(model, split, **options)
    for (own_b, own_w), item in zip(found, run, strict=True):
        # 140 steps of sums of a dozen terms of order one, not contracting everywhere.
        expected = item.params["representation"].numpy()
        np.testing.assert_allclose(own_b, expected, rtol=0, atol=1e-11)
        np.testing.assert_allclose(own_w, item.params["head"].numpy(), atol=1e-11)


def test_the_fine_tuning_formula_against_monte_carlo(seed):
    """20,000 clients, their mean within five standard errors: one in 1.7 million."""
    random = np.random.default_rng(seed)
    d, k, n, noise = 12, 3, 9, 0.7
    b = collins2022.orthonormal(random.standard_normal((d, k)))
    target = random.standard_normal(d) / 3  # of size 1 or so, as the noise is
    missed = target - b @ (b.T @ target)
    x = random.standard_normal((20_000, n, d))
    y = x @ target + noise * random.standard_normal((20_000, n))
    w = (np.linalg.pinv(x @ b) @ y[..., None])[..., 0]  # (clients, k)
    excess = np.square(w @ b.T - target).sum(axis=1) / 2
    error = excess.std() / np.sqrt(len(excess))
    size = float(np.linalg.norm(missed))
    expected = collins2022.fine_tuning_excess(size, noise, k, n)
    assert abs(excess.mean() - expected) < 5 * error
    assert error < 0.02 * expected
    # Without the noise, or a sample fewer, it is another number.
    for other in (
        collins2022.fine_tuning_excess(size, 0.0, k, n),
        collins2022.fine_tuning_excess(size, noise, k, n - 1),
    ):
        assert abs(excess.mean() - other) > 5 * error


def test_the_fine_tuning_formula_by_hand():
    """½ · 4 + ½ (9 + 4) · 2/5."""
    assert collins2022.fine_tuning_excess(2.0, 3.0, 2, 8) == pytest.approx(4.6)
    # The fewest samples with which it is finite: ½ · 4 + ½ (9 + 4) · 2/1.
    assert collins2022.fine_tuning_excess(2.0, 3.0, 2, 4) == pytest.approx(15.0)


HEADS = 5 * np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
GOOD = collins2022.Measurements(
    step_size=0.2,  # x = 1 for all: everything after the first step, half of it each
    local_steps=2,
    is_representation=True,
    is_plain=True,
    heads=HEADS,
    start_gap=1e-15,
    covariance_gap=1e-14,
    dists=0.05 * 0.45 ** np.arange(18.0),
)
FAULTS = {
    "algorithm is FedAvg": {"is_plain": False},
    "local steps": {"local_steps": 1},
    "diversity": {"heads": np.ones((4, 2))},
    "η² ‖w_{*,i}‖²": {"heads": 1.5 * HEADS},
    "start": {"start_gap": 1e-3},
    "population loss": {"covariance_gap": 0.3},
    "dist where": {"dists": 0.4 * 0.99 ** np.arange(41.0)},
}


def test_the_check_holds_where_everything_is_as_asked():
    found = collins2022.check(GOOD)
    assert found.applies
    assert found.verdict is Verdict.holds
    assert found.conclusion.verdict is Verdict.holds
    assert found.status == "abstract"
    assert found.conclusion.status == "derived"
    assert found.constants["contraction per round"].value == pytest.approx(0.5)
    assert found.conclusion.right.value == pytest.approx(0.501)


@pytest.mark.parametrize("name", FAULTS)
def test_each_hypothesis_fails_on_its_own(name):
    found = collins2022.check(dataclasses.replace(GOOD, **FAULTS[name]))
    failed = [h.name for h in found.hypotheses if h.verdict is Verdict.fails]
    assert len(failed) == 1
    assert failed[0].startswith(name)


@pytest.mark.parametrize(
    ("change", "name", "verdict"),
    [
        ({"start_gap": 1e-9}, "start", "holds"),
        ({"start_gap": 1.001e-9}, "start", "fails"),
        ({"start_gap": None}, "start", "undecided"),
        ({"covariance_gap": 1e-9}, "population loss", "holds"),
        ({"covariance_gap": 1.001e-9}, "population loss", "fails"),
        ({"covariance_gap": None}, "population loss", "undecided"),
        ({"dists": np.full(9, 0.1)}, "dist where", "holds"),
        ({"dists": np.full(9, 0.1001)}, "dist where", "fails"),
        # Of 9 dists the last half of the run begins with the fifth, of 10 too.
        ({"dists": np.repeat([0.2, 0.1], [4, 5])}, "dist where", "holds"),
        ({"dists": np.repeat([0.2, 0.1], [5, 4])}, "dist where", "fails"),
        ({"dists": np.repeat([0.2, 0.1], [4, 6])}, "dist where", "holds"),
        ({"dists": np.repeat([0.2, 0.1], [5, 5])}, "dist where", "fails"),
        # Rounding does not count: of the first three that begins with the second.
        ({"dists": np.repeat([0.2, 1e-9], [3, 4])}, "dist where", "fails"),
        ({"dists": np.array([])}, "dist where", "undecided"),
        # Heads of length 5: η²‖w‖² is 2, and 1e-13 of it is taken for rounding.
        ({"step_size": math.sqrt(2) / 5}, "η² ‖w_{*,i}‖²", "undecided"),
        ({"step_size": math.sqrt(2 - 1e-13) / 5}, "η² ‖w_{*,i}‖²", "undecided"),
        ({"step_size": math.sqrt(2 - 4e-13) / 5}, "η² ‖w_{*,i}‖²", "holds"),
        ({"step_size": math.sqrt(2 + 4e-13) / 5}, "η² ‖w_{*,i}‖²", "fails"),
        # μ² = e²/2 of ±(1, 0) and ±(0, e), against 1e-13 of the longest head.
        ({"heads": HEADS / 5 * [1.0, math.sqrt(2.8e-13)]}, "diversity", "holds"),
        ({"heads": HEADS / 5 * [1.0, math.sqrt(1.4e-13)]}, "diversity", "fails"),
        ({"heads": np.zeros((4, 2))}, "diversity", "fails"),
    ],
)
def test_each_hypothesis_decides_at_its_threshold(change, name, verdict):
    found = collins2022.check(dataclasses.replace(GOOD, **change))
    (one,) = (h for h in found.hypotheses if h.name.startswith(name))
    assert one.verdict == verdict


def test_the_constants_and_their_rounding_by_hand():
    found = collins2022.check(GOOD).constants
    diversity = found["diversity μ²"]
    # Heads of length 5 along two axes; 1e-13 · 25 to either side.
    assert diversity.value == pytest.approx(12.5)
    assert diversity.width == pytest.approx(5e-12, rel=1e-2, abs=0)
    assert found["contraction per round"].width == pytest.approx(2e-13, rel=1e-2, abs=0)
    assert found["dist at the start"].value == 0.05
    assert found["dist at the end"].value == 0.05 * 0.45**17
    # Beyond η²‖w‖² = 2 there is no formula and nothing to compare with.
    wild = collins2022.check(dataclasses.replace(GOOD, heads=1.5 * HEADS))
    assert "contraction per round" not in wild.constants
    assert wild.conclusion.verdict is Verdict.undecided


def test_every_line_says_where_it_is_from():
    found = collins2022.check(GOOD)
    assert found.name == "collins2022.representation"
    assert found.source == collins2022.SOURCE
    assert "(2022), arXiv:2205.13692" in found.source
    for line in (*found.hypotheses, found.conclusion):
        assert line.form == "mean"
        assert line.source == found.source
    ours = [line.name for line in found.hypotheses if line.status == "derived"]
    assert ours == [
        "η² ‖w_{*,i}‖², largest",
        "dist where the last half of the run begins",
    ]
    assert {line.status for line in found.hypotheses} == {"derived", "abstract"}


@pytest.mark.parametrize(
    ("dists", "expected"),
    [
        # Factors 1/5 and 2/5 after the middle.
        ([1.0, 0.5, 0.25, 0.05, 0.02], (math.sqrt(0.08), 0.2, 0.4)),
        ([1.0, 0.5, 0.25, 0.25, 0.05, 0.02], (0.08 ** (1 / 3), 0.2, 1.0)),
        # Not below its start: the whole run's factor, at least.
        ([0.2, 0.9, 0.9, 0.45, 0.2], (1.0, 1.0, 1.0)),
        ([0.1, 0.9, 0.9, 0.45, 0.1625], (1.1290, 1.1290, 1.1290)),
        ([0.1, 0.1, 0.1, 0.2, 0.1625], (1.2748, 1.1290, 2.0)),
        # 1e-9 and what comes after it is rounding, more than that is not.
        ([1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-9, 5.0, 7.0], (0.1, 0.1, 0.1)),
        ([1.0, 1e-2, 1e-4, 1e-6, 1.1e-9], (math.sqrt(1.1e-5), 1.1e-3, 0.01)),
        ([1.0, 0.1, 0.01, 1e-3, 1e-9, 0.1, 0.1], None),
        ([1.0, 0.5, 0.25, 0.05], None),  # three rounds
    ],
)
def test_the_late_contraction_by_hand(dists, expected):
    found = collins2022.late_contraction(np.array(dists))
    if expected is None:
        assert found is None
        return
    # (0.1625/0.1)^¼ and √1.625 are given to four digits.
    ends = (found.value, found.lower, found.upper)
    assert ends == pytest.approx(expected, rel=1e-4, abs=0)


def test_a_mean_factor_lies_between_the_smallest_and_the_largest():
    """Powers of 2 divide exactly; their mean by a root is rounded."""
    for factor in (0.5, 0.25, 0.125):
        for rounds in range(5, 12):
            found = collins2022.late_contraction(factor ** np.arange(float(rounds)))
            if found is not None:  # 1/8 is down to 1e-9 after ten rounds
                assert found.lower == found.value == found.upper == factor


@pytest.mark.parametrize(
    ("dists", "verdict"),
    [
        (0.05 * 0.5005 ** np.arange(18.0), "holds"),
        (0.05 * 0.52 ** np.arange(18.0), "fails"),  # slower than the formula
        (np.full(20, 0.05), "fails"),  # flat
        (0.05 + 0.001 * 0.3 ** np.arange(20.0)[::-1], "fails"),  # rises
        # Falls in its second half, but not below the start.
        (np.concatenate([[0.01, 0.1, 0.9, 0.9], 0.9 * 0.45 ** np.arange(5)]), "fails"),
        # Some rounds of the second half are faster, some slower.
        (0.05 * 0.5 ** (np.arange(18.0) + 0.2 * (-1.0) ** np.arange(18)), "undecided"),
        (np.array([0.05, 0.02, 0.01]), "undecided"),  # too short
        # What comes below 1e-9 is rounding and does not count.
        (np.maximum(0.05 * 0.45 ** np.arange(80.0), 1e-16), "holds"),
    ],
)
def test_the_conclusion_is_that_dist_contracts_as_it_should(dists, verdict):
    found = collins2022.check(dataclasses.replace(GOOD, dists=dists))
    assert found.conclusion.verdict == verdict


@pytest.mark.parametrize("factor", [1.0, 1.0003])
def test_no_allowance_lets_a_run_pass_that_does_not_fall(factor):
    """Heads of length 5 and η²‖w‖² = 5e-4: the formula is 1 − 2.5e-4."""
    slow = {"step_size": math.sqrt(5e-4) / 5, "dists": 0.05 * factor ** np.arange(18.0)}
    found = collins2022.check(dataclasses.replace(GOOD, **slow))
    formula = found.constants["contraction per round"].value
    assert formula == pytest.approx(1 - 2.5e-4, rel=1e-12)
    assert found.conclusion.right.value == 1.0
    assert found.conclusion.verdict is Verdict.fails


def test_without_a_run_or_heads_nothing_is_made_up():
    unrun = collins2022.check(dataclasses.replace(GOOD, dists=None))
    assert unrun.verdict is unrun.conclusion.verdict is Verdict.undecided
    unknown = collins2022.check(dataclasses.replace(GOOD, heads=None))
    assert unknown.verdict is unknown.conclusion.verdict is Verdict.undecided
    other = collins2022.check(dataclasses.replace(GOOD, is_representation=False))
    assert not other.applies
    assert "not SharedRepresentation" in other.why_not


@pytest.mark.parametrize("number", SEEDS)
def test_the_check_holds_of_runs_of_the_theorem(number, seed):
    """And not of D-GD, whose conclusion is not that dist falls as the formula says."""
    for local_steps in (1, 10):
        dists, heads = path(seed + number, local_steps)
        found = collins2022.check(
            collins2022.Measurements(
                step_size=ETA,
                local_steps=local_steps,
                is_representation=True,
                is_plain=True,
                heads=heads,
                start_gap=0.0,
                covariance_gap=0.0,
                dists=dists,
            )
        )
        expected = Verdict.holds if local_steps > 1 else Verdict.fails
        assert found.verdict is expected or dists[0] > 0.1
    assert found.conclusion.verdict is Verdict.holds


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: collins2022.fine_tuning_excess(1.0, 1.0, 3, 4), ValueError, "n must"),
        (
            lambda: collins2022.contraction(np.ones((2, 2)), 1.0, 3),  # 2 exactly
            ValueError,
            "must be below 2 for every head",
        ),
        (
            lambda: collins2022.contraction(np.ones((2, 2)), 1.1, 3),
            ValueError,
            "must be below 2 for every head",
        ),
        (
            lambda: collins2022.contraction(np.ones((2, 2)), 0.1, 0),
            ValueError,
            "local_steps must be at least 1",
        ),
        (lambda: collins2022.orthonormal(np.eye(3)[:2]), ShapeMismatchError, "at most"),
        (lambda: collins2022.orthonormal(np.ones((4, 2))), ValueError, "dependent"),
        (
            lambda: collins2022.orthonormal(np.full((4, 2), np.nan)),
            NonFiniteError,
            "NaN or infinity",
        ),
    ],
)
def test_bad_input_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()
