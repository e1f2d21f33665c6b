"""Networks for which a kernel was once wrong, refused or changed, each a case."""

import sys

import numpy as np
import pytest
import torch
from networks import build
from torch.testing import assert_close

from ntk_fed.errors import (
    NonFiniteError,
    NotPerSampleError,
    OutOfMemoryError,
    RunFolderError,
    ShapeMismatchError,
    UnknownNameError,
)
from ntk_fed.jacobians import by_backward_passes, jacobian
from ntk_fed.kernel import gram, gram_matrix, kernel_operator, layerwise, plan
from ntk_fed.models import TwoLayerReLU
from ntk_fed.params import frozen_state, trainable


class Made(torch.nn.Module):
    """A network from a forward function and named layers."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.made = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.made(self, x)


def assert_same_as_one_backward_pass(model, x, x2=None, **options):
    """Every engine's full kernel against the twin; network and samples untouched."""
    model = model.double()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    samples = x.clone()

    def rows(points):
        found = by_backward_passes(model, trainable(model), frozen_state(model), points)
        return torch.cat([j.reshape(*j.shape[:2], -1) for j in found.values()], dim=2)

    exact = torch.einsum("iap,jbp->ijab", rows(x), rows(x if x2 is None else x2))
    for engine in ("layerwise", "jacobian"):
        found = gram(model, x, x2, outputs="full", engine=engine, **options)
        assert_close(found, exact, rtol=1e-11, atol=1e-11 * exact.abs().max().item())
    assert torch.equal(x, samples)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def dense(i, o):
    return torch.nn.Linear(i, o, dtype=torch.float64)


def by_score(self, x):
    """Samples are sorted by a score on the way, as mixtures of experts do."""
    order = self.gate(x)[:, 0].argsort(stable=True)
    return self.head(torch.relu(self.wide(x[order]))[order.argsort()])


def longest(self, x):
    """Trimmed to the longest of the batch: a legal function of each sample."""
    length = int(x.count_nonzero(dim=1).max())
    return self.head(torch.tanh(self.wide(x[:, :length, None])).sum(dim=1))


def rarely(self, x):
    """A second branch, hidden from interception, for samples that have it."""
    hidden, special = self.wide(x), x[:, 0] > 1.5
    if special.any():
        with torch._C.DisableTorchFunction():
            more = x @ self.wide.weight.T
        hidden = torch.where(special[:, None], hidden + more, hidden)
    return self.head(torch.tanh(hidden))


@pytest.mark.parametrize("n", [2, 3, 5, 10, 30])
def test_samples_reordered_inside_take_the_generic_way(n, seed):
    torch.manual_seed(seed)
    flipped = lambda s, x: s.head(torch.tanh(s.wide(x.flip(0)).flip(0)))  # noqa: E731
    x = torch.randn(n, 4, dtype=torch.float64)
    assert_same_as_one_backward_pass(
        Made(flipped, wide=dense(4, 5), head=dense(5, 2)), x
    )
    layers = {"wide": dense(4, 100), "head": dense(100, 3), "gate": dense(4, 1)}
    assert_same_as_one_backward_pass(Made(by_score, **layers), x)


def test_sequences_first_with_as_many_steps_as_samples(seed):
    torch.manual_seed(seed)
    turned = lambda s, x: s.head(torch.tanh(s.wide(x.transpose(0, 1)))[-2])  # noqa: E731
    x = torch.randn(4, 4, 4, dtype=torch.float64)
    assert_same_as_one_backward_pass(
        Made(turned, wide=dense(4, 5), head=dense(5, 2)), x
    )


@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_sides_and_chunks_of_different_forms(chunk, seed, monkeypatch):
    torch.manual_seed(seed)
    cost = sys.modules["ntk_fed.kernel.plan"]._Cost
    monkeypatch.setattr(cost, "chunk", chunk)
    x = torch.randn(6, 10, dtype=torch.float64)
    x[3:, 1:] = 0.0
    wide = torch.nn.Linear(1, 5, bias=False, dtype=torch.float64)
    model = Made(longest, wide=wide, head=dense(5, 2))
    assert_same_as_one_backward_pass(model, x)
    assert_same_as_one_backward_pass(model, x, x[3:])


def test_a_use_that_only_some_samples_have(seed):
    torch.manual_seed(seed)
    x = torch.randn(40, 4, dtype=torch.float64).clamp(max=1.0)
    x[23, 0] = 2.0
    assert_same_as_one_backward_pass(
        Made(rarely, wide=dense(4, 5), head=dense(5, 2)), x
    )


