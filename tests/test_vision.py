"""Networks for images: sizes, seeds, one sample at a time, kernels."""

import dataclasses

import pytest
import torch
from torch.testing import assert_close

from ntk_fed.errors import ShapeMismatchError, UnknownNameError
from ntk_fed.jacobians import by_backward_passes
from ntk_fed.kernel import gram
from ntk_fed.kernel.plan import choose
from ntk_fed.models import LeNet, ResNet18
from ntk_fed.params import frozen_state, trainable

SMALL = {
    "lenet": lambda **o: LeNet(0.3, **o),
    "layer": lambda **o: ResNet18("layer", 0.05, **o),
    "group": lambda **o: ResNet18("group", 0.05, **o),
}


def images(n, generator, channels=3, size=8):
    shape = (n, channels, size, size)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def parameter_count(model):
    return sum(value.numel() for value in model.parameters())


# What all share


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("channels", "size"), [(3, 32), (1, 28), (1, 8), (3, 5)])
@pytest.mark.parametrize("name", SMALL)
def test_images_give_one_row_each_in_the_dtype(name, channels, size, dtype, generator):
    model = SMALL[name](channels=channels, size=size, outputs=4, seed=0, dtype=dtype)
    output = model(images(2, generator, channels, size).to(dtype))
    assert (output.shape, output.dtype) == ((2, 4), dtype)
    assert torch.isfinite(output).all()


@pytest.mark.parametrize("name", SMALL)
def test_a_seed_means_the_same_weights_rounded_last(name):
    first, again, other = (SMALL[name](seed=s).state_dict() for s in (1, 1, 2))
    single = SMALL[name](seed=1, dtype=torch.float32).state_dict()
    assert {value.dtype for value in first.values()} == {torch.float64}
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert all(torch.equal(first[key].float(), single[key]) for key in first)
    drawn = [key for key in first if first[key].ndim > 1]
    assert all(not torch.equal(first[key], other[key]) for key in drawn)


