"""Infinite-width kernels against integrals in fifty digits, and their laws."""

import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntk_fed.errors import NonFiniteError, ShapeMismatchError
from ntk_fed.limits import arccosine, relu_nngp, relu_ntk, two_layer_relu

ANGLES = [0.0, 1e-12, 1e-8, 1e-4, 0.1, 0.4999, 0.5001, 1.0, math.pi / 2, 2.5, 3.1]
KERNELS = {
    "two layers": two_layer_relu,
    "process": lambda x, x2=None: relu_nngp(x, x2, depth=3),
    "tangent": lambda x, x2=None: relu_ntk(x, x2, depth=3),
}


def normal(n, d, generator, device="cpu"):
    return torch.randn(n, d, generator=generator, dtype=torch.float64).to(device)


def pair(angle, first=0.7, second=1.9):
    """Two rows that enclose about ``angle``, of unlike norms, in three dimensions."""
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[first, 0.0, 0.0], [second * c, second * s, 0.0]]).double()


def mean_of_gates(cosine, power):
    """2 E[relu(u)^p relu(v)^p] of unit normals with this correlation, by an integral.

    In polar coordinates; p = 0 stands for the gate. 2 E gives κ1 for p = 1 and κ0 for
    p = 0.
    """
    angle = mpmath.acos(cosine)

    def integrand(t):
        return (mpmath.cos(t) * mpmath.cos(t - angle)) ** power

    radial = 2 if power else 1
    part = mpmath.quad(integrand, [angle - mpmath.pi / 2, mpmath.pi / 2])
    return 2 * radial * part / (2 * mpmath.pi)


def by_integrals(x, y, depth):
    """Σ, Θ after ``depth`` layers and the two-layer kernel, for two rows, 50 digits."""
    with mpmath.workdps(50):
        x, y = ([mpmath.mpf(v) for v in row.tolist()] for row in (x, y))
        d = len(x)
        xx, yy, xy = (mpmath.fdot(a, b) for a, b in [(x, x), (y, y), (x, y)])
        bounded = max(-1, min(1, xy / mpmath.sqrt(xx * yy)))
        two = xy * mpmath.acos(-bounded) / (2 * mpmath.pi)
        scale, sigma, theta = mpmath.sqrt(xx * yy) / d, xy / d, xy / d
        for _ in range(depth):
            cosine = max(-1, min(1, sigma / scale))
            sigma = scale * mean_of_gates(cosine, 1)
            theta = sigma + mean_of_gates(cosine, 0) * theta
        return sigma, theta, two


def relative(found, expected):
    return abs(float((mpmath.mpf(found) - expected) / expected))


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("angle", ANGLES)
def test_kernels_of_a_pair_agree_with_integrals(angle, depth, device):
    rows = pair(angle)
    sigma, theta, two = by_integrals(*rows, depth)
    x = rows.to(device)
    one, other = x[:1], x[1:]
    # A dozen roundings a layer, none of them amplified: 1e-14 relative. The dot product
    # near a right angle and the sum of signs beyond it cancel: 1e-14 of the norms.
    scale = float(torch.linalg.vector_norm(rows, dim=1).prod())
    assert relative(relu_nngp(one, other, depth=depth).item(), sigma) <= 1e-14
    found = relu_ntk(one, other, depth=depth).item()
    assert abs(found - theta) <= 1e-14 * max(abs(theta), scale / 3)
    found = two_layer_relu(one, other).item()
    assert abs(found - two) <= 1e-14 * (abs(two) if angle < 1.2 else scale)


def test_the_arccosine_of_a_dot_product_fails_where_the_kernel_does_not():
    """Negative control: the textbook formula is off by far more near parallel rows."""
    rows = pair(1e-8, 1.0, 1.0)
    two = by_integrals(*rows, 0)[2]
    cosine = (rows[0] @ rows[1]).clamp(-1, 1)
    naive = cosine * (math.pi - torch.arccos(cosine)) / (2 * math.pi)
    assert relative(naive.item(), two) > 1e-9
    assert relative(two_layer_relu(rows)[0, 1].item(), two) <= 1e-15


