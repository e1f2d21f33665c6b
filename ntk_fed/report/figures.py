"""The paper a figure is drawn on: one style, SVG bytes that do not vary, a caption.

Floor 9: matplotlib's object interface only, so that nothing global is changed.
"""

import base64
import contextlib
import dataclasses
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullLocator,
)

from ntk_fed.report.study import Frame
from ntk_fed.report.words import mathtext

MOST_POINTS = 200  # rounds drawn per curve; more cannot be told apart on a page
INK = "#333333"
PREDICTED = "#d55e00"  # vermilion of the Okabe-Ito palette, safe for colour blindness
SIZE = (4.6, 3.2)  # inches; 9 pt stay above 9 px on a page 400 px wide

_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "ntk_fed",  # element ids, and with them the bytes, do not vary
    "svg.fonttype": "path",
    "font.size": 9.5,
    "axes.labelsize": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.edgecolor": "#999999",
    "axes.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.title_fontsize": 9,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "none",
    "grid.color": "#e4e4e4",
    "lines.linewidth": 1.2,
}


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure ready for the page.

    Attributes:
        source: data URI of the SVG.
        alt: what it shows, for those who do not see it.
        caption: what to look for, and what would have refuted it.
    """

    source: str
    alt: str
    caption: str


@contextlib.contextmanager
def _style() -> Iterator[None]:
    with mpl.rc_context(), sns.axes_style("whitegrid"), mpl.rc_context(_STYLE):
        yield


def draw(
    plot: Callable[[Axes], None], *, title: str, alt: str, caption: str
) -> Drawing:
    """Call ``plot`` on fresh axes and keep the result as SVG.

    Args:
        plot: draws on the axes it is given.
        title: above the axes.
        alt: text for those who do not see it.
        caption: text below it.
    """
    with _style():
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
        plot(axes)
        axes.set_title(mathtext(title), loc="left")
        axes.set_xlabel(mathtext(axes.get_xlabel()))
        axes.set_ylabel(mathtext(axes.get_ylabel()))
        if legend := axes.get_legend():
            for text in legend.get_texts():
                text.set_text(mathtext(text.get_text()))
        sns.despine(ax=axes)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = base64.b64encode(file.getvalue()).decode()
    return Drawing(f"data:image/svg+xml;base64,{text}", alt, caption)


def colours(levels: Sequence[float]) -> dict[float, str]:
    """A colour for each number, such as a width: light is small, dark is large."""
    shades = np.linspace(0.78, 0.05, len(levels)) if len(levels) > 1 else [0.35]
    palette = mpl.colormaps["viridis"](shades)
    return {level: to_hex(c) for level, c in zip(levels, palette, strict=True)}


def thinned(series: Frame) -> Frame:
    """At most ``MOST_POINTS`` rounds, evenly spaced, both ends kept."""
    rounds = np.unique(series["round"])
    if len(rounds) <= MOST_POINTS:
        return series
    kept = rounds[np.linspace(0, len(rounds) - 1, MOST_POINTS).round().astype(int)]
    return series[series["round"].isin(kept)]


def every_run(axes: Axes, series: Frame, widths: Sequence[int]) -> None:
    """One line per run against rounds, coloured by width, with a legend."""
    shades = colours(widths)
    for run in thinned(series).groupby("run", sort=False):
        own = run[1].sort_values("round")
        axes.plot(own["round"], own["value"], color=shades[own["width"].iloc[0]])
    rounds_axis(axes)
    width_legend(axes, widths)


def rounds_axis(axes: Axes) -> None:
    """Rounds are whole numbers."""
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel("communication rounds")


def width_legend(axes: Axes, widths: Sequence[int], **more) -> None:
    """The colours of the widths, beside the axes."""
    handles = [
        Line2D([], [], color=shade, label=f"{width}", linewidth=2)
        for width, shade in colours(widths).items()
    ]
    axes.legend(
        handles=handles,
        title="width",
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        handlelength=1.0,
        handletextpad=0.5,
        borderaxespad=0.2,
        **more,
    )


def width_axis(axes: Axes, widths: Sequence[int]) -> None:
    """A logarithmic axis of widths, each one labelled as long as there is room."""
    axes.set_xscale("log", base=2)
    shown = widths if len(widths) <= 8 else widths[:: -(-len(widths) // 8)]
    axes.xaxis.set_major_locator(FixedLocator(list(shown)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.set_xlabel("width (hidden units)")


def log_values(axes: Axes, low: float, high: float) -> None:
    """A logarithmic axis of values, labelled in plain numbers where they are few."""
    axes.set_yscale("log")
    if high / low < 300:
        axes.set_ylim(low / 1.15, high * 1.15)
        subs = (
            (1.0, 2.0, 5.0) if high / low > 8 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
        )
        axes.yaxis.set_major_locator(LogLocator(subs=subs))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))


def beside(frame: Frame) -> np.ndarray:
    """Widths moved sideways by seed, by up to 4 %, so that equal values all show."""
    place = frame.groupby("width").cumcount().to_numpy(dtype=float)
    count = frame.groupby("width")["width"].transform("size").to_numpy(dtype=float)
    shift = np.where(count > 1, place / np.maximum(count - 1, 1) - 0.5, 0.0)
    return frame["width"].to_numpy(dtype=float) * 2 ** (0.11 * shift)