@pytest.mark.parametrize("name", SMALL)
def test_building_a_model_leaves_the_global_generator_alone(name):
    before = torch.get_rng_state()
    SMALL[name](seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.nn.Conv2d(3, 3, 3)  # the check above can fail
    assert not torch.equal(torch.get_rng_state(), before)
    torch.set_rng_state(before)


@pytest.mark.parametrize(
    "build",
    [lambda: LeNet(2.0, seed=0), lambda: ResNet18(scale=0.25, seed=0)],
)
def test_weights_have_the_variance_of_he_offsets_are_zero_scales_one(build):
    for name, value in build().named_parameters():
        if value.ndim == 1:
            scale = "norm" in name or "shortcut.1" in name
            expected = 1.0 if scale and name.endswith("weight") else 0.0
            assert (value == expected).all(), name
            continue
        squares = value.detach() ** 2 * value[0].numel() / 2  # of N(0, 1)
        # The mean of N squares has standard deviation sqrt(2/N); over or under by
        # 7 of them and a tail of 49/N has probability below 1e-10 (Laurent, Massart
        # 2000, Lemma 1).
        slack = 7 * (2 / value.numel()) ** 0.5 + 49 / value.numel()
        assert abs(squares.mean() - 1) < slack, name


@pytest.mark.parametrize("name", SMALL)
def test_each_layer_has_a_stream_of_its_own(name):
    weights = [p.flatten() for p in SMALL[name](seed=0).parameters() if p.ndim > 1]
    starts = torch.stack([w[:8] / w[0] for w in weights])  # without the layers' scale
    assert len(starts[:, 1:].unique(dim=0)) == len(weights)


@pytest.mark.parametrize("name", SMALL)
def test_a_gradient_reaches_every_parameter(name, generator):
    model = SMALL[name](size=8, seed=0)
    model(images(6, generator)).square().sum().backward()
    for key, value in model.named_parameters():
        assert value.grad is not None, key
        assert value.grad.abs().max() > 0, key


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", SMALL)
def test_a_batch_gives_what_its_samples_give_alone(name, training, generator):
    model, x = SMALL[name](size=8, seed=0).train(training), images(5, generator)
    with torch.no_grad():
        alone = torch.cat([model(sample[None]) for sample in x])
        # Outputs of order one after 18 layers of sums of at most 234 terms.
        assert_close(model(x), alone, rtol=0.0, atol=1e-12)
    assert not dict(model.named_buffers())  # nowhere to keep batch statistics


@pytest.mark.parametrize("name", SMALL)
def test_both_engines_give_the_same_kernel(name, generator):
    model, x = SMALL[name](size=8, seed=0), images(3, generator)
    layerwise, jacobian = (
        gram(model, x, outputs="full", engine=engine)
        for engine in ("layerwise", "jacobian")
    )
    # Relative to the largest entry: single ones cancel. Rounding is near 1e-15.
    tolerance = 1e-10 * jacobian.abs().max().item()
    assert_close(layerwise, jacobian, rtol=0.0, atol=tolerance)
    assert torch.linalg.eigvalsh(jacobian.diagonal(dim1=2, dim2=3)[..., 0])[0] > 0


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(
    "shape", [(2, 192), (2, 3, 8, 9), (2, 1, 8, 8), (3, 8, 8), (2, 3, 32, 32), ()]
)
def test_other_shapes_are_refused_flat_rows_too(name, shape):
    expected = r"images of shape \(n, 3, 8, 8\), got \(.*x\.reshape\(-1, 3, 8, 8\)"
    with pytest.raises(ShapeMismatchError, match=expected):
        SMALL[name](size=8, seed=0)(torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize("model", [LeNet, lambda s, **o: ResNet18("group", s, **o)])
@pytest.mark.parametrize(
    ("scale", "options", "message"),
    [
        (0.0, {}, r"scale must be positive and finite, got 0\.0"),
        (-1.0, {}, r"scale must be positive and finite, got -1\.0"),
        (float("inf"), {}, "scale must be positive and finite, got inf"),
        (float("nan"), {}, "scale must be positive and finite, got nan"),
        (1.0, {"channels": 0}, "channels must be at least 1, got 0"),
        (1.0, {"outputs": 0}, "outputs must be at least 1, got 0"),
        (1.0, {"size": 0}, "size must be at least [14], got 0"),
        (1.0, {"dtype": torch.int64}, r"dtype must be floating, got torch\.int64"),
    ],
)
def test_numbers_out_of_range_are_refused(model, scale, options, message):
    with pytest.raises(ValueError, match=message):
        model(scale, **{"seed": 0, **options})


# Kernels

NETWORKS = {
    "lenet, one pixel left": lambda: LeNet(0.3, size=4, outputs=2, seed=0),
    "lenet, unpadded": lambda: LeNet(0.3, size=16, outputs=2, seed=0),
    "layer": lambda: ResNet18("layer", 0.05, size=8, outputs=2, seed=0),
    "group": lambda: ResNet18("group", 0.05, size=8, outputs=2, seed=0),
}
OWN = 3  # samples of the first point set; the other two are the second


@dataclasses.dataclass(frozen=True)
class Twin:
    """A network at two parameter sets, with one backward pass per sample and output."""

    model: torch.nn.Module
    x: torch.Tensor
    params: tuple[dict, dict]
    rows: tuple[dict, dict]  # parameter -> Jacobian, (n, o, p)

    def arguments(self, points, values):
        """For :func:`gram`, of the kernel between ``x`` and the points asked for."""
        x2 = {"own": None, "others": self.x[OWN:]}[points]
        params2 = {"own": None, "others": self.params[1]}[values]
        options = {"params": self.params[0], "params2": params2}
        return (self.model, self.x[:OWN], x2), options

    def kernels(self, points, values, outputs):
        """For each parameter its kernel, by a product of rows."""
        right = self.rows[["own", "others"].index(values)]
        there = slice(OWN) if points == "own" else slice(OWN, None)
        found = {}
        for name, left in self.rows[0].items():
            full = torch.einsum("iap,jbp->ijab", left[:OWN], right[name][there])
            diagonal = full.diagonal(dim1=2, dim2=3)
            kinds = {"full": full, "diagonal": diagonal, "trace": diagonal.sum(2)}
            found[name] = kinds[outputs]
        return found


@pytest.fixture(scope="module", params=NETWORKS)
def twin(request):
    model = NETWORKS[request.param]()
    draw = torch.Generator().manual_seed(request.config.getoption("--seed"))

    def moved():
        """Scales differ from one and offsets from zero."""
        return {
            name: value + 0.1 * torch.randn(value.shape, generator=draw).double()
            for name, value in trainable(model).items()
        }

    x = images(5, draw, *model.image[:2])
    params = moved(), moved()
    jacobians = [by_backward_passes(model, p, frozen_state(model), x) for p in params]
    first, second = ({k: j.flatten(2) for k, j in js.items()} for js in jacobians)
    return Twin(model, x, params, (first, second))


def assert_same(found, expected):
    """Relative to the largest entry, as single ones cancel. Seen are 5e-15."""
    size = expected.abs().max().item()
    assert size > 0
    assert_close(found, expected, rtol=1e-12, atol=1e-12 * size)


@pytest.mark.parametrize("values", ["own", "others"])
@pytest.mark.parametrize("points", ["own", "others"])
@pytest.mark.parametrize("outputs", ["full", "trace", "diagonal"])
@pytest.mark.parametrize("engine", ["layerwise", "jacobian"])
def test_the_kernel_is_that_of_backward_passes(twin, engine, outputs, points, values):
    args, options = twin.arguments(points, values)
    found = gram(*args, outputs=outputs, engine=engine, **options)
    assert_same(found, sum(twin.kernels(points, values, outputs).values()))


@pytest.mark.parametrize("values", ["own", "others"])
@pytest.mark.parametrize("points", ["own", "others"])
@pytest.mark.parametrize("outputs", ["full", "trace", "diagonal"])
@pytest.mark.parametrize("engine", ["layerwise", "jacobian"])
def test_so_is_the_kernel_of_each_parameter(twin, engine, outputs, points, values):
    args, options = twin.arguments(points, values)
    found = gram(*args, outputs=outputs, engine=engine, by_layer=True, **options)
    expected = twin.kernels(points, values, outputs)
    assert list(found) == list(expected)
    for name, kernel in expected.items():
        assert_same(found[name], kernel)


def test_every_layer_for_images_has_a_rule(twin):
    options = {"outputs": "full", "engine": "layerwise", "memory": None}
    own = twin.params[0], frozen_state(twin.model)
    assert choose(twin.model, *own, twin.x, twin.x, **options).loose == set()


def test_the_two_parameter_sets_are_not_mixed_up(twin):
    """Negative control: with them exchanged the kernel is another, far beyond 1e-12."""
    args, options = twin.arguments("own", "others")
    right, wrong = options["params2"], options["params"]
    found = gram(*args, params=right, params2=wrong, outputs="full")
    expected = sum(twin.kernels("own", "others", "full").values())
    assert (found - expected).abs().max() > 1e-3 * expected.abs().max()
    assert_same(found.transpose(0, 1).transpose(2, 3), expected)


# LeNet


def test_lenet_has_the_parameters_of_lenet_5_on_colour_images():
    convolutions = 6 * (3 * 25 + 1) + 16 * (6 * 25 + 1)
    # 32 -> 28 -> 14 -> 10 -> 5 pixels a side
    dense = 120 * (16 * 5 * 5 + 1) + 84 * (120 + 1) + 10 * (84 + 1)
    assert parameter_count(LeNet(1.0, seed=0)) == convolutions + dense == 62_006


@pytest.mark.parametrize(
    ("scale", "widths"),
    [
        (1.0, (6, 16, 120, 84)),
        (0.25, (2, 4, 30, 21)),
        (2, (12, 32, 240, 168)),
        (1e-9, (1, 1, 1, 1)),
    ],
)
def test_the_scale_multiplies_the_widths_of_lenet(scale, widths):
    model = LeNet(scale, outputs=3, seed=0)
    shapes = [value.shape[0] for value in model.parameters() if value.ndim > 1]
    assert tuple(shapes) == (*widths, 3)


@pytest.mark.parametrize(("size", "side"), [(4, 1), (15, 3), (16, 1), (28, 4), (32, 5)])
def test_small_images_are_padded_so_that_pixels_remain(size, side):
    assert LeNet(1.0, size=size, seed=0).dense1.weight.shape == (120, 16 * side**2)


def test_lenet_is_its_formula(generator):
    model, x = LeNet(0.5, activation="tanh", seed=0), images(2, generator, size=32)
    p = {key: value.detach() for key, value in model.named_parameters()}

    def convolve(x, weight):
        patches = x.unfold(2, 5, 1).unfold(3, 5, 1)  # (n, c, h, w, 5, 5)
        z = torch.tanh(torch.einsum("nchwij,ocij->nohw", patches, weight))
        halves = z[:, :, ::2] + z[:, :, 1::2]
        return (halves[..., ::2] + halves[..., 1::2]) / 4

    hidden = convolve(convolve(x, p["conv1.weight"]), p["conv2.weight"]).flatten(1)
    for layer in ("dense1", "dense2"):
        hidden = torch.tanh(hidden @ p[f"{layer}.weight"].mT)
    expected = hidden @ p["head.weight"].mT  # biases are zero
    assert_close(model(x).detach(), expected, rtol=0.0, atol=1e-13)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"size": 3}, ValueError, "size must be at least 4, got 3"),
        ({"activation": "rleu"}, UnknownNameError, "Did you mean 'relu'"),
    ],
)
def test_lenet_refuses_what_it_cannot_be(options, error, message):
    with pytest.raises(error, match=message):
        LeNet(1.0, seed=0, **options)


