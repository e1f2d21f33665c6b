"""Another tool for FedAvg in a process of its own, answering line by line.

Run by an environment's own interpreter as ``fed_worker.py TOOL FOLDER THREADS cpu``. A
line ``FILE ROUNDS`` asks for a run on the problem in that file of the folder; the
answer is JSON: seconds of every round but the first. The weights after the first round
go to ``TOOL.npz``. The line ``end`` is the last.
"""

import importlib
import importlib.metadata
import json
import os
import sys
from pathlib import Path

import numpy as np

PACKAGES = "torch numpy flwr ray pfl".split()


def answer(tool: str, folder: Path, threads: int, line: str) -> dict:
    """One run. The first round pays for starting: its time does not count."""
    name, rounds = line.split()
    module = importlib.import_module(f"fed_{tool}")
    moments, weights = module.run(folder / name, int(rounds), threads)
    if len(moments) != int(rounds) + 1:
        raise RuntimeError(f"{len(moments) - 1} of {rounds} rounds came to their end")
    np.savez(folder / f"{tool}.npz", *weights)
    return {
        "seconds": np.diff(moments)[1:].tolist(),
        "first_seconds": moments[1] - moments[0],
        "versions": {
            package.name: package.version
            for package in importlib.metadata.distributions()
            if package.name in PACKAGES
        },
    }


def main(tool: str, folder: str, threads: str, _: str) -> None:
    """Answer each line of the standard input with one line of JSON."""
    if hasattr(os, "sched_setaffinity"):  # holds for every library alike
        cores = sorted(os.sched_getaffinity(0))[: int(threads)]
        os.sched_setaffinity(0, cores)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a tool's own words, and its processes', go elsewhere
    for line in iter(sys.stdin.readline, "end\n"):
        try:
            found = answer(tool, Path(folder), int(threads), line)
        except Exception as error:  # whatever a tool raises is a result: its reason
            found = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(found), file=answers, flush=True)
    if f"fed_{tool}" in sys.modules:
        sys.modules[f"fed_{tool}"].close()


if __name__ == "__main__":
    main(*sys.argv[1:])
