"""Two phases of local SGD: exponents in K, theorems, instances; the decision rule."""

import math
from typing import Any

import numpy as np
import pandas as pd
import qin_rule as rule
from qin_claims import OURS, PAPER, TEXT, UNKNOWN, both, largest, mean
from qin_page import REMARKS, parts
from qin_tables import changes, curves, exponents, growth, held, instances, straight
from qin_tables import phases as phase_table

from ntk_fed import scaling
from ntk_fed.analysis import main
from ntk_fed.measured import exact
from ntk_fed.report import Conclusion, finding
from ntk_fed.report.conclusion import Finding

Table = Any

NEAR, ROUNDING = (0.9, 1.1), 1e-9
MARGIN = math.log(1.05)  # of a bend that is none
STRAIGHT = math.log(1.25)


def conclude(rows: Table) -> Conclusion:
    """The decision rule of QUESTION.md, on whatever parts there are."""
    runs, lines = phase_table(rows), straight(rows, "perceptron")
    steep, bounds, made = straight(rows, "strongly"), held(rows), instances(rows)
    met, bends = growth(rows), changes(rows)
    found = [*phase_findings(runs), *schedule_findings(runs)]
    found += [*growth_findings(met, runs), *change_findings(bends, runs)]
    found += [*perceptron_findings(lines), *strong_findings(steep)]
    found += [*bound_findings(bounds), *made_findings(made)]
    tables = {"phases": runs, "perceptrons": lines, "strongly": steep, "growth": met}
    tables |= {"bounds": bounds, "instances": made, "changes": bends}
    for name in ("phases", "perceptron", "strongly"):
        tables[f"{name}_curves"] = curves(rows, name)
    tables = {name: table for name, table in tables.items() if len(table)}
    shown = parts(tables)
    return Conclusion(rule.answer(found), tuple(found), shown, tables, REMARKS)


def phase_findings(runs: Table) -> list[Finding]:
    """Exponents of the slope in K, in both windows of loss, and what they rest on."""
    found, main_runs = [], runs[runs["what"] == "main"]
    for split, own in main_runs.groupby("split", sort=False):
        if own["local_steps"].nunique() < 2:
            continue
        ks = rule.SPLITS.get(str(split), rule.FEW)
        missing = rule.lacking(own, {"local_steps": ks})
        one, two = rule.first(str(split)), rule.second(str(split))
        for names, column, words in (
            (one, "first", "slope per round, 1/loss 0.6 to 5"),
            (two, "second", "slope per iteration, 1/loss 500 to 1000"),
        ):
            if own[column].isna().all() and missing:
                continue
            values = exponents(own, column)
            names = rule.named(names[0], missing), rule.named(names[1], missing)
            found += both(names, values, -rule.QUARTER, rule.QUARTER, words)
        largest_ks = own[own["local_steps"].isin(sorted(set(own["local_steps"]))[-2:])]
        if not own["second"].isna().all():
            values, claim = exponents(largest_ks, "second"), rule.tail(str(split))
            claim, words = rule.named(claim, missing), f"exponent in K of the {words}"
            found.append(mean(claim, values, ">", -rule.QUARTER, words, OURS))
        if own["between"].isna().all():
            continue
        claim = f"{split}: the exponent per iteration is nearer to 0 than it was before"
        gain = exponents(own, "between").abs() - exponents(own, "second").abs()
        words = "by how much; before is 1/loss 100 to 200"
        found.append(mean(rule.named(claim, missing), gain, ">", 0.0, words, OURS))
    words = "exponent in K of the slope per round, 1/loss 0.6 to 5"
    for what, claim, relation, bound in rule.FOLLOW:
        own = runs[runs["what"] == what]
        if own["local_steps"].nunique() > 1:
            few = what == "500 images"
            values = exponents(own, "early" if few else "first")
            ks = rule.ALONE_KS if what == "one client" else rule.ENDS
            claim = rule.named(claim, rule.lacking(own, {"local_steps": ks}))
            told = words.replace("5", "1") if few else words
            found.append(mean(claim, values, relation, bound, told, OURS))
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
            adaptive - other, "<", 0.0, words, OURS,
        )
        for name, other in found
        if len(adaptive) and len(other)
    ]  # fmt: skip


