"""A round of a hundred large updates runs in the memory of three models and a little."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.federation.connections import connected
from benchmarks.federation.part import Part, Update
from benchmarks.federation.processes import Process, resident_bytes
from benchmarks.federation.stage import Stage
from benchmarks.federation.tasks import arrays_task
from benchmarks.figure import Figure, Target
from benchmarks.grpc_ingest import first_model
from benchmarks.peers import Peers
from benchmarks.registry import benchmark
from fedcore.v1 import round_service_pb2

__all__ = ["grpc_memory"]

_CLIENTS, _PARAMETERS = 100, 25_000_000
_MODEL_MB = 4 * _PARAMETERS / 1e6
_BESIDE_MB = 256 * 2**20 / 1e6
_BARE = "three models"


@benchmark("grpc-memory", "How much memory does a round take whose 100 updates have 100 MB each?")
def grpc_memory(_peers: Peers) -> Iterator[Figure]:
    """The most that was resident from the server's start until the round is completed.

    100 clients send at once, without masks.
    """
    task = arrays_task(clients=_CLIENTS, parameters=_PARAMETERS)
    update = Update.of(task)
    with TemporaryDirectory() as folder:
        model = first_model(_PARAMETERS)
        stage = Stage(Path(folder), clients=_CLIENTS, task=task, model=model)
        del model
        with stage.serving() as server:
            asyncio.run(_round(stage, server, update))
            most = resident_bytes(server.pid, most=True) / 1e6
    bound = Target("value", "<=", round(3 * _MODEL_MB + _BESIDE_MB))
    yield Figure("grpc-memory", most, "MB", most / (3 * _MODEL_MB), _BARE, bound)


async def _round(stage: Stage, server: Process, update: Update) -> None:
    async with connected(server.address, stage.devices, stage.root) as channels:
        parts = [Part(*both) for both in zip(stage.devices, channels, strict=True)]
        await asyncio.gather(*(part.check_in() for part in parts))
        await asyncio.gather(*(part.ordered("train") for part in parts))
        await asyncio.gather(*(part.upload(update) for part in parts))
        for part in parts:
            ended = await part.ordered("finished")
            assert ended.finished.outcome == round_service_pb2.Finished.OUTCOME_COMPLETED
