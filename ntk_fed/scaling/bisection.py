"""Search for the smallest width that is enough, spending seeds where it is open.

Floor 2: imports ``measured``.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ntk_fed.measured import Verdict
from ntk_fed.scaling.required import Bracket, bracket, finite_number, ladder_of
from ntk_fed.scaling.sequential import (
    Look,
    booleans,
    judge,
    looks,
    require_probability,
)

Pair = tuple[Any, int]
Trial = Callable[[list[Pair]], Iterable[Any]]


def search(
    trial: Trial,
    widths: Iterable[Any],
    *,
    failure: float = 0.1,
    error: float = 0.05,
    most_seeds: int,
    batch: int = 1,
    known: Mapping[Any, Any] | None = None,
    confirm: Iterable[Any] = (),
) -> Bracket:
    """Bracket the smallest width that is enough by bisection of a ladder.

    A width is visited with seeds 0, 1, 2, ... until :func:`decide` decides or the next
    look would pass ``most_seeds``. Where it holds the search goes on below, where it
    fails above, and where it stays undecided on both sides, since the neighbours may
    still tighten the bracket.

    The error: each width of the ladder, visited or not, has the share
    ``error / len(widths)``. A decision at a width is wrong with at most this
    probability whether it is visited or not, so that by the union bound all are right
    with probability ``1 - error`` however outcomes steer the search, and also when
    equal seeds at different widths share data. (Independent seeds at each width
    would allow shares for the ``ceil(log2(W + 1))`` widths that a bisection visits: 49
    successes in place of 57 would decide at ten widths, failure 0.1 and error 0.05.)

    A bisection assumes that the probability does not fall with width, and cannot see
    it fall where it does not look: name widths in ``confirm`` to look there.

    Args:
        trial: outcomes of pairs (width, seed), booleans in their order. Pairs of one
            call may be run at once. A pair's outcome may depend on nothing else.
        widths: the ladder, positive and different, in any order.
        failure: probability of failure that is allowed, in (0, 1).
        error: probability of a wrong bracket that is allowed, in (0, 1).
        most_seeds: seeds a width may take; enough for successes alone to decide.
        batch: largest number of pairs in a call. It changes no outcome.
        known: outcomes that need no trial, of an interrupted search for instance: its
            result is then the same as without the interruption. Outcomes at widths the
            search does not visit go into the verdicts as well.
        confirm: widths of the ladder visited at the end in any case, such as the
            widest.

    Returns:
        The bracket; its table says how many seeds each width took.

    Raises:
        ValueError: an argument out of its range, or a trial that does not give one
            boolean for each pair.
    """
    ladder, confirm = ladder_of(widths), list(confirm)
    require_probability("error", error)
    share = error / len(ladder)
    plan = _plan(failure, share, most_seeds)
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}. Try 1.")
    stray = [width for width in confirm if width not in ladder]
    if stray:
        raise ValueError(f"confirm must be among the widths, got {stray} besides.")
    outcomes = _of_known(known or {}, ladder, most_seeds)

    def visit(width: Any) -> Verdict:
        """Spend seeds until the width is decided, or as many as it may take."""
        at = outcomes.setdefault(width, {})
        for look in plan:
            seeds = range(look.trials)
            wanted = [(width, seed) for seed in seeds if seed not in at]
            for start in range(0, len(wanted), batch):
                at.update(_run(trial, wanted[start : start + batch]))
            found = judge(look, sum(at[seed] for seed in seeds), failure)
            if found.verdict is not Verdict.undecided:
                return found.verdict
        return Verdict.undecided

    verdicts: dict[int, Verdict] = {}
    while (place := _next(verdicts, len(ladder))) is not None:
        verdicts[place] = visit(ladder[place])
    for width in confirm:
        visit(width)
    return bracket(outcomes, ladder, failure=failure, error=error)


def _next(verdicts: Mapping[int, Verdict], count: int) -> int | None:
    """Place on the ladder to visit next; ``None`` when nothing can be gained.

    The middle of the larger gap between the largest that fails and the smallest that
    holds; undecided ones between them split it in the gap below and the one above.
    """
    lower = max((i for i in verdicts if verdicts[i] is Verdict.fails), default=-1)
    upper = min((i for i in verdicts if verdicts[i] is Verdict.holds), default=count)
    between = [i for i in verdicts if lower < i < upper]
    gaps = [(lower, upper)]
    if between:
        gaps = [(lower, min(between)), (max(between), upper)]
    first, last = max(gaps, key=lambda gap: gap[1] - gap[0])
    return (first + last) // 2 if last - first > 1 else None


def _run(trial: Trial, pairs: Sequence[Pair]) -> dict[int, bool]:
    found = booleans("outcomes of the trial", trial(list(pairs)))
    if len(found) != len(pairs):
        raise ValueError(
            f"trial must give one boolean for each pair, got {len(found)} for "
            f"{len(pairs)} pairs. Return a list as long as the one it gets."
        )
    return {seed: one for (_, seed), one in zip(pairs, found, strict=True)}


def _of_known(
    known: Mapping[Any, Any], ladder: Sequence[Any], most_seeds: int
) -> dict[Any, dict[int, bool]]:
    """Known outcomes by width and seed; refuses those the search could not have."""
    found: dict[Any, dict[int, bool]] = {}
    values = booleans("known outcomes", known.values())
    for (width, seed), one in zip(known, values, strict=True):
        finite_number("seeds of known outcomes", seed)
        if width not in ladder or not 0 <= seed < most_seeds or seed != int(seed):
            raise ValueError(
                f"known holds width {width} with seed {seed}, but the widths are "
                f"{list(ladder)} and the seeds 0 to {most_seeds - 1}. Leave it out."
            )
        found.setdefault(width, {})[int(seed)] = one
    return found


def _plan(failure: float, share: float, most_seeds: int) -> list[Look]:
    """The looks a width may take; refuses too few seeds to find any wide enough."""
    found = looks(failure=failure, error=share, most=most_seeds)
    if not any(look.holds_level for look in found):
        raise ValueError(
            f"most_seeds = {most_seeds} cannot show any width to be enough: with "
            f"failure {failure} and {share:.3g} of the error for each width even "
            "successes alone take more. Raise most_seeds, failure or error."
        )
    return found
