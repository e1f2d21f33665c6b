"""A panel of a conclusion, drawn.

Floor 9.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from ntk_fed.report.conclusion import Panel
from ntk_fed.report.figures import INK, Drawing, colours, draw
from ntk_fed.report.study import Column, Frame

_MOST_TICKS = 7  # values on a logarithmic axis that are named one by one
_NAMES = {"local_steps": "K"}
_SHADES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#333333")


def drawing(panel: Panel, tables: dict[str, Frame]) -> Drawing:
    """One panel as a figure of the page.

    Args:
        panel: what to draw.
        tables: of the conclusion.
    """
    frame = tables[panel.table]
    for name, value in panel.where:
        frame = frame[frame[name] == value]
    frame = frame[np.isfinite(frame[panel.y].astype(float))]
    if "y" in panel.log:
        frame = frame[frame[panel.y] > 0]
    across, up = panel.xlabel or panel.x, panel.ylabel or panel.y
    what = "lines" if panel.unit else "points and their medians"
    by = f", by {panel.hue}" if panel.hue else ""
    return draw(
        lambda axes: _plot(axes, panel, frame),
        title=panel.title,
        alt=f"{up} against {across}{by}: {what}.",
        caption=panel.caption,
    )


def _plot(axes: Axes, panel: Panel, frame: Frame) -> None:
    if frame.empty:
        axes.text(0.5, 0.5, "no finite numbers", ha="center", va="center")
        return
    places = _places(axes, panel, frame)
    for label, shade, own in _groups(panel, frame):
        x = own[panel.x].map(places) if places else own[panel.x]
        own = own.assign(_x=x)
        if panel.unit:
            for _, line in own.groupby(list(panel.unit), sort=True):
                line = line.sort_values("_x")
                axes.plot(line["_x"], line[panel.y], color=shade, alpha=0.75)
        else:
            axes.plot(
                own["_x"], own[panel.y],
                "o", color=shade, markersize=3.5, alpha=0.6, markeredgewidth=0,
            )  # fmt: skip
            if own["_x"].nunique() <= len(own) / 2:  # else they are a scatter
                middle = own.groupby("_x")[panel.y].median()
                axes.plot(middle.index, middle, color=shade)
        if label:
            axes.plot([], [], color=shade, label=label)
    if "x" in panel.log:
        axes.set_xscale("log")
        _few_ticks(axes, frame[panel.x])
    if "y" in panel.log:
        axes.set_yscale("log")
    _references(axes, panel, frame)
    axes.set_xlabel(panel.xlabel or panel.x)
    axes.set_ylabel(panel.ylabel or panel.y)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(title=None, loc="best")


def _few_ticks(axes: Axes, values: Column) -> None:
    """At the values themselves where there are few of them."""
    levels = sorted(set(values.tolist()))
    if 1 < len(levels) <= _MOST_TICKS:
        axes.set_xticks(levels, [f"{level:g}" for level in levels])
        axes.xaxis.set_minor_locator(NullLocator())


def _places(axes: Axes, panel: Panel, frame: Frame) -> dict[Any, float]:
    """Where words stand on the horizontal axis; nothing for numbers."""
    if pd.api.types.is_numeric_dtype(frame[panel.x]):
        return {}
    names = list(dict.fromkeys(frame[panel.x]))
    axes.set_xticks(range(len(names)), [str(name) for name in names])
    return {name: float(i) for i, name in enumerate(names)}


def _groups(panel: Panel, frame: Frame) -> list[tuple[str, str, Frame]]:
    if not panel.hue:
        return [("", _SHADES[0], frame)]
    column = frame[panel.hue]
    number = pd.api.types.is_numeric_dtype(column) and column.dtype != bool
    levels = list(dict.fromkeys(column.tolist()))
    if number:
        levels.sort()
    shades = {level: _SHADES[i % len(_SHADES)] for i, level in enumerate(levels)}
    if number:
        shades = colours(levels)
    return [
        (
            f"{_NAMES.get(panel.hue, panel.hue)} {level:g}" if number else str(level),
            shades[level],
            frame[column == level],
        )
        for level in levels
    ]


def _references(axes: Axes, panel: Panel, frame: Frame) -> None:
    dashed: dict[str, Any] = {"color": INK, "linestyle": "--", "linewidth": 1}
    for value, label in panel.levels:
        axes.axhline(value, **dashed)
        axes.annotate(
            label, (0.99, value), xycoords=("axes fraction", "data"),
            ha="right", va="bottom", fontsize=8.5, color=INK,
        )  # fmt: skip
    if panel.diagonal:
        both = frame[[panel.x, panel.y]].to_numpy(dtype=float)
        ends = [both.min(), both.max()]
        axes.plot(ends, ends, label="y = x", **dashed)
    if panel.slope is not None:
        low, high = frame[panel.x].min(), frame[panel.x].max()
        start = frame.loc[frame[panel.x] == low, panel.y].median()
        x = np.array([low, high], dtype=float)
        label = f"slope {panel.slope:g}".replace("-", "−")
        axes.plot(x, start * (x / low) ** panel.slope, label=label, **dashed)
