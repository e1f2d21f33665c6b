"""Clients one after the other by autograd: obviously right, the twin of all others.

Floor 4. McMahan et al. (2017), arXiv:1602.05629, Algorithm 1.
"""

from collections.abc import Iterator

from ntk_fed.fedavg.locals import Locals, Stacked
from ntk_fed.fedavg.work import Work
from ntk_fed.params import Params, shifted


class Loop:
    """Engine ``"loop"``."""

    def run(self, start: Params, work: Work) -> Iterator[Locals]:
        """The clients after each local step if watched, else after the last."""
        found = [start] * len(work.clients)
        velocities: list[Params | None] = [None] * len(work.clients)
        count = len(work.step_sizes)
        for k in range(count):
            for i in range(len(work.clients)):
                velocities[i] = _direction(start, found[i], velocities[i], work, i, k)
                moving = velocities[i]
                if moving is not None and k < len(work.batches[i]):
                    found[i] = shifted(found[i], moving, -work.step_sizes[k])
            if work.watched or k == count - 1:
                yield Stacked(list(found), start)


def _direction(
    start: Params, own: Params, velocity: Params | None, work: Work, i: int, k: int
) -> Params | None:
    """What a client steps along: its gradient, with decay and momentum."""
    batch = work.batch(i, k)
    if batch is None:
        return velocity
    at = start if work.steps.frozen_point else own
    gradient = work.objective.gradient(at, *batch)
    decay, momentum = work.steps.weight_decay, work.steps.momentum
    if decay:
        gradient = shifted(gradient, at, decay)
    if momentum and velocity is not None:
        return shifted(gradient, velocity, momentum)
    return gradient
