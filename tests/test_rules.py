"""Each rule alone against one backward pass per sample and output; factors alone."""

import random

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ntk_fed.jacobians import by_backward_passes, raw_jacobian
from ntk_fed.kernel import layerwise
from ntk_fed.kernel.rules import Factor, conv
from ntk_fed.kernel.uses import record
from ntk_fed.params import frozen_state, trainable

# Said once per process by convolutions with an even filter, which pad a copy.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even")


class Mean(nn.Module):
    """The mean over some axes."""

    def __init__(self, *axes):
        super().__init__()
        self.axes = axes

    def forward(self, x):
        return x.mean(dim=self.axes)


class Distances(nn.Module):
    """Distances to trained centres."""

    def __init__(self, centres, width):
        super().__init__()
        self.centres = nn.Parameter(torch.randn(centres, width))

    def forward(self, x):
        return torch.cdist(x, self.centres)


class Square(nn.Module):
    """A layer of two arguments, given one of them twice."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x, x)


class Twice(nn.Module):
    """One layer used twice, with something between."""

    def __init__(self, layer, between):
        super().__init__()
        self.layer, self.between = layer, between

    def forward(self, x):
        return self.layer(self.between(torch.tanh(self.layer(x))))


# Which form the factor of the weight takes: Factor.cheapest keeps the pair for one
# position, or if positions² · (a + b) < a · b.
PAIR, PRODUCT = "pair", "product"

# name -> layer, shape of one sample, form of its weight's factor
DENSE = {
    "vectors": (lambda: nn.Linear(6, 4), (6,), PAIR),
    "vectors, no bias": (lambda: nn.Linear(6, 4, bias=False), (6,), PAIR),
    "sequence of one": (lambda: nn.Linear(6, 4), (1, 6), PAIR),
    "sequence": (lambda: nn.Linear(6, 4), (3, 6), PRODUCT),
    "sequence, no bias": (lambda: nn.Linear(6, 4, bias=False), (3, 6), PRODUCT),
    "wide sequence": (lambda: nn.Linear(20, 21), (2, 20), PAIR),  # 4 · 41 < 420
    "two axes": (lambda: nn.Linear(6, 4), (2, 3, 6), PRODUCT),
    "two axes of one": (lambda: nn.Linear(6, 4), (1, 1, 6), PAIR),
    "wide, two axes": (lambda: nn.Linear(41, 40), (2, 2, 41), PAIR),  # 16 · 81 < 1640
    "behind a norm without scale": (
        lambda: nn.Sequential(
            nn.Linear(6, 8), nn.LayerNorm(8, elementwise_affine=False)
        ),
        (6,),
        PAIR,
    ),
}
CONV1D = {
    "plain": (lambda: nn.Conv1d(2, 3, 3), (2, 7), PRODUCT),
    "no bias": (lambda: nn.Conv1d(2, 3, 3, bias=False), (2, 7), PRODUCT),
    "stride": (lambda: nn.Conv1d(2, 3, 3, stride=2), (2, 8), PRODUCT),  # one is left
    "padding": (lambda: nn.Conv1d(2, 3, 3, padding=2), (2, 5), PRODUCT),
    "padding, stride": (
        lambda: nn.Conv1d(2, 3, 4, stride=3, padding=1),
        (2, 9),
        PRODUCT,
    ),
    "dilation": (lambda: nn.Conv1d(2, 3, 3, dilation=2), (2, 8), PRODUCT),
    "same, odd": (lambda: nn.Conv1d(2, 3, 3, padding="same"), (2, 5), PRODUCT),
    "same, even": (lambda: nn.Conv1d(2, 3, 4, padding="same"), (2, 5), PRODUCT),
    "same, dilation": (
        lambda: nn.Conv1d(2, 3, 2, padding="same", dilation=3),
        (2, 6),
        PRODUCT,
    ),
    "valid": (lambda: nn.Conv1d(2, 3, 3, padding="valid"), (2, 5), PRODUCT),
    "circular": (
        lambda: nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"),
        (2, 5),
        PRODUCT,
    ),
    "one by one": (lambda: nn.Conv1d(4, 3, 1), (4, 5), PRODUCT),
    "one position": (lambda: nn.Conv1d(2, 3, 5), (2, 5), PAIR),
    "two of many channels": (lambda: nn.Conv1d(9, 20, 3), (9, 4), PAIR),  # 188 < 540
    "groups": (lambda: nn.Conv1d(4, 6, 3, groups=2), (4, 6), PRODUCT),
    "depthwise": (lambda: nn.Conv1d(4, 4, 3, groups=4), (4, 6), PRODUCT),
    "depthwise, two each": (
        lambda: nn.Conv1d(3, 6, 2, groups=3, bias=False),
        (3, 5),
        PRODUCT,
    ),
    "groups, one position": (lambda: nn.Conv1d(4, 6, 3, groups=2), (4, 3), PRODUCT),
}
CONV2D = {
    "plain": (lambda: nn.Conv2d(2, 3, 3), (2, 5, 4), PRODUCT),
    "no bias": (lambda: nn.Conv2d(2, 3, 3, bias=False), (2, 5, 4), PRODUCT),
    "oblong": (lambda: nn.Conv2d(2, 3, (1, 3)), (2, 3, 5), PRODUCT),
    "stride": (lambda: nn.Conv2d(2, 3, 2, stride=2), (2, 5, 4), PRODUCT),
    "two strides": (lambda: nn.Conv2d(2, 3, 2, stride=(1, 3)), (2, 4, 6), PRODUCT),
    "padding": (lambda: nn.Conv2d(2, 3, 3, padding=1), (2, 3, 4), PRODUCT),
    "two paddings": (lambda: nn.Conv2d(2, 3, 3, padding=(0, 2)), (2, 4, 3), PRODUCT),
    "dilation": (lambda: nn.Conv2d(2, 3, 2, dilation=2), (2, 5, 4), PRODUCT),
    "two dilations": (lambda: nn.Conv2d(2, 3, 3, dilation=(1, 2)), (2, 4, 6), PRODUCT),
    "same, odd": (lambda: nn.Conv2d(2, 3, 3, padding="same"), (2, 3, 4), PRODUCT),
    "same, even": (
        lambda: nn.Conv2d(2, 3, (2, 4), padding="same"),
        (2, 3, 5),
        PRODUCT,
    ),
    "same, dilation": (
        lambda: nn.Conv2d(2, 3, (2, 3), padding="same", dilation=(3, 1)),
        (2, 4, 3),
        PRODUCT,
    ),
    "valid": (lambda: nn.Conv2d(2, 3, 2, padding="valid"), (2, 3, 4), PRODUCT),
    "reflected": (
        lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"),
        (2, 3, 4),
        PRODUCT,
    ),
    "one by one": (lambda: nn.Conv2d(4, 3, 1), (4, 2, 3), PRODUCT),
    "one by one, stride": (
        lambda: nn.Conv2d(4, 3, 1, stride=2, bias=False),
        (4, 3, 4),
        PRODUCT,
    ),
    "one position": (lambda: nn.Conv2d(2, 3, (3, 2)), (2, 3, 2), PAIR),
    "two of many channels": (lambda: nn.Conv2d(8, 20, 3), (8, 4, 3), PAIR),
    "all at once": (
        lambda: nn.Conv2d(4, 6, (3, 2), (2, 1), (2, 1), (1, 2), groups=2),
        (4, 4, 3),
        PRODUCT,
    ),
    "groups": (lambda: nn.Conv2d(4, 6, 2, groups=2), (4, 3, 4), PRODUCT),
    "groups, same": (
        lambda: nn.Conv2d(6, 3, 2, groups=3, padding="same"),
        (6, 2, 3),
        PRODUCT,
    ),
    "depthwise": (lambda: nn.Conv2d(4, 4, 2, groups=4), (4, 3, 3), PRODUCT),
    "depthwise, no bias": (
        lambda: nn.Conv2d(3, 6, 2, groups=3, bias=False),
        (3, 3, 3),
        PRODUCT,
    ),
}
NORMS = {
    "layer": (lambda: nn.LayerNorm(6), (6,), PRODUCT),
    "layer, no bias": (lambda: nn.LayerNorm(6, bias=False), (6,), PRODUCT),
    "layer, two axes": (lambda: nn.LayerNorm((3, 4)), (3, 4), PRODUCT),
    "layer, three axes": (lambda: nn.LayerNorm((2, 3, 4)), (2, 3, 4), PRODUCT),
    "layer, positions": (lambda: nn.LayerNorm(5), (3, 5), PRODUCT),
    "layer, two position axes": (
        lambda: nn.LayerNorm(5, bias=False),
        (2, 3, 5),
        PRODUCT,
    ),
    "layer, two axes, positions": (
        lambda: nn.LayerNorm((3, 4), eps=0.1),
        (2, 3, 4),
        PRODUCT,
    ),
    "group of all": (lambda: nn.GroupNorm(1, 4), (4, 3, 2), PRODUCT),
    "groups": (lambda: nn.GroupNorm(2, 4, eps=0.1), (4, 3, 2), PRODUCT),
    "group each": (lambda: nn.GroupNorm(4, 4), (4, 3, 2), PRODUCT),  # an instance norm
    "groups, sequence": (lambda: nn.GroupNorm(3, 6), (6, 4), PRODUCT),
    "groups, vectors": (lambda: nn.GroupNorm(2, 6), (6,), PRODUCT),
    "batch, vectors": (lambda: nn.BatchNorm1d(6), (6,), PRODUCT),
    "batch, sequence": (lambda: nn.BatchNorm1d(4, eps=0.1), (4, 3), PRODUCT),
    "batch, images": (lambda: nn.BatchNorm2d(3), (3, 2, 4), PRODUCT),
}
EMBEDDINGS = {  # more indices than words: some are repeated
    "one index": (lambda: nn.Embedding(2, 4), (), PRODUCT),
    "one index, axis": (lambda: nn.Embedding(2, 4), (1,), PRODUCT),
    "indices": (lambda: nn.Embedding(5, 3), (6,), PRODUCT),
    "two axes of indices": (lambda: nn.Embedding(5, 3), (2, 3), PRODUCT),
}
KINDS = {
    "linear": DENSE,
    "conv1d": CONV1D,
    "conv2d": CONV2D,
    "norm": NORMS,
    "embedding": EMBEDDINGS,
}
LAYERS = {
    f"{kind}: {name}": layer
    for kind, layers in KINDS.items()
    for name, layer in layers.items()
}
AVERAGED = {  # a few of them -> axes of positions
    "linear: sequence": [1],
    "linear: wide sequence": [1],
    "linear: two axes": [1, 2],
    "conv1d: stride": [2],
    "conv1d: groups": [2],
    "conv2d: same, even": [2, 3],
    "conv2d: two of many channels": [2, 3],
    "conv2d: depthwise": [2, 3],
}
TWICE = {  # layer, what is between its two uses, shape of one sample
    "dense": (lambda: nn.Linear(4, 4), nn.Identity(), (4,)),
    "product, then pair": (lambda: nn.Linear(20, 20), Mean(1), (5, 20)),
    "conv1d": (lambda: nn.Conv1d(2, 2, 3, padding=1), nn.AvgPool1d(2), (2, 6)),
    "conv2d": (lambda: nn.Conv2d(2, 2, (2, 1)), nn.Identity(), (2, 3, 3)),
    "groups": (lambda: nn.Conv2d(4, 4, 2, groups=2), nn.Identity(), (4, 3, 3)),
    "layer norm": (lambda: nn.LayerNorm(5), Mean(1), (3, 5)),
    "group norm": (lambda: nn.GroupNorm(2, 4), nn.AvgPool1d(2), (4, 6)),
    "batch norm": (lambda: nn.BatchNorm1d(4), Mean(2), (4, 3)),
}
OUTSIDE = {  # no rule covers these: their Jacobian has to be formed
    "three dimensions": (lambda: nn.Conv3d(1, 2, 2), (1, 3, 2, 3)),
    "transposed": (lambda: nn.ConvTranspose2d(2, 3, 2), (2, 3, 2)),
    "instance norm": (lambda: nn.InstanceNorm2d(3, affine=True), (3, 2, 2)),
    "bilinear": (lambda: Square(nn.Bilinear(4, 4, 3)), (4,)),
    "embedding without gradient for one word": (
        lambda: nn.Embedding(5, 3, padding_idx=0),
        (6,),
    ),
}
MISTAKEN = {  # outside of any rule, and torch's nested vmap is silently wrong on them
    "slopes": (lambda: nn.PReLU(4), (4,)),
    "distances": (lambda: Distances(5, 4), (4,)),
}
SAMPLES = 3


def tiny(layer, shape, o, seed, device, reduce=None, hidden=None):
    """A layer, a nonlinearity and a frozen dense head; samples for them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = nn.Sequential(layer().double(), nn.Tanh(), reduce or nn.Flatten())
        for module in body.modules():
            if isinstance(getattr(module, "running_var", None), torch.Tensor):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
        for value in body.parameters():
            if value.ndim == 1:  # scales differ from one, shifts from zero
                nn.init.normal_(value)
        x = torch.randn(SAMPLES, *shape, dtype=torch.float64)
        words = [m for m in body.modules() if isinstance(m, nn.Embedding)]
        if words:
            x = torch.randint(words[0].num_embeddings, (SAMPLES, *shape))
        body.eval()
        width = body(x).shape[1]
        head = nn.Linear(width, hidden or o).double()
        if hidden:
            last = nn.Linear(hidden, o).double()
            head = nn.Sequential(head, nn.Tanh(), last)
    head.requires_grad_(False)  # only the rule under test is at work
    return nn.Sequential(*body, head).to(device).eval(), x.to(device)


