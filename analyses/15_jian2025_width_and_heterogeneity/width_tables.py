"""Tables of analysis 15: largest values, accuracy lost, gaps against time."""

import math
from typing import Any

import numpy as np
import pandas as pd

from ntk_fed import scaling
from ntk_fed.measured import Enclosure

Rows = Any

KERNEL, DISTANCE = "kernel change (Frobenius)", "distance of local models"
FALLING = (KERNEL, "linearisation gap", "linearisation gap (test)", DISTANCE)
SHARE = "kernel share of the first layer"
FEDERATED = "distance from federated kernel"
CENTRAL = "distance from centralised descent"
GAPS = ("gap to gradient flow", "gap to centralised descent")
EXACT = "error of the federated kernel"
LOST = "diverged"  # 1 where a run diverged, blew up or came to equal outputs
UNKNOWN = Enclosure(math.nan, -math.inf, math.inf)
_RUN = ["part", "network", "width", "split", "local_steps", "fraction", "seed"]


def marked(rows: Rows) -> tuple[Rows, int, int]:
    """Rows whose values are NaN where the run was lost; lost runs, and all of them."""
    runs: Any = pd.MultiIndex.from_frame(rows[_RUN])
    lost = runs[(rows["quantity"] == LOST) & (rows["value"] != 0)].unique()
    good = ~runs.isin(lost) & np.isfinite(rows["value"])
    found = rows.assign(value=rows["value"].where(good))
    found = found[found["quantity"] != LOST]
    return found, len(lost), runs.nunique()


def largest(rows: Rows) -> Rows:
    """One row per run and quantity: its largest value along the run, NaN if lost."""
    if rows.empty:
        return rows
    keys = ["network", "local_steps", "width", "seed", "quantity"]
    found = rows.groupby(keys)["value"].agg(lambda own: own.max(skipna=False))
    # a quantity that a lost run no longer has is NaN, too
    found = found.unstack("quantity").stack(future_stack=True)
    found = found.rename("value").reset_index()
    inside = (found["quantity"] == DISTANCE) & (found["network"] != "standard")
    found.loc[inside, "value"] /= np.sqrt(found.loc[inside, "width"])
    found["kind"] = found["network"] + ", K = " + found["local_steps"].astype(str)
    return found


def dropped(rows: Rows) -> Rows:
    """Accuracy of both splits and their difference, one row per width and seed."""
    if rows.empty:
        return rows
    keys = ["local_steps", "width", "seed"]
    wide = rows.pivot(index=keys, columns="split", values="value")
    wide = wide.reindex(columns=["iid", "one-class"])
    wide["points"] = 100 * (wide["iid"] - wide["one-class"])
    wide["lost"] = rows["value"].isna().groupby([rows[key] for key in keys]).any()
    wide = wide.rename(columns={"one-class": "one_class"}).reset_index()
    wide.columns.name = None
    return wide


def against_time(rows: Rows) -> Rows:
    """Gaps with ``ηK`` beside them."""
    if rows.empty:
        return rows
    keys = ["local_steps", "fraction", "seed"]
    time = rows[rows["quantity"] == "step size times K"].set_index(keys)["value"]
    found = rows[rows["quantity"].isin([*GAPS, EXACT])]
    found = found.join(time.rename("time"), on=keys)
    return found[[*keys, "time", "quantity", "value"]].reset_index(drop=True)


def exponent(own: Rows, x: str = "width") -> Enclosure:
    """Of value in ``x``, over all seeds; unknown where a run is lost or missing."""
    whole = own[x].nunique() * own["seed"].nunique()
    if own[x].nunique() < 2 or len(own) < 4 or len(own) != whole or bad(own):
        return UNKNOWN
    return scaling.power_law(own[x], own["value"]).enclosure


def bad(own: Rows) -> int:
    """How many values have no logarithm."""
    return int((~(own["value"] > 0) | ~np.isfinite(own["value"])).sum())
