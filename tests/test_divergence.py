"""Drift and flips of all clients at once are those of one client after the other."""

import pytest
import torch
from test_engines import BATCHES, FORMS, NETWORKS, built, federation, run
from torch.testing import assert_close

from ntk_fed.divergence import divergence
from ntk_fed.fedavg import Objective
from ntk_fed.params import trainable

# Squares of differences of gradients of order one, each a few hundred products.
CLOSE = {"rtol": 1e-9, "atol": 1e-22}


def compare(model, split, items, loss="squared"):
    objective = Objective.of(model, loss)
    for item in items:
        data = [split.client(i) for i in item.clients]
        found, slow = (
            divergence(objective, data, item.locals, item.weights, engine=engine)
            for engine in ("auto", "loop")
        )
        assert found.gates == slow.gates
        assert torch.equal(found.samples, slow.samples)
        assert set(found.drift) == set(slow.drift)
        for name, values in slow.drift.items():
            assert_close(found.drift[name], values, **CLOSE)
        for name, counts in slow.flips.items():
            assert torch.equal(found.flips[name], counts)
        yield found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("batches", BATCHES, ids=str)
def test_of_every_form_and_batch(form, batches, monkeypatch):
    model, split = federation("mlp", 2)
    engine = built(model, split, form=form, group=2)
    items = run(model, split, engine, monkeypatch, steps=True, **batches)
    found = list(compare(model, split, items))
    if batches.get("local_steps") != 1:
        assert any(one.gradient_drift.max() > 1e-3 for one in found), "nothing to see"


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("batch_size", [None, 2])
def test_of_every_network(name, batch_size):
    model, split = federation(name, 3, ([0, 7, 3], [1, 2, 4, 5, 6], [], [8]))
    items = run(model, split, "dense", steps=True, batch_size=batch_size)
    assert len(list(compare(model, split, items))) == 8


def test_gates_do_flip():
    """A step large enough that models part: otherwise equal counts show nothing."""
    model, split = federation("two-layer", 1)
    items = run(model, split, "dense", steps=True, step_size=2.0)
    assert max(int(one.flips["weight"].sum()) for one in compare(model, split, items))


def test_clients_that_are_alike_have_neither():
    model, split = federation("mlp", 2, (range(10),))
    objective = Objective.of(model)
    for item in run(model, split, "dense", steps=True):
        found = divergence(objective, [split.client(0)], item.locals, item.weights)
        assert found.gradient_drift.item() < 1e-14
        assert found.flipped().item() == 0


def test_a_planted_fault_is_seen(monkeypatch):
    """The comparison above fails if one client's weights are those of another."""
    model, split = federation("mlp", 2)
    item = run(model, split, "dense")[-1]
    (group,) = item.locals.groups
    group.part.reverse()
    with pytest.raises(AssertionError):
        list(compare(model, split, [item]))


def test_other_samples_than_the_run_s():
    """A full-batch run knows its own samples; asked about others it looks at those."""
    model, split = federation("mlp", 2)
    item = run(model, split, "dense")[-1]
    data = [(x + 1, y - 1) for x, y in map(split.client, range(split.clients))]
    objective = Objective.of(model)
    fast, slow = (
        divergence(objective, data, item.locals, item.weights, engine=engine)
        for engine in ("auto", "loop")
    )
    for name, values in slow.drift.items():
        assert_close(fast.drift[name], values, **CLOSE)


def test_the_loop_s_numbers_are_autograd_s():
    model, split = federation("mlp", 2)
    item = run(model, split, "loop")[-1]
    data = [split.client(i) for i in range(split.clients)]
    found = divergence(Objective.of(model), data, item.locals, item.weights)
    middle = {
        name: torch.tensordot(item.weights, item.locals[name], dims=1)
        for name in trainable(model)
    }
    for i, (x, y) in enumerate(data):
        gradients = []
        for point in (item.locals.client(i), middle):
            leaves = {k: v.clone().requires_grad_() for k, v in point.items()}
            gap = torch.func.functional_call(model, leaves, (x,)) - y
            loss = gap.square().sum() / 2 / len(x)
            gradients.append(torch.autograd.grad(loss, list(leaves.values())))
        for name, a, b in zip(middle, *gradients, strict=True):
            expected = (a - b).square().sum()
            assert_close(found.drift[name][i], expected, rtol=1e-9, atol=1e-22)
