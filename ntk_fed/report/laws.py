"""Laws of a study over a swept quantity: exponents, intervals, straightness, verdicts.

Floor 9: points come from ``report.summary``, fits from ``scaling``.
"""

import contextlib
import dataclasses
from collections.abc import Iterable
from typing import Any

import pandas as pd

from ntk_fed.measured import Verdict
from ntk_fed.report.study import Frame, Study
from ntk_fed.report.summary import ALL_LAWS, Law, points
from ntk_fed.scaling import (
    PowerLaw,
    Straightness,
    compare,
    power_law,
    straightness,
)

TOLERANCE = 0.1  # exponents so far apart count as equal, and so does a bend
_FEWEST = 8  # points that the bootstrap takes


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A law held against the runs of one group.

    Attributes:
        law: the quantity, and its slope in the lazy regime.
        over: the swept quantity on the axis.
        group: values of what else was swept; empty when all runs are pooled.
        line: the power law with Student's interval.
        bootstrap: the same with that of the wild bootstrap; ``None`` below eight
            points.
        straight: is it a straight line, and which values of ``over`` carry it?
            ``None`` where fewer than three were run.
        verdict: is the exponent the lazy one, to ``TOLERANCE``? ``None`` over another
            quantity than the width, of which the lazy regime says nothing.
    """

    law: Law
    over: str
    group: dict[str, Any]
    line: PowerLaw
    bootstrap: PowerLaw | None
    straight: Straightness | None
    verdict: Verdict | None


def axes(study: Study) -> list[str]:
    """Swept numbers a law can be fitted over, width first."""
    found = []
    for name in ("width", *study.swept):
        values = study.runs[name].dropna()
        number = pd.api.types.is_numeric_dtype(values)
        if number and values.nunique() > 1 and (values > 0).all():
            found.append(name)
    return [name for name in found if name != "data_seed"]


def laws(
    study: Study, *, over: str = "width", among: Iterable[Law] = ALL_LAWS
) -> tuple[list[Fitted], list[Law]]:
    """Every law that has points enough, group by group, and the laws that have not.

    Runs that differ in something else that was swept are groups of their own, unless
    that leaves a group without three points at two values of ``over``: then all are
    pooled.

    Args:
        study: the runs.
        over: a swept quantity, one of :func:`axes`.
        among: the laws to fit.

    Raises:
        ValueError: ``over`` is not among the axes of the study.
    """
    if over not in (known := axes(study)):
        raise ValueError(
            f"over must be a positive number that was swept, got {over!r}. This study "
            f"has {', '.join(known) or 'none'}."
        )
    found, missing = [], []
    for law in among:
        frame = points(study, law)
        frame = frame[frame["value"] > 0]
        own = [
            _fitted(law, over, group, part)
            for group, part in _groups(study, frame, over)
            if _enough(part, over)
        ]
        found += own
        missing += [] if own else [law]
    return found, missing


def _groups(
    study: Study, frame: Frame, over: str
) -> list[tuple[dict[str, Any], Frame]]:
    names = [name for name in ("width", *study.swept) if name != over]
    names = [name for name in names if study.runs[name].nunique(dropna=False) > 1]
    if not names or frame.empty:
        return [({}, frame)]
    parts = [
        (dict(zip(names, values, strict=True)), part)
        for values, part in frame.groupby(names, sort=True, dropna=False)
    ]
    return parts if all(_enough(part, over) for _, part in parts) else [({}, frame)]


def _enough(frame: Frame, over: str) -> bool:
    return len(frame) >= 3 and frame[over].nunique() > 1


def _fitted(law: Law, over: str, group: dict[str, Any], frame: Frame) -> Fitted:
    x, y = frame[over].tolist(), frame["value"].tolist()
    line = power_law(x, y)
    bootstrap = straight = None
    if len(x) >= _FEWEST:
        with contextlib.suppress(ValueError):  # one point alone carries the slope
            bootstrap = power_law(x, y, interval="bootstrap")
    if len(x) >= 4 and len(set(x)) >= 3:
        straight = straightness(x, y, tolerance=TOLERANCE)
    verdict = None
    if over == "width":
        verdict = compare(line, law.slope, tolerance=TOLERANCE)
    return Fitted(law, over, group, line, bootstrap, straight, verdict)


def frame(found: Iterable[Fitted]) -> Frame:
    """One row per law and group, with every number of its fits."""
    return pd.DataFrame([_numbers(one) for one in found])


def _numbers(one: Fitted) -> dict[str, Any]:
    row: dict[str, Any] = {
        "quantity": one.law.name,
        "of": one.law.quantity,
        "over": one.over,
        **one.group,
        "theory": one.law.slope if one.over == "width" else None,
        "verdict": None if one.verdict is None else str(one.verdict),
        **dataclasses.asdict(one.line),
        "bootstrap_lower": None if one.bootstrap is None else one.bootstrap.lower,
        "bootstrap_upper": None if one.bootstrap is None else one.bootstrap.upper,
    }
    if (own := one.straight) is not None:
        row |= {
            "straight": str(own.straight),
            "bend": own.bend.value,
            "bend_lower": own.bend.lower,
            "bend_upper": own.bend.upper,
            "lowest_without_one": own.lowest,
            "highest_without_one": own.highest,
            "most_moving": own.most_moving,
            "lack_of_fit": own.lack_of_fit,
        }
    return row
