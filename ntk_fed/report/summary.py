"""The numbers of a study that sentences and tables are made of: one row per run.

Floor 9: imports ``report.study`` and ``scaling``.
"""

import dataclasses
import math

import numpy as np
import pandas as pd

from ntk_fed.report.study import Column, Frame, Study
from ntk_fed.report.words import signed
from ntk_fed.scaling.powerlaw import PowerLaw, power_law
from ntk_fed.theory.envelope import upper_envelope

EIGENVALUE_CONDITION = "λ_min(H(0)) against ¾ λ0"
EIGENVALUE = "λ_min(H(0)) ≥ ¾ λ0"  # as the first line of a page says it
_START = "kernel smallest eigenvalue at the start"
_ROUNDING = 1e-12  # of a ratio of two norms, relative


@dataclasses.dataclass(frozen=True)
class Law:
    """How a quantity should change with width.

    Attributes:
        quantity: its name in the rows.
        name: as a reader knows it.
        label: of its axis, with the unit.
        take: how its rounds make one number per run: ``first``, ``last``, ``mean``,
            ``rest`` (one minus the mean), or ``A`` or ``B`` of :func:`semi_lipschitz`.
        slope: exponent expected in the lazy regime, derived in this project.
        why: the argument, in one sentence.
    """

    quantity: str
    name: str
    label: str
    take: str
    slope: float
    why: str

    @property
    def when(self) -> str:
        """Which rounds the number is from, in words."""
        return _WHEN[self.take]


_WHEN = {
    "first": "at the start",
    "last": "last recorded round",
    "mean": "mean over the recorded rounds",
    "rest": "1 − mean ratio over the recorded rounds",
    "A": "least A with B that hold for every client and round; runs with 0 left out",
    "B": "least B with A that hold for every client and round; runs with 0 left out",
}
_ROWS_MOVE = "rows of weights move by O(m^−½), so O(m^−½) of the gates lie within reach"
_LINEARISED = "it tends to that of the linearised network: width does not remove it"
LAWS = (
    Law(
        "flips since start",
        "gates flipped since the start",
        "fraction of gates",
        "last", -0.5, _ROWS_MOVE,
    ),
    Law(
        "flips local-averaged",
        "gates apart, local to averaged model",
        "fraction of gates",
        "mean", -0.5, _ROWS_MOVE,
    ),
    Law(
        "kernel change (Frobenius)",
        "kernel change",
        "‖Θ_t − Θ_0‖ / ‖Θ_0‖",
        "last", -0.5, "the kernel changes with the gates",
    ),
    Law(
        "gradient drift",
        "gradient drift",
        "gradient norm (loss per unit of weight)",
        "mean", 0.0, _LINEARISED,
    ),
    Law(
        "relative gradient drift",
        "relative gradient drift",
        "drift / gradient norm",
        "mean", 0.0, _LINEARISED,
    ),
    Law(
        "linearisation gap",
        "linearisation gap",
        "‖f − f_lin‖ / ‖f_lin‖",
        "last", -0.5, "gates that flip are what the linearised network lacks",
    ),
)  # fmt: skip
_SEMI = "drift² ≤ A · displacement² + B · loss"
FURTHER_LAWS = (
    Law(
        "kernel smallest eigenvalue at the start",
        "λ_min at the start",
        "λ_min(Θ_0)",
        "first", 0.0, "it tends to λ0, which is above 0",
    ),
    Law(
        "distance to the limit kernel",
        "distance of the start kernel to its limit",
        "‖Θ_0 − H∞‖",
        "first", -0.5, "the kernel is a mean over independent hidden units",
    ),
    Law(
        "contraction (P-norm)",
        "progress per round",
        "1 − ratio of P-norms",
        "rest", 0.0, "the federated kernel tends to its limit",
    ),
    Law(
        "squared gradient drift",
        "A of semi-gradient-Lipschitzness",
        f"A in {_SEMI}",
        "A", 0.0, "it tends to the square of the smoothness of the linearised network",
    ),
    Law(
        "squared gradient drift",
        "B of semi-gradient-Lipschitzness",
        f"B in {_SEMI}",
        "B", -0.5, "the Jacobian's change, squared, is the share of gates that differ",
    ),
)  # fmt: skip
ALL_LAWS = (*LAWS, *FURTHER_LAWS)


