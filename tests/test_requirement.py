"""Required widths: conditions on rows made by hand, the search, resumption, the page.

Most runs are made by hand: their folders are written without training a network.
"""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ntk_fed import records
from ntk_fed.errors import RunFolderError, TaskError, UnknownNameError
from ntk_fed.executor import Here
from ntk_fed.measured import estimate
from ntk_fed.records import Row
from ntk_fed.report import Answer, render, render_index
from ntk_fed.scaling import required_width
from ntk_fed.studies import (
    RequirementSpec,
    RunSpec,
    Store,
    read_requirement,
    run_requirement,
)
from ntk_fed.studies.conditions import Recorded, answer, read_run
from ntk_fed.studies.exponents import exponents_of, needs_of
from ntk_fed.theory import du2019

LAMBDA0, ROUNDS = 0.02, 12
TABLES = ("brackets", "verdicts", "exponents", "theory", "lambda0")
NONE = (None, None, None)
DU = "theorem:du2019.gradient_descent"


def conditions_of(verdicts=("holds", "holds"), why_not=""):
    """A table of one theorem: these hypotheses, and a conclusion that fails."""
    kinds = ["hypothesis"] * len(verdicts) + ["conclusion"]
    return pd.DataFrame(
        {
            "theorem": "paper.theorem",
            "kind": kinds,
            "condition": [f"condition {i}" for i in range(len(kinds))],
            "margin": [0.5 + i for i in range(len(verdicts))] + [-9.0],
            "verdict": [*verdicts, "fails"],
            "why_not": why_not,
        }
    )


def recorded(
    *,
    smallest=0.9 * LAMBDA0,
    changes=(0.0, 0.1 * LAMBDA0),
    error=1e-9,
    residuals=None,
    predicted=None,
    rounds=ROUNDS,
    table=None,
):
    """One run with these numbers."""
    t = np.arange(rounds + 1)
    residuals = 0.7**t if residuals is None else residuals
    predicted = 0.7**t if predicted is None else predicted
    rows = [
        records.enclosed(name, estimate(value, off), round=0)
        for name, value, off in (
            ("kernel smallest eigenvalue at the start", smallest, error),
            ("limit smallest eigenvalue", LAMBDA0, 0.0),
        )
    ]
    rows += [
        records.enclosed("kernel displacement", estimate(value, error), round=5 * i)
        for i, value in enumerate(changes)
    ]
    for name, values in (
        ("residual norm", residuals),
        ("predicted residual norm", predicted),
    ):
        rows += [Row(i, *NONE, name, float(v)) for i, v in enumerate(values)]
    table = conditions_of() if table is None else table
    return Recorded(RunSpec(rounds=rounds), records.frame(rows), table)


def met(name, run, *, epsilon=0.1, slack=0.0):
    return answer(name, run, epsilon=epsilon, slack=slack)


@pytest.mark.parametrize(
    ("smallest", "error", "expected"),
    [(0.76, 1e-6, True), (0.74, 1e-6, False), (0.75, 1e-3, None)],
)
def test_the_eigenvalue_is_held_against_three_quarters(smallest, error, expected):
    found = met("eigenvalue", recorded(smallest=smallest * LAMBDA0, error=error))
    assert found.met is expected
    assert found.value == pytest.approx(smallest, rel=1e-12)  # one division


@pytest.mark.parametrize(
    ("changes", "error", "expected"),
    [
        ((0.0, 0.24, 0.1), 1e-6, True),
        ((0.0, 0.26, 0.1), 1e-6, False),  # throughout, not at the end
        ((0.0, 0.1, 0.25), 1e-3, None),
        ((0.0, 0.25, 0.5), 1e-3, False),  # one that cannot be told, one that fails
    ],
)
def test_the_kernel_is_held_against_a_quarter_all_along(changes, error, expected):
    changes = [change * LAMBDA0 for change in changes]
    found = met("kernel", recorded(changes=changes, error=error))
    assert found.met is expected
    assert found.value == pytest.approx(max(changes) / LAMBDA0, rel=1e-12)


