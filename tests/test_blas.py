"""Products by either library, and the choice that is kept."""

import contextlib

import pytest
import threadpoolctl
import torch
from torch import nn
from torch.testing import assert_close

import ntk_fed as nf
from ntk_fed import blas
from ntk_fed.errors import UnknownNameError

BIG = 2.0**40  # operations: worth a choice


@pytest.fixture
def choices(monkeypatch):
    monkeypatch.setattr(blas, "_chosen", {})


@pytest.mark.parametrize("library", blas.LIBRARIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("transposed", [True, False])
def test_both_libraries_multiply(library, dtype, transposed, generator, choices):
    blas.choose(dtype, library)
    a = torch.randn(30, 20, generator=generator, dtype=dtype)
    b = torch.randn(40, 20, generator=generator, dtype=dtype).T
    b = b if transposed else b.contiguous()
    out = torch.empty(30, 40, dtype=dtype)
    eps = torch.finfo(dtype).eps
    with blas.job(a, BIG):
        assert blas.by_numpy(a) == (library == "numpy")
        twice = blas.product(a, b, out=blas.product(a, b), add=True)
        for found in (blas.product(a, b), blas.product(a, b, out=out), out, twice / 2):
            # 20 terms of order one each.
            meant = a.double() @ b.double()
            assert_close(found.double(), meant, rtol=0, atol=100 * eps)


def test_the_probe_chooses_once_and_the_choice_can_be_restored(choices):
    first = blas.library(torch.float64)
    assert first in blas.LIBRARIES
    kept = blas.chosen()
    assert kept == {"float64": first}
    other = next(name for name in blas.LIBRARIES if name != first)
    blas.restore({"float64": other})
    assert blas.library(torch.float64) == other
    assert blas.library(torch.int64) == "torch"


def test_the_environment_decides_and_is_checked(choices, monkeypatch):
    monkeypatch.setenv("NTK_FED_BLAS", "numpy")
    assert blas.library(torch.float32) == "numpy"
    monkeypatch.setenv("NTK_FED_BLAS", "numpi")
    with pytest.raises(UnknownNameError, match="Did you mean 'numpy'"):
        blas.library(torch.float64)


@pytest.mark.parametrize("operations", [BIG / 1e6, BIG])
def test_a_small_job_does_not_depend_on_the_choice(operations, choices):
    blas.choose(torch.float64, "numpy")
    a = torch.ones(5, 6, dtype=torch.float64)
    with blas.job(a, operations):
        assert blas.by_numpy(a) == (operations == BIG)
        assert not blas.by_numpy(a.to("meta"))
    assert not blas.by_numpy(a)


@pytest.fixture
def own_threads(monkeypatch):
    """What a test sets in OpenBLAS goes back, and what is remembered of it too."""
    if not openblas():
        pytest.skip("NumPy multiplies by another library than OpenBLAS")
    monkeypatch.setattr(blas, "_threads", [])
    libraries = threadpoolctl.ThreadpoolController().select(internal_api="openblas")
    with libraries.limit(limits=None):  # changes nothing until it ends
        yield


def test_torch_rests_while_numpy_works_and_has_its_threads_back(choices, own_threads):
    blas.choose(torch.float64, "numpy")
    a, before = torch.ones(5, 6, dtype=torch.float64), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with contextlib.suppress(KeyError), blas.job(a, BIG), blas.job(a, BIG):
            assert torch.get_num_threads() == 1
            assert {one["num_threads"] for one in openblas()} == {2}
            raise KeyError
        assert torch.get_num_threads() == 2
        assert not blas.by_numpy(a)
    finally:
        torch.set_num_threads(before)


def openblas():
    found = threadpoolctl.threadpool_info()
    return [one for one in found if one["internal_api"] == "openblas"]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("outputs", ["trace", "full", "diagonal"])
def test_a_kernel_is_the_same_by_either_library(outputs, bias, choices, monkeypatch):
    """Dense layers then go through NumPy forwards and backwards as well."""
    monkeypatch.setattr(blas, "_WORTH_IT", 1)
    torch.manual_seed(0)
    gate = nn.ReLU(inplace=True)  # changes what the dense layer gave
    layers = [nn.Linear(7, 9, bias), nn.Tanh(), nn.Linear(9, 11, bias), gate]
    model = nn.Sequential(*layers, nn.Linear(11, 3, bias)).double()
    x = torch.randn(20, 7, dtype=torch.float64)
    found, calls, multiplied = {}, [], blas._multiplied
    monkeypatch.setattr(
        blas, "_multiplied", lambda *args: calls.append(1) or multiplied(*args)
    )
    for name in blas.LIBRARIES:
        blas.choose(torch.float64, name)
        calls.clear()
        found[name] = nf.gram(model, x, outputs=outputs, engine="layerwise")
        # Forwards three, backwards two for one output at least, and the contraction.
        assert (len(calls) > 5) == (name == "numpy")
    # Sums of at most 11 terms of the kernel's size.
    size = found["torch"].abs().max().item()
    assert_close(found["numpy"], found["torch"], rtol=0, atol=1e-14 * size)
