"""The Gram matrix of every engine against J Jᵀ, its laws, and its refusals."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import ALL, OTHER, build
from torch.testing import assert_close

from ntk_fed.errors import (
    NotPerSampleError,
    OutOfMemoryError,
    RunFolderError,
    ShapeMismatchError,
    UnknownNameError,
)
from ntk_fed.jacobians import by_backward_passes
from ntk_fed.kernel import (
    explain,
    gram,
    gram_matrix,
    kernel_operator,
    layerwise,
    plan,
)
from ntk_fed.kernel.plan import choose
from ntk_fed.kernel.probe import probe
from ntk_fed.kernel.uses import record
from ntk_fed.models import TwoLayerReLU
from ntk_fed.params import frozen_state, trainable

# float64, contractions of fewer than 200 terms of order one to ten.
ROUNDING = {"rtol": 1e-12, "atol": 1e-12}
CASES = [(name, engine) for name in ALL for engine in ("layerwise", "jacobian")]


def twin(model, x, x2=None, params=None, params2=None):
    """Obviously right: one backward pass per sample and output, then a product."""

    def matrix(points, values):
        values = trainable(model) | (values or {})
        rows = by_backward_passes(model, values, frozen_state(model), points)
        return torch.cat([j.reshape(*j.shape[:2], -1) for j in rows.values()], dim=2)

    left = matrix(x, params)
    right = matrix(x if x2 is None else x2, params if params2 is None else params2)
    return torch.einsum("iap,jbp->ijab", left, right)


def reduced(full, outputs):
    diagonal = full.diagonal(dim1=2, dim2=3)
    return {"full": full, "diagonal": diagonal, "trace": diagonal.sum(-1)}[outputs]


@pytest.mark.parametrize("outputs", ["trace", "full", "diagonal"])
@pytest.mark.parametrize(("name", "engine"), CASES)
def test_gram_is_jacobian_times_its_transpose(name, engine, outputs, seed, device):
    model, x = build(name, seed, device=device)
    found = gram(model, x, outputs=outputs, engine=engine)
    assert_close(found, reduced(twin(model, x), outputs), **ROUNDING)


@pytest.mark.parametrize("outputs", ["trace", "full", "diagonal"])
@pytest.mark.parametrize(("name", "engine"), CASES)
def test_two_point_sets_and_two_parameter_sets(name, engine, outputs, seed, device):
    model, x = build(name, seed, device=device)
    other, x2 = build(name, seed + 1, device=device)
    params2 = trainable(other)
    found = gram(model, x, x2[:3], params2=params2, outputs=outputs, engine=engine)
    full = twin(model, x, x2[:3], params2=params2)
    assert_close(found, reduced(full, outputs), **ROUNDING)


@pytest.mark.parametrize("name", ALL)
def test_the_asymmetric_kernel_with_equal_parameters_is_the_gram(name, seed, device):
    model, x = build(name, seed, device=device)
    assert_close(gram(model, x, params2=trainable(model)), gram(model, x), **ROUNDING)


def test_the_asymmetric_kernel_is_not_symmetric(seed, device):
    """Negative control: the two parameter sets must not be mixed up."""
    model, x = build("residual", seed, device=device)
    params2 = trainable(build("residual", seed + 1, device=device)[0])
    found = gram(model, x, params2=params2)
    assert (found - found.T).abs().max() > 1e-3
    turned = gram(model, x, params=params2, params2=trainable(model))
    assert_close(found, turned.T, **ROUNDING)


@pytest.mark.parametrize(("name", "engine"), CASES)
@pytest.mark.parametrize("samples", [1, 2, 3, 5])
def test_blocks_change_nothing_and_the_result_is_bitwise_symmetric(
    name, engine, samples, seed, device, monkeypatch
):
    model, x = build(name, seed, device=device)
    whole = gram(model, x, outputs="full", engine=engine)
    module = sys.modules["ntk_fed.kernel.plan"]  # its name is also a function
    monkeypatch.setattr(module, "block_size", lambda *_: samples)
    blocks = gram(model, x, outputs="full", engine=engine)
    assert_close(blocks, whole, **ROUNDING)
    assert torch.equal(gram_matrix(blocks), gram_matrix(blocks).T)
    for outputs in ("trace", "diagonal"):
        found = gram(model, x, outputs=outputs, engine=engine)
        assert torch.equal(found, found.transpose(0, 1))


@pytest.mark.parametrize(("name", "engine"), CASES)
def test_gram_is_positive_semidefinite_within_rounding(name, engine, seed, device):
    model, x = build(name, seed, device=device)
    matrix = gram_matrix(gram(model, x, outputs="full", engine=engine))
    eigenvalues = torch.linalg.eigvalsh(matrix)
    assert eigenvalues[0] >= -1e-13 * eigenvalues[-1]


@pytest.mark.parametrize("engine", ["jacobian", "layerwise"])
def test_gram_is_permuted_with_the_samples(engine, seed, device):
    model, x = build("perceptron", seed, device=device)
    order = torch.tensor([3, 0, 4, 1, 2])
    expected = gram(model, x, engine=engine)[order][:, order]
    assert_close(gram(model, x[order], engine=engine), expected, **ROUNDING)


@pytest.mark.parametrize(("name", "engine"), CASES)
def test_the_parameters_kernels_are_those_of_their_jacobians(
    name, engine, seed, device
):
    model, x = build(name, seed, device=device)
    parts = gram(model, x, outputs="full", engine=engine, by_layer=True)
    assert list(parts) == list(trainable(model))
    rows = by_backward_passes(model, trainable(model), frozen_state(model), x)
    for key, part in parts.items():
        own = rows[key].reshape(*rows[key].shape[:2], -1)
        assert_close(part, torch.einsum("iap,jbp->ijab", own, own), **ROUNDING)


def plan_of(name, seed, engine="auto", **options):
    model, x = build(name, seed)
    options = {"outputs": "trace", "memory": None} | options
    own = trainable(model), frozen_state(model)
    return choose(model, *own, x, x, engine=engine, symmetric=True, **options)


@pytest.mark.parametrize("name", ALL)
def test_rules_cover_what_they_should_and_the_rest_is_named(name, seed, device):
    model, x = build(name, seed, device=device)
    found = probe(model, trainable(model), frozen_state(model), x)
    shown = record(model, trainable(model), frozen_state(model), x).loose
    assert found.loose == shown  # no rule disagrees with a backward pass
    assert bool(shown) == (name in OTHER)
    if name == "tied":
        assert set(shown) == {"code.weight"}


def test_the_engine_is_chosen_by_operations_and_says_why():
    def why(width, samples):
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(6, width), torch.nn.ReLU(), torch.nn.Linear(width, 1)
        )
        x = torch.randn(samples, 6)
        own = trainable(model), frozen_state(model)
        return choose(model, *own, x, x, outputs="trace", engine="auto", memory=None)

    wide = why(200, 50)
    assert wide.engine == "layerwise"
    assert "every operation on a parameter has a rule; operations:" in wide.why
    assert why(1, 50).engine == "jacobian"


def test_a_rule_that_is_wrong_is_found_and_goes_the_generic_way(
    seed, device, monkeypatch
):
    """Planted fault: a dense rule that forgets its inputs."""
    from ntk_fed.kernel.rules import RULES, Factor, Rule

    good = RULES[torch.nn.functional.linear]

    def wrong(call):
        return good.factors(call) | {"weight": Factor(call.sensitivities[:, :, None])}

    bad = Rule(good.signature, good.inputs, good.parameters, wrong, good.covers)
    monkeypatch.setitem(RULES, torch.nn.functional.linear, bad)
    model, x = build("perceptron", seed, device=device)
    found = gram(model, x, outputs="full", engine="layerwise")
    assert_close(found, twin(model, x), **ROUNDING)
    plan = plan_of("perceptron", seed, "layerwise")
    assert plan.loose == {"0.weight", "2.weight", "4.weight"}


def test_the_layer_below_the_last_is_kept_for_one_output(seed, device):
    model, x = build("perceptron", seed, device=device)
    own = trainable(model), frozen_state(model)
    found = layerwise.factors(model, *own, x)
    assert found["2.weight"][0].mix is not None  # below the last, a dense one
    assert found["0.weight"][0].mix is None
    d = found["2.weight"][0].per_output().sensitivities[:, :, 0]
    plain = found["0.weight"][0].sensitivities[:, :, 0]
    assert layerwise.in_one_way(plain, 2) is None
    s, mix = layerwise.in_one_way(d, 2)
    assert_close(mix[:, None] * s, d, **ROUNDING)
    bent = d.clone()
    bent[1, 4, 2] += 1e-6  # one entry of one sample
    assert layerwise.in_one_way(bent, 2) is None


def test_every_unit_has_its_own_mixture_of_outputs(seed):
    """Units no sample sees, samples no unit sees, and signs of either kind."""
    draw = torch.Generator().manual_seed(seed)
    mix = torch.randn(3, 4, 1, generator=draw, dtype=torch.float64)
    mix[:, 1] = 0.0
    s = torch.randn(1, 6, 4, 5, generator=draw, dtype=torch.float64)
    s[:, 2], s[:, :, 3] = 0.0, 0.0
    d = mix[:, None] * s
    found, m = layerwise.in_one_way(d, 2)
    assert_close(m[:, None, :, None] * found, d, rtol=1e-15, atol=0.0)
    d[1, 5, 0, 4] *= 1 + 1e-14
    assert layerwise.in_one_way(d, 2) is None


def test_a_use_that_no_operation_shows_is_found_in_the_graph(seed):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.wide = torch.nn.Linear(6, 20_000, bias=False)  # above small ones
            self.head = torch.nn.Linear(20_000, 1)

        def forward(self, x):
            with torch._C.DisableTorchFunction():  # as in an extension of torch
                hidden = x @ self.wide.weight.T
            return self.head(torch.tanh(self.wide(x) + hidden))

    torch.manual_seed(seed)
    model, x = Model().double(), torch.randn(5, 6, dtype=torch.float64)
    found = probe(model, trainable(model), frozen_state(model), x)
    assert found.loose == {"wide.weight": "used where no operation shows it"}
    assert_close(gram(model, x), twin(model, x)[..., 0, 0], **ROUNDING)


def test_samples_that_change_places_on_the_way_are_found(seed):
    """A layer sees another order than inputs and outputs; the network is per sample."""

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.wide = torch.nn.Linear(6, 20_000, bias=False)
            self.head = torch.nn.Linear(20_000, 1)

        def forward(self, x):
            return self.head(torch.tanh(self.wide(x.flip(0))).flip(0))

    torch.manual_seed(seed)
    model, x = Model().double(), torch.randn(5, 6, dtype=torch.float64)
    found = probe(model, trainable(model), frozen_state(model), x)
    assert found.loose == {"wide.weight": "its samples are reordered on the way"}
    assert_close(gram(model, x), twin(model, x)[..., 0, 0], **ROUNDING)


@pytest.mark.parametrize("chunk", [1, 2, 5])
@pytest.mark.parametrize("name", ALL)
def test_how_many_samples_pass_together_changes_nothing(
    name, chunk, seed, device, monkeypatch
):
    model, x = build(name, seed, device=device)
    cost = sys.modules["ntk_fed.kernel.plan"]._Cost
    monkeypatch.setattr(cost, "chunk", chunk)
    found = gram(model, x, outputs="full", engine="layerwise")
    assert_close(found, twin(model, x), **ROUNDING)


def test_float32_parameters_can_be_accumulated_in_float64(seed, device):
    model, x = build("perceptron", seed, dtype=torch.float32, device=device)
    found = gram(model, x, dtype=torch.float64)
    assert found.dtype == torch.float64
    assert_close(found, reduced(twin(model.double(), x.double()), "trace"), **ROUNDING)


def test_memory_too_small_for_one_pair_is_refused_with_the_figure(seed, device):
    model, x = build("perceptron", seed, device=device)
    with pytest.raises(OutOfMemoryError, match=r"one pair of samples needs [\d,]+"):
        gram(model, x, memory=300)


def test_unknown_options_are_refused_with_the_nearest(seed, device):
    model, x = build("perceptron", seed, device=device)
    with pytest.raises(UnknownNameError, match="Did you mean 'trace'"):
        gram(model, x, outputs="trcae")
    with pytest.raises(UnknownNameError, match="Did you mean 'layerwise'"):
        gram(model, x, engine="layer-wise")


def test_gram_matrix_puts_outputs_inside_samples(seed, device):
    model, x = build("residual", seed, device=device)
    full = gram(model, x, outputs="full")
    matrix = gram_matrix(full)
    assert matrix[2 * 3 + 1, 2 * 4 + 0] == full[3, 4, 1, 0]
    with pytest.raises(ShapeMismatchError, match="full must be"):
        gram_matrix(matrix)


@pytest.mark.parametrize("name", ["perceptron", "residual block", "unusual", "tied"])
@pytest.mark.parametrize("batch", [2, 100])
def test_kernel_products_need_no_gram(name, batch, seed, device):
    model, x = build(name, seed, device=device)
    matrix = gram_matrix(twin(model, x)).cpu()
    operator = kernel_operator(model, x, batch=batch)
    assert operator.shape == tuple(matrix.shape)
    v = torch.linspace(-1, 1, len(matrix), dtype=torch.float64)
    assert_close(torch.from_numpy(operator @ v.numpy()), matrix @ v, **ROUNDING)
    assert_close(torch.from_numpy(operator.T @ v.numpy()), matrix @ v, **ROUNDING)
    pair = torch.stack([v, v.flip(0)], dim=1)
    assert_close(torch.from_numpy(operator @ pair.numpy()), matrix @ pair, **ROUNDING)
    shaped = v.reshape(len(x), -1)
    found = operator.torch(shaped).cpu()
    assert_close(found, (matrix @ v).reshape(shaped.shape), **ROUNDING)
    with pytest.raises(ValueError, match="batch must be at least 1"):
        kernel_operator(model, x, batch=0)


@pytest.mark.parametrize(
    ("options", "whole"),
    [
        ({"outputs": "full"}, True),
        ({"engine": "layerwise", "memory": 8000}, False),
        ({"engine": "jacobian", "dtype": torch.float32}, True),
        ({"select": [0]}, True),
    ],
)
def test_a_plan_says_what_gram_will_do(options, whole, seed, device, monkeypatch):
    model, x = build("perceptron", seed, device=device)
    used = []

    def recorded(*args, **settings):
        used.append(choose(*args, **settings))
        return used[-1]

    module = sys.modules["ntk_fed.kernel.gram"]  # its name is also a function
    monkeypatch.setattr(module, "choose", recorded)
    gram(model, x, **options)
    found = plan(model, x, **options)
    assert [found] == used
    assert (found.block == 5) == whole


def test_a_plan_counts_operations_and_bytes(seed, device):
    model, x = build("perceptron", seed, device=device)
    found = plan(model, x, outputs="full")
    assert found.operations > 0
    assert found.bytes >= 5 * 5 * 3 * 3 * 8
    assert "operations" in explain(model, x)
    with pytest.raises(OutOfMemoryError, match="one pair of samples"):
        plan(model, x, memory=300)


@pytest.fixture
def tiles_of_two(monkeypatch):
    module = sys.modules["ntk_fed.kernel.plan"]
    monkeypatch.setattr(module, "block_size", lambda *_: 2)


@pytest.mark.parametrize("outputs", ["trace", "full", "diagonal"])
def test_a_gram_on_disk_is_the_gram(outputs, seed, tmp_path, tiles_of_two):
    model, x = build("residual", seed)
    path = tmp_path / "gram.npy"
    found = gram(model, x, outputs=outputs, out=path)
    assert_close(found, reduced(twin(model, x), outputs), **ROUNDING)
    assert_close(torch.from_numpy(np.load(path)), found, rtol=0.0, atol=0.0)


def test_a_tiled_run_that_is_interrupted_ends_with_the_same_bytes(
    seed, tmp_path, tiles_of_two, monkeypatch
):
    model, x = build("residual", seed)
    gram(model, x, out=tmp_path / "whole.npy")
    module = sys.modules["ntk_fed.kernel.assemble"]
    plain, computed = module.block, []

    def breaks(*args, **options):
        if len(computed) == 3:
            raise KeyboardInterrupt
        computed.append(1)
        return plain(*args, **options)

    monkeypatch.setattr(module, "block", breaks)
    path = tmp_path / "again.npy"
    with pytest.raises(KeyboardInterrupt):
        gram(model, x, out=path)
    computed.clear()
    gram(model, x, out=path)  # 6 tiles in all: the 3 that were missing
    assert len(computed) == 3
    gram(model, x, out=path)  # and none
    assert len(computed) == 3
    assert path.read_bytes() == (tmp_path / "whole.npy").read_bytes()


TILED = """
import sys

