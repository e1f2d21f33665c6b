"""The page of analysis 12: figures, tables, remarks."""

from typing import Any

from ntk_fed.report import Panel, Part, Shown

Table = Any
CURVE = ("what", "local_steps", "seed")

REMARKS = (
    "Sizes of E1 are cut: 100 CIFAR-10 images of 8×8 pixels, five of one class or two "
    "on each of 20 clients, batches of 4, a network of two convolutions with layer "
    "normalisation; step size 0.4 instead of 0.1. full.toml has ResNet-18 and the "
    "paper's numbers.",
    "tanh instead of ReLU and a gain of 2 were chosen in pilots, since with ReLU the "
    "second phase begins later than can be paid for here.",
    "E2 has the paper's size, of 2,000 iterations; the gap 0.05 is ours, for the paper "
    "gives none. The strongly convex problem is ours: least squares with one solution.",
    "Theorems 1 to 3 are held against convex problems (Theorem 2 against one that is "
    "not, Proposition 2's, as well); E1's network has no L that is known, and "
    "no theorem is held against it.",
    "r counts gradients of single samples: with 100 images instead of 50 000 it can be "
    "expected to be smaller. Only ρ ≤ r² follows from it.",
    "The two largest K alone, and the upper end of how slow the worst partition is, "
    "were looked at after the study had run.",
    "Constants of Proposition 2 are the corrected ones (derived in this project).",
)
SLIP_NOTE = (
    "What the text says of Proposition 2's instance, with two clients of losses "
    "(L/2) x² and −(L/4) x²: mean loss (L/4) x², ρ = 2, squared gradient at least "
    "L²/16. Corrected: (L/8) x², ρ = 16, L²/64. It is further said that Assumption 3 "
    "implies Assumption 2 (4 implies 3 is meant), Lemma 3's second display lacks 1/n, "
    "and gradient descent is said to diverge above 1/L (2/L is right)."
)


def parts(tables: dict[str, Table]) -> tuple[Part, ...]:
    """Sections of what there is."""
    makers = (_phases, _schedules, _perceptrons, _strongly, _bounds, _instances)
    found = [maker(tables) for maker in makers]
    return tuple(part for part in found if part is not None)


def _phases(tables: dict[str, Table]) -> Part | None:
    if "phases" not in tables:
        return None
    runs, panels = tables["phases"], []
    there = set(zip(runs["what"], runs["split"], strict=True))
    for split in ("one label", "two labels"):
        if ("main", split) not in there:
            continue
        where = (("what", "main"), ("split", split))
        panels += [
            Panel(
                "phases_curves", x, "inverse", f"{split}: 1/loss over {x.rstrip('s')}s",
                caption, hue="local_steps", unit=CURVE, log="xy", where=where,
                ylabel="1/loss",
            )
            for x, caption in (
                ("round", "First phase: all K must lie on one curve at 1/loss below 5. "
                 "A fan from the start would refute it."),
                ("iterations", "Second phase: parallel lines that come together at the "
                 "top right. A fan there would refute it."),
            )
        ] + [
            Panel(
                "phases", "local_steps", column, f"{split}: {title}", caption,
                log="xy", where=where, xlabel="K", ylabel=label, hue="seed",
            )
            for column, title, label, caption in (
                ("first", "first slope", "slope of 1/loss per round",
                 "1/loss 0.6 to 5: flat is what the paper says, slope 1 refutes it."),
                ("second", "second slope", "slope of 1/loss per iteration",
                 "1/loss 500 to 1000: flat is what the paper says, slope −1 refutes."),
            )
            if runs.loc[(runs["what"] == "main") & (runs["split"] == split), column]
            .notna().any()
        ]  # fmt: skip
    if len(set(runs["what"])) > 1 and runs["early"].notna().any():
        panels.append(
            Panel(
                "phases", "local_steps", "early", "What the first phase needs",
                "1/loss 0.6 to 1. Slopes grow with K where one client has it all, or "
                "steps are small.", hue="what", log="xy", slope=1.0, xlabel="K",
                ylabel="slope of 1/loss per round",
            )
        )  # fmt: skip
    if "growth" in tables:
        panels.append(
            Panel(
                "growth", "round", "r", "Largest gradient of a sample over the global",
                "The paper has r below 4000 and near 500 late.", hue="local_steps",
                unit=("split", "local_steps", "seed"), log="y",
            )
        )  # fmt: skip
    shown = []
    if "changes" in tables:
        columns = {
            "split": "split", "local_steps": "K", "seed": "seed", "verdict": "found",
            "change": "round of change", "change, lower": "from", "change, upper": "to",
        }  # fmt: skip
        caption = "Two joined lines for 1/loss over rounds, run by run."
        shown.append(Shown("changes", caption, columns))
    return Part("E1 and E3: two phases", (), tuple(panels), tuple(shown))


