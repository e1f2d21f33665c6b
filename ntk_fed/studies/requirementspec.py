"""What a study of required widths is, complete; read from TOML.

Floor 8.
"""

import dataclasses
import math
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ntk_fed import records
from ntk_fed.names import require_known
from ntk_fed.studies.conditions import require_condition
from ntk_fed.studies.spec import RunSpec, check_types

_KEYS = ("title", "processes", "run", "required")
_DECIDED = ("width", "seed", "failure")  # not for [run] to say


@dataclasses.dataclass(frozen=True)
class RequirementSpec:
    """A study of required widths.

    Attributes:
        title: one line for the report.
        base: what all runs share.
        over: the field of :class:`RunSpec` that the required width is a function of.
        values: what it takes.
        widths: the ladder.
        conditions: names of ``studies.conditions``.
        most_seeds: seeds a width may take for a condition.
        failure: probability δ of a failure that is allowed, of conditions and theorems.
        error: probability of a wrong bracket that is allowed, for each bracket.
        epsilon: of the condition ``rounds``.
        slack: of the condition ``rounds``.
        batch: runs asked for at once.
        processes: runs at a time, one torch thread each.
    """

    title: str
    base: RunSpec
    over: str
    values: list[Any]
    widths: list[int]
    conditions: list[str]
    most_seeds: int
    failure: float = 0.1
    error: float = 0.05
    epsilon: float = 0.1
    slack: float = 0.1
    batch: int = 8
    processes: int = 2

    def __post_init__(self) -> None:
        """Refuse values out of their range, by name, before the first run."""
        known = [f.name for f in dataclasses.fields(RunSpec)]
        require_known("field in over", self.over, set(known) - {*_DECIDED})
        for name in ("values", "widths", "conditions"):
            found = getattr(self, name)
            if not found or len({*map(str, found)}) < len(found):
                raise ValueError(f"{name} must be different, one at least: {found}.")
        for name in self.conditions:
            require_condition(name)
        for name in ("failure", "error", "epsilon"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be in (0, 1), got {getattr(self, name)}."
                )
        if not 0 <= self.slack < math.inf:
            raise ValueError(f"slack must be at least 0, got {self.slack}.")
        for name in ("most_seeds", "batch", "processes"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 1, got {getattr(self, name)}."
                )
        for value in self.values:
            check_types({self.over: value})
            for width in self.widths:
                check_types({"width": width})
                self.run(value, width, 0)

    def run(self, value: Any, width: int, seed: int) -> RunSpec:
        """The run of a value, a width and a seed."""
        decided = {"width": width, "seed": seed, "failure": self.failure}
        return dataclasses.replace(self.base, **decided, **{self.over: value})

    def written(self) -> dict[str, Any]:
        """For a file: what :func:`read_requirement` reads back as this."""
        left = {*_DECIDED, self.over}
        own = records.plain(self)
        table = {k: v for k, v in own.items() if k not in ("title", "processes")}
        del table["base"]
        run = {k: v for k, v in self.base.written().items() if k not in left}
        return {
            "title": self.title,
            "processes": self.processes,
            "run": run,
            "required": table,
        }


def read_requirement(path: Path) -> RequirementSpec:
    """A study of required widths from its TOML file.

    Raises:
        UnknownNameError: a key that means nothing, with the nearest that does.
        ValueError: a value of a wrong type or out of its range, or a key missing.
        RunFolderError: the file cannot be read.
    """
    content = records.read_toml(path)
    _known(path.name, content, _KEYS)
    run, table = content.get("run", {}), content.get("required", {})
    if not isinstance(run, dict) or not isinstance(table, dict):
        raise ValueError(f"{path.name}: [run] and [required] must be tables.")
    fields = dataclasses.fields(RequirementSpec)
    for field in fields:
        if field.name in ("title", "processes") and field.name in content:
            _check_kind(field, content[field.name])
    own = [f for f in fields if f.name not in ("title", "base", "processes")]
    _known("[required]", table, [f.name for f in own])
    _known("[run]", run, [f.name for f in dataclasses.fields(RunSpec)])
    for field in own:
        if field.name not in table:
            if field.default is dataclasses.MISSING:
                raise ValueError(f"{path.name}: [required] needs {field.name}.")
            continue
        _check_kind(field, table[field.name])
    for name in (*_DECIDED, table["over"]):
        if name in run:
            raise ValueError(f"{name} is decided by [required]. Leave it out of [run].")
    check_types(run)
    return RequirementSpec(
        title=content.get("title", path.resolve().parent.name),
        base=RunSpec(**run),
        processes=content.get("processes", 2),
        **table,
    )


def _known(place: str, found: Mapping[str, Any], known: Any) -> None:
    for key in found:
        require_known(f"key in {place}", key, known)


def _check_kind(field: dataclasses.Field[Any], value: Any) -> None:
    """A list, a word or a number, as the field says; an int is a float."""
    kind: Any = field.type
    outer = typing.get_origin(kind) or kind
    inner = (typing.get_args(kind) or (Any,))[0]
    right = _is(value, outer)
    if right and outer is list and inner is not Any:
        right = all(_is(one, inner) for one in value)
    if not right:
        name = getattr(kind, "__name__", str(kind))
        raise ValueError(f"{field.name} must be {name}, got {value!r}.")


def _is(value: Any, kind: Any) -> bool:
    allowed = (int, float) if kind is float else kind
    return isinstance(value, allowed) and not isinstance(value, bool)
