"""The committed reports: each page is what its committed rows say."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

from ntk_fed import analysis, report
from ntk_fed.studies import read_cases

ROOT = Path(__file__).resolve().parent.parent
REPORTS = sorted(path.parent for path in (ROOT / "reports").glob("*/spec.toml"))
ANALYSES = sorted(path.parent for path in (ROOT / "analyses").glob("*/measure.py"))


def copy_of(folder, target):
    """A committed report without its runs and its page."""
    left_out = shutil.ignore_patterns("runs", "failures", "index.html")
    return Path(shutil.copytree(folder, target / folder.name, ignore=left_out))


def conclusion_of(folder):
    """The function from rows to a conclusion of an analysis."""
    spec = importlib.util.spec_from_file_location(folder.name, folder / "analysis.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))  # as for a script: it may import its tables
    spec.loader.exec_module(module)
    return module.conclude


SHARE = ("02_required_width_sphere", "16_")  # whose pages `make test` draws again


def drawn(folders):
    """Parameters of a test that draws a page: a share, and the rest for `make long`."""
    return [
        pytest.param(
            one,
            marks=() if one.name.startswith(SHARE) else pytest.mark.long,
            id=one.name,
        )
        for one in folders
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "folder", drawn(f for f in REPORTS if ROOT / "analyses" / f.name not in ANALYSES)
)
def test_a_page_is_what_its_rows_say(folder, tmp_path):
    page = report.render(copy_of(folder, tmp_path))
    assert page.read_bytes() == (folder / "index.html").read_bytes(), (
        f"{folder.name}/index.html is not what its rows say: make reports"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "folder", drawn(f for f in ANALYSES if (ROOT / "reports" / f.name).is_dir())
)
def test_a_conclusion_is_what_its_rows_say(folder, tmp_path):
    committed = ROOT / "reports" / folder.name
    own = copy_of(committed, tmp_path)
    shutil.rmtree(own / "tables")
    (own / "conclusion.json").unlink()
    page = analysis.render(folder, conclusion_of(folder), out=own)
    for name in ("conclusion.json", "question.md"):
        assert (own / name).read_text() == (committed / name).read_text(), name
    assert page.read_bytes() == (committed / "index.html").read_bytes()


@pytest.mark.parametrize("folder", ANALYSES, ids=lambda p: p.name)
def test_rows_are_those_of_the_specification(folder):
    committed = ROOT / "reports" / folder.name
    if not committed.is_dir():
        pytest.skip("no report is committed yet")
    study = read_cases(folder / "study.toml", folder / "measure.py")
    rows = pd.read_parquet(committed / "rows" / "rows.parquet")
    fields = list(study.cases[0].__dataclass_fields__)
    found = set(rows[fields].drop_duplicates().itertuples(index=False, name=None))
    wanted = {tuple(getattr(case, name) for name in fields) for case in study.cases}
    assert found == wanted
    about = json.loads((committed / "provenance.json").read_text())
    assert about["cases"] == len(study.cases)


@pytest.mark.parametrize("folder", ANALYSES, ids=lambda p: p.name)
def test_every_specification_can_be_read(folder):
    question = (folder / "QUESTION.md").read_text()
    for heading in ("# Question", "# Prediction", "# Decision rule"):
        assert heading in question
    names = {path.name for path in folder.glob("*.toml")}
    assert {"study.toml", "tiny.toml"} <= names
    assert names & {"full.toml", "large.toml"}
    for name in names:
        assert read_cases(folder / name, folder / "measure.py").cases


def test_the_index_lists_every_report(tmp_path):
    shutil.copytree(
        ROOT / "reports", tmp_path / "reports", ignore=shutil.ignore_patterns("runs")
    )
    page = report.render_index(tmp_path / "reports")
    assert page.read_bytes() == (ROOT / "reports" / "index.html").read_bytes()
    for folder in REPORTS:
        if folder.name != "00_demo":
            assert f'href="{folder.name}/index.html"' in page.read_text()
