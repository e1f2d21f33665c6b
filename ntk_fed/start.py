"""What is measured of a network and a split before the first round.

Floor 7.
"""

import dataclasses

import torch
from torch import Tensor

from ntk_fed import limits
from ntk_fed.data import Partition
from ntk_fed.fedavg import Objective
from ntk_fed.fedavg.losses import check_targets
from ntk_fed.fedkernel import FederatedKernel, federated_kernel
from ntk_fed.kernel import gram, gram_matrix
from ntk_fed.kernel.forming import forming_error
from ntk_fed.measured import Enclosure
from ntk_fed.models import TwoLayerReLU
from ntk_fed.params import trainable
from ntk_fed.spectrum import smallest_eigenvalue, spectral_norm


@dataclasses.dataclass(frozen=True, eq=False)
class Start:
    """What the checks measure before the first round.

    Attributes:
        gram: kernel matrix ``(n·o, n·o)``.
        residual: ``f − y``, ``(n, o)``.
        smallest: smallest eigenvalue of the kernel.
        federated: the federated tangent kernel.
        step_size: the one given, or the stable one.
        lambda0: smallest eigenvalue of the infinite-width kernel, for networks that
            have one here.
        distance: spectral distance of the kernel from it.
    """

    gram: Tensor
    residual: Tensor
    smallest: Enclosure
    federated: FederatedKernel
    step_size: float
    lambda0: Enclosure | None
    distance: Enclosure | None


def measure(
    model: torch.nn.Module,
    partition: Partition,
    *,
    local_steps: int,
    step_size: float | None,
    weights: str = "samples",
    server_step_size: float = 1.0,
    rtol: float = 1e-3,
    progress: bool = False,
) -> Start:
    """The kernel at the model's parameters, its ends, and the federated kernel.

    Args:
        model: network returning ``(n, o)``.
        partition: targets of the shape of the outputs.
        local_steps: ``K``.
        step_size: ``None`` takes :func:`stable_step_size`.
        weights: ``"samples"`` or ``"uniform"``.
        server_step_size: ``η_g``.
        rtol: relative width asked of enclosures.
        progress: show a progress bar while the kernel is formed.
    """
    data = partition.dataset
    full = gram(model, data.x, outputs="full", engine="layerwise", progress=progress)
    theta, own = gram_matrix(full), trainable(model)
    forming = forming_error(model, own, data.x, theta)
    error = forming.bound
    outputs = Objective.of(model).outputs(own, data.x)
    check_targets("squared", outputs, data.y)
    residual = outputs - data.y
    lambda0 = distance = None
    if isinstance(model, TwoLayerReLU) and data.x.ndim == 2:
        limit = limits.two_layer_relu(data.x)
        slack = _limit_rounding(data.x)
        lambda0 = smallest_eigenvalue(limit, rtol=rtol, forming_error=slack)
        distance = spectral_norm(theta - limit, forming_error=error + slack)
        lambda0 = _estimated(lambda0, "the limit kernel")
        distance = _estimated(distance, "the limit kernel")
    chosen = stable_step_size(theta, partition) if step_size is None else step_size
    smallest = smallest_eigenvalue(theta, rtol=rtol, forming_error=error)
    return Start(
        theta,
        residual,
        smallest
        if forming.proven
        else _estimated(smallest, "the network's two passes"),
        federated_kernel(
            theta,
            partition,
            local_steps=local_steps,
            step_size=chosen,
            weights=weights,
            server_step_size=server_step_size,
            forming_error=error,
        ),
        chosen,
        lambda0,
        distance,
    )


def _estimated(found: Enclosure, where: str) -> Enclosure:
    """An enclosure that holds a forming error which is estimated, not proven."""
    note = f"holds an estimate of the rounding of {where}"
    return dataclasses.replace(found, certified=False, note=note)


def _limit_rounding(x: Tensor) -> float:
    """Estimate of ``‖computed − exact‖₂`` of the limit kernel.

    Products and distances round by ``γ_d`` of the norms, what follows by a dozen more.
    """
    roundings = 4 * (x.shape[1] + 20) * torch.finfo(x.dtype).eps
    return roundings * x.square().sum().item()


def stable_step_size(gram: Tensor, partition: Partition) -> float:
    """``1 / max_i λ_max(Θ_ii)/n_i``: every client alone is stable, and monotone.

    Args:
        gram: kernel matrix ``(n·o, n·o)``.
        partition: who holds which samples.
    """
    o = len(gram) // len(partition.dataset)
    tops = []
    for own in partition.indices:
        if len(own):
            rows = (own[:, None] * o + torch.arange(o)).flatten().to(gram.device)
            top = torch.linalg.eigvalsh(gram[rows][:, rows])[-1].item()
            tops.append(top / len(own))
    if not tops or max(tops) <= 0:
        raise ValueError(
            "step_size cannot be derived: the kernel vanishes on every client. Give "
            "step_size, and look for dead units or zero inputs."
        )
    return 1 / max(tops)
