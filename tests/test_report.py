"""The page holds what the rows hold. No network is run here: rows are made by hand."""

import html
import re
import shutil

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from federations import federation

import ntk_fed as nf
from ntk_fed import records
from ntk_fed.errors import RunFolderError
from ntk_fed.records import Row
from ntk_fed.report import render
from ntk_fed.report.curves import predicted_loss
from ntk_fed.report.study import read
from ntk_fed.report.summary import EIGENVALUE_CONDITION, LAWS, fit, per_run, points
from ntk_fed.report.words import enclosure, maths, number, paragraphs, percent

WIDTHS, SEEDS, ROUNDS = (64, 128, 256), (0, 1), 4
LAMBDA0 = 0.02
RATE = 0.9


def made_rows(width, seed):
    """Rows of one run with planted laws: flips m^-1/2, drift flat, λ_min below λ0."""
    smallest = LAMBDA0 * (1 - 20 / width)  # fails, holds, holds against ¾ λ0
    none = (None, None, None)
    first = 10.0 + seed
    rows = [
        Row(0, *none, "kernel smallest eigenvalue at the start", smallest,
            smallest - 1e-9, smallest + 1e-9, "certified"),
        Row(0, *none, "limit smallest eigenvalue", LAMBDA0, LAMBDA0, LAMBDA0),
        Row(0, *none, "rate", RATE),
    ]  # fmt: skip
    for t in range(ROUNDS + 1):
        norm = first * 0.8**t
        rows += [
            Row(t, *none, "loss", norm**2 / 100),
            Row(t, *none, "residual norm", norm),
            Row(t, *none, "predicted residual norm", first * 0.78**t),
            Row(t, *none, "prediction error", 0.5 * t / width),
            Row(t, *none, "loss promised by du2019", 0.99**t * first**2 / 100,
                status="recalled"),
            Row(t, *none, "smallest eigenvalue", smallest, smallest, smallest),
            Row(t, *none, "kernel change (Frobenius)", t / width),
        ]  # fmt: skip
        if t == 0:
            continue
        rows += [
            Row(t, *none, "contraction (P-norm)", 0.85),
            Row(t, *none, "contraction (Euclidean)", 1.01 if t == 1 else 0.8),
            Row(t, *none, "P-norm over its bound", 0.7),
            Row(
                t,
                *none,
                "flips since start",
                0.1 * t * width**-0.5 * (1 + 0.001 * seed),
            ),
        ]
        for client in (0, 1):
            noise = 1 + 0.01 * (seed - 0.5) * (-1) ** WIDTHS.index(width)
            rows += [
                Row(t, None, client, None, "gradient drift", noise * (1 + client)),
                Row(t, None, client, "weight", "gradient drift", 77.0),
            ]
    return records.frame(rows)


def made_conditions(width, seed):
    smallest = LAMBDA0 * (1 - 20 / width)
    common = {"relation": ">=", "form": "", "status": "recalled", "source": "A paper"}
    verdict = "holds" if smallest >= 0.75 * LAMBDA0 else "fails"
    return pd.DataFrame(
        [
            {"theorem": "du2019.x", "kind": "hypothesis", "left": smallest,
             "condition": EIGENVALUE_CONDITION, "right": 0.75 * LAMBDA0,
             "margin": np.log10(smallest / (0.75 * LAMBDA0)), "verdict": verdict,
             "note": "a note & more", **common},
            {"theorem": "du2019.x", "kind": "hypothesis", "left": float(width),
             "condition": "width against n^9", "right": width * 1e7, "margin": -7.0,
             "verdict": "fails", "note": "", **common},
            {"theorem": "du2019.x", "kind": "conclusion", "left": 0.5,
             "condition": "loss / promised", "right": 1.0, "margin": 0.30103,
             "verdict": "holds", "note": "", **common, "relation": "<="},
        ]
    )  # fmt: skip


