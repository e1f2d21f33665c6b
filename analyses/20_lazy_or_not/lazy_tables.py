"""Tables of analysis 20: one row per run, per cell, per comparison."""

import math
from typing import Any

import numpy as np
import pandas as pd
from lazy_page import EARLY, NOTHING, Table

from ntk_fed.measured import Enclosure
from ntk_fed.scaling import (
    geometric_mean_interval,
    mean_interval,
    power_law,
    rank_correlation,
)

RUN = ["kind", "width", "local_steps", "split", "seed"]
CELL = RUN[:-1]


def kinds(rows: Table) -> Table:
    """Rows with the kind of network in one word."""
    names = {"mlp": "MLP", "lenet": "LeNet"}
    kind = rows["network"].map(names)
    return rows.assign(kind=kind.where(rows["outputs"] == 1, kind + ", ten outputs"))


def runs(rows: Table) -> Table:
    """One row per trajectory: errors, rates, and what was seen early."""
    own = rows[rows["part"] == "trajectory"]
    return pd.DataFrame(
        [_run(dict(zip(RUN, k, strict=True)), part) for k, part in own.groupby(RUN)]
    )


def _run(fields: dict[str, Any], part: Table) -> dict[str, Any]:
    """A run that diverged has infinite errors and no rate."""
    value = part.pivot_table(index="round", columns="quantity", values="value")
    last, half = value.index.max(), value.index.max() // 2
    lost = bool(value.get("diverged", pd.Series([0.0])).max()) or last < 2
    gap = value.get("linearisation gap", pd.Series(dtype=float))
    first = gap.drop(0, errors="ignore").first_valid_index()
    early = {
        f"early {name}": math.nan if first is None else value.loc[first, name]
        for name in EARLY
    }

    def at_last(name: str) -> float:
        return math.inf if lost else float(value.loc[last, name])

    rate, moved = math.nan, math.inf
    if not lost:
        fell = np.log(value.loc[half] / value.loc[last])
        rate = float(fell["residual norm"] / fell["predicted residual norm"])
        moved = value.loc[last, "test error"] / value.loc[last, "test movement"]

    return fields | early | {
        "error": math.inf if lost else value["prediction error"].max(),
        "centralised": math.inf if lost else value["centralised error"].max(),
        "rate": rate,
        "test": moved,
        "change": at_last("kernel change"),
        "accuracy": at_last("test accuracy"),
        "predicted accuracy": at_last("predicted test accuracy"),
    }  # fmt: skip


def interval(values: Table, *, logarithms: bool, worst: float) -> Enclosure:
    """Mean over seeds; ``worst`` where one is not finite, open where there is one."""
    own = np.array(values, dtype=float)
    if not np.isfinite(own).all() or (logarithms and not (own > 0).all()):
        return Enclosure(worst, worst, worst)
    if len(own) < 2:
        return Enclosure(float(own[0]), -math.inf, math.inf)
    return geometric_mean_interval(own) if logarithms else mean_interval(own)


def cells(table: Table, column: str) -> Table:
    """Mean and interval over the seeds of each cell; geometric, but for rates."""
    rate = column == "rate"
    found = []
    for key, part in table.groupby(CELL, sort=True):
        one = interval(
            part[column], logarithms=not rate, worst=-math.inf if rate else math.inf
        )
        cell = dict(zip(CELL, key, strict=True))
        ends = {"mean": one.value, "lower": one.lower, "upper": one.upper}
        found.append(cell | ends | {"seeds": len(part)})
    return pd.DataFrame(found)


def extreme(table: Table, column: str, *, largest: bool) -> tuple[Enclosure, str]:
    """Of the means of all cells the largest or smallest, and the cell of its far end.

    Its interval has the largest (smallest) of all lower and of all upper ends.
    """
    found = cells(table, column)
    row = found.loc[found["upper"].idxmax() if largest else found["lower"].idxmin()]
    where = f"width {row['width']}, K = {row['local_steps']}, {row['split']}"
    numbers = (found[name] for name in ("mean", "lower", "upper"))
    ends = (float(one.max() if largest else one.min()) for one in numbers)
    value, lower, upper = ends
    return Enclosure(value, lower, upper), where


