"""A task begins with the model that its author uploaded, or not at all."""

from __future__ import annotations

import itertools
import math
import os
import struct
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.federation.tasks import arrays_task
from fedcore.errors import (
    CheckpointError,
    DataFormatError,
    InvalidRequestError,
    NotFoundError,
    TruncatedFileError,
    UploadError,
)
from fedcore.failpoints import arm, disarm
from fedcore.federated.parameters import parameters_of
from fedcore.federated.task import Task
from fedcore.model_format import encode_model
from fedcore.wire.envelope import TASK, Place, signed_bytes
from fedcore.wire.transfer import crc32, pieces
from fedserver.authorisation import Caller
from fedserver.federation.interface import Submission, SubmittedTask
from fedserver.store.records import Idempotency
from tests.server.federation.world import World, task_of, world_in
from tests.server.uploads import sha

TASK_OF_ALL = task_of()
SPEC = parameters_of(TASK_OF_ALL)
VECTOR = np.arange(SPEC.size, dtype=np.float32)
FILE = b"".join(encode_model(VECTOR, SPEC, metadata={"from": "elsewhere"}))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_in(tmp_path, TASK_OF_ALL) as made:
        yield made


async def upload(world: World, data: bytes, *, caller: Caller | None = None) -> bytes:
    """Its digest, once it is committed."""
    assert world.federation is not None
    caller, digest = caller or world.user, sha(data)
    begun = await world.federation.begin_model(caller, digest, size=len(data))
    for offset, length in pieces(len(data), start=begun.committed_offset):
        piece = data[offset : offset + length]
        await world.federation.put_model_chunk(
            caller, digest, offset=offset, crc32=crc32(piece), data=piece
        )
    await world.federation.commit_model(caller, digest, size=len(data))
    return digest


async def submit(
    world: World,
    *,
    number: int = 1,
    caller: Caller | None = None,
    task: Task | None = None,
    **model: bytes,
) -> SubmittedTask:
    assert world.federation is not None
    caller = caller or world.user
    # A task of its own for each number: the very one that runs already would be refused.
    canonical = (task or task_of(seed=100 + number)).canonical
    signature = world.author.sign(signed_bytes(canonical, method=TASK, place=Place()))
    once = Idempotency(caller.principal, "SubmitTask", bytes([number]) * 16, bytes(32))
    submission = Submission(canonical, signature, **{"model": b"", **model})
    return await world.federation.submit(caller, submission, once=once)


def staged(world: World) -> list[str]:
    return os.listdir(world.folder / "staging")


def blobs(world: World) -> set[str]:
    return {path.name for path in (world.folder / "blobs").rglob("*") if path.is_file()}


async def test_an_uploaded_model_is_the_same_as_one_that_travels_along(world: World) -> None:
    digest = await upload(world, FILE)
    uploaded = await submit(world, number=1, model_sha256=digest)
    inside = await submit(world, number=2, model=FILE)
    assert digest not in (uploaded.model_digest, inside.model_digest)
    for found in (uploaded, inside):
        assert np.array_equal(await world.theta(found.model_digest), VECTOR)
    assert staged(world) == []


async def test_the_same_submission_again_is_answered_though_its_file_is_gone(world: World) -> None:
    digest = await upload(world, FILE)
    first = await submit(world, model_sha256=digest)
    assert await submit(world, model_sha256=digest) == first
    with pytest.raises(NotFoundError, match="first model"):
        await submit(world, number=2, model_sha256=digest)


async def test_what_another_uploaded_or_nobody_cannot_be_named(world: World) -> None:
    await upload(world, FILE)
    for caller in (replace(world.user, tenant="two"), replace(world.user, name="bob")):
        with pytest.raises(NotFoundError, match="no such first model"):
            await submit(world, caller=caller, model_sha256=sha(FILE))
    with pytest.raises(NotFoundError, match="no such first model"):
        await submit(world, model_sha256=sha(b"of nobody"))


# Two rooms of them: a tenant has at most four files that wait for their tasks.
OTHER_MODELS = {
    "another": (FILE.replace(b"weight", b"wright"), CheckpointError),
    "shape": (FILE.replace(b"[4,3]", b"[3,4]"), CheckpointError),
    "short": (FILE[:-4], TruncatedFileError),
    "long": (FILE + b"more", DataFormatError),
}
NO_MODELS = {
    "none": (b"no model at all", DataFormatError),
    "nan": (FILE[:-4] + struct.pack("<f", math.nan), DataFormatError),
    "infinite": (FILE[:-4] + struct.pack("<f", -math.inf), DataFormatError),
}


@pytest.mark.parametrize("others", [OTHER_MODELS, NO_MODELS], ids=["other models", "no models"])
async def test_the_file_of_another_model_is_refused_and_kept_for_another_task(
    world: World, others: dict[str, tuple[bytes, type[Exception]]]
) -> None:
    before, numbers = blobs(world), itertools.count(1)
    for kept, (which, (data, error)) in enumerate(others.items(), start=1):
        assert data != FILE, which
        digest = await upload(world, data)
        for model in ({"model_sha256": digest}, {"model": data}):
            with pytest.raises(error):
                await submit(world, number=next(numbers), **model)
        assert len(await world.store.tasks()) == 1, which
        assert blobs(world) == before, which
        assert len(staged(world)) == kept, which


async def test_a_model_that_is_too_large_or_of_other_bytes_is_not_taken(world: World) -> None:
    assert world.federation is not None
    with pytest.raises(UploadError, match="too large"):
        await world.federation.begin_model(world.user, sha(FILE), size=world.largest_model + 1)
    await world.federation.begin_model(world.user, sha(FILE), size=2)
    await world.federation.put_model_chunk(
        world.user, sha(FILE), offset=0, crc32=crc32(b"xx"), data=b"xx"
    )
    with pytest.raises(UploadError, match="another digest"):
        await world.federation.commit_model(world.user, sha(FILE), size=2)
    assert staged(world) == []


@pytest.mark.parametrize("name", ["blob.before_rename", "blob.after_rename"])
async def test_a_server_that_dies_over_a_submission_has_no_task_of_half_a_model(
    world: World, name: str
) -> None:
    digest = await upload(world, FILE)
    before = blobs(world)
    arm(f"{name}=error", test_mode=True)
    try:
        with pytest.raises(OSError, match="blob"):
            await submit(world, model_sha256=digest)
    finally:
        disarm()
    await world.crash()
    assert len(await world.store.tasks()) == 1
    for left in blobs(world) - before:  # whole, and nobody's, so that it is collected
        await world.blobs.verify(bytes.fromhex(left))
    again = await submit(world, model_sha256=digest)
    assert np.array_equal(await world.theta(again.model_digest), VECTOR)
    assert staged(world) == []


async def test_uploads_that_nobody_names_outlive_a_restart_but_not_a_day(world: World) -> None:
    digest = await upload(world, FILE)
    await world.crash()
    assert world.federation is not None
    await world.federation.collect()
    assert len(staged(world)) == 1
    assert (await world.federation.begin_model(world.user, digest, size=len(FILE))).sealed
    for name in staged(world):
        os.utime(world.folder / "staging" / name, (1.0, 1.0))
    await world.federation.collect()
    assert staged(world) == []
    with pytest.raises(NotFoundError):
        await submit(world, model_sha256=digest)


async def test_plain_arrays_come_with_a_first_model(tmp_path: Path) -> None:
    async with world_in(tmp_path, TASK_OF_ALL) as world:
        with pytest.raises(InvalidRequestError, match="without a first model"):
            await submit(world, task=arrays_task(clients=2, parameters=4))