@pytest.mark.parametrize("scale", [1e-8, 1e-16, 1e-30])
def test_a_faint_output_is_not_lost_beside_a_loud_one(scale, seed):
    def two(self, x):
        hidden = torch.relu(self.wide(x))
        faint = scale * self.second(torch.tanh(hidden * hidden))
        return torch.cat([self.first(hidden), faint], dim=1)

    torch.manual_seed(seed)
    model = Made(two, wide=dense(4, 40), first=dense(40, 1), second=dense(40, 1))
    x = torch.randn(6, 4, dtype=torch.float64)
    found = gram(model, x, outputs="diagonal", engine="layerwise")[..., 1]
    exact = gram(model, x, outputs="diagonal", engine="jacobian")[..., 1]
    assert_close(found / scale**2, exact / scale**2, rtol=1e-11, atol=1e-11)


def test_layers_that_change_their_input_in_place(seed):
    torch.manual_seed(seed)
    for first in (torch.nn.SiLU(inplace=True), torch.nn.ReLU(inplace=True)):
        model = torch.nn.Sequential(first, dense(4, 5), torch.nn.Tanh(), dense(5, 2))
        assert_same_as_one_backward_pass(model, torch.randn(6, 4, dtype=torch.float64))


def test_outputs_without_a_graph_have_the_kernel_zero(seed):
    torch.manual_seed(seed)
    hard = Made(lambda s, x: (s.wide(x) > 0).double(), wide=dense(4, 2))
    x = torch.randn(5, 4, dtype=torch.float64)
    assert_same_as_one_backward_pass(hard, x)
    sometimes = Made(
        lambda s, x: torch.cat([s.wide(x), x[:, :1].detach() ** 2], dim=1),
        wide=dense(4, 2),
    )
    assert_same_as_one_backward_pass(sometimes, x)


def test_a_parameter_that_is_not_registered_is_refused(seed):
    torch.manual_seed(seed)
    model = Made(lambda s, x: torch.tanh(s.wide(x)) @ s.kept[0], wide=dense(4, 4))
    model.kept = [torch.randn(4, 2, dtype=torch.float64, requires_grad=True)]
    with pytest.raises(ValueError, match="not among its named parameters"):
        gram(model, torch.randn(5, 4, dtype=torch.float64))


@pytest.mark.parametrize("engine", ["layerwise", "jacobian"])
def test_activation_checkpointing_is_refused(engine, seed):
    from torch.utils.checkpoint import checkpoint

    def again(self, x):
        return checkpoint(lambda t: torch.tanh(self.wide(t)), x, use_reentrant=False)

    torch.manual_seed(seed)
    with pytest.raises(RuntimeError, match="recomputes activations"):
        gram(
            Made(again, wide=dense(4, 2)),
            torch.randn(5, 4, dtype=torch.float64),
            engine=engine,
        )


def test_buffers_that_a_forward_pass_updates_start_anew(seed):
    class Counting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.wide = dense(4, 2)
            self.register_buffer("calls", torch.zeros((), dtype=torch.float64))

        def forward(self, x):
            self.calls += 1
            return self.wide(x) * (1 + 0.5 * self.calls)

    torch.manual_seed(seed)
    assert_same_as_one_backward_pass(
        Counting(), torch.randn(12, 4, dtype=torch.float64)
    )


def test_it_does_not_matter_where_the_kernel_is_called(seed):
    model, x = build("perceptron", seed)
    plain = gram(model, x)
    with torch.no_grad():
        assert torch.equal(gram(model, x), plain)
    with torch.inference_mode():
        assert torch.equal(gram(model, x.clone()), plain)
    for engine in ("layerwise", "jacobian"):
        watched = x.clone().requires_grad_()
        assert not gram(model, watched, engine=engine).requires_grad


