"""Smoothness between two bounds: closed forms, dense Hessians, chance and records."""

import importlib
import math

import numpy as np
import pytest
import torch
from federations import UNEQUAL, Rescaled, federation
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import build
from test_observers import states, values, watched

import ntk_fed as nf
from ntk_fed import curvature, fedavg, smoothness
from ntk_fed.data import Dataset, Partition
from ntk_fed.derivatives import outputs_of
from ntk_fed.errors import NonFiniteError, NotSymmetricError
from ntk_fed.fedavg import Objective
from ntk_fed.jacobians import quiet_vmap
from ntk_fed.params import flatten, frozen_state, trainable, unflatten
from ntk_fed.spectrum import ends_from_products, norm_from_products

bound_module = importlib.import_module("ntk_fed.spectrum.matrix_free")
ends_module = importlib.import_module("ntk_fed.spectrum.ends")
seeds = st.integers(0, 2**32 - 1)
BOTH = pytest.mark.parametrize("certify", [True, False], ids=["formed", "products"])


def symmetric(seed, n):
    """Indefinite, of order 1."""
    draw = np.random.default_rng(seed)
    matrix = draw.standard_normal((n, n)) / math.sqrt(n)
    return (matrix + matrix.T) / 2


def quadratic(matrix):
    """``½ vᵀAv + Σ v`` of two parameters that hold v between them, and a point."""
    entries = torch.as_tensor(matrix)
    at = {"a": torch.ones(2, 1), "b": torch.ones(len(entries) - 2)}
    at = {name: value.to(entries) for name, value in at.items()}

    def function(params):
        v = flatten(params)
        return v @ (entries @ v) / 2 + v.sum()

    return function, at


def diagonal(values):
    """A quadratic of many parameters, without its matrix."""
    entries = torch.as_tensor(values, dtype=torch.float64)
    return lambda params: (entries * params["v"] ** 2).sum() / 2, {
        "v": torch.ones_like(entries)
    }


def client_loss(model, x, y):
    """Loss as a function of parameters, and as one of their vector."""
    objective, params = Objective.of(model), trainable(model)

    def function(given):
        return objective.value(given, x, y)

    return function, lambda v: function(unflatten(v, params)), params


def dense(model, params, x, y):
    """The Hessian by another route: forward mode over reverse mode."""
    flat = client_loss(model, x, y)[1]
    with quiet_vmap():
        return torch.func.hessian(flat)(flatten(params)).detach()


@BOTH
@pytest.mark.parametrize("n", [3, 12])
def test_ends_and_norm_of_a_quadratic_are_those_of_its_matrix(n, certify, seed):
    matrix = symmetric(seed, n)
    truth = np.linalg.eigvalsh(matrix)
    low, high = smoothness.hessian_extremes(*quadratic(matrix), certify=certify)
    norm = smoothness.smoothness(*quadratic(matrix), certify=certify)
    for found, exact in (
        (low, truth[0]), (high, truth[-1]), (norm, np.abs(truth).max())
    ):  # fmt: skip
        assert found.lower <= exact <= found.upper
        # Formed, or all n dimensions searched: rounding is all that is left.
        assert found.width < 1e-11
        assert found.certified is certify
        assert "smooth piece" in found.note


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_norm_at_either_end_is_found(sign, seed):
    spectrum = sign * np.append(np.linspace(-1, 1, 999), 3.0)
    function, at = diagonal(spectrum)
    norm = smoothness.smoothness(function, at, seed=seed)
    low, high = smoothness.hessian_extremes(function, at, seed=seed)
    assert norm.lower <= 3 <= norm.upper
    assert norm.width <= 1e-2 * norm.lower
    assert low.lower <= min(spectrum) <= low.upper
    assert high.lower <= max(spectrum) <= high.upper
    assert max(low.width, high.width) <= 3e-2  # relative to the norm
    assert not norm.certified
    assert "probability at most 1e-06" in norm.note


def test_a_norm_is_known_before_both_ends_are():
    """The other end lies in a crowd: it takes many products, and none for the norm."""
    function, at = diagonal(np.append(np.linspace(-1, 1, 3000), 30.0))

    def steps(found):
        return int(found.note.split(" Lanczos steps")[0].split()[-1])

    norm = smoothness.smoothness(function, at, rtol=1e-3)
    low, _ = smoothness.hessian_extremes(function, at, rtol=1e-3)
    assert norm.width <= 1e-3 * 30
    assert 3 * steps(norm) < steps(low)


