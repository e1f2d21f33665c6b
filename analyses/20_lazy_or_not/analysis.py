"""Lazy or not: run what is missing, apply the decision rule, write the page.

python analyses/20_lazy_or_not/analysis.py [--out reports/20_lazy_or_not]
    [--spec tiny.toml] [--render]
"""

from typing import Any

import numpy as np
import pandas as pd
from lazy_page import EARLY, LARGEST_ERROR, SEED, Table, parts

from ntk_fed.analysis import main
from ntk_fed.measured import Enclosure
from ntk_fed.report import Answer, Conclusion, Finding, finding
from ntk_fed.report.words import number
from ntk_fed.scaling import geometric_mean_interval, power_law, rank_correlation

OWN = "derived in this project, THEORY section 8"
REGRET, CHANCE = 1.05, 0.4
RUN = ["kind", "width", "local_steps", "split", "seed"]
GAP = "linearisation gap after two rounds"


def kinds(rows: Table) -> Table:
    """Rows with the kind of network in one word."""
    names = {"mlp": "MLP", "lenet": "LeNet"}
    kind = rows["network"].map(names)
    return rows.assign(kind=kind.where(rows["outputs"] == 1, kind + ", ten outputs"))


def runs(rows: Table) -> Table:
    """One row per trajectory: errors, rates, and what was seen early."""
    own = rows[rows["part"] == "trajectory"]
    return pd.DataFrame(
        [_run(dict(zip(RUN, k, strict=True)), part) for k, part in own.groupby(RUN)]
    )


def _run(fields: dict[str, Any], part: Table) -> dict[str, Any]:
    value = part.pivot_table(index="round", columns="quantity", values="value")
    last, half = value.index.max(), value.index.max() // 2
    decline = {
        name: np.log(value.loc[half, name] / value.loc[last, name])
        for name in ("residual norm", "predicted residual norm")
    }
    first = value["linearisation gap"].drop(0, errors="ignore").first_valid_index()
    early = {f"early {name}": value.loc[first, name] for name in EARLY}
    return fields | early | {
        "error": value["prediction error"].max(),
        "centralised": value["centralised error"].max(),
        "rate": decline["residual norm"] / decline["predicted residual norm"],
        "test": value.loc[last, "test error"] / value.loc[last, "test movement"],
        "change": value.loc[last, "kernel change"],
        "accuracy": value.loc[last, "test accuracy"],
        "predicted accuracy": value.loc[last, "predicted test accuracy"],
    }  # fmt: skip


def cells(table: Table, column: str) -> Table:
    """Geometric mean and interval over the seeds of each cell."""
    found = []
    for key, part in table.groupby(RUN[:-1]):
        if len(part) > 1:
            one = geometric_mean_interval(part[column])
            ends = {"mean": one.value, "lower": one.lower, "upper": one.upper}
            found.append(
                dict(zip(RUN[:-1], key, strict=True)) | ends | {"seeds": len(part)}
            )
    return pd.DataFrame(found)


def _cell(found: Table, by: str, *, largest: bool) -> tuple[Enclosure, str]:
    """The cell with the largest or smallest entry of a column, and its name."""
    row = found.loc[found[by].idxmax() if largest else found[by].idxmin()]
    where = f"width {row['width']}, K = {row['local_steps']}, {row['split']}"
    return Enclosure(row["mean"], row["lower"], row["upper"]), where


