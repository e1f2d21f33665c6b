"""Estimates from a subset: unbiased, with an error that is a standard error."""

import itertools
import math

import pytest
import torch

from ntk_fed.measured import Enclosure
from ntk_fed.subsample import ERRORS, function_of, mean, pair_total, subset, total


def test_all_samples_are_no_estimate(generator):
    v = torch.randn(7, dtype=torch.float64, generator=generator)
    pairs = torch.outer(v, v) + v
    assert mean(v, 7) == pytest.approx(v.mean().item())
    assert function_of(lambda a: a, pair_total(pairs, 7)) == pytest.approx(
        pairs.sum().item()
    )


def test_totals_are_unbiased_over_every_subset(generator):
    """All 35 subsets of 4 of 7: the mean of the estimates is the total itself."""
    v = torch.randn(7, dtype=torch.float64, generator=generator)
    pairs = torch.randn(7, 7, dtype=torch.float64, generator=generator)
    sums, doubles = [], []
    for chosen in itertools.combinations(range(7), 4):
        own = torch.tensor(chosen)
        sums.append(total(v[own], 7).value.item())
        doubles.append(pair_total(pairs[own][:, own], 7).value.item())
    assert sum(sums) / 35 == pytest.approx(v.sum().item())
    assert sum(doubles) / 35 == pytest.approx(pairs.sum().item())


def test_what_is_left_out_is_the_estimate_without_it(generator):
    v = torch.randn(5, dtype=torch.float64, generator=generator)
    pairs = torch.randn(5, 5, dtype=torch.float64, generator=generator)
    for a in range(5):
        rest = torch.tensor([i for i in range(5) if i != a])
        own = total(v, 9).without[a]
        assert own.item() == pytest.approx(total(v[rest], 9).value.item())
        smaller = pair_total(pairs[rest][:, rest], 9).value
        assert pair_total(pairs, 9).without[a].item() == pytest.approx(smaller.item())


def test_the_error_of_a_mean_is_the_textbooks(generator):
    v = torch.randn(8, dtype=torch.float64, generator=generator)
    found = mean(v, 20)
    assert isinstance(found, Enclosure)
    error = math.sqrt((1 - 8 / 20) / 8) * v.std().item()
    assert found.value == pytest.approx(v.mean().item())
    assert found.width == pytest.approx(2 * ERRORS * error)
    assert not found.certified


def test_what_smaller_subsets_do_not_define_has_no_known_error():
    pairs = (
        torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64),
        torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64),
    )
    found = function_of(torch.div, *[total(each, 9) for each in pairs])
    assert isinstance(found, Enclosure)
    assert (found.value, found.lower, found.upper) == (1.0, -math.inf, math.inf)


def test_a_seed_decides_the_subset_and_an_index_tells_subsets_apart():
    one = subset(50, 10, seed=1)
    assert torch.equal(one, subset(50, 10, seed=1))
    assert not torch.equal(one, subset(50, 10, seed=2))
    assert not torch.equal(one, subset(50, 10, seed=1, index=1))
    assert len(set(one.tolist())) == 10
    assert torch.equal(one, one.sort().values)
    assert torch.equal(subset(5, 10, seed=1), torch.arange(5))
    assert torch.equal(subset(5, None, seed=1), torch.arange(5))


@pytest.mark.parametrize("samples", [0, 2, -1, 2.5, True, "3"])
def test_too_few_samples_are_refused(samples):
    with pytest.raises(ValueError, match="at least 3"):
        subset(50, samples, seed=0)
