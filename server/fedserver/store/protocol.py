"""What the server asks of a database, so that another one can take SQLite's place.

Every method is one transaction, and what it changed is durable when it returns (W1). `audit` is
written in the same transaction (W12). A mutation with `idempotency` happens once: asked again with
the same key and request it changes nothing and gives the stored answer, with another request it
raises ConflictError. All raise StoreError where the database fails, and then nothing was changed;
or, where a sync has failed, a restart finds all of it or nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

from fedserver.store.participation import ParticipationStore
from fedserver.store.records import (
    AssignmentRecord,
    AssignmentState,
    AuditEntry,
    AuditHead,
    AuditRecord,
    CertificateRecord,
    ClientRecord,
    ClientState,
    Enrolled,
    EventRecord,
    HeadRecord,
    Idempotency,
    Lease,
    MetricRecord,
    ModelRecord,
    NodeRecord,
    OutboxEntry,
    OutboxMessage,
    RoundRecord,
    RoundRef,
    RoundsPage,
    ServerIdentity,
    Statistics,
    Stored,
    StoreSize,
    TaskRecord,
    TaskState,
    TokenRecord,
    Transition,
)

__all__ = ["PartyStore", "RoundStore", "Store", "SystemStore", "TaskStore"]


class SystemStore(Protocol):
    """The server's own affairs: identity, audit, outbox, housekeeping."""

    async def now_ms(self) -> int:
        """The database's clock, milliseconds of UTC; it never runs backwards while it is open."""

    async def server_identity(self) -> ServerIdentity: ...

    async def bump_epoch(self, reason: str, *, audit: AuditEntry | None = None) -> int:
        """Begins a new epoch, after a restore, and gives its number (W11).

        Every open attempt is ABANDONED, its epsilon NOT_NOTED, its secrets gone; no lease holds.
        """

    async def recall(self, idempotency: Idempotency) -> Stored | None:
        """What this mutation answered before, None if it never happened; ConflictError as there."""

    async def append_audit(self, entry: AuditEntry) -> AuditHead:
        """Writes an entry by itself: of a refusal, which changes nothing else."""

    async def audit_entries(self, after: int = 0, limit: int = 1000) -> tuple[AuditRecord, ...]:
        """Entries in order, from sequence `after` + 1."""

    async def audit_head(self) -> AuditHead: ...

    async def outbox_pending(self, limit: int = 100) -> tuple[OutboxEntry, ...]:
        """What is not done yet, the oldest first (W3)."""

    async def outbox_done(self, entry_id: int) -> None: ...

    async def node_heartbeat(self, node_id: str, *, version: str, draining: bool) -> None: ...

    async def nodes(self) -> tuple[NodeRecord, ...]: ...

    async def statistics(self) -> Statistics: ...

    async def prune(self, before_ms: int, *, disowned: Collection[bytes] = ()) -> int:
        """Forgets check-ins, idempotency keys and done outbox rows older than that.

        And certificates that had expired by then, but for each client's newest one, and for those
        that were revoked or whose fingerprints are `disowned`: these count as revoked from now on.
        """

    async def size(self) -> StoreSize: ...

    async def integrity(self) -> tuple[str, ...]:
        """What is wrong with the database, by its own check; empty: nothing."""

    async def checkpoint(self) -> None:
        """Moves what the write-ahead log holds into the database file."""

    async def close(self) -> None:
        """Finishes what was asked for, then checkpoints; a second time, nothing happens."""