def exponent(table: Table) -> Enclosure:
    """Of the prediction error in width: fitted seed by seed, mean over the seeds."""
    if not np.isfinite(table["error"]).all():
        return Enclosure(math.inf, math.inf, math.inf)
    found = [
        power_law(own["width"], own["error"]).exponent
        for _, own in table.groupby("seed")
        if len(own) > 2
    ]
    if len(found) < 2:  # too few cells for a line through each seed
        law = power_law(table["width"], table["error"])
        return law.enclosure
    return mean_interval(found)


def choices(rows: Table, name: str) -> Table:
    """One row per run of comparisons: the loss at the kernel's choice over the best."""
    own = rows[rows["of"] == name]
    found, names = [], ["kind", "width", "split", "seed"]
    for key, part in own.groupby(names):
        value = part.pivot_table(index="tried", columns="quantity", values="value")
        told, best = value["predicted loss"].idxmin(), value["loss"].idxmin()
        found.append(
            dict(zip(names, key, strict=True))
            | {"told": told, "best": best}
            | {"regret": value.loc[told, "loss"] / value.loc[best, "loss"]}
            | {"worst": value["loss"].max() / value.loc[best, "loss"]}
        )
    columns = [*names, "told", "best", "regret", "worst"]
    return pd.DataFrame(found, columns=pd.Index(columns))


def announcers(table: Table) -> Table:
    """Rank correlation of early quantities with the largest later error, over seeds."""
    names = {f"early {name}": f"{name} after two rounds" for name in EARLY}
    names |= {"narrowness": "1 / width"}
    table = finite(table)
    found = []
    for column, name in names.items():
        if table[column].nunique() > 1 and table["seed"].nunique() > 1:
            one = rank_correlation(table[column], table["error"], table["seed"])
            ends = {"lower": one.lower, "upper": one.upper}
            found.append({"quantity": name, "correlation": one.value} | ends)
    return pd.DataFrame(found)


def by_network(table: Table) -> Table:
    """:func:`announcers` within each kind of network, found after the numbers."""
    found = [
        announcers(own).assign(network=kind)
        for kind, own in table.groupby("kind", sort=False)
        if own["width"].nunique() > 1
    ]
    columns = ["network", "quantity", "correlation", "lower", "upper"]
    return (
        pd.concat(found, ignore_index=True)[columns]
        if found
        else pd.DataFrame(columns=columns)
    )


def finite(table: Table) -> Table:
    """Runs whose early quantities and error are finite, with the narrowness."""
    table = table.assign(narrowness=1 / table["width"])
    numbers = table[["error", *(f"early {name}" for name in EARLY)]]
    return table[np.isfinite(numbers.astype(float)).all(axis=1)]


def of_the_seed(table: Table) -> Enclosure:
    """Size of the rank correlation of seed and error within cells.

    The seeds of one kind and width share their weights over K and split, so that whole
    kinds and widths are drawn.
    """
    own = finite(table)
    logs = np.log(own["error"])
    apart = logs - logs.groupby([own[name] for name in CELL]).transform("mean")
    groups = own["kind"] + own["width"].astype(str)
    if groups.nunique() < 2 or own["seed"].nunique() < 2:
        return NOTHING
    one = rank_correlation(own["seed"], apart, groups)
    low = 0.0 if one.lower <= 0 <= one.upper else min(abs(one.lower), abs(one.upper))
    return Enclosure(abs(one.value), low, max(abs(one.lower), abs(one.upper)))


def curves(rows: Table) -> Table:
    """Norms and prediction errors of all trajectories, round by round."""
    names = ("residual norm", "predicted residual norm", "prediction error")
    own = rows[(rows["part"] == "trajectory") & rows["quantity"].isin(names)]
    return own[[*RUN, "round", "quantity", "value"]].astype({"round": int})


def tried(rows: Table, name: str) -> Table:
    """One row per value that was tried: loss, predicted loss and their ratio."""
    own = rows[rows["of"] == name]
    index = ["kind", "width", "split", "seed", "tried"]
    if own.empty:
        columns = [*index, "loss", "predicted loss", "ratio"]
        return pd.DataFrame(columns=pd.Index(columns))
    found = own.pivot_table(index=index, columns="quantity", values="value")
    found = found.reset_index()
    return found.assign(ratio=found["loss"] / found["predicted loss"])
