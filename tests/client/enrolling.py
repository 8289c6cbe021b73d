"""The small server's part in which clients get their certificates."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import Any

from cryptography import x509

from fedcore.entropy import SystemEntropy
from fedcore.errors import (
    TokenError,
    UnauthenticatedError,
)
from fedcore.secagg import (
    CertificateAuthority,
    TrustStore,
)
from fedcore.secagg.identity import verify_signature
from fedcore.v1 import (
    client_service_pb2 as clients,
    enrolment_service_pb2 as enrolment,
)
from fedcore.wire.envelope import (
    proof_statement,
    reissue_statement,
)
from tests.client.authority import Authority

__all__ = ["FakeEnrolment"]


class FakeEnrolment:
    """Certifies whoever brings its token; `revoked` clients are certified no more."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.attributes: dict[str, str] = {}
        self.registrar = CertificateAuthority.generate(SystemEntropy())
        self.trust = TrustStore([self.registrar.public_key])
        self.token = os.urandom(32)
        self.uses: dict[bytes, tuple[bytes, Any]] = {}
        self.keys: dict[bytes, bytes] = {}
        self.revoked: set[bytes] = set()
        self.lifetime = timedelta(days=1)
        self.address = ""
        self.port = 0

    def Anchors(self, client: bytes, request: Any) -> Any:
        return enrolment.AnchorsResponse(authority=self.authority.der)

    def Enrol(self, client: bytes, request: enrolment.EnrolRequest) -> Any:
        self.attributes = dict(request.attributes)
        if request.token != self.token:
            raise TokenError("the token is unknown", why="it was never made")
        key = x509.load_der_x509_csr(request.signing_request).public_key()
        name = key.public_numbers().x.to_bytes(32, "big")
        if name not in self.uses:
            statement = proof_statement(request.signing_request, self.authority.der)
            assert verify_signature(request.identity_key, request.identity_proof, statement)
            client_id = os.urandom(16)
            self.uses[name] = client_id, self._certified(request, client_id)
        client_id, (chain, certificate) = self.uses[name]
        self.keys[client_id] = request.identity_key
        return enrolment.EnrolResponse(
            client_id=client_id,
            tenant="default",
            certificate_chain=chain,
            identity_certificate=certificate,
            registrars=[self.registrar.public_key],
            address=self.address or f"127.0.0.1:{self.port}",
            server_id=bytes(16),
        )

    def _certified(self, request: Any, client_id: bytes) -> tuple[list[bytes], bytes]:
        chain = self.authority.client(request.signing_request, client_id, ends=self.lifetime)
        expires = int(time.time()) + 86_400
        key = getattr(request, "identity_key", None) or self.keys[client_id]
        return chain, self.registrar.issue(client_id, key, expires=expires).encode()

    def Renew(self, client: bytes, request: Any) -> Any:
        chain, certificate = self._certified(request, client)
        return clients.RenewResponse(certificate_chain=chain, identity_certificate=certificate)

    def Reissue(self, client: bytes, request: enrolment.ReissueRequest) -> Any:
        name, authority = request.client_id, self.authority.der
        statement = reissue_statement(request.signing_request, authority, client_id=name)
        known = name in self.keys and name not in self.revoked
        if not known or not verify_signature(self.keys[name], request.identity_proof, statement):
            raise UnauthenticatedError("the sender does not show that it is that client")
        chain, certificate = self._certified(request, name)
        return enrolment.ReissueResponse(certificate_chain=chain, identity_certificate=certificate)
