"""Figures against communication rounds.

Floor 9: draws what ``report.study`` read.
"""

from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ntk_fed.report.figures import (
    INK,
    PREDICTED,
    Drawing,
    draw,
    every_run,
    log_values,
    rounds_axis,
    thinned,
)
from ntk_fed.report.study import Frame, Study
from ntk_fed.report.words import counted, number, percent, span
from ntk_fed.theory.condition import WORDING

_STYLES: tuple[tuple[Any, float], ...] = (("-", 1.4), ("--", 1.1), (":", 1.4))
_CLOSE = 1e-6  # two records of one residual norm, relative
_BEYOND = 1e9  # times the loss at the start: what goes above is not drawn
_CUT = f" A run that diverged is drawn until its loss is {_BEYOND:.0e} times the first."


def predicted_loss(study: Study) -> Frame:
    """Loss predicted by the kernel: ``loss_0 · (predicted ‖r_t‖ / predicted ‖r_0‖)²``.

    The loss is ``‖r‖²/(2n)`` when clients are weighted by their samples and every
    sample has a client; otherwise this is no prediction of it, and nothing is given.
    """
    found = study.series("predicted residual norm")
    loss, norm = study.each("loss", "first"), study.each("residual norm", "first")
    start = study.each("predicted residual norm", "first")
    same = ((start / norm - 1).abs() < _CLOSE).all()
    if found.empty or study.setting("weights") != "samples" or not same:
        return found.iloc[:0]
    own = found["run"]
    ratio = found["value"] / own.map(start)
    return found.assign(value=own.map(loss) * ratio**2)


def loss(study: Study) -> list[Drawing]:
    """Loss against rounds, one panel per width, with prediction and promise."""
    simulated = study.series("loss")
    simulated = simulated[simulated["value"] > 0]
    if simulated.empty:
        return []
    most = _BEYOND * simulated.loc[simulated["round"].idxmin(), "value"]
    beyond = set(simulated.loc[simulated["value"] > most, "width"])
    simulated = simulated[simulated["value"] <= most]
    predicted = predicted_loss(study)
    promised = study.series("loss promised by du2019")
    both = [v for part in (simulated, predicted, promised) for v in part["value"]]
    low, high = min(v for v in both if v > 0), max(both)
    drawings = []
    for width in study.widths:
        panels = [
            part[part["width"] == width] for part in (simulated, predicted, promised)
        ]
        if panels[0].empty:
            continue
        seeds = panels[0]["run"].nunique()
        drawings.append(
            draw(
                lambda axes, panels=panels: _loss_panel(axes, panels, low, high),
                title=f"width {width}",
                alt=f"Loss against rounds at width {width}, {counted(seeds, 'run')}, "
                "log axis: simulated, predicted and promised.",
                caption=_loss_caption(width, panels)
                + (_CUT if width in beyond else ""),
            )
        )
    return drawings


def _loss_panel(axes: Axes, panels: list[Frame], low: float, high: float) -> None:
    runs = panels[0].sort_values("seed")["run"].unique().tolist()
    palette = sns.color_palette("colorblind", len(runs)) if len(runs) < 9 else None
    shade = {run: palette[k] if palette else INK for k, run in enumerate(runs)}
    seed = panels[0].drop_duplicates("run").set_index("run")["seed"]
    for series, (dashes, size) in zip(panels, _STYLES, strict=True):
        for run, own in thinned(series).groupby("run", sort=False):
            colour = "#777777" if dashes == ":" else shade.get(run, INK)
            axes.plot(own["round"], own["value"], dashes, color=colour, linewidth=size)
    names = ("simulated", "predicted", "promised")
    handles = [
        Line2D([], [], linestyle=dashes, color=INK, label=name)
        for name, series, (dashes, _) in zip(names, panels, _STYLES, strict=True)
        if len(series)
    ]
    if palette:
        handles += [
            Line2D([], [], color=shade[run], label=f"seed {seed[run]}", linewidth=3)
            for run in runs
        ]
    log_values(axes, low, high)
    rounds_axis(axes)
    axes.set_ylabel("training loss F (mean form)")
    axes.legend(
        handles=handles,
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        handlelength=1.5,
        handletextpad=0.5,
        borderaxespad=0.2,
    )


def _loss_caption(width: int, panels: list[Frame]) -> str:
    ends = [
        p.sort_values("round").groupby("run")["value"].last().tolist() for p in panels
    ]
    text = f"Width {width}: the loss ends at {span(ends[0])}"
    if ends[1]:
        text += f", predicted {span(ends[1])}"
    if ends[2]:
        text += f", promised at most {span(ends[2])}"
    return f"{text}."


