"""What a run leaves behind: rows, provenance, arrays, each written atomically.

Floor 1: imports ``errors`` of the package. A file either has its whole content or is
not there: everything is written to a temporary file, flushed to disk and renamed.
Nothing here is pickled.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pandas as pd
import threadpoolctl
import tomli_w
import torch

from ntk_fed import blas
from ntk_fed.errors import RunFolderError
from ntk_fed.measured import Enclosure


class Row(NamedTuple):
    """One measured number, in long form; what does not apply is ``None``.

    Attributes:
        round: communication rounds done when the number holds (0 = at the start).
        step: local steps done within the round, for quantities inside a round.
        client: index of the client, for quantities of one client.
        layer: name of the parameter or layer, for quantities of one layer.
        quantity: the name of THEORY's vocabulary, e.g. ``"consensus error"``.
        value: the number.
        lower: lower end of its enclosure, if it has one.
        upper: upper end of its enclosure, if it has one.
        status: ``certified``, ``estimate``, ``exact law``, ... or nothing.
    """

    round: int | None
    step: int | None
    client: int | None
    layer: str | None
    quantity: str
    value: float
    lower: float | None = None
    upper: float | None = None
    status: str | None = None


_KINDS = {
    "round": "Int64",
    "step": "Int64",
    "client": "Int64",
    "layer": "string",
    "quantity": "string",
    "value": "float64",
    "lower": "float64",
    "upper": "float64",
    "status": "string",
}


def enclosed(quantity: str, found: Enclosure, *, round: int | None = None) -> Row:
    """The row of a number that has an enclosure."""
    status = "certified" if found.certified else "estimate"
    return Row(
        round, None, None, None, quantity, found.value, found.lower, found.upper, status
    )


def frame(rows: Iterable[Row]) -> pd.DataFrame:
    """Rows as a table whose columns always have the same types, also when empty."""
    return pd.DataFrame(list(rows), columns=list(_KINDS)).astype(_KINDS)


def prepare(folder: str | os.PathLike[str]) -> Path:
    """Make ``folder`` and its subfolders, and show that it can be written to.

    Raises:
        RunFolderError: it cannot be made or written to.
    """
    path = Path(folder)
    try:
        for part in (path, path / "rows", path / "arrays"):
            part.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise RunFolderError(
            f"out = {str(folder)!r} cannot be written: {error.strerror or error}. "
            "Choose a folder you may write to, on a disk with room."
        ) from error
    return path


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Call ``write`` on a temporary file beside ``path``, flush, rename.

    Raises:
        RunFolderError: the file cannot be written; no partial file stays behind.
    """
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = Path(file.name)
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, RunFolderError):
            raise RunFolderError(
                f"{str(path)!r} cannot be written: {error.strerror or error}. Nothing "
                "was left half-written; free some room or choose another folder."
            ) from error
        raise


def _flush_folder(folder: Path) -> None:
    """Make a rename durable; not every system lets a folder be opened."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """A table as Parquet."""
    write_atomically(path, lambda file: table.to_parquet(file, index=False))


def write_json(path: Path, content: Any) -> None:
    """A JSON file, NaN refused."""
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def write_toml(path: Path, content: Mapping[str, Any]) -> None:
    """A TOML file; keys whose value is ``None`` are left out, as TOML has no null."""
    present = {key: value for key, value in content.items() if value is not None}
    write_atomically(path, lambda file: tomli_w.dump(present, file))


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Named arrays as ``.npz``."""
    write_atomically(path, lambda file: np.savez(file, **arrays))  # pyright: ignore


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """What :func:`write_arrays` wrote; nothing is unpickled."""
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dictionary."""
    try:
        return tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise RunFolderError(f"{str(path)!r} is no readable TOML file: {error}.") from (
            error
        )


def read_rows(folder: str | os.PathLike[str]) -> pd.DataFrame:
    """All rows of a run folder, in the order they were recorded.

    Raises:
        RunFolderError: the folder holds no rows.
    """
    parts = sorted(Path(folder, "rows").glob("*.parquet"))
    if not parts:
        raise RunFolderError(
            f"{str(folder)!r} holds no rows (looked for rows/*.parquet). Give the "
            "folder that was passed as out=."
        )
    return pd.concat([pd.read_parquet(part) for part in parts], ignore_index=True)


def provenance(**more: Any) -> dict[str, Any]:
    """Versions, threads and commit: what a reader needs to trust a number.

    Args:
        more: further entries, such as seeds, data checksums or wall time.
    """
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "versions": dict(_versions()),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "blas_threads": _blas_threads(),
        "blas": blas.chosen(),
        **more,
    }


@functools.cache
def _versions() -> dict[str, str]:
    found = {}
    for package in ("ntk-fed", "torch", "numpy", "scipy", "pandas", "seaborn"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _blas_threads() -> list[int]:
    """Of each BLAS library in the process: last digits may depend on them."""
    found = _libraries().info()
    return [one["num_threads"] for one in found if one["user_api"] == "blas"]


@functools.cache
def _libraries() -> threadpoolctl.ThreadpoolController:
    """What the process has loaded, looked for once: it takes milliseconds."""
    return threadpoolctl.ThreadpoolController()


def digest(named: Mapping[str, torch.Tensor]) -> str:
    """Hash of tensors with their names, shapes and dtypes: what identifies a run."""
    found = hashlib.sha256()
    for name, value in named.items():
        found.update(f"{name} {tuple(value.shape)} {value.dtype} ".encode())
        found.update(value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


@functools.cache
def commit() -> str | None:
    """The commit of the checkout the package runs from, ``None`` outside of one.

    As it was when this process first asked.
    """
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def plain(record: Any) -> dict[str, Any]:
    """A dataclass as a dictionary of plain values, defaults written out."""
    return dataclasses.asdict(record)
