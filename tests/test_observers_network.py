"""Observers of gates, margins and features, and what an observer must return."""

import math

import pytest
import torch
from federations import federation
from networks import Recurrent
from test_observers import outputs, states, values, watched
from torch.testing import assert_close

import ntk_fed as nf
from ntk_fed import features, fedavg
from ntk_fed.activations import activation_pattern
from ntk_fed.params import frozen_state, trainable

RUN = {"rounds": 6, "local_steps": 3, "step_size": 0.1}


def gates(params, x):
    z = torch.nn.functional.linear(x, params["first.weight"], params["first.bias"])
    return z > 0


def hidden(params, x):
    z = torch.nn.functional.linear(x, params["first.weight"], params["first.bias"])
    return torch.relu(z)


# Flips of each client


def test_a_clients_own_flips_are_counted_at_every_step_and_layer(seed):
    model, split = federation(seed)
    rows = watched(model, split, [nf.observers.flips(model, split)], steps=True)
    items = fedavg.rounds(model, split, steps=True, **RUN)
    item = next(
        i
        for i in items
        if isinstance(i, fedavg.LocalStep) and (i.round, i.step) == (4, 2)
    )
    here = rows[(rows["round"] == 5) & (rows["step"] == 2)]
    for client in range(3):
        x, own = split.client(client)[0], item.locals.client(client)
        for quantity, other in (
            ("local flips since start", trainable(model)),
            ("local flips since round start", item.start),
        ):
            expected = (gates(own, x) != gates(other, x)).double().mean().item()
            assert values(here, quantity, client=client)[5] == expected
    assert values(here, "local flips since start", client=1)[5] > 0


def test_flips_by_layer_pool_to_the_total():
    data = nf.data.load("sphere", n=12, targets="sign")
    split = nf.data.partition(data, "iid", clients=2)
    model = nf.models.MLP([16, 8, 24, 1], seed=0)
    watch = [nf.observers.flips(model, split)]
    rows = watched(model, split, watch, rounds=3, step_size=1.0)
    own = rows[(rows["quantity"] == "local flips since start") & (rows["client"] == 1)]
    own = own[own["round"] == 3]
    total = own[own["layer"].isna()]["value"].item()
    one, two = own[own["layer"].notna()]["value"]
    assert total == pytest.approx((8 * one + 24 * two) / 32)
    assert total > 0


def test_equal_models_have_no_flips(seed):
    model, split = federation(seed)
    watch = nf.observers.flips(model, split)
    moment = next(iter(fedavg.rounds(model, split, **{**RUN, "step_size": 1e-300})))
    assert all(row.value == 0 for row in watch(moment) if "bound" not in row.quantity)


def test_flips_of_a_subset_are_an_estimate():
    """30 draws of 16 samples of 40; 21 at least hold the truth (coverage 0.9: 1e-3)."""
    data = nf.data.load("sphere", n=40, targets="sign")
    split = nf.data.partition(data, "iid", clients=2)
    model = nf.models.MLP([16, 64, 1], seed=0)
    *_, last = fedavg.rounds(model, split, **{**RUN, "step_size": 4.0})

    def row(client, **more):
        quantity = "local flips since start" if client else "flips since start"
        watch = nf.observers.flips(model, split, **more)
        found = [r for r in watch(last) if (r.quantity, r.client) == (quantity, client)]
        return found[0]

    for client, samples in ((None, 16), (1, 10)):
        truth = row(client)
        assert truth.status is None
        parts = [row(client, samples=samples, seed=s) for s in range(30)]
        assert sum(p.lower <= truth.value <= p.upper for p in parts) >= 21
        assert {p.status for p in parts} == {"estimate"}
    assert row(None, samples=40) == row(None)


# Margins


def test_margin_quantiles_are_those_of_the_formula(seed):
    model, split = federation(seed)
    levels = (0.05, 0.5)
    watch = [nf.observers.margins(model, split, quantiles=levels)]
    rows = watched(model, split, watch)
    params = states(model, split, **RUN)[6]
    x = torch.cat([split.client(i)[0] for i in range(3)])
    # The bias is trained: one more weight, on an input of 1.
    x = torch.nn.functional.pad(x, (0, 1), value=1.0)
    w = torch.cat([params["first.weight"], params["first.bias"][:, None]], dim=1)
    distance = (x @ w.T).abs() / x.norm(dim=1)[:, None]
    angle = distance / w.norm(dim=1)
    for name, of in (("distance", distance), ("angle", angle)):
        for level in levels:
            found = values(rows, f"margin {name} (quantile {level})")[6]
            expected = torch.quantile(of.flatten(), level).item()
            assert found == pytest.approx(expected, rel=1e-12)
    assert set(rows["layer"]) == {"first.weight"}
    assert rows["lower"].isna().all()


