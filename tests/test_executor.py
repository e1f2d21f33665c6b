"""Executors: every task once, errors told, deaths survived, limits kept."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import ntk_fed as nf
from ntk_fed.errors import TaskError
from ntk_fed.executor import Dask, Here, Processes, Task, run


def square_or_fail(x):
    if x < 0:
        raise ValueError(f"negative: {x}")
    return x * x, torch.get_num_threads()


def plus(shared, x):
    return shared + x


def die_once(folder, x):
    """Kill this very process the first time."""
    mark = os.path.join(folder, f"{x}.seen")
    if x == 1 and not os.path.exists(mark):
        open(mark, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def die(x):
    os.kill(os.getpid(), signal.SIGKILL)


def nap(seconds):
    time.sleep(seconds)
    return seconds


def busy_with(folder, name):
    """How many of these run at once, as each of them sees it."""
    mark = os.path.join(folder, name)
    open(mark, "w").close()
    time.sleep(0.3)
    seen = len(os.listdir(folder))
    os.remove(mark)
    return seen


def unsendable():
    return lambda: None


@pytest.fixture(scope="module")
def cluster():
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        dashboard_address=None,
        worker_dashboard_address=None,
    ) as found:
        yield found


@pytest.fixture
def dask(cluster):
    found = Dask(cluster.scheduler_address)
    found.client.wait_for_workers(2)  # one that was killed comes back
    yield found
    found.close()


@pytest.mark.parametrize("executor", [Here(), Processes(1), Processes(2)])
def test_every_task_is_run_once(executor):
    tasks = [(i,) for i in range(5)]
    found = dict(run(square_or_fail, tasks, executor=executor))
    assert {i: value for i, (value, _) in found.items()} == {i: i * i for i in range(5)}
    if not isinstance(executor, Here):
        assert {threads for _, threads in found.values()} == {1}


@pytest.mark.parametrize("executor", [Here(), Processes(2)])
def test_a_tasks_error_is_raised_here(executor):
    with pytest.raises(ValueError, match="negative: -1"):
        list(run(square_or_fail, [(1,), (-1,)], executor=executor))


@pytest.mark.parametrize("executor", [Here(), Processes(2)])
def test_a_failed_task_stops_no_other(executor):
    tasks = [Task((x,)) for x in (1, -1, 3)]
    found = {o.index: o for o in executor.outcomes(square_or_fail, tasks)}
    assert [found[i].status for i in range(3)] == ["done", "failed", "done"]
    assert "ValueError: negative: -1" in found[1].error
    assert "square_or_fail" in found[1].error  # the traceback, from where it happened


@pytest.mark.parametrize("executor", [Here(), Processes(2)])
def test_what_is_shared_is_the_first_argument(executor):
    found = dict(run(plus, [(1,), (2,)], executor=executor, shared=10))
    assert found == {0: 11, 1: 12}


def test_a_worker_that_dies_takes_nothing_with_it(tmp_path):
    tasks = [(str(tmp_path), x) for x in range(4)]
    assert dict(run(die_once, tasks, executor=Processes(2))) == {i: i for i in range(4)}
    assert (tmp_path / "1.seen").exists()


@pytest.mark.long
def test_a_task_that_kills_its_workers_is_lost_and_said():
    [found] = Processes(1).outcomes(die, [Task((0,))])
    assert found.status == "lost"
    assert "exit code -9" in found.error
    with pytest.raises(TaskError, match="lost"):
        list(run(die, [(0,)], executor=Processes(1)))


def test_a_task_over_its_time_is_stopped():
    began = time.perf_counter()
    tasks = [Task((t,)) for t in (60.0, 0.0, 0.01)]
    executor = Processes(2, time_limit=1.0)
    found = {o.index: o for o in executor.outcomes(nap, tasks)}
    assert [found[i].status for i in range(3)] == ["late", "done", "done"]
    assert "time limit of 1 s" in found[0].error
    assert time.perf_counter() - began < 50  # the minute was not waited for


@pytest.mark.long
def test_memory_is_never_promised_twice(tmp_path):
    half = [Task((str(tmp_path), str(i)), bytes=60) for i in range(4)]
    executor = Processes(2, memory=100)
    assert {o.result for o in executor.outcomes(busy_with, half)} == {1}
    # Negative control: with room for two, two run.
    both = Processes(2, memory=120).outcomes(busy_with, half)
    assert max(o.result for o in both) == 2


def test_a_task_larger_than_memory_is_refused_with_its_figure():
    tasks = [Task((1,), bytes=2**31), Task((2,), bytes=1)]
    found = {
        o.index: o for o in Processes(2, memory=2**30).outcomes(square_or_fail, tasks)
    }
    assert (found[0].status, found[1].status) == ("refused", "done")
    assert "needs 2.00 GiB and 1.00 GiB are free" in found[0].error


def pid_of(x):
    return os.getpid()


def test_workers_are_kept_from_call_to_call_if_asked():
    tasks = [Task((x,)) for x in range(2)]
    with Processes(1) as kept:
        pids = {o.result for _ in range(2) for o in kept.outcomes(pid_of, tasks)}
        assert len(pids) == 1
        assert alive(*pids)
    wait_until(lambda: not alive(*pids))
    plain = Processes(1)
    pids = {o.result for _ in range(2) for o in plain.outcomes(pid_of, tasks)}
    assert len(pids) == 2


def test_the_longest_are_begun_first():
    tasks = [Task((float(i) / 1000,), seconds=i) for i in range(5)]
    order = [o.index for o in Processes(1).outcomes(nap, tasks)]
    assert order == [4, 3, 2, 1, 0]


def test_what_cannot_be_sent_is_said():
    with pytest.raises(ValueError, match="top level of a module"):
        Processes(2).outcomes(lambda: 1, [Task(())])
    [found] = Processes(1).outcomes(unsendable, [Task(())])
    assert found.status == "failed"
    assert "cannot be sent" in found.error


@pytest.mark.parametrize(
    ("options", "words"),
    [({"workers": 0}, "at least 1"), ({"workers": 1, "time_limit": 0.0}, "above 0")],
)
def test_bad_limits_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Processes(**options)


ORPHANS = """
import os, sys, time
sys.path.insert(0, {tests!r})
from test_executor import hold
from ntk_fed.executor import Processes, Task
if __name__ == "__main__":
    list(Processes(2).outcomes(hold, [Task(({folder!r},)), Task(({folder!r},))]))
