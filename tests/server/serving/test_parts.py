"""What a server keeps beside its database: signed heads of the log, and whose keys count."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fedcore.errors import AuditError
from fedserver.audit_heads import AuditHeads, public_keys
from fedserver.store.audit import read_head
from fedserver.store.records import (
    AuditEntry,
    AuditHead,
    CertificateRecord,
    ClientRecord,
    ClientState,
    TokenRecord,
)
from fedserver.store.sqlite.store import SqliteStore
from fedserver.trust import Trust
from tests.server.databases import opened

KEYS = [b"k" * 32]
SIGNER = b"s" * 32


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    made = await opened(tmp_path / "fed.db", keys=KEYS)
    yield made
    await made.close()


async def test_a_log_that_goes_on_from_its_signed_head_is_taken(
    store: SqliteStore, tmp_path: Path
) -> None:
    heads = AuditHeads(store, tmp_path / "head", signer=SIGNER)
    await heads.check()
    await heads.sign()
    for number in range(3):
        await store.append_audit(AuditEntry("user:ada", "test", str(number)))
    await heads.check()
    await heads.sign()
    again = AuditHeads(store, tmp_path / "head", signer=SIGNER)
    await again.check()
    assert again.newest == heads.newest


async def test_a_head_is_signed_anew_after_any_entry(store: SqliteStore, tmp_path: Path) -> None:
    heads = AuditHeads(store, tmp_path / "head", signer=SIGNER)

    async def signed_after(entries: int) -> bool:
        for number in range(entries):
            await store.append_audit(AuditEntry("user:ada", "test", str(number)))
        before = heads.newest
        await heads.refresh()
        return heads.newest != before

    assert await signed_after(0)  # the first one always
    assert not await signed_after(0)
    assert await signed_after(1)
    assert await signed_after(100)
    assert not await signed_after(0)


async def test_a_later_head_that_another_server_has_signed_stays(
    store: SqliteStore, tmp_path: Path
) -> None:
    one, other = (AuditHeads(store, tmp_path / "head", signer=SIGNER) for _ in range(2))
    read = store.audit_head
    early = await read()
    await store.append_audit(AuditEntry("user:ada", "test", "1"))
    await other.sign()

    async def as_it_was() -> AuditHead:
        return early

    store.audit_head = as_it_was  # type: ignore[method-assign]
    await one.sign()  # of what it had read before the other one's entry
    assert (tmp_path / "head").read_bytes() == other.newest
    store.audit_head = read  # type: ignore[method-assign]
    await one.sign()
    assert (tmp_path / "head").read_bytes() == one.newest


async def test_of_two_heads_that_are_signed_at_once_the_later_one_stays(
    store: SqliteStore, tmp_path: Path
) -> None:
    heads = AuditHeads(store, tmp_path / "head", signer=SIGNER)
    keep, begun, later = heads._keep, threading.Event(), threading.Event()

    def slow(*given: Any) -> None:
        if not begun.is_set():
            begun.set()
            later.wait(0.2)  # a later one would overtake it here
        keep(*given)
        later.set()

    heads._keep = slow  # type: ignore[method-assign]
    first = asyncio.ensure_future(heads.sign())
    assert await asyncio.to_thread(begun.wait, 5.0)
    await store.append_audit(AuditEntry("user:ada", "test", "1"))
    await asyncio.gather(first, heads.sign())
    identity = await store.server_identity()
    written = (tmp_path / "head").read_bytes()
    assert (
        read_head(written, identity.server_id, *public_keys([SIGNER])) == await store.audit_head()
    )


async def test_a_database_that_was_rolled_back_is_refused_unless_that_is_accepted(
    tmp_path: Path,
) -> None:
    store = await opened(tmp_path / "fed.db", keys=KEYS)
    await store.append_audit(AuditEntry("user:ada", "test", "1"))
    await store.close()
    shutil.copy(tmp_path / "fed.db", tmp_path / "old.db")
    store = await opened(tmp_path / "fed.db", keys=KEYS)
    await store.append_audit(AuditEntry("user:ada", "test", "2"))
    await AuditHeads(store, tmp_path / "head", signer=SIGNER).sign()
    await store.close()
    shutil.copy(tmp_path / "old.db", tmp_path / "fed.db")
    store = await opened(tmp_path / "fed.db", keys=KEYS)
    heads = AuditHeads(store, tmp_path / "head", signer=SIGNER)
    try:
        with pytest.raises(AuditError, match="--accept-rollback"):
            await heads.check()
        await heads.check(accept_rollback=True)
        # A different second entry is another history, not the same one that went on.
        await store.append_audit(AuditEntry("user:eve", "test", "2"))
        with pytest.raises(AuditError):
            await heads.check()
    finally:
        await store.close()


async def test_a_head_of_another_signer_or_a_damaged_one_is_refused(
    store: SqliteStore, tmp_path: Path
) -> None:
    await AuditHeads(store, tmp_path / "head", signer=SIGNER).sign()
    with pytest.raises(AuditError):
        await AuditHeads(store, tmp_path / "head", signer=b"o" * 32).check()
    damaged = tmp_path / "damaged"
    damaged.write_bytes((tmp_path / "head").read_bytes()[:-1])
    with pytest.raises(AuditError):
        await AuditHeads(store, damaged, signer=SIGNER).check()


async def test_trust_follows_revocations_and_is_kept_while_nothing_changes(
    store: SqliteStore,
) -> None:
    for number in range(3):
        client_id = bytes([number]) * 16
        await store.create_token(TokenRecord(client_id * 2, "t", 1, int(time.time() * 1000) + 9999))
        await store.enrol(
            client_id * 2,
            ClientRecord(client_id, "t", client_id * 2, f"spiffe://{number}"),
            CertificateRecord(client_id, client_id * 2, client_id, 1),
            key_hash=client_id * 2,
            reply=b"",
        )
    trust = Trust((b"r" * 32,), store)
    nobody = await trust()
    assert await trust() is nobody
    await store.set_client_state(b"\x01" * 16, ClientState.REVOKED)  # by whichever server
    after = await trust()
    assert after is not nobody
    assert await trust() is after
