"""One run of analysis 20 beside what the federated tangent kernel says of it."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import ntk_fed as nf
from ntk_fed import observers
from ntk_fed.records import Row
from ntk_fed.start import Start
from ntk_fed.start import measure as measure_start

DATA_SEED = 0
LOCAL_STEPS = (1, 2, 5, 10, 20, 40)  # compared under one budget of time
SERVER_STEP_SIZES = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
OVER_LIMIT = (0.8, 0.95, 1.05, 1.3)  # times the largest stable server step size
EARLY = 2  # rounds after which a quantity may announce what comes
MESSAGE = 10  # gradient evaluations a round of communication costs as much as
_SIZES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32), "digits": (1, 8, 8)}
WATCHED = {
    "flips since start": "flips",
    "kernel change (Frobenius)": "kernel change",
    "laziness": "laziness",
    "linearisation gap": "linearisation gap",
    "prediction error": "prediction error",
}


NORMS = (
    *("residual norm", "predicted residual norm", "test error", "test movement"),
    *("test accuracy", "predicted test accuracy", "centralised error"),
)


@dataclasses.dataclass(frozen=True)
class Case:
    """One run, or one comparison of runs.

    Attributes:
        part: trajectory (one run against its prediction), local steps (runs that differ
            in K, one budget), server step (runs that differ in the server step size).
        network: mlp (ReLU, NTK parametrisation) or lenet (ReLU).
        data: mnist, cifar10 or digits; an mlp takes flat images.
        width: hidden units of the mlp, channels of the first convolution of the LeNet.
        depth: hidden layers of the mlp.
        outputs: 1 (sign targets) or 10 (one-hot).
        samples: training samples, over all clients.
        tests: test samples.
        clients: how many.
        split: of ``data.partition``.
        local_steps: K, of trajectory and server step.
        step: local step size over the largest that is monotone for every client.
        rounds: of trajectory and server step.
        budget: of local steps: gradient evaluations, messages included.
        seed: of the initial weights.
    """

    part: str = "trajectory"
    network: str = "mlp"
    data: str = "mnist"
    width: int = 256
    depth: int = 2
    outputs: int = 1
    samples: int = 60
    tests: int = 200
    clients: int = 6
    split: str = "iid"
    local_steps: int = 5
    step: float = 1.0
    rounds: int = 30
    budget: int = 300
    seed: int = 0


def measure(case: Case) -> Iterator[dict[str, Any]]:
    """Rows with ``quantity``, ``value`` and what else tells them apart."""
    split, tests = _data(case)
    model = _model(case)
    match case.part:
        case "trajectory":
            yield from _trajectory(case, model, split, tests)
        case "local steps":
            yield from _local_steps(case, model, split)
        case "server step":
            yield from _server_steps(case, model, split)
        case _:
            raise ValueError(f"part is unknown: {case.part!r}.")


def _data(case: Case) -> tuple[nf.data.Partition, nf.data.Dataset]:
    """The training split and the test samples: one draw, cut in two."""
    count = case.samples + case.tests
    own = nf.data.load(case.data, n=count, seed=DATA_SEED)
    assert own.labels is not None  # those three have classes
    images = own.x.reshape(count, -1)
    images = images * images.shape[1] ** 0.5  # pixels of mean square 1
    if case.network == "lenet":
        images = images.reshape(count, -1, *_SIZES[case.data][1:])
    train, tests = (
        nf.data.Dataset(images[part], own.labels[part], class_count=own.class_count)
        for part in (slice(case.samples), slice(case.samples, None))
    )
    if case.outputs == 1:
        train, tests = train.sign(), tests.sign()
    else:
        train, tests = train.one_hot(), tests.one_hot()
    split = nf.data.partition(
        train, case.split, clients=case.clients, shards_per_client=1, seed=DATA_SEED
    )
    return split, tests


def _model(case: Case) -> torch.nn.Module:
    channels, side, _ = _SIZES[case.data]
    if case.network == "lenet":
        return nf.models.LeNet(
            case.width / 6,  # 6 channels at scale 1
            channels=channels,
            size=side,
            outputs=case.outputs,
            seed=case.seed,
        )
    sizes = [channels * side**2, *[case.width] * case.depth, case.outputs]
    return nf.models.MLP(sizes, seed=case.seed)


def _start(
    case: Case, model: torch.nn.Module, split: nf.data.Partition, **more: Any
) -> Start:
    """The kernel at the start, at ``case.step`` times the monotone step size."""
    options = {"local_steps": case.local_steps, "server_step_size": 1.0} | more
    found = measure_start(model, split, step_size=None, **options)
    if case.step == 1:
        return found
    size = case.step * found.step_size
    kernel = nf.federated_kernel(found.gram, split, step_size=size, **options)
    return dataclasses.replace(found, federated=kernel, step_size=size)


def _run(
    case: Case, model: torch.nn.Module, split: nf.data.Partition, **options: Any
) -> nf.History:
    own: dict[str, Any] = {"rounds": case.rounds, "local_steps": case.local_steps}
    return nf.simulate(model, split, **(own | options))


def _trajectory(
    case: Case,
    model: torch.nn.Module,
    split: nf.data.Partition,
    tests: nf.data.Dataset,
) -> Iterator[dict[str, Any]]:
    start = _start(case, model, split)
    kernel = start.federated
    costly = [
        observers.flips(model, split),
        observers.displacement(model, split),
        observers.linearisation_gap(model, split),
        observers.kernel(model, split, reference=start.gram),
    ]
    watch = [
        observers.contraction(model, split, kernel=kernel),
        _outputs(case, model, start, split, tests),
        *(_at_rounds(_looks(case), one) for one in costly),
    ]
    history = _run(case, model, split, step_size=start.step_size, observers=watch)
    found: Any = history.rows
    own = found[found["client"].isna() & found["layer"].isna() & found["step"].isna()]
    for row in own[own["quantity"].isin([*WATCHED, *NORMS])].to_dict("records"):
        name = WATCHED.get(row["quantity"], row["quantity"])
        yield {"quantity": name, "round": row["round"], "value": row["value"]}
    first = start.residual.norm().item()
    fixed = {
        "diverged": float(history.status == "diverged"),
        "residual norm": first,
        "predicted residual norm": first,
        "rate": kernel.rate,
        "smallest eigenvalue": start.smallest.value,
        "step size": start.step_size,
    }
    for name, value in fixed.items():
        yield {"quantity": name, "round": 0, "value": value}


def _looks(case: Case) -> set[int]:
    """Rounds after which what is costly is looked at: an early one, and thirds."""
    return {EARLY, *(case.rounds * k // 3 for k in (1, 2, 3))}


def _at_rounds(rounds: set[int], watch: observers.Observer) -> observers.Observer:
    """The same observer, asked after these rounds only."""

    def observe(moment: Any) -> Any:
        asked = isinstance(moment, nf.fedavg.Round) and moment.index + 1 in rounds
        return watch(moment) if asked else ()

    return observe


def _outputs(
    case: Case,
    model: torch.nn.Module,
    start: Start,
    split: nf.data.Partition,
    tests: nf.data.Dataset,
) -> observers.Observer:
    """Outputs on training and test samples after each round, against the kernel's."""
    train = split.dataset
    cross = nf.gram_matrix(nf.gram(model, tests.x, train.x, outputs="full"))
    told = start.federated.predict_outputs(cross, start.residual, case.rounds)
    central = _centralised(case, start, split)
    size = start.residual.norm().item()
    params = {k: v.detach() for k, v in model.named_parameters()}
    first = _at(model, params, tests.x)

    def observe(moment: Any) -> Iterator[Row]:
        if not isinstance(moment, nf.fedavg.Round):
            return
        t, now = moment.index + 1, moment.params
        outputs, wanted = _at(model, now, tests.x), first + told[t]
        residual = _at(model, now, train.x) - train.y
        values = {
            "residual norm": residual.norm().item(),
            "centralised error": (residual - central[t]).norm().item() / size,
            "test error": (outputs - wanted).norm().item(),
            "test movement": told[t].norm().item(),
            "test accuracy": _accuracy(outputs, tests.y),
            "predicted test accuracy": _accuracy(wanted, tests.y),
        }
        for name, value in values.items():
            yield Row(t, None, None, None, name, value)

    return observe