def loss_notes(study: Study) -> list[str]:
    """What the dashed and dotted curves are."""
    notes = []
    if len(predicted_loss(study)):
        notes.append(
            "Dashed: the loss at round 0 times the square of the predicted residual "
            "norm relative to its start (the loss is ‖r‖²/(2n), since clients are "
            "weighted by their samples); derived in this project. A dashed curve that "
            "leaves the solid one of its colour refutes the linearisation there."
        )
    else:
        why = "none was recorded, or clients are not weighted by their samples"
        notes.append(f"No predicted curve: {why}.")
    promised = study.rows[study.rows["quantity"] == "loss promised by du2019"]
    if len(promised):
        status = promised["status"].dropna().unique()
        words = ", ".join(WORDING.get(str(s), str(s)) for s in status)
        notes.append(
            f"Dotted: the loss promised by Du et al. 2019 ({words}) for k = K·t steps "
            "of gradient descent. FedAvg is not its algorithm when K > 1, so the curve "
            "is a yardstick; a solid curve above it would show that it does not carry "
            "over."
        )
    else:
        notes.append("No theorem's curve: λ0 is not known for this network.")
    return notes


def prediction_error(study: Study) -> list[Drawing]:
    """Distance between run and prediction against rounds, and rounds against ρ."""
    drawings = []
    found = study.series("prediction error")
    if len(found):
        worst = found.groupby("run")["value"].max()
        drawings.append(
            draw(
                lambda axes: lines(axes, study, found, "‖r − r_pred‖ / ‖r_0‖"),
                title="Prediction error",
                alt="Distance between simulated and predicted residual against rounds, "
                "one line per run, coloured by width.",
                caption="Every run, coloured by width; its largest value is "
                f"{span(worst.tolist(), percent)}."
                + if_widths(
                    study,
                    " Dark (wide) curves above light (narrow) ones would refute that "
                    "width makes the network lazy.",
                ),
            )
        )
    return drawings + _speed(study)


def _speed(study: Study) -> list[Drawing]:
    """Decay of the P-norm in each round over the slowest decay that ρ allows."""
    found = study.series("contraction (P-norm)")
    rate = study.each("rate", "first").dropna()
    rate = rate[(rate > 0) & (rate < 1)]
    found = found[found["run"].isin(rate.index) & (found["value"] > 0)]
    if found.empty:
        return []
    own = found["run"].map(rate)
    speed = found.assign(value=np.log(found["value"]) / np.log(own))
    shown = speed[speed["value"] > 0]
    caption = f"Every run; the slowest round has {number(speed['value'].min())}. "
    if len(shown) < len(speed):
        caption += (
            f"{counted(len(speed) - len(shown), 'round')} in which the P-norm did not "
            "fall cannot be drawn. "
        )

    def plot(axes: Axes) -> None:
        axes.axhline(1.0, color=PREDICTED, linestyle="--")
        lines(axes, study, shown, "log(P-norm ratio) / log ρ")
        values = [*shown["value"], 1.0]
        log_values(axes, min(values), max(values))

    return [
        draw(
            plot,
            title="Decay of each round",
            alt="Logarithm of each round's P-norm contraction over the logarithm of "
            "the rate, one line per run; 1 is the slowest that is promised.",
            caption=f"{caption}Dashed: 1, the rate ρ itself. A point below it would "
            "refute the rate.",
        )
    ]


def if_widths(study: Study, text: str) -> str:
    """What only several widths can show."""
    return text if len(study.widths) > 1 else ""


def lines(axes: Axes, study: Study, series: Frame, label: str) -> None:
    """Every run of a quantity against rounds, with its label."""
    every_run(axes, series, study.widths)
    axes.set_ylabel(label)


def smallest_eigenvalue(study: Study) -> list[Drawing]:
    """λ_min along the run."""
    found = study.series("smallest eigenvalue")
    if found.empty:
        return []
    limit = study.each("limit smallest eigenvalue", "first").dropna()

    def plot(axes: Axes) -> None:
        lines(axes, study, found, "λ_min(Θ_t)")
        if limit.nunique() == 1:
            axes.axhline(limit.iloc[0] / 2, color=PREDICTED, linestyle="--")
        axes.set_ylim(bottom=min(0.0, found["value"].min()))

    caption = f"Smallest over all runs and rounds: {number(found['lower'].min(), 4)}. "
    if limit.nunique() == 1:
        caption += (
            "Dashed: λ0/2, above which λ_min stays along the run in Du et al. 2019 "
            f"({WORDING['recalled']}). "
        )
    return [
        draw(
            plot,
            title="λ_min along the run",
            alt="Smallest eigenvalue of the kernel against rounds, one line per run.",
            caption=f"{caption}A curve that reaches 0 would refute a kernel bounded "
            "away from zero while it trains.",
        )
    ]
