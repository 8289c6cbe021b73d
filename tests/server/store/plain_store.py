"""The store as a few dictionaries: what the contract says, without a database and without crashes.

A method has the name and the arguments of the store's, as far as the state machine uses them, and
raises the same class of error where it changes nothing. `shown` is all that can be seen from
outside; `observed` reads the same from a real store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedcore.errors import (
    ConflictError,
    LeaseLostError,
    NotFoundError,
    PhaseError,
    TokenError,
)
from fedserver.store.audit import verify
from fedserver.store.protocol import Store
from fedserver.store.records import (
    ENDED,
    AssignmentRecord,
    AssignmentState,
    AuditEntry,
    CertificateRecord,
    ClientRecord,
    Idempotency,
    Lease,
    ModelRecord,
    OutboxMessage,
    RoundRef,
    TaskRecord,
    TaskState,
    TokenRecord,
    Transition,
    UploadState,
)

__all__ = ["PlainRound", "PlainStore", "observed"]


@dataclass
class PlainRound:
    """An attempt, and what clients did for it. `parts`: [client, state]; `uploads`: by the part."""

    phase: str
    sequence: int = 0
    parts: dict[bytes, list[object]] = field(default_factory=dict)
    uploads: dict[bytes, dict[str, object]] = field(default_factory=dict)
    session: dict[str, bytes] = field(default_factory=dict)

    @property
    def open(self) -> bool:
        return self.phase not in ENDED

    def end(self, state: AssignmentState) -> None:
        for part in self.parts.values():
            if part[1] is AssignmentState.ACTIVE:
                part[1] = state

    def settle(self, sealed: UploadState) -> None:
        self.session.clear()
        for upload in self.uploads.values():
            if upload["state"] in (UploadState.OPEN, UploadState.SEALED):
                whole = upload["state"] is UploadState.SEALED
                upload["state"] = sealed if whole else UploadState.ABORTED


@dataclass
class PlainStore:
    """All of it; `lines`: the models of each task; `leases`: [owner, token, expires_ms]."""

    now_ms: int = 1_000_000
    epoch: int = 1
    tokens: dict[bytes, list[int]] = field(default_factory=dict)
    clients: dict[bytes, str] = field(default_factory=dict)
    keys: dict[bytes, bytes] = field(default_factory=dict)
    tasks: dict[str, list[object]] = field(default_factory=dict)
    lines: dict[str, list[bytes]] = field(default_factory=dict)
    leases: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    rounds: dict[RoundRef, PlainRound] = field(default_factory=dict)
    asked: dict[tuple[bytes, bytes], list[object]] = field(default_factory=dict)
    asked_at: dict[tuple[bytes, bytes], int] = field(default_factory=dict)
    answers: dict[bytes, tuple[bytes, bytes]] = field(default_factory=dict)
    outbox: list[tuple[str, bytes]] = field(default_factory=list)
    audit: list[tuple[str, str]] = field(default_factory=list)

    def create_token(
        self, token: TokenRecord, *, audit: AuditEntry, idempotency: Idempotency
    ) -> None:
        before = self.answers.get(idempotency.request_id)
        if before is not None:
            if before[0] != idempotency.request_sha256:
                raise ConflictError("asked for before, otherwise")
            return
        if token.token_sha256 in self.tokens:
            raise ConflictError("in use")
        self.tokens[token.token_sha256] = [0, token.max_uses, token.expires_ms]
        self.answers[idempotency.request_id] = idempotency.request_sha256, idempotency.response
        self._note(audit)

    def enrol(
        self,
        token_sha256: bytes,
        client: ClientRecord,
        certificate: CertificateRecord,
        *,
        key_hash: bytes,
        reply: bytes,
        audit: AuditEntry,
    ) -> None:
        if key_hash in self.keys:
            if self.keys[key_hash] != token_sha256:
                raise ConflictError("enrolled with another token")
            return
        token = self.tokens.get(token_sha256)
        if token is None or token[2] <= self.now_ms or token[0] >= token[1]:
            raise TokenError("not accepted")
        token[0] += 1
        self.clients[client.client_id] = "ACTIVE"
        self.keys[key_hash] = token_sha256
        self._note(audit)

    def add_task(self, task: TaskRecord, model: ModelRecord, *, audit: AuditEntry) -> None:
        if task.task_id in self.tasks:
            raise ConflictError("there is one")
        self.tasks[task.task_id] = [TaskState.RUNNING, 0]
        self.lines[task.task_id] = [model.digest]
        self._note(audit)

    def set_task_state(self, task_id: str, state: TaskState, *, audit: AuditEntry) -> None:
        if task_id not in self.tasks:
            raise NotFoundError("no such task")
        task = self.tasks[task_id]
        if task[0] is not state and task[0] is not TaskState.RUNNING:
            raise ConflictError("for good")
        task[0] = state
        self._note(audit)

    def acquire_lease(self, task_id: str, owner: str, ttl_ms: int) -> None:
        if task_id not in self.tasks:
            raise NotFoundError("no such task")
        holder, token, expires_ms = self.leases.get(task_id, ("", 0, 0))
        if holder in ("", owner) or expires_ms <= self.now_ms:
            self.leases[task_id] = owner, token + 1, self.now_ms + ttl_ms

    def renew_lease(self, lease: Lease, ttl_ms: int) -> None:
        owner = self._holds(lease.task_id, lease.token)
        self.leases[lease.task_id] = owner, lease.token, self.now_ms + ttl_ms

    def release_lease(self, lease: Lease) -> None:
        if self.leases.get(lease.task_id, ("", 0, 0))[1] == lease.token:
            self.leases[lease.task_id] = "", lease.token, 0

    def open_round(
        self,
        ref: RoundRef,
        *,
        phase: str,
        state: Mapping[str, object],
        base_model: bytes,
        deadline_ms: int,
        lease_token: int,
        audit: AuditEntry,
    ) -> None:
        self._holds(ref.task_id, lease_token)
        self._runs(ref)
        if ref in self.rounds:
            if self.rounds[ref].sequence:
                raise ConflictError("opened before, otherwise")
            return
        if any(each.task_id == ref.task_id and r.open for each, r in self.rounds.items()):
            raise ConflictError("another is open")
        self.rounds[ref] = PlainRound(phase)
        self._note(audit)

    def advance_round(
        self,
        ref: RoundRef,
        step: Transition,
        *,
        state: Mapping[str, object],
        lease_token: int,
        audit: AuditEntry,
        assignments: tuple[AssignmentRecord, ...] = (),
        end_assignments: AssignmentState | None = None,
        session: Mapping[str, bytes] | None = None,
        outbox: tuple[OutboxMessage, ...] = (),
    ) -> None:
        self._compare(ref, step, lease_token)
        if step.to_phase not in ENDED:
            self._runs(ref)
        found = self.rounds[ref]
        taken = {client for client, _ in found.parts.values()}
        for part in assignments:
            if part.client_id in taken:
                raise ConflictError("it has a part")
            taken.add(part.client_id)
        self._step(ref, step, end_assignments, outbox, audit)
        for part in assignments:
            found.parts[part.assignment_id] = [part.client_id, AssignmentState.ACTIVE]
            asked = self.asked.get((part.client_id, part.request_id))
            if asked is not None and asked[1] == b"":
                asked[1] = part.assignment_id
        found.session |= session or {}

    def complete_round(
        self,
        ref: RoundRef,
        step: Transition,
        *,
        state: Mapping[str, object],
        lease_token: int,
        model: ModelRecord,
        expected_parent: bytes,
        metrics: Mapping[str, object],
        audit: AuditEntry,
        outbox: tuple[OutboxMessage, ...] = (),
    ) -> None:
        self._compare(ref, step, lease_token)
        line = self.lines[ref.task_id]
        if expected_parent != line[-1] or model.digest in line:
            raise ConflictError("the line would fork")
        self._step(ref, step, AssignmentState.COMPLETED, outbox, audit)
        line.append(model.digest)
        self.tasks[ref.task_id][1] = len(line) - 1

    def check_in(
        self, client_id: bytes, request_id: bytes, *, wanted: str, task_id: str, offer: object
    ) -> None:
        if client_id not in self.clients:
            raise NotFoundError("no such client")
        found = self.asked.get((client_id, request_id))
        if found is None:
            self._forget(client_id)
            self.asked[client_id, request_id] = [wanted, b""]
            self.asked_at[client_id, request_id] = self.now_ms
        elif found[0] != wanted:
            raise ConflictError("asked for another task before")

    def _forget(self, client_id: bytes) -> None:
        """A new request leaves the seven newest of those before it."""
        own = [(-at, name) for (client, name), at in self.asked_at.items() if client == client_id]
        for _, name in sorted(own)[7:]:
            del self.asked[client_id, name], self.asked_at[client_id, name]

    def refuse_check_in(self, client_id: bytes, request_id: bytes, retry: tuple[int, int]) -> None:
        if (client_id, request_id) not in self.asked:
            raise NotFoundError("no such check-in")
        if self.asked[client_id, request_id][1] == b"":
            self.asked[client_id, request_id][1] = retry

    def end_assignment(self, assignment_id: bytes, state: AssignmentState) -> None:
        part = self._round_of(assignment_id).parts[assignment_id]
        if part[1] is AssignmentState.ACTIVE:
            part[1] = state

    def begin_upload(self, assignment_id: bytes, upload_id: bytes, *, size: int) -> None:
        found = self._round_of(assignment_id)
        upload = found.uploads.get(assignment_id)
        if not found.open:
            raise PhaseError("over")
        if upload is not None:
            if upload["size"] != size:
                raise ConflictError("begun otherwise")
            return
        if found.parts[assignment_id][1] is not AssignmentState.ACTIVE:
            raise PhaseError("over")
        first = {"id": upload_id, "size": size, "committed": 0}
        found.uploads[assignment_id] = {**first, "sha256": b"", "state": UploadState.OPEN}

    def committed(self, upload_id: bytes, offset: int) -> None:
        _, upload = self._upload(upload_id)
        upload["committed"] = max(upload["committed"], offset)  # type: ignore[call-overload]

    def seal_upload(self, upload_id: bytes, sha256: bytes, *, audit: AuditEntry) -> None:
        found, upload = self._upload(upload_id)
        if upload["sha256"]:
            if upload["sha256"] != sha256:
                self.audit.append(("upload.seal", "refused: other digest"))
                raise ConflictError("acknowledged with another digest")
            return
        if found.phase != "COLLECTING":
            raise PhaseError("it takes no update")
        upload |= {"sha256": sha256, "committed": upload["size"], "state": UploadState.SEALED}
        self._note(audit)

    def put_session(self, ref: RoundRef, records: Mapping[str, bytes]) -> None:
        if ref not in self.rounds:
            raise NotFoundError("no such round")
        if not self.rounds[ref].open:
            raise PhaseError("over")
        self.rounds[ref].session |= records

    def scrub_round(self, ref: RoundRef, *, lease_token: int, audit: AuditEntry) -> None:
        self._holds(ref.task_id, lease_token)
        if self.rounds[ref].open:
            raise PhaseError("still needed")
        self.rounds[ref].settle(UploadState.CONSUMED)
        self._note(audit)

    def bump_epoch(self, reason: str, *, audit: AuditEntry) -> None:
        self.epoch += 1
        for found in self.rounds.values():
            if found.open:
                found.phase, found.sequence = "ABANDONED", found.sequence + 1
                found.end(AssignmentState.CANCELLED)
                found.settle(UploadState.ABORTED)
        self.leases = {task: ("", lease[1], 0) for task, lease in self.leases.items()}
        self._note(audit)

    def shown(self) -> dict[str, object]:
        """All that can be seen of it from outside."""
        return {
            "epoch": self.epoch,
            "tokens": {name: token[0] for name, token in self.tokens.items()},
            "clients": self.clients,
            "tasks": {name: tuple(task) for name, task in self.tasks.items()},
            "lines": self.lines,
            "rounds": {ref: (r.phase, r.sequence) for ref, r in self.rounds.items()},
            "parts": {
                name: (ref, *part)
                for ref, r in self.rounds.items()
                for name, part in r.parts.items()
            },
            "uploads": {
                upload["id"]: (part, *list(upload.values())[1:])
                for found in self.rounds.values()
                for part, upload in found.uploads.items()
            },
            "counts": {
                ref: (len(r.parts), len(whole), sum(each["size"] for each in whole))  # type: ignore[misc]
                for ref, r in self.rounds.items()
                for whole in [
                    [u for u in r.uploads.values() if u["state"] in ("SEALED", "CONSUMED")]
                ]
            },
            "session": {ref: r.session for ref, r in self.rounds.items()},
            "waiting": sorted(key for key, asked in self.asked.items() if asked[1] == b""),
            "outbox": self.outbox,
            "audit": self.audit,
        }

    def _note(self, entry: AuditEntry) -> None:
        self.audit.append((entry.action, entry.decision))

    def _holds(self, task_id: str, token: int) -> str:
        owner, newest, _ = self.leases.get(task_id, ("", 0, 0))
        if not owner or newest != token:
            raise LeaseLostError("another holds it")
        return owner

    def _runs(self, ref: RoundRef) -> None:
        if self.tasks[ref.task_id][0] is not TaskState.RUNNING:
            raise ConflictError("it goes no further")

    def _compare(self, ref: RoundRef, step: Transition, lease_token: int) -> None:
        self._holds(ref.task_id, lease_token)
        if ref not in self.rounds:
            raise NotFoundError("no such round")
        here = self.rounds[ref]
        if (here.phase, here.sequence) != (step.from_phase, step.sequence - 1):
            raise ConflictError("it is elsewhere")

    def _step(
        self,
        ref: RoundRef,
        step: Transition,
        ending: AssignmentState | None,
        outbox: tuple[OutboxMessage, ...],
        audit: AuditEntry,
    ) -> None:
        found = self.rounds[ref]
        found.phase, found.sequence = step.to_phase, step.sequence
        if ending is not None:
            found.end(ending)
        self.outbox += [(message.topic, message.payload) for message in outbox]
        self._note(audit)

    def _round_of(self, assignment_id: bytes) -> PlainRound:
        for found in self.rounds.values():
            if assignment_id in found.parts:
                return found
        raise NotFoundError("no such assignment")

    def _upload(self, upload_id: bytes) -> tuple[PlainRound, dict[str, object]]:
        for found in self.rounds.values():
            for upload in found.uploads.values():
                if upload["id"] == upload_id:
                    return found, upload
        raise NotFoundError("no such upload")


async def observed(store: Store, tokens: list[bytes]) -> dict[str, object]:
    """What `PlainStore.shown` says, of a real store, whose chain of audits holds (W12)."""
    records = await store.audit_entries(limit=10**6)
    assert verify(records) == await store.audit_head()
    tasks = {task.task_id: task for task in await store.tasks()}
    lines = {name: await store.models(name) for name in tasks}
    for name, line in lines.items():
        head = await store.head(name)
        assert head is not None
        assert head.digest == line[-1].digest
        assert [model.parent for model in line] == [b"", *(model.digest for model in line[:-1])]
    rounds = [r for name in tasks for r in (await store.rounds(name, limit=10**6)).rounds]
    refs = [found.ref for found in rounds]
    waiting = [asked for name in tasks for asked in await store.waiting(name)]
    used = [(name, found) for name in tokens if (found := await store.token(name)) is not None]
    return {
        "epoch": (await store.server_identity()).epoch,
        "tokens": {name: token.uses for name, token in used},
        "clients": {client.client_id: client.state.value for client in await store.clients()},
        "tasks": {name: (task.state, task.rounds_completed) for name, task in tasks.items()},
        "lines": {name: [model.digest for model in line] for name, line in lines.items()},
        "rounds": {found.ref: (found.phase, found.sequence) for found in rounds},
        "parts": {
            part.assignment_id: (ref, part.client_id, part.state)
            for ref in refs
            for part in await store.assignments(ref)
        },
        "uploads": {
            each.upload_id: (each.assignment_id, each.size, each.committed, each.sha256, each.state)
            for ref in refs
            for each in await store.uploads(ref)
        },
        "counts": {found.ref: (found.assigned, found.uploaded, found.bytes_up) for found in rounds},
        "session": {ref: await store.session(ref) for ref in refs},
        "waiting": sorted((asked.client_id, asked.request_id) for asked in waiting),
        "outbox": [(entry.topic, entry.payload) for entry in await store.outbox_pending(10**6)],
        "audit": [(record.entry.action, record.entry.decision) for record in records],
    }
