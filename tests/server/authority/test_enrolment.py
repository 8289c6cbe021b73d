"""A token makes exactly as many clients as it has uses; a repeated request makes none."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from fedcore.entropy import SystemEntropy
from fedcore.errors import (
    ConflictError,
    FedcoreError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    TokenError,
    UnauthenticatedError,
    VersionError,
)
from fedcore.secagg.identity import Certificate, TrustStore
from fedcore.v1 import enrolment_service_pb2 as messages
from fedcore.wire.envelope import proof_statement, reissue_statement
from fedserver.attempts import Attempts
from fedserver.authority import Authority
from fedserver.certificates import new_key
from fedserver.enrolment import Enrolment, new_client_id
from fedserver.store.protocol import PartyStore
from fedserver.store.records import (
    CertificateRecord,
    ClientRecord,
    ClientState,
    Enrolled,
    TokenRecord,
)
from fedserver.store.sqlite.store import SqliteStore

NOW = 1_800_000_000
TOKEN = b"t" * 32
RequestOf = Callable[..., bytes]
Request = messages.EnrolRequest
Reissue = messages.ReissueRequest


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

    async def certificates(self, client_id: bytes) -> tuple[CertificateRecord, ...]:
        return tuple(found for found in self.added if found.client_id == client_id)


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
            "attempts": Attempts(lambda: 1000 * NOW, per_minute=1000),
            **options,
        },
    )


@pytest.fixture
def request_for(request_of: RequestOf, authority: Authority) -> Callable[..., Request]:
    """A client's request; `fields` replace what it says."""

    def make(identity: Ed25519PrivateKey | None = None, **fields: Any) -> Request:
        identity = identity or Ed25519PrivateKey.generate()
        request = Request(
            signing_request=request_of(new_key()),
            token=TOKEN,
            identity_key=identity.public_key().public_bytes_raw(),
            sdk_version="1.3.9",
            attributes={"ward": "3"},
        )
        request.identity_proof = identity.sign(
            proof_statement(request.signing_request, authority.root)
        )
        request.MergeFrom(Request(**fields))
        return request

    return make


RequestFor = Callable[..., Request]


async def test_a_token_makes_a_client(authority: Authority, request_for: RequestFor) -> None:
    store = Parties(token_record(attributes={"ward": "7", "site": "north"}))
    request = request_for()
    answer = await enrolment_at(authority, store).enrol(request, peer="a")
    peer = authority.parse_peer(_pem(answer.certificate_chain[0]), now=NOW)
    assert (peer.id, peer.tenant) == (answer.client_id, "ward")
    assert answer.certificate_chain[-1] == authority.root
    (registrar,) = answer.registrars
    certified = TrustStore([registrar]).verify(answer.identity_certificate, now=NOW)
    assert (certified.id, certified.key) == (answer.client_id, request.identity_key)
    assert (answer.address, answer.server_id) == ("fl.example.org:7443", b"s" * 16)
    client = store.clients[answer.client_id]
    assert client.attributes == {"ward": "7", "site": "north"}  # the token's outweigh the client's
    assert client.spiffe_id == f"spiffe://example.org/t/ward/c/{answer.client_id.hex()}"
    assert store.added[0].fingerprint == peer.fingerprint


async def test_the_same_request_gets_the_same_answer_and_uses_nothing(
    authority: Authority, request_for: RequestFor
) -> None:
    store, request = Parties(token_record()), request_for()
    enrolment = enrolment_at(authority, store)
    first = await enrolment.enrol(request)
    again = await asyncio.gather(*(enrolment.enrol(request) for _ in range(5)))
    assert all(answer == first for answer in again)
    assert len(store.clients) == 1


