"""FedAvg: our rounds against other ways to compute them, on the same federation.

``python benchmarks/bench_fedavg.py`` measures every cell, writes
``results/fedavg.json`` and the tables in ``README.md``. What runs in this process takes
turns round by round; Flower and pfl have processes and environments of their own.
"""

import contextlib
import dataclasses
import fnmatch
import gc
import json
import sys
import tempfile
from pathlib import Path

import fed_cases
import fed_report
import peers
import torch
import tyro
from fed_cases import Case
from fed_peers import Peers
from fed_timing import SLOW, distance, moved, speeds, timed
from fed_tools import DIRECT
from record import environment, markdown, write_between
from rich.console import Console
from rich.markdown import Markdown

FOLDER = Path(__file__).resolve().parent
PARTS = {
    "grid": fed_cases.GRID,
    "deep": fed_cases.DEEP,
    "wide": fed_cases.WIDE,
    "watched": fed_cases.WATCHED,
    "exact": fed_cases.EXACT,
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure. Without options: everything, and the tables in README.md."""

    cells: tuple[str, ...] = ("*",)
    """Patterns of part/case, such as 'grid/mnist-c10-*' or 'exact/*'."""
    engines: tuple[str, ...] = ("auto",)
    """Our engines."""
    peers: tuple[str, ...] = fed_report.PEERS
    """Names of peers, or none."""
    complete: bool = False
    """Flower and pfl in every cell of the grid, not only in a third of them."""
    rounds: int = 5
    """Rounds; one not counted goes before. Slow cells have 3, quick ones twice this."""
    peer_rounds: int = 2
    """Rounds of Flower and pfl; one not counted goes before. Slow cells have 2."""
    threads: int = 2
    """Cores each tool may use."""
    out: Path | None = None
    """JSON file; by default results/fedavg.json for a run of everything."""


def measured(case: Case, part: str, options: Options, others: Peers) -> dict:
    """One cell: every tool's rounds, and the floor."""
    problem = case.problem()
    machine = speeds()
    if part == "watched":
        runs = {"ours auto": fed_cases.ours(problem, "auto")}
        runs["watched"] = fed_cases.watched(problem)
        runs["plain"] = DIRECT["plain"](problem)
    else:
        names = {f"ours {engine}": engine for engine in options.engines}
        runs = {name: fed_cases.ours(problem, e) for name, e in names.items()}
        runs |= {name: tool(problem) for name, tool in DIRECT.items()}
    tools = timed(runs, problem, options.rounds)
    del runs
    gc.collect()
    reference = tools.get("plain", {}).pop("moved", None)
    if part == "grid":
        plain = tools.get("plain", {}).get("median", 0.0)
        tools |= others.measured(case, problem, reference, slow=plain > SLOW)
    wide = fed_cases.wide(problem) and part in ("grid", "wide")
    record: dict = {"tools": tools, "wide": wide, "speeds": machine}
    record["samples"] = problem.x.shape[1]
    mine = tools.get("ours auto", {}).get("median")
    if mine:
        direct = fed_cases.operations(problem), fed_cases.traffic(problem)
        record["share_of_peak"] = direct[0] / mine / machine["operations"]
        record["share_of_bandwidth"] = direct[1] / mine / machine["bytes"]
    return record


def exact(case: Case, options: Options) -> dict:
    """Errors of the movement after three rounds, against the loop in float64."""
    problem = case.problem()
    double = problem.to(torch.float64)
    truth = moved(fed_cases.ours(double, "loop"), double)
    found: dict = {}
    for dtype, given in (("float32", problem), ("float64", double)):
        runs = {f"ours {e}": fed_cases.ours(given, e) for e in options.engines}
        runs["plain"] = DIRECT["plain"](given)
        found[dtype] = {}
        for name in list(runs):
            found[dtype][name] = distance(moved(runs.pop(name), given), truth)
    return found


def listed(options: Options) -> list[tuple[str, Case]]:
    """The cells asked for, as (part, case); those of ten clients first."""
    found = [
        (part, case)
        for part, cases in PARTS.items()
        for case in sorted(cases, key=lambda c: c.clients)
        if any(fnmatch.fnmatch(f"{part}/{case.name}", p) for p in options.cells)
    ]
    if not found:
        known = [f"{part}/{cases[0].name}" for part, cases in PARTS.items()]
        sys.exit(f"--cells: {options.cells} match nothing; such as {known}")
    return found


def others_of(options: Options, folder: Path) -> Peers:
    """Flower and pfl as asked for."""
    return Peers(
        options.peers,
        folder,
        rounds=options.peer_rounds,
        threads=options.threads,
        everywhere=options.complete,
    )


def results(options: Options, out: Path | None) -> dict:
    """Every cell asked for, printed and written as it comes."""
    about = environment(
        threads=options.threads,
        rounds=options.rounds,
        peer_rounds=options.peer_rounds,
        peers_everywhere=options.complete,
        step_size=fed_cases.STEP_SIZE,
        requirements={name: peers.REQUIREMENTS[name] for name in fed_report.PEERS},
    )
    found: dict = {"environment": about, "records": []}
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(others_of(options, Path(folder))) as others,
    ):
        for part, case in listed(options):
            record = {"part": part, "case": case.name, **dataclasses.asdict(case)}
            try:
                if part == "exact":
                    record |= exact(case, options)
                else:
                    record |= measured(case, part, options, others)
            except Exception as error:  # data that are not there, memory: its reason
                words = f"{type(error).__name__}: {error}"[:300]
                record |= {"error": words}
            found["records"].append(record)
            print(line(record), flush=True)
            if out is not None:  # after every case: an interruption loses one
                out.parent.mkdir(parents=True, exist_ok=True)
                out.write_text(json.dumps(found, indent=1) + "\n")
    return found


