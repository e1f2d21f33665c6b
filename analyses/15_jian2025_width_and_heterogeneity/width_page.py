"""Sections of the page of analysis 15."""

from typing import Any

from width_tables import CENTRAL, FALLING, FEDERATED, GAPS, SHARE

from ntk_fed.report import Panel, Part, Shown

Rows = Any

THEIRS = "17.4, 9.5, 6.3 and 2.0 points at 1, 2, 4 and 16 times their smallest width"


def _width_part(widths: Rows) -> Part:
    there = set(widths["quantity"])
    names = [n for n in (*FALLING, SHARE, FEDERATED, CENTRAL) if n in there]
    lower = {
        SHARE: "Constant with factors in the network, falling without them.",
        FEDERATED: "Should fall with width.",
        CENTRAL: "Flat: the run does not tend to centralised descent.",
    }
    lazy = (
        "Should fall at least along the dashed line (slope −½), but for mean-field, "
        "the control. A network with a flatter line would refute the theorem."
    )
    panels = tuple(
        Panel(
            "widths", "width", "value", name, lower.get(name, lazy), hue="kind",
            log="xy", slope=-0.5, where=(("quantity", name),), ylabel=name,
        )
        for name in names
    )  # fmt: skip
    note = (
        "Largest value along each run; every point is a seed. Distances of local "
        "models are in the units of weights of size m^{-½}: those of networks with the "
        "factor inside are divided by √m, and do not fall before."
    )
    return Part("What falls with width", (note,), panels)


def _drop_part(_: Rows) -> Part:
    caption = (
        "Should fall. Width 0 stands for infinite width, by the federated kernel. Flat "
        "or rising points would refute the claim."
    )
    panel = Panel(
        "drops", "width", "points", "Drop, points", caption, hue="local_steps"
    )
    note = f"Their summary has drops of {THEIRS}; that is a larger problem."
    shown = Shown(
        "drops", "Accuracy of the averaged model; drop in points; was a run lost?"
    )
    return Part("Test accuracy", (note,), (panel,), (shown,))


def _gap_part(gaps: Rows) -> Part:
    panels = tuple(
        Panel(
            "gaps", "time", "value", name,
            "Slope 1 (dashed): the equality with centralised training is one of small "
            "steps. A gap that stays as ηK falls would refute it.",
            hue="local_steps", log="xy", slope=1.0, where=(("quantity", name),),
            xlabel="ηK", ylabel="relative to the residual at the start",
        )
        for name in GAPS
        if name in set(gaps["quantity"])
    )  # fmt: skip
    return Part("Federated kernel and gradient flow", panels=panels)


PARTS = (("widths", _width_part), ("drops", _drop_part), ("gaps", _gap_part))


def parts(tables: dict[str, Rows]) -> tuple[Part, ...]:
    """A section for each table that there is."""
    return tuple(make(tables[name]) for name, make in PARTS if name in tables)