def test_a_kernel_of_which_nothing_is_known_is_undecided():
    run = recorded()
    run.rows[["lower", "upper"]] = math.nan
    assert met("kernel", run).met is None
    assert met("eigenvalue", run).met is None


def reaching(round_, total=ROUNDS):
    """Norms that first are at most a tenth of their start at this round."""
    return np.where(np.arange(total + 1) < round_, 1.0, 0.1)


@pytest.mark.parametrize(
    ("taken", "told", "slack", "expected", "value"),
    [
        (8, 8, 0.0, True, 1.0),
        (9, 8, 0.0, False, 9 / 8),
        (10, 8, 0.25, True, 10 / 8),
        (11, 8, 0.25, False, 11 / 8),
        (4, 8, 0.0, True, 0.5),
        (99, 8, 0.25, False, math.inf),  # not by its promised 10, of 12 that were run
        (4, 99, 0.0, True, 4 / 13),  # the prediction is slower than the run is long
    ],
)
def test_rounds_are_held_against_the_prediction(taken, told, slack, expected, value):
    run = recorded(residuals=reaching(taken), predicted=reaching(told))
    found = met("rounds", run, slack=slack)
    assert found.met is expected
    assert found.value == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("told", [10, 99])
def test_a_run_too_short_for_its_rounds_says_so(told):
    run = recorded(residuals=reaching(99), predicted=reaching(told))
    with pytest.raises(ValueError, match="rounds = 12 are too few to decide"):
        met("rounds", run, slack=0.3)  # promised 13 rounds, or nobody knows


@pytest.mark.parametrize("last", [reaching(99)[:5], [1.0, 2.0, math.nan]])
def test_a_run_that_diverged_does_not_reach_its_target(last):
    run = recorded(residuals=last, predicted=reaching(99)[: len(last)])
    assert met("rounds", run) == (False, math.inf)


@pytest.mark.parametrize(
    ("verdicts", "why_not", "expected"),
    [
        (("holds", "holds"), "", True),
        (("holds", "fails"), "", False),
        (("undecided", "fails"), "", False),
        (("holds", "undecided"), "", None),
        (("holds", "holds"), "no such network", False),
    ],
)
def test_a_theorem_needs_all_its_hypotheses(verdicts, why_not, expected):
    run = recorded(table=conditions_of(verdicts, why_not))
    assert met("theorem:paper.theorem", run) == (expected, 0.5)


@pytest.mark.parametrize("name", ["eigenvalu", "theorem:paper.theorm"])
def test_an_unknown_condition_names_the_nearest(name):
    with pytest.raises(UnknownNameError, match="Did you mean"):
        met(name, recorded())


def test_a_quantity_that_was_not_recorded_is_named():
    run = recorded()
    rows = run.rows[run.rows["quantity"] != "limit smallest eigenvalue"]
    with pytest.raises(RunFolderError, match="no 'limit smallest eigenvalue'"):
        met("eigenvalue", dataclasses.replace(run, rows=rows))


def test_a_folder_without_tables_is_no_finished_run(tmp_path):
    with pytest.raises(RunFolderError, match="is no finished run"):
        read_run(tmp_path, RunSpec())


# The search: runs made by hand, enough for the eigenvalue from width 4 n on.

SPEC = RequirementSpec(
    title="made",
    base=RunSpec(rounds=ROUNDS),
    over="samples",
    values=[4, 8, 16],
    widths=[8, 16, 32, 64, 128, 256],
    conditions=["eigenvalue", "kernel"],
    most_seeds=6,
    failure=0.5,
    error=0.75,
)


