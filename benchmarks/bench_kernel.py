"""Tangent kernels: ours against other tools, on the same weights and inputs.

``python benchmarks/bench_kernel.py`` measures every case, writes
``results/kernel.json`` and the table in ``README.md``. Each tool is a process of its
own for each case; one round asks each of them once.
"""

import dataclasses
import json
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import peers
import tyro
from cases import CASES
from record import environment, markdown, write_between
from rich.console import Console
from rich.table import Table
from worker import MEMORY_LIMIT

FOLDER = Path(__file__).resolve().parent
PEERS = tuple(name for name in peers.ROUTES if name != "ours")
SLOW = 5.0  # seconds; who takes longer at first takes part in three rounds only
HEADINGS = (
    "case",
    "dtype",
    "ours",
    "best peer",
    "ratio",
    "all peers",
    "share of peak",
    "agreement",
    "memory",
)


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure. Without options: everything, and the table in README.md."""

    cases: tuple[str, ...] = tuple(CASES)
    """Names of cases."""
    peers: tuple[str, ...] = PEERS
    """Names of peers, or none."""
    dtype: tuple[str, ...] = ("float32", "float64")
    """float64 is measured for dense networks only."""
    repeats: int = 7
    """Rounds; one not counted goes before."""
    threads: int = len(os.sched_getaffinity(0)) if platform.system() == "Linux" else 1
    """Cores each process may use."""
    device: str = "cpu"
    """cpu, or cuda for ours and torch.func alone."""
    out: Path | None = None
    """JSON file; by default results/kernel.json for a complete run on the CPU."""
    seed: int = 0


def measured(name: str, dtype: str, options: Options) -> dict:
    """One case: the tools' times in alternation, memory, agreement, share of peak."""
    case = CASES[name]
    wanted = ["ours", *(p for p in options.peers if p != "none")]
    if options.device == "cuda":
        wanted = [w for w in wanted if w in peers.HERE]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "case.npz"
        np.savez(file, **case.arrays(dtype, options.seed))
        where = {"threads": options.threads, "device": options.device}
        tools = {w: peers.Tool(w, file, **where) for w in wanted}
        probe = None if case.image else peers.Tool("products", file, **where)
        try:
            firsts = _firsts(tools, Path(folder))
            if probe is not None:
                probe.ask("run")
            times: dict[str, list[float]] = {w: [] for w in wanted}
            rates = []
            for k in range(options.repeats + 1):
                answers = {
                    w: tool.ask("run")
                    for w, tool in tools.items()
                    if k <= 3 or firsts[w].get("first_seconds", 0.0) < SLOW
                }
                rate = probe.ask("run") if probe is not None else {}
                if k > 0:  # the first is for warming up
                    rates.append(rate.get("rate"))
                    for w, answer in answers.items():
                        times[w] += [answer["seconds"]] if answer else []
        finally:
            for tool in (*tools.values(), *([probe] if probe else [])):
                tool.close()
        errors = {w: tool.error for w, tool in tools.items()}
    return _record(name, dtype, times, rates, firsts, errors)


def _firsts(tools: dict[str, peers.Tool], folder: Path) -> dict[str, dict]:
    """First runs, one tool after another; each kernel is compared with ours."""
    found = {}
    reference = None
    for name, tool in tools.items():
        file = folder / "gram.npy"
        # With what it has to import and to compile.
        found[name] = answer = tool.ask(f"first {file}", 2 * peers.LIMIT)
        if not answer:
            continue
        gram = np.load(file).astype(np.float64)
        if name == "ours":
            reference = gram
        elif reference is not None:
            gap = np.linalg.norm(gram - reference) / np.linalg.norm(reference)
            answer["relative_difference"] = float(gap)
        if answer["first_seconds"] > peers.LIMIT:
            tool.error = f"over {peers.LIMIT:.0f} s"
            tool.close()
    return found


