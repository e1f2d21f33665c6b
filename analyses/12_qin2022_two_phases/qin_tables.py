"""Tables of analysis 12: one row per run, and what loss curves come to."""

from typing import Any

import numpy as np
import pandas as pd

Table = Any

RUN = ["what", "split", "weights", "samples", "batch", "step_size", "local_steps",
       "switch", "rounds", "seed"]  # fmt: skip
PHASE1 = (1 / 0.6, 1 / 5)  # losses between which the first phase is taken
EARLY = (1 / 0.6, 1.0)  # of 500 images, which take long
BETWEEN = (1 / 100, 1 / 200)
PHASE2 = (1 / 500, 1 / 1000)
SAME_LOSS = 0.25  # at which perceptrons are compared


def curves(rows: Table, part: str) -> Table:
    """Losses of one part, with 1/loss and iterations."""
    own = rows[(rows["part"] == part) & (rows["quantity"] == "loss")]
    found = own[[*RUN, "round", "value"]].rename(columns={"value": "loss"})
    inverse = 1 / found["loss"].where(found["loss"] > 0)
    return found.assign(
        inverse=inverse, iterations=found["round"] * found["local_steps"]
    )


def phases(rows: Table) -> Table:
    """One row per run on images: slopes of 1/loss in windows of loss.

    Per round in the first phase, per iteration between and in the second; none of a run
    that was lost: diverged, or stopped before its last round.
    """
    own = curves(rows, "phases")
    found = []
    for key, part in own.groupby(RUN, sort=False):
        row: dict[str, Any] = dict(zip(RUN, key, strict=True))
        part, k = part.sort_values("round"), row["local_steps"]
        row["last"] = float(part["loss"].iloc[-1])
        short = part["round"].iloc[-1] < row["rounds"]
        row["lost"] = short or not np.isfinite(part["loss"]).all()
        for name, window, steps in (
            ("first", PHASE1, 1), ("early", EARLY, 1), ("between", BETWEEN, k),
            ("second", PHASE2, k),
        ):  # fmt: skip
            row[name] = np.nan if row["lost"] else _slope(part, *window) / steps
        found.append(row)
    names = ["first", "early", "between", "second", "last", "lost"]
    return pd.DataFrame(found, columns=[*RUN, *names])


def _slope(part: Table, high: float, low: float) -> float:
    """Growth of 1/loss per round while the loss falls from one level to another.

    NaN where it does not get there, or is not finite before.
    """
    own = part.sort_values("round")
    first, last = reach(own, high), reach(own, low)
    return (1 / low - 1 / high) / (last - first) if last > first else np.nan


def reach(own: Table, level: float) -> float:
    """The round from which the loss is at a level, 1/loss taken as linear between."""
    t, u = own["round"].to_numpy(float), own["inverse"].to_numpy(float)
    target, above = 1 / level, own["loss"].to_numpy(float) <= level
    if not np.isfinite(own["loss"]).all() or not above.any():
        return np.nan
    k = int(above.argmax())
    if k == 0 or u[k] == u[k - 1]:
        return float(t[k])
    share = (target - u[k - 1]) / (u[k] - u[k - 1])
    return float(t[k - 1] + share * (t[k] - t[k - 1]))


def changes(rows: Table) -> Table:
    """One row per run whose change of slope was sought."""
    names = ["two phases", "change", "change, lower", "change, upper",
             "slope before, per round", "slope after, per iteration"]  # fmt: skip
    own = rows[(rows["part"] == "phases") & rows["quantity"].isin(names)]
    keys = ["split", "local_steps", "seed"]
    wide = own.pivot_table(index=keys, columns="quantity", values="value")
    wide = wide.reindex(columns=names).reset_index()
    wide.columns.name = None
    said = {1.0: "two phases", 0.0: "undecided", -1.0: "one slope"}
    return wide.assign(verdict=wide["two phases"].map(said))


def growth(rows: Table) -> Table:
    """Gradients of samples over the global one, along the main runs."""
    names = ["sample gradient over global gradient", "SGC ratio"]
    own = rows[(rows["part"] == "phases") & rows["quantity"].isin(names)]
    keys = ["split", "local_steps", "seed", "round"]
    wide = own.pivot_table(index=keys, columns="quantity", values="value")
    wide = wide.reindex(columns=names).reset_index()
    wide.columns.name = None
    return wide.rename(columns={names[0]: "r", names[1]: "growth"})


def straight(rows: Table, part: str) -> Table:
    """One row per linear run: late slopes per round, and how straight both laws are.

    Bends are logarithms: slope of the last quarter over that of the one before.
    """
    own, found = curves(rows, part), []
    for key, one in own.groupby(RUN, sort=False):
        one = one.sort_values("round")
        t, loss = one["round"].to_numpy(float), one["loss"].to_numpy(float)
        row: dict[str, Any] = dict(zip(RUN, key, strict=True))
        row["last"], row["same"] = float(loss[-1]), reach(one, SAME_LOSS)
        usable = bool((np.isfinite(loss) & (loss > 0)).all()) and len(t) > 3
        for name in ("inverse", "log"):
            row[f"{name} slope"] = row[f"{name} bend"] = np.nan
            if usable:
                y = 1 / loss if name == "inverse" else -np.log(loss)
                ends = np.interp([0.5, 0.75, 1.0], t / t[-1], y)
                third, fourth = np.diff(ends)
                row[f"{name} slope"] = (ends[2] - ends[0]) / (t[-1] / 2)
                if third > 0 and fourth > 0:
                    row[f"{name} bend"] = np.log(fourth / third)
        found.append(row)
    return pd.DataFrame(found)


def exponents(table: Table, column: str) -> Table:
    """By seed: the exponent of a slope in K; NaN where one is not usable."""
    found = {}
    cells = table["local_steps"].nunique()
    for seed, own in table.groupby("seed"):
        usable = (own[column] > 0) & np.isfinite(own[column])
        logs = np.log(own["local_steps"].to_numpy(float))
        found[seed] = np.nan
        if usable.all() and len(own) == cells > 1:
            found[seed] = float(np.polyfit(logs, np.log(own[column].to_numpy()), 1)[0])
    return pd.Series(found, dtype=float)


def held(rows: Table) -> Table:
    """One row per theorem and run: measured over bound; are its conditions met?"""
    keep = rows["quantity"].str.endswith(("measured over bound", "conditions hold"))
    own = rows[keep].copy()
    words = own["quantity"].str.split(": ", n=1)
    own["theorem"], own["of"] = words.str[0], words.str[1]
    keys = ["part", "theorem", "split", "local_steps", "step_size", "rounds", "seed"]
    wide = own.pivot(index=keys, columns="of", values="value")
    names = ["measured over bound", "conditions hold"]
    wide = wide.reindex(columns=names).reset_index()
    wide.columns.name = None
    return wide.rename(columns=dict(zip(names, ["over", "conditions"], strict=True)))


def instances(rows: Table) -> Table:
    """One row per instance that was run."""
    own = rows[rows["part"] == "instances"]
    keys = ["number", "local_steps", "step_size", "rounds"]
    wide = own.pivot_table(index=keys, columns="quantity", values="value")
    wide = wide.reset_index()
    wide.columns.name = None
    return wide