class PartyStore(Protocol):
    """Who may speak: tokens, clients, certificates."""

    async def create_token(
        self,
        token: TokenRecord,
        *,
        audit: AuditEntry | None = None,
        idempotency: Idempotency | None = None,
    ) -> Stored: ...

    async def token(self, token_sha256: bytes) -> TokenRecord | None: ...

    async def enrol(
        self,
        token_sha256: bytes,
        client: ClientRecord,
        certificate: CertificateRecord,
        *,
        key_hash: bytes,
        reply: bytes,
        audit: AuditEntry | None = None,
    ) -> Enrolled:
        """Uses a token once for a new client.

        `key_hash`: SHA-256 of the public key in the signing request. The same key and token
        again give the first `reply`, whatever is left of the token. Raises: TokenError where the
        token is unknown, expired, used up, or another tenant's; ConflictError for the same key with
        another token, and for an id, an identity key or a certificate in use.
        """

    async def enrolment(self, key_hash: bytes) -> Enrolled | None:
        """The enrolment of that key, if there was one; `repeated` is true."""

    async def client(self, client_id: bytes) -> ClientRecord | None: ...

    async def clients(
        self,
        *,
        tenant: str | None = None,
        state: ClientState | None = None,
        after: bytes = b"",
        limit: int = 100,
    ) -> tuple[ClientRecord, ...]:
        """A page in the order of ids, from the first greater than `after`."""

    async def touch(self, client_ids: Iterable[bytes]) -> None:
        """Notes that these clients were seen now."""

    async def set_client_state(
        self,
        client_id: bytes,
        state: ClientState,
        *,
        reason: str = "",
        audit: AuditEntry | None = None,
        idempotency: Idempotency | None = None,
    ) -> Stored:
        """REVOKED revokes its certificates too, and stays: else ConflictError; NotFoundError."""

    async def add_certificate(
        self, certificate: CertificateRecord, *, audit: AuditEntry | None = None
    ) -> None:
        """Notes a certificate that was issued. Raises: ConflictError for a serial in use."""

    async def certificates(self, client_id: bytes) -> tuple[CertificateRecord, ...]: ...

    async def disowned(self, client_id: bytes, fingerprints: Collection[bytes]) -> bool:
        """Whether a certificate of the client was revoked, or has one of these fingerprints."""

    async def revoke_certificate(
        self, fingerprint: bytes, *, reason: str, audit: AuditEntry | None = None
    ) -> None:
        """Raises: NotFoundError. A second time, the first reason stays."""

    async def revoked_fingerprints(self) -> frozenset[bytes]:
        """Of certificates that were revoked and have not expired."""


class TaskStore(Protocol):
    """Tasks, the models in their lines, and the leases of their drivers."""

    async def add_task(
        self,
        task: TaskRecord,
        model: ModelRecord,
        *,
        state_digest: bytes = b"",
        audit: AuditEntry | None = None,
        idempotency: Idempotency | None = None,
    ) -> Stored:
        """Adds a task with its first model as the head.

        Raises: ConflictError for an id in use, and while the tenant runs a task of that digest.
        """

    async def task(self, task_id: str) -> TaskRecord | None: ...

    async def tasks(
        self,
        *,
        tenant: str | None = None,
        state: TaskState | None = None,
        digest: bytes | None = None,
    ) -> tuple[TaskRecord, ...]:
        """In the order of submission. `digest`: of the specification."""

    async def set_task_state(
        self,
        task_id: str,
        state: TaskState,
        *,
        reason: str = "",
        lease_token: int | None = None,
        audit: AuditEntry | None = None,
        idempotency: Idempotency | None = None,
    ) -> Stored:
        """The same state again changes nothing. `lease_token`: of the driver that ends it.

        Raises: NotFoundError; ConflictError for another state once it has ended; LeaseLostError.
        """

    async def bar_client(
        self,
        task_id: str,
        client_id: bytes,
        *,
        reason: str,
        lease_token: int,
        audit: AuditEntry | None = None,
    ) -> bool:
        """Leaves a client out of a task for good; whether it was not before.

        A second time the first reason stays, and nothing is written. Raises: NotFoundError;
        LeaseLostError.
        """

    async def barred_clients(self, task_id: str) -> frozenset[bytes]:
        """Whom the task does without for good."""

    async def head(self, task_id: str) -> HeadRecord | None: ...

    async def model(self, digest: bytes, *, task_id: str | None = None) -> ModelRecord | None:
        """The model of that digest, of this task or of the first that has it."""

    async def models(self, task_id: str) -> tuple[ModelRecord, ...]:
        """The task's line, the first model first."""

    async def acquire_lease(self, task_id: str, owner: str, ttl_ms: int) -> Lease | None:
        """None while another holds it; its owner gets a new token. Raises: NotFoundError."""

    async def lease(self, task_id: str) -> Lease | None:
        """The lease that holds now, whoever has it."""

    async def renew_lease(self, lease: Lease, ttl_ms: int) -> Lease:
        """The same token for longer. Raises: LeaseLostError."""

    async def release_lease(self, lease: Lease, *, attempts: int = 0) -> None:
        """Gives it back; one that was lost already changes nothing.

        `attempts`: how often it is to count as taken, unless that is less by now.
        """