def factors(model, x, chunk=None, loose=frozenset()):
    own = trainable(model), frozen_state(model)
    assert record(model, *own, x).loose.keys() == loose
    return layerwise.factors(model, *own, x, chunk=chunk)


def multiplied_out(uses, shape):
    """The sum over uses, ``(n, o, *shape)``: its rows are in the weight's own order."""
    parts = [use.per_output().multiplied() for use in uses]
    assert all(part.inputs is None and part.mix is None for part in parts)
    total = sum(part.sensitivities[:, :, 0] for part in parts)  # (o, n, b·a)
    return total.transpose(0, 1).unflatten(2, shape)


def assert_is_the_jacobian(found, model, x, label=""):
    params = trainable(model)
    expected = by_backward_passes(model, params, frozen_state(model), x)
    assert list(found) == list(expected)
    for name, jacobian in expected.items():
        assert jacobian.abs().max() > 0, name
        # Sums of fewer than 2000 terms in another order.
        size = jacobian.abs().max().item()
        assert_close(
            multiplied_out(found[name], params[name].shape),
            jacobian,
            rtol=1e-12,
            atol=1e-12 * size,
            msg=lambda text, name=name: f"{label}{name}: {text}",
        )


def form(factor):
    return PRODUCT if factor.inputs is None else PAIR


