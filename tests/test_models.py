"""The networks of the theory against their formulas, laws and limits."""

import math

import pytest
import torch
from torch.testing import assert_close

import ntk_fed as nf
from ntk_fed.errors import NonFiniteError, ShapeMismatchError, UnknownNameError
from ntk_fed.models import (
    MLP,
    Linear,
    Pyramid,
    SharedRepresentation,
    SmoothLeakyReLU,
    TwoLayerReLU,
)

MODELS = {
    "two-layer": lambda **o: TwoLayerReLU(3, 8, **o),
    "mlp": lambda **o: MLP([3, 8, 5, 2], **o),
    "standard": lambda **o: MLP([3, 8, 2], scaling="standard", bias=True, **o),
    "pyramid": lambda **o: Pyramid(3, 8, [5, 2], **o),
    "certified": lambda **o: Pyramid(
        3, 8, [5, 2], activation="smooth_leaky_relu", initial="certified", **o
    ),
    "linear": lambda **o: Linear(3, 2, bias=True, initial="normal", **o),
    "shared": lambda **o: SharedRepresentation(3, 2, step_size=0.1, **o),
}
OUTPUTS = dict.fromkeys(MODELS, 2) | {"two-layer": 1, "shared": 1}


def normal(n, d, generator):
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


def relu(z):
    return z * (z > 0)


# What all share


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_returns_one_row_per_sample_in_its_dtype(name, dtype, generator):
    model = MODELS[name](seed=0, dtype=dtype)
    output = model(normal(6, 3, generator).to(dtype))
    assert (output.shape, output.dtype) == ((6, OUTPUTS[name]), dtype)
    assert {p.dtype for p in model.state_dict().values()} == {dtype}


@pytest.mark.parametrize("name", MODELS)
def test_models_are_float64_by_default(name):
    assert next(MODELS[name](seed=0).parameters()).dtype == torch.float64


