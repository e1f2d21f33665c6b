"""What is more than plain averaging: rules of the server, schedules, exact solves."""

import math

import pytest
import torch
from federations import federation
from torch.testing import assert_close

import ntk_fed as nf
from ntk_fed import fedavg, seeds
from ntk_fed.data import Dataset, Partition
from ntk_fed.errors import PartitionError, UnknownNameError
from ntk_fed.fedavg import schedules
from ntk_fed.params import trainable

# Sums of a few dozen float64 products of order one.
CLOSE = {"rtol": 1e-12, "atol": 1e-13}


def rounds_of(model, split, **options):
    given = {"rounds": 4, "local_steps": 3, "step_size": 0.1} | options
    return list(fedavg.rounds(model, split, **given))


def linear(seed, n, d, clients, noise=0.0):
    """A linear model at zero and data with consistent labels, up to noise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        x = torch.randn(n, d, dtype=torch.float64)
        y = x @ torch.randn(d, 1, dtype=torch.float64) + noise * torch.randn(n, 1)
    split = nf.data.partition(Dataset(x, y.double()), "iid", clients=clients)
    return nf.models.Linear(d), split


@pytest.mark.parametrize("weights", ["samples", "uniform"])
def test_fedexp_is_its_formula(weights, seed):
    model, split = federation(seed, outputs=2)
    for item in rounds_of(model, split, rule="fedexp", weights=weights):
        w = split.weights(weights)
        moved = [
            torch.cat([(own[k] - item.start[k]).flatten() for k in own])
            for own in (item.locals.client(i) for i in range(split.clients))
        ]
        mean = sum(a * m for a, m in zip(w, moved, strict=True))
        size = sum(a * m.square().sum() for a, m in zip(w, moved, strict=True))
        factor = max(1.0, float(size / (2 * mean.square().sum())))
        step = torch.cat(
            [(item.params[k] - item.start[k]).flatten() for k in item.start]
        )
        assert_close(step, factor * mean, **CLOSE)


def test_fedexp_extrapolates_where_clients_are_orthogonal():
    """Four clients that move alike in four directions: Σ w‖Δ‖² = 4 ‖Δ̄‖², factor 2."""
    x = torch.eye(4, dtype=torch.float64)
    split = Partition(
        Dataset(x, torch.ones(4, 1, dtype=torch.float64)),
        [torch.tensor([i]) for i in range(4)],
    )
    model = nf.models.Linear(4)
    plain, far = (
        rounds_of(model, split, rounds=1, rule=rule)[0].params["weight"]
        for rule in ("average", "fedexp")
    )
    assert_close(far, 2 * plain, **CLOSE)


def test_fedexp_of_identical_clients_is_plain_averaging():
    model, split = federation(0, clients=(range(10),))
    left, right = (
        rounds_of(model, split, rule=rule)[-1].params for rule in ("average", "fedexp")
    )
    for name, value in left.items():
        assert torch.equal(value, right[name])


def test_the_anchored_rule_is_its_formula(seed):
    model, split = federation(seed)
    origin = {name: v.detach().clone() for name, v in model.named_parameters()}
    for item in rounds_of(model, split, rule="anchored"):
        alpha = 1 / (item.index + 2)
        w = split.weights("samples")
        for name, value in item.params.items():
            mean = torch.tensordot(w, item.locals[name], dims=1)
            expected = (1 - alpha) * mean + alpha * origin[name]
            assert_close(value, expected, **CLOSE)


def test_an_anchored_run_goes_on_to_its_own_beginning():
    """Interrupted after two rounds, by a run that asks for two: bit for bit."""
    model, split = federation(0)
    options = {"local_steps": 2, "step_size": 0.1, "rule": "anchored"}
    whole = list(fedavg.rounds(model, split, rounds=4, **options))
    half = whole[1].params
    begun = trainable(model)
    rest = list(
        fedavg.rounds(
            model, split, rounds=2, first=2, params=half, anchor=begun, **options
        )
    )
    other = list(fedavg.rounds(model, split, rounds=2, first=2, params=half, **options))
    for name, value in whole[-1].params.items():
        assert torch.equal(rest[-1].params[name], value)
    assert any(
        not torch.equal(other[-1].params[name], value)
        for name, value in whole[-1].params.items()
    ), "the anchor has no effect"


def test_schedules(seed):
    """A constant schedule is a number; a changing one is a run of single rounds."""
    model, split = federation(seed)
    left = rounds_of(model, split, step_size=lambda round, step: 0.1)
    for a, b in zip(left, rounds_of(model, split), strict=True):
        for name in a.params:
            assert torch.equal(a.params[name], b.params[name])
    power = schedules.Power(0.2, 0.5)
    params = None
    found = rounds_of(model, split, step_size=power)
    for t, item in enumerate(found):
        size = 0.2 / math.sqrt(1 + t)
        alone = rounds_of(
            model, split, rounds=1, first=t, step_size=size, params=params
        )[0]
        params = alone.params
        for name in params:
            assert_close(item.params[name], params[name], **CLOSE)
    assert schedules.Milestones(1.0, (2, 4), 0.5)(1, 0) == 1.0
    assert schedules.Milestones(1.0, (2, 4), 0.5)(4, 3) == 0.25


def test_step_sizes_within_a_round(seed):
    """Two local steps of unlike size are two rounds of one, with a single client."""
    model, split = federation(seed, clients=(range(10),))
    sizes = [0.2, 0.05]
    inside = rounds_of(
        model, split, rounds=1, local_steps=2, step_size=lambda t, k: sizes[k]
    )
    apart = rounds_of(
        model, split, rounds=2, local_steps=1, step_size=lambda t, k: sizes[t]
    )
    for name, value in inside[-1].params.items():
        assert_close(value, apart[-1].params[name], **CLOSE)


def test_epochs_are_as_many_steps_as_samples_ask_for(seed):
    """Three, six and one samples, two at a time, twice: 4, 6 and 2 steps."""
    model, split = federation(seed)
    options = {"batch_size": 2, "seed": 3}
    left = rounds_of(model, split, local_steps=None, local_epochs=2, **options)
    right = rounds_of(model, split, local_steps=[4, 6, 2], **options)
    for name, value in left[-1].params.items():
        assert torch.equal(value, right[-1].params[name])


def test_draws_with_replacement_repeat_samples():
    generator = torch.Generator().manual_seed(0)
    found = fedavg.work.batches(5, 5, 200, generator, replacement=True)
    assert any(len(batch.unique()) < 5 for batch in found)
    counts = torch.bincount(torch.cat(found), minlength=5)
    # 1000 draws of five: standard deviation 12.6 about 200; six of them.
    assert (counts - 200).abs().max() < 76


@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_minibatch_sgd_takes_every_gradient_at_the_start(engine, seed):
    """One round by hand: θ_i − θ = −η Σ_k ∇F_i(θ; batch k)."""
    model, split = federation(seed)
    options = {"batch_size": 2, "seed": 1, "rounds": 1, "local_steps": 3}
    item = rounds_of(model, split, local="minibatch", engine=engine, **options)[0]
    objective = fedavg.Objective.of(model)
    for i in range(split.clients):
        x, y = split.client(i)
        stream = seeds.generator(1, "minibatches", 0, i)
        total = {name: torch.zeros_like(value) for name, value in item.start.items()}
        for batch in fedavg.work.batches(len(x), 2, 3, stream):
            own = (x, y) if batch is None else (x[batch], y[batch])
            for name, value in objective.gradient(item.start, *own).items():
                total[name] += value
        for name, value in item.locals.client(i).items():
            assert_close(value, item.start[name] - 0.1 * total[name], **CLOSE)


def test_momentum_and_decay_are_those_of_torch(seed):
    """A single client in one round is torch's own optimiser."""
    model, split = federation(seed, clients=(range(10),))
    options = {"momentum": 0.8, "weight_decay": 0.3}
    found = rounds_of(model, split, rounds=1, local_steps=5, **options)[0].params
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=0.1, **options)
    x, y = split.client(0)
    for _ in range(5):
        optimiser.zero_grad()
        ((model(x) - y).square().sum() / 2 / len(x)).backward()
        optimiser.step()
    for name, value in model.named_parameters():
        if value.requires_grad:
            assert_close(found[name], value.detach(), **CLOSE)


