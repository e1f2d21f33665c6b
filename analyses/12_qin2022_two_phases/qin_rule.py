"""The decision rule of analysis 12: what it names, what it needs, what it answers."""

import itertools
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ntk_fed.report import Answer
from ntk_fed.report.conclusion import Finding
from ntk_fed.report.words import number

Table = Any

KS, FEW, ALONE_KS, ENDS = (1, 2, 5, 10, 20), (1, 5, 20), (1, 2, 5), (1, 20)
SPLITS = {"one label": KS, "two labels": FEW}
PERCEPTRONS = ("iid", "slices", "single")
QUARTER = 0.25
SEEDS = 5  # of every cell with chance in it
PART = " (runs that the rule needs are missing)"
THEOREMS = {"split": ("alike", "flat"), "local_steps": (2, 20)}
STRONGLY = {"local_steps": FEW}
PERCEPTRON_CELLS = {"split": PERCEPTRONS, "local_steps": FEW}
GROWTH_CELLS = {"split": ("one label",), "local_steps": KS}
PROPOSITION1 = {
    "local_steps": (2, 5, 20),
    "step_size": (0.1, 0.5, 1.0),
    "rounds": (5, 25),
}
PROPOSITION2 = {"local_steps": (2, 3, 5, 10, 20), "step_size": (0.95, 1.05)}


def first(split: str) -> tuple[str, str]:
    """The slope per round does not grow with K."""
    name = f"first phase, {split}: the slope per round hardly depends on K, exponent"
    return f"{name} above −¼", f"{name} below ¼"


def second(split: str) -> tuple[str, str]:
    """The slope per iteration is the same for all K."""
    name = f"second phase, {split}: about one slope per iteration for all K, exponent"
    return f"{name} above −¼", f"{name} below ¼"


def tail(split: str) -> str:
    """The same between the two largest K, which are the last to leave phase one."""
    return f"second phase, {split}: the two largest K alone, exponent above −¼"


def linear(split: str) -> tuple[str, str]:
    """The slope per round is proportional to K."""
    name = f"perceptron, {split}: the slope per round is proportional to K, exponent"
    return f"{name} above 0.9", f"{name} below 1.1"


ALONE = (
    "control: one client with all images, the early slope per round does grow with K"
)
CURVED = "control: strongly convex, 1/loss is no line"
FLAT = "control: perceptron, log loss is no line"
CONTROLS = (ALONE, CURVED, FLAT)
BOUNDS = {
    ("theorems", "theorem1"): "Theorem 1's bound is kept in every run",
    ("theorems", "theorem2"): "Theorem 2's bound is kept in every run",
    ("strongly", "theorem3"): "Theorem 3's bound is kept in every run",
    ("theorems", "lemma4"): "Lemma 4 holds at every iteration",
    ("theorems", "lemma5"): "Lemma 5 holds at every iteration",
}
MET = "the theorems' conditions are met in every run"
FORMS = "Propositions 1 and 2: FedAvg follows the closed forms"
LEAST = "Proposition 1: at every step size tried the gap is not below KL/(16T)"
ABOVE = "Proposition 2: 5 % above the derived threshold the instance diverges"
BELOW = "Proposition 2: 5 % below it, it does not"
FOLLOW = (
    ("one client", ALONE, ">", 0.5),
    ("small step", "a tenth of the step size: the first slope grows with K, exponent "
     "above ¼", ">", QUARTER),
    ("even split", "labels evenly spread: the first phase is there too, exponent below "
     "¼", "<", QUARTER),
    ("full batch", "full batches: the first phase is there too, exponent below ¼", "<",
     QUARTER),
    ("500 images", "500 images: the first phase is there too, exponent below ¼", "<",
     QUARTER),
)  # fmt: skip
SLIPS = (
    ("slip: the mean loss of Proposition 2's instance is below (L/4) x²: (L/8) x²",
     "mean loss at 1 over L", "<", 0.2),
    ("slip: ρ of that instance is above 2: 16", "ρ met", ">", 2.0),
    ("at 2/(LK) its squared gradient after every round is above L²/64, the corrected "
     "bound", "smallest squared gradient at 2/(LK) over L²", ">=", 1 / 64),
    ("Theorem 2 with ρ = 16 is kept by that instance", "theorem2: measured over bound",
     "<=", 1.0),
)  # fmt: skip

PHASES = tuple(
    claim for split in SPLITS for of in (first, second) for claim in of(split)
)
RULE = (
    *PHASES, *(claim for split in PERCEPTRONS for claim in linear(split)),
    *list(BOUNDS.values())[:3], MET, FORMS, LEAST, ABOVE, BELOW,
)  # fmt: skip


def lacking(
    table: Table, cells: Mapping[str, Collection[Any]], seeds: int = SEEDS
) -> bool:
    """Has one of all combinations of these values fewer seeds than it must?"""
    there = {key: own["seed"].nunique() for key, own in table.groupby(list(cells))}
    wanted = itertools.product(*cells.values())
    return any(there.get(cell, 0) < seeds for cell in wanted)


def named(claim: str, *missing: bool) -> str:
    """The claim's name, another one where runs of it are missing."""
    return claim + PART if any(missing) else claim


def answer(findings: Iterable[Finding]) -> Answer:
    """Controls first; then every finding that the rule names must be there and hold."""
    found = {one.claim: one for one in findings}
    missing = [claim for claim in (*CONTROLS, *RULE) if claim not in found]
    if any(found[claim].verdict != "holds" for claim in CONTROLS if claim in found):
        return Answer("undecided", "a control does not show what it must: no answer.")
    if missing:
        count = f"{len(missing)} of the findings that the rule needs are not measured"
        return Answer("undecided", f"{count}, or not in all runs: {missing[0]}.")
    rule = [found[claim] for claim in RULE]
    said = "Exponents in K: " + "; ".join(
        f"{one.claim.split(':')[0]} {number(one.estimate, 2)} "
        f"[{number(one.lower, 2)}, {number(one.upper, 2)}]"
        for one in rule
        if "exponent above" in one.claim
    )
    for verdict, words in (
        ("fails", "not so"),
        ("undecided", "not every interval allows an answer"),
    ):
        if own := [one for one in rule if one.verdict == verdict]:
            more = f", and {len(own) - 1} more" if len(own) > 1 else ""
            claim = f"{own[0].claim} ({own[0].words}){more}"
            return Answer(verdict, f"{words}: {claim}. {said}.")
    return Answer(
        "holds",
        "both phases show to the tolerance of ±¼, slopes of the perceptron are "
        "proportional to K, no bound is exceeded, both instances are their closed "
        f"forms. Of the phases, {_exactly(found)}. {said}.",
    )


def _exactly(found: dict[str, Finding]) -> str:
    """What is left of K in the phases."""
    own = [found[claim] for claim in PHASES if "above" in claim]
    off = [one for one in own if one.lower > 0 or one.upper < 0]
    factor = number(20 ** max(max(-one.lower, one.upper) for one in own), 2)
    tails = [found[tail(split)] for split in SPLITS if tail(split) in found]
    last = "".join(
        f"; {one.claim.removesuffix(', exponent above −¼')}: "
        f"{number(one.estimate, 2)} [{number(one.lower, 2)}, {number(one.upper, 2)}]"
        for one in tails
        if one.verdict != "holds"
    )
    words = f"{len(off)} of {len(own)} exponents are surely not 0"
    return f"{words}, at most a factor of {factor} between K = 1 and 20{last}"