@pytest.mark.parametrize("name", MODELS)
def test_a_seed_means_the_same_weights_rounded_last(name):
    first, again, other = (MODELS[name](seed=s).state_dict() for s in (1, 1, 2))
    single = MODELS[name](seed=1, dtype=torch.float32).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert all(torch.equal(first[key].float(), single[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", MODELS)
def test_building_a_model_leaves_the_global_generator_alone(name):
    before = torch.get_rng_state()
    MODELS[name](seed=0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", [(4, 2), (4, 4), (3, 4), ()])
def test_inputs_of_another_width_are_refused(name, shape):
    expected = r"expected inputs of shape \(n, 3\), got \("
    with pytest.raises(ShapeMismatchError, match=expected):
        MODELS[name](seed=0)(torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize("name", MODELS)
def test_models_go_through_torch_func_one_sample_at_a_time(name, generator):
    model, x = MODELS[name](seed=0), normal(4, 3, generator)
    params = dict(model.named_parameters())

    def one(params, sample):
        return torch.func.functional_call(model, params, (sample.unsqueeze(0),))[0]

    rows = torch.func.vmap(torch.func.jacrev(one), (None, 0))(params, x)
    key = next(iter(params))  # the first layer's weight
    (gradient,) = torch.autograd.grad(model(x[2:3])[0, -1], [params[key]])
    assert_close(rows[key][2, -1], gradient, rtol=0.0, atol=1e-13)


@pytest.mark.parametrize("name", MODELS)
def test_a_dtype_without_gradients_is_refused(name):
    with pytest.raises(ValueError, match=r"dtype must be floating, got torch\.int64"):
        MODELS[name](seed=0, dtype=torch.int64)


# Two layers


def test_two_layers_are_their_formula_summed_unit_by_unit(generator):
    model, x = TwoLayerReLU(3, 7, seed=0), normal(5, 3, generator)
    expected = torch.zeros(5, 1, dtype=torch.float64)
    for a, w in zip(model.head, model.weight.detach(), strict=True):
        expected[:, 0] += a * relu(x @ w) / math.sqrt(7)
    assert_close(model(x).detach(), expected, rtol=0.0, atol=1e-14)


def test_two_layers_train_the_first_only():
    model = TwoLayerReLU(3, 7, seed=0)
    assert [name for name, _ in model.named_parameters()] == ["weight"]
    assert [name for name, _ in model.named_buffers()] == ["head"]
    assert model.weight.shape == (7, 3)


def test_the_head_is_a_fair_coin_and_the_weight_a_normal_draw():
    model = TwoLayerReLU(4, 4096, seed=0)
    assert model.head.unique().tolist() == [-1.0, 1.0]
    # Hoeffding for 4,096 signs: 2 exp(-4096 * 0.11^2 / 2) < 4e-11.
    assert abs(model.head.mean()) < 0.11
    # The mean of N = 16,384 squares of N(0, 1) has standard deviation sqrt(2/N) = 0.011
    # and is within 7 of them but for 1e-10 (Laurent, Massart 2000, Lemma 1).
    assert abs((model.weight**2).mean() - 1) < 0.085


def test_the_gate_of_an_exact_zero_is_closed():
    model = TwoLayerReLU(2, 4, seed=0)
    model(torch.zeros(1, 2, dtype=torch.float64)).sum().backward()
    assert model.weight.grad is not None
    assert model.weight.grad.abs().max() == 0


@pytest.mark.parametrize(
    ("sizes", "message"),
    [((0, 4), "inputs must be at least 1, got 0"), ((3, 0), "width must be .* got 0")],
)
def test_two_layers_refuse_sizes_below_one(sizes, message):
    with pytest.raises(ValueError, match=message):
        TwoLayerReLU(*sizes, seed=0)


# Dense networks


def mlp_by_hand(model, sizes, x, act, factors):
    z = x
    for index, factor in enumerate(factors):
        layer = model.layers[index]
        offset = 0 if layer.bias is None else layer.bias.detach()
        z = factor * (z if index == 0 else act(z)) @ layer.weight.detach().mT + offset
    return z


@pytest.mark.parametrize("bias", [False, True])
def test_ntk_scaling_is_the_formula(bias, generator):
    sizes = [3, 8, 5, 2]
    model, x = MLP(sizes, bias=bias, seed=0), normal(6, 3, generator)
    factors = [1 / math.sqrt(3), math.sqrt(2 / 8), math.sqrt(2 / 5)]
    expected = mlp_by_hand(model, sizes, x, relu, factors)
    assert_close(model(x).detach(), expected, rtol=0.0, atol=1e-13)
    wrong = mlp_by_hand(model, sizes, x, relu, [1.0, *factors[1:]])
    assert (model(x) - wrong).abs().max() > 1e-2  # the check above can fail


def test_standard_scaling_has_no_factors_and_smaller_weights(generator):
    model, x = MLP([3, 8, 2], scaling="standard", seed=0), normal(6, 3, generator)
    expected = mlp_by_hand(model, [3, 8, 2], x, relu, [1.0, 1.0])
    assert_close(model(x).detach(), expected, rtol=0.0, atol=1e-13)
    ntk = MLP([3, 8, 2], seed=0)
    for layer, other, fan_in in zip(model.layers, ntk.layers, (3, 8), strict=True):
        scaled = other.weight * math.sqrt(2 / fan_in)
        assert_close(layer.weight, scaled, rtol=1e-15, atol=0.0)


@pytest.mark.parametrize(("scaling", "expected"), [("ntk", 1.0), ("standard", 0.0)])
def test_biases_are_normal_with_ntk_scaling_and_zero_with_standard(scaling, expected):
    model = MLP([2, 4096, 1], scaling=scaling, bias=True, seed=0)
    # 4,096 squares: standard deviation 0.022, seven of them (as above).
    assert abs((model.layers[0].bias ** 2).mean() - expected) < 0.17


def test_there_are_no_biases_by_default():
    assert all(
        "bias" not in name for name, _ in MLP([3, 4, 1], seed=0).named_parameters()
    )


def test_ntk_scaling_keeps_the_size_of_a_relu_signal():
    """E z² = x·x/d at every depth: the limit Σ_l(x, x) of the formula."""
    x = torch.full((1, 4), 1.0, dtype=torch.float64)
    outputs = MLP([4, 2048, 2048, 2048], seed=0)(x)
    # Mean of 2,048 squares, nearly Gaussian, variance 2, over two random layers of the
    # same width whose own spread is 5/2048 each: sd 0.084 in all; six of them.
    assert abs((outputs**2).mean() - 1) < 6 * math.sqrt((2 + 5 + 5) / 2048)


def test_each_layer_has_a_stream_of_its_own():
    first, other = MLP([3, 4, 2], seed=0), MLP([7, 4, 2, 1], seed=0)
    assert torch.equal(first.layers[1].weight, other.layers[1].weight)
    square = MLP([4, 4, 4], seed=0)
    assert not torch.equal(square.layers[0].weight, square.layers[1].weight)


ACTIVATIONS = {
    "relu": relu,
    "tanh": torch.tanh,
    "gelu": lambda z: z * (1 + torch.erf(z / math.sqrt(2))) / 2,
    "silu": lambda z: z / (1 + torch.exp(-z)),
    "smooth_leaky_relu": lambda z: (
        z / 2
        + (
            z * (1 + torch.erf(z / math.sqrt(2))) / 2
            + (torch.exp(-(z**2) / 2) - 1) / math.sqrt(2 * math.pi)
        )
        / 2
    ),
    "linear": lambda z: z,
    "identity": lambda z: z,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_each_activation_is_its_closed_form(name, generator):
    model, x = MLP([3, 8, 2], activation=name, seed=0), normal(6, 3, generator)
    factors = [1 / math.sqrt(3), math.sqrt(2 / 8)]
    expected = mlp_by_hand(model, [3, 8, 2], x, ACTIVATIONS[name], factors)
    assert_close(model(x).detach(), expected, rtol=0.0, atol=1e-13)


def test_whoever_watches_linear_sees_the_scaled_input_and_the_bare_weight(generator):
    model, x = MLP([3, 8, 2], seed=0), normal(5, 3, generator)
    seen = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function is torch.nn.functional.linear:
                seen.append(args)
            return function(*args, **(kwargs or {}))

    with Watch():
        model(x)
    assert all(
        args[1] is layer.weight for args, layer in zip(seen, model.layers, strict=True)
    )
    assert_close(seen[0][0], x / math.sqrt(3), rtol=1e-15, atol=0.0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"sizes": [3]}, ValueError, r"input and an output size, got \[3\]"),
        ({"sizes": [3, 0, 1]}, ValueError, r"sizes must be .* 1, got \[3, 0, 1\]"),
        ({"activation": "rellu"}, UnknownNameError, "'rellu'.*Did you mean 'relu'"),
        ({"scaling": "ntks"}, UnknownNameError, "scaling 'ntks'; known: 'ntk', 'stand"),
    ],
)
def test_a_dense_network_refuses_what_it_cannot_be(call, error, message):
    with pytest.raises(error, match=message):
        MLP(**{"sizes": [3, 4, 1], "seed": 0, **call})


# Smooth leaky ReLU

GRID = torch.cat(
    [torch.linspace(-40, 40, 4001, dtype=torch.float64)]
    + [s * torch.logspace(-300, 8, 500, dtype=torch.float64) for s in (-1, 1)]
)


def derivatives(activation, x):
    """First and second derivative at each entry of ``x``."""
    x = x.clone().requires_grad_(True)
    (first,) = torch.autograd.grad(activation(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    return first.detach(), second


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 20.0])
@pytest.mark.parametrize("gamma", [0.1, 0.5, 0.9])
def test_the_smooth_leaky_relu_is_what_the_theorem_asks(gamma, sharpness):
    activation = SmoothLeakyReLU(gamma, sharpness)
    value, (first, second) = activation(GRID), derivatives(activation, GRID)
    # Terms of order |x b φ(bx)| < 0.25 cancel in the derivative: a few roundings.
    assert first.min() >= gamma - 1e-15
    assert first.max() <= 1 + 1e-15
    assert (value.abs() <= GRID.abs()).all()
    assert activation(torch.zeros(1, dtype=torch.float64)).item() == 0.0
    # σ'' = (1 − γ) b φ(bx) peaks at 0, which the grid nearly holds: beta is attained.
    assert second.abs().max() <= activation.beta * (1 + 1e-14)
    assert second.abs().max() >= activation.beta * (1 - 1e-14)
    expected = (1 - gamma) * sharpness / math.sqrt(2 * math.pi)
    assert activation.beta == pytest.approx(expected, rel=1e-15)


def test_the_derivative_of_the_smooth_leaky_relu_is_its_closed_form():
    first, _ = derivatives(SmoothLeakyReLU(0.3, 2.0), GRID)
    expected = 0.3 + 0.7 * (1 + torch.erf(math.sqrt(2) * GRID)) / 2
    assert_close(first, expected, rtol=0.0, atol=1e-15)


def test_relu_is_not_what_the_theorem_asks():
    """Negative control: its slope leaves [γ, 1] for every γ > 0."""
    x = torch.tensor([-1.0], requires_grad=True)
    (slope,) = torch.autograd.grad(torch.relu(x).sum(), x)
    assert slope.item() == 0.0


def test_a_sharp_one_is_the_leaky_relu():
    # |σ − leaky| = (1 − γ)|…| is largest at 0, (1 − γ) φ(0)/b.
    x = torch.linspace(-3, 3, 601, dtype=torch.float64)
    leaky = torch.nn.functional.leaky_relu(x, 0.5)
    gap = (SmoothLeakyReLU(0.5, 1e4)(x) - leaky).abs().max()
    assert gap <= 0.5 / (1e4 * math.sqrt(2 * math.pi)) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 0.0}, "gamma must lie between 0 and 1, got 0.0"),
        ({"gamma": 1.0}, "gamma must lie between 0 and 1, got 1.0"),
        ({"gamma": float("nan")}, "gamma must lie between 0 and 1, got nan"),
        ({"sharpness": 0.0}, "sharpness must be positive and finite, got 0.0"),
        ({"sharpness": math.inf}, "sharpness must be positive and finite, got inf"),
    ],
)
def test_the_smooth_leaky_relu_refuses_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        SmoothLeakyReLU(**options)


