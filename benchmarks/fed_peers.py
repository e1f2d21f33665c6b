"""Flower and pfl beside our rounds: their processes, and the cells they run."""

import contextlib
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path

import fed_cases
import numpy as np
import peers
import torch
from fed_cases import Case
from fed_timing import distance
from fed_tools import Problem
from torch import Tensor

LIMIT = 300.0  # seconds for one cell


class Peers:
    """Flower's and pfl's processes, started when a cell first asks for them."""

    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        *,
        rounds: int,
        threads: int,
        everywhere: bool,
    ) -> None:
        self.names, self.folder, self.everywhere = names, folder, everywhere
        self.rounds, self.threads = rounds, threads
        self.count = 0  # of problems written
        self.tools: dict[str, peers.Tool] = {}
        self.missing: dict[str, str] = {}

    def measured(
        self,
        case: Case,
        problem: Problem,
        reference: list[Tensor] | None,
        *,
        slow: bool,
    ) -> dict[str, dict]:
        """Their rounds of this cell; ``reference`` is the plain loop's movement."""
        rounds = 1 + (min(2, self.rounds) if slow else self.rounds)
        found = {}
        for name in self.names:
            if name != "none" and (self.everywhere or fed_cases.sampled(case)):
                found[name] = self._measured(name, problem, reference, rounds)
        return found

    def _measured(
        self,
        name: str,
        problem: Problem,
        reference: list[Tensor] | None,
        rounds: int,
    ) -> dict:
        if name in self.missing:
            return {"error": self.missing[name]}
        if name not in self.tools:
            self.tools[name] = peers.Tool(
                name,
                self.folder,
                threads=self.threads,
                device="cpu",
                worker="fed_worker.py",
            )
        tool = self.tools[name]
        if tool.process is None:
            self.missing[name] = tool.error or "no process"
            return {"error": self.missing[name]}
        self.count += 1
        file = f"{self.count}.npz"  # a new name: processes keep what they have read
        problem.save(self.folder / file)
        answer = tool.ask(f"{file} {rounds}", LIMIT)
        (self.folder / file).unlink()
        if not answer:
            del self.tools[name]  # the next cell has a new process
            return {"error": tool.error}
        answer["median"] = statistics.median(answer["seconds"])
        if reference is not None:
            with np.load(self.folder / f"{name}.npz") as file:
                after = [torch.from_numpy(file[key]) for key in file.files]
            start = problem.weights
            own = [w - s for w, s in zip(after, start, strict=True)]
            answer["off"] = distance(own, reference)
        return answer

    def close(self) -> None:
        """End their processes, which end their own."""
        for tool in self.tools.values():
            if tool.process is not None:
                with contextlib.suppress(BrokenPipeError, subprocess.TimeoutExpired):
                    tool.process.stdin.write("end\n")
                    tool.process.stdin.flush()
                    tool.process.wait(30)
            tool.close()
