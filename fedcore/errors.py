"""Every error a user can cause: one class a code, each saying what happened, why, and what to do.

FedcoreError
├── InstallError        FED-1001  an optional dependency is not installed
├── ShapeError          FED-1101  array shapes do not fit an operation
├── DtypeError          FED-1102  an array has a dtype the operation does not take
├── AxisError           FED-1103  an axis or index is out of range
├── DeviceError         FED-1104  arrays of different devices meet, or a device is missing
├── MutationError       FED-1105  a tensor, or a finished module, was assigned to in place
├── TraceError          FED-1106  a program cannot be recorded faithfully
├── DerivativeError     FED-1107  a derivative does not exist or was asked of a non-scalar
├── TreeError           FED-1108  two pytrees differ in structure
├── ArgumentError       FED-1109  an option has a value outside its range
├── CapacityError       FED-1110  an array does not fit into memory
├── DataFormatError     FED-1201  a file is not of the format it should be
├── TruncatedFileError  FED-1202  a file ends before its header says it should
├── DatasetError        FED-1203  a dataset's parts do not fit together, or it is empty
├── CheckpointError     FED-1204  a checkpoint does not fit the model
├── DivergenceError     FED-1301  training has left the region where its loss is finite
├── SecAggError         FED-1400  a secure aggregation cannot go on
│   ├── ParameterError       FED-1401  no degree and threshold give the protection that is asked for
│   ├── PolicyError          FED-1402  a session is weaker than the client's policy allows
│   ├── MessageError         FED-1403  a message is malformed, truncated, oversized or not canonical
│   ├── StageError           FED-1404  a message comes out of order, or belongs to no open session
│   ├── AuthenticationError  FED-1405  a certificate, signature, key or quorum is not valid
│   ├── ConsistencyError     FED-1406  the server's sets or digests contradict each other
│   ├── ReuseError           FED-1407  what may happen once was asked for a second time
│   ├── ShareError           FED-1408  shares of a secret do not rebuild it
│   ├── PackingError         FED-1409  integers do not fit into the slots of a word
│   ├── AbortError           FED-1410  a session ended without a sum
│   └── EntropyError         FED-1411  a source of randomness may not be used here
└── PrivacyError        FED-1500  a guarantee of differential privacy would not hold
    ├── PlanError            FED-1501  a plan, or a step of it, would void its own guarantee
    ├── BudgetError          FED-1502  the privacy budget does not pay for another release
    ├── AccountantError      FED-1503  no accountant can state, or two contradict, what was spent
    ├── NormError            FED-1504  an update lies outside the ball that its noise was made for
    ├── SurvivorsError       FED-1505  fewer shares of noise arrived than the guarantee needs
    ├── ParticipationError   FED-1506  a person would take part more often than the plan allows
    ├── ReservationError     FED-1507  a release was not reserved, was spent, or is another's
    ├── LedgerError          FED-1508  a ledger is not a ledger, or its chain is broken
    ├── RollbackError        FED-1509  a ledger is older than what was released from it
    └── LedgerBusyError      FED-1510  another process holds the ledger
"""

from __future__ import annotations

import linecache
import os
import sys
from typing import ClassVar

__all__ = [
    "AbortError",
    "AccountantError",
    "ArgumentError",
    "AuthenticationError",
    "AxisError",
    "BudgetError",
    "CapacityError",
    "CheckpointError",
    "ConsistencyError",
    "DataFormatError",
    "DatasetError",
    "DerivativeError",
    "DeviceError",
    "DivergenceError",
    "DtypeError",
    "EntropyError",
    "FedcoreError",
    "InstallError",
    "LedgerBusyError",
    "LedgerError",
    "MessageError",
    "MutationError",
    "NormError",
    "PackingError",
    "ParameterError",
    "ParticipationError",
    "PlanError",
    "PolicyError",
    "PrivacyError",
    "ReservationError",
    "ReuseError",
    "RollbackError",
    "SecAggError",
    "ShapeError",
    "ShareError",
    "StageError",
    "SurvivorsError",
    "TraceError",
    "TreeError",
    "TruncatedFileError",
    "registry",
    "user_line",
]