# ResNet-18


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_resnet_has_the_parameters_of_the_cifar_variant(norm):
    def block(before, width, shortcut):
        convolutions = 9 * before * width + 9 * width * width
        around = before * width + 2 * width if shortcut else 0
        return convolutions + 2 * 2 * width + around  # scale and shift per channel

    expected = 3 * 9 * 64 + 2 * 64 + 2 * block(64, 64, False)
    for before, width in ((64, 128), (128, 256), (256, 512)):
        expected += block(before, width, True) + block(width, width, False)
    expected += 512 * 10 + 10
    # The figure known for ResNet-18 on CIFAR-10 with batch normalisation, whose scale
    # and shift are per channel too. It does not depend on the size of the image.
    assert parameter_count(ResNet18(norm, seed=0)) == expected == 11_173_962
    assert parameter_count(ResNet18(norm, size=8, seed=0)) == expected


@pytest.mark.parametrize(
    ("norm", "scale", "widths"),
    [
        ("layer", 0.25, (16, 32, 64, 128)),
        ("group", 0.25, (16, 32, 64, 128)),
        ("layer", 0.05, (3, 6, 13, 26)),
        ("group", 0.05, (4, 6, 12, 26)),
        ("layer", 1e-9, (1, 1, 1, 1)),
        ("group", 1e-9, (2, 2, 2, 2)),
    ],
)
def test_the_scale_multiplies_the_widths_of_resnet(norm, scale, widths):
    model = ResNet18(norm=norm, scale=scale, seed=0)
    found = [block.conv1.weight.shape[0] for block in model.blocks]
    assert tuple(found[::2]) == tuple(found[1::2]) == widths


