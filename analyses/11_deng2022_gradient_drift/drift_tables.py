"""Numbers of each run from its rows, and exponents over the seeds."""

from typing import Any

import numpy as np
import pandas as pd

from ntk_fed import scaling
from ntk_fed.measured import Enclosure
from ntk_fed.theory import deng2022

COLLINEAR = 30.0  # condition number, as in ``ntk_fed.theory.envelope``
FIRST = "layers.1.weight"  # the first trained layer: its input does not move
CASE = ["part", "activation", "hidden", "width", "local_steps", "share", "seed"]

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
            row[f"A{name}"] = (one["A"] * stable**2).mean()
            row[f"B{name}"] = (one["B"] * stable).mean()
            row[f"raw A{name}"], row[f"raw B{name}"] = one["A"].mean(), one["B"].mean()
        condition = fits.loc[fits["method"] == "envelope", "columns_condition"].max()
        row["collinear"] = bool(condition > COLLINEAR)
        row["power"] = _power(own[(own["kind"] == "segment") & (own["layer"] == "all")])
        row["relative drift"] = last["relative"].mean()
        row["gate part"] = (pairs["gates"] / pairs["loss"]).mean() * stable
        row["gate share"] = pairs["gates"].sum() / pairs["drift"].sum()
        row["separation"] = own["separation"].iloc[0]
        if "flips" in gates and gates["flips"].notna().any():
            flips = gates["flips"].sum()
            row["flips"] = flips / gates["all_gates"].sum()
            for name in ("broken", "broken_tenth", "broken_rows_only"):
                row[name] = gates[name].sum()
            row["tenth"] = row["broken_tenth"] / flips if flips else 0.0
            row["flipped"] = flips
        found.append(row)
    return pd.DataFrame(found)


def _power(segments: Frame) -> float:
    """Mean exponent of squared drift in the distance, over the segments."""
    slopes = [
        scaling.power_law(one["way"], one["drift"]).exponent
        for _, one in segments.groupby(["round", "client"])
        if (one["drift"] > 0).all()
    ]
    return float(np.mean(slopes)) if slopes else float("nan")


def curves(rows: Frame) -> Frame:
    """One row per run of the part on rates: slopes of the late half, and the line."""
    found = []
    own = rows[(rows["part"] == "rate") & (rows["kind"] == "loss")]
    for key, curve in own.groupby(CASE, sort=False):
        late = curve[curve["round"] >= curve["round"].max() / 2]
        times = late["round"].to_numpy(float)
        run = deng2022.straightness(late["loss"].to_numpy(float), times)
        whole = deng2022.straightness(
            curve["loss"].to_numpy(float), curve["round"].to_numpy(float)
        )
        kernel = deng2022.straightness(late["predicted"].to_numpy(float), times)
        for line in (run, whole):
            assert line.deviation is not None
        found.append(
            {
                **dict(zip(CASE, key, strict=True)),
                "slope": -run.slope,
                "kernel": -kernel.slope,
                "over kernel": run.slope / kernel.slope,
                "deviation": run.deviation.value if run.deviation else np.nan,
                "whole": whole.deviation.value if whole.deviation else np.nan,
            }
        )
    return pd.DataFrame(found, columns=found[0].keys() if found else CASE)


def exponent(table: Frame, x: str, y: str) -> Enclosure | None:
    """Mean over seeds of each seed's exponent of y in x; ``None``: too few to tell."""
    slopes = []
    for _, own in table.groupby("seed"):
        kept = own[own[y] > 0]
        if kept[x].nunique() >= 3:
            slopes.append(scaling.power_law(kept[x], kept[y]).exponent)
    return scaling.mean_interval(slopes) if len(slopes) > 1 else None


def against(table: Frame, column: str, activation: str) -> Enclosure | None:
    """``log10`` of a control's number over that of ReLU, seed by seed.

    At the largest width that both have.
    """
    own = table[(table["hidden"] == 3) & table["activation"].isin(["relu", activation])]
    wide = own.pivot_table(
        index=["width", "seed"], columns="activation", values=column
    ).dropna()
    if activation not in wide or "relu" not in wide or wide.empty:
        return None
    last = wide.loc[wide.index.get_level_values("width").max()]
    if len(last) < 2:
        return None
    floor = np.finfo(float).tiny  # a B of 0 is as small as can be
    return scaling.mean_interval(
        np.log10(np.maximum(last[activation], floor) / last["relu"])
    )


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
