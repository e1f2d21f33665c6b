"""Data sets: what they hold, the same from one seed, every damaged file refused."""

import gzip
import os
import struct
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ntk_fed import seeds
from ntk_fed.data import Dataset, load
from ntk_fed.errors import (
    DataFileError,
    NonFiniteError,
    ShapeMismatchError,
    UnknownNameError,
)


def idx_bytes(array):
    """The IDX file of an array of unsigned bytes, written from the format's text."""
    header = bytes([0, 0, 8, array.ndim])
    sizes = b"".join(struct.pack(">I", size) for size in array.shape)
    return header + sizes + bytes(array.flatten().tolist())


def pictures(n, generator):
    return torch.randint(
        1, 256, (n, 28, 28), generator=generator, device=generator.device
    )


@pytest.fixture
def mnist(tmp_path, generator):
    """Writes one MNIST set in ``tmp_path/mnist``; returns its images and labels."""

    def write(name, n, *, packed=True):
        folder = tmp_path / "mnist"
        folder.mkdir(exist_ok=True)
        images, labels = pictures(n, generator), torch.arange(n) % 10
        for stem, array in (("images-idx3", images), ("labels-idx1", labels)):
            content = idx_bytes(array)
            path = folder / f"{name}-{stem}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(content) if packed else content)
        return images.flatten(1).to(torch.float64), labels

    return write


# Dataset


def test_integer_targets_are_the_labels():
    data = Dataset(torch.zeros(3, 2), torch.tensor([2, 0, 1], dtype=torch.int32))
    assert data.labels.dtype == torch.int64
    assert data.labels.tolist() == [2, 0, 1]
    assert len(data) == 3


def test_sign_is_plus_one_for_the_upper_half_of_the_classes():
    data = Dataset(torch.zeros(4, 2, dtype=torch.float32), torch.tensor([0, 1, 2, 3]))
    signed = data.sign()
    assert signed.y.tolist() == [[-1.0], [-1.0], [1.0], [1.0]]
    assert signed.y.dtype == torch.float32
    assert signed.labels.tolist() == [0, 1, 2, 3]


def test_sign_counts_the_middle_of_an_odd_number_of_classes_as_lower():
    data = Dataset(torch.zeros(3, 1), torch.tensor([0, 1, 2]))
    assert data.sign().y.flatten().tolist() == [-1.0, -1.0, 1.0]


def test_one_hot_has_a_column_for_a_class_without_samples():
    data = Dataset(torch.zeros(2, 1), torch.tensor([1, 0]), class_count=3)
    assert data.one_hot().y.tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    assert data.one_hot().sign().y.tolist() == [[-1.0], [-1.0]]


def test_inputs_that_are_no_floats_get_float64_targets():
    data = Dataset(torch.zeros(2, 1, dtype=torch.int64), torch.tensor([True, False]))
    assert data.one_hot().y.dtype == torch.float64
    assert data.sign().y.flatten().tolist() == [1.0, -1.0]


def test_targets_leave_the_dataset_as_it_was():
    data = Dataset(torch.zeros(2, 1), torch.tensor([1, 0]))
    data.one_hot()
    data.sign()
    assert data.y.tolist() == [1, 0]


@pytest.mark.parametrize("y", [torch.zeros(3, 2), torch.tensor([0.0, 1.0, 2.0])])
@pytest.mark.parametrize(
    "ask", [lambda data: data.labels, Dataset.one_hot, Dataset.sign]
)
def test_a_regression_target_has_no_labels(y, ask):
    data = Dataset(torch.zeros(3, 2), y)
    with pytest.raises(ValueError, match=r"no class labels: y is torch\.float32"):
        ask(data)


