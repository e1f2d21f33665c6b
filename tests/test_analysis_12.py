"""Analysis 12 on made rows, and its small study."""

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_analyses import ANALYSES, analysis

from ntk_fed import analysis as analyses
from ntk_fed.report.conclusion import read_conclusion
from ntk_fed.studies import read_cases

(FOLDER,) = ANALYSES.glob("12_*")
OWN = analysis("12")
RULE = OWN.rule
BASE = {
    **{"part": "phases", "what": "main", "split": "one label", "weights": "uniform"},
    **{"samples": 100, "batch": 4, "step_size": 0.4, "local_steps": 1, "switch": 0},
    **{"number": 1, "rounds": 1000, "seed": 0},
}
INSTANCE = {
    1: {"closed form error": 1e-15, "gap over bound": 1.2},
    2: {
        **{"closed form error": 1e-15, "mean loss at 1 over L": 0.125, "ρ met": 16.0},
        "smallest squared gradient at 2/(LK) over L²": 1 / 16,
        "theorem2: measured over bound": 0.02,
    },
}


def row(quantity, value, t=0.0, **fields):
    return BASE | fields | {"round": t, "quantity": quantity, "value": value}


def curve(inverse, rounds, **fields):
    """Losses whose inverses are this function of the round."""
    t = np.unique(np.round(np.linspace(0, rounds, 150), 3))
    fields = fields | {"rounds": float(t[-1])}
    return [row("loss", 1 / inverse(x), float(x), **fields) for x in t]


def images(what, split, k, seed, *, early, late):
    """1/loss with slope ~ K^early per round up to 20, then K^(1 + late)."""
    noise = 1 + 0.01 * (-1) ** seed * (seed + 1)
    first, second = 0.5 * k**early * noise, 0.8 * k ** (1 + late) * noise
    end = 20 / first

    def inverse(t):
        return 0.4 + first * t if t <= end else 20.4 + second * (t - end)

    fields = {"what": what, "split": split, "local_steps": k, "seed": seed}
    return curve(inverse, end + 1100 / second, **fields)


def made(*, early=0.05, late=-0.1, alone=1.0, slope=1.0, over=0.5, factor=1.02, bend=0):
    """Rows of a study with these exponents in K."""
    rows = []
    for seed in range(5):
        for split, ks in RULE.SPLITS.items():
            for k in ks:
                rows += images("main", split, k, seed, early=early, late=late)
        for k in (1, 2, 5):
            rows += images("one client", "one label", k, seed, early=alone, late=0)
        noise = 1 + 0.001 * seed
        for split, k in itertools.product(RULE.PERCEPTRONS, RULE.FEW):
            fields = {"part": "perceptron", "split": split, "local_steps": k}
            speed = noise * k**slope * (0.1 if split == "single" else 1)
            rows += curve(lambda t, s=speed: 1 + s * t, 200, seed=seed, **fields)
        for k in RULE.KS:
            fields = {"part": "strongly", "local_steps": k, "seed": seed}
            steep = 0.05 * k * noise
            shape = (lambda t: 1 + t) if bend else (lambda t, s=steep: np.exp(s * t))
            rows += curve(shape, 20, **fields)
            rows += checks("theorem3", 0.1, **fields)
        for name in ("theorem1", "theorem2", "lemma4", "lemma5"):
            for split, k in itertools.product(*RULE.THEOREMS.values()):
                fields = {"part": "theorems", "split": split, "local_steps": k}
                rows += checks(name, over * noise, seed=seed, **fields)
    return pd.DataFrame([*rows, *instances(factor)])


def instances(factor):
    """Both propositions, and gradient descent."""
    rows: list[dict] = []
    fields: dict[str, Any] = {"part": "instances"}
    for cell in itertools.product(*RULE.PROPOSITION1.values()):
        own = fields | {"number": 1} | dict(zip(RULE.PROPOSITION1, cell, strict=True))
        rows += [row(name, value, **own) for name, value in INSTANCE[1].items()]
    for cell in itertools.product(*RULE.PROPOSITION2.values()):
        own = fields | {"number": 2} | dict(zip(RULE.PROPOSITION2, cell, strict=True))
        values = INSTANCE[2] | {"factor": factor if cell[1] > 1 else 0.98}
        rows += [row(name, value, **own) for name, value in values.items()]
    for size in (1.5, 2.1):
        own = fields | {"number": 3, "step_size": size}
        rows.append(row("factor", abs(1 - size), **own))
    return rows


def checks(name, over, **fields):
    return [
        row(f"{name}: measured over bound", over, **fields),
        row(f"{name}: conditions hold", 1.0, **fields),
    ]


@pytest.fixture(scope="module")
def rows():
    return made()


