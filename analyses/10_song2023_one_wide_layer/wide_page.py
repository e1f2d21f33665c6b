"""Analysis 10: numbers of the runs, findings on them, and sections of the page."""

import dataclasses
import math
from typing import Any

import numpy as np
import pandas as pd

from ntk_fed.measured import Enclosure
from ntk_fed.report import Panel, Part, Shown, finding
from ntk_fed.report.conclusion import Finding
from ntk_fed.scaling import mean_interval

WORST = "one-class"
NETWORK = ["part", "model", "activation", "side", "images", "width"]
CONTROL, MORE = "control", "more"  # a control of the rule; no part of the rule
OURS = "ours; no theorem is claimed"
Found = list[tuple[str, Finding]]  # what the rule does with a finding, and it
RUN = [*NETWORK, "split", "local_steps", "initial", "seed"]
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
    "A run that diverged, or has no finite number, is not left out: a finding that "
    "says runs do well fails by it, any other is undecided. A finding that the rule "
    "asks for and that is not there leaves the answer undecided.",
)


def summary(rows: Any) -> Any:
    """One row for each run: losses, slopes of log loss, and what was measured first."""
    found = []
    for key, own in rows.groupby(RUN, sort=True):
        curve = own[own["quantity"] == "loss"].sort_values("round")
        t, values = curve["round"].to_numpy(float), curve["value"].to_numpy(float)
        row = dict(zip(RUN, key, strict=True)) | losses(t, values)
        for quantity in own["quantity"].unique():
            if quantity != "loss":
                values = own[own["quantity"] == quantity].sort_values("round")["value"]
                row[quantity] = float(values.iloc[-1])
        found.append(row)
    return pd.DataFrame(found)


def losses(t: Any, values: Any) -> dict[str, Any]:
    """What one curve of losses says; numbers are NaN where it is not finite throughout.

    A loss that does not fall early is on a plateau, and its straightness is 0.
    """
    if not (len(values) and np.isfinite(values).all()):
        none = dict.fromkeys(("log10_left", "rate", "straightness"), math.nan)
        first = values[0] if len(values) else math.nan
        return {"first": first, "last": math.inf, "zero": False} | none
    with np.errstate(all="ignore"):
        log = np.log(values)
        left = (log[-1] - log[0]) / math.log(10)
        first, second, third = (int(np.searchsorted(t, t[-1] * q)) for q in QUARTERS)
        early = (log[first] - log[second]) / (t[second] - t[first])
        late = (log[third] - log[-1]) / (t[-1] - t[third])
        straight = 0.0 if early <= 0 and np.isfinite(late) else late / early
    return {
        "first": values[0],
        "last": values[-1],
        "zero": bool((values == 0).any()),
        "log10_left": left,
        "rate": late,
        "straightness": straight,
    }


QUARTERS = (0.25, 0.5, 0.75)


def judged(
    claim: str,
    own: Any,
    column: str,
    relation: str,
    bound: float,
    words: str,
    *,
    kind: str = MORE,
    source: str = OURS,
    each: Any = "mean",
    well: bool = False,
) -> Found:
    """A claim on a mean over seeds; none of a single seed.

    Args:
        claim: a sentence without its full stop.
        own: one row for each run.
        column: the number, of which all must be finite.
        relation: to the bound.
        bound: exact.
        words: what the number is.
        kind: what the decision rule does with it.
        source: of the claim.
        each: how the numbers of one seed become one.
        well: the claim says that runs do well, so that one without a number fails it,
            unless its loss has come down to zero.
    """
    seeds = own["seed"].nunique()
    if seeds < 2:
        return []
    words = f"{words}; mean of {seeds} seeds, {len(own)} runs"
    lost = ~np.isfinite(own[column].to_numpy(float))
    if lost.any():
        fails = well and bool((lost & ~own["zero"].to_numpy(bool)).any())
        return [(kind, unknown(claim, relation, bound, words, source, lost, fails))]
    found = mean_interval(own.groupby("seed")[column].agg(each))
    return [(kind, finding(claim, found, relation, bound, words=words, source=source))]


