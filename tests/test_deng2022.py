"""Deng et al. (2022): fits against planted constants, envelopes against corners."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

import ntk_fed as nf
from ntk_fed import drift
from ntk_fed.errors import NonFiniteError, ShapeMismatchError
from ntk_fed.fedavg import Objective
from ntk_fed.measured import Enclosure, Verdict, exact
from ntk_fed.theory import deng2022
from ntk_fed.theory.slopes import loglog_slope


@pytest.fixture
def random(seed):
    return np.random.default_rng(seed)


def pairs(random, n, decades=1.0):
    """Displacements and losses of unlike sizes over so many decades."""
    return 10 ** (decades * random.standard_normal((2, n)))


@pytest.mark.parametrize(("a", "b"), [(3.0, 0.2), (0.0, 2.0), (5.0, 0.0), (0.0, 0.0)])
def test_planted_constants_are_found_again(random, a, b):
    d, f = pairs(random, 40)
    for method in (deng2022.fit, deng2022.envelope):
        found = method(a * d + b * f, d, f)
        # Least squares loses digits with the angle; a linear programme stops at 1e-7.
        assert found.A == pytest.approx(a, rel=1e-6, abs=1e-6 * b)
        assert found.B == pytest.approx(b, rel=1e-6, abs=1e-6 * a)
        assert found.pairs == 40
        assert not found.collinear
        if a == b == 0:
            assert math.isnan(found.residual)
        else:
            assert found.residual < 1e-6


def test_least_squares_are_exact_to_rounding(random):
    d, f = pairs(random, 40)
    found = deng2022.fit(3 * d + 0.2 * f, d, f)
    assert found.A == pytest.approx(3.0, rel=1e-12)
    assert found.B == pytest.approx(0.2, rel=1e-12)
    assert found.residual < 1e-14


def test_least_squares_by_hand():
    # Orthogonal columns: A = 2, and B would be −1 where it must not be negative.
    found = deng2022.fit(
        np.array([2.0, 0.0, 4.0]), np.array([1.0, 0.0, 2.0]), np.array([0.0, 3.0, 0.0])
    )
    assert (found.A, found.B) == pytest.approx((2.0, 0.0))
    assert found.sine == pytest.approx(1.0)
    # g = (1, 0), d = (1, 1), F = 0: A = 1/2 leaves √(1/2) of 1.
    one = np.ones(2)
    found = deng2022.fit(np.array([1.0, 0.0]), one, np.zeros(2))
    assert (found.A, found.B) == pytest.approx((0.5, 0.0))
    assert found.residual == pytest.approx(math.sqrt(0.5))


def corners(g, d, f):
    """The lowest ``Σ (A d + B F)`` over all corners of the feasible set."""
    lines = [(u, v, w) for u, v, w in zip(d, f, g, strict=True) if w > 0]
    lines += [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0)]  # A = 0, B = 0
    best = math.inf
    for one, other in itertools.combinations(lines, 2):
        det = one[0] * other[1] - one[1] * other[0]
        if det == 0:
            continue
        a = (one[2] * other[1] - one[1] * other[2]) / det
        b = (one[0] * other[2] - one[2] * other[0]) / det
        # A corner's own rounding, 1e-12 of each row, is no violation.
        if min(a, b) >= -1e-12 and (a * d + b * f >= g * (1 - 1e-12)).all():
            best = min(best, a * d.sum() + b * f.sum())
    return best


@pytest.mark.parametrize("decades", [0.3, 1.0, 3.0])
def test_an_envelope_holds_on_every_pair_and_no_corner_is_lower(random, decades):
    for _ in range(30):
        n = int(random.integers(1, 16))
        d, f = pairs(random, n, decades)
        g = (random.random(n) * d + random.random(n) * f) * (random.random(n) > 0.1)
        found = deng2022.envelope(g, d, f)
        assert (found.A * d + found.B * f >= g).all()
        cost = found.A * d.sum() + found.B * f.sum()
        # Corners round by 1e-12 and may lie as much below the set.
        assert cost <= corners(g, d, f) * (1 + 1e-11)


def test_least_squares_are_no_envelope(random):
    """Negative control: the fit runs through the pairs, not above them."""
    d, f = pairs(random, 40)
    g = random.random(40) * d + random.random(40) * f
    found = deng2022.fit(g, d, f)
    assert (found.A * d + found.B * f < g).any()


def test_an_envelope_holds_where_numbers_span_many_decades(random):
    """A run that converges: everything falls by 24 decades, and the gaps with it."""
    fall = 10 ** -np.linspace(0, 24, 200)
    d, f = fall * random.random(200), fall * random.random(200)
    g = (0.7 * d + 1e-4 * f) * random.random(200)
    found = deng2022.envelope(g, d, f)
    assert (found.A * d + found.B * f >= g).all()
    # The planted constants are an envelope too.
    assert found.A * d.sum() + found.B * f.sum() <= (0.7 * d + 1e-4 * f).sum()


@pytest.mark.parametrize("method", [deng2022.fit, deng2022.envelope])
def test_constants_have_the_units_of_the_inequality(random, method):
    d, f = pairs(random, 30)
    g = random.random(30) * d + random.random(30) * f
    plain = method(g, d, f)
    for sg, sd, sf in [(1e-9, 1.0, 1.0), (1.0, 1e8, 1.0), (1e5, 1e-20, 1e12)]:
        found = method(sg * g, sd * d, sf * f)
        # The scaled problem is the same up to a few roundings.
        assert found.A == pytest.approx(plain.A * sg / sd, rel=1e-9)
        assert found.B == pytest.approx(plain.B * sg / sf, rel=1e-9)
        assert found.residual == pytest.approx(plain.residual, rel=1e-9)
        assert found.sine == pytest.approx(plain.sine, rel=1e-9)


@pytest.mark.parametrize("method", [deng2022.fit, deng2022.envelope])
def test_collinear_numbers_are_told(random, method):
    d, f = pairs(random, 30)
    assert method(d + f, d, 3 * d).collinear
    assert method(d + f, d, np.zeros(30)).collinear
    assert method(d, np.zeros(30), f).collinear
    assert method(d[:1], d[:1], f[:1]).collinear  # one pair says nothing of two
    assert not method(d + f, d, d * (1 + 1e-3 * random.random(30))).collinear


def test_the_sine_of_known_columns():
    g = np.ones(2)
    found = deng2022.fit(g, np.array([1.0, 0.0]), np.array([1.0, 1.0]))
    assert found.sine == pytest.approx(math.sqrt(0.5), rel=1e-15)
    # A small angle keeps its digits: 1e-7 rounds by eps of 1, which are 1e-9 of it.
    small = deng2022.fit(g, np.array([1.0, 0.0]), np.array([1.0, 1e-7]))
    assert small.sine == pytest.approx(1e-7, rel=1e-8, abs=0)
    assert deng2022.Fit(1.0, 1.0, 0.0, 0.99e-6, 2).collinear
    assert not deng2022.Fit(1.0, 1.0, 0.0, 1e-6, 2).collinear


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({0: np.array([np.nan, 1.0])}, NonFiniteError, "NaN"),
        ({1: np.array([1.0, np.inf])}, NonFiniteError, "infinity"),
        ({1: np.array([-1.0, 1.0])}, ValueError, "not be negative"),
        ({1: np.array([-1e-9, 1.0])}, ValueError, "not be negative"),
        ({2: np.array([-1.0, 1.0])}, ValueError, "not be negative"),
        (dict.fromkeys(range(3), np.zeros(0)), ShapeMismatchError, "one pair"),
    ],
)
@pytest.mark.parametrize("method", [deng2022.fit, deng2022.envelope])
def test_bad_pairs_are_refused(method, change, error, words):
    with pytest.raises(error, match=words):
        method(*[change.get(i, np.ones(2)) for i in range(3)])


def test_a_drift_out_of_nothing_has_no_envelope():
    d, g = np.array([0.0, 1.0]), np.ones(2)
    with pytest.raises(ValueError, match="all its columns 0"):
        deng2022.envelope(g, d, d)
    # A pair without loss is A's, one without displacement is B's.
    found = deng2022.envelope(np.array([2.0, 3.0]), d, 1 - d)
    assert (found.A, found.B) == pytest.approx((3.0, 2.0))


def test_separation_by_hand_and_against_every_pair(random):
    x = np.array([[0.0, 0.0], [3.0, 4.0], [3.0, 4.0 + 1e-9]])
    found = deng2022.separation(x)
    # From differences: 9 of the 16 digits of 1e-9 are left, since 4 + 1e-9 is rounded.
    assert found.value == x[2, 1] - 4.0
    found = deng2022.separation(x[:2])
    assert found.value == 5.0
    # d + 4 = 6 roundings of 5 on each side, themselves rounded
    assert found.width == pytest.approx(60 * np.finfo(float).eps, rel=0.1, abs=0)
    x = random.standard_normal((600, 3))  # more than a block
    x[599] = x[5] + 1e-5
    least = min(math.dist(x[i], x[j]) for i, j in itertools.combinations(range(600), 2))
    found = deng2022.separation(x)
    assert found.lower <= least <= found.upper
    assert found.value == pytest.approx(math.sqrt(3) * 1e-5, rel=1e-6)


def test_equal_inputs_are_not_separated_and_one_has_no_separation():
    found = deng2022.separation(np.ones((2, 3)))
    assert (found.lower, found.value, found.upper) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="two samples at least, got 1"):
        deng2022.separation(np.ones((1, 3)))
    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        deng2022.separation(np.array([[1.0], [np.inf]]))


def test_slopes_of_exact_power_laws():
    widths = [64, 256, 1024, 4096]
    found = deng2022.width_trend(widths, [3 * m**-0.5 for m in widths])
    assert found.value == pytest.approx(-0.5, rel=1e-12)
    assert found.lower <= -0.5 <= found.upper
    assert found.width < 1e-6


def test_an_interval_is_never_narrower_than_rounding():
    # log y = log x = 0, 10, 20 exactly: 4 (20 + 1) eps over √200 on each side; the ends
    # are rounded to multiples of eps, and a quantile of 0.016 hides the residuals.
    x = np.exp([0.0, 10.0, 20.0])
    found = loglog_slope(x, x, confidence=0.01)
    half = 4 * 21 * np.finfo(float).eps / math.sqrt(200)
    assert found.width == pytest.approx(2 * half, rel=0.2, abs=0)


def test_widths_are_held_to_the_confidence_asked_for():
    x, y = np.exp([0.0, 1.0, 2.0]), np.exp([0.0, 2.0, 1.0])
    # Quantiles of Student's t, one degree of freedom: tan(π c / 2).
    for found, confidence in (
        (deng2022.width_trend(x, y, confidence=0.5), 0.5),
        (deng2022.width_trend(x, y), 0.95),
        (loglog_slope(x, y), 0.95),
    ):
        half = math.tan(math.pi * confidence / 2) * math.sqrt(0.75)
        assert found.width == pytest.approx(2 * half, rel=1e-9)
        assert found.method == f"t interval, {confidence:.0%}"


def test_the_t_interval_by_hand():
    # log x = 0, 1, 2; log y = 0, 2, 1: slope 1/2, residuals −½, 1, −½, so that the
    # standard error is √(1.5 / 1 / 2); one degree of freedom.
    x, y = np.exp([0.0, 1.0, 2.0]), np.exp([0.0, 2.0, 1.0])
    found = loglog_slope(x, y, confidence=0.9)
    half = 6.313751514675 * math.sqrt(0.75)
    assert found.value == pytest.approx(0.5)
    assert found.upper == pytest.approx(0.5 + half, rel=1e-9)
    assert found.lower == pytest.approx(0.5 - half, rel=1e-9)


def test_the_interval_covers_as_often_as_it_says(random):
    widths = np.array([64.0, 128, 256, 512, 1024])
    trials = 400
    hits = 0
    for _ in range(trials):
        noise = np.exp(0.3 * random.standard_normal(5))
        found = loglog_slope(widths, widths**-0.7 * noise, confidence=0.9)
        hits += found.lower <= -0.7 <= found.upper
    # Binomial: five standard deviations of √(0.9 · 0.1 / 400) = 0.015.
    assert abs(hits / trials - 0.9) < 0.075


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        ([1, 2, 3], [1.0, 0.0, 1.0], "y must be positive and finite"),
        ([1, 0, 3], [1.0, 1.0, 1.0], "x must be positive and finite"),
        ([1, 2, 3], [1.0, np.inf, 1.0], "y must be positive and finite"),
        ([1, 2], [1.0, 2.0], "three points"),
        ([2, 2, 2], [1.0, 2.0, 3.0], "two different x"),
        ([1, 2, 3], [1.0, 2.0], "one y per x"),
    ],
)
def test_bad_points_are_refused(x, y, words):
    with pytest.raises(ValueError, match=words):
        loglog_slope(x, y)


@pytest.mark.parametrize("confidence", [0.0, 1.0])
def test_a_confidence_out_of_range_is_refused(confidence):
    with pytest.raises(ValueError, match="confidence must be in"):
        loglog_slope([1, 2, 3], [1, 2, 3], confidence=confidence)


def test_a_geometric_loss_is_straight_and_one_that_turns_is_not():
    rounds = np.arange(21.0)
    line = deng2022.straightness(5 * np.exp(-0.3 * rounds))
    assert line.slope == pytest.approx(-0.3, rel=1e-12)
    assert line.r_squared == pytest.approx(1.0)
    assert line.falls
    assert line.deviation is not None
    assert line.deviation.lower <= 0 <= line.deviation.upper
    assert line.deviation.upper < 1e-13
    # Every fifth round: the slope stays per round.
    sparse = deng2022.straightness(5 * np.exp(-0.3 * rounds), 5 * rounds)
    assert sparse.slope == pytest.approx(-0.06, rel=1e-12)
    bent = deng2022.straightness(1 / (1 + rounds))
    assert bent.deviation is not None
    assert bent.deviation.lower > 0.1


def test_straightness_by_hand():
    # Logarithms 0, −1, −1: slope −1/2, intercept −1/6, furthest at the middle: 1/3.
    found = deng2022.straightness(np.exp([0.0, -1.0, -1.0]))
    assert found.slope == pytest.approx(-0.5)
    assert found.deviation is not None
    assert found.deviation.value == pytest.approx(1 / 3)
    assert found.r_squared == pytest.approx(0.75)
    rising = deng2022.straightness(np.exp([0.0, 1.0, 2.0]))
    assert not rising.falls
    # Twice as far down, twice as far from the line: the same share of the range, which
    # logarithms of 2 leave open by 16 (2 + 1) roundings.
    double = deng2022.straightness(np.exp([0.0, -2.0, -2.0]))
    assert double.deviation is not None
    assert double.deviation.value == pytest.approx(1 / 3)
    opened = 2 * 16 * 3 * np.finfo(float).eps / 2
    assert double.deviation.width == pytest.approx(opened, rel=0.1, abs=0)
    # It is the first loss that the last one is below, not the one before.
    assert deng2022.straightness(np.array([2.0, 1.0, 1.5])).falls
    still = deng2022.straightness(np.ones(3))
    assert still.deviation is None
    assert not still.falls


@pytest.mark.parametrize("losses", [[1.0, 0.5], [1.0, 0.0, 0.5], [1.0, np.inf, 1.0]])
def test_losses_without_a_logarithm_are_refused(losses):
    with pytest.raises(ValueError, match="three positive finite numbers"):
        deng2022.straightness(np.array(losses))


GOOD = deng2022.Measurements(
    n=10,
    width=10**16,
    is_deep_relu=True,
    is_local_sgd=True,
    ends_fixed=True,
    on_sphere=True,
    separation=exact(0.3),
    fitted=deng2022.Fit(1.0, 0.2, 0.1, 0.5, 40),
    bounding=deng2022.Fit(2.0, 0.4, 0.3, 0.5, 40),
    trend=Enclosure(-0.6, -0.8, -0.4),
    path=deng2022.straightness(np.exp(-0.3 * np.arange(9.0))),
)
FAULTS = {
    "network is a deep ReLU network": {"is_deep_relu": False},
    "algorithm is Local SGD": {"is_local_sgd": False},
    "first and last layers are fixed": {"ends_fixed": False},
    "inputs of norm 1": {"on_sphere": False},
    "separation δ": {"separation": exact(0.0)},
    "width against n¹⁶": {"width": 10**16 - 1000},
}


def test_deng2022_holds_where_everything_is_as_asked():
    found = deng2022.check(GOOD)
    assert found.name == "deng2022.local_sgd"
    assert found.verdict is found.conclusion.verdict is Verdict.holds
    assert found.applies
    assert found.status == "recalled"
    assert {h.status for h in found.hypotheses} == {"recalled"}
    values = {name: c.value for name, c in found.constants.items()}
    assert values == {
        "separation": 0.3,
        "A (least squares)": 1.0,
        "B (least squares)": 0.2,
        "A (envelope)": 2.0,
        "B (envelope)": 0.4,
        "slope of log B on log width": -0.6,
        "slope of log loss per round": pytest.approx(-0.3),
    }
    assert found.constants["B (envelope)"].note == "fitted, never assumed; 40 pairs"
    assert found.constants["B (envelope)"].method == "envelope"
    assert found.constants["slope of log B on log width"] == GOOD.trend
    assert GOOD.straight_within == 0.1
    assert len(found.to_frame()) == 7


@pytest.mark.parametrize("name", FAULTS)
def test_each_condition_fails_on_its_own(name):
    found = deng2022.check(dataclasses.replace(GOOD, **FAULTS[name]))
    failed = [h.name for h in found.hypotheses if h.verdict is Verdict.fails]
    assert len(failed) == 1
    assert failed[0].startswith(name)
    assert found.applies == (name != "network is a deep ReLU network")


def test_collinear_constants_say_so():
    alike = dataclasses.replace(GOOD, fitted=deng2022.Fit(1.0, 0.2, 0.1, 1e-9, 40))
    note = deng2022.check(alike).constants["A (least squares)"].note
    assert "collinear" in note


def test_the_conclusion_is_a_falling_line():
    def conclusion(losses, **change):
        path = None if losses is None else deng2022.straightness(np.array(losses))
        found = dataclasses.replace(GOOD, path=path, **change)
        return deng2022.check(found).conclusion

    bound = deng2022.Straightness(-1.0, exact(0.1), 0.9, True)
    assert deng2022.check(dataclasses.replace(GOOD, path=bound)).conclusion.verdict is (
        Verdict.holds
    )
    bent = [1.0, 0.5, 1 / 3, 0.25, 0.2]
    assert conclusion(bent, straight_within=0.05).verdict is Verdict.fails
    assert "the bound 0.05 is ours" in conclusion(bent, straight_within=0.05).note
    assert conclusion(bent, straight_within=0.2).verdict is Verdict.holds
    rising = conclusion([1.0, 2.0, 4.0])
    assert rising.verdict is Verdict.fails
    assert rising.note.startswith("the loss did not fall")
    assert conclusion([1.0, 1.0, 1.0]).verdict is Verdict.fails
    assert conclusion(None).verdict is Verdict.undecided
    unseen = dataclasses.replace(GOOD, separation=None)
    assert deng2022.check(unseen).verdict is Verdict.undecided


def watched(model, split, step_size):
    """Drift, displacement and loss of every client and local step of a run."""
    objective = Objective.of(model)
    data = [split.client(i) for i in range(split.clients)]
    found = []
    for item in nf.fedavg.rounds(
        model, split, rounds=8, local_steps=5, step_size=step_size, steps=True
    ):
        if isinstance(item, nf.fedavg.LocalStep):
            own = [item.locals.client(i) for i in range(split.clients)]
            gaps = drift.gradient_drift(objective, data, item.start, own, item.weights)
            found += zip(gaps.by_client, gaps.displacement, gaps.loss, strict=True)
    g, d, f = np.array(found).T
    return g**2, d**2, f


def test_a_smooth_model_has_no_b_and_a_narrow_relu_network_has(generator):
    """Every client holds an orthonormal basis: H_i = I/4, so that A = 1/16, B = 0."""
    bases = [
        torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64))[0]
        for _ in range(3)
    ]
    y = torch.randn(12, 1, generator=generator, dtype=torch.float64)
    split = nf.data.Partition(
        nf.data.Dataset(torch.cat(bases), y), torch.arange(12).split(4)
    )
    smooth = watched(nf.models.Linear(4), split, 0.5)
    rough = watched(nf.models.TwoLayerReLU(4, 16, seed=0), split, 0.5)
    for method in (deng2022.fit, deng2022.envelope):
        flat = method(*smooth)
        # Drifts of order 1e-2, gradients rounded at 1e-16; the programme stops at 1e-7.
        assert flat.A == pytest.approx(1 / 16, rel=1e-6)
        assert flat.B < 1e-8
        assert method(*rough).B > 1e-4
    bound = deng2022.envelope(*rough)
    assert (bound.A * rough[1] + bound.B * rough[2] >= rough[0]).all()
