"""Analysis 20, lazy or not: its decision rule on made rows, and a tiny study."""

import itertools
import math
import sys

import pandas as pd
import pytest
from test_analyses import ANALYSES, analysis

from ntk_fed.analysis import run
from ntk_fed.report.conclusion import read_conclusion

FOLDER = ANALYSES / "20_lazy_or_not"


def trajectory(network, width, split, seed, *, error, gap=None, central=5.0):
    """The rows of one run whose largest prediction error is this."""
    fields = {
        **{"part": "trajectory", "network": network, "width": width, "outputs": 1},
        **{"local_steps": 20, "split": split, "seed": seed},
    }
    gap = error if gap is None else gap
    for t in range(0, 9, 2):
        values = {"residual norm": 0.9**t, "predicted residual norm": 0.9**t}
        values |= {"linearisation gap": gap * t / 8, "kernel change": 0.1 * (seed + 1)}
        if t:
            values |= {
                "prediction error": error * t / 8,
                "centralised error": central * error * t / 8,
                "flips": 0.1 + 0.01 * seed,
                "laziness": 0.2 - 0.01 * seed,
                **{"test error": error / 5, "test movement": 1.0},
                **{"test accuracy": 0.7, "predicted test accuracy": 0.7},
            }
        for name, value in values.items():
            yield fields | {"round": t, "quantity": name, "value": value}


def comparisons(seed, *, best):
    """Losses of three K, of which the kernel calls 5 the best."""
    fields = {
        **{"part": "local steps", "network": "mlp", "width": 1024, "outputs": 1},
        **{"local_steps": 5, "split": "iid", "seed": seed, "of": "local steps tried"},
    }
    for tried in (1, 5, 20):
        predicted = 0.1 if tried == 5 else 0.2
        loss = (0.1 if tried == best else 0.15) * (1 + 0.01 * seed)
        for name, value in (("loss", loss), ("predicted loss", predicted)):
            yield fields | {"tried": tried, "quantity": name, "value": value}


def rows(*, wide=0.02, narrow=0.15, best=5, central=5.0, gap=None, lost=False,
         uneven=False):  # fmt: skip
    """Rows of a study in which the errors at both ends of the widths are these."""
    found = []
    for (network, widths), split, seed in itertools.product(
        (("mlp", (64, 1024)), ("lenet", (6, 24))), ("iid", "shards"), range(5)
    ):
        for width, error in zip(widths, (narrow, wide), strict=True):
            own = error * (1 + 0.05 * (1, 4, 2, 0, 3)[seed])
            if uneven and width == 1024:
                own = 0.06 if split == "iid" else (0.001, 0.2, 0.01, 0.1, 0.03)[seed]
            more = {"gap": gap, "central": central}
            found += trajectory(network, width, split, seed, error=own, **more)
            if lost and (width, split, seed) == (1024, "iid", 3):
                found.append(found[-1] | {"quantity": "diverged", "value": 1.0})
    for seed in range(5):
        found += comparisons(seed, best=best)
    return pd.DataFrame(found)


def answer(**faults):
    return analysis("20").conclude(rows(**faults)).answer


def test_the_kernel_predicts_when_every_line_is_met():
    assert answer().verdict == "holds", answer().words


@pytest.mark.long
@pytest.mark.parametrize(
    ("fault", "verdict"),
    [
        ({"wide": 0.08, "narrow": 0.2}, "fails"),  # too far off at the widest
        ({"wide": 0.046}, "undecided"),  # 5 % lies within the interval
        ({"wide": 0.02, "narrow": 0.02}, "fails"),  # the control cannot fail
        ({"best": 20}, "fails"),  # the kernel chooses a bad K
        ({"central": 0.5}, "fails"),  # a kernel without clients does as well
        ({"lost": True}, "fails"),  # a run of the widest network diverged
        ({"uneven": True}, "fails"),  # one cell surely above, another scattered
    ],
)
def test_each_line_of_the_rule_counts(fault, verdict):
    assert answer(**fault).verdict == verdict, answer(**fault).words


def test_lines_that_were_not_measured_leave_it_undecided():
    own = rows()
    found = analysis("20").conclude(own[own["part"] == "trajectory"]).answer
    assert found.verdict == "undecided"
    assert "1 of the rule's lines were not measured" in found.words


def claims(found, words):
    return [one for one in found.findings if words in one.claim]


def test_the_gap_announces_only_what_it_is_related_to():
    gaps = claims(analysis("20").conclude(rows()), "gap after two rounds")
    assert {one.verdict for one in gaps} == {"holds"}
    # A gap that is the same in all runs tells nothing, and nothing can be computed.
    gaps = claims(analysis("20").conclude(rows(gap=0.1)), "gap after two rounds")
    assert {one.verdict for one in gaps} == {"undecided"}


def test_a_seed_that_tells_of_the_error_within_cells_is_seen():
    own = rows()
    seed, wide = own["seed"], own["quantity"] == "prediction error"
    own.loc[wide, "value"] = own.loc[wide, "value"] * (1 + 0.5 * seed[wide])
    (found,) = claims(analysis("20").conclude(own), "number of the seed")
    assert found.verdict == "fails"


def test_an_interval_over_runs_that_are_lost_is_the_worst():
    analysis("20")
    tables = sys.modules["lazy_tables"]
    found = tables.interval([1.0, math.inf], logarithms=True, worst=math.inf)
    assert found.lower == math.inf
    assert tables.interval([1.0], logarithms=True, worst=0.0).upper == math.inf
    assert tables.interval([-1.0, 2.0], logarithms=True, worst=0.0).upper == 0.0


def test_exponents_are_fitted_seed_by_seed():
    # Two seeds, exponents -1 and -2: mean -1.5 with the interval of two values.
    analysis("20")
    table = pd.DataFrame(
        [
            {"seed": s, "width": w, "error": w ** -(1.0 + s)}
            for s, w in itertools.product((0, 1), (1, 10, 100))
        ]
    )
    found = sys.modules["lazy_tables"].exponent(table)
    assert found.value == pytest.approx(-1.5)
    assert found.upper == pytest.approx(-1.5 + 0.5 * math.tan(0.475 * math.pi))


@pytest.mark.long
def test_the_tiny_study_shows_that_the_error_falls_with_width(tmp_path):
    # Over five seeds; the other lines of the rule are not asserted at this size.
    run(FOLDER, analysis("20").conclude, out=tmp_path, spec="tiny.toml")
    found = {one.claim: one for one in read_conclusion(tmp_path).findings}
    assert found["MLP: the prediction error falls with width"].verdict == "holds"
    control = next(v for k, v in found.items() if "knows nothing of the clients" in k)
    assert control.verdict == "holds"