# Pyramid


@pytest.mark.parametrize("activation", ["relu", "smooth_leaky_relu"])
def test_a_pyramid_is_its_formula(activation, generator):
    model = Pyramid(3, 9, [4, 4, 2], activation=activation, seed=0)
    x = normal(6, 3, generator)
    expected = mlp_by_hand(model, None, x, ACTIVATIONS[activation], [1.0] * 4)
    assert_close(model(x).detach(), expected, rtol=0.0, atol=1e-13)
    shapes = [tuple(p.shape) for p in model.parameters()]
    assert shapes == [(9, 3), (4, 9), (4, 4), (2, 4)]


def test_the_lecun_start_has_variance_one_over_fan_in():
    model = Pyramid(50, 400, [100], seed=0)
    for layer, fan_in in zip(model.layers, (50, 400), strict=True):
        # 20,000 and 40,000 squares: seven standard deviations sqrt(2/N) are 0.07.
        assert abs(fan_in * (layer.weight**2).mean() - 1) < 0.075


@pytest.mark.parametrize("scale", [1.0, 1e5])
def test_the_certified_start_is_lecun_then_zero_then_orthonormal(scale):
    options = {"activation": "smooth_leaky_relu", "seed": 0}
    model = Pyramid(3, 40, [8, 4, 2], initial="certified", tail_scale=scale, **options)
    first, second, *tail = [p.detach() for p in model.parameters()]
    assert torch.equal(first, Pyramid(3, 40, [8, 4, 2], **options).layers[0].weight)
    assert second.abs().max() == 0
    for weight in tail:
        singular = torch.linalg.svdvals(weight)
        assert_close(singular, torch.full_like(singular, scale), rtol=1e-14, atol=0.0)


