"""SIGKILL at random moments of a recorded run, and a restart: the same run.

Five moments here; ``make torture`` has a hundred (``NTK_FED_KILLS``).
"""

import os
import random
import signal
import time

import pandas as pd
import pytest
import torch

import ntk_fed as nf
from ntk_fed import records

KILLS = int(os.environ.get("NTK_FED_KILLS", "5"))
ROUNDS = 200


def finish(out):
    """The run, from wherever it is: minibatches, sampled clients, observers."""
    data = nf.data.load("digits", n=120, targets="one-hot")
    split = nf.data.partition(data, "shards", clients=6, seed=1)
    model = nf.models.MLP([64, 16, 10], seed=1)
    return nf.simulate(
        model,
        split,
        rounds=ROUNDS,
        local_steps=3,
        step_size=nf.fedavg.schedules.Power(0.2, 0.1),
        rule="anchored",
        steps=True,
        batch_size=8,
        participation=0.5,
        seed=2,
        observers=[
            nf.observers.loss(model, split, every=5),
            nf.observers.consensus_error(model, split, every=5),
        ],
        out=out,
        save_seconds=0.0,  # after each round: most moments are within a save
    )


def child(out):
    """The run in a process of its own, forked: it starts within a millisecond."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            finish(out)
            status = 0
        finally:
            os._exit(status)
    return pid


def left_in(out):
    """Rows and parameters of a finished folder, as they are on disk."""
    (state,) = (out / "arrays").glob("state-*.npz")
    rows = records.read_rows(out).drop(columns=["seconds"], errors="ignore")
    return rows, {k: v.tobytes() for k, v in records.read_arrays(state).items()}


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_any_moment_a_run_goes_on_to_the_same_end(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a forked process has no other threads
    try:
        finish(tmp_path / "warm")  # files read, choices made
        began = time.monotonic()
        assert os.waitpid(child(tmp_path / "whole"), 0)[1] == 0
        lasted = time.monotonic() - began
        rows, params = left_in(tmp_path / "whole")
        draw, cut = random.Random(0), 0
        for kill in range(KILLS):
            out = tmp_path / f"run {kill}"
            pid = child(out)
            time.sleep(draw.uniform(0, lasted))
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            cut += os.WIFSIGNALED(status)
            assert os.waitpid(child(out), 0)[1] == 0, "it could not go on"
            other_rows, other = left_in(out)
            pd.testing.assert_frame_equal(other_rows, rows, check_exact=True)
            assert other == params, f"kill {kill} left other parameters"
        print(f"{KILLS} kills, {cut} of them before the end: {KILLS} identical runs")
        assert cut >= KILLS // 2, "most kills came too late to show anything"
    finally:
        torch.set_num_threads(threads)
