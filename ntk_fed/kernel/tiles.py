"""A Gram matrix on disk, tile by tile, that survives a kill.

Floor 4. The matrix is an ``.npy`` memory map; beside it ``NAME.tiles.json`` says which
tiles are done. A tile is flushed before it is noted, so a restart computes what is not
noted again, into the same place, with the same block size and the same BLAS library:
the file ends up with the same bytes as without the kill.
"""

import json
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ntk_fed import blas, records
from ntk_fed.errors import RunFolderError


class TiledFile:
    """A matrix on disk and what of it is done.

    Attributes:
        array: the memory map.
        block: samples per tile, as when the file was begun.
        done: indices of finished tiles.
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        shape: tuple[int, ...],
        dtype: torch.dtype,
        *,
        fingerprint: str,
        block: int,
    ) -> None:
        """Begin a file, or go on with one.

        Raises:
            RunFolderError: the file cannot be written, or is another matrix.
        """
        self.path = Path(out)
        self.state = self.path.with_name(self.path.name + ".tiles.json")
        self.fingerprint, self.block, self.done = fingerprint, block, set[int]()
        kind = np.dtype(str(dtype).removeprefix("torch."))
        try:
            if self.state.exists():
                self._resume(shape)
                self.array = np.lib.format.open_memmap(self.path, mode="r+")
                return
            if self.path.exists():
                raise RunFolderError(
                    f"out = {str(self.path)!r} exists and is no kernel of ours "
                    f"({self.state.name} is missing). Choose another name."
                )
            self.library = {str(dtype).removeprefix("torch."): blas.library(dtype)}
            self.array = np.lib.format.open_memmap(
                self.path, mode="w+", dtype=kind, shape=shape
            )
        except OSError as error:
            if isinstance(error, RunFolderError):
                raise
            raise RunFolderError(
                f"out = {str(self.path)!r} cannot be written: "
                f"{error.strerror or error}."
            ) from error
        self._note()

    def _resume(self, shape: tuple[int, ...]) -> None:
        found = json.loads(self.state.read_text())
        if found["fingerprint"] != self.fingerprint or found["shape"] != list(shape):
            raise RunFolderError(
                f"out = {str(self.path)!r} holds the kernel of another network, data "
                "or options. Remove it and its .tiles.json, or choose another name."
            )
        self.block, self.done = found["block"], set(found["done"])
        self.library = found["blas"]
        blas.restore(self.library)

    @property
    def tensor(self) -> Tensor:
        """The matrix as a tensor that shares memory with the file."""
        return torch.from_numpy(self.array)

    def finish(self, index: int) -> None:
        """Make a tile durable, then note it."""
        self.array.flush()
        self.done.add(index)
        self._note()

    def _note(self) -> None:
        content = {
            "fingerprint": self.fingerprint,
            "shape": list(self.array.shape),
            "block": self.block,
            "blas": self.library,
            "done": sorted(self.done),
        }
        records.write_json(self.state, content)