def test_files_of_another_network_or_another_question_are_refused(seed, tmp_path):
    torch.manual_seed(seed)
    first = torch.nn.Sequential(dense(4, 5), torch.nn.Tanh(), dense(5, 2))
    second = torch.nn.Sequential(dense(4, 5), torch.nn.Sigmoid(), dense(5, 2))
    second.load_state_dict(first.state_dict())
    x = torch.randn(6, 4, dtype=torch.float64)
    gram(first, x, out=tmp_path / "gram.npy")
    with pytest.raises(RunFolderError, match="another network"):
        gram(second, x, out=tmp_path / "gram.npy")
    with pytest.raises(RunFolderError, match="another network"):
        gram(first, x, x.clone(), out=tmp_path / "gram.npy")
    with pytest.raises(ValueError, match="out= holds float32 or float64"):
        gram(first.bfloat16(), x.bfloat16(), out=tmp_path / "half.npy")


@pytest.mark.parametrize("symmetric", [True, False])
def test_more_columns_than_a_part_takes(symmetric, seed, monkeypatch):
    contract = sys.modules["ntk_fed.kernel.contract"]
    model, x = build("perceptron", seed)
    x = torch.cat([x + 0.1 * k for k in range(60)])
    x2 = None if symmetric else x.flip(0)[:250]
    whole = {
        kind: gram(model, x, x2, outputs=kind, engine="layerwise")
        for kind in ("trace", "diagonal", "full")
    }
    monkeypatch.setattr(contract, "COLUMNS", 130)
    for kind, plain in whole.items():
        found = gram(model, x, x2, outputs=kind, engine="layerwise")
        assert_close(found, plain, rtol=1e-12, atol=1e-12)


def test_the_last_samples_are_compared_too(seed):
    """One bent entry far behind those looked at first."""
    draw = torch.Generator().manual_seed(seed)
    mix = torch.randn(3, 1, 64, generator=draw, dtype=torch.float64)
    d = mix * torch.randn(1, 9000, 64, generator=draw, dtype=torch.float64)
    assert layerwise.in_one_way(d, 2) is not None
    d[1, 8999, 5] += 1e-9
    assert layerwise.in_one_way(d, 2) is None


