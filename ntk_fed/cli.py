"""The command line: one verb per question. The topmost floor.

Exit status: 0 computed, 1 could not be computed, 2 wrong usage. A failed hypothesis is
a result, not an error, unless ``--require`` names it.
"""

import contextlib
import dataclasses
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from ntk_fed import records, report
from ntk_fed.checks import named
from ntk_fed.errors import UnknownNameError
from ntk_fed.executor import Dask, Executor
from ntk_fed.measured import Verdict
from ntk_fed.names import require_known
from ntk_fed.studies import (
    RunSpec,
    Store,
    StudySpec,
    failures,
    forecast,
    read_study,
    run,
    run_study,
)
from ntk_fed.terminal import (
    as_json,
    print_quantities,
    print_result,
    progress_of,
)
from ntk_fed.theory import TheoremCheck
from ntk_fed.theory.condition import together

_COLOURS = {
    Verdict.holds: "green",
    Verdict.fails: "red",
    Verdict.undecided: "yellow",
}
Common = Annotated[RunSpec, tyro.conf.arg(name="")]
_WATCHED = RunSpec(rounds=20, smoothness_every=10)
_DEFAULT = RunSpec(rounds=20)


@dataclasses.dataclass(frozen=True)
class Check:
    """Is this network wide enough, and will FedAvg converge linearly? And did it?

    Measures the kernel, runs the federation, holds every theorem against both.

    Attributes:
        spec: what to run.
        json: print everything as JSON instead of tables.
        html: write a report to this file.
        out: run folder; an interrupted run goes on there.
        theorem: theorems to show, by name or by paper; none shows all.
        require: theorems (hypotheses and conclusion), papers or "theorem: condition"
            that must hold for exit status 0; what does not apply does not hold.
    """

    spec: Common = _WATCHED
    json: bool = False
    html: Path | None = None
    out: Path | None = None
    theorem: tuple[str, ...] = ()
    require: tuple[str, ...] = ()

    def __call__(self) -> int:
        """Run, print, and say whether what is required holds."""
        if self.html is not None and self.html.is_dir():
            raise ValueError(f"--html {self.html} is a folder; name a file.")
        shown = named(self.theorem or None)  # an unknown name is told before the run
        named([name.partition(":")[0] for name in self.require])
        with _folder(self.out) as folder:
            result = run(self.spec, out=folder, progress=not self.json)
            if self.html is not None:
                _copy_report(folder, self.html)
        every = result.theorems
        chosen = [theorem for theorem in every if theorem.name in shown]
        result = dataclasses.replace(result, theorems=chosen)
        if self.json:
            print(json.dumps(as_json(self.spec, result), indent=1, allow_nan=False))
        else:
            print_result(result, Console())
        return _required(every, self.require)


@dataclasses.dataclass(frozen=True)
class Simulate:
    """Run the federation and record everything that moves while it trains.

    Attributes:
        out: run folder; an interrupted run goes on there.
        spec: what to run.
        json: print everything as JSON instead of a table.
    """

    out: Path
    spec: Common = _DEFAULT
    json: bool = False

    def __call__(self) -> int:
        """Run, and say where the rows are."""
        result = run(self.spec, out=self.out, progress=not self.json)
        if self.json:
            print(json.dumps(as_json(self.spec, result), indent=1, allow_nan=False))
        else:
            print_quantities(result, Console())
            print(f"rows: {self.out / 'rows'}")
        return 0


