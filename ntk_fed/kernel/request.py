"""What may be asked of a kernel.

Floor 4.
"""

import math

import torch

from ntk_fed.names import require_known

OUTPUTS = ("trace", "full", "diagonal")
ENGINES = ("auto", "jacobian", "layerwise")


def check_request(
    model: torch.nn.Module,
    outputs: str,
    engine: str,
    processes: int,
    memory: int | None,
) -> None:
    """Refuse options that no kernel can be computed with.

    Raises:
        UnknownNameError: ``outputs`` or ``engine`` is not known.
        ValueError: another option is unfit.
    """
    if not isinstance(model, torch.nn.Module):
        raise ValueError(
            f"model must be a torch.nn.Module, got {type(model).__name__}. Wrap a "
            "function in a Module that holds its parameters."
        )
    require_known("outputs", outputs, OUTPUTS)
    require_known("engine", engine, ENGINES)
    if type(processes) is not int or processes < 1:
        raise ValueError(f"processes must be an int of at least 1, got {processes!r}.")
    if memory is not None and not (
        isinstance(memory, int | float) and 0 < memory < math.inf
    ):
        raise ValueError(
            f"memory must be a positive number of bytes, got {memory!r}. None is half "
            "of what is free."
        )
