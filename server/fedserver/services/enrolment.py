"""`EnrolmentService`: the only one without a certificate, where a token is exchanged for one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from fedcore.v1 import enrolment_service_pb2
from fedcore.wire.joining import TOKEN_BYTES
from fedserver.authorisation import Caller
from fedserver.services import fields
from fedserver.services.unsigned import Unsigned

__all__ = ["Enroller", "EnrolmentService"]

_LARGEST_REQUEST = 16 * 1024
_KEY_BYTES, _SIGNATURE_BYTES = 32, 64


class Enroller(Protocol):
    """Whoever certifies clients for the tokens that they hold."""

    async def anchors(self) -> bytes:
        """DER of the root certificate."""
        ...

    async def enrol(
        self,
        *,
        signing_request: bytes,
        token: bytes,
        identity_key: bytes,
        identity_proof: bytes,
        sdk_version: str,
        attributes: Mapping[str, str],
        peer: str,
    ) -> enrolment_service_pb2.EnrolResponse:
        """Certificates for the key of a signing request. `peer`: whence it comes, without port."""
        ...


class EnrolmentService(Unsigned):
    """Checks the bounds; what a token is worth is the enroller's affair."""

    def __init__(self, enroller: Enroller) -> None:
        self._enroller = enroller

    async def Anchors(
        self, caller: Caller, request: enrolment_service_pb2.AnchorsRequest
    ) -> enrolment_service_pb2.AnchorsResponse:
        return enrolment_service_pb2.AnchorsResponse(authority=await self._enroller.anchors())

    async def Enrol(
        self, caller: Caller, request: enrolment_service_pb2.EnrolRequest
    ) -> enrolment_service_pb2.EnrolResponse:
        return await self._enroller.enrol(
            signing_request=fields.sized(
                request.signing_request, "signing_request", least=1, most=_LARGEST_REQUEST
            ),
            token=fields.sized(request.token, "token", exactly=TOKEN_BYTES),
            identity_key=fields.sized(request.identity_key, "identity_key", exactly=_KEY_BYTES),
            identity_proof=fields.sized(
                request.identity_proof, "identity_proof", exactly=_SIGNATURE_BYTES
            ),
            sdk_version=fields.text(request.sdk_version, "sdk_version", most=64),
            attributes=fields.attributes(request.attributes),
            peer=caller.address,
        )
