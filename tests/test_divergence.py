"""Drift and flips of all clients at once are those of one client after the other."""

import pytest
import torch
from test_engines import BATCHES, FORMS, NETWORKS, built, federation, run
from torch.testing import assert_close

from ntk_fed import fedavg
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


def test_the_loop_has_it_too():
    model, split = federation("mlp", 2)
    item = run(model, split, "loop")[-1]
    assert isinstance(item, fedavg.Round)
    data = [split.client(i) for i in range(split.clients)]
    found = divergence(Objective.of(model), data, item.locals, item.weights)
    assert set(found.drift) == set(trainable(model))
