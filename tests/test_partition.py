"""Splits over clients: each sample once, each kind as it is defined, refusals."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ntk_fed.data import Dataset, Partition, load, partition
from ntk_fed.data.slices import principal_direction
from ntk_fed.errors import PartitionError, ShapeMismatchError, UnknownNameError

KINDS = ["iid", "shards", "dirichlet", "one-class", "slices", "single"]
BY_LABEL = ["shards", "dirichlet", "one-class"]


def labelled(labels):
    """A dataset whose input is the sample's own number."""
    labels = torch.as_tensor(labels)
    x = torch.arange(len(labels), dtype=torch.float64).unsqueeze(1)
    return Dataset(x, labels)


def lists(split):
    return [own.tolist() for own in split.indices]


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    labels=st.lists(st.integers(0, 3), min_size=8, max_size=40),
    clients=st.integers(4, 8),
    kind=st.sampled_from(KINDS),
    seed=st.integers(-(2**40), 2**40),
)
def test_every_sample_has_exactly_one_client(labels, clients, kind, seed):
    data = labelled(labels)
    split = partition(data, kind, clients=clients, shards_per_client=1, seed=seed)
    assert split.clients == clients
    assert split.dataset is data
    assert sum(split.sizes) == len(data)
    held = torch.cat(split.indices)
    assert torch.equal(held.sort().values, torch.arange(len(data)))


