"""Conditions and theorems: known answers, and cases that hold, fail, stay undecided."""

import dataclasses
import math

import pytest
import torch

import ntk_fed as nf
from ntk_fed import limits
from ntk_fed.kernel.forming import two_layer_forming_error
from ntk_fed.measured import Enclosure, Verdict, exact
from ntk_fed.start import measure, stable_step_size
from ntk_fed.theory import Condition, Stated, du2019, lazy
from ntk_fed.theory.condition import together

TWO = ["du2019", "lazy"]


def condition(left, relation, right, status="derived"):
    return Condition("name", left, relation, right, "mean", status, "us")


@pytest.mark.parametrize(
    ("left", "relation", "right", "margin", "verdict"),
    [
        (100.0, ">=", 1.0, 2.0, "holds"),
        (1.0, ">=", 100.0, -2.0, "fails"),
        (1.0, "<=", 1000.0, 3.0, "holds"),
        (1000.0, "<", 1.0, -3.0, "fails"),
    ],
)
def test_margins_are_orders_of_magnitude_to_spare(
    left, relation, right, margin, verdict
):
    found = condition(exact(left), relation, exact(right))
    assert found.margin == pytest.approx(margin)
    assert found.verdict == verdict


def test_a_missing_side_is_undecided_and_has_no_margin():
    found = condition(None, "<=", exact(1.0))
    assert found.verdict is Verdict.undecided
    assert math.isnan(found.margin)


def test_a_margin_without_sense_is_not_a_number():
    assert math.isnan(condition(exact(-1.0), ">", exact(0.0)).margin)


def test_an_unknown_status_is_refused():
    with pytest.raises(ValueError, match="status must be one of"):
        condition(exact(1.0), ">", exact(0.0), status="certain")


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match=r"form must be one of \('mean', 'sum', ''\)"):
        Stated("us", "derived", "median")("name", exact(1.0), ">", exact(0.0))


def test_a_statement_names_its_source_status_and_form_once():
    stated = Stated("us", "recalled", "sum")
    found = stated("name", exact(2.0), ">", None)
    assert found == Condition(
        "name", exact(2.0), ">", None, "sum", "recalled", "us", ""
    )
    assert stated("name", None, ">", None, "", "note").form == ""
    assert stated("name", None, ">", None, "mean", "note").note == "note"
    assert Stated("us", "abstract")("name", None, ">", None).form == ""


@pytest.mark.parametrize(("is_so", "left"), [(True, 1.0), (False, 0.0)])
def test_a_question_with_a_known_answer_is_one_or_nothing_against_one(is_so, left):
    found = Stated("us", "derived", "mean").yes("name", is_so, note="note")
    assert found == Condition(
        "name", exact(left), ">=", exact(1.0), "mean", "derived", "us", "note"
    )
    assert Stated("us", "derived", "mean").yes("name", is_so, "sum").form == "sum"


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["holds", "holds"], "holds"),
        (["holds", "undecided"], "undecided"),
        (["undecided", "fails"], "fails"),
        ([], "holds"),
    ],
)
def test_one_failure_is_enough(verdicts, expected):
    assert together([Verdict(v) for v in verdicts]) == expected


def test_the_formulas_of_du2019_by_hand():
    assert du2019.width_near_limit(10, 0.5, 0.1) == pytest.approx(400 * math.log(100))
    assert du2019.width_for_convergence(10, 0.5, 0.1) == pytest.approx(1e6 * 16 * 1e3)
    assert du2019.radius(10, 0.5, 0.1) == pytest.approx(5e-4)
    assert du2019.step_size_limit(10, 0.5) == pytest.approx(0.05)
    # 4 · 2 · 3 / (√16 · 0.5)
    assert du2019.displacement_bound(4, 16, 0.5, 3.0) == pytest.approx(12.0)
    curve = du2019.loss_bound(8.0, 0.5, 10, 2.0, torch.tensor([0, 1, 2]))
    # one step multiplies by 1 − (2/10) · 0.5 / 2 = 0.95
    assert curve.tolist() == pytest.approx([8.0, 7.6, 7.22])


