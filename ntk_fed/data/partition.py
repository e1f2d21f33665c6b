"""Which client holds which samples.

The kinds of split, by name:

* ``"iid"``: at random, sizes that differ by at most one.
* ``"shards"``: samples sorted by label (stably) and cut into
  ``clients · shards_per_client`` shards of nearly equal size, dealt at random. One
  shard per client is dealt in order: client 0 has the lowest labels.
* ``"dirichlet"``: each class is divided by proportions drawn from a symmetric
  Dirichlet law. A small ``alpha`` concentrates a class on few clients, and clients
  may stay empty; nothing is drawn again to avoid it.
* ``"one-class"``: each client holds samples of one class, clients in the order of
  classes. With more clients than classes, each further client goes to the class
  with most samples per client, whose samples are then divided at random, evenly.
* ``"slices"``: samples sorted by their projection on a direction and cut into parallel
  slices, sizes that differ by at most one; client 0 has the lowest projections. The
  direction is the argument, else the dataset's own (the normal of the hyperplane for
  "separable" data), else the first principal one (``slices.principal_direction``).
* ``"single"``: client 0 holds everything, the others nothing.

Within a client indices ascend, except for "shards", which keeps label order.

Source:
    Shards: McMahan et al. (2017), arXiv:1602.05629, section 3. Dirichlet: Yurochkin
    et al. (2019), arXiv:1905.12022, which divides each class over the clients; Hsu,
    Qi, Brown (2019), arXiv:1909.06335, draw the classes of each client instead.
    Slices: Qin, Etesami, Uribe (2022), arXiv:2201.12719, who do not say across what.

Floor 2: imports ``errors``, ``seeds``, ``names`` and its own folder.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from ntk_fed import seeds
from ntk_fed.data import slices
from ntk_fed.data.dataset import Dataset
from ntk_fed.errors import PartitionError
from ntk_fed.names import require_known

KINDS = ("iid", "shards", "dirichlet", "one-class", "slices", "single")
WEIGHTS = ("samples", "uniform")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Partition:
    """A dataset and, for each client, the samples it holds.

    Samples that no client holds are legal, and so are clients that hold none.

    Attributes:
        dataset: all samples.
        indices: one tensor of sample indices per client, kept as a tuple of int64.

    Raises:
        PartitionError: no client; indices that are no integers, out of range, or
            held twice.
    """

    dataset: Dataset
    indices: Sequence

    def __post_init__(self) -> None:
        """Check every index, then keep int64."""
        if len(self.indices) == 0:
            raise PartitionError("indices is empty; a partition needs a client.")
        n = len(self.dataset)
        owner = torch.full((n,), -1)  # (n,): client that holds the sample
        for client, own in enumerate(self.indices):
            _check_indices(client, own, n)
            own = own.to("cpu", torch.int64)
            taken = owner[own] >= 0
            if taken.any():
                index = int(own[taken][0])
                raise PartitionError(
                    f"sample {index} is held by client {int(owner[index])} and again "
                    f"by client {client}. Give each sample to one client."
                )
            values, counts = own.unique(return_counts=True)
            if (counts > 1).any():
                raise PartitionError(
                    f"client {client} holds sample {int(values[counts > 1][0])} more "
                    "than once. List each sample once."
                )
            owner[own] = client
        kept = tuple(own.to(torch.int64) for own in self.indices)
        object.__setattr__(self, "indices", kept)

    def __repr__(self) -> str:
        """One line: sizes, not indices."""
        return f"Partition({self.dataset!r}, sizes={self.sizes})"

    @property
    def clients(self) -> int:
        """Number of clients, empty ones included."""
        return len(self.indices)

    @property
    def sizes(self) -> list[int]:
        """Number of samples of each client."""
        return [len(own) for own in self.indices]

    def client(self, i: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of client ``i``, in the order of its indices.

        Raises:
            PartitionError: there is no client ``i``.
        """
        if not 0 <= i < self.clients:
            raise PartitionError(
                f"there is no client {i}; clients are 0 to {self.clients - 1}."
            )
        return self.dataset.x[self.indices[i]], self.dataset.y[self.indices[i]]

    def weights(self, kind: str = "samples") -> Float64[Tensor, " c"]:
        """Weight of each client in the average; they add up to 1.

        Args:
            kind: "samples" for ``n_i / Σ n_i`` (an empty client weighs 0), "uniform"
                for ``1/c`` (an empty client too).

        Raises:
            UnknownNameError: another kind.
            PartitionError: "samples", and no client holds any.
        """
        require_known("weights", kind, WEIGHTS)
        if kind == "uniform":
            ones = torch.ones(self.clients, dtype=torch.float64)
            return ones / self.clients
        sizes = torch.tensor(self.sizes, dtype=torch.float64)
        if sizes.sum() == 0:
            raise PartitionError(
                f"all {self.clients} clients are empty: weights by samples are 0/0. "
                'Give a client a sample, or weights="uniform".'
            )
        return sizes / sizes.sum()


