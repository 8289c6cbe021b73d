"""What belongs to one tenant is not to be had by another, nor spoilt for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fedcore.errors import NotFoundError
from fedcore.wire.envelope import TASK, Place, signed_bytes
from fedserver.federation.interface import Submission
from fedserver.store.records import Idempotency
from tests.server.federation.world import task_of, world_in


async def test_two_tenants_with_the_same_task_each_get_their_model(tmp_path: Path) -> None:
    async with world_in(tmp_path, task_of()) as world:
        assert world.submitted is not None and world.federation is not None
        other = replace(world.user, tenant="other")
        canonical = world.task.canonical
        signature = world.author.sign(signed_bytes(canonical, method=TASK, place=Place()))
        once = Idempotency(other.principal, "SubmitTask", bytes(16), bytes(32))
        submission = Submission(canonical, signature, b"")
        theirs = await world.federation.submit(other, submission, once=once)
        assert theirs.task_id != world.submitted.task_id
        assert theirs.model_digest == world.submitted.model_digest
        for caller, task_id in (
            (world.user, world.submitted.task_id),
            (other, theirs.task_id),
            (replace(world.devices[0].caller, tenant="other"), theirs.task_id),
        ):
            found = await world.federation.model(caller, theirs.model_digest)
            assert found.task_id == task_id
        stranger = replace(world.user, tenant="stranger")
        with pytest.raises(NotFoundError):
            await world.federation.model(stranger, theirs.model_digest)
        with pytest.raises(NotFoundError):
            await world.federation.task(other, world.submitted.task_id)
