"""Theorems as checks: one module per paper. Numbers in, numbers out."""

from ntk_fed.theory import (
    collins2022,
    du2019,
    flips,
    lazy,
    qin2022,
    twophases,
    zhu2024,
)
from ntk_fed.theory.condition import Condition, TheoremCheck

__all__ = [
    "Condition",
    "TheoremCheck",
    "collins2022",
    "du2019",
    "flips",
    "lazy",
    "qin2022",
    "twophases",
    "zhu2024",
]
