"""The smallest width that is enough: exact errors, known brackets, resumed searches."""

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

import ntk_fed as nf
from ntk_fed.scaling import (
    Bracket,
    clopper_pearson,
    decide,
    exponent_in,
    looks,
    next_look,
    required_width,
    search,
)

HOLDS, FAILS, UNDECIDED = nf.Verdict.holds, nf.Verdict.fails, nf.Verdict.undecided
REPETITIONS = 2000
LADDER = [2**k for k in range(4, 14)]


def at_most(count, probability, repetitions=REPETITIONS):
    """Is the count that of an event of at most this probability? Four deviations."""
    spread = math.sqrt(repetitions * probability * (1 - probability))
    return count <= repetitions * probability + 4 * spread


@pytest.mark.parametrize("n", [1, 10, 400])
def test_clopper_pearson_of_no_success_and_of_nothing_else(n):
    none, every = clopper_pearson(0, n, 0.9), clopper_pearson(n, n, 0.9)
    assert (none.value, none.lower) == (0.0, 0.0)
    assert none.upper == pytest.approx(1 - 0.05 ** (1 / n))
    assert (every.value, every.upper) == (1.0, 1.0)
    assert every.lower == pytest.approx(0.05 ** (1 / n))


@pytest.mark.parametrize(("successes", "trials"), [(5, 10), (1, 30), (37, 40)])
def test_clopper_pearson_leaves_half_the_error_in_each_tail(successes, trials):
    found = clopper_pearson(successes, trials, 0.95)
    above = stats.binom.sf(successes - 1, trials, found.lower)
    below = stats.binom.cdf(successes, trials, found.upper)
    assert (above, below) == pytest.approx((0.025, 0.025))


def test_looks_by_hand():
    # Successes alone: 0.9^n <= 0.05/2 from n = 36 on; failures alone: 0.1^n < 0.025
    # from n = 2 on. Between them and above, 1.5 times, rounded up.
    found = looks(failure=0.1, error=0.05, most=100)
    assert [look.trials for look in found] == [2, 3, 5, 8, 12, 18, 27, 36, 54, 81]
    holds = [0.0] * 7 + [0.05 / 2, 0.05 / 6, 0.05 / 12]
    assert [look.holds_level for look in found] == pytest.approx(holds)
    fails = [0.05 / (k * (k + 1)) for k in range(1, 11)]
    assert [look.fails_level for look in found] == pytest.approx(fails)
    assert [next_look(n, failure=0.1, error=0.05) for n in (0, 2, 35, 36)] == [
        *(2, 3, 36, 54),
    ]


@pytest.mark.parametrize(
    ("failure", "error"),
    [(0.1, 0.05), (0.1, 0.005), (0.5, 0.05), (0.9, 0.05), (0.02, 0.2), (0.3, 0.01)],
)
def test_first_looks_are_the_least_that_can_decide(failure, error):
    found = looks(failure=failure, error=error, most=2000)
    for side in ("holds", "fails"):
        first = next(n.trials for n in found if getattr(n, f"{side}_level"))
        outcomes = [side == "holds"] * first
        assert decide(outcomes, failure=failure, error=error).verdict == side
        level = error / 2
        base = 1 - failure if side == "holds" else failure
        assert base ** (first - 1) > level >= base**first


@pytest.mark.parametrize("error", [0.05, 0.005, 0.2])
@pytest.mark.parametrize("failure", [0.1, 0.5, 0.02])
def test_the_exact_error_of_the_sequential_rule_is_below_its_promise(failure, error):
    """At 1 - failure itself, the worst probability for both sides.

    The distribution of successes among those still undecided is carried from look to
    look; what the looks after the last one may spend is added.
    """
    p, trials, undecided = 1 - failure, 0, np.ones(1)
    wrong, left = {"holds": 0.0, "fails": 0.0}, {"holds": error, "fails": error}
    for look in looks(failure=failure, error=error, most=2000):
        fresh = look.trials - trials
        more = stats.binom.pmf(np.arange(fresh + 1), fresh, p)
        undecided, trials = np.convolve(undecided, more), look.trials
        bounds = np.array([look.bounds(k) for k in range(trials + 1)])
        decided = {"holds": bounds[:, 0] >= p, "fails": bounds[:, 1] < p}
        for side, where in decided.items():
            wrong[side] += undecided[where].sum()
            left[side] -= getattr(look, f"{side}_level")
        undecided[decided["holds"] | decided["fails"]] = 0.0
    for side in ("holds", "fails"):
        assert left[side] > 0  # the levels sum to less than the error
        assert wrong[side] + left[side] <= error
        # Not vacuous: spending and discreteness cost a factor of eight at most.
        assert wrong[side] > error / 8