"""


def hold(folder):
    open(os.path.join(folder, str(os.getpid())), "w").close()
    time.sleep(120)


def test_workers_end_with_their_parent(tmp_path):
    script = tmp_path / "parent.py"
    marks = tmp_path / "marks"
    marks.mkdir()
    tests = os.path.dirname(__file__)
    script.write_text(ORPHANS.format(tests=tests, folder=str(marks)))
    paths = os.pathsep.join([os.path.dirname(tests), tests])
    parent = subprocess.Popen(
        [sys.executable, str(script)], env={**os.environ, "PYTHONPATH": paths}
    )
    wait_until(lambda: len(list(marks.iterdir())) == 2)
    parent.kill()
    parent.wait()
    pids = [int(mark.name) for mark in marks.iterdir()]
    wait_until(lambda: not any(map(alive, pids)))
    assert len(pids) == 2
    assert not any(map(alive, pids))


def alive(pid):
    """Is there such a process that has not ended? A zombie has."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(ready, seconds=60):
    until = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.05)


def test_a_cluster_gives_the_same(dask):
    tasks = [Task((x,)) for x in (1, -1, 3)]
    found = {o.index: o for o in dask.outcomes(square_or_fail, tasks)}
    assert [found[i].status for i in range(3)] == ["done", "failed", "done"]
    assert [found[i].result for i in (0, 2)] == [(1, 1), (9, 1)]
    assert "ValueError: negative: -1" in found[1].error
    assert dask.workers == 2
    assert dict(run(plus, [(1,), (2,)], executor=dask, shared=10)) == {0: 11, 1: 12}


@pytest.mark.long
def test_a_worker_of_a_cluster_that_dies_takes_nothing_with_it(dask, tmp_path):
    tasks = [(str(tmp_path), x) for x in range(4)]
    assert dict(run(die_once, tasks, executor=dask)) == {i: i for i in range(4)}
    assert (tmp_path / "1.seen").exists()


@pytest.mark.long
def test_kernel_tiles_are_the_same_on_a_cluster(dask):
    model = nf.models.MLP([5, 16, 1], seed=0)
    x = torch.randn(40, 5, dtype=torch.float64)
    there = nf.gram(model, x, processes=dask, memory=2**22)
    assert torch.equal(there, nf.gram(model, x, processes=2, memory=2**22))
