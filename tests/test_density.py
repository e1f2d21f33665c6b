"""Stochastic Lanczos quadrature: its laws, its coverage on known spectra, refusals."""

import importlib
import math

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from ntk_fed.errors import NonFiniteError, NotSymmetricError, ShapeMismatchError
from ntk_fed.spectrum import density

module = importlib.import_module("ntk_fed.spectrum.density")
ONES = torch.ones(3, 3, dtype=torch.float64)
SPECTRUM = np.concatenate([np.linspace(0.1, 1, 30), np.linspace(2, 3, 9), [40.0]])


def rotated(values, seed):
    """A symmetric matrix of known eigenvalues in a random orthonormal basis."""
    draw = np.random.default_rng(seed).standard_normal((len(values),) * 2)
    basis = np.linalg.qr(draw)[0]
    matrix = (basis * values) @ basis.T
    return torch.from_numpy((matrix + matrix.T) / 2)


def assert_close(found, expected):
    """Up to a few hundred roundings of what is of order one."""
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)


def coverage(measured, truth, runs):
    """How often the bars hold the truth, and their size in deviations of the values."""
    values, errors = np.array([measured(run) for run in runs]).T
    inside = np.abs(values - truth) <= errors + 1e-12
    return inside.mean(), np.median(errors) / values.std()


QUESTIONS = {
    "below 0.55": (lambda run: run.cumulative(0.55), 15 / 40),
    "below 1.5": (lambda run: run.cumulative(1.5), 30 / 40),
    "bin": (lambda run: [h[1] for h in run.histogram(np.array([0, 1.5, 5]))], 9 / 40),
    "above 1.5": (lambda run: [h[0] for h in run.histogram(np.array([1.5, 50]))], 0.25),
}


@pytest.fixture(scope="module")
def runs():
    gram = rotated(SPECTRUM, 0)
    return [density(gram, steps=40, seed=s) for s in range(200)]


@pytest.mark.parametrize("question", QUESTIONS)
def test_error_bars_hold_the_truth_for_nearly_every_seed(question, runs):
    """Nominally 95 %; below 90 % of 200 draws has probability 0.2 % (binomial)."""
    measured, truth = QUESTIONS[question]
    share, size = coverage(measured, truth, runs)
    assert share >= 0.9
    # 2.13 / sqrt(16) deviations of a probe are 2.13 deviations of the mean.
    assert size == pytest.approx(2.13, rel=0.15)


def test_error_bars_are_too_short_where_one_eigenvalue_decides(runs):
    """As the docstring admits: four fifths of the trace are one eigenvalue's."""
    assert 0.8 < coverage(lambda run: run.moment(1), SPECTRUM.mean(), runs)[0] < 0.93
    assert 0.8 < coverage(lambda run: run.cumulative(9), 39 / 40, runs)[0] < 0.93


@pytest.mark.parametrize("n", [2, 40])
def test_the_first_moment_is_the_trace(n):
    """Within the error, for a spectrum without outliers, in at least 90 % of 200."""
    gram = rotated(np.linspace(1, 2, n), 1)
    runs = [density(gram, steps=2, seed=s) for s in range(200)]
    share, _ = coverage(lambda run: run.moment(1), float(gram.trace()) / n, runs)
    assert share >= 0.9


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_a_diagonal_matrix_is_exact_for_random_signs(n, device):
    """Every probe weighs each eigenvalue 1 / n: nothing is left to chance."""
    values = torch.arange(1, n + 1, dtype=torch.float64) ** 2
    found = density(torch.diag(values).to(device), steps=40, probes=3)
    for i in range(n):
        middle = float(values[i]) + 0.5
        assert_close(found.cumulative(middle), ((i + 1) / n, 0.0))
    for k in range(4):
        mean = float((values / n**2).pow(k).mean())
        assert_close(np.array(found.moment(k)) / n ** (2 * k), (mean, 0.0))


@pytest.mark.parametrize("steps", [3, 12])
def test_few_steps_are_exact_for_polynomials_up_to_twice_their_number_less_one(steps):
    """Slow twin: the quadratic form of the matrix power, with the same probes."""
    gram = rotated(np.linspace(-1, 1, 60), 3)
    found = density(gram, steps=steps, probes=2, seed=5)
    probes = [
        2 * torch.randint(2, (60,), generator=module.generator(5, "density probes", p))
        - 1.0
        for p in range(2)
    ]
    signs = torch.stack(probes).double().numpy()
    for k in (0, 1, 2 * steps - 1, 2 * steps):
        power = np.linalg.matrix_power(gram.numpy(), k)
        slow = np.einsum("pi,ij,pj->p", signs, power, signs) / 60
        gap = np.abs(found.moment(k)[0] - slow.mean())
        assert gap < 1e-12 if k < 2 * steps else gap > 1e-9


def test_the_total_mass_is_one_and_no_mass_is_negative():
    found = density(rotated(SPECTRUM, 1), steps=10, points=21)
    mass, error = found.histogram()
    assert mass.shape == error.shape == (20,)
    assert (mass >= 0).all()
    assert_close(mass.sum(), 1.0)
    assert_close(found.moment(0), (1.0, 0.0))
    assert_close(found.cumulative(math.inf), (1.0, 0.0))
    assert found.cumulative(-math.inf) == (0.0, 0.0)


def test_bins_are_differences_of_the_cumulative_fraction():
    found = density(rotated(SPECTRUM, 1), steps=10)
    edges = np.array([-1.0, 0.5, 0.5, 2.5, 50.0])
    cumulative = [found.cumulative(e)[0] for e in edges]
    assert_close(found.histogram(edges)[0], np.diff(cumulative))


