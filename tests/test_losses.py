"""Losses and their gradients: definitions, twins, laws, extremes, refusals."""

import functools
import math

import mpmath
import pytest
import torch
from torch.testing import assert_close

from ntk_fed.errors import NotPerSampleError, ShapeMismatchError, UnknownNameError
from ntk_fed.fedavg import losses
from ntk_fed.fedavg.losses import check_targets, describe, named, output_gradient

MARGIN = ["logistic", "exponential", "squared-hinge"]
KINDS = [
    ("squared", "real"),
    *[(name, "signs") for name in MARGIN],
    ("cross-entropy", "labels"),
    ("cross-entropy", "one-hot"),
    ("cross-entropy", "probabilities"),
]
DTYPES = [torch.float64, torch.float32]
KINDS_IDS = [f"{name}-{kind}" for name, kind in KINDS]
every_kind = pytest.mark.parametrize(("loss", "kind"), KINDS, ids=KINDS_IDS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def problem(kind, generator, shape=(2, 5), o=3, dtype=torch.float64, scale=1.0):
    """Outputs, targets and weights; no margin lies within 1/16 of the hinge's kink."""
    normal = functools.partial(torch.randn, generator=generator, dtype=torch.float64)
    outputs = scale * ((8 * normal(*shape, o)).round() / 8 + 1 / 16)
    labels = torch.randint(o, shape, generator=generator)
    match kind:
        case "real":
            targets = normal(*shape, o)
        case "signs":
            targets = 2.0 * torch.randint(2, (*shape, o), generator=generator) - 1
        case "labels":
            targets = labels
        case "one-hot":
            targets = torch.nn.functional.one_hot(labels, o).double()
        case "probabilities":
            targets = normal(*shape, o).softmax(dim=-1)
    weights = torch.rand(shape, generator=generator, dtype=torch.float64) + 0.1
    if targets.is_floating_point():
        targets = targets.to(dtype)
    return outputs.to(dtype), targets, weights.to(dtype)


def huber(outputs, targets, delta=1.0):
    """A loss of a user's own."""
    return torch.nn.functional.huber_loss(
        outputs, targets, reduction="none", delta=delta
    ).sum(dim=1)


def precise(loss, f, y):
    """The definition, sample by sample, with 50 digits."""
    with mpmath.workdps(50):
        f = [mpmath.mpf(v) for v in f.tolist()]
        if loss == "cross-entropy":
            y = [float(k == y) for k in range(len(f))] if y.ndim == 0 else y.tolist()
            whole = sum(mpmath.exp(v) for v in f)
            return float(-sum(t * mpmath.log(mpmath.exp(v) / whole)
                              for v, t in zip(f, y, strict=True)))  # fmt: skip
        term = {
            "squared": lambda v, t: (v - t) ** 2 / 2,
            "logistic": lambda v, t: mpmath.log(1 + mpmath.exp(-t * v)),
            "exponential": lambda v, t: mpmath.exp(-t * v),
            "squared-hinge": lambda v, t: max(0, 1 - t * v) ** 2,
        }[loss]
        return float(sum(term(v, t) for v, t in zip(f, y.tolist(), strict=True)))


def by_autograd(loss, outputs, targets, weights):
    """Obviously right where nothing overflows: differentiate the weighted sum."""
    leaf = outputs.clone().requires_grad_()
    rows, y = leaf.flatten(0, -2), targets.flatten(0, weights.ndim - 1)
    total = (weights.flatten() * named(loss)(rows, y)).sum()
    return torch.autograd.grad(total, leaf)[0]


# What the losses are


@every_kind
@pytest.mark.parametrize("o", [2, 3])
def test_a_loss_is_its_definition(loss, kind, o, generator):
    outputs, targets, _ = problem(kind, generator, shape=(40,), o=o, scale=5.0)
    expected = [precise(loss, f, y) for f, y in zip(outputs, targets, strict=True)]
    expected = torch.tensor(expected, dtype=torch.float64)
    # exp(u) magnifies the rounding of u, below 25. Cross-entropy rounds absolutely.
    absolute = 1e-13 if loss == "cross-entropy" else 0.0
    assert_close(named(loss)(outputs, targets), expected, rtol=1e-14, atol=absolute)


def test_the_logistic_loss_keeps_its_digits_at_every_margin():
    margins = torch.linspace(-60, 60, 241, dtype=torch.float64).unsqueeze(1)
    ones = torch.ones_like(margins)
    pairs = zip(margins, ones, strict=True)
    expected = [precise("logistic", f, y) for f, y in pairs]
    expected = torch.tensor(expected, dtype=torch.float64)
    # exp(-60) magnifies a rounding by 60: 60 * 2.2e-16 is near 1.3e-14.
    tolerance = {"rtol": 2e-14, "atol": 0.0}
    assert_close(named("logistic")(margins, ones), expected, **tolerance)
    linear = torch.nn.functional.softplus(-margins).squeeze(1)
    assert ((linear - expected).abs() / expected).max() > 1e-11  # the control


@pytest.mark.parametrize("name", ["squared", *MARGIN])
def test_a_sum_over_outputs_is_what_several_outputs_cost(name, generator):
    kind = dict(KINDS)[name]
    outputs, targets, _ = problem(kind, generator, shape=(6,))
    columns = zip(outputs.split(1, dim=1), targets.split(1, dim=1), strict=True)
    alone = sum(named(name)(f, y) for f, y in columns)
    # Three terms below 1e2: a few roundings.
    assert_close(named(name)(outputs, targets), alone, rtol=1e-15, atol=0.0)


# Gradients against twins


@every_dtype
@every_kind
@pytest.mark.parametrize("o", [2, 3])
def test_a_gradient_is_that_of_autograd(loss, kind, o, dtype, generator):
    outputs, targets, weights = problem(kind, generator, o=o, dtype=dtype)
    found = output_gradient(loss, outputs, targets, weights)
    assert found.dtype == dtype
    # Entries below 40 by a dozen operations each way.
    eps = torch.finfo(dtype).eps
    expected = by_autograd(loss, outputs, targets, weights)
    assert_close(found, expected, rtol=16 * eps, atol=16 * eps)


@pytest.mark.parametrize(
    ("loss", "kind"), [*KINDS, (huber, "real")], ids=[*KINDS_IDS, "own"]
)
def test_a_gradient_is_a_limit_of_differences(loss, kind, generator):
    outputs, targets, weights = problem(kind, generator)
    found, step = output_gradient(loss, outputs, targets, weights), 1e-5

    def total(moved):
        y = targets.flatten(0, 1)
        return (weights.flatten() * named(loss)(moved.flatten(0, 1), y)).sum().item()

    for place in range(outputs.numel()):
        move = torch.zeros_like(outputs)
        move.view(-1)[place] = step
        slope = (total(outputs + move) - total(outputs - move)) / (2 * step)
        # Third derivatives below 40 give 40 * step² / 6; sums below 200 round to 1e-13,
        # over 2 * step.
        assert abs(slope - found.flatten()[place].item()) < 2e-8


def test_the_gradient_of_the_squared_loss_is_the_weighted_residual(generator):
    outputs, targets, weights = problem("real", generator)
    expected = weights[..., None] * (outputs - targets)
    found = output_gradient("squared", outputs, targets, weights)
    assert_close(found, expected, rtol=0.0, atol=0.0)
    assert_close(
        found, by_autograd("squared", outputs, targets, weights), rtol=1e-15, atol=0.0
    )


@pytest.mark.parametrize(
    ("loss", "kind"), [*KINDS, (huber, "real")], ids=[*KINDS_IDS, "own"]
)
def test_many_clients_at_once_are_each_client_alone(loss, kind, generator):
    outputs, targets, weights = problem(kind, generator, shape=(3, 2, 4))
    found = output_gradient(loss, outputs, targets, weights)
    for i in range(3):
        alone = output_gradient(loss, outputs[i], targets[i], weights[i])
        # Vectorised kernels may round an entry below 40 differently at another place.
        assert_close(found[i], alone, rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("loss", ["squared", huber])
def test_weights_of_another_dtype_leave_that_of_the_outputs(loss, generator):
    outputs, targets, weights = problem("real", generator, dtype=torch.float32)
    found = output_gradient(loss, outputs, targets, weights.double())
    assert found.dtype == torch.float32
    assert torch.equal(found, output_gradient(loss, outputs, targets, weights))


def test_inputs_are_not_changed(generator):
    for loss, kind in [*KINDS, (huber, "real")]:
        given = problem(kind, generator)
        given[2][:, 1] = 0
        kept = [value.clone() for value in given]
        output_gradient(loss, *given)
        assert all(map(torch.equal, given, kept))


# Padding


@every_dtype
@pytest.mark.parametrize(
    ("loss", "kind"), [*KINDS, (huber, "real")], ids=[*KINDS_IDS, "own"]
)
@pytest.mark.parametrize("rubbish", [-1e30, 1e30, math.inf, math.nan])
def test_padding_has_no_gradient_whatever_it_holds(
    loss, kind, rubbish, dtype, generator
):
    outputs, targets, weights = problem(kind, generator, dtype=dtype)
    weights[0, 2:] = 0
    weights[1, 0] = 0
    padding = weights == 0
    clean = output_gradient(loss, outputs, targets, weights)
    outputs[padding] = rubbish
    targets[padding] = -100 if kind == "labels" else rubbish
    found = output_gradient(loss, outputs, targets, weights)
    assert (found[padding] == 0).all()
    assert torch.equal(found, clean)
    assert found[~padding].any(dim=-1).sum() >= 1


def test_zero_times_infinity_would_have_spoilt_it():
    """Negative control: what the padding test guards against does happen."""
    outputs, ones = torch.tensor([[-1e4]]).double(), torch.ones(1, 1).double()
    weights = torch.zeros(1).double()
    naive = weights[:, None] * -ones * torch.exp(-ones * outputs)
    assert naive.isnan().all()
    assert (output_gradient("exponential", outputs, ones, weights) == 0).all()


def fussy(outputs, targets):
    assert len(outputs), "called without a sample"
    return huber(outputs, targets)


@pytest.mark.parametrize("loss", ["squared", fussy])
@pytest.mark.parametrize("shape", [(0,), (2, 0), (2, 3)])
def test_a_step_of_nothing_but_padding_is_zero(loss, shape, generator):
    outputs, targets, weights = problem("real", generator, shape=shape)
    found = output_gradient(loss, outputs, targets, torch.zeros_like(weights))
    assert found.shape == outputs.shape
    assert (found == 0).all()
    rows, y = outputs.flatten(0, -2)[:0], targets.flatten(0, -2)[:0]
    check_targets(loss, rows, y)  # without a sample there is nothing to try


# Extremes

FAR = 1e4
EXTREMES = [  # loss, margin, value, gradient for y = +1
    ("logistic", FAR, 0.0, 0.0),
    ("logistic", -FAR, FAR, -1.0),
    ("exponential", FAR, 0.0, 0.0),
    ("exponential", -FAR, math.inf, -math.inf),
    ("squared-hinge", FAR, 0.0, 0.0),
    ("squared-hinge", -FAR, (FAR + 1) ** 2, -2 * (FAR + 1)),
    ("squared", FAR, (FAR - 1) ** 2 / 2, FAR - 1),
]


@every_dtype
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize(("loss", "margin", "value", "slope"), EXTREMES)
def test_extreme_margins_give_their_limits(loss, margin, value, slope, sign, dtype):
    y = torch.full((1, 1), sign, dtype=dtype)
    f, weights = margin * y, torch.ones(1, dtype=dtype)
    # In float32 (FAR + 1)² is rounded once.
    eps = torch.finfo(dtype).eps
    assert named(loss)(f, y).item() == pytest.approx(value, rel=eps, abs=0)
    assert output_gradient(loss, f, y, weights).item() == sign * slope


@every_dtype
def test_cross_entropy_of_far_outputs_is_their_gap(dtype):
    f = torch.tensor([[FAR, -FAR]] * 2, dtype=dtype)
    labels, weights = torch.tensor([0, 1]), torch.ones(2, dtype=dtype)
    for y in (labels, torch.eye(2, dtype=dtype)):
        assert named("cross-entropy")(f, y).tolist() == [0.0, 2 * FAR]
        found = output_gradient("cross-entropy", f, y, weights)
        assert found.tolist() == [[0.0, 0.0], [1.0, -1.0]]


@pytest.mark.parametrize(("dtype", "last"), [(DTYPES[0], 709), (DTYPES[1], 88)])
def test_the_exponential_overflows_where_its_docstring_says(dtype, last):
    ones = torch.ones(1, 1, dtype=dtype)
    assert named("exponential")(-last * ones, ones).isfinite().all()
    assert named("exponential")(-(last + 1) * ones, ones).isinf().all()


# Laws


@every_kind
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_losses_are_convex_and_lie_above_their_tangents(loss, kind, scale, generator):
    a, targets, _ = problem(kind, generator, shape=(2000,), scale=scale)
    b = problem(kind, generator, shape=(2000,), scale=scale)[0]
    value, t = named(loss), torch.rand(2000, generator=generator, dtype=torch.float64)
    at_a, at_b = value(a, targets), value(b, targets)
    between = value(a + t[:, None] * (b - a), targets)
    # exp magnifies the rounding of a margin below 100, three outputs at a time.
    rounding = 1e-13
    slack = rounding * (1 + at_a + at_b)
    assert (between <= (1 - t) * at_a + t * at_b + slack).all()
    slopes = output_gradient(loss, a, targets, torch.ones_like(t))
    rise = slopes * (b - a)
    slack = slack + rounding * rise.abs().sum(dim=1)
    assert (at_b >= at_a + rise.sum(dim=1) - slack).all()


def margin_values(margins):
    """Value and gradient of each margin loss at margins ``(n,)``, y = +1."""
    f = margins.unsqueeze(1)
    ones, weights = torch.ones_like(f), torch.ones_like(margins)
    return {
        name: (
            named(name)(f, ones),
            output_gradient(name, f, ones, weights).squeeze(1),
        )
        for name in MARGIN
    }


@pytest.fixture
def margins(generator):
    drawn = 10 * torch.randn(2000, generator=generator, dtype=torch.float64)
    return torch.cat([drawn, torch.tensor([-1.0, 0.0, 1.0, 1.0 + 2**-52])])


def test_margin_losses_bound_mistakes_and_fall(margins):
    wrong = (margins <= 0).double()
    for name, (value, slope) in margin_values(margins).items():
        unit = math.log(2) if name == "logistic" else 1.0  # loss at margin 0
        assert (value >= unit * wrong).all()
        assert (value >= 0).all()
        assert (slope <= 0).all()


def test_the_logistic_loss_and_slope_are_below_the_exponential(margins):
    found = margin_values(margins)
    (log, log_slope), (exp, exp_slope) = found["logistic"], found["exponential"]
    rounding = 1 + 1e-14  # far out the two agree to all digits
    assert (log <= exp * rounding).all()
    assert (log_slope.abs() <= exp_slope.abs() * rounding).all()
    assert (log_slope.abs() <= 1).all()
    assert_close(-exp_slope, exp, rtol=0.0, atol=0.0)
    # 1 − exp(−loss) is the slope: both sides below 1, a few roundings.
    assert_close(-log_slope, -torch.expm1(-log), rtol=1e-13, atol=0.0)


def test_the_squared_hinge_is_exactly_zero_from_margin_one_on(margins):
    value, slope = margin_values(margins)["squared-hinge"]
    beyond = margins >= 1
    assert beyond.sum() > 100
    assert (value[beyond] == 0).all()
    assert (slope[beyond] == 0).all()
    assert (value[~beyond] > 0).all()
    assert_close(slope.square(), 4 * value, rtol=1e-15, atol=0.0)  # one rounding each


@pytest.mark.parametrize("name", MARGIN)
def test_a_margin_loss_sees_margins_only(name, generator):
    outputs, targets, weights = problem("signs", generator)
    assert torch.equal(named(name)(outputs, targets), named(name)(-outputs, -targets))
    there = output_gradient(name, outputs, targets, weights)
    assert torch.equal(there, -output_gradient(name, -outputs, -targets, weights))


@pytest.mark.parametrize("kind", ["labels", "one-hot", "probabilities"])
def test_cross_entropy_does_not_see_a_shift_and_its_gradient_sums_to_zero(
    kind, generator
):
    outputs, targets, _ = problem(kind, generator, shape=(200,))
    ones = torch.ones(200, dtype=torch.float64)
    value = named("cross-entropy")
    # Shifts by an eighth are exact; values below 10 round a few times.
    assert_close(
        value(outputs + 3.125, targets), value(outputs, targets), rtol=0.0, atol=1e-14
    )
    found = output_gradient("cross-entropy", outputs, targets, ones)
    assert found.sum(dim=1).abs().max() < 1e-15
    assert (found.abs().sum(dim=1) <= 2).all()
    assert (value(outputs, targets) >= 0).all()


def test_labels_are_one_hot_rows(generator):
    outputs, labels, weights = problem("labels", generator)
    one_hot = torch.nn.functional.one_hot(labels, 3).double()
    value = named("cross-entropy")
    assert torch.equal(value(outputs, labels), value(outputs, one_hot))
    assert_close(
        output_gradient("cross-entropy", outputs, labels, weights),
        output_gradient("cross-entropy", outputs, one_hot, weights),
        rtol=0.0,
        atol=0.0,
    )


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.bool], ids=str)
def test_labels_of_any_integer_type_are_labels(dtype, generator):
    outputs, labels, weights = problem("labels", generator, o=2)
    weights[0, 0] = 0
    given = labels.to(dtype)
    check_targets("cross-entropy", outputs[0], given[0])
    expected = output_gradient("cross-entropy", outputs, labels, weights)
    found = output_gradient("cross-entropy", outputs, given, weights)
    assert torch.equal(found, expected)


