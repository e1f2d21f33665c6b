"""Analysis 10 on made rows, and its pipeline on the tiny specification."""

import dataclasses
import itertools
import os

import numpy as np
import pandas as pd
import pytest
from test_analyses import ANALYSES, analysis

from ntk_fed.analysis import run
from ntk_fed.report.conclusion import keep, read_conclusion
from ntk_fed.studies import read_cases

FOLDER = ANALYSES / "10_song2023_one_wide_layer"
CASES = read_cases(FOLDER / "tiny.toml", FOLDER / "measure.py").cases


def made(*, wide=-6.0, narrow=-0.5, same=0.0, gap=1.0, scatter=0.1):
    """Rows whose log10 loss ends there; straight lines at 40 units and above."""
    random = np.random.default_rng(0)
    rows = []
    for k, width, split, seed in itertools.product(
        (1, 5, 20), (4, 40, 160), ("iid", "one-class", "dirichlet"), range(5)
    ):
        if split == "dirichlet" and (k == 1 or width < 40):
            continue
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


def chosen(rows, *, quantity="loss", **values):
    """Where rows have this quantity and these values; a list allows each of them."""
    found = rows["quantity"] == quantity
    for name, value in values.items():
        found &= rows[name].isin(value if isinstance(value, list) else [value])
    return found


def claimed(found, *words):
    """The findings whose claims have all of these words."""
    return [one for one in found.findings if all(word in one.claim for word in words)]


@pytest.mark.parametrize(
    "missing",
    [
        {"width": [4]},
        {"width": [4], "local_steps": [20]},  # the narrow control at K = 20
        {"width": [160]},  # no exponent from two widths
        {"split": ["iid"], "local_steps": [1]},  # the control of the splits
        {"split": ["iid"], "local_steps": [20]},
        {"split": ["dirichlet"]},
        {"split": ["dirichlet"], "local_steps": [5]},
        {"local_steps": [1]},
        {"local_steps": [5]},
        {"local_steps": [20]},
    ],
    ids=str,
)
def test_without_a_finding_of_the_rule_there_is_no_answer(missing):
    rows = made()
    away = np.logical_and.reduce(
        [rows[name].isin(own) for name, own in missing.items()]
    )
    found = analysis("10").conclude(rows[~away]).answer
    assert found.verdict == "undecided"
    assert "are missing" in found.words


def test_the_rule_asks_for_what_the_study_has():
    study = read_cases(FOLDER / "study.toml", FOLDER / "measure.py")
    cells = {
        f"{case.split}, K = {case.local_steps}"
        for case in study.cases
        if case.part == "pyramid" and case.activation == "relu" and case.split != "iid"
    }
    assert cells == set(analysis("10").PLACES)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_diverged_run_at_full_width_refutes(value):
    rows = made()
    one = chosen(rows, width=160, split="one-class", local_steps=5, seed=2, round=8)
    rows.loc[one, "value"] = value
    found = analysis("10").conclude(rows)
    assert found.answer.verdict == "fails", found.answer.words
    assert "1 of 10 runs not finite" in found.answer.words
    for words in ("straight", "rate is positive", "a hundredth"):
        (own,) = claimed(found, words, "one-class, K = 5")
        assert own.verdict == "fails"
        assert np.isnan(own.estimate)
    (own,) = claimed(found, "loss after the last round", "K = 5")
    assert own.verdict == "undecided"
    assert "1 of 15 runs not finite or not positive" in own.words


def test_where_all_wide_runs_diverge_nothing_holds():
    rows = made()
    wide = {"width": [40, 160], "local_steps": [5, 20], "split": "one-class"}
    rows.loc[chosen(rows, **wide, round=8), "value"] = np.inf
    found = analysis("10").conclude(rows)
    assert found.answer.verdict == "undecided"  # the narrow network is no worse
    assert "a control does not hold" in found.answer.words
    assert "Besides" in found.answer.words
    for k in (5, 20):
        lines = claimed(found, "With n_1 ≥ n", f"one-class, K = {k}")
        assert {one.verdict for one in lines} == {"fails"}


def test_a_loss_of_zero_does_not_count_as_diverged():
    rows = made()
    one = chosen(rows, width=160, split="dirichlet", seed=2, round=8)
    rows.loc[one, "value"] = 0.0
    found = analysis("10").conclude(rows)
    assert found.answer.verdict == "undecided"
    assert "1 of 10 runs not finite" in found.answer.words


@pytest.mark.parametrize("flat", [0.999, 1.0])
@pytest.mark.parametrize("width", [40, 160])
def test_a_plateau_at_one_width_is_not_averaged_away(width, flat):
    rows = made()
    own = chosen(rows, width=width, split="dirichlet", local_steps=5)
    own &= rows["round"] >= 5
    rows.loc[own, "value"] = 1e-3 * flat ** rows.loc[own, "round"]
    found = analysis("10").conclude(rows)
    assert found.answer.verdict == "fails"
    (straight,) = claimed(found, "straight", "dirichlet, K = 5")
    assert straight.verdict == "fails"


