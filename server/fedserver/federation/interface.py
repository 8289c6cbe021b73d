"""What the services ask of the federation: validated plain types in, plain types out.

The gRPC services translate and check the wire, and nothing else; whoever implements `Federation`
never sees a protobuf message. Every method is asked by an authenticated and authorised caller; it
answers `NotFoundError` for an object that is not that caller's. Times are Unix milliseconds.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from fedcore.secagg import Message
from fedcore.secagg.messages import UploadHeader
from fedcore.wire.envelope import Place
from fedserver.authorisation import Caller
from fedserver.store.records import Idempotency, RoundRef

__all__ = [
    "Advertise",
    "Assigned",
    "Beat",
    "CheckIn",
    "ElsewhereError",
    "FailureCode",
    "Federation",
    "Finished",
    "Held",
    "Instruction",
    "ModelChunk",
    "ModelDescription",
    "ModelProgress",
    "Order",
    "Outcome",
    "Report",
    "RetryLater",
    "RoundWaits",
    "SecureAggregation",
    "SignedTask",
    "Spent",
    "Submission",
    "SubmittedTask",
    "Train",
    "UploadProgress",
    "Wait",
]


class ElsewhereError(Exception):
    """A call is about a task of another server, at `address`, and is to be passed on to it.

    `passed`: the tasks for which it has been passed on then, so that it never goes in circles.
    """

    def __init__(self, address: str, passed: frozenset[str]) -> None:
        super().__init__(address)
        self.address, self.passed = address, passed


class FailureCode(enum.IntEnum):
    """Why a client's part in a round came to nothing; the numbers are those of the wire."""

    NONE = 0
    POLICY_REFUSED = 1
    PROGRAM_MISSING = 2
    DATA_MISSING = 3
    DIVERGED = 4
    COMPUTE_TIMEOUT = 5
    UPLOAD_TIMEOUT = 6
    CANCELLED = 7
    PROTOCOL = 8
    INTERNAL = 9


class Outcome(enum.IntEnum):
    """How a client's part in a round ended; the numbers are those of the wire."""

    COMPLETED = 1
    ABANDONED = 2
    CANCELLED = 3
    DROPPED = 4


@dataclass(frozen=True, slots=True)
class CheckIn:
    """A client asks for work: `task_id` the only one it wants or "", and what is installed there.

    `request_id`: 16 bytes, the same until the client has an answer. `terms`: others when what its
    owner allows or has installed is.
    """

    request_id: bytes
    task_id: str
    sdk_version: str
    programs: frozenset[str]
    datasets: frozenset[str]
    models: frozenset[str]
    terms: bytes = b""


@dataclass(frozen=True, slots=True)
class Assigned:
    """A client's place in one attempt at a round. `nonce`: 32 bytes, part of what it signs."""

    assignment_id: bytes
    ref: RoundRef
    task_digest: bytes
    nonce: bytes
    heartbeat_ms: int
    deadline_ms: int


@dataclass(frozen=True, slots=True)
class Held:
    """A task that is not offered to a client because it refused it: why, and for how long yet."""

    task_id: str
    why: str
    left_s: float


@dataclass(frozen=True, slots=True)
class RetryLater:
    """No work now: ask again after a delay drawn from this range, in milliseconds.

    `held`: what else it would have been asked for.
    """

    delay_min_ms: int
    delay_max_ms: int
    held: Held | None = None


@dataclass(frozen=True, slots=True)
class Beat:
    """The answer to a sign of life. `cancel`: the assignment is over, for this reason."""

    cancel: bool
    deadline_ms: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do yet."""


@dataclass(frozen=True, slots=True)
class Advertise:
    """Post one prekey bundle for this attempt."""


@dataclass(frozen=True, slots=True)
class SecureAggregation:
    """A message of the secure aggregation for the client, encoded."""

    message: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Train:
    """Train this model and upload the update. `clipping`: canonical JSON of its state, or empty."""

    model_digest: bytes
    model_bytes: int
    update_bytes: int
    clipping: bytes = b""
    evaluate: bool = False


@dataclass(frozen=True, slots=True)
class Finished:
    """The client's part is over. `model_digest`: the new model, where the round completed."""

    outcome: Outcome
    reason: str = ""
    model_digest: bytes = b""


