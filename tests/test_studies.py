"""Specifications, runs and grids of runs; power laws with known exponents."""

import json
import math
import os

import numpy as np
import pandas as pd
import pytest
import threadpoolctl
import torch

import ntk_fed as nf
from ntk_fed import records
from ntk_fed.errors import RunFolderError, UnknownNameError
from ntk_fed.studies import RunSpec, StudySpec, read_study, run, run_study
from ntk_fed.studies.build import model_of, partition_of

SMALL = RunSpec(
    samples=20,
    width=32,
    clients=2,
    shards_per_client=1,
    rounds=4,
    local_steps=2,
    every=2,
    kernel_every=2,
)


def write(path, text):
    path.write_text(text)
    return path


def test_a_study_is_read_from_toml(tmp_path):
    path = write(
        tmp_path / "study.toml",
        'title = "t"\n[run]\nsamples = 20\nstep_size = 1\n'
        "[grid]\nwidth = [8, 16]\nseed = [0, 1, 2]\n",
    )
    study = read_study(path)
    assert study.base == RunSpec(samples=20, step_size=1)
    assert [(s.width, s.seed) for s in study.runs()] == [
        (w, s) for w in (8, 16) for s in (0, 1, 2)
    ]


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("[run]\nwidht = 3\n", UnknownNameError, r"in \[run\].*Did you mean 'width'"),
        ("[grid]\nsed = [1]\n", UnknownNameError, "Did you mean 'seed'"),
        ("[rnu]\n", UnknownNameError, "Did you mean 'run'"),
        ('[run]\nwidth = "3"\n', ValueError, "width must be int, got '3'"),
        ("[run]\nwidth = 3.5\n", ValueError, "width must be int, got 3.5"),
        ("[run]\nwidth = true\n", ValueError, "width must be int, got True"),
        ("[run]\nwidth = 0\n", ValueError, "width must be at least 1"),
        ("[run]\nstep_size = -1.0\n", ValueError, "step_size must be above 0"),
        ("[run]\nsamples = 0\n", ValueError, "samples must be at least 1"),
        ("[grid]\nwidth = 3\n", ValueError, "must be a list of values, got 3"),
        ("[grid]\nwidth = []\n", ValueError, r"must be a list of values, got \[\]"),
        ('[grid]\nwidth = [1, "a"]\n', ValueError, "width must be int, got 'a'"),
        ("[run]\nseed = 1\n[grid]\nseed = [1]\n", ValueError, "Keep one"),
        ("[run\n", RunFolderError, "no readable TOML"),
    ],
)
def test_a_study_that_means_nothing_is_refused(text, error, words, tmp_path):
    with pytest.raises(error, match=words):
        read_study(write(tmp_path / "study.toml", text))


def test_the_key_is_the_content_and_not_the_place():
    other = RunSpec(data_root="elsewhere")
    assert other.key == RunSpec().key
    keys = {RunSpec(seed=s, width=w).key for s in (0, 1) for w in (8, 16)}
    assert len(keys) == 4


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"model": "two-layr"}, UnknownNameError, "Did you mean 'two-layer'"),
        ({"targets": "one-hot"}, ValueError, "has one output, the targets have 10"),
        ({"targets": "label"}, UnknownNameError, "known: 'sign', 'one-hot'"),
        ({"model": "none.py:make"}, UnknownNameError, "there is no file 'none.py'"),
        ({"data": "digit"}, UnknownNameError, "Did you mean 'digits'"),
        ({"partition": "shard"}, UnknownNameError, "Did you mean 'shards'"),
        ({"clients": 21}, ValueError, "21 clients are more than the 20 samples"),
        ({"weights": "sample"}, UnknownNameError, "Did you mean 'samples'"),
    ],
)
def test_a_run_that_cannot_be_built_leaves_nothing(change, error, words, tmp_path):
    import dataclasses

    with pytest.raises(error, match=words):
        run(dataclasses.replace(SMALL, **change), out=tmp_path / "run")
    files = [f for _, _, names in os.walk(tmp_path) for f in names]
    assert files == []


OWN = """
import torch
def make(inputs, outputs, width, seed):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(inputs, width), torch.nn.Tanh(),
                               torch.nn.Linear(width, outputs))
def wrong(inputs, outputs, width, seed):
    return 3
"""


def test_a_network_of_ones_own_goes_through_everything(tmp_path):
    import dataclasses

    path = write(tmp_path / "own.py", OWN)
    spec = dataclasses.replace(SMALL, model=f"{path}:make", targets="one-hot", width=8)
    with torch.random.fork_rng(devices=[]):
        result = run(spec)
    quantities = set(result.rows["quantity"])
    assert "rate" in quantities
    assert "flips since start" not in quantities  # a smooth network has no gates
    assert "limit smallest eigenvalue" not in quantities
    for name, words in (("mkae", "Did you mean 'make'"), ("wrong", "returned int")):
        with pytest.raises(ValueError, match=words):
            run(dataclasses.replace(SMALL, model=f"{path}:{name}"))


def test_an_mlp_of_any_depth(tmp_path):
    import dataclasses

    spec = dataclasses.replace(SMALL, model="mlp", depth=2, targets="one-hot", width=8)
    model = model_of(spec, partition_of(spec))
    assert [p.shape[0] for p in model.parameters()] == [8, 8, 10]
    result = run(spec, out=tmp_path)
    assert result.start.gram.shape == (200, 200)


