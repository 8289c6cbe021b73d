"""What `fed ca` did, carried from the authority's lists into the audit log, which nobody can undo.

A list can be lost, or restored from an older copy, and whoever was revoked since would be let in
again. So a server writes each new line of the lists into its audit log while it runs and when it
starts, and does not start where a revocation is in the log and on the list no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import select

from fedcore.errors import AuthorityError
from fedserver.certificate_lists import ACTS, CertificateLists, Listed
from fedserver.store import schema
from fedserver.store.migrating import connected
from fedserver.store.postgres.address import Database
from fedserver.store.protocol import SystemStore
from fedserver.store.records import AuditEntry
from fedserver.store.sql.reads import all_rows

__all__ = ["AuthorityActs", "lost_revocations", "require_revocations"]

_ISSUE, _REVOKE = "ca.issue", "ca.revoke"
_EXCHANGES: Final = {act: f"ca.{act}" for act in ACTS}
_CERTIFICATE: Final = "certificate:"
_LONGEST: Final = 256
_NAMED: Final = 8


class AuthorityActs:
    """The acts on the lists that are to come into the audit log in `database`, that of `store`."""

    def __init__(self, store: SystemStore, lists: CertificateLists, database: Database) -> None:
        self._store, self._lists, self._database = store, lists, database
        self._stamps: object = None  # of the lists as they were carried over last

    async def refresh(self) -> None:
        """Writes down what is new on the lists, unless another server has.

        Raises: AuthorityError where a list is damaged, or lacks a revocation; StoreError.
        """
        stamps = self._lists.stamps()
        if stamps == self._stamps:
            return
        acts, damage = await asyncio.to_thread(_acts_on, self._lists)
        known = await asyncio.to_thread(_written, self._database)
        # What is there is written down all the same: it may be lost before the rest was mended.
        for entry in acts:
            if (entry.action, entry.object) not in known:
                await self._store.append_audit(entry)
        await asyncio.to_thread(require_revocations, self._lists, self._database)
        if damage is not None:
            raise damage
        self._stamps = stamps


def lost_revocations(lists: CertificateLists, database: Database) -> list[Listed]:
    """What the audit log says was revoked, and the list does not.

    Raises: AuthorityError for a damaged list; StoreError.
    """
    on_list = {line.fingerprint for line in lists.revocations()}
    names = lists.names()
    found = []
    for (act, on), (at_s, decision) in _written(database).items():
        if act == _REVOKE:
            digest = bytes.fromhex(on.removeprefix(_CERTIFICATE))
            line = Listed(digest, names.get(digest, ""), at_s, reason=decision)
            found += [line] if digest not in on_list else []
    return found


def require_revocations(lists: CertificateLists, database: Database) -> int:
    """How many are on the list, which lacks none that the audit log has.

    Raises: AuthorityError, also for a damaged list; StoreError.
    """
    lost = lost_revocations(lists, database)
    if lost:
        raise _lost([line.fingerprint.hex() for line in lost])
    return len(lists.revocations())


def _lost(fingerprints: list[str]) -> AuthorityError:
    more = len(fingerprints) - _NAMED
    named = ", ".join(fingerprints[:_NAMED]) + (f" and {more} more" if more > 0 else "")
    return AuthorityError(
        "the list revoked.jsonl lacks revocations that the audit log has",
        why=f"it was lost, or restored from an older copy: {named}",
        fix="put them back with: fed ca recover --config SETTINGS",
    )


def _acts_on(lists: CertificateLists) -> tuple[list[AuditEntry], AuthorityError | None]:
    """The acts that the lists know, in the words of the log, and why there may be more."""
    acts: list[AuditEntry] = []
    damage: AuthorityError | None = None
    for some in (_revocations_on, _exchanges_on, _users_on):  # revocations before all else
        try:
            acts += some(lists)
        except AuthorityError as error:
            damage = damage or error
    return acts, damage


def _revocations_on(lists: CertificateLists) -> Iterator[AuditEntry]:
    for line in lists.revocations():
        yield _entry(_REVOKE, _object_of(line.fingerprint), line.reason)


def _exchanges_on(lists: CertificateLists) -> Iterator[AuditEntry]:
    for done in lists.exchanges():
        at = datetime.fromtimestamp(done.at, UTC)
        yield _entry(_EXCHANGES[done.act], f"key:{done.key} at {at:%Y-%m-%dT%H:%M:%SZ}")


def _users_on(lists: CertificateLists) -> Iterator[AuditEntry]:
    for line in lists.users():
        yield _entry(_ISSUE, _object_of(line.fingerprint), f"{line.role} {line.name}")


def _entry(action: str, on: str, decision: str = "") -> AuditEntry:
    return AuditEntry("operator", action, on, decision[:_LONGEST] or "allowed")


def _object_of(fingerprint: bytes) -> str:
    return f"{_CERTIFICATE}{fingerprint.hex()}"


def _written(database: Database) -> dict[tuple[str, str], tuple[int, str]]:
    """The acts in a log: when each was written down, in Unix seconds, and what was decided."""
    log = schema.audit_log
    named = log.c.action.in_([_ISSUE, _REVOKE, *_EXCHANGES.values()])
    acts = select(log).where(named).order_by(log.c.sequence)
    with connected(database) as connection:
        return {
            (row["action"], row["object"]): (row["at_ms"] // 1000, row["decision"])
            for row in all_rows(connection, acts)
        }
