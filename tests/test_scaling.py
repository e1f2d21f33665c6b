"""Exponents with intervals that cover, and whether a law is a straight line."""

import dataclasses
import functools
import math

import numpy as np
import pytest
from scipy import stats

import ntk_fed as nf
from ntk_fed.scaling import compare, power_law, straightness

HOLDS, FAILS, UNDECIDED = nf.Verdict.holds, nf.Verdict.fails, nf.Verdict.undecided
REPETITIONS = 2000
WIDTHS = np.repeat([64.0, 256, 1024, 4096], 10)


@pytest.mark.parametrize("interval", ["t", "bootstrap"])
@pytest.mark.parametrize("exponent", [-0.5, 0.0, 2.0])
def test_an_exact_power_law_is_found(exponent, interval):
    x = 2.0 ** np.arange(8)
    found = power_law(x, 3 * x**exponent, interval=interval)
    assert found.exponent == pytest.approx(exponent, abs=1e-12)
    assert found.agrees_with(exponent)
    assert found.upper - found.lower < 1e-9
    assert found.prefactor == pytest.approx(3.0)
    assert found.points == 8
    assert found.residual < 1e-12


@functools.cache
def coverage(interval, trend):
    """Share of 95 % intervals with the exponent, where the spread goes as x^trend."""
    rng = np.random.default_rng(0)
    spread = 0.3 * (WIDTHS / 512) ** trend
    hits = 0
    for i in range(REPETITIONS):
        y = 2 * WIDTHS**-0.5 * np.exp(spread * rng.standard_normal(len(WIDTHS)))
        hits += power_law(WIDTHS, y, interval=interval, seed=i).agrees_with(-0.5)
    return hits / REPETITIONS


# The standard deviation of a share of 2,000 at 95 % is 0.5 %: four of them either way.
@pytest.mark.parametrize(
    ("interval", "trend"), [("t", 0.0), ("bootstrap", 0.0), ("bootstrap", 0.6)]
)
def test_intervals_cover_the_planted_exponent_as_often_as_they_say(interval, trend):
    assert 0.93 <= coverage(interval, trend) <= 0.97


def test_the_t_interval_does_not_cover_where_the_spread_differs():
    """Negative control of the bootstrap: the same points, Student's interval."""
    assert coverage("t", 0.6) < 0.90


def test_the_bootstrap_is_its_formula_written_as_a_loop():
    rng = np.random.default_rng(3)
    x = np.repeat([1.0, 2, 4], 3)
    y = np.exp(rng.standard_normal(9))
    a, b = np.log(x), np.log(y)
    design = np.column_stack([np.ones(9), a])
    hat = design @ np.linalg.inv(design.T @ design) @ design.T
    room = 1 - np.diag(hat)

    def studentised(values):
        """Slope and its HC3 standard error, by the sandwich of matrices."""
        bread = np.linalg.inv(design.T @ design)
        rest = (values - hat @ values) / room
        meat = design.T @ np.diag(rest**2) @ design
        return (bread @ design.T @ values)[1], math.sqrt((bread @ meat @ bread)[1, 1])

    slope, error = studentised(b)
    scaled = (b - hat @ b) / room
    drawn = []
    for row in np.random.default_rng(7).integers(0, 2, (999, 9)):
        own = studentised((2 * row - 1) * scaled)
        drawn.append(abs(own[0]) / own[1])
    half = error * sorted(drawn)[899]  # the 900th of 999: 90 % of 1,000
    found = power_law(x, y, interval="bootstrap", confidence=0.9, seed=7)
    assert found.upper - slope == pytest.approx(half, rel=1e-9)
    assert slope - found.lower == pytest.approx(half, rel=1e-9)
    assert found.interval == "bootstrap"
    assert found == power_law(x, y, interval="bootstrap", confidence=0.9, seed=7)
    assert found != power_law(x, y, interval="bootstrap", confidence=0.9, seed=8)


def test_an_exponent_is_compared_in_three_values():
    x = np.array([1.0, 2, 4, 8, 16])
    noise = np.exp([0.02, -0.03, 0.01, 0.03, -0.02])
    found = power_law(x, x**-0.5 * noise)
    assert found.below(0.0) is HOLDS
    assert found.below(-1.0) is FAILS
    assert found.below(found.exponent) is UNDECIDED


