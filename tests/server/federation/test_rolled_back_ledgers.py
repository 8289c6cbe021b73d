"""What was put back from a backup spends no budget twice, be it a ledger or the database.

The drill of docs/operations.md: copies are made, the task goes on, and a copy is put back.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from fedcore.errors import PlanError
from fedcore.federated.payments import Payment
from fedcore.privacy import verify
from fedcore.rounds import Phase
from fedserver.store.backup import back_up, restore
from fedserver.store.records import RESTORED, RoundRef, TaskRecord, TaskState
from fedserver.store.sqlite.store import SqliteStore
from tests.server.federation.world import KEY, World, task_of, world_in

ROUNDS = 4
MASKED = 'profile = "malicious"\ndelta = 0.2\ngamma = 0.0'
PRIVACY = """
[privacy]
unit = "client"
epsilon = 1000.0
delta = 1e-2
population = 5
clipping_norm = 1.0
noise = "central"
minimum_separation = 1
maximum_participations = 4
"""


@asynccontextmanager
async def drill(
    folder: Path, *, secure: str = ""
) -> AsyncIterator[tuple[World, asyncio.Future[TaskRecord], Path]]:
    """A task that went on for a round after its ledger and its database were copied, and stands.

    Gives its world, the devices' work, and the folder with the copies.
    """
    task = task_of(rounds=ROUNDS, privacy=PRIVACY, secure=secure)
    state, copies = folder / "state", folder / "copies"
    state.mkdir()
    copies.mkdir()
    async with world_in(state, task) as world:
        running = asyncio.ensure_future(world.run())
        for round in range(2):
            await world.in_phase(Phase.COMPLETED, round=round)
            await world.stop()
            if round == 0:
                shutil.copytree(ledger_of(world), copies / "ledger")
                back_up(world.folder / "fed.db", copies / "fed.db")
                await world.start()
        yield world, running, copies
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def ledger_of(world: World) -> Path:
    assert world.submitted is not None
    return world.folder / "ledgers" / world.submitted.task_id


async def newest_model(world: World) -> bytes:
    """Of the database as it was left, which no server holds now."""
    assert world.submitted is not None
    store = await SqliteStore.open(world.folder / "fed.db", keys=[KEY])
    head = await store.head(world.submitted.task_id)
    await store.close()
    assert head is not None
    return head.digest


async def shown(world: World) -> str:
    """What a user is told to be amiss."""
    assert world.federation is not None and world.submitted is not None
    return (await world.federation.spent(world.user, world.submitted.task_id)).trouble


async def test_nothing_is_released_from_a_ledger_that_was_rolled_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with drill(tmp_path) as (world, running, copies):
        newest = tmp_path / "newest"
        ledger_of(world).rename(newest)
        shutil.copytree(copies / "ledger", ledger_of(world))
        before = verify(ledger_of(world))

        await world.start()
        released = await world.final()
        assert b"fedcore_tasks_not_taken_up 1.0" in world.metrics.exposition()
        told, logged = await shown(world), capsys.readouterr().out
        for words in ("FED-1509", "would be spent again", "restore the newest ledger"):
            assert words in told and words in logged
        assert world.federation is not None and not world.federation._drivers
        await world.stop()
        assert verify(ledger_of(world)) == before

        shutil.rmtree(ledger_of(world))
        newest.rename(ledger_of(world))
        await world.start()
        assert await world.final() == released and not await shown(world)
        record = await running
        assert (record.state, record.rounds_completed) == (TaskState.COMPLETED, ROUNDS)
        assert verify(ledger_of(world)).released == ROUNDS


@pytest.mark.parametrize(
    ("secure", "reason"),
    [
        ("", RESTORED),
        pytest.param(MASKED, RESTORED, marks=pytest.mark.slow),
        # A backup between an attempt that was given up and the one that released.
        pytest.param("", "too few clients: 1 of 5", marks=pytest.mark.slow),
    ],
)
async def test_an_older_database_beside_the_newest_ledger_releases_each_round_once(
    tmp_path: Path, secure: str, reason: str
) -> None:
    async with drill(tmp_path, secure=secure) as (world, running, copies):
        before, model = verify(ledger_of(world)), await newest_model(world)
        found, _ = await restore(
            world.folder / "fed.db", copies / "fed.db", signed=None, accept_rollback=True
        )
        with contextlib.closing(sqlite3.connect(world.folder / "fed.db")) as database, database:
            database.execute("UPDATE round SET reason = ? WHERE reason = ?", (reason, RESTORED))
        assert found.ledger_heads.keys() == {ledger_of(world).name}
        running.cancel()  # these devices have no words for a part that is not known any more
        await world.start()
        record = await world.run()
        after = verify(ledger_of(world))
        assert (record.state, record.rounds_completed) == (TaskState.COMPLETED, ROUNDS)
        assert after.released == ROUNDS and after.epsilon >= before.epsilon
        # The round that the database had forgotten has the model that it had, and asked nobody.
        assert model in {found.digest for found in await world.store.models(record.task_id)}
        again = await world.store.latest_attempt(record.task_id, 1)
        assert again is not None and (again.phase, again.assigned) == ("SCRUBBED", 0)


@pytest.mark.slow
async def test_a_ledger_from_before_what_was_spent_in_vain_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, older = asyncio.get_running_loop(), tmp_path / "older"
    async with world_in(tmp_path, task_of(rounds=1, privacy=PRIVACY, secure="")) as world:
        running = asyncio.ensure_future(world.run())

        def fails(*_: object, **__: object) -> NoReturn:
            loop.call_soon_threadsafe(running.cancel)  # nobody comes to the next attempt
            raise PlanError("the sum cannot be released", why="a test", fix="none")

        shutil.copytree(ledger_of(world), older)
        with monkeypatch.context() as patched:
            patched.setattr(Payment, "release", fails)
            await world.attempt_over(RoundRef(ledger_of(world).name, 0, 1))
            await world.stop()
        await asyncio.gather(running, return_exceptions=True)
        spent, newest = verify(ledger_of(world)), tmp_path / "newest"
        assert (spent.released, verify(older).epsilon < spent.epsilon) == (0, True)
        ledger_of(world).rename(newest)
        shutil.copytree(older, ledger_of(world))

        await world.start()
        assert world.federation is not None
        assert "FED-1509" in await shown(world) and not world.federation._drivers
        await world.stop()
        shutil.rmtree(ledger_of(world))
        newest.rename(ledger_of(world))
        await world.start()
        record = await world.run()  # which ends at once, as nothing is left
        assert (record.state, record.rounds_completed) == (TaskState.COMPLETED, 0)
        assert verify(ledger_of(world)) == spent