def twin(outcomes, failure, error):
    """Slow twin of ``decide``: binomial tails at every look, no Beta function."""
    for look in looks(failure=failure, error=error, most=len(outcomes)):
        n, wanted = look.trials, 1 - failure
        k = sum(outcomes[:n])
        if stats.binom.sf(k - 1, n, wanted) <= look.holds_level:
            return HOLDS, n, k
        if stats.binom.cdf(k, n, wanted) < look.fails_level:
            return FAILS, n, k
    return UNDECIDED, None, None


@pytest.mark.parametrize("p", [0.2, 0.8, 0.9, 0.97])
def test_decide_is_its_slow_twin(p):
    rng = np.random.default_rng(5)
    for _ in range(25):
        outcomes = [bool(value) for value in rng.random(300) < p]
        found = decide(outcomes, failure=0.1, error=0.05)
        verdict, used, successes = twin(outcomes, 0.1, 0.05)
        assert found.verdict is verdict
        if verdict is not UNDECIDED:
            assert (found.used, found.successes) == (used, successes)


def test_the_first_decision_stands_and_says_what_it_used():
    found = decide([True] * 36 + [False] * 300, failure=0.1, error=0.05)
    assert (found.verdict, found.used, found.successes) == (HOLDS, 36, 36)
    assert found.lower == pytest.approx(0.025 ** (1 / 36))
    assert found.upper == 1.0
    found = decide([True] * 35 + [False] * 300, failure=0.1, error=0.05)
    assert found.verdict is FAILS
    early = decide([True], failure=0.1, error=0.05)
    assert early == nf.scaling.Decision(UNDECIDED, 0.0, 1.0, 0, 0)


@pytest.mark.parametrize(("p", "wrong"), [(0.895, HOLDS), (0.905, FAILS)])
def test_decisions_are_wrong_as_rarely_as_promised(p, wrong):
    """Looked at up to 14 times at the same outcomes; 10 % for power."""
    rng = np.random.default_rng(11)
    error = 0.1
    rows = (rng.random((REPETITIONS, 500)) < p).tolist()
    count = sum(decide(row, failure=0.1, error=error).verdict is wrong for row in rows)
    assert at_most(count, error)
    assert count > 0


def outcomes_at(width, word):
    """Rows of a width, one letter per seed: y for met."""
    return [
        {"width": width, "seed": i, "met": letter == "y"}
        for i, letter in enumerate(word)
    ]


ROWS = [
    *outcomes_at(10, "n" * 5),
    *outcomes_at(20, "yn" * 3),
    *outcomes_at(40, "y" * 46),
    *outcomes_at(80, "y" * 45),
]


def test_a_bracket_by_hand():
    found = required_width(ROWS, failure=0.1, error=0.05 * 4 / 3)
    assert (found.lower, found.upper) == (10, 40)
    assert found.consistent
    assert found.trials == 5 + 6 + 46 + 45
    words = [one.verdict for one in found.verdicts]
    # A share of 0.05/3: successes alone decide from 46 on, 0.9^45 > 0.05/6 >= 0.9^46.
    assert words == [FAILS, UNDECIDED, HOLDS, UNDECIDED]
    assert list(found.table["width"]) == [10, 20, 40, 80]
    assert list(found.table["trials"]) == [5, 6, 46, 45]
    assert list(found.table["used"]) == [3, 5, 46, 41]
    assert list(found.table["successes"]) == [0, 3, 46, 41]
    assert found.table["lower"][2] == pytest.approx((0.05 / 6) ** (1 / 46))
    assert "does not fall with width" in found.note
    assert "CONTRADICTED" not in found.note


def test_the_error_is_split_over_the_whole_ladder():
    rows = outcomes_at(40, "y" * 40)
    assert required_width(rows).upper == 40
    assert required_width(rows, widths=[40]).upper == 40
    assert required_width(rows, widths=[20, 40]).upper is None


def test_the_order_of_rows_does_not_matter_and_the_order_of_seeds_does():
    rows = outcomes_at(8, "y" * 36 + "n" * 60)
    frame = pd.DataFrame(rows)
    found = required_width(frame.sample(frac=1, random_state=0))
    assert found == required_width(rows)
    assert (found.lower, found.upper) == (None, 8)
    assert found.verdicts[0].used == 36
    turned = frame.assign(seed=-frame["seed"]).rename(columns={"met": "enough"})
    assert required_width(turned, met="enough").lower == 8


