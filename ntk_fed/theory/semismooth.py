r"""Semi-smoothness of over-parametrised networks: its constants, fitted.

Floor 6: numbers in, numbers out.

.. math:: F(\theta') \le F(\theta) + \langle \nabla F(\theta), \theta' - \theta \rangle
    + a\,\|\theta' - \theta\|\,\sqrt{F(\theta)} + b\,\|\theta' - \theta\|^2

An L-smooth F has it with a = 0 and b = L/2. A ReLU network has kinks, which the first
term pays for; with width a shrinks (smooth in effect). The shape is *recalled* and its
norms are ours (Euclidean over all parameters; the papers have spectral norms of layers
and a factor that grows with the distance inside a). No constant of a paper is used.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from ntk_fed.theory.envelope import Fit, nonnegative_fit, upper_envelope

SOURCE = "Allen-Zhu, Li, Song (2019), arXiv:1811.03962, Theorem 4; Li et al. (2022)"
STATUS = "recalled"


@dataclasses.dataclass(frozen=True, eq=False)
class Constants:
    """``(a, b)`` in two senses.

    Attributes:
        average: by non-negative least squares; half of the pairs may exceed it.
        envelope: the least with which no pair exceeds it, ``[a, b]`` as in ``average``.
        pairs: that were used.
        unmoved: pairs at distance 0, which say nothing and were left out.
    """

    average: Fit
    envelope: Fit
    pairs: int
    unmoved: int


def excess(
    before: Float[np.ndarray, " n"],
    slope: Float[np.ndarray, " n"],
    after: Float[np.ndarray, " n"],
) -> Float[np.ndarray, " n"]:
    """``F(θ') − F(θ) − ⟨∇F(θ), θ' − θ⟩`` of each pair: what the inequality bounds.

    Args:
        before: ``F(θ)``.
        slope: ``⟨∇F(θ), θ' − θ⟩``.
        after: ``F(θ')``.
    """
    return after - before - slope


def fit(
    excess: Float[np.ndarray, " n"],
    distance: Float[np.ndarray, " n"],
    loss: Float[np.ndarray, " n"],
) -> Constants:
    """Constants ``a, b ≥ 0`` of the inequality over pairs of models.

    Large pairs (those of early rounds) decide: neither fit weighs them down. Where the
    loss is alike in all pairs and so is the distance, a and b cannot be told apart, and
    ``collinear`` says so.

    Args:
        excess: as :func:`excess`, of either sign.
        distance: ``‖θ' − θ‖``, at least 0.
        loss: ``F(θ)``, at least 0.

    Returns:
        ``[a, b]`` on average and as an envelope; a in root loss units per parameter
        unit, b in loss units per squared parameter unit.

    Raises:
        ValueError: a negative distance or loss, or no pair that has moved.
        NonFiniteError: NaN or infinity.

    Cost: one least squares problem and one walk over corners.

    Source: the shape as ``SOURCE`` (recalled); the fits as THEORY section 2 has them.
    """
    for name, values in (("distance", distance), ("loss", loss)):
        if (values < 0).any():
            raise ValueError(f"{name} must be at least 0, got {values.min():.3e}.")
    moved = distance != 0
    if not moved.any():
        raise ValueError(
            f"no pair of {len(distance)} has moved: there is nothing to fit. Give "
            "models before and after a step."
        )
    length = distance[moved]
    columns = np.stack([length * np.sqrt(loss[moved]), length**2], axis=1)
    target = excess[moved]
    return Constants(
        nonnegative_fit(columns, target),
        upper_envelope(columns, target),
        int(moved.sum()),
        int((~moved).sum()),
    )
