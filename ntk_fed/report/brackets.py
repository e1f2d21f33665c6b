"""Figures of required widths: a panel per condition, and the theory's far above.

Floor 9.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from ntk_fed.report.figures import INK, PREDICTED, Drawing, draw
from ntk_fed.report.study import Frame

_STYLES: dict[str, dict[str, Any]] = {
    "holds": {"marker": "o", "color": "#0072b2", "label": "enough"},
    "fails": {"marker": "x", "color": PREDICTED, "label": "not enough"},
    "undecided": {"marker": "s", "color": "#8a8a8a", "label": "not decided"},
}
_SHADES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9")


def drawings(tables: Mapping[str, Frame], spec: Mapping[str, Any]) -> list[Drawing]:
    """A panel per condition on equal axes, then what the theorems ask for."""
    found = []
    values, brackets = list(spec["values"]), tables["brackets"]
    for condition in spec["conditions"]:
        own = brackets[brackets["condition"] == condition]
        seen = tables["verdicts"]
        seen = seen[seen["condition"] == condition]
        found.append(
            draw(
                lambda axes, b=own, v=seen: _panel(axes, b, v, spec),
                title=f"Condition: {condition}",
                alt=f"Required width for {condition} against {spec['over']}, log-log: "
                "brackets and every width that was decided.",
                caption="Bars: brackets, which reach to the edge where they are open. "
                "Every width that was visited is drawn. A width that is enough below "
                "one that is not would refute the bracket.",
            )
        )
    if len(tables["theory"]) and _numeric(values):
        found.append(
            draw(
                lambda axes: _theory(axes, tables, spec),
                title="What the theorems ask for",
                alt="Required widths of theorems and measured ones, log-log.",
                caption="Lines: theorems with the measured λ0 and hidden constants 1. "
                "Black: upper ends of the measured brackets of all conditions. A black "
                "point above a line would be a width that theorem does not promise.",
            )
        )
    return found


def _numeric(values: list[Any]) -> bool:
    kinds = int, float
    return all(
        isinstance(v, kinds) and not isinstance(v, bool) and v > 0 for v in values
    )


def _places(axes: Axes, spec: Mapping[str, Any]) -> dict[Any, float]:
    """Where each value stands on the horizontal axis."""
    values = list(spec["values"])
    axes.set_xlabel(str(spec["over"]))
    if _numeric(values):
        places = {value: float(value) for value in values}
        axes.set_xscale("log")
        axes.set_xlim(min(values) / 1.3, max(values) * 1.3)
    else:
        places = {value: float(i) for i, value in enumerate(values)}
    axes.xaxis.set_major_locator(FixedLocator(list(places.values())))
    axes.xaxis.set_minor_locator(NullLocator())
    names = {place: str(value) for value, place in places.items()}
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: names.get(x, f"{x:g}")))
    return places


def _panel(
    axes: Axes, brackets: Frame, verdicts: Frame, spec: Mapping[str, Any]
) -> None:
    places, widths = _places(axes, spec), sorted(spec["widths"])
    low, high = widths[0] / 1.6, widths[-1] * 1.6
    for own in brackets.to_dict("records"):
        ends = own["lower"], own["upper"]
        if math.isnan(ends[0]) and math.isnan(ends[1]):
            continue
        bottom = low if math.isnan(ends[0]) else ends[0]
        top = high if math.isnan(ends[1]) else ends[1]
        axes.plot(
            [places[own["value"]]] * 2, [bottom, top],
            color=INK, linewidth=7, alpha=0.22, solid_capstyle="butt",
        )  # fmt: skip
    for verdict, style in _STYLES.items():
        own = verdicts[verdicts["verdict"] == verdict]
        axes.plot(
            [places[value] for value in own["value"]], own["width"],
            linestyle="none", markersize=5, **style,
            markerfacecolor="none" if verdict == "undecided" else style["color"],
        )  # fmt: skip
    axes.set_yscale("log", base=2)
    axes.set_ylim(low, high)
    shown = widths if len(widths) <= 8 else widths[::2]
    axes.yaxis.set_major_locator(FixedLocator(shown))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.0f}"))
    axes.set_ylabel("width (hidden units)")
    axes.legend(loc="best")


def _theory(axes: Axes, tables: Mapping[str, Frame], spec: Mapping[str, Any]) -> None:
    places, table = _places(axes, spec), tables["theory"]
    handles = []
    groups = table.groupby("theorem", sort=False)
    for shade, (name, every) in zip(_SHADES, groups, strict=False):
        own = every.drop_duplicates("value")
        x = [places[value] for value in own["value"]]
        axes.plot(x, 10.0 ** np.array(own["log10"]), "-o", color=shade, markersize=3)
        handles.append(Line2D([], [], color=shade, label=str(name)))
    closed = tables["brackets"].dropna(subset=["upper"])
    x = [places[value] for value in closed["value"]]
    axes.plot(x, closed["upper"], "o", color=INK, markersize=4)
    handles.append(
        Line2D([], [], color=INK, marker="o", linestyle="none", label="measured, upper")
    )
    axes.set_yscale("log")
    axes.margins(y=0.3)  # room for the legend
    axes.yaxis.set_major_locator(LogLocator(numticks=8))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel("width (hidden units)")
    axes.legend(handles=handles, loc="best")