@pytest.mark.parametrize("ask", [Dataset.one_hot, Dataset.sign])
def test_negative_labels_are_labels_but_make_no_targets(ask):
    data = Dataset(torch.zeros(2, 1), torch.tensor([-1, 1]))
    assert data.labels.tolist() == [-1, 1]
    with pytest.raises(ValueError, match="counted from 0, got -1"):
        ask(data)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(2), "x has 3 samples and y has 2"),
        (torch.zeros(3, 2), torch.zeros(3, 1, 1), r"y \(3, 1, 1\)"),
        (torch.zeros(3, 2), torch.tensor(0.0), r"y \(\)"),
        (torch.tensor(0.0), torch.zeros(1), r"x \(\)"),
    ],
)
def test_a_dataset_refuses_shapes_that_do_not_match(x, y, message):
    with pytest.raises(ShapeMismatchError, match=message):
        Dataset(x, y)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["x", "y"])
def test_a_dataset_refuses_what_is_not_finite_and_says_where(name, bad):
    tensors = {"x": torch.zeros(4, 2), "y": torch.zeros(4, 1)}
    tensors[name][2, 0] = bad
    with pytest.raises(NonFiniteError, match=rf"{name} has 1 non-fin.* in sample 2"):
        Dataset(**tensors)


def test_classes_have_to_fit_the_samples():
    x, y = torch.zeros(3, 2), torch.zeros(3, 1)
    with pytest.raises(ShapeMismatchError, match="3 samples and classes has 2"):
        Dataset(x, y, classes=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="one integer per sample, got torch"):
        Dataset(x, y, classes=torch.zeros(3))
    with pytest.raises(ValueError, match="class_count is 2, but the labels go up to 4"):
        Dataset(x, torch.tensor([0, 4, 1]), class_count=2)


# Sources


def test_digits_are_unit_rows_in_the_direction_of_the_pixels():
    raw, data = load("digits", normalise=False), load("digits")
    assert raw.x.shape == (1797, 64)
    assert raw.x.max() == 16
    norms = torch.linalg.vector_norm(data.x, dim=1)
    # One division and a norm of 64 terms in float64.
    assert_close(norms, torch.ones_like(norms), rtol=0.0, atol=1e-14)
    scaled = data.x * torch.linalg.vector_norm(raw.x, dim=1, keepdim=True)
    assert_close(scaled, raw.x, rtol=0.0, atol=1e-13)


def test_the_cut_of_digits_is_whole_disjoint_and_the_same_for_every_seed():
    parts = [load("digits", split=split, seed=7) for split in ("train", "test")]
    assert [len(part) for part in parts] == [1437, 360]
    rows = torch.cat([part.x for part in parts])
    # All 1,797 images of digits differ, so sorting rows compares the two sets.
    assert len(rows.unique(dim=0)) == 1797
    assert torch.equal(rows.unique(dim=0), load("digits").x.unique(dim=0))
    assert torch.equal(load("digits", split="test", seed=8).x, parts[1].x)


@pytest.mark.parametrize("name", ["digits", "sphere", "separable"])
def test_the_same_seed_gives_the_same_samples_and_another_does_not(name):
    first, again, other = (load(name, n=20, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.x, again.x)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.x, other.x)