def unknown(
    claim: str, relation: str, bound: float, words: str, source: str, lost: Any,
    fails: bool = False, how: str = "not finite",
) -> Finding:  # fmt: skip
    """A finding on runs some of which have no number."""
    nothing = Enclosure(math.nan, -math.inf, math.inf)
    words = f"{int(lost.sum())} of {len(lost)} runs {how}; {words}"
    one = finding(claim, nothing, relation, bound, words=words, source=source)
    return dataclasses.replace(one, verdict="fails") if fails else one


def gaps(runs: Any) -> Any:
    """Loss after the last round with one class per client against iid clients.

    It is not finite where a run diverged.
    """
    keys = [name for name in RUN if name != "split"]
    pairs = runs[runs["split"] == WORST].merge(
        runs[runs["split"] == "iid"], on=keys, suffixes=("", "_iid")
    )
    found = pairs[keys].copy()
    with np.errstate(all="ignore"):
        found["gap"] = np.log(pairs["last"]) - np.log(pairs["last_iid"])
    found["loss gap"] = (pairs["last"] - pairs["last_iid"]) / pairs["first"]
    cell = [name for name in keys if name != "seed"]
    for name in ("gap", "loss gap"):
        middle = found.groupby(cell)[name].transform("mean")
        found[f"{name}, fluctuation"] = (found[name] - middle).abs()
        found[f"{name}, size"] = found[name].abs()
    if "predicted loss" in pairs:
        with np.errstate(all="ignore"):
            kernel = np.log(pairs["predicted loss"] / pairs["predicted loss_iid"])
        found["gap, from the kernel's"] = (found["gap"] - kernel).abs()
    return found


NOTES = (
    "The step size of a width and seed is the largest with which every client alone "
    "descends at the start, the smallest over the splits, so that splits differ by "
    "nothing else. With K = 1 FedAvg is gradient descent for every split.",
    "A curve that ends early belongs to a run that diverged.",
    "The gap in loss is that after the last round with one class per client less that "
    "with iid clients, in units of the first loss; the log gap is the same of log "
    "loss. In the linearised network the log gap does not vanish: the federated kernel "
    "gives each split a rate of its own. Its distance from that is measured beside it.",
)
SHOWN = (
    Shown(
        "cells",
        "Means over seeds with 95 % intervals, where all runs have a finite "
        "number. Left is last over first loss.",
    ),
)


def pyramid_part(curves: Any, apart: Any) -> Part:
    """The main section."""
    return Part("One wide layer", NOTES, panels(curves, apart), SHOWN)


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
        row = dict(zip(keys, key, strict=True)) | {"seeds": own["seed"].nunique()}
        share = own["step size"] * own["local_steps"] * own["PL constant at the start"]
        own = own.assign(share=own["rate"] / share.where(share > 1e-12))
        for column in ("log10_left", "straightness", "rate", "share"):
            row[column] = spelled(own[column])
        found.append(row)
    headings = {"log10_left": "log10 left", "straightness": "late over early slope"}
    headings |= {"rate": "late rate per round", "share": "rate / (η K λ_min(Θ_0)/n)"}
    return pd.DataFrame(found).rename(columns=headings)


def spelled(values: Any) -> str:
    """A mean with its interval; where it has none, the number of values to blame."""
    lost = int((~np.isfinite(values)).sum())
    if lost or len(values) < 2:
        return f"none ({lost} of {len(values)} not finite)"
    found = mean_interval(values)
    return f"{found.value:.3g} [{found.lower:.3g}, {found.upper:.3g}]"


def image_part(curves: Any) -> Part:
    """The section on convolutional networks."""
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
        "After the run: the gap in log loss grows with width here. The second table, "
        "made to find out why, says that wider networks come further in the same few "
        "rounds under both splits, so that equal rates leave a larger gap; the rounds "
        "that two cores allow do not reach the end of training, of which the abstract "
        "speaks. full.toml does.",
    )
    left = Shown("image_left", "Mean log10 of last over first loss, by split.")
    return Part("Image networks", notes, tuple(drawn), (shown, left))


def certificate_part() -> Part:
    """The section on what is proven at the start."""
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
        "The theorem gives a rate only where N1 and N2 hold and the step is no larger "
        "than the theorem's. The runs take a practical step: beside their rate stands "
        "what the theorem's formula would give at this step.",
    )
    return Part("Certificate", notes, (panel,), (shown,))
