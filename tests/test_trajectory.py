"""Raw numbers of local models against plain computation, and the laws they obey."""

import math

import pytest
import torch
from federations import federation
from test_drift import gradient
from test_observers import outputs, values, watched

import ntk_fed as nf
from ntk_fed import fedavg, samplegradients
from ntk_fed.params import flatten, trainable

RUN = {"rounds": 3, "local_steps": 4, "step_size": 0.1, "weights": "uniform"}


def averaged(item):
    return {
        k: (item.weights @ v.flatten(1)).reshape(v.shape[1:])
        for k, v in item.locals.items()
    }


def own_loss(model, params, x, y):
    return (outputs(model, params, x) - y).square().sum().item() / 2 / len(x)


def sampled(seed, steps=True, **options):
    """A watched run, and its items."""
    model, split = federation(seed)
    options = RUN | options
    k = options["local_steps"]
    watch = [nf.observers.local_sgd(model, split, local_steps=k)]
    rows = watched(model, split, watch, steps=steps, **options)
    items = list(fedavg.rounds(model, split, steps=steps, **options))
    return model, split, rows, items


def at(rows, quantity, round_, step, client=None):
    found = rows[(rows["quantity"] == quantity) & (rows["round"] == round_)]
    found = found[found["step"].isna() if step is None else found["step"] == step]
    found = found[
        found["client"].isna() if client is None else found["client"] == client
    ]
    assert len(found) == 1
    return found["value"].item()


def test_semi_lipschitz_rows_are_the_squares_written_out(seed):
    model, split = federation(seed, outputs=2)
    watch = [nf.observers.semi_lipschitz(model, split)]
    rows = watched(model, split, watch, steps=True)
    items = list(
        fedavg.rounds(model, split, rounds=6, local_steps=3, step_size=0.1, steps=True)
    )
    item = next(
        i
        for i in items
        if isinstance(i, fedavg.LocalStep) and (i.round, i.step) == (3, 2)
    )
    middle = averaged(item)
    for i in range(3):
        x, y = split.client(i)
        local = item.locals.client(i)
        there, here = (gradient(model, p, x, y)[0] for p in (local, middle))
        mine = rows[(rows["round"] == 4) & (rows["step"] == 2) & (rows["client"] == i)]
        for quantity, a, b in (
            ("squared gradient drift", there, here),
            ("squared displacement", local, middle),
        ):
            kind = mine[mine["quantity"] == quantity]
            total = (flatten(a) - flatten(b)).square().sum().item()
            assert kind[kind["layer"].isna()]["value"].item() == pytest.approx(total)
            assert total > 0
            layers = kind[kind["layer"].notna()].set_index("layer")["value"]
            assert set(layers.index) == set(trainable(model))
            assert layers.sum() == pytest.approx(total)
            name = "first.weight"
            own = (a[name] - b[name]).square().sum().item()
            assert layers[name] == pytest.approx(own)
        loss = mine[mine["quantity"] == "local loss at average"]["value"].item()
        assert loss == pytest.approx(own_loss(model, middle, x, y))


def test_a_linear_models_drift_obeys_its_smoothness(seed):
    """For f = Wx the gradient is L-Lipschitz, so B = 0, A = (λ_max(XᵀX)/n_i)²."""
    _, split = federation(seed)
    model = torch.nn.Linear(4, 1, bias=False).double()
    rows = watched(model, split, [nf.observers.semi_lipschitz(model, split)])
    rows = rows[rows["layer"].isna()]
    for i in range(3):
        x = split.client(i)[0]
        smooth = torch.linalg.matrix_norm(x, 2).item() ** 2 / len(x)
        drift = values(rows, "squared gradient drift", client=i)
        moved = values(rows, "squared displacement", client=i)
        for t, value in drift.items():
            assert 0 < value <= smooth**2 * moved[t] * (1 + 1e-9)


def test_per_sample_gradients_against_one_at_a_time(seed):
    model, split = federation(seed, outputs=2)
    objective = fedavg.Objective.of(model)
    x, y = split.dataset.x, split.dataset.y
    params = trainable(model)
    found = samplegradients.squared_norms(objective, params, x, y)
    for j in range(len(x)):
        own = gradient(model, params, x[j : j + 1], y[j : j + 1])[0]
        expected = flatten(own).square().sum().item()
        assert found[j].item() == pytest.approx(expected, rel=1e-12)
    slow = samplegradients.one_by_one(objective, params, x, y)
    assert torch.allclose(found, slow, rtol=1e-12, atol=0)
    assert len(samplegradients.squared_norms(objective, params, x[:0], y[:0])) == 0