def test_loading_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    for name in ("sphere", "digits", "separable"):
        load(name, n=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_subset_draws_without_replacement_and_keeps_samples_with_their_labels():
    whole, part = load("digits"), load("digits", n=1797, seed=1)
    assert not torch.equal(whole.x, part.x)
    # All images differ: one match in the whole set for each sample.
    match = torch.cdist(part.x, whole.x).argmin(1)
    assert torch.equal(match.sort().values, torch.arange(1797))
    assert torch.equal(whole.x[match], part.x)
    assert torch.equal(whole.labels[match], part.labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_targets_have_the_shapes_models_return(dtype):
    label, hot, sign = (
        load("digits", n=30, targets=targets, dtype=dtype)
        for targets in ("label", "one-hot", "sign")
    )
    assert (label.x.dtype, hot.x.dtype) == (dtype, dtype)
    assert (label.y.dtype, label.y.shape) == (torch.int64, (30,))
    assert (hot.y.dtype, hot.y.shape) == (dtype, (30, 10))
    assert (sign.y.dtype, sign.y.shape) == (dtype, (30, 1))
    assert torch.equal(hot.y.argmax(1), label.y)
    assert torch.equal(sign.y.flatten() > 0, label.y >= 5)
    assert torch.equal(hot.labels, label.y)


def test_a_few_digits_still_know_all_ten_classes():
    assert load("digits", n=1, targets="one-hot").y.shape == (1, 10)


def test_the_sphere_has_unit_rows_both_labels_and_no_preferred_direction():
    data = load("sphere", n=4096, dimension=3, normalise=False)
    norms = torch.linalg.vector_norm(data.x, dim=1)
    assert_close(norms, torch.ones_like(norms), rtol=0.0, atol=1e-14)
    # Coordinates in [-1, 1] and labels in {0, 1}: Hoeffding for the mean of 4,096,
    # P(|mean| > t) <= 2 exp(-n t^2 / 2); t = 0.11 gives 3.4e-11 for each of the four.
    assert data.x.mean(0).abs().max() < 0.11
    assert abs(2 * data.labels.to(torch.float64).mean() - 1) < 0.11


def test_the_sphere_has_its_defaults_and_unlike_splits():
    assert load("sphere").x.shape == (100, 16)
    parts = [load("sphere", n=8, split=s).x for s in ("all", "train", "test")]
    assert not torch.equal(parts[0], parts[1])
    assert not torch.equal(parts[1], parts[2])


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    n=st.integers(1, 40),
    dimension=st.integers(1, 12),
    gap=st.floats(0.01, 0.5),
    split=st.sampled_from(["all", "train", "test"]),
    normalise=st.booleans(),
    seed=st.integers(-(2**40), 2**40),
)
def test_separable_points_are_of_the_side_their_target_says(
    n, dimension, gap, split, normalise, seed
):
    data = load(
        "separable",
        n=n,
        dimension=dimension,
        gap=gap,
        split=split,
        targets="sign",
        normalise=normalise,
        seed=seed,
    )
    assert data.direction is not None
    assert (data.x.shape, data.y.shape) == ((n, dimension), (n, 1))
    assert data.x.abs().max() <= 1 + (1e-15 if normalise else 0)
    assert_close(data.direction.norm().item(), 1.0, rtol=0.0, atol=1e-15)
    margin = data.y.flatten() * (data.x @ data.direction)
    # A product of 12 terms below 1, summed in another order here; dividing by norms
    # of at most the root of 12 leaves a part of the gap.
    least = gap / dimension**0.5 if normalise else gap
    assert margin.min() >= least - 1e-14
    assert torch.equal(data.labels, (data.y.flatten() > 0).to(torch.int64))


def test_separable_points_are_uniform_beyond_the_gap():
    n, gap = 10_000, 0.3
    data = load("separable", gap=gap)
    assert data.x.shape == (n, 100)
    assert data.direction is not None
    # Coordinates in [-1, 1]: Hoeffding, t = 0.08 gives 2.6e-14 for each of the 100;
    # the law is symmetric, so the mean is 0 beyond the gap too.
    assert data.x.mean(0).abs().max() < 0.08
    assert abs(2 * data.labels.to(torch.float64).mean() - 1) < 0.08
    # A row's mean square has mean 1/3, to the 0.002 that its part along u gains, and
    # variance 4/45/100; Bernstein at 0.008 for 10,000 rows: below 1e-30.
    assert abs((data.x**2).mean() - 1 / 3) < 0.01
    # What lies in the slab is thrown away, not moved to its rim. u·x is nearly normal
    # with variance 1/3, so about 0.098 of those beyond 0.3 are below 0.35; Hoeffding
    # at 0.05 for 10,000 points: 4e-22. On the rim there would be 0.4 more.
    share = ((data.x @ data.direction).abs() < gap + 0.05).to(torch.float64).mean()
    assert 0.05 < share < 0.15


def test_separable_splits_are_unlike_draws_about_one_hyperplane():
    options = {"n": 8, "dimension": 3, "seed": 2}
    parts = [load("separable", split=s, **options) for s in ("all", "train", "test")]
    assert not torch.equal(parts[0].x, parts[1].x)
    assert not torch.equal(parts[1].x, parts[2].x)
    for part in parts[1:]:
        assert torch.equal(part.direction, parts[0].direction)
    other = load("separable", **{**options, "seed": 3})
    assert not torch.equal(other.direction, parts[0].direction)


def test_separable_points_stay_in_their_box_unless_asked_to_the_sphere():
    box, unit = load("separable", n=50), load("separable", n=50, normalise=True)
    assert box.x.abs().max() > 0.9  # 5,000 coordinates: by chance 0.9^5000
    norms = torch.linalg.vector_norm(box.x, dim=1, keepdim=True)
    assert norms.min() > 2  # of 100 coordinates: 4 is 9 deviations below 100/3
    assert_close(unit.x, box.x / norms, rtol=1e-15, atol=0.0)
    assert torch.equal(unit.labels, box.labels)


def test_separable_data_know_their_labels_and_hyperplane_with_every_target():
    options = {"n": 20, "dtype": torch.float32}
    label, hot = (load("separable", targets=t, **options) for t in ("label", "one-hot"))
    assert (hot.y.shape, hot.y.dtype) == ((20, 2), torch.float32)
    assert torch.equal(hot.y.argmax(1), label.y)
    assert hot.direction is not None
    assert hot.direction.dtype == torch.float32
    exact = load("separable", n=20)
    assert torch.equal(exact.x.float(), hot.x)
    assert torch.equal(exact.labels, label.y)


def test_a_gap_of_zero_rejects_nothing():
    data = load("separable", n=1000, gap=0.0, dimension=2)
    stream = seeds.generator(0, "data/separable/all")
    box = torch.rand(1000, 2, generator=stream, dtype=torch.float64)
    assert torch.equal(data.x, 2 * box - 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"name": "digit"}, "unknown data set 'digit'.*Did you mean 'digits'"),
        ({"name": "cifar"}, "known: 'digits', .*'sphere'.*Did you mean 'cifar10'"),
        ({"name": "cifar10", "flatten": True}, "'flatten'; known: 'flat'"),
        ({"name": "digits", "split": "tests"}, "split 'tests'.*mean 'test'"),
        ({"name": "digits", "targets": "onehot"}, "targets 'onehot'.*'one-hot'"),
        ({"name": "sphere", "dimensions": 3}, "option of 'sphere' 'dimensions'.*'dim"),
        ({"name": "digits", "dimension": 3}, "'dimension'; known: none"),
        ({"name": "separable", "gaps": 1}, "'gaps'; known: 'dimension', 'gap'.*mean"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest_one(call, message):
    with pytest.raises(UnknownNameError, match=message):
        load(**call)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"name": "digits", "n": 1798}, "n = 1798 .* only 1797 are there"),
        ({"name": "digits", "n": 361, "split": "test"}, "n = 361 .* only 360"),
        ({"name": "digits", "n": 0}, "n must be at least 1 or None, got 0"),
        ({"name": "sphere", "n": -1}, "n must be at least 1 or None, got -1"),
        ({"name": "sphere", "dimension": 0}, "dimension must be at least 1, got 0"),
        ({"name": "sphere", "dtype": torch.int64}, "dtype must be floating"),
        ({"name": "separable", "dimension": 0}, "dimension must be at least 1, got 0"),
        ({"name": "separable", "gap": -0.1}, r"gap must be at least 0 .*, got -0\.1"),
        ({"name": "separable", "gap": float("nan")}, "and finite, got nan"),
        ({"name": "separable", "n": 5, "gap": 4.0}, "gap = 4.0 is too wide: 0 of 100"),
    ],
)
def test_numbers_out_of_range_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        load(**call)