@pytest.mark.parametrize("exponent", [-150, -40, -12, -8, -5, -2, -1])
@pytest.mark.parametrize("factor", [1.0, 2.0, 4.9, 5.1, 9.0, 31.4])
def test_one_minus_kappa_keeps_its_digits_at_every_angle(exponent, factor):
    angle = min(factor * 10.0**exponent, math.pi)
    with mpmath.workdps(350):
        a = mpmath.mpf(angle)
        kappa = (mpmath.sin(a) + (mpmath.pi - a) * mpmath.cos(a)) / mpmath.pi
        expected = 1 - kappa
    found = arccosine.one_minus_correlation(
        torch.tensor(angle, dtype=torch.float64)
    ).item()
    assert relative(found, expected) <= 3e-15


@pytest.mark.parametrize("supplement", [1e-60, 1e-8, 0.01, 0.4, 0.6, 1.5, 3.0])
def test_kappa_keeps_its_digits_near_antipodes(supplement):
    with mpmath.workdps(250):
        s = mpmath.mpf(supplement)
        expected = (mpmath.sin(s) - s * mpmath.cos(s)) / mpmath.pi
    found = arccosine.kappa1(torch.tensor(supplement, dtype=torch.float64)).item()
    assert relative(found, expected) <= 3e-15


@pytest.mark.parametrize("scale", [-1.0, -2.0, -0.125])
def test_exactly_antipodal_inputs(scale, generator, device):
    x = normal(1, 7, generator, device)
    zero = torch.zeros(1, 1, dtype=torch.float64, device=device)
    assert torch.equal(two_layer_relu(x, scale * x), 0 * zero.abs())
    assert torch.equal(relu_nngp(x, scale * x, depth=1), zero)
    assert torch.equal(relu_ntk(x, scale * x, depth=1), zero)
    # One layer on, the pair is orthogonal: κ1(π/2) = 1/π.
    expected = -scale * (x * x).sum() / (7 * math.pi)
    found = relu_nngp(x, scale * x, depth=2)[0, 0]
    torch.testing.assert_close(found, expected, rtol=4e-15, atol=0.0)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_one_set_gives_a_bitwise_symmetric_matrix(kernel, generator, device):
    found = kernel(normal(33, 5, generator, device))
    assert torch.equal(found, found.mT)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_two_sets_agree_with_one(kernel, generator, device):
    x = normal(20, 6, generator, device)
    # Row norms of up to 5: a dozen roundings of numbers of order 25.
    options = {"rtol": 1e-14, "atol": 1e-13}
    torch.testing.assert_close(kernel(x, x), kernel(x), **options)
    torch.testing.assert_close(kernel(x[:8], x[8:]), kernel(x)[:8, 8:], **options)


@pytest.mark.parametrize("depth", [0, 1, 4])
def test_diagonals_are_those_of_the_closed_form(depth, generator, device):
    x = normal(9, 4, generator, device)
    squares = (x * x).sum(dim=1)
    assert torch.equal(two_layer_relu(x).diagonal(), squares / 2)
    assert torch.equal(relu_nngp(x, depth=depth).diagonal(), squares / 4)
    expected = (depth + 1) * (squares / 4)
    assert torch.equal(relu_ntk(x, depth=depth).diagonal(), expected)


def test_no_hidden_layer_is_the_linear_model(generator, device):
    x, x2 = normal(5, 3, generator, device), normal(4, 3, generator, device)
    for kernel in (relu_nngp, relu_ntk):
        found = kernel(x, x2, depth=0)
        torch.testing.assert_close(found, x @ x2.mT / 3, rtol=1e-15, atol=1e-15)


