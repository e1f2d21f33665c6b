"""Findings of analysis 14 on images: large K against K = 1 at equal training loss."""

from collections.abc import Iterator
from typing import Any

import pandas as pd
from collins_tables import ABSTRACT, NEW, NO_CLAIM, by_seed, mean, paired

from ntk_fed.report import Finding

Table = Any

DESIGN = f"{ABSTRACT}, for the finding; the design is ours"
KIND = ["level", "images", "seen", "names"]
SAME = 0.02  # distance of training losses that are called equal


def image_findings(table: Table) -> Iterator[Finding]:
    """K large against K = 1 at equal training loss, and its controls."""
    for kind, part in table.groupby("kind", sort=False) if len(table) else ():
        large = int(part["local_steps"].max())
        claim = at_loss(str(kind))
        off = part.groupby("seed")["off"].agg(lambda own: own.max(skipna=False))
        words = "largest relative distance of the training loss"
        yield mean(claim, off, "<", SAME, words, NO_CLAIM, does_well=True)
        if large < 2:
            continue
        pair = f"K = {large} against K = 1"
        names = (
            (NEW, shows(str(kind)), DESIGN),
            (f"{NEW}, unseen classes", f"{shows(str(kind))}, unseen classes", DESIGN),
            ("fresh-head accuracy", f"{shows(str(kind))}, fresh head", NO_CLAIM),
            (
                "cosine gap",
                f"images, {kind}: same and different classes are further apart in "
                "features after large K",
                DESIGN,
            ),
        )
        for name, claim, source in names:
            if name in part and part[name].notna().any():
                apart = paired(part, name, large, ratio=False)
                words = f"difference, {pair}"
                yield mean(claim, apart, ">", 0.0, words, source)
        moved = _moved(part, large)
        claim = f"images, {kind}: layers below the head move more with large K"
        words = f"log ratio of relative movement, mean over layers, {pair}"
        yield mean(claim, moved, ">", 0.0, words, NO_CLAIM)
        yield from _better_than_start(str(kind), part)
    yield from _shrinks(table)


def at_loss(kind: str) -> str:
    """What has to hold before K is compared."""
    return f"images, {kind}: all networks are compared at this loss, to 2 %"


def shows(kind: str) -> str:
    """The finding on images."""
    return f"images, {kind}: new clients are served better after large K"


def helped(kind: str) -> str:
    """How the claims of its controls begin, up to the number of local steps."""
    return f"control, images, {kind}, K = "


def _shrinks(table: Table) -> Iterator[Finding]:
    """Do many local steps help more where clients hold fewer classes?"""
    if table.empty:
        return
    for (level, *_), own in table.groupby(KIND):
        few, many = (
            own[own["classes"] == c]
            for c in (own["classes"].min(), own["classes"].max())
        )
        if own["classes"].nunique() < 2 or own["local_steps"].nunique() < 2:
            continue
        large = int(own["local_steps"].max())
        gains = [paired(part, NEW, large, ratio=False) for part in (few, many)]
        both = pd.concat(gains, axis=1)
        claim = (
            "images: large K helps new clients more where clients hold "
            f"{few['classes'].iloc[0]} classes than "
            f"{many['classes'].iloc[0]} (loss {level:g})"
        )
        words = "difference of the two differences in accuracy"
        yield mean(claim, both.iloc[:, 0] - both.iloc[:, 1], ">", 0.0, words, NO_CLAIM)


def _moved(part: Table, large: int) -> Table:
    layers = [f"{name} moved" for name in ("conv1", "conv2", "dense1", "dense2")]
    found = [paired(part, name, large, ratio=True) for name in layers]
    return pd.concat(found, axis=1).mean(axis=1, skipna=False)


def _better_than_start(kind: str, part: Table) -> Iterator[Finding]:
    for k, own in part.groupby("local_steps"):
        gain = by_seed(own, NEW) - by_seed(own, "start accuracy")
        claim = f"{helped(kind)}{k}: training helped new clients at all"
        words = "accuracy with trained less that with untrained features"
        yield mean(claim, gain, ">", 0.0, words, NO_CLAIM)