# Rules


@pytest.mark.parametrize("hidden", [None, 5])
@pytest.mark.parametrize("o", [1, 3])
@pytest.mark.parametrize("name", LAYERS)
def test_a_rule_gives_the_jacobian_of_its_layer(name, o, hidden, seed, device):
    layer, shape, expected = LAYERS[name]
    model, x = tiny(layer, shape, o, seed, device, hidden=hidden)
    found = factors(model, x)
    assert_is_the_jacobian(found, model, x)
    weight = next(key for key in found if key.endswith("weight"))
    assert form(found[weight][0]) == expected


def test_the_comparison_sees_a_rule_that_is_wrong(seed, device, monkeypatch):
    """Planted fault: the odd pixel of "same" before the image, not behind it."""
    layer, shape, _ = LAYERS["conv2d: same, even"]
    model, x = tiny(layer, shape, 3, seed, device)

    def padded(u, padding, kernel, dilation):
        return nn.functional.pad(u, (2, 1, 1, 0))  # for a filter of 2×4

    monkeypatch.setattr(conv, "_padded", padded)
    with pytest.raises(AssertionError, match=r"0\.weight: Tensor-likes are not close"):
        assert_is_the_jacobian(factors(model, x), model, x)


@pytest.mark.parametrize("name", LAYERS)
def test_samples_that_pass_in_two_parts_have_the_same_jacobian(name, seed, device):
    layer, shape, expected = LAYERS[name]
    model, x = tiny(layer, shape, 3, seed, device)
    found = factors(model, x, chunk=2)
    assert_is_the_jacobian(found, model, x)
    weight = next(key for key in found if key.endswith("weight"))
    assert form(found[weight][0]) == expected


