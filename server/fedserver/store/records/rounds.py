"""Tasks, their rounds, and the clients' parts in them."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from fedcore.rounds import ENDS, Phase

__all__ = [
    "EARLIER_EPOCHS",
    "ENDED",
    "EPOCH_BEGUN",
    "NOT_NOTED",
    "OPEN",
    "RESTORED",
    "RESTORED_OR_BEGUN",
    "AssignmentRecord",
    "AssignmentReport",
    "AssignmentState",
    "CheckInRecord",
    "EventRecord",
    "Lease",
    "RoundRecord",
    "RoundRef",
    "RoundsPage",
    "TaskRecord",
    "TaskState",
    "Transition",
    "UploadRecord",
    "UploadState",
]

RESTORED: Final = "an operator restored the database from a backup"
"""Why the attempts ended that were open in a backup."""

EPOCH_BEGUN: Final = "an operator began a new epoch of the database"
"""Why those ended that were open in a database as it was."""

RESTORED_OR_BEGUN: Final = "the database was restored from a backup"
"""What earlier versions said of both; what was spent by then they noted of neither."""

EARLIER_EPOCHS: Final = frozenset({RESTORED, EPOCH_BEGUN, RESTORED_OR_BEGUN})
"""Why attempts ended after which there may be others, of which the database does not know."""

NOT_NOTED: Final = -1.0
"""In the place of an epsilon: the attempt was ended without a look at its task's ledger."""

ENDED: Final = frozenset(phase.value for phase in ENDS | {Phase.COMPLETED})
"""The phases of attempts that take nothing any more."""

OPEN: Final = frozenset(phase.value for phase in Phase) - ENDED
"""The phases of all others: a query for these finds them by an index, one for no other does not."""


class TaskState(enum.StrEnum):
    """Where a task stands; the last three are for good."""

    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class AssignmentState(enum.StrEnum):
    """Where a client's part in an attempt stands; all but ACTIVE are for good."""

    ACTIVE = "ACTIVE"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    DROPPED = "DROPPED"  # the round went on without it
    CANCELLED = "CANCELLED"  # the attempt ended


class UploadState(enum.StrEnum):
    """Where an upload stands."""

    OPEN = "OPEN"
    SEALED = "SEALED"
    CONSUMED = "CONSUMED"  # sealed, and scrubbed
    ABORTED = "ABORTED"  # never sealed, and scrubbed


@dataclass(frozen=True, slots=True, order=True)
class RoundRef:
    """One attempt at one round of a task."""

    task_id: str
    round: int
    attempt: int

    def __str__(self) -> str:
        return f"{self.task_id}/{self.round}/{self.attempt}"


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A task: `spec` is its canonical JSON, `digest` the SHA-256 that names it to clients.

    `author_key`, `signature`: Ed25519, over the specification.
    """

    task_id: str
    tenant: str
    name: str
    spec: bytes = field(repr=False)
    digest: bytes
    author_key: bytes
    signature: bytes
    rounds: int
    submitted_by: str
    state: TaskState = TaskState.RUNNING
    # filled in
    reason: str = ""
    submitted_ms: int = 0
    rounds_completed: int = 0


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to drive a task until `expires_ms`.

    `token`: the fencing token, greater than every earlier one of the task. `attempts`: how often
    the lease was taken since a round last went on; if it grows, a driver crashes again and again.
    """

    task_id: str
    owner: str
    token: int
    expires_ms: int
    attempts: int


@dataclass(frozen=True, slots=True)
class Transition:
    """A round's step from one phase to the next; `sequence`: the round's after it, from 1.

    `deadline_ms`: of the new phase, None where it has none.
    """

    from_phase: str
    to_phase: str
    sequence: int
    reason: str = ""
    deadline_ms: int | None = None


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """An attempt at a round; `state`: the machine's own record, as JSON values.

    `sequence`: 0 when it was opened. `assigned`, `uploaded`: how many assignments it has, and
    uploads that were sealed; `bytes_up`: how long these are together. `epsilon`: what was spent in
    all when the attempt ended, or NOT_NOTED.
    """

    ref: RoundRef
    phase: str
    sequence: int
    state: Mapping[str, object] = field(repr=False)
    base_model: bytes
    deadline_ms: int | None
    since_ms: int
    started_ms: int
    reason: str
    result_digest: bytes  # what was released; empty before
    epsilon: float
    last_event: int
    assigned: int
    uploaded: int
    bytes_up: int

    @property
    def is_open(self) -> bool:
        """Whether the attempt has not ended."""
        return self.phase not in ENDED


@dataclass(frozen=True, slots=True)
class RoundsPage:
    """Rounds that changed, in the order of their latest events; `last_event`: where to go on."""

    rounds: tuple[RoundRecord, ...]
    last_event: int


@dataclass(frozen=True, slots=True)
class EventRecord:
    """A transition that happened; `event` numbers those of all rounds."""

    event: int
    ref: RoundRef
    sequence: int
    from_phase: str
    to_phase: str
    actor: str
    reason: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class CheckInRecord:
    """A client's request for work; its answer: an assignment, or a window to come back in.

    `offer`: what the client has installed, as JSON values. Without both answers it still waits.
    """

    client_id: bytes
    request_id: bytes
    wanted: str  # the only task that the client asked for; empty for any
    task_id: str  # the task for which it waits
    offer: Mapping[str, object]
    at_ms: int
    assignment_id: bytes = b""
    retry: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class AssignmentReport:
    """What a client says at its end; `failure`: a FailureCode of the wire, 0 for success."""

    failure: int = 0
    detail: str = ""
    bytes_up: int = 0
    bytes_down: int = 0
    energy_j: float = 0.0
    energy_measured: bool = False


@dataclass(frozen=True, slots=True)
class AssignmentRecord:
    """A client's part in an attempt.

    `request_id`: of the check-in that it answers, empty for none; `failure`: a FailureCode of the
    wire; `report`: what the client itself said.
    """

    assignment_id: bytes
    ref: RoundRef
    client_id: bytes
    nonce: bytes
    request_id: bytes = b""
    expires_ms: int = 0
    # filled in
    state: AssignmentState = AssignmentState.ACTIVE
    issued_ms: int = 0
    ended_ms: int = 0
    failure: int = 0
    reason: str = ""
    report: AssignmentReport | None = None


@dataclass(frozen=True, slots=True)
class UploadRecord:
    """The one upload of an assignment; `header`: of a masked one, else empty.

    `committed`: how many bytes from the start are on disk; `sha256`: empty until it is sealed.
    """

    upload_id: bytes
    assignment_id: bytes
    ref: RoundRef
    client_id: bytes
    size: int
    header: bytes = field(repr=False)
    committed: int
    sha256: bytes
    state: UploadState
    begun_ms: int
