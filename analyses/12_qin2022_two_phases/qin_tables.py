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
MADE = [
    "closed form error", "gap over bound", "factor", "ηLK", "mean loss at 1 over L",
    "ρ met", "factor at 2/(LK)", "smallest squared gradient at 2/(LK) over L²",
    "theorem2: measured over bound",
]  # fmt: skip


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

    Of rows in the order of rounds. NaN where it does not get there, starts beyond it,
    or is not finite.
    """
    first, last = reach(part, high), reach(part, low)
    return (1 / low - 1 / high) / (last - first) if last > first else np.nan


def reach(own: Table, level: float) -> float:
    """The round from which the loss is at a level, 1/loss taken as linear between."""
    t, u = own["round"].to_numpy(float), own["inverse"].to_numpy(float)
    loss, target = own["loss"].to_numpy(float), 1 / level
    above = loss <= level
    if not np.isfinite(loss).all() or not above.any():
        return np.nan
    k = int(above.argmax())
    if k == 0:
        return np.nan  # it was beyond from the start
    share = (target - u[k - 1]) / (u[k] - u[k - 1])
    return float(t[k - 1] + share * (t[k] - t[k - 1]))


def changes(rows: Table) -> Table:
    """One row per main run whose change of slope was found, or found to be none."""
    names = ["two phases", "change", "change, lower", "change, upper",
             "slope before, per round", "slope after, per iteration"]  # fmt: skip
    wide = _wide(_main(rows), ["split", "local_steps", "seed"], names)
    said = {1.0: "two phases", 0.0: "undecided", -1.0: "one slope"}
    return wide.assign(verdict=wide["two phases"].map(said))


def growth(rows: Table) -> Table:
    """Gradients of samples over the global one, along the main runs."""
    names = ["sample gradient over global gradient", "SGC ratio"]
    wide = _wide(_main(rows), ["split", "local_steps", "seed", "round"], names)
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
        if part != "perceptron":  # which may stop at a loss
            usable = usable and t[-1] >= row["rounds"]
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
    names = ["measured over bound", "conditions hold"]
    own = own.assign(quantity=own["of"])
    wide = _wide(own, keys, names)
    return wide.rename(columns=dict(zip(names, ["over", "conditions"], strict=True)))


def instances(rows: Table) -> Table:
    """One row per instance that was run."""
    own = rows[rows["part"] == "instances"]
    return _wide(own, ["number", "local_steps", "step_size", "rounds", "seed"], MADE)


def _main(rows: Table) -> Table:
    return rows[(rows["part"] == "phases") & (rows["what"] == "main")]


def _wide(rows: Table, keys: list[str], names: list[str]) -> Table:
    """These quantities as columns; one that is NaN keeps its row."""
    own = rows[rows["quantity"].isin(names)]
    if own.empty:
        return pd.DataFrame(columns=[*keys, *names])
    wide = own.pivot(index=keys, columns="quantity", values="value")
    wide = wide.reindex(columns=names).reset_index()
    wide.columns.name = None
    return wide
