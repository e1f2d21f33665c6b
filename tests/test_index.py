"""The index lists every report folder with the first line of its page."""

import html
import json
import re
import shutil

import pytest
from test_report import (
    made_conditions,
    made_rows,
    write_folder,
)

from ntk_fed import cli
from ntk_fed.errors import RunFolderError, UnknownNameError
from ntk_fed.report import Answer, render, render_index

NEEDED = "nothing is asked of <b>anyone</b>"


KEPT = ("kernel smallest eigenvalue at the start", "limit smallest eigenvalue")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two single runs with pages, one with a decision, beside what is no report."""
    tmp_path = tmp_path_factory.mktemp("made")
    for name, seed in (("b_plain", 0), ("a_judged & co", 1)):
        run = {"width": 64, "seed": seed, "model": "two-layer", "weights": "samples"}
        rows = made_rows(64, seed)  # without what is drawn: figures take seconds
        tables = rows[rows["quantity"].isin(KEPT)], made_conditions(64, seed)
        about = {"key": f"k{seed}", "commit": f"c0ffee{seed}"}
        write_folder(tmp_path / name, tables, {"run": run, "title": name}, about)
    render(tmp_path / "b_plain")
    render(tmp_path / "a_judged & co", answer=Answer("fails", NEEDED))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "index.html").write_text("no report")
    return tmp_path


@pytest.fixture
def reports(made, tmp_path):
    """A copy of them that a test may change."""
    return shutil.copytree(made, tmp_path / "reports")


def rows_of(page):
    """Link, verdict and text of each row of the table."""
    body = page[page.index("<tbody>") : page.index("</tbody>")]
    found = []
    for row in re.findall(r"<tr>.*?</tr>", body, re.DOTALL):
        link = re.search(r'href="([^"]*)"', row)
        verdict = re.search(r'class="verdict (\w+)"', row)
        assert link
        assert verdict
        text = html.unescape(re.sub(r"<[^>]*>", " ", row))
        found.append((link[1], verdict[1], text))
    return found


def test_each_report_is_listed_with_its_first_line(reports):
    judged, plain = rows_of(render_index(reports).read_text())
    assert judged[:2] == ("a_judged%20%26%20co/index.html", "fails")
    assert NEEDED in judged[2]
    assert "c0ffee1" in judged[2]
    assert plain[:2] == ("b_plain/index.html", "fails")  # λ_min(H(0)) is 0.69 λ0
    assert "fails in 1" in plain[2]
    assert "c0ffee0" in plain[2]


def test_equal_folders_give_equal_bytes(reports):
    first = render_index(reports).read_bytes()
    assert render_index(reports).read_bytes() == first


def test_the_answer_is_the_first_line_of_its_page_and_stays(reports):
    folder = reports / "a_judged & co"
    page = render(folder).read_text()
    assert page.index('id="answer"') < page.index('id="condition"')
    assert html.escape(NEEDED, quote=False) in page
    assert 'id="answer"' not in (reports / "b_plain" / "index.html").read_text()
    assert json.loads((folder / "answer.json").read_text())["verdict"] == "fails"


def test_an_answer_has_one_of_three_verdicts(reports):
    with pytest.raises(UnknownNameError, match="verdict of the answer"):
        render(reports / "b_plain", answer=Answer("perhaps", ""))


def test_a_damaged_answer_is_refused(reports):
    (reports / "b_plain" / "answer.json").write_text('{"verdict": "holds"}')
    with pytest.raises(RunFolderError, match=r"answer\.json"):
        render_index(reports)


def test_the_verb_report_tells_a_report_from_a_folder_of_them(reports, capsys):
    assert cli.main(["report", str(reports)]) == 0
    assert cli.main(["report", str(reports / "b_plain")]) == 0
    shown = capsys.readouterr().out.split("\n")
    assert shown[:2] == [
        str(reports / "index.html"),
        str(reports / "b_plain" / "index.html"),
    ]


@pytest.mark.parametrize(
    ("place", "message"), [("notes", "holds no report"), ("b_plain", "itself")]
)
def test_folders_without_reports_are_refused(reports, place, message):
    with pytest.raises(RunFolderError, match=message):
        render_index(reports / place)


def test_the_page_sorts_by_itself_and_loads_nothing(reports):
    for page in (render_index(reports), reports / "b_plain" / "index.html"):
        text = page.read_text()
        assert text.count("<script>") == 1
        assert not re.search(
            r"""(src|href)=["'](?:https?:)?//|fetch\(|import\(""", text
        )
