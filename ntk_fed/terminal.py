"""Answers on the terminal.

Floor 10.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from ntk_fed import records
from ntk_fed.measured import Enclosure, Verdict
from ntk_fed.simulate import DIVERGED
from ntk_fed.studies import Progress, Result, RunSpec
from ntk_fed.theory import TheoremCheck
from ntk_fed.theory.condition import WORDING

_COLOURS = {
    Verdict.holds: "green",
    Verdict.fails: "red",
    Verdict.undecided: "yellow",
}


def print_result(result: Result, console: Console) -> None:
    """The kernel, the predicted rate, every theorem, and what moved."""
    start, kernel = result.start, result.start.federated
    console.print(f"λ_min of the kernel  {_enclosure(start.smallest)}")
    if start.lambda0 is not None:
        console.print(f"λ0 of its limit      {_enclosure(start.lambda0)}")
    stable = "stable" if kernel.stable else "unstable"
    console.print(
        f"federated kernel     rate {kernel.rate:.6f} per round ({stable}), best "
        f"server step size {kernel.best_server_step_size:.4g}"
    )
    console.print(_linear(result))
    for theorem in result.theorems:
        if theorem.applies:
            console.print(_table(theorem))
        else:
            console.print(
                f"{theorem.name} ({WORDING[theorem.status]}) does not apply: "
                f"{theorem.why_not}"
            )
    print_quantities(result, console)


@contextlib.contextmanager
def progress_of(title: str) -> Iterator[Callable[[Progress], None]]:
    """A bar with runs done, failed and running and the time left; lines in a log.

    Args:
        title: of the study.

    Yields:
        What to call whenever a run has ended.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda now: console.print(now.line(), markup=False, soft_wrap=True)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=console) as bar:
        task = bar.add_task(title[:40], total=None, state="starting")

        def show(now: Progress) -> None:
            ended = now.done + now.failed
            bar.update(task, total=now.total, completed=ended, state=now.line())

        yield show


def _linear(result: Result) -> str:
    """Did every round contract the residual at the predicted rate?"""
    rows, rate = result.history.rows, result.start.federated.rate
    found = rows.loc[rows["quantity"] == "contraction (P-norm)", "value"]
    if len(found) == 0:
        return "linear convergence   cannot be told: the P-norm was not recorded"
    slack = 1e-12  # rounding of two norms, far above N·eps
    fast = int((found <= rate * (1 + slack)).sum())
    return (
        f"linear convergence   {fast} of {len(found)} rounds contracted the P-norm by "
        f"ρ or faster; the slowest reached {found.max():.6f}"
    )


def _table(theorem: TheoremCheck) -> Table:
    table = Table(
        title=f"{theorem.name} ({WORDING[theorem.status]})\nhypotheses: "
        f"{theorem.verdict} · conclusion: {theorem.conclusion.verdict}",
        caption=theorem.statement,
        title_justify="left",
        caption_justify="left",
    )
    for heading in ("condition", "left", "", "right", "margin", "verdict"):
        table.add_column(heading, overflow="fold")
    rows = [("", h) for h in theorem.hypotheses] + [("⇒ ", theorem.conclusion)]
    for mark, condition in rows:
        margin = condition.margin
        table.add_row(
            mark + condition.name,
            _short(condition.left),
            condition.relation,
            _short(condition.right),
            "" if math.isnan(margin) else f"{margin:+.1f}",
            f"[{_COLOURS[condition.verdict]}]{condition.verdict}[/]",
        )
    return table


def print_quantities(result: Result, console: Console) -> None:
    """First, last and largest value of everything that was watched."""
    if result.history.status == DIVERGED:
        console.print(
            f"the run diverged after {result.history.rounds} rounds; rows up to there"
        )
    table = Table(title="along the run", title_justify="left")
    for heading in ("quantity", "first", "last", "largest"):
        table.add_column(heading)
    rows = result.history.rows
    for quantity in rows["quantity"].unique():
        own = rows.loc[(rows["quantity"] == quantity) & rows["layer"].isna()]
        if len(own):
            values = own["value"]
            ends = (values.iloc[0], values.iloc[-1], values.max())
            table.add_row(str(quantity), *(f"{v:.4g}" for v in ends))
    console.print(table)


def _enclosure(found: Enclosure) -> str:
    kind = "certified" if found.certified else "estimate"
    return f"{found.value:.6g} in [{found.lower:.10g}, {found.upper:.10g}] ({kind})"


def _short(found: Enclosure | None) -> str:
    return "not measured" if found is None else f"{found.value:.4g}"


def as_json(spec: RunSpec, result: Result) -> dict[str, Any]:
    """Everything, with nulls for what is not a finite number."""
    kernel, start = result.start.federated, result.start
    last = result.rows.loc[result.rows["layer"].isna() & result.rows["client"].isna()]
    return _finite(
        {
            "spec": records.plain(spec),
            "smallest_eigenvalue": records.plain(start.smallest),
            "limit_smallest_eigenvalue": start.lambda0 and records.plain(start.lambda0),
            "rate": kernel.rate,
            "stable": kernel.stable,
            "best_server_step_size": kernel.best_server_step_size,
            "step_size": start.step_size,
            "status": result.history.status,
            "rounds": result.history.rounds,
            "theorems": [
                {
                    "name": theorem.name,
                    "statement": theorem.statement,
                    "source": theorem.source,
                    "status": theorem.status,
                    "why_not": theorem.why_not,
                    "verdict": None if theorem.why_not else str(theorem.verdict),
                    "constants": {
                        k: records.plain(v) for k, v in theorem.constants.items()
                    },
                    "conditions": theorem.to_frame().to_dict("records"),
                }
                for theorem in result.theorems
            ],
            "last": {
                str(row.quantity): row.value for row in last.itertuples(index=False)
            },
        }
    )


def _finite(value: Any) -> Any:
    """The same structure with ``None`` for NaN and infinities, which JSON lacks."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
