"""Federated averaging, one round after the other. Measures nothing.

Floor 4.
"""

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ntk_fed import seeds
from ntk_fed.data import Partition
from ntk_fed.errors import ShapeMismatchError
from ntk_fed.fedavg import losses, server
from ntk_fed.fedavg.engines import Choice, choose
from ntk_fed.fedavg.local import Objective
from ntk_fed.fedavg.moments import LocalStep, Round
from ntk_fed.fedavg.options import Options
from ntk_fed.fedavg.rules import RULES, Averaging
from ntk_fed.fedavg.schedules import Schedule, step_sizes
from ntk_fed.fedavg.work import Batch, Work, batches
from ntk_fed.inputs import check_inputs, check_per_sample
from ntk_fed.params import Params, complete, copied


def rounds(
    model: torch.nn.Module,
    partition: Any,
    *,
    rounds: int,
    local_steps: Any = None,
    local_epochs: Any = None,
    step_size: float | Schedule,
    loss: losses.Loss = "squared",
    batch_size: int | None = None,
    replacement: bool = False,
    weights: str = "samples",
    server_step_size: float = 1.0,
    participation: float = 1.0,
    rule: str = "average",
    local: str = "sgd",
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    engine: str = "auto",
    steps: bool = False,
    seed: int = 0,
    params: Mapping[str, Tensor] | None = None,
    first: int = 0,
    anchor: Mapping[str, Tensor] | None = None,
) -> Iterator[Round | LocalStep]:
    r"""FedAvg: every client descends alone, the server averages what they moved.

    .. math:: \theta^+ = \theta + \eta_g \sum_i w_i (\theta_i^K - \theta),\qquad
        \theta_i^{k+1} = \theta_i^k - \eta\,\nabla F_i(\theta_i^k)

    with ``F_i`` the *mean* loss over the samples of client ``i``.

    Args:
        model: network returning ``(n, o)``; neither it nor its buffers change.
        partition: the data and who holds it; ``y`` has the shape of the outputs.
        rounds: communication rounds; exactly so many :class:`Round` are yielded.
        local_steps: gradient steps per client and round, ``K >= 1``; a list gives each
            client its own.
        local_epochs: instead of ``local_steps``: how often a client sees each of its
            samples in a round; a list gives each client its own.
        step_size: local step size, parameter units per gradient unit, above 0; a
            function of round and local step, from 0, for a schedule.
        loss: the mean over samples of ``"squared"`` (``½‖f − y‖²``), ``"logistic"``,
            ``"exponential"``, ``"squared-hinge"``, ``"cross-entropy"``, or of your own
            function of outputs and targets that gives one number per sample.
        batch_size: samples per local step, drawn without replacement and reshuffled
            when they run out, afresh in each round; ``None`` is the full batch.
        replacement: draw minibatches with replacement.
        weights: ``"samples"`` for ``n_i / n``, ``"uniform"`` for ``1 / c``.
        server_step_size: factor on the averaged movement; 1 is plain averaging.
        participation: fraction of clients drawn in each round, in (0, 1]; their
            weights are scaled to sum to 1.
        rule: ``"average"``, ``"fedexp"`` (extrapolated) or ``"anchored"`` (Modified
            Local GD), see :mod:`rules`.
        local: ``"sgd"``; ``"minibatch"``: all gradients of a round at its start, the
            same budget without local progress; ``"exact"``: linear models only, each
            client goes to the nearest solution of its own problem.
        momentum: β of ``v ← β v + g``, forgotten between rounds.
        weight_decay: λ of ``g + λ θ``.
        engine: ``"loop"``, ``"vmap"``, ``"dense"`` or ``"auto"``; see :func:`explain`.
        steps: also yield a :class:`LocalStep` after every local step of all clients.
        seed: decides minibatches and participation; full batches and full participation
            use no chance.
        params: starting parameters; names left out are the model's own.
        first: index of the first round, to go on with an interrupted run.
        anchor: where the run began, for one that goes on: the rule ``"anchored"``
            draws back to it, and engines are chosen there; ``None`` is the start.

    Yields:
        ``rounds`` times: with ``steps=True`` first one :class:`LocalStep` per local
        step of the client with most, then the :class:`Round`.

    Raises:
        ValueError: an argument out of its range; integer or wrongly shaped targets.
        NotPerSampleError: dropout or batch statistics in training mode.

    Cost:
        Per round at most ``local_steps`` forward and backward passes over the data;
        memory at most one parameter vector per client.

    Source:
        McMahan, Moore, Ramage, Hampson, Aguera y Arcas (2017), arXiv:1602.05629,
        Algorithm 1.

    Example:
        >>> import ntk_fed as nf
        >>> data = nf.data.load("sphere", n=6, targets="sign")
        >>> split = nf.data.partition(data, "iid", clients=2)
        >>> net = nf.models.TwoLayerReLU(16, 8, seed=0)
        >>> run = nf.fedavg.rounds(net, split, rounds=3, local_steps=2, step_size=0.1)
        >>> [item.index for item in run]
        [0, 1, 2]
    """
    given = locals()  # the arguments by name
    return _Federation.of(given).run(range(first, first + rounds), steps)


