"""Laws of a study: planted exponents are found, group by group, and judged."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from ntk_fed.measured import Verdict
from ntk_fed.report.exponents import table
from ntk_fed.report.laws import axes, frame, laws
from ntk_fed.report.study import Study
from ntk_fed.report.summary import ALL_LAWS, points, semi_lipschitz

WIDTHS, SEEDS = (64, 128, 256, 512), (0, 1, 2)
LAW = {law.name: law for law in ALL_LAWS}
FLIPS, PROGRESS = LAW["gates flipped since the start"], LAW["progress per round"]


def made(value, quantity="flips since start", **swept):
    """A study whose runs have ``value(width, **others) · noise`` in rounds 1 and 2."""
    names = ["width", "seed", *swept]
    values = [WIDTHS, SEEDS, *swept.values()]
    runs = pd.MultiIndex.from_product(values, names=names).to_frame(index=False)
    runs.insert(0, "run", [f"r{i:03}" for i in range(len(runs))])
    rows = []
    for own in runs.to_dict("records"):
        others = {k: own[k] for k in swept}
        middle = value(own["width"], **others)
        # Seeds up, down and on the law: their mean on the log axis is on it.
        found = middle * np.exp(0.02 * (own["seed"] - 1))
        for t in (1, 2):
            rows.append({**own, "round": t, "quantity": quantity, "value": found})
    table = pd.DataFrame(rows).assign(
        step=np.nan, client=np.nan, layer=None, status="", lower=np.nan, upper=np.nan
    )
    spec = {"grid": {name: list(one) for name, one in swept.items()}}
    return Study("made", runs, table, pd.DataFrame(), {}, spec, "", {})


def only(study, law=FLIPS, over="width"):
    found, _ = laws(study, over=over, among=[law])
    return found


def test_a_planted_law_is_found_with_both_intervals():
    (one,) = only(made(lambda m: 3 * m**-0.5))
    # Deviations of the seeds are the same at each width: they cancel but for rounding.
    assert one.line.exponent == pytest.approx(-0.5, abs=1e-12)
    assert one.line.lower < -0.5 < one.line.upper
    assert one.bootstrap is not None
    assert one.bootstrap.interval == "bootstrap"
    assert one.bootstrap.lower < -0.5 < one.bootstrap.upper
    assert one.verdict is Verdict.holds


@pytest.mark.parametrize(
    ("exponent", "expected"),
    [(-0.5, Verdict.holds), (-0.6, Verdict.undecided), (-0.7, Verdict.fails)],
)
def test_the_verdict_is_against_the_lazy_slope(exponent, expected):
    (one,) = only(made(lambda m: m**exponent))
    assert one.verdict is expected


def test_a_bend_is_seen_and_the_value_that_carries_it():
    # Local exponent d log y / d log m of m^(-1/2 + log(m)/20): 1/10 log m - 1/2, so
    # that it changes by log(512 / 64) / 10 over the range.
    (one,) = only(made(lambda m: m ** (-0.5 + np.log(m) / 20)))
    assert one.straight is not None
    assert one.straight.straight is Verdict.fails
    assert one.straight.bend.value == pytest.approx(np.log(8) / 10, abs=1e-10)
    assert one.straight.most_moving in (64, 512)


def test_runs_that_differ_otherwise_are_groups():
    slopes = {"iid": -0.5, "one-class": -1.0}
    study = made(lambda m, partition: m ** slopes[partition], partition=list(slopes))
    found = only(study)
    assert {o.group["partition"]: round(o.line.exponent, 9) for o in found} == slopes


def test_groups_too_small_are_pooled():
    study = made(lambda m, partition: m**-0.5, partition=["iid", "one-class"])
    study = dataclasses.replace(
        study,
        runs=study.runs[(study.runs["seed"] == 0) & (study.runs["width"] < 256)],
    )
    (one,) = only(study)
    assert one.group == {}
    assert one.line.points == 4


def test_laws_over_another_swept_number_have_no_lazy_slope():
    study = made(lambda m, local_steps: local_steps**2.0, local_steps=[1, 5, 20])
    assert axes(study) == ["width", "local_steps"]
    found = only(study, over="local_steps")
    assert [one.group for one in found] == [{"width": m} for m in WIDTHS]
    assert all(one.verdict is None for one in found)
    assert found[0].line.exponent == pytest.approx(2.0, abs=1e-12)  # rounding
    with pytest.raises(ValueError, match="This study has width"):
        laws(made(lambda m: 1.0), over="local_steps")


def test_progress_is_one_minus_the_mean_ratio():
    study = made(lambda m: 0.75, quantity="contraction (P-norm)")
    middle = points(study, PROGRESS).query("seed == 1")
    assert middle["value"].tolist() == [0.25] * len(WIDTHS)  # binary fractions: exact


def test_a_and_b_are_the_least_that_hold():
    """Drift² = 2 displacement² + 3 loss on every pair: the corner is (2, 3)."""
    study = made(lambda m: 1.0)
    run, rows = study.runs["run"].iloc[0], []
    for t, (d, f) in enumerate([(1.0, 0.0), (0.0, 1.0), (4.0, 0.5)]):
        rows += [
            {"run": run, "round": t, "client": 0, "quantity": name, "value": value}
            for name, value in (
                ("squared gradient drift", 2 * d + 3 * f),
                ("squared displacement", d),
                ("local loss at average", f),
            )
        ]
    table = pd.DataFrame(rows).assign(step=np.nan, layer=None)
    found = semi_lipschitz(dataclasses.replace(study, rows=table))
    # The envelope enlarges both by a few roundings until no pair exceeds it.
    assert found.loc[run].tolist() == pytest.approx([2.0, 3.0], rel=1e-12)
    assert found.drop(run).isna().all(axis=None)


def test_the_table_says_all_of_it():
    made_table, missing = table(made(lambda m: m**-0.5))
    assert made_table is not None
    (row,) = made_table.rows
    said = " ".join([one.text + " " + " ".join(one.small) for one in row])
    for expected in ("bootstrap [−0.5", "contains −½", "bend", "most without"):
        assert expected in said
    assert "λ_min at the start" in missing
    numbers = frame(only(made(lambda m: m**-0.5)))
    assert numbers["lowest_without_one"].item() == pytest.approx(-0.5, abs=1e-9)


def test_values_that_are_not_positive_are_left_out():
    study = made(lambda m: 0.0 if m == 64 else m**-0.5)
    (one,) = only(study)
    assert one.line.points == (len(WIDTHS) - 1) * len(SEEDS)