@pytest.mark.parametrize("kind", ["iid", "shards", "dirichlet", "one-class"])
def test_the_same_seed_gives_the_same_split_and_another_does_not(kind):
    data = labelled(torch.arange(60) % 3)
    first, again, other = (
        lists(partition(data, kind, clients=6, alpha=1.0, seed=s)) for s in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_partition_leaves_the_global_generators_alone():
    before = torch.get_rng_state()
    partition(labelled([0, 1, 0, 1]), "dirichlet", clients=2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("clients", "sizes"), [(1, [11]), (3, [4, 4, 3])])
def test_iid_clients_differ_by_at_most_one_sample(clients, sizes):
    split = partition(labelled(torch.zeros(11).long()), "iid", clients=clients)
    assert split.sizes == sizes


def test_one_iid_client_holds_the_samples_in_their_order():
    assert lists(partition(labelled([1, 0, 2]), "iid", clients=1)) == [[0, 1, 2]]


def test_iid_is_no_contiguous_cut():
    """Negative control: a split that forgot to shuffle passes every law above."""
    split = partition(labelled(torch.zeros(40).long()), "iid", clients=2)
    assert split.indices[0].tolist() != list(range(20))  # by chance: 1/C(40, 20)


def test_one_shard_per_client_is_the_label_sorted_cut():
    data = labelled([2, 0, 1, 0, 2, 1])
    split = partition(data, "shards", clients=3, shards_per_client=1)
    assert lists(split) == [[1, 3], [2, 5], [0, 4]]


def test_equal_labels_keep_their_order_in_shards():
    split = partition(labelled([0] * 6), "shards", clients=2, shards_per_client=1)
    assert lists(split) == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("per_client", [2, 3])
def test_each_client_is_dealt_whole_shards(per_client):
    data = labelled(torch.arange(60) % 10)
    split = partition(data, "shards", clients=5, shards_per_client=per_client)
    count = 5 * per_client
    shards = torch.arange(60).reshape(6, 10).mT.reshape(count, -1).tolist()
    for own in lists(split):
        assert len([s for s in shards if set(s) <= set(own)]) == per_client
        assert len(own) == 60 // 5


def test_dealt_shards_are_not_all_neighbours():
    data = labelled(torch.arange(200) // 10)
    split = partition(data, "shards", clients=10, shards_per_client=2)
    neighbours = [int(data.labels[own].unique().diff()) == 1 for own in split.indices]
    assert not all(neighbours)


def test_a_small_alpha_gives_each_class_to_one_client_and_leaves_others_empty():
    data = labelled(torch.arange(40) % 2)
    split = partition(data, "dirichlet", clients=8, alpha=1e-6)
    assert sorted(split.sizes)[:6] == [0] * 6
    for label in (0, 1):
        holders = [bool((data.labels[own] == label).any()) for own in split.indices]
        assert sum(holders) == 1


def test_a_large_alpha_shares_each_class_evenly():
    data = labelled(torch.arange(400) % 2)
    split = partition(data, "dirichlet", clients=4, alpha=1e8)
    # Shares have standard deviation below 1e-4: 50 samples each, cuts rounded.
    for own in split.indices:
        assert torch.bincount(data.labels[own]).tolist() == [50, 50]


def test_dirichlet_shares_have_the_variance_of_the_law():
    # A symmetric Dirichlet share over c clients has mean 1/c and variance
    # (c - 1) / (c^2 (c alpha + 1)): for c = 2, alpha = 1 the uniform law, 1/12.
    data = labelled(torch.arange(20_000) % 200)
    split = partition(data, "dirichlet", clients=2, alpha=1.0)
    shares = torch.bincount(data.labels[split.indices[0]], minlength=200) / 100
    # 200 classes; (share - 1/2)^2 lies in [0, 1/4], so by Hoeffding the mean is within
    # 0.25 sqrt(log(2e9) / 400) = 0.058 of 1/12 but for 1e-9; rounding adds 0.005.
    assert abs(((shares - 0.5) ** 2).mean() - 1 / 12) < 0.063


def test_one_class_gives_client_k_the_class_k_when_there_are_as_many():
    data = labelled([2, 0, 1, 0, 2, 1])
    assert lists(partition(data, "one-class", clients=3)) == [[1, 3], [2, 5], [0, 4]]


def test_one_class_splits_large_classes_first():
    data = labelled([5] * 9 + [7] * 2 + [6])
    split = partition(data, "one-class", clients=5)
    assert split.sizes == [3, 3, 3, 1, 2]
    held = [set(data.labels[own].tolist()) for own in split.indices]
    assert held == [{5}, {5}, {5}, {6}, {7}]


def test_one_class_leaves_no_client_empty_up_to_one_sample_each():
    split = partition(labelled([0] * 9 + [1] * 2 + [2]), "one-class", clients=12)
    assert split.sizes == [1] * 12


def test_one_class_refuses_to_leave_a_class_to_nobody():
    with pytest.raises(PartitionError, match="each of the 3 classes, got 2 clients"):
        partition(labelled([0, 1, 2, 0]), "one-class", clients=2)


def test_single_gives_everything_to_client_zero():
    split = partition(labelled([0, 1, 0]), "single", clients=3)
    assert lists(split) == [[0, 1, 2], [], []]


# Slices


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    rows=st.lists(
        st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=5, max_size=40
    ),
    direction=st.tuples(st.integers(-4, 4), st.integers(1, 4)),
    clients=st.integers(1, 5),
)
def test_slices_are_even_and_each_lies_beyond_the_one_before(rows, direction, clients):
    x = torch.tensor(rows, dtype=torch.float64)
    along = torch.tensor(direction, dtype=torch.float64)
    data = Dataset(x, torch.zeros(len(x), 1), direction=along)
    split = partition(data, "slices", clients=clients)
    assert max(split.sizes) - min(split.sizes) <= 1
    # Integers: projections are exact, and the sample's number settles ties. Sorted
    # by Python, apart from all that is tested here.
    heights = [a * direction[0] + b * direction[1] for a, b in rows]
    expected = sorted(range(len(rows)), key=lambda i: (heights[i], i))
    for own in lists(split):
        assert own == sorted(expected[: len(own)])
        expected = expected[len(own) :]


def test_slices_of_separable_data_lie_on_one_side_of_the_hyperplane_each():
    data = load("separable", n=200, dimension=5, gap=0.2)
    assert data.direction is not None
    split = partition(data, "slices", clients=16)
    sides = [data.labels[own].unique().tolist() for own in split.indices]
    assert sides[0] == [0]
    assert sides[-1] == [1]
    assert len([side for side in sides if len(side) == 2]) <= 1  # the one in between
    heights = [data.x[own] @ data.direction for own in split.indices]
    ends = [(own.min(), own.max()) for own in heights]
    for (_, top), (bottom, _) in itertools.pairwise(ends):
        assert top < bottom


@pytest.mark.parametrize("target", [Dataset.one_hot, Dataset.sign])
def test_targets_do_not_change_the_slices(target):
    data = load("separable", n=60, dimension=4)
    expected = lists(partition(data, "slices", clients=7))
    assert lists(partition(target(data), "slices", clients=7)) == expected


def test_a_direction_given_comes_before_that_of_the_data():
    x = torch.tensor([[0.0, 3.0], [1.0, 2.0], [2.0, 1.0]])
    data = Dataset(x, torch.zeros(3, 1), direction=torch.tensor([1.0, 0.0]))
    assert lists(partition(data, "slices", clients=3)) == [[0], [1], [2]]
    given = torch.tensor([0.0, 2.0], dtype=torch.float64)
    split = partition(data, "slices", clients=3, direction=given)
    assert lists(split) == [[2], [1], [0]]
    assert split.dataset is data


def test_equal_samples_stay_in_their_order_whatever_the_rounding(generator):
    row = torch.randn(1, 37, generator=generator, dtype=torch.float64)
    data = Dataset(row.repeat(50, 1), torch.zeros(50, 1), direction=row[0].sin())
    split = partition(data, "slices", clients=5)
    assert lists(split) == torch.arange(50).reshape(5, 10).tolist()


@pytest.mark.parametrize("shape", [(30, 4), (4, 30), (20, 2, 3)])
def test_data_without_a_direction_are_cut_across_the_first_principal_one(
    shape, generator
):
    x = 5 + torch.randn(shape, generator=generator, dtype=torch.float64)
    flat = x.flatten(1)
    along = principal_direction(flat)
    # Twin: the singular vector of the centred samples. A random matrix's first two
    # singular values differ by far more than 1e-6, and 1e-16 over that is the error.
    _, _, rows = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    assert_close((along @ rows[0]).abs().item(), 1.0, rtol=0.0, atol=1e-9)
    assert along[along.abs() >= along.abs().max() / 2][0] > 0
    data = Dataset(x, torch.zeros(len(x), 1))
    found = lists(partition(data, "slices", clients=4))
    assert found == lists(partition(data, "slices", clients=4, direction=along))
    order = (flat @ along).argsort().tensor_split(4)  # no ties in a normal draw
    assert found == [sorted(own.tolist()) for own in order]


@pytest.mark.parametrize("scale", [1.0, -1.0, 0.1, -7.0])
@pytest.mark.parametrize("line", [(1.0, -1.0), (3.0, -4.0), (1.0, 4.0), (-1.0, 4.0)])
def test_the_first_large_entry_of_the_principal_direction_is_positive(line, scale):
    along = torch.tensor([line], dtype=torch.float64)
    x = scale * torch.tensor([[-1.0], [0.5], [2.0]], dtype=torch.float64) @ along
    expected = along[0] / along.norm()  # a quarter of the largest is not large
    assert_close(principal_direction(x), expected, rtol=0.0, atol=1e-14)


@pytest.mark.parametrize(
    "x",
    [
        torch.full((4, 3), 0.1),  # no variance
        torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]),  # a tie
        torch.tensor([[0.3, 0.1]]),  # one sample
    ],
)
def test_slices_refuse_a_direction_that_rounding_would_decide(x):
    data = Dataset(x, torch.zeros(len(x), 1))
    with pytest.raises(PartitionError, match=r"no first principal .* direction=\."):
        partition(data, "slices", clients=1)
    given = torch.ones(x.shape[1])
    assert partition(data, "slices", clients=1, direction=given).sizes == [len(x)]


