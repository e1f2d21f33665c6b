"""Analysis 13 on made rows, and its small study."""

import dataclasses
import itertools
import math
import sys
from typing import Any

import pandas as pd
import pytest
from test_analyses import ANALYSES, analysis

from ntk_fed import analysis as analyses
from ntk_fed.report.conclusion import read_conclusion
from ntk_fed.studies import read_cases

(FOLDER,) = ANALYSES.glob("13_*")
OWN = analysis("13")
CLAIMS = sys.modules["bias_findings"]
STEPS = 4096  # K t at the end of made runs
SEEDS = range(5)


@dataclasses.dataclass(frozen=True)
class Made:
    """What made rows show; the defaults are what the paper says."""

    limit: float = 1e-11  # distance to the interpolator, consistent labels
    ratio: float = 0.9  # of the worst round to the bound
    factor: float = 0.0  # relative error of the factor of a round
    rise: float = 0.3  # exponent of θ_K in K
    far: float = 0.2  # distance to the interpolator, other labels, K > 1
    exact: float = 1e-11  # distance to the exact limit
    single: float = 1e-11  # distance to least squares at K = 1
    gap: float = -0.2  # exponent of the gap in the logarithm of time
    together: float = -0.3  # exponent of the gap to the centralised model
    near: float = 0.01  # its size
    apart: float = 0.001  # log of the loss over that of centralised descent, at the end
    shrinks: float = -0.5  # its exponent in time
    speed: float = -1.0  # exponent of the loss
    by_rounds: bool = False  # is the loss a function of rounds, not of time?
    elsewhere: float = 3.0  # gap to the clients' SVMs over that to the SVM
    precise: float = 1e-30  # gap between both at K = 1
    plateau: float = 0.0  # exponent of plain averaging
    off: float = 0.2  # its distance to the SVM
    margin: float = 1.0
    decay: float = -1.0  # exponent of the anchored rule
    alone: float = 1e-12
    accuracy: float = 0.9
    agreement: float = 0.999


def row(t, quantity, value, **fields):
    own = {"round": t, "quantity": quantity, "value": value}
    case = {
        "part": "", "labels": "", "start": "", "loss": "", "rule": "",
        "local_steps": 1, "steps": STEPS, "strength": 1.0, "clients": 4, "seed": 0,
    }  # fmt: skip
    return {**case, **fields, **own}


def regression_rows(given):
    kinds = [("consistent", "random"), ("consistent", "slowest")]
    kinds += [(labels, "random") for labels in CLAIMS.CONTRASTS]
    cells = itertools.product(CLAIMS.STEPS["regression"], SEEDS)
    for (labels, start), (k, seed) in itertools.product(kinds, cells):
        own: dict[str, Any] = {"part": "regression", "labels": labels, "start": start}
        own |= {"local_steps": k, "seed": seed}
        noise = 1 + 0.01 * (-1) ** seed * (seed + 1)
        theta = 0.02 * k**given.rise * noise
        end = given.single if k == 1 else given.far
        if labels == "consistent":
            end = given.limit
        for t in (0, 1, 100):
            yield row(t, "distance", math.exp(-0.2 * t), **own)
        values = {
            "distance to the interpolator": end * noise,
            "distance to the fixed point": given.exact * noise,
            "distance to the minimiser of rPr": given.exact * noise,
            "θ_K": theta,
            "θ_∞": 0.2,
            "worst ratio to the bound": given.ratio * noise**0.1,
            "factor of a round": (1 - theta) * (1 + given.factor * noise),
        }
        for name, value in values.items():
            yield row(100, name, value, **own)


