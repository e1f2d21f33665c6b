"""Figures against width, and spectra.

Floor 9: draws what ``report.study`` read and ``report.summary`` fitted.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ntk_fed.report.figures import (
    INK,
    PREDICTED,
    Drawing,
    beside,
    colours,
    draw,
    log_values,
    width_axis,
    width_legend,
)
from ntk_fed.report.study import Column, Frame, Study
from ntk_fed.report.summary import (
    ALL_LAWS,
    Law,
    exponent_words,
    fit,
    points,
    slope_words,
    verdict_on,
)
from ntk_fed.report.words import counted, number, percent, signed, span
from ntk_fed.scaling.powerlaw import PowerLaw


def prediction_error(study: Study, table: Frame) -> list[Drawing]:
    """Largest prediction error against width, every seed."""
    frame = table[table["prediction_error"].notna()].assign(
        value=lambda t: t["prediction_error"]
    )
    frame = frame[frame["value"] > 0]
    if frame["width"].nunique() < 2:
        return []
    found = fit(frame)
    medians = frame.groupby("width")["value"].median()
    caption = f"Every run; the bar is the median over seeds ({_listed(medians)}). "
    if found is not None:
        caption += f"Fitted exponent {exponent_words(found)}. "

    def plot(axes: Axes) -> None:
        _scatter(axes, study, frame)
        axes.plot(medians.index, medians, "_", color=INK, markersize=22)
        if found is not None:
            _line(axes, frame, found)
        log_values(axes, frame["value"].min(), frame["value"].max())
        axes.set_ylabel("largest ‖r − r_pred‖ / ‖r_0‖")

    return [
        draw(
            plot,
            title="Largest prediction error",
            alt="Largest prediction error of every run against width, log-log.",
            caption=f"{caption}Points that do not fall with width would refute the "
            "prediction's claim to wide networks.",
        )
    ]


def _listed(values: Column) -> str:
    return ", ".join(f"{percent(value)} at {width}" for width, value in values.items())


def _scatter(axes: Axes, study: Study, frame: Frame) -> None:
    shades = colours(study.widths)
    axes.scatter(
        beside(frame),
        frame["value"],
        c=[shades[width] for width in frame["width"]],
        s=26,
        zorder=3,
    )
    width_axis(axes, study.widths)


def _line(axes: Axes, frame: Frame, found: PowerLaw) -> None:
    x = np.array([frame["width"].min(), frame["width"].max()], dtype=float)
    axes.plot(x, found.prefactor * x**found.exponent, color=INK)


def smallest_eigenvalue(study: Study, table: Frame) -> list[Drawing]:
    """λ_min of the kernel at the start against width, with λ0 and ¾ λ0."""
    frame = table[table["lambda_min"].notna()].assign(value=lambda t: t["lambda_min"])
    if frame["width"].nunique() < 2:
        return []
    limit = frame["lambda0"].dropna()
    lower, upper = frame["lambda_min_lower"], frame["lambda_min_upper"]

    def plot(axes: Axes) -> None:
        reach = np.vstack([frame["value"] - lower, upper - frame["value"]])
        axes.errorbar(
            beside(frame), frame["value"], np.maximum(reach, 0),
            fmt="none", ecolor=INK, capsize=3,
        )  # fmt: skip
        _scatter(axes, study, frame)
        if limit.nunique() == 1:
            for factor, name, dashes in ((1, "λ0", "-"), (0.75, "¾ λ0", "--")):
                axes.axhline(
                    factor * limit.iloc[0],
                    color=PREDICTED,
                    linestyle=dashes,
                    label=name,
                )
            axes.legend(loc="lower right")
        axes.set_ylim(bottom=min(0.0, lower.min()))
        axes.set_ylabel("λ_min(Θ_0)")

    widest = ((upper - lower) / frame["value"].abs()).max()
    caption = (
        f"Every run (seeds slightly beside each other); error bars are enclosures, the "
        f"widest {number(widest, 2)} of its value"
        + (", too narrow to be seen. " if widest < 0.01 else ". ")
    )
    if limit.nunique() == 1:
        caption += "Points below the dashed line fail the condition of the first line. "
    return [
        draw(
            plot,
            title="λ_min at the start",
            alt="Smallest kernel eigenvalue of every run against width, with λ0.",
            caption=f"{caption}Points that do not approach λ0 would refute the limit.",
        )
    ]


def scaling(study: Study) -> list[Drawing]:
    """Each law on log-log axes: points, fit, reference slope."""
    drawings = []
    for law in ALL_LAWS:
        frame = points(study, law)
        frame = frame[frame["value"] > 0]
        if frame["width"].nunique() < 2:
            continue
        found = fit(frame)
        drawings.append(
            draw(
                lambda axes, law=law, f=frame, p=found: _law(axes, study, law, f, p),
                title=law.name[0].upper() + law.name[1:],
                alt=f"{law.name} of every run against width on log-log axes, with the "
                "fitted line and the reference slope.",
                caption=_law_caption(law, frame, found),
            )
        )
    return drawings


def _law(
    axes: Axes, study: Study, law: Law, frame: Frame, found: PowerLaw | None
) -> None:
    _scatter(axes, study, frame)
    x = np.array([frame["width"].min(), frame["width"].max()], dtype=float)
    middle = np.exp(np.log(frame[["width", "value"]].astype(float)).mean())
    reference = middle["value"] * (x / middle["width"]) ** law.slope
    axes.plot(x, reference, "--", color=PREDICTED)
    handles = [
        Line2D(
            [], [], color=PREDICTED, linestyle="--", label=f"slope {slope_words(law)}"
        )
    ]
    if found is not None:
        _line(axes, frame, found)
        handles.insert(
            0, Line2D([], [], color=INK, label=f"fit {signed(found.exponent, 2)}")
        )
    low = min(frame["value"].min(), *reference)
    high = max(frame["value"].max(), *reference)
    if high / low < 1.5:  # a flat law: keep one scale, so that noise stays small
        low, high = low / 1.5, high * 1.5
    log_values(axes, low, high)
    axes.set_ylabel(law.label)
    axes.legend(handles=handles, loc="best")


def _law_caption(law: Law, frame: Frame, found: PowerLaw | None) -> str:
    start = f"{law.when[0].upper()}{law.when[1:]}, {counted(len(frame), 'run')}. "
    if found is None:
        return f"{start}Too few points for an exponent."
    verdict = verdict_on(law, found)
    return f"{start}Exponent {exponent_words(found)}; the interval {verdict}."


def spectra(study: Study) -> list[Drawing]:
    """Eigenvalues of the kernel and of the federated kernel, log-log."""
    limit = study.each("limit smallest eigenvalue", "first").dropna()
    drawings = []
    for key, title, label in (
        ("kernel", "Tangent kernel Θ_0", "eigenvalue of Θ_0"),
        ("federated", "Federated kernel P^½ΘP^½", "eigenvalue of P^½ΘP^½"),
    ):
        found = {run: own[key] for run, own in study.spectra.items() if key in own}
        if not found:
            continue
        line = limit.iloc[0] if key == "kernel" and limit.nunique() == 1 else None
        ends = np.array([own.min() for own in found.values()])
        tops = [float(own.max()) for own in found.values()]
        caption = f"Every run. From {span(tops)} down to {span(ends.tolist())}. "
        dropped = sum(int((own <= 0).sum()) for own in found.values())
        if dropped:
            caption += (
                f"{counted(dropped, 'eigenvalue')} at or below 0 cannot be drawn. "
            )
        if line is not None:
            caption += "Dashed: λ0. "
        drawings.append(
            draw(
                lambda axes, f=found, y=label, at=line: _spectra(axes, study, f, y, at),
                title=title,
                alt=f"{title}: eigenvalues in descending order on log-log axes.",
                caption=f"{caption}A curve that drops to rounding at its right end "
                "would refute a kernel bounded away from zero.",
            )
        )
    return drawings


def _spectra(
    axes: Axes,
    study: Study,
    found: dict[str, np.ndarray],
    label: str,
    limit: float | None,
) -> None:
    width = study.runs.set_index("run")["width"]
    shades = colours(study.widths)
    for run, ascending in found.items():
        values = ascending[::-1]
        kept = np.flatnonzero(values > 0)
        axes.plot(kept + 1, values[kept], color=shades[int(width[run])], linewidth=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    if limit is not None:
        axes.axhline(limit, color=PREDICTED, linestyle="--")
    axes.set_xlabel("index, largest first")
    axes.set_ylabel(label)
    width_legend(axes, study.widths)
