"""What the study layer costs, and what two processes gain.

python benchmarks/bench_studies.py [--pairs 5] [--runs 24]

Overhead: the same runs bare, one after the other in this process, and as a study in
this process with folders, locks, tables and merging; runs of about one second. Gain:
the same study on one worker process and on two, start-up included, in pairs.
"""

import argparse
import dataclasses
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch

from ntk_fed import records
from ntk_fed.executor import Here, Processes
from ntk_fed.executor.common import single_thread
from ntk_fed.studies import RunSpec, StudySpec, run, run_study

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


def wall(study: StudySpec, executor, folder: Path) -> float:
    shutil.rmtree(folder, ignore_errors=True)
    began = time.perf_counter()
    run_study(study, folder, executor=executor)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--runs", type=int, default=24)
    options = parser.parse_args()
    single_thread()
    base = one_second()
    study = StudySpec("bench", base, {"seed": list(range(options.runs))}, 2)
    short = StudySpec("bench", base, {"seed": list(range(8))}, 1)
    overheads, gains, lengths = [], [], []
    with tempfile.TemporaryDirectory() as room:
        folder = Path(room) / "study"
        for _ in range(options.pairs):
            began = time.perf_counter()
            for spec in short.runs():
                run(spec)
            bare = time.perf_counter() - began
            lengths.append(bare / 8)
            overheads.append(wall(short, Here(), folder) / bare - 1)
            one = wall(study, Processes(1), folder)
            gains.append(one / (2 * wall(study, Processes(2), folder)))
            print(
                f"overhead {overheads[-1]:.3f}, efficiency {gains[-1]:.3f}", flush=True
            )
    found = {
        "seconds_per_run": statistics.median(lengths),
        "overhead": {"pairs": overheads, "median": statistics.median(overheads)},
        "efficiency": {"pairs": gains, "median": statistics.median(gains)},
        "runs": options.runs,
        "spec": base.written(),
        "provenance": records.provenance(threads=torch.get_num_threads()),
    }
    target = HERE / "results" / "studies.json"
    records.write_json(target, found)
    print(
        json.dumps({k: found[k] for k in ("seconds_per_run", "overhead", "efficiency")})
    )


if __name__ == "__main__":
    main()
