"""The decision rules of the analyses, on made numbers; no network is run here."""

import dataclasses
import importlib.util
import itertools
import sys
from pathlib import Path

import pandas as pd
import pytest
from test_laws import made

from ntk_fed.report.laws import laws
from ntk_fed.studies import read_study

ANALYSES = Path(__file__).resolve().parent.parent / "analyses"
SPECS = sorted(ANALYSES.glob("0[13]_*/*.toml"))


def analysis(number):
    """The script of an analysis, by its number."""
    (path,) = ANALYSES.glob(f"{number}_*/analysis.py")
    spec = importlib.util.spec_from_file_location(f"analysis_{number}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))  # as for a script: it may import its page
    spec.loader.exec_module(module)
    return module


def fits(**slopes):
    """Fitted laws of a study whose quantities have these slopes against width."""
    names = {
        "flips": "flips since start",
        "apart": "flips local-averaged",
        "kernel": "kernel change (Frobenius)",
    }
    parts = [
        made(lambda m, s=slope: m**s, quantity=names[name])
        for name, slope in slopes.items()
    ]
    rows = pd.concat([part.rows for part in parts], ignore_index=True)
    return laws(dataclasses.replace(parts[0], rows=rows))[0]


NOT_LAZY = {"flips": 0.0, "kernel": 0.0}


@pytest.mark.parametrize(
    ("kernel", "expected"), [(-0.5, "holds"), (-0.6, "undecided"), (-0.75, "fails")]
)
def test_lazy_scaling_is_what_all_three_laws_say(kernel, expected):
    study = fits(flips=-0.5, apart=-0.5, kernel=kernel)
    assert analysis("01").decision(study, fits(**NOT_LAZY)).verdict == expected


def test_a_control_that_scales_alike_leaves_no_answer():
    study = fits(flips=-0.5, apart=-0.5, kernel=-0.5)
    found = analysis("01").decision(study, study)
    assert found.verdict == "undecided"
    assert "no power" in found.words


def test_a_law_that_is_missing_is_an_error():
    with pytest.raises(ValueError, match="kernel change"):
        analysis("01").decision(fits(flips=-0.5, apart=-0.5), fits(**NOT_LAZY))


def runs(*, wide=0.04, narrow=0.06, same=0.0, different=0.1):
    """A table of runs of analysis 03 with these errors and differences of splits."""
    splits = ("iid", "shards", "one-class")
    rows = []
    for width, k, (i, split), seed in itertools.product(
        (64, 128), (1, 20), enumerate(splits), (0, 1, 2)
    ):
        gap = same if k == 1 else different
        rows.append(
            {
                "width": width,
                "local_steps": k,
                "partition": split,
                "seed": seed,
                "residual": 1 + i * gap,
                "prediction_error": (narrow if width == 64 else wide) + 0.001 * seed,
                "drift": 0.1 * k * (i + 1),
                "residual_ratio": 0.5 + i * gap,
            }
        )
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "holds"),
        ({"wide": 0.0485}, "holds"),  # median 0.0495
        ({"wide": 0.0495}, "fails"),  # median 0.0505
        ({"narrow": 0.03}, "fails"),  # never seen to fail
        ({"same": 1e-6}, "undecided"),  # K = 1 is one algorithm for every split
        ({"different": 1e-5}, "undecided"),  # the comparison has no power
    ],
)
def test_the_kernel_governs_under_the_rule_only(options, expected):
    assert analysis("03").decision(runs(**options)).verdict == expected


def test_orders_are_answered_yes_or_no():
    text = analysis("03").further(runs())
    assert "grows over iid, shards, one-class at K = 20, width 64: yes" in text
    assert "prediction error falls with width at K = 1, iid: yes" in text
    text = analysis("03").further(runs(wide=0.07))
    assert (
        "prediction error falls with width at K = 1, iid: no (0.0610, 0.0710)" in text
    )


@pytest.mark.parametrize("path", SPECS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_every_specification_can_be_read(path):
    assert len(read_study(path).runs()) > 1


def test_the_control_differs_in_the_network_only():
    folder = ANALYSES / "01_width_scaling"
    study, control = (
        read_study(folder / f"{name}.toml") for name in ("study", "control")
    )
    assert control.grid == study.grid
    assert dataclasses.replace(control.base, model=study.base.model) == study.base
    assert (ANALYSES.parent / control.base.model.split(":")[0]).is_file()
