"""Are certified eigenvalues honest? Judged on matrices whose eigenvalues are known.

``python benchmarks/honesty.py`` plants the matrices of ``planted.py``, asks for both
ends of the spectrum and for verdicts on thresholds at and around the truth, and counts
answers that are wrong (none may be: the exit status is 1 then, and each wrong answer is
printed with the recipe that builds its matrix again) and answers that say little. It
writes ``results/honesty.json`` and the tables in ``README.md``.
"""

import dataclasses
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import tyro
from exact import Neighbours
from planted import KINDS, Planted, planted
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from threadpoolctl import threadpool_info, threadpool_limits

from ntk_fed import (
    Enclosure,
    Verdict,
    at_least,
    largest_eigenvalue,
    smallest_eigenvalue,
)

FOLDER = Path(__file__).resolve().parent
UNIT = 2.0**-53
REACH = 100  # times n u trace: from there on a verdict is expected
EXPECTED = 0.99
LARGE = 500  # from this size on a case gets three thresholds
TOLERANCES = (1e-3, 1e-3, 1e-12, 0.5)


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


@dataclasses.dataclass(frozen=True)
class Fault:
    """A wrong answer, or none at all.

    Attributes:
        recipe: kind:size:seed.
        what: lower, upper, verdict or refused.
        call: what was asked.
        answer: what came back.
        truth: the floats next to the eigenvalue asked about.
    """

    recipe: str
    what: str
    call: str
    answer: str
    truth: Neighbours

    def __str__(self) -> str:
        """In one line."""
        return (
            f"WRONG ({self.what}) {self.recipe!r}: {self.call} -> {self.answer}, "
            f"truth {tuple(self.truth)}"
        )


@dataclasses.dataclass
class Tally:
    """Counts over cases; ``away`` are thresholds farther off than rounding reaches."""

    cases: int = 0
    lower: int = 0
    upper: int = 0
    verdict: int = 0
    refused: int = 0
    enclosures: int = 0
    certified: int = 0
    verdicts: int = 0
    decided: int = 0
    away: int = 0
    away_decided: int = 0

    def add(self, other: "Tally") -> None:
        """Count what ``other`` counted too."""
        for field in dataclasses.fields(self):
            total = getattr(self, field.name) + getattr(other, field.name)
            setattr(self, field.name, total)


class Judge:
    """Asks every question about one matrix and compares the answers with its truth."""

    def __init__(self, case: Planted) -> None:
        self.case = case
        self.gram = torch.from_numpy(case.matrix)
        self.tally, self.faults = Tally(cases=1), []
        self.farthest = 0.0  # undecided threshold, in n u trace from the eigenvalue
        draw = np.random.default_rng((case.seed, case.size))
        self.rtol = float(draw.choice(TOLERANCES))
        self.enclosure(largest_eigenvalue, case.largest, -1)
        found, sharp = self.enclosure(smallest_eigenvalue, case.smallest, 1)
        for threshold in thresholds(case, found, draw):
            self.verdict(threshold, sharp)

    def enclosure(
        self, function: Callable[..., Enclosure], truth: Neighbours, sign: int
    ) -> tuple[Enclosure | None, bool]:
        """Ask for one end of the spectrum; also, is it as sharp as can be expected?"""
        self.tally.enclosures += 1
        call = f"{function.__name__}(gram, rtol={self.rtol!r})"
        try:
            found = function(self.gram, rtol=self.rtol)
        except Exception as error:  # whatever it is, there is no answer
            self.fault("refused", call, error, truth)
            return None, False
        if found.lower > truth.below:
            self.fault("lower", call, found, truth)
        if found.upper < truth.above:
            self.fault("upper", call, found, truth)
        allowed = max(reach(self.case, sign), self.rtol * abs(found.lower))
        sharp = found.certified and found.width <= allowed < math.inf
        self.tally.certified += sharp
        return found, sharp

    def verdict(self, threshold: float, sharp: bool) -> None:
        """Ask whether the smallest eigenvalue is at least ``threshold``."""
        truth, call = self.case.smallest, f"at_least(gram, {threshold!r})"
        self.tally.verdicts += 1
        try:
            found = at_least(self.gram, threshold)
        except Exception as error:  # likewise
            self.fault("refused", call, error, truth)
            return
        holds = threshold <= truth.below
        if found is (Verdict.fails if holds else Verdict.holds):
            self.fault("verdict", call, found, truth)
        decided = found is not Verdict.undecided
        self.tally.decided += decided
        distance = abs(threshold - truth.below) / reach(self.case, 1)
        if not decided:
            self.farthest = max(self.farthest, REACH * distance)
        if distance > 1:
            self.tally.away += 1
            self.tally.away_decided += decided and sharp

    def fault(self, what: str, call: str, answer: object, truth: Neighbours) -> None:
        """Count a wrong answer and keep it with its recipe."""
        setattr(self.tally, what, getattr(self.tally, what) + 1)
        recipe = f"{self.case.kind}:{self.case.size}:{self.case.seed}"
        self.faults.append(Fault(recipe, what, call, repr(answer), truth))


def rounding(case: Planted, sign: int) -> float:
    """``n u`` times the trace, for the smallest (sign 1) or largest (-1) eigenvalue.

    The trace is that of a Gram matrix at its smallest eigenvalue. Elsewhere it is the
    sum of the sizes on the diagonal, and n times the shift to a semi-definite matrix.
    """
    lack = -case.smallest.below if sign > 0 else case.largest.above
    return case.size * UNIT * (diagonal_size(case) + case.size * max(lack, 0.0))


