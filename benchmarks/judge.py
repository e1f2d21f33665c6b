"""Every question about a planted matrix, and what its answers are worth.

A case is a recipe, kind:size:seed. ``Judge`` builds nothing: it asks about one matrix
of ``planted.py`` and compares the answers with the truth; ``Counts`` adds up.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from exact import Neighbours
from planted import KINDS, Planted, planted

from ntk_fed import (
    Enclosure,
    Verdict,
    at_least,
    largest_eigenvalue,
    smallest_eigenvalue,
)

UNIT = 2.0**-53
REACH = 100  # times n u trace: from there on a verdict is expected
EXPECTED = 0.99  # part of those verdicts
LARGE = 500  # from this size on a case gets three thresholds
TOLERANCES = (1e-3, 1e-3, 1e-12, 0.5)
Recipe = tuple[str, int, int]  # kind, size and seed


@dataclasses.dataclass(frozen=True)
class Fault:
    """A wrong answer, or none at all.

    Attributes:
        recipe: kind:size:seed.
        what: lower, upper, verdict or refused.
        call: what was asked.
        answer: what came back.
        truth: the floats next to the eigenvalue asked about.
    """

    recipe: str
    what: str
    call: str
    answer: str
    truth: Neighbours

    def __str__(self) -> str:
        """In one line."""
        return (
            f"WRONG ({self.what}) {self.recipe!r}: {self.call} -> {self.answer}, "
            f"truth {tuple(self.truth)}"
        )


@dataclasses.dataclass
class Tally:
    """Counts over cases; ``away`` are thresholds farther off than rounding reaches."""

    cases: int = 0
    lower: int = 0
    upper: int = 0
    verdict: int = 0
    refused: int = 0
    enclosures: int = 0
    certified: int = 0
    verdicts: int = 0
    decided: int = 0
    away: int = 0
    away_decided: int = 0

    def add(self, other: "Tally") -> None:
        """Count what ``other`` counted too."""
        for field in dataclasses.fields(self):
            total = getattr(self, field.name) + getattr(other, field.name)
            setattr(self, field.name, total)


class Judge:
    """Asks every question about one matrix and compares the answers with its truth."""

    def __init__(self, case: Planted) -> None:
        self.case = case
        self.gram = torch.from_numpy(case.matrix)
        self.tally, self.faults = Tally(cases=1), []
        self.farthest = 0.0  # undecided threshold, in n u trace from the eigenvalue
        draw = np.random.default_rng((case.seed, case.size))
        self.rtol = float(draw.choice(TOLERANCES))
        self.enclosure(largest_eigenvalue, case.largest, -1)
        found, sharp = self.enclosure(smallest_eigenvalue, case.smallest, 1)
        for threshold in thresholds(case, found, draw):
            self.verdict(threshold, sharp)

    def enclosure(
        self, function: Callable[..., Enclosure], truth: Neighbours, sign: int
    ) -> tuple[Enclosure | None, bool]:
        """Ask for one end of the spectrum; also, is it as sharp as can be expected?"""
        self.tally.enclosures += 1
        call = f"{function.__name__}(gram, rtol={self.rtol!r})"
        try:
            found = function(self.gram, rtol=self.rtol)
        except Exception as error:  # whatever it is, there is no answer
            self.fault("refused", call, error, truth)
            return None, False
        if found.lower > truth.below:
            self.fault("lower", call, found, truth)
        if found.upper < truth.above:
            self.fault("upper", call, found, truth)
        allowed = max(reach(self.case, sign), self.rtol * abs(found.lower))
        sharp = found.certified and found.width <= allowed < math.inf
        self.tally.certified += sharp
        return found, sharp

    def verdict(self, threshold: float, sharp: bool) -> None:
        """Ask whether the smallest eigenvalue is at least ``threshold``."""
        truth, call = self.case.smallest, f"at_least(gram, {threshold!r})"
        self.tally.verdicts += 1
        try:
            found = at_least(self.gram, threshold)
        except Exception as error:  # likewise
            self.fault("refused", call, error, truth)
            return
        holds = threshold <= truth.below
        if found is (Verdict.fails if holds else Verdict.holds):
            self.fault("verdict", call, found, truth)
        decided = found is not Verdict.undecided
        self.tally.decided += decided
        distance = abs(threshold - truth.below) / reach(self.case, 1)
        if not decided:
            self.farthest = max(self.farthest, REACH * distance)
        if distance > 1:
            self.tally.away += 1
            self.tally.away_decided += decided and sharp

    def fault(self, what: str, call: str, answer: object, truth: Neighbours) -> None:
        """Count a wrong answer and keep it with its recipe."""
        setattr(self.tally, what, getattr(self.tally, what) + 1)
        recipe = f"{self.case.kind}:{self.case.size}:{self.case.seed}"
        self.faults.append(Fault(recipe, what, call, repr(answer), truth))


def rounding(case: Planted, sign: int) -> float:
    """``n u`` times the trace, for the smallest (sign 1) or largest (-1) eigenvalue.

    The trace is that of a Gram matrix at its smallest eigenvalue. Elsewhere it is the
    sum of the sizes on the diagonal, and n times the shift to a semi-definite matrix.
    """
    lack = -case.smallest.below if sign > 0 else case.largest.above
    return case.size * UNIT * (diagonal_size(case) + case.size * max(lack, 0.0))


def reach(case: Planted, sign: int) -> float:
    """How far rounding may reach before an answer counts as a vague one."""
    return max(REACH * rounding(case, sign), REACH * 2.0**-1074)


def diagonal_size(case: Planted) -> float:
    """Sum of the sizes on the diagonal: the trace of a Gram matrix."""
    return math.fsum(np.abs(np.diagonal(case.matrix).astype(np.float64)))


def thresholds(
    case: Planted, found: Enclosure | None, draw: np.random.Generator
) -> list[float]:
    """At the truth and around it; three for a large matrix, seven for a small one."""
    end = float(draw.choice(case.smallest))
    unit, sign = rounding(case, 1), float(draw.choice([-1, 1]))
    ends = [found.lower, found.upper] if found else [end, end]
    ends += [math.nextafter(ends[0], -math.inf), math.nextafter(ends[1], math.inf)]
    values = [
        end,
        end + sign * float(draw.choice([REACH, 2 * REACH, 1e4])) * unit,
        float(draw.choice(ends)),
        end - sign * float(draw.choice([0.01, 1, 5, 20])) * unit,
        end * (1 + sign * 2.0 ** -int(draw.integers(1, 53))),
        -diagonal_size(case) * 2.0 ** -int(draw.integers(0, 61)),
        0.0,
    ]
    return values[:3] if case.size >= LARGE else values


def decade(case: Planted) -> float:
    """Power of ten of the condition number, at most 18; infinite for a singular one."""
    ends = (case.smallest, case.largest)
    smallest, largest = (abs(end.below) or end.above for end in ends)
    if smallest == 0.0:
        return math.inf
    largest = max(largest, smallest)
    return min(math.floor(math.log10(largest) - math.log10(smallest)), 18)


def parsed(recipe: str) -> Recipe:
    """From kind:size:seed, as printed for a wrong answer."""
    kind, size, seed = recipe.rsplit(":", 2)
    return kind, int(size), int(seed)


def plan(cases: int, large: int, kinds: Sequence[str], seed: int) -> list[Recipe]:
    """Recipes of so many small cases and so many large ones, the large ones last."""
    draw = np.random.default_rng(seed)
    turns = [(kind, KINDS[kind].sizes) for kind in kinds]
    large_turns = [(kind, KINDS[kind].large) for kind in kinds if KINDS[kind].large]
    recipes: list[Recipe] = []
    for count, choice in ((cases, turns), (large, large_turns)):
        for i in range(count if choice else 0):
            kind, sizes = choice[i % len(choice)]
            own = seed * 10**7 + len(recipes)
            recipes.append((kind, int(draw.choice(sizes)), own))
    return recipes


@dataclasses.dataclass
class Counts:
    """Everything counted so far."""

    kinds: dict[str, Tally] = dataclasses.field(default_factory=dict)
    decades: dict[float, Tally] = dataclasses.field(default_factory=dict)
    faults: list[Fault] = dataclasses.field(default_factory=list)
    farthest: float = 0.0

    def judge(self, recipe: Recipe) -> None:
        """Build one case and count the answers to it."""
        case = planted(*recipe)
        judge = Judge(case)
        self.kinds.setdefault(case.kind, Tally()).add(judge.tally)
        self.decades.setdefault(decade(case), Tally()).add(judge.tally)
        self.faults += judge.faults
        self.farthest = max(self.farthest, judge.farthest)

    @property
    def total(self) -> Tally:
        """Over all kinds."""
        total = Tally()
        for tally in self.kinds.values():
            total.add(tally)
        return total
