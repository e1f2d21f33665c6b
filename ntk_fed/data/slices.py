"""The order of samples along a direction, for cutting them into parallel slices.

Floor 2: imports ``errors`` and its own folder.
"""

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from ntk_fed.data.dataset import Dataset
from ntk_fed.errors import PartitionError


def order_along(dataset: Dataset) -> Int64[Tensor, " n"]:
    """Sample indices by rising projection on the direction; equal ones by index.

    The direction is the dataset's own where it has one, else its first principal one.
    Projections are taken in float64.

    Raises:
        PartitionError: there is neither; see :func:`principal_direction`.
    """
    x = dataset.x.reshape(len(dataset), -1).to(torch.float64)
    along = dataset.direction
    along = principal_direction(x) if along is None else along.to(x)
    # A sum per row, not a product of matrices: equal samples get equal numbers.
    return (x * along).contiguous().sum(1).cpu().argsort(stable=True)


def principal_direction(x: Float64[Tensor, "n d"]) -> Float64[Tensor, " d"]:
    """Unit vector along which the samples vary most, with a sign that is fixed.

    Of its entries that reach half the largest magnitude, the first is positive. (The
    sign of the largest entry would be left to rounding where two are equal.)

    Args:
        x: samples, ``(n, d)``; their mean is taken off.

    Returns:
        Eigenvector of the covariance for its largest eigenvalue, ``(d,)``.

    Raises:
        PartitionError: rounding decides the direction, for the samples do not vary, or
            vary as much along another one.

    Cost:
        One product, O(n d min(n, d)), and one dense eigensolve of size min(n, d).
    """
    centred = x - x.mean(0)
    wide = x.shape[1] > len(x)
    values, vectors = torch.linalg.eigh(
        centred @ centred.mT if wide else centred.mT @ centred
    )
    # Rounding of product and eigensolve, as a slowly growing factor times eps.
    rounding = sum(x.shape) * torch.finfo(x.dtype).eps * x.square().sum()
    gap = values[-1] - (values[-2] if len(values) > 1 else 0)
    if not gap > rounding:
        raise PartitionError(
            f"the {len(x)} samples have no first principal direction: the largest "
            f"variance is above the next by {float(gap):.3e}, within rounding "
            f"({float(rounding):.3e}). Give the direction to slice along, direction=."
        )
    along = centred.mT @ vectors[:, -1] if wide else vectors[:, -1]
    along = along / torch.linalg.vector_norm(along)
    large = along.abs() >= along.abs().max() / 2
    return along * along[large][0].sign()
