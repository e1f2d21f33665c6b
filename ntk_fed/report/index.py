"""The index of report folders: title, verdict, commit and link of each.

Floor 9: numbers come from the folders, as on their pages.
"""

import dataclasses
from pathlib import Path
from urllib.parse import quote

from ntk_fed.report.answers import headline
from ntk_fed.report.conclusion import is_conclusion, read_conclusion
from ntk_fed.report.findings import about, title_of
from ntk_fed.report.required import is_required, read_required
from ntk_fed.report.study import Study, read
from ntk_fed.report.summary import EIGENVALUE, per_run
from ntk_fed.report.template import filled


@dataclasses.dataclass(frozen=True)
class Entry:
    """A report folder in one line.

    Attributes:
        name: of the folder.
        link: to its page, relative.
        title: of the study.
        verdict: holds, fails, undecided, or mixed over runs.
        words: the sentence of the page's first line.
        commit: of the code that computed its rows.
        runs: how many.
    """

    name: str
    link: str
    title: str
    verdict: str
    words: str
    commit: str
    runs: int


def entries(folder: Path) -> list[Entry]:
    """Every folder in ``folder`` that has a page and a specification, by name."""
    pages = sorted(folder.glob("*/index.html"))
    return [_entry(p.parent) for p in pages if (p.parent / "spec.toml").is_file()]


def _entry(folder: Path) -> Entry:
    if is_required(folder):
        return _required(folder)
    if is_conclusion(folder):
        return _concluded(folder)
    study = read(folder)
    verdict, words = first_line(study)
    return Entry(
        folder.name,
        f"{quote(folder.name)}/index.html",
        study.title,
        verdict,
        words,
        str(study.provenance.get("commit") or "not recorded"),
        len(study.runs),
    )


def _required(folder: Path) -> Entry:
    found = read_required(folder)
    return Entry(
        folder.name,
        f"{quote(folder.name)}/index.html",
        found.title,
        *found.first_line,
        str(found.provenance.get("commit") or "not recorded"),
        int(found.provenance.get("runs", 0)),
    )


def _concluded(folder: Path) -> Entry:
    own = about(folder)
    return Entry(
        folder.name,
        f"{quote(folder.name)}/index.html",
        title_of(folder),
        *read_conclusion(folder).answer,
        str(own.get("commit") or "not recorded"),
        int(own.get("cases", 0)),
    )


def first_line(study: Study) -> tuple[str, str]:
    """Verdict and sentence that the page of a study begins with."""
    if study.answer is not None:
        return study.answer
    verdict, words = headline(per_run(study))
    return verdict, f"{EIGENVALUE} {words}"


def index_html(found: list[Entry]) -> str:
    """The page; no date is on it, so that equal folders give equal bytes."""
    return filled("index.html.j2", entries=found)