def test_cross_entropy_of_two_outputs_is_the_logistic_loss_of_their_gap(generator):
    outputs, labels, weights = problem("labels", generator, shape=(200,), o=2)
    gap, sign = outputs[:, 1:] - outputs[:, :1], 2.0 * labels[:, None] - 1
    # Values below 10 and slopes below 1 round a few times.
    assert_close(
        named("cross-entropy")(outputs, labels),
        named("logistic")(gap, sign),
        rtol=0.0,
        atol=1e-14,
    )
    slope = output_gradient("logistic", gap, sign.double(), weights)
    found = output_gradient("cross-entropy", outputs, labels, weights)
    assert_close(found, torch.cat([-slope, slope], dim=1), rtol=0.0, atol=1e-15)


# Targets


@every_dtype
@every_kind
def test_good_targets_pass_with_the_outputs_of_the_first_samples(
    loss, kind, dtype, generator
):
    outputs, targets, _ = problem(kind, generator, shape=(6,), dtype=dtype)
    check_targets(loss, outputs[:1], targets)
    check_targets(loss, outputs[:0], targets[:0])
    check_targets(loss, outputs, targets)
    with pytest.raises(ValueError, match=r"needs (real targets|labels from 0 to 2)"):
        check_targets(loss, outputs[:1], torch.tensor([0, 1, 2, 1, 0, 3]))


