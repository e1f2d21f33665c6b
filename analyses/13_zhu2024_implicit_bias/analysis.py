"""Where Local GD of a linear model goes: the rule of QUESTION.md and the page."""

from collections.abc import Iterable
from typing import Any

from bias_findings import (
    ACCURACY,
    ALONE,
    BOUND,
    COLLAPSE,
    CONTRASTS,
    DECAYS,
    FACTOR,
    FEASIBLE,
    LAYER,
    LIMIT,
    LOCAL_SVM,
    LOSSES,
    LOST,
    NEAR,
    OFF,
    PRECISE,
    RISES,
    ROUNDS,
    STALLS,
    TOGETHER,
    TURNS,
    exactly,
    first,
    leaves,
    of,
    of_directions,
    of_projections,
    of_regression,
)
from bias_page import parts
from bias_tables import (
    absent,
    approaches,
    averages,
    courses,
    distances,
    regressions,
    turnings,
)

from ntk_fed.analysis import main
from ntk_fed.report import Answer, Conclusion, Finding
from ntk_fed.report.words import number

Table = Any  # a pandas table

# What the rule of QUESTION.md needs.
CONTROLS = (
    *(name(labels) for labels in CONTRASTS for name in (leaves, first)),
    *(of(loss, name) for loss in LOSSES for name in (PRECISE, ROUNDS, LOCAL_SVM)),
    ALONE,
)
RULE = (
    *(LIMIT, BOUND, FACTOR, RISES),
    *(exactly(labels) for labels in CONTRASTS),
    *(of(kind, name) for kind in (*LOSSES, LAYER) for name in (TURNS, TOGETHER, NEAR)),
    *(of(loss, COLLAPSE) for loss in LOSSES),
    *(ACCURACY, STALLS, OFF, FEASIBLE, DECAYS),
)
SAID = (LIMIT, of("logistic", COLLAPSE), STALLS, DECAYS)
PLAIN = (
    "for K to 50 Local GD ends at the interpolator nearest its start; for K to 32 it "
    "turns towards the SVM of all samples and draws together with centralised descent, "
    "and so does a last layer;"
)


def conclude(rows: Table) -> Conclusion:
    """The decision rule of QUESTION.md, on whatever parts there are."""
    fits, course, solved = regressions(rows), courses(rows), averages(rows)
    turned = turnings(course)
    found = [*of_regression(fits), *of_directions(turned, course)]
    found += of_projections(solved)
    tables = {
        "fits": fits,
        "distances": distances(rows),
        "course": course,
        "turned": turned,
        "approaches": approaches(rows),
        "solved": solved,
    }
    tables = {name: table for name, table in tables.items() if len(table)}
    said = answer(found, absent(fits, turned, solved))
    return Conclusion(said, tuple(found), parts(tables), tables, REMARKS)


def answer(findings: Iterable[Finding], missed: int = 0) -> Answer:
    """Controls first; then every finding that the rule names must be there and hold.

    A run that is lost makes its findings fail and its control undecided: that fails.

    Args:
        findings: of all parts.
        missed: runs that are not there for every seed; with any it does not hold.
    """
    found = {one.claim: one for one in findings}
    rule = [found[claim] for claim in RULE if claim in found]
    failed = [one for one in rule if one.verdict == "fails"]
    controls = [found[claim] for claim in CONTROLS if claim in found]
    broken = [one for one in controls if one.verdict != "holds"]
    if failed:
        # No finding stands on the runs of a client alone.
        broken = [one for one in broken if LOST not in one.words or one.claim == ALONE]
    if broken:
        return Answer("undecided", f"no answer, {broken[0].claim}: it does not show.")
    missing = [claim for claim in (*CONTROLS, *RULE) if claim not in found]
    if missing:
        count = f"{len(missing)} of the findings that the rule needs are not measured"
        return Answer("undecided", f"{count}: {missing[0]}.")
    said = "; ".join(
        f"{one.claim}: {number(one.estimate, 2)} "
        f"[{number(one.lower, 2)}, {number(one.upper, 2)}] ({one.words})"
        for one in rule
        if one.claim in SAID
    )
    if failed:
        one = failed[0]
        return Answer("fails", f"not so: {one.claim} ({one.words}); {said}.")
    if missed:
        return Answer(
            "undecided", f"{missed} runs are not there for every seed; {said}."
        )
    if {one.verdict for one in rule} == {"holds"}:
        return Answer("holds", f"{PLAIN} {said}.")
    open_ = next(one.claim for one in rule if one.verdict == "undecided")
    return Answer("undecided", f"not every interval allows an answer: {open_}; {said}.")


REMARKS = (
    "Sizes are cut: 40 points on the sphere in 128, 60 or 16 dimensions, 60 images; "
    "the paper's own sizes are not known to us.",
    "Of the paper only the abstract was read. The limits of regression, θ_K and the "
    "negative controls are derived in this project; the form of the anchored rule and "
    "its identity with Modified Local GD are recalled; what is said of the collapse, "
    "of 1/(η K t) and of the slow direction had only been seen numerically.",
    "A run shows that a direction gap falls, never where to. Modified Local GD was run "
    "with exact local solves only: its constant step size was not tested.",
    "Seeds are of samples and start; in the last layer of the network's weights.",
)


if __name__ == "__main__":
    main(__file__, conclude)