# MNIST files


@pytest.mark.parametrize("packed", [True, False])
def test_mnist_files_are_read_plain_and_gzipped(mnist, tmp_path, packed):
    images, labels = mnist("t10k", 12, packed=packed)
    data = load("mnist", root=tmp_path, normalise=False)
    assert torch.equal(data.x, images)
    assert torch.equal(data.labels, labels)
    assert load("mnist", root=tmp_path, targets="one-hot").y.shape == (12, 10)


def test_all_of_mnist_is_what_is_present_training_images_first(mnist, tmp_path):
    test, _ = mnist("t10k", 3)
    assert torch.equal(load("mnist", root=tmp_path, normalise=False).x, test)
    train, _ = mnist("train", 5, packed=False)
    both = load("mnist", root=tmp_path, normalise=False).x
    assert torch.equal(both, torch.cat([train, test]))
    for split, images in (("train", train), ("test", test)):
        part = load("mnist", root=tmp_path, split=split, normalise=False)
        assert torch.equal(part.x, images)


def test_the_root_can_come_from_the_environment(mnist, tmp_path, monkeypatch):
    mnist("t10k", 3)
    monkeypatch.setenv("NTK_FED_DATA", str(tmp_path))
    assert len(load("mnist", n=2)) == 2
    monkeypatch.delenv("NTK_FED_DATA")
    with pytest.raises(DataFileError, match=r"Set root= or .* NTK_FED_DATA"):
        load("mnist")


