"""The honesty benchmark: its truths are true, and planted faults are counted."""

import dataclasses
import itertools
import json
import math
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import constructed
import exact
import honesty
import judge
import record
from exact import Neighbours
from honesty import Options
from judge import Counts, Judge
from planted import KINDS, planted

SEARCHED = tuple(KINDS)[: tuple(KINDS).index("diagonal")]
PUT_IN = tuple(KINDS)[len(SEARCHED) :]


def determinant(rows):
    """By permutations, term by term."""
    n = len(rows)
    total = Fraction(0)
    for order in itertools.permutations(range(n)):
        swaps = sum(order[i] > order[j] for j in range(n) for i in range(j))
        total += (-1) ** swaps * math.prod(rows[i][order[i]] for i in range(n))
    return total


def sign_by_minors(rows):
    """Sylvester: definite if the leading minors are, semi-definite if all are."""
    n = range(len(rows))
    chosen = [s for k in n for s in itertools.combinations(n, k + 1)]
    minors = {s: determinant([[rows[i][j] for j in s] for i in s]) for s in chosen}
    if min(minors.values()) < 0:
        return -1
    return 1 if min(minors[tuple(n)[: k + 1]] for k in n) > 0 else 0


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_the_exact_sign_is_what_all_minors_say(n, seed):
    draw = np.random.default_rng((seed, n))
    found, expected = [], []
    for shift in [-1, 0, 0, 0, 1] * 20:
        half = draw.integers(-1, 2, (n, int(draw.integers(1, n + 1))))
        rows = (half @ half.T + shift * np.eye(n, dtype=int)).tolist()
        found.append(exact.lowest_sign(rows))
        expected.append(sign_by_minors(rows))
    assert found == expected
    assert set(found) == {-1, 0, 1}


def test_neighbours_of_known_eigenvalues_are_found():
    two = [[Fraction(v) for v in row] for row in ([1, 1], [1, 1])]
    assert exact.smallest_of(two) == Neighbours(0.0, 0.0)
    assert exact.largest_of(two) == Neighbours(2.0, 2.0)
    golden = [[Fraction(v) for v in row] for row in ([0, 1], [1, 1])]
    low, high = exact.largest_of(golden)  # (1 + √5) / 2: x² < x + 1 just below it
    assert high == math.nextafter(low, math.inf)
    assert Fraction(low) ** 2 < Fraction(low) + 1
    assert Fraction(high) ** 2 > Fraction(high) + 1
    third = exact.nearest(Fraction(1, 3))
    assert Fraction(third.below) < Fraction(1, 3) < Fraction(third.above)
    assert third.above == math.nextafter(third.below, 1)


@pytest.mark.parametrize("kind", PUT_IN)
@pytest.mark.parametrize("case", range(12))
def test_eigenvalues_that_were_put_in_are_those_that_are_found(kind, case):
    """The slow twin: exact comparisons on the finished matrix know nothing of D."""
    sizes = [n for n in KINDS[kind].sizes if n <= 12]
    found = planted(kind, sizes[case % len(sizes)], case)
    matrix = exact.rational(found.matrix.astype(np.float64))
    assert exact.smallest_of(matrix) == found.smallest
    assert exact.largest_of(matrix) == found.largest


@pytest.mark.parametrize("n", [16, 128])
def test_the_columns_of_a_hadamard_matrix_are_eigenvectors_exactly(n, seed):
    draw = np.random.default_rng((seed, n))
    values = draw.integers(-(2**40), 2**40, n)
    matrix = constructed.hadamard_product(values).astype(object)
    order = np.arange(n)
    for k in range(0, n, 5):
        column = np.array([(-1) ** int(i & k).bit_count() for i in order], dtype=object)
        assert (matrix @ column == n * int(values[k]) * column).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_recipe_builds_the_same_symmetric_matrix_twice(kind):
    size = KINDS[kind].sizes[-1]
    one, other = planted(kind, size, 7), planted(kind, size, 7)
    assert one.matrix.shape == (size, size)
    assert np.array_equal(one.matrix, other.matrix)
    assert one.smallest == other.smallest
    assert one.smallest <= one.largest
    if kind not in ("asymmetric", "direct sum"):
        assert np.array_equal(one.matrix, one.matrix.T)


def counted(count, kinds=tuple(KINDS)):
    """Judge ``count`` small cases."""
    counts = Counts()
    for recipe in judge.plan(count, 0, kinds, seed=1):
        counts.judge(recipe)
    return counts


def test_no_answer_is_wrong():
    counts = counted(500)
    assert counts.faults == []
    total = counts.total
    assert (total.cases, total.verdicts) == (500, 3500)
    assert total.away_decided >= judge.EXPECTED * total.away > 0
    assert len(counts.decades) > 12


