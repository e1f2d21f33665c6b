"""FedAvg by pfl (pfl-research), one process; only its own environment has it."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from fed_tools import Problem, network, squared
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByUser
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import MinimizeReuseUserSampler
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel


class Network(torch.nn.Module):
    """The network with the two methods pfl asks for."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.layers = network(problem.weights)

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return squared(self.layers(x), y)

    def metrics(self, x: torch.Tensor, y: torch.Tensor) -> dict:
        return {"loss": Weighted(self.loss(x, y).item() * len(x), len(x))}


class Client(PyTorchTensorDataset):
    """One client's data of one round: an epoch is its local steps."""

    def __init__(self, problem: Problem, round: int, client: int) -> None:
        super().__init__((problem.x[client], problem.y[client]), user_id=str(client))
        self._drawn = lambda: problem.samples(round, client)

    def iter(self, batch_size: int | None) -> Iterator:
        """The samples of every local step in turn."""
        return self._drawn()


class Clock(TrainingProcessCallback):
    """Notes the moment after each round, and the weights after the first."""

    def __init__(self) -> None:
        self.moments = [time.perf_counter()]
        self.after_one: list[np.ndarray] = []

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        self.moments.append(time.perf_counter())
        if not self.after_one:
            found = model.pytorch_model.parameters()
            self.after_one = [p.detach().numpy().copy() for p in found]
        return False, Metrics()


def run(file: Path, rounds: int, threads: int) -> tuple[list[float], list[np.ndarray]]:
    """Moments before the first round and after each; weights after one."""
    torch.set_num_threads(threads)
    asyncio.set_event_loop(asyncio.new_event_loop())  # pfl takes the current one
    problem = Problem.load(file)
    count = len(problem.x)
    served = iter(range(rounds * count))

    def dataset(client: int) -> Client:
        return Client(problem, next(served) // count, client)

    data = FederatedDataset(dataset, MinimizeReuseUserSampler(list(range(count))))
    backend = SimulatedBackend(data, data, postprocessors=[WeightByUser()])
    module = Network(problem)
    model = PyTorchModel(
        module, torch.optim.SGD, torch.optim.SGD(module.parameters(), lr=1.0)
    )
    clock = Clock()
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=rounds,
            evaluation_frequency=rounds,  # only in the first round, which is not timed
            train_cohort_size=count,
            val_cohort_size=0,
        ),
        backend,
        model,
        NNTrainHyperParams(
            local_batch_size=None,
            local_num_epochs=1,
            local_learning_rate=problem.step_size,
        ),
        NNEvalHyperParams(local_batch_size=None),
        [clock],
        send_metrics_to_platform=False,
    )
    return clock.moments, clock.after_one


def close() -> None:
    """Nothing stays up."""
