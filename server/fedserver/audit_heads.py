"""Signed heads of the audit log, kept outside the database so that a rollback of it shows (W11).

A head is signed within ten seconds of any entry, at once where a device is revoked, and at every
clean end. At the start the log must still contain what was signed last; otherwise the database is
older than what was done with it, and the server refuses.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedcore.errors import AuditError
from fedserver.key_files import AUDIT_SIGNER, locked, write_public
from fedserver.store.audit import check_head, read_head, sign_head
from fedserver.store.protocol import SystemStore
from fedserver.store.records import AuditHead

__all__ = ["AUDIT_HEAD", "AuditHeads", "own_head", "public_keys"]

AUDIT_HEAD = "audit-head.bin"


class AuditHeads:
    """The newest signed head, in a file. `signer`: 32 private bytes of an Ed25519 key.

    `earlier`: keys that signed before, whose last head still counts.
    """

    def __init__(
        self,
        store: SystemStore,
        path: Path,
        *,
        signer: bytes,
        earlier: Sequence[bytes] = (),
    ) -> None:
        self._store, self._path = store, path
        self._sequence = -1  # of what this process has signed: nothing yet
        self._turn = asyncio.Lock()  # or an earlier head could be written after a later one
        self._signer = Ed25519PrivateKey.from_private_bytes(signer)
        self._signers = public_keys([signer, *earlier])
        self.newest = b""

    async def check(self, *, accept_rollback: bool = False) -> None:
        """Reads the last head, and holds the log against it.

        Raises: AuditError for a log that lacks what was signed, unless that is accepted.
        """
        if not self._path.exists():
            return
        self.newest = await asyncio.to_thread(self._path.read_bytes)
        identity = await self._store.server_identity()
        try:
            signed = own_head(self.newest, identity.server_id, self._signers)
            rows = (
                await self._store.audit_entries(signed.sequence - 1, 1) if signed.sequence else ()
            )
            check_head(signed, await self._store.audit_head(), rows[0] if rows else None)
        except AuditError:
            if not accept_rollback:
                raise

    async def refresh(self) -> None:
        """Signs the head if anything was written since the last one."""
        if (await self._store.audit_head()).sequence != self._sequence:
            await self.sign()

    async def sign(self) -> None:
        """Signs the log's head as it is now, and keeps that durably."""
        async with self._turn:
            identity = await self._store.server_identity()
            head = await self._store.audit_head()
            signed = sign_head(head, identity.server_id, self._signer)
            await asyncio.to_thread(self._keep, signed, head.sequence, identity.server_id)
            self.newest, self._sequence = signed, head.sequence

    def _keep(self, signed: bytes, sequence: int, server_id: bytes) -> None:
        """Writes a head, unless another server has signed a later one meanwhile."""
        with locked(self._path):
            found = self._path.read_bytes() if self._path.exists() else b""
            if found != self.newest:
                with contextlib.suppress(AuditError):
                    if read_head(found, server_id, *self._signers).sequence > sequence:
                        return
            write_public(self._path, signed, replace=True)


def own_head(signed: bytes, server_id: bytes, signers: Sequence[Ed25519PublicKey]) -> AuditHead:
    """The head in this server's own file. Raises: AuditError, with what an operator can do."""
    try:
        return read_head(signed, server_id, *signers)
    except AuditError as error:
        raise AuditError(
            error.what,
            why=error.why,
            fix=f"restore {AUDIT_SIGNER}, {AUDIT_HEAD} and the database as they belong together;"
            " where one of them is lost, start once with --accept-rollback",
        ) from None


def public_keys(private: Iterable[bytes]) -> tuple[Ed25519PublicKey, ...]:
    """By which heads are verified that these keys signed."""
    return tuple(Ed25519PrivateKey.from_private_bytes(key).public_key() for key in private)
