"""Points of a box that a hyperplane through 0 separates with a gap.

Floor 2: imports torch and ``seeds`` only.
"""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from ntk_fed import seeds

TRIES = 100  # batches drawn before a gap is called too wide


def unit_normal(dimension: int, seed: int) -> Float64[Tensor, " d"]:
    """Unit normal of the hyperplane, uniform on the sphere; the same in all splits.

    Raises:
        ValueError: ``dimension`` is below 1.
    """
    if dimension < 1:
        raise ValueError(f"dimension must be at least 1, got {dimension}.")
    stream = seeds.generator(seed, "data/separable/normal")
    normal = torch.randn(dimension, generator=stream, dtype=torch.float64)
    return normal / torch.linalg.vector_norm(normal)


def points(
    n: int, normal: Float64[Tensor, " d"], gap: float, stream: torch.Generator
) -> Float64[Tensor, "n d"]:
    r"""Points uniform on :math:`[-1, 1]^d` where :math:`|u \cdot x| \ge` ``gap``.

    Drawn in the whole box; those nearer to the hyperplane are rejected.

    Args:
        n: how many.
        normal: u, of unit norm, ``(d,)``.
        gap: distance from the hyperplane that every point keeps, to rounding (1e-15);
            half the width of the empty slab.
        stream: what is drawn from.

    Raises:
        ValueError: ``gap`` is negative or not finite, or so wide that about 1 % of the
            box or less is left.

    Cost:
        Memory for n points and a batch of as many; no more than 100 batches drawn.

    Source:
        Qin, Etesami, Uribe (2022), arXiv:2201.12719, perceptron experiment.
    """
    if not 0 <= gap < math.inf:
        raise ValueError(f"gap must be at least 0 and finite, got {gap}.")
    kept: list[Tensor] = []
    missing, batch = n, max(n, 1000)
    for _ in range(TRIES):
        box = torch.rand(batch, len(normal), generator=stream, dtype=torch.float64)
        box = 2 * box - 1
        kept.append(box[(box @ normal).abs() >= gap][:missing])
        missing -= len(kept[-1])
        if missing == 0:
            return torch.cat(kept)
    raise ValueError(
        f"gap = {gap} is too wide: {n - missing} of {TRIES * batch} points drawn are "
        "that far from the hyperplane. A typical distance is 0.58 in any dimension; "
        "use a smaller gap."
    )
