"""Contract: the server's identity lasts, its log is a chain, and its outbox forgets nothing."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from sqlalchemy import text

from fedcore.errors import ConflictError, NotFoundError, StoreError
from fedserver.store.audit import verify
from fedserver.store.records import (
    RESTORED,
    AuditEntry,
    AuditHead,
    CertificateRecord,
    OutboxMessage,
    TokenRecord,
)
from fedserver.store.sqlite import SqliteStore
from tests.server.databases import empty_database
from tests.server.store.conftest import KEY


async def test_a_server_keeps_its_identity_and_its_epoch_grows(world) -> None:
    first = await world.store.server_identity()
    assert len(first.server_id) == 16
    assert await world.store.bump_epoch(RESTORED) == first.epoch + 1
    await world.reopen()
    now = await world.store.server_identity()
    assert (now.server_id, now.epoch) == (first.server_id, first.epoch + 1)


async def test_the_clock_never_goes_back(world) -> None:
    before = await world.store.now_ms()
    world.clock.now -= 5000
    assert await world.store.now_ms() == before
    world.clock.now += 5001
    assert await world.store.now_ms() == before + 1


async def test_entries_written_at_once_stand_in_one_chain(world) -> None:
    entries = [AuditEntry(f"user:{n}", "act", "object", "allowed", bytes(16)) for n in range(200)]
    heads = await asyncio.gather(*map(world.store.append_audit, entries))
    records = await world.store.audit_entries(limit=1000)
    assert [record.sequence for record in records] == list(range(1, 201))
    assert sorted(record.entry.actor for record in records) == sorted(e.actor for e in entries)
    assert verify(records) == await world.store.audit_head()
    assert set(heads) == {AuditHead(record.sequence, record.hash) for record in records}
    page = await world.store.audit_entries(after=100, limit=7)
    assert page == records[100:107]


async def test_an_act_that_is_refused_leaves_no_hole_in_the_chain(world) -> None:
    token = TokenRecord(world.digest("t"), "acme", 1, 2_000_000)
    tries = [
        world.store.create_token(token, audit=AuditEntry("a", "token.create", str(n)))
        for n in range(30)
    ]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert [isinstance(result, ConflictError) for result in results].count(False) == 1
    await world.store.append_audit(AuditEntry("a", "b", "c"))
    records = await world.store.audit_entries()
    assert len(records) == 2
    assert verify(records) == await world.store.audit_head()


async def test_the_outbox_gives_what_is_not_done_in_order(world) -> None:
    ref = await world.round(await world.task())
    messages = [OutboxMessage("topic", bytes([n])) for n in range(3)]
    await world.go(ref, "COLLECTING", outbox=messages)
    pending = await world.store.outbox_pending()
    assert [entry.payload for entry in pending] == [b"\0", b"\1", b"\2"]
    await world.store.outbox_done(pending[1].entry_id)
    await world.store.outbox_done(pending[1].entry_id)
    assert [entry.payload for entry in await world.store.outbox_pending()] == [b"\0", b"\2"]
    assert len(await world.store.outbox_pending(limit=1)) == 1
    with pytest.raises(NotFoundError):
        await world.store.outbox_done(99)


async def test_pruning_forgets_what_was_asked_long_ago_answered_or_not_and_nothing_else(
    world,
) -> None:
    options = {"wanted": "", "task_id": "task-1", "offer": {}}
    (one, other) = await world.clients(2)
    for client in (one, other):  # who went away while it waited never has an answer
        await world.store.check_in(client, b"r", **options)
    await world.store.refuse_check_in(one, b"r", (1, 2))
    world.clock.now += 1
    await world.store.check_in(one, b"s", **options)
    assert await world.store.prune(world.clock.now - 1) == 0
    assert await world.store.prune(world.clock.now) == 2
    assert [found.request_id for found in await world.store.waiting("task-1")] == [b"s"]


async def test_certificates_that_expired_go_but_for_the_newest_and_the_disowned(world) -> None:
    renewed, revoked, listed, off = await world.clients(4)
    store, ends = world.store, 9_000_000
    for client in (renewed, revoked, listed):
        for number in range(3):
            name = client + bytes([number])
            later = CertificateRecord(name, world.digest(name.hex()), client, ends + number // 2)
            await store.add_certificate(later)
    (first, *_) = await store.certificates(revoked)
    await store.revoke_certificate(first.fingerprint, reason="lost")
    (stolen, *_) = await store.certificates(listed)
    disowned = [stolen.fingerprint, world.digest("of a user")]
    before = {client: await store.certificates(client) for client in (renewed, off)}
    assert await store.prune(ends, disowned=disowned) == 0
    world.clock.now = ends + 10
    assert await store.prune(ends + 1, disowned=disowned) == 3 + 2 + 2
    assert await store.certificates(renewed) == before[renewed][-1:]
    assert await store.certificates(off) == before[off]
    for client in (revoked, listed):  # also with no list any more
        assert await store.disowned(client, ())
        assert len(await store.certificates(client)) == 2
    assert (await store.client(off)).certificate_expires_ms == ends


async def test_counts_and_nodes_are_told(world) -> None:
    await world.clients(2)
    await world.round(await world.task())
    await world.store.node_heartbeat("n1", version="1", draining=False)
    world.clock.now += 7
    await world.store.node_heartbeat("n1", version="2", draining=True)
    (node,) = await world.store.nodes()
    assert (node.version, node.draining, node.heartbeat_ms) == ("2", True, world.clock.now)
    counts = await world.store.statistics()
    assert (counts.clients_active, counts.tasks_running, counts.rounds_open) == (2, 1, 1)
    assert counts.schema and counts.tenants == 1
    await world.store.create_token(TokenRecord(b"o" * 32, "other", 1, world.clock.now + 1))
    assert (await world.store.statistics()).tenants == 2


async def test_a_store_is_whole_and_has_a_size(world) -> None:
    await world.round(await world.task())
    assert await world.store.integrity() == ()
    await world.store.checkpoint()
    size = await world.store.size()
    assert size.database_bytes > 0
    assert size.wal_bytes == 0


async def test_a_query_sees_one_state_whatever_is_written_meanwhile(world) -> None:
    await world.clients(1)
    token = await world.token("second")
    counted, written = threading.Event(), threading.Event()

    def count(connection) -> int:
        return connection.scalar(text("SELECT count(*) FROM client"))

    def query(connection) -> tuple[int, int]:
        first = count(connection)
        counted.set()
        assert written.wait(10)
        return first, count(connection)

    reading = asyncio.ensure_future(world.store._reads.run(query))
    await asyncio.to_thread(counted.wait, 10)
    await world.enrol(5, token)
    written.set()
    assert await reading == (1, 1)
    assert len(await world.store.clients()) == 2


async def test_a_closed_store_says_so_and_may_be_closed_again(world) -> None:
    await world.store.close()
    await world.store.close()
    with pytest.raises(StoreError, match="closed"):
        await world.store.bump_epoch(RESTORED)
    with pytest.raises(StoreError, match="closed"):
        await world.store.tasks()


async def test_a_file_that_cannot_be_measured_is_an_error_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError(5, "input/output error")

    (tmp_path / "server.db").write_bytes(empty_database())
    store = await SqliteStore.open(tmp_path / "server.db", keys=[KEY])
    with monkeypatch.context() as patched, pytest.raises(StoreError, match="input/output"):
        patched.setattr(Path, "stat", broken)
        await store.size()
    await store.close()


async def test_a_folder_that_takes_no_lock_is_an_error_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "server.db-lock").mkdir()
    with pytest.raises(StoreError, match="lock"):
        await SqliteStore.open(tmp_path / "server.db", keys=[KEY])