@pytest.mark.parametrize(("round_", "step"), [(2, 1), (2, 3), (3, 2)])
def test_every_number_of_local_sgd_is_its_definition(round_, step, seed):
    model, split, rows, items = sampled(seed)
    (item,) = [
        i for i in items
        if isinstance(i, fedavg.LocalStep) and (i.round + 1, i.step) == (round_, step)
    ]  # fmt: skip
    middle = averaged(item)
    data = [split.client(i) for i in range(3)]
    pieces = [gradient(model, middle, x, y) for x, y in data]
    total = sum(flatten(g) for g, _ in pieces) / 3
    h = total.square().sum().item()
    when = (round_, step)
    assert at(rows, "squared gradient at average", *when) == pytest.approx(h)
    e = sum(value for _, value in pieces) / 3
    assert at(rows, "excess loss", *when) == pytest.approx(e)
    flat = torch.stack([flatten(item.locals.client(i)) for i in range(3)])
    v = (flat - flat.mean(0)).square().sum(1).mean().item()
    assert at(rows, "variance of iterates", *when) == pytest.approx(v)
    largest, ratios, losses = 0.0, [], []
    for i, (x, y) in enumerate(data):
        each = [
            flatten(gradient(model, middle, x[j : j + 1], y[j : j + 1])[0])
            .square().sum().item()
            for j in range(len(x))
        ]  # fmt: skip
        largest = max(largest, *each)
        ratios.append(sum(each) / len(each) / h)
        assert at(rows, "SGC ratio", *when, i) == pytest.approx(ratios[-1])
        losses.append(own_loss(model, item.locals.client(i), x, y))
        assert at(rows, "local loss", *when, i) == pytest.approx(losses[-1])
    assert at(rows, "SGC ratio", *when) == pytest.approx(max(ratios))
    r = at(rows, "sample gradient over global gradient", *when)
    assert r == pytest.approx(math.sqrt(largest / h))
    similar = rows[(rows["quantity"] == "similarity") & (rows["round"] == round_)]
    if step == 3:  # the next iteration is a communication time
        assert 3 not in similar["step"].tolist()
    else:
        s = similar[similar["step"] == step]["value"].item()
        assert s == pytest.approx(sum(losses) / 3 / e)


def test_iterations_are_all_there_once_and_similarity_at_interior_ones_only(seed):
    *_, rows, _ = sampled(seed)
    h = rows[rows["quantity"] == "squared gradient at average"]
    steps = h["step"].fillna(0)
    times = ((h["round"] - (steps > 0)) * 4 + steps).tolist()
    assert sorted(times) == list(range(13))
    assert set(rows[rows["quantity"] == "similarity"]["step"]) == {1, 2}


def test_laws_that_tie_the_numbers_together(seed):
    """V = 0 when averaged; Σ w_i f_i(x_i) = e there; ρ <= r²; h <= ρ h (Jensen)."""
    *_, rows, _ = sampled(seed)
    variance = values(rows[rows["step"].isna()], "variance of iterates")
    assert variance == dict.fromkeys(range(4), 0.0)
    for t in range(4):
        losses = [at(rows, "local loss", t, None, i) for i in range(3)]
        assert sum(losses) / 3 == pytest.approx(at(rows, "excess loss", t, None))
    inside = rows[(rows["quantity"] == "variance of iterates") & rows["step"].notna()]
    assert (inside["value"] > 0).all()
    sgc = rows[(rows["quantity"] == "SGC ratio") & rows["client"].isna()]
    r = rows[rows["quantity"] == "sample gradient over global gradient"]
    pairs = zip(sgc["value"], r["value"], strict=True)
    assert all(1 <= rho <= ratio**2 * (1 + 1e-9) for rho, ratio in pairs)


def test_one_local_step_has_no_variance_and_no_similarity(seed):
    *_, rows, _ = sampled(seed, local_steps=1)
    assert (rows[rows["quantity"] == "variance of iterates"]["value"] == 0).all()
    assert "similarity" not in set(rows["quantity"])
    assert rows["step"].isna().all()


