"""The command line: what it prints, what it writes, how it fails."""

import json
import os
import subprocess
import sys

import pytest
import torch

import ntk_fed as nf
from ntk_fed import cli
from ntk_fed.checks import THEOREMS
from ntk_fed.start import stable_step_size

SMALL = (
    *("--samples", "20", "--width", "32", "--clients", "2", "--rounds", "4"),
    *("--local-steps", "2", "--every", "2", "--kernel-every", "2"),
)


def test_check_prints_the_answers(capsys):
    assert cli.main(["check", *SMALL]) == 0
    text = capsys.readouterr().out
    for words in ("λ_min of the kernel", "certified", "rate", "du2019", "lazy.linear"):
        assert words in text


def test_check_as_json_is_the_library(capsys):
    assert cli.main(["check", *SMALL, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    data = nf.data.load("digits", n=20, targets="sign")
    split = nf.data.partition(data, "shards", clients=2)
    model = nf.models.TwoLayerReLU(64, 32, seed=0)
    theta = nf.gram(model, data.x)
    enclosure = found["smallest_eigenvalue"]
    truth = torch.linalg.eigvalsh(theta)[0].item()
    assert enclosure["lower"] <= truth <= enclosure["upper"]
    step = stable_step_size(theta, split)
    kernel = nf.federated_kernel(theta, split, local_steps=2, step_size=step)
    assert found["rate"] == pytest.approx(kernel.rate, rel=1e-12)
    assert [t["name"] for t in found["theorems"]] == list(THEOREMS)
    reasons = {t["name"]: t["why_not"] for t in found["theorems"]}
    assert not reasons["du2019.gradient_descent"]
    assert "linear" in reasons["zhu2024.direction"]
    assert found["last"]["residual norm"] > 0


def test_only_the_theorems_asked_for_are_shown_and_all_may_be_required(capsys):
    asked = ["--theorem", "qin2022.theorem2", "du2019"]
    assert cli.main(["check", *SMALL, *asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["theorems"]
    assert [t["name"] for t in found] == ["du2019.gradient_descent", "qin2022.theorem2"]
    needed = ["--require", "zhu2024.direction"]
    assert cli.main(["check", *SMALL, *asked, *needed]) == 1
    told = capsys.readouterr().err
    assert "required, but does not apply: the network is not linear" in told
    assert told.rstrip().endswith(": zhu2024.direction")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--theorem", "qin2022.theorem9"], "Did you mean 'qin2022.theorem"),
        (["--require", "du2018"], "Did you mean 'du2019'"),
        (["--require", "du2018: loss"], "Did you mean 'du2019'"),
        (["--model", "own.py:f"], "there is no file 'own.py'"),
    ],
)
def test_a_name_that_means_nothing_is_told_before_the_run(
    arguments, words, capsys, monkeypatch
):
    def never(*_, **__):
        raise AssertionError("it ran")

    if "--model" not in arguments:
        monkeypatch.setattr(cli, "run", never)
    assert cli.main(["check", *SMALL, *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_condition_or_a_paper_may_be_required(capsys):
    condition = "lazy.linear_convergence: step size"
    assert cli.main(["check", *SMALL, "--require", condition]) == 2
    told = capsys.readouterr().err  # of a theorem that is known: the nearest condition
    assert "lazy.linear_convergence: " in told
    assert cli.main(["check", *SMALL, "--require", "lazy"]) == 0
    assert cli.main(["check", *SMALL, "--require", "du2019"]) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "mnist", "--data-root", "/nonexistent"], "nonexistent"),
        (["--clients", "21"], "21 clients are more than the 20 samples"),
    ],
)
def test_what_cannot_be_computed_is_one_line_and_exit_status_1(
    arguments, words, capsys
):
    assert cli.main(["check", *SMALL, *arguments]) == 1
    text = capsys.readouterr().err
    assert words in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "mnsit"], "Did you mean 'mnist'"),
        (["--partition", "shard"], "Did you mean 'shards'"),
        (["--step-size", "0"], "step_size must be above 0"),
        (["--failure", "2"], r"failure must be in (0, 1)"),
        (["--local-steps", "0"], "local_steps must be at least 1"),
    ],
)
def test_a_value_that_no_run_can_have_is_wrong_usage(arguments, words, capsys):
    assert cli.main(["check", *SMALL, *arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["chek"], ["check", "--dta", "x"], ["check", "--width", "wide"], []]
)
def test_wrong_usage_is_exit_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    streams = capsys.readouterr()
    assert "usage" in (streams.out + streams.err).lower() or streams.err


def test_a_failed_hypothesis_is_a_result_unless_required(capsys):
    name = "lazy.linear_convergence"
    assert cli.main(["check", *SMALL, "--require", name]) == 0
    assert cli.main(["check", *SMALL, "--require", "du2019.gradient_descent"]) == 1
    assert "required, but fails: du2019" in capsys.readouterr().err


def test_simulate_writes_a_run_that_report_renders(tmp_path, capsys):
    out = str(tmp_path / "run")
    assert cli.main(["simulate", "--out", out, *SMALL]) == 0
    assert "flips since start" in capsys.readouterr().out
    assert cli.main(["report", out]) == 0
    page = capsys.readouterr().out.strip()
    assert page.endswith("index.html")
    assert os.path.getsize(page) > 10_000


def test_check_writes_html(tmp_path):
    page = tmp_path / "new" / "page.html"
    assert cli.main(["check", *SMALL, "--html", str(page)]) == 0
    assert "<html" in page.read_text()[:2000]


def test_report_of_an_empty_folder_is_refused(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path)]) == 1
    assert "ntk-fed: " in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_an_unwritable_folder_is_refused_before_anything_is_computed(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    out = str(tmp_path / "file" / "run")
    assert cli.main(["simulate", "--out", out, *SMALL]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_the_command_is_installed():
    found = subprocess.run(
        [sys.executable, "-m", "ntk_fed.cli", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "check" in found.stdout


def test_the_page_of_a_real_run_finds_everything_it_looks_for(tmp_path):
    page = tmp_path / "page.html"
    assert cli.main(["check", *SMALL, "--html", str(page)]) == 0
    text = page.read_text()
    assert "not recorded" not in text
    assert "cannot be told" not in text