Order: TypeAlias = Wait | Advertise | SecureAggregation | Train | Finished


@dataclass(frozen=True, slots=True)
class Instruction:
    """What to do next. `number` grows along an assignment; equal numbers are equal instructions."""

    number: int
    deadline_ms: int
    order: Order


@dataclass(frozen=True, slots=True)
class UploadProgress:
    """Where an upload stands: what lies before `committed_offset` is durable."""

    upload_id: bytes
    committed_offset: int
    sealed: bool = False


@dataclass(frozen=True, slots=True)
class ModelProgress:
    """Where the upload of a first model stands, which its digest names."""

    committed_offset: int
    sealed: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """Ends a client's part: a failure, or what the round cost it.

    `energy_j`: 0 where unknown. `terms`: under which it refused, as of a `CheckIn`.
    """

    assignment_id: bytes
    failure: FailureCode
    detail: str
    bytes_up: int
    bytes_down: int
    energy_j: float
    energy_measured: bool
    terms: bytes = b""


@dataclass(frozen=True, slots=True)
class SignedTask:
    """A task as its author signed it: canonical JSON, the author's Ed25519 key, the signature.

    `model_digest`: of the newest model that a round ended with, empty if none has.
    """

    canonical: bytes = field(repr=False)
    author_key: bytes
    signature: bytes
    model_digest: bytes = b""


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """A model's size in bytes, and where it comes from."""

    size: int
    task_id: str
    round: int
    parent: bytes


@dataclass(frozen=True, slots=True)
class ModelChunk:
    """Bytes of a model from an offset on, and how many the model has in all."""

    data: bytes = field(repr=False)
    size: int


@dataclass(frozen=True, slots=True)
class Submission:
    """A new task: its canonical JSON, the signature of the caller's key over it, the first model.

    `signature`: checked against the caller's key. `model`: a safetensors file, or empty, as it is
    where `model_sha256` names one that the caller has uploaded.
    """

    canonical: bytes = field(repr=False)
    signature: bytes
    model: bytes = field(repr=False)
    model_sha256: bytes = b""


@dataclass(frozen=True, slots=True)
class SubmittedTask:
    """A task that was taken, and the digest of its first model."""

    task_id: str
    model_digest: bytes


@dataclass(frozen=True, slots=True)
class Spent:
    """What a task has spent of its privacy budget; all 0 for a task without privacy.

    `epsilon`: NaN where nobody can say.
    `by_round`: the epsilon after the release of each round. `secret_sample`: these figures hold
    only against who does not learn which clients took part in which round, nor how many.
    `trouble`: why the task is not carried out, or nobody can say what is spent; and what to do.
    """

    epsilon: float = 0.0
    budget: float = 0.0
    by_round: Mapping[int, float] = field(default_factory=dict)
    secret_sample: bool = False
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class RoundWaits:
    """What a round waits for, in words, and from which clients.

    `refused`: how many clients have refused its task lately, by why.
    """

    waiting_for: str
    pending: tuple[bytes, ...] = ()
    refused: Mapping[str, int] = field(default_factory=dict)