LAW = dataclasses.replace(
    power_law([1, 2, 4], [1, 2, 4]), exponent=0.5, lower=0.25, upper=0.75
)


@pytest.mark.parametrize(
    ("relation", "exponent", "tolerance", "expected"),
    [
        ("==", 0.5, 0.25, HOLDS),  # the interval is the band itself
        ("==", 0.5, 0.125, UNDECIDED),
        ("==", 0.75, 0.25, UNDECIDED),
        ("==", 1.0, 0.125, FAILS),
        ("==", 0.0, 0.125, FAILS),
        ("==", 1.0, 0.25, UNDECIDED),  # they touch
        ("<=", 0.5, 0.25, HOLDS),
        ("<=", 0.5, 0.125, UNDECIDED),
        ("<=", 0.0, 0.125, FAILS),
        (">=", 0.5, 0.25, HOLDS),
        (">=", 0.5, 0.125, UNDECIDED),
        (">=", 1.0, 0.125, FAILS),
    ],
)
def test_a_law_is_compared_with_an_exponent(relation, exponent, tolerance, expected):
    found = compare(LAW, exponent, relation=relation, tolerance=tolerance)
    assert found is expected


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"relation": "<"}, "one of ==, <=, >=, got '<'"),
        ({"tolerance": -0.1}, "tolerance not negative, got 0.5 and -0.1"),
        ({"tolerance": math.nan}, "must be finite"),
        ({"exponent": math.inf}, "must be finite"),
    ],
)
def test_comparisons_without_a_meaning_are_refused(change, words):
    options = {"law": LAW, "exponent": 0.5, "tolerance": 0.1} | change
    with pytest.raises(ValueError, match=words):
        compare(**options)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        ([1, 2], [1, 2], "three points"),
        ([1, 1, 1], [1, 2, 3], "two different x"),
        ([1, 2, 3], [1, 2], "3 x and 2 y"),
        ([1, 2, 3], [1, 0, 2], "y must be positive"),
        ([1, 2, 3], [1, math.nan, 2], "y must be positive and finite"),
        ([1, 2, math.inf], [1, 1, 2], "x must be positive and finite"),
    ],
)
def test_points_without_a_power_law_are_refused(x, y, words):
    with pytest.raises(ValueError, match=words):
        power_law([float(v) for v in x], [float(v) for v in y])


@pytest.mark.parametrize(
    ("x", "options", "words"),
    [
        (range(1, 9), {"interval": "normal"}, "'t' or 'bootstrap', got 'normal'"),
        (range(1, 9), {"confidence": 1.0}, "confidence must be in"),
        (range(1, 8), {"interval": "bootstrap"}, "8 points at least"),
        ([1] * 9 + [2], {"interval": "bootstrap"}, "possible without any one"),
        (
            range(1, 9),
            {"interval": "bootstrap", "confidence": 0.999},
            "more the higher",
        ),
    ],
)
def test_intervals_that_cannot_be_given_are_refused(x, options, words):
    with pytest.raises(ValueError, match=words):
        power_law(x, [3 + value % 2 for value in range(len(x))], **options)


def test_straightness_by_hand():
    # log x = -1, 0, 1 twice; log y has means 0, 1, 0, each pair 1/2 about its mean.
    x = np.exp(np.repeat([-1.0, 0.0, 1.0], 2))
    y = np.exp([-0.5, 0.5, 0.5, 1.5, -0.5, 0.5])
    found = straightness(x, y)
    # Half the second difference of the means. Residuals 1/2 with 6 - 3 degrees of
    # freedom: s² = 1/2; variance s²/2 · (1/4 + 1 + 1/4); t at 3 degrees (tables).
    half = 3.182446305284263 * math.sqrt(0.375)
    assert found.curvature.value == pytest.approx(-1.0)
    assert found.curvature.upper == pytest.approx(-1 + half)
    assert found.curvature.lower == pytest.approx(-1 - half)
    assert found.bend.value == pytest.approx(-4.0)
    assert found.bend.upper == pytest.approx(4 * (half - 1))
    # Lack of fit 2 (1 + 4 + 1) / 9 with 1 degree, pure error 3/2 with 3: F = 8/3, the
    # square of a t at 3 degrees, whose distribution function is elementary.
    root = math.sqrt(8) / 3
    inside = (root / (1 + root**2) + math.atan(root)) * 2 / math.pi
    assert found.lack_of_fit == pytest.approx(1 - inside)
    assert found.exponent == pytest.approx(0.0)
    lines = dict(zip(np.exp([-1.0, 0.0, 1.0]), (-1.0, 0.0, 1.0), strict=True))
    assert found.without == pytest.approx(lines)
    assert (found.lowest, found.highest) == pytest.approx((-1.0, 1.0))
    assert found.straight is UNDECIDED