class RoundStore(Protocol):
    """Rounds, and the secrets of their attempts.

    A `lease_token` that is not the task's newest raises LeaseLostError; nothing is changed (W3).
    """

    async def open_round(
        self,
        ref: RoundRef,
        *,
        phase: str,
        state: Mapping[str, object],
        base_model: bytes,
        deadline_ms: int | None,
        lease_token: int,
        spent: float | None = None,
        audit: AuditEntry | None = None,
    ) -> RoundRecord:
        """A new attempt, at sequence 0. `spent`: the epsilon of those before that have NOT_NOTED.

        The same again gives the same record. Raises: ConflictError if it was opened otherwise,
        another of the task is open, or the task has ended; NotFoundError.
        """

    async def advance_round(
        self,
        ref: RoundRef,
        transition: Transition,
        *,
        state: Mapping[str, object],
        lease_token: int,
        assignments: Sequence[AssignmentRecord] = (),
        end_assignments: AssignmentState | None = None,
        session: Mapping[str, bytes] | None = None,
        erase: Iterable[str] = (),
        result_digest: bytes | None = None,
        epsilon: float | None = None,
        ledger_head: bytes = b"",
        outbox: Sequence[OutboxMessage] = (),
        audit: AuditEntry | None = None,
    ) -> RoundRecord:
        """One transition by compare-and-swap, with its event and all that belongs to it (W3).

        `assignments`: new ones, each answers the check-in of its `request_id`; `end_assignments`:
        how those that are still ACTIVE end; `session`, `erase`: as in `put_session`;
        `ledger_head`: to stand beside the newest model, unless it is empty. Without `audit` the
        lease's owner is written as the actor. Raises: ConflictError if phase or
        sequence differ, and for a phase in `OPEN` where the task has ended; NotFoundError.
        """

    async def complete_round(
        self,
        ref: RoundRef,
        transition: Transition,
        *,
        state: Mapping[str, object],
        lease_token: int,
        model: ModelRecord,
        expected_parent: bytes,
        metrics: Mapping[str, MetricRecord],
        state_digest: bytes = b"",
        ledger_head: bytes = b"",
        outbox: Sequence[OutboxMessage] = (),
        audit: AuditEntry | None = None,
    ) -> RoundRecord:
        """`advance_round` to COMPLETED, and the head moves from `expected_parent` to `model` (W6).

        Assignments that are still ACTIVE end as COMPLETED, and the task counts one round more.
        Raises: as `advance_round`; ConflictError if the head is another.
        """

    async def round(self, ref: RoundRef) -> RoundRecord | None: ...

    async def latest_attempt(self, task_id: str, round: int) -> RoundRecord | None: ...

    async def earlier_states(self, ref: RoundRef, limit: int) -> tuple[Mapping[str, object], ...]:
        """The machine's records of the newest `limit` attempts before `ref`, the oldest first."""

    async def open_rounds(self, task_id: str | None = None) -> tuple[RoundRecord, ...]:
        """Those not in COMPLETED, SCRUBBED, ABANDONED, FAILED or CANCELLED."""

    async def rounds(self, task_id: str, *, after_event: int = 0, limit: int = 100) -> RoundsPage:
        """What changed after that event, in the order of change."""

    async def round_events(self, ref: RoundRef) -> tuple[EventRecord, ...]:
        """All that happened to it; the first, from the phase "", is its opening."""

    async def metrics(self, ref: RoundRef) -> dict[str, MetricRecord]: ...

    async def put_session(
        self,
        ref: RoundRef,
        records: Mapping[str, bytes],
        *,
        erase: Iterable[str] = (),
        lease_token: int | None = None,
    ) -> None:
        """Replaces records of the attempt's secrets, sealed under its key, then erases some.

        Raises: PhaseError once the attempt has ended; NotFoundError.
        """

    async def session(self, ref: RoundRef) -> dict[str, bytes]:
        """All its records, opened. Raises: StoreError where none of the keys fits one."""

    async def upload_key(self, ref: RoundRef) -> bytes | None:
        """What the attempt's uploads are encrypted under on the disk, 32 bytes.

        None for an attempt that was opened before there were keys, and once it is scrubbed.
        """

    async def scrub_round(
        self, ref: RoundRef, *, lease_token: int | None = None, audit: AuditEntry | None = None
    ) -> tuple[bytes, ...]:
        """Erases the attempt's key and records, and gives the ids of all its uploads (W10).

        When it returns, what was sealed under the key is lost, wherever copies of it lie; the
        uploads' bytes must go too. Assignments stay, so that nothing of them can be played again.
        May be repeated, and has to be after a StoreError: copies may lie in the log until then.
        Raises: PhaseError while the attempt is open.
        """


class Store(SystemStore, PartyStore, TaskStore, RoundStore, ParticipationStore, Protocol):
    """Everything that the server keeps; one value of it serves a whole process."""
