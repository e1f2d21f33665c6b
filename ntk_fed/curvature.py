"""Norms of second derivatives by power iteration: estimates from below.

Floor 3. Each returned number is a value that some unit direction attains, so the norm
itself is at least that, up to rounding; how much larger it may be is not known.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ntk_fed.derivatives import (
    Outputs,
    along,
    hessian_product,
    pulled_back,
    second_along,
)
from ntk_fed.params import Params, squared_norm
from ntk_fed.seeds import generator


def hessian_norm(
    function: Outputs,
    at: Params,
    *,
    iterations: int = 20,
    rtol: float = 1e-3,
    seed: int = 0,
) -> float:
    """``‖∇²F(θ)‖₂`` of a scalar function, from below.

    Args:
        function: of a parameter dictionary, twice differentiable where it is asked.
        at: ``θ``.
        iterations: of the power method, at most.
        rtol: it stops when the norm grows by less than this in one iteration.
        seed: of the random start.

    Returns:
        ``‖∇²F v‖`` for the best unit vector v met.

    Cost:
        One Hessian-vector product an iteration (two backward passes).
    """

    def step(v: Params) -> tuple[float, Params]:
        image = hessian_product(function, at, v)
        return math.sqrt(squared_norm(image)), image

    return _iterated(step, at, iterations, rtol, seed)


def second_derivative_norm(
    function: Outputs,
    at: Params,
    *,
    iterations: int = 20,
    rtol: float = 1e-3,
    seed: int = 0,
) -> float:
    r"""``sup ‖D²f(θ)(v, v)‖`` over unit v, from below.

    This is the norm of the bilinear map: for each z the form ``⟨z, D²f(u, v)⟩`` is
    symmetric, and attains its norm at u = v. Alternates ``z = D²f(v, v)`` with a step
    of the power method on the Hessian of ``⟨z, f⟩``. It may end at a local maximum.

    Args:
        function: outputs of a network, any shape.
        at: ``θ``.
        iterations: at most.
        rtol: it stops when the norm grows by less than this in one iteration.
        seed: of the random start.

    Cost:
        Forward over forward and two backward passes an iteration.
    """

    def step(v: Params) -> tuple[float, Params]:
        z = second_along(function, at, v)
        size = torch.linalg.vector_norm(z).item()
        if size == 0:
            return 0.0, v
        unit = z / size

        def scalar(params: Params) -> Tensor:
            return (unit * function(params)).sum()

        return size, hessian_product(scalar, at, v)

    return _iterated(step, at, iterations, rtol, seed)


def derivative_norm(
    function: Outputs,
    at: Params,
    *,
    iterations: int = 50,
    rtol: float = 1e-4,
    seed: int = 0,
) -> float:
    """``‖Df(θ)‖₂ = √λ_max(Θ)``, from below.

    Args:
        function: outputs of a network, any shape.
        at: ``θ``.
        iterations: at most.
        rtol: it stops when the norm grows by less than this in one iteration.
        seed: of the random start.

    Cost:
        A forward derivative and a backward pass an iteration.
    """

    def step(v: Params) -> tuple[float, Params]:
        slope = along(function, at, v)[1]
        size = torch.linalg.vector_norm(slope).item()
        return size, pulled_back(function, at, slope)

    return _iterated(step, at, iterations, rtol, seed)


def _iterated(
    step: Callable[[Params], tuple[float, Params]],
    at: Params,
    iterations: int,
    rtol: float,
    seed: int,
) -> float:
    """The largest size met while a direction is replaced by its image, normalised."""
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}.")
    stream = generator(seed, "power iteration")
    direction = {
        name: torch.randn(value.shape, generator=stream, dtype=torch.float64).to(value)
        for name, value in at.items()
    }
    best, before = 0.0, 0.0
    for _ in range(iterations):
        length = math.sqrt(squared_norm(direction))
        if length == 0:
            break
        unit = {name: value / length for name, value in direction.items()}
        size, direction = step(unit)
        best = max(best, size)
        if size == 0 or abs(size - before) <= rtol * size:
            break
        before = size
    return best