def _centralised(case: Case, start: Start, split: nf.data.Partition) -> Tensor:
    """What one client with all data would do in as many local steps: a wrong kernel."""
    pooled = nf.data.Partition(split.dataset, [torch.arange(case.samples)])
    kernel = nf.federated_kernel(
        start.gram, pooled, local_steps=case.local_steps, step_size=start.step_size
    )
    return kernel.predict(start.residual, case.rounds)


def _at(model: torch.nn.Module, params: dict[str, Tensor], x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.func.functional_call(model, params, (x,))


def _accuracy(outputs: Tensor, targets: Tensor) -> float:
    if targets.shape[1] == 1:
        return (outputs.sign() == targets.sign()).double().mean().item()
    return (outputs.argmax(1) == targets.argmax(1)).double().mean().item()


def _local_steps(
    case: Case, model: torch.nn.Module, split: nf.data.Partition
) -> Iterator[dict[str, Any]]:
    """The loss at the end of one budget, run and predicted, for every K."""
    start = _start(case, model, split)
    for local_steps in LOCAL_STEPS:
        rounds = case.budget // (local_steps + MESSAGE)
        kernel = nf.federated_kernel(
            start.gram, split, local_steps=local_steps, step_size=start.step_size
        )
        told = kernel.predict(start.residual, rounds)[-1]
        options: dict[str, Any] = {"rounds": rounds, "local_steps": local_steps}
        loss = _loss_after(case, model, split, step_size=start.step_size, **options)
        yield from _pair(case, "local steps tried", local_steps, told, loss)


def _server_steps(
    case: Case, model: torch.nn.Module, split: nf.data.Partition
) -> Iterator[dict[str, Any]]:
    """The loss after the last round for server step sizes, and where it diverges."""
    start = _start(case, model, split)
    limit = 2 / start.federated.eigenvalues[-1].item()
    best = start.federated.best_server_step_size
    yield {"quantity": "largest stable server step size", "value": limit}
    yield {"quantity": "best server step size by the rate", "value": best}
    tried = [("server step tried", size) for size in SERVER_STEP_SIZES if size < limit]
    tried += [("over the limit", part) for part in OVER_LIMIT]
    for name, value in tried:
        size = value if name == "server step tried" else value * limit
        kernel = dataclasses.replace(start.federated, server_step_size=size)
        told = kernel.predict(start.residual, case.rounds)[-1]
        options = {"step_size": start.step_size, "server_step_size": size}
        loss = _loss_after(case, model, split, **options)
        yield from _pair(case, name, value, told, loss)


def _loss_after(
    case: Case, model: torch.nn.Module, split: nf.data.Partition, **options: Any
) -> float:
    """Mean-form loss after the last round; infinite if the run diverged."""
    found = _run(case, model, split, observers=[], **options)
    if found.status == "diverged":
        return math.inf
    data = split.dataset
    residual = _at(model, found.params, data.x) - data.y
    return residual.square().sum().item() / (2 * len(data))


def _pair(
    case: Case, name: str, value: float, told: Tensor, loss: float
) -> Iterator[dict[str, Any]]:
    predicted = told.square().sum().item() / (2 * case.samples)
    for quantity, found in (("loss", loss), ("predicted loss", predicted)):
        yield {"quantity": quantity, "of": name, "tried": value, "value": found}
