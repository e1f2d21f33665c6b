"""Runs that are recorded, interrupted, resumed, and that diverge."""

import importlib
import linecache
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from federations import federation

import ntk_fed as nf
from ntk_fed.errors import NonFiniteError, RunFolderError
from ntk_fed.observers.common import check_observers
from ntk_fed.params import trainable

OPTIONS = {"rounds": 9, "local_steps": 2, "step_size": 0.1, "batch_size": 2}


def watchers(model, split):
    return [
        nf.observers.loss(model, split),
        nf.observers.consensus_error(model, split, every=2),
        nf.observers.displacement(model, split, every=4),
    ]


def run(seed, out=None, at=10**9, **options):
    """A run whose last observer raises at its ``at``-th call."""
    model, split = federation(seed)
    observers = [*watchers(model, split), breaks_at(at)]
    return nf.simulate(model, split, observers=observers, out=out, **OPTIONS | options)


def assert_same(left, right):
    pd.testing.assert_frame_equal(left.rows, right.rows, check_exact=True)
    for name, value in left.params.items():
        assert torch.equal(right.params[name], value)
    assert (left.rounds, left.status) == (right.rounds, right.status)


class Stop(Exception):
    pass


def breaks_at(count):
    """An observer that raises at its ``count``-th call."""
    calls = iter(range(count))

    def observe(moment):
        if next(calls, None) is None:
            raise Stop
        return []

    observe.description = "breaks"
    return observe


def test_a_recorded_run_is_the_run(seed, tmp_path):
    assert_same(run(seed, tmp_path), run(seed))
    assert_same(run(seed, tmp_path), run(seed))  # read back, not run again