X = torch.full((3, 1), 0.5, dtype=torch.float64)
X2 = torch.full((3, 2), 0.5, dtype=torch.float64)
SIGNS = torch.tensor([[1.0], [-1.0], [1.0]], dtype=torch.float64)
ROWS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], dtype=torch.float64)
LABELS = torch.tensor([0, 1, 1])
REFUSED = [
    ("squared", X, LABELS, ValueError, r"use dataset\.one_hot\(\) or dataset\.sign"),
    ("squared", X, SIGNS[:, 0], ShapeMismatchError, r"y\[:, None\]"),
    ("squared", X, SIGNS[:2], ShapeMismatchError, r"y has shape \(2, 1\)"),
    ("squared", X, SIGNS.float(), ShapeMismatchError, r"y is torch\.float32, the mod"),
    *[
        (name, x, y, error, words)
        for name in MARGIN
        for x, y, error, words in [
            (X, LABELS, ValueError, rf"'{name}' needs real.*use dataset\.sign\(\)"),
            (X, (SIGNS + 1) / 2, ValueError, r"holds \[0\.0\] in sample 1.*2 \* y - 1"),
            (X, 1.5 * SIGNS, ValueError, r"exactly -1 or \+1, y holds \[1\.5\]"),
            (X2, ROWS, ValueError, rf"'{name}'.*holds \[1\.0, 0\.0\] in sample 0"),
            (X2, SIGNS, ShapeMismatchError, r"returns \(3, 2\).*nothing is broadcast"),
            (X, SIGNS.float(), ShapeMismatchError, "Convert one"),
        ]
    ],
    *[
        ("cross-entropy", x, y, error, words)
        for x, y, error, words in [
            (X, LABELS, ValueError, r"at least two outputs.*loss='logistic'"),
            (X2, LABELS + 1, ValueError, r"labels from 0 to 1, y holds 2 in sample 1"),
            (X2, LABELS - 1, ValueError, "holds -1 in sample 0.*classes from 0"),
            (X2, LABELS[:, None], ShapeMismatchError, r"such as y\[:, 0\]"),
            (X2, LABELS.double(), ShapeMismatchError, r"integer type, y\.long\(\)"),
            (X2, 2 * ROWS, ValueError, r"sum to 1, y holds \[2\.0, 0\.0\] in sample 0"),
            (X2, 3 * ROWS - 1, ValueError, r"\[2\.0, -1\.0\] in sample 0"),
            (X2, SIGNS, ShapeMismatchError, r"returns \(3, 2\)"),
            (X2, ROWS.float(), ShapeMismatchError, "Convert one"),
        ]
    ],
]


