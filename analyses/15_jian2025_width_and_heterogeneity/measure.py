"""Wide networks trained by FedAvg on clients that hold one class each.

Three parts. ``"width"``: two classes of digits, what falls with width, and the run
against two predictions. ``"accuracy"``: ten classes of MNIST, test accuracy of the
averaged model for two splits. ``"flow"``: predictions of the linearised network alone,
as the step size falls.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import ntk_fed as nf
from ntk_fed import limits
from ntk_fed.data import Dataset, Partition, load, partition
from ntk_fed.drift import Params, difference, squared_norm
from ntk_fed.fedavg import Round
from ntk_fed.fedavg.server import average
from ntk_fed.fedkernel import small_step
from ntk_fed.models import MLP, TwoLayerReLU
from ntk_fed.observers.common import Moment
from ntk_fed.records import Row
from ntk_fed.start import stable_step_size

CLIENTS = 10
TESTED = 2000  # images the accuracy is measured on, none of them trained on
DISTANCE = "distance of local models"
BLOWN_UP = 10.0  # residual over that of the start, above which a run is lost


@dataclasses.dataclass(frozen=True)
class Case:
    """One run, or one prediction.

    Attributes:
        part: "width", "accuracy" or "flow".
        network: "ntk" (factors inside), "standard" (no factors, step size divided by
            the width: the paper's), "two-layer" (first layer trained, as in other
            analyses) or "mean-field" (the control).
        width: hidden units.
        split: how samples are divided over ten clients.
        local_steps: K.
        rounds: rounds; in "flow", those at ``fraction = 1``.
        fraction: step size over the largest at which every client alone is stable, by
            the kernel at infinite width.
        samples: for training.
        seed: of the initial weights.
    """

    part: str = "width"
    network: str = "ntk"
    width: int = 128
    split: str = "one-class"
    local_steps: int = 2
    rounds: int = 10
    fraction: float = 0.5
    samples: int = 40
    seed: int = 0


class MeanField(torch.nn.Module):
    r"""``m⁻¹ Σ_r a_r relu(w_r · x)``, first layer trained."""

    def __init__(self, inputs: int, width: int, seed: int) -> None:
        super().__init__()
        self.lazy = TwoLayerReLU(inputs, width, seed=seed)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs, ``(n, 1)``."""
        return self.lazy(x) / math.sqrt(len(self.lazy.head))


Found = Iterator[tuple[int, str, Any]]  # round, quantity, value


def measure(case: Case) -> Iterator[dict[str, Any]]:
    """Rows of one case: ``round``, ``quantity``, ``value``.

    Raises:
        ValueError: a part or network that there is not.
    """
    parts = {"width": _width, "accuracy": _accuracy, "flow": _flow}
    if case.part not in parts:
        raise ValueError(f"part must be one of {list(parts)}, got {case.part!r}.")
    for t, quantity, value in parts[case.part](case):
        yield {"round": t, "quantity": quantity, "value": float(value)}


def _width(case: Case) -> Found:
    """Kernel, linearisation, local models and residuals along one run."""
    split = partition(binary("train", case.samples), case.split, clients=CLIENTS)
    data, test = split.dataset, binary("test", None)
    model, step_size = network(case, split)
    theta = nf.gram_matrix(nf.gram(model, data.x, outputs="full"))
    with torch.no_grad():
        first = model(data.x) - data.y
    yield 0, "kernel share of the first layer", first_share(model, data.x, theta)
    end, k = case.rounds, case.local_steps
    gap = nf.observers.linearisation_gap(model, split, every=1, test=test.x)
    run = {"local_steps": k, "step_size": step_size}
    history = nf.simulate(
        model, split, rounds=end, observers=[gap, local_distance], **run
    )
    recorded: Any = history.rows[history.rows["round"] > 0]
    for row in recorded.itertuples():
        if row.quantity != "diverged":
            yield int(row.round), row.quantity, row.value
    last = _ending(history, model, data.x) - data.y
    yield end, "diverged", lost(first, last, last + data.y)
    now = theta * math.nan
    if last.isfinite().all():
        full = nf.gram(model, data.x, params=history.params, outputs="full")
        now = nf.gram_matrix(full)
    yield end, "kernel change (Frobenius)", (now - theta).norm() / theta.norm()
    predicted = nf.federated_kernel(theta, split, **run).predict(first, end)[-1]
    central = centralised(theta, split, first, step_size, end * k)
    size = first.norm()
    yield end, "residual norm", last.norm() / size
    yield end, "distance from federated kernel", (last - predicted).norm() / size
    yield end, "distance from centralised descent", (last - central).norm() / size


