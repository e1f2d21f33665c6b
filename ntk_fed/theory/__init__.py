"""Theorems as checks: one module per paper. Numbers in, numbers out."""

from ntk_fed.theory import (
    du2019,
    flips,
    lazy,
    qin2022,
    twophases,
)
from ntk_fed.theory.condition import Condition, TheoremCheck

__all__ = [
    "Condition",
    "TheoremCheck",
    "du2019",
    "flips",
    "lazy",
    "qin2022",
    "twophases",
]
