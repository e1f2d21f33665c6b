"""Writes ``scale.md``: what kernels of 10⁵ and 10⁶ samples take, before anything runs.

``python docs/scale.py`` makes the page again; a test compares the two. Bytes and
operations come from the planners of the package; rates are the assumptions below.
"""

import dataclasses
import math
from pathlib import Path

import torch

from ntk_fed.kernel.plan import Plan, plan
from ntk_fed.models import TwoLayerReLU
from ntk_fed.studies import RunSpec
from ntk_fed.studies.cost import Size

PAGE = Path(__file__).resolve().parent / "scale.md"

# Assumptions: sustained rates in float64, not peaks, of machines of 2024.
INPUTS, WIDTH = 784, 4096  # images of 28 x 28, a two-layer network
TILE = 10_000  # samples on each side of a tile
MEMORY = 2 * 2**30  # bytes a worker may take
CORE_RATE = 2e10  # operations per second of a core
CORES, NODES = 64, 16  # workers: one per core
GPU_RATE = 3e13  # operations per second of a GPU with full float64 units
GPUS = 8
NODE_BANDWIDTH = 1.25e9  # bytes per second in and out of a node, 10 Gbit/s
DISK_BANDWIDTH = 5e9  # bytes per second of the shared file system, all nodes together
PASSES = 4  # passes over the data in one product of the kernel with a vector
PRODUCTS = 300  # products for a smallest eigenvalue by a Lanczos method
RUN = RunSpec(width=WIDTH, clients=100, rounds=100, local_steps=20, every=10)


@dataclasses.dataclass(frozen=True)
class Tiles:
    """A kernel in tiles.

    Attributes:
        count: tiles on and below the diagonal.
        bytes: memory of the worker that computes the largest, tile included.
        operations: of all tiles.
        result: bytes of all tiles.
        traffic: bytes that go to and from workers: inputs and weights in, tiles out.
    """

    count: int
    bytes: int
    operations: int
    result: int
    traffic: int


