"""Analysis 04 on made rows, its measurement, and its small study."""

import itertools
import math

import pandas as pd
import pytest
from test_analyses import ANALYSES, analysis

import ntk_fed as nf
from ntk_fed import analysis as analyses
from ntk_fed.report.conclusion import read_conclusion
from ntk_fed.studies import cases, read_cases

(FOLDER,) = ANALYSES.glob("04_*")
OWN = analysis("04")
MEASURE = cases._module(str(FOLDER / "measure.py"))


def rows_of(part, seed, fields, quantities):
    case = {"delta": 0.1, "width": 4096, "samples": 40, "dimension": 30, "seed": seed}
    return [
        {
            **case, "part": part, **fields, "quantity": name,
            "value": value, "lower": value, "upper": value,
        }
        for name, value in quantities.items()
    ]  # fmt: skip


def made(
    *, slope=1.0, room=0.95, tanh=2.0, linear=0.0, wide=0.9, narrow=0.01, fall=-0.5
):
    """Rows of the whole grid: a limit of this exponent, ratios that m δ decides."""
    rows = []
    for delta, seed in itertools.product(OWN.DELTAS, range(5)):
        noise = 1 + 0.001 * (-1) ** seed * (seed + 1)
        limit = delta**slope * noise / (2 * math.pi)
        both = {"separation": delta, "bound": limit / room, "limit": limit}
        controls = {"tanh": 0.3 * delta**tanh * noise, "linear": linear}
        rows += rows_of("limit", seed, {"delta": delta}, {**both, **controls})
        for width in (cell[1] for cell in sorted(OWN.CELLS) if cell[0] == delta):
            spread = width * delta
            ratio = wide if spread > 12 else narrow * min(1.0, delta / 0.005)
            own = {"finite": ratio * noise * limit, "fewest gates": spread // 4}
            fields = {"delta": delta, "width": width}
            rows += rows_of("width", seed, fields, {**both, **own})
    for n, d, seed in itertools.product((10, 20, 40), (3, 10), range(5)):
        noise = 1 + 0.05 * (-1) ** seed * (seed + n / 40)
        limit = 0.1 * n**fall * noise
        own = {"separation": 6 * limit, "bound": 1.1 * limit, "limit": limit}
        rows += rows_of("number", seed, {"samples": n, "dimension": d}, own)
    return pd.DataFrame(rows)


def verdicts(found):
    return {one.claim: one.verdict for one in found.findings}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "holds"),
        ({"slope": 1.2}, "fails"),
        ({"slope": 0.8}, "fails"),
        ({"room": 1.01}, "fails"),
        ({"wide": 0.4}, "fails"),
        ({"narrow": 0.8}, "fails"),
        ({"wide": 0.5}, "undecided"),
        ({"tanh": 1.0}, "undecided"),  # the controls
        ({"tanh": 2.3}, "undecided"),
        ({"linear": 1e-6}, "undecided"),
        ({"linear": -1e-6}, "undecided"),
        ({"fall": 0.5}, "holds"),  # not in the rule
    ],
)
def test_the_rule_decides_as_it_says(options, expected):
    found = OWN.conclude(made(**options))
    assert found.answer.verdict == expected
    controls = "tanh" in options or "linear" in options
    assert found.answer.words.startswith("no answer") is controls


def test_what_stands_beside_the_rule_holds_on_its_own_numbers():
    found = verdicts(OWN.conclude(made()))
    beside = (OWN.CONSTANT, *OWN.FASTER, *OWN.NEEDED)
    assert {found[claim] for claim in beside} == {"holds"}
    falls = "λ_min(H∞) falls with the number of samples (d = 3)"
    assert found[falls] == "holds"
    assert verdicts(OWN.conclude(made(fall=0.5)))[falls] == "fails"


@pytest.mark.parametrize(
    "query",
    [
        "part != 'limit'",
        "part != 'width'",
        "part != 'limit' or delta != 0.01",
        "part != 'width' or delta != 1.0",
        "part != 'width' or width != 64",
        "quantity != 'tanh'",
        "quantity != 'linear'",
        "quantity != 'finite'",
        "part != 'limit' or delta != 0.01 or seed > 0",
        "part != 'limit' or seed > 0",
        "part != 'width' or seed > 0",
        "width != 131072",
    ],
)
def test_without_a_piece_of_the_rule_nothing_holds(query):
    found = OWN.conclude(made().query(query))
    assert found.answer.verdict != "holds"


@pytest.mark.parametrize("part", ["limit", "width", "number"])
def test_a_part_that_is_missing_is_left_out_and_leaves_no_answer(part):
    rows = made()
    found = OWN.conclude(rows[rows["part"] == part])
    assert found.findings
    assert len(found.parts) == 1
    assert found.answer.verdict == "undecided"
    assert "not measured" in found.answer.words


LIMIT = "part == 'limit' and delta == 0.01 and quantity == "
MANY = "part == 'width' and delta == 1.0 and width == 1024 and quantity == "
FEW = "part == 'width' and delta == 0.001 and width == 64 and quantity == "


