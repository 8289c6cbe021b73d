"""Whose identity certificates count in secure aggregation: of clients that are not revoked."""

from __future__ import annotations

from fedcore.secagg import TrustStore
from fedserver.store.protocol import PartyStore
from fedserver.store.records import ClientState

__all__ = ["Trust"]

_PAGE = 1000


class Trust:
    """Gives the `TrustStore` of the moment, for a session that begins.

    Who is revoked is read from the store each time, for another server may have been told of it.
    """

    def __init__(self, registrars: tuple[bytes, ...], store: PartyStore) -> None:
        self._registrars, self._store = registrars, store
        self._revoked: frozenset[bytes] = frozenset()
        self._now = TrustStore(registrars)

    async def __call__(self) -> TrustStore:
        """What counts now; the same object while nobody is revoked. Raises: StoreError."""
        found, after = set[bytes](), b""
        while page := await self._store.clients(
            state=ClientState.REVOKED, after=after, limit=_PAGE
        ):
            found |= {client.client_id for client in page}
            after = page[-1].client_id
        if (revoked := frozenset(found)) != self._revoked:
            self._revoked = revoked
            self._now = TrustStore(self._registrars, revoked)
        return self._now