GOOD = du2019.Measurements(
    n=10,
    width=10**12,
    step_size=0.01,
    failure=0.1,
    is_two_layer=True,
    is_gradient_descent=True,
    lambda0=exact(0.5),
    smallest=exact(0.45),
    distance=exact(0.1),
    residual=3.0,
    displacement=exact(1e-6),
    smallest_along=exact(0.4),
    change_along=exact(0.1),
    worst_ratio=exact(0.9),
)
FAULTS = {
    "network is the theorem's": {"is_two_layer": False},
    "algorithm is gradient descent": {"is_gradient_descent": False},
    "λ0 of the limit kernel": {"lambda0": exact(-0.1)},
    "‖H(0) − H∞‖₂": {"distance": exact(0.2)},
    "λ_min(H(0)) against": {"smallest": exact(0.3)},
    "width against n² λ0⁻²": {"width": 1000},
    "width against n⁶": {"width": 10**9},
    "step size": {"step_size": 0.06},
    "displacement of neurons against R": {"displacement": exact(1e-3)},
    "displacement of neurons against 4": {"displacement": exact(1.0)},
    "‖H(t) − H(0)‖₂": {"change_along": exact(0.13)},
    "λ_min(H(t))": {"smallest_along": exact(0.2)},
}


def test_du2019_holds_where_everything_is_as_asked():
    found = du2019.check(GOOD)
    assert found.verdict is Verdict.holds
    assert found.conclusion.verdict is Verdict.holds
    assert found.status == "recalled"
    assert len(found.to_frame()) == len(found.hypotheses) + 1


@pytest.mark.parametrize("name", FAULTS)
def test_each_condition_of_du2019_fails_on_its_own(name):
    found = du2019.check(dataclasses.replace(GOOD, **FAULTS[name]))
    assert found.verdict is Verdict.fails
    failed = [h.name for h in found.hypotheses if h.verdict is Verdict.fails]
    assert any(f.startswith(name) for f in failed)
    implied = {  # the stronger of two requirements goes with the weaker
        "width against n² λ0⁻²": "width against n⁶ λ0⁻⁴ δ⁻³",
        "displacement of neurons against R": "displacement of neurons against 4",
        "displacement of neurons against 4": "displacement of neurons against R",
    }
    allowed = (name, implied.get(name, name))
    if name != "λ0 of the limit kernel":  # it enters all the others
        assert all(f.startswith(allowed) for f in failed)


def test_du2019_is_undecided_without_a_run_or_across_an_error():
    unrun = dataclasses.replace(
        GOOD,
        displacement=None,
        smallest_along=None,
        change_along=None,
        worst_ratio=None,
    )
    assert du2019.check(unrun).verdict is Verdict.undecided
    assert du2019.check(unrun).conclusion.verdict is Verdict.undecided
    across = dataclasses.replace(GOOD, smallest=Enclosure(0.375, 0.37, 0.38))
    assert du2019.check(across).verdict is Verdict.undecided


def test_constants_of_du2019_enclose_what_any_lambda0_within_its_bounds_gives():
    lambda0 = Enclosure(0.5, 0.4, 0.6)
    constants = du2019.check(dataclasses.replace(GOOD, lambda0=lambda0)).constants
    for value in (0.4, 0.47, 0.6):
        for name, function in {
            "width near limit": du2019.width_near_limit,
            "width for convergence": du2019.width_for_convergence,
            "radius": du2019.radius,
        }.items():
            exact_value = function(10, value, 0.1)
            assert constants[name].lower <= exact_value <= constants[name].upper


LAZY = {
    "smallest": exact(0.1),
    "largest": exact(1.0),
    "server_step_size": 1.0,
    "rate": exact(0.9),
    "definite": True,
    "is_local_descent": True,
    "worst_ratio": exact(0.8),
}