@pytest.mark.parametrize("uses", [1, 7, 49])
async def test_fifty_at_once_get_exactly_as_many_as_the_token_has_uses(
    authority: Authority, request_for: RequestFor, uses: int
) -> None:
    store = Parties(token_record(uses=uses))
    enrolment = enrolment_at(authority, store)
    results = await asyncio.gather(
        *(enrolment.enrol(request_for(), peer=str(n)) for n in range(50)), return_exceptions=True
    )
    answers = [found for found in results if isinstance(found, messages.EnrolResponse)]
    assert len(answers) == len(store.clients) == uses
    assert len({answer.client_id for answer in answers}) == uses
    assert sum(isinstance(found, TokenError) for found in results) == 50 - uses


@pytest.mark.parametrize("token", [token_record(uses=0), token_record(expires_ms=1000 * NOW)])
async def test_a_token_that_is_used_up_or_expired_makes_nobody(
    authority: Authority, request_for: RequestFor, token: TokenRecord
) -> None:
    store = Parties(token)
    with pytest.raises(TokenError):
        await enrolment_at(authority, store).enrol(request_for())
    assert store.clients == {} and store.added == []


async def test_a_key_that_is_not_shown_to_be_owned_is_not_certified(
    authority: Authority, request_for: RequestFor
) -> None:
    """Else one could enrol another's identity key, and be taken for it in secure aggregation."""
    enrolment = enrolment_at(authority, Parties(token_record()))
    mine, victims = request_for(), request_for()
    stolen = request_for(identity_key=victims.identity_key)
    moved = request_for()
    moved.identity_key, moved.identity_proof = mine.identity_key, mine.identity_proof
    for request in (stolen, moved, request_for(identity_proof=bytes(64))):
        with pytest.raises(UnauthenticatedError):
            await enrolment.enrol(request)


async def test_a_proof_for_another_federation_is_worth_nothing_here(
    authority: Authority, request_for: RequestFor
) -> None:
    identity = Ed25519PrivateKey.generate()
    request = request_for(identity)
    request.identity_proof = identity.sign(proof_statement(request.signing_request, b"another"))
    with pytest.raises(UnauthenticatedError):
        await enrolment_at(authority, Parties(token_record())).enrol(request)


async def test_a_tls_key_enrols_with_one_identity_and_one_token(
    authority: Authority, request_for: RequestFor
) -> None:
    store = Parties(token_record(uses=5), token_record(b"u" * 32, uses=5))
    enrolment = enrolment_at(authority, store)
    identity, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    first = request_for(identity)
    await enrolment.enrol(first)
    swapped = request_for(
        other,
        signing_request=first.signing_request,
        identity_proof=other.sign(proof_statement(first.signing_request, authority.root)),
    )
    first.token = b"u" * 32
    for request in (swapped, first):
        with pytest.raises(ConflictError):
            await enrolment.enrol(request)
    assert len(store.clients) == 1


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"token": b"short"}, InvalidRequestError),
        ({"identity_key": b"k" * 33}, InvalidRequestError),
        ({"identity_proof": b"p" * 63}, InvalidRequestError),
        ({"signing_request": b"garbage"}, InvalidRequestError),
        ({"signing_request": bytes(5000)}, InvalidRequestError),
        ({"sdk_version": "v" * 65}, InvalidRequestError),
        ({"sdk_version": "one"}, VersionError),
        ({"sdk_version": "1.1.0"}, VersionError),
        ({"sdk_version": "2.0.0"}, VersionError),
        ({"attributes": {str(n): "" for n in range(17)}}, InvalidRequestError),
        ({"attributes": {"": "x"}}, InvalidRequestError),
        ({"attributes": {"a": "x" * 257}}, InvalidRequestError),
        ({"attributes": {"a": "\x1b[31m"}}, InvalidRequestError),
        ({"token": b"w" * 32}, TokenError),
    ],
    ids=str,
)
async def test_what_is_malformed_makes_nobody(
    authority: Authority,
    request_for: RequestFor,
    fields: dict[str, Any],
    error: type[FedcoreError],
) -> None:
    store = Parties(token_record())
    with pytest.raises(error) as refused:
        await enrolment_at(authority, store).enrol(request_for(**fields))
    assert store.clients == {}
    assert "tttt" not in str(refused.value)


