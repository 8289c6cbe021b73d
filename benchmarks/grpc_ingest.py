"""Updates reach the server's disk nearly as fast as a loopback connection can carry them."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.federation.bare_tls import send_s
from benchmarks.federation.connections import connected
from benchmarks.federation.part import Part, Update
from benchmarks.federation.processes import started
from benchmarks.federation.stage import Stage
from benchmarks.federation.tasks import arrays_task
from benchmarks.figure import Figure, Target
from benchmarks.peers import Peers
from benchmarks.registry import benchmark
from fedcore.federated.parameters import parameters_of
from fedcore.model_format import encode_model
from fedcore.wire.transfer import pieces

__all__ = ["first_model", "grpc_ingest"]

_CLIENTS, _PARAMETERS = 4, 25_000_000
_REPEATS = 3
_BARE = "a bare TLS socket"


@benchmark("grpc-ingest", "How fast do updates come in over mTLS, until they are on the disk?")
def grpc_ingest(_peers: Peers) -> Iterator[Figure]:
    """4 clients send 100 MB each; from the first call to the last seal, both ends on all cores.

    The socket carries one update from Python's `ssl` to Python's `ssl`, and nobody keeps it.
    """
    task = arrays_task(clients=_CLIENTS, parameters=_PARAMETERS)
    update = Update.of(task)
    chunks = [update.data[at : at + length] for at, length in pieces(len(update.data))]
    ours, bare = [], []
    for _ in range(_REPEATS):
        with TemporaryDirectory() as name:
            model = first_model(_PARAMETERS)
            stage = Stage(Path(name), clients=_CLIENTS, task=task, model=model)
            seconds = asyncio.run(_upload_s(stage, update))
            ours.append(_CLIENTS * len(update.data) / 1e6 / seconds)
            module = "benchmarks.federation.bare_tls"
            command = [sys.executable, "-m", module, name, str(len(update.data))]
            with started(command, folder=stage.folder) as process:
                address = process.line().decode().strip()
                seconds = send_s(address, stage.devices[0], stage.root, chunks)
            bare.append(len(update.data) / 1e6 / seconds)
    rate, limit = max(ours), max(bare)
    yield Figure("grpc-ingest", rate, "MB/s", rate / limit, _BARE, Target("value", ">=", 200))
    bound = Target("ratio", ">=", 0.4)
    yield Figure("grpc-ingest.share", rate, "MB/s", rate / limit, _BARE, bound)


def first_model(parameters: int) -> bytes:
    """The file of a model of one plain array, with which a task begins."""
    task = arrays_task(clients=2, parameters=parameters)
    vector = np.zeros(parameters, np.float32)
    return b"".join(encode_model(vector, parameters_of(task), metadata={}))


async def _upload_s(stage: Stage, update: Update) -> float:
    with stage.serving() as server:
        async with connected(server.address, stage.devices, stage.root) as channels:
            parts = [Part(*both) for both in zip(stage.devices, channels, strict=True)]
            await asyncio.gather(*(part.check_in() for part in parts))
            await asyncio.gather(*(part.ordered("train") for part in parts))
            begin = time.perf_counter()
            await asyncio.gather(*(part.upload(update) for part in parts))
            return time.perf_counter() - begin