def test_the_two_layer_kernel_is_the_first_layers_part_of_the_tangent_kernel(
    generator, device
):
    x = normal(12, 5, generator, device)
    part = relu_ntk(x, depth=1) - relu_nngp(x, depth=1)
    expected = 5 / 2 * part  # inputs are divided by √d there, and the gain is √2
    torch.testing.assert_close(two_layer_relu(x), expected, rtol=0.0, atol=1e-13)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    power=st.integers(-60, 60),
    seed=st.integers(0, 2**32 - 1),
    name=st.sampled_from(sorted(KERNELS)),
)
def test_kernels_scale_with_each_input_and_turn_with_both(power, seed, name):
    generator = torch.Generator().manual_seed(seed)
    x, x2 = normal(5, 4, generator), normal(3, 4, generator)
    plain = KERNELS[name](x, x2)
    assert torch.equal(KERNELS[name](x * 2.0**power, x2), plain * 2.0**power)
    turn = torch.linalg.qr(normal(4, 4, generator))[0]
    turned = KERNELS[name](x @ turn, x2 @ turn)
    torch.testing.assert_close(turned, plain, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_zero_rows_give_zero_rows(kernel, generator, device):
    x = normal(6, 4, generator, device)
    x[[1, 4]] = 0.0
    for found in (kernel(x), kernel(x, x.clone())):
        assert torch.isfinite(found).all()
        assert (found[[1, 4]] == 0).all()
        assert (found[:, [1, 4]] == 0).all()


def test_rows_too_small_to_square_still_have_an_angle():
    x = 1e-170 * pair(1.0)
    found = two_layer_relu(x[:1], 1e170 * pair(1.0)[1:])
    expected = two_layer_relu(pair(1.0)[:1], pair(1.0)[1:])
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0.0)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_single_precision_stays_single_and_close(kernel, generator, device):
    x = normal(10, 4, generator, device)
    found = kernel(x.float())
    assert found.dtype == torch.float32
    expected = kernel(x.float().double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_the_finite_kernel_concentrates_on_the_limit_as_hoeffding_says(generator):
    n, d, m, failure = 8, 5, 4096, 1e-9
    x, weights = normal(n, d, generator), normal(m, d, generator)
    gates = (x @ weights.mT > 0).double()
    found = (x @ x.mT) * (gates @ gates.mT) / m
    # Each entry is x·x' times a mean of m independent draws from {0, 1}.
    share = math.sqrt(math.log(n * (n + 1) / failure) / (2 * m))
    allowed = share * (x @ x.mT).abs() + 1e-12
    assert ((found - two_layer_relu(x)).abs() <= allowed).all()
    assert ((found - 2 * two_layer_relu(x)).abs() > allowed).any()  # control


def test_wide_networks_have_the_deep_tangent_kernel_on_average(generator):
    d, m, draws = 4, 256, 64
    x = normal(2, d, generator)
    entries = torch.stack([finite_tangent(x, m, generator) for _ in range(draws)])
    error = entries.std(dim=0) / math.sqrt(draws)
    # Six standard errors (failure below 1e-8 an entry) and a bias of order 1 / width.
    limit = relu_ntk(x, depth=2)
    allowed = 6 * error + 4 / m * limit.diagonal().max()
    assert ((entries.mean(dim=0) - limit).abs() <= allowed).all()
    wrong = relu_ntk(x, depth=3)  # control
    assert ((entries.mean(dim=0) - wrong).abs() > allowed).any()


def finite_tangent(x, m, generator):
    """Tangent kernel of one draw with two hidden layers, one backward pass a row."""
    d = x.shape[1]
    shapes = [(m, d), (m, m), (1, m)]
    weights = [normal(*shape, generator).requires_grad_() for shape in shapes]
    rows = []
    for row in x:
        z = weights[0] @ row / math.sqrt(d)
        for weight in weights[1:]:
            z = math.sqrt(2 / m) * weight @ torch.relu(z)
        gradients = torch.autograd.grad(z, weights)
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    jacobian = torch.stack(rows)
    return jacobian @ jacobian.mT


X = torch.ones(3, 2, dtype=torch.float64)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
@pytest.mark.parametrize(
    ("x", "x2", "error", "message"),
    [
        (X.long(), None, ValueError, "x must be float64 or float32, got torch.int64"),
        (X, X.half(), ValueError, "x2 must be float64 or float32"),
        (X, X.float(), ValueError, "must share dtype and device"),
        (X[0], None, ShapeMismatchError, r"x must be a matrix \(samples, inputs\)"),
        (X[None], None, ShapeMismatchError, r"x.flatten\(1\)"),
        (X, X[:, :1], ShapeMismatchError, "same number of columns, got 2 and 1"),
        (X[:, :0], None, ValueError, "x has no columns"),
        (X * math.nan, None, NonFiniteError, "6 non-finite entries of 6"),
        (X, X / 0, NonFiniteError, "x2 has 6 non-finite"),
        (X * 1e200, None, NonFiniteError, "the kernel overflows"),
        (X * 1e200, X * 1e200, NonFiniteError, "the kernel overflows"),
    ],
)
def test_unfit_inputs_are_refused(kernel, x, x2, error, message):
    with pytest.raises(error, match=message):
        kernel(x, x2)


@pytest.mark.parametrize("kernel", [relu_nngp, relu_ntk])
@pytest.mark.parametrize("depth", [-1, True])
def test_the_depth_is_a_number_of_layers(kernel, depth):
    with pytest.raises(ValueError, match="depth must be the number of hidden layers"):
        kernel(X, depth=depth)