def test_missing_mnist_files_are_named(mnist, tmp_path):
    with pytest.raises(DataFileError, match=r"no folder mnist/\. Set root="):
        load("mnist", root=tmp_path)
    (tmp_path / "mnist").mkdir()
    with pytest.raises(DataFileError, match="holds none of the MNIST files"):
        load("mnist", root=tmp_path)
    mnist("t10k", 3)
    with pytest.raises(DataFileError, match="neither train-images-idx3-ubyte nor"):
        load("mnist", root=tmp_path, split="train")
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataFileError, match="neither t10k-labels-idx1-ubyte nor"):
        load("mnist", root=tmp_path)


def test_a_black_image_cannot_be_normalised(mnist, tmp_path):
    mnist("t10k", 3, packed=False)
    path = tmp_path / "mnist" / "t10k-images-idx3-ubyte"
    content = bytearray(path.read_bytes())
    content[16 + 784 : 16 + 2 * 784] = bytes(784)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="sample 1 of the 3 from 'mnist' is zero"):
        load("mnist", root=tmp_path)
    assert load("mnist", root=tmp_path, normalise=False).x[1].sum() == 0


SIZE = 16 + 3 * 784  # of the images file below
PROMISES_MORE = struct.pack(">4B3I", 0, 0, 8, 3, 4_000_000_000, 28, 28)
DAMAGE = {
    "cut short": (lambda c: c[:-5], rf"expected {SIZE} bytes, got {SIZE - 5} bytes"),
    "spare bytes": (lambda c: c + b"ab", rf"expected {SIZE} bytes, got {SIZE + 2} by"),
    "promise": (
        lambda c: PROMISES_MORE + c[16:],
        rf"cut short.*expected {16 + 784 * 4_000_000_000} bytes, got {SIZE} bytes",
    ),
    "magic": (lambda c: b"\0\0\x0d\x03" + c[4:], "expected 00000803.*got 00000d03"),
    "no header": (lambda c: c[:9], "expected a header of 16 bytes, got 9 bytes"),
    "nothing": (lambda c: b"", "expected a header of 16 bytes, got 0 bytes"),
    "no images": (lambda c: c[:4] + bytes(12), r"holds no samples.*\(0, 0, 0\)"),
    "27 rows": (
        lambda c: struct.pack(">4B3I", 0, 0, 8, 3, 3, 27, 28) + c[16 : 16 + 3 * 756],
        "expected images of 28×28 pixels, got 27×28",
    ),
    "one less": (
        lambda c: struct.pack(">4B3I", 0, 0, 8, 3, 2, 28, 28) + c[16 : 16 + 2 * 784],
        "holds 2 images and .* 3 labels",
    ),
}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_images_file_is_refused_by_name(mnist, tmp_path, damage, packed):
    mnist("t10k", 3, packed=packed)
    change, message = DAMAGE[damage]
    suffix = ".gz" if packed else ""
    path = tmp_path / "mnist" / f"t10k-images-idx3-ubyte{suffix}"
    content = path.read_bytes()
    if packed:
        path.write_bytes(gzip.compress(change(gzip.decompress(content))))
    else:
        path.write_bytes(change(content))
    with pytest.raises(DataFileError, match=f"(?s)t10k-images-idx3-ubyte.*{message}"):
        load("mnist", root=tmp_path)


