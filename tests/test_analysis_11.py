"""Analysis 11: its measurement against the library, its rule on made numbers."""

import importlib.util
import math
import sys

import pandas as pd
import pytest
import torch
from test_analyses import ANALYSES, analysis

import ntk_fed as nf
from ntk_fed.analysis import run
from ntk_fed.fedavg import Objective
from ntk_fed.params import difference, squared_norm, trainable
from ntk_fed.report.conclusion import read_conclusion
from ntk_fed.studies import read_cases

(FOLDER,) = ANALYSES.glob("11_*")
sys.path.insert(0, str(FOLDER))  # as for a script: analysis.py imports its tables
STEPS = (1, 2, 4)


def load_measurement():
    spec = importlib.util.spec_from_file_location("measure_11", FOLDER / "measure.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["measure_11"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


measurement = load_measurement()


def made(b=-0.5, drift=0.0, size=0.5, linear=1e-3, broken=0, tenth=5, wobble=0.01):
    """Rows of runs whose numbers follow these exponents; ``wobble`` differs by seed."""
    rows = []
    for activation, width, seed in (
        *(("relu", w, s) for w in (64, 128, 256) for s in range(5)),
        *(("linear", 64, s) for s in range(5)),
    ):
        factor = (width / 64) ** (wobble * (seed - 2))
        about = {
            "part": "width" if activation == "relu" else "control",
            "activation": activation, "hidden": 3, "width": width, "samples": 24,
            "local_steps": 4, "share": 0.5, "watched": 1, "seed": seed,
            "stable": 1.0, "step_size": 0.5, "separation": 0.3, "round": 1,
        }  # fmt: skip
        one = (width / 64) ** b * factor * (linear if activation == "linear" else 1.0)
        for method in ("segment", "least squares", "envelope"):
            fit = {"kind": "fit", "layer": "all", "method": method, "A": factor}
            rows.append({**about, **fit, "B": one, "columns_condition": 3.0})
        pair = {"kind": "pair", "step": 4, "client": 0, "loss": 1.0, "drift": 1.0}
        relative = size * (width / 64) ** drift * factor
        whole = {"layer": "all", "relative": relative, "moved": 0.1, "gates": one}
        rows.append({**about, **pair, **whole})
        if activation == "relu":
            gates = {"flips": 10, "all_gates": 100, "broken": broken}
            gates |= {"broken_tenth": tenth, "broken_rows_only": 0, "moved": one}
            rows.append({**about, **pair, "layer": "layers.1.weight", **gates})
        power = 2.0 if activation == "linear" else 1.8
        for way in (0.25, 0.5, 1.0):
            way_row = {"kind": "segment", "client": 0, "way": way, "layer": "all"}
            rows.append({**about, **way_row, "drift": way**power * factor})
    return pd.DataFrame(rows)


def rates(exponent):
    """Loss curves whose slope per round grows with K by this exponent."""
    rows = []
    for k in STEPS:
        for seed in range(3):
            slope = 0.01 * (1 + 0.01 * seed * k) * k**exponent
            for t in range(9):
                loss = 2.0 ** (-slope * t)
                row = {"round": t, "loss": loss, "predicted": 2.0 ** (-0.01 * k * t)}
                about = {"part": "rate", "activation": "relu", "hidden": 3, "width": 64}
                about |= {"local_steps": k, "share": 0.1, "watched": 0, "seed": seed}
                rows.append({**about, "kind": "loss", "samples": 24, **row})
    return pd.DataFrame(rows)


def verdicts(rows):
    found = analysis("11").conclude(rows)
    return found.answer, {one.claim: one.verdict for one in found.findings}


@pytest.mark.parametrize(
    ("changes", "expected", "words"),
    [
        ({}, "holds", "finding shows here"),
        ({"b": 0.3}, "fails", "B falls with width"),
        ({"drift": 0.5}, "fails", "does not grow with width"),
        ({"size": 1.5}, "fails", "less than the latter"),
        ({"broken": 1}, "fails", "within the exact law"),
        ({"b": -0.01, "wobble": 0.05}, "undecided", "reach across"),
        ({"linear": 0.9}, "undecided", "control"),
        ({"tenth": 0}, "undecided", "control"),
    ],
)
def test_the_answer_follows_the_rule(changes, expected, words):
    answer, _ = verdicts(made(**changes))
    assert answer.verdict == expected
    assert words in answer.words


def test_without_controls_there_is_no_answer():
    rows = made()
    answer, _ = verdicts(rows[rows["activation"] == "relu"])
    assert answer.verdict == "undecided"
    assert "parts are missing" in answer.words


WIDEST = "activation == 'relu' and width == 256 and seed < 3"
FIT = "kind == 'fit' and method == 'segment'"
PAIR = "kind == 'pair' and layer == 'all'"
GATES = "kind == 'pair' and layer != 'all'"


@pytest.mark.parametrize(
    ("query", "column", "value", "expected"),
    [
        (f"{WIDEST} and {FIT}", "B", 0.0, "undecided"),
        (f"{WIDEST} and {FIT}", "B", math.nan, "undecided"),
        (f"{WIDEST} and {FIT}", "A", math.inf, "undecided"),
        (f"{WIDEST} and {PAIR}", "relative", math.nan, "fails"),
        (f"{WIDEST} and {PAIR}", "relative", math.inf, "fails"),
        (f"{WIDEST} and {GATES}", "broken", math.nan, "undecided"),
        (f"{WIDEST} and {GATES}", "broken_tenth", math.nan, "undecided"),
        (f"activation == 'linear' and seed < 3 and {FIT}", "B", math.nan, "undecided"),
        (f"{WIDEST} and kind == 'segment'", "drift", math.inf, "holds"),  # beside
        (f"{WIDEST} and {PAIR}", "gates", math.inf, "holds"),
    ],
)
def test_numbers_of_no_use_are_counted(query, column, value, expected):
    rows = made()
    rows[column] = rows[column].astype(float)
    rows.loc[rows.eval(query), column] = value
    found = analysis("11").conclude(rows)
    assert found.answer.verdict == expected
    told = [one for one in found.findings if one.lower == -math.inf]
    assert told
    assert all(one.verdict != "holds" for one in told)
    assert all("3 of" in one.words or "in 3 runs" in one.words for one in told)


def test_a_linear_network_without_any_b_is_a_perfect_control():
    answer, found = verdicts(made(linear=0.0))
    assert found["the linear network shows no B"] == "holds"
    assert answer.verdict == "holds"
    rows = made()
    rows.loc[rows.eval(f"activation == 'linear' and seed == 0 and {FIT}"), "B"] = 0.0
    (one,) = [
        one
        for one in analysis("11").conclude(rows).findings
        if one.claim == "the linear network shows no B"
    ]
    assert one.lower > -15


def test_bounds_are_not_said_to_be_those_of_the_abstract():
    found = analysis("11").conclude(made()).findings[:2]
    assert all("the bound is ours" in one.source for one in found)


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_a_curve_that_breaks_off_is_undecided(value):
    rows = pd.concat([made(), rates(1.0)], ignore_index=True)
    rows.loc[rows.eval("kind == 'loss' and round == 8 and seed == 0"), "loss"] = value
    _, found = verdicts(rows)
    for claim in (
        "log loss against rounds is a line in the late half",
        "the slope per round grows with K while steps are small",
    ):
        assert found[claim] == "undecided"


@pytest.mark.parametrize(
    ("exponent", "grows", "flat"), [(1.0, "holds", "fails"), (0.0, "fails", "holds")]
)
def test_the_slope_against_local_steps_is_read_from_the_curves(exponent, grows, flat):
    _, found = verdicts(pd.concat([made(), rates(exponent)], ignore_index=True))
    assert found["the slope per round grows with K while steps are small"] == grows
    assert found["the slope per round does not grow with K"] == flat
    assert found["log loss against rounds is a line in the late half"] == "holds"


def models(activation="relu", apart=0.05):
    """A network and two points near its start."""
    case = measurement.Case(width=16, activation=activation)
    model, split = measurement.federation(case)
    generator = torch.Generator().manual_seed(5)
    middle = trainable(model)
    own = {
        name: value
        + apart * torch.randn(value.shape, generator=generator, dtype=value.dtype)
        for name, value in middle.items()
    }
    return model, split.client(0), middle, own


def test_only_the_square_layers_are_trained():
    model, *_ = models()
    assert sorted(trainable(model)) == ["layers.1.weight", "layers.2.weight"]


def test_flips_and_margins_are_those_of_the_library():
    model, (x, _), middle, own = models()
    there = nf.activation_pattern(model, x, params=middle)
    found = measurement.flip_laws(model, middle, own, x)
    flips = nf.activation_pattern(model, x, params=own).flips(there)
    for name in own:
        assert found[name]["flips"] == flips.count[name] > 0
    first = "layers.1.weight"
    moved = torch.linalg.vector_norm(own[first] - middle[first], dim=1)
    gates = [
        nf.activation_pattern(model, x, params=p).gates(first) for p in (own, middle)
    ]
    ratio = (there.margins(first).distance / moved)[gates[0] != gates[1]]
    # The slack for rounding is some 1e-13 of the reach.
    assert found[first]["reach"] == pytest.approx(ratio.max().item(), rel=1e-9)
    assert found[first]["broken"] == found[first]["broken_rows_only"] == 0


def test_in_deeper_layers_rows_alone_do_not_tell_what_can_flip():
    """Negative control of the law: what enters a deeper layer moves as well."""
    model, (x, _), middle, own = models()
    own["layers.2.weight"] = middle["layers.2.weight"]
    found = measurement.flip_laws(model, middle, own, x)["layers.2.weight"]
    assert found["broken_rows_only"] == found["flips"] > 0
    assert found["broken"] == 0


@pytest.mark.parametrize(("apart", "share"), [(1e-9, 0.0), (0.2, 1e-3)])
def test_kinks_add_to_the_gradient_only_where_gates_flip(apart, share):
    model, (x, y), middle, own = models(apart=apart)
    objective = Objective.of(model)
    part = squared_norm(measurement.gate_part(objective, middle, own, x, y))
    ends = objective.gradient(own, x, y), objective.gradient(middle, x, y)
    whole = squared_norm(difference(*ends))
    assert whole > 0
    # Two sums of the same numbers, in another order: squared, 1e-24 of a gradient's.
    assert (part > share * whole) if share else (part < 1e-24)


def test_every_specification_is_read():
    for spec in ("study.toml", "tiny.toml", "full.toml"):
        assert read_cases(FOLDER / spec, FOLDER / "measure.py").cases


@pytest.mark.long
def test_what_kinks_add_falls_with_width_in_a_few_seconds(tmp_path):
    conclude = analysis("11").conclude
    page = run(FOLDER, conclude, out=tmp_path, spec="tiny.toml")
    found = {one.claim: one for one in read_conclusion(page.parent).findings}
    claims = (
        "what the kinks add to the gradient drift falls with width",
        "every gate that differs is within the exact law",
        "linear network: it falls as the square",
    )
    assert [found[claim].verdict for claim in claims] == ["holds"] * 3