class Made(Here):
    """An executor whose runs are written by hand; counts them."""

    def __init__(self, stop_after=math.inf):
        self.count, self.stop_after = 0, stop_after

    def outcomes(self, function, tasks, *, shared=None):
        yield from super().outcomes(self.write, tasks)

    def write(self, spec, folder):
        if self.count >= self.stop_after:
            raise ArithmeticError("no more")
        self.count += 1
        enough = spec.width >= 4 * spec.samples
        run = recorded(
            smallest=(0.9 if enough else 0.5) * LAMBDA0 * 8 / spec.samples,
            changes=(0.0, 0.1 * LAMBDA0),  # for every width: open below
        )
        limit = run.rows["quantity"] == "limit smallest eigenvalue"
        ends = ["value", "lower", "upper"]
        run.rows.loc[limit, ends] = LAMBDA0 * 8 / spec.samples
        out = records.prepare(Store(Path(folder)).run(spec.key))
        records.write_table(out / "rows" / "rows.parquet", run.rows)
        records.write_table(out / "conditions.parquet", run.conditions)
        records.write_json(out / "done.json", {"key": spec.key})
        return "done"


def content(folder):
    names = ["rows/outcomes", *TABLES]
    return [(Path(folder) / f"{name}.parquet").read_bytes() for name in names]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("made")
    executor = Made()
    run_requirement(SPEC, out, executor=executor)
    return out, executor.count


def test_the_brackets_hold_the_width_that_was_planted(made):
    table = pd.read_parquet(made[0] / "brackets.parquet")
    own = table[table["condition"] == "eigenvalue"]
    assert own["lower"].tolist() == [8.0, 16.0, 32.0]
    assert own["upper"].tolist() == [16.0, 32.0, 64.0]
    other = table[table["condition"] == "kernel"]
    assert other["upper"].tolist() == [8.0] * 3
    assert other["lower"].isna().all()


def test_the_outcomes_alone_give_the_brackets_again(made):
    outcomes = pd.read_parquet(made[0] / "rows" / "outcomes.parquet")
    table = pd.read_parquet(made[0] / "brackets.parquet")
    for (value, condition), own in outcomes.groupby(["value", "condition"]):
        found = required_width(
            own, failure=SPEC.failure, error=SPEC.error, widths=SPEC.widths
        )
        row = table[(table["value"] == value) & (table["condition"] == condition)]
        assert found.upper == row["upper"].item()
        assert found.trials == row["seeds"].item() == len(own)


def test_exponents_hold_the_planted_law_and_stand_beside_the_theory(made):
    table = pd.read_parquet(made[0] / "exponents.parquet")
    own = table[table["condition"] == "eigenvalue"].set_index("kind")
    for kind in ("least squares", "power laws"):
        assert own.loc[kind, "lower"] <= 1 <= own.loc[kind, "upper"]
    # n² λ0⁻² log(n/δ) with λ0 ~ 1/n: slope 4 and that of the logarithm, by hand.
    n = np.array(SPEC.values, float)
    by_hand = np.polyfit(np.log(n), 4 * np.log(n) + np.log(np.log(n / 0.5)), 1)[0]
    # Least squares by two routines on three points of order one: 1e-9 is ample.
    told = own.loc["du2019, at the start", "exponent"]
    assert told == pytest.approx(by_hand, abs=1e-9)
    kernel = table[table["condition"] == "kernel"].set_index("kind")
    assert math.isnan(kernel.loc["least squares", "exponent"])
    assert "not bracketed: 4, 8, 16" in kernel.loc["least squares", "note"]


def test_conditions_share_runs_and_a_second_call_runs_nothing(made, tmp_path):
    out, count = made
    judged = pd.read_parquet(out / "rows" / "outcomes.parquet")
    assert count == len(judged.drop_duplicates(["value", "width", "seed"]))
    assert count < len(judged)
    before, about = content(out), (out / "provenance.json").read_bytes()
    again = Made()
    run_requirement(SPEC, out, executor=again)
    assert again.count == 0
    assert content(out) == before
    assert (out / "provenance.json").read_bytes() == about