@pytest.mark.parametrize(("loss", "outputs", "targets", "error", "words"), REFUSED)
@pytest.mark.parametrize("first", [1, 3])
def test_other_targets_are_refused(loss, outputs, targets, error, words, first):
    if len(targets) < 3:
        first = 3
    words = words.replace(r"returns \(3", rf"returns \({first}")
    with pytest.raises(error, match=words):
        check_targets(loss, outputs[:first], targets)


def test_probabilities_may_round_like_float32(generator):
    rounded = torch.rand(50, 7, generator=generator).softmax(dim=1).double()
    assert (rounded.sum(dim=1) != 1).any()
    check_targets("cross-entropy", rounded[:1], rounded)


@pytest.mark.parametrize(
    ("loss", "targets", "weights"),
    [
        ("squared", (2, 5), (2, 5)),
        ("squared", (2, 5, 1), (2, 1)),
        ("squared", (1, 5, 1), (2, 5)),
        ("cross-entropy", (2, 5), (2, 5)),
        (huber, (2, 4, 1), (2, 5)),
    ],
)
def test_a_gradient_broadcasts_nothing(loss, targets, weights):
    shapes = [torch.ones(s, dtype=torch.float64) for s in ((2, 5, 1), targets, weights)]
    # The shape checker of the tests may be the first to see it.
    with pytest.raises((ShapeMismatchError, TypeError), match=r"broadcast|row_weights"):
        output_gradient(loss, *shapes)


