"""Studies: failures, resumption, two at a time, clusters, merging, forecasts."""

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ntk_fed import cli, records
from ntk_fed.errors import RunFolderError
from ntk_fed.executor import Dask, Here, Processes
from ntk_fed.studies import RunSpec, Store, StudySpec, failures, forecast, run_study
from ntk_fed.studies.cost import fit, makespan, size_of
from ntk_fed.studies.sweep import ELSEWHERE, run_in_folder

KILLS = int(os.environ.get("NTK_FED_KILLS", "3"))
SMALL = RunSpec(
    samples=12,
    width=16,
    clients=2,
    shards_per_client=1,
    rounds=3,
    local_steps=2,
    every=2,
    kernel_every=2,
)
TABLES = ("rows/rows.parquet", "conditions.parquet", "spec.toml")
OWN = """
import multiprocessing, time, torch
def broken(inputs, outputs, width, seed):
    if width == 17:
        raise ArithmeticError("seventeen")
    if width == 18 and multiprocessing.parent_process() is not None:
        time.sleep(600)
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(inputs, width), torch.nn.Tanh(),
                               torch.nn.Linear(width, outputs))
"""


def study(seeds=(0, 1), processes=2, **more):
    grid = {"width": [16, 32], "seed": list(seeds)}
    return StudySpec("small", dataclasses.replace(SMALL, **more), grid, processes)


def content(folder):
    """Bytes of the merged tables."""
    return [(Path(folder) / name).read_bytes() for name in TABLES]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """An undisturbed study."""
    folder = tmp_path_factory.mktemp("reference")
    return content(run_study(study(), folder))


