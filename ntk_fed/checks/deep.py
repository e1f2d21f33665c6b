"""Deep ReLU networks under Local SGD: Deng, Kamani and Mahdavi (2022).

Floor 7.
"""

import math
from typing import Any

import numpy as np
import pandas as pd
import torch

from ntk_fed.checks.rounding import told
from ntk_fed.checks.subject import Subject
from ntk_fed.models import MLP, Pyramid, on_the_sphere
from ntk_fed.params import trainable
from ntk_fed.theory import TheoremCheck, deng2022


def local_sgd(subject: Subject) -> TheoremCheck:
    """Semi-gradient-Lipschitzness fitted, and the loss against a line on a log axis."""
    model, x = subject.model, subject.x
    widths = relu_widths(model)
    found: dict[str, Any] = {}
    is_deep_relu = bool(widths) and subject.loss == "squared"
    if is_deep_relu:
        found["path"] = _path(subject)
    if len(x) > 1:
        found["separation"] = deng2022.separation(x.flatten(1).double().cpu().numpy())
    if (table := _pairs(subject)) is not None:
        columns = [table[name].to_numpy(float) for name in table.columns]
        found |= {
            "fitted": deng2022.fit(*columns),
            "bounding": deng2022.envelope(*columns),
        }
    return deng2022.check(
        deng2022.Measurements(
            n=len(x),
            width=min(widths, default=0),
            is_deep_relu=is_deep_relu,
            is_local_sgd=subject.plain,
            ends_fixed=_ends_fixed(model),
            on_sphere=on_the_sphere(x) if x.ndim == 2 else False,
            **found,
        )
    )


def _path(subject: Subject) -> deng2022.Straightness | None:
    """Of the losses up to the first that is rounding, three at least.

    A loss that left the floats is on no line that falls.
    """
    losses = subject.losses
    if subject.lost:
        return deng2022.Straightness(math.inf, None, math.nan, falls=False)
    if losses is None:
        return None
    values = losses.to_numpy()
    resolved = told(values, subject.loss_slack(losses))
    count = int(resolved.cumprod().sum())
    if count < 3:
        return None
    rounds = losses.index.to_numpy(float)
    return deng2022.straightness(values[:count], rounds[:count])


def relu_widths(model: torch.nn.Module) -> list[int]:
    """Widths of the hidden layers of our dense ReLU networks; empty of any other."""
    if isinstance(model, MLP | Pyramid) and isinstance(
        getattr(model, "activation", None), torch.nn.ReLU
    ):
        weights = [value for value in model.parameters() if value.ndim == 2]
        return [len(weight) for weight in weights[:-1]]
    if isinstance(model, torch.nn.Sequential):
        dense = [m for m in model if isinstance(m, torch.nn.Linear)]
        others = [m for m in model if not isinstance(m, torch.nn.Linear)]
        if others and all(isinstance(m, torch.nn.ReLU) for m in others):
            return [m.out_features for m in dense[:-1]]
    return []


def _ends_fixed(model: torch.nn.Module) -> bool:
    """Are neither the first nor the last dense layer trained?"""
    names = [name for name, value in model.named_parameters() if value.ndim == 2]
    own = trainable(model)
    return len(names) > 2 and names[0] not in own and names[-1] not in own


def _pairs(subject: Subject) -> pd.DataFrame | None:
    """Squared drift, squared displacement and loss of every (client, step) seen."""
    if subject.run is None:
        return None
    rows = subject.run.rows
    quantities = [
        "squared gradient drift",
        "squared displacement",
        "local loss at average",
    ]
    own = rows.loc[rows["quantity"].isin(quantities) & rows["layer"].isna()]
    if own.empty:
        return None
    # With steps the last of a round is what the round itself shows once more.
    whole = own["step"].isna()
    own = own[~(whole & own["round"].isin(set(own.loc[~whole, "round"])))]
    key = [own["round"], own["step"].fillna(0), own["client"]]
    table = own["value"].groupby([*key, own["quantity"]]).first().unstack()
    table = table.reindex(columns=quantities).dropna()
    return table if len(table) and np.isfinite(table.to_numpy(float)).all() else None
