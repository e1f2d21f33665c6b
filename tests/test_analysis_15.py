"""Analysis 15 on made rows, and its small study."""

import itertools
from pathlib import Path

import pandas as pd
import pytest
from test_analyses import ANALYSES, analysis

from ntk_fed import analysis as analyses
from ntk_fed.report.conclusion import keep, read_conclusion
from ntk_fed.studies import read_cases

(FOLDER,) = ANALYSES.glob("15_*")
OWN = analysis("15")
DISTANCE = OWN.FALLING[-1]
GAPS = ("gap to gradient flow", "gap to centralised descent")


def row(part, name, value, seed=0, **fields):
    case = {
        "part": part, "network": "ntk", "width": 512, "split": "one-class",
        "local_steps": 5, "fraction": 0.5, "seed": seed,
    }  # fmt: skip
    return {**case, **fields, "quantity": name, "value": value}


def made(*, slope=-0.8, control=0.0, narrow=0.5, noise=0.01, unsure=0.0):
    """Rows with these exponents; ``narrow``: accuracy lost in the narrowest network."""
    rows = []
    for network, width, seed, k in itertools.product(
        ("ntk", "standard", "mean-field"), (128, 512, 2048), range(5), (2, 5)
    ):
        if network == "mean-field" and k == 2:
            continue
        law = control if network == "mean-field" else slope
        spread = 1 + (noise + unsure) * (-1) ** seed * (seed + 1)
        own = {"network": network, "width": width, "seed": seed, "local_steps": k}
        rows.append(row("width", "diverged", 0.0, **own))
        for name in OWN.FALLING:
            inside = network != "standard" and name == DISTANCE
            power = law + (0.5 if inside else 0.0)
            rows.append(row("width", name, width**power * spread, **own))
        rows.append(row("width", OWN.FEDERATED, 0.1 * width**-1.0 * spread, **own))
        rows.append(row("width", OWN.CENTRAL, 0.2 * spread, **own))
    for width, split, seed in itertools.product(
        (32, 512), ("iid", "one-class"), range(5)
    ):
        lost = (narrow if width == 32 else 0.1) + 0.001 * seed
        value = 0.9 - (lost if split == "one-class" else 0.0)
        own = {"width": width, "split": split, "seed": seed}
        rows.append(row("accuracy", "diverged", 0.0, **own))
        rows.append(row("accuracy", "test accuracy", value, **own))
    for fraction, seed in itertools.product((0.25, 0.125, 0.0625), range(3)):
        own = {"fraction": fraction, "seed": seed}
        rows.append(row("flow", "step size times K", fraction, **own))
        for name in GAPS:
            rows.append(row("flow", name, fraction * (1 + 0.01 * seed), **own))
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "holds"),
        ({"slope": -0.2}, "fails"),
        ({"narrow": 0.05}, "fails"),
        ({"slope": -0.4}, "undecided"),
        ({"control": -0.5}, "undecided"),
        ({"unsure": 0.18, "slope": -0.5}, "undecided"),
    ],
)
def test_laws_and_drop_decide_under_the_rule(options, expected):
    assert OWN.conclude(made(**options)).answer.verdict == expected


def test_a_control_that_falls_leaves_no_answer():
    found = OWN.conclude(made(control=-0.8)).answer
    assert found.verdict == "undecided"
    assert "no power" in found.words


@pytest.mark.parametrize("part", ["width", "accuracy", "flow"])
def test_a_part_that_is_missing_is_left_out_and_leaves_no_answer(part):
    rows = made()
    found = OWN.conclude(rows[rows["part"] == part])
    assert found.findings
    assert found.answer.verdict == "undecided"
    assert "not measured" in found.answer.words


@pytest.mark.parametrize(
    "query",
    [
        "network != 'mean-field'",
        "network != 'standard'",
        "network != 'standard' or local_steps != 2",
        "part != 'accuracy'",
        "part != 'accuracy' or split == 'iid'",
        "network != 'mean-field' or quantity != 'linearisation gap'",
        "quantity != 'linearisation gap (test)'",
    ],
)
def test_without_a_piece_of_the_rule_there_is_no_answer(query):
    found = OWN.conclude(made().query(query))
    assert found.answer.verdict == "undecided"


def spoilt(rows, query, value, quantity=None):
    """The rows with another value for some, seed 0 alone."""
    rows = rows.copy()
    where = rows.eval(f"seed == 0 and {query}")
    where &= rows["quantity"] == (quantity or "diverged")
    assert where.sum() == 1
    rows.loc[where, "value"] = value
    return rows


