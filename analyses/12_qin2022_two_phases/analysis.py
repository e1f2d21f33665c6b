"""Two phases of local SGD: exponents in K, theorems, instances; the decision rule."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from qin_page import REMARKS, parts
from qin_tables import changes, curves, exponents, growth, held, instances, straight
from qin_tables import phases as phase_table

from ntk_fed import scaling
from ntk_fed.analysis import main
from ntk_fed.measured import Enclosure, exact
from ntk_fed.report import Answer, Conclusion, finding
from ntk_fed.report.conclusion import Finding
from ntk_fed.report.words import number

Table = Any

PAPER = "Qin, Etesami, Uribe (2022), section 5, full text"
OURS = "derived in this project"
QUARTER, NEAR, ROUNDING = 0.25, (0.9, 1.1), 1e-9
MARGIN = math.log(1.05)  # of a bend that is none
KS, FEW = (1, 2, 5, 10, 20), (1, 5, 20)
SPLITS = {"one label": KS, "two labels": FEW}
PERCEPTRONS = ("iid", "slices", "single")
PART = " (not all K of the rule)"
UNKNOWN = Enclosure(math.nan, -math.inf, math.inf)


def first(split: str) -> tuple[str, str]:
    """The slope per round does not grow with K."""
    name = f"first phase, {split}: the slope per round does not depend on K, exponent"
    return f"{name} above −¼", f"{name} below ¼"


def second(split: str) -> tuple[str, str]:
    """The slope per iteration is the same for all K."""
    name = f"second phase, {split}: one slope per iteration for all K, exponent"
    return f"{name} above −¼", f"{name} below ¼"


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
BOUNDS = {
    ("theorems", "theorem1"): "Theorem 1's bound is kept in every run",
    ("theorems", "theorem2"): "Theorem 2's bound is kept in every run",
    ("strongly", "theorem3"): "Theorem 3's bound is kept in every run",
    ("theorems", "lemma4"): "Lemma 4 holds at every iteration",
    ("theorems", "lemma5"): "Lemma 5 holds at every iteration",
}
MET = "the theorems' conditions are met in every run"
FORMS = "Propositions 1 and 2: FedAvg follows the closed forms"
LEAST = "Proposition 1: no step size brings the gap below KL/(16T)"
ABOVE = "Proposition 2: 5 % above the derived threshold the instance diverges"
BELOW = "Proposition 2: 5 % below it, it does not"
RULE = (
    *(claim for split in SPLITS for of in (first, second) for claim in of(split)),
    *(claim for split in PERCEPTRONS for claim in linear(split)),
    *list(BOUNDS.values())[:3], MET, FORMS, LEAST, ABOVE, BELOW,
)  # fmt: skip


def conclude(rows: Table) -> Conclusion:
    """The decision rule of QUESTION.md, on whatever parts there are."""
    runs, lines = phase_table(rows), straight(rows, "perceptron")
    steep, bounds, made = straight(rows, "strongly"), held(rows), instances(rows)
    met, bends = growth(rows), changes(rows)
    found = [*phase_findings(runs), *schedule_findings(runs), *growth_findings(met)]
    found += [*change_findings(bends), *perceptron_findings(lines)]
    found += [*strong_findings(steep), *bound_findings(bounds), *made_findings(made)]
    tables = {"phases": runs, "perceptrons": lines, "strongly": steep, "growth": met}
    tables |= {"bounds": bounds, "instances": made, "changes": bends}
    for name in ("phases", "perceptron", "strongly"):
        tables[f"{name}_curves"] = curves(rows, name)
    tables = {name: table for name, table in tables.items() if len(table)}
    shown = parts(tables)
    return Conclusion(answer(found), tuple(found), shown, tables, REMARKS)


def phase_findings(runs: Table) -> list[Finding]:
    """Exponents of the slope in K, in both windows of loss, and what they rest on."""
    found, main_runs = [], runs[runs["what"] == "main"]
    for split, own in main_runs.groupby("split", sort=False):
        if own["local_steps"].nunique() < 2:
            continue
        whole = set(own["local_steps"]) == set(SPLITS.get(str(split), ()))
        rest = "" if whole else PART
        for names, column, words in (
            (first(str(split)), "first", "slope per round, 1/loss 0.6 to 5"),
            (second(str(split)), "second", "slope per iteration, 1/loss 500 to 1000"),
        ):  # fmt: skip
            if own[column].isna().all() and not whole:
                continue
            values, names = exponents(own, column), (names[0] + rest, names[1] + rest)
            found += both(names, values, -QUARTER, QUARTER, words)
        if own["between"].isna().all():
            continue
        claim = f"{split}: the exponent per iteration is nearer to 0 than it was before"
        gain = exponents(own, "second") - exponents(own, "between")
        words = "its difference to that at 1/loss 100 to 200"
        found.append(mean(claim, gain, ">", 0.0, words, OURS))
    words = "exponent in K of the slope per round, 1/loss 0.6 to 5 (500 images: to 1)"
    for what, claim, relation, bound in FOLLOW:
        own = runs[runs["what"] == what]
        if own["local_steps"].nunique() > 1:
            column = "early" if what == "500 images" else "first"
            values = exponents(own, column)
            found.append(mean(claim, values, relation, bound, words, OURS))
    return found


def schedule_findings(runs: Table) -> list[Finding]:
    """Few local steps first and many later, against one K, at equal communication."""
    own = runs[runs["what"].isin(["constant", "adaptive", "reversed"])]
    found, adaptive = [], _last(own[own["what"] == "adaptive"])
    constant = own[own["what"] == "constant"]
    for name, other in (
        ("K = 10 throughout, as many iterations", constant["local_steps"] == 10),
        ("K = 1 throughout, fewer iterations", constant["local_steps"] == 1),
    ):
        found.append((name, _last(constant[other])))
    found.append(
        ("many first and 1 later, as many", _last(own[own["what"] == "reversed"]))
    )
    words = "log of its last loss over the other's, 60 rounds each"
    return [
        mean(
            f"1 local step first, 13 later, ends lower than {name}",
            adaptive - other, "<", 0.0, words, PAPER,
        )
        for name, other in found
        if len(adaptive) and len(other)
    ]  # fmt: skip


def growth_findings(met: Table) -> list[Finding]:
    """E3: gradients of single samples over the global one."""
    if met.empty:
        return []
    by_seed = met.groupby("seed")["r"].agg(lambda one: one.max(skipna=False))
    words = "largest r of a seed, all K, five looks a run"
    return [
        mean("r, the largest gradient of a sample over the global, stays below 4000",
             by_seed, "<", 4000.0, words, PAPER),
        mean("r settles near 500, above 170",
             met[met["round"] > 0].groupby("seed")["r"].median(), ">", 170.0,
             "median over the looks after the start", PAPER),
    ]  # fmt: skip


def change_findings(bends: Table) -> list[Finding]:
    """Can a change of slope be told in single runs?"""
    own = bends[(bends["local_steps"] > 1) & bends["two phases"].notna()]
    if own.empty:
        return []
    count, runs = int((own["two phases"] > 0).sum()), len(own)
    return [
        finding(
            "two joined lines describe 1/loss in most runs with K above 1",
            scaling.clopper_pearson(count, runs), ">", 0.5, source=PAPER,
            words=f"{count} of {runs} runs; undecided where 1/loss bends all along",
        )
    ]  # fmt: skip


def perceptron_findings(lines: Table) -> list[Finding]:
    """E2: slopes in proportion to K, in three partitions; how slow the worst is."""
    if lines.empty:
        return []
    found, uniform = [], lines[lines["weights"] == "uniform"]
    for split, own in uniform.groupby("split", sort=False):
        if set(FEW) <= set(own["local_steps"]):
            words = "slope per round, second half of 2,000 iterations"
            values = exponents(own, "inverse slope")
            found += both(linear(str(split)), values, *NEAR, words)
        bend = own.groupby("seed")["inverse bend"].agg(lambda v: v.min(skipna=False))
        claim = (
            f"perceptron, {split}: 1/loss is a line, last quarter at least 0.8 times"
        )
        words = "log of its slope over that of the quarter before, worst K"
        found.append(mean(claim, bend, ">", math.log(0.8), words, PAPER))
    bend = lines.groupby("seed")["log bend"].agg(lambda v: v.max(skipna=False))
    words = "log of the last quarter's slope over that before, worst run"
    found.append(mean(FLAT, bend, "<", -MARGIN, words, OURS))
    five = lines[lines["local_steps"] == 5]
    even = _by_seed(five[(five["split"] == "iid")], "same")
    for weights, claim, relation, bound in (
        ("uniform", "perceptron, all data on one client, uniform weights: more than 5 "
         "times as slow", ">", math.log(5)),
        ("samples", "perceptron, all data on one client, weights by samples: at most "
         "10 % slower", "<", math.log(1.1)),
    ):  # fmt: skip
        own = five[(five["split"] == "single") & (five["weights"] == weights)]
        if len(own) and len(even):
            values = np.log(_by_seed(own, "same") / even)
            words = "log of rounds to loss 0.25 over those of the even split, K = 5"
            found.append(mean(claim, values, relation, bound, words, OURS))
    return found


def strong_findings(steep: Table) -> list[Finding]:
    """E4: log loss is a line, and its slope proportional to K."""
    if steep.empty:
        return []
    by_seed = steep.groupby("seed")
    bend = by_seed["log bend"].agg(lambda v: v.abs().max(skipna=False))
    curved = by_seed["inverse bend"].agg(lambda v: v.min(skipna=False))
    words = "log of the last quarter's slope over that before, worst K"
    claim = "strongly convex: slope of log loss proportional to K, exponent"
    names = f"{claim} above 0.9", f"{claim} below 1.1"
    found = [
        mean("strongly convex: log loss is a line, to 20 %", bend, "<", math.log(1.25),
             words, PAPER),
        mean(CURVED, curved, ">", MARGIN, words, OURS),
    ]  # fmt: skip
    if steep["local_steps"].nunique() > 1:
        values = exponents(steep, "log slope")
        found += both(names, values, *NEAR, "slope per round, second half")
    return found


def bound_findings(bounds: Table) -> list[Finding]:
    """Measured over bound: the worst of all runs, none left out."""
    found = []
    for (part, theorem), claim in BOUNDS.items():
        own = bounds[(bounds["part"] == part) & (bounds["theorem"] == theorem)]
        if len(own):
            words = f"largest measured over bound of {len(own)} runs"
            found.append(largest(claim, own["over"], "<=", 1.0, words, PAPER))
    own = bounds[bounds["part"].isin(["theorems", "strongly"])]
    if len(own):
        words = f"share of {len(own)} checks"
        share = exact(float((own["conditions"] == 1).mean()))
        found.append(finding(MET, share, ">=", 1.0, words=words, source=OURS))
    return found


def made_findings(made: Table) -> list[Finding]:
    """Propositions 1 and 2 as FedAvg runs them, and the slips."""
    found = []
    if made.empty:
        return found
    one, two, three = (made[made["number"] == n] for n in (1, 2, 3))
    both_run = pd.concat([one, two])
    if len(one) and len(two):
        words = f"largest relative error of {len(both_run)} runs"
        errors = both_run["closed form error"]
        found.append(largest(FORMS, errors, "<=", ROUNDING, words, OURS))
    if len(one):
        words = f"smallest gap over bound of {len(one)} runs"
        found.append(largest(LEAST, one["gap over bound"], ">=", 1.0, words, PAPER))
    if len(two):
        near, far = (two[(two["step_size"] > 1) == over] for over in (False, True))
        for claim, own, relation in ((ABOVE, far, ">"), (BELOW, near, "<")):
            if len(own):
                words = f"factor of a round, worst of {len(own)} K"
                found.append(largest(claim, own["factor"], relation, 1.0, words, OURS))
        for claim, name, relation, bound in SLIPS:
            found.append(largest(claim, two[name], relation, bound, "as met", OURS))
    for claim, own, relation in (
        ("slip: gradient descent converges at 1.5/L, where the text has it diverge",
         three[three["step_size"] == 1.5], "<"),
        ("slip: gradient descent diverges above 2/L", three[three["step_size"] > 2],
         ">"),
    ):  # fmt: skip
        if len(own):
            words = "factor of a step"
            found.append(largest(claim, own["factor"], relation, 1.0, words, OURS))
    return found


SLIPS = (
    ("slip: the mean loss of Proposition 2's instance is below (L/4) x²: (L/8) x²",
     "mean loss at 1 over L", "<", 0.2),
    ("slip: ρ of that instance is above 2: 16", "ρ met", ">", 2.0),
    ("at 2/(LK) its squared gradient stays above L²/64, the corrected bound",
     "smallest squared gradient at 2/(LK) over L²", ">=", 1 / 64),
    ("Theorem 2 with ρ = 16 is kept by that instance", "theorem2: measured over bound",
     "<=", 1.0),
)  # fmt: skip


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
    said = "; ".join(
        f"{one.claim.rsplit(', exponent', 1)[0]}: exponent {number(one.estimate, 2)} "
        f"[{number(one.lower, 2)}, {number(one.upper, 2)}]"
        for one in rule
        if "exponent above" in one.claim
    )
    verdicts = {one.verdict for one in rule}
    if "fails" in verdicts:
        failed = next(one for one in rule if one.verdict == "fails")
        return Answer("fails", f"not so: {failed.claim} ({failed.words}); {said}.")
    if verdicts == {"holds"}:
        return Answer("holds", f"both phases show, and no bound is exceeded. {said}.")
    return Answer("undecided", f"not every interval allows an answer. {said}.")


def mean(
    claim: str, values: Table, relation: str, bound: float, words: str, source: str
) -> Finding:
    """A claim on a mean over seeds; undecided where one of the numbers is unknown."""
    usable = np.isfinite(values.to_numpy(float))
    found, words = UNKNOWN, f"{words}, {len(values)} seeds"
    if not usable.all():
        words += f"; {int((~usable).sum())} of them not finite, or not reached"
    elif len(values) > 1:
        found = scaling.mean_interval(values)
    return finding(claim, found, relation, bound, words=words, source=source)


def both(
    names: tuple[str, str], values: Table, lower: float, upper: float, words: str
) -> list[Finding]:
    """An exponent between two numbers: two findings."""
    words = f"exponent in K of the {words}"
    return [
        mean(names[0], values, ">", lower, words, PAPER),
        mean(names[1], values, "<", upper, words, PAPER),
    ]


def largest(
    claim: str, values: Table, relation: str, bound: float, words: str, source: str
) -> Finding:
    """A claim on every run, held against the worst; a lost number fails it."""
    finite = np.isfinite(values.to_numpy(float))
    if not finite.all():
        words += f"; {int((~finite).sum())} of {len(values)} runs not finite"
        one = finding(claim, UNKNOWN, relation, bound, words=words, source=source)
        return dataclasses.replace(one, verdict="fails")
    worst = values.min() if relation.startswith(">") else values.max()
    return finding(
        claim, exact(float(worst)), relation, bound, words=words, source=source
    )


def _last(own: Table) -> Table:
    """By seed: log of the last loss; NaN where a run was lost."""
    values = own["last"].where(~own["lost"].astype(bool) & (own["last"] > 0))
    return pd.Series(np.log(values.to_numpy(float)), index=own["seed"])


def _by_seed(own: Table, name: str) -> Table:
    return own.set_index("seed")[name]


if __name__ == "__main__":
    main(__file__, conclude)
