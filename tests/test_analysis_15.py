"""Analysis 15 on made rows, and its small study."""

import itertools
from pathlib import Path

import pandas as pd
import pytest
from test_analyses import ANALYSES, analysis

from ntk_fed import analysis as analyses
from ntk_fed.report.conclusion import read_conclusion
from ntk_fed.studies import read_cases

(FOLDER,) = ANALYSES.glob("15_*")
OWN = analysis("15")


def row(part, name, value, seed=0, **fields):
    case = {
        "part": part, "network": "ntk", "width": 512, "split": "one-class",
        "local_steps": 5, "fraction": 0.5, "seed": seed,
    }  # fmt: skip
    return {**case, **fields, "quantity": name, "value": value}


def made(*, slope=-0.8, control=0.0, narrow=0.5, noise=0.01, unsure=0.0):
    """Rows with these exponents; ``narrow``: accuracy lost in the narrowest network."""
    rows = []
    for network, width, seed in itertools.product(
        ("ntk", "standard", "mean-field"), (128, 512, 2048), range(5)
    ):
        law = control if network == "mean-field" else slope
        spread = 1 + (noise + unsure) * (-1) ** seed * (seed + 1)
        own = {"network": network, "width": width, "seed": seed}
        for name in OWN.FALLING:
            inside = network != "standard" and name == OWN.DISTANCE
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
        rows.append(row("accuracy", "test accuracy", value, **own))
    for fraction, seed in itertools.product((0.25, 0.125, 0.0625), range(3)):
        own = {"fraction": fraction, "seed": seed}
        rows.append(row("flow", "step size times K", fraction, **own))
        for name in OWN.GAPS:
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


@pytest.mark.parametrize("parts", [("width",), ("accuracy",), ("flow",)])
def test_a_part_that_is_missing_is_left_out(parts):
    rows = made()
    found = OWN.conclude(rows[rows["part"].isin(parts)])
    assert found.findings
    assert found.answer.verdict == ("undecided" if parts == ("flow",) else "holds")


def test_distances_are_in_the_units_of_the_paper():
    found = {one.claim: one for one in OWN.conclude(made(slope=-0.5)).findings}
    for network in OWN.MAIN:
        claim = f"{OWN.DISTANCE} falls at least as the root of the width"
        own = found[f"{claim} ({network}, K = 5)"]
        assert own.estimate == pytest.approx(-0.5, abs=1e-9)  # the spread is the same


def test_rates_and_gaps_are_findings():
    verdicts = {one.claim: one.verdict for one in OWN.conclude(made()).findings}
    faster = f"{OWN.KERNEL} falls no faster than the root of the width (ntk, K = 5)"
    assert verdicts[faster] == "fails"
    for name, sense in itertools.product(OWN.GAPS, ("least", "most")):
        assert verdicts[f"the {name} falls linearly at {sense} in ηK (K = 5)"] == (
            "holds"
        )


@pytest.mark.parametrize("name", ["study", "tiny", "full"])
def test_the_specification_can_be_read(name):
    assert len(read_cases(FOLDER / f"{name}.toml", FOLDER / "measure.py").cases) > 20


@pytest.mark.slow
def test_the_small_study_shows_the_direction(tmp_path):
    page = analyses.run(FOLDER, OWN.conclude, out=tmp_path, spec="tiny.toml")
    assert Path(page).is_file()
    found = read_conclusion(tmp_path)
    assert found.answer.verdict == "holds"
    controls = [one for one in found.findings if one.claim.startswith("control")]
    assert {one.verdict for one in controls} == {"holds"}
