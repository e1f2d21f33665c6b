"""What a round of a dense network costs in each form of its weights, and the cheapest.

Floor 4. A cost is a number of multiplications and additions; a byte that has to come
from memory counts as many as the machine does meanwhile. Numbers are fixed, not timed:
the same run takes the same way on every machine, which a resumed one needs.
"""

import dataclasses
import itertools
import math

from ntk_fed.fedavg.engines.chain import Chain
from ntk_fed.fedavg.work import Work
from ntk_fed.params import Params

OPERATIONS_PER_BYTE = 5.0
IN_CACHE = 0.1  # of that, for bytes that a group of clients keeps there
CACHE = 16 * 2**20  # bytes that a group of clients works on
AT_LEAST = 2  # clients: threads share products of several better than one of one
TOGETHER = 128  # rows from which a product of all clients' rows runs at speed
REPEATS = 8  # times a sample may be copied so that steps are ranges of rows
COLUMNS = 64  # samples of a step from which products are faster with features first


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes that decide: those of the client with most to do.

    Attributes:
        held: samples of a client.
        drawn: samples of a local step.
        steps: local steps.
        full: is every step the full batch?
        itemsize: bytes of a number.
    """

    held: int
    drawn: int
    steps: int
    full: bool
    itemsize: int

    @classmethod
    def of(cls, work: Work, itemsize: int) -> "Sizes":
        """The sizes of a round."""
        busy = [i for i in range(len(work.clients)) if work.batches[i]]
        full = all(batch is None for i in busy for batch in work.batches[i])
        return cls(
            max([len(work.data[i][0]) for i in busy], default=0),
            max([work.drawn(i, 0) for i in busy], default=0),
            max([len(work.batches[i]) for i in busy], default=0),
            full,
            itemsize,
        )

    @property
    def seen(self) -> int:
        """Rows of all steps, one after another."""
        return self.steps * self.drawn

    @property
    def fewest(self) -> int:
        """Clients that a group has at least, so that products run at speed."""
        return max(AT_LEAST, math.ceil(TOGETHER / max(1, self.drawn)))

    def explicit(self, inputs: int, outputs: int, *, first: bool) -> float:
        """Each client's own weight: products, and the weight through memory."""
        entries = inputs * outputs
        products = (4 if first else 6) * self.seen * entries
        fits = self.fewest * entries * self.itemsize <= CACHE
        passes = (3 if first else 4) * self.steps * (IN_CACHE if fits else 1.0) + 2
        return products + OPERATIONS_PER_BYTE * self.itemsize * entries * passes

    def rows(self, inputs: int, outputs: int) -> float:
        """A first layer in the space of its samples, all of which are kept."""
        n = self.held
        ends = 4 * n * inputs * outputs  # what it starts from, and the movement
        gram = 2 * n * n * inputs if self.steps > 1 else 0
        kept = self.itemsize * n * outputs * (self.steps + 2)
        products = ends + gram + 2 * (self.steps - 1) * self.drawn * n * outputs
        return products + OPERATIONS_PER_BYTE * kept

    def series(self, inputs: int, outputs: int, *, first: bool) -> float:
        """All steps' rows one after another."""
        back = 1 if first else 2
        earlier = self.drawn**2 * self.steps * (self.steps - 1) / 2
        products = (1 + back) * 2 * self.seen * inputs * outputs
        # What was learned is written once, and read again in every later step.
        kept = self.itemsize * self.seen * (inputs + outputs) * (self.steps / 2 + 2)
        return (
            products
            + back * 2 * earlier * (inputs + outputs)
            + OPERATIONS_PER_BYTE * kept
        )


@dataclasses.dataclass(frozen=True)
class Forms:
    """The way chosen for a round.

    Attributes:
        samples: ``"all"``, ``"sequence"`` or ``"number"``, see :mod:`samples`.
        layers: form of the weights of each layer.
        order: positions of clients with something to do, the busiest first.
        group: of how many clients a group is.
        columns: do results lie in memory with features before samples?
    """

    samples: str
    layers: tuple[str, ...]
    order: tuple[int, ...]
    group: int
    columns: bool

    @classmethod
    def of(
        cls,
        chain: Chain,
        values: Params,
        params: Params,
        work: Work,
        form: str | None = None,
    ) -> "Forms":
        """The cheapest; with ``form`` that one wherever a layer can have it.

        Args:
            chain: the network.
            values: all its parameters and buffers, for their shapes.
            params: those that are trained.
            work: the round.
            form: ``"explicit"``, ``"rows"`` or ``"series"``.
        """
        itemsize = next(iter(params.values())).element_size()
        sizes = Sizes.of(work, itemsize)
        shapes = [
            (values[one.weight] if isinstance(one.weight, str) else one.weight).shape
            for one in chain.layers
        ]
        layers = []
        for k, (layer, (outputs, inputs)) in enumerate(
            zip(chain.layers, shapes, strict=True)
        ):
            trained = isinstance(layer.weight, str) and layer.weight in params
            costs = {
                "explicit": sizes.explicit(inputs, outputs, first=k == 0),
                "series": sizes.series(inputs, outputs, first=k == 0),
            }
            if k == 0:
                costs["rows"] = sizes.rows(inputs, outputs)
                if sizes.full and sizes.steps > 1:
                    del costs["series"]  # the same rows again and again
            best = form if form in costs else min(costs, key=costs.__getitem__)
            layers.append(best if trained else "shared")
        samples = "all" if sizes.full else "number"
        few = sizes.seen <= REPEATS * sizes.held  # gathered at once, again and again
        if not sizes.full and (layers[0] == "series" or (layers[0] != "rows" and few)):
            samples = "sequence"
        busy = [i for i in range(len(work.clients)) if work.batches[i]]
        busy.sort(key=lambda i: (-len(work.data[i][0]), i))
        group = _group(layers, [tuple(shape) for shape in shapes], sizes)
        # A series is filled step by step; rows named by number are added to one by one.
        by_row = "series" in layers or (layers[0] == "rows" and not sizes.full)
        columns = sizes.drawn >= COLUMNS and not by_row
        return cls(samples, tuple(layers), tuple(busy), group, columns)

    def groups(self, size: int | None = None) -> list[list[int]]:
        """Positions of the clients of each group."""
        if not self.order:
            return []
        count = math.ceil(len(self.order) / (self.group if size is None else size))
        # As equal as can be: a rest of one client runs no faster than a whole group.
        ends = [len(self.order) * k // count for k in range(count + 1)]
        return [list(self.order[a:b]) for a, b in itertools.pairwise(ends)]


def _group(layers: list[str], shapes: list[tuple[int, ...]], sizes: Sizes) -> int:
    """Clients that fit into the cache together, enough of them for fast products."""
    entries = 0
    for form, (outputs, inputs) in zip(layers, shapes, strict=True):
        entries += 3 * sizes.drawn * outputs
        match form:
            case "explicit":
                entries += inputs * outputs
            case "rows":
                entries += 2 * sizes.held * outputs
            case "series":
                entries += sizes.seen * (inputs + outputs)
    fitting = CACHE // max(1, entries * sizes.itemsize)
    return max(int(fitting), sizes.fewest)
