"""Every engine does what the loop over clients does, for any group and any form."""

import importlib
import math

import pytest
import torch
from federations import UNEQUAL
from torch import nn
from torch.testing import assert_close

import ntk_fed as nf
from ntk_fed import fedavg
from ntk_fed.data import Dataset, Partition
from ntk_fed.fedavg import engines
from ntk_fed.fedavg.engines import cost, dense, vectorised
from ntk_fed.fedavg.engines.chain import Chain, chain_of
from ntk_fed.params import frozen_state, trainable

FORMS = [None, "explicit", "rows", "series"]
# Movements of order one, sums of a few hundred products: float64 rounds at 1e-14.
CLOSE = {"rtol": 1e-11, "atol": 1e-12}


class Frozen(nn.Module):
    """Frozen in the middle, biases here and there, a factor in front of everything."""

    def __init__(self, outputs):
        super().__init__()
        self.first, self.middle = nn.Linear(4, 9, bias=False), nn.Linear(9, 7)
        self.last = nn.Linear(7, outputs)
        self.middle.weight.requires_grad_(False)

    def forward(self, x):
        h = torch.relu(self.first(2 * x))
        return self.last(torch.tanh(self.middle(h / 3))) * 0.7


NETWORKS = {
    "two-layer": lambda o: nf.models.TwoLayerReLU(4, 16, seed=1),
    "one layer": lambda o: nf.models.MLP([4, o], seed=1, bias=True),
    "mlp": lambda o: nf.models.MLP([4, 8, 6, o], seed=1, bias=True),
    "gelu": lambda o: nf.models.MLP([4, 8, o], seed=1, activation="gelu"),
    "silu": lambda o: nf.models.MLP([4, 8, 8, o], seed=2, activation="silu"),
    "frozen": Frozen,
    "leaky": lambda o: nn.Sequential(
        nn.Flatten(), nn.Linear(4, 8), nn.LeakyReLU(0.2), nn.Dropout(0), nn.Linear(8, o)
    ),
    "sigmoid": lambda o: nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, o)),
}