GZIP_DAMAGE = {
    "half": (lambda c: c[: len(c) // 2], rf"cut short.*expected {SIZE} bytes, got "),
    "no checksum": (lambda c: c[:-8], rf"unpacks to the {SIZE} bytes expected, but"),
    "bad checksum": (
        lambda c: c[:-8] + bytes(8),
        r"expected a gzip stream, got \d+ bytes that do not unpack",
    ),
    "not gzip": (lambda c: b"hello", "expected a gzip stream, got 5 bytes that do not"),
    "tail": (lambda c: c + b"ab", r"expected a gzip stream of \d+ bytes, got \d+ byt"),
}


@pytest.mark.parametrize("damage", GZIP_DAMAGE)
def test_a_damaged_gzip_stream_is_refused_by_name(mnist, tmp_path, damage):
    mnist("t10k", 3)
    change, message = GZIP_DAMAGE[damage]
    path = tmp_path / "mnist" / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataFileError, match=f"(?s)images-idx3-ubyte.gz.*{message}"):
        load("mnist", root=tmp_path)


def test_labels_above_nine_are_refused(mnist, tmp_path):
    mnist("t10k", 3, packed=False)
    path = tmp_path / "mnist" / "t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\x0a")
    with pytest.raises(DataFileError, match=r"labels-idx1.*labels 0 to 9, got 10"):
        load("mnist", root=tmp_path)


def test_a_folder_in_place_of_a_file_is_not_taken_for_one(mnist, tmp_path):
    mnist("t10k", 3)
    (tmp_path / "mnist" / "t10k-images-idx3-ubyte").mkdir()
    assert len(load("mnist", root=tmp_path)) == 3


@pytest.mark.skipif(
    not os.environ.get("NTK_FED_DATA"), reason="NTK_FED_DATA names no data folder"
)
def test_the_official_test_images_are_read_as_published():
    data = load("mnist", split="test", normalise=False)
    assert data.x.shape == (10_000, 784)
    # Labels of the first ten test images, and the number of images of each class, as
    # published with the data set (class 5 is the rarest, 892).
    assert data.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert data.labels.bincount().tolist() == [
        *(980, 1135, 1032, 1010, 982),
        *(892, 958, 1028, 974, 1009),
    ]
    assert (data.x.min(), data.x.max()) == (0, 255)
    norms = torch.linalg.vector_norm(load("mnist", split="test", n=50).x, dim=1)
    assert_close(norms, torch.ones_like(norms), rtol=0.0, atol=1e-13)


# CIFAR-10 files


@pytest.fixture
def cifar(tmp_path, generator):
    """Writes one batch of CIFAR-10 in ``tmp_path``; returns its images and labels."""
    folder = tmp_path / "cifar-10-batches-bin"

    def write(name, n):
        folder.mkdir(exist_ok=True)
        x = torch.randint(1, 256, (n, 3, 32, 32), generator=generator)
        labels = torch.arange(n) % 10
        content = b""
        for image, label in zip(x, labels, strict=True):
            planes = [bytes(plane.flatten().tolist()) for plane in image]
            content += bytes([int(label)]) + b"".join(planes)  # red, green, blue
        (folder / f"{name}.bin").write_bytes(content)
        return x.to(torch.float64), labels

    return write


