"""Asymmetry, smallest eigenvalue and rate of FL-NTK: exponents and findings."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from ntk_fed import scaling
from ntk_fed.analysis import main
from ntk_fed.measured import Enclosure, exact
from ntk_fed.report import Answer, Conclusion, Panel, Part, Shown, finding
from ntk_fed.report.conclusion import Finding
from ntk_fed.report.words import number

Rows = Any

RECALLED = "Huang, Li, Song, Yang (2021): recalled, constants unverified"
LINEAR = f"{RECALLED}; that the rate is linear: abstract"
OURS = "derived in this project"
NO_CLAIM = "ours; no claim of the paper"
ASYMMETRY, AT_START = "kernel asymmetry", "kernel asymmetry at k = 0"
SMALLEST = "asymmetric kernel, smallest symmetric eigenvalue"
REAL = "asymmetric kernel, smallest real part"
MEASURED, PROMISED = "measured slowest rate", "promised rate"
PREDICTED, ASYMPTOTIC = "predicted slowest rate", "asymptotic rate of the kernel"
FALLS, BAND, SMALL = -0.25, (0.9, 1.1), 0.05
UNKNOWN = Enclosure(math.nan, -math.inf, math.inf)
NAMES = {"width": "width", "ratio": "K/c"}
CELLS = {"width": ["width"], "ratio": ["local_steps", "clients"]}


def falls(local_steps: int) -> str:
    """The asymmetry, in width."""
    return f"the asymmetry falls with width (K = {local_steps})"


def above(name: str, local_steps: int) -> str:
    """An end of the spectrum."""
    return f"{name} stays above λ0/2 at the largest width (K = {local_steps})"


# What the rule of QUESTION.md needs.
BENT = "control: before local steps the kernel is symmetric exactly"
AFTER = "control: after local steps, in the narrowest network, it is not"
KEPT = "the residual falls at least as fast as promised, for every K and c"
GROWS = tuple(
    f"the slowest rate grows in proportion to K/c, at {sense}"
    for sense in ("least", "most")
)
CONTROLS = (BENT, AFTER)
SPECTRUM = tuple(above(name, k) for k in (1, 5) for name in (SMALLEST, REAL))
RULE = (falls(1), falls(5), *SPECTRUM, KEPT, *GROWS)
GRID = tuple((k, c) for k in (1, 2, 5, 10, 20) for c in (2, 5, 10))
PART = "(not all K and c of the rule)"


def conclude(rows: Rows) -> Conclusion:
    """The decision rule of QUESTION.md, on whatever parts there are."""
    worst = extremes(rows[rows["part"] == "asymmetry"])
    rates = rates_of(rows[rows["part"] == "rate"])
    course = rows[(rows["part"] == "asymmetry") & (rows["quantity"] == ASYMMETRY)]
    found = [*control_findings(worst), *asymmetry_findings(worst)]
    found += [*rate_findings(rates), *step_findings(rates)]
    tables = {"worst": worst, "rates": rates, "course": _course(course)}
    parts = []
    if len(worst):
        parts.append(_asymmetry_part(worst, len(course) > 0))
    if len(rates):
        parts.append(_rate_part())
    return Conclusion(
        answer(found),
        tuple(found),
        tuple(parts),
        {name: table for name, table in tables.items() if len(table)},
        REMARKS,
    )


def extremes(rows: Rows) -> Rows:
    """One row per run and quantity: largest asymmetry, smallest eigenvalues.

    NaN where one of the numbers of a run is not finite.
    """
    keys = ["width", "local_steps", "seed", "quantity"]
    values = rows["value"].where(np.isfinite(rows["value"]))
    both = values.groupby([rows[key] for key in keys])
    low = both.agg(lambda own: own.min(skipna=False)).reset_index()
    high = both.agg(lambda own: own.max(skipna=False)).reset_index()
    smallest = low["quantity"].isin([SMALLEST, REAL])
    return high.assign(value=low["value"].where(smallest, high["value"]))


def rates_of(rows: Rows) -> Rows:
    """One row per run: K/c, the rates, and rate · c/K."""
    if rows.empty:
        return rows
    keys = ["strength", "clients", "local_steps", "seed"]
    rows = rows.assign(value=rows["value"].where(np.isfinite(rows["value"])))
    wide = rows.pivot(index=keys, columns="quantity", values="value")
    names = [MEASURED, PREDICTED, PROMISED, ASYMPTOTIC]
    wide = wide.reindex(columns=names).reset_index()
    wide.columns.name = None
    wide["ratio"] = wide["local_steps"] / wide["clients"]
    wide["scaled"] = wide[MEASURED] / wide["ratio"]
    wide["over"] = wide[MEASURED] / wide[PROMISED]
    wide["limit_over"] = wide[ASYMPTOTIC] / wide[PROMISED]
    return wide


def control_findings(worst: Rows) -> list[Finding]:
    """Exactly symmetric before the first local step, and not after it."""
    found = []
    before = worst[worst["quantity"] == AT_START]["value"]
    if len(before):
        words = f"largest over {len(before)} runs, all their rounds"
        most = exact(before.max()) if before.notna().all() else UNKNOWN
        if not before.notna().all():
            words += f"; {before.isna().sum()} not finite"
        found.append(finding(BENT, most, "<=", 0.0, words=words, source=OURS))
    after = worst[worst["quantity"] == ASYMMETRY]
    narrow = after[after["width"] == after["width"].min()]
    if len(narrow):
        own = worst_of(narrow, "value")
        found.append(mean(AFTER, own, ">", 0.0, "smallest asymmetry of all K", OURS))
    return found


def asymmetry_findings(worst: Rows) -> list[Finding]:
    """The asymmetry falls with width; the spectrum stays above λ0/2."""
    found = []
    for k, own in worst.groupby("local_steps"):
        bent = own[own["quantity"] == ASYMMETRY]
        if bent["width"].nunique() > 1:
            one = law(falls(k), bent, "width", "value", "<=", FALLS, NO_CLAIM)
            found.append(lost(one, bent["value"]))
        for name in (SMALLEST, REAL):
            last = own[(own["quantity"] == name) & (own["width"] == own["width"].max())]
            if len(last):
                by_seed = last.set_index("seed")["value"]
                words = "smallest along the run, over λ0"
                one = mean(above(name, k), by_seed, ">", 0.5, words, RECALLED)
                found.append(lost(one, by_seed))
    return found


def rate_findings(rates: Rows) -> list[Finding]:
    """At the small step: the promise is kept, and the rate is as K/c."""
    if rates.empty or rates["strength"].min() > SMALL:
        return []
    own = rates[rates["strength"] == rates["strength"].min()]
    words = "log of slowest rate over promise, worst K and c"
    one = mean(KEPT, logs(worst_of(own, "over")), ">", 0.0, words, LINEAR)
    found = [lost(one, logs(own["over"]))]
    if own["ratio"].nunique() > 1:
        for relation, bound, claim in zip((">=", "<="), BAND, GROWS, strict=True):
            found.append(law(claim, own, "ratio", MEASURED, relation, bound, RECALLED))
    if not set(GRID) <= set(zip(own["local_steps"], own["clients"], strict=True)):
        found = [dataclasses.replace(one, claim=f"{one.claim} {PART}") for one in found]
    return found


def step_findings(rates: Rows) -> list[Finding]:
    """Larger steps, which the theorem excludes, and the kernel's own prediction."""
    found = []
    for strength, own in rates.groupby("strength") if len(rates) else ():
        both = own[[PREDICTED, MEASURED]].where(own[[PREDICTED, MEASURED]] > 0)
        apart = np.log(both[PREDICTED] / both[MEASURED]).abs()
        most = -worst_of(own.assign(near=-apart), "near")
        claim = f"the federated kernel has the slowest rate within 10 % ({strength})"
        words = "largest log ratio over K and c"
        found.append(mean(claim, most, "<", 0.1, words, OURS))
        if strength <= SMALL or own["ratio"].nunique() < 2:
            continue
        claim = f"at a larger step the rate saturates in K ({strength})"
        found.append(law(claim, own, "ratio", ASYMPTOTIC, "<", BAND[0], OURS))
        ends = logs(worst_of(own, "limit_over"))
        claim = f"at a larger step the formula promises too much ({strength})"
        words = "log of the kernel's rate over promise, worst K and c"
        found.append(mean(claim, ends, "<", 0.0, words, OURS))
    return found


