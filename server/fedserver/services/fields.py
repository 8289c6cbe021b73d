"""The bounds of every field that comes from the network, in one place.

A service passes each field of a request through one of these functions before anything is done with
it. They name the field, say what it has to be, and repeat nothing of what was sent.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping

from google.protobuf.message import Message

from fedcore.errors import InvalidRequestError
from fedcore.v1 import common_pb2
from fedserver.authorisation import Caller
from fedserver.store.records import Idempotency, RoundRef

__all__ = [
    "ATTRIBUTES",
    "DIGEST_BYTES",
    "ID_BYTES",
    "TERMS_BYTES",
    "attributes",
    "digest",
    "identifier",
    "names",
    "number",
    "once",
    "optional_task",
    "quantity",
    "round_ref",
    "sized",
    "task_id",
    "text",
]

ID_BYTES = 16  # of clients, assignments, uploads and requests
DIGEST_BYTES = 32
TERMS_BYTES = 32
ATTRIBUTES = 16
_LARGEST = 2**63 - 1
_NAMES, _NAME = 64, 128
_TASK = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}", re.ASCII)
_ATTRIBUTE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


def identifier(value: bytes, name: str) -> bytes:
    """An id: 16 bytes. Raises: InvalidRequestError.

    >>> identifier(b"short", "upload_id")
    Traceback (most recent call last):
    ...
    fedcore.errors.server.InvalidRequestError: FED-2103 upload_id is out of its bounds
      Why: it has 5 bytes, not 16
      Fix: send what fedcore/v1 describes
    """
    return sized(value, name, exactly=ID_BYTES)


def digest(value: bytes, name: str) -> bytes:
    """A SHA-256: 32 bytes. Raises: InvalidRequestError."""
    return sized(value, name, exactly=DIGEST_BYTES)


def sized(value: bytes, name: str, *, exactly: int = -1, most: int = -1, least: int = 0) -> bytes:
    """Bytes of a length. Raises: InvalidRequestError."""
    if exactly >= 0 and len(value) != exactly:
        raise _refused(name, f"it has {len(value)} bytes, not {exactly}")
    if len(value) < least or (most >= 0 and len(value) > most):
        raise _refused(name, f"it has {len(value)} bytes; {least} to {most} are taken")
    return value


def text(value: str, name: str, *, most: int = 256, empty: bool = True) -> str:
    """One line of printable text. Raises: InvalidRequestError."""
    if len(value) > most or (not empty and not value):
        raise _refused(name, f"it has {len(value)} characters; {int(not empty)} to {most} fit")
    if not value.isprintable():
        raise _refused(name, "it has characters that cannot be printed")
    return value


def task_id(value: str) -> str:
    """The name of a task. Raises: InvalidRequestError."""
    if _TASK.fullmatch(value) is None:
        raise _refused("task_id", "it is 1 to 128 of a-z, 0-9, dot, dash and underscore")
    return value


def optional_task(value: str) -> str:
    """The name of a task, or nothing. Raises: InvalidRequestError."""
    return task_id(value) if value else ""


def names(values: Iterable[str], name: str) -> frozenset[str]:
    """At most 64 names of 1 to 128 characters. Raises: InvalidRequestError."""
    found = list(values)
    if len(found) > _NAMES:
        raise _refused(name, f"it has {len(found)} entries; {_NAMES} are taken")
    return frozenset(text(value, name, most=_NAME, empty=False) for value in found)


def attributes(values: Mapping[str, str], name: str = "attributes") -> dict[str, str]:
    """At most 16 named texts. Raises: InvalidRequestError."""
    if len(values) > ATTRIBUTES:
        raise _refused(name, f"it has {len(values)} entries; {ATTRIBUTES} are taken")
    for key in values:
        if _ATTRIBUTE.fullmatch(key) is None:
            raise _refused(name, "a name is 1 to 64 letters, digits, dots, dashes, underscores")
    return {key: text(value, name) for key, value in values.items()}


def number(value: int, name: str, *, least: int = 0, most: int = _LARGEST) -> int:
    """A whole number in a range; by default what a database keeps. Raises: InvalidRequestError."""
    if not least <= value <= most:
        raise _refused(name, f"it is not from {least} to {most}")
    return value


def quantity(value: float, name: str, *, most: float = 1e12) -> float:
    """A measured number: finite, from 0 to `most`. Raises: InvalidRequestError."""
    if not math.isfinite(value) or not 0 <= value <= most:
        raise _refused(name, f"it is not a finite number from 0 to {most:g}")
    return value


def round_ref(value: common_pb2.RoundRef) -> RoundRef:
    """The name of an attempt at a round. Raises: InvalidRequestError."""
    return RoundRef(
        task_id(value.task_id), number(value.round, "round"), number(value.attempt, "attempt")
    )


def once(caller: Caller, method: str, payload: Message, request_id: bytes) -> Idempotency:
    """What makes a mutation happen once. Raises: InvalidRequestError for its id."""
    return Idempotency(
        principal=caller.principal,
        method=method,
        request_id=identifier(request_id, "request_id"),
        request_sha256=hashlib.sha256(payload.SerializeToString(deterministic=True)).digest(),
    )


def _refused(name: str, why: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{name} is out of its bounds", why=why, fix="send what fedcore/v1 describes"
    )