def _accuracy(case: Case) -> Found:
    """Test accuracy of the averaged model, NaN if lost; width 0 is the limit."""
    whole = load("mnist", n=case.samples + TESTED, split="test", targets="one-hot")
    data, test = _rows(whole, 0, case.samples), _rows(whole, case.samples, len(whole))
    split = partition(data, case.split, clients=CLIENTS)
    if case.width == 0:
        theta = limits.relu_ntk(data.x, depth=1)
        cross = limits.relu_ntk(test.x, data.x, depth=1)
        federated = nf.federated_kernel(
            10 * theta, split, local_steps=case.local_steps,
            step_size=case.fraction * stable_step_size(theta, split),
            outputs_independent=True,
        )  # fmt: skip
        first = -test.y
        found = federated.predict_outputs(10 * cross, -data.y, case.rounds)[-1]
    else:
        model, step_size = network(case, split, outputs=10)
        history = nf.simulate(
            model, split, rounds=case.rounds, local_steps=case.local_steps,
            step_size=step_size,
        )  # fmt: skip
        with torch.no_grad():
            first = model(test.x) - test.y
        found = _ending(history, model, test.x)
    bad = lost(first, found - test.y, found)
    right = (found.argmax(dim=1) == test.labels).double().mean().item()
    yield case.rounds, "diverged", bad
    yield case.rounds, "test accuracy", math.nan if bad else right


def _flow(case: Case) -> Found:
    """Federated kernel against gradient flow and descent at the same time ``ηKt``."""
    split = partition(binary("train", case.samples), case.split, clients=CLIENTS)
    model, largest = network(dataclasses.replace(case, fraction=1.0), split)
    step_size, rounds = case.fraction * largest, round(case.rounds / case.fraction)
    data, k = split.dataset, case.local_steps
    theta = nf.gram_matrix(nf.gram(model, data.x, outputs="full"))
    with torch.no_grad():
        first = model(data.x) - data.y
    size = first.norm()
    federated = nf.federated_kernel(theta, split, local_steps=k, step_size=step_size)
    path = federated.predict(first, rounds)
    times = step_size * k * torch.arange(rounds + 1, dtype=torch.float64)
    flow = small_step(theta, split).predict(first, times)
    apart = (path - flow).flatten(1).norm(dim=1).max()
    yield rounds, "gap to gradient flow", apart / size
    central = centralised(theta, split, first, step_size, rounds * k)
    yield rounds, "gap to centralised descent", (path[-1] - central).norm() / size
    yield rounds, "step size times K", step_size * k
    if case.fraction == 1:
        worst = _linear_error(theta, split, first, path, k, step_size)
        yield rounds, "error of the federated kernel", worst


def binary(split: str, n: int | None) -> Dataset:
    """Digits 0 and 1 with targets ∓1, the first ``n`` of them in a drawn order."""
    data = load("digits", n=None, split=split)
    kept = (data.labels < 2).nonzero()[:, 0]
    order = torch.randperm(len(kept), generator=torch.Generator().manual_seed(0))
    kept = kept[order][: len(kept) if n is None else n]
    return Dataset(data.x[kept], data.labels[kept]).sign()