def test_orthonormal_layers_prefer_no_sign():
    # A Householder factor without its sign correction has one sign in the corner for
    # every draw; forty fair coins agree with probability 2^-39.
    options = {"activation": "smooth_leaky_relu", "initial": "certified"}
    corners = [
        Pyramid(2, 3, [4, 2], seed=s, **options).layers[2].weight[0, 0].item()
        for s in range(40)
    ]
    assert min(corners) < 0 < max(corners)


def test_the_certified_start_outputs_zero_and_can_move(generator):
    options = {"activation": "smooth_leaky_relu", "initial": "certified", "seed": 0}
    model, x = Pyramid(3, 40, [8, 2], **options), normal(5, 3, generator)
    output = model(x)
    assert output.abs().max() == 0
    output.sum().backward()
    gradient = model.layers[1].weight.grad
    assert gradient is not None
    assert gradient.abs().max() > 0.01


def test_gamma_reaches_the_activation():
    model = Pyramid(3, 4, [2], activation="smooth_leaky_relu", gamma=0.25, seed=0)
    assert model.activation.gamma == 0.25


SMOOTH = {"activation": "smooth_leaky_relu", "initial": "certified"}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"widths": [4, 5, 1]}, ValueError, r"must not increase, got \[4, 5, 1\]"),
        ({"widths": []}, ValueError, "widths is empty"),
        ({"widths": [4, 0]}, ValueError, r"widths must be at least 1, got \[4, 0\]"),
        ({"inputs": 0}, ValueError, "inputs must be at least 1, got 0"),
        ({"wide": -3}, ValueError, "wide must be at least 1, got -3"),
        ({"activation": "tanh"}, UnknownNameError, "'tanh'; known: 'relu', 'smooth_l"),
        ({"initial": "certifed"}, UnknownNameError, "Did you mean 'certified'"),
        ({"initial": "certified"}, ValueError, "W_2 = 0 puts every ReLU at 0"),
        ({"widths": [2], **SMOOTH}, ValueError, "at least 2 widths .*, got 1"),
        ({"tail_scale": 0.0, **SMOOTH}, ValueError, "tail_scale must be positive"),
        ({"tail_scale": 10.0}, ValueError, 'no meaning for initial="lecun"'),
        ({"gamma": 2.0, **SMOOTH}, ValueError, "gamma must lie between 0 and 1"),
    ],
)
def test_a_pyramid_refuses_what_it_cannot_be(call, error, message):
    with pytest.raises(error, match=message):
        Pyramid(**{"inputs": 3, "wide": 9, "widths": [4, 2], "seed": 0, **call})


