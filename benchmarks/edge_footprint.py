"""What a small device pays: dependencies, the time of an import, and memory, waiting and training.

The wheel is installed without extras in an environment of its own, and the client that is measured
is a process of that environment, a member of a real federation on this machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.figure import Figure, Target
from benchmarks.peers import Peers
from benchmarks.registry import benchmark
from examples.deployment import Deployment
from fedcore.errors import InstallError

__all__ = ["edge_footprint"]

_ROOT = Path(__file__).resolve().parents[1]
_IMPORTS = 5
_SETTLED_S, _WATCHED_S = 4.0, 30.0
_MB = 1_000_000
_FEATURES, _HIDDEN, _CLASSES = 784, 1258, 10
_PARAMETERS = (_FEATURES + 1) * _HIDDEN + (_HIDDEN + 1) * _CLASSES
_MODEL_MB = 4 * _PARAMETERS / _MB
_TIMED = """
from time import perf_counter
begin = perf_counter()
import {module}
print(1e3 * (perf_counter() - begin))
"""
_REQUIRED = r"""
import json, re
from importlib.metadata import requires
lines = (line for line in requires("fedcore-fl") if "extra ==" not in line)
print(json.dumps([re.match(r"[\w-]+", line)[0] for line in lines]))
"""
_TASK = """
[task]
name = "edge"
[model]
[[model.layers]]
kind = "linear"
inputs = {features}
outputs = {hidden}
[[model.layers]]
kind = "relu"
[[model.layers]]
kind = "linear"
inputs = {hidden}
outputs = {classes}
[data]
dataset = "pictures"
[training]
loss = "cross_entropy"
epochs = 1
batch_size = 32
[training.optimizer]
{optimizer}
[algorithm]
name = "fedavg"
[secure_aggregation]
profile = "off"
[rounds]
count = 3
[cohort]
goal = 1
minimum = 1
"""
_OPTIMIZERS = {
    "sgd": 'name = "sgd"\nlr = 0.05\nmomentum = 0.9',
    "adam": 'name = "adam"\nlr = 0.001',
}
_POLICY = """
[secure_aggregation]
profile = "off"
smallest_cohort = 1
"""


@benchmark(
    "edge-footprint", "What does a client cost a small device, without extras, waiting and at work?"
)
def edge_footprint(_peers: Peers) -> Iterator[Figure]:
    """Counts dependencies, times the import, and reads the memory of one client in a federation.

    `.idle` is what a member keeps resident before its first task, `.idle-cpu` the processor time
    that it spends on waiting. `.training-*` is the most that a whole client keeps resident in three
    rounds of one epoch over 600 examples, for a model of a million parameters; `.later-*` is what
    it keeps when they are over.
    """
    with TemporaryDirectory(prefix="fedcore-edge-") as name:
        folder = Path(name)
        environment = _installed(folder)
        required = json.loads(_output(environment / "python", _REQUIRED))
        print(f"benchmarks: the base install needs {', '.join(required)}", file=sys.stderr)
        count = Target("value", "<=", 4)
        yield Figure("edge-footprint.dependencies", len(required), "packages", target=count)
        yield _import(environment / "python")
        yield from _waiting(folder / "waiting", environment / "fed")
        for optimizer in _OPTIMIZERS:
            yield from _training(folder / optimizer, environment / "fed", optimizer)


def _installed(folder: Path) -> Path:
    """The programs of a new environment with nothing but the wheel and what it needs."""
    wheels, environment = folder / "wheels", folder / "environment"
    build = (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels))
    _run(build, cwd=_ROOT)
    _run((sys.executable, "-m", "venv", str(environment)))
    (wheel,) = wheels.glob("*.whl")
    _run((str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", str(wheel)))
    return environment / "bin"


def _import(python: Path) -> Figure:
    """`import fedclient` beside `import numpy`, each the best of five fresh interpreters."""
    times = [
        [float(_output(python, _TIMED.format(module=module))) for module in ("fedclient", "numpy")]
        for _ in range(_IMPORTS)
    ]
    client_ms, numpy_ms = (min(column) for column in zip(*times, strict=True))
    bound, ratio = Target("value", "<=", 500), client_ms / numpy_ms
    return Figure("edge-footprint.import", client_ms, "ms", ratio, "import numpy", bound)


def _waiting(folder: Path, fed: Path) -> Iterator[Figure]:
    """A member of a federation that has no task."""
    with Deployment(folder, show=_quiet) as server, _client(server, fed, "waiting") as process:
        time.sleep(_SETTLED_S)
        before_s, begun_s = _processor_s(process), time.monotonic()
        time.sleep(_WATCHED_S)
        _require_alive(process, server)
        spent = (_processor_s(process) - before_s) / (time.monotonic() - begun_s)
        bound = Target("value", "<=", 60)
        yield Figure("edge-footprint.idle", _resident_mb(process, "VmRSS"), "MB", target=bound)
        quiet = Target("value", "<=", 1)
        yield Figure("edge-footprint.idle-cpu", 100 * spent, "% of a core", target=quiet)


def _training(folder: Path, fed: Path, optimizer: str) -> Iterator[Figure]:
    """The only client of a task, from its start to the end of the third round."""
    with Deployment(folder, show=_quiet) as server:
        layers = {"features": _FEATURES, "hidden": _HIDDEN, "classes": _CLASSES}
        terms = _TASK.format(**layers, optimizer=_OPTIMIZERS[optimizer])
        (folder / "task.toml").write_text(terms)
        with _client(server, fed, "training") as process:
            task = server.fed("task", "submit", "task.toml")["task_id"]
            while (shown := server.fed("task", "show", task)["state"]) == "RUNNING":
                _require_alive(process, server)
                time.sleep(0.5)
            if shown != "COMPLETED":
                raise InstallError(f"the task ended {shown}", why=f"see {server.logs}", fix="")
            peak, after = _resident_mb(process, "VmHWM"), _resident_mb(process, "VmRSS")
    bound = Target("value", "<=", 60 + 8 * _MODEL_MB)
    models = (peak - 60) / _MODEL_MB
    print(f"benchmarks: {optimizer} keeps 60 MB and {models:.1f} models", file=sys.stderr)
    yield Figure(f"edge-footprint.training-{optimizer}", peak, "MB", target=bound)
    yield Figure(f"edge-footprint.later-{optimizer}", after, "MB")


@contextmanager
def _client(server: Deployment, fed: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """`fed client run` of the small environment, a member with 600 examples."""
    folder = server.folder
    stream = np.random.default_rng(0)
    x = stream.random((600, _FEATURES), dtype=np.float32)
    np.savez(folder / "pictures.npz", x=x, y=stream.integers(0, _CLASSES, 600))
    (folder / "policy.toml").write_text(_POLICY)
    token = server.fed("token", "create", "--uses", "1", "--lifetime", "1h")["join_string"]
    _run((str(fed), "client", "join", token, "-d", name), cwd=folder)
    options = ("--data", "pictures=pictures.npz", "--policy", "policy.toml", "-d", name)
    with (folder / "client.log").open("wb") as log:
        process = subprocess.Popen(
            [str(fed), "client", "run", *options],
            cwd=folder,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait()


def _require_alive(process: subprocess.Popen[bytes], server: Deployment) -> None:
    server.check()
    if (code := process.poll()) is not None:
        told = (server.folder / "client.log").read_text()[-2000:]
        raise InstallError(f"the client ended with exit code {code}", why=told, fix="")


def _resident_mb(process: subprocess.Popen[bytes], quantity: str) -> float:
    """VmRSS, what is resident now, or VmHWM, the most that ever was; see proc_pid_status(5)."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{quantity}:"))
    return int(line.split()[1]) * 1024 / _MB


def _processor_s(process: subprocess.Popen[bytes]) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _output(python: Path, program: str) -> str:
    """What a program prints in a new interpreter that compiles no source that it has before."""
    keeping = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return _run((str(python), "-c", program), environment=keeping)


def _run(
    command: Sequence[str], *, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> str:
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise InstallError(
            f"{Path(command[0]).name} {' '.join(command[1:4])} failed",
            why=done.stderr.strip()[-2000:],
            fix="try the command by itself",
        )
    return done.stdout


def _quiet(text: str) -> None:
    """Commands that nobody follows."""