def test_power_iteration_is_fooled_and_the_bounds_are_not(seed):
    """One eigenvalue of 1.3 over 599 of 1: from a random start little grows."""
    function, at = diagonal([1.0] * 599 + [1.3])
    from_below = curvature.hessian_norm(function, at, seed=seed)
    found = smoothness.smoothness(function, at, seed=seed)
    assert from_below < 1.1
    assert found.lower <= 1.3 <= found.upper
    assert found.width <= 1.3e-2


def test_two_ends_of_equal_size_do_not_confuse(seed):
    """Power iteration goes back and forth between ±1, on no eigenvector."""
    function, at = diagonal([1.0, -1.0] * 300)
    low, high = smoothness.hessian_extremes(function, at, seed=seed)
    norm = smoothness.smoothness(function, at, seed=seed)
    for found, exact in ((low, -1.0), (high, 1.0), (norm, 1.0)):
        assert found.lower <= exact <= found.upper
        # Two steps exhaust the space, but for a residual of eps; times 1e6 for chance.
        assert found.width < 1e-8


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(n=st.integers(3, 40), seed=seeds, count=st.integers(4, 9))
def test_the_truth_lies_between_the_bounds_of_random_problems(n, seed, count):
    """200 matrices with a bound that fails 1e-6 each: nothing is to be seen."""
    matrix = symmetric(seed, n)
    truth = np.linalg.eigvalsh(matrix)
    options = {"iterations": count, "rtol": 1e-6, "certify": False, "seed": seed}
    low, high = smoothness.hessian_extremes(*quadratic(matrix), **options)
    norm = smoothness.smoothness(*quadratic(matrix), **options)
    for found, exact in (
        (low, truth[0]), (high, truth[-1]), (norm, np.abs(truth).max())
    ):  # fmt: skip
        room = 1e-14 * n  # of the dense eigensolver, for norms of order 1
        assert found.lower - room <= exact <= found.upper + room
        assert found.lower <= found.value <= found.upper
        reached = found.width <= 1e-6 * max(-low.value, high.value)
        assert reached or "not reached" in found.note


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_outer_ends_fail_as_rarely_as_they_say_and_no_more_rarely(sign, monkeypatch):
    """The hardest case: what two steps leave is the share along the end, and no more.

    With 10 % allowed some 29 of 300 starts fail; three deviations are 5 %.
    """
    monkeypatch.setattr(bound_module, "FAILURE", 0.1)
    spectrum = sign * np.array([1.0] + [0.5] * 49 + [-0.5] * 50)
    ends = [
        ends_from_products(lambda v: spectrum * v, n=100, seed=s, max_products=4)
        for s in range(300)
    ]
    missed = [high.upper < 1 if sign > 0 else low.lower > -1 for low, high in ends]
    assert 0.046 <= np.mean(missed) <= 0.15
    safe = [high.upper >= 0.5 if sign < 0 else low.lower <= -0.5 for low, high in ends]
    assert all(safe)


def test_a_start_without_an_end_is_what_the_probability_is_for(monkeypatch):
    """Negative control: a start orthogonal to both ends gives false bounds."""
    monkeypatch.setattr(ends_module, "unit_vector", lambda n, *_: np.eye(1, n, 1)[0])
    spectrum = np.array([-5.0, 1.0, 4.0])
    low, high = ends_from_products(lambda v: spectrum * v, n=3)
    assert low.lower > -5
    assert high.upper < 4
    assert norm_from_products(lambda v: spectrum * v, n=3).upper < 4


