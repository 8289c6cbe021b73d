"""Errors of what server and clients share: tasks, programs, rounds and messages."""

from __future__ import annotations

from fedcore.errors.base import FedcoreError

__all__ = [
    "EnvelopeError",
    "JoinStringError",
    "ProgramError",
    "RoundOverError",
    "TaskError",
    "TransferError",
    "TransitionError",
    "UpdateError",
]


class TaskError(FedcoreError, ValueError):
    """A task, or a file of settings, says what cannot be carried out, or contradicts itself."""

    code = "FED-1601"


class ProgramError(FedcoreError, LookupError):
    """No program, model or data of that name are installed here, or they do not fit the task."""

    code = "FED-1602"


class UpdateError(FedcoreError, ValueError):
    """An update, or a sum of updates, does not fit the layout of its task."""

    code = "FED-1603"


class TransitionError(FedcoreError, RuntimeError):
    """A round cannot go from this phase to that one."""

    code = "FED-1701"


class RoundOverError(FedcoreError, RuntimeError):
    """A round, or a client's part in it, ended without a result."""

    code = "FED-1702"


class EnvelopeError(FedcoreError, ValueError):
    """A message is not signed by who sends it, or not for this place."""

    code = "FED-1801"


class TransferError(FedcoreError, OSError):
    """Bytes were lost or changed on their way."""

    code = "FED-1802"


class JoinStringError(FedcoreError, ValueError):
    """A join string is damaged, or of another version."""

    code = "FED-1803"