@pytest.mark.parametrize(
    ("change", "hypotheses", "conclusion"),
    [
        ({}, "holds", "holds"),
        ({"smallest": exact(0.0)}, "fails", "holds"),
        ({"is_local_descent": False}, "fails", "holds"),
        ({"smallest": Enclosure(1e-17, -1e-16, 1e-16)}, "undecided", "holds"),
        ({"largest": exact(2.1)}, "fails", "holds"),
        ({"server_step_size": 2.5}, "fails", "holds"),
        ({"definite": False}, "fails", "holds"),
        ({"worst_ratio": exact(1.1)}, "holds", "fails"),
        ({"worst_ratio": None}, "holds", "undecided"),
    ],
)
def test_the_lazy_theorem(change, hypotheses, conclusion):
    found = lazy.check(**LAZY | change)
    assert found.verdict == hypotheses
    assert found.conclusion.verdict == conclusion


@pytest.fixture(scope="module")
def wide():
    """A network wide for four samples: most of what theorems ask for holds."""
    data = nf.data.load("sphere", n=4, targets="sign", dimension=16, seed=1)
    split = nf.data.partition(data, "iid", clients=2)
    return nf.models.TwoLayerReLU(16, 20_000, seed=0), split


def test_check_measures_what_it_says(wide):
    model, split = wide
    du, ours = nf.check(model, split, local_steps=3, step_size=0.5, theorems=TWO)
    limit = limits.two_layer_relu(split.dataset.x)
    lambda0 = torch.linalg.eigvalsh(limit)[0].item()
    assert du.constants["lambda0"].lower <= lambda0 <= du.constants["lambda0"].upper
    theta = nf.gram(model, split.dataset.x)
    by_name = {h.name: h for h in du.hypotheses}
    distance = by_name["‖H(0) − H∞‖₂ against λ0/4"]
    norm = torch.linalg.matrix_norm(theta - limit, 2).item()
    assert distance.left.lower <= norm * (1 + 1e-12)
    assert norm * (1 - 1e-12) <= distance.left.upper
    assert not distance.left.certified  # the limit's rounding is an estimate
    assert distance.left.width < 1e-9
    assert distance.verdict is Verdict.holds
    assert by_name["λ_min(H(0)) against ¾ λ0"].verdict is Verdict.holds
    assert du.verdict is Verdict.fails  # K = 3 is no gradient descent
    assert ours.verdict is Verdict.holds
    assert du.conclusion.verdict is ours.conclusion.verdict is Verdict.undecided


def test_a_run_decides_the_conclusions(wide):
    model, split = wide
    step, o = 0.5, nf.observers
    start = measure(model, split, local_steps=3, step_size=step)
    watch = [
        o.loss(model, split),
        o.displacement(model, split),
        o.kernel(model, split),
        o.contraction(model, split, kernel=start.federated),
    ]
    run = nf.simulate(
        model, split, rounds=10, local_steps=3, step_size=step, observers=watch
    )
    du, ours = nf.check(
        model,
        split,
        local_steps=3,
        step_size=step,
        run=run,
        start=start,
        theorems=TWO,
    )
    assert du.conclusion.verdict is Verdict.holds
    assert {h.verdict for h in du.hypotheses} <= {Verdict.holds, Verdict.fails}
    assert ours.conclusion.left is not None
    assert ours.constants["prediction error"].value < 0.01
    # The worst ratio is that of the recorded losses, from the first round on.
    losses = run.rows[run.rows["quantity"] == "loss"]["value"].to_numpy()
    lambda0 = du.constants["lambda0"].upper
    bound = losses[0] * (1 - step / 4 * lambda0 / 2) ** (3 * torch.arange(11).numpy())
    assert du.conclusion.left.value == pytest.approx((losses / bound)[1:].max())


def test_one_local_step_is_gradient_descent_and_uniform_weights_may_not_be(wide):
    model, split = wide
    name = "algorithm is gradient descent (K = 1, weights n_i/n, server step 1)"

    def verdict(**options):
        options = {"local_steps": 1, "step_size": 0.1} | options
        du = nf.check(model, options.pop("split", split), **options)[0]
        return {h.name: h.verdict for h in du.hypotheses}[name]

    assert verdict() == "holds"
    assert verdict(weights="uniform") == "holds"  # two clients of equal size
    assert verdict(local_steps=2) == "fails"
    assert verdict(server_step_size=0.5) == "fails"
    unequal = nf.data.Partition(split.dataset, [torch.arange(3), torch.tensor([3])])
    assert verdict(split=unequal, weights="uniform") == "fails"


