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

from ntk_fed.checks.rounding import over_promise, rounded
from ntk_fed.data import Partition
from ntk_fed.measured import Enclosure, exact
from ntk_fed.models import TwoLayerReLU, on_the_sphere
from ntk_fed.params import complete
from ntk_fed.simulate import DIVERGED, History
from ntk_fed.start import Start
from ntk_fed.theory.condition import SEEN

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
        return self.is_local_descent and self.server_step_size == 1.0

    @property
    def is_local_descent(self) -> bool:
        """The same with any step size of the server."""
        return all(self._option(name, value) for name, value in PLAIN.items())

    def _option(self, name: str, expected: Any) -> bool:
        """Is it as expected, or without effect?

        A client that takes a single step has no velocity yet, and takes its gradient
        where the round began.
        """
        if self.run is None:
            return True
        given = self.run.options.get(name, expected)
        idle = name == "momentum" or (name, given) == ("local", "minibatch")
        return given == expected or (idle and self.local_steps == 1)

    @property
    def loss(self) -> str:
        """Name of the run's loss; the squared one without a run."""
        given = "squared" if self.run is None else self.run.options.get("loss")
        return given if isinstance(given, str) else "squared"

    @property
    def diverged(self) -> bool:
        """Did the run leave what its numbers can hold?"""
        return self.run is not None and self.run.status == DIVERGED

    @property
    def lost(self) -> bool:
        """Did the run diverge, or its loss leave the floats?"""
        losses = self.losses
        return self.diverged or (losses is not None and not np.isfinite(losses).all())

    @functools.cached_property
    def eps(self) -> float:
        """Of the coarsest dtype of the run's parameters."""
        params = complete(self.model, None if self.run is None else self.run.params)
        return max(torch.finfo(value.dtype).eps for value in params.values())

    def residual_slack(self, rounds: np.ndarray) -> np.ndarray:
        r"""What rounding may leave of ``‖r_t‖``, ``(t,)``; an estimate (derived).

        .. math:: (K t + 2 N)\,\epsilon\,(\|r_0\| + 2 \|y\|)

        Outputs, of norm ``‖r‖ + ‖y‖`` at most, and targets round by ε of themselves in
        each local step, a sum of N terms by N more. Parameters much larger than what
        they put out may round by more.

        Args:
            rounds: t, ``(t,)``.
        """
        y, start = self.partition.dataset.y, self.start
        size = start.residual.double().norm().item()
        size += 2 * y.double().norm().item()
        count = self.local_steps * rounds + 2 * len(start.gram)
        return count * self.eps * size

    def loss_slack(self, losses: pd.Series) -> np.ndarray:
        """What rounding may leave of the roots of losses, ``(t,)``.

        ``F = ½ Σ s_j r_j²``, so that it is ``√(max s / 2)`` of the residual's, and
        ``(K t + 2 N) ε`` of the root itself.
        """
        rounds = losses.index.to_numpy(float)
        weights = self.partition.weights(self.weights).tolist()
        pairs = zip(weights, self.partition.sizes, strict=True)
        shares = [weight / size for weight, size in pairs if size]
        share = max([1 / len(self.x), *shares])
        count = self.local_steps * rounds + 2 * len(self.start.gram)
        own = count * self.eps * np.sqrt(losses.to_numpy())
        return own + math.sqrt(share / 2) * self.residual_slack(rounds)

    def over_promise(
        self, promised: Callable[[float], np.ndarray], rate: Enclosure | None
    ) -> Enclosure | None:
        """The run's largest loss over its promise; ``None`` where nothing is known.

        Args:
            promised: what a rate promises of :attr:`losses`.
            rate: a larger one promises smaller losses.
        """
        if self.lost:
            return exact(math.inf)
        if self.losses is None or rate is None:
            return None
        slack = self.loss_slack(self.losses)
        return over_promise(self.losses, slack, promised, rate)

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

    def largest(self, quantity: str, *, averages: bool = False) -> Enclosure | None:
        """The row with the largest upper end, as an enclosure.

        Args:
            quantity: its name in the rows.
            averages: over ``θ_0 … θ_{T−1}``, with which rounds begin, rather than over
                what was seen after the start.
        """
        return self._extreme(quantity, "upper", max, averages)

    def smallest(self, quantity: str, *, averages: bool = False) -> Enclosure | None:
        """The row with the smallest lower end; arguments as :meth:`largest`."""
        return self._extreme(quantity, "lower", min, averages)

    def _extreme(
        self, quantity: str, end: str, pick: Callable[..., Any], averages: bool
    ) -> Enclosure | None:
        """With a note where not every round was seen."""
        if self.run is None:
            return None
        rows, total = self.run.rows, self.run.rounds
        rounds = rows["round"] < total if averages else rows["round"] > 0
        rows = rows.loc[(rows["quantity"] == quantity) & rounds]
        found = [
            (int(row.round), one)
            for row in rows.itertuples(index=False)
            if (one := _enclosure(row, self.eps)) is not None
        ]
        if not found:
            return None
        seen = len({t for t, _ in found})
        ones = [own for _, own in found]
        one = dataclasses.replace(
            pick(ones, key=lambda own: getattr(own, end)),
            value=pick(
                (own.value for own in ones if own.value == own.value), default=math.nan
            ),
            lower=pick(own.lower for own in ones),
            upper=pick(own.upper for own in ones),
        )
        if seen >= total:
            return one
        return dataclasses.replace(one, note=f"{SEEN} {seen} of {total} rounds")


def _enclosure(row: Any, eps: float) -> Enclosure | None:
    """A row's value and ends; a value without ends is rounded, NaN alone is nothing."""
    missing = math.isnan(row.lower), math.isnan(row.upper)
    if all(missing):
        return None if math.isnan(row.value) else rounded(row.value, eps)
    return Enclosure(
        row.value,
        -math.inf if missing[0] else row.lower,
        math.inf if missing[1] else row.upper,
        certified=str(row.status) == "certified",
    )


def unbroken(rounds: pd.Series | pd.Index) -> bool:
    """Are these the rounds 0, 1, 2, … with none left out?"""
    seen = list(rounds)
    return seen == list(range(len(seen)))
