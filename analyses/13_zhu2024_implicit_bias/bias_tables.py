"""Tables of analysis 13: one row per run, one per recorded round, numbers per seed."""

import math
from typing import Any

import numpy as np
import pandas as pd

from ntk_fed.measured import ratio

Table = Any  # a pandas table

REGRESSION = ["labels", "start", "local_steps", "seed"]
TURNING = ["part", "kind", "local_steps", "seed"]
AVERAGED = ["rule", "clients", "seed"]
LATE = 16  # what is said of the end of a run is said of its last factor 16 in time
FLAT = 4  # and of projections, of the last factor 4 in rounds
LEAST = 1e-17  # numbers below count as this before a logarithm is taken

SMALL, LONG = "logistic, small steps", "logistic, four times as long"


def regressions(rows: Table) -> Table:
    """One row per run of regression: distances, θ_K, factor of a round."""
    own = _last(rows[rows["part"] == "regression"], REGRESSION)
    if own.empty:
        return own
    promised = 1 - own["θ_K"]
    off = (own["factor of a round"] / promised - 1).abs()
    own["factor off"] = np.log10(floored(off))
    for name in ("interpolator", "fixed point", "minimiser of rPr"):
        own[f"log {name}"] = np.log10(floored(own[f"distance to the {name}"]))
    pair = own[["log fixed point", "log minimiser of rPr"]]
    own["log exact limit"] = pair.max(axis=1, skipna=False)
    own["1 − factor"] = 1 - own["factor of a round"]
    own["log ratio"] = logs(own["worst ratio to the bound"])
    return own


def distances(rows: Table) -> Table:
    """Distance to the limit along the run of every regression."""
    own = rows[(rows["part"] == "regression") & (rows["quantity"] == "distance")]
    return own[[*REGRESSION, "round", "value"]].reset_index(drop=True)


def courses(rows: Table) -> Table:
    """Classification, one row per recorded round, with ``time`` η K t."""
    own = rows[rows["part"].isin(["direction", "last layer"]) & (rows["round"] > 0)]
    if own.empty:
        return own
    kind = own["loss"].where(own["strength"] >= 1, SMALL)
    shortest = own.groupby(["part", "loss", "strength"])["steps"].transform("min")
    kind = kind.where(own["steps"] == shortest, LONG)
    own = own.assign(kind=kind, value=own["value"].astype(float))
    wide = own.pivot(
        index=[*TURNING, "round"], columns="quantity", values="value"
    ).reset_index()
    wide.columns.name = None
    fixed = ["step size", "margin", "Crawshaw transition"]
    by_run = wide.groupby(TURNING)
    for name in fixed:
        wide[name] = by_run[name].transform("max")
    wide["iterations"] = wide["local_steps"] * wide["round"]
    wide["time"] = wide["step size"] * wide["iterations"]
    wide["loss over centralised"] = wide["loss"] / wide["centralised loss"]
    wide["loss · γ² η K t"] = wide["loss"] * wide["margin"] ** 2 * wide["time"]
    wide["loss over bound"] = wide["loss"] / wide["Crawshaw bound"]
    both = wide["gap to the centralised model"]
    wide["gap between both"] = both.where(wide["local_steps"] > 1)
    return wide


def turnings(course: Table) -> Table:
    """One row per run of classification: the end, and how it was reached.

    Numbers are NaN where a run diverged.
    """
    if course.empty:
        return course
    return pd.DataFrame(
        [
            dict(zip(TURNING, key, strict=True)) | _turning(own)
            for key, own in course.groupby(TURNING)
        ]
    )


def _turning(own: Table) -> dict[str, float]:
    own = own.set_index("round")
    rounds = own.index.max()
    at = {
        part: own.loc[max(t for t in own.index if t * part <= max(rounds, part))]
        for part in (1, FLAT, LATE)
    }
    last, gap, between = at[1], "gap to the SVM", "gap to the centralised model"

    def fell(name: str, start: int = LATE, end: int = 1) -> float:
        return log(at[end][name]) - log(at[start][name])

    excess = [abs(log(at[part]["loss over centralised"])) for part in (1, LATE)]
    after = own["loss over bound"]
    after = after[after.index > last["Crawshaw transition"]]
    found = {
        "rounds": rounds,
        "loss": last["loss"],
        "gap": last[gap],
        "between": last[between],
        "turned": fell(gap),
        "drawn together": fell(between),
        "between over missing": log(last[between])
        - log(last["centralised gap to the SVM"]),
        "off centralised": excess[0],
        "collapsing": log(excess[0]) - log(excess[1]),
        "off 1/(γ² η K t)": abs(log(last["loss · γ² η K t"])),
        "flattening": fell(gap, FLAT) - fell(gap, LATE, FLAT),
        "exponent of the gap": fell(gap) / math.log(LATE),
        "exponent in the norm": ratio(fell(gap), fell("norm")),
        "nearer to the SVM": log(last["gap to the clients' SVMs"]) - log(last[gap]),
        "rounds beyond the transition": len(after),
        "worst over bound": log(after.max(skipna=False)) if len(after) else math.nan,
    }
    if "agreement" in own and own["part"].iloc[0] == "last layer":
        # A model that diverged classifies nothing, which counts as wrong.
        ended = np.isfinite(last[["loss", "centralised loss"]].astype(float)).all()
        right = [float(last[f"{name}test accuracy"]) for name in ("", "centralised ")]
        found["accuracy"], found["centralised accuracy"] = right
        found["SVM accuracy"] = last["SVM test accuracy"]
        found["accuracy off"] = abs(right[0] - right[1]) if ended else math.nan
        found["disagreement"] = 1 - last["agreement"] if ended else math.nan
    return found