def test_a_curve_that_is_flat_early_and_late_has_straightness_zero():
    rows = made()
    own = chosen(rows, width=40, split="dirichlet", local_steps=5, seed=2)
    rows.loc[own & (rows["round"] >= 2), "value"] = 1e-3
    runs = analysis("10").conclude(rows).tables["runs"]
    flat = (runs["split"] == "dirichlet") & (runs["local_steps"] == 5)
    flat &= (runs["width"] == 40) & (runs["seed"] == 2)
    assert runs.loc[flat, "straightness"].tolist() == [0.0]
    assert (runs.loc[~flat & (runs["width"] > 4), "straightness"] > 0.9).all()


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 0.0])
@pytest.mark.parametrize("loss", [True, False])
def test_no_number_raises(value, loss, tmp_path):
    rows = pd.concat([made(), beside()])
    own = ((rows["quantity"] == "loss") == loss) & (rows["seed"] == 2)
    rows.loc[own & rows["round"].isin([0, 8]), "value"] = value
    found = analysis("10").conclude(rows)
    assert found.answer.verdict == ("undecided" if loss else "holds")
    keep(tmp_path, found)
    again = read_conclusion(tmp_path)
    assert [one.verdict for one in again.findings] == [
        one.verdict for one in found.findings
    ]


def beside():
    """Rows of image networks, of certificates and of the smooth activation."""
    rows = []
    changes = [
        {"part": "image", "model": "lenet", "width": width, "split": split}
        for width in (25, 50, 100)
        for split in ("iid", "one-class")
    ]
    changes += [
        {"part": "certificate", "initial": name} for name in ("lecun", "certified")
    ]
    changes += [
        {"activation": "smooth_leaky_relu", "side": 14, "width": width}
        for width in (4, 40)
    ]
    more = {
        "margin of N1": -9.0, "margin of N2": -7.0, "step size": 0.1,
        "step size of the theorem": 1e-9, "promised rate, practical step": 1e-3,
        "PL constant at the start": 0.1, "predicted loss": 1e-3,
    }  # fmt: skip
    for change, seed in itertools.product(changes, range(5)):
        case = fields(dataclasses.replace(CASES[0], seed=seed, **change))
        for t in range(9):
            value = 10 ** (-t * (0.4 + 0.01 * seed) - 0.1 * (case["split"] == "iid"))
            rows.append({"round": t, "quantity": "loss", "value": value} | case)
        for quantity, value in more.items():
            rows.append({"round": 0, "quantity": quantity, "value": value} | case)
    return pd.DataFrame(rows)


def test_nothing_is_promised_where_no_certificate_is():
    found = analysis("10").conclude(beside())
    claims = [one.claim for one in found.findings if "lecun" in one.claim]
    assert len(claims) == 5
    assert not [claim for claim in claims if "promise" in claim]
    (rate,) = claimed(found, "formula would give at this step (lecun)")
    assert rate.verdict == "holds"


def test_the_rate_of_a_run_that_does_not_fall_is_below_any_formula():
    rows = beside()
    own = chosen(rows, part="certificate", initial="lecun", seed=1, round=8)
    rows.loc[own, "value"] = 1.0
    (rate,) = claimed(analysis("10").conclude(rows), "formula", "lecun")
    assert rate.verdict == "fails"


def test_the_answer_says_that_its_numbers_are_ends_of_intervals_of_means():
    found = analysis("10").conclude(made())
    assert "95 % intervals of the means over seeds" in found.answer.words
    assert all(" 5 seeds" in one.words for one in found.findings)


@pytest.mark.parametrize("name", ["study", "full", "tiny"])
def test_every_specification_can_be_read(name):
    study = read_cases(FOLDER / f"{name}.toml", FOLDER / "measure.py")
    cells = pd.DataFrame([fields(case) for case in study.cases]).drop(columns="seed")
    assert cells.value_counts(dropna=False).min() >= 5


@pytest.mark.skipif(
    not os.environ.get("NTK_FED_DATA"), reason="NTK_FED_DATA names no data folder"
)
@pytest.mark.long
def test_tiny_shows_straight_lines_and_a_plateau(tmp_path):
    page = run(FOLDER, analysis("10").conclude, out=tmp_path, spec="tiny.toml")
    kept = read_conclusion(page.parent)
    assert kept.answer.verdict == "undecided"
    assert "are missing" in kept.answer.words
    found = {one.claim: one for one in kept.findings}
    straight = "log loss goes on falling in a straight line (one-class, K = 5)"
    assert found[f"With n_1 ≥ n {straight}"].verdict == "holds"
    narrow = "The narrow network keeps ten times the loss or more (K = 5)"
    assert found[narrow].verdict == "holds"
    assert found["With K = 1 the split does not matter"].verdict == "holds"
