"""Embeddings: a dense layer on one-hot rows, its Jacobian in the words that occur."""

from typing import Any

import torch
from torch import Tensor

from ntk_fed.kernel.rules.factor import Call, Factor, Rule


def _signature(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> dict[str, Any]:
    return locals()


def _covers(arguments: dict[str, Any]) -> bool:
    """Plain look-ups only: the other options change weight or gradient on the side."""
    return (
        arguments["padding_idx"] is None
        and arguments["max_norm"] is None
        and not arguments["scale_grad_by_freq"]
        and not arguments["sparse"]
    )


def _factors(call: Call) -> dict[str, Factor]:
    d, words = call.sensitivities, call.arguments["weight"].shape[0]
    indices = call.inputs.reshape(len(call.inputs), -1)  # (n, P)
    chosen = torch.nn.functional.one_hot(indices, words).to(d.dtype)  # (n, P, words)
    d = d.reshape(*d.shape[:2], indices.shape[1], -1)  # (o, n, P, b)
    # ∂f/∂W is (words, b): u has to stand first, as in no other rule.
    explicit = torch.einsum("npv,onpb->onvb", chosen, d)
    return {"weight": Factor.explicit(explicit)}


EMBEDDING = Rule(_signature, "input", ("weight",), _factors, _covers)
