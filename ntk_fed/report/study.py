"""A run folder or study folder, read back as tables of one shape.

Floor 9: imports ``records`` and ``errors``. A single run is a study of one run.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ntk_fed import records
from ntk_fed.errors import RunFolderError

# A pandas table, and one of its columns. pandas annotates what a selection gives as a
# union of all it might be, which no type checker can follow; so here they are anything.
Frame = Any
Column = Any

_ROWS = ("round", "step", "client", "layer", "quantity", "value", "lower", "upper")
_CONDITIONS = (
    "theorem", "kind", "condition", "left", "relation", "right", "margin", "verdict",
    "form", "status", "source", "note",
)  # fmt: skip
_LOOKED_FOR = "spec.toml, rows/*.parquet, conditions.parquet, provenance.json"


class Answer(NamedTuple):
    """What a study's decision rule says.

    Attributes:
        verdict: holds, fails or undecided, of what was asked.
        words: the sentence that follows it, with the numbers that decided.
    """

    verdict: str
    words: str


@dataclasses.dataclass(frozen=True, eq=False)
class Study:
    """What a folder holds.

    Attributes:
        title: one line.
        runs: one row per run: ``run``, ``width``, ``seed`` and what else was swept.
        rows: all recorded rows, with the columns of ``runs`` in front.
        conditions: all conditions, likewise.
        spectra: run -> name -> eigenvalues, ascending; empty when none were kept.
        spec: ``spec.toml``, parsed.
        spec_text: ``spec.toml``, as it stands.
        provenance: ``provenance.json``.
        answer: ``answer.json``, where a decision rule was applied.
    """

    title: str
    runs: Frame
    rows: Frame
    conditions: Frame
    spectra: dict[str, dict[str, np.ndarray]]
    spec: dict[str, Any]
    spec_text: str
    provenance: dict[str, Any]
    answer: Answer | None = None

    @property
    def keys(self) -> list[str]:
        """Columns that tell runs apart."""
        return list(self.runs.columns)

    @property
    def swept(self) -> list[str]:
        """Swept fields other than width and seed."""
        return [key for key in self.keys if key not in ("run", "width", "seed")]

    @property
    def widths(self) -> list[int]:
        """All widths, ascending."""
        return sorted(self.runs["width"].unique().tolist())

    @property
    def not_finite(self) -> int:
        """How many recorded values are NaN or infinite."""
        return int((~np.isfinite(self.rows["value"])).sum())

    def setting(self, name: str) -> Any:
        """A field of the specification that all runs share, ``None`` if swept."""
        return self.spec.get("run", {}).get(name)

    def series(self, quantity: str) -> Frame:
        """A quantity of the whole network after each round, one value per run.

        Quantities of clients are averaged over clients; non-finite values are left
        out (see :attr:`not_finite`).

        Returns:
            Columns of ``runs``, ``round``, ``value``, ``lower``, ``upper``; empty when
            the quantity was not recorded.
        """
        found = self.rows[
            (self.rows["quantity"] == quantity)
            & self.rows["layer"].isna()
            & self.rows["step"].isna()
            & self.rows["round"].notna()
            & np.isfinite(self.rows["value"])
        ]
        found = found.astype({"round": "int64"})
        grouped = found.groupby([*self.keys, "round"], sort=True, observed=True)
        return grouped[["value", "lower", "upper"]].mean().reset_index()

    def each(self, quantity: str, take: str) -> Column:
        """One number per run: ``first``, ``last``, ``min``, ``max``, ``mean``, ...

        Returns:
            Indexed by run, NaN where the quantity was not recorded.
        """
        found = self.series(quantity).groupby("run")["value"].agg(take)
        return found.reindex(self.runs["run"])


def read(folder: str | os.PathLike[str]) -> Study:
    """Read a run folder or a study folder.

    Raises:
        RunFolderError: it is neither, or a file in it is damaged.
    """
    path = Path(folder)
    needed = [path / name for name in _LOOKED_FOR.split(", ") if "*" not in name]
    missing = [file.name for file in needed if not file.is_file()]
    if missing or not list(path.glob("rows/*.parquet")):
        if (path / "state.json").is_file() and (path / "spec.toml").is_file():
            raise RunFolderError(
                f"{str(folder)!r} was written by nf.simulate, which records rows and "
                "no conditions: there is nothing to judge. Reports are made of runs of "
                "`ntk-fed simulate` and of studies; read the rows with "
                "nf.simulate(..., out=...).rows, which does not run again."
            )
        what = ", ".join(missing) or "rows/*.parquet"
        raise RunFolderError(
            f"{str(folder)!r} is no finished run or study: {what} is missing (looked "
            f"for {_LOOKED_FOR}). Give the folder that was passed as out=, after the "
            "run has ended."
        )
    spec = records.read_toml(path / "spec.toml")
    try:
        rows = records.read_rows(path)
        conditions = pd.read_parquet(path / "conditions.parquet")
        about = json.loads((path / "provenance.json").read_text())
        text = (path / "spec.toml").read_text()
    except (OSError, ValueError) as error:
        if isinstance(error, RunFolderError):
            raise
        raise _damaged(path, error) from error
    _check_columns(path, "rows", rows, _ROWS)
    _check_columns(path, "conditions.parquet", conditions, _CONDITIONS)
    swept = [*spec.get("grid", {}), *spec.get("random", {})]
    keys = ["run", *(key for key in swept if key in rows)]
    rows = _labelled(path, rows, spec, about)
    conditions = _labelled(path, conditions, spec, about)
    keys = list(dict.fromkeys(["run", "width", "seed", *keys]))
    order = ["width", "seed", *keys[3:], "run"]
    runs = rows[keys].drop_duplicates().sort_values(order).reset_index(drop=True)
    title = spec.get("title") or _title(spec, runs)
    spectra = _spectra(path, runs["run"].tolist())
    answer = _answer(path / "answer.json")
    return Study(title, runs, rows, conditions, spectra, spec, text, about, answer)


def _answer(file: Path) -> Answer | None:
    if not file.is_file():
        return None
    try:
        return Answer(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise _damaged(file, error) from error


def _title(spec: dict[str, Any], runs: Frame) -> str:
    own, first = spec.get("run", {}), runs.iloc[0]
    return (
        f"One run: {own.get('model', 'network')} of width {first['width']} on "
        f"{own.get('data', 'its data')}, seed {first['seed']}"
    )


def _labelled(
    path: Path, table: Frame, spec: dict[str, Any], about: dict[str, Any]
) -> Frame:
    """``run``, ``width`` and ``seed`` as columns, whether they were swept or not."""
    table = table.copy()
    if "run" not in table:
        table["run"] = str(about.get("key", "run"))
    for name in ("width", "seed"):
        if name in table:
            continue
        if name not in spec.get("run", {}):
            raise RunFolderError(
                f"{str(path / 'spec.toml')!r} has no {name} in [run], and the rows "
                f"have no column {name}. Give a folder written by ntk_fed.studies."
            )
        table[name] = spec["run"][name]
    return table


def _check_columns(
    path: Path, name: str, table: Frame, wanted: tuple[str, ...]
) -> None:
    lacking = [column for column in wanted if column not in table]
    if lacking or table.empty:
        what = f"lacks the columns {', '.join(lacking)}" if lacking else "is empty"
        raise RunFolderError(
            f"{str(path)!r}: {name} {what} (looked for {', '.join(wanted)}). Give a "
            "folder written by ntk_fed.studies."
        )


def _spectra(path: Path, runs: list[str]) -> dict[str, dict[str, np.ndarray]]:
    """Eigenvalues of each run that kept them."""
    found = {}
    for run in runs:
        names = [f"{run}.npz", "spectra.npz"] if len(runs) == 1 else [f"{run}.npz"]
        for file in (path / "arrays" / name for name in names):
            if not file.is_file():
                continue
            try:  # opened here: numpy leaves a damaged file open
                with file.open("rb") as stream:
                    stored = np.load(stream, allow_pickle=False)
                    found[run] = {name: stored[name] for name in stored.files}
            except Exception as error:  # zipfile, zlib and numpy each have their own
                raise _damaged(file, error) from error
    return found


def _damaged(path: Path, error: Exception) -> RunFolderError:
    return RunFolderError(
        f"{str(path)!r} cannot be read: {error}. The file is damaged or of another "
        "program; run the study again into an empty folder."
    )
