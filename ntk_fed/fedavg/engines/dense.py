"""Dense networks: groups of clients at once, without autograd.

Floor 4. A group goes through all its local steps while what it works on is in the
cache; weights are kept in whichever form of :mod:`weights` costs least.
"""

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from ntk_fed.fedavg.engines import passes
from ntk_fed.fedavg.engines.chain import Chain
from ntk_fed.fedavg.engines.cost import Forms
from ntk_fed.fedavg.engines.factored import Factored, Left
from ntk_fed.fedavg.engines.lowrank import Rows, Series
from ntk_fed.fedavg.engines.samples import (
    Samples,
    all_samples,
    by_number,
    in_sequence,
)
from ntk_fed.fedavg.engines.scratch import Place, Scratch
from ntk_fed.fedavg.engines.weights import Explicit, Shared, Weights, taken
from ntk_fed.fedavg.locals import Locals
from ntk_fed.fedavg.work import Work
from ntk_fed.params import Params

ROWS = 1024  # from which the first product of a round runs at full speed
ALIGNED = 16  # samples: a row of that many floats begins where a register does


class Dense:
    """Engine ``"dense"``.

    Args:
        chain: the network.
        state: frozen parameters and buffers.
        form: one form of weights for all layers; ``None`` is the cheapest for each.
        group: clients in a group; ``None`` is as many as the cache takes.
    """

    def __init__(
        self,
        chain: Chain,
        state: Params,
        *,
        form: str | None = None,
        group: int | None = None,
    ) -> None:
        self.chain, self.state = chain, state
        self.form, self.group = form, group
        self.scratch = Scratch()
        # Of the last round and of this one: other clients may take part in each.
        self._full: dict[tuple[int, ...], Samples] = {}
        self._kept: dict[tuple[int, ...], Samples] = {}

    def run(self, start: Params, work: Work) -> Iterator[Locals]:
        """The clients after each local step if watched, else after the last."""
        self._full, self._kept = self._kept, {}
        count = len(work.step_sizes)
        forms = Forms.of(self.chain, {**self.state, **start}, start, work, self.form)
        parts = forms.groups(self.group)
        if not work.watched:
            groups = []
            for one in self._groups(forms, parts, start, work):
                for k in range(one.steps):
                    one.step(k, work.step_sizes[k])
                groups.append(one.left())
            yield self._left(groups, start, work)
            return
        running = list(self._groups(forms, parts, start, work))
        for k in range(count):
            for one in running:
                if k < one.steps:
                    one.step(k, work.step_sizes[k])
            yield self._left([one.left() for one in running], start, work)

    def _left(self, groups: list[Left], start: Params, work: Work) -> Factored:
        return Factored(self.chain, self.state, groups, start, len(work.clients))

    def _groups(
        self, forms: Forms, parts: list[list[int]], start: Params, work: Work
    ) -> Iterator["_Group"]:
        """The groups, one after the other; what they start from for several at once."""
        waiting: list[tuple[list[int], Samples]] = []
        rows = 0
        for part in parts:
            waiting.append((part, self._samples(forms, work, part)))
            rows += waiting[-1][1].x.shape[:2].numel()
            if rows >= ROWS or part is parts[-1]:
                begun = self._begun(forms, [one for _, one in waiting], start)
                for (own, samples), before in zip(waiting, begun, strict=True):
                    yield _Group(self, forms, own, samples, before, start, work)
                waiting, rows = [], 0

    def _begun(
        self, forms: Forms, samples: list[Samples], start: Params
    ) -> list[Tensor | None]:
        """``x Wᵀ`` of a first layer in its samples' space, in one product for all."""
        name = self.chain.layers[0].weight
        first = forms.layers[0]
        once = all(not one.repeated or len(one.batches) == 1 for one in samples)
        if not isinstance(name, str) or not (
            first == "rows" or (first == "series" and once)
        ):
            return [None] * len(samples)
        flat = [one.x.flatten(0, 1) for one in samples]
        products = (flat[0] if len(flat) == 1 else torch.cat(flat)) @ start[name].T
        pieces = products.split([len(one) for one in flat])
        begun = [
            piece.unflatten(0, one.x.shape[:2])
            for piece, one in zip(pieces, samples, strict=True)
        ]
        if forms.columns:
            return [one.mT.contiguous().mT for one in begun]
        return list(begun)

    def _samples(self, forms: Forms, work: Work, part: list[int]) -> Samples:
        """The group's samples of this round; full batches stay for the next one."""
        factor = self.chain.layers[0].factor
        if forms.samples == "all":
            key = tuple(work.clients[i] for i in part)
            found = self._full.get(key)
            if found is None:
                multiple = ALIGNED if forms.columns else 1
                found = all_samples(work, part, factor, multiple)
            self._kept[key] = found
            return found
        steps = max(len(work.batches[i]) for i in part)
        if forms.samples == "sequence":
            return in_sequence(work, part, steps, factor)
        return by_number(work, part, steps, factor)