def answer(findings: Iterable[Finding]) -> Answer:
    """Controls first; then every finding that the rule names must be there and hold."""
    found = {one.claim: one for one in findings}
    missing = [claim for claim in (*CONTROLS, *RULE) if claim not in found]
    if any(found[claim].verdict != "holds" for claim in CONTROLS if claim in found):
        return Answer("undecided", "a control does not show what it must: no answer.")
    if missing:
        count = f"{len(missing)} of the findings that the rule needs are not measured"
        return Answer("undecided", f"{count}: {missing[0]}.")
    rule = [found[claim] for claim in RULE]
    words = [
        f"{one.claim}: {number(one.estimate)} "
        f"[{number(one.lower)}, {number(one.upper)}]"
        for one in rule
        if one.claim != GROWS[1] and REAL not in one.claim
    ]
    verdicts, said = {one.verdict for one in rule}, "; ".join(words) + "."
    if "fails" in verdicts:
        failed = next(one for one in rule if one.verdict == "fails")
        return Answer("fails", f"not so: {failed.claim} ({failed.words}); {said}")
    if verdicts == {"holds"}:
        return Answer("holds", said)
    return Answer("undecided", f"not every interval allows an answer. {said}")


def mean(
    claim: str, values: Rows, relation: str, bound: float, words: str, source: str
) -> Finding:
    """A claim on a mean over seeds; undecided where one of the numbers is unknown."""
    known, words = int(values.notna().sum()), f"{words}, {len(values)} seeds"
    if known < len(values):
        words += f"; {len(values) - known} of them not finite or not positive"
    found = UNKNOWN
    if known == len(values) > 1:
        found = scaling.mean_interval(values)
    return finding(claim, found, relation, bound, words=words, source=source)


