"""FedAvg: its laws, its randomness, and its refusals."""

import itertools

import pytest
import torch
from federations import UNEQUAL, federation
from torch import nn
from torch.testing import assert_close

from ntk_fed import fedavg
from ntk_fed.data import Dataset, Partition
from ntk_fed.errors import NotPerSampleError, ShapeMismatchError, UnknownNameError
from ntk_fed.fedavg import server
from ntk_fed.fedavg.work import batches
from ntk_fed.params import trainable

# A dozen float64 additions of order one apart.
ROUNDING = {"rtol": 0.0, "atol": 1e-14}


def descend(model, split, steps, step_size, weights=None):
    """Obviously right: gradient descent on Σ w_i F_i by autograd on a copy."""
    values = {k: v.clone().requires_grad_() for k, v in trainable(model).items()}
    w = split.weights("samples") if weights is None else weights
    for _ in range(steps):
        loss = 0.0
        for i, weight in enumerate(w.tolist()):
            x, y = split.client(i)
            gap = torch.func.functional_call(model, values, (x,)) - y
            loss = loss + weight * gap.square().sum() / 2 / len(x)
        found = torch.autograd.grad(loss, list(values.values()))
        values = {
            k: (v - step_size * g).detach().requires_grad_()
            for (k, v), g in zip(values.items(), found, strict=True)
        }
    return values


def last(iterator):
    *_, item = iterator
    return item


def assert_same(left, right, **tolerance):
    assert list(left) == list(right)
    for name, value in left.items():
        assert_close(value, right[name].detach(), **(tolerance or ROUNDING))


@pytest.mark.parametrize("outputs", [1, 2])
def test_one_client_is_gradient_descent(outputs, seed):
    model, split = federation(seed, outputs, clients=(range(10),))
    run = fedavg.rounds(model, split, rounds=3, local_steps=4, step_size=0.1)
    assert_same(last(run).params, descend(model, split, 12, 0.1))


@pytest.mark.parametrize("weights", ["samples", "uniform"])
def test_one_local_step_is_gradient_descent_on_the_weighted_loss(weights, seed):
    model, split = federation(seed)
    run = fedavg.rounds(
        model, split, rounds=5, local_steps=1, step_size=0.1, weights=weights
    )
    expected = descend(model, split, 5, 0.1, split.weights(weights))
    assert_same(last(run).params, expected)


def test_two_local_steps_are_not_gradient_descent(seed):
    """Negative control: with unlike clients the law above has to break at K = 2."""
    model, split = federation(seed)
    run = fedavg.rounds(model, split, rounds=1, local_steps=2, step_size=0.1)
    expected = descend(model, split, 2, 0.1)
    gaps = [(v - expected[k]).abs().max() for k, v in last(run).params.items()]
    assert max(gaps) > 1e-6


def test_a_round_is_every_client_alone_and_then_the_average(seed):
    """The definition, client by client, on data sets of their own."""
    model, split = federation(seed, outputs=2)
    options = {"local_steps": 3, "step_size": 0.1}
    found = last(fedavg.rounds(model, split, rounds=1, server_step_size=0.7, **options))
    start, expected = trainable(model), {}
    ends = []
    for i in range(split.clients):
        alone = Partition(Dataset(*split.client(i)), [torch.arange(split.sizes[i])])
        ends.append(descend(model, alone, 3, 0.1))
    for name, value in start.items():
        moves = [
            size / 10 * (end[name] - value)
            for size, end in zip(split.sizes, ends, strict=True)
        ]
        expected[name] = value + 0.7 * sum(moves)
    assert_same(found.params, expected)
    for i, end in enumerate(ends):
        assert_same(found.locals.client(i), end)
        assert_same({k: v[i] for k, v in found.locals.items()}, end)


def test_the_order_of_clients_does_not_matter(seed):
    model, split = federation(seed)
    turned = Partition(split.dataset, split.indices[::-1])
    options = {"rounds": 3, "local_steps": 3, "step_size": 0.1}
    there = last(fedavg.rounds(model, split, **options)).params
    assert_same(last(fedavg.rounds(model, turned, **options)).params, there)


