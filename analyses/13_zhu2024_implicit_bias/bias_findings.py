"""What analysis 13 holds against its runs: claims, findings, intervals over seeds."""

import dataclasses
import math
from typing import Any

import numpy as np
from bias_tables import LONG, SMALL, at_equal_rounds, logs, per_seed, rises

from ntk_fed import scaling
from ntk_fed.measured import Enclosure, exact
from ntk_fed.report import Finding, finding
from ntk_fed.report.words import number

Table = Any  # a pandas table

ABSTRACT = "Zhu, Vardhan, Mazumdar (2024), arXiv:2412.07971: abstract"
DERIVED = "derived in this project"
SEEN = "seen numerically before, confirmed or refuted here; no claim of the paper"
ANCHORED = f"{ABSTRACT}; the rule's form (Halpern's) is recalled"
OURS = "ours; no claim of the paper"
FLOW = f"{DERIVED}: gradient flow late on separable data"
STALLED = "seen numerically; that exact local solves are projections is recalled"
CRAWSHAW = "Crawshaw et al. (2025): official summary, constants unverified"
UNKNOWN = Enclosure(math.nan, -math.inf, math.inf)

STEPS = {
    "regression": (1, 2, 5, 20, 50),
    "direction": (1, 8, 32),
    "last layer": (8, 32),
}
CONTRASTS = {
    "contradicting": "contradicting labels",
    "few parameters": "few parameters",
}
LOSSES = ("logistic", "exponential")
EXACT, APART, SAME = -8.0, -2.0, math.log(1.25)
ROUNDING = 1e-11  # of log θ_K: eigenvalues to 1e-13 of the largest, θ_K a hundredth
LOST = "runs not finite"  # in the words of a finding that lost a number
PART = "(not all K of the rule)"

LIMIT = "the limit is X⁺y + (I − X⁺X) w_0 for every K"
BOUND = "no run is slower than (1 − θ_K)^t"
FACTOR = "along the slowest direction a round contracts by 1 − θ_K"
RISES = "θ_K rises with K"
STALLS = "plain averaging of exact local solves stalls"
OFF = "where it stalls is not the SVM"
FEASIBLE = "where it stalls all margins are met"
DECAYS = "the anchored rule goes on to the SVM, exponent below −0.8"
ALONE = "control: a client alone is at the SVM"
PRECISE = "control: with K = 1 it is centralised descent"
ROUNDS = "control: at equal rounds the losses differ with K"
LOCAL_SVM = "control: it does not turn to the mean of the clients' SVMs"
LAYER = "last layer"
TURNS = "the direction turns towards the SVM of all samples, for every K"
TOGETHER = "Local GD and centralised descent draw together, for every K"
COLLAPSE = "at equal η K t the loss is centralised descent's within 25 %, for every K"
NEAR = "1 − cos between both is less than centralised descent lacks to the SVM"
SPEED = "the loss is 1/(γ² η K t) within 25 %, for every K"
SHRINKS = "with time the losses of Local GD and centralised descent draw together"
SLOW = "the direction gap falls ever slower, for every K"
ACCURACY = f"{LAYER}: test accuracy is centralised descent's to 2 points, for every K"
AGREES = f"{LAYER}: 98 % of images are classified as by centralised descent, all K"


def leaves(labels: str) -> str:
    """The limit depends on K."""
    words = "the limit is not that of centralised descent"
    return f"control: with {CONTRASTS[labels]} {words}"


def exactly(labels: str) -> str:
    """And is known."""
    return f"with {CONTRASTS[labels]} the limit is the minimiser of rᵀPr of its K"


def first(labels: str) -> str:
    """Except for K = 1."""
    return f"control: with {CONTRASTS[labels]} and K = 1 it is least squares"


def of(kind: str, claim: str) -> str:
    """A claim on one kind of run."""
    return f"{kind}: {claim}"