@pytest.mark.parametrize("frozen", ["weight", "bias"])
@pytest.mark.parametrize(
    "name",
    ["linear: vectors", "conv1d: groups", "conv2d: plain", "norm: layer"],
)
def test_what_is_frozen_has_no_factor_and_the_rest_its_own(name, frozen, seed, device):
    layer, shape, _ = LAYERS[name]
    model, x = tiny(layer, shape, 3, seed, device)
    getattr(model[0], frozen).requires_grad_(False)
    found = factors(model, x)
    assert list(found) == [f"0.{'bias' if frozen == 'weight' else 'weight'}"]
    assert_is_the_jacobian(found, model, x)


@pytest.mark.parametrize("name", AVERAGED)
def test_below_a_mean_over_positions_all_outputs_see_a_unit_in_one_way(
    name, seed, device
):
    axes = AVERAGED[name]
    layer, shape, _ = LAYERS[name]
    model, x = tiny(layer, shape, 3, seed, device, reduce=Mean(*axes))
    found = factors(model, x)
    assert {uses[0].mix is not None for uses in found.values()} == {True}
    assert_is_the_jacobian(found, model, x)
    between, x = tiny(layer, shape, 3, seed, device, reduce=Mean(*axes), hidden=5)
    found = factors(between, x)
    assert {uses[0].mix is not None for uses in found.values()} == {False}
    assert_is_the_jacobian(found, between, x)


