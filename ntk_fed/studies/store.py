"""Where the runs of a study lie: by content, claimed by one process, mergeable.

Floor 8. ``runs/KEY/`` holds the run with that identity and nothing else, and has a
``done.json`` from the moment it is complete. ``runs/.KEY.lock`` is held while a process
works on it, and free again when that process has ended, however it ended.
"""

import contextlib
import dataclasses
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ntk_fed import records
from ntk_fed.errors import RunFolderError


@dataclasses.dataclass(frozen=True)
class Store:
    """A study folder, seen as a set of runs.

    Attributes:
        folder: of the study.
    """

    folder: Path

    def run(self, key: str) -> Path:
        """Folder of a run."""
        return self.folder / "runs" / key

    def is_done(self, key: str) -> bool:
        """Is the run complete?"""
        return (self.run(key) / "done.json").exists()

    @property
    def done(self) -> list[str]:
        """Keys of all complete runs, in order."""
        found = self.folder.glob("runs/*/done.json")
        return sorted(path.parent.name for path in found)

    def failure(self, key: str) -> Path:
        """File that tells why a run failed; not there if it did not."""
        return self.folder / "failures" / f"{key}.json"

    def note_failure(self, key: str, **content: Any) -> None:
        """Keep why a run failed, beside the runs."""
        path = self.failure(key)
        path.parent.mkdir(exist_ok=True)
        records.write_json(path, {"key": key, **content})

    def forget_failure(self, key: str) -> None:
        """It has been run since."""
        self.failure(key).unlink(missing_ok=True)

    @contextlib.contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """``True`` while no other process works on this run.

        The operating system gives a lock back when its process ends, so that a killed
        run can be claimed at once. Across machines as far as the file system knows
        locks.
        """
        path = self.folder / "runs" / f".{key}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
        finally:
            os.close(handle)  # which gives the lock back

    def take_in(self, other: "Store") -> list[str]:
        """Copy complete runs of another folder that are missing here.

        Returns:
            Their keys.

        Raises:
            RunFolderError: ``other`` holds no complete run.
        """
        if not other.done:
            raise RunFolderError(
                f"{str(other.folder)!r} holds no finished run (looked for "
                "runs/*/done.json). Give a study folder."
            )
        taken = []
        for key in other.done:
            if not self.is_done(key):
                self._copy(other.run(key), key)
                taken.append(key)
        return taken

    def _copy(self, source: Path, key: str) -> None:
        target = self.run(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            self.claim(key) as own,
            tempfile.TemporaryDirectory(dir=target.parent, prefix=".merge-") as room,
        ):
            if not own:
                raise RunFolderError(
                    f"run {key} is being computed in {str(self.folder)!r}. Merge when "
                    "that study has ended."
                )
            copied = Path(shutil.copytree(source, Path(room) / key))
            if target.exists():  # begun here, and finished there
                shutil.rmtree(target)
            os.replace(copied, target)