def _schedules(tables: dict[str, Table]) -> Part | None:
    runs = tables.get("phases")
    names = ("constant", "adaptive", "reversed")
    if runs is None or not runs["what"].isin(names).any():
        return None
    tables["schedules"] = runs[runs["what"].isin(names)]
    panel = Panel(
        "schedules", "local_steps", "last", "Loss after 60 rounds",
        "K at the start: 1 or 10 throughout; 1, then 13; 37, then 1. All but K = 1 "
        "have made 600 iterations.", hue="what", log="y", xlabel="K of first rounds",
    )  # fmt: skip
    return Part("Few local steps first, many later", (), (panel,))


def _perceptrons(tables: dict[str, Table]) -> Part | None:
    if "perceptrons" not in tables:
        return None
    name = "perceptron_curves"
    panels = [
        Panel(
            name, "iterations", "inverse", f"{split}, weights {weights}",
            "1/loss over iterations: curves of all K on one another, straight late.",
            hue="local_steps", unit=CURVE, ylabel="1/loss",
            where=(("split", split), ("weights", weights)),
        )
        for (split, weights), _ in tables[name].groupby(["split", "weights"])
    ]  # fmt: skip
    columns = {
        "split": "split", "weights": "weights", "local_steps": "K", "seed": "seed",
        "inverse slope": "slope per round", "inverse bend": "log bend",
        "same": "rounds to loss 0.25", "last": "last loss",
    }  # fmt: skip
    shown = Shown("perceptrons", "Second half of every run.", columns)
    return Part("E2: perceptron", (), tuple(panels), (shown,))


def _strongly(tables: dict[str, Table]) -> Part | None:
    if "strongly" not in tables:
        return None
    panel = Panel(
        "strongly_curves", "round", "loss", "Strongly convex: loss over rounds",
        "Straight lines, K times as steep.", hue="local_steps", unit=CURVE, log="y",
    )  # fmt: skip
    return Part("E4: strongly convex", (), (panel,))


def _bounds(tables: dict[str, Table]) -> Part | None:
    if "bounds" not in tables:
        return None
    panel = Panel(
        "bounds", "local_steps", "over", "Measured over bound",
        "Above 1 a theorem would be refuted, or its code.", hue="theorem", log="xy",
        levels=((1.0, "bound"),), xlabel="K",
    )  # fmt: skip
    return Part("Theorems beside runs", (), (panel,))


def _instances(tables: dict[str, Table]) -> Part | None:
    if "instances" not in tables:
        return None
    columns = {
        "number": "proposition (3: gradient descent)", "local_steps": "K",
        "step_size": "ηL (2: ηLK over threshold)", "rounds": "rounds",
        "closed form error": "error", "gap over bound": "gap over bound",
        "factor": "factor of a round", "mean loss at 1 over L": "f(1)/L", "ρ met": "ρ",
        "factor at 2/(LK)": "factor at 2/(LK)",
        "smallest squared gradient at 2/(LK) over L²": "least ‖∇f‖²/L²",
    }  # fmt: skip
    there = tables["instances"].columns
    columns = {name: head for name, head in columns.items() if name in there}
    shown = Shown("instances", "FedAvg on both instances.", columns)
    return Part("Propositions 1 and 2", (SLIP_NOTE,), (), (shown,))