async def test_whoever_guesses_tokens_is_locked_out_and_others_are_not(
    authority: Authority, request_for: RequestFor
) -> None:
    clock = {"now": 1000 * NOW}
    attempts = Attempts(lambda: clock["now"])
    enrolment = enrolment_at(authority, Parties(token_record(uses=9)), attempts=attempts)
    for _ in range(10):
        clock["now"] += 60_000
        with pytest.raises(TokenError):
            await enrolment.enrol(request_for(token=b"w" * 32), peer="guesser")
    with pytest.raises(OverloadedError) as refused:  # even with the right token
        await enrolment.enrol(request_for(), peer="guesser")
    assert refused.value.retry is not None and refused.value.retry[0] == 15 * 60_000
    await enrolment.enrol(request_for(), peer="another")
    clock["now"] += 15 * 60_000
    await enrolment.enrol(request_for(), peer="guesser")


async def test_a_used_up_token_slows_its_address_and_locks_nobody_out(
    authority: Authority, request_for: RequestFor
) -> None:
    clock = {"now": 1000 * NOW}
    attempts = Attempts(lambda: clock["now"])
    store = Parties(token_record(), token_record(b"u" * 32))
    enrolment = enrolment_at(authority, store, attempts=attempts)
    await enrolment.enrol(request_for(), peer="ward")
    for _ in range(20):
        clock["now"] += 60_000
        with pytest.raises(TokenError):
            await enrolment.enrol(request_for(), peer="ward")
    await enrolment.enrol(request_for(token=b"u" * 32), peer="ward")


async def test_malformed_requests_are_slowed_down_too(
    authority: Authority, request_for: RequestFor
) -> None:
    attempts = Attempts(lambda: 1000 * NOW, per_minute=5)
    enrolment = enrolment_at(authority, Parties(token_record()), attempts=attempts)
    for _ in range(5):
        with pytest.raises(InvalidRequestError):
            await enrolment.enrol(request_for(signing_request=b"garbage"), peer="a")
    with pytest.raises(OverloadedError):
        await enrolment.enrol(request_for(), peer="a")


async def test_a_client_is_renewed_with_a_key_of_its_choice_and_keeps_its_identity(
    authority: Authority, request_for: RequestFor, request_of: RequestOf
) -> None:
    store, request = Parties(token_record()), request_for()
    enrolment = enrolment_at(authority, store)
    answer = await enrolment.enrol(request)
    renewed = await enrolment.renew(answer.client_id, request_of(new_key()))
    peer = authority.parse_peer(_pem(renewed.certificate_chain[0]), now=NOW)
    assert (peer.id, peer.tenant) == (answer.client_id, "ward")
    certified = Certificate.decode(renewed.identity_certificate)
    assert (certified.id, certified.key) == (answer.client_id, request.identity_key)
    assert store.added[-1].fingerprint == peer.fingerprint


@pytest.mark.parametrize("state", [ClientState.SUSPENDED, ClientState.REVOKED])
async def test_a_client_that_may_not_take_part_is_not_renewed(
    authority: Authority, request_for: RequestFor, request_of: RequestOf, state: ClientState
) -> None:
    store = Parties(token_record())
    enrolment = enrolment_at(authority, store)
    answer = await enrolment.enrol(request_for())
    client = store.clients[answer.client_id]
    store.clients[answer.client_id] = dataclasses.replace(client, state=state)
    for client_id in (answer.client_id, bytes(16)):
        with pytest.raises(NotFoundError):
            await enrolment.renew(client_id, request_of(new_key()))
    assert len(store.added) == 1


async def test_a_renewal_for_a_key_that_is_not_owned_is_refused(
    authority: Authority, request_for: RequestFor
) -> None:
    enrolment = enrolment_at(authority, Parties(token_record()))
    answer = await enrolment.enrol(request_for())
    with pytest.raises(InvalidRequestError):
        await enrolment.renew(answer.client_id, b"garbage")


