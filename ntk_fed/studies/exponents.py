"""The law of the required width beside what the theory asks for.

Floor 8: numbers in, tables out.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from ntk_fed.measured import Enclosure
from ntk_fed.scaling import Bracket, exponent_in
from ntk_fed.theory import arora2019, du2019, huang2021

_COLUMNS = ("condition", "kind", "exponent", "lower", "upper", "points", "note")
_BOTH = ("kernel", "rounds")


def _needs(epsilon: float) -> list[tuple[str, tuple[str, ...], str, Callable]]:
    """Required widths: name, the conditions they speak about, formula, function."""
    return [
        ("du2019, at the start", ("eigenvalue",), "n² λ0⁻² log(n/δ)",
         du2019.width_near_limit),
        ("du2019, convergence", _BOTH, "n⁶ λ0⁻⁴ δ⁻³", du2019.width_for_convergence),
        ("huang2021, FedAvg", _BOTH, "n⁴ λ0⁻⁴ log(n/δ)", huang2021.width),
        ("arora2019, trajectory", ("rounds",), "n⁷ λ0⁻⁴ δ⁻⁴ ε⁻²",
         lambda n, v, d: arora2019.width_for_trajectory(n, v, d, epsilon)),
    ]  # fmt: skip


def needs_of(lambda0: Any, failure: float, epsilon: float) -> pd.DataFrame:
    """The widths theorems ask for, with the measured λ0 and hidden constants 1.

    Args:
        lambda0: columns ``value``, ``samples``, ``lambda0``, ``lower``, ``upper``.
        failure: δ.
        epsilon: error of the trajectory, where a theorem asks for one.

    Returns:
        Columns ``value``, ``theorem``, ``condition``, ``formula``, and ``log10`` of the
        width with bounds by those of λ0; a row per value, theorem and condition.
    """
    rows = []
    for own in lambda0.to_dict("records"):
        if own["samples"] is None or not own["lower"] > 0:
            continue
        for name, conditions, formula, width in _needs(epsilon):
            ends = [
                math.log10(width(int(own["samples"]), own[end], failure))
                for end in ("lambda0", "upper", "lower")
            ]
            rows += [
                (own["value"], name, condition, formula, *ends)
                for condition in conditions
            ]
    names = ("value", "theorem", "condition", "formula", "log10", "lower", "upper")
    return pd.DataFrame(rows, columns=pd.Index(names))


def exponents_of(
    brackets: Mapping[tuple[Any, str], Bracket], needs: Any
) -> pd.DataFrame:
    """Exponents of the required width, measured and in theory, a row each.

    The theory's is the least-squares slope of its whole requirement through the same
    values, all of them. Open brackets are left out, and the note says so; where fewer
    than two are left there is no exponent.
    """
    rows = []
    for condition in dict.fromkeys(name for _, name in brackets):
        own = {v: one for (v, name), one in brackets.items() if name == condition}
        rows += _measured(condition, own)
        told = needs[needs["condition"] == condition]
        for theorem, table in told.groupby("theorem", sort=False):
            if len(table) < 2 or not _numbers(table["value"]):
                continue
            found = _slope(table)
            ends = found.value, found.lower, found.upper
            note = f"{table['formula'].iloc[0]} with the measured λ0"
            rows.append((condition, str(theorem), *ends, len(table), note))
    return pd.DataFrame(rows, columns=pd.Index(_COLUMNS))


def _numbers(values: Any) -> bool:
    kinds = int, float, np.number
    return all(isinstance(v, kinds) and not isinstance(v, bool) and v > 0
               for v in values)  # fmt: skip


def _closed(one: Bracket) -> bool:
    return one.lower is not None and one.upper is not None and one.consistent


def _measured(condition: str, own: Mapping[Any, Bracket]) -> list[tuple[Any, ...]]:
    """Two rows: least squares, and all exact power laws."""
    kinds = "least squares", "power laws"
    closed = {value: one for value, one in own.items() if _closed(one)}
    out = [str(value) for value in own if value not in closed]
    note = f"left out, not bracketed: {', '.join(out)}" if out else ""
    nothing = math.nan, math.nan, math.nan
    if len(closed) < 2 or not _numbers(closed):
        why = f"no exponent: {len(closed)} bracketed values; {note}".rstrip("; ")
        return [(condition, kind, *nothing, len(closed), why) for kind in kinds]
    found = exponent_in(closed, closed.values())
    rows = []
    for kind, one in zip(kinds, (found.least_squares, found.power_law), strict=True):
        ends = nothing if one is None else (one.value, one.lower, one.upper)
        parts = [note, f"wrong with probability {found.error:.3g} at most"]
        if one is None:
            parts.insert(0, "no power law passes through all brackets")
        said = "; ".join(part for part in parts if part)
        rows.append((condition, kind, *ends, len(closed), said))
    return rows


def _slope(table: Any) -> Enclosure:
    """Least-squares slope, with the bounds of λ0 carried through."""
    x = np.log10(table["value"].to_numpy(dtype=float))
    centred = x - x.mean()
    weights = centred / float(centred @ centred)
    low, high = (table[name].to_numpy(dtype=float) for name in ("lower", "upper"))
    value = float(weights @ table["log10"].to_numpy(dtype=float))
    ends = np.sort([weights * low, weights * high], axis=0).sum(axis=1)
    slack = 1e-12 * (1 + float(np.abs(weights * high).sum()))  # a dozen roundings
    return Enclosure(value, float(ends[0]) - slack, float(ends[1]) + slack)
