"""Does one wide layer make FedAvg converge linearly, whatever clients hold?"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import wide_page
from wide_page import (
    CONTROL,
    MORE,
    OURS,
    WORST,
    Found,
    gaps,
    judged,
    spelled,
    summary,
    unknown,
)

from ntk_fed.analysis import main
from ntk_fed.report import Answer, Conclusion, Part, finding
from ntk_fed.report.conclusion import Finding
from ntk_fed.scaling import power_law

ABSTRACT = "Song et al. (2023), abstract; the numbers of this rule are ours"
DERIVED = "derived in this project, in the setting of Song et al. (2023)"
EQUAL = "FedAvg with K = 1 and full batches is gradient descent"
SAME, SEEN = 1e-6, 1e-3  # differences of log loss between splits
CORE, STABLE = "core", "stable"

# What is claimed with n_1 ≥ n; a plateau has a straightness of 0.
STRAIGHT = "With n_1 ≥ n log loss goes on falling in a straight line ({})"
POSITIVE = "With n_1 ≥ n the rate is positive ({})"
DOWN = "With n_1 ≥ n the loss comes down to a hundredth or less ({})"
LINES = (
    (STRAIGHT, "straightness", ">", 0.25, "min", "late over early slope of log loss"),
    (POSITIVE, "rate", ">", 0.0, "mean", "late decline of log loss a round"),
    (DOWN, "log10_left", "<", -2.0, "mean", "log10 of last over first loss"),
)
KEEPS = "The narrow network keeps ten times the loss or more (K = {})"
BENDS = "Its log loss flattens more (K = {})"
EASY, HARD = (
    "With K = {} the split does not matter",
    "With K = {} the split does matter",
)
FALLS = f"The loss after the last round falls with width ({WORST}, K = {{}})"
SHRINKS = "The gap in loss shrinks with width ({}K = {})"
STEADIER = "Its fluctuation over seeds shrinks ({}K = {})"

# All that the decision rule asks for; with K = 1 Dirichlet is one with the others.
STEPS, MANY = (1, 5, 20), (5, 20)
PLACES = [f"{WORST}, K = {k}" for k in STEPS] + [f"dirichlet, K = {k}" for k in MANY]
RULE = {
    CONTROL: [EASY.format(1), HARD.format(20)]
    + [claim.format(k) for claim in (KEEPS, BENDS) for k in STEPS],
    CORE: [claim.format(place) for claim, *_ in LINES for place in PLACES],
    STABLE: [FALLS.format(k) for k in STEPS]
    + [claim.format("", k) for claim in (SHRINKS, STEADIER) for k in MANY],
}


def conclude(rows: Any) -> Conclusion:
    """Findings of the parts that were run, and the answer of the decision rule."""
    runs = summary(rows)
    parts, tables, found = [], {"runs": runs}, []
    for name, function in (
        ("pyramid", pyramid),
        ("image", image),
        ("certificate", certificate),
    ):
        if (runs["part"] == name).any():
            of = rows[rows["part"] == name], runs[runs["part"] == name]
            more, part, own = function(*of)
            found += more
            parts.append(part)
            tables |= own
    findings = tuple(one for _, one in found)
    remarks = wide_page.REMARKS
    return Conclusion(answer(found), findings, tuple(parts), tables, remarks)


def pyramid(rows: Any, runs: Any) -> tuple[Found, Part, Any]:
    """The main part."""
    relu, n = runs[runs["activation"] == "relu"], int(runs["images"].max())
    found: Found = []
    for (split, k), own in relu[relu["split"] != "iid"].groupby(
        ["split", "local_steps"]
    ):
        found += lines(own[own["width"] >= n], f"{split}, K = {k}")
    for k, own in relu[relu["split"] == WORST].groupby("local_steps"):
        found += narrow(own, n, k)
    smooth = runs[(runs["activation"] != "relu") & (runs["split"] == WORST)]
    found += lines(smooth[smooth["width"] >= n], f"{WORST}, smooth leaky ReLU", MORE)
    found += judged(
        "A narrow network fails where inputs have more entries than there are "
        "samples (smooth leaky ReLU, 196 entries)",
        smooth[smooth["width"] < n], "log10_left", ">", -1.0,
        "log10 of last over first loss",
    )  # fmt: skip
    apart = gaps(relu)
    found += controls(apart)
    for k, own in relu[relu["split"] == WORST].groupby("local_steps"):
        left = own.assign(left=10 ** own["log10_left"])
        found += law(left, "left", STABLE, FALLS.format(k))
    found += shrinking(apart[apart["local_steps"] > 1])
    curves = rows[rows["quantity"] == "loss"].copy()
    curves["reached"] = curves["value"].clip(lower=1e-300)
    table = wide_page.cells(runs)
    tables = {"pyramid_curves": curves, "pyramid_gaps": apart, "cells": table}
    return found, wide_page.pyramid_part(curves, apart), tables


def lines(own: Any, where: str, kind: str = CORE) -> Found:
    """Straight lines of log loss that end near zero.

    Of a seed's widths the worst straightness counts, and the mean of the others.
    """
    found: Found = []
    source = ABSTRACT if kind == CORE else DERIVED
    for claim, column, relation, bound, each, words in LINES:
        which = "the smallest" if each == "min" else "the mean"
        found += judged(
            claim.format(where), own, column, relation, bound,
            f"{words}, {which} over a seed's widths",
            kind=kind, source=source, each=each, well=True,
        )  # fmt: skip
    return found


def narrow(own: Any, n: int, k: int) -> Found:
    """The narrowest network does what n_1 = n does not: it stops."""
    least = own["width"].min()
    if least >= n:
        return []
    slim, wide = own[own["width"] == least], own[own["width"] == n]
    both = slim.merge(wide, on="seed", suffixes=("", "_wide"))
    for column in ("log10_left", "straightness"):
        both[column] -= both[f"{column}_wide"]
    where = f"n_1 = {least} against n_1 = {n}"
    return judged(
        KEEPS.format(k), both, "log10_left", ">", 1.0,
        f"difference of log10 of last over first loss, {where}", kind=CONTROL,
    ) + judged(
        BENDS.format(k), both, "straightness", "<", 0.0,
        f"difference of late over early slope, {where}", kind=CONTROL,
    )  # fmt: skip


def controls(apart: Any) -> Found:
    """With K = 1 splits do not differ; with most local steps they do."""
    found, most = [], apart["local_steps"].max()
    for k, relation, bound, claim in ((1, "<", SAME, EASY), (most, ">", SEEN, HARD)):
        own = apart[apart["local_steps"] == k]
        if relation == "<" or k > 1:
            found += judged(
                claim.format(k), own, "gap, size", relation, math.log10(bound),
                "log10 of the gap in log loss, at least −16, its mean over widths",
                kind=CONTROL, source=EQUAL,
                each=lambda sizes: math.log10(max(sizes.mean(), 1e-16)),
            )  # fmt: skip
    return found


def shrinking(apart: Any, kind: str = STABLE, where: str = "") -> Found:
    """Gap and its fluctuation against width, for each K."""
    found: Found = []
    for column, own_kind, claim in (
        ("loss gap, size", kind, SHRINKS),
        ("loss gap, fluctuation", kind, STEADIER),
        ("gap, size", MORE, "The gap in log loss shrinks with width ({}K = {})"),
        ("gap, fluctuation", MORE, "The fluctuation of the log gap shrinks ({}K = {})"),
        (
            "gap, from the kernel's", MORE,
            "The log gap comes closer to the kernel's ({}K = {})",
        ),
    ):  # fmt: skip
        for k, own in apart.groupby("local_steps"):
            if column in own:
                found += law(own, column, own_kind, claim.format(where, k))
    return found


def law(own: Any, column: str, kind: str, claim: str) -> Found:
    """That a quantity falls with width, by the exponent over all runs."""
    widths, seeds = own["width"].nunique(), own["seed"].nunique()
    if widths < 3 or seeds < 3:
        return []
    source = ABSTRACT if kind == STABLE else OURS
    words = f"exponent of width, {len(own)} runs, {seeds} seeds, {widths} widths"
    lost = ~(np.isfinite(own[column]) & (own[column] > 0)).to_numpy(bool)
    if lost.any():
        how = "not finite or not positive"
        return [(kind, unknown(claim, "<", 0.0, words, source, lost, how=how))]
    found = power_law(own["width"], own[column]).enclosure
    return [(kind, finding(claim, found, "<", 0.0, words=words, source=source))]


def image(rows: Any, runs: Any) -> tuple[Found, Part, Any]:
    """Convolutional networks in three widths, iid against one class per client."""
    found: Found = []
    apart = gaps(runs)
    for model, own in runs[runs["split"] == WORST].groupby("model"):
        found += judged(
            f"The widest {model} learns with one class per client",
            own[own["width"] == own["width"].max()], "log10_left", "<", 0.0,
            "log10 of last over first loss", well=True,
        )  # fmt: skip
    for model, own in apart.groupby("model"):
        found += shrinking(own, MORE, f"{model}, ")
    curves = rows[rows["quantity"] == "loss"]
    left = runs.groupby(["model", "width", "split"])["log10_left"].mean().unstack()
    tables = {
        "image_curves": curves,
        "image_gaps": apart,
        "image_left": left.reset_index(),
    }
    return found, wide_page.image_part(curves), tables


def certificate(rows: Any, runs: Any) -> tuple[Found, Part, Any]:
    """What is proven at the start against what the run does."""
    found: Found = []
    table = []
    for initial, own in runs.groupby("initial"):
        formula = own["promised rate, practical step"]
        with np.errstate(all="ignore"):
            beyond = np.log10(own["rate"] / formula)
            steps = np.log10(own["step size"] / own["step size of the theorem"])
        own = own.assign(beyond=beyond, steps=steps)
        row: dict[str, Any] = {"initial": initial, "seeds": own["seed"].nunique()}
        relation = ">=" if initial == "certified" else "<"
        # The rate of a run that does not fall has no logarithm, and is below any other.
        risen = bool((~(own["rate"] > 0)).any())
        for name, heading, sign, bound, claim, well in (
            ("margin of N1", "margin of N1", relation, 0.0, f"N1 {relation} 1", False),
            ("margin of N2", "margin of N2", relation, 0.0, f"N2 {relation} 1", False),
            ("log10_left", "log10 left", "<", -1.0, "The loss falls to a tenth", True),
            (
                "beyond", "rate beyond the formula's", ">", 0.0, "The loss falls at "
                "more than the rate that the theorem's formula would give at this step",
                risen,
            ),
            (
                "steps", "step beyond theorem's", ">", 0.0,
                "The step is larger than the theorem's", False,
            ),
        ):  # fmt: skip
            row[heading] = spelled(own[name])
            claim = f"{claim} ({initial})"
            words = "orders of magnitude"
            found += judged(claim, own, name, sign, bound, words, well=well)
        table.append(row)
    curves = rows[rows["quantity"] == "loss"]
    tables = {"certificate": pd.DataFrame(table), "certificate_curves": curves}
    return found, wide_page.certificate_part(), tables


def answer(found: Iterable[tuple[str, Finding]]) -> Answer:
    """The decision rule of QUESTION.md."""
    of: dict[str, list[Finding]] = {CORE: [], CONTROL: [], STABLE: [], MORE: []}
    for kind, one in found:
        of[kind].append(one)
    asked = of[CORE] + of[STABLE]
    failing = [one for one in asked if one.verdict == "fails"]
    besides = f" Besides, {told(failing)}." if failing else ""
    claims = {one.claim for one in of[CONTROL] + asked}
    missing = [claim for names in RULE.values() for claim in names]
    missing = [claim for claim in missing if claim not in claims]
    bad = [one for one in of[CONTROL] if one.verdict != "holds"]
    if missing:
        words = f"{len(missing)} findings of the rule are missing, “{missing[0]}” first"
        return Answer("undecided", f"{words}.{besides}")
    if bad:
        words = f"a control does not hold, so that nothing is shown: {told(bad)}"
        return Answer("undecided", f"{words}.{besides}")
    if failing:
        return Answer("fails", f"refuted: {told(failing)}.")
    if open_ := [one for one in asked if one.verdict == "undecided"]:
        return Answer("undecided", f"not decided: {told(open_)}.")
    least = min(one.lower for one in of[CORE] if " straight" in one.claim)
    most = max(one.upper for one in of[CORE] if " hundredth" in one.claim)
    return Answer(
        "holds",
        "FedAvg converges linearly: with n_1 ≥ n the 95 % intervals of the means over "
        f"seeds, for all splits and K, reach down to {least:.2f} for the late over "
        f"early slope and to {-most:.1f} orders of magnitude for the fall of the loss. "
        "Larger networks are better and more stable.",
    )


def told(some: list[Finding]) -> str:
    """The first claim with its number, and how many there are."""
    one = some[0]
    numbers = f"{one.estimate:.3g} [{one.lower:.3g}, {one.upper:.3g}]"
    if math.isnan(one.estimate):
        numbers = one.words
    return f"“{one.claim}” {one.verdict}, {numbers} ({len(some)} in all)"


if __name__ == "__main__":
    main(__file__, conclude)
