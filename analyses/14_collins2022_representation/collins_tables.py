"""Tables of analysis 14, one row per run, and what seeds say of a number."""

import dataclasses
import math
from typing import Any

import numpy as np
import pandas as pd

from ntk_fed import scaling
from ntk_fed.measured import Enclosure
from ntk_fed.report import Finding, finding

Table = Any  # a pandas table

ABSTRACT = "Collins, Hassani, Mokhtari, Shakkottai (2022), abstract"
RECALLED = "Collins et al. (2022): recalled, constants unverified"
OURS = "derived in this project"
NO_CLAIM = "ours; no claim of the paper"
UNKNOWN = Enclosure(math.nan, -math.inf, math.inf)
LAYERS = ("conv1", "conv2", "dense1", "dense2", "head")
NEW = "new-client accuracy"
KIND = ("classes", "images", "level", "seen", "names")
LATE = 0.75  # of the rounds, after which a run with samples has to be level


def conditions(rows: Table) -> Table:
    """Rows with the size of the problem, or the kind of images, in one word."""
    sizes = [
        f"d = {d}, k = {k}, c = {c}"
        for d, k, c in zip(
            rows["dimension"], rows["rank"], rows["clients"], strict=True
        )
    ]
    kinds = [
        _kind(*fields) for fields in zip(*(rows[name] for name in KIND), strict=True)
    ]
    return rows.assign(size=sizes, kind=kinds)


def _kind(classes: int, images: int, level: float, seen: int, names: str) -> str:
    """Of images, in words."""
    words = [f"C = {classes}", f"{images} images a class"]
    words.append(f"loss {level:g}")
    words += [f"{seen} classes"] if seen < 10 else []
    words += ["own labels"] if names == "own" else []
    return ", ".join(words)


def linear(rows: Table) -> Table:
    """One row per run on population losses: what fell, and the contraction."""
    own = rows[rows["part"] == "linear"]
    keys = ["size", "start", "distinct", "local_steps", "seed"]
    found = []
    for key, part in own.groupby(keys):
        at = _at(part)
        found.append(
            dict(zip(keys, key, strict=True))
            | {
                "first": at("dist", 0),
                "last": at("dist"),
                "fell": over(at("dist"), at("dist", 0)),
                "kept": over(at("smallest dist"), at("dist", 0)),
                "loss": over(at("excess loss"), at("excess loss", 0)),
                "fitted": at("fitted contraction"),
                "formula": at("formula"),
                "gap": at("fitted contraction") - at("formula"),
                "wrong": at("fitted contraction") - at("formula with a step too many"),
                "largest": at("largest η² ‖w‖²"),
                "diversity": at("diversity"),
            }
            | {
                side: over(at(name), at(name, 0))
                for side in ("inside", "outside")
                for name in (f"dist {side} the heads' span",)
            }
        )
    return pd.DataFrame(found)


def samples(rows: Table) -> Table:
    """One row per run on samples: the level that dist ends at."""
    own = rows[(rows["part"] == "samples") & (rows["quantity"] == "dist")]
    keys = ["samples", "local_steps", "seed"]
    found = []
    for key, part in own.groupby(keys):
        part = part.sort_values("round", kind="stable")
        late = part[part["round"] >= LATE * part["rounds"].iloc[0]]["value"]
        good = np.isfinite(part["value"]).all() and (part["value"] > 0).all()
        ends = (late.iloc[-1], late.iloc[0], part["value"].iloc[0])
        last, before, first = ends if good else (math.nan,) * 3
        found.append(
            dict(zip(keys, key, strict=True))
            | {"first": first, "last": last, "change": abs(over(last, before) - 1)}
        )
    return pd.DataFrame(found)


def new_clients(rows: Table) -> Table:
    """One row per run and number of samples of a new client."""
    own = rows[rows["part"] == "new clients"]
    keys = ["samples", "local_steps", "seed"]
    found = []
    for key, part in own.groupby(keys):
        at = _at(part)
        found.append(
            dict(zip(keys, key, strict=True))
            | {
                "dist": at("dist"),
                "excess": at("excess risk"),
                "formula": at("formula"),
                "ratio": at("excess over formula"),
            }
        )
    return pd.DataFrame(found)


