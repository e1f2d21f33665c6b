"""Gradient drift of Local SGD on deep ReLU networks: what the rows say.

python analyses/11_deng2022_gradient_drift/analysis.py
    [--out reports/11_deng2022_gradient_drift] [--spec tiny.toml] [--render]
"""

import dataclasses
from typing import Any

import numpy as np
from drift_page import parts, remarks
from drift_tables import (
    CASE,
    UNKNOWN,
    against,
    cases,
    curves,
    exponent,
    exponents,
    flip_cells,
    interval,
    summary,
    told,
    widest_of,
)

from ntk_fed.analysis import main
from ntk_fed.measured import Enclosure, exact
from ntk_fed.report import Answer, Conclusion, finding
from ntk_fed.report.conclusion import Finding
from ntk_fed.report.words import number

# The thresholds of QUESTION.md.
DRIFT_GROWS, A_GROWS, CONTROL = 0.1, 0.25, 0.1
LINE, GROWS, KERNEL_GAP = 0.1, 0.5, 0.1
ABSTRACT = "Deng, Kamani, Mahdavi (2022): abstract"
CHANGES = f"{ABSTRACT} for 'does not change too much'; the bound is ours"
LEMMA = "Deng, Kamani, Mahdavi (2022): recalled, constants unverified"
RATE = "Deng, Kamani, Mahdavi (2022), as stated in Qin, Etesami, Uribe (2022), §1.1"
OURS = "derived in this project"

Frame = Any


def _said(
    found: list[Finding], claim: str, what: Enclosure | None, *rest: Any, **options: Any
) -> None:
    """Add a finding where there are numbers for it."""
    if what is not None:
        found.append(finding(claim, what, *rest, **options))


def decisive(table: Frame) -> list[Finding]:
    """The findings that the answer rests on."""
    relu = table[table["part"] == "width"]
    found: list[Finding] = []
    law = exponent(relu, "width", "relative drift")
    _said(
        found, "relative gradient drift does not grow with width", law, "<=",
        DRIFT_GROWS, source=CHANGES,
        words=f"exponent in width, mean over {told(relu, 'relative drift')}",
    )  # fmt: skip
    widest = relu[relu["width"] == relu["width"].max()]
    _said(
        found, "gradients at local and averaged model differ by less than the latter",
        interval(widest["relative drift"]), "<", 1.0, source=CHANGES,
        words="relative gradient drift at the last local step, width "
        f"{relu['width'].max()}, {told(widest, 'relative drift', positive=False)}",
    )  # fmt: skip
    if not np.isfinite(relu["relative drift"]).all():  # a run that diverged
        found = [dataclasses.replace(one, verdict="fails") for one in found]
    _said(
        found, "B falls with width: smooth in effect", exponent(relu, "width", "B"),
        "<", 0.0, source=LEMMA, words="exponent of B·s in width, s the stable step "
        f"size, mean over {told(relu, 'B')}",
    )  # fmt: skip
    _said(
        found, "A does not grow with width", exponent(relu, "width", "A"), "<=",
        A_GROWS, source=LEMMA,
        words=f"exponent of A·s² in width, mean over {told(relu, 'A')}",
    )  # fmt: skip
    if "broken" in table:
        gates = table[table["activation"] == "relu"]
        lost = int((~np.isfinite(gates["broken"])).sum())
        flipped = table["flipped"][np.isfinite(table["flipped"])]
        words = f"gates beyond it, of {int(flipped.sum())} that differ"
        _said(
            found, "every gate that differs is within the exact law",
            UNKNOWN if lost else exact(float(table["broken"].sum())), "<=", 0.0,
            words=f"{words}; unknown in {lost} runs" if lost else words, source=OURS,
        )  # fmt: skip
    return found


def controls(table: Frame) -> list[Finding]:
    """The negative controls, without which there is no answer."""
    found: list[Finding] = []
    _said(
        found, "the linear network shows no B", against(table, "B", "linear"), "<",
        float(np.log10(CONTROL)), source=OURS,
        words="log10 of its B·s over that of ReLU, seed by seed, at the largest "
        f"common width, {told(widest_of(table, 'linear'), 'B', positive=False)}",
    )  # fmt: skip
    relu = table[table["part"] == "width"]
    if "tenth" in relu and relu["seed"].nunique() > 1:
        shares = relu.groupby("seed")["tenth"].agg(lambda own: own.mean(skipna=False))
        _said(
            found, "a tenth of what the exact law allows is broken: the law can fail",
            interval(shares), ">", 0.0, source=OURS,
            words="share of the gates that differ, "
            f"{told(relu, 'tenth', positive=False)}",
        )  # fmt: skip
    return found


def answer(main_findings: list[Finding], control: list[Finding]) -> Answer:
    """The decision rule of QUESTION.md."""
    numbers = "; ".join(
        f"{one.claim}: {number(one.estimate)} [{number(one.lower)}, "
        f"{number(one.upper)}]"
        for one in (*main_findings, *control)
    )
    bad = [one.claim for one in control if one.verdict != "holds"]
    if bad or len(control) < 2 or len(main_findings) < 5:
        why = (
            f"a control has not held ({'; '.join(bad)})" if bad else "parts are missing"
        )
        return Answer("undecided", f"{why}. {numbers}.")
    verdicts = [one.verdict for one in main_findings]
    if "fails" in verdicts:
        lost = [one.claim for one in main_findings if one.verdict == "fails"]
        return Answer("fails", f"does not show here: {'; '.join(lost)}. {numbers}.")
    if "undecided" in verdicts:
        return Answer("undecided", f"some intervals reach across. {numbers}.")
    return Answer(
        "holds",
        "the paper's finding shows here: gradients at local models and at the averaged "
        f"model do not differ too much. {numbers}.",
    )