def law(
    claim: str, own: Rows, x: str, y: str, relation: str, bound: float, source: str
) -> Finding:
    """A claim on an exponent; undecided where a run has no logarithm or is missing."""
    seeds, cells = own["seed"].nunique(), len(own[CELLS[x]].drop_duplicates())
    words, found = f"exponent in {NAMES[x]}, {seeds} seeds", UNKNOWN
    if bad := int((~(own[y] > 0)).sum()):
        words += f"; {bad} of {len(own)} runs not finite or not positive"
    elif len(own) == cells * seeds >= 4:
        found = scaling.power_law(own[x], own[y]).enclosure
    return finding(claim, found, relation, bound, words=words, source=source)


def worst_of(own: Rows, name: str) -> Rows:
    """Smallest number of each seed; NaN where one is NaN or a run is missing."""
    by_seed = own.groupby("seed")[name]
    found, count = by_seed.agg(lambda one: one.min(skipna=False)), by_seed.size()
    return found.where(count == count.max())


def lost(one: Finding, values: Rows) -> Finding:
    """A claim that a run does well fails where a run has no usable number."""
    return dataclasses.replace(one, verdict="fails") if values.isna().any() else one


def logs(values: Rows) -> Rows:
    """Logarithms, NaN where there is none."""
    return np.log(values.where(values > 0))


def _course(rows: Rows) -> Rows:
    """Asymmetry along the run, one line per run, with local steps counted through."""
    found = rows[["width", "local_steps", "seed", "round", "step", "value"]].copy()
    found["steps"] = (found["round"] - 1) * found["local_steps"] + found["step"]
    return found[found["local_steps"] == found["local_steps"].max()]


def _asymmetry_part(worst: Rows, course: bool) -> Part:
    there = set(worst["quantity"])
    panels = []
    if ASYMMETRY in there:
        panels.append(
            Panel(
                "worst", "width", "value", "Largest asymmetry along the run",
                "Should fall; dashed slope −½. A flat line would refute it.",
                hue="local_steps", log="xy", slope=-0.5,
                where=(("quantity", ASYMMETRY),), ylabel="‖H − Hᵀ‖ / ‖H‖",
            )
        )  # fmt: skip
    if SMALLEST in there:
        panels.append(
            Panel(
                "worst", "width", "value", "Smallest symmetric eigenvalue over λ0",
                "Should stay above ½; a point below at large width would refute it.",
                hue="local_steps", log="x", levels=((0.5, "λ0/2"),),
                where=(("quantity", SMALLEST),), ylabel="smallest along the run / λ0",
            )
        )  # fmt: skip
    if course:
        panels.append(
            Panel(
                "course", "steps", "value", "Asymmetry over local steps",
                "Grows within a round and starts again at 0 (not drawn) in the next.",
                hue="width", unit=("width", "seed"), log="y",
                xlabel="local steps done", ylabel="‖H − Hᵀ‖ / ‖H‖",
            )
        )  # fmt: skip
    return Part("Asymmetric kernel", panels=tuple(panels))


def _rate_part() -> Part:
    caption = "Should follow the dashed line of slope 1; saturation bends it down."
    panels = [
        Panel(
            "rates", "ratio", column, f"{column}, against K/c", caption,
            hue="strength", log="xy", slope=1.0, xlabel="K/c", ylabel="rate per round",
        )
        for column in (MEASURED, ASYMPTOTIC)
    ]  # fmt: skip
    panels.append(
        Panel(
            "rates", PREDICTED, MEASURED, "Measured against predicted",
            "Points off the diagonal are where the network leaves its kernel.",
            hue="strength", log="xy", diagonal=True,
        )
    )  # fmt: skip
    panels.append(
        Panel(
            "rates", "ratio", "limit_over",
            "Slowest rate of the kernel, over the promise",
            "About 4 at small steps. Below 1 the formula promises too much, at steps "
            "that the theorem excludes.",
            hue="strength", log="xy", levels=((1.0, "promise"),), xlabel="K/c",
        )
    )  # fmt: skip
    columns = {
        "strength": "η_local λ_max", "clients": "c", "local_steps": "K", "seed": "seed",
        MEASURED: "measured", PREDICTED: "predicted", PROMISED: "promised",
        ASYMPTOTIC: "asymptotic", "scaled": "measured · c/K",
    }  # fmt: skip
    shown = Shown("rates", "Rates of log ‖y(t) − y‖² per round.", columns)
    return Part("Rate", (), tuple(panels), (shown,))


REMARKS = (
    "Sizes are cut: 20 points on the sphere in 32 dimensions, widths up to 4096.",
    "Rate, step size and asymmetric kernel of the paper are recalled, not checked "
    "against its text; that the rate is linear is in its abstract. The exponent of the "
    "asymmetry is no claim of the paper.",
    "The width the theorem asks for was not reached, and nothing is said of it.",
    "Intervals over seeds are of initial weights; the points are drawn once.",
)


if __name__ == "__main__":
    main(__file__, conclude)