@pytest.mark.parametrize("stop_after", [1, 17])
def test_an_interrupted_search_goes_on_to_the_same_bytes(made, tmp_path, stop_after):
    with pytest.raises(TaskError, match="a run failed"):
        run_requirement(SPEC, tmp_path, executor=Made(stop_after))
    assert not (tmp_path / "brackets.parquet").exists()
    reason = next((tmp_path / "failures").glob("*.json"))
    assert "no more" in json.loads(reason.read_text())["error"]
    rest = Made()
    run_requirement(SPEC, tmp_path, executor=rest)
    assert rest.count == made[1] - stop_after
    assert content(tmp_path) == content(made[0])
    assert not list((tmp_path / "failures").glob("*.json"))


def test_outcomes_that_cannot_be_told_count_as_not_met_and_are_counted(tmp_path):
    class Unsure(Made):
        def write(self, spec, folder):
            said = super().write(spec, folder)
            path = Store(Path(folder)).run(spec.key) / "rows" / "rows.parquet"
            rows = pd.read_parquet(path)
            rows.loc[rows["quantity"] == "kernel displacement", "upper"] = 1.0
            records.write_table(path, rows)
            return said

    spec = dataclasses.replace(SPEC, values=[4], conditions=["kernel"])
    run_requirement(spec, tmp_path, executor=Unsure())
    row = pd.read_parquet(tmp_path / "brackets.parquet").iloc[0]
    assert row["lower"] == 256
    assert math.isnan(row["upper"])
    assert row["undecided"] == row["seeds"] > 0
    outcomes = pd.read_parquet(tmp_path / "rows" / "outcomes.parquet")
    assert outcomes["met"].isna().all()


def test_theory_is_the_modules_own_requirement():
    lambda0 = pd.DataFrame(
        {"value": [10], "samples": [10], "lambda0": 0.05, "lower": 0.04, "upper": 0.06}
    )
    table = needs_of(lambda0, 0.2, 0.1)
    own = table[table["theorem"] == "du2019, convergence"].iloc[0]
    by_hand = math.log10(10**6 * 0.05**-4 * 0.2**-3)
    assert own["log10"] == pytest.approx(by_hand, rel=1e-12)
    assert own["lower"] < own["log10"] < own["upper"]
    assert du2019.width_for_convergence(10, 0.04, 0.2) == pytest.approx(
        10 ** own["upper"], rel=1e-12
    )
    assert needs_of(lambda0.assign(lower=-0.01), 0.2, 0.1).empty  # λ0 may be 0


def test_open_brackets_have_no_exponent():
    rows = [{"width": 8, "met": True, "seed": s} for s in range(20)]
    one = required_width(rows, failure=0.5, error=0.3)
    names = ["value", "samples", "lambda0", "lower", "upper"]
    nothing = needs_of(pd.DataFrame(columns=names), 0.1, 0.1)
    table = exponents_of({(4, "kernel"): one, (8, "kernel"): one}, nothing)
    assert table["exponent"].isna().all()
    assert table["points"].eq(0).all()


# Specifications.

TEXT = """
title = "made"
[run]
data = "sphere"
rounds = 3
[required]
over = "samples"
values = [4, 8]
widths = [16, 32]
conditions = ["eigenvalue"]
most_seeds = 20
"""


def written(path, text):
    path.write_text(text)
    return read_requirement(path)


