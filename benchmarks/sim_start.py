"""How long it takes from the command to the first round."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.figure import Figure, Target
from benchmarks.peers import Peers
from benchmarks.registry import benchmark
from benchmarks.simulated import people
from benchmarks.tasks import CLIENTS, SAMPLES

__all__ = ["sim_start"]

_REPEATS = 5
_SCENARIO = """
scenario = { name = "start", mode = "plain", evaluate_every = 0 }
population = { source = { name = "npz", path = "people.npz" }, partition = { name = "natural" } }
task = { name = "start", seed = 1 }
data = { dataset = "images" }
algorithm = { name = "fedavg" }
secure_aggregation = { profile = "off" }
rounds = { count = 1 }
cohort = { goal = 50, minimum = 50 }
[training]
loss = "cross_entropy"
epochs = 1
batch_size = 20
optimizer = { name = "sgd", lr = 0.05 }
[[model.layers]]
kind = "flatten"
[[model.layers]]
kind = "linear"
inputs = 784
outputs = 200
[[model.layers]]
kind = "relu"
[[model.layers]]
kind = "linear"
inputs = 200
outputs = 62
"""


@benchmark("sim-start", "How long does `fed sim run` take until its first round is over?")
def sim_start(_peers: Peers) -> Iterator[Figure]:
    """A thousand clients in a file of 188 MB; the first round records its programs."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        data = people(CLIENTS)
        ids = np.repeat(np.arange(CLIENTS), SAMPLES)
        np.savez(folder / "people.npz", x=data.x, y=data.y, ids=ids)
        (folder / "start.toml").write_text(_SCENARIO)
        took = min(_seconds(folder, run) for run in range(_REPEATS))
    yield Figure("sim-start", took, "s", target=Target("value", "<=", 2.0))


def _seconds(folder: Path, run: int) -> float:
    program = "import sys; from fedcore.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "sim", "run", "start.toml", "--format", "jsonl"]
    # As where it is installed: what was compiled once is not compiled again.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    begun = time.perf_counter()
    with subprocess.Popen(
        [*command, "--folder", f"runs/{run}"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        first = next(line for line in process.stdout if '"event": "round"' in line)
        took = time.perf_counter() - begun
        process.stdout.read()
    assert process.returncode == 0, first
    return took
