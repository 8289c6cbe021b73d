"""Who sends a request: what the certificate of the connection says, held against the store.

TLS has shown that the peer owns a certificate of our authority, once, when the connection began.
What may have changed since is looked at with every call: that it has not expired, that neither it
nor its client was revoked. Whoever is refused gets an error, never a value that could be ignored.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from fedcore.errors import AuthorityError, StoreError, UnauthenticatedError
from fedserver.authorisation import Caller, same_key
from fedserver.certificate_lists import nobody_is_let_in
from fedserver.passing import Note
from fedserver.peers import PeerIdentity
from fedserver.store.protocol import PartyStore
from fedserver.store.records import ClientRecord, ClientState

__all__ = ["Authenticator", "PeerReader"]


class PeerReader(Protocol):
    """The authority, as far as it knows its certificates again."""

    def parse_peer(self, pem: bytes, /, *, now: int) -> PeerIdentity:
        """Who holds a certificate at `now` (Unix seconds). Raises: UnauthenticatedError."""
        ...


class Authenticator:
    """Turns the certificate of a connection into a `Caller`.

    `now_ms`: Unix milliseconds. A client's row is believed for `fresh_ms`; `forget` makes a change
    known at once.
    """

    def __init__(
        self,
        store: PartyStore,
        authority: PeerReader,
        *,
        now_ms: Callable[[], int],
        fresh_ms: int = 5_000,
        remembered: int = 20_000,
    ) -> None:
        self._store, self._authority, self._now_ms = store, authority, now_ms
        self._fresh_ms, self._remembered = fresh_ms, remembered
        self._clients: OrderedDict[bytes, tuple[int, ClientRecord | None]] = OrderedDict()
        self._revoked: frozenset[bytes] = frozenset()
        self._seen: set[bytes] = set()

    async def caller(
        self, certificate: bytes | None, *, address: str = "", note: Note | None = None
    ) -> Caller:
        """Who holds this PEM certificate, or for whom a server calls that does.

        `note`: of the call, if it has one. Raises: UnauthenticatedError, with the reason.
        """
        if not certificate:
            raise _unknown("the connection has no client certificate")
        peer = self._peer(certificate)
        if peer.kind != "server":
            if note is not None:
                raise _unknown("only a server of this federation calls for others")
            return await self._caller(peer, certificate, address)
        if note is None:
            raise _unknown("a server calls for others, and the call does not say for whom")
        found = await self._caller(self._peer(note.certificate), note.certificate, note.address)
        return replace(found, passed=note.passed)

    def _peer(self, certificate: bytes) -> PeerIdentity:
        """Raises: UnauthenticatedError for a certificate that does not count, or no more.

        RefusedError, with a time to come back, while nobody knows which are revoked.
        """
        try:
            peer = self._authority.parse_peer(certificate, now=self._now_ms() // 1000)
        except AuthorityError as error:  # its list of revoked certificates cannot be read
            raise nobody_is_let_in(error) from error
        if peer.fingerprint in self._revoked:
            raise _unknown("its certificate was revoked", fix="enrol again, if you may")
        return peer

    async def _caller(self, peer: PeerIdentity, certificate: bytes, address: str) -> Caller:
        if peer.kind == "server":
            raise _unknown("a server calls for clients and users, and not for another server")
        if peer.kind == "client":
            return await self._client(peer, certificate, address)
        return Caller(
            "user",
            name=peer.name,
            tenant=peer.tenant,
            role=peer.role,
            identity_key=peer.identity_key,
            fingerprint=peer.fingerprint,
            address=address,
            certificate=certificate,
        )

    def forget(self, client_id: bytes) -> None:
        """Reads that client's row anew with its next call."""
        self._clients.pop(client_id, None)

    async def refresh(self) -> None:
        """Reads the revoked certificates, and notes in the store who was seen."""
        self._revoked = await self._store.revoked_fingerprints()
        seen, self._seen = self._seen, set()
        if seen:
            await self._store.touch(seen)

    async def watch(
        self, *, every_s: float = 5.0, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        """Refreshes until it is cancelled; while the database fails, what was known holds."""
        while True:
            await sleep(every_s)
            try:
                await self.refresh()
            except StoreError:
                continue

    async def _client(self, peer: PeerIdentity, certificate: bytes, address: str) -> Caller:
        record = await self._record(peer.id)
        if record is None:
            raise _unknown("no client of that id is enrolled here", fix="enrol it")
        if not same_key(record.tenant.encode(), peer.tenant.encode()):
            raise _unknown("its certificate is for another tenant than it was enrolled in")
        if record.state is not ClientState.ACTIVE:
            raise _unknown(f"the client is {record.state.value}", fix="ask the operator")
        self._seen.add(peer.id)
        return Caller(
            "client",
            id=peer.id,
            name=peer.id.hex(),
            tenant=record.tenant,
            role="client",
            identity_key=record.identity_key,
            fingerprint=peer.fingerprint,
            address=address,
            certificate=certificate,
        )

    async def _record(self, client_id: bytes) -> ClientRecord | None:
        now_ms = self._now_ms()
        at_ms, record = self._clients.get(client_id, (now_ms - self._fresh_ms, None))
        if now_ms - at_ms >= self._fresh_ms:
            record = await self._store.client(client_id)
            self._clients[client_id] = now_ms, record
            self._clients.move_to_end(client_id)
            if len(self._clients) > self._remembered:
                self._clients.popitem(last=False)
        return record


def _unknown(why: str, *, fix: str = "use the certificate of this federation") -> Exception:
    return UnauthenticatedError("the sender is not known", why=why, fix=fix)
