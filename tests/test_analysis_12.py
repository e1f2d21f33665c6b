"""Analysis 12 on made rows, and its small study."""

import itertools

import numpy as np
import pandas as pd
import pytest
from test_analyses import ANALYSES, analysis

from ntk_fed import analysis as analyses
from ntk_fed.report.conclusion import read_conclusion
from ntk_fed.studies import read_cases

(FOLDER,) = ANALYSES.glob("12_*")
OWN = analysis("12")
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
        for split, ks in OWN.SPLITS.items():
            for k in ks:
                rows += images("main", split, k, seed, early=early, late=late)
        for k in (1, 2, 5):
            rows += images("one client", "one label", k, seed, early=alone, late=0)
        noise = 1 + 0.001 * seed
        for split, k in itertools.product(OWN.PERCEPTRONS, OWN.FEW):
            fields = {"part": "perceptron", "split": split, "local_steps": k}
            speed = noise * k**slope * (0.1 if split == "single" else 1)
            rows += curve(lambda t, s=speed: 1 + s * t, 200, seed=seed, **fields)
        for k in OWN.KS:
            fields = {"part": "strongly", "local_steps": k, "seed": seed}
            steep = 0.05 * k * noise
            shape = (lambda t: 1 + t) if bend else (lambda t, s=steep: np.exp(s * t))
            rows += curve(shape, 20, **fields)
            rows += checks("theorem3", 0.1, **fields)
        for name in ("theorem1", "theorem2", "lemma4", "lemma5"):
            fields = {"part": "theorems", "split": "alike", "local_steps": 5}
            rows += checks(name, over * noise, seed=seed, **fields)
    for number, size in ((1, 0.5), (2, 0.95), (2, 1.05)):
        fields = {"part": "instances", "number": number, "step_size": size}
        values = INSTANCE[number] | {"factor": factor if size > 1 else 0.98}
        rows += [row(name, value, **fields) for name, value in values.items()]
    return pd.DataFrame(rows)


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
    wanted = [one for one in found.findings if one.claim in OWN.RULE]
    assert len(wanted) == len(OWN.RULE)


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
        ("quantity == 'factor' and step_size == 1.05", np.inf, "fails"),
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
    assert verdicts[OWN.ALONE] == "holds"
    for claim in (OWN.FORMS, OWN.MET, *list(OWN.BOUNDS.values())[:3]):
        assert verdicts[claim] == "holds"