@pytest.mark.parametrize(
    ("direction", "error", "message"),
    [
        (torch.ones(3), ShapeMismatchError, r"must be of shape \(1,\).*got \(3,\)"),
        (torch.ones(1, 1), ShapeMismatchError, r"got \(1, 1\)\. Flatten"),
        (torch.zeros(1), ValueError, r"finite and not zero, got .* of 0\.0"),
        (torch.tensor([torch.nan]), ValueError, "not zero, got a largest entry of nan"),
    ],
)
def test_a_direction_that_is_none_is_refused(direction, error, message):
    with pytest.raises(error, match=message):
        partition(labelled([0, 1]), "slices", clients=2, direction=direction)
    with pytest.raises(error, match=message):
        Dataset(torch.zeros(2, 1), torch.zeros(2, 1), direction=direction)


# Refusals


@pytest.mark.parametrize("kind", KINDS)
def test_a_split_refuses_more_clients_than_samples_and_less_than_one(kind):
    data = labelled([0, 0, 0])
    with pytest.raises(PartitionError, match="4 clients are more than the 3 samples"):
        partition(data, kind, clients=4)
    with pytest.raises(PartitionError, match="of at least 1, got 0"):
        partition(data, kind, clients=0)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_dirichlet_refuses_an_alpha_that_is_not_positive_and_finite(alpha):
    with pytest.raises(PartitionError, match="alpha must be above 0 and finite, got"):
        partition(labelled([0, 1]), "dirichlet", clients=2, alpha=alpha)


def test_dirichlet_refuses_an_alpha_that_overflows():
    with pytest.raises(PartitionError, match=r"alpha = 1e\+308 over 2 clients ov"):
        partition(labelled([0, 1]), "dirichlet", clients=2, alpha=1e308)


@pytest.mark.parametrize(
    ("per_client", "message"),
    [(0, "shards_per_client must be at least 1, got 0"), (3, "2 clients × 3 shards")],
)
def test_shards_refuse_a_count_that_cannot_be_dealt(per_client, message):
    with pytest.raises(PartitionError, match=message):
        partition(
            labelled([0, 1, 1]), "shards", clients=2, shards_per_client=per_client
        )


