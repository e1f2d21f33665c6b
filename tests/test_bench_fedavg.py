"""The benchmark of FedAvg: same federation for every tool, and honest arithmetic."""

import itertools
import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import fed_cases
import fed_report
import fed_timing
import fed_tools
from fed_cases import GRID, Case

DIGITS = Case("digits", 10, (8,), 5)
BATCHES = Case("digits", 100, (8,), 5, 8)  # 17 samples each: batches of 8, 8 and 1


def after(run, rounds=2):
    return [next(run) for _ in range(rounds)][-1]


@pytest.mark.parametrize("tool", fed_tools.DIRECT)
@pytest.mark.parametrize(
    "case",
    [DIGITS, BATCHES, Case("digits", 10, (8, 8), 2)],
    ids=lambda case: case.name,
)
def test_every_tool_runs_the_federation_ours_runs(case, tool):
    problem = case.problem().to(torch.float64)
    found = after(fed_tools.DIRECT[tool](problem))
    expected = after(fed_cases.ours(problem, "loop"))
    moved = [w - s for w, s in zip(expected, problem.weights, strict=True)]
    own = [w - s for w, s in zip(found, problem.weights, strict=True)]
    # Sums of weights of order one lose 1e-16 of them, 1e-13 of a movement of 1e-3.
    assert fed_timing.distance(own, moved) < 1e-11


def test_a_problem_read_back_is_the_one_written(tmp_path):
    problem = BATCHES.problem()
    problem.save(tmp_path / "cell.npz")
    found = fed_tools.Problem.load(tmp_path / "cell.npz")
    expected = after(fed_tools.plain(problem))
    for one, two in zip(after(fed_tools.plain(found)), expected, strict=True):
        torch.testing.assert_close(one, two, rtol=0.0, atol=0.0)


def test_the_sampled_third_has_every_width_with_every_number_of_steps():
    third = [case for case in GRID if fed_cases.sampled(case)]
    assert 3 * len(third) == len(GRID)
    pairs = {(case.hidden, case.local_steps) for case in third}
    assert len(pairs) == 9
    blocks = itertools.groupby(third, lambda c: (c.data, c.clients, c.batch))
    for _, block in blocks:
        cells = list(block)
        assert len({c.hidden for c in cells}) == len(cells) == 3
        assert len({c.local_steps for c in cells}) == 3


def test_operations_are_those_of_the_products():
    # 10 clients of 179 samples, 5 steps; 64 x 8 and 8 x 10 weights, forward and
    # gradient for both, backward through the second.
    products = 2 * 64 * 8 + 3 * 8 * 10
    assert fed_cases.operations(DIGITS.problem()) == 2 * 10 * 179 * 5 * products


def test_the_geometric_mean_of_a_ratio_and_its_inverse_is_one():
    assert math.isclose(fed_report.geometric_mean([0.1, 10.0]), 1.0)
    assert fed_report.geometric_mean([]) is None


def cell(part="grid", **tools):
    seconds = {name.replace("_", " "): {"seconds": s} for name, s in tools.items()}
    fields = {"case": "a", "data": "digits", "clients": 10, "batch": 0, "hidden": [8]}
    return {"part": part, "local_steps": 1, "tools": seconds, **fields}


def test_rounds_are_paired_before_the_median_is_taken():
    # The machine is ten times slower in the second round; medians alone would say 2.
    found = cell(ours_auto=[1.0, 10.0, 2.0], plain=[4.0, 40.0, 1.0])
    assert fed_report.ratio(found, "ours auto", "plain") == 0.25


def test_a_tool_that_failed_in_one_cell_counts_in_the_others():
    good, bad = cell(ours_auto=[1.0], plain=[8.0]), cell(ours_auto=[1.0])
    bad["tools"]["plain"] = {"error": "out of memory"}
    assert fed_report.ratios([good, bad], "ours auto", "plain") == [0.125]
    assert "plain, 1 cells from a on: out of memory" in fed_report.failures([good, bad])
    assert "8" in fed_report.grid([good, bad])


@pytest.mark.parametrize(
    ("ours", "word"), [([1.0], "met"), ([3.0], "not met"), ([], "not measured")]
)
def test_what_is_met_is_computed(ours, word):
    found = fed_report.verdicts([cell(ours_auto=ours, plain=[8.0])])
    assert found[0][3] == word


def test_a_tool_that_fails_leaves_the_others_their_rounds(monkeypatch):
    monkeypatch.setattr(fed_timing, "PAUSE", 0.0)
    problem = DIGITS.problem()

    def failing():
        yield problem.weights
        raise MemoryError("none left")

    runs = {"plain": fed_tools.plain(problem), "failing": failing()}
    found = fed_timing.timed(runs, problem, rounds=1)
    assert found["failing"] == {"error": "MemoryError: none left"}
    assert len(found["plain"]["seconds"]) >= 1
    assert found["plain"]["off"] == 0.0
