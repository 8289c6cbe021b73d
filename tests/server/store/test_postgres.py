"""What PostgreSQL adds: several processes write, connections are lost, and servers take turns."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedcore.errors import StoreError
from fedserver.store.audit import verify
from fedserver.store.claim import claimed
from fedserver.store.postgres.address import PostgresAddress
from fedserver.store.records import AuditEntry
from fedserver.store.sql.reads import READERS
from tests.postgres import Postgres
from tests.server.store.conftest import KEY, FakeClock, PostgresGround, World
from tests.server.store.test_power_cut import a_round

psycopg = pytest.importorskip("psycopg")
from fedserver.store.postgres.turn import Turn  # noqa: E402 - only where psycopg is

pytestmark = pytest.mark.postgres

CHILD = Path(__file__).with_name("crash_child.py")
CLOSED = (
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


@pytest.fixture
def ground(postgres: Postgres, migrated: str) -> Iterator[PostgresGround]:
    made = PostgresGround(postgres, postgres.database(template=migrated))
    yield made
    made.drop()


@contextlib.asynccontextmanager
async def second(world: World, *, own_clock: bool = False) -> AsyncIterator[Any]:
    """The store as another process has it."""
    store = await world.ground.open(keys=[KEY], clock=None if own_clock else world.clock)
    yield store
    await store.close()


def disconnect(world: World) -> None:
    """What a restart of PostgreSQL does to its connections."""
    world.ground.execute(CLOSED)


async def test_what_several_write_at_once_is_one_chain_and_no_use_of_a_token_is_lost(
    world: World,
) -> None:
    token = await world.token(uses=40)
    async with second(world) as other:
        stores = [world.store, other]

        async def enrol(number: int) -> object:
            client, certificate = world.applicant(number)
            key = world.digest(f"key {number}")
            entry = AuditEntry(f"user:{number}", "enrol", "client")
            return await stores[number % 2].enrol(
                token, client, certificate, key_hash=key, reply=b"", audit=entry
            )

        results = await asyncio.gather(*map(enrol, range(0, 100, 2)), return_exceptions=True)
        results += await asyncio.gather(*map(enrol, range(101, 121, 2)), return_exceptions=True)
    done = [found for found in results if not isinstance(found, Exception)]
    assert len(done) == 40
    records = await world.store.audit_entries()
    assert verify(records) == await world.store.audit_head()
    assert len(records) == 40


async def test_of_two_that_want_a_lease_one_has_it(world: World) -> None:
    await world.task()
    async with second(world) as other:
        await world.store.release_lease(world.lease)
        leases = await asyncio.gather(
            *(
                store.acquire_lease("task-1", f"owner-{number}", 60_000)
                for number, store in enumerate([world.store, other] * 10)
            )
        )
    assert len([lease for lease in leases if lease is not None]) == 1


async def test_the_clock_is_the_database_s(world: World) -> None:
    async with second(world, own_clock=True) as other:
        (database_ms,) = world.ground.execute("SELECT extract(epoch FROM now()) * 1000")[0]
        assert abs(await other.now_ms() - float(database_ms)) < 10_000
        moments = [await other.now_ms() for _ in range(3)]
        assert moments == sorted(moments)


async def test_commits_are_synchronous_whatever_the_database_s_default_is(world: World) -> None:
    name = world.ground.execute("SELECT current_database()")[0][0]
    world.ground.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    assert world.ground.execute("SHOW synchronous_commit") == [("off",)]
    async with second(world) as other:
        shown = await other._writer.run(lambda db: db.execute("SHOW synchronous_commit").fetchone())
        assert shown == {"synchronous_commit": "on"}


async def test_a_connection_that_was_closed_while_it_was_idle_is_opened_anew(world: World) -> None:
    await world.store.tasks()
    disconnect(world)
    assert (await world.store.append_audit(AuditEntry("a", "b", "c"))).sequence == 1


@pytest.mark.parametrize("moment", ["before_commit", "after_commit"])
async def test_a_connection_lost_around_a_commit_tells_the_truth_of_it(
    world: World, moment: str
) -> None:
    """The answer of the commit is lost; whether it was kept is found out afterwards."""
    store = world.store
    writing = await store._writer.run(lambda db: db, alone=True)
    raw = writing._connection
    execute = raw.execute

    def broken(statement, *arguments, **options):  # type: ignore[no-untyped-def]
        if statement != "COMMIT":
            return execute(statement, *arguments, **options)
        if moment == "after_commit":
            execute("COMMIT")
        disconnect(world)
        return execute("SELECT 1")

    raw.execute = broken
    kept = moment == "after_commit"
    if kept:
        assert (await store.append_audit(AuditEntry("a", "b", "c"))).sequence == 1
    else:
        with pytest.raises(StoreError):
            await store.append_audit(AuditEntry("a", "b", "c"))
    assert len(await store.audit_entries()) == int(kept)
    assert (await store.append_audit(AuditEntry("d", "e", "f"))).sequence == 1 + kept


class Repeating:
    """A store whose callers ask again where it failed, as those of a server do."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if not inspect.iscoroutinefunction(method):
            return method

        async def asked(*arguments: Any, **options: Any) -> Any:
            for _ in range(3):
                with contextlib.suppress(StoreError):
                    return await method(*arguments, **options)
            return await method(*arguments, **options)

        return asked


