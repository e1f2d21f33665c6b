"""Claims of analysis 12, on a mean over seeds or on every run."""

import dataclasses
import math
from typing import Any

import numpy as np

from ntk_fed import scaling
from ntk_fed.measured import Enclosure, exact
from ntk_fed.report import finding
from ntk_fed.report.conclusion import Finding

Table = Any

TEXT = "Qin, Etesami, Uribe (2022), full text"
PAPER = "Qin, Etesami, Uribe (2022), section 5, full text"
OURS = "derived in this project"
UNKNOWN = Enclosure(math.nan, -math.inf, math.inf)


def mean(
    claim: str, values: Table, relation: str, bound: float, words: str, source: str
) -> Finding:
    """A claim on a mean over seeds; undecided where one of the numbers is unknown."""
    usable = np.isfinite(values.to_numpy(float))
    found, words = UNKNOWN, f"{words}, {len(values)} seeds"
    if not usable.all():
        words += f"; {int((~usable).sum())} of them not finite, or not reached"
    elif len(values) > 1:
        found = scaling.mean_interval(values)
    return finding(claim, found, relation, bound, words=words, source=source)


def both(
    names: tuple[str, str], values: Table, lower: float, upper: float, words: str
) -> list[Finding]:
    """An exponent between two numbers: two findings."""
    words = f"exponent in K of the {words}"
    return [
        mean(names[0], values, ">", lower, words, PAPER),
        mean(names[1], values, "<", upper, words, PAPER),
    ]


def largest(
    claim: str, values: Table, relation: str, bound: float, words: str, source: str
) -> Finding:
    """A claim on every run, held against the worst.

    A lost number fails it, unless it says that runs diverge: then infinity is as good
    as any number above the bound, and NaN leaves it undecided.
    """
    own, diverges = values.to_numpy(float), "diverges" in claim
    usable = np.isfinite(own) | (diverges & (own == np.inf))
    if not usable.all():
        words += f"; {int((~usable).sum())} of {len(values)} not finite"
        one = finding(claim, UNKNOWN, relation, bound, words=words, source=source)
        return one if diverges else dataclasses.replace(one, verdict="fails")
    worst = own.min() if relation.startswith(">") else own.max()
    return finding(
        claim, exact(float(worst)), relation, bound, words=words, source=source
    )
