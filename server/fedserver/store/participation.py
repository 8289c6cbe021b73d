"""What the server asks of a database about those who take part: a part of its protocol."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from fedserver.store.records import (
    AssignmentRecord,
    AssignmentReport,
    AssignmentState,
    AuditEntry,
    CheckInRecord,
    RoundRef,
    UploadRecord,
)

__all__ = ["ParticipationStore"]


class ParticipationStore(Protocol):
    """What clients did for rounds: check-ins, assignments and uploads.

    A `lease_token` that is not the task's newest raises LeaseLostError; nothing is changed (W3).
    """

    async def check_in(
        self,
        client_id: bytes,
        request_id: bytes,
        *,
        wanted: str,
        task_id: str,
        offer: Mapping[str, object],
        sdk_version: str = "",
        retry: tuple[int, int] | None = None,
    ) -> CheckInRecord:
        """Notes a request for work; the same again gives the first record, with its answer by now.

        `retry`: the window of ms that answers a new one at once, in the same transaction. Of a
        client the last eight requests are remembered.
        Raises: ConflictError if it asked for another task before; NotFoundError for a client.
        """

    async def refuse_check_in(
        self, client_id: bytes, request_id: bytes, retry: tuple[int, int]
    ) -> CheckInRecord:
        """Answers with a window of ms to come back in, unless it has an answer: see the record."""

    async def waiting(self, task_id: str) -> tuple[CheckInRecord, ...]:
        """Check-ins without an answer, the oldest first."""

    async def assignment(self, assignment_id: bytes) -> AssignmentRecord | None: ...

    async def assignments(self, ref: RoundRef) -> tuple[AssignmentRecord, ...]: ...

    async def end_assignment(
        self, assignment_id: bytes, state: AssignmentState, *, failure: int = 0, reason: str = ""
    ) -> AssignmentRecord:
        """Ends it, if it had not ended: see the record. Raises: NotFoundError."""

    async def report(self, assignment_id: bytes, report: AssignmentReport) -> AssignmentRecord:
        """Keeps what the client says, once, ended or not.

        Raises: ConflictError for another report; NotFoundError.
        """

    async def begin_upload(
        self, assignment_id: bytes, upload_id: bytes, *, size: int, header: bytes = b""
    ) -> UploadRecord:
        """The one upload of an assignment: a repeat finds the first, whatever its `upload_id`.

        Raises: ConflictError for another size or header; PhaseError once the attempt has ended, and
        for a first one unless the assignment is ACTIVE; NotFoundError.
        """

    async def committed(self, upload_id: bytes, offset: int) -> None:
        """Notes that the bytes before `offset` are on disk; never moves back."""

    async def seal_upload(
        self,
        upload_id: bytes,
        sha256: bytes,
        *,
        session: Mapping[str, bytes] | None = None,
        erase: Iterable[str] = (),
        lease_token: int | None = None,
        audit: AuditEntry | None = None,
    ) -> UploadRecord:
        """Acknowledges an update, once, with the session's records that go with it (W7).

        Sealed before with the same digest: the record again. Raises: ConflictError for another
        digest, which is audited; PhaseError unless the round is COLLECTING; NotFoundError.
        """

    async def upload(self, upload_id: bytes) -> UploadRecord | None: ...

    async def uploads(
        self, ref: RoundRef, *, sealed_only: bool = False
    ) -> tuple[UploadRecord, ...]:
        """In the order of client ids."""