# Names and functions


@pytest.mark.parametrize("use", [named, lambda loss: check_targets(loss, X, SIGNS)])
@pytest.mark.parametrize(
    ("wrong", "right"), [("square", "squared"), ("cross_entropy", "cross-entropy")]
)
def test_a_misspelt_name_is_refused_with_the_nearest(use, wrong, right):
    with pytest.raises(UnknownNameError, match=f"Did you mean '{right}'"):
        use(wrong)
    with pytest.raises(UnknownNameError, match=f"Did you mean '{right}'"):
        output_gradient(wrong, X, SIGNS, torch.ones(3, dtype=torch.float64))


def test_a_function_is_its_own_name():
    assert named(huber) is huber
    assert list(losses.LOSSES) == list(dict.fromkeys(name for name, _ in KINDS))
    assert all(named(name) is value for name, value in losses.LOSSES.items())


class Own(torch.nn.Module):
    def forward(self, outputs, targets):
        return huber(outputs, targets)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("squared-hinge", "squared-hinge"),
        (huber, "test_losses.huber"),
        (Own(), "test_losses.Own"),
        (Own().forward, "test_losses.Own.forward"),
        (
            functools.partial(huber, delta=0.5),
            "functools.partial(test_losses.huber, delta=0.5)",
        ),
    ],
)
def test_a_record_names_the_loss(loss, expected):
    assert describe(loss) == expected