def per_run(study: Study) -> Frame:
    """One row per run, in order of width and seed; NaN where nothing was recorded."""
    table = study.runs.set_index("run", drop=False)
    start = study.rows[study.rows["quantity"] == _START].drop_duplicates("run")
    start = start.set_index("run").reindex(table.index)
    ratio = study.each("residual norm", "last") / study.each("residual norm", "first")
    columns = {
        "lambda_min": start["value"],
        "lambda_min_lower": start["lower"],
        "lambda_min_upper": start["upper"],
        "certified": (start["status"] == "certified").fillna(False).astype(bool),
        "lambda0": study.each("limit smallest eigenvalue", "first"),
        "verdict": _verdicts(study),
        "rate": study.each("rate", "first"),
        "last_round": study.series("residual norm").groupby("run")["round"].max(),
        "residual_ratio": ratio,
        "prediction_error": study.each("prediction error", "max"),
        "p_norm_over_bound": study.each("P-norm over its bound", "max"),
        "worst_euclidean": study.each("contraction (Euclidean)", "max"),
        "flips_since_start": study.each("flips since start", "last"),
        "kernel_change": study.each("kernel change (Frobenius)", "last"),
        "loss_over_promised": study.each("loss", "last")
        / study.each("loss promised by du2019", "last"),
    }
    table = table.assign(**columns)
    return table.assign(**_contraction(study, table["rate"])).reset_index(drop=True)


def _verdicts(study: Study) -> Column:
    """Verdict on the eigenvalue condition by run; missing where not evaluated."""
    found = study.conditions[study.conditions["condition"] == EIGENVALUE_CONDITION]
    known = found[found["left"].notna() & found["right"].notna()]
    return known.drop_duplicates("run").set_index("run")["verdict"].astype(object)


def _contraction(study: Study, rate: Column) -> dict[str, Column]:
    """Rounds whose P-norm ratio was recorded, within the rate, and the worst one."""
    found = study.series("contraction (P-norm)").set_index("run")
    own = rate.reindex(found.index)
    over = found["value"] / own
    by_run = over.groupby("run")
    rises = study.series("contraction (Euclidean)").set_index("run")["value"] > 1
    return {
        "rounds": by_run.size(),
        "rounds_within": (over <= 1 + _ROUNDING).groupby("run").sum(),
        "worst_over_rate": by_run.max(),
        "euclidean_rises": rises.groupby("run").sum(),
        "euclidean_rounds": rises.groupby("run").size(),
    }


def points(study: Study, law: Law) -> Frame:
    """One point per run for a scaling law: the columns of the runs, and ``value``."""
    match law.take:
        case "A" | "B":
            values = semi_lipschitz(study)[law.take]
        case "rest":
            values = 1 - study.each(law.quantity, "mean")
        case _:
            values = study.each(law.quantity, law.take)
    frame = study.runs.assign(value=values.to_numpy())
    return frame[frame["value"].notna()]


def semi_lipschitz(study: Study) -> Frame:
    """``A`` and ``B`` of each run, with ``drift² ≤ A · displacement² + B · loss``.

    Squared, in norms: ``‖∇F_i(θ_i) − ∇F_i(θ̄)‖² ≤ A ‖θ_i − θ̄‖² + B F_i(θ̄)``. The least
    pair of numbers that holds for every client and round recorded, by
    :func:`ntk_fed.theory.envelope.upper_envelope`; NaN where nothing was recorded or a
    value is not finite.

    Source: the shape of the inequality is that of Deng, Kamani, Mahdavi (2022),
    arXiv:2107.10868 (recalled); the constants are fitted.
    """
    names = [
        "squared gradient drift",
        "squared displacement",
        "local loss at average",
    ]
    own = study.rows[study.rows["quantity"].isin(names) & study.rows["layer"].isna()]
    found = pd.DataFrame(np.nan, index=study.runs["run"], columns=["A", "B"])
    for run, rows in own.groupby("run"):
        keys = [rows["round"], rows["step"].fillna(0), rows["client"]]
        table = rows["value"].groupby([*keys, rows["quantity"]]).first().unstack()
        values = table.reindex(columns=names).dropna().to_numpy(float)
        if len(values) and np.isfinite(values).all():
            found.loc[run] = upper_envelope(values[:, 1:], values[:, 0]).coefficients
    return found


def fit(frame: Frame) -> PowerLaw | None:
    """Power law through positive points; ``None`` when there are too few."""
    frame = frame[np.isfinite(frame["value"]) & (frame["value"] > 0)]
    if len(frame) < 3 or frame["width"].nunique() < 2:
        return None
    return power_law(frame["width"].tolist(), frame["value"].tolist())


def exponent_words(found: PowerLaw) -> str:
    """An exponent with its interval, to two digits of the interval's width."""
    width = found.upper - found.lower
    decimals = max(3, 1 - math.floor(math.log10(width))) if width > 0 else 3
    middle, *ends = (
        signed(value, min(decimals, 9))
        for value in (found.exponent, found.lower, found.upper)
    )
    return f"{middle} [{ends[0]}, {ends[1]}]"


def slope_words(law: Law) -> str:
    """The slope a law expects."""
    return {-0.5: "−½", 0.0: "0"}.get(law.slope, signed(law.slope))


def verdict_on(law: Law, found: PowerLaw) -> str:
    """Does the interval contain the theory's slope?"""
    if found.agrees_with(law.slope):
        return f"contains {slope_words(law)}"
    side = "below" if found.upper < law.slope else "above"
    return f"excludes {slope_words(law)} (lies {side} it)"