def federation(name, outputs, clients=UNEQUAL, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = NETWORKS[name](outputs).double()
        x = torch.randn(10, 4, dtype=torch.float64)
        y = torch.randn(10, 1 if name == "two-layer" else outputs, dtype=torch.float64)
    held = [torch.tensor(own, dtype=torch.int64) for own in clients]
    return model, Partition(Dataset(x, y), held)


def run(model, split, engine, monkeypatch=None, steps=False, **options):
    """All items of a run by an engine, by name or as it is."""
    given = {"rounds": 2, "local_steps": 3, "step_size": 0.1, "seed": 5} | options
    if isinstance(engine, str):
        return list(fedavg.rounds(model, split, engine=engine, steps=steps, **given))
    choice = engines.Choice("planted", engine, "")
    with monkeypatch.context() as patch:
        module = importlib.import_module("ntk_fed.fedavg.rounds")
        patch.setattr(module, "choose", lambda *a, **k: choice)
        return list(fedavg.rounds(model, split, steps=steps, **given))


def assert_same(left, right, tolerance=CLOSE):
    """Two runs agree in everything they yielded."""
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert type(a) is type(b)
        assert a.clients == b.clients
        for name in a.locals:
            assert_close(a.locals[name], b.locals[name], **tolerance)
        for i in range(len(a.clients)):
            for name, value in a.locals.client(i).items():
                assert_close(value, b.locals.client(i)[name], **tolerance)
        assert_close(
            a.locals.squared_movements(), b.locals.squared_movements(), **tolerance
        )
        if isinstance(a, fedavg.Round):
            for name, value in a.params.items():
                assert_close(value, b.params[name], **tolerance)


def built(model, split, **options):
    chain = read(model, split)
    assert isinstance(chain, Chain), chain
    return dense.Dense(chain, frozen_state(model), **options)


def read(model, split):
    data = split.dataset
    return chain_of(fedavg.Objective.of(model), trainable(model), data.x, data.y)


BATCHES = [
    {},
    {"batch_size": 2},
    {"batch_size": 2, "local_steps": 7},
    {"batch_size": 3, "replacement": True, "local_steps": 4},
    {"local_steps": [1, 4, 2]},
    {"local_steps": [5, 1, 2], "batch_size": 4},
    {"local_steps": None, "local_epochs": 2, "batch_size": 2},
    {"local_steps": 1},
    {"step_size": fedavg.schedules.Power(0.1, 0.5)},
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("group", [1, 2, None])
@pytest.mark.parametrize("batches", BATCHES, ids=str)
def test_dense_is_the_loop(form, group, batches, monkeypatch):
    model, split = federation("mlp", 2)
    engine = built(model, split, form=form, group=group)
    expected = run(model, split, "loop", **batches)
    assert_same(run(model, split, engine, monkeypatch, **batches), expected)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("batch_size", [None, 2])
def test_every_engine_is_the_loop(name, outputs, batch_size):
    model, split = federation(name, outputs, ([0, 7, 3], [1, 2, 4, 5, 6], [], [8]))
    options = {"batch_size": batch_size, "participation": 0.7}
    expected = run(model, split, "loop", **options)
    for engine in ("dense", "vmap", "auto"):
        assert_same(run(model, split, engine, **options), expected)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("batches", BATCHES, ids=str)
def test_watched_steps_are_those_of_the_loop_and_never_change(
    form, batches, monkeypatch
):
    """All items are kept before any is looked at: later steps must leave them alone."""
    model, split = federation("mlp", 2)
    before = {name: value.clone() for name, value in trainable(model).items()}
    engine = built(model, split, form=form, group=2)
    options = {"steps": True, **batches}
    expected = run(model, split, "loop", **options)
    assert_same(run(model, split, engine, monkeypatch, **options), expected)
    assert_same(run(model, split, "vmap", **options), expected)
    for name, value in trainable(model).items():
        assert torch.equal(value, before[name]), "the model was changed"


@pytest.mark.parametrize("form", [None, "explicit", "rows"])
@pytest.mark.parametrize("batches", BATCHES, ids=str)
@pytest.mark.parametrize("steps", [False, True], ids=["bare", "watched"])
def test_features_before_samples_change_nothing(steps, form, batches, monkeypatch):
    """The layout of large steps, for small ones."""
    monkeypatch.setattr(cost, "COLUMNS", 1)
    # Beside a series there is no such layout, and where weights are small it is cheap.
    monkeypatch.setattr(cost.Sizes, "series", lambda *_, **__: math.inf)
    model, split = federation("mlp", 2)
    engine = built(model, split, form=form, group=2)
    options = {"steps": steps, "rounds": 3, **batches}
    expected = run(model, split, "loop", **options)
    assert_same(run(model, split, engine, monkeypatch, **options), expected)


def test_what_a_single_step_leaves_is_not_written_over(monkeypatch):
    """A series keeps what the layer below gave, until all groups are summed."""
    monkeypatch.setattr(
        cost.Sizes, "series", lambda *_, first: math.inf if first else -1.0
    )
    monkeypatch.setattr(cost.Sizes, "rows", lambda *_: math.inf)
    model, split = federation("mlp", 2)
    engine = built(model, split, group=1)
    expected = run(model, split, "loop", local_steps=1)
    assert_same(run(model, split, engine, monkeypatch, local_steps=1), expected)


def test_a_client_that_is_done_does_not_overflow_in_its_group():
    """Its weights are enormous; others still step, and it weighs nothing meanwhile."""
    model = torch.nn.Sequential(*[torch.nn.Linear(1, 1, bias=False) for _ in range(3)])
    model.double()
    for value in model.parameters():
        value.data.fill_(1.0)
    y = torch.tensor([[-1e180], [0.5]], dtype=torch.float64)
    data = nf.data.Dataset(torch.ones(2, 1, dtype=torch.float64), y)
    split = nf.data.Partition(data, [torch.tensor([0]), torch.tensor([1])])
    options = {"rounds": 1, "local_steps": [1, 3]}
    expected = run(model, split, "loop", **options)[0].locals.client(0)
    for engine in ("dense", "vmap"):
        found = run(model, split, engine, **options)[0].locals.client(0)
        for name, value in expected.items():
            assert value.item() == pytest.approx(-1e179)
            assert_close(found[name], value, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize(
    ("size", "weight", "step_size"), [(1e20, 1e-20, 1e-39), (1e-24, 1.0, 1e30)]
)
def test_products_of_samples_out_of_range_are_not_formed(size, weight, step_size):
    """In float32 their Gram matrix is infinite, or zero, and no weight is."""
    found = {}
    for dtype in (torch.float32, torch.float64):
        layers = [torch.nn.Linear(2, 1, bias=False), torch.nn.Linear(1, 1, bias=False)]
        model = torch.nn.Sequential(*layers[: 2 if size < 1 else 1]).to(dtype)
        for value in model.parameters():
            value.data.fill_(weight)
        x = size * torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=dtype)
        y = torch.full((3, 1), float(size < 1), dtype=dtype)
        parts = [torch.tensor([0, 1]), torch.tensor([2])]
        split = nf.data.Partition(nf.data.Dataset(x, y), parts)
        last = run(model, split, "dense", rounds=1, step_size=step_size)[-1]
        found[dtype] = last.params["0.weight"].double()
    # 1e30 times what float32 cannot hold exactly: a few digits are what the loop has.
    assert_close(found[torch.float32], found[torch.float64], rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("group", [1, 2, None])
@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.9},
        {"weight_decay": 0.3},
        {"momentum": 0.5, "weight_decay": 0.1, "batch_size": 2},
        {"local": "minibatch", "batch_size": 2},
        {"local": "minibatch", "momentum": 0.5, "weight_decay": 0.1, "batch_size": 2},
        {"momentum": 0.5, "local_steps": [1, 4, 2]},
    ],
    ids=str,
)
def test_vmap_is_the_loop(group, options, monkeypatch):
    model, split = federation("mlp", 2)
    engine = vectorised.Vectorised(group=group)
    expected = run(model, split, "loop", **options)
    assert_same(run(model, split, engine, monkeypatch, **options), expected)