def direction_rows(given, part, loss):
    for k, seed, j in itertools.product(CLAIMS.STEPS[part], SEEDS, range(13)):
        t = 2**j
        if t * k > STEPS:
            continue
        own = {"part": part, "loss": loss, "local_steps": k, "seed": seed}
        noise = 1 + 0.01 * (-1) ** seed * (seed + 1)
        time = (t if given.by_rounds else t * k) * noise
        central = time**given.speed
        between = given.near * time**given.together
        gap = 0.5 * (1 + math.log(1 + time)) ** given.gap
        excess = given.apart * (t * k / STEPS) ** given.shrinks
        values = {
            "loss": central * (1.0 if k == 1 else math.exp(excess)),
            "centralised loss": central,
            "gap to the SVM": gap,
            "centralised gap to the SVM": gap,
            "gap to the centralised model": given.precise if k == 1 else between,
            "gap to the clients' SVMs": given.elsewhere * gap,
            "norm": 1 + math.log(1 + time),
            "Crawshaw bound": math.inf,
        }
        if part == "last layer":
            values |= {
                "test accuracy": given.accuracy,
                "centralised test accuracy": 0.9,
                "SVM test accuracy": 0.9,
                "agreement": given.agreement,
            }
        if 2 * t * k > STEPS:
            values |= {"margin": 1.0, "step size": 1.0, "Crawshaw transition": 1e9}
        for name, value in values.items():
            yield row(t, name, value, **own)


def projection_rows(given):
    runs = [("average", 4), ("anchored", 4), ("average", 1)]
    for (rule, clients), seed, j in itertools.product(runs, SEEDS, range(10)):
        own = {"part": "projection", "rule": rule, "clients": clients, "seed": seed}
        t, noise = 2**j, 1 + 0.01 * (-1) ** seed * (seed + 1)
        slope = given.plateau if rule == "average" else given.decay
        apart = given.off * t ** (slope * noise)
        apart = given.alone * noise if clients == 1 else apart
        yield row(t, "distance to the SVM", apart, **own)
        yield row(t, "gap to the SVM", 0.1, **own)
        yield row(t, "smallest margin", given.margin, **own)


def made(**options):
    given = Made(**options)
    rows = [*regression_rows(given), *projection_rows(given)]
    for loss in CLAIMS.LOSSES:
        rows += direction_rows(given, "direction", loss)
    return pd.DataFrame([*rows, *direction_rows(given, "last layer", "logistic")])


def verdict(rows):
    return OWN.conclude(rows).answer.verdict


def test_what_the_paper_says_holds():
    found = OWN.conclude(made())
    assert found.answer.verdict == "holds"
    assert {one.verdict for one in found.findings} == {"holds"}
    assert all("5 seeds" in one.words for one in found.findings)


FAULTS = (
    {"limit": 1e-4}, {"ratio": 1.2}, {"factor": 1e-3}, {"rise": -0.3}, {"exact": 1e-4},
    {"gap": 0.1}, {"together": 0.1}, {"near": 100.0}, {"apart": 0.5},
    {"plateau": -1.0}, {"off": 1e-4}, {"margin": 0.9}, {"decay": -0.2}, {"accuracy": 0},
)  # fmt: skip


@pytest.mark.parametrize("options", FAULTS)
def test_each_line_of_the_rule_can_fail(options):
    assert verdict(made(**options)) == "fails"


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"far": 1e-11}, "not that of centralised"),
        ({"single": 0.1}, "least squares"),
        ({"precise": 1e-4}, "K = 1 it is centralised"),
        ({"by_rounds": True}, "at equal rounds"),
        ({"elsewhere": 0.5}, "clients' SVMs"),
        ({"alone": 0.1}, "a client alone"),
    ],
)
def test_a_control_that_does_not_show_leaves_no_answer(options, name):
    found = OWN.conclude(made(**options))
    assert found.answer.verdict == "undecided"
    assert name in found.answer.words
    failed = [one.claim for one in found.findings if one.verdict == "fails"]
    assert any(name in claim for claim in failed)


