"""Whose identity certificates count in secure aggregation: of clients that are not revoked."""

from __future__ import annotations

from fedcore.secagg import TrustStore
from fedserver.store.protocol import PartyStore
from fedserver.store.records import ClientState

__all__ = ["Trust"]

_PAGE = 1000


class Trust:
    """Gives the `TrustStore` of the moment; a revocation makes another, for sessions to come."""

    def __init__(self, registrars: tuple[bytes, ...]) -> None:
        self._registrars = registrars
        self._revoked: frozenset[bytes] = frozenset()
        self._now = TrustStore(registrars)

    def __call__(self) -> TrustStore:
        """What counts now."""
        return self._now

    def revoke(self, client_id: bytes) -> None:
        """That client's certificate counts no more."""
        self._set(self._revoked | {client_id})

    async def load(self, store: PartyStore) -> None:
        """Learns from the store who was revoked before."""
        revoked, after = set(), b""
        while page := await store.clients(after=after, limit=_PAGE):
            revoked |= {one.client_id for one in page if one.state is ClientState.REVOKED}
            after = page[-1].client_id
        self._set(frozenset(revoked))

    def _set(self, revoked: frozenset[bytes]) -> None:
        if revoked != self._revoked:
            self._revoked = revoked
            self._now = TrustStore(self._registrars, revoked)