@every_kind
def test_a_name_given_as_a_function_has_the_same_gradient(loss, kind, generator):
    outputs, targets, weights = problem(kind, generator)
    weights[1, 2:] = 0
    function = losses.LOSSES[loss]
    check_targets(function, outputs[0], targets[0])
    found = output_gradient(function, outputs, targets, weights)
    expected = output_gradient(loss, outputs, targets, weights)
    # Entries below 40 by a dozen operations each way.
    assert_close(found, expected, rtol=4e-15, atol=4e-15)
    assert not found.requires_grad


def test_a_function_may_take_targets_of_any_kind(generator):
    """Here two numbers per sample: the target of one output, and its weight."""

    def weighted(outputs, targets):
        return targets[:, 1, 0] * (outputs[:, 0] - targets[:, 0, 0]) ** 2

    outputs, _, weights = problem("real", generator, o=1)
    targets = torch.rand(2, 5, 2, 1, generator=generator, dtype=torch.float64)
    check_targets(weighted, outputs[0], targets[0])
    found = output_gradient(weighted, outputs, targets, weights)
    gap = outputs[..., 0] - targets[..., 0, 0]
    expected = (weights * 2 * targets[..., 1, 0] * gap).unsqueeze(-1)
    assert_close(found, expected, rtol=1e-15, atol=1e-15)  # three products