def growth_findings(met: Table, runs: Table) -> list[Finding]:
    """E3: gradients of single samples over the global one."""
    if met.empty:
        return []
    missing = rule.lacking(met, rule.GROWTH_CELLS)
    lost = _main(runs, met)
    lost = lost.loc[lost["lost"].astype(bool), ["seed"]].assign(r=math.nan, round=1)
    whole = met[["seed", "round", "r"]]
    if len(lost):
        whole = pd.concat([whole, lost])
    middle = whole[whole["round"] > 0].groupby("seed")["r"]
    claim = "r, the largest gradient of a sample over the global, stays below 4000"
    later = "r settles above 170, a third of the paper's 500"
    return [
        largest(
            rule.named(claim, missing), whole["r"], "<", 4000.0,
            f"largest of {len(whole)} looks at runs of all K", PAPER,
        ),
        mean(
            rule.named(later, missing),
            middle.agg(lambda v: v.median(skipna=False)), ">", 170.0,
            "median over the looks after the start", PAPER,
        ),
    ]  # fmt: skip


def change_findings(bends: Table, runs: Table) -> list[Finding]:
    """Can a change of slope be told in single runs?"""
    if bends.empty:
        return []
    own, whole = bends[bends["local_steps"] > 1], _main(runs, bends)
    whole = int((whole["local_steps"] > 1).sum())
    count, unknown = int((own["two phases"] > 0).sum()), whole - len(own)
    if not whole:
        return []
    words = f"{count} of {whole} runs; undecided where 1/loss bends all along"
    share = scaling.clopper_pearson(count, whole)
    if unknown > 0:
        share, words = UNKNOWN, f"{words}; {unknown} of them not looked at, or lost"
    claim = "two joined lines describe 1/loss in most runs with K above 1"
    source = f"{PAPER}; the test is {OURS}"
    return [finding(claim, share, ">", 0.5, source=source, words=words)]


def perceptron_findings(lines: Table) -> list[Finding]:
    """E2: slopes in proportion to K, in three partitions; how slow the worst is."""
    if lines.empty:
        return []
    found, uniform = [], lines[lines["weights"] == "uniform"]
    for split, own in uniform.groupby("split", sort=False):
        missing = rule.lacking(own, {"local_steps": rule.FEW})
        if set(rule.FEW) <= set(own["local_steps"]):
            words = "slope per round, second half of the run"
            names = rule.linear(str(split))
            names = rule.named(names[0], missing), rule.named(names[1], missing)
            found += both(names, exponents(own, "inverse slope"), *NEAR, words)
        bend = own.groupby("seed")["inverse bend"].agg(_furthest)
        claim = f"perceptron, {split}: 1/loss is a line, to 20 %"
        words = "size of the log of the last quarter's slope over that before, worst K"
        found.append(mean(claim, bend, "<", STRAIGHT, words, PAPER))
    bend = lines.groupby("seed")["log bend"].agg(lambda v: v.max(skipna=False))
    words = "log of the last quarter's slope over that before, worst run"
    claim = rule.named(rule.FLAT, rule.lacking(uniform, rule.PERCEPTRON_CELLS))
    found.append(mean(claim, bend, "<", -MARGIN, words, OURS))
    five = lines[lines["local_steps"] == 5]
    even = (five["split"] == "iid") & (five["weights"] == "uniform")
    even, worst = _by_seed(five[even], "same"), "perceptron, all data on one client"
    for weights, claim, relation, bound in (
        ("uniform", "uniform weights: more than 5 times as slow", ">", math.log(5)),
        ("uniform", "uniform weights: less than 20 times as slow", "<", math.log(20)),
        ("samples", "weights by samples: at most 10 % slower", "<", math.log(1.1)),
    ):
        own = five[(five["split"] == "single") & (five["weights"] == weights)]
        if len(own) and len(even):
            values = np.log(_by_seed(own, "same") / even)
            words = "log of rounds to loss 0.25 over those of the even split, K = 5"
            name = f"{worst}, {claim}"
            found.append(mean(name, values, relation, bound, words, OURS))
    return found


