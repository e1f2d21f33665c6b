"""What falls with width when clients hold one class each: exponents and findings."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from ntk_fed import scaling
from ntk_fed.analysis import main
from ntk_fed.measured import Enclosure
from ntk_fed.report import Answer, Conclusion, Panel, Part, Shown, finding
from ntk_fed.report.conclusion import Finding

Rows = Any

PAPER = "Jian, Liu (2025), Theorem 1: formulas from an official summary and code"
SUMMARY = "Jian, Liu (2025), official summary"
OURS = "derived in this project"
AT_MOST, CONTROL, ATTAINED = -0.4, -0.25, -0.6
MAIN = ("ntk", "standard")
KERNEL, DISTANCE = "kernel change (Frobenius)", "distance of local models"
FALLING = (KERNEL, "linearisation gap", "linearisation gap (test)", DISTANCE)
SHARE = "kernel share of the first layer"
FEDERATED = "distance from federated kernel"
CENTRAL = "distance from centralised descent"
GAPS = ("gap to gradient flow", "gap to centralised descent")
EXACT = "error of the federated kernel"
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
THEIRS = "17.4, 9.5, 6.3 and 2.0 points at 1, 2, 4 and 16 times their smallest width"


def conclude(rows: Rows) -> Conclusion:
    """The decision rule of QUESTION.md, on whatever parts there are."""
    widths = largest(rows[rows["part"] == "width"])
    drops = dropped(rows[rows["part"] == "accuracy"])
    gaps = against_time(rows[rows["part"] == "flow"])
    tables = {"widths": widths, "drops": drops, "gaps": gaps}
    controls = [] if widths.empty else control_findings(widths)
    rule = [] if widths.empty else width_findings(widths)
    rule += drop_findings(drops)
    further = [] if widths.empty else further_findings(widths)
    further += flow_findings(gaps)
    return Conclusion(
        answer(controls, rule),
        (*controls, *rule, *further),
        tuple(make(tables[name]) for name, make in PARTS if len(tables[name])),
        {name: table for name, table in tables.items() if len(table)},
        REMARKS,
    )


def largest(rows: Rows) -> Rows:
    """One row per run and quantity: its largest value along the run."""
    keys = ["network", "local_steps", "width", "seed", "quantity"]
    found = rows.groupby(keys, as_index=False)["value"].max()
    inside = (found["quantity"] == DISTANCE) & (found["network"] != "standard")
    found.loc[inside, "value"] /= np.sqrt(found.loc[inside, "width"])
    found["kind"] = found["network"] + ", K = " + found["local_steps"].astype(str)
    return found


def dropped(rows: Rows) -> Rows:
    """Accuracy of both splits and their difference, one row per width and seed."""
    if rows.empty:
        return rows
    wide = rows.pivot_table(index=["width", "seed"], columns="split", values="value")
    wide = wide.rename(columns={"one-class": "one_class"}).reset_index()
    wide["points"] = 100 * (wide["iid"] - wide["one_class"])
    wide.columns.name = None
    return wide


def against_time(rows: Rows) -> Rows:
    """Gaps with ``ηK`` beside them."""
    if rows.empty:
        return rows
    keys = ["local_steps", "fraction", "seed"]
    time = rows[rows["quantity"] == "step size times K"].set_index(keys)["value"]
    found = rows[rows["quantity"].isin([*GAPS, EXACT])]
    found = found.join(time.rename("time"), on=keys)
    return found[[*keys, "time", "quantity", "value"]].reset_index(drop=True)


def control_findings(widths: Rows) -> list[Finding]:
    """The mean-field network must not look lazy."""
    own = widths[widths["network"] == "mean-field"]
    return [
        finding(
            f"control: in the mean-field network the {name} does not fall ({kind})",
            exponent(part), ">", CONTROL, words=_words(part), source=OURS,
        )
        for (kind, name), part in own.groupby(["kind", "quantity"])
        if name in FALLING[:2]
    ]  # fmt: skip


def width_findings(widths: Rows, networks: tuple[str, ...] = MAIN) -> list[Finding]:
    """The theorem: each quantity falls at least as fast as ``m^{-1/2}``."""
    own = widths[widths["network"].isin(networks)]
    return [
        finding(
            f"{name} falls at least as the root of the width ({kind})",
            exponent(part), "<=", AT_MOST, words=_words(part), source=PAPER,
        )
        for (kind, name), part in own.groupby(["kind", "quantity"])
        if name in FALLING
    ]  # fmt: skip


def drop_findings(drops: Rows) -> list[Finding]:
    """The drop from iid to one class per client, narrowest against widest network."""
    own = drops[drops["width"] > 0] if len(drops) else drops
    if own.empty or own["width"].nunique() < 2:
        return []
    wide = own.pivot_table(index="seed", columns="width", values="points")
    narrow, most = wide.columns.min(), wide.columns.max()
    gain = scaling.mean_interval((wide[narrow] - wide[most]).dropna())
    left = scaling.mean_interval(wide[most].dropna())
    return [
        finding(
            f"the drop in test accuracy is smaller at width {most} than at {narrow}",
            gain, ">", 0.0, source=SUMMARY,
            words=f"points, difference by seed, {len(wide)} seeds",
        ),
        finding(
            f"a drop is left at width {most}", left, ">", 0.0,
            words=f"points, {len(wide)} seeds", source=f"{OURS}; not in the rule",
        ),
    ]  # fmt: skip


def further_findings(widths: Rows) -> list[Finding]:
    """What is not in the rule: the rate itself, units, and the equality claimed."""
    found = width_findings(widths, ("two-layer",))
    for (network, kind, name), own in widths.groupby(["network", "kind", "quantity"]):
        for asked, networks, claim, relation, bound, source in FURTHER:
            if name == asked and network in networks:
                found.append(
                    finding(
                        f"{claim} ({kind})", exponent(own), relation, bound,
                        words=_words(own), source=source,
                    )
                )  # fmt: skip
    return found + nearer(widths)


def nearer(widths: Rows) -> list[Finding]:
    """At the largest width, which of the two predictions is nearer."""
    own = widths[widths["network"].isin(MAIN)]
    own = own[own["width"] == own["width"].max()]
    found = []
    for kind, part in own.groupby("kind"):
        both = part.pivot_table(index="seed", columns="quantity", values="value")
        if {FEDERATED, CENTRAL} <= set(both.columns) and len(both) > 1:
            ratio = scaling.mean_interval(np.log(both[CENTRAL] / both[FEDERATED]))
            claim = f"at the largest width centralised descent is 3 times off ({kind})"
            words = f"log of the ratio of the two distances, {len(both)} seeds"
            found.append(
                finding(claim, ratio, ">", math.log(3), words=words, source=OURS)
            )
    return found


def flow_findings(gaps: Rows) -> list[Finding]:
    """The gap of the federated kernel to its limits falls linearly in ``ηK``."""
    if gaps.empty:
        return []
    found = []
    for (k, name), own in gaps.groupby(["local_steps", "quantity"]):
        if name == EXACT:
            logs = scaling.mean_interval(np.log10(own["value"]))
            claim = f"the federated kernel is exact for the linearised run (K = {k})"
            words = f"log10 of its largest error, {len(own)} seeds"
            found.append(finding(claim, logs, "<", -10.0, words=words, source=OURS))
        elif own["time"].nunique() > 1:
            law = scaling.power_law(own["time"], own["value"]).enclosure
            words = f"exponent in ηK, {own['seed'].nunique()} seeds"
            for relation, bound, sense in ((">=", 0.75, "least"), ("<=", 1.25, "most")):
                claim = f"the {name} falls linearly at {sense} in ηK (K = {k})"
                found.append(
                    finding(claim, law, relation, bound, words=words, source=OURS)
                )
    return found


def answer(controls: Iterable[Finding], rule: Iterable[Finding]) -> Answer:
    """Control first; then every finding of the rule must hold."""
    controls, rule = list(controls), [one for one in rule if "not in" not in one.source]
    if any(one.verdict != "holds" for one in controls):
        return Answer("undecided", "the control falls with width too: no power.")
    if not rule:
        return Answer("undecided", "nothing was measured that the rule asks for.")
    drop = [one for one in rule if "drop" in one.claim]
    words = [
        f"the drop shrinks by {d.estimate:.1f} points [{d.lower:.1f}, {d.upper:.1f}]"
        for d in drop
    ]
    if laws := [one for one in rule if one not in drop]:
        good = sum(one.verdict == "holds" for one in laws)
        slowest = max(one.upper for one in laws)
        words.insert(
            0, f"{good} of {len(laws)} exponents in width are at most {AT_MOST} "
            f"(slowest upper end {slowest:.2f})",
        )  # fmt: skip
    verdicts, said = {one.verdict for one in rule}, "; ".join(words) + "."
    if "fails" in verdicts:
        failed = next(one for one in rule if one.verdict == "fails")
        return Answer("fails", f"not as claimed: {failed.claim} fails; {said}")
    if verdicts == {"holds"}:
        return Answer("holds", said)
    return Answer("undecided", f"not every interval allows an answer; {said}")


def exponent(own: Rows) -> Enclosure:
    """Of value in width, over all seeds; unknown where there are too few points."""
    if own["width"].nunique() < 2 or len(own) < 4 or not (own["value"] > 0).all():
        return Enclosure(math.nan, -math.inf, math.inf)
    return scaling.power_law(own["width"], own["value"]).enclosure


def _words(own: Rows) -> str:
    return f"exponent in width, {own['seed'].nunique()} seeds"


def _width_part(widths: Rows) -> Part:
    there = set(widths["quantity"])
    names = [n for n in (*FALLING, SHARE, FEDERATED, CENTRAL) if n in there]
    lower = {
        SHARE: "Constant with factors in the network, falling without them.",
        FEDERATED: "Should fall with width.",
        CENTRAL: "Flat: the run does not tend to centralised descent.",
    }
    lazy = (
        "Should fall at least along the dashed line (slope −½), but for mean-field, "
        "the control. A network with a flatter line would refute the theorem."
    )
    panels = tuple(
        Panel(
            "widths", "width", "value", name, lower.get(name, lazy), hue="kind",
            log="xy", slope=-0.5, where=(("quantity", name),), ylabel=name,
        )
        for name in names
    )  # fmt: skip
    note = (
        "Largest value along each run; every point is a seed. Distances of local "
        "models are in the units of weights of size m^{-½}: those of networks with the "
        "factor inside are divided by √m, and do not fall before."
    )
    return Part("What falls with width", (note,), panels)


def _drop_part(_: Rows) -> Part:
    caption = (
        "Should fall. Width 0 stands for infinite width, by the federated kernel. Flat "
        "or rising points would refute the claim."
    )
    panel = Panel("drops", "width", "points", "Drop, points", caption)
    note = f"Their summary has drops of {THEIRS}; that is a larger problem."
    shown = Shown("drops", "Accuracy of the averaged model; drop in points.")
    return Part("Test accuracy", (note,), (panel,), (shown,))


def _gap_part(gaps: Rows) -> Part:
    panels = tuple(
        Panel(
            "gaps", "time", "value", name,
            "Slope 1 (dashed): the equality with centralised training is one of small "
            "steps. A gap that stays as ηK falls would refute it.",
            hue="local_steps", log="xy", slope=1.0, where=(("quantity", name),),
            xlabel="ηK", ylabel="relative to the residual at the start",
        )
        for name in GAPS
        if name in set(gaps["quantity"])
    )  # fmt: skip
    return Part("Federated kernel and gradient flow", panels=panels)


PARTS = (("widths", _width_part), ("drops", _drop_part), ("gaps", _gap_part))
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
