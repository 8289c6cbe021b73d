"""Each limit of what a caller may bring or hold: the last that fits is taken, one more is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedcore.errors import InvalidRequestError, OverloadedError, UploadError
from fedcore.federated.task import Task
from fedcore.v1 import upload_service_pb2
from fedcore.wire.channels import METADATA_BYTES
from fedcore.wire.envelope import TASK, Place, signed_bytes
from fedcore.wire.transfer import CHUNK_BYTES
from fedserver.admission import Admission, LoopLag
from fedserver.authorisation import PERMISSIONS, Caller
from fedserver.federation import hosting
from fedserver.federation.interface import Assigned, CheckIn, Submission
from fedserver.services.transfer import UploadService
from fedserver.serving import _check_metadata
from fedserver.store.records import Idempotency
from tests.server.federation.world import World, task_of, world_in
from tests.variants import mostly_slow

TASK_OF_ONE = task_of(clients=2, secure="", deadline_s=3600, heartbeat_s=3600)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_in(tmp_path, TASK_OF_ONE, clients=2) as made:
        yield made


async def submit(world: World, task: Task) -> None:
    assert world.federation is not None
    signature = world.author.sign(signed_bytes(task.canonical, method=TASK, place=Place()))
    once = Idempotency(world.user.principal, "SubmitTask", task.digest[:16], bytes(32))
    await world.federation.submit(world.user, Submission(task.canonical, signature, b""), once=once)


async def test_so_many_tasks_run_at_once_and_one_more_is_told_to_come_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosting, "_MOST_TASKS", 3)
    for seed in (10, 11):  # beside the one that runs
        await submit(world, replace(TASK_OF_ONE, seed=seed))
    with pytest.raises(OverloadedError) as refused:
        await submit(world, replace(TASK_OF_ONE, seed=12))
    assert refused.value.retry is not None


async def assigned(world: World) -> list[tuple[Caller, bytes]]:
    """Each device, as it calls, with its assignment."""
    assert world.federation is not None
    none = frozenset[str]()
    asks = [
        CheckIn(device.identity.id, "", "1", none, frozenset({"toy"}), none)
        for device in world.devices
    ]
    callers = [device.caller for device in world.devices]
    answers = await asyncio.gather(*map(world.federation.check_in, callers, asks))
    return [
        (caller, answer.assignment_id)
        for caller, answer in zip(callers, answers, strict=True)
        if isinstance(answer, Assigned)
    ]


async def test_an_update_has_the_size_that_follows_from_its_task(world: World) -> None:
    (caller, part), _ = await assigned(world)
    assert world.federation is not None
    size = TASK_OF_ONE.layout.upload_bytes
    for wrong in (size - 1, size + 1):
        with pytest.raises(UploadError):
            await world.federation.begin_upload(caller, part, size=wrong, header=None)
    await world.federation.begin_upload(caller, part, size=size, header=None)


@pytest.mark.parametrize("wrong", mostly_slow([0, 1 << 40, 1, (1 << 64) - 1], quick=2))
async def test_a_seal_that_states_another_size_takes_nobody_s_room(
    world: World, wrong: int
) -> None:
    """Also after a restart, when the seal is the first that is heard of the upload."""
    (one, part), (other, others) = await assigned(world)
    assert world.federation is not None
    size = TASK_OF_ONE.layout.upload_bytes
    begun = await world.federation.begin_upload(one, part, size=size, header=None)
    await world.crash()
    with pytest.raises(UploadError, match="bytes"):
        await world.call(
            lambda found: found.commit_upload(one, begun.upload_id, size=wrong, sha256=bytes(32))
        )
    for caller, assignment in ((other, others), (one, part)):
        await world.federation.begin_upload(caller, assignment, size=size, header=None)


async def test_a_chunk_has_at_most_its_size() -> None:
    class Taking:
        async def put_chunk(self, caller: Any, upload_id: bytes, **options: Any) -> int:
            return len(options["data"])

    service = UploadService(Taking())  # type: ignore[arg-type]
    caller = Caller("client", id=bytes(16), name="00" * 16, role="client")

    async def put(size: int) -> int:
        request = upload_service_pb2.PutChunkRequest(upload_id=bytes(16), data=bytes(size))
        return (await service.PutChunk(caller, request)).committed_offset

    assert await put(CHUNK_BYTES) == CHUNK_BYTES
    for wrong in (0, CHUNK_BYTES + 1):
        with pytest.raises(InvalidRequestError):
            await put(wrong)


@pytest.mark.parametrize(("more", "fits"), [(0, True), (1, False)])
def test_metadata_have_at_most_so_many_bytes(more: int, fits: bool) -> None:
    pairs = (("key", "v" * (METADATA_BYTES - 3 + more)),)
    context: Any = SimpleNamespace(invocation_metadata=lambda: pairs)
    if fits:
        _check_metadata(context)
    else:
        with pytest.raises(OverloadedError):
            _check_metadata(context)


def test_a_caller_may_have_eight_calls_held_and_others_as_many() -> None:
    admission = Admission(now_s=lambda: 0.0, lag=LoopLag(), disk_free=lambda: 1.0)
    waits = PERMISSIONS["/fedcore.v1.RoundService/Next"]
    with ExitStack() as held:
        for who in ("one", "other"):
            for _ in range(8):
                held.enter_context(admission.held(waits, who))
            with pytest.raises(OverloadedError), admission.held(waits, who):
                raise AssertionError


def test_a_caller_has_twenty_calls_at_once() -> None:
    admission = Admission(now_s=lambda: 0.0, lag=LoopLag(), disk_free=lambda: 1.0)
    beat = PERMISSIONS["/fedcore.v1.ClientService/Heartbeat"]
    for _ in range(20):
        admission.check_caller(beat, "one")
    with pytest.raises(OverloadedError):
        admission.check_caller(beat, "one")
    admission.check_caller(beat, "other")