def of_regression(fits: Table) -> list[Finding]:
    """The limit, the contraction of a round, and what contradiction changes."""
    found = []
    if fits.empty:
        return found
    worst = "largest of all K, log10 of the distance relative to that at the start"
    random = fits[(fits["labels"] == "consistent") & (fits["start"] == "random")]
    if len(random):
        own = per_seed(random, "log interpolator", "max")
        found.append(mean(LIMIT, own, "<", EXACT, worst, f"{ABSTRACT}; {DERIVED}"))
        found.append(of_ratio(per_seed(random, "log ratio", "max")))
        if random["local_steps"].nunique() > 1:
            found.append(of_rises(rises(random)))
        found = [whole(one, random, "regression") for one in found]
    slowest = fits[fits["start"] == "slowest"]
    if len(slowest):
        own = per_seed(slowest, "factor off", "max")
        words = "largest of all K, log10 of |factor/(1 − θ_K) − 1|"
        one = mean(FACTOR, own, "<", -6.0, words, DERIVED)
        found.append(whole(one, slowest, "regression"))
    for labels in CONTRASTS:
        own = fits[fits["labels"] == labels]
        many, one = own[own["local_steps"] >= 5], own[own["local_steps"] == 1]
        if len(many):
            ends = per_seed(many, "log interpolator", "min")
            words = "smallest of all K ≥ 5, log10 of the relative distance"
            far = mean(leaves(labels), ends, ">", APART, words, DERIVED, control=True)
            ends = per_seed(own, "log exact limit", "max")
            near = mean(exactly(labels), ends, "<", EXACT, worst, DERIVED)
            found += [whole(it, own, "regression") for it in (far, near)]
        if len(one):
            ends, words = one["log interpolator"], "log10 of the relative distance"
            found.append(
                mean(first(labels), ends, "<", EXACT, words, DERIVED, control=True)
            )
    return found


def of_ratio(worst: Table) -> Finding:
    """The bound of regression, a theorem: over all runs, without statistics."""
    words = "largest of all K, rounds and seeds, log of distance over bound"
    one = mean(BOUND, worst, "<", 0.0, words, DERIVED)
    if len(worst) > 1 and np.isfinite(worst).all():
        one = finding(
            BOUND, exact(worst.max()), "<", 0.0, words=one.words, source=DERIVED
        )
    return one


def of_rises(smallest: Table) -> Finding:
    """A theorem too: held against the rounding of θ_K in every run."""
    words = "smallest rise of log θ_K from one K to the next, all K and seeds"
    one = mean(RISES, smallest, ">", 0.0, words, DERIVED)
    if len(smallest) > 1 and np.isfinite(smallest).all():
        least = float(smallest.min())
        known = Enclosure(least, least - ROUNDING, least + ROUNDING)
        one = finding(RISES, known, ">", 0.0, words=one.words, source=DERIVED)
    return one


# Claim, column of the table of turnings, are runs of K = 1 left out, relation, bound,
# what the number is, source.
TURNED = (
    (TURNS, "turned", False, "<", 0.0, "log of the gap's change over the last factor 16"
     " in time", ABSTRACT),
    (TOGETHER, "drawn together", True, "<", 0.0, "log of the change of 1 − cos between "
     "both over the last factor 16 in time", ABSTRACT),
    (NEAR, "between over missing", True, "<", 0.0, "log of 1 − cos between both over "
     "the gap of centralised descent, at the end", OURS),
    (COLLAPSE, "off centralised", False, "<", SAME, "|log of the ratio of losses| at "
     "the end", SEEN),
    (SHRINKS, "collapsing", True, "<", 0.0, "log of the change of |log of the ratio of "
     "losses| over the last factor 16 in time", SEEN),
    (SPEED, "off 1/(γ² η K t)", False, "<", SAME, "|log of loss · γ² η K t|", FLOW),
    (SLOW, "flattening", False, ">", 0.0, "exponent of the gap over the last factor 4 "
     "in time less that over the factor 4 before", SEEN),
)  # fmt: skip
LATER = (SHRINKS, SLOW)  # of the run four times as long


def of_directions(turned: Table, course: Table) -> list[Finding]:
    """Separable classification, and the last layer of a trained network."""
    found = []
    for (part, kind), own in turned.groupby(["part", "kind"]) if len(turned) else ():
        name = str(kind)
        if kind == SMALL:
            found += of_bound(own)
            continue
        if part == LAYER:
            name = LAYER if kind != LONG else f"{LAYER}, four times as long"
        if kind == LONG:
            found += [of_turning(own, name, one) for one in TURNED if one[0] in LATER]
            continue
        own_found = [of_turning(own, name, one) for one in TURNED]
        own_found += of_tests(own) if part == LAYER else []
        found += [whole(one, own, str(part)) for one in own_found]
        if part == "direction":
            found += of_controls(own, course, name)
    return found


def of_turning(own: Table, name: str, line: tuple[Any, ...]) -> Finding:
    """One line of ``TURNED``, at the K where it is worst in each seed."""
    claim, column, several, relation, bound, words, source = line
    own = own[own["local_steps"] > 1] if several else own
    how, which = ("max", "largest") if relation == "<" else ("min", "smallest")
    values, words = per_seed(own, column, how), f"{which} of all K, {words}"
    return mean(of(name, claim), values, relation, bound, words, source)


