"""The table of exponents: fits, intervals, straightness, and the slopes of the theory.

Floor 9: fits come from ``report.laws``.
"""

from ntk_fed.report.laws import TOLERANCE, frame, laws
from ntk_fed.report.study import Study
from ntk_fed.report.summary import exponent_words, slope_words, verdict_on
from ntk_fed.report.tables import Cell, Table, csv_uri
from ntk_fed.report.words import NOTHING, number, signed
from ntk_fed.scaling import PowerLaw, Straightness
from ntk_fed.theory.condition import WORDING


def table(study: Study, over: str = "width") -> tuple[Table | None, list[str]]:
    """Fitted exponents beside the slopes of the theory, and what was left out."""
    found, missing = laws(study, over=over)
    left_out = list(dict.fromkeys(law.name for law in missing))
    if not found:
        return None, left_out
    at_width = over == "width"
    rows = []
    for one in found:
        group = ", ".join(f"{name} {value}" for name, value in one.group.items())
        small = (one.law.when, group) if group else (one.law.when,)
        row = [
            Cell(one.law.name, small),
            Cell(exponent_words(one.line), _bootstrap(one.bootstrap)),
        ]
        if one.verdict is not None:
            said = (verdict_on(one.law, one.line),)
            row.append(Cell(slope_words(one.law)))
            row.append(Cell(str(one.verdict), said, str(one.verdict)))
        row += [
            *_straight(one.straight),
            Cell(str(one.line.points)),
            Cell(number(one.line.residual, 2)),
        ]
        if at_width:
            row.append(Cell(WORDING["derived"], (one.law.why,)))
        rows.append(row)
    theory = ("lazy slope", f"is it, to ±{TOLERANCE}?") if at_width else ()
    header = (
        "quantity", "exponent [95 % interval]", *theory, "straight?",
        "without one value", "points", "scatter of log",
        *(("status and argument",) if at_width else ()),
    )  # fmt: skip
    caption = (
        f"Least squares of log value on log {over}, Student t interval and below it "
        "that of a wild bootstrap; each run is one point"
        + ("" if any(one.group for one in found) else ", all runs pooled")
        + f". Straight: the bend, which is how far the local exponent changes over the "
        f"range, lies within ±{TOLERANCE}. Without one value: the range of the "
        f"exponent when all points at one {over} are left out, and which one moves it "
        "most."
    )
    if at_width:
        caption += (
            " The lazy slope holds when the t interval lies within "
            f"±{TOLERANCE} of it, and fails when the interval does not meet this band."
        )
    name = "exponents" if at_width else f"exponents-{over}"
    return Table(name, caption, header, rows, csv_uri(frame(found))), left_out


def _bootstrap(found: PowerLaw | None) -> tuple[str, ...]:
    if found is None:
        return ()
    ends = signed(found.lower, 3), signed(found.upper, 3)
    return (f"bootstrap [{ends[0]}, {ends[1]}]",)


def _straight(found: Straightness | None) -> list[Cell]:
    """Is it straight, and the exponents without one value."""
    if found is None:
        return [Cell(NOTHING), Cell(NOTHING)]
    bend = found.bend
    small = f"bend {signed(bend.value, 2)} [{signed(bend.lower, 2)}, "
    return [
        Cell(
            str(found.straight),
            (f"{small}{signed(bend.upper, 2)}]",),
            str(found.straight),
        ),
        Cell(
            f"{signed(found.lowest, 3)} to {signed(found.highest, 3)}",
            (f"most without {found.most_moving:g}",),
        ),
    ]
