"""The sections of the page of analysis 13."""

from typing import Any

from bias_tables import AVERAGED, REGRESSION, SMALL, TURNING

from ntk_fed.report import Panel, Part, Shown

Table = Any  # a pandas table
LAST_LAYER = "last layer"


def parts(tables: dict[str, Table]) -> tuple[Part, ...]:
    """Sections of the page, of what there is."""
    found = []
    if "fits" in tables:
        found.append(_regression(tables["fits"]))
    if "course" in tables:
        there = tables["course"][["part", "kind"]].drop_duplicates()
        found += [
            _directions(part, kind)
            for part, kind in there.itertuples(index=False, name=None)
        ]
        found.append(_turned())
    if "solved" in tables:
        found.append(_projections())
    return tuple(found)


def _regression(fits: Table) -> Part:
    panels = []
    for labels in dict.fromkeys(fits["labels"]):
        where = (("labels", labels),)
        panels += [
            Panel(
                "distances", "round", "value", f"{labels}: distance to the limit",
                "Relative to that at the start, one line per run. Every K should fall "
                "along a straight line, larger K faster; a line that levels off above "
                "rounding would refute the limit.",
                hue="local_steps", unit=tuple(REGRESSION), log="y", where=where,
                ylabel="distance / distance at the start",
            ),
            Panel(
                "fits", "local_steps", "distance to the interpolator",
                f"{labels}: distance to the interpolator",
                "Of the end of the run from X⁺y + (I − X⁺X) w_0. Consistent labels: "
                "as small as the run was long, for every K. Others: for K = 1 only, "
                "where it is least squares; the rest depends on K.",
                hue="start", log="xy", where=where, xlabel="K",
                ylabel="relative distance",
            ),
        ]  # fmt: skip
    panels += [
        Panel(
            "fits", "local_steps", "θ_K", "θ_K", "Should rise with K, to a limit.",
            hue="labels", log="xy", xlabel="K",
        ),
        Panel(
            "fits", "θ_K", "1 − factor", "Contraction of a round against θ_K",
            "On the dashed line from the slowest start; above it from others, at "
            "least at first. Below it a run would be slower than promised.",
            hue="start", diagonal=True, ylabel="1 − factor of a round",
        ),
    ]  # fmt: skip
    columns = {
        "labels": "labels", "start": "start", "local_steps": "K", "seed": "seed",
        "θ_K": "θ_K", "θ_∞": "limit of θ_K", "factor of a round": "factor of a round",
        "worst ratio to the bound": "worst ratio to bound",
        "distance to the interpolator": "to X⁺y + (I − X⁺X) w_0",
        "distance to the fixed point": "to the fixed point",
        "distance to the minimiser of rPr": "to the minimiser of rᵀPr",
    }  # fmt: skip
    shown = Shown("fits", "Ends of all runs; distances are relative.", columns)
    return Part("Regression: the exact limit", (), tuple(panels), (shown,))


def _directions(part: str, kind: str) -> Part:
    where = (("part", part), ("kind", kind))
    common: dict[str, Any] = {
        "hue": "local_steps", "unit": tuple(TURNING), "where": where,
        "xlabel": "η K t", "log": "xy",
    }  # fmt: skip
    round_axis: dict[str, Any] = common | {"xlabel": "round"}
    plain_axis: dict[str, Any] = common | {"log": "x"}
    panels = [
        Panel(
            "course", "time", "loss", "Loss over η K t",
            "The colours should lie on one line of slope −1 (dashed); a fan of lines "
            "would refute the collapse.",
            slope=-1.0, **common,
        ),
        Panel(
            "course", "round", "loss", "The same over rounds",
            "The control: here the colours must lie apart.",
            **round_axis,
        ),
        Panel(
            "course", "time", "gap to the SVM", "1 − cos to the SVM of all samples",
            "Should fall for every K, ever slower (bend upwards). A level would refute "
            "the direction.",
            **common,
        ),
        Panel(
            "course", "time", "gap between both", "1 − cos to centralised descent",
            "At equal η K t. Should fall; for K = 1 it is rounding (not drawn).",
            **common,
        ),
        Panel(
            "course", "time", "gap to the clients' SVMs",
            "1 − cos to the mean of the clients' own SVMs",
            "The control: should come to rest, above the gap to the SVM.",
            **common,
        ),
        Panel(
            "course", "time", "loss · γ² η K t", "Loss times γ² η K t",
            "Comes to 1 if the loss is that of gradient flow on separable data.",
            levels=((1.0, "1"),), **common,
        ),
    ]  # fmt: skip
    if kind == SMALL:
        panels.append(
            Panel(
                "course", "time", "loss over bound", "Loss over Crawshaw's bound",
                "After the bound's transition only. Should stay below 1.",
                levels=((1.0, "bound"),), **common,
            )
        )  # fmt: skip
    if part == LAST_LAYER:
        panels.append(
            Panel(
                "course", "time", "test accuracy", "Accuracy on new images",
                "The colours should end at one height.",
                **plain_axis,
            )
        )  # fmt: skip
    title = f"{part.capitalize()}: {kind}"
    return Part(title, panels=tuple(panels))


def _turned() -> Part:
    return Part(
        "Ends of the classification runs",
        shown=(Shown("turned", "One row per run; logarithms and exponents as named."),),
    )


def _projections() -> Part:
    panel = Panel(
        "approaches", "round", "value", "Exact local solves: distance to the SVM",
        "Relative to the norm of the SVM. Plain averaging should come to rest above 0, "
        "the anchored rule fall as 1/t (dashed); one client is there at once.",
        hue="run", unit=("run", "seed"), log="xy", slope=-1.0,
        ylabel="distance / norm of the SVM",
    )  # fmt: skip
    columns = {name: name for name in AVERAGED} | {
        "distance": "relative distance to the SVM", "exponent": "exponent",
        "gap": "1 − cos to the SVM", "margin": "smallest margin",
    }  # fmt: skip
    shown = Shown("solved", "Ends of the runs with exact local solves.", columns)
    return Part(
        "Parallel projections against the anchored rule", (), (panel,), (shown,)
    )