class Breaking:
    """Ends the connection that writes at its `at`th statement: before, or without the answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, answered: bool) -> None:
        self.at, self.count, self._answered = -1, 0, answered
        self._execute = psycopg.Connection.execute
        breaking = self

        def execute(connection, statement, *arguments, **options):  # type: ignore[no-untyped-def]
            if threading.current_thread().name != "store-writer":
                return breaking._execute(connection, statement, *arguments, **options)
            breaking.count += 1
            if breaking.count != breaking.at:
                return breaking._execute(connection, statement, *arguments, **options)
            if breaking._answered:
                breaking._execute(connection, statement, *arguments, **options)
            connection.close()
            return breaking._execute(connection, statement, *arguments, **options)

        monkeypatch.setattr(psycopg.Connection, "execute", execute)


def told(ground: PostgresGround) -> dict[str, list[tuple[object, ...]]]:
    """Everything that follows from what was asked, and not from a draw."""
    hidden = {"alembic_version", "attempt_key", "server_identity", "session_record"}
    return {
        name: sorted(ground.execute(f"SELECT * FROM {name}"), key=repr)
        for name in sorted(ground.tables() - hidden)
    }


async def a_round_on(postgres: Postgres, migrated: str, broken: Breaking, at: int) -> Any:
    """What a whole round leaves if the connection ends at that statement, or at none."""
    ground, clock = PostgresGround(postgres, postgres.database(template=migrated)), FakeClock()
    try:
        store = await ground.open(keys=[KEY], clock=clock)
        broken.at, broken.count = at, 0
        await a_round(World(Repeating(store), clock, ground))  # type: ignore[arg-type]
        await store.close()
        return told(ground)
    finally:
        ground.drop()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize("every", [17, pytest.param(3, marks=pytest.mark.slow)])
async def test_wherever_a_connection_ends_who_asks_again_ends_up_the_same(
    postgres: Postgres, migrated: str, monkeypatch: pytest.MonkeyPatch, answered: bool, every: int
) -> None:
    broken = Breaking(monkeypatch, answered=answered)
    undisturbed = await a_round_on(postgres, migrated, broken, at=-1)
    statements = broken.count
    assert statements > 100 and len(undisturbed["audit_log"]) > 5
    for at in range(1, statements, every):
        assert await a_round_on(postgres, migrated, broken, at) == undisturbed, at


async def test_reads_go_on_after_a_restart_of_the_database(
    world: World, postgres: Postgres
) -> None:
    await world.task()
    postgres.stop()
    with pytest.raises(StoreError, match="cannot be read"):
        await world.store.tasks()
    with pytest.raises(StoreError):
        await world.store.append_audit(AuditEntry("a", "b", "c"))
    postgres.start()
    for _ in range(READERS + 1):  # each of them has lost a connection
        with contextlib.suppress(StoreError):
            await world.store.tasks()
    assert len(await world.store.tasks()) == 1
    assert (await world.store.append_audit(AuditEntry("a", "b", "c"))).sequence == 1
    assert await world.store.integrity() == ()


async def test_a_row_that_points_nowhere_is_told(world: World) -> None:
    await world.clients(1)
    world.ground.execute("ALTER TABLE enrolment DROP CONSTRAINT fk_enrolment_client")
    world.ground.execute("DELETE FROM client")
    (problem,) = await world.store.integrity()
    assert "enrolment" in problem and "client" in problem


async def test_servers_take_turns(world: World) -> None:
    first, other = [await Turn.open(world.ground.database) for _ in range(2)]
    assert await first.taken() and not await other.taken()
    waiting = asyncio.ensure_future(other.wait())
    lost = asyncio.ensure_future(first.lost())
    disconnect(world)  # both: the one that waits has to open another
    await asyncio.wait_for(lost, 30)
    with pytest.raises(StoreError):
        await waiting
    third = await Turn.open(world.ground.database)
    await asyncio.wait_for(third.wait(), 30)
    for turn in (first, other, third):
        turn.close()


async def test_servers_with_addresses_of_their_own_have_their_turns_at_once(world: World) -> None:
    turns = {peer: await Turn.open(world.ground.database, peer=peer) for peer in ("a:1", "b:1")}
    twin = await Turn.open(world.ground.database, peer="b:1")
    alone = await Turn.open(world.ground.database)
    try:
        assert all([await turn.taken() for turn in turns.values()])
        assert not await twin.taken() and not await alone.taken()
        turns["b:1"].close()
        await asyncio.wait_for(twin.wait(), 30)
        for turn in (twin, turns["a:1"]):
            assert not await alone.taken(), "a server without an address serves alone"
            turn.close()
        await asyncio.wait_for(alone.wait(), 30)
        with pytest.raises(StoreError), claimed(world.ground.database):
            raise AssertionError("entered")
        late = await Turn.open(world.ground.database, peer="c:1")
        assert not await late.taken()
        late.close()
    finally:
        for turn in (*turns.values(), twin, alone):
            turn.close()


async def test_a_killed_process_leaves_no_lock(world: World) -> None:
    """Whoever dies in the middle of a transaction, with the lock of all who write."""
    assert isinstance(world.ground.database, PostgresAddress)
    command = [sys.executable, str(CHILD), world.ground.database.url, "1", "10"]
    child = await asyncio.create_subprocess_exec(
        *command, "store.before_commit=kill@5", stdout=asyncio.subprocess.PIPE
    )
    out, _ = await child.communicate()
    assert child.returncode == -9
    told = [int(line) for line in out.decode().splitlines()[1:]]
    assert len(await world.store.audit_entries()) == len(told) > 0
    assert (await world.store.append_audit(AuditEntry("a", "b", "c"))).sequence == len(told) + 1
