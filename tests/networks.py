"""Small networks of every kind the kernel has to get right, for tests."""

import torch
from torch import nn


class Residual(nn.Module):
    """A branch that is added back, and one dense layer used twice."""

    def __init__(self):
        super().__init__()
        self.first, self.twice = nn.Linear(6, 5), nn.Linear(5, 5)
        self.last = nn.Linear(5, 2, bias=False)

    def forward(self, x):
        hidden = torch.relu(self.first(x))
        hidden = hidden + torch.tanh(self.twice(hidden))
        return self.last(hidden + torch.sin(self.twice(hidden)))


class PartlyUsed(nn.Module):
    """A frozen layer below, and a trainable parameter that does nothing."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(6, 7).requires_grad_(False)
        self.idle = nn.Linear(3, 3)
        self.head = nn.Linear(7, 3)

    def forward(self, x):
        return self.head(torch.relu(self.backbone(x)))


class Integers(nn.Module):
    """Integer samples, cast inside."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(torch.relu_(self.first(x.to(self.last.weight.dtype))))


class Reparametrised(nn.Module):
    """Weights that are functions of parameters: no layerwise rule covers them."""

    def __init__(self):
        super().__init__()
        self.raw = nn.Parameter(torch.randn(2, 6))
        self.log_scale = nn.Parameter(torch.randn(()))

    def forward(self, x):
        return x @ (self.raw * self.log_scale.exp()).T


class Recurrent(nn.Module):
    """An LSTM, where torch.func.vmap cannot go."""

    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.LSTM(2, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.cell(x.reshape(len(x), 3, 2))[0][:, -1])


class Tied(nn.Module):
    """One weight used by a rule and, transposed, outside of any."""

    def __init__(self):
        super().__init__()
        self.code, self.head = nn.Linear(6, 4, bias=False), nn.Linear(6, 2)

    def forward(self, x):
        return self.head(torch.tanh(self.code(x)) @ self.code.weight)


class Unusual(nn.Module):
    """A user's own layer: bilinear in the inputs, with a parameter of three axes."""

    def __init__(self):
        super().__init__()
        self.core = nn.Parameter(torch.randn(3, 6, 6) / 6)
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        return self.head(torch.einsum("ni,kij,nj->nk", x, self.core, x))


class Words(nn.Module):
    """An embedding of integers, a recurrence by hand, and dense layers on sequences."""

    def __init__(self):
        super().__init__()
        self.table, self.step = nn.Embedding(9, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        words = self.table(x.abs() % 9)  # (n, 6, 4)
        state = torch.zeros_like(words[:, 0])
        for t in range(words.shape[1]):
            state = torch.tanh(self.step(state) + words[:, t])
        return self.head(state) + self.head(self.step(words)).mean(dim=1)


class Transformer(nn.Module):
    """Two encoder blocks on a sequence of three vectors of two entries."""

    def __init__(self):
        super().__init__()
        block = nn.TransformerEncoderLayer(
            4, 2, dim_feedforward=8, dropout=0.0, batch_first=True
        )
        self.lift = nn.Linear(2, 4)
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.blocks(self.lift(x.reshape(len(x), 3, 2))).mean(dim=1))


class Block(nn.Module):
    """A residual block with a chosen normalisation, strided, with a shortcut."""

    def __init__(self, norm):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm, self.conv = norm(4), nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.short, self.head = nn.Conv2d(4, 4, 1, stride=2), nn.Linear(4, 3)

    def forward(self, x):
        image = torch.cat([x, -x, x.flip(1)], dim=1)[:, :16].reshape(-1, 1, 4, 4)
        hidden = self.stem(image)
        hidden = self.conv(torch.relu(self.norm(hidden))) + self.short(hidden)
        return self.head(torch.relu(hidden).mean(dim=(2, 3)))


def perceptron(inplace=False):
    return nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(inplace=inplace), nn.Linear(8, 5), nn.Tanh(),
        nn.Linear(5, 3),
    )  # fmt: skip


def single_output():
    return nn.Sequential(nn.Linear(6, 16, bias=False), nn.ReLU(), nn.Linear(16, 1))


def convolution():
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(),
        nn.Linear(6, 2),
    )  # fmt: skip


def strides_groups_dilation():
    return nn.Sequential(
        nn.Unflatten(1, (2, 3)), nn.ConstantPad1d((2, 3), 0.5), nn.Conv1d(2, 4, 3),
        nn.GELU(), nn.Unflatten(2, (2, 3)),
        nn.Conv2d(4, 6, (2, 2), stride=(1, 2), padding=(1, 2), groups=2, bias=False),
        nn.ReLU(), nn.Conv2d(6, 4, 3, dilation=(2, 1), padding="same"), nn.Softplus(),
        nn.Flatten(2), nn.Conv1d(4, 4, 3, padding="same", groups=4), nn.Flatten(),
        nn.LazyLinear(2),
    )  # fmt: skip


def normalised():
    model = nn.Sequential(
        nn.BatchNorm1d(6), nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(),
        nn.Unflatten(1, (4, 2)), nn.GroupNorm(2, 4), nn.LayerNorm((4, 2)),
        nn.BatchNorm1d(4), nn.LayerNorm(2), nn.Flatten(), nn.Linear(8, 2),
    )  # fmt: skip
    for module in model:
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
        if hasattr(module, "weight") and module.weight.ndim == 1:
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model.eval()


def layer_norm_block():
    return Block(lambda channels: nn.GroupNorm(1, channels))


DENSE = {
    "perceptron": perceptron,
    "in-place": lambda: perceptron(inplace=True),
    "single output": single_output,
    "residual": Residual,
    "partly used": PartlyUsed,
    "integers": Integers,
}
RULED = DENSE | {
    "convolution": convolution,
    "strides, groups, dilation": strides_groups_dilation,
    "normalised": normalised,
    "residual block": layer_norm_block,
    "group norm block": lambda: Block(lambda channels: nn.GroupNorm(2, channels)),
    "words": Words,
}
OTHER = {
    "reparametrised": Reparametrised,
    "tied": Tied,
    "unusual": Unusual,
    "transformer": Transformer,
    "recurrent": Recurrent,
}
ALL = RULED | OTHER


def build(name, seed, dtype=torch.float64, device="cpu"):
    """A network of the zoo with weights from ``seed``, and five samples for it.

    Drawn on the CPU, then put on ``device``: the numbers are the same on each.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ALL[name]().to(dtype)
        x = torch.randn(5, 6, dtype=dtype)
        if name == "strides, groups, dilation":
            model(x)  # sets the size of the lazy layer
    if name in ("integers", "words"):
        x = (3 * x).long()
    return model.to(device), x.to(device)
