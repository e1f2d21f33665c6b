"""Analysis 16 on made rows, and its small study."""

import itertools

import pandas as pd
import pytest
from test_analyses import ANALYSES, analysis

from ntk_fed import analysis as analyses
from ntk_fed.report.conclusion import read_conclusion
from ntk_fed.studies import read_cases

(FOLDER,) = ANALYSES.glob("16_*")
OWN = analysis("16")


def row(part, name, value, **fields):
    case = {"width": 1024, "clients": 5, "local_steps": 5, "strength": 0.05, "seed": 0}
    own = {"part": part, "round": 1, "step": 1, "quantity": name, "value": value}
    return {**case, **fields, **own}


def made(*, slope=-0.6, start=0.0, smallest=0.9, growth=1.0, over=4.0, spread=0.01):
    """Rows with these exponents in width and in K/c."""
    rows = []
    for width, k, seed in itertools.product((64, 256, 1024), (1, 5), range(5)):
        noise = 1 + spread * (-1) ** seed * (seed + 1)
        own = {"width": width, "local_steps": k, "seed": seed}
        rows.append(row("asymmetry", OWN.ASYMMETRY, width**slope * noise, **own))
        rows.append(row("asymmetry", OWN.AT_START, start, **own))
        for name in (OWN.SMALLEST, OWN.REAL):
            rows.append(row("asymmetry", name, smallest * noise, **own))
    for strength, k, c, seed in itertools.product(
        (0.05, 0.5), (1, 2, 5, 10, 20), (2, 5, 10), range(5)
    ):
        noise = 1 + 0.001 * (-1) ** seed * (seed + 1)
        own = {"strength": strength, "local_steps": k, "clients": c, "seed": seed}
        promised = 0.01 * k / c
        rate = over * 0.01 * (k / c) ** growth * noise
        late = rate if strength < 0.1 else 0.02 * (k / c) ** 0.3 * noise
        for name, value in (
            (OWN.PROMISED, promised),
            (OWN.MEASURED, rate),
            (OWN.PREDICTED, rate * 1.01),
            (OWN.ASYMPTOTIC, late),
        ):
            rows.append(row("rate", name, value, **own))
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "holds"),
        ({"slope": -0.1}, "fails"),
        ({"smallest": 0.3}, "fails"),
        ({"over": 0.5}, "fails"),
        ({"growth": 0.7}, "fails"),
        ({"slope": -0.25}, "undecided"),
        ({"smallest": 0.5}, "undecided"),
        ({"start": 1e-3}, "undecided"),
    ],
)
def test_asymmetry_and_rate_decide_under_the_rule(options, expected):
    assert OWN.conclude(made(**options)).answer.verdict == expected


def test_a_kernel_that_is_bent_before_any_step_leaves_no_answer():
    found = OWN.conclude(made(start=1e-12)).answer
    assert found.verdict == "undecided"
    assert "control" in found.words


def test_larger_steps_are_findings_outside_the_rule():
    verdicts = {one.claim: one.verdict for one in OWN.conclude(made()).findings}
    assert verdicts["at a larger step the rate saturates in K (0.5)"] == "holds"
    assert verdicts["at a larger step the formula promises too much (0.5)"] == "holds"


@pytest.mark.parametrize("part", ["asymmetry", "rate"])
def test_a_part_that_is_missing_is_left_out_and_leaves_no_answer(part):
    rows = made()
    found = OWN.conclude(rows[rows["part"] == part])
    assert found.findings
    assert found.answer.verdict == "undecided"
    assert "not measured" in found.answer.words


@pytest.mark.parametrize(
    "query",
    [
        f"quantity != '{OWN.AT_START}'",
        f"quantity != '{OWN.ASYMMETRY}'",
        f"quantity != '{OWN.REAL}'",
        "part != 'asymmetry' or local_steps == 5",
        "part != 'rate' or strength > 0.1",
        "part != 'rate' or clients != 5",
        "part != 'rate' or local_steps != 20",
        "part != 'rate' or seed > 0 or clients != 5",
    ],
)
def test_without_a_piece_of_the_rule_there_is_no_answer(query):
    assert OWN.conclude(made().query(query)).answer.verdict == "undecided"


WIDE = "part == 'asymmetry' and width == 1024 and local_steps == 5"
SLOW = "part == 'rate' and strength == 0.05 and clients == 5 and local_steps == 5"
FAST = "part == 'rate' and strength == 0.5 and clients == 5 and local_steps == 5"
NARROW = "part == 'asymmetry' and width == 64 and local_steps == 5"


@pytest.mark.parametrize(
    ("query", "quantity", "value", "expected"),
    [
        (WIDE, OWN.SMALLEST, float("nan"), "fails"),
        (WIDE, OWN.REAL, float("-inf"), "fails"),
        (WIDE, OWN.ASYMMETRY, float("inf"), "fails"),
        (WIDE, OWN.ASYMMETRY, 0.0, "undecided"),
        (WIDE, OWN.AT_START, float("nan"), "undecided"),
        (NARROW, OWN.ASYMMETRY, float("nan"), "undecided"),
        (SLOW, OWN.MEASURED, -0.1, "fails"),
        (SLOW, OWN.MEASURED, float("nan"), "fails"),
        (FAST, OWN.MEASURED, float("nan"), "holds"),  # not in the rule
        (FAST, OWN.ASYMPTOTIC, -1.0, "holds"),
    ],
)
def test_a_number_that_is_not_usable_is_seen(query, quantity, value, expected):
    rows = made()
    rows.loc[rows.eval(f"seed == 0 and quantity == @quantity and {query}"), "value"] = (
        value
    )
    found = OWN.conclude(rows)
    assert found.answer.verdict == expected
    told = [one for one in found.findings if "not finite" in one.words]
    assert told
    assert all(one.verdict != "holds" for one in told)


def test_that_the_asymmetry_falls_is_no_claim_of_the_paper():
    found = {one.claim: one.source for one in OWN.conclude(made()).findings}
    assert found["the asymmetry falls with width (K = 5)"] == (
        "ours; no claim of the paper"
    )


@pytest.mark.parametrize("name", ["study", "tiny", "full"])
def test_the_specification_can_be_read(name):
    assert len(read_cases(FOLDER / f"{name}.toml", FOLDER / "measure.py").cases) > 15


@pytest.mark.long
def test_the_small_study_shows_the_direction(tmp_path):
    page = analyses.run(FOLDER, OWN.conclude, out=tmp_path, spec="tiny.toml")
    assert page.is_file()
    found = read_conclusion(tmp_path)
    assert found.answer.verdict == "undecided"  # not all K and c
    first = [one for one in found.findings if "within 10 %" not in one.claim]
    assert {one.verdict for one in first} == {"holds"}
    controls = [one for one in found.findings if one.claim.startswith("control")]
    assert {one.verdict for one in controls} == {"holds"}