def test_the_x_that_moves_the_exponent_most_is_named():
    x = np.array([1.0, 2, 4, 8, 16])
    found = straightness(x, np.where(x == 16, 64, x))
    assert found.most_moving == 16.0
    assert found.without[16.0] == pytest.approx(1.0)
    assert found.exponent == pytest.approx(1.4)  # 1 + 2 · 2 / (4 + 1 + 0 + 1 + 4)
    assert found.lack_of_fit is None  # no replicates


def test_an_exact_line_is_straight_and_an_exact_parabola_is_not():
    x = np.repeat(2.0 ** np.arange(5), 2)
    line = straightness(x, 3 * x**-0.5)
    assert line.straight is HOLDS
    assert line.lack_of_fit is None  # equal replicates on a line
    bent = straightness(x, x ** (0.1 * np.log(x)))
    assert bent.curvature.value == pytest.approx(0.1)
    assert bent.straight is FAILS
    assert bent.lack_of_fit == 0.0
    assert straightness(x, x ** (-0.1 * np.log(x))).straight is FAILS
    assert straightness(x, x ** (0.1 * np.log(x)), tolerance=0.6).straight is HOLDS


@pytest.mark.parametrize("interval", ["t", "bootstrap"])
def test_a_straight_law_is_called_bent_as_rarely_as_promised(interval):
    """300 repetitions at 95 %: above 9 % has probability 2e-3."""
    rng = np.random.default_rng(1)
    x = np.repeat(2.0 ** np.arange(6, 13, 2), 4)
    calls = {HOLDS: 0, FAILS: 0, UNDECIDED: 0}
    bent = 0
    lacks = []
    for i in range(300):
        noise = np.exp(0.1 * rng.standard_normal(16))
        found = straightness(x, x**-0.5 * noise, interval=interval, seed=i)
        calls[found.straight] += 1
        lacks.append(found.lack_of_fit)
        curved = x ** (0.1 * np.log(x / 64)) * noise
        found = straightness(x, curved, interval=interval, seed=i)
        bent += found.straight is FAILS
    assert calls[FAILS] <= 27
    assert bent >= 290
    # Under its hypothesis a p-value is uniform; Kolmogorov's distance of 300 is above
    # 0.115 with probability 1e-3.
    assert stats.kstest(lacks, "uniform").statistic < 0.115


@pytest.mark.parametrize(
    ("x", "y", "options", "words"),
    [
        ([1, 2, 3], [1, 2, 3], {}, "four points"),
        ([1, 1, 2, 2], [1, 2, 3, 4], {}, "three different x at least, got 4 x .2"),
        ([1, 2, 3, 4], [1, 2, 3], {}, "4 x .4 different. and 3 y"),
        ([1, 2, 3, 4], [1, 2, 3, -1], {}, "y must be positive"),
        ([1, 2, 3, 4], [1, 2, 3, 4], {"tolerance": -1}, "tolerance must be at least"),
        ([1, 2, 3, 4], [1, 2, 3, 4], {"confidence": 0}, "confidence must be in"),
        ([1, 2, 3, 4], [1, 2, 3, 4], {"interval": "z"}, "'t' or 'bootstrap'"),
    ],
)
def test_points_that_cannot_be_judged_are_refused(x, y, options, words):
    with pytest.raises(ValueError, match=words):
        straightness(x, y, **options)
