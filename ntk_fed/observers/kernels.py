"""The tangent kernel along the run, and the run against its prediction.

Floor 7.
"""

import dataclasses
import math
import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ntk_fed.data import Partition
from ntk_fed.errors import ShapeMismatchError
from ntk_fed.fedavg import Objective, Round
from ntk_fed.fedkernel import FederatedKernel
from ntk_fed.kernel import gram, gram_matrix
from ntk_fed.kernel.forming import forming_error
from ntk_fed.measured import Enclosure, ratio
from ntk_fed.observers.common import (
    Moment,
    Observer,
    due,
    global_models,
    observer,
    own_start,
)
from ntk_fed.params import Params, squared_norm
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

    Where nothing can be said of the rounding that formed the kernel, the ends are
    infinite.

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
            smallest = _off_by(error, smallest_eigenvalue, now, rtol=rtol)
            smallest = _proven_if(forming.proven, smallest)
            yield enclosed("smallest eigenvalue", smallest, round=t)
            change = now - zero
            # The difference rounds too, each entry by half an eps of itself.
            rounding = torch.finfo(now.dtype).eps * change.norm().item()
            unsure = error + forming0.bound + rounding if t else 0.0
            norm = _off_by(unsure, spectral_norm, change)
            norm = _proven_if(t == 0 or (forming.proven and forming0.proven), norm)
            yield enclosed("kernel displacement", norm, round=t)
            for name, value in (
                ("kernel change (Frobenius)", ratio(change.norm().item(), frobenius)),
                ("kernel change (spectral)", ratio(norm.value, spectral)),
            ):
                yield Row(t, None, None, None, name, value)

    return observe


def _off_by(
    error: float, function: Callable[..., Enclosure], matrix: Tensor, **options: float
) -> Enclosure:
    """An eigenvalue of a matrix that may be off by so much, which may be infinite."""
    if math.isfinite(error):
        return function(matrix, forming_error=error, **options)
    found = function(matrix, **options)
    return Enclosure(found.value, -math.inf, math.inf, method="forming error unknown")


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

    The last has ends (an estimate) by what rounding leaves of a residual in the dtype
    of network and data: its lower end is 0 from where the residual is no more than
    that, and no number of a converged run contradicts the rate.

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
    rounding = _rounding_of_residuals(kernel, start, data.x, data.y)

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
            off0 = rounding(0, start, path[0])
            off = rounding(t, moment.params, after)
            found = _over_bound(t, kernel, (first_p, off0), (norm, off))
            yield enclosed("P-norm over its bound", found, round=t)

    return observe


def _rounding_of_residuals(
    kernel: FederatedKernel, start: Params, x: Tensor, y: Tensor
) -> Callable[[int, Params, Tensor], float]:
    r"""What rounding may leave of ``‖P^½ r_t‖``; an estimate.

    .. math:: (t + 2 N)\,\epsilon\,\sqrt{\lambda_{\max}(P)}\,
        (\|r_t\| + 2 \|y\| + \sqrt{\mathrm{tr}\,\Theta}\,\|\theta_t\|)

    with ε of the coarsest of network and data: outputs round by ε of themselves, and
    parameters by ε of themselves in each round.
    """
    held = [*start.values(), x, y]
    eps = max(torch.finfo(v.dtype).eps for v in held if v.is_floating_point())
    top = max((c.values.max().item() for c in kernel.clients), default=0.0)
    size = 2 * y.double().norm().item()
    slope = math.sqrt(kernel.gram.trace().item())

    def rounding(t: int, params: Params, residual: Tensor) -> float:
        norm, moved = residual.double().norm().item(), squared_norm(params) ** 0.5
        count = t + 2 * len(kernel.gram)
        return count * eps * math.sqrt(top) * (norm + size + slope * moved)

    return rounding


def _over_bound(
    t: int,
    kernel: FederatedKernel,
    first: tuple[float, float],
    last: tuple[float, float],
) -> Enclosure:
    """``‖P^½ r_t‖ / (ρ^t ‖P^½ r_0‖)`` from both norms, each with what it is off by.

    By logarithms: ``ρ^t`` may underflow. Nothing is known where a norm is not finite.
    """
    if not all(map(math.isfinite, (*first, *last))):
        return Enclosure(math.nan, 0.0, math.inf, method="out of range")
    rate, off = kernel.rate, kernel.server_step_size * kernel.resolution

    def over(top: float, bottom: float, rate: float, sign: int) -> float:
        if top <= 0:
            return 0.0
        if bottom <= 0 or rate <= 0:
            return math.inf
        parts = math.log(top), -math.log(bottom), -t * math.log(rate)
        slack = 4 * sys.float_info.epsilon * (1 + sum(map(abs, parts)))
        try:
            return math.exp(sum(parts) + sign * slack)
        except OverflowError:
            return math.inf

    value = over(last[0], first[0], rate, 0)
    lower = over(last[0] - last[1], sum(first), rate + off, -1)
    upper = over(sum(last), first[0] - first[1], rate - off, 1)
    lower = min(lower, sys.float_info.max)  # beyond the floats: at least their largest
    return Enclosure(value, lower, upper, method="rounding of residuals")