@pytest.mark.long
def test_a_failed_run_is_told_and_stops_no_other(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    base = dataclasses.replace(SMALL, model=f"{tmp_path / 'own.py'}:broken")
    own = StudySpec("f", base, {"width": [16, 17, 18]}, 2, time_limit=15.0)
    seen = []
    run_study(own, tmp_path / "out", report=seen.append)
    store = Store(tmp_path / "out")
    specs = {spec.width: spec.key for spec in own.runs()}
    assert failures(own, store) == [specs[17], specs[18]]
    told = json.loads(store.failure(specs[17]).read_text())
    assert told["status"] == "failed"
    assert "ArithmeticError: seventeen" in told["error"]
    late = json.loads(store.failure(specs[18]).read_text())
    assert (late["status"], late["error"]) == ("late", "over the time limit of 15 s")
    assert seen[-1].failed == 2
    assert "2 failed" in seen[-1].line()
    assert set(records.read_rows(tmp_path / "out")["width"]) == {16}
    # Mended, and run again: only what was missing, and the failures are forgotten.
    text = OWN.replace("== 17", "== -1").replace("== 18", "== -1")
    (tmp_path / "own.py").write_text(text)
    stamp = (store.run(specs[16]) / "done.json").stat().st_mtime_ns
    run_study(own, tmp_path / "out")
    assert failures(own, store) == []
    assert set(records.read_rows(tmp_path / "out")["width"]) == {16, 17, 18}
    assert (store.run(specs[16]) / "done.json").stat().st_mtime_ns == stamp


def test_a_study_without_a_single_result_says_why(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    base = dataclasses.replace(SMALL, model=f"{tmp_path / 'own.py'}:broken")
    own = StudySpec("f", base, {"width": [17]}, 1)
    with pytest.raises(RunFolderError, match="no run of the study has succeeded"):
        run_study(own, tmp_path / "out", executor=Here())


def start(folder, seeds=(0, 1)):
    """A study in a process group of its own."""
    text = (
        "import sys; sys.path.insert(0, {tests!r})\n"
        "from test_sweep import study\n"
        "from ntk_fed.studies import run_study\n"
        "if __name__ == '__main__':\n"
        "    run_study(study({seeds!r}), {folder!r})\n"
    )
    tests = os.path.dirname(__file__)
    script = Path(folder).with_suffix(f".{time.monotonic_ns()}.py")
    script.write_text(text.format(tests=tests, folder=str(folder), seeds=seeds))
    paths = os.pathsep.join([os.path.dirname(tests), tests])
    return subprocess.Popen(
        [sys.executable, str(script)], env={**os.environ, "PYTHONPATH": paths}
    )


def children(pid):
    """Processes whose parent it is."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(entry.parent.name))
    return found


@pytest.mark.long
def test_kills_at_random_moments_lose_and_double_nothing(reference, tmp_path):
    """The parent at every other moment, a worker at the others."""
    draw = random.Random(int(os.environ.get("NTK_FED_KILL_SEED", "0")))
    folder, mid_study = tmp_path / "killed", 0
    for k in range(KILLS):
        process = start(folder)
        time.sleep(draw.uniform(3.0, 14.0))
        victims = [process.pid] if k % 2 == 0 else children(process.pid)
        for victim in victims[:1]:
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                continue
            mid_study += process.poll() is None or victim == process.pid
        process.wait()
        store = Store(folder)
        if all(store.is_done(spec.key) for spec in study().runs()):
            assert content(run_study(study(), folder)) == reference
            shutil.rmtree(folder)
    assert content(run_study(study(), folder)) == reference
    print(f"{KILLS} kills, {mid_study} of them while the study ran")


@pytest.mark.long
def test_two_studies_on_one_folder_share_the_work(reference, tmp_path):
    folder = tmp_path / "shared"
    both = [start(folder), start(folder)]
    assert [process.wait() for process in both] == [0, 0]
    assert content(folder) == reference
    assert not list(folder.glob("failures/*"))


def test_a_run_claimed_elsewhere_is_left_alone(tmp_path):
    store = Store(records.prepare(tmp_path))
    with store.claim(SMALL.key) as own:
        assert own
        assert run_in_folder(SMALL, str(tmp_path)) == ELSEWHERE
        assert not store.run(SMALL.key).exists()
    assert run_in_folder(SMALL, str(tmp_path)) == "done"
    with store.claim(SMALL.key) as own:
        assert own  # given back


@pytest.mark.long
def test_a_cluster_with_a_worker_killed_gives_the_same_tables(reference, tmp_path):
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        dashboard_address=None,
        worker_dashboard_address=None,
    ) as cluster:
        executor = Dask(cluster.scheduler_address)
        executor.client.wait_for_workers(2)
        victims = list(executor.client.run(os.getpid).values())
        killed = []

        def kill_one(now):
            if not killed:
                os.kill(victims[0], signal.SIGKILL)
                killed.append(now.done)

        folder = run_study(study(), tmp_path, executor=executor, report=kill_one)
        executor.close()
    assert killed == [1]  # in the middle
    assert content(folder) == reference


@pytest.mark.long
def test_folders_of_two_machines_become_one(reference, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    run_study(study(seeds=(0,)), one)
    run_study(study(seeds=(1,)), two)
    taken = Store(one).take_in(Store(two))
    assert len(taken) == 2
    assert Store(one).take_in(Store(two)) == []
    ran = []
    assert content(run_study(study(), one, report=ran.append)) == reference
    assert ran == []  # nothing was left to compute
    with pytest.raises(RunFolderError, match="holds no finished run"):
        Store(one).take_in(Store(tmp_path / "nothing"))


def test_a_merge_does_not_disturb_a_run_that_is_being_computed(tmp_path):
    one, two = Store(records.prepare(tmp_path / "1")), tmp_path / "2"
    records.prepare(two)
    run_in_folder(SMALL, str(two))
    with one.claim(SMALL.key), pytest.raises(RunFolderError, match="being computed"):
        one.take_in(Store(two))
    assert not one.is_done(SMALL.key)
    assert not list((tmp_path / "1" / "runs").glob(".merge-*"))


def test_the_longest_run_on_two_workers_by_hand():
    assert makespan([3.0, 1.0, 2.0, 2.0], 2) == 4.0
    assert makespan([5.0, 1.0, 1.0], 2) == 5.0
    assert makespan([1.0, 2.0], 1) == 3.0


def test_planted_costs_are_found():
    terms = np.random.default_rng(0).uniform(1, 9, (6, 4)) * [1, 1e3, 1e8, 1e9]
    planted = np.array([0.5, 1e-4, 2e-10, 0.0])
    model = fit(terms, terms @ planted)
    # An exact fit exists: rounding of a small least squares problem.
    assert model.coefficients == pytest.approx(planted, rel=1e-8, abs=1e-16)
    assert model.error == pytest.approx(1.0, abs=1e-8)


def test_the_size_of_a_run_by_hand(tmp_path):
    size = size_of(SMALL)
    assert (size.samples, size.outputs, size.clients) == (12, 1, 2)
    assert size.parameters == 16 * 64
    mlp = dataclasses.replace(SMALL, model="mlp", depth=2, targets="one-hot")
    assert size_of(mlp).parameters == 64 * 16 + 16 * 16 + 16 * 10
    (tmp_path / "own.py").write_text(OWN)
    own = dataclasses.replace(SMALL, model=f"{tmp_path / 'own.py'}:broken")
    assert size_of(own).parameters == (64 + 1) * 16 + 16 + 1
    rounds = dataclasses.replace(SMALL, rounds=30)
    assert (size.terms(rounds)[1:3] == 10 * size.terms(SMALL)[1:3]).all()


PEAK = """
from ntk_fed.executor.common import single_thread
from ntk_fed.studies import RunSpec, run
from ntk_fed.studies.cost import size_of
single_thread()
spec = RunSpec(rounds=2, local_steps=1, every=2, kernel_every=2, **{options})
run(spec)
status = open("/proc/self/status").read()  # getrusage knows the parent's peak too
print(size_of(spec).bytes(spec), status.split("VmHWM:")[1].split()[0])
"""


@pytest.mark.long
@pytest.mark.parametrize(
    "options",
    [
        {"samples": 20, "width": 64},
        {"samples": 100, "width": 16384, "clients": 10},
        {"samples": 400, "width": 2048, "smoothness_every": 2},
    ],
)
def test_what_a_run_is_said_to_need_it_does_not_exceed(options):
    code = PEAK.replace("{options}", repr(options))
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    said, kibibytes = map(int, found.stdout.split())
    # Admission keeps a tenth of what is free in hand; twice as much would be waste.
    assert kibibytes * 1024 < 1.1 * said
    assert said < 2 * kibibytes * 1024


def test_a_forecast_counts_what_is_new():
    specs = study().runs()
    found = forecast(specs, specs[:1], 2)
    assert (found.runs, found.new, found.workers) == (4, 1, 2)
    assert 0 < found.longest == found.seconds == found.wall
    assert found.bytes > 2**20
    assert forecast(specs, [], 2).seconds == 0
    assert "runs: 4, of which 1 are new" in found.lines()


TOML = """
processes = 1
[run]
samples = 12
clients = 2
shards_per_client = 1
rounds = 3
local_steps = 2
[grid]
width = [16, 32]
"""


@pytest.mark.long
def test_a_study_from_the_command_line(tmp_path, capsys):
    (tmp_path / "tiny.toml").write_text(TOML)
    assert cli.main(["study", str(tmp_path / "tiny.toml"), "--dry-run"]) == 0
    assert "runs: 2, of which 2 are new" in capsys.readouterr().out
    assert not (tmp_path / "tiny").exists()
    assert cli.main(["study", str(tmp_path / "tiny.toml"), "--processes", "64"]) == 0
    out, err = capsys.readouterr()
    page = tmp_path / "tiny" / "index.html"
    assert out.strip() == str(page)
    assert page.exists()
    assert "2 of 2 done" in err
    assert "64 processes of one thread each" in err
    assert cli.main(["study", str(tmp_path / "tiny.toml"), "--scheduler", "x"]) == 1
    assert "--scheduler needs --executor dask" in capsys.readouterr().err
    assert cli.main(["study", str(tmp_path / "no.toml")]) == 1


def test_more_memory_than_there_is_is_refused(tmp_path):
    refused = Processes(1, memory=2**20)
    with pytest.raises(RunFolderError, match="no run of the study has succeeded"):
        run_study(study(), tmp_path, executor=refused)
    first = next(iter(sorted((tmp_path / "failures").glob("*.json"))))
    assert json.loads(first.read_text())["status"] == "refused"
