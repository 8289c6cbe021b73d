"""The writer shares commits among many, and neither loses nor mixes up what they asked for."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fedcore.errors import ConflictError, StoreError
from fedcore.failpoints import arm, disarm
from fedserver.store.connection import reading, writing
from fedserver.store.sql.clock import Clock
from fedserver.store.sql.writer import BATCH, AuditedRefusal, Writer
from fedserver.store.sqlite.driver import SqliteDriver


class Counting(sqlite3.Connection):
    """Counts commits, and breaks when it is told to."""

    commits = 0
    breaks: sqlite3.Error | None = None

    def execute(self, *arguments):  # type: ignore[no-untyped-def]
        if arguments[0] == "COMMIT":
            if self.breaks is not None:
                raise self.breaks
            self.commits += 1
        return super().execute(*arguments)


class Bench:
    """A writer on a table of one column."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("CREATE TABLE line (number INTEGER UNIQUE)")
        connection.close()
        self.writer = Writer(SqliteDriver(self._connect, Clock(lambda: 0)))

    def _connect(self) -> sqlite3.Connection:
        self.connection = sqlite3.connect(
            self.path, isolation_level=None, check_same_thread=False, factory=Counting
        )
        return self.connection

    async def add(self, number: int, *, then: Exception | None = None) -> int:
        def operation(connection: sqlite3.Connection) -> int:
            connection.execute("INSERT INTO line VALUES (?)", (number,))
            if then is not None:
                raise then
            return number

        return await self.writer.run(operation)

    def numbers(self) -> list[int]:
        connection = reading(self.path)
        try:
            return [row[0] for row in connection.execute("SELECT number FROM line ORDER BY 1")]
        finally:
            connection.close()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path / "lines.db")
    yield made
    await made.writer.close()


async def test_each_caller_gets_its_own_answer_and_many_share_a_commit(bench) -> None:
    gate = threading.Event()
    blocked = asyncio.ensure_future(bench.writer.run(lambda connection: gate.wait(10)))
    asked = [asyncio.ensure_future(bench.add(number)) for number in range(300)]
    await asyncio.sleep(0)
    gate.set()
    assert await asyncio.gather(*asked) == list(range(300))
    assert await blocked
    assert bench.numbers() == list(range(300))
    # One for the gate, and as few as hold all the others: they had come in by then.
    assert bench.connection.commits <= 2 + 300 // BATCH + 1


async def test_an_answer_never_comes_before_its_commit(bench) -> None:
    for number in range(50):
        await bench.add(number)
        assert bench.numbers()[-1] == number


async def test_a_refusal_takes_nothing_with_it_and_leaves_nothing(bench) -> None:
    results = await asyncio.gather(
        *(
            bench.add(number, then=ConflictError("no") if number % 3 == 0 else None)
            for number in range(200)
        ),
        return_exceptions=True,
    )
    kept = [number for number in range(200) if number % 3]
    assert [result for result in results if isinstance(result, int)] == kept
    assert bench.numbers() == kept


async def test_what_a_refusal_writes_for_the_audit_stays(bench) -> None:
    with pytest.raises(ConflictError):
        await bench.add(1, then=AuditedRefusal(ConflictError("no")))
    assert bench.numbers() == [1]


async def test_a_constraint_that_is_hit_is_a_store_error_of_that_one_alone(bench) -> None:
    results = await asyncio.gather(*map(bench.add, [1, 2, 1, 3]), return_exceptions=True)
    assert [isinstance(result, StoreError) for result in results] == [False, False, True, False]
    assert bench.numbers() == [1, 2, 3]


async def test_a_commit_that_fails_fails_all_in_it_and_changes_nothing(bench) -> None:
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL
    bench.connection.breaks = full
    results = await asyncio.gather(*map(bench.add, range(10)), return_exceptions=True)
    assert all(isinstance(result, StoreError) for result in results)
    assert bench.numbers() == []
    bench.connection.breaks = None  # there is room again
    assert await bench.add(1) == 1


async def test_after_the_disk_failed_to_sync_nothing_is_acknowledged_any_more(bench) -> None:
    broken = sqlite3.OperationalError("disk I/O error")
    broken.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
    bench.connection.breaks = broken
    with pytest.raises(StoreError, match="disk"):
        await bench.add(1)
    bench.connection.breaks = None
    with pytest.raises(StoreError, match="disk"):
        await bench.add(2)
    assert bench.numbers() == []


@pytest.mark.parametrize("alone", [False, True])
async def test_after_a_statement_met_a_broken_disk_nothing_is_written_any_more(
    bench, alone: bool
) -> None:
    def operation(connection: sqlite3.Connection) -> None:
        damaged = sqlite3.DatabaseError("database disk image is malformed")
        damaged.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise damaged

    with pytest.raises(StoreError, match="malformed"):
        await bench.writer.run(operation, alone=alone)
    with pytest.raises(StoreError, match="malformed"):
        await bench.add(1)
    assert bench.numbers() == []


async def test_a_caller_that_left_before_its_turn_changes_nothing(bench) -> None:
    gate = threading.Event()
    blocked = asyncio.ensure_future(bench.writer.run(lambda connection: gate.wait(10)))
    left = asyncio.ensure_future(bench.add(1))
    stays = asyncio.ensure_future(bench.add(2))
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(blocked, stays)
    assert bench.numbers() == [2]


async def test_closing_finishes_what_was_asked_for(tmp_path) -> None:
    made = Bench(tmp_path / "lines.db")
    asked = [asyncio.ensure_future(made.add(number)) for number in range(200)]
    await asyncio.sleep(0)
    await made.writer.close()
    assert await asyncio.gather(*asked) == list(range(200))
    with pytest.raises(StoreError, match="closed"):
        await made.add(1)


async def test_an_operation_of_its_own_runs_outside_of_transactions(bench) -> None:
    await bench.add(1)
    states = await asyncio.gather(
        bench.writer.run(lambda connection: connection.in_transaction),
        bench.writer.run(lambda connection: connection.in_transaction, alone=True),
    )
    assert states == [True, False]


async def test_a_writer_that_cannot_open_its_database_says_so(tmp_path) -> None:
    with pytest.raises(StoreError, match="cannot be opened"):
        Writer(SqliteDriver(lambda: writing(tmp_path / "no folder" / "x.db"), Clock(lambda: 0)))


async def test_an_injected_failure_before_the_commit_keeps_nothing(bench) -> None:
    arm("store.before_commit=error@1", test_mode=True)
    try:
        with pytest.raises(StoreError):
            await bench.add(1)
    finally:
        disarm()
    assert bench.numbers() == []
    assert await bench.add(2) == 2


def test_the_writer_syncs_every_commit_and_readers_cannot_write(tmp_path) -> None:
    path = tmp_path / "x.db"
    writer = writing(path)
    writer.execute("CREATE TABLE t (x)")
    reader = reading(path)
    try:

        def setting(connection: sqlite3.Connection, name: str) -> object:
            return connection.execute(f"PRAGMA {name}").fetchone()[0]

        assert setting(writer, "journal_mode") == "wal"
        assert setting(writer, "synchronous") == 2
        assert setting(writer, "foreign_keys") == 1
        assert setting(writer, "secure_delete") == 1
        assert setting(reader, "query_only") == 1
        for connection in (writer, reader):
            assert setting(connection, "mmap_size") == 0
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader.execute("INSERT INTO t VALUES (1)")
        assert path.stat().st_mode & 0o077 == 0
    finally:
        writer.close()
        reader.close()