@pytest.mark.parametrize("o", [1, 3])
@pytest.mark.parametrize("name", TWICE)
def test_the_uses_of_one_layer_are_summed(name, o, seed, device):
    layer, between, shape = TWICE[name]
    model, x = tiny(lambda: Twice(layer(), between), shape, o, seed, device)
    found = factors(model, x)
    assert [len(uses) for uses in found.values()] == [2, 2]
    for uses in found.values():
        assert len({form(use) for use in uses}) == 1
    assert_is_the_jacobian(found, model, x)


@pytest.mark.parametrize("o", [1, 3])
@pytest.mark.parametrize("name", OUTSIDE)
def test_what_no_rule_covers_is_formed(name, o, seed, device):
    layer, shape = OUTSIDE[name]
    model, x = tiny(layer, shape, o, seed, device)
    assert_is_the_jacobian(factors(model, x, loose=set(trainable(model))), model, x)


@pytest.mark.parametrize("name", MISTAKEN)
def test_what_nested_vmap_gets_wrong_is_formed_right(name, seed, device):
    layer, shape = MISTAKEN[name]
    model, x = tiny(layer, shape, 3, seed, device)
    assert_is_the_jacobian(factors(model, x, loose=set(trainable(model))), model, x)


# Convolutions with settings drawn at random

DRAWN = range(20)


