"""What the study layer costs, and what two processes gain.

python benchmarks/bench_studies.py [--pairs 5] [--runs 24] [--part efficiency]

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


def overhead(base: RunSpec, room: Path) -> dict[str, float]:
    """A pair of each kind, over eight runs."""
    short = StudySpec("bench", base, {"seed": list(range(8))}, 1)
    bare, written = alone(short, None), alone(short, room / "alone")
    whole = wall(short, Here(), room / "study")
    return {
        "seconds_per_run": bare / 8,
        "overhead": whole / written - 1,
        "overhead_with_folders": whole / bare - 1,
        "overhead_by_clock": layer(short, room / "study"),
    }


def efficiency(base: RunSpec, runs: int, room: Path) -> dict[str, float]:
    """One worker against two, over many runs."""
    study = StudySpec("bench", base, {"seed": list(range(runs))}, 2)
    one, two = (wall(study, Processes(n), room / "study") for n in (1, 2))
    return {"efficiency": one / (2 * two)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--runs", type=int, default=24)
    parser.add_argument("--part", choices=("overhead", "efficiency"))
    options = parser.parse_args()
    single_thread()
    base = one_second()
    pairs = []
    with tempfile.TemporaryDirectory() as room:
        for _ in range(options.pairs):
            found = {}
            if options.part != "efficiency":
                found |= overhead(base, Path(room))
            if options.part != "overhead":
                found |= efficiency(base, options.runs, Path(room))
            print({name: round(value, 4) for name, value in found.items()}, flush=True)
            pairs.append(found)
    target = HERE / "results" / "studies.json"
    kept = json.loads(target.read_text()) if target.exists() else {}
    about = records.provenance(
        threads=torch.get_num_threads(), runs=options.runs, spec=base.written()
    )
    for name in pairs[0]:
        values = [pair[name] for pair in pairs]
        middle = statistics.median(values)
        kept[name] = {"pairs": values, "median": middle, "provenance": about}
        print(f"{name}: median {middle:.4f}")
    records.write_json(target, kept)


if __name__ == "__main__":
    main()