# Linear models


@pytest.mark.parametrize("bias", [False, True])
def test_a_linear_model_is_its_formula(bias, generator):
    model, x = Linear(3, 2, bias=bias, initial="normal"), normal(5, 3, generator)
    expected = (x.unsqueeze(1) * model.weight.detach()).sum(2)
    if bias:
        assert model.bias is not None
        expected = expected + model.bias.detach()
    assert_close(model(x).detach(), expected, rtol=0.0, atol=1e-14)
    assert len(list(model.parameters())) == 1 + bias


def test_a_linear_model_starts_at_zero_with_one_output():
    model = Linear(3)
    assert [(n, p.tolist()) for n, p in model.named_parameters()] == [
        ("weight", [[0.0, 0.0, 0.0]])
    ]
    assert Linear(3, bias=True).bias.tolist() == [0.0]


def test_the_normal_start_has_variance_one_and_streams_of_its_own():
    model = Linear(128, 128, bias=True, initial="normal")
    # The mean of 16,384 squares: seven standard deviations, as above.
    assert abs((model.weight**2).mean() - 1) < 0.085
    # Of the bias, 128 squares: mean 1 to seven of 0.125, and no row of the weight.
    assert abs((model.bias**2).mean() - 1) < 0.9
    assert (model.weight - model.bias).abs().sum(1).min() > 1


@pytest.mark.parametrize("engine", ["jacobian", "layerwise"])
def test_the_kernel_of_a_linear_model_is_that_of_the_inputs(engine, generator):
    x = normal(6, 3, generator)
    jacobian = nf.jacobian(Linear(3, 2, bias=True), x)
    eye = torch.eye(2, dtype=torch.float64)
    expected = torch.einsum("po,nd->npod", eye, x)
    assert_close(jacobian["weight"], expected, rtol=0.0, atol=0.0)
    assert_close(jacobian["bias"], eye.expand(6, 2, 2), rtol=0.0, atol=0.0)
    found = nf.gram(Linear(3, 2, bias=True), x, outputs="full", engine=engine)
    # 1 for the bias; three products in another order.
    kernel = torch.einsum("nm,po->nmpo", x @ x.mT + 1, eye)
    assert_close(found, kernel, rtol=0.0, atol=1e-14)


def moved(model, generator):
    """The model with a head that is not zero."""
    with torch.no_grad():
        model.head.copy_(torch.randn(len(model.head), generator=generator))
    return model


@pytest.mark.parametrize("step_size", [0.12, 0.4, 3.0])
def test_a_shared_representation_starts_as_the_analysis_does(step_size, generator):
    model = SharedRepresentation(30, 5, step_size=step_size)
    start = model.representation.detach()
    eye = torch.eye(5, dtype=torch.float64)
    assert start.shape == (30, 5)
    # A QR factorisation of 5 columns, and one division.
    assert_close(step_size * start.mT @ start, eye, rtol=0.0, atol=1e-14)
    assert model.head.tolist() == [0.0] * 5
    assert model(normal(4, 30, generator)).abs().max() == 0
    names = [name for name, _ in model.named_parameters()]
    assert names == ["representation", "head"]


