"""What the benchmarks write: the environment of their numbers, and tables."""

import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def environment(*, threads: int, **more: object) -> dict:
    """What numbers depend on beside the code; to be asked for before measuring.

    Args:
        threads: used by what is measured.
        more: what this benchmark depends on beside.
    """
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load_before": os.getloadavg()[0],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "scipy", "torch")},
        **more,
    }


def processor() -> str:
    """Its name, or its architecture where Linux does not tell."""
    info = Path("/proc/cpuinfo")
    words = info.read_text().splitlines() if info.exists() else []
    models = [w.partition(":")[2].strip() for w in words if w.startswith("model name")]
    return models[0] if models else platform.machine()


def commit() -> str | None:
    """The commit checked out, in short; ``None`` without git or a repository."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        found = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True)
    except OSError:
        return None
    return found.stdout.strip() if found.returncode == 0 else None


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_between(readme: Path, marker: str, text: str) -> None:
    """Put ``text`` between the two comments of this name."""
    before, start, rest = readme.read_text().partition(f"<!-- {marker}: begin -->\n")
    _, end, after = rest.partition(f"\n<!-- {marker}: end -->")
    readme.write_text(f"{before}{start}{text}{end}{after}")