def test_the_questions_are_neither_all_easy_nor_all_hopeless():
    total = counted(200).total
    assert 0.1 * total.verdicts < total.decided < 0.9 * total.verdicts
    assert total.away > 0.2 * total.verdicts


def unit(gram):
    """Of rounding: n u trace, or so for a matrix that is not positive."""
    values = gram.double()
    n, size = len(values), values.diagonal().abs().sum() + values.abs().max()
    return float(n * size) * judge.UNIT


def shifted(original, end, by):
    """The function with one end moved by so many units, the other out of the way."""

    def wrong(gram, *, rtol):
        found = original(gram, rtol=rtol)
        moved = getattr(found, end) + by * unit(gram)
        lower, upper = found.lower, found.upper
        if end == "lower":
            return dataclasses.replace(found, lower=moved, upper=max(moved, upper))
        return dataclasses.replace(found, lower=min(moved, lower), upper=moved)

    wrong.__name__ = original.__name__
    return wrong


@pytest.mark.parametrize("kind", ["gaussian", "near duplicates", "hadamard", "samples"])
@pytest.mark.parametrize("name", ["smallest_eigenvalue", "largest_eigenvalue"])
@pytest.mark.parametrize(("end", "by"), [("lower", 4), ("upper", -4)])
def test_an_end_moved_by_a_little_rounding_is_caught(monkeypatch, kind, name, end, by):
    monkeypatch.setattr(judge, name, shifted(getattr(judge, name), end, by))
    counts = counted(20, (kind,))
    wrong = [fault for fault in counts.faults if fault.what == end]
    assert len(wrong) >= 5
    assert getattr(counts.total, end) == len(wrong)
    assert wrong[0].recipe.startswith(f"{kind}:")
    assert wrong[0].call.startswith(name)


@pytest.mark.parametrize("by", [4, -4])
def test_a_verdict_on_a_threshold_moved_by_a_little_rounding_is_caught(monkeypatch, by):
    original = judge.at_least

    def wrong(gram, threshold):
        return original(gram, threshold + by * unit(gram))

    monkeypatch.setattr(judge, "at_least", wrong)
    counts = counted(100)
    assert counts.total.verdict == len(counts.faults) >= 20


def test_an_exception_is_a_wrong_answer_too(monkeypatch):
    def refuses(gram, threshold):
        raise ArithmeticError("no convergence")

    monkeypatch.setattr(judge, "at_least", refuses)
    judged = Judge(planted("hadamard", 4, 0))
    assert judged.tally.refused == judged.tally.verdicts == 7
    assert "no convergence" in judged.faults[0].answer


def test_bounds_without_a_proof_and_bounds_too_wide_count_as_vague(monkeypatch):
    original = judge.smallest_eigenvalue
    case = planted("hadamard", 16, 3)
    assert Judge(case).tally.certified == 2
    for change in ({"certified": False}, {"lower": -math.inf}):
        monkeypatch.setattr(
            judge,
            "smallest_eigenvalue",
            lambda gram, rtol, change=change: dataclasses.replace(
                original(gram, rtol=rtol), **change
            ),
        )
        tally = Judge(case).tally
        assert (tally.certified, tally.away_decided) == (1, 0)
        assert tally.away > 0


def test_a_wrong_answer_makes_the_run_fail_and_names_its_recipe(monkeypatch, capsys):
    monkeypatch.setattr(
        judge,
        "smallest_eigenvalue",
        shifted(judge.smallest_eigenvalue, "lower", 50),
    )
    options = Options(cases=6, large=0, kinds=("gaussian",))
    with pytest.raises(SystemExit, match=r"wrong or refused.*'gaussian:\d+:\d+'"):
        honesty.main(options)
    assert "WRONG" in capsys.readouterr().out


def test_a_clean_run_writes_what_it_counted(tmp_path, capsys):
    honesty.main(Options(cases=18, large=0, out=tmp_path / "found.json"))
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["faults"] == []
    assert found["total"]["cases"] == sum(t["cases"] for t in found["kinds"].values())
    assert found["total"]["cases"] == 18
    assert found["environment"]["processor"]
    assert found["environment"]["threads"] == 1
    assert found["criterion"].partition(":")[0] in capsys.readouterr().out


def test_a_printed_recipe_is_read_again():
    recipe = ("near duplicates", 7, 12)
    assert judge.parsed(":".join(map(str, recipe))) == recipe


def test_a_table_goes_between_its_own_markers_and_nothing_else_moves(tmp_path):
    readme = tmp_path / "README.md"
    around = "one\n<!-- a: begin -->\n{}\n<!-- a: end -->\n<!-- b: begin -->\n"
    readme.write_text(around.format("old\nold"))
    record.write_between(readme, "a", record.markdown(["n", "s"], [("1", "2")]))
    assert readme.read_text() == around.format("| n | s |\n| --- | --- |\n| 1 | 2 |")
