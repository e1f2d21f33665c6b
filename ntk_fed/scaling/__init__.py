"""Laws against width: exponents, straightness, the smallest width that is enough.

Floor 2: numbers in, numbers out; imports ``measured``.
"""

from ntk_fed.scaling.bisection import search
from ntk_fed.scaling.means import geometric_mean_interval, mean_interval
from ntk_fed.scaling.powerlaw import PowerLaw, compare, power_law
from ntk_fed.scaling.ranks import rank_correlation, rank_correlation_gain
from ntk_fed.scaling.required import (
    AtWidth,
    Bracket,
    Exponents,
    exponent_in,
    required_width,
)
from ntk_fed.scaling.sequential import (
    Decision,
    Look,
    clopper_pearson,
    decide,
    looks,
    next_look,
)
from ntk_fed.scaling.straight import Straightness, straightness

__all__ = [
    "AtWidth",
    "Bracket",
    "Decision",
    "Exponents",
    "Look",
    "PowerLaw",
    "Straightness",
    "clopper_pearson",
    "compare",
    "decide",
    "exponent_in",
    "geometric_mean_interval",
    "looks",
    "mean_interval",
    "next_look",
    "power_law",
    "rank_correlation",
    "rank_correlation_gain",
    "required_width",
    "search",
    "straightness",
]