def partition(
    dataset: Dataset,
    kind: str,
    *,
    clients: int,
    alpha: float = 0.1,
    shards_per_client: int = 2,
    direction: Tensor | None = None,
    seed: int = 0,
) -> Partition:
    """A split that gives every sample to exactly one client.

    Args:
        dataset: labels are needed for "shards", "dirichlet" and "one-class".
        kind: one of ``KINDS``; see the module.
        clients: number of clients, from 1 to the number of samples.
        alpha: concentration of "dirichlet", above 0; the others do not read it.
        shards_per_client: for "shards", at least 1; the others do not read it.
        direction: for "slices", ``(d,)``, not zero; the others do not read it.
        seed: decides everything random here.

    Raises:
        TypeError: ``dataset`` is none.
        UnknownNameError: another kind.
        PartitionError: an argument out of its range; fewer samples than clients or
            shards; "one-class" with fewer clients than classes, which would leave
            samples to nobody; "slices" of samples without a principal direction.
        ValueError: labels are needed and not known; a ``direction`` that is none.
    """
    require_known("kind of partition", kind, KINDS)
    given: Any = dataset
    if not isinstance(given, Dataset):
        raise TypeError(
            f"dataset must be a Dataset, got {type(given).__name__}. Make one with "
            "nf.data.Dataset(x, y), or nf.data.load(name)."
        )
    n = len(dataset)
    if not isinstance(clients, int) or clients < 1:
        raise PartitionError(
            f"clients must be a whole number of at least 1, got {clients!r}."
        )
    if clients > n:
        raise PartitionError(
            f"{clients} clients are more than the {n} samples. Use fewer, or write a "
            "Partition with empty clients by hand."
        )
    match kind:
        case "iid":
            order = torch.randperm(n, generator=seeds.generator(seed, "partition/iid"))
            held = [own.sort().values for own in order.tensor_split(clients)]
        case "shards":
            held = _shards(dataset.labels, clients, shards_per_client, seed)
        case "dirichlet":
            held = _dirichlet(dataset.labels, clients, alpha, seed)
        case "one-class":
            held = _one_class(dataset.labels, clients, seed)
        case "slices":
            own = dataset.direction if direction is None else direction
            order = slices.order_along(dataclasses.replace(dataset, direction=own))
            held = [part.sort().values for part in order.tensor_split(clients)]
        case _:
            nothing = torch.empty(0, dtype=torch.int64)
            held = [torch.arange(n)] + [nothing] * (clients - 1)
    return Partition(dataset, held)