def test_the_step_size_scales_the_draw_and_the_columns_prefer_no_sign():
    draws = [SharedRepresentation(4, 2, step_size=1.0, seed=s) for s in range(40)]
    corners = [draw.representation[0, 0].item() for draw in draws]
    assert min(corners) < 0 < max(corners)  # by chance 2^-39
    half = SharedRepresentation(4, 2, step_size=4.0).representation
    assert torch.equal(2 * half, draws[0].representation)


def test_a_start_is_taken_as_it_is_and_left_alone(generator):
    start = normal(3, 5, generator)  # a rank above the inputs is the caller's wish
    kept = start.clone()
    model = SharedRepresentation(3, 5, start=start)
    assert torch.equal(model.representation.detach(), start)
    with torch.no_grad():
        model.representation.zero_()
    assert torch.equal(start, kept)


def test_a_shared_representation_is_its_formula_with_its_gradient(generator):
    model = moved(SharedRepresentation(6, 2, step_size=0.5), generator)
    b, w = model.representation.detach(), model.head.detach()
    x, y = normal(7, 6, generator), normal(7, 1, generator)
    output = model(x)
    # Sums of at most seven products in another order, here and below.
    expected = torch.stack([(b @ w) @ sample for sample in x]).unsqueeze(1)
    assert_close(output.detach(), expected, rtol=0.0, atol=1e-13)
    ((output - y) ** 2).mean().div(2).backward()
    pulled = (x.mT @ (expected - y)).flatten() / 7  # (d,)
    by_hand = {"representation": torch.outer(pulled, w), "head": b.mT @ pulled}
    for name, parameter in model.named_parameters():
        assert_close(parameter.grad, by_hand[name], rtol=0.0, atol=1e-13)


def test_at_the_start_only_the_head_moves(generator):
    model, x = SharedRepresentation(6, 2, step_size=0.5), normal(7, 6, generator)
    ((model(x) - 1) ** 2).mean().backward()
    assert model.representation.grad.abs().max() == 0
    assert model.head.grad.abs().max() > 1e-3


@pytest.mark.parametrize("engine", ["jacobian", "layerwise"])
def test_the_kernel_of_a_shared_representation_is_its_formula(engine, generator):
    model = moved(SharedRepresentation(6, 2, step_size=0.5), generator)
    b, w, x = (
        model.representation.detach(),
        model.head.detach(),
        normal(4, 6, generator),
    )
    found = nf.jacobian(model, x)
    rows = x[:, None, :, None] * w  # (n, 1, d, k)
    assert_close(found["representation"], rows, rtol=0.0, atol=1e-14)
    assert_close(found["head"], (x @ b).unsqueeze(1), rtol=0.0, atol=1e-14)
    kernel = (w @ w) * (x @ x.mT) + x @ b @ b.mT @ x.mT
    assert_close(nf.gram(model, x, engine=engine), kernel, rtol=0.0, atol=1e-12)


BAD = torch.full((6, 2), torch.nan)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"inputs": 0}, ValueError, "inputs must be at least 1, got 0"),
        ({"rank": 0}, ValueError, "rank must be at least 1, got 0"),
        ({"rank": 7}, ValueError, "rank must be at most inputs = 6, got 7"),
        ({"step_size": 0.0}, ValueError, "step_size must be positive .* got 0.0"),
        ({"step_size": math.nan}, ValueError, "positive and finite, got nan"),
        ({"step_size": None}, ValueError, "or start .* got neither"),
        ({"start": torch.ones(6, 2)}, ValueError, "or start .* got both"),
        (
            {"start": torch.ones(2, 6), "step_size": None},
            ShapeMismatchError,
            r"\(inputs, rank\) = \(6, 2\), got \(2, 6\)",
        ),
        ({"start": BAD, "step_size": None}, NonFiniteError, "12 non-finite entries"),
    ],
)
def test_a_shared_representation_refuses_what_it_cannot_be(call, error, message):
    with pytest.raises(error, match=message):
        SharedRepresentation(**{"inputs": 6, "rank": 2, "step_size": 1.0, **call})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"inputs": 0}, ValueError, "inputs must be at least 1, got 0"),
        ({"outputs": 0}, ValueError, "outputs must be at least 1, got 0"),
        ({"initial": "zero"}, UnknownNameError, "Did you mean 'zeros'"),
    ],
)
def test_a_linear_model_refuses_what_it_cannot_be(call, error, message):
    with pytest.raises(error, match=message):
        Linear(**{"inputs": 3, **call})
