"""Asymmetry, smallest eigenvalue and rate of FL-NTK: exponents and findings."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from ntk_fed import scaling
from ntk_fed.analysis import main
from ntk_fed.measured import Enclosure, exact
from ntk_fed.report import Answer, Conclusion, Panel, Part, Shown, finding
from ntk_fed.report.conclusion import Finding

Rows = Any

RECALLED = "Huang, Li, Song, Yang (2021): recalled, constants unverified"
LINEAR = f"{RECALLED}; that the rate is linear: abstract"
OURS = "derived in this project"
ASYMMETRY, AT_START = "kernel asymmetry", "kernel asymmetry at k = 0"
SMALLEST = "asymmetric kernel, smallest symmetric eigenvalue"
REAL = "asymmetric kernel, smallest real part"
MEASURED, PROMISED = "measured slowest rate", "promised rate"
PREDICTED, ASYMPTOTIC = "predicted slowest rate", "asymptotic rate of the kernel"
FALLS, BAND = -0.25, (0.9, 1.1)
SENSES = ("least", "most")


def conclude(rows: Rows) -> Conclusion:
    """The decision rule of QUESTION.md, on whatever parts there are."""
    worst = extremes(rows[rows["part"] == "asymmetry"])
    rates = rates_of(rows[rows["part"] == "rate"])
    course = rows[(rows["part"] == "asymmetry") & (rows["quantity"] == ASYMMETRY)]
    controls = control_findings(worst)
    rule = [*asymmetry_findings(worst), *rate_findings(rates)]
    further = step_findings(rates)
    tables = {"worst": worst, "rates": rates, "course": _course(course)}
    parts = []
    if len(worst):
        parts.append(_asymmetry_part(worst, len(course) > 0))
    if len(rates):
        parts.append(_rate_part())
    return Conclusion(
        answer(controls, rule),
        (*controls, *rule, *further),
        tuple(parts),
        {name: table for name, table in tables.items() if len(table)},
        REMARKS,
    )


def extremes(rows: Rows) -> Rows:
    """One row per run and quantity: largest asymmetry, smallest eigenvalues."""
    keys = ["width", "local_steps", "seed", "quantity"]
    found = rows.groupby(keys, as_index=False)["value"].agg(["max", "min"])
    low = found["quantity"].isin([SMALLEST, REAL])
    found["value"] = np.where(low, found["min"], found["max"])
    return found[[*keys, "value"]]


def rates_of(rows: Rows) -> Rows:
    """One row per run: K/c, the rates, and rate · c/K."""
    if rows.empty:
        return rows
    keys = ["strength", "clients", "local_steps", "seed"]
    wide = rows.pivot_table(index=keys, columns="quantity", values="value")
    wide = wide.reset_index()
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
        claim = "control: before local steps the kernel is symmetric exactly"
        found.append(
            finding(claim, exact(before.max()), "<=", 0.0, words=words, source=OURS)
        )
    after = worst[worst["quantity"] == ASYMMETRY]
    narrow = after[after["width"] == after["width"].min()]["value"]
    if len(narrow) > 1:
        claim = "control: after local steps, in the narrowest network, it is not"
        mean = scaling.mean_interval(narrow)
        found.append(finding(claim, mean, ">", 0.0, words="asymmetry", source=OURS))
    return found


def asymmetry_findings(worst: Rows) -> list[Finding]:
    """The asymmetry falls with width; the spectrum stays above λ0/2."""
    found = []
    for k, own in worst.groupby("local_steps"):
        bent = own[own["quantity"] == ASYMMETRY]
        words = f"exponent in width, {bent['seed'].nunique()} seeds"
        if bent["width"].nunique() > 1:
            claim = f"the asymmetry falls with width (K = {k})"
            law = power(bent["width"], bent["value"])
            found.append(finding(claim, law, "<=", FALLS, words=words, source=RECALLED))
        for name in (SMALLEST, REAL):
            last = own[(own["quantity"] == name) & (own["width"] == own["width"].max())]
            if len(last) > 1:
                mean = scaling.mean_interval(last["value"])
                claim = f"{name} stays above λ0/2 at the largest width (K = {k})"
                words = f"smallest along the run, over λ0, {len(last)} seeds"
                found.append(
                    finding(claim, mean, ">", 0.5, words=words, source=RECALLED)
                )
    return found


def rate_findings(rates: Rows) -> list[Finding]:
    """At the smallest step: the promise is kept, and the rate is as K/c."""
    if rates.empty:
        return []
    own = rates[rates["strength"] == rates["strength"].min()]
    seeds = own["seed"].nunique()
    found = []
    if seeds > 1:
        over = scaling.mean_interval(np.log(own.groupby("seed")["over"].min()))
        words = f"log of slowest rate over promise, worst K and c, {seeds} seeds"
        claim = "the residual falls at least as fast as promised, for every K and c"
        found.append(finding(claim, over, ">", 0.0, words=words, source=LINEAR))
    if own["ratio"].nunique() > 1:
        law = power(own["ratio"], own[MEASURED])
        words = f"exponent in K/c, {seeds} seeds"
        for relation, bound, sense in zip((">=", "<="), BAND, SENSES, strict=True):
            claim = f"the slowest rate grows in proportion to K/c, at {sense}"
            found.append(
                finding(claim, law, relation, bound, words=words, source=RECALLED)
            )
    return found


def step_findings(rates: Rows) -> list[Finding]:
    """Larger steps, which the theorem excludes, and the kernel's own prediction."""
    if rates.empty:
        return []
    found, small = [], rates["strength"].min()
    for strength, own in rates.groupby("strength"):
        seeds = own["seed"].nunique()
        if seeds < 2:
            continue
        apart = np.log(own[PREDICTED] / own[MEASURED]).abs()
        mean = scaling.mean_interval(apart.groupby(own["seed"]).max())
        claim = f"the federated kernel has the slowest rate within 10 % ({strength})"
        words = f"largest log ratio over K and c, {seeds} seeds"
        found.append(finding(claim, mean, "<", 0.1, words=words, source=OURS))
        if strength == small or own["ratio"].nunique() < 2:
            continue
        law = power(own["ratio"], own[ASYMPTOTIC])
        claim = f"at a larger step the rate saturates in K ({strength})"
        words = f"exponent in K/c of the kernel's rate, {seeds} seeds"
        found.append(finding(claim, law, "<", BAND[0], words=words, source=OURS))
        ends = scaling.mean_interval(np.log(own.groupby("seed")["limit_over"].min()))
        claim = f"at a larger step the formula promises too much ({strength})"
        words = f"log of the kernel's rate over promise, worst K and c, {seeds} seeds"
        found.append(finding(claim, ends, "<", 0.0, words=words, source=OURS))
    return found


def answer(controls: Iterable[Finding], rule: Iterable[Finding]) -> Answer:
    """Controls first; then every finding of the rule must hold."""
    rule = list(rule)
    if any(one.verdict != "holds" for one in controls):
        return Answer("undecided", "a control does not show what it must: no answer.")
    if not rule:
        return Answer("undecided", "nothing was measured that the rule asks for.")
    words = [
        f"{one.claim}: {one.estimate:.2f} [{one.lower:.2f}, {one.upper:.2f}]"
        for one in rule
        if "at most" not in one.claim and REAL not in one.claim
    ]
    verdicts = {one.verdict for one in rule}
    if "fails" in verdicts:
        failed = next(one for one in rule if one.verdict == "fails")
        return Answer("fails", f"not so: {failed.claim}; " + "; ".join(words) + ".")
    if verdicts == {"holds"}:
        return Answer("holds", "; ".join(words) + ".")
    return Answer("undecided", "not every interval allows an answer. " + words[0])


def power(x: Any, y: Any) -> Enclosure:
    """An exponent; unknown where a value is not positive or points are too few."""
    if len(x) < 4 or not (y > 0).all():
        return Enclosure(math.nan, -math.inf, math.inf)
    return scaling.power_law(x, y).enclosure


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