NARROW = "part == 'accuracy' and split == 'one-class' and width == 32"
WIDE = "part == 'accuracy' and split == 'one-class' and width == 512"
LAW = "network == 'ntk' and part == 'width' and width == 2048 and local_steps == 5"
CONTROL = "network == 'mean-field' and width == 128"
FLOW = "part == 'flow' and fraction == 0.25"


@pytest.mark.parametrize(
    ("query", "value", "quantity", "expected"),
    [
        (LAW, 1.0, None, "fails"),
        (LAW, float("inf"), OWN.KERNEL, "fails"),
        (LAW, float("nan"), DISTANCE, "fails"),
        (LAW, 0.0, OWN.KERNEL, "fails"),
        (CONTROL, 1.0, None, "undecided"),
        (CONTROL, float("inf"), OWN.KERNEL, "undecided"),
        (WIDE, 1.0, None, "fails"),
        (WIDE, float("nan"), "test accuracy", "fails"),
        (NARROW, 1.0, None, "undecided"),
        (LAW, float("inf"), OWN.FEDERATED, "holds"),  # not in the rule
        (FLOW, float("inf"), GAPS[0], "holds"),
        (FLOW, float("nan"), "step size times K", "holds"),
    ],
)
def test_a_run_that_is_lost_is_seen(query, value, quantity, expected, tmp_path):
    found = OWN.conclude(spoilt(made(), query, value, quantity))
    assert found.answer.verdict == expected
    told = [one for one in found.findings if "not finite" in one.words]
    assert told
    assert all(one.verdict != "holds" for one in told)
    assert all(one.lower == -float("inf") for one in told)
    keep(tmp_path, found)


def test_lost_accuracy_is_not_in_the_drop_and_seeds_are_counted():
    rows = made()
    gone = rows.eval(f"seed < 2 and {NARROW}")
    for found in (
        OWN.conclude(rows[~gone]),
        OWN.conclude(rows.assign(value=rows["value"].mask(gone))),
    ):
        (drop,) = [one for one in found.findings if one.claim == OWN.DROP]
        assert drop.verdict == "undecided"
        assert "3 seeds: 2 of 5 not finite" in drop.words
        assert found.answer.verdict == "undecided"


def test_a_missing_run_leaves_its_exponent_open():
    rows = made()
    found = OWN.conclude(rows[~rows.eval(f"seed == 0 and {LAW}")])
    assert found.answer.verdict == "undecided"


def test_an_exact_federated_kernel_is_not_an_error():
    rows = [
        row("flow", name, value, seed, fraction=1.0)
        for seed in range(3)
        for name, value in ((OWN.EXACT, 0.0), ("step size times K", 1.0))
    ]
    (one,) = OWN.conclude(pd.DataFrame(rows)).findings
    assert one.verdict == "holds"
    rows[0]["value"] = float("nan")
    (one,) = OWN.conclude(pd.DataFrame(rows)).findings
    assert one.verdict == "fails"


def test_distances_are_in_the_units_of_the_paper():
    found = {one.claim: one for one in OWN.conclude(made(slope=-0.5)).findings}
    for network in OWN.MAIN:
        claim = f"{DISTANCE} falls at least as the root of the width"
        own = found[f"{claim} ({network}, K = 5)"]
        assert own.estimate == pytest.approx(-0.5, abs=1e-9)  # the spread is the same


def test_rates_and_gaps_are_findings():
    verdicts = {one.claim: one.verdict for one in OWN.conclude(made()).findings}
    faster = f"{OWN.KERNEL} falls no faster than the root of the width (ntk, K = 5)"
    assert verdicts[faster] == "fails"
    for name, sense in itertools.product(GAPS, ("least", "most")):
        assert verdicts[f"the {name} falls linearly at {sense} in ηK (K = 5)"] == (
            "holds"
        )


@pytest.mark.parametrize("name", ["study", "tiny", "full"])
def test_the_specification_can_be_read(name):
    assert len(read_cases(FOLDER / f"{name}.toml", FOLDER / "measure.py").cases) > 20


@pytest.mark.long
def test_the_small_study_shows_the_direction(tmp_path):
    page = analyses.run(FOLDER, OWN.conclude, out=tmp_path, spec="tiny.toml")
    assert Path(page).is_file()
    found = read_conclusion(tmp_path)
    assert found.answer.verdict == "undecided"  # one K, no accuracy
    laws = [one for one in found.findings if one.claim in OWN.LAWS]
    assert len(laws) == len(OWN.FALLING)
    assert {one.verdict for one in laws} == {"holds"}
    controls = [one for one in found.findings if one.claim.startswith("control")]
    assert {one.verdict for one in controls} == {"holds"}
