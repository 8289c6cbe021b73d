"""How a client's part ended, and what of it the server is told: never a word about the data.

A text that an error of training carries may hold numbers that come from records, so that of such an
error only the class is reported. What the owner's policy forbids is said in full.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fedclient.progress import Outcome
from fedcore.errors import (
    CancelledError,
    DatasetError,
    DevicePolicyError,
    DivergenceError,
    EnvelopeError,
    FedcoreError,
    PolicyError,
    ProgramError,
    RefusedError,
    SecAggError,
    TaskError,
)

if TYPE_CHECKING:
    from fedcore.v1.round_service_pb2 import Finished

__all__ = ["Ended", "named"]

# Numbers of fedcore.v1.FailureCode, here by name so that importing this needs no protobuf.
_POLICY_REFUSED: Final = 1
_PROGRAM_MISSING: Final = 2
_DATA_MISSING: Final = 3
_DIVERGED: Final = 4
_CANCELLED: Final = 7
_PROTOCOL: Final = 8
_INTERNAL: Final = 9

_CODES: Final[tuple[tuple[tuple[type[Exception], ...], int, Outcome], ...]] = (
    ((DevicePolicyError, PolicyError), _POLICY_REFUSED, Outcome.REFUSED),
    ((ProgramError,), _PROGRAM_MISSING, Outcome.REFUSED),
    ((DatasetError,), _DATA_MISSING, Outcome.REFUSED),
    ((DivergenceError,), _DIVERGED, Outcome.FAILED),
    ((CancelledError,), _CANCELLED, Outcome.CANCELLED),
    ((SecAggError, EnvelopeError, TaskError, RefusedError), _PROTOCOL, Outcome.FAILED),
)
_LONGEST = 256  # of what a server takes as one line


@dataclass(frozen=True, slots=True)
class Ended:
    """`failure`: a number of `FailureCode`, 0 for none. `detail`: what the server is told."""

    outcome: Outcome
    reason: str = ""
    failure: int = 0
    detail: str = ""

    @classmethod
    def by_server(cls, finished: Finished) -> Ended:
        """What the server said of an attempt."""
        outcomes = (
            Outcome.DROPPED,
            Outcome.COMPLETED,
            Outcome.ABANDONED,
            Outcome.CANCELLED,
            Outcome.DROPPED,
        )
        outcome = outcomes[finished.outcome if 0 <= finished.outcome < len(outcomes) else 0]
        return cls(outcome, finished.reason[:_LONGEST])

    @classmethod
    def by_error(cls, error: Exception) -> Ended:
        """What an error on this device means.

        >>> Ended.by_error(DivergenceError("the loss is 17.25")).detail
        'FED-1301 DivergenceError'
        """
        failure, outcome = _INTERNAL, Outcome.FAILED
        for classes, code, meant in _CODES:
            if isinstance(error, classes):
                failure, outcome = code, meant
                break
        detail = named(error)
        if not isinstance(error, FedcoreError):
            return cls(outcome, detail, failure, detail)
        if isinstance(error, DevicePolicyError | PolicyError | TaskError | EnvelopeError):
            detail = f"{error.code} {error.what}: {error.why}"
        reason = f"{error.code} {error.what}" + (f": {error.why}" if error.why else "")
        return cls(outcome, reason, failure, detail[:_LONGEST])


def named(error: Exception) -> str:
    """An error by its code and class, without its text.

    >>> named(KeyError("patient 7"))
    'KeyError'
    """
    name = type(error).__name__
    return f"{error.code} {name}" if isinstance(error, FedcoreError) else name
