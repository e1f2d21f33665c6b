"""The page of scale is what its script computes, and the script counts rightly."""

import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
SPEC = importlib.util.spec_from_file_location("scale", DOCS / "scale.py")


@pytest.fixture(scope="module")
def scale():
    assert SPEC is not None
    assert SPEC.loader is not None
    module = importlib.util.module_from_spec(SPEC)
    SPEC.loader.exec_module(module)
    return module


def test_the_page_is_made_by_the_script(scale):
    assert scale.page() == scale.PAGE.read_text(), "run python docs/scale.py"


def test_the_page_follows_its_assumptions(scale, monkeypatch):
    """Negative control: another machine gives another page."""
    monkeypatch.setattr(scale, "CORE_RATE", 1e9)
    assert scale.page() != scale.PAGE.read_text()


def test_tiles_are_those_of_one_triangle(scale):
    n = 5 * scale.TILE
    found = scale.tiles(n)
    assert found.count == 15
    assert found.result == 8 * 15 * scale.TILE**2
    # Operations of the whole triangle: a tile off the diagonal takes about two on it.
    on, off = scale.planned()
    assert found.operations == 5 * on.operations + 10 * off.operations
    assert found.bytes <= scale.MEMORY
    assert found.traffic > found.result


def test_a_part_of_a_tile_takes_a_tile(scale):
    assert scale.tiles(scale.TILE + 1).count == 3


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.5, "0.5 s"), (90, "1.5 min"), (7200, "2 h"), (172800, "2 days")],
)
def test_times_are_in_the_unit_of_a_plan(scale, seconds, expected):
    assert scale.shown_time(seconds) == expected
