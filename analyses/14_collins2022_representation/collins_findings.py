"""Findings of analysis 14, each with an interval over seeds."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import pandas as pd
from collins_images import image_findings
from collins_tables import (
    ABSTRACT,
    NO_CLAIM,
    OURS,
    RECALLED,
    by_seed,
    distance,
    interval,
    logs,
    mean,
    paired,
)

from ntk_fed import scaling
from ntk_fed.report import Finding, finding
from ntk_fed.report.words import number

Table = Any

SIZES = ("d = 100, k = 5, c = 40", "d = 200, k = 8, c = 100")
STEPS = (2, 5, 10)  # of FedAvg
FEW = 3  # directions of the second control
NEWCOMERS = (12, 20, 50)  # samples of a new client
FLOOR, LEARNT, ZERO, CLOSE, SHARE = 0.7, 0.1, 0.01, 1e-3, 0.03
LEVEL = 0.1


def learns(k: int, size: str) -> str:
    """Near the truth."""
    return f"K = {k}: dist falls below a tenth of its start ({size})"


def contracts(k: int, size: str) -> str:
    """Near the truth."""
    words = "the late contraction is, in the mean, the formula's to 0.001"
    return f"K = {k}: {words} ({size})"


def power(size: str) -> str:
    """The control of the contraction."""
    return (
        "control: the formula with a local step too many is off by more than 0.001 "
        f"({size})"
    )


def keeps(start: str, size: str) -> str:
    """D-GD."""
    words = "in every round dist is, in the mean, at least 0.7 of its start"
    return f"K = 1: {words} ({start}, {size})"


def fits(start: str, size: str) -> str:
    """D-GD."""
    return f"K = 1: its excess loss falls below a hundredth ({start}, {size})"


def below(k: int, size: str) -> str:
    """From a random start."""
    return f"K = {k}: from a random start dist ends below that of K = 1 ({size})"


def agrees(k: int, n: int) -> str:
    """Fine-tuning."""
    return f"fine-tuning, n = {n}, K = {k}: the excess is the formula's to 3 %"


def serves(n: int, k: int = 10) -> str:
    """Fine-tuning."""
    return f"fine-tuning, n = {n}: the excess is less after K = {k} than after K = 1"


IDENTICAL = "identical heads: with K = 10, too, dist keeps 0.7 of its start"
INSIDE = "three directions of heads: within their span a hundredth is left"
OUTSIDE = "three directions of heads: outside of it 0.7 is left"
ENOUGH = "control: with as many directions as k, dist falls below a tenth"
CONTROLS = (*(power(size) for size in SIZES), ENOUGH)
RULE = (
    *(learns(k, size) for size in SIZES for k in STEPS),
    *(contracts(k, size) for size in SIZES for k in STEPS),
    *(keeps(start, size) for size in SIZES for start in ("near", "random")),
    *(fits("near", size) for size in SIZES),
    *(below(k, size) for size in SIZES for k in STEPS),
    *(IDENTICAL, INSIDE, OUTSIDE),
    *(agrees(k, n) for n in NEWCOMERS for k in (10, 1)),
    *(serves(n) for n in NEWCOMERS),
)


def near_findings(table: Table) -> Iterator[Finding]:
    """The contraction near the truth, and what D-GD does there."""
    own = table[(table["start"] == "near") & (table["distinct"] == 0)]
    for size, part in own.groupby("size"):
        size = str(size)
        many = part[part["local_steps"] > 1]
        for k, runs in many.groupby("local_steps"):
            k = int(k)
            words = "log of dist at the end over dist at the start"
            fell = logs(by_seed(runs, "fell"))
            yield mean(
                learns(k, size), fell, "<", math.log(LEARNT), words, ABSTRACT,
                does_well=True,
            )  # fmt: skip
            gap, formula = by_seed(runs, "gap").abs(), runs["formula"].mean()
            words = (
                f"|fitted − formula|, the formula gives {formula:.4f}; largest "
                f"{gap.max():.1e}"
            )
            yield mean(contracts(k, size), gap, "<", CLOSE, words, OURS, does_well=True)
        if len(many):
            wrong = many.assign(wrong=many["wrong"].abs()).groupby("seed")["wrong"]
            least = wrong.agg(lambda one: one.min(skipna=False))
            yield mean(power(size), least, ">", CLOSE, "smallest of all K", OURS)


def still_findings(table: Table) -> Iterator[Finding]:
    """D-GD keeps its dist, and its loss goes to zero."""
    own = table[(table["local_steps"] == 1) & (table["distinct"] == 0)]
    for (start, size), part in own.groupby(["start", "size"]):
        start, size = str(start), str(size)
        kept = logs(by_seed(part, "kept"))
        words = (
            "log of its smallest over its first dist; smallest of all runs "
            f"{number(part['kept'].min(skipna=False))}"
        )
        yield mean(keeps(start, size), kept, ">=", math.log(FLOOR), words, RECALLED)
        loss = logs(by_seed(part, "loss"))
        words = "log of the loss above its least value, end over start"
        yield mean(fits(start, size), loss, "<", math.log(ZERO), words, OURS)


def random_findings(table: Table) -> Iterator[Finding]:
    """From a random start, in pairs."""
    own = table[(table["start"] == "random") & (table["distinct"] == 0)]
    for size, part in own.groupby("size"):
        steps = set(part["local_steps"])
        for k in sorted(steps - {1}) if 1 in steps else ():
            ratio = paired(part, "last", k, ratio=True)
            words = "log ratio of the two, in pairs"
            yield mean(
                below(k, str(size)), ratio, "<", 0.0, words, ABSTRACT, does_well=True
            )


def diversity_findings(table: Table) -> Iterator[Finding]:
    """What heads that are alike do not teach."""
    own = table[(table["distinct"] > 0) & (table["local_steps"] > 1)]
    one = own[own["distinct"] == 1]
    if len(one):
        kept = logs(by_seed(one, "kept"))
        words = "log of its smallest over its first dist"
        yield mean(IDENTICAL, kept, ">=", math.log(FLOOR), words, OURS)
    few = own[own["distinct"] == FEW]
    if len(few):
        words = "log of what is missed of their span, end over start"
        inside = logs(by_seed(few, "inside"))
        yield mean(INSIDE, inside, "<", math.log(ZERO), words, OURS, does_well=True)
        words = "log of what is missed of the rest, end over start"
        outside = logs(by_seed(few, "outside"))
        yield mean(OUTSIDE, outside, ">=", math.log(FLOOR), words, OURS)
    most = own[own["distinct"] > FEW]
    if len(most):
        fell = logs(by_seed(most, "fell"))
        words = (
            "log of dist, end over start; diversity μ² about the mean head is "
            f"{most['diversity'].max():.1e} here"
        )
        yield mean(ENOUGH, fell, "<", math.log(LEARNT), words, OURS, does_well=True)


def fine_tuning_findings(table: Table) -> Iterator[Finding]:
    """The excess risk of new clients against the exact formula, and in pairs."""
    for n, part in table.groupby("samples") if len(table) else ():
        n = int(n)
        for k, runs in part.groupby("local_steps"):
            mean_ratio, seeds = interval(by_seed(runs, "ratio"))
            words = (
                f"|mean ratio − 1|, the mean is {mean_ratio.value:.4f} "
                f"[{mean_ratio.lower:.4f}, {mean_ratio.upper:.4f}], {seeds}"
            )
            found = distance(mean_ratio, 1.0)
            yield finding(
                agrees(int(k), n), found, "<", SHARE, words=words, source=OURS
            )
        large = int(part["local_steps"].max())
        if large > 1 and 1 in set(part["local_steps"]):
            ratio = paired(part, "excess", large, ratio=True)
            words = "log ratio of the two, in pairs"
            yield mean(
                serves(n, large), ratio, "<", 0.0, words, ABSTRACT, does_well=True
            )


def sample_findings(table: Table) -> Iterator[Finding]:
    """Noisy samples: a level that falls with their number, below that of D-GD."""
    if table.empty:
        return
    large = int(table["local_steps"].max())
    many = table[table["local_steps"] == large]
    both = large > 1 and 1 in set(table["local_steps"])
    for n, part in table.groupby("samples") if both else ():
        ratio = paired(part, "last", large, ratio=True)
        claim = f"{n} noisy samples a client: K = {large} ends below K = 1"
        words = "log ratio of dist, in pairs"
        yield mean(claim, ratio, "<", 0.0, words, NO_CLAIM, does_well=True)
    change = many.groupby("seed")["change"].agg(lambda own: own.max(skipna=False))
    claim = f"noisy samples: dist is level at the end, to 10 % (K = {large})"
    words = "change over the last quarter of the rounds, largest of all n"
    yield mean(claim, change, "<", LEVEL, words, NO_CLAIM, does_well=True)
    if many["samples"].nunique() > 2:
        claim = f"noisy samples: the level falls with their number (K = {large})"
        words = "exponent in n, fitted by seed"
        yield mean(claim, _exponents(many), "<", 0.0, words, NO_CLAIM)


def _exponents(many: Table) -> Table:
    """Of the last dist in the number of samples; NaN where one has no logarithm."""
    found = {}
    for seed, own in many.groupby("seed"):
        whole = len(own) == many["samples"].nunique() and (own["last"] > 0).all()
        law = scaling.power_law(own["samples"], own["last"]) if whole else None
        found[seed] = law.exponent if law else math.nan
    return pd.Series(found)


def all_findings(tables: dict[str, Table]) -> list[Finding]:
    """Of every part that is there."""
    linear = tables["linear"]
    parts = []
    if len(linear):
        of_linear = (near_findings, still_findings, random_findings, diversity_findings)
        parts += [one(linear) for one in of_linear]
    parts += [
        fine_tuning_findings(tables["new_clients"]),
        sample_findings(tables["samples"]),
        image_findings(tables["images"]),
    ]
    return list(itertools.chain.from_iterable(parts))
