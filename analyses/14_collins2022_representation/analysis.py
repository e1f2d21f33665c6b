"""Representation learning by FedAvg: run what is missing, decide, write the page.

python analyses/14_collins2022_representation/analysis.py [--spec tiny.toml] [--render]
    [--out reports/14_collins2022_representation]
"""

import math
from collections.abc import Iterable
from typing import Any

from collins_findings import CONTROLS, RULE, all_findings
from collins_images import at_loss, helped, shows
from collins_page import parts
from collins_tables import (
    absent,
    conditions,
    curves,
    images,
    linear,
    new_clients,
    samples,
)

from ntk_fed.analysis import main
from ntk_fed.report import Answer, Conclusion, Finding
from ntk_fed.report.words import number

Rows = Any  # a pandas table

REMARKS = (
    "Sizes are cut: d up to 200 and 100 clients on population losses; images of 14×14 "
    "pixels, a few hundred of them, and a LeNet of half the usual widths.",
    "That FedAvg learns the representation, D-GD does not and generalises worse to new "
    "clients is the paper's abstract. That D-GD keeps 0.7 of its first dist is "
    "recalled. The contraction, the controls and the fine-tuning formula are derived "
    "in this project. The design of the image version is ours.",
    "The paper's rate 1/(η² K μ²) hides a constant and is not tested; the contraction "
    "near the truth takes its place.",
    "Each seed draws its own problem, and its own images, split, weights and new "
    "clients; comparisons of K are over pairs of equal seeds.",
)


def conclude(rows: Rows) -> Conclusion:
    """The decision rule of QUESTION.md, on whatever parts there are."""
    rows = conditions(rows)
    tables = {
        "linear": linear(rows),
        "samples": samples(rows),
        "new_clients": new_clients(rows),
        "images": images(rows),
        "dist": curves(rows, "dist"),
        "loss": curves(rows, "excess loss"),
    }
    found = all_findings(tables)
    there = {name: table for name, table in tables.items() if len(table)}
    missed = absent(tables["linear"], tables["new_clients"])
    said = answer(found, missed)
    return Conclusion(said, tuple(found), parts(there), there, REMARKS)


def answer(findings: Iterable[Finding], missed: int = 0) -> Answer:
    """Controls first; then every finding that the rule names must be there and hold.

    Args:
        findings: of all parts.
        missed: runs that are not there for every seed; with any there is no answer.
    """
    found = {one.claim: one for one in findings}
    said = f"Images: {_images(found)}"
    missing = [claim for claim in (*CONTROLS, *RULE) if claim not in found]
    if any(found[claim].verdict != "holds" for claim in CONTROLS if claim in found):
        words = "a control does not show what it must: no answer"
        return Answer("undecided", f"{words}. {said}")
    if missing:
        count = f"{len(missing)} of the findings that the rule needs are not measured"
        return Answer("undecided", f"{count}: {missing[0]}. {said}")
    if missed:
        return Answer(
            "undecided", f"{missed} runs are not there for every seed. {said}"
        )
    rule = [found[claim] for claim in RULE]
    failed = [one for one in rule if one.verdict == "fails"]
    if failed:
        first = f"{failed[0].claim} ({_numbers(failed[0])}; {failed[0].words})"
        return Answer("fails", f"linear problem: not so: {first}. {said}")
    unclear = [one for one in rule if one.verdict != "holds"]
    if unclear:
        first = f"{unclear[0].claim} ({_numbers(unclear[0])})"
        return Answer("undecided", f"linear problem: not decided: {first}. {said}")
    return Answer("holds", f"{_linear(found)} {said}")


def _linear(found: dict[str, Finding]) -> str:
    """The decisive numbers of the linear problem, all of whose findings hold."""

    def worst(start: str) -> Finding:
        own = [found[claim] for claim in RULE if claim.startswith(start)]
        return max(own, key=lambda one: one.upper)

    gap = max(
        (found[claim] for claim in RULE if "late contraction" in claim),
        key=lambda one: one.upper,
    )
    off = worst("fine-tuning, n = 12, K")
    return (
        "linear problem: near the truth FedAvg (K = 2, 5, 10) learns the truth at "
        f"the rate of the formula (off by {number(gap.upper, 2)} per round at most, in "
        "the mean), D-GD keeps 0.7 of its dist although its loss goes to zero; from a "
        "random start FedAvg ends below D-GD; identical heads are not learnt from, "
        "heads of three directions in their span only; new clients pay the excess "
        f"risk of the formula (n = 12: within {number(off.upper, 2)}) and less after "
        "K = 10."
    )


def _images(found: dict[str, Finding]) -> str:
    """Whether the finding shows in images, kind by kind."""
    marks = {claim: one for claim, one in found.items() if _is_shown(claim)}
    if not marks:
        return "not measured."
    words = {
        "holds": "shows",
        "fails": "the opposite shows",
        "undecided": "does not show",
    }
    lines = []
    for claim, one in marks.items():
        kind = claim.removeprefix("images, ").split(": ")[0]
        level = found.get(at_loss(kind))
        verdict = words[one.verdict]
        controls = [
            one for start, one in found.items() if start.startswith(helped(kind))
        ]
        if not math.isfinite(one.estimate):
            verdict = "cannot be told, runs are lost or too few"
        if any(control.verdict != "holds" for control in controls):
            verdict = "cannot be told, training did not surely help"
        if level is None or level.verdict != "holds":
            verdict = "cannot be told, losses differ"
        lines.append(f"{kind}: {verdict}, {_numbers(one)}")
    return f"accuracy of new clients, large K less K = 1: {'; '.join(lines)}."


def _is_shown(claim: str) -> bool:
    kind = claim.removeprefix("images, ").split(": ")[0]
    return claim == shows(kind)


def _numbers(one: Finding) -> str:
    return f"{number(one.estimate)} [{number(one.lower)}, {number(one.upper)}]"


if __name__ == "__main__":  # worker processes import this file again
    main(__file__, conclude)