def test_a_specification_is_read_back_as_it_was_written(tmp_path):
    spec = written(tmp_path / "s.toml", TEXT)
    records.write_toml(tmp_path / "again.toml", spec.written())
    assert read_requirement(tmp_path / "again.toml") == spec
    assert spec.run(8, 32, 5) == RunSpec(
        data="sphere", rounds=3, samples=8, width=32, seed=5, failure=spec.failure
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("most_seeds", "most_seed", "unknown key in \\[required\\] 'most_seed'.*Did"),
        ("rounds = 3", "round = 3", "unknown key in \\[run\\] 'round'.*Did you"),
        ("title", "titel", "Did you mean 'title'"),
        ("eigenvalue", "eigenvalu", "Did you mean 'eigenvalue'"),
        ('"samples"', '"sample"', "unknown field in over 'sample'"),
        ("rounds = 3", "width = 3", "width is decided by"),
        ("rounds = 3", "samples = 3", "samples is decided by"),
        ("widths = [16, 32]", "", "needs widths"),
        ("widths = [16, 32]", "widths = [16, 16]", "widths must be different"),
        ("widths = [16, 32]", "widths = 16", "widths must be list"),
        ("[4, 8]", "[4, true]", "samples must be int"),
        ("[4, 8]", "[4, 0]", "samples must be at least 1"),
        ("most_seeds = 20", "most_seeds = 20\nfailure = 1.0", "failure must be in"),
        ("most_seeds = 20", 'most_seeds = "20"', "most_seeds must be int"),
        ("most_seeds = 20", "most_seeds = 20\nslack = -1", "slack must be at least"),
        ('title = "made"', "processes = 0", "processes must be at least 1"),
    ],
)
def test_what_a_specification_cannot_hold_is_refused(tmp_path, old, new, message):
    assert old in TEXT
    with pytest.raises(ValueError, match=message):
        written(tmp_path / "s.toml", TEXT.replace(old, new, 1))


def test_a_folder_of_something_else_is_refused(tmp_path):
    records.write_toml(tmp_path / "spec.toml", {"run": {}, "grid": {}})
    with pytest.raises(RunFolderError, match="holds something else"):
        run_requirement(SPEC, tmp_path, executor=Made())


def test_real_runs_end_to_end(tmp_path):
    base = RunSpec(data="sphere", clients=2, partition="iid", rounds=8, local_steps=1,
                   every=8, kernel_every=8)  # fmt: skip
    spec = dataclasses.replace(
        SPEC, base=base, values=[4], widths=[32], most_seeds=9, epsilon=0.5, slack=1.0,
        conditions=["eigenvalue", "kernel", "rounds", DU],
    )  # fmt: skip
    run_requirement(spec, tmp_path, executor=Here())
    outcomes = pd.read_parquet(tmp_path / "rows" / "outcomes.parquet")
    assert outcomes["met"].notna().all()
    # The numbers are those of the run's own theorem check of the same two sides.
    row = outcomes[(outcomes["condition"] == "eigenvalue") & (outcomes["seed"] == 0)]
    own = Store(tmp_path).run(spec.run(4, 32, 0).key) / "conditions.parquet"
    table = pd.read_parquet(own)
    side = table[table["condition"] == "λ_min(H(0)) against ¾ λ0"].iloc[0]
    assert row["number"].item() == pytest.approx(
        0.75 * side["left"] / side["right"], rel=1e-12
    )
    assert row["met"].item() == (side["verdict"] == "holds")
    du = outcomes[outcomes["condition"] == DU]
    assert not du["met"].any()


# The page.


def test_the_page_holds_what_the_tables_hold(made):
    render(made[0], question="# Asked\n\nIs it?", answer=Answer("holds", "it is so"))
    page = (made[0] / "index.html").read_text()
    first = page.index("it is so")
    assert first < page.index("<h1>")
    for text in ("(32, 64]", "at most 8", "Is it?", "du2019, convergence", "10^"):
        assert text in page
    assert page.count("<figure>") == 3
    assert "http" not in page.replace("http://www.w3.org", "")
    before = page.encode()
    assert render(made[0]).read_bytes() == before  # what was put down is kept


def test_the_index_of_reports_knows_the_page(made):
    render(made[0], answer=Answer("fails", "it is not so"))
    page = render_index(made[0].parent).read_text()
    assert "it is not so" in page
    assert f"{made[0].name}/index.html" in page


def test_a_damaged_folder_is_refused(made, tmp_path):
    for name in TABLES:
        (tmp_path / f"{name}.parquet").write_bytes(b"no table")
    records.write_toml(tmp_path / "spec.toml", SPEC.written())
    with pytest.raises(RunFolderError, match="no finished study of required widths"):
        render(tmp_path)