def line(record: dict) -> str:
    """One cell in one line, while the others are measured."""
    name = f"{record['part']}/{record['case']}: "
    if "error" in record:
        return name + record["error"]
    if record["part"] == "exact":
        return name + json.dumps(record["float32"]) + json.dumps(record["float64"])
    words = [
        f"{tool} {found['median']:.3g}" if "median" in found else f"{tool} failed"
        for tool, found in record["tools"].items()
    ]
    return name + ", ".join(words)


def text(found: dict) -> str:
    """What goes into README.md."""
    about, records = found["environment"], found["records"]
    asked = fed_report.verdicts(records)
    parts = [
        f"{about['date'][:10]}, {about['processor']}, {about['threads']} threads, load "
        f"before {about['load_before']:.1f}, float32.",
        markdown(("asked", "bound", "measured", ""), asked),
        "Time relative to the plain loop, geometric mean over cells:",
        fed_report.means(records),
        "Every cell: seconds a round of the plain loop, and the time of the others "
        "relative to it:",
        fed_report.grid(records),
        "Two hidden layers, and wide inputs: seconds a round.",
        fed_report.beyond(records),
        "Drift and flips of every client at every local step: seconds a round.",
        fed_report.watching(records),
        "Movement after three rounds, relative error against the loop in float64:",
        fed_report.movement(records),
        "Floor of the direct method over our time:",
        fed_report.floor(records),
    ]
    missing = fed_report.failures(records)
    if missing:
        parts += ["Not measured:", "\n".join(f"- {words}" for words in missing)]
    return "\n\n".join(parts)


def main(options: Options) -> None:
    """Measure, print, write."""
    unknown = set(options.peers) - {*fed_report.PEERS, "none"}
    if unknown:
        sys.exit(f"--peers: {sorted(unknown)} unknown; known: {fed_report.PEERS}")
    torch.set_num_threads(options.threads)
    whole = options == dataclasses.replace(Options(), complete=options.complete)
    out = options.out or (FOLDER / "results" / "fedavg.json" if whole else None)
    found = results(options, out)
    words = text(found)
    Console(width=None if sys.stdout.isatty() else 160).print(Markdown(words))
    if whole:
        write_between(FOLDER / "README.md", "fedavg", words)
    if any(
        "error" in r["tools"]["ours auto"] for r in found["records"] if "tools" in r
    ):
        sys.exit("ours failed in a cell; its reason is in the table")


if __name__ == "__main__":
    main(tyro.cli(Options))