@pytest.mark.parametrize("bias", [False, True])
def test_an_exact_solve_is_the_limit_of_many_steps(bias, seed):
    """Inputs of a client orthogonal, of length 2: its kernel over n_i is 1, or less."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        frames = torch.linalg.qr(torch.randn(3, 6, 4, dtype=torch.float64)).Q
        x = 2 * frames.mT.reshape(12, 6)
        y = torch.randn(12, 1, dtype=torch.float64)
    split = Partition(Dataset(x, y), list(torch.arange(12).split(4)))
    model = nf.models.Linear(6, bias=bias)
    exact = rounds_of(model, split, rounds=2, local_steps=1, local="exact")[-1]
    long = rounds_of(model, split, rounds=2, local_steps=200, step_size=0.5)[-1]
    for name, value in exact.params.items():
        assert_close(value, long.params[name], rtol=0.0, atol=1e-10)  # 2^-200


def test_exact_solves_without_noise_fit_each_client(seed):
    model, split = linear(seed, 20, 30, 4)
    item = rounds_of(model, split, rounds=1, local_steps=1, local="exact")[0]
    for i in range(split.clients):
        x, y = split.client(i)
        assert_close(x @ item.locals.client(i)["weight"].T, y, rtol=0, atol=1e-10)
        # The nearest solution: what it moved lies in the span of the client's inputs.
        moved = item.locals.client(i)["weight"]
        seen = torch.linalg.pinv(x) @ (x @ moved.T)
        assert_close(moved.T, seen, rtol=0, atol=1e-10)


def test_exact_margins_are_projections(seed):
    """By what characterises them: feasible, and moved by active samples only."""
    data = nf.data.load("separable", n=40, dimension=12, targets="sign", seed=seed)
    split = nf.data.partition(data, "iid", clients=4)
    model = nf.models.Linear(12, initial="normal", seed=seed)
    options = {"local_steps": 1, "local": "exact", "loss": "squared-hinge"}
    item = rounds_of(model, split, rounds=1, **options)[0]
    for i in range(split.clients):
        x, y = split.client(i)
        a = y * x
        moved = item.locals.client(i)["weight"] - item.start["weight"]
        margins = (a @ item.locals.client(i)["weight"].T).flatten()
        assert margins.min() >= 1 - 1e-9
        active = a[margins < 1 + 1e-7]
        multipliers = torch.linalg.lstsq(active.T, moved.T).solution
        assert_close(active.T @ multipliers, moved.T, rtol=0, atol=1e-8)
        assert multipliers.min() >= -1e-8


def test_a_client_that_is_no_separable_is_named():
    x = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
    y = torch.tensor([[1.0], [-1.0], [1.0]], dtype=torch.float64)
    split = Partition(Dataset(x, y), [torch.tensor([0]), torch.tensor([1, 2])])
    run = {"local_steps": 1, "local": "exact", "loss": "squared-hinge"}
    with pytest.raises(PartitionError, match="client 1 has no parameters"):
        rounds_of(nf.models.Linear(1), split, **run)


def test_the_anchored_rule_finds_the_projection_and_averaging_does_not():
    """THEORY section 5: plain averaging of projections stalls at a feasible point.

    Two half planes whose normals are 60 degrees apart. Averaging with unequal weights
    meets one boundary first and then only walks to the other; the point nearest to the
    start is their corner.
    """
    u = [math.cos(math.pi / 3), math.sin(math.pi / 3)]
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], u], dtype=torch.float64)
    data = Dataset(x, torch.ones(4, 1, dtype=torch.float64))
    split = Partition(data, [torch.tensor([0, 1, 2]), torch.tensor([3])])
    whole = Partition(data, [torch.arange(4)])
    options = {"local_steps": 1, "local": "exact", "loss": "squared-hinge"}
    corner = torch.tensor([[1.0, math.tan(math.pi / 6)]], dtype=torch.float64)
    model = nf.models.Linear(2)
    nearest = rounds_of(model, whole, rounds=1, **options)[0].params["weight"]
    assert_close(nearest, corner, **CLOSE)
    gaps = {}
    for rule in ("average", "anchored"):
        run = rounds_of(model, split, rounds=400, rule=rule, **options)
        gaps[rule] = [
            float((run[t - 1].params["weight"] - corner).norm()) for t in (100, 400)
        ]
    stalled, decaying = gaps["average"], gaps["anchored"]
    assert stalled[1] > 0.1
    assert stalled[1] > 0.999 * stalled[0], "averaging is to have stopped"
    # Halpern's iteration is as far off as 1/t: a quarter after four times the rounds.
    assert decaying[1] < 0.3 * decaying[0]
    assert decaying[1] < 0.1 * stalled[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"local_steps": None}, "give local_steps or local_epochs"),
        ({"local_epochs": 2}, "give local_steps or local_epochs"),
        ({"local_steps": [1, 2]}, "2 entries for 3 clients"),
        ({"local_steps": [1, 2, 0]}, "local_steps must be at least 1"),
        ({"momentum": 1.0}, "momentum must be in"),
        ({"weight_decay": -1.0}, "weight_decay must be"),
        ({"replacement": True}, "replacement=True needs batch_size"),
        ({"local_steps": [1, None, 2]}, "local_steps must be an integer, got None"),
        ({"participation": 0.0}, "participation must be in"),
        ({"step_size": lambda t, k: 0.0}, "step_size must give a number above 0"),
        ({"local": "exact", "local_steps": 1}, "solves linear models in closed form"),
        ({"local": "exact"}, "local_steps has no"),
        ({"engine": "dense", "momentum": 0.5}, "cannot run this"),
    ],
)
def test_bad_options_are_refused_by_name(options, words):
    model, split = federation(0)
    with pytest.raises(ValueError, match=words):
        rounds_of(model, split, **options)


def test_two_outputs_have_no_margin_sets():
    _, split = linear(0, 6, 3, 2)
    y = split.dataset.y.sign().expand(-1, 2)
    split = Partition(Dataset(split.dataset.x, y), split.indices)
    run = {"local_steps": 1, "local": "exact", "loss": "squared-hinge"}
    with pytest.raises(ValueError, match="one output"):
        rounds_of(nf.models.Linear(3, 2), split, **run)


def test_margins_of_tiny_inputs_are_found():
    """Far projections are no sign of data that cannot be separated."""
    data = nf.data.load("separable", n=12, dimension=6, targets="sign", seed=0)
    run = {"local_steps": 1, "local": "exact", "loss": "squared-hinge", "rounds": 1}
    near, far = (
        rounds_of(
            nf.models.Linear(6),
            Partition(Dataset(scale * data.x, data.y), [torch.arange(12)]),
            **run,
        )[0].params["weight"]
        for scale in (1.0, 1e-8)
    )
    assert_close(far * 1e-8, near, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("name", ["rule", "local", "engine", "loss"])
def test_unknown_names(name):
    model, split = federation(0)
    with pytest.raises(UnknownNameError, match=name):
        rounds_of(model, split, **{name: "averag"})
