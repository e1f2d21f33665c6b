"""Sections of the page of analysis 14."""

from typing import Any

from collins_tables import LAYERS, NEW

from ntk_fed.report import Panel, Part, Shown

Table = Any

LINE = ("size", "distinct", "local_steps", "seed")


def parts(tables: dict[str, Table]) -> tuple[Part, ...]:
    """Those of which there are numbers."""
    found = []
    if "linear" in tables:
        found.append(_linear(tables))
    if "linear" in tables and (tables["linear"]["distinct"] > 0).any():
        found.append(_diversity())
    if "samples" in tables:
        found.append(_samples())
    if "new_clients" in tables:
        found.append(_new_clients())
    if "images" in tables:
        found.append(_images(tables["images"]))
    return tuple(found)


def _linear(tables: dict[str, Table]) -> Part:
    panels = []
    for start in dict.fromkeys(tables["dist"]["start"]):
        for size in dict.fromkeys(tables["dist"]["size"]):
            where = (("start", start), ("size", size), ("distinct", 0))
            own = tables["dist"]
            chosen = (own["start"] == start) & (own["size"] == size)
            if not (chosen & (own["distinct"] == 0)).any():
                continue
            panels.append(
                Panel(
                    "dist", "round", "value", f"dist, {start} start, {size}",
                    "A line per seed. K = 1 stays flat; from a random start the path "
                    "of the others depends on the draw. Falling K = 1, or flat K > 1, "
                    "would refute the finding.",
                    hue="local_steps", unit=LINE, log="y", where=where, ylabel="dist",
                )
            )  # fmt: skip
            panels.append(
                Panel(
                    "loss", "round", "value", f"Excess loss, {start} start, {size}",
                    "The mean loss above its least value: it goes to zero for K = 1 "
                    "too, so that the loss does not tell who learns. FedAvg's clients "
                    "pull the mean head about, and its loss levels off.",
                    hue="local_steps", unit=LINE, log="y", where=where,
                    ylabel="excess loss",
                )
            )  # fmt: skip
    panels.append(
        Panel(
            "linear", "formula", "fitted", "Late contraction, near start",
            "Each point a run, K = 1 at the upper right end. Points off the diagonal "
            "would refute the formula.",
            hue="local_steps", diagonal=True,
            where=(("start", "near"), ("distinct", 0)),
            xlabel="formula", ylabel="fitted over the last 20 rounds",
        )
    )  # fmt: skip
    columns = {
        "size": "problem", "start": "start", "distinct": "directions of heads",
        "local_steps": "K", "seed": "seed", "first": "first dist", "last": "last dist",
        "loss": "loss, end over start", "fitted": "fitted", "formula": "formula",
        "largest": "largest η² ‖w‖²", "diversity": "μ²",
    }  # fmt: skip
    shown = Shown(
        "linear", "Runs on population losses; 0 directions: all heads differ.", columns
    )
    return Part("The linear problem", (), tuple(panels), (shown,))


def _diversity() -> Part:
    where = (("start", "near"),)
    panels = (
        Panel(
            "linear", "distinct", "inside", "Within the span of the heads",
            "What is missed at the end over what is missed at the start, K = 10, near "
            "start; 0: all heads differ. Should be small everywhere.",
            hue="local_steps", log="y", where=where,
            levels=((0.01, "a hundredth"),), xlabel="directions of the heads",
        ),
        Panel(
            "linear", "distinct", "outside", "Outside of it",
            "Should stay near 1: no client asks for it.",
            hue="local_steps", where=where,
            levels=((0.7, "0.7"),), xlabel="directions of the heads",
        ),
    )  # fmt: skip
    notes = (
        "Heads of k orthogonal directions in equal parts have a diversity about their "
        "mean of 0, and are learnt from all the same: in the derived contraction the "
        "mean head counts too.",
    )
    return Part("Controls: heads that are alike", notes, panels)


def _samples() -> Part:
    panels = (
        Panel(
            "samples", "samples", "last", "dist at the end, noisy samples",
            "Should fall with the number of samples; dashed slope −½. A level that "
            "does not fall, or lies above K = 1, would refute it.",
            hue="local_steps", log="xy", slope=-0.5, xlabel="samples of a client",
            ylabel="dist",
        ),
        Panel(
            "samples", "samples", "change", "Change over the last quarter",
            "Small where the run has reached its level.",
            hue="local_steps", log="x", levels=((0.1, "10 %"),),
            xlabel="samples of a client", ylabel="relative change of dist",
        ),
    )  # fmt: skip
    shown = Shown("samples", "Runs on noisy samples.")
    return Part("Noisy samples", (), panels, (shown,))


def _new_clients() -> Part:
    panels = (
        Panel(
            "new_clients", "formula", "excess", "Excess risk against the formula",
            "Each point a learned representation, mean over its new clients. Off the "
            "diagonal the formula is wrong.",
            hue="local_steps", log="xy", diagonal=True, xlabel="formula",
            ylabel="excess risk",
        ),
        Panel(
            "new_clients", "samples", "excess", "Excess risk of new clients",
            "Above for K = 1: its representation misses what new clients ask for.",
            hue="local_steps", log="xy", xlabel="samples of a new client",
            ylabel="excess risk",
        ),
    )  # fmt: skip
    shown = Shown("new_clients", "New clients that fit their head alone.")
    return Part("New clients of the linear problem", (), panels, (shown,))


def _images(table: Table) -> Part:
    panels = []
    for column, title, caption in (
        (NEW, "New clients, head fine-tuned", "higher with large K"),
        ("cosine gap", "Same class less different class", "higher with large K"),
        ("conv1 moved", "Movement of the first layer", "told apart by K at all"),
        ("head moved", "Movement of the head", "told apart by K at all"),
    ):
        if column in table:
            panels.append(
                Panel(
                    "images", "classes", column, title,
                    "Each point a network, at equal training loss within a kind; all "
                    f"kinds are drawn. The finding would be: {caption}.",
                    hue="local_steps", log="x", xlabel="C, classes of a client",
                )
            )  # fmt: skip
    columns = {
        "kind": "kind", "local_steps": "K", "seed": "seed", "rounds": "rounds",
        "training loss": "training loss", NEW: "new clients",
        f"{NEW}, unseen classes": "unseen classes", "fresh-head accuracy": "fresh head",
        "accuracy before fine-tuning": "before", "start accuracy": "untrained",
        "same class cosine": "same class", "different class cosine": "different class",
        **{f"{name} moved": f"{name} moved" for name in LAYERS},
    }  # fmt: skip
    there = {name: words for name, words in columns.items() if name in table}
    shown = Shown("images", "Networks where their training loss is the level.", there)
    notes = (
        "K is compared at equal training loss, not after equal numbers of rounds or "
        "steps; the last round is shortened to end there.",
        "Where the finding does not show, there is a reason why it need not: in the "
        "theorem D-GD sees no more of the clients than their mean head, but one "
        "network with ten outputs has a head that serves all clients, and its loss "
        "cannot fall without features of all classes. The kind with own labels takes "
        "this away: each client names the classes by a permutation of its own. "
        "Five classes and the other training loss vary what else may hide it.",
    )
    return Part("Images", notes, tuple(panels), (shown,))
