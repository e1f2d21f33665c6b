"""Does a condition hold with probability 1 - failure? Decided seed by seed.

Floor 2: imports ``measured``.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from scipy import special

from ntk_fed.measured import Enclosure, Verdict

_GROWTH = 1.5  # from one look to the next


@dataclasses.dataclass(frozen=True)
class Look:
    """One moment at which the outcomes so far are judged.

    Attributes:
        trials: outcomes there are by then.
        holds_level: error probability spent here on a wrong "holds"; 0 while even
            successes alone could not decide.
        fails_level: the same for a wrong "fails".
    """

    trials: int
    holds_level: float
    fails_level: float

    def bounds(self, successes: int) -> tuple[float, float]:
        """One-sided Clopper-Pearson bounds, each at the level of its side."""
        rest = self.trials - successes
        lower, upper = 0.0, 1.0
        if successes and self.holds_level:
            lower = float(special.betaincinv(successes, rest + 1, self.holds_level))
        if rest and self.fails_level:
            upper = float(special.betainccinv(successes + 1, rest, self.fails_level))
        return lower, upper


@dataclasses.dataclass(frozen=True)
class Decision:
    """Is the probability of success at least ``1 - failure``?

    Attributes:
        verdict: holds if ``lower >= 1 - failure``, fails if ``upper < 1 - failure``.
        lower: Clopper-Pearson bound at the deciding (else the last) look.
        upper: the same from above.
        used: outcomes used, those up to that look.
        successes: among them.
    """

    verdict: Verdict
    lower: float
    upper: float
    used: int
    successes: int


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> Enclosure:
    """Two-sided Clopper-Pearson interval of a probability.

    It covers with at least its confidence, whatever the probability, for a number of
    trials fixed beforehand; :func:`decide` is for one that is not.

    Args:
        successes: at least 0, at most ``trials``.
        trials: independent, at least 1.
        confidence: in (0, 1).

    Raises:
        ValueError: a count or the confidence is out of its range.

    Source:
        Clopper, Pearson (1934), Biometrika 26, 404.
    """
    if not (trials >= 1 and 0 <= successes <= trials):
        raise ValueError(
            "clopper_pearson needs 0 <= successes <= trials and trials >= 1, got "
            f"{successes} and {trials}. Give successes first."
        )
    require_probability("confidence", confidence)
    level = (1 - confidence) / 2
    lower, upper = Look(trials, level, level).bounds(successes)
    method = f"Clopper-Pearson, {confidence:.0%}"
    return Enclosure(successes / trials, lower, upper, method=method)


def looks(*, failure: float, error: float, most: int) -> list[Look]:
    """The looks at up to ``most`` outcomes, and what each may spend.

    The first looks are the least numbers with which failures alone ("fails") and
    successes alone ("holds") decide; then each is 1.5 times the last, rounded up. The
    k-th look at which a side can decide spends ``error / (k (k + 1))`` on that side:
    the sum over all looks is at most ``error``. A probability makes only one of the two
    verdicts wrong, so that each side may spend the whole ``error``.

    Args:
        failure: probability of failure that is allowed, in (0, 1).
        error: probability of a wrong verdict that is allowed, in (0, 1).
        most: largest number of outcomes.

    Raises:
        ValueError: a probability is out of its range.
    """
    require_probability("failure", failure)
    require_probability("error", error)
    found = _looks(failure, error)
    return list(itertools.takewhile(lambda look: look.trials <= most, found))


def next_look(trials: int, *, failure: float, error: float) -> int:
    """Outcomes needed for the next look when there are ``trials``.

    Raises:
        ValueError: a probability is out of its range.
    """
    require_probability("failure", failure)
    require_probability("error", error)
    found = _looks(failure, error)
    return next(look.trials for look in found if look.trials > trials)


def decide(outcomes: Iterable[Any], *, failure: float, error: float) -> Decision:
    """Decide whether successes have probability ``1 - failure`` at least.

    The outcomes are judged at the :func:`looks`, in their order, and the first
    decision stands; later ones are not used. The verdict is wrong with probability at
    most ``error``, however often this is asked while outcomes come in.

    Args:
        outcomes: booleans of independent trials, in an order fixed before they were
            known (of their seeds, not of their arrival). A trial left out because of
            its outcome spoils the guarantee.
        failure: probability of failure that is allowed, in (0, 1).
        error: probability of a wrong verdict that is allowed, in (0, 1).

    Returns:
        The decision; undecided with bounds [0, 1] before the first look.

    Raises:
        ValueError: an outcome is not a boolean, or a probability is out of range.
    """
    counts = list(itertools.accumulate(booleans("outcomes", outcomes)))
    last = Decision(Verdict.undecided, 0.0, 1.0, 0, 0)
    for look in looks(failure=failure, error=error, most=len(counts)):
        last = judge(look, counts[look.trials - 1], failure)
        if last.verdict is not Verdict.undecided:
            break
    return last


def judge(look: Look, successes: int, failure: float) -> Decision:
    """The decision at one look; :func:`decide` says what it is worth."""
    (lower, upper), wanted = look.bounds(successes), 1 - failure
    verdict = Verdict.fails if upper < wanted else Verdict.undecided
    if lower >= wanted:
        verdict = Verdict.holds
    return Decision(verdict, lower, upper, look.trials, successes)


def booleans(name: str, values: Iterable[Any]) -> list[bool]:
    """The values as a list of booleans; nothing else is taken for one."""
    found = list(values)
    if not {*map(type, found)} <= {bool, np.bool_}:
        wrong = next(one for one in found if not isinstance(one, bool | np.bool_))
        raise ValueError(
            f"{name} must be booleans, got {wrong!r}. Compare the measured number "
            "with its threshold first, and drop runs without a result."
        )
    return [*map(bool, found)]


def _looks(failure: float, error: float) -> Iterator[Look]:
    """All looks, without end."""
    holds_first, fails_first = _first(failure, error / 2)
    trials, holds, fails = min(holds_first, fails_first), 0, 0
    while True:
        holds += trials >= holds_first
        fails += trials >= fails_first
        yield Look(
            trials,
            error / (holds * (holds + 1)) if holds else 0.0,
            error / (fails * (fails + 1)) if fails else 0.0,
        )
        grown = max(trials + 1, math.ceil(_GROWTH * trials))
        later = max(holds_first, fails_first)
        trials = later if trials < later < grown else grown


@functools.cache
def _first(failure: float, level: float) -> tuple[int, int]:
    """Least number of trials with which all successes, all failures decide."""
    wanted = 1 - failure
    # level^(1/n) >= 1 - failure, and 1 - level^(1/n) < 1 - failure; one off at most
    # after rounding, which the bounds themselves settle.
    holds = max(1, math.floor(math.log(level) / math.log1p(-failure)) - 1)
    while Look(holds, level, 0.0).bounds(holds)[0] < wanted:
        holds += 1
    fails = max(1, math.floor(math.log(level) / math.log(failure)) - 1)
    while Look(fails, 0.0, level).bounds(0)[1] >= wanted:
        fails += 1
    return holds, fails


def require_probability(name: str, value: float) -> None:
    """Refuse what is not strictly between 0 and 1."""
    if not 0 < value < 1:
        raise ValueError(f"{name} must be in (0, 1), got {value}. Try 0.05.")
