"""Numbers of each run from its rows, and exponents over the seeds."""

import math
from typing import Any

import numpy as np
import pandas as pd

from ntk_fed import scaling
from ntk_fed.measured import Enclosure
from ntk_fed.theory import deng2022

COLLINEAR = 30.0  # condition number, as in ``ntk_fed.theory.envelope``
FIRST = "layers.1.weight"  # the first trained layer: its input does not move
CASE = ["part", "activation", "hidden", "width", "local_steps", "share", "seed"]

PERFECT = 1e-12  # of ReLU's number: a control's below counts as this
UNKNOWN = Enclosure(math.nan, -math.inf, math.inf)

Frame = Any


def cases(rows: Frame) -> Frame:
    """One row per watched run: constants in units of the step, drifts, gates."""
    found = []
    for key, own in rows[rows["watched"] > 0].groupby(CASE, sort=False):
        stable = own["stable"].iloc[0]
        fits = own[(own["kind"] == "fit") & (own["layer"] == "all")]
        pairs = own[(own["kind"] == "pair") & (own["layer"] == "all")]
        gates = own[(own["kind"] == "pair") & (own["layer"] != "all")]
        last = pairs[pairs["step"] == pairs["step"].max()]
        row = dict(zip(CASE, key, strict=True))
        for method, name in (
            ("segment", ""),
            ("least squares", " (pairs)"),
            ("envelope", " (envelope)"),
        ):
            one = fits[fits["method"] == method]
            row[f"raw A{name}"], row[f"raw B{name}"] = mean(one["A"]), mean(one["B"])
            row[f"A{name}"] = row[f"raw A{name}"] * stable**2
            row[f"B{name}"] = row[f"raw B{name}"] * stable
        condition = fits.loc[fits["method"] == "envelope", "columns_condition"].max()
        row["collinear"] = bool(condition > COLLINEAR)
        row["power"] = _power(own[(own["kind"] == "segment") & (own["layer"] == "all")])
        row["relative drift"] = mean(last["relative"])
        row["gate part"] = mean(pairs["gates"] / pairs["loss"]) * stable
        row["gate share"] = pairs["gates"].sum() / pairs["drift"].sum()
        row["separation"] = own["separation"].iloc[0]
        if "flips" in gates and gates["flips"].notna().any():
            flips = gates["flips"].sum(skipna=False)
            row["flips"] = flips / gates["all_gates"].sum()
            for name in ("broken", "broken_tenth", "broken_rows_only"):
                row[name] = gates[name].sum(skipna=False)
            row["tenth"] = row["broken_tenth"] / flips if flips else 0.0
            row["flipped"] = flips
        found.append(row)
    return pd.DataFrame(found)


def mean(values: Frame) -> float:
    """Their mean, NaN if one is not finite."""
    return float(values.mean()) if np.isfinite(values).all() else math.nan


def unusable(values: Frame) -> int:
    """How many have no logarithm."""
    return int((~(values > 0) | ~np.isfinite(values)).sum())


def _power(segments: Frame) -> float:
    """Mean exponent of squared drift in the distance, over the segments."""
    if segments.empty or unusable(segments["drift"]):
        return math.nan
    slopes = [
        scaling.power_law(one["way"], one["drift"]).exponent
        for _, one in segments.groupby(["round", "client"])
    ]
    return float(np.mean(slopes))


def curves(rows: Frame) -> Frame:
    """One row per run of the part on rates: slopes of the late half, and the line."""
    found = []
    own = rows[(rows["part"] == "rate") & (rows["kind"] == "loss")]
    for key, curve in own.groupby(CASE, sort=False):
        late = curve[curve["round"] >= curve["round"].max() / 2]
        run, deviation = _line(late, "loss")
        kernel, _ = _line(late, "predicted")
        found.append(
            {
                **dict(zip(CASE, key, strict=True)),
                "slope": -run,
                "kernel": -kernel,
                "over kernel": run / kernel if kernel else math.nan,
                "deviation": deviation,
                "whole": _line(curve, "loss")[1],
            }
        )
    return pd.DataFrame(found, columns=found[0].keys() if found else CASE)


def _line(curve: Frame, name: str) -> tuple[float, float]:
    """Slope of the logarithm in rounds, and distance from a line; NaN without one."""
    if unusable(curve[name]):
        return math.nan, math.nan
    times = curve["round"].to_numpy(float)
    line = deng2022.straightness(curve[name].to_numpy(float), times)
    return line.slope, line.deviation.value if line.deviation else math.nan


