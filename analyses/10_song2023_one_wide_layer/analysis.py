"""Does one wide layer make FedAvg converge linearly, whatever clients hold?"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from ntk_fed.analysis import main
from ntk_fed.measured import Enclosure
from ntk_fed.report import Answer, Conclusion, Panel, Part, Shown, finding
from ntk_fed.report.conclusion import Finding
from ntk_fed.scaling import mean_interval, power_law

ABSTRACT = "Song et al. (2023), abstract; the numbers of this rule are ours"
DERIVED = "derived in this project, in the setting of Song et al. (2023)"
OURS = "ours; no theorem is claimed"
STRAIGHT = 0.25  # late over early slope of log loss; a plateau has 0
ALMOST_ZERO = -2.0  # log10 of last over first loss
SAME, SEEN = 1e-6, 1e-3  # differences of log loss between splits
WORST = "one-class"
NETWORK = ["part", "model", "activation", "side", "images", "width"]
RUN = [*NETWORK, "split", "local_steps", "initial", "seed"]
CORE, CONTROL, STABLE, MORE = "core", "control", "stable", "more"


def conclude(rows: Any) -> Conclusion:
    """Findings of the parts that were run, and the answer of the decision rule."""
    runs = summary(rows)
    parts, tables, found = [], {"runs": runs}, []
    for name, function in (
        ("pyramid", pyramid),
        ("image", image),
        ("certificate", certificate),
    ):
        if (runs["part"] == name).any():
            of = rows[rows["part"] == name], runs[runs["part"] == name]
            more, part, own = function(*of)
            found += more
            parts.append(part)
            tables |= own
    findings = tuple(one for _, one in found)
    return Conclusion(answer(found), findings, tuple(parts), tables, REMARKS)


REMARKS = (
    "Of Song et al. (2023) only the abstract is known. It gives no constant, no step "
    "size and no number of rounds; none is attributed to it.",
    "Sizes are cut: 40 images of 7×7 pixels and at most 160 units, against whole data "
    "sets and modern networks. full.toml asks for more and was not run.",
    "ReLU has no Lipschitz gradient, and the theorem derived here does not speak of "
    "it. The smooth leaky ReLU, of which it does, is run at widths 4, 40 and 160 only.",
    "Early means from a quarter to a half of the rounds, late the last quarter. "
    "Intervals are Student's at 95 %, over seeds of the initial weights; the images "
    "are one fixed draw. No correction is made for the number of findings.",
)


def summary(rows: Any) -> Any:
    """One row for each run: losses, slopes of log loss, and what was measured first."""
    found = []
    for key, own in rows.groupby(RUN, sort=True):
        loss = own[own["quantity"] == "loss"].sort_values("round")
        t, values = loss["round"].to_numpy(float), loss["value"].to_numpy(float)
        with np.errstate(all="ignore"):
            log = np.log(values)
        first, second, third = (int(np.searchsorted(t, t[-1] * q)) for q in QUARTERS)
        early = (log[first] - log[second]) / (t[second] - t[first])
        late = (log[third] - log[-1]) / (t[-1] - t[third])
        row = dict(zip(RUN, key, strict=True))
        row |= {"first": values[0], "last": values[-1], "rounds": t[-1]}
        row |= {"log10_left": (log[-1] - log[0]) / math.log(10)}
        row |= {"rate": late, "straightness": late / early}
        for quantity in own["quantity"].unique():
            if quantity != "loss":
                values = own[own["quantity"] == quantity].sort_values("round")["value"]
                row[quantity] = float(values.iloc[-1])
        found.append(row)
    return pd.DataFrame(found)


QUARTERS = (0.25, 0.5, 0.75)


def gaps(runs: Any) -> Any:
    """Loss after the last round with one class per client against iid clients."""
    keys = [name for name in RUN if name != "split"]
    pairs = runs[runs["split"] == WORST].merge(
        runs[runs["split"] == "iid"], on=keys, suffixes=("", "_iid")
    )
    found = pairs[keys].copy()
    found["gap"] = np.log(pairs["last"]) - np.log(pairs["last_iid"])
    found["loss gap"] = (pairs["last"] - pairs["last_iid"]) / pairs["first"]
    cell = [name for name in keys if name != "seed"]
    for name in ("gap", "loss gap"):
        middle = found.groupby(cell)[name].transform("mean")
        found[f"{name}, fluctuation"] = (found[name] - middle).abs()
        found[f"{name}, size"] = found[name].abs()
    if "predicted loss" in pairs:
        kernel = np.log(pairs["predicted loss"] / pairs["predicted loss_iid"])
        found["gap, from the kernel's"] = (found["gap"] - kernel).abs()
    return found


def pyramid(rows: Any, runs: Any) -> tuple[list[tuple[str, Finding]], Part, Any]:
    """The main part."""
    relu, n = runs[runs["activation"] == "relu"], int(runs["images"].max())
    found = []
    for (split, k), own in relu[relu["split"] != "iid"].groupby(
        ["split", "local_steps"]
    ):
        found += lines(own[own["width"] >= n], f"{split}, K = {k}")
    for k, own in relu[relu["split"] == WORST].groupby("local_steps"):
        found += narrow(own, n, f"K = {k}")
    smooth = runs[(runs["activation"] != "relu") & (runs["split"] == WORST)]
    found += lines(smooth[smooth["width"] >= n], f"{WORST}, smooth leaky ReLU", MORE)
    few = smooth[smooth["width"] < n]
    if enough(few):
        found.append(
            more(
                "A narrow network fails where inputs have more entries than there are "
                "samples (smooth leaky ReLU, 196 entries)",
                mean_interval(few["log10_left"]),
                ">",
                -1.0,
                "log10 of last over first loss",
            )
        )
    apart = gaps(relu)
    found += controls(apart)
    for k, own in relu[relu["split"] == WORST].groupby("local_steps"):
        claim = f"The loss after the last round falls with width ({WORST}, K = {k})"
        found += law(own.assign(left=10 ** own["log10_left"]), "left", STABLE, claim)
    found += shrinking(apart[apart["local_steps"] > 1])
    curves = rows[rows["quantity"] == "loss"].copy()
    curves["reached"] = curves["value"].clip(lower=1e-300)
    tables = {"pyramid_curves": curves, "pyramid_gaps": apart, "cells": cells(runs)}
    return found, Part("One wide layer", NOTES, panels(curves, apart), SHOWN), tables


NOTES = (
    "The step size of a width and seed is the largest with which every client alone "
    "descends at the start, the smallest over the splits, so that splits differ by "
    "nothing else. With K = 1 FedAvg is gradient descent for every split.",
    "The gap in loss is that after the last round with one class per client less that "
    "with iid clients, in units of the first loss; the log gap is the same of log "
    "loss. In the linearised network the log gap does not vanish: the federated kernel "
    "gives each split a rate of its own. Its distance from that is measured beside it.",
)
SHOWN = (
    Shown(
        "cells",
        "Means over seeds with 95 % intervals. Left is last over first loss.",
    ),
)


def lines(own: Any, where: str, kind: str = CORE) -> list[tuple[str, Finding]]:
    """Straight lines of log loss that end near zero, averaged over widths by seed."""
    if not enough(own):
        return []
    means = own.groupby("seed")[["straightness", "rate", "log10_left"]].mean()
    claims = (
        (
            "straightness", ">", STRAIGHT, "late over early slope of log loss",
            "log loss goes on falling in a straight line",
        ),
        ("rate", ">", 0.0, "late decline of log loss a round", "the rate is positive"),
        (
            "log10_left", "<", ALMOST_ZERO, "log10 of last over first loss",
            "the loss comes down to a hundredth or less",
        ),
    )  # fmt: skip
    return [
        (
            kind,
            finding(
                f"With n_1 ≥ n {claim} ({where})",
                mean_interval(means[column]),
                relation,
                bound,
                words=f"{words}, {len(means)} seeds",
                source=ABSTRACT if kind == CORE else DERIVED,
            ),
        )
        for column, relation, bound, words, claim in claims
    ]


def narrow(own: Any, n: int, where: str) -> list[tuple[str, Finding]]:
    """The narrowest network does what n_1 = n does not: it stops."""
    least = own["width"].min()
    wide, slim = own[own["width"] == n], own[own["width"] == least]
    if least >= n or not enough(wide) or not enough(slim):
        return []
    wide, slim = wide.set_index("seed"), slim.set_index("seed")
    left = (slim["log10_left"] - wide["log10_left"]).dropna()
    bent = (slim["straightness"] - wide["straightness"]).dropna()
    words = f"n_1 = {least} against n_1 = {n}, {len(left)} seeds"
    return [
        (
            CONTROL,
            finding(
                f"The narrow network keeps ten times the loss or more ({where})",
                mean_interval(left), ">", 1.0,
                words=f"difference of log10 of last over first loss, {words}",
                source=OURS,
            ),
        ),
        (
            CONTROL,
            finding(
                f"Its log loss flattens more ({where})",
                mean_interval(bent), "<", 0.0,
                words=f"difference of late over early slope, {words}", source=OURS,
            ),
        ),
    ]  # fmt: skip


def controls(apart: Any) -> list[tuple[str, Finding]]:
    """With K = 1 splits do not differ; with most local steps they do."""
    found, most = [], apart["local_steps"].max()
    for k, relation, bound, words in (
        (1, "<", SAME, "does not matter"), (most, ">", SEEN, "does matter")
    ):  # fmt: skip
        own = apart[apart["local_steps"] == k]
        if enough(own, "gap, size") and (relation == "<" or k > 1):
            sizes = own.groupby("seed")["gap, size"].mean().clip(lower=1e-16)
            one = finding(
                f"With K = {k} the split {words}",
                mean_interval(np.log10(sizes)),
                relation,
                math.log10(bound),
                words=f"log10 of the gap in log loss, at least −16, {len(sizes)} seeds",
                source="FedAvg with K = 1 and full batches is gradient descent",
            )
            found.append((CONTROL, one))
    return found


def shrinking(apart: Any, kind: str = STABLE, where: str = "") -> list[Any]:
    """Gap and its fluctuation against width, for each K."""
    found = []
    for column, own_kind, claim in (
        ("loss gap, size", kind, "The gap in loss shrinks with width"),
        ("loss gap, fluctuation", kind, "Its fluctuation over seeds shrinks"),
        ("gap, size", MORE, "The gap in log loss shrinks with width"),
        ("gap, fluctuation", MORE, "The fluctuation of the log gap shrinks"),
        ("gap, from the kernel's", MORE, "The log gap comes closer to the kernel's"),
    ):
        for k, own in apart.groupby("local_steps"):
            if column in own:
                found += law(own, column, own_kind, f"{claim} ({where}K = {k})")
    return found


def law(own: Any, column: str, kind: str, claim: str) -> list[tuple[str, Finding]]:
    """That a quantity falls with width, by the exponent over all runs."""
    own = own[np.isfinite(own[column]) & (own[column] > 0)]
    if own["width"].nunique() < 3 or own["seed"].nunique() < 3:
        return []
    fitted = power_law(own["width"], own[column])
    words = f"exponent of width, {fitted.points} runs at 3 widths or more"
    source = ABSTRACT if kind == STABLE else OURS
    one = finding(claim, fitted.enclosure, "<", 0.0, words=words, source=source)
    return [(kind, one)]


def panels(curves: Any, apart: Any) -> tuple[Panel, ...]:
    """Curves under the worst split for every K, then gaps against width."""
    worst = curves[(curves["split"] == WORST) & (curves["activation"] == "relu")]
    drawn = [
        Panel(
            "pyramid_curves", "round", "reached", f"One class per client, K = {k}",
            "Look for straight lines at widths of n = 40 and above, dark. A line that "
            "flattens there would have refuted the statement; narrow ones should.",
            "width", ("width", "seed"), "y",
            where=(
                ("split", WORST), ("activation", "relu"), ("local_steps", int(k)),
            ),
            ylabel="training loss",
        )
        for k in sorted(worst["local_steps"].unique())
    ]  # fmt: skip
    for column, title in (
        ("loss gap, size", "Gap in loss"),
        ("gap, size", "Gap in log loss"),
        ("gap, fluctuation", "Log gap of a seed, from their mean"),
        ("gap, from the kernel's", "Log gap, from the kernel's"),
    ):
        some = apart[apart["local_steps"] > 1]
        if column in apart and len(some):
            drawn += [
                Panel(
                    "pyramid_gaps", "width", column, f"{title}, K = {k}",
                    "Look for points that fall with width; points that stay level "
                    "would have refuted it.",
                    log="xy", slope=-0.5, where=(("local_steps", int(k)),),
                )
                for k in sorted(some["local_steps"].unique())
            ]  # fmt: skip
    return tuple(drawn)


def cells(runs: Any) -> Any:
    """Means over seeds with intervals, for each width, split and K."""
    found = []
    keys = ["activation", "split", "local_steps", "width"]
    for key, own in runs.groupby(keys):
        if not enough(own):
            continue
        row = dict(zip(keys, key, strict=True)) | {"seeds": len(own)}
        share = own["step size"] * own["local_steps"] * own["PL constant at the start"]
        own = own.assign(share=own["rate"] / share.where(share > 1e-12))
        for column in ("log10_left", "straightness", "rate", "share"):
            if np.isfinite(own[column]).all():
                row[column] = spelled(mean_interval(own[column]))
            else:
                row[column] = "none"
        found.append(row)
    headings = {"log10_left": "log10 left", "straightness": "late over early slope"}
    headings |= {"rate": "late rate per round", "share": "rate / (η K λ_min(Θ_0)/n)"}
    return pd.DataFrame(found).rename(columns=headings)


def image(rows: Any, runs: Any) -> tuple[list[tuple[str, Finding]], Part, Any]:
    """Convolutional networks in three widths, iid against one class per client."""
    found, apart = [], gaps(runs)
    for model, own in runs[runs["split"] == WORST].groupby("model"):
        wide = own[own["width"] == own["width"].max()]
        if enough(wide):
            found.append(
                more(
                    f"The widest {model} learns with one class per client",
                    mean_interval(wide["log10_left"]), "<", 0.0,
                    f"log10 of last over first loss, {len(wide)} seeds",
                )
            )  # fmt: skip
    for model, own in apart.groupby("model"):
        found += shrinking(own, MORE, f"{model}, ")
    curves = rows[rows["quantity"] == "loss"]
    drawn = [
        Panel(
            "image_curves", "round", "value", f"{model}, {split}",
            "Look for seeds of one width that lie together where the network is wide, "
            "dark, and for iid and one class that look alike there.",
            "width", ("width", "seed"), "y",
            where=(("model", model), ("split", split)), ylabel="training loss",
        )
        for model in sorted(curves["model"].unique())
        for split in sorted(curves["split"].unique())
    ]  # fmt: skip
    shown = Shown("image_gaps", "Width is in hundredths of the full network.")
    notes = (
        "30 images, 5 clients; not part of the verdict: few rounds, three widths.",
    )
    tables = {"image_curves": curves, "image_gaps": apart}
    return found, Part("Image networks", notes, tuple(drawn), (shown,)), tables


def certificate(rows: Any, runs: Any) -> tuple[list[tuple[str, Finding]], Part, Any]:
    """What is proven at the start against what the run does."""
    found, lines = [], []
    for initial, own in runs.groupby("initial"):
        if not enough(own):
            continue
        promised = own["promised rate, practical step"]
        own = own.assign(beyond=np.log10(own["rate"] / promised))
        own["steps"] = np.log10(own["step size"] / own["step size of the theorem"])
        row: dict[str, Any] = {"initial": initial, "seeds": len(own)}
        relation = ">=" if initial == "certified" else "<"
        for name, heading, sign, bound, claim in (
            ("margin of N1", "margin of N1", relation, 0.0, f"N1 {relation} 1"),
            ("margin of N2", "margin of N2", relation, 0.0, f"N2 {relation} 1"),
            ("log10_left", "log10 left", "<", -1.0, "The loss falls to a tenth"),
            ("beyond", "rate beyond promise", ">", 0.0, "It outruns the promise"),
            ("steps", "step beyond theorem's", ">", 0.0, "at a larger step"),
        ):
            interval = mean_interval(own[name])
            row[heading] = spelled(interval)
            words = f"orders of magnitude, {len(own)} seeds"
            found.append(more(f"{claim} ({initial})", interval, sign, bound, words))
        lines.append(row)
    curves = rows[rows["quantity"] == "loss"]
    panel = Panel(
        "certificate_curves", "round", "value", "Loss at a practical step size",
        "Look for both starts to fall alike, with and without a certificate.",
        "initial", ("initial", "seed"), "y", ylabel="training loss",
    )  # fmt: skip
    shown = Shown(
        "certificate", "Orders of magnitude, means over seeds with intervals."
    )
    notes = (
        "N1 and N2 are the conditions of Nguyen and Mondelli (2020), derived again, "
        "with the right sides that FedAvg needs; step size and rate of the FedAvg "
        "theorem are derived in this project. None is known to be Song's.",
    )
    tables = {"certificate": pd.DataFrame(lines), "certificate_curves": curves}
    return found, Part("Certificate", notes, (panel,), (shown,)), tables


def answer(found: Iterable[tuple[str, Finding]]) -> Answer:
    """The decision rule of QUESTION.md."""
    verdicts: dict[str, list[Finding]] = {CORE: [], CONTROL: [], STABLE: []}
    for kind, one in found:
        verdicts.setdefault(kind, []).append(one)
    if not (verdicts[CORE] and verdicts[CONTROL]):
        return Answer("undecided", "runs with n_1 ≥ n or the controls are missing.")
    bad = [one for one in verdicts[CONTROL] if one.verdict != "holds"]
    if bad:
        return Answer(
            "undecided",
            f"a control does not hold, so that nothing is shown: {told(bad[0])}.",
        )
    asked = verdicts[CORE] + verdicts[STABLE]
    least = min(one.lower for one in verdicts[CORE] if " straight" in one.claim)
    most = max(one.upper for one in verdicts[CORE] if " hundredth" in one.claim)
    numbers = (
        f"with n_1 ≥ n the late slope is at least {least:.2f} of the early one and the "
        f"loss falls by {-most:.1f} orders of magnitude or more, for every split and K"
    )
    for verdict, words in (("fails", "refuted"), ("undecided", "not decided")):
        bad = [one for one in asked if one.verdict == verdict]
        if bad:
            return Answer(verdict, f"{words}: {told(bad[0])} ({len(bad)} in all).")
    better = " Larger networks are better and more stable." if verdicts[STABLE] else ""
    return Answer("holds", f"FedAvg converges linearly: {numbers}.{better}")


def told(one: Finding) -> str:
    """A claim with its number."""
    return f"“{one.claim}”, {one.estimate:.3g} [{one.lower:.3g}, {one.upper:.3g}]"


def spelled(found: Enclosure) -> str:
    """A mean with its interval."""
    return f"{found.value:.3g} [{found.lower:.3g}, {found.upper:.3g}]"


def more(claim: str, found: Enclosure, relation: str, bound: float, words: str) -> Any:
    """A finding that is no part of the verdict."""
    one = finding(claim, found, relation, bound, words=words, source=OURS)
    return MORE, one


def enough(own: Any, column: str = "log10_left") -> bool:
    """Two seeds at least, all of them finite."""
    return own["seed"].nunique() > 1 and bool(np.isfinite(own[column]).all())


if __name__ == "__main__":
    main(__file__, conclude)