def test_a_run_folder_holds_everything_and_is_not_run_again(tmp_path):
    result = run(SMALL, out=tmp_path)
    assert json.loads((tmp_path / "done.json").read_text())["key"] == SMALL.key
    rows = records.read_rows(tmp_path)
    pd.testing.assert_frame_equal(rows, result.rows)
    spec = records.read_toml(tmp_path / "spec.toml")["run"]
    assert RunSpec(**spec) == SMALL
    spectra = records.read_arrays(tmp_path / "arrays" / "spectra.npz")
    expected = torch.linalg.eigvalsh(result.start.gram).numpy()
    np.testing.assert_array_equal(spectra["kernel"], expected)
    before = (tmp_path / "simulation" / "state.json").stat().st_mtime_ns
    again = run(SMALL, out=tmp_path)
    pd.testing.assert_frame_equal(again.rows, result.rows)
    assert (tmp_path / "simulation" / "state.json").stat().st_mtime_ns == before


def test_the_rows_of_a_run_agree_with_each_other():
    result = run(SMALL)
    rows = result.rows

    def at(quantity, t):
        own = rows[(rows["quantity"] == quantity) & (rows["round"] == t)]
        return own["value"].item()

    assert at("residual norm", 0) == pytest.approx(at("predicted residual norm", 0))
    assert at("loss", 0) == pytest.approx(at("residual norm", 0) ** 2 / 40)
    assert at("loss", 0) == pytest.approx(at("loss promised by du2019", 0))
    assert at("largest local step in units of stability", 0) == pytest.approx(1.0)
    start = result.start
    assert at("smallest eigenvalue", 0) == pytest.approx(start.smallest.value)


def grid(processes=1, seeds=(0, 1)):
    values = {"width": [16, 32], "seed": list(seeds)}
    return StudySpec("small", SMALL, values, processes)


def test_a_study_merges_its_runs_and_skips_what_is_done(tmp_path):
    lines = []
    run_study(grid(), tmp_path, report=lines.append)
    assert len(lines) == 4
    assert "width" in lines[0]
    rows = records.read_rows(tmp_path)
    assert set(zip(rows["width"], rows["seed"], strict=True)) == {
        (w, s) for w in (16, 32) for s in (0, 1)
    }
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.glob("runs/*/done.json")}
    run_study(grid(seeds=(0, 1, 2)), tmp_path)  # extended: only what is new
    assert all(p.stat().st_mtime_ns == t for p, t in stamps.items())
    assert len(list(tmp_path.glob("runs/*/done.json"))) == 6
    about = (tmp_path / "provenance.json").read_bytes()
    run_study(grid(seeds=(0, 1, 2)), tmp_path)  # nothing to run: nothing new to tell
    assert (tmp_path / "provenance.json").read_bytes() == about


@pytest.mark.slow
def test_a_study_on_two_processes_gives_the_same_rows(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpoolctl.threadpool_limits(1):  # as workers have: sums in one order
            run_study(grid(1), tmp_path / "one")
        run_study(grid(2), tmp_path / "two")
    finally:
        torch.set_num_threads(threads)
    one, two = (records.read_rows(tmp_path / name) for name in ("one", "two"))
    pd.testing.assert_frame_equal(one, two, check_exact=True)


@pytest.mark.parametrize("exponent", [-0.5, 0.0, 2.0])
def test_an_exact_power_law_is_found(exponent):
    x = np.array([1.0, 2.0, 4.0, 10.0])
    found = nf.scaling.power_law(x, 3 * x**exponent)
    assert found.exponent == pytest.approx(exponent, abs=1e-12)
    assert found.prefactor == pytest.approx(3.0)
    assert found.points == 4
    assert found.residual < 1e-12


def test_the_interval_covers_the_planted_exponent_as_often_as_it_says():
    """1,000 repetitions at 95 %: below 92 % or above 98 % has probability < 1e-4."""
    rng = np.random.default_rng(0)
    x = np.repeat([256.0, 512, 1024, 4096], 3)
    hits = 0
    for _ in range(1000):
        y = 2 * x**-0.5 * np.exp(0.3 * rng.standard_normal(12))
        hits += nf.scaling.power_law(x, y).agrees_with(-0.5)
    assert 920 <= hits <= 980


def test_an_exponent_is_compared_in_three_values():
    x = np.array([1.0, 2, 4, 8, 16])
    noise = np.exp([0.02, -0.03, 0.01, 0.03, -0.02])
    found = nf.scaling.power_law(x, x**-0.5 * noise)
    assert found.below(0.0) is nf.Verdict.holds
    assert found.below(-1.0) is nf.Verdict.fails
    assert found.below(found.exponent) is nf.Verdict.undecided


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        ([1, 2], [1, 2], "three points"),
        ([1, 1, 1], [1, 2, 3], "two different x"),
        ([1, 2, 3], [1, 2], "3 x and 2 y"),
        ([1, 2, 3], [1, 0, 2], "y must be positive"),
        ([1, 2, math.inf], [1, 1, 2], "x must be positive and finite"),
    ],
)
def test_points_without_a_power_law_are_refused(x, y, words):
    with pytest.raises(ValueError, match=words):
        nf.scaling.power_law([float(v) for v in x], [float(v) for v in y])
