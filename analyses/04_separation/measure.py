"""Smallest eigenvalue of the tangent kernel, over separation and number of samples.

Three parts. ``"limit"``: pairs of samples at a distance, at infinite width, beside a
smooth and a linear network on the same points. ``"width"``: the same points at finite
width. ``"number"``: points drawn uniformly from the sphere, at infinite width.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import ntk_fed as nf
from ntk_fed import limits, seeds
from ntk_fed.measured import Enclosure, exact, monotone
from ntk_fed.models import MLP, Linear, TwoLayerReLU
from ntk_fed.theory import deng2022

SMOOTH_WIDTH = 4096  # hidden units of the smooth control


@dataclasses.dataclass(frozen=True)
class Case:
    """One draw of points, and of weights where there are any.

    Attributes:
        part: "limit", "width" or "number".
        delta: distance within a pair, at most 2; not read by "number".
        width: hidden units; read by "width" only.
        samples: n, even where there are pairs.
        dimension: d, of the sphere's space.
        seed: of points and weights. The points of "limit" and "width" have the same
            centres and directions at every distance.
    """

    part: str = "limit"
    delta: float = 0.1
    width: int = 4096
    samples: int = 40
    dimension: int = 30
    seed: int = 0


def measure(case: Case) -> Iterator[dict[str, Any]]:
    """Rows of one case: ``quantity``, ``value`` and its bounds ``lower``, ``upper``.

    Raises:
        ValueError: a part that there is not, or an odd number of samples in pairs.
    """
    parts = {"limit": _limit, "width": _width, "number": _number}
    if case.part not in parts:
        raise ValueError(f"part must be one of {', '.join(parts)}, got {case.part!r}.")
    for quantity, found in parts[case.part](case):
        yield {
            "quantity": quantity,
            "value": float(found.value),
            "lower": float(found.lower),
            "upper": float(found.upper),
        }


Found = Iterator[tuple[str, Enclosure]]


def _limit(case: Case) -> Found:
    """Infinite width, and the two controls."""
    x = _pairs(case)
    yield from _infinite(x)
    sizes = [case.dimension, SMOOTH_WIDTH, 1]
    smooth = MLP(sizes, activation="tanh", seed=case.seed)
    # √d undoes the factor of the first layer: pre-activations are N(0, 1) here too.
    by_layer = nf.gram(smooth, math.sqrt(case.dimension) * x, by_layer=True)
    yield "tanh", nf.smallest_eigenvalue(by_layer["layers.0.weight"])
    linear = nf.gram(Linear(case.dimension), x)
    yield "linear", nf.smallest_eigenvalue(linear)


def _width(case: Case) -> Found:
    """Finite width: its smallest eigenvalue, and gates that tell a pair apart."""
    x = _pairs(case)
    yield from _infinite(x)
    model = TwoLayerReLU(case.dimension, case.width, seed=case.seed)
    theta, error = nf.gram(model, x, with_error=True)
    yield "finite", nf.smallest_eigenvalue(theta, forming_error=error.bound)
    gates = x @ model.weight.detach().mT > 0  # (n, m)
    one, other = gates.tensor_split(2)
    yield "fewest gates", exact((one != other).sum(dim=1).min().item())


def _number(case: Case) -> Found:
    """Infinite width, points without any pairs."""
    shape = case.samples, case.dimension
    yield from _infinite(_on_sphere(shape, case, "points", *shape))


def _infinite(x: Tensor) -> Found:
    """Separation, smallest eigenvalue of the limit, and what the nearest pair allows.

    With v = (e_i − e_j)/√2 for the nearest pair, vᵀH∞v = ½ − cos θ (π − θ)/(2π), which
    grows with θ, and δ = 2 sin(θ/2).
    """
    separation = deng2022.separation(x.numpy())
    yield "separation", separation
    yield "bound", monotone(_pair_bound, separation)
    # Products and distances round by γ_d of the norms, what follows by a dozen more.
    eps = torch.finfo(x.dtype).eps
    slack = 4 * (x.shape[1] + 20) * eps * x.square().sum().item()
    found = nf.smallest_eigenvalue(limits.two_layer_relu(x), forming_error=slack)
    yield "limit", found


def _pair_bound(delta: float) -> float:
    """½ − cos θ (π − θ)/(2π) without the cancellation at small angles."""
    theta = 2 * math.asin(min(delta / 2, 1.0))
    # ½ − cos θ/2 = δ²/4
    return delta**2 / 4 + math.cos(theta) * theta / (2 * math.pi)


def _pairs(case: Case) -> Tensor:
    """Random centres, then a partner of each at distance delta, ``(n, d)``."""
    if case.samples % 2:
        raise ValueError(f"samples must be even, got {case.samples}.")
    shape = case.samples // 2, case.dimension
    centres = _on_sphere(shape, case, "centres")
    aside = _on_sphere(shape, case, "directions")
    aside = aside - (aside * centres).sum(dim=1, keepdim=True) * centres
    aside = aside / aside.norm(dim=1, keepdim=True)
    theta = 2 * math.asin(case.delta / 2)
    partners = math.cos(theta) * centres + math.sin(theta) * aside
    return torch.cat([centres, partners])


def _on_sphere(shape: tuple[int, int], case: Case, purpose: str, *index: int) -> Tensor:
    """Uniform points of norm 1."""
    stream = seeds.generator(case.seed, f"separation/{purpose}", *index)
    normal = torch.randn(shape, generator=stream, dtype=torch.float64)
    return normal / normal.norm(dim=1, keepdim=True)
