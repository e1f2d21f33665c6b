"""From a specification to data, split, network and observers.

Floor 8.
"""

import importlib.util
from pathlib import Path
from typing import Any

import torch

from ntk_fed import data, models, observers
from ntk_fed.checks.deep import relu_widths
from ntk_fed.data import Partition
from ntk_fed.errors import NoGatesError, UnknownNameError
from ntk_fed.models import TwoLayerReLU
from ntk_fed.names import nearest
from ntk_fed.observers import Observer
from ntk_fed.params import call, trainable
from ntk_fed.start import Start
from ntk_fed.studies.spec import RunSpec

_POINTS = 2  # of each segment on which smoothness is looked at


def partition_of(spec: RunSpec) -> Partition:
    """The data set of a run, split over its clients."""
    dataset = data.load(
        spec.data,
        n=spec.samples,
        targets=spec.targets,
        seed=spec.data_seed,
        root=spec.data_root,
        dtype=getattr(torch, spec.dtype),
    )
    return data.partition(
        dataset,
        spec.partition,
        clients=spec.clients,
        alpha=spec.alpha,
        shards_per_client=spec.shards_per_client,
        seed=spec.data_seed,
    )


def model_of(spec: RunSpec, partition: Partition) -> torch.nn.Module:
    """The network of a run, with its initial weights."""
    inputs, outputs = partition.dataset.x[0].numel(), partition.dataset.y.shape[1]
    dtype = getattr(torch, spec.dtype)
    match spec.model:
        case "two-layer":
            if outputs != 1:
                raise ValueError(
                    f"model 'two-layer' has one output, the targets have {outputs}. "
                    "Use targets='sign', or model='mlp'."
                )
            return TwoLayerReLU(inputs, spec.width, seed=spec.seed, dtype=dtype)
        case "mlp":
            sizes = [inputs, *[spec.width] * spec.depth, outputs]
            return models.MLP(sizes, seed=spec.seed, dtype=dtype)
        case _:
            return _own_model(spec, partition)


def _own_model(spec: RunSpec, partition: Partition) -> torch.nn.Module:
    data = partition.dataset
    inputs, outputs = data.x[0].numel(), data.y.shape[1]
    path, _, name = spec.model.rpartition(":")
    if not Path(path).is_file():
        raise UnknownNameError(
            f"model: there is no file {path!r}. Expected path/to/file.py:factory."
        )
    found = importlib.util.spec_from_file_location("ntk_fed_users_model", path)
    if found is None or found.loader is None:
        raise UnknownNameError(f"model: {path!r} is no Python file.")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    factory = getattr(module, name, None)
    if not callable(factory):
        known = [key for key, value in vars(module).items() if callable(value)]
        raise UnknownNameError(
            f"model: {path!r} has no function {name!r}.{nearest(name, known)}"
        )
    arguments = {
        "inputs": inputs,
        "outputs": outputs,
        "width": spec.width,
        "seed": spec.seed,
    }
    try:
        model = factory(**arguments)
    except Exception as error:
        raise ValueError(
            f"model: {name}(**{arguments}) in {path!r} raised "
            f"{type(error).__name__}: {error}. It must take these four names."
        ) from error
    if not isinstance(model, torch.nn.Module):
        raise ValueError(
            f"model: {name} returned {type(model).__name__}, expected a "
            "torch.nn.Module."
        )
    model = model.to(getattr(torch, spec.dtype))
    x = partition.dataset.x[:1]
    try:
        call(model, trainable(model), x)
    except RuntimeError as error:
        raise ValueError(
            f"model: the network of {name} in {path!r} rejects inputs of shape "
            f"{(len(partition.dataset), *x.shape[1:])}: {error}."
        ) from error
    return model


def observers_of(
    spec: RunSpec, model: torch.nn.Module, partition: Partition, start: Start
) -> list[Observer]:
    """Everything there is to watch, as often as the specification allows."""
    costly: dict[str, Any] = {"every": spec.every}
    weighted: dict[str, Any] = {"weights": spec.weights}
    found = [
        observers.loss(model, partition, **weighted),
        observers.consensus_error(model, partition, **costly),
        observers.gradient_drift(model, partition, **costly),
        observers.gradient_dissimilarity(model, partition, **costly, **weighted),
        observers.pl_constant(model, partition, **costly, **weighted),
        observers.displacement(model, partition, **costly),
        observers.contraction(model, partition, kernel=start.federated),
        observers.kernel(
            model,
            partition,
            every=spec.kernel_every,
            reference=start.gram,
        ),
        observers.linearisation_gap(model, partition, every=spec.kernel_every),
    ]
    if isinstance(model, TwoLayerReLU):  # the theorem of the asymmetric kernel
        rare: dict[str, Any] = {"every": spec.kernel_every}
        found.append(observers.kernel_asymmetry(model, partition, **rare))
    if (often := spec.smoothness_every) is not None:
        found += [
            observers.smoothness(model, partition, every=often, points=_POINTS),
            observers.local_sgd(
                model,
                partition,
                local_steps=spec.local_steps,
                every=often,
                **weighted,
            ),
        ]
    if relu_widths(model):  # the fit of semi-gradient-Lipschitzness
        found.append(observers.semi_lipschitz(model, partition, **costly))
    try:
        found.append(observers.flips(model, partition, **costly))
    except NoGatesError:
        pass  # a smooth network has no gates to flip
    return found