def reach(case: Planted, sign: int) -> float:
    """How far rounding may reach before an answer counts as a vague one."""
    return max(REACH * rounding(case, sign), REACH * 2.0**-1074)


def diagonal_size(case: Planted) -> float:
    """Sum of the sizes on the diagonal: the trace of a Gram matrix."""
    return math.fsum(np.abs(np.diagonal(case.matrix).astype(np.float64)))


def thresholds(
    case: Planted, found: Enclosure | None, draw: np.random.Generator
) -> list[float]:
    """At the truth and around it; three for a large matrix, seven for a small one."""
    end = float(draw.choice(case.smallest))
    unit, sign = rounding(case, 1), float(draw.choice([-1, 1]))
    ends = [found.lower, found.upper] if found else [end, end]
    ends += [math.nextafter(ends[0], -math.inf), math.nextafter(ends[1], math.inf)]
    values = [
        end,
        end + sign * float(draw.choice([REACH, 2 * REACH, 1e4])) * unit,
        float(draw.choice(ends)),
        end - sign * float(draw.choice([0.01, 1, 5, 20])) * unit,
        end * (1 + sign * 2.0 ** -int(draw.integers(1, 53))),
        -diagonal_size(case) * 2.0 ** -int(draw.integers(0, 61)),
        0.0,
    ]
    return values[:3] if case.size >= LARGE else values


def decade(case: Planted) -> float:
    """Power of ten of the condition number, at most 18; infinite for a singular one."""
    ends = (case.smallest, case.largest)
    smallest, largest = (abs(end.below) or end.above for end in ends)
    if smallest == 0.0:
        return math.inf
    largest = max(largest, smallest)
    return min(math.floor(math.log10(largest) - math.log10(smallest)), 18)


def plan(options: Options) -> list[tuple[str, int, int]]:
    """Kind, size and seed of every case, the large ones last."""
    if options.again:
        kind, size, seed = options.again.rsplit(":", 2)
        return [(kind, int(size), int(seed))]
    draw = np.random.default_rng(options.seed)
    large = [kind for kind in options.kinds if KINDS[kind].large]
    turns = [(kind, KINDS[kind].sizes) for kind in options.kinds]
    recipes = []
    for count, choice in (
        (options.cases, turns),
        (options.large if large else 0, [(kind, KINDS[kind].large) for kind in large]),
    ):
        for i in range(count):
            kind, sizes = choice[i % len(choice)]
            seed = options.seed * 10**7 + len(recipes)
            recipes.append((kind, int(draw.choice(sizes)), seed))
    return recipes


@dataclasses.dataclass
class Counts:
    """Everything counted so far."""

    kinds: dict[str, Tally] = dataclasses.field(default_factory=dict)
    decades: dict[float, Tally] = dataclasses.field(default_factory=dict)
    faults: list[Fault] = dataclasses.field(default_factory=list)
    farthest: float = 0.0

    def judge(self, recipe: tuple[str, int, int]) -> None:
        """Build one case and count the answers to it."""
        case = planted(*recipe)
        judge = Judge(case)
        self.kinds.setdefault(case.kind, Tally()).add(judge.tally)
        self.decades.setdefault(decade(case), Tally()).add(judge.tally)
        self.faults += judge.faults
        self.farthest = max(self.farthest, judge.farthest)

    @property
    def total(self) -> Tally:
        """Over all kinds."""
        total = Tally()
        for tally in self.kinds.values():
            total.add(tally)
        return total


def environment(options: Options, seconds: float) -> dict:
    """What the numbers depend on beside the code."""
    info = Path("/proc/cpuinfo")
    words = info.read_text().splitlines() if info.exists() else []
    models = [w.partition(":")[2].strip() for w in words if w.startswith("model name")]
    names = ("ntk-fed", "numpy", "scipy", "torch")
    libraries = {
        f"{pool['internal_api']} {pool['version']}"
        for pool in threadpool_info()
        if pool["user_api"] == "blas"
    }
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in names},
        "blas": sorted(libraries),
        "seconds": round(seconds),
        "cases": options.cases,
        "large": options.large,
        "seed": options.seed,
    }


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
        lines = [headings, ["---"] * len(headings), *rows]
        parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
    before, start, rest = readme.read_text().partition("<!-- honesty: begin -->\n")
    _, end, after = rest.partition("\n<!-- honesty: end -->")
    text = "\n\n".join(parts)
    readme.write_text(f"{before}{start}{text}{end}{after}")


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
    counts, start, stopped = Counts(), time.perf_counter(), False
    with threadpool_limits(options.threads), Progress(console=console) as progress:
        try:
            for recipe in progress.track(plan(options), description="cases"):
                seen = len(counts.faults)
                counts.judge(recipe)
                if options.again:
                    progress.print(planted(*recipe), markup=False)
                for fault in counts.faults[seen:]:
                    progress.print(str(fault), markup=False, soft_wrap=True)
        except KeyboardInterrupt:
            stopped = True
    about = environment(options, time.perf_counter() - start)
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
        recipes = sorted({fault.recipe for fault in counts.faults})
        sys.exit(
            f"{len(counts.faults)} answers wrong or refused, on {len(recipes)} "
            f"matrices; build one again with --again {recipes[0]!r}"
        )
    if stopped:
        sys.exit(130)


if __name__ == "__main__":
    main(tyro.cli(Options))
