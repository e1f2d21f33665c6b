"""What the last dense layer of a network reads: features, their angles and spaces.

Floor 3. Features are found by watching the forward pass, as gates are, however the last
product with a weight is written.
"""

import torch
from jaxtyping import Float, Int64
from scipy.linalg import subspace_angles
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ntk_fed.errors import ShapeMismatchError
from ntk_fed.params import Params, call, own_buffers
from ntk_fed.subsample import Total, pair_total

_PRODUCTS = {
    torch.matmul,
    torch.mm,
    torch.mv,
    torch.Tensor.matmul,
    torch.Tensor.__matmul__,
    torch.Tensor.mm,
    torch.Tensor.mv,
}


class _LastProduct(TorchFunctionMode):
    """Keeps the left side of the last product of a row per sample with a weight."""

    def __init__(self, n: int, weights: Params) -> None:
        super().__init__()
        self.n, self.features = n, None
        self.memory = {value.untyped_storage().data_ptr() for value in weights.values()}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func is torch.nn.functional.linear:
            self._keep(args[0] if args else kwargs["input"])
        elif func in _PRODUCTS and len(args) == 2 and self._is_weight(args[1]):
            self._keep(args[0])
        elif func is torch.addmm and len(args) == 3 and self._is_weight(args[2]):
            self._keep(args[1])
        return result

    def _is_weight(self, value: Tensor) -> bool:
        return value.untyped_storage().data_ptr() in self.memory

    def _keep(self, left: Tensor) -> None:
        if left.ndim == 2 and len(left) == self.n:
            self.features = left.detach().clone()


def last_features(
    model: torch.nn.Module, params: Params, state: Params, x: Tensor
) -> Float[Tensor, "n q"]:
    """Inputs of the last dense layer that the forward pass meets, one row per sample.

    A dense layer is ``torch.nn.functional.linear`` (which ``torch.nn.Linear`` calls) or
    a matrix product with a parameter or buffer, on a row per sample.

    Args:
        model: network returning ``(n, o)``.
        params: parameters to evaluate at, all of them.
        state: frozen parameters and buffers.
        x: inputs, ``(n, ...)``.

    Raises:
        ShapeMismatchError: no such layer was met.

    Cost:
        One forward pass.
    """
    own = own_buffers(model, state)  # copied before: known by where they lie
    watch = _LastProduct(len(x), {**own, **params})
    with torch.no_grad(), watch:
        call(model, params, x, own)
    if watch.features is None:
        raise ShapeMismatchError(
            f"{type(model).__name__} ran without a dense layer on one row per sample, "
            "so its features are not known. Give features=: a function of (params, x) "
            "that returns (n, q)."
        )
    return watch.features


def cosine_totals(
    features: Float[Tensor, "m q"], labels: Int64[Tensor, " m"], n: int
) -> dict[str, tuple[Total, Total]]:
    """Totals of cosines over pairs of the same and of different classes, with counts.

    Args:
        features: one row per sample seen, none of them zero.
        labels: their classes.
        n: samples in all.

    Returns:
        "same class" and "different class" -> (sum of cosines, number of pairs), both
        over ordered pairs of different samples; their quotient is the mean.
    """
    rows = features / features.abs().amax(dim=1, keepdim=True)  # squares stay in range
    rows = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    cosines = rows @ rows.mT  # (m, m)
    same = labels[:, None] == labels[None, :]
    apart = ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    found = {}
    for name, chosen in (("same class", same & apart), ("different class", ~same)):
        held = chosen.to(cosines.dtype)
        found[name] = (pair_total(held * cosines, n), pair_total(held, n))
    return found


def leading_space(
    features: Float[Tensor, "n q"], rank: int
) -> tuple[Float[Tensor, "n k"], float]:
    """The ``rank`` leading left singular vectors, and the gap below them.

    Args:
        features: one row per sample.
        rank: dimension k of the space, at most the smaller side.

    Returns:
        An orthonormal basis in the space of samples (what a linear head on the
        features can express there, cut to its k strongest directions), and
        ``1 − σ_{k+1}/σ_k``: near 0 the space is ill defined; 1 if nothing is cut off;
        NaN if the features have fewer than k dimensions.

    Cost:
        One singular value decomposition, O(n q min(n, q)).
    """
    if not 1 <= rank <= min(features.shape):
        raise ValueError(
            f"rank must be from 1 to {min(features.shape)}, the smaller side of "
            f"features {tuple(features.shape)}, got {rank}."
        )
    left, values, _ = torch.linalg.svd(features, full_matrices=False)
    rounding = max(features.shape) * torch.finfo(values.dtype).eps * values[0]
    if values[rank - 1] <= rounding:
        return left[:, :rank], torch.nan
    below = values[rank] / values[rank - 1] if rank < len(values) else 0.0
    return left[:, :rank], 1 - float(below)


def principal_angles(
    left: Float[Tensor, "n k"], right: Float[Tensor, "n k2"]
) -> Float[Tensor, " r"]:
    """Angles between the column spaces of two matrices, radians, largest first.

    Source:
        Björck, Golub (1973), Math. Comp. 27; small angles by sines as in Knyazev,
        Argentati (2002), SIAM J. Sci. Comput. 23 (SciPy's ``subspace_angles``).
    """
    found = subspace_angles(left.cpu().numpy(), right.cpu().numpy())
    return torch.from_numpy(found.copy())
