"""What an attempt shows that nobody could end in order: what it has cost, and why it ended."""

from __future__ import annotations

import asyncio
import contextlib
import math
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fedcore.privacy import verify
from fedcore.rounds import Phase
from fedcore.v1 import admin_service_pb2 as admin
from fedserver.admin import rounds_text
from fedserver.commands.db import main as db
from fedserver.services.overview import About, Overview
from fedserver.store.backup import back_up
from fedserver.store.records import (
    EPOCH_BEGUN,
    RESTORED,
    RESTORED_OR_BEGUN,
    Idempotency,
    TaskRecord,
    TaskState,
)
from tests.server.federation.test_rolled_back_ledgers import PRIVACY, ledger_of
from tests.server.federation.world import World, task_of, world_in

OTHER_KEY = bytes(32)


def folder_in(tmp_path: Path) -> Path:
    """A server's folder, beside which there is room."""
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


@asynccontextmanager
async def interrupted(folder: Path) -> AsyncIterator[tuple[World, asyncio.Future[TaskRecord]]]:
    """A task whose first attempt is paid for and open, on a server that is down."""
    async with world_in(folder, task_of(rounds=2, privacy=PRIVACY, secure="")) as world:
        running = asyncio.ensure_future(world.run())
        await world.in_phase(Phase.COLLECTING)
        await paid(world)
        await world.stop()
        yield world, running
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def paid(world: World) -> None:
    """Waits until something stands in the task's ledger as spent."""
    while True:
        if verify(ledger_of(world)).reservations:
            return
        await asyncio.sleep(0.005)


def overview(world: World) -> Overview:
    """The service as the world's server has it."""
    assert world.federation is not None
    audit: Any = None
    return Overview(
        world.store,
        world.federation,
        about=About(bytes(16), "1", 0, "sqlite"),
        now_ms=lambda: 0,
        draining=lambda: False,
        audit=audit,
    )


async def listed(world: World) -> dict[int, admin.RoundEntry]:
    """The attempts at the first round, by their number."""
    assert world.submitted is not None
    request = admin.ListRoundsRequest(task_id=world.submitted.task_id)
    answer = await overview(world).ListRounds(world.user, request)
    return {entry.round.attempt: entry for entry in answer.rounds if not entry.round.round}


async def entry_of(world: World) -> admin.TaskEntry:
    """The task in the list of tasks."""
    answer = await overview(world).ListTasks(world.user, admin.ListTasksRequest())
    return answer.tasks[0]


async def ended_by(how: str, folder: Path) -> None:
    """The operator's command on the database of a server that is down."""
    database = ["--database", str(folder / "fed.db")]
    copy = folder.parent / "copy.db"
    if how == "restore":
        back_up(folder / "fed.db", copy)
        words = ["restore", str(copy), "--yes"]
    else:
        words = ["epoch"]
    assert await asyncio.to_thread(db, [*words, *database]) == 0


@pytest.mark.parametrize(("how", "why"), [("restore", RESTORED), ("epoch", EPOCH_BEGUN)])
async def test_an_attempt_that_an_operator_ended_shows_what_it_cost_and_why(
    tmp_path: Path, how: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with interrupted(folder_in(tmp_path)) as (world, running):
        spent = verify(ledger_of(world)).epsilon
        assert spent > 0
        await ended_by(how, world.folder)
        running.cancel()  # these devices have no words for a part that is not known any more

        world.participation_key = OTHER_KEY  # with which nobody takes the task up
        await world.start()
        shown = (await listed(world))[1]
        assert (shown.phase, shown.reason, shown.epsilon) == ("ABANDONED", why, spent)
        await world.stop()

        world.participation_key = bytes(range(32))
        await world.start()
        assert (await world.run()).state is TaskState.COMPLETED
        shown = await listed(world)
        assert (shown[1].reason, shown[1].epsilon) == (why, spent)
        assert shown[2].epsilon == verify(ledger_of(world)).epsilon > spent


async def test_an_attempt_that_ended_with_a_task_that_nobody_took_up_shows_what_it_cost(
    tmp_path: Path,
) -> None:
    async with interrupted(tmp_path) as (world, _):
        spent = verify(ledger_of(world)).epsilon
        world.participation_key = OTHER_KEY
        await world.start()
        assert (await listed(world))[1].epsilon == spent > 0  # while it is open
        assert world.federation is not None and world.submitted is not None
        once = Idempotency(world.user.principal, "CancelTask", b"c" * 16, bytes(32))
        await world.federation.cancel(
            world.user, world.submitted.task_id, reason="its key is lost", once=once
        )
        await world.federation._take_up()
        shown = (await listed(world))[1]
        assert (shown.phase, shown.reason) == ("CANCELLED", "its key is lost")
        assert shown.epsilon == spent


async def test_where_the_ledger_cannot_say_what_is_spent_nobody_does(tmp_path: Path) -> None:
    async with interrupted(folder_in(tmp_path)) as (world, running):
        spent = verify(ledger_of(world)).epsilon
        shutil.move(ledger_of(world), tmp_path / "ledger")
        await world.start()
        task, shown = await entry_of(world), (await listed(world))[1]
        assert math.isnan(task.epsilon) and task.epsilon_budget == 1000.0
        assert math.isnan(shown.epsilon) and shown.phase == "COLLECTING"
        assert "eps ?/1000.00" in rounds_text.line_of(
            shown, rounds=1, epsilon_budget=task.epsilon_budget
        )
        assert rounds_text.data_of(shown)["epsilon"] is None
        await world.stop()

        await ended_by("epoch", world.folder)
        running.cancel()
        await world.start()
        assert math.isnan((await listed(world))[1].epsilon)
        await world.stop()
        shutil.move(tmp_path / "ledger", ledger_of(world))
        await world.start()
        assert (await world.run()).state is TaskState.COMPLETED
        assert (await listed(world))[1].epsilon == spent


async def test_what_ended_before_anything_was_noted_is_not_said_to_have_cost_nothing(
    tmp_path: Path,
) -> None:
    """By an earlier version, with attempts since: only what all have cost is known."""
    async with interrupted(folder_in(tmp_path)) as (world, running):
        await ended_by("epoch", world.folder)
        running.cancel()
        await world.start()
        assert (await world.run()).state is TaskState.COMPLETED
        await world.stop()
        with contextlib.closing(sqlite3.connect(world.folder / "fed.db")) as database, database:
            before = (0.0, RESTORED_OR_BEGUN)
            database.execute("UPDATE round SET epsilon = ?, reason = ? WHERE attempt = 1", before)
        await world.start()
        shown = await listed(world)
        assert math.isnan(shown[1].epsilon)
        assert shown[2].epsilon == verify(ledger_of(world)).epsilon > 0
