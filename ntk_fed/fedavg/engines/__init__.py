"""How the clients' local steps are computed: several ways, equal up to rounding.

Floor 4. An engine has ``run(start, work)``, which yields the clients after each local
step if the work is watched, else once, after the last.
"""

import dataclasses
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ntk_fed.fedavg.engines import exact, vectorised
from ntk_fed.fedavg.engines.chain import Chain, chain_of
from ntk_fed.fedavg.engines.dense import Dense
from ntk_fed.fedavg.engines.loop import Loop
from ntk_fed.fedavg.engines.vectorised import Vectorised
from ntk_fed.fedavg.local import Objective
from ntk_fed.fedavg.locals import Locals
from ntk_fed.fedavg.work import Steps, Work
from ntk_fed.params import Params

ENGINES = ("auto", "loop", "vmap", "dense")
LOCALS = ("sgd", "minibatch", "exact")
# A client's step that takes longer than its calls gains nothing from vmap.
_SMALL = 1e7  # multiplications and additions
_NOT_FOR_VMAP = (
    torch.nn.modules.conv._ConvNd,  # one weight per client: grouped, and slow on CPUs
    torch.nn.RNNBase,
)


@runtime_checkable
class Engine(Protocol):
    """A way to compute the local steps of a round."""

    def run(self, start: Params, work: Work) -> Iterator[Locals]:
        """The clients after each local step if watched, else after the last."""
        ...


@dataclasses.dataclass(frozen=True)
class Choice:
    """An engine, its name, and why it was chosen."""

    name: str
    engine: Engine
    why: str


def choose(
    name: str,
    objective: Objective,
    params: Params,
    data: tuple[Tensor, Tensor],
    *,
    drawn: int,
    steps: Steps,
    local: str = "sgd",
) -> Choice:
    """The engine of that name, or by ``"auto"`` the fastest that applies.

    The stated model: the engine for dense networks never does more than a loop over
    clients and chooses its own forms (:mod:`cost`); vmap saves calls, so it is taken
    where a client's step, six operations per parameter and sample, is shorter than the
    calls it takes; else the loop.

    Args:
        name: one of ``ENGINES``.
        objective: network and loss.
        params: trainable parameters.
        data: inputs and targets of all samples.
        drawn: samples of a local step.
        steps: how clients step.
        local: ``"exact"`` for exact local solves.

    Raises:
        ValueError: an engine asked for by name that cannot do it; the reason is given.
    """
    x, y = data
    if local == "exact":
        return _exact(name, objective, params, data)
    if name == "loop":
        return Choice("loop", Loop(), "asked for")
    reasons = []
    if name in ("auto", "dense"):
        found = _chain(objective, params, data, steps)
        if isinstance(found, Chain):
            why = "the network is a chain of dense layers"
            with torch.no_grad():
                moderate = found.moderate(params, objective.state, x)
            form = None if moderate else "explicit"
            return Choice("dense", Dense(found, objective.state, form=form), why)
        reasons.append(f"dense: {found}")
    if name in ("auto", "vmap"):
        reason = None
        if name == "auto":
            reason = _not_worth_it(objective, params, drawn)
        reason = reason or vectorised.usable(objective, params, x, y)
        if reason is None:
            return Choice("vmap", Vectorised(), "; ".join([*reasons, "short steps"]))
        reasons.append(f"vmap: {reason}")
    if name != "auto":
        raise ValueError(
            f"engine={name!r} cannot run this: {reasons[-1].split(': ', 1)[1]}. Use "
            'engine="auto".'
        )
    return Choice("loop", Loop(), "; ".join(reasons))


def _exact(
    name: str, objective: Objective, params: Params, data: tuple[Tensor, Tensor]
) -> Choice:
    found = chain_of(objective, params, *data)
    reason = exact.why_not(found, params, objective.loss)
    if reason is None and name not in ("auto", "loop"):
        reason = f"engine must be 'auto', got {name!r}"
    if reason is not None:
        raise ValueError(
            f'local="exact" solves linear models in closed form: {reason}. Use '
            'local="sgd", or nf.models.Linear.'
        )
    assert isinstance(found, Chain)
    return Choice("exact", exact.Exact(found, objective.loss), "exact local solves")


def _chain(
    objective: Objective, params: Params, data: tuple[Tensor, Tensor], steps: Steps
) -> Chain | str:
    if not steps.plain or steps.frozen_point:
        return "it knows neither momentum, weight decay nor gradients at the start"
    return chain_of(objective, params, *data)


def _not_worth_it(objective: Objective, params: Params, drawn: int) -> str | None:
    if any(isinstance(m, _NOT_FOR_VMAP) for m in objective.model.modules()):
        return "slower than a loop with convolutions or recurrent layers"
    entries = sum(value.numel() for value in params.values())
    if 6 * entries * drawn > _SMALL:
        return "a client's step takes longer than its calls"
    return None
