"""What falls with width when clients hold one class each: exponents and findings."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from width_page import parts
from width_tables import (
    CENTRAL,
    EXACT,
    FALLING,
    FEDERATED,
    KERNEL,
    SHARE,
    UNKNOWN,
    against_time,
    bad,
    dropped,
    exponent,
    largest,
    marked,
)

from ntk_fed import scaling
from ntk_fed.analysis import main
from ntk_fed.report import Answer, Conclusion, finding
from ntk_fed.report.conclusion import Finding
from ntk_fed.report.words import counted, number

Rows = Any

PAPER = "Jian, Liu (2025), Theorem 1: formulas from an official summary and code"
SUMMARY = "Jian, Liu (2025), official summary"
OURS = "derived in this project"
AT_MOST, CONTROL, ATTAINED = -0.4, -0.25, -0.6
MAIN, STEPS = ("ntk", "standard"), (2, 5)
ROUNDING = np.finfo(float).eps / 2
FURTHER = (
    (KERNEL, (*MAIN, "two-layer"), f"{KERNEL} falls no faster than the root of the "
     "width", ">=", ATTAINED, PAPER),
    (SHARE, ("standard",), "without factors the first layer leaves the kernel", "<=",
     -0.75, OURS),
    (FEDERATED, ("ntk",), "the run tends to the federated kernel's prediction", "<=",
     AT_MOST, OURS),
    (CENTRAL, ("ntk",), "the run does not tend to centralised descent", ">", CONTROL,
     OURS),
)  # fmt: skip


def conclude(rows: Rows) -> Conclusion:
    """The decision rule of QUESTION.md, on whatever parts there are."""
    rows, lost, runs = marked(rows)
    widths = largest(rows[rows["part"] == "width"])
    drops = dropped(rows[rows["part"] == "accuracy"])
    gaps = against_time(rows[rows["part"] == "flow"])
    tables = {"widths": widths, "drops": drops, "gaps": gaps}
    tables = {name: table for name, table in tables.items() if len(table)}
    found = drop_findings(drops)
    if len(widths):
        laws = width_findings(widths)
        found = control_findings(widths) + laws + found + further_findings(widths)
    found += flow_findings(gaps)
    told = f"{lost} of {counted(runs, 'run')} were lost: {LOST_MEANS}"
    return Conclusion(
        answer(found), tuple(found), parts(tables), tables, (*REMARKS, told)
    )


def control_claim(name: str, kind: str) -> str:
    """The mean-field network must not look lazy."""
    return f"control: in the mean-field network the {name} does not fall ({kind})"


def law_claim(name: str, kind: str) -> str:
    """The theorem, of one quantity."""
    return f"{name} falls at least as the root of the width ({kind})"


def drop_claim(local_steps: int) -> str:
    """The drop from iid to one class per client."""
    return (
        "the drop in test accuracy is smaller in the widest network than in the "
        f"narrowest (K = {local_steps})"
    )


# What the rule of QUESTION.md needs; K of the study.
CONTROLS = tuple(control_claim(name, "mean-field, K = 5") for name in FALLING[:2])
LAWS = tuple(
    law_claim(name, f"{network}, K = {k}")
    for network in MAIN
    for k in STEPS
    for name in FALLING
)
DROP = drop_claim(5)


def control_findings(widths: Rows) -> list[Finding]:
    """Kernel change and linearisation gap of the mean-field network."""
    own = widths[widths["network"] == "mean-field"]
    return [
        law(control_claim(name, kind), part, ">", CONTROL, OURS)
        for (kind, name), part in own.groupby(["kind", "quantity"])
        if name in FALLING[:2]
    ]


def width_findings(widths: Rows, networks: tuple[str, ...] = MAIN) -> list[Finding]:
    """Each quantity falls at least as fast as ``m^{-1/2}``; a lost run does not."""
    own = widths[widths["network"].isin(networks)]
    return [
        law(law_claim(name, kind), part, "<=", AT_MOST, PAPER, lost="fails")
        for (kind, name), part in own.groupby(["kind", "quantity"])
        if name in FALLING
    ]


def law(
    claim: str, own: Rows, relation: str, bound: float, source: str,
    *, lost: str = "undecided", x: str = "width", name: str = "width",
) -> Finding:  # fmt: skip
    """A claim on an exponent; ``lost`` is its verdict where a number is not usable."""
    words = f"exponent in {name}, {own['seed'].nunique()} seeds"
    if worse := bad(own):
        words = f"{worse} of {len(own)} runs not finite or not positive"
    found = exponent(own, x)
    one = finding(claim, found, relation, bound, words=words, source=source)
    return dataclasses.replace(one, verdict=lost) if worse else one


def drop_findings(drops: Rows) -> list[Finding]:
    """The drop from iid to one class per client, narrowest against widest network."""
    found = []
    own = drops[drops["width"] > 0] if len(drops) else drops
    for k, part in own.groupby("local_steps") if len(own) else ():
        if part["width"].nunique() < 2:
            continue
        wide = part.pivot(index="seed", columns="width", values="points")
        narrow, most = wide.columns.min(), wide.columns.max()
        lost = part["lost"] & (part["width"] == most)
        gain = differences(
            drop_claim(int(k)), wide[narrow] - wide[most], ">", 0.0,
            f"points, width {narrow} less width {most}, by seed", SUMMARY,
        )  # fmt: skip
        if lost.any():
            gain = dataclasses.replace(gain, verdict="fails")
        left = f"a drop is left at width {most} (K = {k})"
        source = f"{OURS}; not in the rule"
        found += [gain, differences(left, wide[most], ">", 0.0, "points", source)]
    return found


def differences(
    claim: str, values: Rows, relation: str, bound: float, words: str, source: str
) -> Finding:
    """A claim on a mean over seeds; undecided where one of the values is unknown."""
    known = int(np.isfinite(values).sum())
    found, words = UNKNOWN, f"{words}, {known} seeds"
    if known < len(values):
        words += f": {len(values) - known} of {len(values)} not finite or missing"
    elif known > 1:
        found = scaling.mean_interval(values)
    return finding(claim, found, relation, bound, words=words, source=source)


def further_findings(widths: Rows) -> list[Finding]:
    """What is not in the rule: the rate itself, units, and the equality claimed."""
    found = width_findings(widths, ("two-layer",))
    for (network, kind, name), own in widths.groupby(["network", "kind", "quantity"]):
        for asked, networks, claim, relation, bound, source in FURTHER:
            if name == asked and network in networks:
                found.append(law(f"{claim} ({kind})", own, relation, bound, source))
    return found + nearer(widths)


def nearer(widths: Rows) -> list[Finding]:
    """At the largest width, which of the two predictions is nearer."""
    own = widths[widths["network"].isin(MAIN)]
    own = own[own["width"] == own["width"].max()]
    found = []
    for kind, part in own.groupby("kind"):
        both = part.pivot(index="seed", columns="quantity", values="value")
        if {FEDERATED, CENTRAL} <= set(both.columns):
            both = both.where(both > 0)
            found.append(
                differences(
                    f"at the largest width centralised descent is 3 times off ({kind})",
                    np.log(both[CENTRAL] / both[FEDERATED]), ">", math.log(3),
                    "log of the ratio of the two distances", OURS,
                )
            )  # fmt: skip
    return found


def flow_findings(gaps: Rows) -> list[Finding]:
    """The gap of the federated kernel to its limits falls linearly in ``ηK``."""
    found = []
    groups = gaps.groupby(["local_steps", "quantity"]) if len(gaps) else ()
    for (k, name), own in groups:
        if name == EXACT:
            logs = np.log10(own["value"].clip(lower=ROUNDING))
            claim = f"the federated kernel is exact for the linearised run (K = {k})"
            one = differences(claim, logs, "<", -10.0, "log10 of its error", OURS)
            failed = not np.isfinite(logs).all()
            found.append(dataclasses.replace(one, verdict="fails") if failed else one)
        elif own["time"].nunique() > 1:
            own = own.assign(value=own["value"].where(np.isfinite(own["time"])))
            for relation, bound, sense in ((">=", 0.75, "least"), ("<=", 1.25, "most")):
                claim = f"the {name} falls linearly at {sense} in ηK (K = {k})"
                found.append(
                    law(claim, own, relation, bound, OURS, x="time", name="ηK")
                )
    return found


def answer(findings: Iterable[Finding]) -> Answer:
    """Control first; then every finding that the rule names must be there and hold."""
    found = {one.claim: one for one in findings}
    missing = [claim for claim in (*CONTROLS, *LAWS, DROP) if claim not in found]
    if any(found[claim].verdict != "holds" for claim in CONTROLS if claim in found):
        return Answer(
            "undecided", "the control falls with width too, or is not sure: no power."
        )
    laws = [found[claim] for claim in LAWS if claim in found]
    drop = [found[claim] for claim in (DROP,) if claim in found]
    words = [
        f"the drop shrinks by {number(d.estimate)} points "
        f"[{number(d.lower)}, {number(d.upper)}]"
        for d in drop
    ]
    if laws:
        good = sum(one.verdict == "holds" for one in laws)
        slowest = max(one.upper for one in laws)
        words.insert(
            0, f"{good} of {len(laws)} exponents in width are at most {AT_MOST} "
            f"(slowest upper end {number(slowest)})",
        )  # fmt: skip
    if missing:
        count = f"{len(missing)} of the findings that the rule needs are not measured"
        return Answer("undecided", f"{'; '.join([count, *words])}: {missing[0]}.")
    verdicts, said = {one.verdict for one in laws + drop}, "; ".join(words) + "."
    if "fails" in verdicts:
        failed = next(one for one in laws + drop if one.verdict == "fails")
        why = f" ({failed.words})" if math.isnan(failed.estimate) else ""
        return Answer("fails", f"not as claimed: {failed.claim} fails{why}; {said}")
    if verdicts == {"holds"}:
        return Answer("holds", said)
    return Answer("undecided", f"not every interval allows an answer; {said}")


LOST_MEANS = (
    "a run that diverges, whose residual ends above 10 times that of the start, or "
    "that comes to equal outputs for all samples. None of its numbers is used; the "
    "claims they belong to fail or stay undecided."
)
REMARKS = (
    "Sizes are cut: 40 digits of two classes and one hidden layer for the laws, 500 "
    "images of MNIST's test set for training and 2000 others of it for accuracy.",
    "The paper's formulas come from an official summary and code, not from its text; "
    "their accuracies are of that summary, and their network was not rebuilt.",
    "The theorem is an upper bound: an exponent below −½ agrees with it. That −½ is "
    "attained is asked separately.",
)


if __name__ == "__main__":
    main(__file__, conclude)