@BOTH
@pytest.mark.parametrize("i", [0, 1])
def test_a_relu_networks_loss_against_torchs_own_hessian(i, certify, seed):
    model, split = federation(seed)
    x, y = split.client(i)
    function, _, params = client_loss(model, x, y)
    full = dense(model, params, x, y)
    # Two orders of differentiation: sums differ, by some eps of the norm.
    found = smoothness.hessian(function, params)
    torch.testing.assert_close(found, full, rtol=0, atol=1e-13 * full.norm().item())
    truth = torch.linalg.eigvalsh(full)
    low, high = smoothness.hessian_extremes(function, params, certify=certify)
    norm = smoothness.smoothness(function, params, certify=certify)
    for one, exact in (
        (low, truth[0].item()), (high, truth[-1].item()),
        (norm, truth.abs().max().item()),
    ):  # fmt: skip
        assert one.lower <= exact <= one.upper
        assert one.width <= 1e-2 * norm.value
    assert low.value < 0 < high.value


@pytest.mark.parametrize("name", ["perceptron", "partly used", "recurrent", "unusual"])
def test_every_kind_of_network_has_bounds(name, seed):
    """Idle and frozen parameters, a recurrence without forward mode, three axes."""
    model, x = build(name, seed)
    with torch.no_grad():
        y = torch.ones_like(model(x))
    function, _, params = client_loss(model, x, y)
    formed = smoothness.smoothness(function, params)
    products = smoothness.smoothness(function, params, certify=False)
    assert formed.certified
    assert products.lower <= formed.upper
    assert formed.lower <= products.upper
    assert products.value == pytest.approx(formed.value, rel=1e-2)


@BOTH
def test_float32_bounds_hold_the_truth_of_float64(certify, seed):
    model, split = federation(seed)
    x, y = split.client(1)
    coarse = Rescaled().float()
    coarse.load_state_dict({k: v.float() for k, v in model.state_dict().items()})
    exact = Rescaled().double()
    exact.load_state_dict({k: v.double() for k, v in coarse.state_dict().items()})
    full = dense(exact, trainable(exact), x.float().double(), y.float().double())
    truth = torch.linalg.matrix_norm(full, 2).item()
    function, _, params = client_loss(coarse, x.float(), y.float())
    found = smoothness.smoothness(function, params, certify=certify, rtol=1e-6)
    assert found.lower <= truth <= found.upper
    # 32 √p eps of the norm, p = 96, twice, and the Frobenius norm for the spectral one.
    assert found.width < 32 * math.sqrt(96) * 1.2e-7 * truth * 5


@BOTH
def test_a_function_without_curvature_has_smoothness_zero(certify):
    def plane(params):
        return (3 * params["v"]).sum()

    found = smoothness.smoothness(plane, {"v": torch.ones(5)}, certify=certify)
    assert (found.lower, found.value, found.upper) == (0, 0, 0)


@BOTH
def test_a_kink_is_in_no_smoothness_of_a_point(certify):
    """½ relu(θ)² has curvature 1 and 0; the slope of relu jumps, its Hessian not."""

    def at(value, power):
        function = lambda params: params["v"].relu().pow(power).sum() / power  # noqa: E731
        point = {"v": torch.full((1,), value, dtype=torch.float64)}
        return smoothness.smoothness(function, point, certify=certify)

    assert at(1.0, 2).value == 1
    assert at(-1.0, 2).value == 0
    slopes = [at(v, 1) for v in (1e-9, -1e-9)]
    assert [found.upper for found in slopes] == [0, 0]
    assert all("gates frozen" in found.note for found in slopes)


def test_large_problems_are_not_formed():
    """One parameter above the limit: products, even where a proof is asked for."""
    assert smoothness.smoothness(*diagonal(np.ones(400))).certified
    assert not smoothness.smoothness(*diagonal(np.ones(401))).certified


@pytest.mark.parametrize("outputs", [1, 2])
def test_the_jacobians_norm_is_that_of_the_dense_one(outputs, seed):
    model, split = federation(seed, outputs=outputs)
    x, params = split.dataset.x, trainable(model)
    function = outputs_of(model, frozen_state(model), x)
    flat = torch.func.jacrev(lambda v: function(unflatten(v, params)).flatten())
    truth = torch.linalg.matrix_norm(flat(flatten(params)), 2).item()
    found = smoothness.jacobian_norm(function, params, rtol=1e-6)
    assert found.lower <= truth <= found.upper
    assert found.width <= 1e-6 * found.lower
    assert curvature.derivative_norm(function, params) <= found.upper
    # What a root does to the note is told: its residual is that of the square.
    assert found.note.startswith("for the square")


