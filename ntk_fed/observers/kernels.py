"""The tangent kernel along the run, and the run against its prediction.

Floor 7.
"""

import dataclasses
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ntk_fed.data import Partition
from ntk_fed.errors import ShapeMismatchError
from ntk_fed.fedavg import Objective, Round
from ntk_fed.fedkernel import FederatedKernel
from ntk_fed.kernel import gram, gram_matrix
from ntk_fed.kernel.forming import forming_error
from ntk_fed.measured import Enclosure, estimate, ratio
from ntk_fed.observers.common import (
    Moment,
    Observer,
    due,
    global_models,
    observer,
    own_start,
)
from ntk_fed.params import Params
from ntk_fed.records import Row, enclosed
from ntk_fed.spectrum import (
    largest_eigenvalue,
    smallest_eigenvalue,
    spectral_norm,
)


@observer
def kernel(
    model: torch.nn.Module,
    partition: Partition,
    *,
    every: int = 1,
    rtol: float = 1e-3,
    reference: Tensor | None = None,
) -> Observer:
    """Kernel change and smallest eigenvalue of the tangent kernel along the run.

    Args:
        model: the network; its parameters now are the start of the run.
        partition: the kernel is that of all samples of its dataset.
        every: rounds between two measurements.
        rtol: relative width asked of the enclosure.
        reference: the kernel at the start if it is known already, as a matrix.

    Cost: one kernel, two extreme eigenvalues each time.
    """
    start, x = own_start(model), partition.dataset.x

    def at(params: Params) -> Tensor:
        found = gram(model, x, params=params, outputs="full", engine="layerwise")
        return gram_matrix(found)

    zero = at(start) if reference is None else reference
    if len(zero) % len(x):
        raise ShapeMismatchError(
            f"reference must be the kernel of {len(x)} samples, got "
            f"{tuple(zero.shape)}."
        )
    frobenius, spectral = zero.norm().item(), largest_eigenvalue(zero).value
    forming0 = forming_error(model, start, x, zero)

    def observe(moment: Moment) -> Iterator[Row]:
        for t, params in global_models(moment, every):
            now = zero if t == 0 else at(params)
            forming = forming_error(model, params, x, now)
            error = forming.bound
            smallest = smallest_eigenvalue(now, rtol=rtol, forming_error=error)
            smallest = _proven_if(forming.proven, smallest)
            yield enclosed("smallest eigenvalue", smallest, round=t)
            change = now - zero
            # The difference rounds too, each entry by half an eps of itself.
            rounding = torch.finfo(now.dtype).eps * change.norm().item()
            unsure = error + forming0.bound + rounding if t else 0.0
            norm = spectral_norm(change, forming_error=unsure)
            norm = _proven_if(t == 0 or (forming.proven and forming0.proven), norm)
            yield enclosed("kernel displacement", norm, round=t)
            for name, value in (
                ("kernel change (Frobenius)", ratio(change.norm().item(), frobenius)),
                ("kernel change (spectral)", ratio(norm.value, spectral)),
            ):
                yield Row(t, None, None, None, name, value)

    return observe


def _proven_if(proven: bool, found: Enclosure) -> Enclosure:
    """A bound that holds an estimate is an estimate."""
    return dataclasses.replace(found, certified=found.certified and proven)


@observer
def contraction(
    model: torch.nn.Module,
    partition: Partition,
    *,
    kernel: FederatedKernel,
    every: int = 1,
    loss: str = "squared",
) -> Observer:
    """Residuals of the run against the federated tangent kernel's prediction.

    Per round the contraction in the P-norm (to be compared with the rate) and in the
    Euclidean norm; the predicted residual norm; the distance of run and prediction
    relative to the residual at the start; the P-norm over ``ρ^t`` times its start.

    Cost: two forward passes, and one product of the kernel with a vector per round.
    """
    objective, data = Objective.of(model, loss), partition.dataset
    start = own_start(model)
    path = [objective.outputs(start, data.x) - data.y]  # predicted residuals
    latest = (start, path[0])  # one round's end is the next one's start

    def residual(params: Params) -> Tensor:
        nonlocal latest
        if params is not latest[0]:
            latest = (params, objective.outputs(params, data.x) - data.y)
        return latest[1]

    def predicted(t: int) -> Tensor:
        while len(path) <= t:
            path.append(kernel.predict(path[-1], 1)[1])
        return path[t]

    first = path[0].norm().item()
    first_p = kernel.norm(path[0]) if kernel.has_norm else math.nan
    eps = torch.finfo(torch.float64).eps

    def observe(moment: Moment) -> Iterator[Row]:
        if not isinstance(moment, Round) or not due(moment, every):
            return
        t = moment.index + 1
        before, after = residual(moment.start), residual(moment.params)
        values = {
            "contraction (Euclidean)": ratio(after.norm().item(), before.norm().item()),
            "predicted residual norm": predicted(t).norm().item(),
            "prediction error": ratio((after - predicted(t)).norm().item(), first),
        }
        if kernel.has_norm:
            norm = kernel.norm(after)
            values["contraction (P-norm)"] = ratio(norm, kernel.norm(before))
        for name, value in values.items():
            yield Row(t, None, None, None, name, value)
        if kernel.has_norm and first_p > 0 and kernel.rate > 0:
            # By logarithms: ρ^t may underflow. The rate is off by at most about
            # N·eps·λ_max, the norms by N·eps, and a run by eps in each step.
            exponent = -t * math.log(kernel.rate)
            value = norm / first_p * math.exp(exponent) if exponent < 700 else math.inf
            steps = (t + 2 * len(kernel.gram)) * eps
            off = value * (t * kernel.resolution / kernel.rate + steps)
            floor = steps * math.exp(min(exponent, 700))  # residuals round too
            found = estimate(value, off + floor if math.isfinite(value) else 0.0)
            yield enclosed("P-norm over its bound", found, round=t)

    return observe
