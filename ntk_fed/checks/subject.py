"""What is held against the theorems: a network, a split, an algorithm and a run.

Floor 7.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ntk_fed.data import Partition
from ntk_fed.measured import Enclosure, estimate
from ntk_fed.models import TwoLayerReLU, on_the_sphere
from ntk_fed.simulate import DIVERGED, History
from ntk_fed.start import Start

# Options of a run whose clients take gradient steps on all they hold, and are averaged.
PLAIN = {
    "rule": "average",
    "batch_size": None,
    "participation": 1.0,
    "local": "sgd",
    "momentum": 0.0,
    "weight_decay": 0.0,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """One network, one split, one algorithm, and perhaps one run of it.

    Attributes:
        model: at its initial parameters.
        partition: the data and who holds it.
        start: what was measured before the first round.
        local_steps: K.
        step_size: η, mean form.
        weights: ``"samples"`` or ``"uniform"``.
        server_step_size: η_g.
        failure: probability δ the theorems may fail with.
        run: a run of this model, if there is one.
    """

    model: torch.nn.Module
    partition: Partition
    start: Start
    local_steps: int
    step_size: float
    weights: str
    server_step_size: float
    failure: float
    run: History | None

    @property
    def x(self) -> Tensor:
        """All inputs, ``(n, …)``."""
        return self.partition.dataset.x

    @property
    def covers(self) -> bool:
        """Does every sample have an owner?"""
        return sum(self.partition.sizes) == len(self.partition.dataset)

    @property
    def is_two_layer(self) -> bool:
        """Is it the two-layer network of the theorems, with inputs of norm 1?"""
        return isinstance(self.model, TwoLayerReLU) and on_the_sphere(self.x)

    @property
    def by_samples(self) -> bool:
        """Are the weights n_i/n, by that name or because all clients are alike?"""
        return self._weights_are("samples")

    @property
    def uniform(self) -> bool:
        """Are the weights 1/c?"""
        return self._weights_are("uniform")

    @property
    def is_descent(self) -> bool:
        """Is the algorithm gradient descent on the pooled loss?"""
        alone = self.local_steps == 1 and self.plain
        return alone and self.covers and self.by_samples

    def _weights_are(self, name: str) -> bool:
        weights = self.partition.weights
        return torch.allclose(weights(self.weights), weights(name), rtol=1e-12, atol=0)

    @property
    def plain(self) -> bool:
        """Gradient steps on full batches, all clients, and the server's plain average?

        Nothing is said of the weights.
        """
        usual = all(self._option(name, value) for name, value in PLAIN.items())
        return usual and self.server_step_size == 1.0

    def _option(self, name: str, expected: Any) -> bool:
        return self.run is None or self.run.options.get(name, expected) == expected

    @property
    def loss(self) -> str:
        """Name of the run's loss; the squared one without a run."""
        given = "squared" if self.run is None else self.run.options.get("loss")
        return given if isinstance(given, str) else "squared"

    @property
    def diverged(self) -> bool:
        """Did the run leave what its numbers can hold?"""
        return self.run is not None and self.run.status == DIVERGED

    @functools.cached_property
    def losses(self) -> pd.Series | None:
        """Training loss by round from the start on; ``None`` if not observed so."""
        if self.run is None:
            return None
        rows = self.run.rows
        rows = rows.loc[rows["quantity"] == "loss"]
        if len(rows) < 2 or rows["round"].iloc[0] != 0:
            return None
        return pd.Series(
            rows["value"].to_numpy(dtype="float64"),
            index=rows["round"].to_numpy(dtype="int64"),
        )

    def along(self, quantity: str) -> pd.DataFrame | None:
        """Rows of a quantity after the start; what was seen only there is not "along".

        Args:
            quantity: its name in the rows.
        """
        if self.run is None:
            return None
        rows = self.run.rows
        found = rows.loc[(rows["quantity"] == quantity) & (rows["round"] > 0)]
        return found if len(found) else None

    def largest(self, quantity: str) -> Enclosure | None:
        """The row with the largest upper end, as an enclosure."""
        return self._extreme(quantity, "upper", largest=True)

    def smallest(self, quantity: str) -> Enclosure | None:
        """The row with the smallest lower end, as an enclosure."""
        return self._extreme(quantity, "lower", largest=False)

    def _extreme(self, quantity: str, end: str, *, largest: bool) -> Enclosure | None:
        rows = self.along(quantity)
        if rows is None:
            return None
        found = [_enclosure(row) for row in rows.itertuples(index=False)]
        found = [one for one in found if one is not None]
        pick = max if largest else min
        return pick(found, key=lambda one: getattr(one, end), default=None)


def _enclosure(row: Any) -> Enclosure | None:
    """A row's value and ends; a value without ends is rounded, NaN is nothing."""
    if math.isnan(row.value):
        return None
    missing = math.isnan(row.lower), math.isnan(row.upper)
    if all(missing):
        return rounded(row.value)
    return Enclosure(
        row.value,
        -math.inf if missing[0] else row.lower,
        math.inf if missing[1] else row.upper,
        certified=str(row.status) == "certified",
    )


def rounded(value: float) -> Enclosure:
    """A norm or a loss in float64: some thousands of roundings, far inside 1e-12."""
    if math.isinf(value):
        return Enclosure(value, value, value, method="out of range")
    return estimate(value, 1e-12 * abs(value), "rounding")


def unbroken(rounds: pd.Series | pd.Index) -> bool:
    """Are these the rounds 0, 1, 2, … with none left out?"""
    seen = list(rounds)
    return seen == list(range(len(seen)))


def over_promise(
    losses: pd.Series, promised: Callable[[float], np.ndarray], rate: Enclosure
) -> Enclosure | None:
    """Largest loss over its promise after the start, at both ends of a rate.

    Args:
        losses: by round, the start first, as :attr:`Subject.losses`.
        promised: what a rate promises of each of these losses, ``(t,)``.
        rate: a larger one promises smaller losses.

    Returns:
        ``None`` where a promise has no sense, or is too small for a float.
    """
    measured = losses.to_numpy()
    with np.errstate(all="ignore"):  # what leaves the floats is answered by None
        worst = [
            float((measured / promised(end))[1:].max())
            for end in (rate.value, rate.lower, rate.upper)
        ]
    if not all(math.isfinite(one) for one in worst):
        return None
    return Enclosure(worst[0], min(worst), max(worst))