_PACKAGE = __name__.partition(".")[0]


def user_line() -> str:
    """The innermost line outside this package as `file:line: source`, or "" if there is none."""
    frame = sys._getframe(1)
    while frame is not None and _is_ours(frame.f_globals.get("__name__")):
        frame = frame.f_back  # type: ignore[assignment]
    if frame is None:
        return ""
    name, line = frame.f_code.co_filename, frame.f_lineno
    source = linecache.getline(name, line).strip()
    return f"{os.path.basename(name)}:{line}" + (f": {source}" if source else "")


def _is_ours(module: object) -> bool:
    """By a module's name: methods that dataclasses generate have no file.

    `contextlib` stands between a user and what it decorates.
    """
    return module == "contextlib" or f"{module}.".startswith(f"{_PACKAGE}.")


class FedcoreError(Exception):
    """The base of all errors: a stable `code`, the reason `why`, and the remedy `fix`.

    >>> print(ShapeError("matmul: inner sizes differ", why="784 is not 128", fix="transpose b"))
    FED-1101 matmul: inner sizes differ
      Why: 784 is not 128
      Fix: transpose b
    """

    code: ClassVar[str] = "FED-1000"

    def __init__(self, what: str, *, why: str = "", fix: str = "", where: str = "") -> None:
        super().__init__(what)
        self.what, self.why, self.fix, self.where = what, why, fix, where

    def __str__(self) -> str:
        lines = [f"{self.code} {self.what}"]
        lines += [f"  at {self.where}"] if self.where else []
        lines += [f"  Why: {self.why}"] if self.why else []
        lines += [f"  Fix: {self.fix}"] if self.fix else []
        return "\n".join(lines)


class InstallError(FedcoreError, ImportError):
    """An optional dependency is not installed."""

    code = "FED-1001"


class ShapeError(FedcoreError, ValueError):
    """Array shapes do not fit an operation."""

    code = "FED-1101"


class DtypeError(FedcoreError, TypeError):
    """An array has a dtype the operation does not take."""

    code = "FED-1102"


class AxisError(FedcoreError, IndexError):
    """An axis or an index is out of range."""

    code = "FED-1103"


class DeviceError(FedcoreError, RuntimeError):
    """Arrays of different devices meet, or a device is missing."""

    code = "FED-1104"


class MutationError(FedcoreError, TypeError):
    """A tensor, or a module after its `__init__`, was assigned to in place."""

    code = "FED-1105"


class TraceError(FedcoreError, RuntimeError):
    """A program cannot be recorded so that its replay would be right."""

    code = "FED-1106"


class DerivativeError(FedcoreError, ValueError):
    """A derivative does not exist, or was asked of something that is not a scalar."""

    code = "FED-1107"


class TreeError(FedcoreError, ValueError):
    """Two pytrees differ in structure."""

    code = "FED-1108"


class ArgumentError(FedcoreError, ValueError):
    """An option has a value outside its range."""

    code = "FED-1109"


class CapacityError(FedcoreError, MemoryError):
    """An array does not fit into memory."""

    code = "FED-1110"


class DataFormatError(FedcoreError, ValueError):
    """A file is not of the format it should be."""

    code = "FED-1201"


class TruncatedFileError(DataFormatError):
    """A file ends before its header says it should."""

    code = "FED-1202"


class DatasetError(FedcoreError, ValueError):
    """The parts of a dataset do not fit together, or it is empty."""

    code = "FED-1203"


class CheckpointError(FedcoreError, ValueError):
    """A checkpoint does not fit the model it is loaded into."""

    code = "FED-1204"


class DivergenceError(FedcoreError, ArithmeticError):
    """Training has left the region where its loss is finite."""

    code = "FED-1301"