def of_trajectories(kind: str, table: Table) -> dict[str, Finding]:
    """What the trajectories of one kind of network say, by a short name."""
    wide = table[table["width"] == table["width"].max()]
    error, where = _cell(cells(wide, "error"), "upper", largest=True)
    test, there = _cell(cells(wide, "test"), "upper", largest=True)
    rate, slow = _cell(cells(wide, "rate"), "lower", largest=False)
    found = {
        "trajectory": finding(
            f"{kind}: the largest prediction error of the widest network is below 5 % "
            "in every cell",
            error, "<", LARGEST_ERROR, words=f"worst cell: {where}", source=OWN,
        ),
        "rate": finding(
            f"{kind}: the widest network is at most 10 % slower than predicted",
            rate, ">", 0.9, source=OWN,
            words=f"late decline of log ‖r_t‖ over the predicted one; worst: {slow}",
        ),
        "test": finding(
            f"{kind}: the change of the test outputs is told to 10 % in the widest "
            "network",
            test, "<", 0.1, words=f"worst cell: {there}", source=OWN,
        ),
    }  # fmt: skip
    if table["width"].nunique() > 1:
        law = power_law(table["width"], table["error"]).enclosure
        found["width"] = finding(
            f"{kind}: the prediction error falls with width", law, "<", 0.0,
            words="exponent over all cells", source=OWN,
        )  # fmt: skip
        narrow = table[table["width"] == table["width"].min()]
        most, where = _cell(cells(narrow, "error"), "lower", largest=True)
        found["control"] = finding(
            f"{kind}, control: the narrowest network errs by more than 5 % in some "
            "cell",
            most, ">", LARGEST_ERROR, words=f"worst cell: {where}",
        )  # fmt: skip
    apart = table[table["split"] != "iid"]
    apart = apart[apart["local_steps"] == apart["local_steps"].max()]
    if len(apart) > 1 and apart["local_steps"].max() > 1:
        found["clients"] = finding(
            f"{kind}, control: a kernel that knows nothing of the clients errs more, "
            "sorted labels, largest K",
            geometric_mean_interval(apart["centralised"] / apart["error"]), ">", 1.0,
            words="its error over that of the federated kernel, all widths",
        )  # fmt: skip
    return found


def choices(rows: Table, name: str) -> Table:
    """One row per run of comparisons: the loss at the kernel's choice over the best."""
    own = rows[rows["of"] == name]
    found, names = [], ["kind", "width", "split", "seed"]
    for key, part in own.groupby(names):
        value = part.pivot_table(index="tried", columns="quantity", values="value")
        told, best = value["predicted loss"].idxmin(), value["loss"].idxmin()
        found.append(
            dict(zip(names, key, strict=True))
            | {"told": told, "best": best}
            | {"regret": value.loc[told, "loss"] / value.loc[best, "loss"]}
            | {"worst": value["loss"].max() / value.loc[best, "loss"]}
        )
    columns = [*names, "told", "best", "regret", "worst"]
    return pd.DataFrame(found, columns=pd.Index(columns))


def of_choices(table: Table, what: str) -> dict[tuple[str, int], Finding]:
    """Is the kernel's choice as good as the best, for each network?"""
    found = {}
    for (kind, width), part in table.groupby(["kind", "width"], sort=False):
        if len(part) < 2:
            continue
        hits = f"{int((part['told'] == part['best']).sum())} of {len(part)} the same"
        worst = number(float(part["worst"].median()), 2)
        found[kind, width] = finding(
            f"{kind}, width {width}: the {what} that the kernel calls best costs less "
            "than 5 % of loss",
            geometric_mean_interval(part["regret"]), "<", REGRET, source=OWN,
            words=f"loss there over the smallest; {hits}; the worst tried: {worst}",
        )  # fmt: skip
    return found


def beyond(rows: Table) -> Finding | None:
    """Above the stable server step sizes: does the network follow the kernel away?"""
    value = _tried(rows, "over the limit")
    value = value[value["tried"] == 1.3]
    if len(value) < 2:
        return None
    ratio = (value["loss"] / value["predicted loss"]).clip(lower=1e-300, upper=1e300)
    return finding(
        "1.3 times the largest stable server step size: the network stays far below "
        "the loss that the kernel predicts (it leaves the lazy regime)",
        geometric_mean_interval(ratio), "<", 0.1, source=OWN,
        words="loss over the predicted loss after the last round, all networks; "
        f"the network's loss is {number(float(value['loss'].median()), 2)} in the "
        "median",
    )  # fmt: skip