@pytest.mark.parametrize(
    ("loss", "outputs"),
    [("logistic", 1), ("exponential", 1), ("squared-hinge", 1), ("cross-entropy", 3)],
)
@pytest.mark.parametrize("engine", ["dense", "vmap"])
def test_other_losses(loss, outputs, engine):
    model, split = federation("mlp", outputs)
    y = split.dataset.y.sign() if outputs == 1 else split.dataset.y.argmax(dim=1)
    split = Partition(Dataset(split.dataset.x, y), split.indices)
    options = {"loss": loss, "batch_size": 2}
    expected = run(model, split, "loop", **options)
    assert_same(run(model, split, engine, **options), expected)


@pytest.mark.parametrize("engine", ["dense", "vmap"])
def test_a_loss_of_ones_own(engine):
    def quartic(outputs, targets):
        return (outputs - targets).pow(4).sum(dim=1) / 9

    model, split = federation("mlp", 2)
    expected = run(model, split, "loop", loss=quartic)
    assert_same(run(model, split, engine, loss=quartic), expected)


def test_a_parameter_the_network_never_uses_stays(monkeypatch):
    model, split = federation("mlp", 2)
    model.idle = nn.Parameter(torch.ones(3, dtype=torch.float64))
    for engine in ("loop", "dense", "vmap"):
        found = run(model, split, engine)[-1]
        assert torch.equal(found.params["idle"], torch.ones(3, dtype=torch.float64))