def test_both_phases_proportional_slopes_and_kept_bounds_hold(rows):
    found = OWN.conclude(rows)
    assert found.answer.verdict == "holds"
    wanted = [one for one in found.findings if one.claim in RULE.RULE]
    assert len(wanted) == len(RULE.RULE)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"early": 0.5}, "fails"),
        ({"late": -0.6}, "fails"),
        ({"slope": 0.5}, "fails"),
        ({"over": 1.5}, "fails"),
        ({"factor": 0.99}, "fails"),
        ({"alone": 0.1}, "undecided"),  # the control does not show it
        ({"bend": 1}, "undecided"),
    ],
)
def test_the_rule_can_fail_and_a_control_leaves_no_answer(options, expected):
    found = OWN.conclude(made(**options)).answer
    assert found.verdict == expected
    assert ("control" in found.words) == (expected == "undecided")


@pytest.mark.parametrize(
    "query",
    [
        "what != 'one client'",
        "part != 'phases' or local_steps != 10",
        "part != 'phases' or split != 'two labels'",
        "part != 'perceptron'",
        "part != 'perceptron' or split != 'slices'",
        "part != 'strongly'",
        "part != 'theorems'",
        "part != 'instances'",
        "part != 'instances' or number != 1",
        "part != 'instances' or step_size < 1",
        "part != 'phases' or seed > 0 or local_steps != 5",
        "seed != 4 or part == 'instances'",
        "seed == 0",
        "what != 'one client' or local_steps != 2",
        "part != 'theorems' or split != 'flat'",
        "part != 'theorems' or local_steps != 20",
        "part != 'theorems' or seed != 3 or local_steps != 2",
        "part != 'strongly' or local_steps != 20",
        "part != 'strongly' or seed != 2 or local_steps != 1",
        "part != 'instances' or number != 1 or rounds != 25",
        "part != 'instances' or number != 2 or local_steps != 10",
        "part != 'perceptron' or seed != 1 or local_steps != 5",
    ],
)
def test_without_a_piece_of_the_rule_there_is_no_answer(rows, query):
    found = OWN.conclude(rows.query(query))
    assert found.answer.verdict == "undecided"


LOSS = "quantity == 'loss' and seed == 0 and local_steps == 5"


@pytest.mark.parametrize(
    ("query", "value", "expected"),
    [
        (f"{LOSS} and part == 'phases' and split == 'two labels'", np.nan, "undecided"),
        (f"{LOSS} and part == 'phases' and what == 'main'", np.inf, "undecided"),
        (f"{LOSS} and part == 'perceptron'", np.nan, "undecided"),
        (f"{LOSS} and part == 'perceptron'", np.inf, "undecided"),
        (f"{LOSS} and part == 'strongly'", 0.0, "undecided"),
        ("quantity == 'theorem1: measured over bound' and seed == 1", np.inf, "fails"),
        ("quantity == 'theorem1: measured over bound' and seed == 1", np.nan, "fails"),
        ("quantity == 'theorem2: conditions hold' and seed == 1", 0.0, "fails"),
        ("quantity == 'closed form error' and number == 1", np.nan, "fails"),
        ("quantity == 'closed form error' and number == 2", 1e-3, "fails"),
        ("quantity == 'factor' and step_size == 1.05", np.inf, "holds"),  # it diverges
        ("quantity == 'factor' and step_size == 1.05", np.nan, "undecided"),
        ("quantity == 'factor' and step_size == 0.95", np.inf, "fails"),
        ("part == 'instances' and number == 1 and local_steps == 5", np.nan, "fails"),
        ("part == 'instances'", np.nan, "fails"),
        ("part == 'theorems' and seed == 1", np.nan, "fails"),
    ],
)
def test_a_number_that_is_not_usable_is_seen(rows, query, value, expected):
    own = rows.copy()
    own.loc[own.eval(query), "value"] = value
    assert OWN.conclude(own).answer.verdict == expected


def test_a_run_that_ends_before_the_second_phase_leaves_its_exponent_unknown(rows):
    early = rows.eval("what == 'main' and local_steps == 20 and seed == 3")
    own = rows[~(early & (rows["value"] < 1 / 900) & (rows["quantity"] == "loss"))]
    found = OWN.conclude(own)
    assert found.answer.verdict == "undecided"
    assert any("not reached" in one.words for one in found.findings)


def test_the_round_of_a_loss_is_read_between_two_records():
    own = pd.DataFrame({"round": [0, 10], "loss": [1.0, 0.1], "inverse": [1.0, 10.0]})
    reach = OWN.exponents.__globals__["reach"]
    assert reach(own, 1 / 5.5) == pytest.approx(5.0)
    assert np.isnan(reach(own, 0.01))


def test_a_perceptron_whose_log_loss_is_a_line_leaves_no_answer(rows):
    own = rows.copy()
    flat = own["part"] == "perceptron"
    own.loc[flat, "value"] = np.exp(-own.loc[flat, "round"] / 50)
    found = OWN.conclude(own).answer
    assert found.verdict == "undecided"
    assert "control" in found.words