class Root(torch.nn.Module):
    """The gradient of a norm at zero is NaN."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 4, bias=False).double()

    def forward(self, x):
        return self.layer(x).square().sum(dim=1, keepdim=True).sqrt()


@pytest.mark.parametrize("engine", ["layerwise", "jacobian"])
def test_a_sample_without_a_gradient_is_named(engine):
    x = torch.randn(6, 3, dtype=torch.float64)
    x[4] = 0.0
    with pytest.raises(NonFiniteError, match="1 samples of x, the first at 4"):
        gram(Root(), x, engine=engine)
    with pytest.raises(NonFiniteError, match="the columns' x, the first at 1"):
        gram(Root(), x[:4], x[3:], engine=engine)


def test_a_kernel_beyond_its_dtype_is_told():
    model = torch.nn.Linear(3, 1, bias=False)
    x = torch.full((2, 3), 1e25)
    with pytest.raises(NonFiniteError, match=r"pass dtype=torch\.float64"):
        gram(model, x)
    assert torch.isfinite(gram(model, x, dtype=torch.float64)).all()


def test_an_embedding_that_changes_itself_is_refused_and_left_alone():
    model = torch.nn.Sequential(
        torch.nn.Embedding(5, 3, max_norm=0.1), torch.nn.Flatten()
    )
    before = model[0].weight.detach().clone()
    with pytest.raises(NotPerSampleError, match=r"'0' with max_norm = 0\.1"):
        gram(model, torch.tensor([[1], [2]]))
    assert torch.equal(model[0].weight, before)


def test_mixed_precision_is_refused():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1).double())
    with pytest.raises(ShapeMismatchError, match=r"torch\.float32 and torch\.float64"):
        gram(model, torch.ones(2, 3))
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(ValueError, match=r"inside torch\.autocast"),
    ):
        gram(torch.nn.Linear(3, 1), torch.ones(2, 3))


def test_the_proven_forming_error_is_that_of_the_engine():
    """The two sum other numbers of terms: m + d and m d, each rounded once or more."""
    model, x = TwoLayerReLU(4, 64, seed=0), torch.randn(6, 4, dtype=torch.float64)
    bounds = {}
    for engine in ("layerwise", "jacobian"):
        _, error = gram(model, x, engine=engine, with_error=True)
        assert error.proven
        bounds[engine] = error.bound
    ratio = (64 * 4 + 12) / (64 + 4 + 12)
    assert bounds["jacobian"] == pytest.approx(ratio * bounds["layerwise"], rel=1e-3)


def test_a_product_leaves_no_trace_in_the_operator():
    """A layer that counts its passes and uses the count."""
    model = Drifting()
    x = torch.randn(5, 3, dtype=torch.float64)
    operator = kernel_operator(model, x)
    first = operator @ np.ones(5)
    assert np.array_equal(operator @ np.ones(5), first)
    assert model.count.item() == 0


class Drifting(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1).double()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count += 1
        return self.layer(x) * self.count


def test_a_plan_knows_of_files_and_layers():
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 1)).double()
    x, matrix = torch.randn(300, 4, dtype=torch.float64), 300 * 300 * 8
    with pytest.raises(OutOfMemoryError):
        plan(model, x, memory=matrix)
    assert plan(model, x, memory=matrix, on_disk=True).bytes <= matrix
    whole, layers = plan(model, x), plan(model, x, by_layer=True)
    assert layers.bytes - whole.bytes == 3 * matrix  # four parameters


def test_an_operator_takes_the_dtype_of_the_parameters():
    """Token numbers are integers, vectors of outputs are not."""
    model = torch.nn.Sequential(torch.nn.Embedding(7, 3), torch.nn.Flatten()).double()
    x = torch.tensor([[1, 2], [3, 3]])
    operator, v = kernel_operator(model, x), torch.linspace(0.1, 0.9, 12).double()
    matrix = gram_matrix(gram(model, x, outputs="full"))
    assert_close(operator.torch(v), matrix @ v, rtol=1e-12, atol=0)
    with torch.no_grad():
        model[0].weight.mul_(2)  # a snapshot: products are of one kernel
    assert_close(operator.torch(v), matrix @ v, rtol=1e-12, atol=0)


def test_an_operator_leaves_its_inputs_alone():
    model = Made(lambda self, x: self.layer(x.mul_(2)), layer=torch.nn.Linear(3, 1))
    x = torch.ones(4, 3, requires_grad=True)
    before = x.detach().clone()
    assert kernel_operator(model, x) @ np.ones(4) == pytest.approx(4 * (4 * 3 + 1.0))
    assert torch.equal(x, before)


@pytest.mark.parametrize("select", [[False, True], [1, 1]])
def test_what_is_no_list_of_outputs_is_refused(select):
    with pytest.raises(ValueError, match="select must be different whole numbers"):
        gram(torch.nn.Linear(3, 2), torch.ones(2, 3), select=select)


def test_complex_networks_are_refused():
    model, x = torch.nn.Linear(3, 2), torch.ones(2, 3)
    turned = Made(lambda self, x: self.layer(x) * (1 + 2j), layer=model)
    for function in (gram, kernel_operator, plan):
        with pytest.raises(ValueError, match="real numbers"):
            function(turned, x)
    with pytest.raises(ValueError, match="must be real"):
        gram(torch.nn.Linear(3, 2, dtype=torch.complex64), x)


def test_an_error_names_what_is_wrong():
    model, x = torch.nn.Linear(3, 2), torch.ones(2, 3)
    for options, words in (
        ({"outputs": "Full"}, "Did you mean 'full'"),
        ({"engine": "x"}, "engine"),
        ({"processes": 0}, "processes must be an int"),
        ({"memory": -1}, "memory must be a positive"),
    ):
        for function in (gram, plan):
            with pytest.raises((ValueError, UnknownNameError), match=words):
                function(model, x, **options)
    with pytest.raises(NonFiniteError, match="x2 has 3 non-finite"):
        gram(model, x, x[:1] / 0)


def test_samples_that_mix_and_outputs_at_random_are_told_apart():
    layer, x = torch.nn.Linear(3, 2), torch.randn(9, 3)
    mixing = Made(lambda self, x: self.layer(x) + x.mean(), layer=layer)
    with pytest.raises(NotPerSampleError, match="the other samples of the batch"):
        gram(mixing, x)
    noisy = Made(lambda self, x: self.layer(x) + torch.randn(1), layer=layer)
    with pytest.raises(NotPerSampleError, match="it is random"):
        gram(noisy, x)


def test_a_network_that_is_nan_alone_is_refused():
    """Alone, a sample has no deviation; the order of samples does not show that."""
    model = Made(
        lambda self, x: self.layer(x / x.std(0, correction=0)),
        layer=torch.nn.Linear(5, 1),
    )
    with pytest.raises(NotPerSampleError):
        gram(model, torch.randn(3, 5))
    with pytest.raises(NotPerSampleError):
        jacobian(model, torch.randn(20, 5))
