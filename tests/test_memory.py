"""The memory a plan states is what a process takes: measured from outside."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="needs Linux's /proc"
)

# One line when libraries are loaded and have run once, then the kernel, then its plan.
CHILD = """
import json, sys
import torch
import ntk_fed as nf
from ntk_fed.kernel import plan

def dense(sizes):
    layers = []
    for i, o in zip(sizes, sizes[1:]):
        layers += [torch.nn.Linear(i, o), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])

def images(channels, outputs):
    conv, relu = torch.nn.Conv2d, torch.nn.ReLU
    return torch.nn.Sequential(
        conv(3, channels, 3, padding=1), relu(),
        conv(channels, channels, 3, padding=1), relu(),
        conv(channels, channels, 3, padding=1), relu(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        torch.nn.Linear(channels, outputs),
    )

torch.manual_seed(0)
case = json.loads(sys.argv[1])
model = {make}
x = torch.randn(*case["x"])
options = dict(case["options"])
nf.gram(model, x[:8])
for dtype in (torch.float32, torch.float64):  # the libraries' own buffers, both of them
    square = torch.ones(1024, 1024, dtype=dtype)
    torch.mm(square, square)
    square.numpy() @ square.numpy()
del square
print("ready", flush=True)
sys.stdin.readline()
planned = plan(model, x, **options)
nf.gram(model, x, **options)
print(json.dumps([planned.bytes, planned.block]), flush=True)
"""


def anonymous(process):
    """Bytes of its own that a process holds now: neither files nor shared memory."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    line = next(li for li in status.splitlines() if li.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


def measured(make, x, **options):
    """Planned bytes, most bytes taken beside what was there, samples per block."""
    case = json.dumps({"x": x, "options": options})
    with subprocess.Popen(
        [sys.executable, "-c", CHILD.replace("{make}", make), case],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        before = peak = anonymous(process)
        process.stdin.write("\n")
        process.stdin.flush()
        while process.poll() is None:
            try:
                peak = max(peak, anonymous(process))
            except (OSError, StopIteration):  # it has just ended
                break
            time.sleep(0.002)
        lines = process.stdout.read().splitlines()
    planned, block = json.loads(lines[-1])
    return planned, peak - before, block


CASES = {
    "dense": ("dense([784, 1024, 1024, 1024, 1])", [2000, 784], {}),
    "dense, full": ("dense([784, 512, 512, 10])", [400, 784], {"outputs": "full"}),
    "dense, ten outputs": ("dense([784, 1024, 1024, 10])", [800, 784], {}),
    "dense, in blocks": (
        "dense([784, 1024, 1024, 1024, 1])", [4000, 784], {"memory": 200 * 2**20},
    ),
    "jacobian": (
        "dense([784, 64, 64, 1])", [1500, 784], {"engine": "jacobian"},
    ),
    "images, full": ("images(32, 10)", [64, 3, 32, 32], {"outputs": "full"}),
    "images, in blocks": (
        "images(32, 10)", [128, 3, 32, 32], {"memory": 150 * 2**20},
    ),
    "residual": (
        "nf.models.ResNet18(norm='group', scale=0.25, outputs=3, seed=0).float()",
        [24, 3, 32, 32], {},
    ),
    "no rule": (
        "torch.nn.Sequential(torch.nn.Unflatten(1, (8, 64)), "
        "torch.nn.TransformerEncoderLayer(64, 4, 128, 0.0, batch_first=True), "
        "torch.nn.Flatten(), torch.nn.Linear(512, 2))",
        [200, 512], {},
    ),
}  # fmt: skip


# A plan that asks for too much cuts blocks small. Planned over taken was 0.94 to 2.1
# (images, in blocks) with one thread on two cores; half as much again for other ones.
LOOSE = 3.25
# The system counts what an allocator took of it, and that differs from run to run, why
# was not found: the same call, dense and full, was 0.3 and once 1.8 MiB above the
# quarter, and below it in most runs.
GRAIN = 4 * 2**20


SHARE = ("dense", "dense, in blocks")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        name if name in SHARE else pytest.param(name, marks=pytest.mark.long)
        for name in CASES
    ],
)
def test_the_peak_is_a_quarter_above_the_plan_at_most_and_not_far_below(name):
    make, x, options = CASES[name]
    planned, taken, block = measured(make, x, **options)
    print(f"{name}: planned {planned >> 20} MiB, taken {taken >> 20}, block {block}")
    assert taken <= 1.25 * planned + GRAIN
    assert planned <= LOOSE * taken
    if "memory" in options:
        assert block < x[0]
        assert planned <= options["memory"]