def test_margins_of_a_subset_hold_the_whole():
    data = nf.data.load("sphere", n=40, targets="sign")
    split = nf.data.partition(data, "iid", clients=2)
    model = nf.models.MLP([16, 32, 1], seed=0)
    first = next(iter(fedavg.rounds(model, split, **RUN)))

    def row(**more):
        watch = nf.observers.margins(model, split, quantiles=(0.1,), **more)
        return next(iter(watch(first)))

    truth = row()
    parts = [row(samples=16, seed=s) for s in range(30)]
    assert sum(p.lower <= truth.value <= p.upper for p in parts) >= 21
    assert all(p.lower < p.value < p.upper for p in parts)


def test_margins_need_a_dense_layer_before_a_relu(seed):
    _, split = federation(seed)
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 3), torch.nn.LayerNorm(3), torch.nn.ReLU(),
        torch.nn.Linear(3, 1),
    ).double()  # fmt: skip
    with pytest.raises(nf.errors.NoGatesError, match="margins are not defined"):
        nf.observers.margins(model, split)
    model, split = federation(seed)
    with pytest.raises(ValueError, match=r"quantiles must lie in \(0, 1\)"):
        nf.observers.margins(model, split, quantiles=(1.0,))


# Features


class Written(torch.nn.Module):
    """A last layer written in several ways."""

    def __init__(self, way):
        super().__init__()
        self.first, self.way = torch.nn.Linear(4, 6), way
        self.head = torch.nn.Parameter(torch.ones(6, 2))

    def forward(self, x):
        return self.way(torch.tanh(self.first(x)), self.head)


WAYS = {
    "linear": lambda h, w: torch.nn.functional.linear(h, w.T),
    "linear by name": lambda h, w: torch.nn.functional.linear(input=h, weight=w.T),
    "@": lambda h, w: h @ w,
    "matmul": torch.matmul,
    "method": lambda h, w: h.matmul(w),
    "mm": torch.mm,
    "mm method": lambda h, w: h.mm(w),
    "addmm": lambda h, w: torch.addmm(torch.zeros(2).double(), h, w),
    "mv": lambda h, w: torch.mv(h, w[:, 0])[:, None],
}


@pytest.mark.parametrize("way", WAYS)
def test_features_are_found_however_the_last_layer_is_written(way, generator):
    model = Written(WAYS[way]).double()
    x = torch.randn(5, 4, dtype=torch.float64, generator=generator)
    params = trainable(model)
    found = features.last_features(model, params, frozen_state(model), x)
    expected = torch.tanh(model.first(x)).detach()
    assert_close(found, expected)


def test_features_of_our_models_and_a_recurrent_one(generator):
    x = torch.randn(5, 6, dtype=torch.float64, generator=generator)
    two = nf.models.TwoLayerReLU(6, 9, seed=0)
    shared = nf.models.SharedRepresentation(6, 2, step_size=0.25)
    recurrent = Recurrent().double()
    state = recurrent.cell(x.reshape(5, 3, 2))[0][:, -1].detach()
    for model, expected in (
        (two, torch.relu(x @ two.weight.T).detach()),
        (shared, (x @ shared.representation).detach()),
        (recurrent, state),
    ):
        found = features.last_features(model, trainable(model), frozen_state(model), x)
        assert_close(found, expected)
    scale = torch.nn.LayerNorm(6).double()
    with pytest.raises(nf.errors.ShapeMismatchError, match="Give features="):
        features.last_features(scale, trainable(scale), {}, x)


def classified(seed):
    """A federation whose samples have classes, and a network with two outputs."""
    model, split = federation(seed, outputs=2)
    data = nf.data.Dataset(
        split.dataset.x, split.dataset.y, classes=torch.arange(10) % 3
    )
    return model, nf.data.Partition(data, split.indices)


@pytest.mark.parametrize("own", [False, True])
def test_feature_cosines_are_means_over_pairs(own, seed):
    model, split = classified(seed)
    options = {"features": hidden} if own else {}
    rows = watched(
        model, split, [nf.observers.feature_cosines(model, split, **options)]
    )
    found = hidden(states(model, split, **RUN)[4], split.dataset.x)
    labels = split.dataset.labels.tolist()
    pairs = {"same class": [], "different class": []}
    for i in range(10):
        for j in range(10):
            if i != j:
                kind = "same class" if labels[i] == labels[j] else "different class"
                a, b = found[i], found[j]
                pairs[kind].append((a @ b / a.norm() / b.norm()).item())
    for kind, cosines in pairs.items():
        expected = sum(cosines) / len(cosines)
        measured = values(rows, f"feature cosine ({kind})")[4]
        assert measured == pytest.approx(expected, rel=1e-12)
    assert set(values(rows, "samples without features").values()) == {0.0}


