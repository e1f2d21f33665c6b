"""Numbers of a whole data set from a random subset of it, with their error.

Floor 1: imports ``measured`` and ``seeds``. A costly quantity that is a function of
totals over samples, or over pairs of samples, can be estimated from ``m`` of the ``n``
samples; the error is that of the delete-one jackknife with the factor ``1 - m/n`` of
sampling without replacement.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ntk_fed.measured import Enclosure, estimate
from ntk_fed.seeds import generator

ERRORS = 1.96  # standard errors from the value to an end: 95 % where it is normal
METHOD = "random subset; ends are 1.96 standard errors away"


def check_samples(samples: Any) -> None:
    """Refuse a subset too small for an error.

    Raises:
        ValueError: fewer than three samples, or no integer.
    """
    whole = samples is None or (isinstance(samples, int) and samples is not True)
    if not whole or (samples is not None and samples < 3):
        raise ValueError(
            f"samples must be an integer of at least 3, or None for all, got "
            f"{samples!r}. Fewer have no standard error."
        )


def subset(n: int, samples: Any, *, seed: int, index: int = 0) -> Int64[Tensor, " m"]:
    """Indices of ``samples`` among ``n``, drawn once without replacement, ascending.

    Args:
        n: how many there are.
        samples: how many to draw; ``None``, or at least ``n``: all of them.
        seed: decides the draw.
        index: tells draws of one seed apart, such as the client.

    Raises:
        ValueError: see :func:`check_samples`.
    """
    check_samples(samples)
    if samples is None or samples >= n:
        return torch.arange(n)
    stream = generator(seed, "observed samples", index)
    return torch.randperm(n, generator=stream)[:samples].sort().values


@dataclasses.dataclass(frozen=True)
class Total:
    """A total over the whole data set, and without each of the samples seen.

    Attributes:
        value: the total, scaled up from the subset.
        without: the same with sample a of the subset left out, ``(m,)``.
        share: fraction of the data set that was seen, ``m / n``.
    """

    value: Tensor
    without: Float[Tensor, " m"]
    share: float


def total(values: Float[Tensor, " m"], n: int) -> Total:
    """Total over ``n`` samples of a number of each, known for ``m`` of them."""
    m, seen = len(values), values.sum()
    without = n / max(m - 1, 1) * (seen - values)
    return Total(n / m * seen, without, m / n)


def pair_total(pairs: Float[Tensor, "m m"], n: int) -> Total:
    r"""Total over all ``n²`` pairs of a number of each, known for ``m²`` of them.

    The diagonal is scaled by ``n/m``, the rest by ``n(n-1)/(m(m-1))``: unbiased, as
    each pair of different samples is as likely to be seen as any other.
    """
    m = len(pairs)
    diagonal = pairs.diagonal()
    rest = pairs.sum() - diagonal.sum()
    own = pairs.sum(dim=0) + pairs.sum(dim=1) - 2 * diagonal  # (m,): pairs with a

    def scaled(alone: Tensor, mixed: Tensor, k: int) -> Tensor:
        value = n / max(k, 1) * alone
        return value + n * (n - 1) / (k * (k - 1)) * mixed if k > 1 else value

    without = scaled(diagonal.sum() - diagonal, rest - own, m - 1)
    return Total(scaled(diagonal.sum(), rest, m), without, m / n)


def function_of(function: Callable[..., Tensor], *totals: Total) -> Enclosure | float:
    r"""A function of totals, with the jackknife's error where a subset was seen.

    .. math:: s^2 = (1 - m/n)\,\frac{m-1}{m} \sum_a (g_a - \bar g)^2

    Args:
        function: of the totals, elementwise; smooth near them.
        totals: all from the same subset.

    Returns:
        A number where all samples were seen, else an estimate whose ends are 1.96
        standard errors away. That is 95 % where many samples contribute alike. Where a
        few decide (the rare gate flips of a small ReLU network that has hardly moved)
        a subset may hold none of them, nothing in it tells, and the ends were seen to
        hold the truth in 25 to 60 % of draws only.

    Source:
        Tukey (1958); Efron, Stein (1981), Ann. Statist. 9 (`recalled`). For totals over
        pairs the factor ``1 - m/n`` holds to first order.
    """
    value = function(*[one.value for one in totals]).item()
    share = totals[0].share
    if share >= 1:
        return value
    found = function(*[one.without for one in totals])  # (m,)
    m = len(found)
    spread = (found - found.mean()).square().sum().item()
    error = math.sqrt((1 - share) * (m - 1) / m * spread)
    if not math.isfinite(value):
        return value
    if not math.isfinite(error):  # defined for this subset only, not for smaller ones
        return Enclosure(value, -math.inf, math.inf, method=METHOD)
    return estimate(value, ERRORS * error, METHOD)


def mean(values: Float[Tensor, " m"], n: int) -> Enclosure | float:
    """Mean over ``n`` samples of a number of each, known for ``m`` of them."""
    return function_of(lambda sums: sums / n, total(values, n))