class Crooked(torch.autograd.Function):
    """A backward pass that is no derivative: its own derivative is not symmetric."""

    @staticmethod
    def forward(ctx, v):
        ctx.save_for_backward(v)
        return v.sum()

    @staticmethod
    def backward(ctx, up):
        (v,) = ctx.saved_tensors
        return up * v.roll(1)


def test_what_cannot_be_bounded_is_refused():
    function, at = diagonal(np.ones(5))
    crooked = lambda params: Crooked.apply(params["v"])  # noqa: E731
    with pytest.raises(NotSymmetricError, match="backward pass of your own"):
        smoothness.smoothness(crooked, at)
    for certify, message in (
        (True, "25 non-finite|non-finite entries"),
        (False, "non-"),
    ):
        with pytest.raises(NonFiniteError, match=message):
            smoothness.smoothness(
                lambda params: function(params) * math.inf, at, certify=certify
            )
    for find in (
        smoothness.smoothness, smoothness.hessian_extremes, smoothness.jacobian_norm
    ):  # fmt: skip
        with pytest.raises(ValueError, match="iterations must be at least 4, got 3"):
            find(function, at, iterations=3)
        with pytest.raises(ValueError, match="rtol must be a positive number"):
            find(function, at, rtol=0.0)
    for find in (ends_from_products, norm_from_products):
        with pytest.raises(ValueError, match="max_products must be at least 4"):
            find(lambda v: v, n=3, max_products=3)
        with pytest.raises(ValueError, match="rtol must be a positive number"):
            find(lambda v: v, n=3, rtol=math.nan)


def test_rows_hold_the_norm_of_every_clients_hessian(seed):
    model, split = federation(seed, clients=(*UNEQUAL, []), width=5)
    rows = watched(model, split, [nf.observers.smoothness(model, split)], rounds=2)
    path = states(model, split, rounds=2, local_steps=3, step_size=0.1)
    own = rows[rows["quantity"] == "smoothness"]
    assert set(own["client"].dropna()) == {0, 1, 2}  # the last has no samples
    for t in range(3):
        norms = [
            torch.linalg.matrix_norm(dense(model, path[t], *split.client(i)), 2).item()
            for i in range(3)
        ]
        now = own[own["round"] == t]
        for i, truth in (*enumerate(norms), (None, max(norms))):
            one = now[now["client"].isna() if i is None else now["client"] == i]
            assert one["lower"].item() <= truth <= one["upper"].item()
            if i is None:  # the largest is at least each client's own lower bound
                own_lower = now[now["client"].notna()]["lower"]
                assert one["lower"].item() == own_lower.max()
            # All formed: rounding of derivatives is all that is between the bounds.
            assert one["value"].item() == pytest.approx(truth, rel=1e-10)
    assert set(rows["status"]) == {"estimate"}
    assert "smoothness (clients, sampled)" not in set(rows["quantity"])


def test_rows_by_products_hold_it_too(seed):
    model, split = federation(seed)
    plain = watched(model, split, [nf.observers.smoothness(model, split)], rounds=1)
    watch = [nf.observers.smoothness(model, split, certify=False, iterations=12)]
    rows = watched(model, split, watch, rounds=1)
    for t, truth in values(plain, "smoothness", client=1).items():
        one = rows[(rows["quantity"] == "smoothness") & (rows["client"] == 1)]
        one = one[one["round"] == t]
        assert one["lower"].item() <= truth * (1 + 1e-10)
        assert one["upper"].item() >= truth * (1 - 1e-10)