def explain(model: torch.nn.Module, partition: Partition, **options: Any) -> str:
    """Which engine :func:`rounds` takes with these options, and why.

    Example:
        >>> import ntk_fed as nf
        >>> data = nf.data.load("sphere", n=6, targets="sign")
        >>> split = nf.data.partition(data, "iid", clients=2)
        >>> net = nf.models.TwoLayerReLU(16, 8, seed=0)
        >>> nf.fedavg.explain(net, split, local_steps=2, step_size=0.1)
        'engine dense: the network is a chain of dense layers'
    """
    options.setdefault("rounds", 0)
    bound = inspect.signature(rounds).bind(model, partition, **options)
    bound.apply_defaults()
    choice = _Federation.of(bound.arguments).choice
    return f"engine {choice.name}: {choice.why}"


def _check_dtypes(start: Params, origin: Params) -> None:
    for name, value in start.items():
        if origin[name].dtype != value.dtype:
            raise ShapeMismatchError(
                f"anchor[{name!r}] is {origin[name].dtype}, the parameters are "
                f"{value.dtype}. Convert one of them."
            )


@dataclasses.dataclass(frozen=True)
class _Federation:
    """Everything that stays the same from round to round."""

    start: Params
    origin: Params
    choice: Choice
    objective: Objective
    options: Options
    data: list[tuple[Tensor, Tensor]]
    counts: list[int]
    weights: Tensor
    seed: int

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "_Federation":
        """From the arguments of :func:`rounds`, all of them checked."""
        model, partition = given["model"], given["partition"]
        if not isinstance(partition, Partition):
            raise ValueError(
                f"partition must be a Partition, got {type(partition).__name__}. Make "
                "one with nf.data.partition(dataset, kind, clients=...)."
            )
        names = [field.name for field in dataclasses.fields(Options)]
        options = Options(**{name: given[name] for name in names})
        counts = options.counts(partition.sizes)
        start = copied(complete(model, given["params"]))
        origin = copied(complete(model, given["anchor"] or start))
        _check_dtypes(start, origin)
        objective = Objective.of(model, given["loss"])
        x, y = partition.dataset.x, partition.dataset.y
        check_inputs(x, start)
        check_per_sample(model, start, objective.state, x)
        losses.check_targets(given["loss"], objective.outputs(start, x[:1]), y)
        full = max(partition.sizes)
        drawn = full if options.batch_size is None else min(options.batch_size, full)
        choice = choose(
            options.engine,
            objective,
            origin,  # of a run that goes on: the same choice
            (x, y),
            drawn=drawn,
            steps=options.steps,
            local=options.local,
        )
        return cls(
            start,
            origin,
            choice,
            objective,
            options,
            [partition.client(i) for i in range(partition.clients)],
            counts,
            partition.weights(given["weights"]),
            given["seed"],
        )

    def run(self, indices: range, steps: bool) -> Iterator[Round | LocalStep]:
        """Every round, and its local steps if asked for."""
        params = self.start
        rule = RULES[self.options.rule]
        for index in indices:
            last = index == indices[-1]
            stream = seeds.generator(self.seed, "participation", index)
            share = self.options.participation
            clients = server.sample(len(self.data), share, stream)
            weights = server.renormalised(self.weights, clients)
            work = self._work(index, clients, steps)
            found = None
            for k, found in enumerate(self.choice.engine.run(params, work)):
                if steps:
                    yield LocalStep(index, k + 1, found, params, clients, weights, last)
            assert found is not None
            step_size = self.options.server_step_size
            given = Averaging(params, found, weights, step_size, index, self.origin)
            after = rule(given)
            yield Round(index, params, found, after, clients, weights, last)
            params = after

    def _work(self, index: int, clients: list[int], watched: bool) -> Work:
        return Work(
            self.objective,
            [self.data[client] for client in clients],
            clients,
            [self._batches(index, client) for client in clients],
            step_sizes(
                self.options.step_size, index, max(self.counts[i] for i in clients)
            ),
            self.options.steps,
            watched,
        )

    def _batches(self, index: int, client: int) -> list[Batch]:
        """A client's minibatches in a round; none without samples."""
        n, size = len(self.data[client][0]), self.options.batch_size
        if n == 0:
            return []
        if size is None:
            return [None] * self.counts[client]
        stream = seeds.generator(self.seed, "minibatches", index, client)
        return batches(
            n,
            size,
            self.counts[client],
            stream,
            replacement=self.options.replacement,
        )
