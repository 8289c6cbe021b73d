"""Requests to begin with, made from the descriptors: those of a new RPC need no file.

A request is filled in by the names and the types of its fields.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import replace
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from fedcore.secagg.messages import encode
from fedcore.wire.versions import installed_version
from fedserver.services.admin import AdminService
from fedserver.services.assignment import RoundService, SecAggService
from fedserver.services.transfer import UploadService
from tests.fuzz.calls import NAMES, PLAIN, Rpc, selecting
from tests.secagg.samples import SAMPLES

__all__ = ["requests"]

_SIGNED = (AdminService, RoundService, SecAggService, UploadService)
_PAYLOADS = {f"{s.__name__}.{rpc}": kind for s in _SIGNED for rpc, kind in s.payloads.items()}
# As the server names the task that it begins with: by who hands it in, and in which request.
_TASK_ID = f"small-{hashlib.sha256(b'user:default/ada' + bytes(17)).hexdigest()[:12]}"
_DATA = bytes(range(40))


def requests(rpc: Rpc) -> list[bytes]:
    """Inputs that call an RPC: empty, filled in, and both as signed payloads where it has one."""
    found = [b"", *_filled(rpc.request)]
    sealed = [b"", *_filled(_PAYLOADS[rpc.name])] if rpc.permission.envelope else []
    return [selecting(rpc, data) for data in found] + [
        selecting(rpc, data, sealed=True) for data in sealed
    ]


def _filled(kind: type[Message]) -> list[bytes]:
    """A message with every field, and one for each message of secure aggregation in it."""
    messages = [encode(each) for each in SAMPLES.values()]
    has_one = kind.DESCRIPTOR.name == "SecAggMessage"
    return [_fill(kind(), message).SerializeToString() for message in messages[: 99 * has_one + 1]]


def _fill(message: Any, secagg: bytes) -> Any:
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            value["site"] = "ward" if field.message_type.fields[1].type == field.TYPE_STRING else 1
        elif field.message_type is not None:
            _fill(value.add() if field.is_repeated else value, secagg)
        elif field.is_repeated:
            value.append(_value(field, secagg))
        else:
            setattr(message, field.name, _value(field, secagg))
    return message


def _value(field: FieldDescriptor, secagg: bytes) -> Any:
    if field.full_name == "fedcore.v1.SecAggMessage.assignment_id":
        return NAMES["masked_assignment"]
    if field.name in _KNOWN:
        return _KNOWN[field.name]
    if field.name == "message":
        return secagg
    if field.type == field.TYPE_STRING:
        return "1.0"
    if field.type == field.TYPE_BYTES:
        return bytes(32)
    return 1


def _signing_request() -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    key = ec.derive_private_key(7, ec.SECP256R1())
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


_KNOWN: dict[str, Any] = {
    "assignment_id": NAMES["assignment"],
    "client_id": (1).to_bytes(16, "big"),
    "crc32": zlib.crc32(_DATA),
    "data": _DATA,
    "datasets": "toy",
    "digest": NAMES["model"],
    "header": b"",
    "identity_proof": bytes(64),
    "model": b"",
    "model_sha256": b"",
    "request_id": b"one more request",
    "sdk_version": installed_version(),
    "signing_request": _signing_request(),
    "size": PLAIN.layout.upload_bytes,
    "task": replace(PLAIN, seed=9).canonical,
    "task_id": _TASK_ID,
    "upload_id": NAMES["upload"],
}
