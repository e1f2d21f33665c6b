"""How far a computed kernel is from the kernel meant.

Floor 4. Rounding is bounded rigorously for the two-layer ReLU kernel, the one that
allows it. For any other network what happens inside the forward and backward pass can
only be estimated.
"""

import dataclasses
import math

import torch
from jaxtyping import Float
from torch import Tensor

from ntk_fed import seeds
from ntk_fed.kernel import layerwise
from ntk_fed.kernel.contract import block
from ntk_fed.kernel.probe import probe
from ntk_fed.models import TwoLayerReLU
from ntk_fed.params import Params, cast, frozen_state

_SAMPLE = 64  # samples computed again in float64


@dataclasses.dataclass(frozen=True)
class FormingError:
    """How far a computed kernel matrix may be from the kernel meant.

    Attributes:
        bound: on the spectral norm of the difference, in the unit of the kernel;
            infinite where nothing can be said.
        proven: a bound for every rounding; otherwise an estimate.
        method: what it rests on.
    """

    bound: float
    proven: bool
    method: str


def forming_error(
    model: torch.nn.Module,
    params: Params,
    x: Tensor,
    gram: Float[Tensor, "N N"],
    *,
    state: Params | None = None,
    engine: str = "layerwise",
) -> FormingError:
    r"""Spectral norm of what a kernel matrix may be off by.

    Proven for the two-layer network. Otherwise an estimate. In float32 a sample of the
    matrix is computed again in float64: the difference there, as a part of the sample's
    norm, is taken for the whole matrix, four times over. In float64
    :math:`\gamma_p\,\mathrm{tr}` covers the contraction of the factors as stored, and
    the same again stands for the rounding of the passes inside them.

    Args:
        model: the network.
        params: its trainable parameters.
        x: inputs, ``(n, ...)``.
        gram: the kernel of ``x``, ``(n·o, n·o)``; the trace kernel has ``(n, n)``.
        state: frozen parameters and buffers; ``None`` takes the model's.
        engine: that computed ``gram``.

    Cost:
        For the two-layer network six products of the size of the kernel's own. In
        float32 one kernel of at most 64 samples in float64; else nothing.
    """
    if isinstance(model, TwoLayerReLU) and x.ndim == 2:
        bound = two_layer_forming_error(params["weight"], x, engine=engine)
        return FormingError(bound, True, "every rounding bounded, entry by entry")
    if gram.dtype == torch.float32:
        return _sampled(model, params, x, gram, state)
    p = sum(value.numel() for value in params.values())
    k, unit = p + 12, torch.finfo(gram.dtype).eps / 2
    bound = math.inf
    if k * unit < 0.5:
        bound = 2 * _gamma(k, unit) * gram.diagonal().sum().item()
    return FormingError(bound, False, "estimate: rounding of sums of p terms, twice")


def _sampled(
    model: torch.nn.Module,
    params: Params,
    x: Tensor,
    gram: Tensor,
    state: Params | None,
) -> FormingError:
    """From a sample of samples, computed again in float64."""
    n, rows = len(x), len(gram)
    o = rows // n  # 1 for the trace
    state = frozen_state(model) if state is None else state
    chosen = torch.randperm(n, generator=seeds.generator(0, "forming error"))[:_SAMPLE]
    chosen = chosen.to(x.device)
    twice = {name: value.double() for name, value in params.items()}
    rest = {name: cast(value, torch.float64) for name, value in state.items()}
    few = cast(x[chosen], torch.float64)
    loose = frozenset(probe(model, twice, rest, few).loose)
    found = layerwise.factors(model, twice, rest, few, loose=loose)
    kind = "trace" if o == 1 else "full"
    exact = block(found, found, kind, symmetric=True, by_layer=False)[""]
    where = (chosen[:, None] * o + torch.arange(o, device=x.device)).flatten()
    if o > 1:
        exact = exact.transpose(1, 2).reshape(len(where), len(where))
    difference = gram[where][:, where].double() - exact
    part = torch.linalg.matrix_norm(difference, 2) / torch.linalg.matrix_norm(exact, 2)
    whole = torch.linalg.matrix_norm(gram.double()).item()  # at least its spectral norm
    return FormingError(
        4 * part.item() * whole,
        False,
        f"estimate: {len(chosen)} of {n} samples computed again in float64, four times "
        "what differs",
    )


def two_layer_forming_error(
    weights: Float[Tensor, "m d"],
    x: Float[Tensor, "n d"],
    *,
    engine: str = "layerwise",
) -> float:
    r"""Bound on the spectral norm of (computed − exact) of the two-layer ReLU kernel.

    A gate is decided when :math:`|fl(w·x)| > \gamma_{d+1}/(1-\gamma_{d+1})\,
    fl(|w|·|x|)`. Entry by entry, :math:`|E_{ij}| \le (|x_i|·|x_j|)
    (\gamma\,\mathrm{count}_{ij} + \mathrm{undecided}_{ij}) / m` with
    :math:`\gamma = \gamma_{m+d+12}`, which covers every order of summation of the
    layerwise engine (the other sums ``m·d`` terms, :math:`\gamma_{md+12}`); the
    spectral norm is at most the largest row sum.

    Args:
        weights: first-layer weights.
        x: inputs.
        engine: that computed the kernel, ``"layerwise"`` or ``"jacobian"``.

    Returns:
        The bound, in the unit of the kernel, rounded upwards. With gates that are all
        decided it is about ``m·eps`` times the kernel's norm.

    Source:
        Derived in this project, after Higham (2002), Accuracy and Stability of
        Numerical Algorithms, section 3.1.
    """
    m, d = weights.shape
    unit = torch.finfo(x.dtype).eps / 2
    gate = _gamma(d + 1, unit)
    z, size = x @ weights.T, x.abs() @ weights.abs().T  # (n, m)
    # fl(|w|·|x|) may itself be low by a factor 1 − γ: doubling the bound covers it.
    undecided = (z.abs() <= 2 * gate / (1 - gate) * size).to(x.dtype)
    possible = ((z > 0) | (undecided > 0)).to(x.dtype)
    counts = possible @ possible.T  # exact: sums of at most m ones, m < 2^24
    unsure = undecided @ possible.T + possible @ undecided.T
    products = x.abs() @ x.abs().T
    terms = m + d if engine == "layerwise" else m * d
    gamma = _gamma(terms + 12, unit)
    rows = (products * (gamma * counts + unsure)).sum(dim=1) / m
    slack = 1 + 4 * _gamma(len(x) + d + 8, unit)  # rounding of this very bound
    underflow = len(x) * (m + d) * torch.finfo(x.dtype).tiny
    return math.nextafter(rows.max().item() * slack + underflow, math.inf)


def _gamma(k: int, unit: float) -> float:
    """``ku / (1 − ku)``, rounded upwards."""
    return math.nextafter(k * unit / (1 - k * unit), math.inf)
