"""Losses of one sample, and their gradients by the outputs; the mean is taken outside.

Floor 4. A loss is a name in ``LOSSES`` or the user's own function of outputs, ``(n,
o)``, and targets that returns one number per sample, ``(n,)``.
"""

from ntk_fed.fedavg.losses.catalogue import (
    LOSSES,
    Loss,
    PerSample,
    check_targets,
    describe,
    named,
    output_gradient,
)

__all__ = [
    "LOSSES",
    "Loss",
    "PerSample",
    "check_targets",
    "describe",
    "named",
    "output_gradient",
]