def test_samples_without_features_are_left_out_and_counted(seed):
    model, split = classified(seed)

    def dead(params, x):
        found = hidden(params, x)
        found[3] = 0
        return found

    first = next(iter(fedavg.rounds(model, split, **RUN)))
    watch = nf.observers.feature_cosines(model, split, features=dead)
    rows = {r.quantity: r.value for r in watch(first) if r.round == 0}
    assert rows["samples without features"] == 1
    keep = [i for i in range(10) if i != 3]
    h = hidden(first.start, split.dataset.x)[keep]
    h = h / h.norm(dim=1, keepdim=True)
    labels = split.dataset.labels[keep]
    apart = labels[:, None] != labels
    expected = (h @ h.T)[apart].mean().item()
    assert rows["feature cosine (different class)"] == pytest.approx(expected)


@pytest.mark.parametrize("size", [1e-24, 1e20])
def test_cosines_do_not_see_the_size_of_features(size):
    """In float32, whose squares of these are 0 and infinite."""
    rows = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    plain = features.cosine_totals(rows, labels, 6)
    found = features.cosine_totals(size * rows, labels, 6)
    for name, (total, count) in plain.items():
        assert_close(found[name][0].value, total.value, rtol=1e-5, atol=0.0)
        assert found[name][1].value == count.value


def test_cosines_of_a_subset_hold_the_whole():
    data = nf.data.load("digits", n=80, targets="sign")
    split = nf.data.partition(data, "iid", clients=2)
    model = nf.models.MLP([64, 24, 1], seed=0)
    first = next(
        iter(fedavg.rounds(model, split, rounds=1, local_steps=1, step_size=0.1))
    )

    def row(**more):
        watch = nf.observers.feature_cosines(model, split, **more)
        return next(r for r in watch(first) if "different" in r.quantity)

    truth = row()
    parts = [row(samples=30, seed=s) for s in range(30)]
    assert sum(p.lower <= truth.value <= p.upper for p in parts) >= 21


def test_labels_and_features_of_the_wrong_shape_are_refused(seed):
    model, split = classified(seed)
    with pytest.raises(nf.errors.ShapeMismatchError, match="one per sample"):
        nf.observers.feature_cosines(model, split, labels=torch.zeros(3, dtype=int))
    watch = nf.observers.feature_cosines(model, split, features=lambda params, x: x[0])
    with pytest.raises(nf.errors.ShapeMismatchError, match=r"return a tensor \(n, q\)"):
        watched(model, split, [watch])
    _, plain = federation(seed)
    with pytest.raises(ValueError, match="no class labels"):
        nf.observers.feature_cosines(model, plain)


@pytest.mark.parametrize("angle", [1e-9, 0.3, math.pi / 2])
def test_a_planted_angle_is_found(angle, generator):
    q = torch.linalg.qr(torch.randn(9, 4, dtype=torch.float64, generator=generator)).Q
    left = q[:, :2]
    turned = math.cos(angle) * q[:, 0] + math.sin(angle) * q[:, 2]
    right = torch.stack([turned, q[:, 1]], dim=1)
    mixed = right @ torch.tensor([[2.0, 1.0], [0.0, 3.0]], dtype=torch.float64)
    found = features.principal_angles(left, mixed)
    assert found[0].item() == pytest.approx(angle, rel=1e-6)
    assert found[1].item() == pytest.approx(0, abs=1e-12)


def test_a_leading_space_is_that_of_the_largest_singular_values(generator):
    u = torch.linalg.qr(torch.randn(8, 3, dtype=torch.float64, generator=generator)).Q
    phi = u * torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64)
    space, gap = features.leading_space(phi, 2)
    assert features.principal_angles(space, u[:, :2])[0] < 1e-7
    assert gap == pytest.approx(0.5)
    assert features.leading_space(phi, 3)[1] == 1
    assert math.isnan(features.leading_space(phi[:, :2] @ phi[:2, :], 3)[1])
    with pytest.raises(ValueError, match="rank must be from 1 to 3"):
        features.leading_space(phi, 4)


