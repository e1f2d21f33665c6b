"""Analysis 20, lazy or not: its decision rule on made rows, and a tiny study."""

import itertools

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


def rows(*, wide=0.02, narrow=0.15, best=5, central=5.0, seeds=5, gap=None):
    """Rows of a study in which the errors at both ends of the widths are these."""
    found = []
    for (network, widths), split, seed in itertools.product(
        (("mlp", (64, 1024)), ("lenet", (6, 24))), ("iid", "shards"), range(seeds)
    ):
        for width, error in zip(widths, (narrow, wide), strict=True):
            own = error * (1 + 0.05 * (1, 4, 2, 0, 3)[seed])
            more = {"gap": gap, "central": central}
            found += trajectory(network, width, split, seed, error=own, **more)
    for seed in range(seeds):
        found += comparisons(seed, best=best)
    return pd.DataFrame(found)


def answer(**faults):
    return analysis("20").conclude(rows(**faults)).answer


def test_the_kernel_predicts_when_every_line_is_met():
    assert answer().verdict == "holds", answer().words


@pytest.mark.parametrize(
    ("fault", "verdict"),
    [
        ({"wide": 0.08, "narrow": 0.2}, "fails"),  # too far off at the widest
        ({"wide": 0.046}, "undecided"),  # 5 % lies within the interval
        ({"wide": 0.02, "narrow": 0.02}, "fails"),  # the control cannot fail
        ({"best": 20}, "fails"),  # the kernel chooses a bad K
        ({"central": 0.5}, "fails"),  # a kernel without clients does as well
    ],
)
def test_each_line_of_the_rule_counts(fault, verdict):
    assert answer(**fault).verdict == verdict, answer(**fault).words


def test_lines_that_were_not_measured_leave_it_undecided():
    own = rows()
    found = analysis("20").conclude(own[own["part"] == "trajectory"]).answer
    assert found.verdict == "undecided"
    assert "1 of the rule's lines were not measured" in found.words


def test_the_gap_announces_only_what_it_is_related_to():
    found = analysis("20").conclude(rows())
    (gap,) = [o for o in found.findings if "gap announces" in o.claim]
    assert gap.verdict == "holds"
    assert gap.estimate == pytest.approx(1.0)
    found = analysis("20").conclude(rows(gap=0.1))
    assert not [o for o in found.findings if "gap announces" in o.claim]


@pytest.mark.slow
def test_the_tiny_study_shows_that_the_error_falls_with_width(tmp_path):
    # Over five seeds; the other lines of the rule are not asserted at this size.
    run(FOLDER, analysis("20").conclude, out=tmp_path, spec="tiny.toml")
    found = {one.claim: one for one in read_conclusion(tmp_path).findings}
    assert found["MLP: the prediction error falls with width"].verdict == "holds"
    control = next(v for k, v in found.items() if "knows nothing of the clients" in k)
    assert control.verdict == "holds"
