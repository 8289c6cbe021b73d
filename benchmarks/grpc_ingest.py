"""Updates reach the server's disk nearly as fast as a loopback connection can carry them."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
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
from fedcore.v1 import upload_service_pb2
from fedcore.v1.upload_service_pb2_grpc import UploadServiceStub
from fedcore.wire.transfer import WINDOW, pieces

__all__ = ["first_model", "grpc_ingest"]

_CLIENTS, _PARAMETERS = 4, 25_000_000
_REPEATS = 3
_BARE = "a bare TLS socket"


@benchmark("grpc-ingest", "How fast do updates come in over mTLS, until they are on the disk?")
def grpc_ingest(_peers: Peers) -> Iterator[Figure]:
    """4 clients send 100 MB each; from the first call to the last seal, both ends on all cores.

    The socket carries one update from Python's `ssl` to Python's `ssl`, and nobody keeps it. The
    empty handler takes the same calls through the same gRPC, and keeps nothing either.
    """
    task = arrays_task(clients=_CLIENTS, parameters=_PARAMETERS)
    update = Update.of(task)
    chunks = [update.data[at : at + length] for at, length in pieces(len(update.data))]
    ours, bare, empty = [], [], []
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
            module = "benchmarks.federation.empty_server"
            with started([sys.executable, "-m", module, name], folder=stage.folder) as process:
                address = process.line().decode().strip()
                seconds = asyncio.run(_calls_s(address, stage, chunks))
            empty.append(_CLIENTS * len(update.data) / 1e6 / seconds)
    rate, limit = max(ours), max(bare)
    yield Figure("grpc-ingest", rate, "MB/s", rate / limit, _BARE, Target("value", ">=", 200))
    bound = Target("ratio", ">=", 0.4)
    yield Figure("grpc-ingest.share", rate, "MB/s", rate / limit, _BARE, bound)
    yield Figure("grpc-ingest.calls", rate, "MB/s", rate / max(empty), "an empty handler")


def first_model(parameters: int) -> bytes:
    """The file of a model of one plain array, with which a task begins."""
    task = arrays_task(clients=2, parameters=parameters)
    vector = np.zeros(parameters, np.float32)
    return b"".join(encode_model(vector, parameters_of(task), metadata={}))


async def _calls_s(address: str, stage: Stage, chunks: Sequence[bytes]) -> float:
    """Seconds for the calls of the same uploads to a handler that does nothing."""
    async with connected(address, stage.devices, stage.root) as channels:

        async def send(channel: grpc.aio.Channel) -> None:
            call = UploadServiceStub(channel).PutChunk
            turn = asyncio.Semaphore(WINDOW)

            async def put(data: bytes) -> None:
                async with turn:
                    request = upload_service_pb2.PutChunkRequest(upload_id=bytes(16), data=data)
                    await call(request, timeout=60.0)

            await asyncio.gather(*map(put, chunks))

        begin = time.perf_counter()
        await asyncio.gather(*map(send, channels))
        return time.perf_counter() - begin


async def _upload_s(stage: Stage, update: Update) -> float:
    with stage.serving() as server:
        async with connected(server.address, stage.devices, stage.root) as channels:
            parts = [Part(*both) for both in zip(stage.devices, channels, strict=True)]
            await asyncio.gather(*(part.check_in() for part in parts))
            await asyncio.gather(*(part.ordered("train") for part in parts))
            begin = time.perf_counter()
            await asyncio.gather(*(part.upload(update) for part in parts))
            return time.perf_counter() - begin
