"""What is looked at with every call, though TLS looked at the certificate when it connected."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from fedcore.errors import AuthorityError, RefusedError, StoreError, UnauthenticatedError
from fedserver.authentication import Authenticator
from fedserver.store.records import ClientRecord, ClientState

ID = b"c" * 16


@dataclass
class Rows:
    """As much of a store as authentication asks."""

    clients: dict[bytes, ClientRecord] = field(default_factory=dict)
    revoked: frozenset[bytes] = frozenset()
    asked: int = 0
    touched: list[bytes] = field(default_factory=list)
    fails: bool = False

    async def client(self, client_id: bytes) -> ClientRecord | None:
        self.asked += 1
        return self.clients.get(client_id)

    async def revoked_fingerprints(self) -> frozenset[bytes]:
        if self.fails:
            raise StoreError("the disk is gone")
        return self.revoked

    async def touch(self, ids: Any) -> None:
        self.touched += ids


@dataclass
class Setting:
    rows: Rows
    authenticator: Authenticator
    now_ms: int
    authority: Any
    pem: bytes
    fingerprint: bytes


@pytest.fixture
def setting(authority: Any, certified: Any) -> Setting:
    pem, fingerprint = certified(authority, ID)
    rows = Rows({ID: ClientRecord(ID, "default", b"k" * 32, "spiffe://x")})
    made = Setting(rows, None, int(time.time() * 1000), authority, pem, fingerprint)  # type: ignore[arg-type]
    made.authenticator = Authenticator(
        rows,  # type: ignore[arg-type]
        authority,
        now_ms=lambda: made.now_ms,
    )
    return made


async def test_a_client_is_who_its_certificate_and_the_store_say(setting: Setting) -> None:
    caller = await setting.authenticator.caller(setting.pem, address="ipv4:127.0.0.1")
    assert (caller.kind, caller.id, caller.tenant, caller.role) == (
        "client",
        ID,
        "default",
        "client",
    )
    assert caller.identity_key == b"k" * 32 and caller.fingerprint == setting.fingerprint
    assert caller.principal == f"client:default/{ID.hex()}"


async def test_a_certificate_that_expires_while_its_connection_lives_is_refused(
    setting: Setting,
) -> None:
    await setting.authenticator.caller(setting.pem)
    setting.now_ms += 2 * 86_400_000
    with pytest.raises(UnauthenticatedError):
        await setting.authenticator.caller(setting.pem)


@pytest.mark.parametrize("certificate", [None, b"", b"no PEM", b"-----BEGIN CERTIFICATE-----"])
async def test_what_is_no_certificate_is_refused(
    setting: Setting, certificate: bytes | None
) -> None:
    with pytest.raises(UnauthenticatedError):
        await setting.authenticator.caller(certificate)


async def test_a_clients_row_is_believed_for_seconds_and_forgotten_when_told(
    setting: Setting,
) -> None:
    await setting.authenticator.caller(setting.pem)
    await setting.authenticator.caller(setting.pem)
    assert setting.rows.asked == 1
    row = setting.rows.clients[ID]
    setting.rows.clients[ID] = ClientRecord(
        ID, row.tenant, row.identity_key, row.spiffe_id, state=ClientState.REVOKED
    )
    await setting.authenticator.caller(setting.pem)
    setting.now_ms += 5_000
    with pytest.raises(UnauthenticatedError):
        await setting.authenticator.caller(setting.pem)


async def test_what_is_told_is_known_at_once(setting: Setting) -> None:
    await setting.authenticator.caller(setting.pem)
    del setting.rows.clients[ID]
    setting.authenticator.forget(ID)
    with pytest.raises(UnauthenticatedError):
        await setting.authenticator.caller(setting.pem)


async def test_a_revoked_certificate_is_refused_from_the_next_refresh_on(setting: Setting) -> None:
    setting.rows.revoked = frozenset({setting.fingerprint})
    await setting.authenticator.caller(setting.pem)
    await setting.authenticator.refresh()
    with pytest.raises(UnauthenticatedError):
        await setting.authenticator.caller(setting.pem)
    assert setting.rows.touched == [ID]


async def test_while_the_database_fails_what_was_revoked_stays_revoked(setting: Setting) -> None:
    setting.rows.revoked = frozenset({setting.fingerprint})
    turns = []

    async def sleep(seconds: float) -> None:
        turns.append(seconds)
        setting.rows.fails = len(turns) > 1
        if len(turns) == 4:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError):
        await setting.authenticator.watch(sleep=sleep)
    with pytest.raises(UnauthenticatedError):
        await setting.authenticator.caller(setting.pem)


async def test_a_damaged_deny_list_lets_nobody_in_and_blames_no_caller(setting: Setting) -> None:
    class Damaged:
        def parse_peer(self, pem: bytes, /, *, now: int) -> Any:
            raise AuthorityError("the list is damaged")

    authenticator = Authenticator(
        setting.rows,  # type: ignore[arg-type]
        Damaged(),
        now_ms=lambda: setting.now_ms,
    )
    with pytest.raises(RefusedError, match="nobody can be let in") as refused:
        await authenticator.caller(setting.pem)
    assert refused.value.retry is not None  # so that devices wait until it was mended
    assert not isinstance(refused.value, UnauthenticatedError)
