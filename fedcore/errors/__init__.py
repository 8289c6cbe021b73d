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
├── PrivacyError        FED-1500  a guarantee of differential privacy would not hold
│   ├── PlanError            FED-1501  a plan, or a step of it, would void its own guarantee
│   ├── BudgetError          FED-1502  the privacy budget does not pay for another release
│   ├── AccountantError      FED-1503  no accountant can state, or two contradict, what was spent
│   ├── NormError            FED-1504  an update lies outside the ball that its noise was made for
│   ├── SurvivorsError       FED-1505  fewer shares of noise arrived than the guarantee needs
│   ├── ParticipationError   FED-1506  a person would take part more often than the plan allows
│   ├── ReservationError     FED-1507  a release was not reserved, was spent, or is another's
│   ├── LedgerError          FED-1508  a ledger is not a ledger, or its chain is broken
│   ├── RollbackError        FED-1509  a ledger is older than what was released from it
│   ├── LedgerBusyError      FED-1510  another process holds the ledger
│   └── NoiseRoomError       FED-1511  noise cannot be drawn so, or does not fit its integers
├── TaskError        FED-1601  a task, or a file of settings, says what cannot be done
├── ProgramError     FED-1602  no program, model or data of that name are installed
├── UpdateError      FED-1603  an update does not fit the layout of its task
├── TransitionError  FED-1701  a round cannot go from this phase to that
├── RoundOverError   FED-1702  a round ended without a result
├── EnvelopeError    FED-1801  a message is not signed by who sends it, or for this place
├── TransferError    FED-1802  bytes were lost or changed on their way
├── JoinStringError  FED-1803  a join string is damaged
├── RefusedError     FED-2100  the server refuses a request
│   ├── UnauthenticatedError  FED-2101  nobody can tell who sends a request
│   ├── ForbiddenError        FED-2102  the sender may not do that
│   ├── InvalidRequestError   FED-2103  a request is malformed or out of its bounds
│   ├── UploadError           FED-2104  an upload is too large, damaged, or another than was begun
│   ├── ConflictError         FED-2105  what was settled is asked for with other content
│   ├── NotFoundError         FED-2106  there is nothing of that name
│   ├── PhaseError            FED-2107  a message comes too early or too late for its round
│   ├── OverloadedError       FED-2108  the server, or a quota, has no room for a request now
│   ├── DrainingError         FED-2109  the server is shutting down
│   ├── VersionError          FED-2110  client and server speak different versions
│   └── TokenError            FED-2111  an enrolment token is unknown, used up or expired
├── ServerError      FED-2200  the server cannot serve
│   ├── StoreError            FED-2201  the database did not keep what it was given
│   ├── SchemaError           FED-2202  the database has another schema than the program
│   ├── BlobError             FED-2203  bytes could not be stored, or are not what was stored
│   │   └── DamagedUpdateError      FED-2208  an acknowledged update is not what its file holds
│   ├── LeaseLostError        FED-2204  another driver holds the lease of a task
│   ├── AuditError            FED-2205  the audit log is broken, or older than a signed head
│   ├── KeyFileError          FED-2206  a secret file is missing, unreadable or open to others
│   └── AuthorityError        FED-2207  the certificate authority cannot do that
├── ClientError      FED-2300  the client cannot take part
│   ├── ConnectError          FED-2310  the server cannot be reached
│   │   ├── HostNameError           FED-2311  the server's name is not known
│   │   ├── UnreachableError        FED-2312  nothing answers at the server's address
│   │   ├── UntrustedServerError    FED-2313  the server's certificate is not the pinned authority's
│   │   ├── ClientCertificateError  FED-2314  the server does not take the client's certificate
│   │   ├── ClockError              FED-2315  the device's clock is wrong
│   │   ├── ServerVersionError      FED-2316  the server speaks another version
│   │   ├── NotAuthorisedError      FED-2317  the server knows the client, and refuses it
│   │   └── DeviceTimeoutError      FED-2318  the server did not answer in time
│   ├── DevicePolicyError     FED-2320  the device's owner forbids the task
│   ├── ClientStateError      FED-2330  the client's durable state cannot be read or written
│   └── CancelledError        FED-2340  the client's work was cancelled
└── SimulationError  FED-2400  a simulation cannot go on
"""

from __future__ import annotations

from fedcore.errors.arrays import (
    ArgumentError,
    AxisError,
    CapacityError,
    CheckpointError,
    DataFormatError,
    DatasetError,
    DerivativeError,
    DeviceError,
    DivergenceError,
    DtypeError,
    InstallError,
    MutationError,
    ShapeError,
    TraceError,
    TreeError,
    TruncatedFileError,
)
from fedcore.errors.base import (
    FedcoreError,
    user_line,
)
from fedcore.errors.client import (
    CancelledError,
    ClientCertificateError,
    ClientError,
    ClientStateError,
    ClockError,
    ConnectError,
    DevicePolicyError,
    DeviceTimeoutError,
    HostNameError,
    NotAuthorisedError,
    ServerVersionError,
    UnreachableError,
    UntrustedServerError,
)
from fedcore.errors.federation import (
    EnvelopeError,
    JoinStringError,
    ProgramError,
    RoundOverError,
    TaskError,
    TransferError,
    TransitionError,
    UpdateError,
)
from fedcore.errors.privacy import (
    AccountantError,
    BudgetError,
    LedgerBusyError,
    LedgerError,
    NoiseRoomError,
    NormError,
    ParticipationError,
    PlanError,
    PrivacyError,
    ReservationError,
    RollbackError,
    SurvivorsError,
)
from fedcore.errors.secagg import (
    AbortError,
    AuthenticationError,
    ConsistencyError,
    EntropyError,
    MessageError,
    PackingError,
    ParameterError,
    PolicyError,
    ReuseError,
    SecAggError,
    ShareError,
    StageError,
)
from fedcore.errors.server import (
    AuditError,
    AuthorityError,
    BlobError,
    ConflictError,
    DamagedUpdateError,
    DrainingError,
    ForbiddenError,
    InvalidRequestError,
    KeyFileError,
    LeaseLostError,
    NotFoundError,
    OverloadedError,
    PhaseError,
    RefusedError,
    SchemaError,
    ServerError,
    StoreError,
    TokenError,
    UnauthenticatedError,
    UploadError,
    VersionError,
)
from fedcore.errors.simulation import SimulationError

__all__ = [
    "AbortError",
    "AccountantError",
    "ArgumentError",
    "AuditError",
    "AuthenticationError",
    "AuthorityError",
    "AxisError",
    "BlobError",
    "BudgetError",
    "CancelledError",
    "CapacityError",
    "CheckpointError",
    "ClientCertificateError",
    "ClientError",
    "ClientStateError",
    "ClockError",
    "ConflictError",
    "ConnectError",
    "ConsistencyError",
    "DamagedUpdateError",
    "DataFormatError",
    "DatasetError",
    "DerivativeError",
    "DeviceError",
    "DevicePolicyError",
    "DeviceTimeoutError",
    "DivergenceError",
    "DrainingError",
    "DtypeError",
    "EntropyError",
    "EnvelopeError",
    "FedcoreError",
    "ForbiddenError",
    "HostNameError",
    "InstallError",
    "InvalidRequestError",
    "JoinStringError",
    "KeyFileError",
    "LeaseLostError",
    "LedgerBusyError",
    "LedgerError",
    "MessageError",
    "MutationError",
    "NoiseRoomError",
    "NormError",
    "NotAuthorisedError",
    "NotFoundError",
    "OverloadedError",
    "PackingError",
    "ParameterError",
    "ParticipationError",
    "PhaseError",
    "PlanError",
    "PolicyError",
    "PrivacyError",
    "ProgramError",
    "RefusedError",
    "ReservationError",
    "ReuseError",
    "RollbackError",
    "RoundOverError",
    "SchemaError",
    "SecAggError",
    "ServerError",
    "ServerVersionError",
    "ShapeError",
    "ShareError",
    "SimulationError",
    "StageError",
    "StoreError",
    "SurvivorsError",
    "TaskError",
    "TokenError",
    "TraceError",
    "TransferError",
    "TransitionError",
    "TreeError",
    "TruncatedFileError",
    "UnauthenticatedError",
    "UnreachableError",
    "UntrustedServerError",
    "UpdateError",
    "UploadError",
    "VersionError",
    "registry",
    "user_line",
]


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