def kinks(table: Frame) -> list[Finding]:
    """Findings on the kink of the ReLU, beside the answer."""
    relu = table[table["part"] == "width"]
    found: list[Finding] = []
    _said(
        found, "what the kinks add to the gradient drift falls with width",
        exponent(relu, "width", "gate part"), "<", 0.0, source=OURS,
        words="exponent in width of its square over the loss, times s, mean over "
        f"{told(relu, 'gate part')}",
    )  # fmt: skip
    _said(
        found, "B falls with width in the units of the weights as well",
        exponent(relu, "width", "raw B"), "<", 0.0, source=LEMMA,
        words=f"exponent of B in width, mean over {told(relu, 'raw B')}",
    )  # fmt: skip
    slower = (
        "ReLU: not gradient-Lipschitz, squared drift falls slower than the square of "
        "the distance"
    )
    powers = (
        ("relu", "<", slower, ABSTRACT),
        ("linear", ">", "linear network: it falls as the square", OURS),
    )
    for activation, relation, claim, source in powers:
        own = table[(table["activation"] == activation) & (table["hidden"] == 3)]
        means = own.groupby("seed")["power"].agg(lambda one: one.mean(skipna=False))
        _said(
            found, claim, interval(means), relation, 1.99, source=source,
            words="exponent on the way from averaged to local model, "
            f"{told(own, 'power', positive=False)}",
        )  # fmt: skip
    _said(
        found, "a smooth activation has a B of less than a tenth",
        against(table, "B", "smooth_leaky_relu"), "<", float(np.log10(CONTROL)),
        words="log10 of its B·s over that of ReLU, seed by seed", source=OURS,
    )  # fmt: skip
    return found


def rates(slopes: Frame) -> list[Finding]:
    """Findings on the loss against rounds and its slope against K."""
    found: list[Finding] = []
    if slopes.empty or slopes["seed"].nunique() < 2:
        return found
    worst = slopes.groupby("seed")["deviation"].agg(lambda one: one.max(skipna=False))
    _said(
        found, "log loss against rounds is a line in the late half",
        interval(worst), "<=", LINE, source=LEMMA,
        words="largest distance from the line over the range, the worst K of each "
        f"of {told(slopes, 'deviation', positive=False)}",
    )  # fmt: skip
    for share, own in slopes.groupby("share"):
        what = f"at {share:g} of the stable step size, {told(own, 'slope')}"
        law = exponent(own, "local_steps", "slope")
        smallest = own["local_steps"].min()
        if smallest == 1:
            claim = "the slope per round grows with K while steps are small"
            _said(
                found, claim, law, ">", GROWS, source=OURS,
                words=f"exponent in K, {what}; the federated kernel says 1",
            )  # fmt: skip
            claim = "the slope per round does not grow with K"
            _said(
                found, claim, law, "<=", DRIFT_GROWS,
                words=f"exponent in K, {what}; a rate exp(−T/K) would have 0, as an "
                "upper bound it allows more", source=RATE,
            )  # fmt: skip
        else:
            claim = "it grows slower than K where clients are near their solutions"
            _said(
                found, claim, law, "<", GROWS, source=OURS,
                words=f"exponent in K from {smallest}, {what}",
            )  # fmt: skip
        ratio = own.assign(ratio=own["slope"] / own["kernel"])
        _said(
            found, "the federated kernel's exponent in K is not above the run's",
            exponent(ratio, "local_steps", "ratio"), ">=", -KERNEL_GAP, source=OURS,
            words=f"run less kernel, {what}",
        )  # fmt: skip
    return found


def conclude(rows: Frame) -> Conclusion:
    """The conclusion of these rows."""
    table, slopes, cells = cases(rows), curves(rows), flip_cells(rows)
    main_findings, control = decisive(table), controls(table)
    steps = cells[cells["step"] > 0]
    flips = exponent(steps, "moved", "flips")
    beside = kinks(table)
    _said(
        beside, "flips fall about in proportion to displacement", flips, ">", 2 / 3,
        words="exponent in ‖W_i − W̄‖ of the first trained layer, over widths and "
        f"local steps, mean over {told(steps, 'flips')}; a positive density of margins "
        "at 0 says 1",
        source=OURS,
    )  # fmt: skip
    tables = {
        "runs": table,
        "exponents": exponents(rows, table),
        "cells": cells,
        "slopes": slopes,
        "losses": rows[(rows["part"] == "rate") & (rows["kind"] == "loss")].reindex(
            columns=[*CASE, "round", "loss"]
        ),
        "summary": summary(table),
    }
    return Conclusion(
        answer(main_findings, control),
        (*main_findings, *control, *beside, *rates(slopes)),
        parts(tables),
        tables,
        remarks(rows, table),
    )


if __name__ == "__main__":
    main(__file__, conclude)