@pytest.mark.parametrize(
    "query",
    [
        "part != 'regression'",
        "part != 'direction'",
        "part != 'last layer'",
        "part != 'projection'",
        "start != 'slowest'",
        "labels != 'few parameters'",
        "labels != 'contradicting' or local_steps != 1",
        "part != 'regression' or local_steps != 50",
        "loss != 'exponential'",
        "part != 'direction' or local_steps != 32",
        "part != 'last layer' or local_steps != 8",
        "rule != 'anchored'",
        "part != 'projection' or clients > 1",
        "seed == 0",
    ],
)
def test_without_a_piece_of_the_rule_there_is_no_answer(query):
    found = OWN.conclude(made().query(query))
    assert found.findings
    assert found.answer.verdict == "undecided"


LOST = [
    ("part == 'regression' and labels == 'consistent' and start == 'random'",
     "distance to the interpolator", CLAIMS.LIMIT, "fails"),
    ("part == 'regression' and start == 'slowest'", "factor of a round", CLAIMS.FACTOR,
     "fails"),
    ("part == 'regression' and start == 'random' and labels == 'consistent'",
     "worst ratio to the bound", CLAIMS.BOUND, "fails"),
    ("labels == 'contradicting'", "distance to the fixed point",
     CLAIMS.exactly("contradicting"), "fails"),
    ("labels == 'contradicting'", "distance to the interpolator",
     CLAIMS.leaves("contradicting"), "undecided"),
    ("part == 'direction' and loss == 'logistic'", "loss",
     CLAIMS.of("logistic", CLAIMS.COLLAPSE), "fails"),
    ("part == 'direction' and loss == 'logistic'", "gap to the SVM",
     CLAIMS.of("logistic", CLAIMS.TURNS), "fails"),
    ("part == 'last layer'", "test accuracy", CLAIMS.ACCURACY, "fails"),
    ("rule == 'anchored'", "distance to the SVM", CLAIMS.DECAYS, "fails"),
    ("rule == 'average' and clients == 4", "smallest margin", CLAIMS.FEASIBLE, "fails"),
]  # fmt: skip


@pytest.mark.parametrize(("query", "quantity", "claim", "expected"), LOST)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_lost_is_seen(query, quantity, claim, expected, value):
    rows = made()
    at = rows.eval(f"seed == 1 and quantity == @quantity and {query}")
    assert at.any()
    rows.loc[at, "value"] = value
    found = OWN.conclude(rows)
    (one,) = (one for one in found.findings if one.claim == claim)
    assert one.verdict == expected
    assert "not finite" in one.words
    assert found.answer.verdict != "holds"


@pytest.mark.parametrize(
    ("options", "claim"),
    [
        ({"agreement": 0.9}, CLAIMS.AGREES),
        ({"shrinks": 0.5}, CLAIMS.of("logistic", CLAIMS.SHRINKS)),
        ({"speed": -0.8}, CLAIMS.of("logistic", CLAIMS.SPEED)),
    ],
)
def test_what_stands_beside_the_rule_can_fail_alone(options, claim):
    found = OWN.conclude(made(**options))
    (one,) = (one for one in found.findings if one.claim == claim)
    assert one.verdict == "fails"
    assert found.answer.verdict == "holds"


def test_a_run_that_is_missing_is_seen():
    rows = made().query("part != 'direction' or seed != 2 or local_steps != 8")
    assert verdict(rows) == "fails"


@pytest.mark.parametrize(
    "query",
    [
        "rule != 'anchored' or seed > 0",
        "start != 'slowest' or seed > 0",
        "part != 'last layer' or seed > 0",
        "part != 'projection' or clients > 1 or seed > 0",
    ],
)
def test_a_seed_that_is_missing_in_one_line_leaves_no_answer(query):
    found = OWN.conclude(made().query(query)).answer
    assert found.verdict == "undecided"
    assert "not there for every seed" in found.words


