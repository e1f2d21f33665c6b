"""Analysis 10 on made rows, and its pipeline on the tiny specification."""

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
from test_analyses import ANALYSES, analysis

from ntk_fed.analysis import run
from ntk_fed.report.conclusion import read_conclusion
from ntk_fed.studies import read_cases

FOLDER = ANALYSES / "10_song2023_one_wide_layer"
CASES = read_cases(FOLDER / "tiny.toml", FOLDER / "measure.py").cases


def made(*, wide=-6.0, narrow=-0.5, same=0.0, gap=1.0, scatter=0.1):
    """Rows whose log10 loss ends there; straight lines at 40 units and above."""
    random = np.random.default_rng(0)
    rows = []
    for k, width, split, seed in itertools.product(
        (1, 5, 20), (4, 40, 160), ("iid", "one-class"), range(5)
    ):
        # One draw for both splits: with K = 1 they are one algorithm.
        noise = random.normal() if split == "iid" else 0.0
        end = (narrow if width < 40 else wide) + 0.05 * (seed - 2)
        if split == "one-class":
            end += (same if k == 1 else gap * (0.05 if width < 40 else 0.1)) / 5
        elif k > 1:
            end += scatter * noise / 5
        case = dataclasses.replace(
            CASES[0], width=width, split=split, local_steps=k, seed=seed
        )
        shape = np.linspace(0, 1, 9) if width >= 40 else 1 - 0.01 ** np.arange(9)
        for t, part in enumerate(shape):
            value = 10 ** (end * part)
            rows.append({"round": t, "quantity": "loss", "value": value} | fields(case))
        for quantity, value in (
            ("step size", 0.1), ("PL constant at the start", 0.1),
            ("predicted loss", 1e-3 * (1 + 0.1 * (split == "iid"))),
        ):  # fmt: skip
            rows.append({"round": 0, "quantity": quantity, "value": value})
            rows[-1] |= fields(case)
    return pd.DataFrame(rows)


def fields(case):
    """The fields of a case as columns."""
    return dataclasses.asdict(case)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "holds"),
        ({"wide": -1.7}, "fails"),  # far from zero at n_1 = n
        ({"wide": -2.0}, "undecided"),  # seeds on both sides of a hundredth
        ({"narrow": -5.5}, "undecided"),  # control: the narrow network learns as well
        ({"same": 0.1}, "undecided"),  # control: splits differ where they cannot
        ({"gap": 0.0, "scatter": 0.0}, "undecided"),  # control: nothing to be seen
    ],
)
def test_convergence_holds_under_the_rule_only(options, expected):
    found = analysis("10").conclude(made(**options))
    assert found.answer.verdict == expected, found.answer.words


def test_a_control_that_does_not_hold_is_named():
    found = analysis("10").conclude(made(narrow=-5.5))
    assert "a control does not hold" in found.answer.words
    assert "narrow" in found.answer.words


def test_a_plateau_at_full_width_is_refused():
    rows = made()
    flat = (rows["quantity"] == "loss") & (rows["width"] >= 40) & (rows["round"] >= 5)
    rows.loc[flat, "value"] = 1e-3 * 0.999 ** rows.loc[flat, "round"]
    found = analysis("10").conclude(rows)
    bent = [one for one in found.findings if "n_1 ≥ n" in one.claim]
    assert any("straight" in one.claim and one.verdict == "fails" for one in bent)


def test_without_narrow_networks_there_is_no_answer():
    rows = made()
    rows = rows[(rows["width"] >= 40) & (rows["split"] == "one-class")]
    assert analysis("10").conclude(rows).answer.verdict == "undecided"


@pytest.mark.parametrize("name", ["study", "full", "tiny"])
def test_every_specification_can_be_read(name):
    study = read_cases(FOLDER / f"{name}.toml", FOLDER / "measure.py")
    cells = pd.DataFrame([fields(case) for case in study.cases]).drop(columns="seed")
    assert cells.value_counts(dropna=False).min() >= 5


@pytest.mark.slow
def test_tiny_shows_straight_lines_and_a_plateau(tmp_path):
    page = run(FOLDER, analysis("10").conclude, out=tmp_path, spec="tiny.toml")
    found = {one.claim: one for one in read_conclusion(page.parent).findings}
    straight = "log loss goes on falling in a straight line (one-class, K = 5)"
    assert found[f"With n_1 ≥ n {straight}"].verdict == "holds"
    kept = "The narrow network keeps ten times the loss or more (K = 5)"
    assert found[kept].verdict == "holds"
    assert found["With K = 1 the split does not matter"].verdict == "holds"
