"""Are certified eigenvalues honest? Judged on matrices whose eigenvalues are known.

``python benchmarks/honesty.py`` plants the matrices of ``planted.py``, asks for both
ends of the spectrum and for verdicts on thresholds at and around the truth, and counts
answers that are wrong (none may be: the exit status is 1 then, and each wrong answer is
printed with the recipe that builds its matrix again) and answers that say little. It
writes ``results/honesty.json`` and the tables in ``README.md``. The judging itself is
in ``judge.py``.
"""

import dataclasses
import json
import math
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch
import tyro
from judge import EXPECTED, REACH, Counts, parsed, plan
from planted import KINDS, planted
from record import environment, markdown, write_between
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from threadpoolctl import threadpool_info, threadpool_limits

FOLDER = Path(__file__).resolve().parent


@dataclasses.dataclass(frozen=True)
class Options:
    """What to judge. Without options: everything, and the tables in README.md."""

    cases: int = 30_000
    """Small matrices, spread evenly over the kinds."""
    large: int = 72
    """Matrices of 500 rows and more."""
    kinds: tuple[str, ...] = tuple(KINDS)
    """Names of kinds."""
    seed: int = 0
    threads: int = 1
    out: Path | None = None
    """JSON file; by default results/honesty.json for a complete run."""
    again: str = ""
    """One recipe, kind:size:seed, as printed for a wrong answer: judge that alone."""


def about_run(options: Options) -> dict:
    """What the counts depend on beside the code."""
    libraries = {
        f"{pool['internal_api']} {pool['version']}"
        for pool in threadpool_info()
        if pool["user_api"] == "blas"
    }
    return environment(
        threads=options.threads,
        **{"ntk-fed": version("ntk-fed")},
        blas=sorted(libraries),
        cases=options.cases,
        large=options.large,
        seed=options.seed,
    )


def kind_rows(counts: Counts) -> list[tuple[str, ...]]:
    """The first table, with its headings."""
    headings = "kind, cases, wrong lower ends, wrong upper ends, wrong verdicts, "
    headings += "refused, enclosures certified, verdicts undecided"
    rows: list[tuple[str, ...]] = [tuple(headings.split(", "))]
    for name, t in (*counts.kinds.items(), ("all", counts.total)):
        numbers = (t.cases, t.lower, t.upper, t.verdict, t.refused)
        shares = (
            share(t.certified, t.enclosures),
            share(t.verdicts - t.decided, t.verdicts),
        )
        rows.append((name, *(f"{number:,}" for number in numbers), *shares))
    return rows


def decade_rows(counts: Counts) -> list[tuple[str, ...]]:
    """The second table, with its headings."""
    headings = "condition number from, cases, enclosures certified, verdicts decided, "
    headings += "thresholds away, certified and decided of those"
    rows: list[tuple[str, ...]] = [tuple(headings.split(", "))]
    for power, t in sorted(counts.decades.items()):
        name = "singular" if power == math.inf else f"1e{power:.0f}"
        name += " and more" if power == 18 else ""
        certified, decided = (
            share(t.certified, t.enclosures),
            share(t.decided, t.verdicts),
        )
        away = share(t.away_decided, t.away)
        rows.append((name, f"{t.cases:,}", certified, decided, f"{t.away:,}", away))
    return rows


def share(part: int, whole: int) -> str:
    """A percentage that reads 100% and 0% only if it is."""
    if whole == 0:
        return "-"
    percent = 100 * part / whole
    if part not in (0, whole):
        percent = min(max(percent, 0.01), 99.99)
        return f"{percent:.2f}%"
    return f"{percent:.0f}%"


def criterion(counts: Counts) -> str:
    """Whether enough is decided where rounding is no excuse."""
    total = counts.total
    met = total.away > 0 and total.away_decided >= EXPECTED * total.away
    return (
        f"Certified and decided where |λ_min - threshold| > {REACH} n u trace: "
        f"{total.away_decided:,} of {total.away:,}, "
        f"{share(total.away_decided, total.away)}; asked for at least {EXPECTED:.0%}: "
        f"{'met' if met else 'NOT met'}. The farthest threshold left undecided was "
        f"{counts.farthest:.1f} n u trace off."
    )


def write_tables(about: dict, counts: Counts, readme: Path) -> None:
    """Put the tables between the markers of ``readme``."""
    total = counts.total
    parts = [
        f"{about['date'][:10]}, {about['processor']}, {about['threads']} thread, "
        f"{', '.join(about['blas'])}: {total.cases:,} cases, "
        f"{total.enclosures + total.verdicts:,} answers, {about['seconds']} seconds; "
        f"{len(counts.faults) - total.refused} wrong, {total.refused} refused.",
        criterion(counts),
    ]
    for headings, *rows in (kind_rows(counts), decade_rows(counts)):
        parts.append(markdown(headings, rows))
    write_between(readme, "honesty", "\n\n".join(parts))


def written(about: dict, counts: Counts, out: Path) -> None:
    """All counts, in JSON."""
    found = {
        "environment": about,
        "total": dataclasses.asdict(counts.total),
        "criterion": criterion(counts),
        "kinds": {k: dataclasses.asdict(t) for k, t in counts.kinds.items()},
        "decades": {
            str(d): dataclasses.asdict(t) for d, t in sorted(counts.decades.items())
        },
        "faults": [dataclasses.asdict(fault) for fault in counts.faults],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n")


def main(options: Options) -> None:
    """Judge, print, write."""
    if unknown := set(options.kinds) - set(KINDS):
        sys.exit(f"--kinds: {sorted(unknown)} unknown; known: {list(KINDS)}")
    complete = options == dataclasses.replace(Options(), threads=options.threads)
    out = options.out or (FOLDER / "results" / "honesty.json" if complete else None)
    torch.set_num_threads(options.threads)
    console = Console(width=None if sys.stdout.isatty() else 120)
    recipes = plan(options.cases, options.large, options.kinds, options.seed)
    if options.again:
        recipes = [parsed(options.again)]
    about = about_run(options)
    counts, start, stopped = Counts(), time.perf_counter(), False
    with threadpool_limits(options.threads), Progress(console=console) as progress:
        try:
            for recipe in progress.track(recipes, description="cases"):
                seen = len(counts.faults)
                counts.judge(recipe)
                if options.again:
                    progress.print(planted(*recipe), markup=False)
                for fault in counts.faults[seen:]:
                    progress.print(str(fault), markup=False, soft_wrap=True)
        except KeyboardInterrupt:
            stopped = True
    about["seconds"] = round(time.perf_counter() - start)
    for title, rows in (("kinds", kind_rows), ("condition", decade_rows)):
        headings, *lines = rows(counts)
        table = Table(*headings, title=title)
        for line in lines:
            table.add_row(*line)
        console.print(table)
    console.print(criterion(counts), markup=False)
    if out is not None and not stopped:
        written(about, counts, out)
    if complete and not stopped:
        write_tables(about, counts, FOLDER / "README.md")
    if counts.faults:
        wrong = sorted({fault.recipe for fault in counts.faults})
        sys.exit(
            f"{len(counts.faults)} answers wrong or refused, on {len(wrong)} "
            f"matrices; build one again with --again {wrong[0]!r}"
        )
    if stopped:
        sys.exit(130)


if __name__ == "__main__":
    main(tyro.cli(Options))
