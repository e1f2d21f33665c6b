"""Tables of analysis 04: one row per draw, slopes and required widths by seed."""

import math
from typing import Any

import numpy as np
import pandas as pd

from ntk_fed import scaling

Table = Any  # a pandas table or column

QUANTITIES = (
    "separation", "bound", "limit", "finite", "fewest gates", "tanh", "linear",
)  # fmt: skip
HALF = 0.5


def draws(rows: Table, part: str, keys: list[str]) -> Table:
    """One row per case, a column per quantity and its ends; NaN if not finite."""
    rows = rows[rows["part"] == part]
    if rows.empty:
        return pd.DataFrame(columns=[*keys, "seed"])
    index, ends = [*keys, "seed"], ["value", "lower", "upper"]
    own = rows[[*index, "quantity", *ends]].copy()
    own[ends] = own[ends].where(np.isfinite(own[ends]))
    wide = own.pivot(index=index, columns="quantity", values=ends)
    wide.columns = [
        quantity if end == "value" else f"{quantity} {end}"
        for end, quantity in wide.columns
    ]
    names = [
        f"{quantity} {end}".strip()
        for quantity in QUANTITIES
        for end in ("", "lower", "upper")
    ]
    return wide.reindex(columns=names).reset_index()


def limits_of(rows: Table) -> Table:
    """Infinite width and controls, over the distance within pairs."""
    own = draws(rows, "limit", ["delta"])
    if len(own):
        own["scaled"] = 2 * math.pi * own["limit"] / own["separation"]
        own["room"] = own["limit"] / own["bound"]
        ends = own[["linear lower", "linear upper"]].abs()
        own["nothing"] = ends.max(axis=1, skipna=False)
        own["apart"] = (own["scaled"] - 1).abs()
    return own


def widths_of(rows: Table) -> Table:
    """Finite over infinite width, beside the gates expected to tell a pair apart."""
    own = draws(rows, "width", ["delta", "width"])
    if len(own):
        own["spread"] = own["width"] * own["delta"]
        own["gates"] = own["spread"] / math.pi
        own["ratio"] = own["finite"] / own["limit"]
    return own


def numbers_of(rows: Table) -> Table:
    """Infinite width, over the number of uniformly drawn points."""
    own = draws(rows, "number", ["dimension", "samples"])
    if len(own):
        own["room"] = own["limit"] / own["bound"]
    return own


def slopes(own: Table, x: str, y: str, by: str) -> Table:
    """Exponent of y in x for each seed; NaN where a run is missing or not positive.

    Args:
        own: one row per seed and value of ``by``.
        x: column.
        y: column.
        by: column whose values every seed must have.
    """
    cells = own[by].nunique()

    def slope(one: Table) -> float:
        both = one[[x, y]].to_numpy(float)
        known = bool((np.isfinite(both) & (both > 0)).all())
        if not known or len(one) != cells or cells < 3:
            return math.nan
        return scaling.power_law(one[x], one[y]).exponent

    found = {seed: slope(one) for seed, one in own.groupby("seed")}
    return pd.Series(found, dtype=float)


def required_widths(own: Table) -> Table:
    """Width from which on the ratio is above a half, by distance and seed.

    Between the last width below and the next one the ratio is taken to be a straight
    line in log width; NaN where the crossing lies outside the widths or a number is
    not finite.
    """
    found = []
    for (delta, seed), one in own.groupby(["delta", "seed"]):
        one = one.sort_values("width")
        width = _crossing(one["width"].to_numpy(float), one["ratio"].to_numpy(float))
        found.append({"delta": delta, "seed": seed, "required": width})
    return pd.DataFrame(found, columns=["delta", "seed", "required"])


def _crossing(widths: np.ndarray, ratios: np.ndarray) -> float:
    below = np.flatnonzero(ratios < HALF)
    if not np.isfinite(ratios).all() or not len(below) or below[-1] + 1 == len(ratios):
        return math.nan
    last = below[-1]
    part = (HALF - ratios[last]) / (ratios[last + 1] - ratios[last])
    return float(widths[last] * (widths[last + 1] / widths[last]) ** part)


def worst(own: Table, name: str, by: list[str], *, largest: bool = False) -> Table:
    """Extreme number of each seed; NaN if one of its numbers is, or a run is missing.

    Args:
        own: one row per seed and cell.
        name: column.
        by: columns that make a cell.
        largest: rather than smallest.
    """
    cells = len(own[by].drop_duplicates())
    by_seed = own.groupby("seed")[name]
    found = by_seed.agg(
        lambda one: one.max(skipna=False) if largest else one.min(skipna=False)
    )
    return found.where(by_seed.size() == cells)


def by_number(own: Table) -> Table:
    """Exponents in n, one row per dimension, means over seeds with intervals."""
    found = []
    for dimension, one in own.groupby("dimension"):
        row: dict[str, Any] = {"dimension": dimension, "seeds": one["seed"].nunique()}
        row["expected"] = -2 / (dimension - 1)
        both = {
            name: slopes(one, "samples", name, "samples")
            for name in ("limit", "separation")
        }
        both["difference"] = both["limit"] - both["separation"]
        for name, values in both.items():
            row |= dict.fromkeys((name, f"{name} lower", f"{name} upper"), math.nan)
            if len(values) > 1 and values.notna().all():
                mean = scaling.mean_interval(values)
                row[name] = mean.value
                row[f"{name} lower"], row[f"{name} upper"] = mean.lower, mean.upper
        last = one[one["samples"] == one["samples"].max()]
        row["room"] = last["room"].median()
        found.append(row)
    return pd.DataFrame(found)


def by_spread(own: Table) -> Table:
    """The ratio by decades of m δ: worst, median and best run."""
    decade = np.floor(np.log10(own["spread"]) + 1e-9).astype(int)
    both = own.groupby(decade)
    table = both["ratio"].agg(["min", "median", "max"])
    table.insert(0, "runs", both.size())
    names = [f"{10.0**k:g} to {10.0 ** (k + 1):g}" for k in table.index.tolist()]
    table.insert(0, "decade", names)
    return table.reset_index(drop=True)


def by_delta(own: Table) -> Table:
    """Infinite width and controls, one row per distance: medians and extremes."""
    both = own.groupby("delta")
    return pd.DataFrame(
        {
            "runs": both.size(),
            "limit": both["limit"].median(),
            "least": both["scaled"].min(),
            "most": both["scaled"].max(),
            "room": both["room"].max(),
            "tanh": both["tanh"].median(),
            "linear": both["nothing"].max(),
        }
    ).reset_index()