class Federation(Protocol):
    """The running rounds, as callers see them.

    Every method may raise what is in `fedcore.errors`, and ElsewhereError where another server has
    the answer; what it promises is durable when it returns.
    """

    async def check_in(self, caller: Caller, ask: CheckIn, /) -> Assigned | RetryLater:
        """An assignment or a delay; the same answer for the same `request_id`."""
        ...

    async def heartbeat(self, caller: Caller, assignment_id: bytes, /, *, progress: int) -> Beat:
        """Notes a sign of life. `progress`: the finished share of the work, 0 to 1000."""
        ...

    async def next(
        self, caller: Caller, assignment_id: bytes, /, *, seen: int, wait_s: float
    ) -> Instruction:
        """The instruction after number `seen`, for which it waits up to `wait_s` seconds."""
        ...

    async def place(
        self, caller: Caller, /, *, assignment_id: bytes = b"", upload_id: bytes = b""
    ) -> Place:
        """The round and nonce to which envelopes of the caller's assignment, or upload, are bound.

        Exactly one is given. Raises: NotFoundError unless it is the caller's.
        """
        ...

    async def secagg(self, caller: Caller, assignment_id: bytes, message: Message, /) -> None:
        """Takes a client's message: durable, or refused. The same bytes again change nothing."""
        ...

    async def begin_upload(
        self, caller: Caller, assignment_id: bytes, /, *, size: int, header: UploadHeader | None
    ) -> UploadProgress:
        """Opens an assignment's upload, or finds it again. Raises: UploadError for its size."""
        ...

    async def put_chunk(
        self, caller: Caller, upload_id: bytes, /, *, offset: int, crc32: int, data: bytes
    ) -> int:
        """Takes a chunk, and returns how many bytes from the beginning are durable."""
        ...

    async def commit_upload(
        self, caller: Caller, upload_id: bytes, /, *, size: int, sha256: bytes
    ) -> None:
        """Seals an upload: when it returns, the update is acknowledged."""
        ...

    async def begin_model(self, caller: Caller, sha256: bytes, /, *, size: int) -> ModelProgress:
        """Opens a first model's upload, or finds it again. Raises: UploadError for its size."""
        ...

    async def put_model_chunk(
        self, caller: Caller, sha256: bytes, /, *, offset: int, crc32: int, data: bytes
    ) -> int:
        """Takes a chunk of it, and returns how many bytes from the beginning are durable."""
        ...

    async def commit_model(self, caller: Caller, sha256: bytes, /, *, size: int) -> None:
        """Seals the upload of a first model: when it returns, a submission may name it."""
        ...

    async def report(self, caller: Caller, report: Report, /) -> None:
        """Ends the caller's part in a round."""
        ...

    async def task(self, caller: Caller, task_id: str, /) -> SignedTask:
        """A task that was assigned to the client, or that belongs to the user's tenant."""
        ...

    async def model(self, caller: Caller, digest: bytes, /) -> ModelDescription:
        """A model of a task that the caller may see."""
        ...

    async def model_chunk(
        self, caller: Caller, digest: bytes, /, *, offset: int, length: int
    ) -> ModelChunk:
        """At most `length` bytes of a model that the caller may see."""
        ...

    async def submit(
        self, caller: Caller, submission: Submission, /, *, once: Idempotency
    ) -> SubmittedTask:
        """Checks, keeps and starts a task. `once.response` is empty: fill it in, and keep it."""
        ...

    async def cancel(
        self, caller: Caller, task_id: str, /, *, reason: str, once: Idempotency
    ) -> None:
        """Ends a task; its open round is given up."""
        ...

    async def spent(self, caller: Caller, task_id: str, /) -> Spent:
        """What a task has spent of its privacy budget."""
        ...

    async def certificate(self, caller: Caller, task_id: str, /) -> bytes:
        """The certificate of a task's privacy, JSON. Raises: NotFoundError without privacy."""
        ...

    async def show_round(self, caller: Caller, ref: RoundRef, /) -> RoundWaits:
        """What an attempt waits for now; "" once it is over."""
        ...

    async def changed(self, caller: Caller, task_id: str, /, *, after: int, wait_s: float) -> None:
        """Returns when the task has a round event later than `after`, or after `wait_s` seconds."""
        ...

    async def drain(self) -> None:
        """From now on check-ins get a delay, no round is begun, and who waits is answered now."""
        ...

    async def collect(self) -> None:
        """Deletes what is on the disk and of no use to anybody any more."""
        ...

    async def stop(self) -> None:
        """Ends the drivers and releases their leases, after their present transaction."""
        ...