class Mixed(nn.Module):
    """No chain, for one reason at a time."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        match self.how:
            case "residual":
                return self.two(x + torch.relu(self.one(x)))
            case "shared":
                return self.two(torch.relu(self.one(torch.relu(self.one(x)))))
            case "scaled weight":
                return nn.functional.linear(
                    torch.relu(self.one(x)), 2 * self.two.weight
                )
            case "scaled by a parameter":
                return self.two(torch.relu(self.one(x))) * self.scale
            case "norm":
                return self.two(nn.functional.layer_norm(self.one(x), (4,)))
            case "activation first":
                return self.two(self.one(torch.relu(x)))
            case "of the data":
                h = torch.relu(self.one(x))
                return self.two(h if len(x) == 2 else 2 * h)
            case "another operation":
                return self.two(self.one(x).abs())
            case "no gradient":
                with torch.no_grad():
                    h = torch.relu(self.one(x))
                return self.two(h)
            case "in place":
                h = torch.relu(self.one(x)).mul(1.0)
                h[:, 0] = 0
                return self.two(h)
            case "rounding":
                return self.two(torch.div(self.one(x), 2, rounding_mode="floor"))


MIXED = [
    "residual", "shared", "scaled weight", "scaled by a parameter", "norm",
    "activation first", "of the data", "another operation", "no gradient",
    "in place", "rounding",
]  # fmt: skip


@pytest.mark.parametrize("how", MIXED)
def test_what_is_no_chain_is_told_so_and_runs_all_the_same(how):
    _, split = federation("mlp", 2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = Mixed(how).double()
    assert isinstance(read(model, split), str)
    with pytest.raises(ValueError, match="engine='dense' cannot run this"):
        run(model, split, "dense")
    assert_same(run(model, split, "auto"), run(model, split, "loop"))


def test_a_chain_is_read_where_its_last_layer_is_zero():
    """Outputs say nothing there: the point beside has to."""
    model, split = federation("mlp", 2)
    assert isinstance(read(model, split), Chain)
    mixed = Mixed("scaled weight").double()
    for one in (model.layers[-1], mixed.two):
        torch.nn.init.zeros_(one.weight)
        torch.nn.init.zeros_(one.bias)
    assert isinstance(read(model, split), Chain)
    assert isinstance(read(mixed, split), str)
    assert_same(run(model, split, "dense"), run(model, split, "loop"))


class Unusual(nn.Module):
    """What a network may do to what it is given, one thing at a time."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.one, self.two = nn.Linear(4, 5), nn.Linear(5, 2)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        match self.how:
            case "counts":
                self.calls += 1
                return self.two(torch.relu(self.one(x))) * (1 + 0 * self.calls)
            case "writes":
                x -= 0.5
                return self.two(torch.relu(self.one(x)))
            case "normalises":
                return self.two(torch.relu(self.one(x / x.norm(dim=1, keepdim=True))))
            case "keywords":
                h = nn.functional.linear(
                    input=x, weight=self.one.weight, bias=self.one.bias
                )
                return self.two(torch.relu(h))


@pytest.mark.parametrize("how", ["counts", "writes", "normalises", "keywords"])
@pytest.mark.parametrize("engine", ["loop", "vmap", "auto"])
def test_networks_that_write_count_or_normalise(how, engine):
    _, split = federation("mlp", 2)
    data = split.dataset.x.clone()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = Unusual(how).double()
    plain = nn.Sequential(model.one, nn.ReLU(), model.two)
    shifted = {"writes": data - 0.5, "normalises": data / data.norm(dim=1)[:, None]}
    other = Partition(Dataset(shifted.get(how, data), split.dataset.y), split.indices)
    found = run(model, split, engine)[-1].params
    expected = run(plain, other, "loop")[-1].params
    for one, value in zip(found.values(), expected.values(), strict=True):
        assert_close(one, value, **CLOSE)
    assert torch.equal(split.dataset.x, data), "the data were changed"
    assert model.calls == 0, "the model's buffer was changed"


