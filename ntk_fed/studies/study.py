"""A study: a grid of runs, a random design, or both.

Floor 8. Read from TOML with the tables ``[run]`` (what all share), ``[grid]`` (lists of
values, all combinations) and ``[random]`` (so many draws of ranges and choices).
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ntk_fed import records
from ntk_fed.names import require_known
from ntk_fed.seeds import derive
from ntk_fed.studies.spec import RunSpec, check_types

_KEYS = ("title", "processes", "time_limit", "run", "grid", "random")
_SCALES = ("linear", "log")


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers between two ends, uniform on a scale.

    Attributes:
        low: smallest.
        high: largest.
        scale: linear or log.
    """

    low: float
    high: float
    scale: str = "linear"

    def draw(self, random: np.random.Generator, whole: bool) -> Any:
        """One number; a whole one is rounded."""
        if self.scale == "log":
            value = math.exp(random.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = random.uniform(self.low, self.high)
        return round(value) if whole else value


@dataclasses.dataclass(frozen=True)
class Random:
    """A random design: each draw takes one value for every field.

    Attributes:
        draws: how many.
        seed: decides them; the first draws of a longer design are the same.
        fields: field of :class:`RunSpec` -> a range, or a list of choices.
    """

    draws: int = 0
    seed: int = 0
    fields: dict[str, Range | list[Any]] = dataclasses.field(default_factory=dict)

    def values(self) -> list[dict[str, Any]]:
        """What each draw takes; one empty draw where there is no design."""
        if not self.fields:
            return [{}]
        kinds = {field.name: field.type for field in dataclasses.fields(RunSpec)}
        found = []
        for k in range(self.draws):
            drawn: dict[str, Any] = {}
            for name, one in self.fields.items():  # each from a stream of its own
                random = np.random.default_rng(derive(self.seed, f"design {name}", k))
                if isinstance(one, Range):
                    drawn[name] = one.draw(random, float not in _kinds(kinds[name]))
                else:
                    drawn[name] = one[int(random.integers(len(one)))]
            found.append(drawn)
        return found


@dataclasses.dataclass(frozen=True)
class StudySpec:
    """Many runs.

    Attributes:
        title: one line for the report.
        base: what all runs share.
        grid: field of :class:`RunSpec` -> the values it takes.
        processes: runs at a time, one torch thread each.
        random: a random design, each draw of which meets the whole grid.
        time_limit: seconds a run may take; none is as long as it likes.
    """

    title: str
    base: RunSpec
    grid: dict[str, list[Any]]
    processes: int = 2
    random: Random = Random()
    time_limit: float | None = None

    @property
    def swept(self) -> list[str]:
        """Fields that differ between runs."""
        return [*self.grid, *self.random.fields]

    def runs(self) -> list[RunSpec]:
        """Every run once: draw by draw, in the order of the grid."""
        names = list(self.grid)
        found = [
            dataclasses.replace(
                self.base, **drawn, **dict(zip(names, values, strict=True))
            )
            for drawn in self.random.values()
            for values in itertools.product(*self.grid.values())
        ]
        return list({spec.key: spec for spec in found}.values())

    def written(self) -> dict[str, Any]:
        """For a file, complete: what :func:`read_study` reads back as this study."""
        found: dict[str, Any] = {
            "title": self.title,
            "processes": self.processes,
            "run": {
                k: v for k, v in self.base.written().items() if k not in self.swept
            },
            "grid": self.grid,
        }
        if self.time_limit is not None:
            found["time_limit"] = self.time_limit
        if self.random.fields:
            found["random"] = {
                "draws": self.random.draws,
                "design_seed": self.random.seed,
                **{
                    name: records.plain(one) if isinstance(one, Range) else one
                    for name, one in self.random.fields.items()
                },
            }
        return found


def read_study(path: Path) -> StudySpec:
    """A study from its TOML file.

    Raises:
        UnknownNameError: a key that means nothing, with the nearest that does.
        ValueError: a value of a wrong type, or an empty grid.
        RunFolderError: the file cannot be read.
    """
    content = records.read_toml(path)
    _check_keys(path.name, content, _KEYS)
    run, grid = (_table(content, name) for name in ("run", "grid"))
    fields = tuple(field.name for field in dataclasses.fields(RunSpec))
    _check_keys("[run]", run, fields)
    _check_keys("[grid]", grid, fields)
    check_types(run)
    for name, values in grid.items():
        _check_values("[grid]", name, values)
    random = _design(_table(content, "random"), fields)
    for place, names in (("[grid]", grid), ("[random]", random.fields)):
        for name in names:
            others = run if place == "[grid]" else {**run, **grid}
            if name in others:
                where = "[run]" if name in run else "[grid]"
                raise ValueError(f"{name} stands in {where} and in {place}. Keep one.")
    study = StudySpec(
        content.get("title", path.resolve().parent.name),
        RunSpec(**run),
        grid,
        _number(content, "processes", 2, int),
        random,
        _number(content, "time_limit", None, float),
    )
    study.runs()  # every value is checked before the first run starts
    return study


def _table(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = content.get(name, {})
    if not isinstance(found, dict):
        raise ValueError(f"{name} must be a table, [{name}], got {found!r}.")
    return found


def _number(content: Mapping[str, Any], name: str, default: Any, kind: type) -> Any:
    value = content.get(name, default)
    if value is default:
        return value
    allowed = (int, float) if kind is float else (int,)
    if isinstance(value, bool) or not isinstance(value, allowed) or not value > 0:
        what = "a number" if kind is float else "a whole number"
        raise ValueError(f"{name} must be {what} above 0, got {value!r}.")
    return kind(value)


def _check_values(place: str, name: str, values: Any) -> None:
    if not isinstance(values, list) or not values:
        raise ValueError(f"{place} {name} must be a list of values, got {values!r}.")
    for value in values:
        check_types({name: value})


def _design(content: Mapping[str, Any], fields: tuple[str, ...]) -> Random:
    """The table ``[random]``: ``draws``, ``design_seed``, and fields."""
    if not content:
        return Random()
    _check_keys("[random]", content, ("draws", "design_seed", *fields))
    found: dict[str, Range | list[Any]] = {}
    for name, one in content.items():
        if name in ("draws", "design_seed"):
            continue
        if isinstance(one, list):
            _check_values("[random]", name, one)
            found[name] = one
        else:
            found[name] = _range(name, one)
    draws = _number(content, "draws", None, int)
    if draws is None or not found:
        raise ValueError(
            "[random] needs draws and at least one field: draws = 20, width = "
            '{low = 64, high = 4096, scale = "log"}, partition = ["iid", "shards"].'
        )
    seed = content.get("design_seed", 0)
    check_types({"seed": seed})
    return Random(draws, seed, found)


def _range(name: str, one: Any) -> Range:
    if not isinstance(one, dict) or not {"low", "high"} <= one.keys():
        raise ValueError(
            f"[random] {name} must be a list of choices or {{low = ..., high = ..., "
            f'scale = "linear" or "log"}}, got {one!r}.'
        )
    _check_keys(f"[random] {name}", one, ("low", "high", "scale"))
    for end in ("low", "high"):
        check_types({name: one[end]})
        if isinstance(one[end], str):
            raise ValueError(f"[random] {name} is no number: give a list of choices.")
    scale = one.get("scale", "linear")
    require_known(f"scale of [random] {name}", scale, _SCALES)
    if not one["low"] <= one["high"] or (scale == "log" and not one["low"] > 0):
        raise ValueError(
            f"[random] {name} must have low <= high, above 0 on a log scale, got {one}."
        )
    return Range(one["low"], one["high"], scale)


def _kinds(kind: Any) -> tuple[Any, ...]:
    return getattr(kind, "__args__", (kind,))


def _check_keys(place: str, found: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in found:
        require_known(f"key in {place}", key, known)