def test_one_run_above_the_bound_or_outside_a_margin_is_seen():
    for quantity, value, good in (
        ("worst ratio to the bound", 1.01, 0.1),
        ("smallest margin", 0.9999, 2.0),
    ):
        rows = made()
        rows.loc[rows["quantity"] == quantity, "value"] = good
        rows.loc[(rows["quantity"] == quantity) & (rows["seed"] == 1), "value"] = value
        assert verdict(rows) != "holds"


@pytest.mark.parametrize(
    ("rise", "expected"), [(1e-7, "holds"), (1e-14, "undecided"), (-1e-7, "fails")]
)
def test_theta_has_to_rise_in_every_run_by_more_than_rounding(rise, expected):
    rows = made()
    own = (rows["quantity"] == "θ_K") & (rows["labels"] == "consistent")
    own &= (rows["start"] == "random") & (rows["seed"] == 3)
    k20, k50 = (own & (rows["local_steps"] == k) for k in (20, 50))
    rows.loc[k50, "value"] = rows.loc[k20, "value"].to_numpy() * (1 + rise)
    assert verdict(rows) == expected


def test_a_control_that_is_lost_is_none_for_what_fails_elsewhere():
    rows = made(limit=1e-4)
    alone = (rows["part"] == "projection") & (rows["clients"] == 1)
    rows.loc[alone & (rows["seed"] == 0), "value"] = math.nan
    assert verdict(rows) == "undecided"


def test_a_distance_that_is_negative_is_none():
    rows = made()
    own = (rows["quantity"] == "distance to the interpolator") & (rows["seed"] == 0)
    rows.loc[own & (rows["labels"] == "consistent"), "value"] = -1.0
    assert verdict(rows) == "fails"


def test_two_models_that_diverged_do_not_agree():
    rows = made()
    layer = (rows["part"] == "last layer") & (rows["seed"] == 0)
    rows.loc[layer & rows["quantity"].str.endswith("loss"), "value"] = math.nan
    rows.loc[layer & rows["quantity"].str.contains("accuracy"), "value"] = 0.0
    found = OWN.conclude(rows)
    (one,) = (one for one in found.findings if one.claim == CLAIMS.ACCURACY)
    assert one.verdict == found.answer.verdict == "fails"


def test_a_run_is_long_beside_a_shorter_one_only():
    rows = made().assign(steps=2**20)
    assert verdict(rows) == "holds"
    longer = rows[rows["part"] == "last layer"].assign(steps=2**22)
    found = OWN.conclude(pd.concat([rows, longer]))
    assert found.answer.verdict == "holds"
    assert any("four times as long" in one.claim for one in found.findings)


def test_statuses_are_kept():
    found = {one.claim: one.source for one in OWN.conclude(made()).findings}
    for claim, status in (
        (CLAIMS.DECAYS, "recalled"),
        (CLAIMS.FACTOR, "derived"),
        (CLAIMS.of("logistic", CLAIMS.COLLAPSE), "seen numerically"),
        (CLAIMS.of("logistic", CLAIMS.TURNS), "abstract"),
    ):
        assert status in found[claim]


@pytest.mark.parametrize("name", ["study", "tiny", "full"])
def test_the_specification_can_be_read(name):
    assert len(read_cases(FOLDER / f"{name}.toml", FOLDER / "measure.py").cases) > 15


@pytest.mark.long
def test_the_small_study_shows_the_direction(tmp_path):
    page = analyses.run(FOLDER, OWN.conclude, out=tmp_path, spec="tiny.toml")
    assert page.is_file()
    found = read_conclusion(tmp_path)
    assert found.answer.verdict == "undecided"  # not all K
    assert "not measured" in found.answer.words
    verdicts = {
        one.claim.removesuffix(f" {CLAIMS.PART}"): one for one in found.findings
    }
    for claim in (
        CLAIMS.LIMIT,
        CLAIMS.FACTOR,
        CLAIMS.STALLS,
        CLAIMS.DECAYS,
        CLAIMS.ALONE,
    ):
        assert verdicts[claim].verdict == "holds"