def test_widths_that_all_hold_or_all_fail_leave_an_end_open():
    holds = [*outcomes_at(1, "y" * 60), *outcomes_at(2, "y" * 60)]
    assert (required_width(holds).lower, required_width(holds).upper) == (None, 1)
    fails = [*outcomes_at(1, "n" * 6), *outcomes_at(2, "n" * 6)]
    assert (required_width(fails).lower, required_width(fails).upper) == (2, None)


def test_a_probability_that_falls_with_width_is_reported():
    rows = [*outcomes_at(1, "y" * 60), *outcomes_at(2, "n" * 6)]
    found = required_width(rows)
    assert not found.consistent
    assert "CONTRADICTED: it holds at 1 and fails at 2" in found.note
    with pytest.raises(ValueError, match="both ends in this order"):
        exponent_in([1, 2], [found, found])


GOOD = {"width": [1, 2], "seed": [0, 0], "met": [True, False]}


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({"width": [1, 1]}, {}, "width 1 with seed 0 twice"),
        ({"width": [1, math.nan]}, {}, "column 'width' must be finite numbers"),
        ({"width": [0, 1]}, {}, "different positive numbers"),
        ({"width": ["a", "b"]}, {}, "column 'width' must be finite numbers"),
        ({"seed": [0, math.inf]}, {}, "column 'seed' must be finite numbers"),
        ({"seed": [True, False]}, {}, "column 'seed' must be finite numbers"),
        ({"met": [1, 0]}, {}, "column 'met' must be booleans, got 1"),
        ({"met": [True, None]}, {}, "column 'met' must be booleans, got None"),
        ({"met": [True, math.nan]}, {}, "column 'met' must be booleans, got nan"),
        ({}, {"met": "enough"}, "must have the columns 'width', 'enough', 'seed'"),
        ({"width": [], "seed": [], "met": []}, {}, "and 0 rows"),
        ({}, {"failure": 0.0}, "failure must be in"),
        ({}, {"failure": 1.0}, "failure must be in"),
        ({}, {"failure": math.nan}, "failure must be in"),
        ({}, {"error": 1.0}, "error must be in"),
        ({}, {"error": -0.1}, "error must be in"),
        ({}, {"widths": [1, 4]}, "not on the ladder"),
        ({}, {"widths": [1, 2, 2]}, "different positive numbers"),
    ],
)
def test_rows_that_say_nothing_are_refused(change, options, words):
    with pytest.raises(ValueError, match=words):
        required_width(GOOD | change, **options)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: clopper_pearson(3, 2), "0 <= successes <= trials"),
        (lambda: clopper_pearson(0, 0), "trials >= 1"),
        (lambda: clopper_pearson(1, 2, 1.0), "confidence must be in"),
        (lambda: decide([1], failure=0.1, error=0.1), "booleans, got 1"),
        (lambda: decide([True], failure=2, error=0.1), "failure must be in"),
        (lambda: decide([True], failure=0.1, error=0), "error must be in"),
        (lambda: looks(failure=0, error=0.1, most=9), "failure must be in"),
        (lambda: next_look(3, failure=0.1, error=1), "error must be in"),
    ],
)
def test_counts_and_probabilities_out_of_range_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


class Trial:
    """Planted outcomes; remembers the calls."""

    def __init__(self, probability, *, seed=0, ladder=LADDER, most=400):
        rng = np.random.default_rng(seed)
        self.met = {m: rng.random(most) < probability(m) for m in ladder}
        self.calls: list[list[tuple[Any, int]]] = []

    def __call__(self, pairs):
        self.calls.append(pairs)
        return [self.met[m][number] for m, number in pairs]

    @property
    def pairs(self):
        return list(itertools.chain.from_iterable(self.calls))


def step(at):
    return lambda m: float(m >= at)


@pytest.mark.parametrize("at", [*LADDER, 2**14])
def test_a_sharp_step_is_found_wherever_it_is(at):
    trial = Trial(step(at))
    found = search(trial, LADDER[::-1], most_seeds=100)
    below = [m for m in LADDER if m < at]
    assert found.lower == (below[-1] if below else None)
    assert found.upper == (at if at in LADDER else None)
    # A bisection visits ceil(log2(10 + 1)) = 4 widths; with 0.05/10 for each of them
    # three failures, or 57 successes (0.9^57 <= 0.0025), decide.
    assert len(found.verdicts) <= 4
    assert {one.used for one in found.verdicts} <= {3, 57}
    assert sorted(trial.pairs) == [(m.width, i) for m in found.verdicts
                                   for i in range(m.used)]  # fmt: skip
    assert found.error == 0.05


