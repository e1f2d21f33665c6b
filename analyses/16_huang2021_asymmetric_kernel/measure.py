"""The asymmetric kernel of FL-NTK along training, and the rate it promises.

Two parts. ``"asymmetry"``: the kernel between the global and the local models at every
local step. ``"rate"``: how fast ``‖y(t) − y‖²`` falls in a round, over K and the number
of clients, always until the same time ``eta_local K t / c``.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch

import ntk_fed as nf
from ntk_fed import limits
from ntk_fed.data import Partition, load, partition
from ntk_fed.fedavg import LocalStep
from ntk_fed.models import TwoLayerReLU
from ntk_fed.observers.common import Moment
from ntk_fed.observers.kernelshape import asymmetric_kernel
from ntk_fed.records import Row
from ntk_fed.theory import huang2021

AT_START = "kernel asymmetry at k = 0"


@dataclasses.dataclass(frozen=True)
class Case:
    """One run of the theorem's algorithm: losses are sums, weights uniform.

    Attributes:
        part: "asymmetry" or "rate".
        width: hidden units.
        clients: c, a divisor of ``samples``.
        local_steps: K.
        rounds: rounds of "asymmetry".
        strength: ``eta_local`` times the largest eigenvalue of the limit kernel.
        time: ``eta_local K t / c`` times that eigenvalue at the end of "rate".
        samples: points on the sphere.
        dimension: of the sphere's space.
        seed: of the initial weights.
    """

    part: str = "asymmetry"
    width: int = 1024
    clients: int = 5
    local_steps: int = 5
    rounds: int = 6
    strength: float = 0.5
    time: float = 2.0
    samples: int = 20
    dimension: int = 32
    seed: int = 0


def measure(case: Case) -> Iterator[dict[str, Any]]:
    """Rows of one case: ``round``, ``step``, ``quantity``, ``value``.

    Raises:
        ValueError: a part that there is not, or clients of different sizes.
    """
    if case.part not in ("asymmetry", "rate"):
        raise ValueError(f"part must be asymmetry or rate, got {case.part!r}.")
    if case.samples % case.clients:
        raise ValueError(
            f"clients must divide {case.samples} samples, got {case.clients}."
        )
    data = load(
        "sphere", n=case.samples, targets="sign", dimension=case.dimension, seed=0
    )
    split = partition(data, "shards", clients=case.clients, shards_per_client=1)
    ends = torch.linalg.eigvalsh(limits.two_layer_relu(data.x))
    eta_local = case.strength / ends[-1].item()
    model = TwoLayerReLU(case.dimension, case.width, seed=case.seed)
    part = _asymmetry if case.part == "asymmetry" else _rate
    for t, k, quantity, value in part(case, model, split, eta_local, ends[0].item()):
        yield {"round": t, "step": k, "quantity": quantity, "value": float(value)}


Found = Iterator[tuple[int, int, str, float]]


def _asymmetry(
    case: Case,
    model: TwoLayerReLU,
    split: Partition,
    eta_local: float,
    lambda0: float,
) -> Found:
    """The asymmetric kernel after each local step; eigenvalues over λ0."""
    history = nf.simulate(
        model,
        split,
        rounds=case.rounds,
        local_steps=case.local_steps,
        step_size=eta_local * case.samples / case.clients,
        weights="uniform",
        steps=True,
        observers=[
            nf.observers.kernel_asymmetry(model, split),
            _before_steps(model, split),
        ],
    )
    inside: Any = history.rows[history.rows["step"].notna()]
    for row in inside.itertuples():
        over = lambda0 if "smallest" in row.quantity else 1.0
        yield int(row.round), int(row.step), row.quantity, row.value / over


def _rate(
    case: Case,
    model: TwoLayerReLU,
    split: Partition,
    eta_local: float,
    lambda0: float,
) -> Found:
    """Logarithmic decrease of ``‖y(t) − y‖²`` in a round: run, kernel, promise."""
    c, k, n = case.clients, case.local_steps, case.samples
    rounds = max(2, round(case.time * c / (case.strength * k)))
    step_size = eta_local * n / c
    history = nf.simulate(
        model,
        split,
        rounds=rounds,
        local_steps=k,
        step_size=step_size,
        weights="uniform",
        observers=[nf.observers.loss(model, split, weights="uniform")],
    )
    own: Any = history.rows[history.rows["quantity"] == "residual norm"]
    norms = own.sort_values("round")["value"].tolist()
    theta = nf.gram_matrix(nf.gram(model, split.dataset.x, outputs="full"))
    kernel = nf.federated_kernel(
        theta, split, local_steps=k, step_size=step_size, weights="uniform"
    )
    with torch.no_grad():
        first = model(split.dataset.x) - split.dataset.y
    predicted = kernel.predict(first, rounds).flatten(1).norm(dim=1).tolist()
    promised = huang2021.loss_bound(
        1.0, lambda0, eta_local, 1.0, k, c, torch.tensor([1]).numpy()
    )
    yield rounds, k, "rounds", rounds
    yield rounds, k, "promised rate", -math.log(float(promised[0]))
    yield rounds, k, "measured rate", 2 * math.log(norms[-2] / norms[-1])
    yield rounds, k, "measured slowest rate", _slowest(norms)
    yield rounds, k, "predicted slowest rate", _slowest(predicted)
    yield rounds, k, "asymptotic rate of the kernel", -2 * math.log(kernel.rate)
    apart = (norms[-1] - predicted[-1]) / norms[0]
    yield rounds, k, "prediction error", abs(apart)


def _slowest(norms: list[float]) -> float:
    """The smallest decrease of ``log ‖y(t) − y‖²`` in one round."""
    pairs = itertools.pairwise(norms)
    return min(2 * math.log(before / after) for before, after in pairs)


def _before_steps(model: TwoLayerReLU, split: Partition) -> Any:
    """The asymmetry while every client is still at the global model: k = 0."""
    x = torch.cat([split.client(i)[0] for i in range(split.clients)])
    owner = torch.repeat_interleave(torch.tensor(split.sizes))

    def observe(moment: Moment) -> list[Row]:
        if not isinstance(moment, LocalStep) or moment.step != 1:
            return []
        still = [moment.start] * split.clients
        h = asymmetric_kernel(model, x, owner, moment, still)[:, :, 0, 0]
        value = ((h - h.T).norm() / h.norm()).item()
        return [Row(moment.round + 1, 0, None, None, AT_START, value)]

    return observe
