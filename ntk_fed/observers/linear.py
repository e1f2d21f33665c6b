"""How near a linear model is to what theory says it converges to.

Floor 7.
"""

import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from ntk_fed.data import Partition
from ntk_fed.errors import NonFiniteError, ShapeMismatchError
from ntk_fed.observers.common import Moment, Observer, global_models, observer
from ntk_fed.params import Params, complete, difference, squared_norm
from ntk_fed.records import Row
from ntk_fed.theory import collins2022, zhu2024


@observer
def distance(
    model: torch.nn.Module,
    partition: Partition,
    *,
    target: Mapping[str, Tensor],
    every: int = 1,
) -> Observer:
    """``‖θ_t − θ*‖`` of the global model; rows "distance to the target".

    Args:
        model: the network.
        partition: not read.
        target: θ*, by parameter; names left out are the model's own now.
        every: rounds between two measurements.
    """
    end = complete(model, target)

    def observe(moment: Moment) -> Iterator[Row]:
        for t, params in global_models(moment, every):
            found = math.sqrt(squared_norm(difference(params, end)))
            yield Row(t, None, None, None, "distance to the target", found)

    return observe


@observer
def direction(
    model: torch.nn.Module,
    partition: Partition,
    *,
    target: Mapping[str, Tensor],
    every: int = 1,
) -> Observer:
    """``1 − cos`` of the global model to a direction; rows "direction gap".

    From the difference of the unit vectors, without cancellation; NaN for a model of 0.

    Args:
        model: the network.
        partition: not read.
        target: the direction, by parameter; names left out are the model's own now.
        every: rounds between two measurements.
    """
    wanted = _flat(complete(model, target))
    if not (wanted.isfinite().all() and wanted.any()):
        raise ValueError("target must be finite and not 0: it is a direction.")

    def observe(moment: Moment) -> Iterator[Row]:
        for t, params in global_models(moment, every):
            gap = zhu2024.direction_gap(_flat(params), wanted)
            yield Row(t, None, None, None, "direction gap", float(gap))

    return observe


@observer
def subspace(
    model: torch.nn.Module,
    partition: Partition,
    *,
    truth: Tensor,
    every: int = 1,
) -> Observer:
    """``‖(I − B̂B̂ᵀ) B*‖₂`` of a shared representation; rows "subspace distance".

    NaN where the columns of B are dependent, as they get to be in a diverging run.

    Args:
        model: with a parameter ``representation``, ``(inputs, rank)``.
        partition: not read.
        truth: ``B*``, ``(inputs, rank of the truth)``; its columns are orthonormalised.
        every: rounds between two measurements.

    Source:
        Collins et al. (2022), arXiv:2205.13692.
    """
    own = complete(model, None).get("representation")
    if own is None or truth.ndim != 2 or len(truth) != len(own):
        shape = None if own is None else tuple(own.shape)
        raise ShapeMismatchError(
            "subspace is for a model with a parameter 'representation' (inputs, rank), "
            f"got {shape}, and a truth with as many rows, got {tuple(truth.shape)}."
        )
    wanted = collins2022.orthonormal(truth.double().cpu().numpy())

    def observe(moment: Moment) -> Iterator[Row]:
        for t, params in global_models(moment, every):
            found = params["representation"].double().cpu().numpy()
            value = _apart(found, wanted)
            yield Row(t, None, None, None, "subspace distance", value)

    return observe


def _apart(found: np.ndarray, wanted: np.ndarray) -> float:
    """Their distance; NaN where the columns found span no such space."""
    try:
        return float(collins2022.dist(found, wanted))
    except (NonFiniteError, ShapeMismatchError):
        raise
    except ValueError:  # dependent columns: those wanted are orthonormal
        return math.nan


def _flat(params: Params) -> Tensor:
    return torch.cat([value.double().flatten() for value in params.values()]).cpu()