def of_controls(own: Table, course: Table, kind: str) -> list[Finding]:
    """What must not be so of Local GD with K = 1, at equal rounds, and elsewhere."""
    single = own[own["local_steps"] == 1]
    found = []
    if len(single):
        words = "log10 of 1 − cos between both at the end"
        ends = np.log10(single["between"].clip(lower=1e-32))
        claim = of(kind, PRECISE)
        found.append(mean(claim, ends, "<", -20.0, words, DERIVED, control=True))
    if own["local_steps"].nunique() > 1:
        spread = own["local_steps"].max() / own["local_steps"].min()
        words = f"log of the ratio of losses; of K alone {number(math.log(spread))}"
        apart, half = at_equal_rounds(course, kind), math.log(spread) / 2
        one = mean(of(kind, ROUNDS), apart, ">", half, words, DERIVED, control=True)
        found.append(whole(one, own, "direction"))
    apart = per_seed(own, "nearer to the SVM", "min")
    words = "smallest of all K, log of the gap to that over the gap to the SVM"
    one = mean(of(kind, LOCAL_SVM), apart, ">", 0.0, words, DERIVED, control=True)
    return [*found, whole(one, own, "direction")]


def of_tests(own: Table) -> list[Finding]:
    """The last layer on images it was not trained on."""
    found = []
    for claim, column in ((ACCURACY, "accuracy off"), (AGREES, "disagreement")):
        words = f"largest of all K, {column} at the end"
        values = per_seed(own, column, "max")
        found.append(mean(claim, values, "<", 0.02, words, OURS))
    return found


def of_bound(own: Table) -> list[Finding]:
    """Crawshaw et al.'s bound, where it says something."""
    beyond = int(own["rounds beyond the transition"].min())
    claim = "the loss stays under Crawshaw et al.'s bound after its transition"
    words = f"log of loss over bound, worst of {beyond} recorded rounds"
    values = per_seed(own, "worst over bound", "max")
    return [mean(claim, values, "<", 0.0, words, CRAWSHAW)] if beyond else []


def of_projections(solved: Table) -> list[Finding]:
    """Exact local solves: a plateau off the SVM against continued decay."""
    found = []
    if solved.empty:
        return found
    many, alone = solved[solved["clients"] > 1], solved[solved["clients"] == 1]
    plain, anchored = (many[many["rule"] == r] for r in ("average", "anchored"))
    slope = "exponent of the distance to the SVM in rounds, last factor 4"
    relative = "log10 of the distance to the SVM, relative to its norm"
    if len(plain):
        margin = plain["margin"].where(np.isfinite(plain["margin"]))
        short, words = (1 - margin).clip(lower=0), "1 − margin, 0 where it is met"
        found += [
            mean(STALLS, plain["exponent"], ">", -0.1, slope, STALLED),
            mean(OFF, plain["log distance"], ">", APART, relative, STALLED),
            mean(FEASIBLE, short, "<", 1e-6, words, ABSTRACT),
        ]
    if len(anchored):
        found.append(mean(DECAYS, anchored["exponent"], "<", -0.8, slope, ANCHORED))
    if len(alone):
        ends = alone["log distance"]
        found.append(mean(ALONE, ends, "<", EXACT, relative, DERIVED, control=True))
    if len(plain) and len(anchored):
        gaps = [logs(one.set_index("seed")["distance"]) for one in (anchored, plain)]
        claim = "the anchored rule ends nearer to the SVM than plain averaging"
        words = "log of the ratio of distances"
        found.append(mean(claim, gaps[0] - gaps[1], "<", 0.0, words, ANCHORED))
    return found


def mean(
    claim: str,
    values: Table,
    relation: str,
    bound: float,
    words: str,
    source: str,
    *,
    control: bool = False,
) -> Finding:
    """A claim on a mean over seeds; where a number is lost it fails.

    A control that lost a number is undecided instead: it shows nothing.
    """
    values = values.astype(float)
    known, words = int(np.isfinite(values).sum()), f"{words}, {len(values)} seeds"
    if known < len(values):
        words += f"; {len(values) - known} of {len(values)} {LOST}"
    found = UNKNOWN
    if known == len(values) > 1:
        found = scaling.mean_interval(values)
    one = finding(claim, found, relation, bound, words=words, source=source)
    lost = known < len(values) and not control
    return dataclasses.replace(one, verdict="fails") if lost else one


def whole(one: Finding, own: Table, part: str) -> Finding:
    """Under the name that the rule asks for only with all K."""
    if set(STEPS[part]) <= set(own["local_steps"]):
        return one
    return dataclasses.replace(one, claim=f"{one.claim} {PART}")