def exponent(table: Frame, x: str, y: str) -> Enclosure | None:
    """Mean over seeds of each seed's exponent of y in x.

    Returns:
        ``None`` where there are fewer than two seeds or three ``x``; unknown where a
        number is not finite or not positive, or a seed lacks a run that others have.
    """
    groups = [own for _, own in table.groupby("seed")]
    if len(groups) < 2 or table[x].nunique() < 3:
        return None
    if unusable(table[y]) or len({len(own) for own in groups}) > 1:
        return UNKNOWN
    return interval([scaling.power_law(own[x], own[y]).exponent for own in groups])


def interval(values: Any) -> Enclosure | None:
    """Mean with its interval; unknown where one is not finite, ``None``: too few."""
    values = np.array(list(values), dtype=float)
    if len(values) < 2:
        return None
    return scaling.mean_interval(values) if np.isfinite(values).all() else UNKNOWN


def told(table: Frame, y: str, *, positive: bool = True) -> str:
    """How many seeds there are, and how many numbers are of no use."""
    bad = unusable(table[y]) if positive else int((~np.isfinite(table[y])).sum())
    words = f"{table['seed'].nunique()} seeds"
    what = "finite or not positive" if positive else "finite"
    return f"{words}; {bad} of {len(table)} not {what}" if bad else words


def widest_of(table: Frame, activation: str) -> Frame:
    """Runs of ReLU and of a control at the largest width that both have."""
    own = table[(table["hidden"] == 3) & table["activation"].isin(["relu", activation])]
    both = own.groupby("width")["activation"].nunique() == 2
    return own[own["width"] == max(both.index[both], default=-1)]


def against(table: Frame, column: str, activation: str) -> Enclosure | None:
    """``log10`` of a control's number over that of ReLU, seed by seed.

    At the largest width that both have.
    """
    own = widest_of(table, activation)
    if own.empty:
        return None
    wide = own.groupby(["seed", "activation"])[column].agg(mean).unstack()
    if len(wide) < 2:
        return None
    relu = wide["relu"].where(wide["relu"] > 0)
    control = wide[activation].where(wide[activation] >= 0)
    return interval(np.log10((control / relu).clip(lower=PERFECT)))


def flip_cells(rows: Frame) -> Frame:
    """Flips and displacement of the first trained layer, by width and local step."""
    if "flips" not in rows:
        return pd.DataFrame(columns=["width", "step", "seed", "moved", "flips"])
    own = rows[(rows["kind"] == "pair") & (rows["layer"] == FIRST)]
    own = own[(own["part"] == "width") & own["flips"].notna()]
    sums = own.groupby(["width", "step", "seed"])[["moved", "flips", "all_gates"]].sum()
    count = own.groupby(["width", "step", "seed"]).size()
    return sums.assign(
        moved=np.sqrt(sums["moved"] / count), flips=sums["flips"] / sums["all_gates"]
    ).reset_index()


def exponents(rows: Frame, table: Frame) -> Frame:
    """Width exponents with intervals, in total and per layer, for each activation."""
    found = []
    fits = rows[(rows["kind"] == "fit") & (rows["hidden"] == 3)]
    fits = fits[fits["method"] == "segment"]
    fits = fits.assign(A=fits["A"] * fits["stable"] ** 2, B=fits["B"] * fits["stable"])
    for (activation, layer), own in fits.groupby(["activation", "layer"]):
        means = own.groupby(["width", "seed"])[["A", "B"]].mean().reset_index()
        for name in ("A", "B"):
            found.append((activation, layer, name, exponent(means, "width", name)))
    names = ("relative drift", "gate part", "flips", "B (pairs)", "B (envelope)",
             "A (pairs)", "A (envelope)", "raw A", "raw B")  # fmt: skip
    for activation, own in table[table["hidden"] == 3].groupby("activation"):
        found += [
            (activation, "all", name, exponent(own, "width", name))
            for name in names
            if name in own
        ]
    return pd.DataFrame(
        [
            {
                "activation": a, "layer": layer, "quantity": name,
                "exponent": one.value, "from": one.lower, "to": one.upper,
            }
            for a, layer, name, one in found
            if one is not None
        ],
        columns=["activation", "layer", "quantity", "exponent", "from", "to"],
    )  # fmt: skip


def summary(table: Frame) -> Frame:
    """Means over seeds, by activation, depth and width."""
    names = ["A", "B", "B (pairs)", "B (envelope)", "relative drift", "gate share"]
    keys = ["activation", "hidden", "width"]
    return table.groupby(keys)[names].mean().reset_index()