def test_cifar_files_are_read_plane_by_plane(cifar, tmp_path):
    images, labels = cifar("test_batch", 12)
    data = load("cifar10", root=tmp_path, normalise=False)
    assert torch.equal(data.x, images)
    assert torch.equal(data.labels, labels)
    assert load("cifar10", root=tmp_path, targets="one-hot").y.shape == (12, 10)
    assert load("cifar10", n=1, root=tmp_path, targets="sign").y.shape == (1, 1)


def test_flat_images_are_the_same_samples_in_rows(cifar, tmp_path):
    cifar("test_batch", 8)
    options = {"n": 5, "seed": 3, "root": tmp_path, "dtype": torch.float32}
    whole = load("cifar10", **options)
    flat = load("cifar10", flat=True, **options)
    assert (whole.x.shape, flat.x.shape) == ((5, 3, 32, 32), (5, 3072))
    assert torch.equal(whole.x.flatten(1), flat.x)
    assert torch.equal(whole.labels, flat.labels)


def test_a_cifar_image_is_normalised_as_a_whole(cifar, tmp_path):
    images, _ = cifar("data_batch_2", 4)
    data = load("cifar10", root=tmp_path)
    norms = torch.linalg.vector_norm(images.flatten(1), dim=1)
    # A norm of 3,072 terms of like sign, summed pairwise, and one division.
    expected = images / norms.reshape(-1, 1, 1, 1)
    assert_close(data.x, expected, rtol=1e-14, atol=0.0)
    ones = torch.linalg.vector_norm(data.x.flatten(1), dim=1)
    assert_close(ones, torch.ones_like(ones), rtol=0.0, atol=1e-14)


def test_all_of_cifar_is_what_is_present_in_official_order(cifar, tmp_path):
    parts = {name: cifar(f"data_batch_{name}", n)[0] for name, n in ((4, 3), (2, 5))}
    train = load("cifar10", split="train", root=tmp_path, normalise=False)
    assert torch.equal(train.x, torch.cat([parts[2], parts[4]]))
    only = load("cifar10", root=tmp_path, normalise=False)
    assert torch.equal(only.x, train.x)
    test, _ = cifar("test_batch", 2)
    whole = load("cifar10", root=tmp_path, normalise=False)
    assert torch.equal(whole.x, torch.cat([train.x, test]))
    part = load("cifar10", split="test", root=tmp_path, normalise=False)
    assert torch.equal(part.x, test)


def test_missing_cifar_files_are_named(cifar, tmp_path, monkeypatch):
    monkeypatch.delenv("NTK_FED_DATA", raising=False)
    with pytest.raises(DataFileError, match=r"Set root= or .* cifar-10-batches-bin/"):
        load("cifar10")
    with pytest.raises(DataFileError, match=r"no folder cifar-10-batches-bin/\. Set "):
        load("cifar10", root=tmp_path)
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "test_batch.bin").mkdir()  # a folder in place of a file is none
    for split, names in (
        ("all", r"data_batch_1\.bin to test_batch\.bin"),
        ("train", r"data_batch_1\.bin to data_batch_5\.bin"),
        ("test", r"Expected test_batch\.bin"),
    ):
        message = f"split '{split}'.*{names}.*set root= or NTK_FED_DATA"
        with pytest.raises(DataFileError, match=message):
            load("cifar10", split=split, root=tmp_path)