def tiles(n: int) -> Tiles:
    """A kernel of ``n`` samples, from plans of one tile on the diagonal and one off."""
    side = -(-n // TILE)
    on, off = planned()
    count = side * (side + 1) // 2
    parameters = INPUTS * WIDTH
    inward = 8 * (2 * TILE * INPUTS + parameters)
    result = 8 * TILE**2 * count
    return Tiles(
        count,
        max(on.bytes, off.bytes),
        side * on.operations + (count - side) * off.operations,
        result,
        inward * count + result,
    )


def planned() -> tuple[Plan, Plan]:
    """What the package would do for a tile on the diagonal, and for one off it."""
    model = TwoLayerReLU(INPUTS, WIDTH, seed=0)
    x = torch.zeros(TILE, INPUTS, dtype=torch.float64)
    x[:, 0] = 1.0
    return plan(model, x, memory=MEMORY), plan(model, x, x, memory=MEMORY)


def matrix_free(n: int) -> float:
    """Operations of a smallest eigenvalue that never forms the kernel."""
    return 2.0 * PASSES * PRODUCTS * n * INPUTS * WIDTH


def federated(n: int) -> float:
    """Operations of one federated run with its observers, kernel left out."""
    size = Size(n, 1, INPUTS * WIDTH, WIDTH, RUN.clients)
    work = size.terms(RUN)[2]  # passes times samples times parameters
    return 6.0 * float(work)  # two products forward, four backward


def shown_bytes(value: float) -> str:
    """With a prefix of a thousand."""
    power = min(int(math.log10(max(value, 1)) // 3), 5)
    return f"{value / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB', 'PB')[power]}"


def shown_time(seconds: float) -> str:
    """In the unit a plan is made in."""
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.2g} s"


def shown_count(value: float) -> str:
    """As a power of ten."""
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def row(n: int) -> dict[str, str]:
    """Every figure of the page for one number of samples."""
    found = tiles(n)
    cpu, gpu = CORE_RATE * CORES * NODES, GPU_RATE * GPUS
    busy = CORE_RATE * min(CORES * NODES, found.count)  # a tile is for one worker
    moving = found.traffic / (NODE_BANDWIDTH * NODES)
    writing = found.result / DISK_BANDWIDTH
    dense = 4 / 3 * float(n) ** 3
    whole = 8 * 2 * float(n) ** 2
    return {
        "samples": f"{n:,}",
        "tiles": f"{found.count:,}",
        "memory of a worker, one tile": shown_bytes(found.bytes),
        "operations, all tiles": shown_count(found.operations),
        "the kernel on disk (one triangle of tiles)": shown_bytes(found.result),
        "traffic to and from workers": shown_bytes(found.traffic),
        "workers": f"{CORES * NODES:,} cores or {GPUS} GPUs",
        "computing, CPU nodes": shown_time(found.operations / busy),
        "computing, GPUs": shown_time(
            found.operations / (GPU_RATE * min(GPUS, found.count))
        ),
        "moving it over the network": shown_time(moving),
        "writing it to disk": shown_time(writing),
        "all eigenvalues: memory": shown_bytes(whole),
        "all eigenvalues: CPU nodes": shown_time(dense / cpu),
        "smallest eigenvalue without the kernel, CPU nodes": shown_time(
            matrix_free(n) / cpu
        ),
        "smallest eigenvalue without the kernel, GPUs": shown_time(
            matrix_free(n) / gpu
        ),
        "one federated run, one core": shown_time(federated(n) / CORE_RATE),
        "one federated run, one GPU": shown_time(federated(n) / GPU_RATE),
    }


def page() -> str:
    """The page as text."""
    small, large = row(100_000), row(1_000_000)
    table = [f"| {name} | {small[name]} | {large[name]} |" for name in small]
    head, body = table[0], table[1:]
    engine = planned()[1].engine
    return f"""# A hundred thousand samples, a million samples

A plan, made by `python docs/scale.py`; nothing of this size has been run. Bytes and
operations are those of `ntk_fed.kernel.plan.plan` for one tile, times the number of
tiles, and of `ntk_fed.studies.cost.Size`. Times divide them by the assumed rates below
and leave out what a machine loses beside that.

Network: two-layer ReLU, {INPUTS} inputs, width {WIDTH}, float64, first layer trained
({shown_count(INPUTS * WIDTH)} parameters). Engine of a tile: {engine}.

{head}
|---|---|---|
{chr(10).join(body)}

**What follows.** At 10⁵ samples the kernel can be formed and kept, and its smallest
eigenvalue is better found without forming it. At 10⁶ samples the tiles are no trouble
to compute; keeping them is, and all their eigenvalues are out of reach: take products
(`ntk_fed.kernel.operator.KernelOperator`) or a sample of rows. A federated run needs
no kernel and grows linearly with the samples.

## Assumptions

| | |
|---|---|
| samples on each side of a tile | {TILE:,} |
| memory a worker may take | {shown_bytes(MEMORY)} |
| a core, sustained | {shown_count(CORE_RATE)} operations per second |
| CPU nodes | {NODES} of {CORES} cores, one worker of one thread per core |
| a GPU, sustained, float64 | {shown_count(GPU_RATE)} operations per second |
| GPUs | {GPUS} |
| network of a node | {shown_bytes(NODE_BANDWIDTH)} per second |
| shared disk, all nodes | {shown_bytes(DISK_BANDWIDTH)} per second |
| all eigenvalues | 4/3 n³ operations, two matrices in memory, no loss over nodes |
| a product of the kernel with a vector | {PASSES} passes over the samples |
| products for a smallest eigenvalue | {PRODUCTS} |
| federated run | {RUN.rounds} rounds, K = {RUN.local_steps}, {RUN.clients} clients |

For another machine change the constants at the head of `docs/scale.py`.

## Dask on SLURM

A study is many independent runs; a Dask scheduler hands them to workers on many nodes.
The study folder must be visible to all workers under the same path, and so must the
data (`NTK_FED_DATA`).

```sh
pip install 'ntk-fed[cluster]'          # in an environment that all nodes see
salloc --nodes={NODES} --ntasks-per-node={CORES} --cpus-per-task=1 --time=12:00:00
dask scheduler --host "$(hostname)" --port 8786 &
export OMP_NUM_THREADS=1 NTK_FED_DATA=/shared/data
srun dask worker "tcp://$(hostname):8786" --nthreads 1 --no-nanny \\
  --memory-limit 0 --local-directory "$TMPDIR" &
ntk-fed study analyses/01_width_scaling/large.toml --out /shared/width_scaling \\
  --executor dask --scheduler "tcp://$(hostname):8786"
```

`salloc` opens a shell inside the allocation; the scheduler and the study run there,
`srun` starts one worker per core. A study that is cut off by the time limit goes on
with the same command, and finished runs are not repeated. Beforehand,
`ntk-fed study SPEC --dry-run` says how many runs there are and what they will take.
Two allocations may work into two folders that `--merge` puts together.

The tiles of one kernel go to the same workers, and to a file they all see:

```python
from ntk_fed.executor import Dask

nf.gram(model, x, out="/shared/kernel.npy", processes=Dask("tcp://HOST:8786"))
```
"""


if __name__ == "__main__":
    PAGE.write_text(page())
    print(PAGE)