class _Group:
    """Some clients in one round."""

    def __init__(
        self,
        engine: Dense,
        forms: Forms,
        part: list[int],
        samples: Samples,
        before: Tensor | None,
        start: Params,
        work: Work,
    ) -> None:
        self.chain, self.part, self.loss = engine.chain, part, work.objective.loss
        self.clients = len(part)
        self.start = start
        self.samples, self.before = samples, before
        self.steps = len(self.samples.batches)
        self.counts = [len(work.batches[i]) for i in part]
        # A single step's results may be what is left of the round.
        self.scratch = engine.scratch if self.steps > 1 else None
        values = {**engine.state, **start}
        self.weights = [
            self._weights(k, forms, values, work.watched)
            for k in range(len(self.chain.layers))
        ]
        trained = [
            one.trained or layer.bias in start
            for one, layer in zip(self.weights, self.chain.layers, strict=True)
        ]
        self.lowest = trained.index(True) if any(trained) else len(trained)
        self.biases = {
            layer.bias: values[layer.bias].expand(self.clients, -1)
            for layer in self.chain.layers
            if layer.bias is not None
        }

    def _weights(self, k: int, forms: Forms, values: Params, watched: bool) -> Weights:
        layer = self.chain.layers[k]
        place = Place(columns=forms.columns, scratch=self.scratch, name=k)
        name = layer.weight
        weight = values[name] if isinstance(name, str) else name
        match forms.layers[k]:
            case "shared":
                return Shared(weight)
            case "explicit":
                return Explicit(weight, self.clients, watched=watched, place=place)
            case "rows":
                gram = functools.partial(getattr, self.samples, "gram")
                assert self.before is not None
                return Rows(
                    weight,
                    self.samples.x,
                    gram,
                    self.before,
                    watched=watched,
                    place=place,
                )
        rows = sum(batch.weights.shape[1] for batch in self.samples.batches)
        if k > 0 or self.before is None:
            return Series(weight, self.clients, rows)
        return Series(weight, self.clients, rows, self.samples.x, self.before)

    def step(self, k: int, step_size: float) -> None:
        """All clients of the group descend once."""
        batch = self.samples.batches[k]
        found = passes.forward(
            self.chain,
            lambda layer, h: self.weights[layer].forward(h, batch.where),
            self.biases,
            taken(self.samples.x, batch.where),
        )
        self._clear(found, k)
        for one in passes.backward(
            self.chain,
            found,
            self.loss,
            (batch.y, batch.weights),
            lambda layer, d: self.weights[layer].backward(d),
            self.lowest,
        ):
            bias = self.chain.layers[one.layer].bias
            if bias is not None and bias in self.start:
                moved = self.biases[bias] - step_size * one.bias.sum(dim=1)
                self.biases[bias] = moved
            own = self.weights[one.layer]
            if own.trained:
                a = found.inputs[one.layer]
                own.update(one.weight, a, step_size, batch.where)

    def _clear(self, found: passes.Forward, k: int) -> None:
        """Clients that are done weigh nothing; zero times what overflowed is not."""
        if k < min(self.counts):
            return
        done = [row for row, count in enumerate(self.counts) if count <= k]
        for values in (*found.inputs[1:], *found.kept):
            values[done] = 0

    def left(self) -> Left:
        """The clients as they are now."""
        return Left(
            self.part,
            self.start,
            {
                layer.weight: own.kept()
                for layer, own in zip(self.chain.layers, self.weights, strict=True)
                if isinstance(layer.weight, str) and own.trained
            },
            {k: v for k, v in self.biases.items() if k in self.start},
            self.samples if self.samples.means is not None else None,
        )
