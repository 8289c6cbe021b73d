"""The contract suite's ground: every implementation of the store, with a clock that tests move."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fedserver.store.postgres.address import PostgresAddress
from fedserver.store.protocol import Store
from fedserver.store.records import (
    AssignmentRecord,
    CertificateRecord,
    ClientRecord,
    Lease,
    ModelRecord,
    RoundRecord,
    RoundRef,
    TaskRecord,
    TokenRecord,
    Transition,
)
from tests.postgres import DATABASES, Postgres
from tests.server.databases import opened
from tests.server.store.failing import FailingStore, Faults

KEY = bytes(range(32))


@dataclass
class FakeClock:
    """Milliseconds that pass when a test says so."""

    now: int = 1_000_000

    def __call__(self) -> int:
        return self.now


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def client_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


def assignment(ref: RoundRef, client: bytes, *, request_id: bytes = b"") -> AssignmentRecord:
    identity = hashlib.sha256(str(ref).encode() + client).digest()[:16]
    return AssignmentRecord(identity, ref, client, bytes(32), request_id, 2_000_000)


@dataclass
class World:
    """A store, and the shortest ways to what most tests begin with."""

    store: Store
    clock: FakeClock
    ground: Ground
    lease: Lease | None = None

    digest = staticmethod(digest)
    client_id = staticmethod(client_id)
    assignment = staticmethod(assignment)

    async def reopen(self) -> Store:
        """The store after a restart."""
        await self.store.close()
        self.store = await self.ground.open(keys=[KEY], clock=self.clock)
        return self.store

    async def token(self, name: str = "token", *, uses: int = 1000, ttl_ms: int = 60_000) -> bytes:
        token = TokenRecord(digest(name), "acme", uses, self.clock.now + ttl_ms, {"site": "a"})
        await self.store.create_token(token)
        return token.token_sha256

    async def enrol(self, number: int, token: bytes) -> ClientRecord:
        client, certificate = self.applicant(number)
        await self.store.enrol(
            token, client, certificate, key_hash=digest(f"key {number}"), reply=b"reply"
        )
        return client

    def applicant(self, number: int) -> tuple[ClientRecord, CertificateRecord]:
        identity = client_id(number)
        client = ClientRecord(
            identity, "acme", digest(f"identity {number}"), f"spiffe://x/{number}", "1.0"
        )
        certificate = CertificateRecord(
            client_id(number + 1), digest(f"certificate {number}"), identity, 9_000_000
        )
        return client, certificate

    async def clients(self, count: int) -> list[bytes]:
        token = await self.token()
        return [(await self.enrol(number, token)).client_id for number in range(count)]

    def new_task(self, task_id: str = "task-1") -> tuple[TaskRecord, ModelRecord]:
        task = TaskRecord(
            task_id=task_id,
            tenant="acme",
            name="digits",
            spec=b"{}",
            digest=digest(task_id),
            author_key=bytes(32),
            signature=bytes(64),
            rounds=3,
            submitted_by="user:ada",
        )
        return task, ModelRecord(digest(f"{task_id} first"), task_id, b"", 0, 100)

    async def task(self, task_id: str = "task-1") -> bytes:
        """Adds a task, takes its lease, and gives the digest of its first model."""
        task, model = self.new_task(task_id)
        await self.store.add_task(task, model)
        self.lease = await self.store.acquire_lease(task_id, "driver", 60_000)
        return model.digest

    @property
    def held(self) -> int:
        assert self.lease is not None
        return self.lease.token

    async def round(self, base: bytes, number: int = 1, attempt: int = 1) -> RoundRef:
        ref = RoundRef("task-1", number, attempt)
        await self.store.open_round(
            ref,
            phase="SELECTING",
            state={"phase": "SELECTING"},
            base_model=base,
            deadline_ms=self.clock.now + 1000,
            lease_token=self.held,
        )
        return ref

    async def go(self, ref: RoundRef, to_phase: str, **options: object) -> RoundRecord:
        """One transition from wherever the round is."""
        found = await self.store.round(ref)
        assert found is not None
        return await self.store.advance_round(
            ref,
            Transition(found.phase, to_phase, found.sequence + 1),
            state={"phase": to_phase},
            lease_token=self.held,
            **options,  # type: ignore[arg-type]
        )

    async def part(self, ref: RoundRef, client: bytes) -> bytes:
        """A client that was selected, in a round that collects; gives the assignment's id."""
        part = assignment(ref, client)
        await self.go(ref, "COLLECTING", assignments=(part,))
        return part.assignment_id