def test_segments_are_sampled_at_equal_distances(seed):
    """Every point written out: of each client's segment and of that to the average."""
    model, split = federation(seed, width=5)
    watch = [nf.observers.smoothness(model, split, points=2, every=2)]
    rows = watched(model, split, watch, rounds=2)
    *_, item = fedavg.rounds(model, split, rounds=2, local_steps=3, step_size=0.1)
    found = rows[rows["quantity"] == "smoothness (clients, sampled)"]
    largest = []
    for i in range(3):
        x, y = split.client(i)
        places = [item.start]
        for end in (item.locals.client(i), item.params):
            places += [
                {k: v + s * (end[k] - v) for k, v in item.start.items()}
                for s in (0.5, 1.0)
            ]
        norms = [torch.linalg.matrix_norm(dense(model, p, x, y), 2) for p in places]
        largest.append(max(norms).item())
        one = found[found["client"] == i]
        assert one["value"].item() == pytest.approx(largest[-1], rel=1e-10)
        assert one["lower"].item() <= largest[-1]
    whole = found[found["client"].isna()]
    assert whole["value"].item() == pytest.approx(max(largest), rel=1e-10)
    assert found["upper"].isna().all()  # between the points nothing is known
    assert set(found["status"]) == {"estimate"}
    assert set(found["round"]) == {2}


class Cubed(torch.nn.Module):
    """``v³ x`` at v = 1."""

    def __init__(self):
        super().__init__()
        self.v = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x):
        return self.v**3 * x


def test_the_rounds_start_is_a_point_of_its_segments():
    """½ v⁶ is smooth with 15 v⁴ at v: it falls along every step from v = 1 to 0."""
    one = torch.ones(1, 1, dtype=torch.float64)
    split = Partition(Dataset(one, 0 * one), [torch.tensor([0])])
    watch = [nf.observers.smoothness(Cubed(), split, points=2)]
    rows = watched(Cubed(), split, watch, rounds=1, local_steps=1, step_size=0.1)
    for client in (0, None):
        found = values(rows, "smoothness (clients, sampled)", client=client)
        # A derivative of few powers: some ten roundings of 1e-16.
        assert list(found.values()) == pytest.approx([15.0], rel=1e-13)
    # v is 1 − 0.1 · 3 after the step.
    after = values(rows, "smoothness", client=0)[1]
    assert after == pytest.approx(15 * 0.7**4, rel=1e-13)


def test_segments_of_local_steps_and_of_those_who_stay_out(seed):
    """Each step has its own segment; who does not take part only the average's."""
    model, split = federation(seed, width=5)
    watch = [nf.observers.smoothness(model, split, points=1)]
    options = {"rounds": 1, "local_steps": 2, "step_size": 0.1, "participation": 0.4}
    rows = watched(model, split, watch, steps=True, **options)
    items = list(fedavg.rounds(model, split, steps=True, **options))
    taking_part = set(items[0].clients)
    assert 0 < len(taking_part) < 3
    found = rows[rows["quantity"] == "smoothness (clients, sampled)"]
    at_step = found[(found["step"] == 1) & found["client"].notna()]
    assert set(at_step["client"]) == taking_part
    i = items[0].clients[0]
    end = items[0].locals.client(0)
    truth = torch.linalg.matrix_norm(dense(model, end, *split.client(i)), 2).item()
    value = at_step[at_step["client"] == i]["value"].item()
    assert value == pytest.approx(truth, rel=1e-10)
    last = found[found["step"].isna() & found["client"].notna()]
    assert set(last["client"]) == {0, 1, 2}


def test_a_linear_model_has_one_smoothness_everywhere(seed):
    """S_i = λ_max(X_iᵀX_i)/n_i at every point, and J² = λ_max(XᵀX): exact."""
    _, split = federation(seed)
    model = torch.nn.Linear(4, 1, bias=False).double()
    watch = [nf.observers.smoothness(model, split, points=2)]
    rows = watched(model, split, watch, rounds=3)
    exact = []
    for i in range(3):
        x = split.client(i)[0]
        exact.append(torch.linalg.matrix_norm(x, 2).item() ** 2 / len(x))
        for quantity in ("smoothness", "smoothness (clients, sampled)"):
            found = values(rows, quantity, client=i)
            assert len(found) == (4 if quantity == "smoothness" else 3)
            assert list(found.values()) == pytest.approx([exact[-1]] * len(found))
    top = values(rows, "smoothness (clients, sampled)", client=None)
    assert list(top.values()) == pytest.approx([max(exact)] * 3)
    norms = rows[rows["quantity"] == "Jacobian norm"]
    truth = torch.linalg.matrix_norm(split.dataset.x, 2).item()
    assert (norms["lower"] <= truth).all()
    assert (norms["upper"] >= truth).all()
    assert len(norms) == 4