@pytest.mark.parametrize("kind", BY_LABEL)
def test_kinds_by_label_refuse_a_dataset_without_labels(kind):
    data = Dataset(torch.zeros(4, 1), torch.zeros(4, 1))
    with pytest.raises(ValueError, match="no class labels"):
        partition(data, kind, clients=2)


@pytest.mark.parametrize("kind", BY_LABEL)
@pytest.mark.parametrize("target", [Dataset.one_hot, Dataset.sign])
def test_targets_made_from_labels_split_as_the_labels_do(kind, target):
    data = labelled(torch.arange(30) % 2)
    expected = lists(partition(data, kind, clients=3))
    assert lists(partition(target(data), kind, clients=3)) == expected


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("idd", "'idd'; known: 'iid'.*mean 'iid'"),
        ("slice", "partition 'slice'.*'slices'"),
    ],
)
def test_unknown_kinds_are_refused_with_the_nearest(kind, message):
    with pytest.raises(UnknownNameError, match=message):
        partition(labelled([0, 1]), kind, clients=2)


# A partition made by hand


def hand(*indices):
    return Partition(labelled([0, 1, 0, 1, 0]), [torch.tensor(i) for i in indices])


def test_a_hand_made_partition_may_leave_samples_and_clients_out():
    nothing = torch.empty(0, dtype=torch.int64)
    split = Partition(labelled([0, 1, 0]), [torch.tensor([2, 0]), nothing])
    assert (split.clients, split.sizes) == (2, [2, 0])
    x, y = split.client(0)
    assert (x.tolist(), y.tolist()) == ([[2.0], [0.0]], [0, 0])
    assert split.client(1)[0].shape == (0, 1)


def test_indices_of_other_integer_types_become_int64():
    split = Partition(labelled([0, 1]), [torch.tensor([1], dtype=torch.uint8)])
    assert split.indices[0].dtype == torch.int64
    assert split.client(0)[1].tolist() == [1]


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (([0, 1], [5]), "client 1 holds index 5, outside 0 to 4"),
        (([0, -1],), "client 0 holds index -1, outside 0 to 4"),
        (([0, 1], [2, 1]), "sample 1 is held by client 0 and again by client 1"),
        (([3], [2, 1, 2]), "client 1 holds sample 2 more than once"),
        (([0], [1.0]), "client 1 have to be an integer .* torch.float32 of shape"),
        (([True, False, True, False, True],), "client 0 .* got torch.bool"),
        (([[0, 1]],), r"one axis, got torch.int64 of shape \(1, 2\)"),
        ((), "indices is empty"),
    ],
)
def test_a_hand_made_partition_refuses_indices_that_cannot_be(indices, message):
    with pytest.raises(PartitionError, match=message):
        hand(*indices)


def test_a_list_is_no_tensor_of_indices():
    with pytest.raises(PartitionError, match=r"client 0 .* got list"):
        Partition(labelled([0, 1]), [[0, 1]])


@pytest.mark.parametrize("i", [-1, 2])
def test_a_client_that_is_not_there_is_refused(i):
    with pytest.raises(PartitionError, match=f"no client {i}; clients are 0 to 1"):
        hand([0], [1]).client(i)


# Weights


def test_weights_by_samples_count_what_is_held():
    weights = hand([0, 1, 2], [3]).weights("samples")
    assert weights.dtype == torch.float64
    assert weights.tolist() == [0.75, 0.25]  # of the 4 held, not of the 5 there


def test_an_empty_client_weighs_nothing_by_samples_and_as_much_as_others_uniformly():
    split = partition(labelled([0, 1]), "single", clients=2)
    assert split.weights().tolist() == [1.0, 0.0]
    assert split.weights("uniform").tolist() == [0.5, 0.5]


@pytest.mark.parametrize("kind", ["samples", "uniform"])
def test_weights_add_up_to_one(kind):
    split = partition(labelled(torch.arange(50) % 7), "dirichlet", clients=7, alpha=1.0)
    total = split.weights(kind).sum()
    assert_close(total, torch.ones_like(total), rtol=0.0, atol=1e-15)


def test_weights_of_empty_clients_only_are_refused_not_invented():
    empty = Partition(labelled([0]), [torch.empty(0, dtype=torch.int64)] * 2)
    with pytest.raises(PartitionError, match="all 2 clients are empty"):
        empty.weights()
    assert empty.weights("uniform").tolist() == [0.5, 0.5]


def test_unknown_weights_are_refused_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"'sample'; known: .*mean 'samples'"):
        hand([0]).weights("sample")