@pytest.mark.parametrize("at", range(9))
@pytest.mark.parametrize("between_saves", [0.0, 1e9])
def test_a_run_interrupted_anywhere_goes_on_bit_for_bit(
    at, between_saves, seed, tmp_path
):
    with pytest.raises(Stop):
        run(seed, tmp_path, at, save_seconds=between_saves)
    with pytest.raises(Stop):  # and once more, elsewhere
        run(seed, tmp_path, (8 - at) // 2, save_seconds=between_saves)
    assert_same(run(seed, tmp_path), run(seed))


SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
from federations import federation
import ntk_fed as nf
model, split = federation({seed})
def slow(moment):
    time.sleep(0.02)
    return []
slow.description = "breaks"
watch = [nf.observers.loss(model, split),
         nf.observers.consensus_error(model, split, every=2),
         nf.observers.displacement(model, split, every=4), slow]
print("ready", flush=True)
nf.simulate(model, split, observers=watch, out={out!r}, save_seconds=0.0, **{options!r})
"""


@pytest.mark.slow
def test_kill_9_and_a_restart_give_the_undisturbed_run(seed, tmp_path):
    out, options = str(tmp_path / "run"), OPTIONS | {"rounds": 25}
    text = textwrap.dedent(SCRIPT).format(
        tests=str(Path(__file__).parent), seed=seed, out=out, options=options
    )
    for delay in (0.05, 0.13, 0.21, 0.3):
        process = subprocess.Popen(
            [sys.executable, "-c", text], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "ready\n"
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert_same(run(seed, out, rounds=25), run(seed, rounds=25))


def test_another_run_in_the_same_folder_is_refused(seed, tmp_path):
    run(seed, tmp_path)
    with pytest.raises(RunFolderError, match=r"step_size is 0\.1 there and 0\.2 here"):
        run(seed, tmp_path, step_size=0.2)
    with pytest.raises(RunFolderError, match="fingerprint is"):
        run(seed + 1, tmp_path)


def test_bad_options_leave_no_folder_behind(seed, tmp_path):
    with pytest.raises(ValueError, match="step_size must be above 0"):
        run(seed, tmp_path / "run", step_size=0)
    with pytest.raises(TypeError, match="local_step"):
        run(seed, tmp_path / "run", local_step=3)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_refused(seed, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunFolderError, match="cannot be written"):
        run(seed, tmp_path / "file")


@pytest.mark.parametrize("recorded", [True, False])
def test_a_diverging_run_stops_with_its_last_finite_state(recorded, seed, tmp_path):
    out = tmp_path if recorded else None
    with pytest.warns(RuntimeWarning, match="diverged in round 1"):
        found = run(seed, out, step_size=1e200, rounds=50)
    assert found.status == "diverged"
    assert found.rounds == 0
    assert set(found.rows.loc[found.rows["round"] == 0, "quantity"]) >= {"loss"}
    assert found.rows["quantity"].iloc[-1] == "diverged"
    assert all(torch.isfinite(v).all() for v in found.params.values())
    if recorded:
        assert_same(run(seed, out, step_size=1e200, rounds=50), found)


def overflows(model, split):
    """An observer that leaves the floats from round 3 on; steps are seen too."""

    def observe(moment):
        if not isinstance(moment, nf.fedavg.Round):
            return
        if moment.index == 0:
            yield nf.Row(0, None, None, None, "size", 1.0)
        moved = sum((moment.params[k] - v).norm() for k, v in start.items()).item()
        if moved > 0 and moment.index > 1:
            raise NonFiniteError("too large")
        yield nf.Row(moment.index + 1, None, None, None, "size", moved)

    start = trainable(model)
    return observe


def test_an_observer_that_overflows_keeps_the_run_and_says_so(seed, tmp_path):
    model, split = federation(seed)
    both = [nf.observers.loss(model, split), overflows(model, split)]
    with pytest.warns(RuntimeWarning, match=r"overflows.*in round 3; its rows"):
        found = nf.simulate(model, split, observers=both, out=tmp_path, **OPTIONS)
    alone = nf.simulate(model, split, observers=both[:1], **OPTIONS)
    assert (found.status, found.rounds) == ("finished", 9)
    for name, value in alone.params.items():
        assert torch.equal(found.params[name], value)
    size = found.rows[found.rows["quantity"] == "size"].set_index("round")
    assert list(size.index) == list(range(10))
    assert size["value"].isna().tolist() == [False] * 3 + [True] * 7
    unknown = size.loc[3:]
    assert (unknown["lower"] == -torch.inf).all()
    assert (unknown["upper"] == torch.inf).all()
    assert (unknown["status"] == "out of range").all()
    rest = found.rows[found.rows["quantity"] != "size"].reset_index(drop=True)
    pd.testing.assert_frame_equal(rest, alone.rows, check_exact=True)


def test_an_observer_that_fails_at_the_start_is_an_error(seed):
    model, split = federation(seed)

    def never(moment):
        raise NonFiniteError("NaN in my data")

    with pytest.raises(NonFiniteError, match="NaN in my data"):
        nf.simulate(model, split, observers=[never], **OPTIONS)


def test_a_network_that_was_changed_since_is_refused(seed, tmp_path):
    model, split = federation(seed)
    nf.simulate(model, split, out=tmp_path, **OPTIONS)
    model.last.bias.data += 1  # frozen, and part of the function
    with pytest.raises(RunFolderError, match="fingerprint"):
        nf.simulate(model, split, out=tmp_path, **OPTIONS)
    model.last.bias.data -= 1
    forward = model.forward
    model.forward = lambda x: forward(x) + 0.01
    with pytest.raises(RunFolderError, match="a run of another network"):
        nf.simulate(model, split, out=tmp_path, **OPTIONS)


@pytest.mark.parametrize("option", ["loss", "step_size", "observers"])
def test_a_function_that_changed_inside_its_name_is_refused(
    option, seed, tmp_path, monkeypatch
):
    bodies = {
        "loss": "return {} * (a - b).square().sum(dim=-1)",
        "step_size": "return {} / (1 + a + b) if a * b < 0 else 0.1",
        "observers": "return [] if {} else []",
    }
    head = "def own(a, b=0):\n    "
    folder = tmp_path / "code"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    model, split = federation(seed)

    def with_number(number):
        (folder / "of_mine.py").write_text(head + bodies[option].format(number))
        linecache.clearcache()
        sys.modules.pop("of_mine", None)
        importlib.invalidate_caches()
        own = importlib.import_module("of_mine").own
        given = {option: [own] if option == "observers" else own}
        return nf.simulate(model, split, out=tmp_path / "run", **OPTIONS | given)

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert_same(with_number(0.5), with_number(0.5))
    with pytest.raises(RunFolderError, match=r"of_mine\.own \(source"):
        with_number(0.75)


def test_an_observer_that_took_another_loss_for_the_runs_is_refused(seed):
    model, split = federation(seed)
    options = {**OPTIONS, "loss": "logistic"}
    signs = nf.data.Dataset(split.dataset.x, split.dataset.y.sign())
    split = nf.data.Partition(signs, split.indices)
    default = [nf.observers.loss(model, split)]
    with pytest.raises(ValueError, match=r"loss\(\) was built for loss='squared'"):
        nf.simulate(model, split, observers=default, **options)
    for named in ("logistic", "squared"):  # one that was meant
        meant = [nf.observers.loss(model, split, loss=named)]
        nf.simulate(model, split, observers=meant, **options)


@pytest.mark.parametrize(
    ("observers", "words"),
    [
        (nf.observers.loss, "observers must be a list of functions, got function"),
        ([nf.observers.loss], r"nf\.observers\.loss builds an observer and is none"),
        ("loss", "observers must be a list of functions, got str"),
        ([3], "must be functions of a round or local step, got 3"),
        ([None], "must be functions of a round or local step, got None"),
    ],
)
def test_what_is_no_observer_is_refused(observers, words):
    with pytest.raises(ValueError, match=words):
        check_observers(observers, "squared")


def test_an_error_inside_an_observer_says_where(seed):
    def fails(moment):
        raise KeyError("x")

    model, split = federation(seed)
    with pytest.raises(KeyError) as caught:
        nf.simulate(model, split, observers=[fails], **OPTIONS)
    assert "fails" in caught.value.__notes__[0]
    assert "in round 1" in caught.value.__notes__[0]


def test_defaults_written_out_are_the_same_run(seed, tmp_path):
    assert_same(run(seed, tmp_path), run(seed, tmp_path, weights="samples"))


def test_other_observers_in_the_same_folder_are_refused(seed, tmp_path):
    run(seed, tmp_path)
    model, split = federation(seed)
    with pytest.raises(RunFolderError, match="observers is"):
        nf.simulate(model, split, out=tmp_path, **OPTIONS)


def test_a_folder_of_somebody_elses_is_left_alone(seed, tmp_path):
    (tmp_path / "spec.toml").write_text("mine = 1")
    with pytest.raises(RunFolderError, match="no run of ours"):
        run(seed, tmp_path)
    assert (tmp_path / "spec.toml").read_text() == "mine = 1"


def test_a_damaged_state_is_named(seed, tmp_path):
    run(seed, tmp_path)
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"state\.json' is damaged"):
        run(seed, tmp_path)


def test_progress_shows_and_changes_nothing(seed, capsys):
    assert_same(run(seed, progress=True), run(seed))
    assert "rounds" in capsys.readouterr().out


def test_local_steps_are_watched_too(seed):
    rows = run(seed, steps=True).rows
    own = rows[rows["quantity"] == "consensus error"]
    assert own["step"].notna().sum() == 2 * 5  # every second round, and the last


def test_the_model_may_be_trained_on_while_the_history_stays(seed):
    model, split = federation(seed)
    found = nf.simulate(model, split, **OPTIONS)
    kept = {k: v.clone() for k, v in found.params.items()}
    with torch.no_grad():
        for value in model.parameters():
            value.zero_()
    assert all(torch.equal(v, kept[k]) for k, v in found.params.items())