def test_another_network_is_told_and_nothing_is_made_up_for_it():
    data = nf.data.load("sphere", n=6, targets="sign")
    split = nf.data.partition(data, "iid", clients=2)
    model = nf.models.MLP([16, 20, 1], seed=0)
    du, ours = nf.check(model, split, local_steps=2, step_size=0.1, theorems=TWO)
    verdicts = {h.name: h.verdict for h in du.hypotheses}
    assert verdicts["network is the theorem's, inputs on the sphere"] == "fails"
    assert verdicts["λ_min(H(0)) against ¾ λ0"] == "undecided"
    assert ours.verdict in set(Verdict)


def test_duplicate_inputs_leave_the_limit_eigenvalue_undecided_or_failed():
    x = torch.nn.functional.normalize(torch.eye(4, dtype=torch.float64)[[0, 1, 1, 2]])
    y = torch.ones(4, 1, dtype=torch.float64)
    split = nf.data.Partition(nf.data.Dataset(x, y), [torch.arange(4)])
    model = nf.models.TwoLayerReLU(4, 50, seed=0)
    du, _ = nf.check(model, split, local_steps=1, step_size=0.1, theorems=TWO)
    verdicts = {h.name: h.verdict for h in du.hypotheses}
    assert verdicts["λ0 of the limit kernel"] in ("undecided", "fails")


def test_a_failure_probability_out_of_range_is_refused(wide):
    with pytest.raises(ValueError, match=r"failure must be in \(0, 1\)"):
        nf.check(*wide, local_steps=1, step_size=0.1, failure=0.0)


def test_the_stable_step_size_makes_the_largest_client_exactly_monotone(wide):
    model, split = wide
    theta = nf.gram(model, split.dataset.x)
    step = stable_step_size(theta, split)
    kernel = nf.federated_kernel(theta, split, local_steps=5, step_size=step)
    assert max(c.largest for c in kernel.clients) == pytest.approx(1.0, rel=1e-12)
    with pytest.raises(ValueError, match="kernel vanishes"):
        stable_step_size(torch.zeros_like(theta), split)


@pytest.mark.parametrize("scale", [1.0, 1e-7])
@pytest.mark.parametrize("engine", ["layerwise", "jacobian"])
def test_the_forming_error_covers_the_exact_kernel(engine, scale):
    """Against exact rational gates and sums."""
    from fractions import Fraction

    model = nf.models.TwoLayerReLU(5, 40, seed=3)
    with torch.no_grad():
        model.weight.mul_(scale)
    x = nf.data.load("sphere", n=6, targets="sign", dimension=5).x
    xs = [[Fraction(v) for v in row] for row in x.tolist()]
    ws = [[Fraction(v) for v in row] for row in model.weight.tolist()]

    def dot(a, b):
        return sum(p * q for p, q in zip(a, b, strict=True))

    gates = [[dot(w, a) > 0 for w in ws] for a in xs]
    found = nf.gram(model, x, engine=engine)
    gap = torch.tensor(
        [
            [
                float(
                    Fraction(found[i, j].item())
                    - dot(xs[i], xs[j])
                    * sum(a and b for a, b in zip(gates[i], gates[j], strict=True))
                    / 40
                )
                for j in range(6)
            ]
            for i in range(6)
        ],
        dtype=torch.float64,
    )
    bound = two_layer_forming_error(model.weight.detach(), x)
    norm = torch.linalg.matrix_norm(gap, 2).item()
    assert 0 < norm <= bound
    assert bound < 1e-12  # not vacuous: a few hundred roundings of order one


def test_the_forming_error_sees_a_gate_that_cannot_be_decided():
    x = torch.nn.functional.normalize(torch.tensor([[1.0, 1.0]]).double())
    weights = torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
    assert two_layer_forming_error(weights, x) >= 0.5 * (x @ x.T).item()
    assert two_layer_forming_error(weights[1:], x) < 1e-13
