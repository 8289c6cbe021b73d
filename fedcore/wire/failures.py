"""An error crosses the network as a status and a `Failure`, and comes out as the same class.

The server decides what a client may read: refusals travel whole, faults of its own as "the server
failed" and no more. A client believes a `Failure` only so far: its code picks one of the classes
below or none, its texts are cut and stripped of control characters before anyone prints them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, cast

from google.protobuf.message import DecodeError

from fedcore import errors
from fedcore.console import plain
from fedcore.errors import FedcoreError, RefusedError
from fedcore.v1 import common_pb2

if TYPE_CHECKING:
    import grpc

__all__ = [
    "FAILURE_KEY",
    "PUSHBACK_KEY",
    "STATUS",
    "error_from",
    "failure_of",
    "metadata_of",
    "status_of",
]

FAILURE_KEY: Final = "fedcore-failure-bin"
PUSHBACK_KEY: Final = "grpc-retry-pushback-ms"

# By the nearest class of a method resolution order; what has none is a fault of the server.
STATUS: Final[Mapping[type[FedcoreError], str]] = MappingProxyType(
    {
        errors.RefusedError: "FAILED_PRECONDITION",
        errors.UnauthenticatedError: "UNAUTHENTICATED",
        errors.TokenError: "UNAUTHENTICATED",
        errors.ForbiddenError: "PERMISSION_DENIED",
        errors.InvalidRequestError: "INVALID_ARGUMENT",
        errors.UploadError: "INVALID_ARGUMENT",
        errors.ConflictError: "ALREADY_EXISTS",
        errors.NotFoundError: "NOT_FOUND",
        errors.PhaseError: "FAILED_PRECONDITION",
        errors.OverloadedError: "RESOURCE_EXHAUSTED",
        errors.DrainingError: "UNAVAILABLE",
        errors.VersionError: "FAILED_PRECONDITION",
        errors.EnvelopeError: "UNAUTHENTICATED",
        errors.TransferError: "DATA_LOSS",
        errors.JoinStringError: "INVALID_ARGUMENT",
        errors.RoundOverError: "ABORTED",
        errors.TaskError: "INVALID_ARGUMENT",
        errors.ProgramError: "INVALID_ARGUMENT",
        errors.UpdateError: "INVALID_ARGUMENT",
        errors.DataFormatError: "INVALID_ARGUMENT",
        errors.TruncatedFileError: "INVALID_ARGUMENT",
        errors.CheckpointError: "INVALID_ARGUMENT",
        errors.AuthorityError: "INVALID_ARGUMENT",
        errors.PlanError: "INVALID_ARGUMENT",
        errors.NoiseRoomError: "INVALID_ARGUMENT",
        errors.BudgetError: "FAILED_PRECONDITION",
        errors.ParticipationError: "FAILED_PRECONDITION",
        errors.SecAggError: "FAILED_PRECONDITION",
        errors.ParameterError: "INVALID_ARGUMENT",
        errors.PolicyError: "FAILED_PRECONDITION",
        errors.MessageError: "INVALID_ARGUMENT",
        errors.StageError: "FAILED_PRECONDITION",
        errors.ConsistencyError: "FAILED_PRECONDITION",
        errors.ShareError: "INVALID_ARGUMENT",
        errors.PackingError: "INVALID_ARGUMENT",
        errors.AuthenticationError: "UNAUTHENTICATED",
        errors.ReuseError: "ALREADY_EXISTS",
        errors.AbortError: "ABORTED",
        errors.EntropyError: "INTERNAL",
    }
)

# Faults that pass: another driver took over, a disk was full. Their texts stay in the server's log.
_PASSING: Final = (errors.StoreError, errors.BlobError, errors.LeaseLostError)
_FAULT: Final = errors.ServerError.code

_RETRY_MS: Final = (1_000, 3_000)
_LONGEST_RETRY_MS: Final = 24 * 60 * 60 * 1000
# gRPC itself waits this long at most; a longer wait is the caller's, who can be interrupted.
_LONGEST_PUSHBACK_MS: Final = 2_000
# Three texts of 4-byte characters stay below the 8 KiB that a peer takes as metadata.
_LONGEST_TEXT: Final = 400
_LARGEST_FAILURE: Final = 8 * 1024

_TRANSPORT: Final[Mapping[str, tuple[type[FedcoreError], str]]] = MappingProxyType(
    {
        "UNAVAILABLE": (errors.UnreachableError, "the server cannot be reached"),
        "DEADLINE_EXCEEDED": (errors.DeviceTimeoutError, "the server did not answer in time"),
        # By the server, as it stops: a call that its own sender cancels ends in another way.
        "CANCELLED": (errors.UnreachableError, "the server ended the call"),
        "UNIMPLEMENTED": (errors.ServerVersionError, "the server does not know this call"),
        "UNAUTHENTICATED": (errors.UnauthenticatedError, "the server does not know the sender"),
        "PERMISSION_DENIED": (errors.ForbiddenError, "the server does not allow this call"),
    }
)


def status_of(error: BaseException) -> grpc.StatusCode:
    """The status with which an RPC ends; INTERNAL for what no caller can have caused.

    >>> from fedcore.errors import ConflictError
    >>> status_of(ConflictError("a second upload")).name
    'ALREADY_EXISTS'
    >>> status_of(KeyError("a bug")).name
    'INTERNAL'
    """
    import grpc

    return grpc.StatusCode[_status_name(error)]


def failure_of(error: BaseException) -> common_pb2.Failure:
    """What a caller may know of an error; of a fault of the server only that there was one.

    `retry` is set exactly when the same call may succeed later.
    """
    known = _known(error)
    failure = common_pb2.Failure(
        code=_FAULT,
        what="the server failed",
        why="what failed stands in the server's log",
        fix="ask the operator, or try again later",
    )
    if known is not None:
        failure = common_pb2.Failure(
            code=known.code,
            what=_text(known.what),
            why=_text(known.why),
            fix=_text(known.fix),
        )
    window = _retry_of(error)
    if window is not None:
        failure.retry.delay_min_ms, failure.retry.delay_max_ms = window
    return failure


def metadata_of(error: BaseException) -> tuple[tuple[str, str | bytes], ...]:
    """The trailing metadata of a refused RPC: its `Failure`, and whether gRPC repeats it itself."""
    failure = failure_of(error)
    pushback = "-1"  # never
    if failure.HasField("retry") and failure.retry.delay_min_ms <= _LONGEST_PUSHBACK_MS:
        pushback = str(failure.retry.delay_min_ms)
    return ((FAILURE_KEY, failure.SerializeToString()), (PUSHBACK_KEY, pushback))


def error_from(error: grpc.RpcError) -> FedcoreError:
    """The error that an RPC's failure means to a client; it is for the caller to raise.

    A `Failure` gives the class of its code if that is one a server may raise, RefusedError with the
    server's texts if not. Without one the transport failed: UnreachableError, DeviceTimeoutError,
    ServerVersionError or, for a status that only a server gives, RefusedError.
    """
    failure = _failure_in(error)
    if failure is None:
        return _transport_error(error)
    found = _BY_CODE.get(failure.code, RefusedError)
    what = _text(failure.what) or "the server refuses the request"
    texts = {"why": _text(failure.why), "fix": _text(failure.fix)}
    if issubclass(found, RefusedError):
        return found(what, **texts, retry=_window(failure))
    return found(what, **texts)


_BY_CODE: Final[Mapping[str, type[FedcoreError]]] = MappingProxyType(
    {found.code: found for found, name in STATUS.items() if name != "INTERNAL"}
)


def _known(error: BaseException) -> FedcoreError | None:
    """The error itself if its sort may be told to a caller, whichever subclass it is of."""
    if isinstance(error, FedcoreError) and _status_name(error) not in ("INTERNAL", "UNAVAILABLE"):
        return error
    return error if isinstance(error, errors.DrainingError) else None


def _status_name(error: BaseException) -> str:
    if isinstance(error, _PASSING):
        return "UNAVAILABLE"
    return next((STATUS[cls] for cls in type(error).__mro__ if cls in STATUS), "INTERNAL")


def _retry_of(error: BaseException) -> tuple[int, int] | None:
    if isinstance(error, RefusedError) and error.retry is not None:
        return error.retry
    passes = isinstance(error, (errors.OverloadedError, errors.DrainingError, *_PASSING))
    return _RETRY_MS if passes else None


def _window(failure: common_pb2.Failure) -> tuple[int, int] | None:
    if not failure.HasField("retry"):
        return None
    least = min(failure.retry.delay_min_ms, _LONGEST_RETRY_MS)
    return least, max(least, min(failure.retry.delay_max_ms, _LONGEST_RETRY_MS))


def _failure_in(error: grpc.RpcError) -> common_pb2.Failure | None:
    # Their own type of pair, of which the stubs do not say that it unpacks.
    metadata = cast("Sequence[tuple[str, str | bytes]]", error.trailing_metadata() or ())
    for key, value in metadata:
        if key == FAILURE_KEY and isinstance(value, bytes) and len(value) <= _LARGEST_FAILURE:
            try:
                return common_pb2.Failure.FromString(value)
            except DecodeError:
                return None
    return None


def _transport_error(error: grpc.RpcError) -> FedcoreError:
    name = error.code().name if error.code() is not None else "UNKNOWN"
    why = f"gRPC says {name}: {_text(error.details() or '')}"
    fix = "`fed client doctor` finds out where the way to the server is broken"
    found, what = _TRANSPORT.get(name, (RefusedError, "the server failed"))
    return found(what, why=why, fix=fix)


def _text(text: str) -> str:
    """A text that a terminal or a log may show: one line of limited length, nothing that acts."""
    return plain(text[:_LONGEST_TEXT]).strip()