def _record(
    name: str, dtype: str, times: dict, rates: list, firsts: dict, errors: dict
) -> dict:
    case = CASES[name]
    record: dict = {
        "case": name,
        "dtype": dtype,
        **dataclasses.asdict(case),
        "tools": {},
    }
    for tool, seconds in times.items():
        done = {"error": errors[tool]} if errors[tool] else {}
        if seconds and not done:
            done = {"median": statistics.median(seconds), "seconds": seconds}
        record["tools"][tool] = done | firsts[tool]
    operations = case.operations()
    record |= {"operations": operations, "product_rates": rates}
    mine = record["tools"]["ours"]
    if operations and "median" in mine and None not in rates:
        # Round by round: what slows the machine for a while slows both.
        record["share_of_peak"] = statistics.median(
            operations / (s * r) for s, r in zip(mine["seconds"], rates, strict=True)
        )
    others = {k: v for k, v in record["tools"].items() if k != "ours"}
    done = {k: v["median"] for k, v in others.items() if "median" in v}
    if done and "median" in mine:
        best = min(done, key=done.__getitem__)
        record |= {"best_peer": best, "ratio": done[best] / mine["median"]}
    return record


def row(record: dict) -> tuple[str, ...]:
    """One line of the table; what could not be measured says why."""
    tools = record["tools"]
    mine, best = tools["ours"], tools.get(record.get("best_peer"), {})
    names = [name for name in tools if name != "ours"]
    differences = [tools[name].get("relative_difference") for name in names]
    found = [d for d in differences if d is not None]
    share, ratio = record.get("share_of_peak"), record.get("ratio")
    return (
        record["case"],
        record["dtype"],
        _time(mine),
        f"{_time(best)} {record['best_peer']}" if best else "-",
        f"{ratio:.2f}" if ratio else "-",
        ", ".join(f"{name} {_time(tools[name])}" for name in names) or "-",
        f"{share:.0%}" if share else "-",
        f"{max(found):.0e}" if found else "-",
        f"{_memory(mine)} / {_memory(best)}",
    )


def _time(tool: dict) -> str:
    if "median" in tool:
        return f"{tool['median']:.3g}"
    words = tool.get("error", "not run")
    if "alloc" in words or "memory" in words.lower():
        return "out of memory"
    return f"({words[:60]})"


def _memory(tool: dict) -> str:
    return f"{tool['peak_bytes'] / 2**20:,.0f}" if "peak_bytes" in tool else "-"


def write_table(found: dict, readme: Path) -> None:
    """Put the table between the markers of ``readme``."""
    about = found["environment"]
    table = markdown(HEADINGS, map(row, found["records"]))
    text = (
        f"{about['date'][:10]}, {about['processor']}, {about['threads']} threads, "
        f"load before {about['load_before']:.1f}, median of {about['repeats']} rounds; "
        f"times in seconds, memory in MiB.\n\n{table}"
    )
    write_between(readme, "kernel", text)


def main(options: Options) -> None:
    """Measure, print, write."""
    for what, allowed in (("cases", CASES), ("peers", (*PEERS, "none"))):
        unknown = set(getattr(options, what)) - set(allowed)
        if unknown:
            sys.exit(f"--{what}: {sorted(unknown)} unknown; known: {list(allowed)}")
    complete = options == dataclasses.replace(Options(), repeats=options.repeats)
    out = options.out or (FOLDER / "results" / "kernel.json" if complete else None)
    about = environment(
        threads=options.threads,
        device=options.device,
        repeats=options.repeats,
        seed=options.seed,
        memory_limit=MEMORY_LIMIT,
        routes=peers.ROUTES,
    )
    found: dict = {"environment": about, "records": []}
    table = Table(title="tangent kernels: times in seconds, memory in MiB")
    for heading in HEADINGS:
        table.add_column(heading, overflow="fold")
    for name in options.cases:
        for dtype in options.dtype:
            if CASES[name].image and dtype != "float32":
                continue
            record = measured(name, dtype, options)
            print(f"{name}, {dtype}: ours {_time(record['tools']['ours'])}", flush=True)
            found["records"].append(record)
            table.add_row(*row(record))
            if out is not None:  # after every case: an interruption loses one
                out.parent.mkdir(parents=True, exist_ok=True)
                out.write_text(json.dumps(found, indent=1) + "\n")
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    if complete:
        write_table(found, FOLDER / "README.md")
    if any("error" in r["tools"]["ours"] for r in found["records"]):
        sys.exit("ours failed on a case; its reason is in the table")


if __name__ == "__main__":
    main(tyro.cli(Options))