def test_the_order_of_rows_and_columns_moves_nothing_beyond_the_errors():
    """Exactly for a diagonal matrix; else within both 95 % bars together."""
    order = torch.from_numpy(np.random.default_rng(2).permutation(40))
    diagonal = torch.diag(torch.from_numpy(SPECTRUM))
    for gram, room in ((diagonal, 0.0), (rotated(SPECTRUM, 2), 1.0)):
        plain = density(gram, steps=40)
        shuffled = density(gram[order][:, order], steps=40)
        for x in (0.55, 1.5, 10.0):
            (one, error), (other, more) = plain.cumulative(x), shuffled.cumulative(x)
            assert abs(one - other) <= room * (error + more) + 1e-11


@pytest.mark.parametrize("power", [-900, -3, 0, 900])
def test_scaling_by_a_power_of_two_scales_the_nodes(power):
    gram = rotated(SPECTRUM, 4)
    plain, scaled = density(gram, steps=9), density(gram * 2.0**power, steps=9)
    for one, other in zip(plain.nodes, scaled.nodes, strict=True):
        assert_close(np.ldexp(other, -power), one)


def test_a_shift_moves_the_nodes_and_leaves_the_weights():
    gram = rotated(SPECTRUM, 4)
    plain = density(gram, steps=9, probes=2)
    moved = density(gram + 5 * torch.eye(40, dtype=torch.float64), steps=9, probes=2)
    for i in range(2):
        assert_close(moved.nodes[i], plain.nodes[i] + 5)
        assert_close(moved.weights[i], plain.weights[i])


def test_an_operator_and_its_tensor_give_the_same():
    gram = rotated(SPECTRUM, 5)
    dense, free = density(gram), density(aslinearoperator(gram.numpy()))
    for x in (0.55, 1.5, 10.0):
        assert_close(free.cumulative(x), dense.cumulative(x))
    assert_close(free.moment(2), dense.moment(2))


def test_orthogonality_is_kept_where_plain_lanczos_loses_it():
    """A far eigenvalue converges early; its copies would carry weight twice."""
    on, beside, basis = (None,) * 3
    matrix = np.diag(np.append(np.linspace(0, 1, 199), 1e4))
    start = np.full(200, 200**-0.5)
    for on, beside, basis in module.lanczos(matrix.__matmul__, start, 100):  # noqa: B007
        pass
    np.testing.assert_allclose(basis @ basis.T, np.eye(100), rtol=0, atol=1e-13)
    inner = basis @ matrix @ basis.T
    expected = np.diag(on) + np.diag(beside[:-1], 1) + np.diag(beside[:-1], -1)
    np.testing.assert_allclose(inner, expected, rtol=0, atol=1e-10)


def test_few_distinct_eigenvalues_end_the_process_early():
    found = density(torch.eye(30, dtype=torch.float64) * 3, probes=4)
    assert [len(nodes) for nodes in found.nodes] == [1] * 4
    assert_close(found.moment(2), (9.0, 0.0))


def test_a_seed_decides_and_probes_differ():
    gram = rotated(SPECTRUM, 6)
    one, same, other = (density(gram, steps=5, seed=s) for s in (1, 1, 2))
    assert one.moment(2) == same.moment(2)
    assert one.moment(2) != other.moment(2)
    assert len({nodes[0] for nodes in one.nodes}) == 16


@pytest.mark.parametrize(
    ("gram", "error", "message"),
    [
        (ONES.long(), ValueError, "must be float64"),
        (ONES[:2], ShapeMismatchError, "square"),
        (ONES[:0, :0], ValueError, "empty matrix has no eigenvalue"),
        (ONES * math.nan, NonFiniteError, "non-finite entries of"),
        (ONES / 0, NonFiniteError, "non-finite"),
        (ONES.triu(), NotSymmetricError, "cross-"),
    ],
)
@pytest.mark.parametrize("form", ["tensor", "operator"])
def test_unfit_matrices_are_refused(form, gram, error, message):
    if form == "operator":
        matrix = gram.numpy()
        gram = LinearOperator(matrix.shape, lambda v: matrix.dot(v), dtype=matrix.dtype)
    with np.errstate(invalid="ignore"), pytest.raises(error, match=message) as refusal:
        density(gram)
    assert type(refusal.value) is error


@pytest.mark.parametrize(
    "options", [{"probes": 1}, {"steps": 0}, {"points": 1}], ids=str
)
def test_unfit_options_are_refused(options):
    with pytest.raises(ValueError, match="needed: 2 probes, 1 step, 2 points"):
        density(ONES, **options)


def test_questions_without_an_answer_are_refused():
    found = density(1e200 * ONES)
    with pytest.raises(ValueError, match="edges must be two or more, ascending"):
        found.histogram(np.array([1.0, 0.0]))
    with pytest.raises(ValueError, match="edges must be two or more, ascending"):
        found.histogram(np.array([1.0]))
    with pytest.raises(ValueError, match="k must be at least 0"):
        found.moment(-1)
    with pytest.raises(ValueError, match="x must be a number"):
        found.cumulative(math.nan)
    with pytest.raises(NonFiniteError, match="outside the range"):
        found.moment(2)


def test_a_bin_holds_its_upper_edge_and_the_first_its_lower_one_too():
    nodes, weights = np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.3, 0.2])
    found = module.Density((nodes, nodes), (weights, weights), points=3)
    for edges in (np.array([1.0, 2.0, 3.0]), None):
        assert_close(found.histogram(edges), [[0.8, 0.2], [0.0, 0.0]])