def test_semi_smoothness_rows_are_the_numbers_written_out(seed):
    model, split = federation(seed)
    watch = [nf.observers.semi_smoothness(model, split)]
    rows = watched(model, split, watch, steps=True, rounds=2)
    options = {"rounds": 2, "local_steps": 3, "step_size": 0.1}
    items = list(fedavg.rounds(model, split, steps=True, **options))
    moments = {
        (i.index + 1, 0) if isinstance(i, fedavg.Round) else (i.round + 1, i.step): i
        for i in items
    }
    objective = Objective.of(model)

    def numbers(i, start, end):
        x, y = split.client(i)
        value, slope = objective.value_and_gradient(start, x, y)
        moved = flatten(end) - flatten(start)
        along = (flatten(slope) @ moved).item()
        after = objective.value(end, x, y).item()
        return np.array([after - value - along, value, moved.square().sum().item()])

    def recorded(t, step, client):
        now = rows[(rows["round"] == t) & (rows["step"].fillna(0) == step)]
        now = now[now["client"].isna() if client is None else now["client"] == client]
        names = ("semi-smoothness excess", "loss at round start", "squared step")
        return [now[now["quantity"] == name]["value"].item() for name in names]

    for (t, step), item in moments.items():
        for i in range(3):
            expected = numbers(i, item.start, item.locals.client(i))
            assert recorded(t, step, i) == pytest.approx(expected, rel=1e-9, abs=1e-15)
    last = moments[2, 0]
    each = np.array([numbers(i, last.start, last.params) for i in range(3)])
    weights = split.weights("samples").numpy()
    assert recorded(2, 0, None) == pytest.approx(weights @ each, rel=1e-9, abs=1e-15)
    assert not rows[rows["client"].isna()]["step"].notna().any()
    excess = rows[(rows["quantity"] == "semi-smoothness excess") & (rows["round"] == 2)]
    own = excess[(excess["client"] == 1) & (excess["step"] == 1)]
    start, end = moments[2, 1].start, moments[2, 1].locals.client(1)
    difference, value, _ = numbers(1, start, end)
    slope = objective.gradient(start, *split.client(1))
    along = (flatten(slope) @ (flatten(end) - flatten(start))).item()
    size = abs(value) + abs(along) + abs(difference + value + along)
    # 64 eps on both sides; a width is a difference of numbers of order 0.1, eps each.
    # Far below 1e-12, what ``approx`` lets pass if nothing is said.
    assert (own["upper"] - own["lower"]).item() == pytest.approx(
        128 * 2.0**-52 * size, rel=0.01, abs=0
    )


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_norms_upper_end_is_the_larger_of_both_outer_ends(sign):
    """The low end forgotten. One of the two signs has it as the larger."""
    spectrum = sign * np.append(np.linspace(-0.5, 0.5, 99), 2.0)
    options = {"n": 100, "rtol": 1e-12, "max_products": 6}
    low, high = ends_from_products(lambda v: spectrum * v, **options)
    norm = norm_from_products(lambda v: spectrum * v, **options)
    # The same run, so the same numbers but for a Rayleigh quotient's rounding.
    assert norm.upper == pytest.approx(max(high.upper, -low.lower), rel=1e-12)


def test_a_width_not_reached_is_told_from_one_that_is():
    """At a third of the width that so many products give it is not reached."""
    spectrum = np.linspace(-1, 1, 100)
    options = {"n": 100, "max_products": 6}
    first = norm_from_products(lambda v: spectrum * v, rtol=1e-12, **options)
    relative = first.width / first.value
    for factor, reached in ((1 / 3, False), (1.1, True)):
        found = norm_from_products(
            lambda v: spectrum * v, rtol=factor * relative, **options
        )
        assert ("not reached" not in found.note) is reached


def test_a_formed_hessian_is_widened_by_its_rounding():
    """The identity of 4 is symmetric to the bit: 32 √4 eps ‖I‖_F each side."""
    found = smoothness.smoothness(*diagonal(np.ones(4)))
    # Rounded at 1: half an eps each side of 128. Far below 1e-12, hence no ``abs``.
    assert found.width == pytest.approx(2 * 32 * 2 * 2.0**-52 * 2, rel=0.1, abs=0)
