"""A token and a signing request become a client: once, or once more with the same answer.

Whoever holds a token may become a client of its tenant, and nothing of the request decides what
that client is called or may do. A client that lost the answer asks again and gets it; a token gives
exactly as many clients as it has uses, however many ask at once, because its use and the client are
one transaction. Whoever guesses tokens is slowed down, and then locked out.

Certificates are short-lived, so a client renews them; one that was off for longer than they lasted
shows by its identity key who it is, and needs no second token.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from fedcore.entropy import Entropy, SystemEntropy
from fedcore.errors import (
    AuthorityError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    TokenError,
    UnauthenticatedError,
)
from fedcore.secagg.identity import (
    ID_BYTES,
    KEY_BYTES,
    SIGNATURE_BYTES,
    Certificate,
    CertificateAuthority,
    verify_signature,
)
from fedcore.v1 import enrolment_service_pb2 as messages
from fedcore.wire.envelope import proof_statement, reissue_statement
from fedcore.wire.joining import TOKEN_BYTES
from fedcore.wire.versions import check_version
from fedserver.authority import Authority
from fedserver.certificate_lists import nobody_is_let_in
from fedserver.certificates import Issued, key_digest, request_key
from fedserver.enrolment_limits import EnrolmentLimits, RenewalLimits
from fedserver.peers import client_name
from fedserver.store.protocol import PartyStore
from fedserver.store.records import (
    AuditEntry,
    CertificateRecord,
    ClientRecord,
    ClientState,
    TokenRecord,
)

__all__ = ["Enrolment", "Renewed", "new_client_id"]

_MOST_ATTRIBUTES: Final = 16
_LONGEST_ATTRIBUTE: Final = 256
_LONGEST_VERSION: Final = 64


@dataclass(frozen=True, slots=True)
class Renewed:
    """New certificates. `certificate_chain`: DER, the client's own first, the root last.

    `identity_certificate`: the registrar's certificate of the identity key, 120 bytes.
    """

    certificate_chain: tuple[bytes, ...]
    identity_certificate: bytes


def new_client_id(now_ms: int, entropy: Entropy) -> bytes:
    """16 bytes in the manner of a ULID: 48 bits of milliseconds, which sort, and 80 random bits."""
    return now_ms.to_bytes(6, "big") + entropy.token(ID_BYTES - 6)


class Enrolment:
    """The logic of `EnrolmentService`, and of `ClientService.Renew`.

    `registrar`: certifies identity keys; the authority's own unless another party holds it.
    `address`: host:port of the services that need a certificate; `server_id`: of the store.
    `limits`: how often who may try; `renewals`: how often a client is certified anew. `now_ms`:
    Unix milliseconds.
    """

    def __init__(
        self,
        store: PartyStore,
        authority: Authority,
        *,
        registrar: CertificateAuthority,
        address: str,
        server_id: bytes,
        version: str,
        limits: EnrolmentLimits | None = None,
        renewals: RenewalLimits | None = None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        entropy: Entropy | None = None,
    ) -> None:
        self._store, self._authority, self._registrar = store, authority, registrar
        self._address, self._server_id, self._version = address, server_id, version
        self._limits = limits or EnrolmentLimits(now_ms)
        self._renewals = renewals or RenewalLimits()
        self._now_ms, self._entropy = now_ms, entropy or SystemEntropy()

    def anchors(self) -> messages.AnchorsResponse:
        """The root certificate, whose hash stands in every join string."""
        return messages.AnchorsResponse(authority=self._authority.root)

    async def enrol(
        self, request: messages.EnrolRequest, *, peer: str = ""
    ) -> messages.EnrolResponse:
        """Certificates for a new client, or those that the same request got before.

        `peer`: the network address that asks. Raises: OverloadedError for an address that asks too
        often, or is locked out; InvalidRequestError; VersionError; TokenError; UnauthenticatedError
        for an identity key that the sender does not hold; ConflictError for a key that was enrolled
        with another token or another identity key.
        """
        with self._limits.attempt(peer) as attempt:
            _check_fields(request)
            check_version(request.sdk_version, server=self._version)
            key_hash = key_digest(request_key(request.signing_request))
            proof = proof_statement(request.signing_request, self._authority.root)
            if not verify_signature(request.identity_key, request.identity_proof, proof):
                raise _unproven()
            token_sha256 = hashlib.sha256(request.token).digest()
            token = await self._store.token(token_sha256)
            if token is None:
                attempt.failed()
                raise _unknown_token()
            # A token that is used up or expired is a try, and no guess: whoever has it was given
            # it, and its holder's neighbours behind one address must not be locked out.
            response = await self._enrolled(request, token, key_hash)
            attempt.succeeded()
            return response

    async def renew(self, client_id: bytes, signing_request: bytes, /) -> Renewed:
        """Certificates of another day for a client that the connection has already shown.

        The request may be for a new key; the identity key stays.
        Raises: InvalidRequestError; NotFoundError for a client that is unknown or not active;
        OverloadedError for one that had too many.
        """
        client = await self._store.client(client_id)
        return await self._certified_anew(client, signing_request, action="certificate.renew")

    async def reissue(
        self, request: messages.ReissueRequest, *, peer: str = ""
    ) -> messages.ReissueResponse:
        """Certificates for a client that cannot show its old ones, because they have expired.

        Raises: OverloadedError as `enrol`; UnauthenticatedError unless the identity key of that
        client has signed the request; InvalidRequestError and NotFoundError as `renew`.
        """
        with self._limits.attempt(peer) as attempt:
            client = await self._store.client(request.client_id)
            proof = reissue_statement(
                request.signing_request, self._authority.root, client_id=request.client_id
            )
            # Nobody learns which ids there are. It is no guess either, as nobody guesses a
            # signature: a device that was forgotten here locks none of its neighbours out.
            if client is None or not verify_signature(
                client.identity_key, request.identity_proof, proof
            ):
                raise _unproven()
            renewed = await self._certified_anew(
                client, request.signing_request, action="certificate.reissue"
            )
            attempt.succeeded()
            return messages.ReissueResponse(
                certificate_chain=renewed.certificate_chain,
                identity_certificate=renewed.identity_certificate,
            )

    async def _certified_anew(
        self, client: ClientRecord | None, signing_request: bytes, *, action: str
    ) -> Renewed:
        key = request_key(signing_request)
        if client is None or not await self._counts(client):
            raise NotFoundError(
                "no active client has this id",
                why="it was never enrolled here, or an operator has suspended or revoked it",
                fix="ask the operator",
            )
        self._renewals.count(client.client_id)
        issued = self._authority.issue_client(
            key, client_id=client.client_id, tenant=client.tenant, now=self._now_ms() // 1000
        )
        await self._store.add_certificate(
            _record(issued, client.client_id),
            audit=AuditEntry(f"client:{client.client_id.hex()}", action, issued.serial.hex()),
        )
        return Renewed(
            issued.chain, self._identity_certificate(client.client_id, client.identity_key, issued)
        )

    async def _counts(self, client: ClientRecord) -> bool:
        """Whether it may have certificates: a revoked one cannot be exchanged for another.

        Raises: RefusedError, with a time to come back, while nobody knows which are revoked.
        """
        if client.state is not ClientState.ACTIVE:
            return False
        try:
            revoked = self._authority.lists.revoked()
        except AuthorityError as error:
            raise nobody_is_let_in(error) from error
        return not await self._store.disowned(client.client_id, revoked)

    async def _enrolled(
        self, request: messages.EnrolRequest, token: TokenRecord, key_hash: bytes
    ) -> messages.EnrolResponse:
        now_ms = self._now_ms()
        client_id = new_client_id(now_ms, self._entropy)
        issued = self._authority.issue_client(
            request_key(request.signing_request),
            client_id=client_id,
            tenant=token.tenant,
            now=now_ms // 1000,
        )
        reply = messages.EnrolResponse(
            client_id=client_id,
            tenant=token.tenant,
            certificate_chain=issued.chain,
            identity_certificate=self._identity_certificate(
                client_id, request.identity_key, issued
            ),
            registrars=[self._registrar.public_key],
            address=self._address,
            server_id=self._server_id,
        )
        # The store decides, in one transaction, whether this happens; what was signed above is
        # thrown away if it does not, or if it happened before.
        enrolled = await self._store.enrol(
            token.token_sha256,
            ClientRecord(
                client_id,
                token.tenant,
                request.identity_key,
                client_name(self._authority.trust_domain, token.tenant, client_id),
                sdk_version=request.sdk_version,
                # What the operator wrote into the token outweighs what the client says of itself.
                attributes={**request.attributes, **token.attributes},
            ),
            _record(issued, client_id),
            key_hash=key_hash,
            reply=reply.SerializeToString(),
            audit=AuditEntry(f"client:{client_id.hex()}", "client.enrol", token.tenant),
        )
        answer = messages.EnrolResponse.FromString(enrolled.reply)
        if Certificate.decode(answer.identity_certificate).key != request.identity_key:
            raise ConflictError(
                "this key was enrolled before, with another identity key",
                why="a client keeps the identity key with which it enrolled",
                fix="make both keys anew to become another client",
            )
        return answer

    def _identity_certificate(self, client_id: bytes, key: bytes, issued: Issued) -> bytes:
        return self._registrar.issue(client_id, key, expires=issued.not_after).encode()


def _record(issued: Issued, client_id: bytes) -> CertificateRecord:
    return CertificateRecord(
        issued.serial, issued.fingerprint, client_id, not_after_ms=1000 * issued.not_after
    )


def _check_fields(request: messages.EnrolRequest) -> None:
    lengths: Mapping[str, tuple[int, int]] = {
        "token": (len(request.token), TOKEN_BYTES),
        "identity_key": (len(request.identity_key), KEY_BYTES),
        "identity_proof": (len(request.identity_proof), SIGNATURE_BYTES),
    }
    for name, (found, wanted) in lengths.items():
        if found != wanted:
            raise _malformed(f"{name} has {found} bytes, not {wanted}")
    if len(request.sdk_version) > _LONGEST_VERSION:
        raise _malformed(f"sdk_version is longer than {_LONGEST_VERSION} characters")
    attributes = request.attributes
    if len(attributes) > _MOST_ATTRIBUTES:
        raise _malformed(f"it has {len(attributes)} attributes; {_MOST_ATTRIBUTES} are kept")
    for name, value in attributes.items():
        if not name or not (name + value).isprintable() or len(name + value) > _LONGEST_ATTRIBUTE:
            raise _malformed(
                f"an attribute is empty, unprintable or over {_LONGEST_ATTRIBUTE} characters long"
            )


def _malformed(why: str) -> InvalidRequestError:
    return InvalidRequestError(
        "a request to enrol cannot be used",
        why=why,
        fix="send what fedcore/v1/enrolment_service.proto says; `fed client join` does",
    )


def _unproven() -> UnauthenticatedError:
    return UnauthenticatedError(
        "the sender does not show that it holds its identity key",
        why="the proof is not a signature of that key over this request and this authority",
        fix="sign the exact request with the enrolled key, for the authority of the join string; a"
        " client that is not known here any more needs a new join string",
    )


def _unknown_token() -> TokenError:
    return TokenError(
        "the enrolment token is not known",
        why="it was mistyped, is another server's, or was never made",
        fix="ask the operator for a new join string: `fed token create`",
    )
