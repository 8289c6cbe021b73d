"""A first model of 300 MB is handed in, and neither the command nor the server holds it.

Real processes, whose memory the kernel tells: the whole beyond what the same took for a small one.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.federation.processes import FED, Process, resident_bytes
from benchmarks.federation.stage import Stage
from benchmarks.federation.tasks import linear_task
from fedcore.checkpoint import save_checkpoint
from fedcore.federated.parameters import parameters_of
from fedcore.federated.task import Task
from fedcore.model_format import encode_model
from fedserver.model_files import ModelOrigin
from tests.server.own_program import own_program_task

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the kernel's figures are those of Linux"),
]

ROWS = 75_000  # of 4,000 bytes
MODEL = 4_000 * (ROWS + 1)
BESIDE = 64 << 20

_COMMAND = """
import sys
from fedcore.cli import main
code = main()
[line] = [line for line in open("/proc/self/status") if line.startswith("VmHWM:")]
print(line.split()[1], file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize("sorted_by_name", [False, True])
def test_a_large_first_model_is_taken_in_the_memory_of_a_small_one(
    tmp_path: Path, sorted_by_name: bool
) -> None:
    stage = Stage(tmp_path / "server", clients=1, task=linear_task(clients=2))
    with stage.serving() as server:
        profile = _profile(stage, server)
        _, small = _submitted(tmp_path, profile, rows=1, sorted_by_name=sorted_by_name)
        before = resident_bytes(server.pid, most=True)
        digest, large = _submitted(tmp_path, profile, rows=ROWS, sorted_by_name=sorted_by_name)
        grown = resident_bytes(server.pid, most=True) - before
    assert grown < BESIDE
    assert large - small < BESIDE
    [kept] = (tmp_path / "server" / "state" / "blobs").rglob(digest)
    assert kept.stat().st_size > MODEL
    assert list((tmp_path / "server" / "state" / "staging").iterdir()) == []


def _submitted(folder: Path, profile: Path, *, rows: int, sorted_by_name: bool) -> tuple[str, int]:
    """The digest of the first model that a command has handed in, and the command's memory."""
    path, model = folder / "task.toml", folder / "first.safetensors"
    path.write_text(own_program_task(rows=rows))
    task = Task.from_toml(path).resolved()
    spec = parameters_of(task)
    vector = np.arange(spec.size, dtype=np.float32)
    if sorted_by_name:
        save_checkpoint(model, spec.split(vector))
    else:
        with model.open("wb") as file:
            file.writelines(encode_model(vector, spec, metadata={}))
    options = ["--model", str(model), "--profile", str(profile), "--format", "json"]
    command = [sys.executable, "-c", _COMMAND, "task", "submit", str(path), *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, ended.stderr
    digest: str = json.loads(ended.stdout)["data"]["model"]
    expected = hashlib.sha256()
    for piece in encode_model(vector, spec, metadata=ModelOrigin(task.digest.hex(), 0, b"").texts):
        expected.update(piece)
    assert digest == expected.hexdigest()
    return digest, 1024 * int(ended.stderr.splitlines()[-1])


def _profile(stage: Stage, server: Process) -> Path:
    who = ["--name", "ada", "--role", "researcher", "--address", server.address]
    where = ["--directory", "authority", "--output", "profile"]
    command = [*FED, "ca", "issue", *who, *where]
    subprocess.run(command, cwd=stage.folder, check=True, capture_output=True)
    return stage.folder / "profile"