def test_a_function_works_where_gradients_are_off(generator):
    outputs, targets, weights = problem("real", generator)
    expected = output_gradient(huber, outputs, targets, weights)
    with torch.no_grad():
        check_targets(huber, outputs[0], targets[0])
        assert torch.equal(output_gradient(huber, outputs, targets, weights), expected)


def gap(f, y):
    return (f - y).square().sum(dim=1)


WRONG = [
    (lambda f, y: gap(f, y).mean(), ShapeMismatchError, r"got \(\).*Leave out the mea"),
    (lambda f, y: (f - y) ** 2, ShapeMismatchError, r"sum over outputs: sum\(dim=1\)"),
    (lambda f, y: (f - y).square().mean(dim=0), ShapeMismatchError, "one number per s"),
    (lambda f, y: gap(f, y)[:, None], ShapeMismatchError, "one number per sample"),
    (lambda f, y: gap(f, y).item, ValueError, "got builtin_function_or_method"),
    (lambda f, y: 0.5, ValueError, "got float"),
    (lambda f, y: (f > y).sum(dim=1), ValueError, r"got torch\.int64"),
    (lambda f, y: gap(f.detach(), y), ValueError, "must be differentiable"),
    (
        lambda f, y: gap(f - f.mean(dim=0), y),
        NotPerSampleError,
        "on the outputs of oth",
    ),
    (lambda f, y: -f.log_softmax(dim=0)[:, 0], NotPerSampleError, r"\(dim=0\)"),
]


@pytest.mark.parametrize(("loss", "error", "words"), WRONG)
@pytest.mark.parametrize("o", [1, 2, 3])
@pytest.mark.parametrize("first", [1, 2, 3, 4])
def test_a_function_that_is_no_loss_is_refused(loss, error, words, o, first, generator):
    outputs, targets, _ = problem("real", generator, shape=(6,), o=o)
    with pytest.raises(error, match=words):
        check_targets(loss, outputs[:first], targets)


def test_a_loss_without_slope_somewhere_is_a_loss():
    """Zero derivatives are no reason to refuse: a hinge is flat on half the line."""
    check_targets(lambda f, y: (1 - f * y).relu().sum(dim=1), 4 * X, 4 * X)


def test_a_loss_with_an_infinite_slope_somewhere_is_a_loss():
    check_targets(lambda f, y: gap(f, y).sqrt(), 0 * X, 0 * X)


def test_the_mean_is_refused_in_the_gradient_as_well(generator):
    outputs, targets, weights = problem("real", generator)
    with pytest.raises(ShapeMismatchError, match="one number per sample"):
        output_gradient(lambda f, y: gap(f, y).mean(), outputs, targets, weights)
