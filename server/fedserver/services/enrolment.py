"""`EnrolmentService`: the only one without a certificate, where one is to be had.

A token is exchanged for the first, the proof of an identity key for another after it has expired.
"""

from __future__ import annotations

from typing import Protocol

from fedcore.secagg.identity import SIGNATURE_BYTES
from fedcore.v1 import enrolment_service_pb2
from fedserver.authorisation import Caller
from fedserver.services import fields
from fedserver.services.unsigned import Unsigned

__all__ = ["Enroller", "EnrolmentService"]

_LARGEST_REQUEST = 16 * 1024


class Enroller(Protocol):
    """Whoever certifies clients for the tokens that they hold: `fedserver.enrolment.Enrolment`."""

    def anchors(self) -> enrolment_service_pb2.AnchorsResponse:
        """The root certificate."""
        ...

    async def enrol(
        self, request: enrolment_service_pb2.EnrolRequest, /, *, peer: str
    ) -> enrolment_service_pb2.EnrolResponse:
        """Certificates for the key of a signing request. `peer`: whence it comes, without port."""
        ...

    async def reissue(
        self, request: enrolment_service_pb2.ReissueRequest, /, *, peer: str
    ) -> enrolment_service_pb2.ReissueResponse:
        """Certificates for a client whose own have expired. `peer`: as for `enrol`."""
        ...


class EnrolmentService(Unsigned):
    """Checks what could be large; what a request is worth is the enroller's affair."""

    def __init__(self, enroller: Enroller) -> None:
        self._enroller = enroller

    async def Anchors(
        self, caller: Caller, request: enrolment_service_pb2.AnchorsRequest
    ) -> enrolment_service_pb2.AnchorsResponse:
        return self._enroller.anchors()

    async def Enrol(
        self, caller: Caller, request: enrolment_service_pb2.EnrolRequest
    ) -> enrolment_service_pb2.EnrolResponse:
        fields.sized(request.signing_request, "signing_request", least=1, most=_LARGEST_REQUEST)
        fields.text(request.sdk_version, "sdk_version", most=64)
        fields.attributes(request.attributes)
        return await self._enroller.enrol(request, peer=caller.address)

    async def Reissue(
        self, caller: Caller, request: enrolment_service_pb2.ReissueRequest
    ) -> enrolment_service_pb2.ReissueResponse:
        fields.identifier(request.client_id, "client_id")
        fields.sized(request.signing_request, "signing_request", least=1, most=_LARGEST_REQUEST)
        fields.sized(request.identity_proof, "identity_proof", exactly=SIGNATURE_BYTES)
        return await self._enroller.reissue(request, peer=caller.address)
