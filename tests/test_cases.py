"""Studies of a measurement of one's own, and the page of an analysis."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from ntk_fed import analysis, report, scaling
from ntk_fed.errors import RunFolderError, UnknownNameError
from ntk_fed.executor import Here
from ntk_fed.measured import Enclosure
from ntk_fed.report import Answer, Conclusion, Panel, Part, Shown, finding
from ntk_fed.report.conclusion import read_conclusion
from ntk_fed.report.panels import drawing
from ntk_fed.studies import read_cases, run_cases

MEASURE = """
import dataclasses
from pathlib import Path

@dataclasses.dataclass(frozen=True)
class Case:
    width: int = 8
    step_size: float = 0.5
    split: str = "iid"
    seed: int = 0

def measure(case):
    with open(Path(__file__).parent / "calls", "a") as file:
        file.write(f"{case.width} {case.seed}\\n")
    if case.width == 13:
        raise ArithmeticError("thirteen")
    for t in range(3):
        yield {"round": t, "loss": (1 + case.seed) * case.width ** -1.0 * 0.5**t}
"""
STUDY = """
title = "Loss against width"
[shared]
step_size = 1
[[grid]]
width = [8, 16, 32]
seed = [0, 1]
[[grid]]
split = "shards"
width = [8]
"""


@pytest.fixture
def folder(tmp_path):
    own = tmp_path / "01_own"
    own.mkdir()
    (own / "measure.py").write_text(MEASURE)
    (own / "study.toml").write_text(STUDY)
    (own / "QUESTION.md").write_text("# Question\n\nDoes the loss fall with width?\n")
    return own


def study_of(folder, text=None):
    if text is not None:
        (folder / "study.toml").write_text(text)
    return read_cases(folder / "study.toml", folder / "measure.py")


def calls(folder):
    return (folder / "calls").read_text().split("\n")[:-1]


def test_grids_are_all_combinations_and_each_case_comes_once(folder):
    cases = study_of(folder).cases
    assert [(c.width, c.seed, c.split) for c in cases] == [
        *((w, s, "iid") for w in (8, 16, 32) for s in (0, 1)),
        (8, 0, "shards"),
    ]
    assert {case.step_size for case in cases} == {1}
    twice = STUDY + "[[grid]]\nwidth = [8]\n"
    assert len(study_of(folder, twice).cases) == 7


def test_finished_cases_are_not_repeated_and_rows_carry_their_fields(folder, tmp_path):
    study, out = study_of(folder), tmp_path / "out"
    run_cases(study, out, executor=Here())
    assert len(calls(folder)) == 7
    first = (out / "rows" / "rows.parquet").read_bytes()
    more = study_of(folder, STUDY.replace("[8, 16, 32]", "[8, 16, 32, 64]"))
    run_cases(more, out, executor=Here())
    assert calls(folder)[7:] == ["64 0", "64 1"]
    run_cases(study, out, executor=Here())
    assert len(calls(folder)) == 9
    assert (out / "rows" / "rows.parquet").read_bytes() == first
    rows = pd.read_parquet(out / "rows" / "rows.parquet")
    own = rows[(rows["width"] == 16) & (rows["seed"] == 1) & (rows["round"] == 2)]
    assert own["loss"].item() == 2 / 16 * 0.25


def test_another_measurement_is_another_case(folder, tmp_path):
    study, out = study_of(folder), tmp_path / "out"
    before = study.key(study.cases[0])
    (folder / "measure.py").write_text(MEASURE + "\n# other\n")
    assert study.key(study.cases[0]) != before
    assert not out.exists()


def test_processes_give_the_same_rows(folder, tmp_path):
    study = study_of(folder)
    one = run_cases(study, tmp_path / "one", executor=Here())
    two = run_cases(study, tmp_path / "two")
    assert (one / "rows" / "rows.parquet").read_bytes() == (
        two / "rows" / "rows.parquet"
    ).read_bytes()


def test_a_case_that_fails_stops_no_other_and_is_tried_again(folder, tmp_path):
    study = study_of(folder, STUDY.replace("[8, 16, 32]", "[8, 13, 32]"))
    with pytest.raises(RunFolderError, match="2 of 7 cases failed"):
        run_cases(study, tmp_path / "out", executor=Here())
    reasons = sorted((tmp_path / "out" / "failures").glob("*.json"))
    assert len(reasons) == 2
    assert "thirteen" in json.loads(reasons[0].read_text())["error"]
    assert len(calls(folder)) == 7
    with pytest.raises(RunFolderError):
        run_cases(study, tmp_path / "out", executor=Here())
    assert len(calls(folder)) == 9


@pytest.mark.parametrize(
    ("old", "new", "error", "words"),
    [
        ("width =", "widht =", UnknownNameError, "did you mean 'width'"),
        ("[8, 16, 32]", '["8"]', ValueError, "width must be int"),
        ("[8, 16, 32]", "[]", ValueError, "width is empty"),
        ("[8, 16, 32]", "[true]", ValueError, "width must be int"),
        ('split = "shards"', "step_size = 2.0", ValueError, "stands in"),
        ("[shared]", "[shard]", UnknownNameError, "did you mean 'shared'"),
    ],
)
def test_a_wrong_specification_is_refused_by_name(folder, old, new, error, words):
    with pytest.raises(error, match=f"(?i){words}"):
        study_of(folder, STUDY.replace(old, new))


def test_a_measurement_without_its_parts_is_refused(folder):
    (folder / "measure.py").write_text("def measure(case): ...")
    with pytest.raises(UnknownNameError, match="has no Case"):
        study_of(folder)


def conclude(rows):
    """The last loss of each case, and its exponent."""
    last = rows[rows["round"] == 2]
    law = scaling.power_law(last["width"], last["loss"]).enclosure
    found = (
        finding("the loss falls with width", law, "<", 0.0, words="exponent"),
        finding("it falls as the square", law, "<", -1.9),
        finding("it may fall as 1/width", law, "<=", law.value),
    )
    panels = (
        Panel(
            "last", "width", "loss", "Loss", "It falls.", log="xy", slope=-1.0,
            levels=((0.1, "a tenth"),), hue="split",
        ),
        Panel("rows", "round", "loss", "Loss", "It falls.", "width", ("width", "seed")),
    )  # fmt: skip
    part = Part("Loss", ("A note.",), panels, (Shown("last", "The last loss."),))
    tables = {"last": last, "rows": rows}
    answer = Answer(found[0].verdict, "the loss falls.")
    return Conclusion(answer, found, (part,), tables, ("A remark.",))


def test_the_page_of_an_analysis_renders_again_from_what_is_kept(folder, tmp_path):
    out = tmp_path / "reports" / "01_own"
    page = analysis.run(folder, conclude, out=out)
    text = page.read_text()
    for words in ("By its decision rule", "the loss falls with width", "A remark."):
        assert words in text
    assert text.count("data:image/svg") == 2
    verdicts = [one.verdict for one in read_conclusion(out).findings]
    assert verdicts == ["holds", "fails", "undecided"]
    before = page.read_bytes()
    page.unlink()
    assert report.render(out).read_bytes() == before
    page.unlink()
    assert analysis.render(folder, conclude, out=out).read_bytes() == before
    index = report.render_index(tmp_path / "reports").read_text()
    assert "Loss against width" in index
    assert "the loss falls." in index


def test_rows_that_are_missing_are_said_to_be(folder, tmp_path):
    with pytest.raises(RunFolderError, match="without --render"):
        analysis.render(folder, conclude, out=tmp_path)


def test_a_conclusion_names_only_what_there_is(folder, tmp_path):
    out = run_cases(study_of(folder), tmp_path / "out", executor=Here())
    whole = conclude(pd.read_parquet(out / "rows" / "rows.parquet"))
    other = dataclasses.replace(
        whole, parts=(Part("", shown=(Shown("lost", "No such."),)),)
    )
    with pytest.raises(UnknownNameError, match="lost"):
        report.render_findings(out, conclusion=other)
    panel = dataclasses.replace(whole.parts[0].panels[0], y="gain")
    other = dataclasses.replace(whole, parts=(Part("", panels=(panel,)),))
    with pytest.raises(UnknownNameError, match="gain"):
        report.render_findings(out, conclusion=other)
    other = dataclasses.replace(whole, answer=Answer("yes", "it does."))
    with pytest.raises(UnknownNameError, match="yes"):
        report.render_findings(out, conclusion=other)
    assert not (out / "conclusion.json").exists()


@pytest.mark.parametrize("hue", ["", "width"])
def test_a_figure_of_nothing_is_an_empty_one(hue):
    rows = pd.DataFrame({"width": [1, 2], "loss": [np.nan, np.inf]})
    panel = Panel(
        "rows", "width", "loss", "Loss", "It falls.", hue,
        log="xy", slope=-1.0, diagonal=True,
    )  # fmt: skip
    assert drawing(panel, {"rows": rows}).caption == "It falls."


def test_numbers_that_are_not_finite_are_kept(folder, tmp_path):
    out = run_cases(study_of(folder), tmp_path / "out", executor=Here())
    whole = conclude(pd.read_parquet(out / "rows" / "rows.parquet"))
    wide = Enclosure(float("nan"), float("-inf"), float("inf"))
    other = dataclasses.replace(whole, findings=(finding("nothing", wide, ">", 0.0),))
    report.render_findings(out, conclusion=other)
    (found,) = read_conclusion(out).findings
    assert found.estimate != found.estimate
    assert (found.lower, found.upper) == (float("-inf"), float("inf"))
    assert found.verdict == "undecided"


def test_a_mean_has_students_interval():
    # mean 2, standard deviation 1, t(0.975, 2) = 4.30265
    found = scaling.mean_interval([1.0, 2.0, 3.0])
    assert found.value == 2.0
    # with two degrees of freedom t(p) = (2p - 1) / sqrt(2 p (1 - p)); SciPy's differs
    # from that by 4e-11
    half = 0.95 / (2 * 0.975 * 0.025 * 3) ** 0.5
    assert found.upper - 2 == pytest.approx(half, rel=1e-9)
    assert found.lower == pytest.approx(4 - found.upper, rel=1e-12)
    narrow = scaling.mean_interval([1.0, 2.0, 3.0], confidence=0.5)
    assert narrow.width < found.width
    for wrong in ([1.0], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="two finite"):
            scaling.mean_interval(wrong)


def test_a_geometric_mean_is_that_of_the_logarithms():
    found = scaling.geometric_mean_interval([1.0, 10.0, 100.0])
    assert found.value == pytest.approx(10.0, rel=1e-12)
    assert found.lower * found.upper == pytest.approx(100.0, rel=1e-12)
    with pytest.raises(ValueError, match="positive"):
        scaling.geometric_mean_interval([1.0, 0.0])


def test_a_rank_correlation_is_scipys_and_draws_whole_groups():
    random = np.random.default_rng(3)
    x = random.normal(size=60)
    y = x + random.normal(size=60)
    groups = np.repeat(np.arange(12), 5)
    found = scaling.rank_correlation(x, y, groups)
    assert found.value == pytest.approx(
        scipy.stats.spearmanr(x, y).statistic, rel=1e-12
    )
    assert found.lower < found.value < found.upper
    assert scaling.rank_correlation(x, np.exp(x), groups).lower == pytest.approx(1.0)
    # The same 12 points five times over are 12 points, not 60.
    few, many = x[:12], np.arange(60)
    again = [np.repeat(v[:12], 5) for v in (x, y)]
    wide = scaling.rank_correlation(*again, groups).width
    assert wide == scaling.rank_correlation(few, y[:12], np.arange(12)).width
    assert wide > 1.5 * scaling.rank_correlation(*again, many).width
    # Of two numbers the one with less noise tells more, and no number more than itself.
    noisy = x + 3 * random.normal(size=60)
    gain = scaling.rank_correlation_gain(x, noisy, y, groups)
    assert gain.lower > 0
    assert gain.value == pytest.approx(
        found.value - scaling.rank_correlation(noisy, y, groups).value
    )
    assert scaling.rank_correlation_gain(x, x, y, groups).width == 0
    for wrong in ((x, y, np.zeros(60)), (x, np.ones(60), groups), (x, y[:-1], groups)):
        with pytest.raises(ValueError, match="rank correlation needs"):
            scaling.rank_correlation(*wrong)
