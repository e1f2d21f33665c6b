"""Lazy or not: run what is missing, apply the decision rule, write the page.

python analyses/20_lazy_or_not/analysis.py [--out reports/20_lazy_or_not]
    [--spec tiny.toml] [--render]
"""

import math

import numpy as np
import pandas as pd
from lazy_page import LARGEST_ERROR, NOTHING, Table, parts, plain
from lazy_tables import (
    announcers,
    by_network,
    cells,
    choices,
    curves,
    exponent,
    extreme,
    finite,
    interval,
    kinds,
    of_the_seed,
    runs,
    tried,
)

from ntk_fed.analysis import main
from ntk_fed.measured import Enclosure
from ntk_fed.report import Answer, Conclusion, Finding, finding
from ntk_fed.report.words import number
from ntk_fed.scaling import rank_correlation_gain

OWN = "derived in this project, THEORY section 8"
REGRET, CHANCE = 1.05, 0.4
RIVALS = ("flips", "kernel change", "laziness")


def of_trajectories(kind: str, table: Table) -> dict[str, Finding]:
    """What the trajectories of one kind of network say, by a short name."""
    wide = table[table["width"] == table["width"].max()]
    seeds = f"{table['seed'].nunique()} seeds"
    error, where = extreme(wide, "error", largest=True)
    test, there = extreme(wide, "test", largest=True)
    rate, slow = extreme(wide, "rate", largest=False)
    found = {
        "trajectory": finding(
            f"{kind}: the largest prediction error of the widest network is below 5 % "
            "in every cell",
            error, "<", LARGEST_ERROR, source=OWN,
            words=f"{seeds}; worst cell: {where}",
        ),
        "rate": finding(
            f"{kind}: the widest network is at most 10 % slower than predicted",
            rate, ">", 0.9, source=OWN,
            words=f"late decline of log ‖r_t‖ over the predicted one, {seeds}; worst "
            f"cell: {slow}",
        ),
        "fast": finding(
            f"{kind}: the widest network is at most 10 % faster than predicted",
            extreme(wide, "rate", largest=True)[0], "<", 1.1, source=OWN,
            words=f"the same, fastest cell, {seeds}",
        ),
        "test": finding(
            f"{kind}: the change of the test outputs is told to 10 % in the widest "
            "network",
            test, "<", 0.1, words=f"{seeds}; worst cell: {there}", source=OWN,
        ),
    }  # fmt: skip
    if table["width"].nunique() > 1:
        found["width"] = finding(
            f"{kind}: the prediction error falls with width", exponent(table), "<", 0.0,
            words=f"exponent over all cells, seed by seed, {seeds}", source=OWN,
        )  # fmt: skip
        narrow = table[table["width"] == table["width"].min()]
        most, where = extreme(narrow, "error", largest=True)
        found["control"] = finding(
            f"{kind}, control: the narrowest network errs by more than 5 % in some "
            "cell",
            most, ">", LARGEST_ERROR, words=f"{seeds}; worst cell: {where}",
        )  # fmt: skip
    apart = table[table["split"] != "iid"]
    apart = apart[apart["local_steps"] == apart["local_steps"].max()]
    if len(apart) and apart["local_steps"].max() > 1:
        found["clients"] = finding(
            f"{kind}, control: a kernel that knows nothing of the clients errs more, "
            "sorted labels, largest K",
            _over_seeds(apart, apart["centralised"] / apart["error"], worst=0.0),
            ">", 1.0, words=f"its error over that of the federated kernel, {seeds}",
        )  # fmt: skip
    return found


def _over_seeds(table: Table, values: Table, *, worst: float) -> Enclosure:
    """Geometric mean over seeds, whose other cells are averaged first."""
    logs = np.log(values.astype(float).clip(lower=0.0, upper=math.inf))
    by_seed = np.exp(logs.groupby(table["seed"]).mean())
    return interval(by_seed, logarithms=True, worst=worst)


def of_choices(table: Table, what: str) -> dict[tuple[str, int], Finding]:
    """Is the kernel's choice as good as the best, for each network?"""
    found = {}
    for (kind, width), part in table.groupby(["kind", "width"], sort=False):
        hits = f"{int((part['told'] == part['best']).sum())} of {len(part)} the same"
        worst = number(float(part["worst"].median()), 2)
        found[kind, width] = finding(
            f"{kind}, width {width}: the {what} that the kernel calls best costs less "
            "than 5 % of loss",
            _over_seeds(part, part["regret"], worst=math.inf), "<", REGRET, source=OWN,
            words=f"loss there over the smallest; {hits}; the worst tried: {worst}",
        )  # fmt: skip
    return found