def at_equal_rounds(course: Table, kind: str) -> Table:
    """Log of the loss with the fewest over the loss with most local steps.

    Of each seed, after as many rounds as the run with most local steps has.
    """
    own = course[(course["part"] == "direction") & (course["kind"] == kind)]
    least, most = own["local_steps"].min(), own["local_steps"].max()
    t = own[own["local_steps"] == most]["round"].max()
    wide = own[own["round"] == t].pivot(
        index="seed", columns="local_steps", values="loss"
    )
    return logs(wide[least] / wide[most])


def averages(rows: Table) -> Table:
    """One row per run of exact local solves."""
    own = rows[rows["part"] == "projection"]
    if own.empty:
        return own
    found = []
    for key, part in own.groupby(AVERAGED):
        value = part.pivot(index="round", columns="quantity", values="value")
        last = value.index.max()
        late = max(t for t in value.index if t * FLAT <= last)
        apart = floored(value["distance to the SVM"])
        end, early = (log(apart[t]) for t in (last, late))
        found.append(
            dict(zip(AVERAGED, key, strict=True))
            | {
                "rounds": last,
                "distance": apart[last],
                "log distance": end / math.log(10),
                "exponent": (end - early) / math.log(last / late),
                "gap": value["gap to the SVM"][last],
                "margin": value["smallest margin"][last],
            }
        )
    return pd.DataFrame(found)


def approaches(rows: Table) -> Table:
    """Distance to the SVM along every run of exact local solves."""
    own = rows[(rows["part"] == "projection") & (rows["round"] > 0)]
    own = own[own["quantity"] == "distance to the SVM"].copy()
    own["run"] = own["rule"].where(own["clients"] > 1, "one client")
    return own[["run", "seed", "round", "value"]].reset_index(drop=True)


def per_seed(table: Table, column: str, how: str) -> Table:
    """Extreme over the K of each seed; NaN where one is NaN or a run is missing."""
    wide = table.pivot(index="seed", columns="local_steps", values=column)
    return getattr(wide, how)(axis=1, skipna=False)


def absent(fits: Table, turned: Table, solved: Table) -> int:
    """Runs that are not there for a seed that there are others for."""
    cells = (
        (fits, ["labels", "start", "local_steps"]),
        (turned, ["part", "kind", "local_steps"]),
        (solved, ["rule", "clients"]),
    )
    tables = [(own, keys) for own, keys in cells if len(own)]
    seeds = {seed for own, _ in tables for seed in own["seed"]}
    expected = sum(len(own[keys].drop_duplicates()) for own, keys in tables)
    return len(seeds) * expected - sum(len(own) for own, _ in tables)


def rises(table: Table) -> Table:
    """Smallest rise of log θ_K from one K to the next, of each seed."""
    wide = table.pivot(index="seed", columns="local_steps", values="θ_K")
    steps = np.log(wide.where(wide > 0)).diff(axis=1).iloc[:, 1:]
    return steps.min(axis=1, skipna=False)


def floored(values: Table) -> Table:
    """Sizes before a logarithm: NaN if negative, LEAST if smaller."""
    return values.where(values >= 0).clip(lower=LEAST)


def log(value: float) -> float:
    """Logarithm, NaN where there is none."""
    return math.log(value) if 0 < value < math.inf else math.nan


def logs(values: Table) -> Table:
    """Logarithms, NaN where there is none."""
    known = (values > 0) & np.isfinite(values)
    return np.log(values.where(known).astype(float))


def _last(rows: Table, keys: list[str]) -> Table:
    """One row per run: each quantity in the last round; NaN what is not finite."""
    if rows.empty:
        return rows
    value = rows["value"].where(np.isfinite(rows["value"]))
    rows = rows.assign(value=value)
    final = rows[rows["round"] == rows.groupby(keys)["round"].transform("max")]
    wide = final.pivot(index=keys, columns="quantity", values="value").reset_index()
    wide.columns.name = None
    return wide
