"""What a run is, complete and in plain values.

Floor 8. A specification comes from a TOML file or a command line; unknown keys and
wrong types are refused with the nearest right name.
"""

import dataclasses
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from ntk_fed import records
from ntk_fed.data import sources
from ntk_fed.data.partition import KINDS, WEIGHTS
from ntk_fed.names import require_known

# Raised whenever a change in the package changes results; part of every run's key.
RESULT_VERSION = 3

MODELS = ("two-layer", "mlp")
_COUNTS = (
    *("width", "depth", "clients", "shards_per_client", "rounds", "local_steps"),
    *("every", "kernel_every"),
)
_NAMES = {
    "data": tuple(sources.SOURCES),
    "targets": ("sign", "one-hot"),
    "partition": KINDS,
    "weights": WEIGHTS,
    "dtype": ("float64", "float32"),
}


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """One federated run, complete.

    Attributes:
        data: digits, sphere, separable or mnist.
        data_root: folder that holds the data files; also NTK_FED_DATA.
        samples: how many samples to draw; none takes all.
        targets: sign or one-hot.
        data_seed: decides which samples are drawn, and the split.
        model: two-layer, mlp, or path/to/file.py:factory for a network of your own,
            called as factory(inputs, outputs, width, seed).
        width: hidden width.
        depth: number of hidden layers of an mlp.
        clients: how many clients.
        partition: iid, shards, dirichlet, one-class, slices or single.
        shards_per_client: for the partition by shards; 1 sorts by label.
        alpha: concentration of the dirichlet partition.
        weights: samples (n_i / n) or uniform (1 / c).
        rounds: communication rounds.
        local_steps: gradient steps per client and round.
        step_size: local step size, mean form; none takes 1 / max_i λ_max(Θ_ii)/n_i.
        server_step_size: factor on the averaged movement.
        every: rounds between two looks at what costs a gradient.
        kernel_every: rounds between two looks at the kernel.
        smoothness_every: rounds between two looks at the clients' smoothness and at
            Local SGD's numbers; none does not look, and leaves theorems that ask for
            them undecided.
        dtype: float64 or float32, of data and network.
        failure: probability the theorems may fail with.
        seed: decides the network's initial weights.
    """

    data: str = "digits"
    data_root: str | None = None
    samples: int | None = 200
    targets: str = "sign"
    data_seed: int = 0
    model: str = "two-layer"
    width: int = 1024
    depth: int = 1
    clients: int = 5
    partition: str = "shards"
    shards_per_client: int = 2
    alpha: float = 0.1
    weights: str = "samples"
    rounds: int = 100
    local_steps: int = 20
    step_size: float | None = None
    server_step_size: float = 1.0
    every: int = 5
    kernel_every: int = 20
    smoothness_every: int | None = None
    dtype: str = "float64"
    failure: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values out of their range, by name."""
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 1, got {getattr(self, name)}."
                )
        for name, known in _NAMES.items():
            require_known(name, getattr(self, name), known)
        if ":" not in self.model:
            require_known("model (or path/to/file.py:factory)", self.model, MODELS)
        for name in ("step_size", "server_step_size", "alpha"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, got {value}.")
        if not 0 < self.failure < 1:
            raise ValueError(f"failure must be in (0, 1), got {self.failure}.")
        for name in ("samples", "smoothness_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")

    def written(self) -> dict[str, Any]:
        """For a file: defaults too, nulls and paths of machines left out."""
        values = records.plain(self) | {"data_root": None}
        return {key: value for key, value in values.items() if value is not None}

    @property
    def key(self) -> str:
        """Identity of the run: a hash of the complete specification.

        Where the data lie is no part of it.
        """
        content = {**records.plain(self), "data_root": None, "version": RESULT_VERSION}
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_types(found: Mapping[str, Any]) -> None:
    """Refuse values a field of :class:`RunSpec` cannot have; an int is a float."""
    for field in dataclasses.fields(RunSpec):
        if field.name not in found:
            continue
        value, kind = found[field.name], field.type
        parts = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
        allowed: tuple[Any, ...] = (*parts, int) if float in parts else parts
        if isinstance(value, bool) or not isinstance(value, allowed):
            names = " or ".join(getattr(part, "__name__", str(part)) for part in parts)
            raise ValueError(f"{field.name} must be {names}, got {value!r}.")
