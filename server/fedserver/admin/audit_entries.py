"""The audit log as a reader outside the server gets it: lines of JSON, from a server or a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fedcore.errors import ArgumentError, AuditError
from fedcore.v1 import admin_service_pb2
from fedserver.admin.connection import Connection
from fedserver.store.audit import canonical
from fedserver.store.records import AuditEntry, AuditRecord

__all__ = ["Log", "entry_of", "lines_of"]

_PAGE: Final = 1000
_LONGEST: Final = 1 << 20
_FIELDS: Final = frozenset(
    {
        "action",
        "actor",
        "at_ms",
        "decision",
        "hash",
        "object",
        "prev_hash",
        "request_id",
        "sequence",
    }
)


class Log:
    """A server's log, read page by page. `head`: the signed head as the first page brought it.

    That one is no newer than the pages: what it covers is in them.
    """

    def __init__(self, server: Connection) -> None:
        self._server = server
        self.head = b""

    def __iter__(self) -> Iterator[bytes]:
        """The lines from the first entry on. Raises: what the server refuses with."""
        after = 0
        while True:
            request = admin_service_pb2.ExportAuditRequest(after=after, limit=_PAGE)
            answer = self._server.ask(self._server.admin.ExportAudit, request)
            self.head = answer.head if after == 0 else self.head
            yield from answer.entries
            if not answer.entries:
                return
            last = entry_of(answer.entries[-1]).sequence
            if last <= after:
                raise _broken(after, "the page after it ends before it")
            after = last


def lines_of(path: Path) -> Iterator[bytes]:
    """The lines of a file that `fed audit export` wrote. Raises: ArgumentError."""
    try:
        with path.open("rb") as file:
            while line := file.readline(_LONGEST):
                yield line.removesuffix(b"\n")
    except OSError as error:
        raise ArgumentError(
            f"{path.name} cannot be read",
            why=(error.strerror or str(error)).lower(),
            fix="name a file that `fed audit export` wrote",
        ) from None


def entry_of(line: bytes) -> AuditRecord:
    """The entry of one line, whose bytes have to be its canonical form. Raises: AuditError."""
    try:
        found = json.loads(line)
        if not isinstance(found, dict) or found.keys() != _FIELDS:
            raise ValueError
        entry = AuditEntry(
            actor=found["actor"],
            action=found["action"],
            object=found["object"],
            decision=found["decision"],
            request_id=bytes.fromhex(found["request_id"]),
        )
        hashes = bytes.fromhex(found["prev_hash"]), bytes.fromhex(found["hash"])
        record = AuditRecord(int(found["sequence"]), int(found["at_ms"]), entry, *hashes)
        same = canonical(record) == line
    except (ValueError, TypeError, RecursionError):
        same = False
    if not same:
        raise AuditError(
            "a line is no entry of an audit log",
            why="it is not JSON in the one form that an entry has",
            fix="export the log again, and change nothing",
        )
    return record


def _broken(after: int, why: str) -> AuditError:
    return AuditError(
        f"the audit log does not go on after entry {after}", why=why, fix="ask the operator"
    )
