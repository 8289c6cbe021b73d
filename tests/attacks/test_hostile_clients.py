"""Clients with valid certificates that want a task, or the server, to come to nothing."""

from __future__ import annotations

import asyncio
import secrets
import threading
from pathlib import Path

import pytest

from fedcore.errors import PhaseError
from fedcore.rounds import Phase
from fedcore.secagg.messages import Complaint, ComplaintReason, Message, Shares
from fedserver.federation import check_ins
from fedserver.federation.interface import CheckIn
from fedserver.federation.masked import MaskedSession, Records
from fedserver.store.records import TaskState
from tests.server.federation.device import Device
from tests.server.federation.test_rounds import MASKED
from tests.server.federation.world import World, task_of, world_in
from tests.variants import mostly_slow

NOT_DECRYPTED = ComplaintReason.NOT_DECRYPTED


def asking(device: Device, world: World) -> asyncio.Future[object]:
    """A check-in under way, under a request of its own."""
    ask = CheckIn(secrets.token_bytes(16), "", "1", frozenset(), frozenset({"toy"}), frozenset())
    return asyncio.ensure_future(world.call(lambda f: f.check_in(device.caller, ask)))


async def test_one_client_that_asks_often_begins_no_round_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_ins, "_HELD_S", 0.5)
    async with world_in(tmp_path, task_of(clients=3, deadline_s=0.2), clients=3) as world:
        for _ in range(2):
            await asyncio.gather(*(asking(world.devices[0], world) for _ in range(6)))
        assert world.submitted is not None
        attempt = await world.store.latest_attempt(world.submitted.task_id, 0)
        assert attempt is not None
        assert (attempt.ref.attempt, attempt.phase) == (1, Phase.PENDING.value)
        assert (await world.record()).state is TaskState.RUNNING


@pytest.mark.parametrize("kind", mostly_slow([Shares, Complaint]))
async def test_what_is_said_while_a_phase_is_closed_does_not_end_the_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Message]
) -> None:
    """A session is closed in a thread, and two calls of it at once are an error."""
    task = task_of(rounds=1, secure=MASKED)
    closing, go_on, shares = threading.Event(), threading.Event(), dict[bytes, Message]()
    during: list[Message] = []
    close, take = MaskedSession.close, MaskedSession.take

    def closes(self: MaskedSession, phase: Phase) -> Records:
        if phase is Phase.SHARES:
            closing.set()
            assert go_on.wait(20)
        return close(self, phase)

    def takes(self: MaskedSession, client: bytes, message: Message) -> Records:
        if isinstance(message, Shares):
            shares[client] = message
        if closing.is_set() and not go_on.is_set():
            during.append(message)
        return take(self, client, message)

    monkeypatch.setattr(MaskedSession, "close", closes)
    monkeypatch.setattr(MaskedSession, "take", takes)
    async with world_in(tmp_path, task) as world:
        running = asyncio.ensure_future(world.run())
        assert await asyncio.to_thread(closing.wait, 20)
        assert world.federation is not None
        [driver] = world.federation._drivers.values()
        for assignment in driver.attempt.cohort.assignments if driver.attempt else ():
            said = shares[assignment.client_id]
            message = said if kind is Shares else Complaint(said.sid, 1, NOT_DECRYPTED, bytes(64))
            [caller] = [d.caller for d in world.devices if d.caller.id == assignment.client_id]
            with pytest.raises(PhaseError):
                await world.federation.secagg(caller, assignment.assignment_id, message)
        go_on.set()
        assert (await running).state is TaskState.COMPLETED
    assert not during