def test_a_strongly_convex_run_that_stops_early_leaves_its_control_unknown(rows):
    cut = rows.eval("part == 'strongly' and seed == 1 and quantity == 'loss'")
    found = OWN.conclude(rows[~(cut & (rows["round"] > 15))])
    assert found.answer.verdict == "undecided"
    assert "control" in found.answer.words


def finding(rows, start):
    (one,) = [one for one in OWN.conclude(rows).findings if one.claim.startswith(start)]
    return one


def looked(rows, *, quantity="sample gradient over global gradient", value=300.0):
    """The main runs of one label with a number of their own at three looks."""
    more = [
        row(quantity, value, t, local_steps=k, seed=seed)
        for seed, k in itertools.product(range(5), RULE.KS)
        for t in (0.0, 400.0, 900.0)
    ]
    return pd.concat([rows, pd.DataFrame(more)], ignore_index=True)


def test_one_look_above_4000_is_above(rows):
    own = looked(rows)
    assert finding(own, "r, the largest").verdict == "holds"
    assert finding(own, "r settles").verdict == "holds"
    own.loc[own.index[-1], "value"] = 5000.0
    assert finding(own, "r, the largest").verdict == "fails"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_look_that_is_not_finite_is_not_left_out(rows, value):
    own = looked(rows)
    own.loc[own.index[-1], "value"] = value
    assert finding(own, "r, the largest").verdict == "fails"
    if np.isnan(value):
        assert finding(own, "r settles").verdict == "undecided"


def test_a_lost_run_is_no_run_without_a_change(rows):
    sought = "quantity != 'two phases' or round == 0"
    own = looked(rows, quantity="two phases", value=1.0).query(sought)
    assert finding(own, "two joined lines").verdict == "holds"
    last = (own["quantity"] == "two phases") & (own["seed"] == 4)
    assert finding(own[~last], "two joined lines").verdict == "undecided"


def test_an_exponent_on_the_other_side_of_0_is_not_nearer(rows):
    found = OWN.phase_findings(
        pd.DataFrame(
            {
                **{"what": "main", "split": "one label", "local_steps": k},
                **{"seed": seed, "first": 1.0, "early": 1.0},
                **{"between": k ** (-0.1 - seed / 1e3), "second": k**0.5},
            }
            for seed, k in itertools.product(range(5), RULE.KS)
        )
    )
    assert {one.claim: one.verdict for one in found}[
        "one label: the exponent per iteration is nearer to 0 than it was before"
    ] == "fails"


def test_1_over_loss_that_speeds_up_is_no_line(rows):
    one = "perceptron, slices: 1/loss is a line"
    assert finding(rows, one).verdict == "holds"
    own = rows.copy()
    fast = own.eval("part == 'perceptron' and split == 'slices'")
    own.loc[fast, "value"] = 1 / (1 + own.loc[fast, "round"] ** 3)
    assert finding(own, one).verdict == "fails"


def test_both_weights_of_the_even_split_are_not_counted_twice(rows):
    own = rows.query("part == 'perceptron'")
    both = pd.concat([rows, own.assign(weights="samples")], ignore_index=True)
    start = "perceptron, all data on one client, weights by samples"
    assert "5 seeds" in finding(both, start).words


def test_the_answer_says_how_far_the_phases_are_from_exact(rows):
    assert "4 of 4 exponents are surely not 0" in OWN.conclude(rows).answer.words


def test_the_answer_names_the_largest_local_steps_where_they_still_differ(rows):
    assert "two largest" not in OWN.conclude(rows).answer.words
    own = rows.copy()
    slow = own.eval("what == 'main' and local_steps == 20 and part == 'phases'")
    slow &= own["value"] < 1 / 300
    own.loc[slow, "round"] = 1.3 * own.loc[slow, "round"]
    found = OWN.conclude(own).answer
    assert found.verdict == "holds"
    assert "second phase, one label: the two largest K alone: −" in found.words


def test_without_any_rows_there_is_no_answer(rows):
    assert OWN.conclude(rows[:0]).answer.verdict == "undecided"


@pytest.mark.parametrize("name", ["study", "tiny", "full"])
def test_the_specification_can_be_read(name):
    assert len(read_cases(FOLDER / f"{name}.toml", FOLDER / "measure.py").cases) > 30


@pytest.mark.long
def test_the_small_study_runs_and_its_control_shows(tmp_path):
    page = analyses.run(FOLDER, OWN.conclude, out=tmp_path, spec="tiny.toml")
    assert page.is_file()
    found = read_conclusion(tmp_path)
    assert found.answer.verdict == "undecided"  # not all K, nor all partitions
    verdicts = {one.claim: one.verdict for one in found.findings}
    assert verdicts[RULE.ALONE + RULE.PART] == "holds"
    for claim in (RULE.FORMS, RULE.MET, *list(RULE.BOUNDS.values())[:3]):
        assert verdicts[claim + RULE.PART] == "holds"
