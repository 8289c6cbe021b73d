"""A store's part in an enrolment, in memory, and an enrolment that stands on it."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import Callable, Collection
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fedcore.errors import (
    ConflictError,
    TokenError,
)
from fedcore.v1 import enrolment_service_pb2 as messages
from fedserver.authority import Authority
from fedserver.enrolment import Enrolment
from fedserver.enrolment_limits import EnrolmentLimits
from fedserver.store.protocol import PartyStore
from fedserver.store.records import (
    CertificateRecord,
    ClientRecord,
    Enrolled,
    TokenRecord,
)

__all__ = [
    "NOW",
    "TOKEN",
    "Parties",
    "Request",
    "RequestFor",
    "RequestOf",
    "enrolment_at",
    "pem_of",
    "token_record",
]

NOW = 1_800_000_000
TOKEN = b"t" * 32
Request = messages.EnrolRequest
RequestOf = Callable[..., bytes]
RequestFor = Callable[..., Request]


class Parties:
    """As much of a store as enrolment asks for; every method is one step, as a transaction is."""

    def __init__(self, *tokens: TokenRecord) -> None:
        self.tokens = {token.token_sha256: token for token in tokens}
        self.clients: dict[bytes, ClientRecord] = {}
        self.added: list[CertificateRecord] = []
        self._enrolled: dict[bytes, tuple[bytes, Enrolled]] = {}

    async def token(self, token_sha256: bytes) -> TokenRecord | None:
        await asyncio.sleep(0)  # so that others come in between
        return self.tokens.get(token_sha256)

    async def enrol(
        self,
        token_sha256: bytes,
        client: ClientRecord,
        certificate: CertificateRecord,
        *,
        key_hash: bytes,
        reply: bytes,
        audit: object = None,
    ) -> Enrolled:
        await asyncio.sleep(0)
        assert audit is not None
        if key_hash in self._enrolled:
            used, before = self._enrolled[key_hash]
            if used != token_sha256:
                raise ConflictError("another token")
            return dataclasses.replace(before, repeated=True)
        token = self.tokens[token_sha256]
        if token.uses >= token.max_uses or token.expires_ms <= 1000 * NOW:
            raise TokenError("used up or expired")
        self.tokens[token_sha256] = dataclasses.replace(token, uses=token.uses + 1)
        self.clients[client.client_id] = client
        self.added.append(certificate)
        enrolled = Enrolled(client.client_id, reply, repeated=False)
        self._enrolled[key_hash] = token_sha256, enrolled
        return enrolled

    async def client(self, client_id: bytes) -> ClientRecord | None:
        return self.clients.get(client_id)

    async def add_certificate(self, certificate: CertificateRecord, *, audit: object) -> None:
        self.added.append(certificate)

    async def disowned(self, client_id: bytes, fingerprints: Collection[bytes]) -> bool:
        held = [found for found in self.added if found.client_id == client_id]
        return any(found.revoked_ms or found.fingerprint in fingerprints for found in held)


def token_record(token: bytes = TOKEN, *, uses: int = 1, **fields: Any) -> TokenRecord:
    given = {"tenant": "ward", "expires_ms": 1000 * (NOW + 60), **fields}
    return TokenRecord(hashlib.sha256(token).digest(), max_uses=uses, **given)


def enrolment_at(authority: Authority, store: Parties, **options: Any) -> Enrolment:
    return Enrolment(
        cast(PartyStore, store),
        authority,
        registrar=authority.registrar,
        address="fl.example.org:7443",
        server_id=b"s" * 16,
        version="1.4.0",
        **{
            "now_ms": lambda: 1000 * NOW,
            "limits": EnrolmentLimits(lambda: 1000 * NOW, per_minute=1000),
            **options,
        },
    )


def pem_of(der: bytes) -> bytes:
    """A certificate, as TLS libraries read it."""
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