def _shards(
    labels: Int64[Tensor, " n"], clients: int, per_client: int, seed: int
) -> list[Tensor]:
    if per_client < 1:
        raise PartitionError(f"shards_per_client must be at least 1, got {per_client}.")
    count = clients * per_client
    if count > len(labels):
        raise PartitionError(
            f"{clients} clients × {per_client} shards are more than the {len(labels)} "
            "samples. Use fewer clients or fewer shards_per_client."
        )
    shards = labels.cpu().argsort(stable=True).tensor_split(count)
    if per_client == 1:  # dealing would only rename the clients
        return list(shards)
    deal = torch.randperm(count, generator=seeds.generator(seed, "partition/shards"))
    return [
        torch.cat([shards[shard] for shard in hand.sort().values.tolist()])
        for hand in deal.reshape(clients, per_client)
    ]


def _dirichlet(
    labels: Int64[Tensor, " n"], clients: int, alpha: float, seed: int
) -> list[Tensor]:
    # The gamma sampler underflows for a small alpha and overflows for a huge one;
    # NumPy's Dirichlet switches to beta draws below 0.1, and the sum shows the rest.
    if not 0 < alpha < math.inf:
        raise PartitionError(f"alpha must be above 0 and finite, got {alpha}.")
    held: list[list[Tensor]] = [[] for _ in range(clients)]
    for label in labels.unique().tolist():
        draw = np.random.default_rng(
            seeds.derive(seed, "partition/dirichlet/proportions", label)
        )
        proportions = draw.dirichlet(np.full(clients, float(alpha)))
        if not abs(proportions.sum() - 1) < 1e-9:
            raise PartitionError(
                f"proportions for alpha = {alpha} over {clients} clients overflow. "
                'Use a smaller alpha, or "iid".'
            )
        own = _shuffled_class(labels, label, seed, "dirichlet")
        cuts = np.rint(np.cumsum(proportions)[:-1] * len(own)).astype(int)
        for client, part in zip(held, own.tensor_split(cuts.tolist()), strict=True):
            client.append(part)
    return [torch.cat(parts).sort().values for parts in held]


def _one_class(labels: Int64[Tensor, " n"], clients: int, seed: int) -> list[Tensor]:
    values, sizes = labels.unique(return_counts=True)
    if clients < len(values):
        raise PartitionError(
            f"one-class needs a client for each of the {len(values)} classes, got "
            f"{clients} clients; samples of the other classes would be nobody's. Use "
            "more clients, or load fewer classes."
        )
    shares = torch.ones_like(sizes)
    for _ in range(clients - len(values)):
        # The largest mean is above 1 while clients < n: no share becomes empty.
        shares[int((sizes / shares).argmax())] += 1
    held: list[Tensor] = []
    for label, share in zip(values.tolist(), shares.tolist(), strict=True):
        own = _shuffled_class(labels, label, seed, "one-class")
        held += [part.sort().values for part in own.tensor_split(share)]
    return held


def _shuffled_class(
    labels: Int64[Tensor, " n"], label: int, seed: int, kind: str
) -> Int64[Tensor, " k"]:
    own = (labels.cpu() == label).nonzero().squeeze(1)
    stream = seeds.generator(seed, f"partition/{kind}/order", label)
    return own[torch.randperm(len(own), generator=stream)]


def _check_indices(client: int, own: object, n: int) -> None:
    """Refuse what cannot index ``n`` samples."""
    kinds = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
    if isinstance(own, Tensor) and own.numel() == 0 and own.ndim == 1:
        return  # an empty client, of whatever dtype torch.tensor([]) gave it
    if not isinstance(own, Tensor) or own.ndim != 1 or own.dtype not in kinds:
        got = (
            f"{own.dtype} of shape {tuple(own.shape)}"
            if isinstance(own, Tensor)
            else type(own).__name__
        )
        raise PartitionError(
            f"indices of client {client} have to be an integer tensor of one axis, "
            f"got {got}. An empty client is torch.empty(0, dtype=torch.int64)."
        )
    outside = (own < 0) | (own >= n)
    if outside.any():
        raise PartitionError(
            f"client {client} holds index {int(own[outside][0])}, outside 0 to {n - 1}."
        )
