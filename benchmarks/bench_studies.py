"""What the study layer costs, and what two processes gain.

python benchmarks/bench_studies.py [--pairs 5] [--runs 24]

Overhead: the same runs one after the other in this process, each with the folder that
a single run writes (and once more without any), and as a study in this process with
locks, progress, failures and merged tables; runs of about one second. Pairs scatter by
more than the layer takes, so that a clock around the runs inside a study gives what
their own time is, and the rest is the layer. Gain: the same study on one worker process
and on two, start-up included, in pairs.
"""

import argparse
import dataclasses
import json
import shutil
import statistics
import tempfile
import time
import unittest.mock
from pathlib import Path

import torch

from ntk_fed import records
from ntk_fed.executor import Here, Processes
from ntk_fed.executor.common import single_thread
from ntk_fed.studies import RunSpec, StudySpec, run, run_study, sweep

HERE = Path(__file__).parent
BASE = RunSpec(
    samples=120,
    width=512,
    clients=4,
    shards_per_client=1,
    rounds=100,
    local_steps=10,
    every=10,
    kernel_every=50,
)


def one_second() -> RunSpec:
    """The base with as many rounds as take about a second here."""
    run(BASE)
    began = time.perf_counter()
    run(BASE)
    seconds = time.perf_counter() - began
    rounds = max(10, round(BASE.rounds / seconds))
    return dataclasses.replace(BASE, rounds=rounds)


def alone(study: StudySpec, folder: Path | None) -> float:
    """Seconds of its runs, one after the other, each in a folder of its own or none."""
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
    began = time.perf_counter()
    for spec in study.runs():
        run(spec, out=None if folder is None else folder / spec.key)
    return time.perf_counter() - began


def wall(study: StudySpec, executor, folder: Path) -> float:
    shutil.rmtree(folder, ignore_errors=True)
    began = time.perf_counter()
    run_study(study, folder, executor=executor)
    return time.perf_counter() - began


def layer(study: StudySpec, folder: Path) -> float:
    """Share of the study layer, by a clock around each run of one study."""
    own = [0.0]

    def timed(*args, **options):
        began = time.perf_counter()
        found = run(*args, **options)
        own[0] += time.perf_counter() - began
        return found

    with unittest.mock.patch.object(sweep, "run", timed):
        return wall(study, Here(), folder) / own[0] - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--runs", type=int, default=24)
    options = parser.parse_args()
    single_thread()
    base = one_second()
    study = StudySpec("bench", base, {"seed": list(range(options.runs))}, 2)
    short = StudySpec("bench", base, {"seed": list(range(8))}, 1)
    overheads, whole, inside, gains, lengths = [], [], [], [], []
    with tempfile.TemporaryDirectory() as room:
        folder = Path(room) / "study"
        for _ in range(options.pairs):
            bare, written = alone(short, None), alone(short, Path(room) / "alone")
            lengths.append(bare / 8)
            study_wall = wall(short, Here(), folder)
            overheads.append(study_wall / written - 1)
            whole.append(study_wall / bare - 1)
            inside.append(layer(short, folder))
            one = wall(study, Processes(1), folder)
            gains.append(one / (2 * wall(study, Processes(2), folder)))
            print(
                f"overhead {overheads[-1]:.3f}, with the runs' folders "
                f"{whole[-1]:.3f}, by the clock {inside[-1]:.4f}, "
                f"efficiency {gains[-1]:.3f}",
                flush=True,
            )
    found = {
        "seconds_per_run": statistics.median(lengths),
        "overhead": {"pairs": overheads, "median": statistics.median(overheads)},
        "overhead_with_folders": {"pairs": whole, "median": statistics.median(whole)},
        "overhead_by_clock": {"pairs": inside, "median": statistics.median(inside)},
        "efficiency": {"pairs": gains, "median": statistics.median(gains)},
        "runs": options.runs,
        "spec": base.written(),
        "provenance": records.provenance(threads=torch.get_num_threads()),
    }
    target = HERE / "results" / "studies.json"
    records.write_json(target, found)
    shown = (*(name for name in found if "overhead" in name), "efficiency")
    print(json.dumps({k: found[k] for k in shown}))


if __name__ == "__main__":
    main()