CIFAR_SIZE = 3 * 3073  # bytes of the file below
CIFAR_DAMAGE = {
    "cut short": (
        lambda c: c[:-5],
        rf"is {CIFAR_SIZE} bytes for 3, got {CIFAR_SIZE - 5} bytes",
    ),
    "spare bytes": (
        lambda c: c + b"ab",
        rf"is {CIFAR_SIZE + 3073} bytes for 4, got {CIFAR_SIZE + 2} bytes",
    ),
    "part of a record": (lambda c: c[:9], "is 3073 bytes for 1, got 9 bytes"),
    "CIFAR-100": (
        lambda c: b"".join(b"\0" + c[i * 3073 : (i + 1) * 3073] for i in range(3)),
        f"records of 3073 bytes.* got {CIFAR_SIZE + 3} bytes",
    ),
    "nothing": (lambda c: b"", "holds no samples: .* 3073 bytes, got 0 bytes"),
    "label": (
        lambda c: c[:3073] + b"\x0a" + c[3074:],
        r"labels 0 to 9, got 10 in record 1 \(the first is 0\) of 3",
    ),
    "large label": (
        lambda c: c[: 2 * 3073] + b"\xff" + c[2 * 3073 + 1 :],
        r"labels 0 to 9, got 255 in record 2 ",
    ),
}


@pytest.mark.parametrize("damage", CIFAR_DAMAGE)
def test_a_damaged_cifar_file_is_refused_by_name(cifar, tmp_path, damage):
    cifar("data_batch_1", 3)
    cifar("data_batch_5", 3)
    change, message = CIFAR_DAMAGE[damage]
    path = tmp_path / "cifar-10-batches-bin" / "data_batch_5.bin"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataFileError, match=rf"(?s)data_batch_5\.bin .*{message}"):
        load("cifar10", root=tmp_path)


def test_an_unreadable_cifar_file_is_refused_by_name(cifar, tmp_path, monkeypatch):
    cifar("test_batch", 1)

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(DataFileError, match=r"test_batch\.bin cannot be read: Perm"):
        load("cifar10", root=tmp_path)


@pytest.mark.skipif(
    not os.environ.get("NTK_FED_DATA"), reason="NTK_FED_DATA names no data folder"
)
def test_the_official_cifar_images_are_read_as_published():
    data = load("cifar10", split="test", normalise=False)
    assert data.x.shape[1:] == (3, 32, 32)
    # The first ten test images as published: cat, ship, ship, airplane, frog, frog,
    # automobile, frog, cat, automobile.
    assert data.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    # And the first pixel of the first of them, red, green, blue.
    assert data.x[0, :, 0, 0].tolist() == [158, 112, 49]
    train = load("cifar10", split="train", normalise=False)
    assert train.labels[:5].tolist() == [6, 9, 9, 4, 1]  # frog, truck, truck, deer, car
    assert train.x[0, :, 0, 0].tolist() == [59, 62, 63]
    whole = load("cifar10", n=50)
    norms = torch.linalg.vector_norm(whole.x.flatten(1), dim=1)
    assert_close(norms, torch.ones_like(norms), rtol=0.0, atol=1e-13)


WRONG_TYPES = """
import torch
import ntk_fed as nf

x, y = torch.ones(4, 2), torch.ones(4, 1)
data = nf.data.Dataset(x, y)
for call in (
    lambda: nf.data.Dataset(x.numpy(), y),
    lambda: nf.data.Dataset(x, [1, 2, 3, 4]),
    lambda: nf.data.partition((x, y), "iid", clients=2),
    lambda: nf.data.partition(data, "iid", clients=2.5),
):
    try:
        call()
    except (TypeError, nf.errors.PartitionError) as error:
        print(error)
"""


def test_wrong_types_are_told_in_words():
    """In a process of its own: here annotations are checked before."""
    found = subprocess.run(
        [sys.executable, "-c", WRONG_TYPES], check=True, capture_output=True, text=True
    )
    first, second, third, fourth = found.stdout.splitlines()
    assert "x must be a tensor, got ndarray" in first
    assert "y must be a tensor, got list" in second
    assert "dataset must be a Dataset, got tuple" in third
    assert "clients must be a whole number of at least 1, got 2.5" in fourth