class SecAggError(FedcoreError, RuntimeError):
    """A secure aggregation cannot go on; `stage` says where, `culprit` who caused it, if known.

    `culprit`: the 16-byte id of a client, or None.
    """

    code = "FED-1400"

    def __init__(
        self,
        what: str,
        *,
        why: str = "",
        fix: str = "",
        where: str = "",
        stage: str = "",
        culprit: bytes | None = None,
    ) -> None:
        super().__init__(what, why=why, fix=fix, where=where)
        self.stage, self.culprit = stage, culprit

    def __str__(self) -> str:
        lines = [super().__str__()]
        lines += [f"  Stage: {self.stage}"] if self.stage else []
        if self.culprit is not None:
            # Whatever a caller named a client by: that an error cannot be printed helps nobody.
            known = self.culprit.hex() if isinstance(self.culprit, bytes) else repr(self.culprit)
            lines.append(f"  Culprit: {known}")
        return "\n".join(lines)


class ParameterError(SecAggError, ValueError):
    """No degree and threshold give the protection that is asked for."""

    code = "FED-1401"


class PolicyError(SecAggError, PermissionError):
    """A session is weaker than the client's policy allows."""

    code = "FED-1402"


class MessageError(SecAggError, ValueError):
    """A message is malformed, truncated, oversized or not in its one canonical form."""

    code = "FED-1403"


class StageError(SecAggError):
    """A message comes out of order, or belongs to no open session."""

    code = "FED-1404"


class AuthenticationError(SecAggError, ValueError):
    """A certificate, a signature, a key or a quorum is not valid."""

    code = "FED-1405"


class ConsistencyError(SecAggError, ValueError):
    """The sets or digests that the server sent contradict each other."""

    code = "FED-1406"


class ReuseError(SecAggError):
    """What may happen once was asked for a second time."""

    code = "FED-1407"


class ShareError(SecAggError, ValueError):
    """Shares of a secret do not rebuild it."""

    code = "FED-1408"


class PackingError(SecAggError, OverflowError):
    """Integers do not fit into the slots of a word, or their sum would not."""

    code = "FED-1409"


class AbortError(SecAggError):
    """A session ended without a sum."""

    code = "FED-1410"


class EntropyError(SecAggError):
    """A source of randomness may not be used here."""

    code = "FED-1411"


class PrivacyError(FedcoreError, RuntimeError):
    """A guarantee of differential privacy would not hold."""

    code = "FED-1500"


class PlanError(PrivacyError, ValueError):
    """A privacy plan, or a step that is to follow it, would void its own guarantee."""

    code = "FED-1501"


class BudgetError(PrivacyError):
    """The privacy budget does not pay for another release."""

    code = "FED-1502"


class AccountantError(PrivacyError, ArithmeticError):
    """No accountant can state what was spent, or two of them contradict each other."""

    code = "FED-1503"


class NormError(PrivacyError, ValueError):
    """An update lies outside the ball that its noise was made for."""

    code = "FED-1504"


class SurvivorsError(PrivacyError):
    """Fewer shares of noise arrived than the guarantee needs."""

    code = "FED-1505"


class ParticipationError(PrivacyError):
    """A person would take part sooner again, or more often, than the plan allows."""

    code = "FED-1506"


class ReservationError(PrivacyError):
    """A release was not reserved in the ledger, was spent already, or is another round's."""

    code = "FED-1507"


class LedgerError(PrivacyError, ValueError):
    """A privacy ledger is not one, or its chain of records is broken."""

    code = "FED-1508"


class RollbackError(LedgerError):
    """A privacy ledger is older than what was released from it."""

    code = "FED-1509"


class LedgerBusyError(LedgerError):
    """Another process, or another object of this one, holds the privacy ledger."""

    code = "FED-1510"


def registry() -> dict[str, type[FedcoreError]]:
    """Every error class by its code, sorted.

    >>> registry()["FED-1101"].__name__
    'ShapeError'
    """
    found: dict[str, type[FedcoreError]] = {}
    pending = [FedcoreError]
    while pending:
        cls = pending.pop()
        found[cls.code] = cls
        pending.extend(cls.__subclasses__())
    return dict(sorted(found.items()))