@pytest.mark.parametrize(
    ("query", "value", "expected"),
    [
        (LIMIT + "'limit'", math.nan, "undecided"),
        (LIMIT + "'limit'", -1e-9, "undecided"),
        (LIMIT + "'bound'", math.inf, "undecided"),
        (LIMIT + "'tanh'", math.nan, "undecided"),
        (LIMIT + "'linear'", math.nan, "undecided"),
        (MANY + "'finite'", math.nan, "fails"),
        (MANY + "'finite'", -1e-9, "fails"),
        (MANY + "'finite'", 0.0, "fails"),
        (FEW + "'finite'", math.inf, "undecided"),
    ],
)
def test_a_number_that_is_not_usable_is_seen(query, value, expected):
    rows = made()
    where = rows.eval(f"seed == 0 and {query}")
    assert where.sum() == 1
    rows.loc[where, ["value", "lower", "upper"]] = value
    assert OWN.conclude(rows).answer.verdict == expected


def test_a_run_that_is_missing_is_no_failure():
    gone = "part == 'width' and delta == 1.0 and width == 1024 and seed == 0"
    found = OWN.conclude(made().query(f"not ({gone})"))
    assert found.answer.verdict == "undecided"
    assert verdicts(found)[OWN.WIDE] == "undecided"


@pytest.mark.parametrize("linear", [1e-6, -1e-6])
def test_the_linear_control_can_fail(linear):
    assert verdicts(OWN.conclude(made(linear=linear)))[OWN.SINGULAR] == "fails"


def test_a_bound_that_is_not_positive_bounds_nothing():
    rows = made()
    rows.loc[rows["quantity"] == "bound", ["value", "lower", "upper"]] *= -1
    assert verdicts(OWN.conclude(rows))[OWN.BOUND] == "undecided"


def test_a_crossing_outside_the_widths_is_said():
    found = OWN.conclude(made(wide=0.4))
    (one,) = (one for one in found.findings if one.claim == OWN.NEEDED[0])
    assert one.verdict == "undecided"
    assert "5 of them missing" in one.words


def test_a_required_width_that_grows_too_fast_is_steeper_and_not_flatter():
    widths = OWN.widths_of(made())
    required = OWN.required_widths(widths)
    required["required"] = required["delta"] ** -2
    found = {one.claim: one.verdict for one in OWN.of_widths(widths, required)}
    assert [found[claim] for claim in OWN.NEEDED] == ["holds", "fails"]


def measured(**fields):
    rows = MEASURE.measure(MEASURE.Case(**fields))
    return {row["quantity"]: row for row in rows}


def test_pairs_have_the_distance_asked_for_and_the_bound_of_their_kernel():
    found = measured(delta=0.02, seed=1000)
    assert found["separation"]["value"] == pytest.approx(0.02, rel=1e-12)
    case = MEASURE.Case(delta=0.02, seed=1000)
    x = MEASURE._pairs(case)
    h = nf.limits.two_layer_relu(x)
    # the cancellation of ½ − H_ij leaves 1e-16/3e-3 of it
    assert found["bound"]["value"] == pytest.approx((0.5 - h[0, 20]).item(), rel=1e-12)
    assert found["limit"]["upper"] < found["bound"]["lower"]
    assert found["linear"]["upper"] < 1e-10


def test_at_finite_width_the_worst_pair_is_a_bound_too():
    case = {"part": "width", "delta": 0.02, "width": 64, "seed": 1000}
    found = measured(**case)
    gates = found["fewest gates"]["value"]
    # k/(2m) + (b/m) δ²/2 with b at most m
    assert found["finite"]["upper"] <= gates / 128 + 0.02**2 / 2
    with pytest.raises(ValueError, match="even"):
        measured(samples=5)
    with pytest.raises(ValueError, match="part"):
        measured(part="pairs")


@pytest.mark.parametrize("name", ["study", "tiny", "large"])
def test_the_specification_can_be_read(name):
    assert len(read_cases(FOLDER / f"{name}.toml", FOLDER / "measure.py").cases) > 60


def test_the_study_has_every_cell_that_the_rule_asks_for():
    found = read_cases(FOLDER / "study.toml", FOLDER / "measure.py").cases
    limits = {case.delta for case in found if case.part == "limit"}
    widths = {(case.delta, case.width) for case in found if case.part == "width"}
    assert limits == set(OWN.DELTAS)
    assert widths == OWN.CELLS
    assert {case.seed for case in found} == set(range(10))


@pytest.mark.long
def test_the_small_study_shows_the_direction(tmp_path):
    page = analyses.run(FOLDER, OWN.conclude, out=tmp_path, spec="tiny.toml")
    assert page.is_file()
    found = read_conclusion(tmp_path)
    assert found.answer.verdict == "undecided"  # not all cells
    assert {one.verdict for one in found.findings} == {"holds"}
    assert len(found.findings) == 10
