"""Who sends a request: what the certificate of the connection says, held against the store.

TLS has shown that the peer owns a certificate of our authority, once, when the connection began.
What may have changed since is looked at with every call: that it has not expired, that neither it
nor its client was revoked. Whoever is refused gets an error, never a value that could be ignored.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from fedcore.errors import AuthorityError, StoreError, UnauthenticatedError
from fedserver.authorisation import ROLES, Caller, same_key
from fedserver.store.protocol import PartyStore
from fedserver.store.records import ClientRecord, ClientState

__all__ = ["Authenticator", "Peer"]

_V = TypeVar("_V")


class Peer(Protocol):
    """What a certificate says of its holder, as the authority reads it."""

    @property
    def kind(self) -> str:
        """The sort of holder, "client" or "user"."""

    @property
    def tenant(self) -> str:
        """The tenant to which everything the holder may see belongs."""

    @property
    def id(self) -> bytes:
        """Of a client its 16 bytes, else empty."""

    @property
    def name(self) -> str:
        """Of a user, else empty."""

    @property
    def role(self) -> str:
        """One of the roles of `fedserver.authorisation`."""

    @property
    def identity_key(self) -> bytes:
        """Of a user the Ed25519 key, 32 bytes; a client's stands in the store."""

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the certificate's DER."""

    @property
    def not_after_ms(self) -> int:
        """When the certificate ends, Unix milliseconds."""


class Authenticator:
    """Turns the certificate of a connection into a `Caller`.

    `parse`: reads a PEM certificate that TLS has verified, and raises AuthorityError. `now_ms`:
    Unix milliseconds. A client's row is believed for `fresh_ms`; `forget` makes a change known now.
    """

    def __init__(
        self,
        store: PartyStore,
        *,
        parse: Callable[[bytes], Peer],
        now_ms: Callable[[], int],
        fresh_ms: int = 5_000,
        remembered: int = 20_000,
    ) -> None:
        self._store, self._parse, self._now_ms = store, parse, now_ms
        self._fresh_ms, self._remembered = fresh_ms, remembered
        self._peers: OrderedDict[bytes, Peer] = OrderedDict()
        self._clients: OrderedDict[bytes, tuple[int, ClientRecord | None]] = OrderedDict()
        self._revoked: frozenset[bytes] = frozenset()
        self._seen: set[bytes] = set()

    async def caller(self, certificate: bytes | None, *, address: str = "") -> Caller:
        """Who holds this PEM certificate. Raises: UnauthenticatedError, with the reason."""
        if not certificate:
            raise _unknown("the connection has no client certificate")
        peer = self._peer(certificate)
        if self._now_ms() >= peer.not_after_ms:
            raise _unknown("its certificate has expired", fix="connect again with a new one")
        if peer.fingerprint in self._revoked:
            raise _unknown("its certificate was revoked", fix="enrol again, if you may")
        if peer.kind == "client":
            return await self._client(peer, address)
        if peer.kind != "user" or peer.role not in ROLES or peer.role == "client":
            raise _unknown("its certificate is neither a client's nor a user's")
        return Caller(
            "user",
            name=peer.name,
            tenant=peer.tenant,
            role=peer.role,
            identity_key=peer.identity_key,
            fingerprint=peer.fingerprint,
            address=address,
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

    async def _client(self, peer: Peer, address: str) -> Caller:
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
        )

    def _peer(self, certificate: bytes) -> Peer:
        digest = hashlib.sha256(certificate).digest()
        peer = self._peers.get(digest)
        if peer is None:
            try:
                peer = self._parse(certificate)
            except AuthorityError as error:
                raise _unknown(error.why or error.what) from error
            _remember(self._peers, digest, peer, self._remembered)
        return peer

    async def _record(self, client_id: bytes) -> ClientRecord | None:
        now_ms = self._now_ms()
        at_ms, record = self._clients.get(client_id, (now_ms - self._fresh_ms, None))
        if now_ms - at_ms >= self._fresh_ms:
            record = await self._store.client(client_id)
            _remember(self._clients, client_id, (now_ms, record), self._remembered)
        return record


def _remember(cache: OrderedDict[bytes, _V], key: bytes, value: _V, most: int) -> None:
    cache[key] = value
    cache.move_to_end(key)
    if len(cache) > most:
        cache.popitem(last=False)


def _unknown(why: str, *, fix: str = "use the certificate of this federation") -> Exception:
    return UnauthenticatedError("the sender is not known", why=why, fix=fix)