@pytest.mark.parametrize("weights", ["samples", "uniform"])
def test_an_empty_client_sends_nothing_and_keeps_its_weight(weights, seed):
    model, split = federation(seed, clients=([*UNEQUAL, []]))
    options = {"rounds": 1, "local_steps": 2, "step_size": 0.1}
    found = last(fedavg.rounds(model, split, weights=weights, **options))
    assert found.weights.tolist()[3] == (0.0 if weights == "samples" else 0.25)
    assert_same(found.locals.client(3), trainable(model))
    without, other = federation(seed)
    expected = last(fedavg.rounds(without, other, weights=weights, **options))
    scale = 1.0 if weights == "samples" else 3 / 4
    start = trainable(model)
    for name, value in found.params.items():
        moved = expected.params[name] - start[name]
        assert_close(value, start[name] + scale * moved, **ROUNDING)


def test_items_come_in_order_and_steps_change_nothing(seed):
    model, split = federation(seed)
    options = {"rounds": 3, "local_steps": 2, "step_size": 0.1}
    plain = list(fedavg.rounds(model, split, **options))
    watched = list(fedavg.rounds(model, split, steps=True, **options))
    assert [r.index for r in plain] == [0, 1, 2]
    kinds = [
        (i.round, i.step) if isinstance(i, fedavg.LocalStep) else i.index
        for i in watched
    ]
    assert kinds == [(0, 1), (0, 2), 0, (1, 1), (1, 2), 1, (2, 1), (2, 2), 2]
    for a, b in zip(plain, watched[2::3], strict=True):
        assert_same(a.params, b.params, rtol=0.0, atol=0.0)
    for step, item in zip(watched[1::3], watched[2::3], strict=True):
        assert_same(step.locals.client(1), item.locals.client(1), rtol=0.0, atol=0.0)
    for before, after in itertools.pairwise(plain):
        assert_same(before.params, after.start, rtol=0.0, atol=0.0)


def test_what_was_yielded_is_never_changed_later(seed):
    model, split = federation(seed)
    run = fedavg.rounds(model, split, rounds=4, local_steps=2, step_size=0.1)
    first = next(run)
    kept = {k: v.clone() for k, v in first.params.items()}
    own = {k: v.clone() for k, v in trainable(model).items()}
    list(run)
    assert_same(first.params, kept, rtol=0.0, atol=0.0)
    assert_same(trainable(model), own, rtol=0.0, atol=0.0)


def test_a_run_goes_on_from_any_round_bit_for_bit(seed):
    model, split = federation(seed)
    options = {"local_steps": 3, "step_size": 0.1, "batch_size": 2, "seed": 5}
    options |= {"participation": 0.67}
    whole = list(fedavg.rounds(model, split, rounds=6, **options))
    rest = fedavg.rounds(
        model, split, rounds=2, params=whole[3].params, first=4, **options
    )
    assert_same(last(rest).params, whole[5].params, rtol=0.0, atol=0.0)


def test_full_batches_as_minibatches_of_everything(seed):
    model, split = federation(seed)
    options = {"rounds": 2, "local_steps": 3, "step_size": 0.1}
    full = last(fedavg.rounds(model, split, **options))
    same = last(fedavg.rounds(model, split, batch_size=6, **options))
    assert_same(full.params, same.params, rtol=0.0, atol=0.0)
    small = last(fedavg.rounds(model, split, batch_size=2, **options))
    gaps = [(v - full.params[k]).abs().max() for k, v in small.params.items()]
    assert max(gaps) > 1e-6