@pytest.fixture
def reissue_for(request_of: RequestOf, authority: Authority) -> Callable[..., Reissue]:
    """What a client with an expired certificate sends."""

    def make(identity: Ed25519PrivateKey, client_id: bytes) -> Reissue:
        request = Reissue(client_id=client_id, signing_request=request_of(new_key()))
        request.identity_proof = identity.sign(
            reissue_statement(request.signing_request, authority.root, client_id=client_id)
        )
        return request

    return make


ReissueFor = Callable[..., Reissue]


async def test_a_client_whose_certificates_expired_is_certified_by_its_identity_key(
    authority: Authority, request_for: RequestFor, reissue_for: ReissueFor
) -> None:
    store, identity = Parties(token_record()), Ed25519PrivateKey.generate()
    before = await enrolment_at(authority, store).enrol(request_for(identity))
    later = NOW + 3 * 86_400
    enrolment = enrolment_at(authority, store, now_ms=lambda: 1000 * later)
    answer = await enrolment.reissue(reissue_for(identity, before.client_id))
    with pytest.raises(UnauthenticatedError):
        authority.parse_peer(_pem(before.certificate_chain[0]), now=later)
    peer = authority.parse_peer(_pem(answer.certificate_chain[0]), now=later)
    assert (peer.id, peer.tenant) == (before.client_id, "ward")
    certified = TrustStore([authority.registrar.public_key]).verify(
        answer.identity_certificate, now=later
    )
    assert (certified.id, certified.key) == (
        before.client_id,
        identity.public_key().public_bytes_raw(),
    )
    assert store.added[-1].fingerprint == peer.fingerprint and len(store.clients) == 1


async def test_a_reissue_that_is_replayed_serves_only_whoever_has_the_key_of_its_request(
    authority: Authority, request_for: RequestFor, reissue_for: ReissueFor
) -> None:
    store, identity = Parties(token_record()), Ed25519PrivateKey.generate()
    enrolment = enrolment_at(authority, store)
    client_id = (await enrolment.enrol(request_for(identity))).client_id
    request = reissue_for(identity, client_id)
    wanted = x509.load_der_x509_csr(request.signing_request).public_key()
    for _ in range(3):
        answer = await enrolment.reissue(request)
        leaf = x509.load_der_x509_certificate(answer.certificate_chain[0])
        assert leaf.public_key() == wanted
    # With another request, for a key of the thief, the proof is worth nothing.
    request.signing_request = reissue_for(identity, client_id).signing_request
    with pytest.raises(UnauthenticatedError):
        await enrolment.reissue(request)
    assert len(store.clients) == 1


async def test_nobody_is_certified_for_another_client_federation_or_rpc(
    authority: Authority, request_for: RequestFor, reissue_for: ReissueFor, request_of: RequestOf
) -> None:
    store = Parties(token_record(uses=2))
    enrolment = enrolment_at(authority, store)
    mine, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    client_id = (await enrolment.enrol(request_for(mine))).client_id
    victim = (await enrolment.enrol(request_for(other))).client_id
    request = request_of(new_key())
    proofs = {
        "another client's key": other.sign(
            reissue_statement(request, authority.root, client_id=client_id)
        ),
        "for another client": mine.sign(
            reissue_statement(request, authority.root, client_id=victim)
        ),
        "for another federation": mine.sign(
            reissue_statement(request, b"another", client_id=client_id)
        ),
        "of an enrolment": mine.sign(proof_statement(request, authority.root)),
        "none": b"",
    }
    for sort, proof in proofs.items():
        with pytest.raises(UnauthenticatedError):
            await enrolment.reissue(
                Reissue(client_id=client_id, signing_request=request, identity_proof=proof)
            )
            pytest.fail(sort)
    refused = []
    for unknown in (bytes(16), b"", client_id):
        with pytest.raises(UnauthenticatedError) as error:
            await enrolment.reissue(reissue_for(other, unknown))
        refused.append(str(error.value))
    assert len(set(refused)) == 1  # so that nobody learns which clients there are
    assert len(store.added) == 2