def drawn(number):
    """The arguments of a convolution and a sample's shape that fits them."""
    draw = random.Random(number)
    dimensions, groups = draw.choice([1, 2]), draw.choice([1, 1, 2, 3])
    channels = groups * draw.randint(1, 3), groups * draw.randint(1, 3)

    def several(first, last):
        return tuple(draw.randint(first, last) for _ in range(dimensions))

    kernel, dilation, more = several(1, 3), several(1, 3), several(0, 3)
    padding = draw.choice(["same", "valid", several(0, 2), several(0, 2)])
    options = {
        "stride": (1,) * dimensions if padding == "same" else several(1, 3),
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "bias": draw.random() < 0.5,
    }
    sizes = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    shape = [size + m for size, m in zip(sizes, more, strict=True)]
    kind = nn.Conv1d if dimensions == 1 else nn.Conv2d
    return kind, (*channels, kernel), options, (channels[0], *shape)


@pytest.mark.parametrize("o", [1, 3])
@pytest.mark.parametrize("number", DRAWN)
def test_the_rule_of_convolutions_holds_for_settings_at_random(number, o, seed, device):
    kind, sizes, options, shape = drawn(number)
    model, x = tiny(lambda: kind(*sizes, **options), shape, o, seed, device)
    assert_is_the_jacobian(factors(model, x), model, x, f"{model[0]} at {shape}, ")


def test_the_settings_drawn_are_of_every_kind():
    options = [drawn(number)[2] for number in DRAWN]
    kinds = {drawn(number)[0] for number in DRAWN}
    assert kinds == {nn.Conv1d, nn.Conv2d}
    paddings = {p if isinstance(p := o["padding"], str) else "numbers" for o in options}
    assert paddings == {"same", "valid", "numbers"}
    assert {o["groups"] for o in options} == {1, 2, 3}
    assert {o["bias"] for o in options} == {True, False}
    for name in ("stride", "dilation"):
        assert {v for o in options for v in o[name]} == {1, 2, 3}


# Factors


def factor(generator, o, n, positions, b, a=None, units=None):
    """A factor of random numbers; with ``units`` it is of mixed outputs."""

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return Factor(
        draw(1 if units else o, n, positions, b),
        None if a is None else draw(n, positions, a),
        draw(o, units) if units else None,
    )


def jacobian(factor):
    """``Σ_p d ⊗ u``, ``(o, n, b·a)``, by the formula; a mixture unit by unit."""
    d = factor.sensitivities
    if factor.mix is not None:
        each = d.shape[3] // factor.mix.shape[1]
        d = factor.mix.repeat_interleave(each, dim=1)[:, None, None] * d
    if factor.inputs is None:
        return d.sum(dim=2)
    return torch.einsum("onpb,npa->onba", d, factor.inputs).flatten(2)


# Sums of at most six products.
ROUNDING = {"rtol": 1e-14, "atol": 1e-14}
FORMS = {
    "dense": {"positions": 1, "b": 4, "a": 3},
    "bias": {"positions": 1, "b": 4},
    "positions": {"positions": 3, "b": 4, "a": 2},
    "dense, mixed": {"positions": 1, "b": 4, "a": 3, "units": 4},
    "positions, mixed": {"positions": 3, "b": 4, "a": 2, "units": 4},
    "multiplied out, mixed": {"positions": 1, "b": 12, "units": 4},
}


@pytest.mark.parametrize(
    ("positions", "a", "b", "expected"),
    [
        (1, 3, 2, PAIR),
        (1, 1, 1, PAIR),  # one position: the pair in any case
        (2, 8, 9, PAIR),  # 4 · 17 = 68 < 72
        (2, 8, 8, PRODUCT),  # 4 · 16 = 64 = 64: equal costs are multiplied out
        (2, 7, 8, PRODUCT),  # 4 · 15 = 60 > 56
        (4, 32, 33, PAIR),  # 16 · 65 = 1040 < 1056
        (4, 32, 31, PRODUCT),  # 16 · 63 = 1008 > 992
        (5, 1, 900, PRODUCT),
    ],
)
def test_the_cheaper_form_is_kept(positions, a, b, expected, generator):
    pair = factor(generator, 2, 3, positions, b, a)
    found = Factor.cheapest(pair.sensitivities, pair.inputs)
    assert form(found) == expected
    if expected == PRODUCT:
        assert found.sensitivities.shape == (2, 3, 1, b * a)
    assert_close(jacobian(found), jacobian(pair), **ROUNDING)