def strong_findings(steep: Table) -> list[Finding]:
    """E4: log loss is a line, and its slope proportional to K."""
    if steep.empty:
        return []
    by_seed, missing = steep.groupby("seed"), rule.lacking(steep, rule.STRONGLY)
    bend = by_seed["log bend"].agg(_furthest)
    curved = by_seed["inverse bend"].agg(lambda v: v.min(skipna=False))
    words = "log of the last quarter's slope over that before, worst K"
    claim = "strongly convex: slope of log loss proportional to K, exponent"
    names = f"{claim} above 0.9", f"{claim} below 1.1"
    found = [
        mean("strongly convex: log loss is a line, to 20 %", bend, "<", STRAIGHT,
             f"size of the {words}", PAPER),
        mean(rule.named(rule.CURVED, missing), curved, ">", MARGIN, words, OURS),
    ]  # fmt: skip
    if steep["local_steps"].nunique() > 1:
        values = exponents(steep, "log slope")
        found += both(names, values, *NEAR, "slope per round, second half")
    return found


def bound_findings(bounds: Table) -> list[Finding]:
    """Measured over bound: the worst of all runs, none left out."""
    found, missing = [], False
    for (part, theorem), claim in rule.BOUNDS.items():
        own = bounds[(bounds["part"] == part) & (bounds["theorem"] == theorem)]
        few = rule.lacking(own, rule.STRONGLY if part == "strongly" else rule.THEOREMS)
        missing |= few
        if len(own):
            name = rule.named(claim, few)
            words = f"largest measured over bound of {len(own)} runs"
            found.append(largest(name, own["over"], "<=", 1.0, words, TEXT))
    own = bounds[bounds["part"].isin(["theorems", "strongly"])]
    if len(own):
        words = f"share of {len(own)} checks"
        share = exact(float((own["conditions"] == 1).mean()))
        name = rule.named(rule.MET, missing)
        found.append(finding(name, share, ">=", 1.0, words=words, source=OURS))
    return found


def made_findings(made: Table) -> list[Finding]:
    """Propositions 1 and 2 as FedAvg runs them, and the slips."""
    found = []
    one, two, three = (made[made["number"] == n] for n in (1, 2, 3))
    few1, few2 = (
        rule.lacking(one, rule.PROPOSITION1, 1),
        rule.lacking(two, rule.PROPOSITION2, 1),
    )
    if len(one) and len(two):
        errors = pd.concat([one["closed form error"], two["closed form error"]])
        words = f"largest relative error of {len(errors)} runs"
        claim = rule.named(rule.FORMS, few1, few2)
        found.append(largest(claim, errors, "<=", ROUNDING, words, OURS))
    if len(one):
        words = f"smallest gap over bound of {len(one)} runs, step sizes up to 1/L"
        claim, values = rule.named(rule.LEAST, few1), one["gap over bound"]
        found.append(largest(claim, values, ">=", 1.0, words, TEXT))
    if len(two):
        near, far = (two[(two["step_size"] > 1) == over] for over in (False, True))
        for claim, own, relation in ((rule.ABOVE, far, ">"), (rule.BELOW, near, "<")):
            if len(own):
                words = f"factor of a round, worst of {len(own)} K"
                name, values = rule.named(claim, few2), own["factor"]
                found.append(largest(name, values, relation, 1.0, words, OURS))
        for claim, name, relation, bound in rule.SLIPS:
            words = f"as met, worst of {len(two)} runs"
            found.append(largest(claim, two[name], relation, bound, words, OURS))
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


def _main(runs: Table, table: Table) -> Table:
    """The main runs of the splits that a table has."""
    return runs[(runs["what"] == "main") & runs["split"].isin(set(table["split"]))]


def _last(own: Table) -> Table:
    """By seed: log of the last loss; NaN where a run was lost."""
    values = own["last"].where(~own["lost"].astype(bool) & (own["last"] > 0))
    return pd.Series(np.log(values.to_numpy(float)), index=own["seed"])


def _by_seed(own: Table, name: str) -> Table:
    return own.set_index("seed")[name]


def _furthest(bends: Table) -> float:
    return bends.abs().max(skipna=False)


if __name__ == "__main__":
    main(__file__, conclude)