@pytest.mark.parametrize("how", ["suspended", "revoked", "on the list", "in the store"])
async def test_whoever_was_disowned_is_not_certified_anew(
    authority: Authority, request_for: RequestFor, reissue_for: ReissueFor, how: str
) -> None:
    store, identity = Parties(token_record()), Ed25519PrivateKey.generate()
    enrolment = enrolment_at(authority, store)
    client_id = (await enrolment.enrol(request_for(identity))).client_id
    if how == "on the list":
        authority.lists.revoke(store.added[0].fingerprint, reason="stolen", now=NOW)
    elif how == "in the store":
        store.added[0] = dataclasses.replace(store.added[0], revoked_ms=1000 * NOW)
    else:
        state = ClientState[how.upper()]
        store.clients[client_id] = dataclasses.replace(store.clients[client_id], state=state)
    request = reissue_for(identity, client_id)
    with pytest.raises(NotFoundError):
        await enrolment.reissue(request)
    with pytest.raises(NotFoundError):
        await enrolment.renew(client_id, request.signing_request)
    assert len(store.added) == 1


async def test_reissues_are_slowed_down_as_enrolments_are_and_lock_nobody_out(
    authority: Authority, request_for: RequestFor, reissue_for: ReissueFor
) -> None:
    clock = {"now": 1000 * NOW}
    attempts = Attempts(lambda: clock["now"], per_minute=5)
    store, identity = Parties(token_record()), Ed25519PrivateKey.generate()
    enrolment = enrolment_at(authority, store, attempts=attempts)
    client_id = (await enrolment.enrol(request_for(identity), peer="ward")).client_id
    for _ in range(5):
        with pytest.raises(UnauthenticatedError):
            await enrolment.reissue(reissue_for(identity, bytes(16)), peer="ward")
    with pytest.raises(OverloadedError):
        await enrolment.reissue(reissue_for(identity, client_id), peer="ward")
    for _ in range(20):
        clock["now"] += 60_000
        with pytest.raises(UnauthenticatedError):
            await enrolment.reissue(reissue_for(identity, bytes(16)), peer="ward")
    await enrolment.reissue(reissue_for(identity, client_id), peer="ward")


def test_the_anchor_is_what_join_strings_name(authority: Authority) -> None:
    anchors = enrolment_at(authority, Parties()).anchors()
    assert hashlib.sha256(anchors.authority).digest() == authority.root_digest


def test_ids_of_clients_sort_by_time_and_never_repeat() -> None:
    ids = [new_client_id(now_ms, SystemEntropy()) for now_ms in range(2**40, 2**40 + 100)]
    assert ids == sorted(ids) and len(set(ids)) == 100
    assert {len(name) for name in ids} == {16}


def _pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


async def test_the_database_keeps_these_promises_too(
    authority: Authority, request_for: RequestFor, tmp_path: Path
) -> None:
    store = await SqliteStore.open(
        tmp_path / "server.db", keys=[b"k" * 32], clock=lambda: 1000 * NOW
    )
    try:
        await store.create_token(token_record(uses=7))
        enrolment = enrolment_at(authority, cast(Parties, store))
        requests = [request_for() for _ in range(50)]
        results = await asyncio.gather(
            *(enrolment.enrol(request) for request in requests), return_exceptions=True
        )
        served = [n for n, found in enumerate(results) if not isinstance(found, BaseException)]
        assert len(served) == len(await store.clients()) == 7
        assert sum(isinstance(found, TokenError) for found in results) == 43
        assert await enrolment.enrol(requests[served[0]]) == results[served[0]]
    finally:
        await store.close()