def beyond(rows: Table) -> Finding | None:
    """Above the stable server step sizes: does the network follow the kernel away?"""
    value = tried(rows, "over the limit")
    value = value[value["tried"] == 1.3]
    if value.empty:
        return None
    ratio = (value["loss"] / value["predicted loss"]).fillna(math.inf)
    middle = number(float(value["loss"].median()), 2)
    return finding(
        "1.3 times the largest stable server step size: the network stays far below "
        "the loss that the kernel predicts (it leaves the lazy regime)",
        _over_seeds(value, ratio, worst=math.inf), "<", 0.1, source=OWN,
        words="loss over the predicted loss after the last round, all networks; the "
        f"network's loss is {middle} in the median",
    )  # fmt: skip


def of_announcers(table: Table) -> dict[str, Finding]:
    """Does the linearisation gap tell most of the later error? And the control."""
    own = finite(table)
    gains = {}
    for name in RIVALS:
        gap, rival, error = (
            own["early linearisation gap"], own[f"early {name}"], own["error"],
        )  # fmt: skip
        gains[name] = NOTHING
        if min(one.nunique() for one in (own["seed"], gap, rival, error)) > 1:
            gains[name] = rank_correlation_gain(gap, rival, error, own["seed"])
    found = {
        f"gap {name}": finding(
            f"the linearisation gap after two rounds announces the error better than "
            f"{name} does",
            gain, ">", 0.0,
            words="difference of the rank correlations with the largest error, all "
            "trajectories; an interval of few seeds, which is short",
        )
        for name, gain in gains.items()
    }  # fmt: skip
    found["seed"] = finding(
        "control: the number of the seed announces nothing",
        of_the_seed(table), "<", CHANCE,
        words="size of its rank correlation with the error within cells",
    )  # fmt: skip
    return found


def conclude(rows: Table) -> Conclusion:
    """Findings, figures and the decision rule of QUESTION.md."""
    rows = kinds(rows)
    table = runs(rows)
    by_kind = {
        kind: of_trajectories(kind, own)
        for kind, own in table.groupby("kind", sort=False)
    }
    early = announcers(table)
    early_findings = of_announcers(table)
    steps = choices(rows, "local steps tried")
    servers = choices(rows, "server step tried")
    by_steps = of_choices(steps, "K")
    by_server = of_choices(servers, "server step size")
    over = beyond(rows)
    findings = [
        *(one for own in by_kind.values() for one in own.values()),
        *by_steps.values(),
        *by_server.values(),
        *([over] if over else []),
        *early_findings.values(),
    ]
    widest = max((w for kind, w in by_steps if kind == "MLP"), default=0)
    mlp, lenet = (by_kind.get(kind, {}) for kind in ("MLP", "LeNet"))
    deciding = {
        "largest error of the widest MLP": mlp.get("trajectory"),
        "exponent in width, MLP": mlp.get("width"),
        "exponent in width, LeNet": lenet.get("width"),
        "loss at its best K over the smallest": by_steps.get(("MLP", widest)),
        "control, error of the narrowest MLP": mlp.get("control"),
        "control, error of a kernel without clients over its own": mlp.get("clients"),
    }
    tables = {
        "runs": table,
        "cells": cells(table, "error"),
        "curves": curves(rows),
        "announcers": early,
        "by_network": by_network(table),
        "local_steps": tried(rows, "local steps tried"),
        "server_steps": tried(rows, "server step tried"),
        "limit": tried(rows, "over the limit"),
        "choices": pd.concat([steps.assign(of="K"), servers.assign(of="server step")]),
    }
    return Conclusion(
        decision(deciding),
        tuple(findings),
        parts(tables),
        tables,
        (
            *plain(mlp, lenet, tables["choices"], over),
            "Sizes are cut for two cores: 60 images instead of the whole training set, "
            "one output in most cells; full.toml has 1,000 images, ten outputs and "
            "widths to 8192. What is said here is said of these sizes.",
            "The kernel of the start predicts every round; nothing is fitted to the "
            "run. All formulas are derived in this project (THEORY section 8).",
        ),
    )


def decision(deciding: dict[str, Finding | None]) -> Answer:
    """The decision rule of QUESTION.md; the keys say each line in a few words."""
    known = {name: one for name, one in deciding.items() if one is not None}
    verdicts = [one.verdict for one in known.values()]
    words = "the kernel of the start does predict FedAvg at these sizes"
    if "fails" in verdicts:
        verdict, words = (
            "fails",
            "the kernel of the start does not do all that is asked",
        )
    elif len(known) == len(deciding) and set(verdicts) == {"holds"}:
        verdict = "holds"
    else:
        verdict, words = "undecided", "these runs do not decide"
    lines = "; ".join(
        f"{name} {number(one.estimate, 2)} [{number(one.lower, 2)}, "
        f"{number(one.upper, 2)}]"
        + ("" if one.verdict == "holds" else f" ({one.verdict})")
        for name, one in known.items()
    )
    lacking = len(deciding) - len(known)
    rest = f"; {lacking} of the rule's lines were not measured" if lacking else ""
    return Answer(verdict, f"{words}: {lines}{rest}.")


if __name__ == "__main__":  # worker processes import this file again
    main(__file__, conclude)
