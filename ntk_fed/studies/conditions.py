"""Does a run meet a condition? Named functions of what one run has recorded.

Floor 8. Each answers with ``met``, which is ``None`` where rounding reaches across the
threshold, and with the number that was compared.
"""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ntk_fed import records
from ntk_fed.errors import RunFolderError, UnknownNameError
from ntk_fed.measured import Enclosure, Verdict, compare, ratio
from ntk_fed.names import nearest
from ntk_fed.studies.spec import RunSpec

THEOREM = "theorem:"
_LARGEST_CHANGE = 0.25  # of λ0, ‖Θ_t − Θ_0‖₂ along the run
_SMALLEST = 0.75  # of λ0, λ_min(Θ_0)


class Answer(NamedTuple):
    """Whether a run meets a condition.

    Attributes:
        met: ``None``: cannot be told.
        value: the number that was compared, in the unit of the condition.
    """

    met: bool | None
    value: float


@dataclasses.dataclass(frozen=True, eq=False)
class Recorded:
    """What one run has recorded.

    Attributes:
        spec: the run.
        rows: its rows, the long table.
        conditions: the theorems' conditions.
    """

    spec: RunSpec
    rows: Any
    conditions: Any

    def quantity(self, name: str) -> Any:
        """Rows of a quantity of the whole network, by round.

        Raises:
            RunFolderError: there are none.
        """
        found = self.rows[
            (self.rows["quantity"] == name)
            & self.rows["client"].isna()
            & self.rows["layer"].isna()
            & self.rows["step"].isna()
        ]
        if found.empty:
            raise RunFolderError(
                f"the run has recorded no {name!r}. Conditions on λ0 need the model "
                "'two-layer', those on residuals need targets with numbers."
            )
        return found.sort_values("round")

    def enclosures(self, name: str) -> list[Enclosure]:
        """A quantity with its bounds, round by round; none means nothing is known."""
        table = self.quantity(name)[["value", "lower", "upper"]].astype(float)
        table = table.fillna({"lower": -math.inf, "upper": math.inf})
        return [Enclosure(*row) for row in table.itertuples(index=False)]

    @property
    def lambda0(self) -> Enclosure:
        """Smallest eigenvalue of the infinite-width kernel of these data."""
        return self.enclosures("limit smallest eigenvalue")[0]


def read_run(folder: Path, spec: RunSpec) -> Recorded:
    """A finished run from its folder.

    Raises:
        RunFolderError: a table is missing or damaged.
    """
    try:
        conditions = pd.read_parquet(folder / "conditions.parquet")
    except (OSError, ValueError) as error:
        raise RunFolderError(
            f"{str(folder)!r} is no finished run: {error}. Remove it and run again."
        ) from error
    return Recorded(spec, records.read_rows(folder), conditions)


def eigenvalue(run: Recorded) -> Answer:
    """``λ_min(Θ_0) ≥ ¾ λ0``; the value is ``λ_min(Θ_0) / λ0``."""
    smallest = run.enclosures("kernel smallest eigenvalue at the start")[0]
    met = compare(smallest, ">=", run.lambda0.scaled(_SMALLEST))
    return Answer(_boolean(met), ratio(smallest.value, run.lambda0.value))


def kernel(run: Recorded) -> Answer:
    """``‖Θ_t − Θ_0‖₂ ≤ λ0 / 4`` at every round looked at (``kernel_every``).

    The value is the largest change in units of λ0.
    """
    changes = run.enclosures("kernel displacement")
    bound = run.lambda0.scaled(_LARGEST_CHANGE)
    verdicts = [compare(change, "<=", bound) for change in changes]
    met = Verdict.undecided
    if any(one is Verdict.fails for one in verdicts):
        met = Verdict.fails
    elif all(one is Verdict.holds for one in verdicts):
        met = Verdict.holds
    largest = float(np.max([change.value for change in changes]))
    return Answer(_boolean(met), ratio(largest, run.lambda0.value))


