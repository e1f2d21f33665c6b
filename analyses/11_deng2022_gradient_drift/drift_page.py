"""Sections and remarks of the page."""

from typing import Any

from drift_tables import COLLINEAR

from ntk_fed.report import Panel, Part, Shown
from ntk_fed.report.words import number

Frame = Any


def parts(tables: dict[str, Frame]) -> tuple[Part, ...]:
    """Sections of the page; what was not measured is left out."""
    found = [_constants(), _gates(tables["cells"])]
    if not tables["slopes"].empty:
        found.append(_rates())
    return tuple(found)


def _constants() -> Part:
    small: dict[str, Any] = {"hue": "activation", "log": "xy"}
    return Part(
        "Gradients at local models and at the averaged model",
        (
            "A and B are in units of the largest stable step size s: A·s² and B·s are "
            "numbers that no rescaling of the weights changes. They are fitted on "
            "segments: on the way from the averaged model to each local model the "
            "distance changes while the loss at the averaged model and the direction "
            "do not, so that a smooth network has B = 0. Over all pairs (client, step) "
            "displacement and loss are not collinear either, but directions differ: "
            "the envelope there gives even the linear network a B.",
        ),
        (
            Panel("runs", "width", "B", "B on segments", "ReLU falls and stays far "
                  "above the linear network. A flat line would refute it.",
                  slope=-0.5, ylabel="B·s", **small),
            Panel("runs", "width", "A", "A on segments", "All flat and of order 1.",
                  ylabel="A·s²", **small),
            Panel("runs", "width", "relative drift", "Relative gradient drift",
                  "Flat, below 1, the same with and without kinks: it is the clients' "
                  "own descent.", levels=((1.0, "the gradient itself"),), **small),
            Panel("runs", "width", "B (envelope)", "B as envelope of all pairs",
                  "Linear network and ReLU lie together: this B does not tell kinks "
                  "from unlike directions.", ylabel="B·s", **small),
        ),
        (
            Shown("summary", "Means over seeds."),
            Shown("exponents", "Exponents in width: mean over seeds, 95 % interval."),
        ),
    )  # fmt: skip


def _gates(cells: Frame) -> Part:
    panels = [
        Panel("runs", "width", "gate part", "What the kinks add", "Squared, over the "
              "loss, times s. It falls; flat would mean that kinks stay.",
              log="xy", slope=-0.5, where=(("activation", "relu"),), hue="hidden"),
    ]  # fmt: skip
    if not cells.empty:
        panels.append(
            Panel("cells", "moved", "flips", "Flips against displacement",
                  "First trained layer, local against averaged model. Points on the "
                  "reference are proportional; a flat cloud would refute it.",
                  hue="width", unit=("width", "seed"), log="xy", slope=1.0,
                  xlabel="‖W_i − W̄‖", ylabel="share of gates that differ")
        )  # fmt: skip
    return Part("Gates", (), tuple(panels))


def _rates() -> Part:
    return Part(
        "Loss against rounds",
        (),
        (
            Panel("losses", "round", "loss", "Loss", "Bends first, then a line in the "
                  "late half; more local steps are steeper.", hue="local_steps",
                  unit=("share", "local_steps", "seed"), log="y"),
            Panel("slopes", "local_steps", "slope", "Slope per round, late half",
                  "A flat line would be the stated rate exp(−T/K); the dashed one is "
                  "growth with K.", hue="share", log="xy", slope=1.0),
            Panel("slopes", "local_steps", "over kernel", "Slope over the kernel's",
                  "1 is the lazy network; flat says that K enters as the kernel says.",
                  hue="share", log="x", levels=((1.0, "kernel"),)),
        ),
        (
            Shown("slopes", "Each run: slope, the kernel's slope, distance from a "
                  "line in the late half and over the whole run."),
        ),
    )  # fmt: skip


def remarks(rows: Frame, table: Frame) -> tuple[str, ...]:
    """What a reader must know before the figures."""
    widest, n = int(rows["width"].max()), int(rows["samples"].max())
    zero = int((table["B (pairs)"] == 0).sum())
    collinear = int(table["collinear"].sum())
    return (
        f"Widths up to {widest} and {n} samples, where the stated width is of order "
        f"n¹⁶ = {float(n) ** 16:.1g}: nothing here tests the theorem, only what it "
        "is built on.",
        "The setting (fixed ends, N(0, 2/m), unit-norm separated data) and the shape "
        "of the lemma are recalled; its constants are unknown and fitted here. The "
        "first layer is scaled so that signals are of order 1, which for ReLU changes "
        "nothing but units.",
        f"Separation δ of the data: {number(float(rows['separation'].min()))}.",
        f"Over all pairs displacement and loss are collinear (condition number above "
        f"{COLLINEAR:g}) in {collinear} of {len(table)} runs; least squares over all "
        f"pairs give B = 0 in {zero} of them.",
        "Not done: batches of samples, width 4096 (full.toml), more than one output.",
    )
