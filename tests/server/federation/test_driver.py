"""Who waits for a driver hears of what happens, at whatever moment it happens."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from fedcore.errors import LeaseLostError, LedgerError
from fedcore.rounds import CannotClose, Phase
from fedserver.federation.hosting import Tasks
from fedserver.federation.interface import CheckIn, RetryLater, Wait
from fedserver.federation.journal import Journal
from fedserver.federation.masked import MaskedSession
from fedserver.store.records import RoundRef, TaskState
from tests.server.federation.world import task_of, world_in


async def test_who_waits_for_a_driver_hears_of_its_attempts(tmp_path: Path) -> None:
    async with world_in(tmp_path, task_of()) as world:
        assert world.federation is not None and world.submitted is not None
        await world.waiting_for(RoundRef(world.submitted.task_id, 0, 1))
        driver = world.federation._drivers[world.submitted.task_id]
        assert driver.attempt is not None
        waiting = asyncio.ensure_future(driver.page.turned(60.0))
        await asyncio.sleep(0)
        driver.attempt.page.turn()
        await asyncio.wait_for(waiting, 5.0)
        assert driver.attempt.state.phase is Phase.PENDING


async def test_who_dealt_bad_shares_is_on_record_and_takes_part_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_in(tmp_path, task_of(rounds=2, minimum=4, deadline_s=3.0)) as world:
        bad = world.devices[3].caller
        proven = {bad.id: "its shares contradict each other"}
        monkeypatch.setattr(MaskedSession, "culprits", lambda _: proven)
        record = await world.run()
        assert (record.state, record.rounds_completed) == (TaskState.COMPLETED, 2)
        entries = [found.entry for found in await world.store.audit_entries()]
        named = [entry.object for entry in entries if entry.action == "client.bad_shares"]
        assert named == [bad.id.hex()]
        assert len(world.devices[3].outcomes) == 1
        assert all(len(device.outcomes) == 2 for device in world.devices[:3])
        ask = CheckIn(
            secrets.token_bytes(16), "", "1", frozenset(), frozenset({"toy"}), frozenset()
        )
        assert world.federation is not None
        assert isinstance(await world.federation.check_in(bad, ask), RetryLater)


async def test_a_task_that_cannot_be_taken_up_does_not_keep_the_server_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_in(tmp_path, task_of(rounds=1)) as world:
        await world.stop()
        with monkeypatch.context() as patched:

            def damaged(*_: object) -> None:
                raise LedgerError("the ledger is damaged")

            patched.setattr(Tasks, "_hosted", damaged)
            await world.start()
        assert not await world.ended()
        await world.stop()
        await world.start()
        assert (await world.run()).state is TaskState.COMPLETED


async def test_every_update_is_acknowledged_under_the_lease_that_its_sum_is_made_under(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_in(tmp_path, task_of(rounds=1)) as world:
        seal, tokens = world.store.seal_upload, []

        async def watched(*arguments, lease_token=None, **options):  # type: ignore[no-untyped-def]
            tokens.append(lease_token)
            return await seal(*arguments, lease_token=lease_token, **options)

        monkeypatch.setattr(world.store, "seal_upload", watched)
        await world.run()
        assert set(tokens) == {1}


async def test_who_waits_for_a_round_that_another_server_has_taken_up_is_answered_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_in(tmp_path, task_of(clients=2, secure=""), clients=3) as world:
        assert world.federation is not None and world.submitted is not None

        def ask(number: int) -> Coroutine[Any, Any, Any]:
            some = frozenset({"toy"})
            asked = CheckIn(secrets.token_bytes(16), "", "1", frozenset(), some, frozenset())
            assert world.federation is not None
            return world.federation.check_in(world.devices[number].caller, asked)

        first, _ = await asyncio.gather(ask(0), ask(1))
        caller = world.devices[0].caller
        part = first.assignment_id
        train = await world.federation.next(caller, part, seen=0, wait_s=5.0)
        driver = world.federation._drivers[world.submitted.task_id]
        waiting = [
            asyncio.ensure_future(
                world.federation.next(caller, part, seen=train.number, wait_s=60.0)
            ),
            asyncio.ensure_future(ask(2)),
        ]
        while not driver.waiting:  # noqa: ASYNC110, nothing tells of it
            await asyncio.sleep(0.001)

        async def overtaken(*_: object, **__: object) -> None:
            raise LeaseLostError("another has it")

        monkeypatch.setattr(Journal, "advance", overtaken)
        assert driver.attempt is not None
        driver.attempt.post(CannotClose(driver.attempt._now(), Phase.COLLECTING, "of a test"))
        told, later = await asyncio.wait_for(asyncio.gather(*waiting), 5.0)
        assert isinstance(told.order, Wait) and isinstance(later, RetryLater)
