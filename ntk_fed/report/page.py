"""Sections of the page in their order, and the page as text.

Floor 9.
"""

import dataclasses

from ntk_fed.report import answers, curves, exponents, moving, tables, widths
from ntk_fed.report.figures import MOST_POINTS, Drawing
from ntk_fed.report.laws import axes
from ntk_fed.report.study import Frame, Study
from ntk_fed.report.summary import per_run
from ntk_fed.report.tables import Table
from ntk_fed.report.template import filled
from ntk_fed.report.words import counted, listed, paragraphs

_FEW = "Fewer than two widths were run, so nothing is drawn against width."


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page: text, figures, tables, in this order."""

    name: str
    title: str
    notes: list[str]
    figures: list[Drawing] = dataclasses.field(default_factory=list)
    tables: list[Table] = dataclasses.field(default_factory=list)


def _loss(study: Study) -> Section:
    figures = curves.loss(study)
    notes = curves.loss_notes(study) if figures else ["The loss was not recorded."]
    return Section("loss", "Loss against rounds", notes, figures)


def _prediction(study: Study, table: Frame) -> Section:
    figures = curves.prediction_error(study)
    against = widths.prediction_error(study, table)
    notes = []
    if not figures:
        notes.append("No prediction was recorded beside the run.")
    elif not against:
        notes.append(_FEW)
    title = "Does the run follow its prediction?"
    return Section("prediction", title, notes, figures + against)


def _eigenvalue(study: Study, table: Frame) -> Section:
    against = widths.smallest_eigenvalue(study, table)
    figures = against + curves.smallest_eigenvalue(study)
    notes = [] if against else [_FEW]
    if not table["lambda0"].notna().any():
        notes.append("λ0 is not known for this network; its lines are left out.")
    return Section("eigenvalue", "Smallest eigenvalue", notes, figures)


def _moving(study: Study) -> Section:
    figures, missing = moving.moving(study)
    notes = []
    if missing:
        notes.append(
            f"Not recorded, and left out: {listed(missing)}. A network without "
            "ReLU has no gates to flip."
        )
    return Section("moving", "What moves while it trains", notes, figures)


def _scaling(study: Study) -> Section:
    title = "How it changes with width"
    made = {name: exponents.table(study, name) for name in axes(study)}
    found = [table for table, _ in made.values() if table is not None]
    if len(study.widths) < 2:
        return Section("scaling", title, [_FEW], tables=found)
    missing = made["width"][1]
    notes = [
        "Dashed: the slope that the lazy regime leads to expect for widths without "
        "end and a fixed number of rounds. These slopes are heuristics derived in this "
        "project, not theorems. An interval that excludes its slope says that these "
        "widths are not in that regime, or that the heuristic is wrong. The interval "
        "covers the scatter of the seeds about a straight line and assumes their "
        "errors independent; a bend is not in it, and has a column of its own."
    ]
    if missing:
        notes.append(f"Without an exponent, for want of points: {listed(missing)}.")
    return Section("scaling", title, notes, widths.scaling(study), found)


def _spectrum(study: Study) -> Section:
    figures = widths.spectra(study)
    notes = [] if figures else ["No spectra were kept (arrays/ holds none)."]
    return Section("spectrum", "Spectrum at the start", notes, figures)


def _conditions(study: Study) -> Section:
    return Section(
        "conditions",
        "Conditions of the theorems",
        tables.normal_outcomes(study),
        tables=[tables.conditions(study)],
    )


def sections(study: Study, table: Frame) -> list[Section]:
    """Everything between the answers and the commands."""
    return [
        _loss(study),
        _prediction(study, table),
        _eigenvalue(study, table),
        _moving(study),
        _scaling(study),
        _spectrum(study),
        _conditions(study),
        Section("runs", "Every run", [], tables=[tables.runs(study, table)]),
    ]


def remarks(study: Study) -> list[str]:
    """What a reader must know before the figures."""
    found = []
    if study.swept:
        found.append(
            f"Also swept: {listed(study.swept)}. Figures pool these runs by width; "
            "exponents are fitted group by group where each has points enough."
        )
    if study.not_finite:
        found.append(
            f"{counted(study.not_finite, 'recorded value')} not finite, left out of "
            "figures and summaries. A run that diverges leaves such values."
        )
    if len(set(study.rows["round"].dropna())) > MOST_POINTS:
        found.append(f"At most {MOST_POINTS} rounds are drawn per curve.")
    return found


def html(study: Study, question: str | None) -> str:
    """The whole page."""
    table = per_run(study)
    verdict, words = answers.headline(table)
    return filled(
        "report.html.j2",
        study=study,
        verdict=verdict,
        headline=words,
        positivity=answers.positivity(table),
        answers=[
            ("Does FedAvg converge linearly?", answers.linear(table)),
            ("At the rate the kernel predicts?", answers.forecast(table)),
            ("What moves?", answers.moved(study, table)),
            ("What would have refuted this?", answers.refutation(study, table)),
            ("Which norm?", answers.norms(table)),
        ],
        overview=tables.overview(table),
        remarks=remarks(study),
        question=paragraphs(question) if question else [],
        sections=sections(study, table),
        provenance=tables.provenance(study.provenance),
        single=len(study.runs) == 1 and "grid" not in study.spec,
    )
