"""The sections of the page of analysis 20."""

import math
from typing import Any

from ntk_fed.measured import Enclosure
from ntk_fed.report import Finding, Panel, Part, Shown
from ntk_fed.report.words import number, percent

Table = Any  # a pandas table

EARLY = ("flips", "kernel change", "laziness", "linearisation gap", "prediction error")
NOTHING = Enclosure(math.nan, -math.inf, math.inf)  # not measured
LARGEST_ERROR = 0.05  # of the prediction, relative to the residual at the start


def plain(
    mlp: dict[str, Finding],
    lenet: dict[str, Finding],
    choices: Table,
    over: Finding | None,
) -> tuple[str, ...]:
    """The result in a few plain sentences; nothing where a part was not measured."""
    if not ({"trajectory", "width"} <= mlp.keys() and lenet and over and len(choices)):
        return ()
    wide = choices[(choices["kind"] == "MLP") & (choices["of"] == "K")]
    wide = wide[wide["width"] == wide["width"].max()]
    same = int((wide["told"] == wide["best"]).sum())
    return (
        "In plain words: computed once, before the first round, the federated tangent "
        "kernel foretells a whole run of FedAvg on real images. In the widest MLP its "
        "largest distance from the run is, in the geometric mean over seeds, at most "
        f"{percent(mlp['trajectory'].upper)} of the residual at the start, whatever "
        "the split and the number of local steps, and it shrinks with width as "
        f"m^{{{number(mlp['width'].estimate, 2)}}}. The number of local steps it "
        f"recommends was the best one in {same} of {len(wide)} runs there. A small "
        "convolutional network of the usual widths and four times these is told less "
        f"well ({percent(lenet['trajectory'].estimate)} in its worst cell). And the "
        "kernel's stability limit is not the network's: 1.3 times beyond it the loss "
        f"stays at {number(over.estimate, 2)} of what the kernel says, because the "
        "network leaves the lazy regime and does not diverge.",
    )


def parts(tables: dict[str, Table]) -> tuple[Part, ...]:
    """Sections of the page."""
    found = [_trajectories(tables), _announced(tables)]
    if len(tables["by_network"]):
        found.append(_afterwards(tables))
    if len(tables["local_steps"]) or len(tables["server_steps"]):
        found.append(_chosen(tables))
    return tuple(found)


def _trajectories(tables: dict[str, Table]) -> Part:
    kinds_here = list(dict.fromkeys(tables["runs"]["kind"]))
    panels = [
        Panel(
            "runs", "width", "error", f"{kind}: prediction error",
            "Every run. The error should fall with width; the exponent is over all "
            "colours, and a colour that does not fall leaves the lazy regime there.",
            hue="local_steps", log="xy", where=(("kind", kind),),
            levels=((LARGEST_ERROR, "5 %"),), xlabel="width",
            ylabel="largest prediction error",
        )
        for kind in kinds_here
    ]  # fmt: skip
    panels.append(
        Panel(
            "curves", "round", "value", "Prediction error along the run",
            "One line per run, light is narrow. An error that stops growing says that "
            "the network moves away early and then follows in parallel.",
            hue="width", unit=("kind", "width", "local_steps", "split", "seed"),
            where=(("quantity", "prediction error"),), log="y",
            xlabel="round", ylabel="prediction error",
        )
    )  # fmt: skip
    panels.append(
        Panel(
            "runs", "error", "centralised", "A kernel without clients",
            "Each point a run: the error of the pooled kernel against that of the "
            "federated one. Above the line the clients matter.",
            hue="split", unit=(), log="xy", diagonal=True,
            xlabel="error of the federated kernel", ylabel="error of the pooled kernel",
        )
    )  # fmt: skip
    panels.append(
        Panel(
            "runs", "predicted accuracy", "accuracy", "Test accuracy",
            "Each point a run: accuracy on the test images against that of the "
            "predicted outputs. Points off the line are errors of the prediction.",
            hue="kind", diagonal=True, xlabel="predicted", ylabel="measured",
        )
    )  # fmt: skip
    shown = Shown("cells", "Largest prediction error by cell, geometric means.")
    return Part("Rate, trajectory and test outputs", (), tuple(panels), (shown,))


def _announced(tables: dict[str, Table]) -> Part:
    panels = [
        Panel(
            "runs", f"early {name}", "error", f"Announced by: {name}",
            "Each point a run. A quantity that announces the error lies on one rising "
            "band for all networks; one band per network does not.",
            hue="kind", log="xy", xlabel=f"{name} after two rounds",
            ylabel="largest prediction error",
        )
        for name in EARLY[:-1]
    ]  # fmt: skip
    shown = Shown("announcers", "Rank correlation with the largest prediction error.")
    return Part("What announces that it breaks", (), tuple(panels), (shown,))


def _afterwards(tables: dict[str, Table]) -> Part:
    """What was predicted and did not show, with the measurement that followed."""
    found = tables["by_network"]
    own = found[found["quantity"] != "1 / width"]
    best = own.loc[own.groupby("network", sort=False)["correlation"].idxmax()]
    words = "; ".join(
        f"{row['network']}: {row['quantity']}, {number(row['correlation'], 2)} "
        f"[{number(row['lower'], 2)}, {number(row['upper'], 2)}]"
        for row in best.to_dict("records")
    )
    last = tables["runs"].groupby(["kind", "width"], sort=False)["change"].median()
    changes = "; ".join(f"{k}, width {w}: {percent(v)}" for (k, w), v in last.items())
    notes = (
        "This section was written after the numbers had been seen.",
        "The prediction that the linearisation gap announces the error best over all "
        "networks did not show: the best announcer differs between networks, and over "
        "all of them the width itself tells more. Within each kind of network the "
        f"quantities that go with the later error most closely are: {words}.",
        "Where the rate falls short of the prediction the network has left its start: "
        f"median kernel change after the last round {changes}.",
    )
    shown = Shown("by_network", "Rank correlations within each kind of network.")
    return Part("After the run: what did not show, and why", notes, (), (shown,))


def _chosen(tables: dict[str, Table]) -> Part:
    panels = []
    for name, over in (("local_steps", "K"), ("server_steps", "server step size")):
        for kind in dict.fromkeys(tables[name]["kind"]):
            panels += [
                Panel(
                    name, "tried", column, f"{kind}: {what} against {over}",
                    "Every run. The kernel chooses well when both figures have their "
                    "lowest point at the same place.",
                    hue="width", log="xy", where=(("kind", kind),), xlabel=over,
                    ylabel=what,
                )
                for column, what in (("loss", "loss"), ("predicted loss", "predicted"))
            ]  # fmt: skip
    if len(tables["limit"]):
        panels.append(
            Panel(
                "limit", "tried", "ratio", "Beyond the stable server step sizes",
                "Loss of the network over that of the kernel. Far below 1 to the right "
                "of 1: the kernel diverges and the network does not follow.",
                hue="kind", log="y", levels=((1.0, "as predicted"),),
                xlabel="server step size over the largest stable one",
                ylabel="loss over predicted loss",
            )
        )  # fmt: skip
    shown = Shown("choices", "What the kernel calls best, and what was best.")
    return Part("The best K and the best server step size", (), tuple(panels), (shown,))
