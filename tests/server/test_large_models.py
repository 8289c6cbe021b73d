"""A model of a gigabyte goes down and its update comes up, and nobody holds more than one of it.

Real processes, whose memory the kernel tells: the whole beyond what each had before the transfer.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.federation.connections import connected
from benchmarks.federation.part import Part
from benchmarks.federation.processes import resident_bytes
from benchmarks.federation.stage import Stage
from benchmarks.federation.tasks import arrays_task
from benchmarks.grpc_ingest import first_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PARAMETERS = 250_000_000
MODEL = 4 * PARAMETERS
BESIDE = 64 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's figures are those of Linux")
def test_a_gigabyte_goes_both_ways_in_the_memory_of_one_model(tmp_path: Path) -> None:
    task = arrays_task(clients=2, parameters=PARAMETERS)
    stage = Stage(tmp_path / "server", clients=2, task=task, model=first_model(PARAMETERS))
    with stage.serving() as server, _device(stage, server.address, tmp_path / "device") as client:
        asyncio.run(_check_in(stage, server.address))  # the second of two, who does no more
        before = resident_bytes(server.pid)
        downloaded = _said(client)
        assert downloaded["downloaded"] > MODEL
        assert downloaded["growth"] < BESIDE
        assert resident_bytes(server.pid, most=True) - before < BESIDE
        assert client.stdin is not None
        client.stdin.write("go on\n")
        client.stdin.flush()
        uploaded = _said(client)
        assert uploaded["uploaded"] > MODEL
        assert uploaded["growth"] < BESIDE
        # What was sealed is added up in the background, into an accumulator as large as a model.
        deadline = time.monotonic() + 120
        while resident_bytes(server.pid) - before < 0.99 * MODEL:
            assert time.monotonic() < deadline, "the update was not added up"
            time.sleep(0.05)
        assert resident_bytes(server.pid, most=True) - before < MODEL + BESIDE


@contextmanager
def _device(stage: Stage, address: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    folder.mkdir()
    device = stage.devices[0]
    for name, content in {
        "root.pem": stage.root,
        "tls.key": device.tls.key,
        "tls.pem": device.tls.chain,
        "signing.key": device.signing.private_bytes_raw(),
    }.items():
        (folder / name).write_bytes(content)
    program = Path(__file__).with_name("large_model_client.py")
    command = [sys.executable, str(program), str(folder), address]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as client:
        try:
            yield client
        finally:
            client.kill()


async def _check_in(stage: Stage, address: str) -> None:
    async with connected(address, stage.devices[1:], stage.root) as (channel,):
        async with asyncio.timeout(60):  # so that a device that fails does not leave us waiting
            await Part(stage.devices[1], channel).check_in()


def _said(client: subprocess.Popen[str]) -> dict[str, int]:
    assert client.stdout is not None
    line = client.stdout.readline()
    assert line, f"the device ended with exit code {client.wait()}"
    found: dict[str, int] = json.loads(line)
    return found