sys.path.insert(0, {tests!r})
from networks import build
import ntk_fed as nf
module = sys.modules["ntk_fed.kernel.plan"]
module.block_size = lambda *_: 1
model, x = build("transformer", {seed})
nf.gram(model, x.repeat(3, 1), out={out!r}, engine="jacobian")
"""


@pytest.mark.long
def test_kill_9_in_a_tiled_run_and_a_restart_give_the_same_bytes(seed, tmp_path):
    tests = str(Path(__file__).parent)
    whole, again = str(tmp_path / "whole.npy"), tmp_path / "again.npy"
    script = TILED.format(tests=tests, seed=seed, out=whole)
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    script = TILED.format(tests=tests, seed=seed, out=str(again))
    state, seen = tmp_path / "again.npy.tiles.json", []
    for tiles in (10, 40):
        process = subprocess.Popen([sys.executable, "-c", script])
        while process.poll() is None:
            if state.exists() and len(json.loads(state.read_text())["done"]) > tiles:
                break
            time.sleep(0.005)
        process.kill()
        process.wait()
        seen.append(len(json.loads(state.read_text())["done"]))
    assert 10 < seen[0] < seen[1] < 120  # killed in the middle, twice
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert again.read_bytes() == Path(whole).read_bytes()


@pytest.mark.parametrize(
    "outputs",
    ["full", *(pytest.param(o, marks=pytest.mark.long) for o in ("trace", "diagonal"))],
)
def test_blocks_on_two_processes_have_the_same_bits(outputs, seed):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(
        torch.nn.Linear(20, 300), torch.nn.ReLU(), torch.nn.Linear(300, 200),
        torch.nn.ReLU(), torch.nn.Linear(200, 3),
    )  # fmt: skip
    x = torch.randn(150, 20)
    found = gram(model, x, outputs=outputs, processes=2)
    size = plan(model, x, outputs=outputs, processes=2).block
    assert size < len(x)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with pytest.MonkeyPatch.context() as patch:
            module = sys.modules["ntk_fed.kernel.plan"]
            patch.setattr(module, "block_size", lambda *_: size)
            alone = gram(model, x, outputs=outputs)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found, alone)
    assert_close(found, gram(model, x, outputs=outputs), rtol=1e-5, atol=1e-4)


def test_a_file_begun_alone_is_finished_by_two_processes(
    seed, tmp_path, tiles_of_two, monkeypatch
):
    model, x = build("residual", seed)
    gram(model, x, out=tmp_path / "whole.npy")
    module, done = sys.modules["ntk_fed.kernel.assemble"], []
    plain = module.Job.block

    def breaks(*args):
        done.append(1)
        if len(done) == 3:
            raise KeyboardInterrupt
        return plain(*args)

    path = tmp_path / "shared.npy"
    with monkeypatch.context() as patch:
        patch.setattr(module.Job, "block", breaks)
        with pytest.raises(KeyboardInterrupt):
            gram(model, x, out=path)
    gram(model, x, out=path, processes=2)
    assert path.read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_what_cannot_be_sent_to_another_process_is_said(seed):
    model, x = build("perceptron", seed)
    model.note = lambda: None  # a function without a name to be found by
    with pytest.raises(ValueError, match="cannot be sent to another process"):
        gram(model, x, processes=2)
    with pytest.raises(ValueError, match="processes must be an int of at least 1"):
        gram(model, x, processes=0)


@pytest.mark.parametrize("engine", ["layerwise", "jacobian"])
@pytest.mark.parametrize("name", ["perceptron", "residual block", "recurrent"])
def test_selected_outputs_are_those_of_the_whole(name, engine, seed, device):
    model, x = build(name, seed, device=device)
    some = [1, 0]
    full = gram(model, x, outputs="full")[:, :, some][..., some]
    options = {"engine": engine, "select": some}
    assert_close(gram(model, x, outputs="full", **options), full, **ROUNDING)
    assert_close(gram(model, x, **options), reduced(full, "trace"), **ROUNDING)
    parts = gram(model, x, by_layer=True, **options)
    assert list(parts) == list(trainable(model))
    other = trainable(build(name, seed + 1, device=device)[0])
    crossed = gram(model, x, x[:2], params2=other, outputs="full")
    found = gram(model, x, x[:2], params2=other, outputs="full", **options)
    assert_close(found, crossed[:, :, some][..., some], **ROUNDING)


def test_outputs_that_are_not_there_cannot_be_selected(seed, device):
    model, x = build("perceptron", seed, device=device)
    for wrong in ([3], [0, -1], []):
        with pytest.raises(ShapeMismatchError, match="select must name outputs"):
            gram(model, x, select=wrong)
    with pytest.raises(NotPerSampleError, match="BatchNorm1d"):
        gram(torch.nn.BatchNorm1d(6).double(), x, select=[0])


def test_another_kernel_in_the_same_file_is_refused(seed, tmp_path, tiles_of_two):
    model, x = build("residual", seed)
    path = tmp_path / "gram.npy"
    gram(model, x, out=path)
    other = build("residual", seed + 1)[0]
    with pytest.raises(RunFolderError, match="kernel of another network"):
        gram(other, x, out=path)
    (tmp_path / "mine.npy").write_bytes(b"mine")
    with pytest.raises(RunFolderError, match="no kernel of ours"):
        gram(model, x, out=tmp_path / "mine.npy")
    with pytest.raises(RunFolderError, match="cannot be written"):
        gram(model, x, out=tmp_path / "none" / "gram.npy")
    with pytest.raises(ValueError, match="holds one matrix"):
        gram(model, x, out=tmp_path / "layers.npy", by_layer=True)


@pytest.mark.parametrize("outputs", ["trace", "full"])
@pytest.mark.parametrize("name", ["perceptron", "residual block", "tied", "in-place"])
def test_the_forming_error_covers_what_float32_lost(name, outputs, seed, device):
    model, x = build(name, seed, dtype=torch.float32, device=device)
    x = torch.cat([x, x + 0.1, 0.3 * x, -x])
    found, error = gram(model, x, outputs=outputs, with_error=True)
    assert not error.proven
    assert "estimate" in error.method
    full = twin(model.double(), x.double())
    exact = reduced(full, outputs)
    if outputs == "full":
        found, exact = gram_matrix(found), gram_matrix(exact)
    lost = torch.linalg.matrix_norm(found.double() - exact, 2).item()
    assert lost <= error.bound <= 1e-4 * torch.linalg.matrix_norm(exact).item()


def test_the_forming_error_in_float64_and_of_two_layers(seed):
    model, x = build("perceptron", seed)
    found, error = gram(model, x, with_error=True)
    assert 0 < error.bound <= 1e-11 * found.trace()
    two = TwoLayerReLU(6, 30, seed=seed)
    plain = gram(two, x)
    found, error = gram(two, x, with_error=True)
    assert error.proven
    assert torch.equal(found, plain)
    for wrong in ({"outputs": "diagonal"}, {"by_layer": True}, {"x2": x}):
        with pytest.raises(ValueError, match="with_error=True is for the kernel"):
            gram(model, x, with_error=True, **wrong)