def announcers(table: Table) -> Table:
    """Rank correlation of early quantities with the largest later error, over seeds."""
    names = {f"early {name}": f"{name} after two rounds" for name in EARLY}
    names |= {"narrowness": "1 / width", "seed": SEED}
    table = table.assign(narrowness=1 / table["width"])
    found = []
    for column, name in names.items():
        if table[column].nunique() > 1:
            one = rank_correlation(table[column], table["error"], table["seed"])
            ends = {"lower": one.lower, "upper": one.upper}
            found.append({"quantity": name, "correlation": one.value} | ends)
    return pd.DataFrame(found)


def by_network(table: Table) -> Table:
    """:func:`announcers` within each kind of network, found after the numbers."""
    found = [
        announcers(own).assign(network=kind)
        for kind, own in table.groupby("kind", sort=False)
        if own["width"].nunique() > 1
    ]
    columns = ["network", "quantity", "correlation", "lower", "upper"]
    return (
        pd.concat(found, ignore_index=True)[columns]
        if found
        else pd.DataFrame(columns=columns)
    )


def of_announcers(table: Table) -> dict[str, Finding]:
    """Which early quantity tells most of the later error, and the control."""
    found = table.set_index("quantity")
    others = found.drop(
        [GAP, SEED, "prediction error after two rounds"], errors="ignore"
    )
    most = others["correlation"].idxmax()
    lines = {
        "gap": (
            f"the linearisation gap announces the error better than any other ({most})",
            *(GAP, ">", float(others.loc[most, "correlation"])),
        ),
        "seed": (
            "control: the number of the seed announces nothing",
            SEED,
            "<",
            CHANCE,
        ),
    }
    words = "rank correlation with the largest error, all trajectories"
    return {
        name: finding(claim, _ends_of(found.loc[row]), relation, bound, words=words)
        for name, (claim, row, relation, bound) in lines.items()
        if row in found.index
    }


def _ends_of(row: Table) -> Enclosure:
    value, lower, upper = (float(row[end]) for end in ("correlation", "lower", "upper"))
    return Enclosure(value, lower, upper)


def conclude(rows: Table) -> Conclusion:
    """Findings, figures and the decision rule of QUESTION.md."""
    rows = kinds(rows)
    table = runs(rows)
    by_kind = {
        kind: of_trajectories(kind, own)
        for kind, own in table.groupby("kind", sort=False)
    }
    early = announcers(table)
    early_findings = of_announcers(early)
    steps, servers = (
        choices(rows, f"{n} tried") for n in ("local steps", "server step")
    )
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
        "control, the seed's correlation": early_findings.get("seed"),
    }
    tables = {
        "runs": table,
        "cells": cells(table, "error"),
        "curves": _curves(rows),
        "announcers": early,
        "by_network": by_network(table),
        "local_steps": _tried(rows, "local steps tried"),
        "server_steps": _tried(rows, "server step tried"),
        "limit": _tried(rows, "over the limit"),
        "choices": pd.concat([steps.assign(of="K"), servers.assign(of="server step")]),
    }
    return Conclusion(
        decision(deciding),
        tuple(findings),
        parts(tables),
        tables,
        (
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


def _curves(rows: Table) -> Table:
    names = ("residual norm", "predicted residual norm", "prediction error")
    own = rows[(rows["part"] == "trajectory") & rows["quantity"].isin(names)]
    return own[[*RUN, "round", "quantity", "value"]].astype({"round": int})


def _tried(rows: Table, name: str) -> Table:
    own = rows[rows["of"] == name]
    index = ["kind", "width", "split", "seed", "tried"]
    if own.empty:
        columns = [*index, "loss", "predicted loss", "ratio"]
        return pd.DataFrame(columns=pd.Index(columns))
    found = own.pivot_table(index=index, columns="quantity", values="value")
    found = found.reset_index()
    return found.assign(ratio=found["loss"] / found["predicted loss"])


if __name__ == "__main__":  # worker processes import this file again
    main(__file__, conclude)
