"""Ground floors: verdicts, enclosures, seeds, names, records."""

import json
import math
import os

import numpy as np
import pandas as pd
import pytest
import threadpoolctl
import torch

from ntk_fed import names, records, seeds
from ntk_fed.errors import RunFolderError, UnknownNameError
from ntk_fed.measured import Enclosure, Verdict, compare, estimate, exact
from ntk_fed.records import Row


def between(lower, upper):
    return Enclosure((lower + upper) / 2, lower, upper)


@pytest.mark.parametrize(
    ("left", "relation", "right", "expected"),
    [
        ((2, 3), ">=", (1, 2), "holds"),
        ((2, 3), ">", (1, 2), "undecided"),  # both may be 2
        ((0, 1), ">=", (1, 2), "undecided"),
        ((0, 1), ">", (1, 2), "fails"),  # 1 > 1 is false
        ((0, 1), ">=", (2, 3), "fails"),
        ((0, 2), ">=", (1, 3), "undecided"),
        ((0, 1), "<=", (1, 2), "holds"),
        ((0, 1), "<", (1, 2), "undecided"),
        ((1, 2), "<", (0, 1), "fails"),
        ((1, 2), "<=", (0, 1), "undecided"),
        ((-math.inf, 1), "<", (2, 3), "holds"),
        ((-math.inf, math.inf), ">", (0, 0), "undecided"),
    ],
)
def test_comparison_is_decided_only_when_no_error_reaches_across(
    left, relation, right, expected
):
    assert compare(between(*left), relation, between(*right)) == expected


def test_an_unknown_relation_is_refused():
    with pytest.raises(ValueError, match="relation must be one of"):
        compare(exact(1), "==", exact(1))


def test_a_verdict_has_no_truth_value():
    assert Verdict("fails") is Verdict.fails == "fails"
    with pytest.raises(TypeError, match="three values and no truth value"):
        bool(Verdict.undecided)


@pytest.mark.parametrize("ends", [(2, 1), (math.nan, 1), (0, math.nan)])
def test_an_enclosure_refuses_bounds_in_the_wrong_order(ends):
    with pytest.raises(ValueError, match="lower <= upper"):
        Enclosure(1.0, *ends)


@pytest.mark.parametrize("factor", [0.1, -0.3, 3.0, 0.0])
def test_scaling_an_enclosure_rounds_outwards(factor):
    from fractions import Fraction

    found = Enclosure(0.1, 0.1, 0.7).scaled(factor)
    ends = sorted(Fraction(e) * Fraction(factor) for e in (0.1, 0.7))
    assert Fraction(found.lower) <= ends[0]
    assert ends[1] <= Fraction(found.upper)
    assert found.width == pytest.approx(abs(factor) * 0.6)


def test_an_estimate_is_not_certified():
    assert not estimate(1.0, 0.1).certified
    assert estimate(1.0, 0.25).lower == 0.75
    assert exact(2.0).certified


def test_streams_are_reproducible_and_unlike_for_unlike_purposes():
    def draw(*key):
        return torch.randn(8, generator=seeds.generator(*key)).tolist()

    assert draw(0, "weights") == draw(0, "weights")
    unlike = [(0, "weights"), (1, "weights"), (0, "data"), (0, "weights", 0)]
    unlike += [
        (0, "weights", 1),
        (0, "weights", 1, 0),
        (0, "weights", 0, 1),
        (-1, "data"),
    ]
    assert len({tuple(draw(*key)) for key in unlike}) == len(unlike)


def test_seeds_leave_the_global_generator_alone():
    before = torch.random.get_rng_state()
    seeds.generator(3, "weights")
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("seed", [1.5, "0", True, None])
def test_seeds_that_are_no_integers_are_refused(seed):
    with pytest.raises(ValueError, match="seed must be an integer"):
        seeds.generator(seed, "weights")


def test_unknown_names_come_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"known: .iid., .shards.*Did you mean"):
        names.require_known("split", "shard", ["iid", "shards"])
    assert names.nearest("zzz", ["iid"]) == ""


ROW = Row(1, None, 2, "weight", "loss", 0.5, 0.25, math.inf, "certified")


def test_rows_come_back_as_they_were(tmp_path):
    folder = records.prepare(tmp_path / "new" / "run")
    for name, rows in (("b", [ROW]), ("a", [Row(0, 3, None, None, "x", math.nan)])):
        records.write_table(folder / "rows" / f"{name}.parquet", records.frame(rows))
    found = records.read_rows(folder)
    expected = records.frame([Row(0, 3, None, None, "x", math.nan), ROW])
    pd.testing.assert_frame_equal(found, expected)
    assert found["round"].dtype == "Int64"
    assert records.frame([]).dtypes.equals(expected.dtypes)


def test_a_folder_without_rows_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match=r"holds no rows \(looked for rows/"):
        records.read_rows(tmp_path)


def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "file.json"
    records.write_json(path, {"a": 1})

    def breaks(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(RunFolderError, match="No space left on device"):
        records.write_atomically(path, breaks)
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["file.json"]


def test_nan_is_no_json(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        records.write_json(tmp_path / "file.json", {"a": math.nan})
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunFolderError, match=r"out = .* cannot be written"):
        records.prepare(tmp_path / "file" / "run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_one_may_not_write_to_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunFolderError, match="cannot be written"):
        records.prepare(tmp_path / "run")


def test_toml_leaves_out_nulls_and_reads_back(tmp_path):
    path = tmp_path / "spec.toml"
    records.write_toml(path, {"a": 1, "b": None, "c": {"d": [1.5, 2.0]}})
    assert records.read_toml(path) == {"a": 1, "c": {"d": [1.5, 2.0]}}
    path.write_text("a = ")
    with pytest.raises(RunFolderError, match="no readable TOML"):
        records.read_toml(path)


def test_arrays_come_back_and_objects_are_not_unpickled(tmp_path):
    path = tmp_path / "arrays.npz"
    records.write_arrays(path, {"layers.0.weight": np.arange(3.0)})
    assert records.read_arrays(path)["layers.0.weight"].tolist() == [0, 1, 2]
    records.write_arrays(path, {"evil": np.array([{}], dtype=object)})
    with pytest.raises(ValueError, match="allow_pickle=False"):
        records.read_arrays(path)


def test_provenance_says_what_ran():
    found = records.provenance(seconds=1.5)
    assert found["versions"]["torch"] == torch.__version__
    assert found["seconds"] == 1.5
    assert found["torch_threads"] == torch.get_num_threads()
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        assert set(records.provenance()["blas_threads"]) == {1}