class SqliteGround:
    """SQLite, in a file of the test's folder."""

    def __init__(self, folder: Path) -> None:
        self.database = folder / "server.db"

    async def open(self, *, keys: Sequence[bytes], clock: Callable[[], int] | None) -> Store:
        return await opened(self.database, keys=keys, clock=clock)

    def execute(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.database)) as connection, connection:
            return connection.execute(statement, values).fetchall()

    def tables(self) -> set[str]:
        found = self.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        return {name for (name,) in found}

    def objects(self) -> dict[str, str]:
        """Every table, index and trigger, by name."""
        found = self.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
        return dict(found)  # type: ignore[arg-type]


class PostgresGround:
    """PostgreSQL, in a database of the test's own."""

    def __init__(self, server: Postgres, name: str) -> None:
        self._server, self._name = server, name
        self.database = PostgresAddress(server.url(name))

    async def open(self, *, keys: Sequence[bytes], clock: Callable[[], int] | None) -> Store:
        from fedserver.store.postgres.store import PostgresStore

        return await PostgresStore.open(self.database, keys=keys, clock=clock)

    def execute(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        return self._server.execute(statement.replace("?", "%s"), *values, database=self._name)

    def drop(self) -> None:
        self._server.drop(self._name)

    def tables(self) -> set[str]:
        found = self.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return {name for (name,) in found}

    def objects(self) -> dict[str, str]:
        """Every table with its columns, index, constraint, trigger and function, by name."""
        return dict(self.execute(_OBJECTS))


_OBJECTS = """
SELECT table_name || '.' || column_name, concat_ws(' ', data_type, is_nullable, ordinal_position)
FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version'
UNION ALL SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
AND tablename <> 'alembic_version'
UNION ALL SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = 'public'::regnamespace AND contype = 'f'
UNION ALL SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
UNION ALL SELECT proname, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace
"""

Ground = SqliteGround | PostgresGround

# Of tests that look into the files of a database.
sqlite_only = pytest.mark.parametrize("ground", ["sqlite"], indirect=True)


@pytest.fixture(params=DATABASES)
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    """An empty database, which nobody has opened."""
    if request.param == "sqlite":
        yield SqliteGround(tmp_path)
        return
    server = request.getfixturevalue("postgres")
    made = PostgresGround(server, server.database(template=request.getfixturevalue("migrated")))
    yield made
    made.drop()


class FailingGround(SqliteGround):
    """SQLite, each of whose calls has failed in all ways before it is made."""

    def __init__(self, folder: Path, faults: Faults) -> None:
        super().__init__(folder)
        self._faults = faults

    async def open(self, *, keys: Sequence[bytes], clock: Callable[[], int] | None) -> Store:
        again = functools.partial(super().open, keys=keys, clock=clock)
        return FailingStore(await again(), self.database, self._faults, again)  # type: ignore[return-value]


@pytest.fixture(scope="session")
def tried() -> set[tuple[str, str, int, str]]:
    """What has failed before in these tests, and need not again."""
    return set()


@pytest.fixture(params=["whole", pytest.param("failing", marks=pytest.mark.slow)])
async def world(
    request: pytest.FixtureRequest,
    ground: Ground,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tried: set[tuple[str, str, int, str]],
) -> AsyncIterator[World]:
    clock = FakeClock()
    if request.param == "failing":
        if not isinstance(ground, SqliteGround):
            pytest.skip("faults are those of SQLite")
        faults = Faults(tried)
        faults.watch(monkeypatch)
        ground = FailingGround(tmp_path, faults)
    made = World(await ground.open(keys=[KEY], clock=clock), clock, ground)
    yield made
    await made.store.close()