def test_resnet_halves_the_image_three_times_without_pooling_first(generator):
    model, sides = ResNet18("layer", 0.05, seed=0), []
    for block in model.blocks:
        block.register_forward_hook(lambda *seen: sides.append(seen[2].shape[-1]))
    model(images(1, generator, size=32))
    assert sides == [32, 32, 16, 16, 8, 8, 4, 4]


def test_a_shortcut_has_weights_where_the_shape_changes_only():
    for model in (ResNet18("layer", 0.05, seed=0), ResNet18("layer", 1e-9, seed=0)):
        found = [len(block.shortcut) > 0 for block in model.blocks]
        assert found == [False, False, *[True, False] * 3]


@pytest.mark.parametrize(("norm", "groups"), [("layer", 1), ("group", 2)])
def test_a_norm_makes_each_group_of_a_sample_mean_0_and_variance_1(
    norm, groups, generator
):
    model = ResNet18(norm, 0.25, size=8, seed=0)
    z = model.norm(3 + 2 * images(4, generator, 16)).detach()
    parts = z.reshape(4, groups, -1)
    # 1e-5 is added to a variance of about 4.
    zero, one = torch.zeros(4, groups).double(), torch.ones(4, groups).double()
    assert_close(parts.mean(2), zero, rtol=0.0, atol=1e-13)
    assert_close(parts.var(2, correction=0), one, rtol=0.0, atol=1e-5)
    if norm == "layer":
        expected = torch.nn.functional.layer_norm(z, z.shape[1:])
        # Normalising once more changes by the 1e-5 added to a variance of 1.
        assert_close(z, expected, rtol=0.0, atol=1e-4)
        halves = z.reshape(4, 2, -1).mean(2)
        assert halves.abs().max() > 1e-3  # it is not that of two groups


def test_both_norms_start_from_the_same_weights_and_differ_in_output(generator):
    layer, group = (ResNet18(n, 0.25, size=8, seed=0) for n in ("layer", "group"))
    for key, value in layer.state_dict().items():
        assert torch.equal(value, group.state_dict()[key]), key
    x = images(2, generator)
    assert (layer(x) - group(x)).abs().max() > 1e-3


def test_one_group_is_the_layer_norm(generator):
    layer = ResNet18("layer", 0.05, size=8, seed=0)
    one = ResNet18("group", 0.05, groups=1, size=8, seed=0)
    x = images(2, generator)
    assert torch.equal(layer(x), one(x))


def test_a_constant_added_to_the_stem_is_normalised_away(generator):
    """Each sample's statistics are its own: shifting one leaves all outputs."""
    model, x = ResNet18("layer", 0.05, size=8, seed=0), images(2, generator)
    stem = model.stem(x)
    shifted = stem + torch.tensor([0.0, 5.0], dtype=torch.float64)[:, None, None, None]
    assert_close(model.norm(shifted), model.norm(stem), rtol=0.0, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"norm": "batch"}, UnknownNameError, "norm 'batch'; known: 'layer', 'group'"),
        ({"norm": "layr"}, UnknownNameError, "Did you mean 'layer'"),
        ({"groups": 2}, ValueError, 'groups = 2 has no meaning for norm="layer"'),
        ({"norm": "group", "groups": 0}, ValueError, "groups must be .* got 0"),
        (
            {"norm": "group", "scale": 0.05, "size": 8, "groups": 26},
            ValueError,
            "26 channels in 26 groups on 1×1 pixels holds one number",
        ),
        ({"scale": 1e-9, "size": 8}, ValueError, "1 channels in 1 groups on 1×1"),
    ],
)
def test_resnet_refuses_what_it_cannot_be(options, error, message):
    with pytest.raises(error, match=message):
        ResNet18(**{"seed": 0, **options})