def test_feature_angles_against_products_of_bases(seed):
    model, split = federation(seed)
    watch = [nf.observers.feature_angles(model, split, rank=2)]
    rows = watched(model, split, watch, steps=True)
    items = list(fedavg.rounds(model, split, steps=True, **RUN))
    x = split.dataset.x

    def space(params):
        return torch.linalg.svd(hidden(params, x)).U[:, :2]

    def angles(a, b):
        return torch.linalg.svdvals(space(a).T @ space(b)).clamp(max=1).acos()

    end = [i for i in items if isinstance(i, fedavg.Round)][4]
    expected = angles(trainable(model), end.params)
    found = values(rows, "feature angle since start (largest)")
    # arccos near 1 keeps half the digits, the observer's sines all of them
    assert found[0] == pytest.approx(0, abs=1e-14)
    assert found[5] == pytest.approx(expected.max().item(), abs=1e-7)
    assert found[5] > 1e-3
    rms = values(rows, "feature angle since start (rms)")[5]
    assert rms == pytest.approx(expected.square().mean().sqrt().item(), abs=1e-7)
    item = next(
        i
        for i in items
        if isinstance(i, fedavg.LocalStep) and (i.round, i.step) == (4, 3)
    )
    middle = {
        k: (item.weights @ v.flatten(1)).reshape(v.shape[1:])
        for k, v in item.locals.items()
    }
    here = rows[(rows["round"] == 5) & (rows["step"] == 3)]
    for client in range(3):
        expected = angles(item.locals.client(client), middle).max().item()
        quantity = "feature angle local-averaged (largest)"
        own = values(here, quantity, client=client)[5]
        assert own == pytest.approx(expected, abs=1e-7)


def test_a_rotation_of_the_features_is_no_angle(generator):
    """Negative control beside it: one more direction of the data is an angle."""
    x = torch.randn(20, 6, dtype=torch.float64, generator=generator)
    y = x[:, :1].clone()
    split = nf.data.Partition(nf.data.Dataset(x, y), [torch.arange(20)])
    model = nf.models.SharedRepresentation(6, 2, step_size=1.0)
    start = trainable(model)
    turn = torch.tensor([[0.6, 0.8], [-0.8, 0.6]], dtype=torch.float64)
    item = next(
        iter(fedavg.rounds(model, split, rounds=1, local_steps=1, step_size=0.1))
    )
    watch = nf.observers.feature_angles(model, split, rank=2)

    def largest(representation):
        params = {**start, "representation": representation}
        moment = fedavg.Round(
            1, params, item.locals, params, item.clients, item.weights, True
        )
        return next(r.value for r in watch(moment) if "since start" in r.quantity)

    b = start["representation"]
    assert largest(b @ turn) < 1e-7
    moved = b.clone()
    moved[:, 0] = torch.linalg.qr(torch.eye(6).double() - b @ b.T).Q[:, 0]
    assert largest(moved) > 0.5


# A user's own observer


def by_list(moment):
    if isinstance(moment, fedavg.LocalStep):
        return []
    return [nf.Row(moment.index + 1, None, None, None, "one", 1.0)]


def by_yield(moment):
    if isinstance(moment, fedavg.Round):
        yield nf.Row(moment.index + 1, None, None, None, "one", 1.0)


class ByObject:
    def __call__(self, moment):
        return tuple(by_list(moment))


@pytest.mark.parametrize(
    "own", [by_list, by_yield, ByObject(), lambda m: iter(by_list(m))]
)
def test_ones_own_observer_may_be_any_function_that_gives_rows(own, seed):
    model, split = federation(seed)
    rows = watched(model, split, [own], steps=True)
    assert values(rows, "one") == dict.fromkeys(range(1, 7), 1.0)


ROW = nf.Row(1, None, None, None, "one", 1.0)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (None, "iterable of Row .* got NoneType. Return"),
        (1.0, "got float"),
        (ROW, "got a single Row"),
        ([tuple(ROW)], r"must give rows nf.Row\(.* got tuple"),
        ("loss", "got str 'l'"),
        ({"loss": 1.0}, "got str 'loss'"),
        ([ROW._replace(value="1")], "'one' a value of type str"),
        ([ROW._replace(value=torch.ones(()))], r"of type Tensor; .* Use .item\(\)"),
    ],
)
def test_what_is_no_row_is_refused_by_name(found, message, seed):
    model, split = federation(seed)

    def mistaken(moment):
        return found

    with pytest.raises(ValueError, match=message) as caught:
        watched(model, split, [mistaken])
    assert "mistaken" in str(caught.value)


def test_numbers_of_numpy_and_integers_are_numbers(seed):
    model, split = federation(seed)
    flat = outputs(model, trainable(model), split.dataset.x).flatten()
    number = flat.numpy()[0]

    def own(moment):
        return [ROW._replace(value=number), ROW._replace(quantity="two", value=2)]

    rows = watched(model, split, [own])
    assert set(rows[rows["quantity"] == "one"]["value"]) == {float(number)}
    assert set(rows[rows["quantity"] == "two"]["value"]) == {2.0}


# Statuses


def test_patterns_say_which_samples_flipped(seed):
    model, split = federation(seed)
    x = split.dataset.x
    path = states(model, split, **RUN)
    one, two = (activation_pattern(model, x, params=p) for p in (path[0], path[6]))
    expected = (gates(path[0], x) != gates(path[6], x)).sum(dim=1)
    assert torch.equal(one.flips_by_sample(two)["first.weight"], expected)