def write_folder(folder, tables, spec, about):
    records.prepare(folder)
    rows, conditions = tables
    records.write_table(folder / "rows" / "rows.parquet", rows)
    records.write_table(folder / "conditions.parquet", conditions)
    records.write_toml(folder / "spec.toml", spec)
    records.write_json(folder / "provenance.json", about)
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study folder, not to be changed."""
    folder = tmp_path_factory.mktemp("study")
    rows, conditions, spectra = [], [], {}
    for width in WIDTHS:
        for seed in SEEDS:
            label = {"run": f"{width:08x}{seed}", "width": width, "seed": seed}
            for found, kept in (
                (made_rows(width, seed), rows),
                (made_conditions(width, seed), conditions),
            ):
                front = pd.DataFrame(label, index=found.index)
                kept.append(pd.concat([front, found], axis=1))
            spectra[label["run"]] = np.geomspace(0.01, 5.0, 20)
    tables = (
        pd.concat(rows, ignore_index=True),
        pd.concat(conditions, ignore_index=True),
    )
    spec = {
        "title": "Is <b>this</b> escaped?",
        "run": {"weights": "samples", "data": "digits", "samples": 50},
        "grid": {"width": list(WIDTHS), "seed": list(SEEDS)},
    }
    write_folder(folder, tables, spec, {"commit": None, "versions": {"torch": "9.9"}})
    for run, values in spectra.items():
        arrays = {"kernel": values, "federated": values / 10}
        records.write_arrays(folder / "arrays" / f"{run}.npz", arrays)
    return folder


@pytest.fixture(scope="module")
def page(study):
    return render(
        study, question="# Why\n\nBecause `x < y`.\n- **one**\n- two"
    ).read_text()


@pytest.fixture
def changed(study, tmp_path):
    """A copy of the study that a test may change."""
    return shutil.copytree(study, tmp_path / "copy")


@pytest.fixture
def single(tmp_path):
    spec = {"run": {"width": 64, "seed": 1, "model": "two-layer", "weights": "samples"}}
    tables = made_rows(64, 1), made_conditions(64, 1)
    folder = write_folder(tmp_path / "single", tables, spec, {"key": "abc123"})
    arrays = {"kernel": np.geomspace(0.01, 5.0, 20)}
    records.write_arrays(folder / "arrays" / "spectra.npz", arrays)
    return folder


def words(page):
    """The page as a reader sees it, indices on the line."""
    body = page[page.index("<main>") :]
    text = re.sub(r"<[^>]*>", "", body.replace("</td>", " ").replace("</th>", " "))
    return re.sub(r"\s+", " ", html.unescape(text))


def test_first_line_is_the_eigenvalue_condition_with_its_counts(page):
    start = words(page).lstrip()
    assert start.startswith("λmin(H(0)) ≥ ¾ λ0 holds in 4 of 6 runs, fails in 2")
    assert "it holds at every seed from width 128 on" in start


def test_lowest_enclosure_is_printed_outwards(page):
    lowest = LAMBDA0 * (1 - 20 / 64)
    assert f"λmin ∈ {enclosure(lowest - 1e-9, lowest + 1e-9)} at width 64" in words(
        page
    )
    assert "in 6 of 6 runs (certified" in words(page)


def test_per_run_numbers_are_those_of_the_rows(study):
    table = per_run(read(study))
    assert table["residual_ratio"].tolist() == pytest.approx([0.8**ROUNDS] * 6)
    expected = [0.5 * ROUNDS / width for width in WIDTHS for _ in SEEDS]
    assert table["prediction_error"].tolist() == pytest.approx(expected)
    assert (table["rounds"] == ROUNDS).all()
    assert (table["rounds_within"] == ROUNDS).all()
    assert (table["euclidean_rises"] == 1).all()


def test_clients_are_averaged_and_layers_left_out(study):
    drift = read(study).series("gradient drift")
    assert len(drift) == len(WIDTHS) * len(SEEDS) * ROUNDS
    assert drift["value"].between(1.4, 1.6).all()  # mean of 1 and 2, not 77


def test_planted_exponents_are_found_and_printed(study, page):
    laws = {law.quantity: law for law in LAWS}
    flips = fit(points(read(study), laws["flips since start"]))
    assert flips.exponent == pytest.approx(-0.5, abs=1e-9)  # only rounding
    assert re.search(r"−0\.500\d* \[", words(page))
    kernel = fit(points(read(study), laws["kernel change (Frobenius)"]))
    assert kernel.exponent == pytest.approx(-1.0, abs=1e-9)
    assert "excludes −½ (lies below it)" in words(page)
    assert "contains 0" in words(page)


def test_every_run_has_its_row(page):
    table = page[page.index('id="table-runs"') :]
    body = words("<main>" + table[: table.index("</table>")])
    for width in WIDTHS:
        for seed in SEEDS:
            smallest = LAMBDA0 * (1 - 20 / width)
            shown = enclosure(smallest - 1e-9, smallest + 1e-9)
            assert f"{width} {seed} {shown}" in body


def test_conditions_show_margins_counts_status_and_note(page):
    text = words(page)
    for expected in (
        "−7.0", "fails 2/2", "holds 2/2", "recalled, constants unverified",
        "a note & more", "That is a normal outcome",
    ):  # fmt: skip
        assert expected in text


def test_a_round_slower_than_the_rate_is_said(changed):
    rows = records.read_rows(changed)
    at = rows.index[rows["quantity"] == "contraction (P-norm)"][0]
    rows.loc[at, "value"] = 0.95
    records.write_table(changed / "rows" / "rows.parquet", rows)
    text = words(render(changed).read_text())
    assert "Not throughout: only in 23 of 24 recorded rounds" in text
    assert "a round slower than ρ" in text


def test_text_is_escaped(page):
    assert "Is &lt;b&gt;this&lt;/b&gt; escaped?" in page
    assert "<code>x &lt; y</code>" in page
    assert "<li><strong>one</strong></li>" in page


def test_page_loads_nothing(page):
    for address in re.findall(r'(?:src|href)="([^"]*)"', page):
        assert address.startswith(("data:", "#"))
    assert re.findall(r"<script[^>]*>", page) == ["<script>"]  # sorts tables, inline
    assert "url(" not in page
    assert '<link rel="icon" href="data:,">' in page


def test_equal_rows_give_equal_bytes(study, page):
    question = "# Why\n\nBecause `x < y`.\n- **one**\n- two"
    assert render(study, question=question).read_bytes() == page.encode()


def test_drawing_changes_no_global_style(single):
    keep(single, "loss", "rate")
    before = dict(mpl.rcParams)
    render(single)
    assert dict(mpl.rcParams) == before


def test_single_run_renders_without_widths(single):
    page = render(single).read_text()
    text = words(page)
    assert page.count("<figure>") == 8
    assert "One run: two-layer of width 64" in text
    assert "Fewer than two widths" in text
    assert "abc123" in text


def keep(folder, *quantities):
    """Leave only rows of these quantities, so that little is drawn."""
    rows = records.read_rows(folder)
    rows = rows[rows["quantity"].isin(quantities)].reset_index(drop=True)
    records.write_table(folder / "rows" / "rows.parquet", rows)
    return rows


def test_missing_quantities_leave_a_sentence(single):
    keep(single, "step size", "rate")
    (single / "arrays" / "spectra.npz").unlink()
    page = render(single).read_text()
    for sentence in (
        "λmin of the kernel at the start was not recorded",
        "ρ cannot be told",
        "No prediction was recorded",
        "Neither gate flips nor the change of the kernel were recorded",
        "The loss was not recorded",
        "λ0 is not known for this network; its lines are left out",
        "left out: flips since start, flips local-averaged, gradient drift, ",
        "No spectra were kept",
    ):
        assert sentence in words(page)
    assert "<figure>" not in page


def test_missing_limit_leaves_the_condition_unevaluated(single):
    keep(single, "loss", "rate")
    conditions = pd.read_parquet(single / "conditions.parquet")
    conditions.loc[0, ["right", "margin"]] = np.nan
    conditions.loc[0, "verdict"] = "undecided"
    records.write_table(single / "conditions.parquet", conditions)
    text = words(render(single).read_text())
    assert "λ0 was not evaluated" in text
    assert "No theorem's curve" in text


def test_values_that_are_not_finite_are_counted(single):
    rows = keep(single, "loss", "rate")
    rows.loc[rows.index[-1], "value"] = np.inf
    records.write_table(single / "rows" / "rows.parquet", rows)
    assert "1 recorded value not finite" in render(single).read_text()


def test_a_loss_beyond_every_axis_is_cut_and_said(single):
    """Of a run that diverged: no axis has room for 1e288."""
    rows = keep(single, "loss", "rate")
    last = rows[rows["quantity"] == "loss"]["round"].idxmax()
    rows.loc[last, "value"] = 1e288
    records.write_table(single / "rows" / "rows.parquet", rows)
    text = words(render(single).read_text())
    assert "A run that diverged is drawn until its loss is 1e+09 times" in text


def test_a_folder_of_simulate_is_told_from_a_study(tmp_path):
    model, split = federation(0)
    nf.simulate(model, split, rounds=1, local_steps=1, step_size=0.1, out=tmp_path)
    with pytest.raises(RunFolderError, match="was written by"):
        render(tmp_path)


def test_predicted_loss_needs_clients_weighted_by_samples(single):
    found = predicted_loss(read(single))
    first = 11.0  # of seed 1
    expected = [(first * 0.78**t) ** 2 / 100 for t in range(ROUNDS + 1)]
    assert found["value"].tolist() == pytest.approx(expected)
    spec = records.read_toml(single / "spec.toml")
    spec["run"]["weights"] = "uniform"
    records.write_toml(single / "spec.toml", spec)
    assert predicted_loss(read(single)).empty


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match=r"spec\.toml.* is missing .looked for"):
        render(tmp_path)


@pytest.mark.parametrize(
    "name", ["rows/rows.parquet", "conditions.parquet", "provenance.json", "spec.toml"]
)
def test_a_damaged_file_is_refused(single, name):
    (single / name).write_bytes(b"\x00not what it was {")
    with pytest.raises(RunFolderError, match=r"damaged|no readable"):
        render(single)
    assert not (single / "index.html").exists()


def test_damaged_spectra_are_refused(single):
    (single / "arrays" / "spectra.npz").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(RunFolderError, match="damaged"):
        render(single)


def test_foreign_rows_are_refused(single):
    records.write_table(single / "rows" / "rows.parquet", pd.DataFrame({"a": [1]}))
    with pytest.raises(RunFolderError, match="lacks the columns round"):
        render(single)


@pytest.mark.parametrize(
    ("lower", "upper", "expected"),
    [
        (0.5, 0.53125, "0.5[00, 32]"),
        (1.0, 1.0, "1.00000"),
        (-0.5, 0.25, "[−0.50, 0.25]"),
        (9.75, 10.25, "[9.75, 10.25]"),
        (0.0, np.inf, "[0, ∞]"),
    ],
)
def test_enclosures_are_printed_by_common_digits(lower, upper, expected):
    assert enclosure(lower, upper) == expected


def test_printed_enclosures_contain_the_exact_ends(generator):
    ends = torch.rand(200, 2, generator=generator, dtype=torch.float64)
    for value, width in ends.tolist():
        lower, upper = value, value + width * 1e-9
        shown = re.fullmatch(r"(.*)\[(.*), (.*)\]", enclosure(lower, upper))
        assert float(shown[1] + shown[2]) <= lower
        assert float(shown[1] + shown[3]) >= upper


def test_numbers_and_indices_are_printed_plainly():
    assert number(1.78e23) == "1.78·10²³"
    assert number(-0.00012345) == "−0.000123"
    assert number(float("nan")) == "—"
    assert percent(0.0348) == "3.5\u00a0%"
    assert maths("λ_min(P^½ΘP^½) < ρ^T") == (
        "λ<sub>min</sub>(P<sup>½</sup>ΘP<sup>½</sup>) &lt; ρ<sup>T</sup>"
    )
    assert maths("1/max_i λ_max(X_iᵀX_i)") == (
        "1/max<sub>i</sub> λ<sub>max</sub>(X<sub>i</sub>ᵀX<sub>i</sub>)"
    )
    assert maths("‖b_⊥‖² B_* x^(K−1)") == (
        "‖b<sub>⊥</sub>‖² B<sub>*</sub> x<sup>K−1</sup>"
    )
    assert maths("(1 − θ_K)^t") == "(1 − θ<sub>K</sub>)<sup>t</sup>"
    assert maths("falls as m^{-½}") == "falls as m<sup>-½</sup>"
    assert maths("local_steps of du2019.gradient_descent") == (
        "local_steps of du2019.gradient_descent"
    )
    assert paragraphs("a\nb\n\n- c\n  d") == [("text", ["a b"]), ("list", ["c d"])]


def test_the_question_stays_with_the_folder(changed):
    first = render(changed, question="# Why\n\nBecause of **this**.").read_bytes()
    assert render(changed).read_bytes() == first
    assert render(changed, question="# Other").read_bytes() != first
