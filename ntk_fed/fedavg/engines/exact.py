"""Clients that solve their own problem exactly: linear models only.

Floor 4. With the squared loss a client goes to the nearest of its least-squares
solutions, with the squared hinge to the nearest point that classifies all of its
samples with margin 1: projections, so that averaging is the parallel projection method
(Zhu, Vardhan, Mazumdar, arXiv:2412.07971).
"""

from collections.abc import Iterator

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from ntk_fed.errors import PartitionError
from ntk_fed.fedavg.engines.chain import Chain
from ntk_fed.fedavg.engines.entrywise import IDENTITY
from ntk_fed.fedavg.locals import Locals, Stacked
from ntk_fed.fedavg.work import Work
from ntk_fed.params import Params


class Exact:
    """Engine of ``local="exact"``.

    Args:
        chain: the network, one dense layer.
        loss: ``"squared"`` or ``"squared-hinge"``.
    """

    def __init__(self, chain: Chain, loss: object) -> None:
        self.layer, self.factor = chain.layers[0], chain.factor
        self.loss = loss

    def run(self, start: Params, work: Work) -> Iterator[Locals]:
        """The clients after their only step."""
        found = []
        for i, client in enumerate(work.clients):
            x, y = work.data[i]
            found.append(self._solved(start, x, y, client) if len(x) else start)
        yield Stacked(found, start)

    def _solved(self, start: Params, x: Tensor, y: Tensor, client: int) -> Params:
        """Nearest solution: the smallest change ``v`` of the parameters, features a."""
        assert isinstance(self.layer.weight, str)
        weight, bias = self.layer.weight, self.layer.bias
        a = self.factor * self.layer.factor * x.flatten(1)
        own = start[weight]
        if bias is not None:
            a = torch.cat([a, a.new_full((len(a), 1), self.factor)], dim=1)
            own = torch.cat([own, start[bias][:, None]], dim=1)
        gap = y - a @ own.T  # (n, o)
        if self.loss == "squared":
            moved = torch.linalg.pinv(a) @ gap  # least squares, smallest norm
        else:
            moved = _to_margin(y * a, 1 - y * (a @ own.T), client)
        after = own + moved.T
        solved = {weight: after if bias is None else after[:, :-1]}
        if bias is not None:
            solved[bias] = after[:, -1]
        return {**start, **solved}


def why_not(chain: Chain | str, params: Params, loss: object) -> str | None:
    """Why exact local solves do not apply; ``None`` if they do."""
    if isinstance(chain, str):
        return f"the model is no linear one: {chain}"
    one = chain.layers[0]
    names = {name for name in (one.weight, one.bias) if name is not None}
    if len(chain.layers) > 1 or one.activation is not IDENTITY or names != set(params):
        return "the model has more than one dense layer, or frozen or other parameters"
    if loss == "squared-hinge" and any(len(value) > 1 for value in params.values()):
        return "margins need a model of one output"
    if loss not in ("squared", "squared-hinge"):
        return f'loss must be "squared" or "squared-hinge", got {loss!r}'
    return None


def _to_margin(a: Tensor, short: Tensor, client: int) -> Tensor:
    """The smallest v with ``a v ≥ short``, ``(d, 1)``.

    Least-distance programming by non-negative least squares.

    Source:
        Lawson, Hanson (1974), Solving Least Squares Problems, chapter 23.
    """
    if bool((short <= 0).all()):
        return a.new_zeros(a.shape[1], 1)
    # In units of how far the farthest single sample is: no v can be shorter.
    unit = (short.squeeze(1) / torch.linalg.vector_norm(a, dim=1)).max()
    if not torch.isfinite(unit):
        raise _not_separable(client)
    matrix = torch.cat([a * unit, short], dim=1).T.double().cpu().numpy()  # (d + 1, n)
    target = np.zeros(len(matrix))
    target[-1] = 1.0
    multipliers, _ = scipy.optimize.nnls(matrix, target)
    rest = matrix @ multipliers - target
    # What is left is 1/(1 + ‖v‖²), and nothing, up to rounding, if there is no v.
    if -rest[-1] <= 1e-10:
        raise _not_separable(client)
    return unit * torch.from_numpy(-rest[:-1] / rest[-1])[:, None].to(a)


def _not_separable(client: int) -> PartitionError:
    return PartitionError(
        f"client {client} has no parameters that classify all of its samples with "
        "margin 1, or only some that are 1e5 times as far as any sample asks for. "
        'local="exact" with the squared hinge needs separable data.'
    )
