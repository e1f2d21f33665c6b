"""Other tools: their environments, and one process for each."""

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path

ENVIRONMENTS = Path(__file__).resolve().parent / ".envs"
LIMIT = 120.0  # seconds a run may take
PAUSE = 0.1  # seconds for the threads of the one before to stop spinning
HERE = ("ours", "torch.func", "products")  # those that need no environment of their own

# What pip is asked for, one call each. nngeometry alone would pull torchvision and with
# it another torch. neural-tangents asks for tensorflow and tf2jax, for its wrapper of
# TensorFlow models alone: worker.py leaves that out, and neither is needed.
REQUIREMENTS = {
    "nngeometry": (["torch==2.13.0", "numpy"], ["--no-deps", "nngeometry==0.4"]),
    "neural-tangents": (
        ["jax==0.4.23", "jaxlib==0.4.23", "numpy<2", "scipy<1.13", "frozendict"],
        ["--no-deps", "neural-tangents==0.6.5"],
    ),
    "flower": (
        ["torch==2.13.0", "numpy"],
        ["flwr[simulation]==1.41.0", "rich<15", "packaging<26"],
    ),
    "pfl": (["torch==2.13.0", "numpy"], ["pfl==0.6.0", "packaging<26"]),
}
ROUTES = {
    "ours": "ntk_fed.gram, engine auto",
    "torch.func": "the tutorial's vmap(jacrev) and einsum, Jacobian computed once",
    "nngeometry": "GramMatrix (FMatDense by layer hooks), all samples in one batch; "
    "the trace as the sum of one such matrix per output; for convolutions Jacobian "
    "(PFMapDense) and one product",
    "neural-tangents": "empirical_ntk_fn, STRUCTURED_DERIVATIVES, vmap_axes=0, jit; "
    "its trace times the number of outputs",
}


def interpreter(tool: str) -> str:
    """The Python that has ``tool``, in an environment made first where there is none.

    Raises:
        RuntimeError: the environment cannot be made; says what failed.
    """
    if tool in HERE:
        return sys.executable
    folder = ENVIRONMENTS / tool
    python, ready = str(folder / "bin" / "python"), folder / "ready.json"
    wanted = json.dumps(REQUIREMENTS[tool])
    if ready.exists() and ready.read_text() == wanted:
        return python
    print(f"making an environment for {tool} (once, minutes)", flush=True)
    _call(sys.executable, "-m", "venv", "--clear", os.path.relpath(folder))
    for packages in REQUIREMENTS[tool]:
        _call(python, "-m", "pip", "install", "--quiet", *packages)
    ready.write_text(wanted)
    return python


def _call(*command: str) -> None:
    if subprocess.run(command).returncode != 0:  # its own words are on the terminal
        raise RuntimeError(f"failed: {' '.join(command[2:5])} ... {command[-1]}")


class Tool:
    """The process of one tool on one case, or on the cases of one folder."""

    def __init__(
        self,
        name: str,
        case: Path,
        *,
        threads: int,
        device: str,
        worker: str = "worker.py",
    ) -> None:
        count = str(threads)
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        self.error: str | None = None
        self.process: subprocess.Popen | None = None
        try:
            python = interpreter(name)
        except RuntimeError as error:
            self.error = f"no environment: {error}"
            return
        script = str(Path(__file__).with_name(worker))
        self.process = subprocess.Popen(
            [python, script, name, str(case), count, device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | dict.fromkeys(names, count),
            text=True,
        )

    def ask(self, command: str, limit: float = LIMIT) -> dict:
        """Its answer; after an error, a death or ``limit`` seconds: none any more."""
        if self.process is None:
            return {}
        try:
            self.process.stdin.write(command + "\n")
            self.process.stdin.flush()
            ready = select.select([self.process.stdout], [], [], limit)[0]
            line = self.process.stdout.readline() if ready else None
        except BrokenPipeError:
            line = ""
        if line:
            answer = json.loads(line)
            self.error = answer.get("error", "")[:300] or None
        elif line is None:
            self.error = f"over {limit:.0f} s"
        else:
            self.error = f"ended with status {self.process.wait()}"
        if self.error:
            self.close()
            return {}
        time.sleep(PAUSE)
        return answer

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None