def images(rows: Table) -> Table:
    """One row per network: accuracies, cosines and movement at the training loss."""
    own = rows[rows["part"] == "images"]
    keys = [
        "kind",
        "classes",
        "level",
        "images",
        "seen",
        "names",
        "local_steps",
        "seed",
    ]
    found = []
    for key, part in own.groupby(keys):
        at = _at(part)
        names = sorted(set(part[part["layer"] == ""]["quantity"]))
        values = {name: at(name) for name in names}
        moved = part[part["quantity"] == "movement"].set_index("layer")["value"]
        values |= {f"{name} moved": float(moved.get(name, math.nan)) for name in LAYERS}
        values["start accuracy"] = at(NEW, 0)
        values["start cosine gap"] = at("cosine gap", 0)
        values["off"] = abs(over(at("training loss"), key[2]) - 1)
        if not math.isfinite(at("training loss")):  # it diverged
            values = dict.fromkeys(values, math.nan)
        found.append(dict(zip(keys, key, strict=True)) | values)
    return pd.DataFrame(found)


def curves(rows: Table, quantity: str) -> Table:
    """A quantity along all runs on population losses."""
    own = rows[(rows["part"] == "linear") & (rows["quantity"] == quantity)]
    columns = ["size", "start", "distinct", "local_steps", "seed", "round", "value"]
    return own[columns]


def absent(linear: Table, new_clients: Table) -> int:
    """Runs that are not there for a seed that there are others for, in their part."""
    cells = (
        (linear, ["size", "start", "distinct", "local_steps"]),
        (new_clients, ["samples", "local_steps"]),
    )
    return sum(
        len(own[keys].drop_duplicates()) * own["seed"].nunique() - len(own)
        for own, keys in cells
        if len(own)
    )


def _at(part: Table) -> Any:
    """A lookup: a quantity at its last round, or at the start; NaN without it."""
    own = part[part["layer"] == ""].sort_values("round", kind="stable")
    pairs = list(zip(own["quantity"].tolist(), own["value"].tolist(), strict=True))
    last, first = dict(pairs), dict(reversed(pairs))

    def value(name: str, t: int | None = None) -> float:
        return float((last if t is None else first).get(name, math.nan))

    return value


def over(value: float, other: float) -> float:
    """Their quotient, NaN where one is not finite or the second is not positive."""
    good = math.isfinite(value) and math.isfinite(other) and other > 0
    return value / other if good else math.nan


def by_seed(own: Table, name: str) -> Table:
    """A column by seed, which has to occur once; without rows it is empty."""
    if own.empty:
        return pd.Series(dtype=float)
    if own["seed"].duplicated().any():
        raise ValueError(f"{name!r} occurs more than once for a seed: split the cells.")
    return own.set_index("seed")[name].astype(float)


def logs(values: Table) -> Table:
    """Logarithms; NaN where there is none."""
    usable = (values > 0) & np.isfinite(values)
    return np.log(values.where(usable))


def paired(own: Table, name: str, large: int, *, ratio: bool) -> Table:
    """Large K against K = 1, by seed: difference, or log ratio; NaN without a pair."""
    one = by_seed(own[own["local_steps"] == 1], name)
    many = by_seed(own[own["local_steps"] == large], name)
    if ratio:
        one, many = logs(one), logs(many)
    both = pd.concat([many.rename("many"), one.rename("one")], axis=1)
    return both["many"] - both["one"]


def mean(
    claim: str, values: Table, relation: str, bound: float, words: str, source: str,
    *, does_well: bool = False,
) -> Finding:  # fmt: skip
    """A claim on a mean over seeds; open where one of the numbers is unknown.

    Args:
        claim: the sentence.
        values: one per seed.
        relation: to the bound.
        bound: exact.
        words: what the number is.
        source: with its status.
        does_well: the claim is that runs do well, and fails where one has no number.
    """
    found, seeds = interval(values)
    words = f"{words}, {seeds}"
    one = finding(claim, found, relation, bound, words=words, source=source)
    if does_well and not np.isfinite(values.astype(float)).all():
        return dataclasses.replace(one, verdict="fails")
    return one


def interval(values: Table) -> tuple[Enclosure, str]:
    """Of the mean, and over how many seeds; open where one is unknown."""
    bad = int((~np.isfinite(values.astype(float))).sum())
    words = f"{len(values)} seeds"
    if bad:
        words += f"; {bad} of {len(values)} runs not finite or without a pair"
        return UNKNOWN, words
    return (scaling.mean_interval(values) if len(values) > 1 else UNKNOWN), words


def distance(found: Enclosure, target: float) -> Enclosure:
    """How far a number is from a target, as its interval tells."""
    ends = abs(found.lower - target), abs(found.upper - target)
    low = 0.0 if found.lower <= target <= found.upper else min(ends)
    return Enclosure(abs(found.value - target), low, max(ends), method=found.method)