def logistic(m):
    """0.73, 0.9002 and 0.97 at 256, 512 and 1024: one width is only just enough."""
    return 1 / (1 + math.exp(-1.2 * (math.log2(m) - 7.167)))


def plateau(m):
    """Just not enough at seven widths in a row, enough at the last two."""
    return 0.2 if m < 32 else 0.899 if m < 4096 else 0.99


@pytest.mark.parametrize(
    ("curve", "true", "error", "repetitions"),
    [
        pytest.param(logistic, 512, 0.05, REPETITIONS, marks=pytest.mark.long),
        (plateau, 4096, 0.3, 400),
    ],
)
def test_searches_are_wrong_as_rarely_as_promised(curve, true, error, repetitions):
    assert true == next(m for m in LADDER if curve(m) >= 0.9)
    most, misses, bounded, seeds = 150, 0, 0, 0
    for i in range(repetitions):
        trial = Trial(curve, seed=i, most=most)
        found = search(trial, LADDER, error=error, most_seeds=most, batch=most)
        misses += found.lower is not None and found.lower >= true
        misses += found.upper is not None and found.upper < true
        bounded += None not in (found.lower, found.upper)
        seeds += found.trials
    print(curve.__name__, misses, bounded, seeds / repetitions)
    assert at_most(misses, error, repetitions)
    # Not by silence: most brackets have both ends, for a third of the full grid.
    assert bounded > 0.9 * repetitions
    assert seeds < repetitions * len(LADDER) * most / 3


def test_an_undecided_width_does_not_stop_the_search():
    # 2^8 alone is open for ever: half of its seeds would fail it, 0.9 do not.
    trial = Trial(lambda m: 0.9 if m == 256 else step(256)(m), seed=1)
    found = search(trial, LADDER, most_seeds=100)
    words = {one.width: one.verdict for one in found.verdicts}
    assert words[256] is UNDECIDED
    assert (found.lower, found.upper) == (128, 512)
    # The last look at 100 seeds at most, with the share of a tenth.
    last = looks(failure=0.1, error=0.005, most=100)[-1].trials
    assert {one.width: one.used for one in found.verdicts}[256] == last


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_batches_change_no_outcome_and_spend_no_more(batch):
    trial = Trial(logistic, seed=3)
    one = search(Trial(logistic, seed=3), LADDER, most_seeds=200, batch=2)
    assert search(trial, LADDER, most_seeds=200, batch=batch) == one
    assert max(map(len, trial.calls)) <= batch
    assert len(trial.pairs) == len(set(trial.pairs)) == one.trials


@pytest.mark.parametrize("after", [0, 1, 40, 150])
def test_an_interrupted_search_goes_on_to_the_same_result(after):
    whole, known = Trial(logistic, seed=4), {}
    expected = search(whole, LADDER, most_seeds=200, confirm=[LADDER[-1]])
    assert len(whole.pairs) > after

    def interrupted(pairs):
        if len(known) >= after:
            raise KeyboardInterrupt
        outcomes = whole(pairs)
        known.update(zip(pairs, outcomes, strict=True))
        return outcomes

    with pytest.raises(KeyboardInterrupt):
        search(interrupted, LADDER, most_seeds=200, confirm=[LADDER[-1]])
    rest = Trial(logistic, seed=4)
    options: dict = {"most_seeds": 200, "confirm": [LADDER[-1]], "known": known}
    assert search(rest, LADDER, **options) == expected
    assert len(rest.pairs) + len(known) == expected.trials
    assert not set(rest.pairs) & set(known)