def test_recomputed_activations_are_refused():
    """They would be taken at the module's own parameters."""

    class Recomputed(nn.Sequential):
        def forward(self, x):
            return torch.utils.checkpoint.checkpoint(
                super().forward, x.requires_grad_(), use_reentrant=False
            )

    _, split = federation("mlp", 2)
    with pytest.raises(RuntimeError, match="recomputes activations"):
        run(Recomputed(nn.Linear(4, 2)).double(), split, "loop")


@pytest.mark.parametrize("engine", ["loop", "vmap", "dense"])
def test_a_transposed_parameter(engine):
    model, split = federation("mlp", 2)
    expected = run(model, split, "loop")
    for layer in model.layers:
        layer.weight = nn.Parameter(layer.weight.detach().T.contiguous().T)
    assert_same(run(model, split, engine), expected)


@pytest.mark.parametrize("engine", ["loop", "vmap", "dense"])
def test_a_model_that_is_trained_meanwhile_is_not_the_run(engine):
    model, split = federation("mlp", 2)
    expected = run(model, split, engine)
    items = []
    for item in fedavg.rounds(
        model, split, rounds=2, local_steps=3, step_size=0.1, seed=5, engine=engine
    ):
        items.append(item)
        with torch.no_grad():
            for value in model.parameters():
                value.add_(1.0)
    assert_same(items, expected)


@pytest.mark.parametrize("engine", ["loop", "vmap", "dense"])
def test_a_round_of_empty_clients_only(engine):
    model, split = federation("mlp", 2, ([], [0, 1, 2], []))
    items = run(model, split, engine, participation=0.34, rounds=6, steps=True)
    idle = [item for item in items if item.clients != [1]]
    assert idle, "every round drew the client that has samples"
    watch = nf.observers.divergence(model, split)
    for item in idle:
        assert {row.value for row in watch(item)} == {0.0}
        assert item.locals.squared_movements().sum() == 0


def test_fedexp_in_float32_extrapolates_as_in_float64():
    """Movements from factors on both sides of the quotient, small ones too."""
    model, split = federation("mlp", 2)
    given = {"rule": "fedexp", "step_size": 1e-4, "rounds": 1}
    exact = run(model, split, "loop", **given)[0]
    single = split.dataset.x.float(), split.dataset.y.float()
    small = Partition(Dataset(*single), split.indices)
    found = run(model.float(), small, "dense", **given)[0]
    ours, theirs = (item.locals.squared_movements() for item in (found, exact))
    assert_close(ours, theirs, rtol=1e-4, atol=0.0)


def test_float32_stays_close_to_float64():
    """Movement, not parameters: each round's is compared with float64's."""
    model, split = federation("mlp", 2)
    exact = run(model, split, "loop")[-1]
    single = split.dataset.x.float(), split.dataset.y.float()
    small = Partition(Dataset(*single), split.indices)
    found = run(model.float(), small, "dense")[-1]
    start = {k: v.double() for k, v in trainable(model).items()}
    gap = sum((found.params[k] - exact.params[k]).square().sum() for k in start)
    size = sum((exact.params[k] - start[k]).square().sum() for k in start)
    # Parameters of order one move by some 0.1: 1e-6 of that, twice rounded, squared.
    assert gap <= 1e-10 * size


def test_auto_says_why():
    model, split = federation("mlp", 2)
    asked = {"local_steps": 2, "step_size": 0.1}
    assert fedavg.explain(model, split, **asked).startswith("engine dense")
    words = fedavg.explain(model, split, momentum=0.5, **asked)
    assert words.startswith("engine vmap: dense: it knows neither momentum")
    convolution = nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(8, 2)
    ).double()
    words = fedavg.explain(convolution, split, **asked)
    assert words.startswith("engine loop: dense: ")
    assert "convolutions" in words


@pytest.mark.parametrize("pair", [(1, 2), (1, 3), (2, 3)])
def test_groups_change_nothing_but_rounding(pair, monkeypatch):
    model, split = federation("frozen", 2)
    left, right = (
        run(model, split, built(model, split, group=size), monkeypatch) for size in pair
    )
    assert_same(left, right)
