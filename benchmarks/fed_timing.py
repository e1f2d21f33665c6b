"""Rounds of several tools in turn, and how far apart their results are."""

import statistics
import time
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from fed_tools import Problem
from torch import Tensor

PAUSE = 0.05  # seconds: threads of the tool before stop waiting for work meanwhile
SLOW, QUICK = 1.0, 0.05  # seconds a round: above, few rounds; below, many
LONG = 10.0  # seconds a round: above, what the first pays for starting is nothing
TURN, MOST = 0.1, 10  # a turn has rounds for so many seconds, and so many at most


def timed(
    runs: dict[str, Iterator[list[Tensor]]], problem: Problem, rounds: int
) -> dict[str, dict]:
    """Each tool's seconds a round in every turn, the first tool later each time.

    A turn is one round, or several where these are short: the first one after a pause
    finds nothing in the caches, and a run has hundreds. The first turn is one round; it
    does not count, unless it is long. Also how far its movement is from the plain
    loop's. A tool that fails keeps its reason.
    """
    found: dict[str, dict] = {name: {"seconds": []} for name in runs}
    moved: dict[str, list[Tensor]] = {}
    done, limit, unpaid = 0, rounds, 1
    while done <= limit:
        names = [name for name in runs if "error" not in found[name]]
        turn = done % max(1, len(names))
        spent = []
        for name in names[turn:] + names[:turn]:
            before = found[name]["seconds"]
            count = min(MOST, max(1, int(TURN / before[-1]))) if before else 1
            time.sleep(PAUSE)
            began = time.perf_counter()
            try:
                weights = [next(runs[name]) for _ in range(count)][-1]
            except Exception as error:  # its reason is the result
                found[name] = {"error": f"{type(error).__name__}: {error}"[:300]}
                continue
            spent.append((time.perf_counter() - began) / count)
            if done == 0:
                pairs = zip(weights, problem.weights, strict=True)
                moved[name] = [w - start for w, start in pairs]
            found[name]["seconds"].append(spent[-1])
        worst = max(spent, default=0.0)
        if done == 0 and worst > LONG:
            limit, unpaid = min(rounds, 3) - 1, 0
        if done == 1 and unpaid:
            limit = min(rounds, 3) if worst > SLOW else rounds
            limit = 2 * rounds if worst < QUICK else limit
        done += 1
    for name, own in moved.items():
        if "error" not in found[name]:
            del found[name]["seconds"][:unpaid]
            found[name]["median"] = statistics.median(found[name]["seconds"])
            if "plain" in moved:
                found[name]["off"] = distance(own, moved["plain"])
    if "plain" in moved:
        found["plain"]["moved"] = moved["plain"]
    return found


def distance(a: list[Tensor], b: list[Tensor]) -> float:
    """``‖a − b‖ / ‖b‖`` of two movements."""
    gap = sum(
        (p.double() - q.double()).square().sum() for p, q in zip(a, b, strict=True)
    )
    return float((gap / sum(q.double().square().sum() for q in b)).sqrt())


def speeds() -> dict[str, float]:
    """Operations a second of matrix products and bytes a second of a copy, the best."""
    a = torch.ones(1024, 1024)
    source, target = torch.ones(2**24), torch.ones(2**24)
    calls = {
        "torch": partial(torch.mm, a, a),
        "numpy": partial(np.matmul, a.numpy(), a.numpy()),
        "copy": partial(target.copy_, source),
    }
    best = {}
    for name, call in calls.items():
        time.sleep(PAUSE)
        taken = []
        for _ in range(5):
            began = time.perf_counter()
            call()
            taken.append(time.perf_counter() - began)
        best[name] = min(taken)
    operations = 2 * 1024**3 / min(best["torch"], best["numpy"])
    return {"operations": operations, "bytes": 2 * 4 * 2**24 / best["copy"]}


def moved(run: Iterator[list[Tensor]], problem: Problem) -> list[Tensor]:
    """How far the weights are from the start after three rounds."""
    weights = [next(run) for _ in range(3)][-1]
    return [w - start for w, start in zip(weights, problem.weights, strict=True)]