@pytest.mark.parametrize(("n", "size", "count"), [(7, 3, 9), (4, 2, 4), (5, 4, 2)])
def test_minibatches_use_every_sample_once_before_any_twice(n, size, count, seed):
    stream = torch.Generator().manual_seed(seed)
    found = batches(n, size, count, stream)
    assert len(found) == count
    per_pass = -(-n // size)
    for first in range(0, count - per_pass + 1, per_pass):
        drawn = torch.cat(found[first : first + per_pass])
        assert sorted(drawn.tolist()) == list(range(n))


def test_sampled_clients_are_drawn_afresh_and_their_weights_sum_to_one(seed):
    model, split = federation(seed, clients=[[i] for i in range(10)])
    options = {"local_steps": 1, "step_size": 0.1, "participation": 0.3}
    items = list(fedavg.rounds(model, split, rounds=20, seed=seed, **options))
    assert {len(i.clients) for i in items} == {3}
    assert all(len(set(i.clients)) == 3 for i in items)
    assert all(abs(i.weights.sum().item() - 1) < 1e-15 for i in items)
    # 10 clients, 60 draws: one is missed by all with probability below 10 * 0.7^20.
    assert set().union(*(i.clients for i in items)) == set(range(10))


def test_sums_of_differences_keep_the_movement_in_float32(generator):
    """100 clients near weights of order one: summing the weights would round."""
    start = {"w": 1 + torch.rand(500, generator=generator)}
    moves = 1e-6 * torch.randn(100, 500, generator=generator)
    locals_ = [{"w": start["w"] + move} for move in moves]
    weights = torch.full((100,), 0.01, dtype=torch.float64)
    exact = torch.stack([p["w"].double() for p in locals_]).mean(dim=0)
    found = server.average(start, locals_, weights, 1.0)["w"]
    naive = sum(0.01 * p["w"] for p in locals_)
    grid = torch.finfo(torch.float32).eps  # spacing of float32 in [1, 2)
    assert (found - exact).abs().max() <= grid
    assert (naive - exact).abs().max() > 3 * grid  # the control


BAD = [
    ({"step_size": 0.0}, ValueError, "step_size must be above 0"),
    ({"step_size": -1.0}, ValueError, "step_size must be above 0"),
    ({"step_size": float("nan")}, ValueError, "step_size must be above 0"),
    ({"step_size": float("inf")}, ValueError, "finite, got inf"),
    ({"server_step_size": 0.0}, ValueError, "server_step_size must be above 0"),
    ({"local_steps": 0}, ValueError, "local_steps must be at least 1"),
    ({"rounds": -1}, ValueError, "rounds must be at least 0"),
    ({"participation": 0.0}, ValueError, r"participation must be in \(0, 1\]"),
    ({"participation": 1.5}, ValueError, r"participation must be in \(0, 1\]"),
    ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
    ({"weights": "unifrom"}, UnknownNameError, "Did you mean 'uniform'"),
    ({"loss": "square"}, UnknownNameError, "Did you mean 'squared'"),
    ({"engine": "lop"}, UnknownNameError, "Did you mean 'loop'"),
    ({"rule": "averge"}, UnknownNameError, "Did you mean 'average'"),
]


@pytest.mark.parametrize(("change", "error", "words"), BAD)
def test_bad_options_are_refused_before_the_first_round(change, error, words, seed):
    model, split = federation(seed)
    options = {"rounds": 1, "local_steps": 1, "step_size": 0.1} | change
    with pytest.raises(error, match=words):
        fedavg.rounds(model, split, **options)


def test_a_misspelt_option_is_a_type_error(seed):
    model, split = federation(seed)
    with pytest.raises(TypeError, match="local_step"):
        fedavg.rounds(model, split, rounds=1, local_step=1, step_size=0.1)


@pytest.mark.parametrize(
    ("y", "error", "words"),
    [
        (torch.arange(10), ValueError, r"use dataset\.one_hot\(\)"),
        (torch.zeros(10).double(), ShapeMismatchError, "nothing is broadcast"),
        (torch.zeros(10, 2).double(), ShapeMismatchError, r"returns \(1, 1\)"),
        (torch.zeros(10, 1), ShapeMismatchError, r"y is torch\.float32"),
    ],
)
def test_targets_of_another_kind_are_refused(y, error, words, seed):
    model, split = federation(seed)
    other = Partition(Dataset(split.dataset.x, y), split.indices)
    with pytest.raises(error, match=words):
        fedavg.rounds(model, other, rounds=1, local_steps=1, step_size=0.1)


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(4)])
def test_layers_in_training_mode_are_refused(layer, seed):
    model, split = federation(seed)
    mixed = nn.Sequential(layer, model).double()
    with pytest.raises(NotPerSampleError, match="in training mode"):
        fedavg.rounds(mixed, split, rounds=1, local_steps=1, step_size=0.1)
    mixed.eval()
    before = {k: v.clone() for k, v in mixed.named_buffers()}
    last(fedavg.rounds(mixed, split, rounds=1, local_steps=1, step_size=0.01))
    assert all(torch.equal(v, before[k]) for k, v in mixed.named_buffers())