def test_a_search_reports_a_fall_where_it_is_told_to_look():
    fall = lambda m: float(256 <= m < 8192)  # noqa: E731
    blind = search(Trial(fall), LADDER, most_seeds=100)
    assert (blind.lower, blind.upper, blind.consistent) == (128, 256, True)
    found = search(Trial(fall), LADDER, most_seeds=100, confirm=[8192])
    assert (found.lower, found.upper, found.consistent) == (8192, 256, False)
    assert "CONTRADICTED: it holds at 256 and fails at 8192" in found.note
    known = {(8192, i): False for i in range(5)}
    told = search(Trial(fall), LADDER, most_seeds=100, known=known)
    assert not told.consistent


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"most_seeds": 56}, "most_seeds = 56 cannot show any width"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"widths": []}, "different positive numbers"),
        ({"widths": [1, 1]}, "different positive numbers"),
        ({"widths": [1, math.nan]}, "widths must be finite numbers"),
        ({"failure": 1.5}, "failure must be in"),
        ({"error": 2.0}, "error must be in"),
        ({"confirm": [3]}, "confirm must be among the widths"),
        ({"known": {(3, 0): True}}, "known holds width 3 with seed 0"),
        ({"known": {(16, 100): True}}, "seeds 0 to 99"),
        ({"known": {(16, 0.5): True}}, "width 16 with seed 0.5"),
        ({"known": {(16, 0): 1}}, "known outcomes must be booleans, got 1"),
        ({"trial": lambda pairs: [0.5] * len(pairs)}, "trial must be booleans, got 0"),
        ({"trial": lambda pairs: [True, True]}, "one boolean for each pair, got 2"),
    ],
)
def test_searches_that_cannot_be_made_are_refused(change, words):
    options: dict = {"trial": Trial(step(64)), "widths": LADDER, "most_seeds": 100}
    with pytest.raises(ValueError, match=words):
        search(**(options | change))


def between(lower, upper):
    return Bracket(lower, upper, (), "", 0.1, 0.05)


def test_an_exponent_of_two_brackets_by_hand():
    found = exponent_in([10, 20], [between(1, 2), between(4, 8)])
    # In powers of two: from 1 down to 2 at least, from 0 up to 3 at most, over one.
    for own in (found.least_squares, found.power_law):
        ends = (own.lower, own.value, own.upper)
        assert ends == pytest.approx((1.0, 2.0, 3.0))
        assert own.lower <= 1.0
        assert own.upper >= 3.0
    assert found.error == pytest.approx(0.1)


def test_exponents_are_the_extremes_of_two_linear_programmes():
    rng = np.random.default_rng(8)
    x = np.array([10.0, 20, 20, 50, 200])
    a = np.log(x)
    middle = 1.5 * a + 0.2 * rng.standard_normal(5)
    low, high = middle - rng.uniform(0.3, 0.6, 5), middle + rng.uniform(0.3, 0.6, 5)
    pairs = zip(np.exp(low), np.exp(high), strict=True)
    found = exponent_in(x, [between(*pair) for pair in pairs])
    # Lines c + s a with low <= c + s a <= high: least and largest s.
    ones = np.column_stack([np.ones(5), a])
    sides = {"A_ub": np.vstack([ones, -ones]), "b_ub": np.concatenate([high, -low])}
    least, most = (
        sign * optimize.linprog([0, sign], bounds=(None, None), **sides).fun
        for sign in (1, -1)
    )
    law = found.power_law
    assert law is not None
    assert (law.lower, law.upper) == pytest.approx((least, most), rel=1e-7)
    # The least-squares slope at every corner of the box of brackets.
    corners = itertools.product(*zip(low, high, strict=True))
    slopes = [np.polyfit(a, corner, 1)[0] for corner in corners]
    wide = found.least_squares
    assert (wide.lower, wide.upper) == pytest.approx((min(slopes), max(slopes)))
    assert wide.value == pytest.approx(np.polyfit(a, (low + high) / 2, 1)[0])
    assert wide.lower < law.lower < law.upper < wide.upper


@pytest.mark.parametrize(
    ("x", "ends"),
    [
        ([1, 2, 4], [(1, 2), (100, 200), (1, 2)]),  # no line passes
        ([1, 1, 4], [(1, 2), (4, 8), (1, 2)]),  # two brackets of one x do not meet
    ],
)
def test_brackets_without_a_common_power_law_say_so(x, ends):
    found = exponent_in(x, [between(*pair) for pair in ends])
    assert found.power_law is None
    assert found.least_squares.width > 0


@pytest.mark.parametrize(
    ("x", "brackets", "words"),
    [
        ([1, 2], [between(1, 2)], "2 x and 1 brackets"),
        ([1, 1], [between(1, 2)] * 2, "two different x"),
        ([0, 1], [between(1, 2)] * 2, "x must be positive"),
        ([1, 2], [between(1, 2), between(None, 2)], "at x = 2 is .None, 2."),
        ([1, 2], [between(1, None), between(1, 2)], "at x = 1 is .1, None."),
    ],
)
def test_brackets_without_an_exponent_are_refused(x, brackets, words):
    with pytest.raises(ValueError, match=words):
        exponent_in(x, brackets)