def rounds(run: Recorded, *, epsilon: float, slack: float) -> Answer:
    """``‖r_t‖ ≤ ε ‖r_0‖`` after no more than ``1 + slack`` times the predicted rounds.

    Args:
        run: the run.
        epsilon: ε, in (0, 1).
        slack: at least 0.

    Returns:
        The value is rounds taken over rounds predicted: infinite if ε is not reached,
        an upper bound if only the prediction has not reached it when the run ends.

    Raises:
        ValueError: the run is too short to tell.
    """
    taken = _reached(run.quantity("residual norm"), epsilon)
    told = _reached(run.quantity("predicted residual norm"), epsilon)
    last = run.spec.rounds
    if taken is None and _diverged(run.quantity("residual norm"), last):
        return Answer(False, math.inf)
    if taken is not None and told is None:
        return Answer(True, taken / (last + 1))
    if taken is not None and told is not None:
        return Answer(taken <= (1 + slack) * told, taken / told)
    if told is None or (1 + slack) * told > last:
        promised = f"not within its {last}" if told is None else f"after {told}"
        raise ValueError(
            f"rounds = {last} are too few to decide the condition 'rounds': at width "
            f"{run.spec.width}, {run.spec.samples} samples and seed {run.spec.seed} "
            f"the run has not reached epsilon = {epsilon}, and its prediction does "
            f"{promised} rounds (slack {slack}). Give more rounds, or a larger "
            "epsilon."
        )
    return Answer(False, math.inf)


def _diverged(table: Any, last: int) -> bool:
    """Does a norm stop being finite, or being recorded, before the last round?"""
    return bool(table["round"].max() < last or not np.isfinite(table["value"]).all())


def _reached(table: Any, epsilon: float) -> int | None:
    """First round at which a norm is at most ε times its start."""
    values = table["value"].to_numpy(dtype=float)
    places = np.flatnonzero(values <= epsilon * values[0])
    return int(table["round"].iloc[places[0]]) if len(places) else None


def theorem(run: Recorded, name: str) -> Answer:
    """All hypotheses of a theorem; the value is the least margin, log10.

    A theorem that does not apply to the network, data or algorithm is not met.

    Raises:
        UnknownNameError: the run was held against no theorem of this name.
    """
    known = run.conditions["theorem"].unique().tolist()
    if name not in known:
        raise UnknownNameError(
            f"condition {THEOREM}{name}: runs are held against no theorem of this "
            f"name.{nearest(name, known)}"
        )
    own = run.conditions[run.conditions["theorem"] == name]
    own = own[own["kind"] == "hypothesis"]
    margin = float(own["margin"].min())
    if own["why_not"].fillna("").ne("").any() or own["verdict"].eq("fails").any():
        return Answer(False, margin)
    return Answer(True if own["verdict"].eq("holds").all() else None, margin)


def _boolean(verdict: Verdict) -> bool | None:
    return None if verdict is Verdict.undecided else verdict is Verdict.holds


NAMED: dict[str, Callable[..., Answer]] = {
    "eigenvalue": eigenvalue,
    "kernel": kernel,
    "rounds": rounds,
}


def require_condition(name: str) -> None:
    """Refuse a name that is no condition.

    Raises:
        UnknownNameError: with the nearest that is one.
    """
    if name not in NAMED and not name.startswith(THEOREM):
        raise UnknownNameError(
            f"condition must be one of {', '.join(NAMED)} or {THEOREM}NAME, got "
            f"{name!r}.{nearest(name, tuple(NAMED))}"
        )


def answer(name: str, run: Recorded, *, epsilon: float, slack: float) -> Answer:
    """Whether a run meets the condition of this name.

    Args:
        name: ``eigenvalue``, ``kernel``, ``rounds`` or ``theorem:NAME``.
        run: what it has recorded.
        epsilon: of :func:`rounds`.
        slack: of :func:`rounds`.
    """
    require_condition(name)
    if name.startswith(THEOREM):
        return theorem(run, name.removeprefix(THEOREM))
    if name == "rounds":
        return rounds(run, epsilon=epsilon, slack=slack)
    return NAMED[name](run)