@dataclasses.dataclass(frozen=True)
class Study:
    """How does all this scale? Every run of a study, and a report.

    A study that was cut off goes on where it stopped, a longer one computes only what
    is new, and a run that fails is noted and stops no other. Two machines may work on
    one folder, or on two that --merge puts together.

    Attributes:
        spec: a TOML file with the tables [run], [grid] and [random].
        out: study folder; none is the file's name beside it.
        dry_run: only say how many runs there are and what they will take.
        processes: runs at a time; none is what the file says.
        executor: processes of this machine, or a dask scheduler.
        scheduler: address of the scheduler, tcp://host:port.
        time_limit: seconds a run may take; none is what the file says.
        merge: folders of the same study, computed elsewhere, to take runs from.
    """

    spec: Annotated[Path, tyro.conf.Positional]
    out: Path | None = None
    dry_run: bool = False
    processes: int | None = None
    executor: Literal["processes", "dask"] = "processes"
    scheduler: str | None = None
    time_limit: float | None = None
    merge: tuple[Path, ...] = ()

    def __call__(self) -> int:
        """Run what is missing, render the report; 1 if a run failed."""
        study = read_study(self.spec)
        given = {"processes": self.processes, "time_limit": self.time_limit}
        study = dataclasses.replace(
            study, **{k: v for k, v in given.items() if v is not None}
        )
        out = self.out or self.spec.with_suffix("")
        store = Store(out)
        if self.dry_run:
            runs = study.runs()
            new = [spec for spec in runs if not store.is_done(spec.key)]
            print("\n".join(forecast(runs, new, study.processes).lines()))
            return 0
        for folder in self.merge:
            taken = store.take_in(Store(folder))
            print(f"{len(taken)} runs taken from {folder}", file=sys.stderr)
        where = self._executor(study)
        with progress_of(study.title) as shown:
            run_study(study, out, executor=where, report=shown)
        for key in failures(study, store):
            print(f"ntk-fed: run failed: {store.failure(key)}", file=sys.stderr)
        print(report.render(out))
        return 1 if failures(study, store) else 0

    def _executor(self, study: StudySpec) -> Executor | None:
        """Where runs are computed; ``None`` leaves it to the study."""
        if self.executor == "dask":
            if self.scheduler is None:
                raise ValueError(
                    "--executor dask needs --scheduler tcp://host:port (dask scheduler "
                    "prints it)."
                )
            return Dask(self.scheduler, time_limit=study.time_limit)
        if self.scheduler is not None:
            raise ValueError("--scheduler needs --executor dask.")
        if study.processes > (cores := os.cpu_count() or 1):
            print(
                f"ntk-fed: {study.processes} processes of one thread each on {cores} "
                f"cores will slow each other; --processes {cores} is enough.",
                file=sys.stderr,
            )
        return None


@dataclasses.dataclass(frozen=True)
class Report:
    """Render the report of a run or study folder from its recorded rows.

    Attributes:
        folder: what ``simulate --out``, ``check --out`` or a study wrote; or a folder
            of such folders with their reports, for an index of them.
    """

    folder: Annotated[Path, tyro.conf.Positional]

    def __call__(self) -> int:
        """Render, and print the path of the page."""
        own = (self.folder / "spec.toml").exists()
        several = not own and any(self.folder.glob("*/spec.toml"))
        page = report.render_index if several else report.render
        print(page(self.folder))
        return 0


_VERBS: dict[str, Any] = {
    "check": Check,
    "simulate": Simulate,
    "study": Study,
    "report": Report,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point: parse, run, turn errors into one line and an exit status."""
    verbs = tyro.extras.SubcommandApp()
    for name, verb in _VERBS.items():
        verbs.command(name=name)(verb)
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        verb: Any = verbs.cli(
            args=arguments, prog="ntk-fed", description=__doc__, use_underscores=False
        )
    except ValueError as error:  # a value that no run can have
        print(f"ntk-fed: {error}", file=sys.stderr)
        return 2
    try:
        return verb()
    except UnknownNameError as error:  # a name that means nothing
        print(f"ntk-fed: {error}", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"ntk-fed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ntk-fed: interrupted; the same --out goes on from here", file=sys.stderr)
        return 130


def _interrupted(*_: Any) -> None:
    """A polite kill is an interruption: what is done is saved."""
    raise KeyboardInterrupt


@contextlib.contextmanager
def _folder(out: Path | None):
    """The run folder asked for, or one that is removed afterwards."""
    if out is not None:
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="ntk-fed-") as folder:
        yield Path(folder)


def _copy_report(folder: Path, target: Path) -> None:
    page = report.render(folder).read_bytes()
    target.parent.mkdir(parents=True, exist_ok=True)
    records.write_atomically(target, lambda file: file.write(page))
    print(f"report: {target}", file=sys.stderr)


def _required(theorems: list[TheoremCheck], names: tuple[str, ...]) -> int:
    """1 if something required does not hold or does not apply; says what."""
    found: dict[str, str] = {}
    for theorem in theorems:
        both = together([theorem.verdict, theorem.conclusion.verdict])
        said = f"does not apply: {theorem.why_not}" if theorem.why_not else str(both)
        found[theorem.name] = said
        for condition in [*theorem.hypotheses, theorem.conclusion]:
            found[f"{theorem.name}: {condition.name}"] = str(condition.verdict)
    status = 0
    for name in names:
        own = [name] if ":" in name else named([name])
        for one in own:
            require_known("--require", one, list(found))
            if found[one] != str(Verdict.holds):
                print(f"ntk-fed: required, but {found[one]}: {one}", file=sys.stderr)
                status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
