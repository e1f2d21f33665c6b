"""The lazy regime: linear convergence by the federated tangent kernel.

Floor 7.
"""

import dataclasses
import math

import torch

from ntk_fed.checks.deep import relu_widths
from ntk_fed.checks.rounding import rounded
from ntk_fed.checks.subject import Subject
from ntk_fed.measured import Enclosure, estimate, exact
from ntk_fed.models import MLP, TwoLayerReLU
from ntk_fed.theory import TheoremCheck, jian2025, lazy


def linear_convergence(subject: Subject) -> TheoremCheck:
    """Does the linearised network converge linearly, and did the network follow?"""
    kernel = subject.start.federated
    # Forming P^½ΘP^½ rounds by about N·eps of its norm: an estimate, and said so.
    values = _owned(kernel.eigenvalues, subject)
    top, bottom = values[-1].item(), values[0].item()
    slack = kernel.resolution
    worst = subject.largest("P-norm over its bound")
    gap = None
    if (found := subject.along("prediction error")) is not None:
        gap = max(found["value"].dropna().tolist(), default=None)
    if subject.diverged:
        worst, gap = exact(math.inf), math.inf
    return lazy.check(
        smallest=Enclosure(bottom, bottom - slack, bottom + slack, method="eigvalsh"),
        largest=Enclosure(top, top - slack, top + slack, method="eigvalsh"),
        server_step_size=subject.server_step_size,
        rate=estimate(kernel.rate, subject.server_step_size * slack, "eigvalsh"),
        is_local_descent=subject.is_local_descent,
        definite=kernel.has_norm and math.isfinite(kernel.condition),
        worst_ratio=worst,
        prediction_error=gap,
    )


def _owned(eigenvalues: torch.Tensor, subject: Subject) -> torch.Tensor:
    """Without the zeros of samples that no client holds, ascending.

    P vanishes on those, so that ``P^½ΘP^½`` has as many zeros more than on the others.
    """
    n, o = subject.start.residual.shape
    unowned = o * (n - sum(subject.partition.sizes))
    kept = eigenvalues[eigenvalues.abs().argsort()[unowned:]]
    return kept.sort().values if len(kept) else eigenvalues


def wide_limit(subject: Subject) -> TheoremCheck:
    """Jian and Liu (2025): clients stay together in wide networks."""
    start, widths = subject.start, _widths(subject.model)
    found = jian2025.Measurements(
        n=len(subject.x),
        width=min(widths, default=None),
        factors_inside=_factors_inside(subject.model),
        local_steps=subject.local_steps,
        step_size=subject.step_size,
        is_fedavg=subject.plain and subject.loss == "squared",
        inputs_bounded=bool(
            subject.x.flatten(1).norm(dim=1).max()
            <= 1 + torch.finfo(subject.x.dtype).eps
        ),
        smallest=start.smallest,
        residual=rounded(start.residual.norm().item(), subject.eps),
        kernel_change=subject.largest("kernel change (Frobenius)"),
        linearisation_gap=subject.largest("linearisation gap"),
    )
    changes: dict[str, Enclosure] = {}
    if widths:
        # Met at the start; elsewhere, and along segments, it may be larger.
        c = jian2025.jacobian_constant(
            math.sqrt(start.gram.trace().item()),
            0.0,
            min(widths),
            factors_inside=found.factors_inside,
        )
        changes["lipschitz"] = Enclosure(c, c * (1 - 1e-12), math.inf, method="met")
    if (apart := subject.largest("consensus error")) is not None:
        # Σ w_i d_i is at most the root of Σ w_i d_i².
        root = math.sqrt(apart.upper)
        changes["distance"] = Enclosure(
            root, 0.0, root, method="Jensen", note=apart.note
        )
    if subject.diverged:
        changes["distance"] = exact(math.inf)
    return jian2025.check(dataclasses.replace(found, **changes))


def _widths(model: torch.nn.Module) -> list[int]:
    if isinstance(model, TwoLayerReLU):
        return [len(model.weight)]
    return relu_widths(model)


def _factors_inside(model: torch.nn.Module) -> bool:
    """Does the network divide by the root of its widths, as the theory's do?"""
    scaled = isinstance(model, MLP) and model.scaling == "ntk"
    return isinstance(model, TwoLayerReLU) or scaled
