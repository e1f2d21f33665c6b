"""Specifications, runs and grids of runs."""

import dataclasses
import json
import os

import numpy as np
import pandas as pd
import pytest
import threadpoolctl
import torch

from ntk_fed import records
from ntk_fed.errors import RunFolderError, UnknownNameError
from ntk_fed.executor import Here
from ntk_fed.studies import RunSpec, StudySpec, read_study, run, run_study
from ntk_fed.studies.build import model_of, partition_of
from ntk_fed.studies.study import Random, Range

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


DESIGN = "[random]\ndraws = 2\n{}\n"


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
        ("run = 3\n", ValueError, r"must be a table, \[run\], got 3"),
        ("processes = 0\n", ValueError, "processes must be a whole number above 0"),
        ("time_limit = 0\n", ValueError, "time_limit must be a number above 0"),
        ("[random]\ndraws = 2\n", ValueError, "needs draws and at least one field"),
        ("[random]\nwidth = [1]\n", ValueError, "needs draws and at least one field"),
        (DESIGN.format("width = 3"), ValueError, "list of choices or {low"),
        (DESIGN.format("width = {low = 1}"), ValueError, "list of choices or {low"),
        (DESIGN.format("width = {low = 2, high = 1}"), ValueError, "low <= high"),
        (
            DESIGN.format('width = {low = 0, high = 1, scale = "log"}'),
            *(ValueError, "above 0 on a log scale"),
        ),
        (
            DESIGN.format('width = {low = 1, high = 2, scale = "lgo"}'),
            *(UnknownNameError, "Did you mean 'log'"),
        ),
        (
            DESIGN.format('partition = {low = "iid", high = "shards"}'),
            *(ValueError, "is no number"),
        ),
        (DESIGN.format("widht = [1]"), UnknownNameError, "Did you mean 'width'"),
        (
            DESIGN.format("width = [1]") + "[grid]\nwidth = [1]\n",
            *(ValueError, r"stands in \[grid\] and in \[random\]"),
        ),
    ],
)
def test_a_study_that_means_nothing_is_refused(text, error, words, tmp_path):
    with pytest.raises(error, match=words):
        read_study(write(tmp_path / "study.toml", text))


def design(draws, **more):
    fields = {
        "width": Range(16, 4096, "log"),
        "step_size": Range(0.5, 1.0),
        "partition": ["iid", "shards"],
    }
    return StudySpec("r", SMALL, {"seed": [0, 1]}, random=Random(draws, 3, fields))


def test_a_random_design_draws_every_field_and_meets_the_whole_grid():
    found = design(200).runs()
    assert len(found) == 400
    assert [one.seed for one in found[:4]] == [0, 1, 0, 1]
    first, second = found[:2]
    assert dataclasses.replace(first, seed=1) == second
    widths = np.array([one.width for one in found[::2]])
    assert {type(one.width) for one in found} == {int}
    assert widths.min() >= 16
    assert widths.max() <= 4096
    # Uniform in log: half of 200 below the geometric middle, four deviations of √50.
    assert abs((widths < 256).sum() - 100) < 29
    steps = np.array([one.step_size for one in found])
    assert steps.min() >= 0.5
    assert steps.max() <= 1.0
    assert abs((steps < 0.75).mean() - 0.5) < 0.15
    assert {one.partition for one in found} == {"iid", "shards"}


def test_a_longer_design_begins_with_the_shorter():
    assert design(5).runs() == design(9).runs()[:10]


@pytest.mark.parametrize("draws", [0, 3])
def test_a_study_written_is_the_study_read(draws, tmp_path):
    fields = {"width": Range(16, 64, "log"), "partition": ["iid", "shards"]}
    random = Random(draws, 1, fields) if draws else Random()
    grid = {"local_steps": [1, 2]}
    study = StudySpec("t", SMALL, grid, 3, random, time_limit=2.5)
    records.write_toml(tmp_path / "study.toml", study.written())
    found = read_study(tmp_path / "study.toml")
    assert found.runs() == study.runs()
    assert (found.title, found.processes, found.time_limit) == ("t", 3, 2.5)


def test_the_same_run_twice_in_a_grid_is_one_run():
    assert len(StudySpec("t", SMALL, {"seed": [0, 0, 1]}).runs()) == 2


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
    assert "width" in lines[0].latest
    assert [(now.done, now.failed, now.total) for now in lines] == [
        (k, 0, 4) for k in (1, 2, 3, 4)
    ]
    assert lines[-1].left == 0
    assert lines[-1].line().startswith("4 of 4 done, 0 running after")
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
            run_study(grid(1), tmp_path / "one", executor=Here())
        run_study(grid(2), tmp_path / "two")
    finally:
        torch.set_num_threads(threads)
    one, two = (records.read_rows(tmp_path / name) for name in ("one", "two"))
    pd.testing.assert_frame_equal(one, two, check_exact=True)
