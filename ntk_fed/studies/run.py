"""One run from its specification.

Floor 8.
"""

import dataclasses
import math
import os
import time
from pathlib import Path

import pandas as pd
import torch

from ntk_fed import checks, records
from ntk_fed.errors import RunFolderError
from ntk_fed.records import Row, enclosed
from ntk_fed.simulate import History, simulate
from ntk_fed.start import Start, measure
from ntk_fed.studies.build import model_of, observers_of, partition_of
from ntk_fed.studies.spec import RunSpec
from ntk_fed.theory import TheoremCheck, du2019
from ntk_fed.theory.condition import table


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What a run gives: its start, its history, the theorems held against it."""

    start: Start
    history: History
    theorems: list[TheoremCheck]
    rows: pd.DataFrame


def run(
    spec: RunSpec,
    *,
    out: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Result:
    """Build, measure, simulate and check one specification.

    Args:
        spec: the run.
        out: run folder; an interrupted run goes on, a finished one is read back.
        progress: show progress bars.
    """
    began = time.monotonic()
    partition = partition_of(spec)
    model = model_of(spec, partition)
    if out is not None:  # told before hours are spent
        _claim(Path(out), spec)
    start = measure(
        model,
        partition,
        local_steps=spec.local_steps,
        step_size=spec.step_size,
        weights=spec.weights,
        server_step_size=spec.server_step_size,
        progress=progress,
    )
    history = simulate(
        model,
        partition,
        rounds=spec.rounds,
        local_steps=spec.local_steps,
        step_size=start.step_size,
        weights=spec.weights,
        server_step_size=spec.server_step_size,
        observers=observers_of(spec, model, partition, start),
        out=None if out is None else Path(out) / "simulation",
        progress=progress,
    )
    theorems = checks.check(
        model,
        partition,
        local_steps=spec.local_steps,
        step_size=start.step_size,
        weights=spec.weights,
        server_step_size=spec.server_step_size,
        failure=spec.failure,
        run=history,
        start=start,
    )
    first = _start_rows(start) + _curves(spec, start)
    rows = pd.concat([records.frame(first), history.rows], ignore_index=True)
    result = Result(start, history, theorems, rows)
    if out is not None:
        _write(result, spec, Path(out), time.monotonic() - began)
    return result


def _claim(out: Path, spec: RunSpec) -> None:
    """Take a folder for this run, or refuse one that holds anything else."""
    path = out / "spec.toml"
    wanted = {"run": spec.written()}
    if path.exists():
        found = records.read_toml(path).get("run")
        if not isinstance(found, dict):
            raise RunFolderError(
                f"out = {str(out)!r} holds a spec.toml that is no run of ours. Choose "
                "another folder, or remove it."
            )
        for key in sorted(found.keys() | wanted["run"].keys()):
            if found.get(key) != wanted["run"].get(key):
                raise RunFolderError(
                    f"out = {str(out)!r} holds another run: {key} is "
                    f"{found.get(key)!r} there and {wanted['run'].get(key)!r} here. "
                    "Choose another folder, or remove it."
                )
        return
    if out.is_dir() and any(out.iterdir()):
        raise RunFolderError(
            f"out = {str(out)!r} is not empty and holds no run. Choose another folder."
        )
    records.prepare(out)
    records.write_toml(path, wanted)


def _start_rows(start: Start) -> list[Row]:
    """What was measured before the first round, as rows."""
    kernel = start.federated
    rows = [
        enclosed("kernel smallest eigenvalue at the start", start.smallest, round=0)
    ]
    if start.lambda0 is not None:
        rows.append(enclosed("limit smallest eigenvalue", start.lambda0, round=0))
    if start.distance is not None:
        rows.append(enclosed("distance to the limit kernel", start.distance, round=0))
    values = {
        "step size": start.step_size,
        "rate": kernel.rate,
        "federated smallest eigenvalue": kernel.eigenvalues[0].item(),
        "federated largest eigenvalue": kernel.eigenvalues[-1].item(),
        "best server step size": kernel.best_server_step_size,
        "largest local step in units of stability": max(
            (c.largest for c in kernel.clients), default=math.nan
        ),
    }
    none = (0, None, None, None)
    return rows + [Row(*none, name, value) for name, value in values.items()]


def _curves(spec: RunSpec, start: Start) -> list[Row]:
    """Predicted residual norm at the start and the loss a theorem promises."""
    none = (None, None, None)
    rows = [
        Row(0, *none, "predicted residual norm", start.residual.norm().item()),
        Row(0, *none, "prediction error", 0.0),
    ]
    if start.lambda0 is not None:
        n = len(start.residual)
        loss = start.residual.square().sum().item() / (2 * n)
        steps = torch.arange(spec.rounds + 1)
        curve = du2019.loss_bound(
            loss, start.lambda0.lower, n, start.step_size, steps * spec.local_steps
        )
        rows += [
            Row(t, *none, "loss promised by du2019", value, status=du2019.STATUS)
            for t, value in enumerate(curve.tolist())
        ]
    return rows


def _write(result: Result, spec: RunSpec, out: Path, seconds: float) -> None:
    """The run folder of a finished run; ``done.json`` comes last."""
    records.write_table(out / "rows" / "rows.parquet", result.rows)
    records.write_table(out / "conditions.parquet", table(result.theorems))
    records.write_arrays(
        out / "arrays" / "spectra.npz",
        {
            "kernel": torch.linalg.eigvalsh(result.start.gram).cpu().numpy(),
            "federated": result.start.federated.eigenvalues.cpu().numpy(),
        },
    )
    about = records.provenance(seconds=round(seconds, 3), key=spec.key)
    records.write_json(out / "provenance.json", about)
    records.write_json(out / "done.json", {"key": spec.key})
