"""FedAvg by Flower's simulation; only its own environment can import this.

One simulation stays up for all cells with the same number of clients, so that only the
first waits for its processes. Those import this module too.
"""

import functools
import os
import queue
import sys
import threading
import time
from pathlib import Path

os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}

import numpy as np
import torch
from fed_tools import Problem, descend, network
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

client = ClientApp()


@functools.lru_cache(maxsize=1)
def problem(file: str) -> Problem:
    """Read once in each process."""
    torch.set_num_threads(1)  # one core for a client, as its resources say
    return Problem.load(file)


@client.train()
def train(message: Message, context: Context) -> Message:
    """The local steps of one client."""
    config = message.content["config"]
    given = problem(config["file"])
    model = network(given.weights)
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    who = int(context.node_config["partition-id"])
    round = int(config["server-round"]) - 1
    descend(model, given.samples(round, who), given.step_size)
    reply = {
        "arrays": ArrayRecord(model.state_dict()),
        "metrics": MetricRecord({"num-examples": given.x.shape[1]}),
    }
    return Message(RecordDict(reply), reply_to=message)


class Simulation:
    """A simulation with so many clients, whose server waits for files of problems."""

    def __init__(self, clients: int, threads: int) -> None:
        self.clients = clients
        self.asked: queue.Queue = queue.Queue()
        self.answers: queue.Queue = queue.Queue()
        self.thread = threading.Thread(target=self._run, args=(threads,), daemon=True)
        self.thread.start()

    def _run(self, threads: int) -> None:
        server = ServerApp()

        @server.main()
        def main(grid: Grid, context: Context) -> None:
            for file, rounds in iter(self.asked.get, None):
                self.answers.put(rounds_of(grid, file, rounds))

        try:
            run_simulation(
                server,
                client,
                num_supernodes=self.clients,
                backend_config={
                    "init_args": {"num_cpus": threads},
                    "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
                },
            )
        except Exception as error:  # whoever waits for an answer gets the reason
            self.answers.put(error)

    def ask(self, file: Path, rounds: int) -> tuple[list[float], list[np.ndarray]]:
        """See :func:`run`."""
        self.asked.put((str(file), rounds))
        found = self.answers.get()
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        """End it and its processes."""
        self.asked.put(None)
        self.thread.join()


def rounds_of(
    grid: Grid, file: str, rounds: int
) -> tuple[list[float], list[np.ndarray]]:
    """Flower's own strategy; it calls ``note`` before round 1 and after each."""
    moments: list[float] = []
    after_one: list[np.ndarray] = []

    def note(server_round: int, arrays: ArrayRecord) -> None:
        moments.append(time.perf_counter())
        if server_round == 1:
            after_one.extend(a.numpy() for a in arrays.to_torch_state_dict().values())

    FedAvg(fraction_evaluate=0.0).start(
        grid,
        ArrayRecord(network(Problem.load(file).weights).state_dict()),
        num_rounds=rounds,
        train_config=ConfigRecord({"file": file}),
        evaluate_fn=note,
    )
    return moments, after_one


_running: list[Simulation] = []


def run(file: Path, rounds: int, threads: int) -> tuple[list[float], list[np.ndarray]]:
    """Moments at the server before round 1 and after each; weights after one."""
    clients = len(Problem.load(file).x)
    if _running and _running[0].clients != clients:
        close()
    if not _running:
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # for the processes
        _running.append(Simulation(clients, threads))
    return _running[0].ask(file, rounds)


def close() -> None:
    """End the simulation."""
    if _running:
        _running.pop().close()