def test_descent_lemma_on_quadratics_holds_for_the_recorded_numbers(seed):
    """e⁺ <= e − ηh/3 + ⅔ηL²V (Lemma 4 of Qin et al.), consistent linear labels."""
    _, split = federation(seed)
    truth = torch.tensor([[1.0, -2.0, 0.5, 0.0]], dtype=torch.float64)
    data = nf.data.Dataset(split.dataset.x, split.dataset.x @ truth.T)
    split = nf.data.Partition(data, split.indices)
    model = torch.nn.Linear(4, 1, bias=False).double()
    smooth = data.x.square().sum(1).max().item()
    eta, k = 1 / (60 * smooth), 4
    watch = [nf.observers.local_sgd(model, split, local_steps=k)]
    rows = watched(
        model, split, watch, steps=True, rounds=5, local_steps=k, step_size=eta,
        weights="uniform",
    )  # fmt: skip

    def path(quantity):
        found = rows[rows["quantity"] == quantity]
        steps = found["step"].fillna(0)
        times = (found["round"] - (steps > 0)) * k + steps
        return dict(zip(times, found["value"], strict=True))

    e, h, v = map(
        path, ("excess loss", "squared gradient at average", "variance of iterates")
    )
    for t in range(5 * k):
        bound = e[t] - eta * h[t] / 3 + 2 / 3 * eta * smooth**2 * v[t]
        assert e[t + 1] <= bound * (1 + 1e-12)


def test_minima_are_subtracted(seed):
    model, split = federation(seed)
    moment = next(
        i for i in fedavg.rounds(model, split, steps=True, **RUN)
        if isinstance(i, fedavg.LocalStep)
    )  # fmt: skip
    one, two = (
        {
            (r.quantity, r.client): r.value
            for r in nf.observers.local_sgd(model, split, local_steps=4, **more)(moment)
        }
        for more in ({}, {"minimum": 1e-3, "minima": [1e-3, 2e-3, 0.0]})
    )
    e = one["excess loss", None]
    assert two["excess loss", None] == pytest.approx(e - 1e-3)
    above = one["similarity", None] * e - 1e-3
    assert two["similarity", None] == pytest.approx(above / (e - 1e-3))


def test_a_subset_of_each_client_gives_an_estimate():
    data = nf.data.load("sphere", n=60, targets="sign")
    split = nf.data.partition(data, "iid", clients=2)
    model = nf.models.MLP([16, 24, 1], seed=0)
    moment = next(iter(fedavg.rounds(model, split, **RUN)))

    def rows(**more):
        watch = nf.observers.local_sgd(model, split, local_steps=4, **more)
        return {(r.round, r.quantity, r.client): r for r in watch(moment)}

    whole = rows()
    key = (1, "SGC ratio", 1)
    parts = [rows(samples=12, seed=s) for s in range(30)]
    inside = sum(p[key].lower <= whole[key].value <= p[key].upper for p in parts)
    assert inside >= 21  # as for the kernel
    for part in parts:
        r = part[1, "sample gradient over global gradient", None]
        assert r.status == "estimate"
        assert r.upper is None
        exact = whole[1, "sample gradient over global gradient", None]
        assert r.value <= exact.value
        assert exact.status is None
        for quantity in ("squared gradient at average", "excess loss"):
            assert part[1, quantity, None] == whole[1, quantity, None]


def test_another_run_than_the_one_described_is_refused(seed):
    model, split = federation(seed)
    options = {"rounds": 1, "local_steps": 3, "step_size": 0.1}
    watch = nf.observers.local_sgd(model, split, local_steps=3)
    with pytest.raises(ValueError, match="Give both the same weights="):
        watched(model, split, [watch], **options)
    watch = nf.observers.local_sgd(model, split, local_steps=2)
    with pytest.raises(ValueError, match="does step 3"):
        watched(model, split, [watch], steps=True, weights="uniform", **options)
    with pytest.raises(ValueError, match="one number per client"):
        nf.observers.local_sgd(model, split, local_steps=2, minima=[0.0])
    with pytest.raises(ValueError, match="at least 3"):
        nf.observers.local_sgd(model, split, local_steps=2, samples=2)
