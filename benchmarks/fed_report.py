"""What the benchmark of FedAvg says: ratios, means, tables, what is met."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence

from record import markdown

PEERS = ("flower", "pfl")


def geometric_mean(values: Iterable[float]) -> float | None:
    """``None`` without values."""
    found = list(values)
    if not found:
        return None
    return math.exp(statistics.fmean(math.log(v) for v in found))


def paired_ratio(ours: Sequence[float], others: Sequence[float]) -> float:
    """The median over rounds of our time over the other's in the same round."""
    return statistics.median(a / b for a, b in zip(ours, others, strict=True))


def ratio(record: dict, tool: str, other: str) -> float | None:
    """Time of ``tool`` over that of ``other`` in one cell.

    Round by round where both ran in one process; a peer's rounds are its own, so there
    it is the ratio of medians. ``None``: one of them was not measured.
    """
    one, two = (_tool(record, t).get("seconds") for t in (tool, other))
    if not one or not two:
        return None
    if tool in PEERS or other in PEERS:
        return statistics.median(one) / statistics.median(two)
    return paired_ratio(one, two)


def ratios(records: Iterable[dict], tool: str, other: str) -> list[float]:
    """Over the cells in which both were measured."""
    found = (ratio(record, tool, other) for record in records)
    return [r for r in found if r is not None]


def best_direct(record: dict) -> float | None:
    """How many times faster than the best direct method ours is, in one cell."""
    tools = ("plain", "vmap", "batched", "ours loop")
    found = [ratio(record, tool, "ours auto") for tool in tools]
    known = [r for r in found if r is not None]
    return min(known) if known else None


def of(records: Iterable[dict], **wanted: object) -> list[dict]:
    """The records in which these fields have these values."""
    return [r for r in records if all(r[k] == v for k, v in wanted.items())]


def means(records: list[dict]) -> str:
    """Geometric means of the time relative to the plain loop, by tool and clients."""
    grid = of(records, part="grid")
    names = [t for t in dict.fromkeys(t for r in grid for t in r.get("tools", {}))]
    rows = []
    for tool in names:
        line = [tool]
        for clients in (10, 100):
            found = ratios(of(grid, clients=clients), tool, "plain")
            line += [_number(geometric_mean(found)), str(len(found))]
        slowest = ratios(grid, tool, "plain")
        rows.append([*line, _number(max(slowest, default=None))])
    headings = (
        "tool",
        "10 clients",
        "cells",
        "100 clients",
        "cells",
        "largest in a cell",
    )
    return markdown(headings, rows)


def verdicts(records: list[dict]) -> list[list[str]]:
    """What was asked for, what was measured, and whether it is met."""
    grid = of(records, part="grid")
    few, many = of(grid, clients=10), of(grid, clients=100)
    to_plain = [geometric_mean(ratios(p, "ours auto", "plain")) for p in (few, many)]
    slowest = max(ratios(grid, "ours auto", "plain"), default=None)
    flower = geometric_mean(ratios(grid, "flower", "ours auto"))
    wide = [best_direct(r) for r in records if r.get("wide")]
    direct = geometric_mean(r for r in wide if r is not None)
    deep = geometric_mean(ratios(of(records, part="deep"), "plain", "ours auto"))
    watched = of(records, part="watched")
    watching = geometric_mean(ratios(watched, "watched", "ours auto"))
    to_loop = geometric_mean(ratios(watched, "watched", "plain"))
    exact = [r for r in of(records, part="exact") if "float64" in r]
    single = max((r["float32"]["ours auto"] for r in exact), default=None)
    double = max((r["float64"]["ours auto"] for r in exact), default=None)
    at_most, at_least = "≤", "≥"
    return [
        _verdict("time over the plain loop's, 10 clients", to_plain[0], at_most, 0.25),
        _verdict("the same, stretch", to_plain[0], at_most, 0.2),
        _verdict(
            "time over the plain loop's, 100 clients", to_plain[1], at_most, 1 / 6
        ),
        _verdict("the same, largest in a cell", slowest, at_most, 1.0),
        _verdict("Flower's time over ours", flower, at_least, 20.0),
        _verdict("the same, stretch", flower, at_least, 30.0),
        _verdict("wide inputs: best direct method over ours", direct, at_least, 5.0),
        _verdict("two hidden layers: plain loop over ours", deep, at_least, 4.0),
        _verdict("watching every step over our bare run", watching, at_most, 2.5),
        _verdict("the same over the plain loop's bare run", to_loop, at_most, 2.5),
        _verdict("the same, stretch", watching, at_most, 2.0),
        _verdict("movement, float32 against float64", single, at_most, 1e-2),
        _verdict("movement, float64 against the loop", double, at_most, 1e-10),
    ]