def network(
    case: Case, split: Partition, outputs: int = 1
) -> tuple[torch.nn.Module, float]:
    """The network and its step size, whose product with the kernel has a limit.

    ``standard`` and ``mean-field`` are not in units of the kernel's limit: their step
    sizes are divided, or multiplied, by the width.
    """
    x, m, seed = split.dataset.x, case.width, case.seed
    sizes = [x.shape[1], m, outputs]
    match case.network:
        case "ntk":
            model, theta, scale = MLP(sizes, seed=seed), limits.relu_ntk(x, depth=1), 1
        case "standard":
            model, scale = MLP(sizes, scaling="standard", seed=seed), 1 / m
            # Θ/m tends to the last layer's features, whose weights have variance 2/m
            # there and 1 in the limit of the outputs: the same kernel
            theta = limits.relu_nngp(x, depth=1)
        case "two-layer":
            model, scale = TwoLayerReLU(x.shape[1], m, seed=seed), 1
            theta = limits.two_layer_relu(x)
        case "mean-field":
            model, scale = MeanField(x.shape[1], m, seed), m
            theta = limits.two_layer_relu(x)
        case _:
            raise ValueError(f"network has no meaning: {case.network!r}.")
    return model, case.fraction * scale * stable_step_size(theta, split)


def lost(first: Tensor, last: Tensor, outputs: Tensor) -> bool:
    """Has a run diverged, blown up, or come to equal outputs for all samples?"""
    grown = (last.norm() / first.norm()).item()
    return not grown <= BLOWN_UP or bool((outputs == outputs[0]).all())


def first_share(model: torch.nn.Module, x: Tensor, theta: Tensor) -> float:
    """Trace of the first layer's kernel over that of the whole kernel."""
    layers = nf.gram(model, x, by_layer=True)
    first = next(iter(layers.values()))
    return first.trace().item() / theta.trace().item()


def local_distance(moment: Moment) -> list[Row]:
    """``Σ w_i ‖θ_i − θ̄‖`` before each averaging, in the network's own units."""
    if not isinstance(moment, Round):
        return []
    found = [moment.locals.client(i) for i in range(len(moment.clients))]
    middle = average(moment.start, found, moment.weights)
    value = sum(
        weight * math.sqrt(squared_norm(difference(own, middle)))
        for own, weight in zip(found, moment.weights.tolist(), strict=True)
    )
    return [Row(moment.index + 1, None, None, None, DISTANCE, value)]


def centralised(
    theta: Tensor, split: Partition, residual: Tensor, step_size: float, steps: int
) -> Tensor:
    """``(I − ηΘ/n)^steps r``: gradient descent on the pooled loss, linearised."""
    values, basis = torch.linalg.eigh(theta)
    shrink = (1 - step_size * values / len(split.dataset)) ** steps
    return basis @ (shrink[:, None] * (basis.T @ residual))


def _linear_error(
    theta: Tensor,
    split: Partition,
    first: Tensor,
    path: Tensor,
    local_steps: int,
    step_size: float,
) -> float:
    """Largest distance of a simulated run of the linearised network from ``path``.

    Its features are the rows of a square root of the kernel, and its targets the
    residual at the start with the sign turned.
    """
    root = torch.linalg.cholesky(theta)
    line = Partition(Dataset(root, -first), split.indices)
    model = nf.models.Linear(len(root))
    worst = 0.0

    def watch(moment: Moment) -> list[Row]:
        nonlocal worst
        if isinstance(moment, Round):
            now = _outputs(model, moment.params, root) + first
            worst = max(worst, (now - path[moment.index + 1]).norm().item())
        return []

    history = nf.simulate(
        model, line, rounds=len(path) - 1, local_steps=local_steps,
        step_size=step_size, observers=[watch],
    )  # fmt: skip
    return worst / first.norm().item() if history.status == "finished" else math.nan


def _ending(history: nf.History, model: torch.nn.Module, x: Tensor) -> Tensor:
    """Outputs at the end of a run; NaN where parameters became non-finite."""
    found = _outputs(model, history.params, x)
    return found if history.status == "finished" else found * math.nan


def _outputs(model: torch.nn.Module, params: Params, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.func.functional_call(model, params, (x,))


def _rows(data: Dataset, first: int, last: int) -> Dataset:
    x, y, classes = data.x[first:last], data.y[first:last], data.labels[first:last]
    return Dataset(x, y, classes=classes)
