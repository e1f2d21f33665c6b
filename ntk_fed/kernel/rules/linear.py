"""Dense layers, on one vector per sample or on sequences: ``z = u Wᵀ + b``."""

from typing import Any

from torch import Tensor

from ntk_fed.kernel.rules.factor import Call, Factor, Rule


def _signature(
    input: Tensor, weight: Tensor, bias: Tensor | None = None
) -> dict[str, Any]:
    return locals()


def _factors(call: Call) -> dict[str, Factor]:
    d, u = call.sensitivities, call.inputs
    d = d.reshape(*d.shape[:2], -1, d.shape[-1])  # (o, n, P, b)
    u = u.reshape(len(u), -1, u.shape[-1])  # (n, P, a)
    found = {"weight": Factor.cheapest(d, u)}
    if call.arguments["bias"] is not None:
        found["bias"] = Factor(d if d.shape[2] == 1 else d.sum(dim=2, keepdim=True))
    return found


LINEAR = Rule(
    _signature,
    "input",
    ("weight", "bias"),
    _factors,
    lambda arguments: arguments["input"].ndim >= 2 and arguments["weight"].ndim == 2,
    units=-1,
)