def _verdict(what: str, value: float | None, sign: str, bound: float) -> list[str]:
    if value is None:
        return [what, f"{sign} {bound:.3g}", "-", "not measured"]
    met = value <= bound if sign == "≤" else value >= bound
    return [what, f"{sign} {bound:.3g}", _number(value), "met" if met else "not met"]


def grid(records: list[dict]) -> str:
    """Every cell: the plain loop's seconds, and the other tools' time relative to it.

    One line holds the three numbers of local steps.
    """
    found = of(records, part="grid")
    names = [t for t in dict.fromkeys(t for r in found for t in r.get("tools", {}))]
    others = [name for name in names if name != "plain"]
    lines: dict[tuple, list[dict]] = {}
    for r in found:
        key = (r["data"], r["clients"], r["batch"] or "full", r["hidden"][0])
        lines.setdefault(key, []).append(r)
    steps = sorted({r["local_steps"] for r in found})
    rows = []
    for key, cells in lines.items():
        at = {r["local_steps"]: r for r in cells}
        row = [str(part) for part in key]
        row.append(_along(steps, at, _seconds))
        for tool in others:
            row.append(_along(steps, at, lambda r, t=tool: ratio(r, t, "plain")))
        rows.append(row)
    kinds = " / ".join(map(str, steps))
    headings = ["data", "clients", "batch", "width", f"plain, K = {kinds}", *others]
    return markdown(headings, rows)


def _along(
    steps: list[int], at: dict[int, dict], value: Callable[[dict], float | None]
) -> str:
    return " / ".join(_number(value(at[k])) if k in at else "-" for k in steps)


def _seconds(record: dict) -> float | None:
    seconds = _tool(record, "plain").get("seconds")
    return statistics.median(seconds) if seconds else None


def beyond(records: list[dict]) -> str:
    """Cells beyond the grid, in seconds a round."""
    found = [r for part in ("deep", "wide") for r in of(records, part=part)]
    names = [t for t in dict.fromkeys(t for r in found for t in r.get("tools", {}))]
    rows = []
    for r in found:
        medians = [_tool(r, t).get("median") for t in names]
        rows.append([r["case"], *map(_number, medians), _number(best_direct(r))])
    return markdown(["case", *names, "best direct over ours"], rows)


def watching(records: list[dict]) -> str:
    """The cost of drift and flips at every local step."""
    rows = [
        [
            r["case"],
            *(_number(_tool(r, t).get("median")) for t in ("ours auto", "watched")),
            _number(ratio(r, "watched", "ours auto")),
            _number(_tool(r, "plain").get("median")),
            _number(ratio(r, "watched", "plain")),
        ]
        for r in of(records, part="watched")
    ]
    return markdown(["case", "bare", "watched", "ratio", "plain loop", "ratio"], rows)


def movement(records: list[dict]) -> str:
    """How far the movement is from the loop's in float64, relative."""
    found = [r for r in of(records, part="exact") if "float64" in r]
    rows = [
        [r["case"], dtype, *(f"{error:.1e}" for error in r[dtype].values())]
        for r in found
        for dtype in ("float32", "float64")
    ]
    names = list(found[0]["float32"]) if found else []
    return markdown(["case", "dtype", *names], rows)


def floor(records: list[dict]) -> str:
    """Shares of the machine's peak that the direct method would need at our speed."""
    grid = of(records, part="grid")
    rows = []
    for width in sorted({r["hidden"][0] for r in grid}):
        for clients in (10, 100):
            cells = [r for r in of(grid, clients=clients) if r["hidden"][0] == width]
            shares = [
                geometric_mean(r[name] for r in cells if r.get(name))
                for name in ("share_of_peak", "share_of_bandwidth")
            ]
            percents = ["-" if s is None else f"{s:.0%}" for s in shares]
            rows.append([str(width), str(clients), *percents])
    return markdown(["width", "clients", "operations", "bytes"], rows)


def failures(records: list[dict]) -> list[str]:
    """Tools and cells that keep their place with a reason, each reason once."""
    seen: dict[tuple[str, str], list[str]] = {}
    for r in records:
        if "error" in r:
            seen.setdefault(("every tool", r["error"]), []).append(r["case"])
        for tool, found in r.get("tools", {}).items():
            if found.get("error"):
                seen.setdefault((tool, found["error"]), []).append(r["case"])
    return [
        f"{tool}, {len(cases)} cells from {cases[0]} on: {why}"
        for (tool, why), cases in seen.items()
    ]


def _tool(record: dict, name: str) -> dict:
    return record.get("tools", {}).get(name, {})


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