@pytest.mark.parametrize("name", FORMS)
def test_multiplying_out_leaves_the_jacobian(name, generator):
    given = factor(generator, 3, 2, **FORMS[name])
    found = given.multiplied()
    assert found.inputs is None
    assert found.outputs == given.outputs == 3
    assert_close(jacobian(found), jacobian(given), **ROUNDING)
    assert found.mix is given.mix
    if given.inputs is None:
        assert found is given


@pytest.mark.parametrize("name", FORMS)
def test_writing_out_the_outputs_leaves_the_jacobian(name, generator):
    given = factor(generator, 3, 2, **FORMS[name])
    found = given.per_output()
    assert found.mix is None
    assert found.sensitivities.shape == (3, 2, *given.sensitivities.shape[2:])
    assert form(found) == form(given)
    assert found.outputs == 3
    assert_close(jacobian(found), jacobian(given), **ROUNDING)
    assert_close(jacobian(given.multiplied().per_output()), jacobian(given), **ROUNDING)
    if given.mix is None:
        assert found is given


@pytest.mark.parametrize("name", [name for name in FORMS if "mixed" not in name])
def test_the_sum_is_over_samples_and_outputs_and_its_size_a_bound(name, generator):
    given = factor(generator, 3, 2, **FORMS[name])
    found = given.summed()
    assert_close(found, jacobian(given).sum(dim=(0, 1)), **ROUNDING)
    assert (found.abs() <= given.size()).all()


def test_a_jacobian_itself_is_a_factor(generator):
    given = torch.randn(3, 2, 4, 5, generator=generator, dtype=torch.float64)
    found = Factor.explicit(given)
    assert (form(found), found.outputs) == (PRODUCT, 3)
    assert_close(jacobian(found), given.flatten(2), rtol=0.0, atol=0.0)


@pytest.mark.parametrize("mixes", ["none", "equal", "unequal", "one of two"])
@pytest.mark.parametrize("name", [name for name in FORMS if "mixed" in name])
def test_joined_factors_are_those_of_all_samples(name, mixes, generator):
    first, second = (factor(generator, 3, n, **FORMS[name]) for n in (2, 4))
    if mixes == "equal":
        second = Factor(second.sensitivities, second.inputs, first.mix.clone())
    if mixes in ("none", "one of two"):
        second = second.per_output()
    if mixes == "none":
        first = first.per_output()
    found = Factor.joined([first, second])
    assert (found.mix is not None) == (mixes == "equal")
    assert (form(found), found.outputs) == (form(first), 3)
    expected = torch.cat([jacobian(first), jacobian(second)], dim=1)
    assert_close(jacobian(found), expected, **ROUNDING)


def test_sums_count_every_output_of_a_mix():
    factor = Factor(
        torch.ones(1, 1, 1, 2), None, torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    )
    assert factor.summed().tolist() == [4.0, 6.0]
    assert factor.size() == factor.per_output().size()


def test_slopes_that_the_first_sample_does_not_see(seed):
    """All its inputs are positive: a look at that sample alone shows no mistake."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.PReLU(4), nn.Linear(4, 3)).double()
    x = torch.randn(3, 4, dtype=torch.float64)
    x[0] = x[0].abs()
    own = trainable(model), frozen_state(model)
    found, exact = raw_jacobian(model, *own, x), by_backward_passes(model, *own, x)
    for name, value in exact.items():
        assert_close(found[name], value, rtol=1e-12, atol=1e-12)
