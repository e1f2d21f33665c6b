"""Smallest eigenvalue: ours against dense and iterative solvers, on the same kernels.

``python benchmarks/bench_spectrum.py`` measures every size, writes
``results/spectrum.json`` and the table in ``README.md``. All in one process; a round
asks each tool once, so that a slow minute of the machine meets all of them.
"""

import dataclasses
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.linalg
import scipy.sparse.linalg
import torch
import tyro
from record import environment, markdown, write_between
from rich.console import Console
from rich.table import Table

import ntk_fed as nf

FOLDER = Path(__file__).resolve().parent
OURS = ("enclosure", "at_least holds", "at_least fails")
PAUSE = 0.2  # seconds: threads of the tool before stop waiting for work meanwhile
DENSE = ("torch eigvalsh", "scipy eigh [0, 0]")


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure. Without options: everything, and the table in README.md."""

    sizes: tuple[int, ...] = (500, 1000, 2000, 4000, 8000)
    """Rows of the kernels."""
    repeats: int = 3
    """Rounds; one not counted goes before, but for the largest size."""
    iterative: int = 4000
    """Largest size for the iterative solvers."""
    rtol: float = 1e-3
    """Relative width of our enclosures."""
    out: Path | None = None
    """JSON file; by default results/spectrum.json for a complete run."""


def kernel(n: int) -> torch.Tensor:
    """Of a 64-2048-2048-1 ReLU network without biases on points N(0, 1)."""
    model = nf.models.MLP([64, 2048, 2048, 1], scaling="standard", seed=0).double()
    x = torch.randn(n, 64, generator=torch.Generator().manual_seed(1)).double()
    return nf.gram(model, x)


def tools(
    gram: torch.Tensor, truth: nf.Enclosure, options: Options
) -> dict[str, Callable[[], float | str]]:
    """Each gives the eigenvalue it finds, or its answer."""
    a = gram.numpy()
    n = len(a)
    below, above = 0.99 * truth.lower, 1.01 * truth.upper
    found: dict[str, Callable[[], float | str]] = {
        "enclosure": lambda: nf.smallest_eigenvalue(gram, rtol=options.rtol).value,
        "at_least holds": lambda: nf.at_least(gram, below).value,
        "at_least fails": lambda: nf.at_least(gram, above).value,
        "torch eigvalsh": lambda: torch.linalg.eigvalsh(gram)[0].item(),
        "scipy eigh [0, 0]": lambda: scipy.linalg.eigh(
            a, subset_by_index=[0, 0], eigvals_only=True, check_finite=False
        ).item(),
    }
    if n <= options.iterative:
        start = np.random.default_rng(0).standard_normal((n, 4))
        found["eigsh, shift-invert"] = lambda: scipy.sparse.linalg.eigsh(
            a, 1, sigma=0.0, tol=options.rtol, v0=start[:, 0]
        )[0].item()
        found["LOBPCG"] = lambda: scipy.sparse.linalg.lobpcg(
            a, start.copy(), largest=False, tol=options.rtol, maxiter=200
        )[0][0].item()
    return found


def measured(n: int, options: Options) -> dict:
    """One size: seconds of every tool, and how far off its answer is."""
    gram = kernel(n)
    truth = nf.smallest_eigenvalue(gram, rtol=1e-9)
    asked = tools(gram, truth, options)
    seconds: dict[str, list[float]] = {name: [] for name in asked}
    answers: dict[str, float | str] = {}
    rounds = options.repeats + (n < max(options.sizes))
    for k in range(rounds):
        for name, call in asked.items():
            time.sleep(PAUSE)
            began = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # LOBPCG says that it did not converge
                answers[name] = call()
            if k > 0 or rounds == options.repeats:
                seconds[name].append(time.perf_counter() - began)
    off = {
        name: abs(value / truth.value - 1)
        for name, value in answers.items()
        if isinstance(value, float)
    }
    wrong = [
        name
        for name, value in answers.items()
        if isinstance(value, str) and value != name.removeprefix("at_least ")
    ]
    return {
        "n": n,
        "smallest": dataclasses.asdict(truth),
        "seconds": seconds,
        "relative_error": off,
        "wrong_verdicts": wrong,
    }


def row(record: dict) -> list[str]:
    """One line of the table: times, and ratios to the dense solvers."""
    middle = {name: statistics.median(s) for name, s in record["seconds"].items()}
    best = min(middle[name] for name in DENSE)
    cells = [f"{record['n']:,}"]
    for name in OURS:
        cells.append(
            f"{middle[name]:.3g} ({middle['torch eigvalsh'] / middle[name]:.1f}×, "
            f"{best / middle[name]:.1f}×)"
        )
    for name in (*DENSE, "eigsh, shift-invert", "LOBPCG"):
        if name not in middle:
            cells.append("-")
            continue
        cells.append(f"{middle[name]:.3g} (off {record['relative_error'][name]:.0e})")
    return cells


HEADINGS = ["N", *OURS, *DENSE, "eigsh, shift-invert", "LOBPCG"]


def main(options: Options) -> None:
    """Measure, print, write."""
    about = environment(
        threads=torch.get_num_threads(), rtol=options.rtol, repeats=options.repeats
    )
    records = []
    for n in options.sizes:
        records.append(measured(n, options))
        print(" | ".join(row(records[-1])), flush=True)
    table = Table(*HEADINGS, title="smallest eigenvalue: seconds")
    for record in records:
        table.add_row(*row(record))
    Console().print(table)
    complete = options == Options()
    out = options.out or (FOLDER / "results" / "spectrum.json" if complete else None)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({"environment": about, "records": records}, indent=1))
    if complete:
        text = (
            f"{about['date'][:10]}, {about['processor']}, {about['threads']} threads, "
            f"load before {about['load_before']:.1f}, median of {options.repeats} "
            "rounds, seconds; in brackets how often faster than torch's eigvalsh and "
            f"than the faster dense solver.\n\n{markdown(HEADINGS, map(row, records))}"
        )
        write_between(FOLDER / "README.md", "spectrum", text)


if __name__ == "__main__":
    main(tyro.cli(Options))
