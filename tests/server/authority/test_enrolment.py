"""A token makes exactly as many clients as it has uses; a repeated request makes none."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

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
from fedcore.wire.envelope import proof_statement
from fedserver.authority import Authority
from fedserver.certificates import new_key
from fedserver.enrolment import new_client_id
from fedserver.enrolment_limits import EnrolmentLimits
from fedserver.store.records import (
    ClientState,
    TokenRecord,
)
from tests.server.authority.parties import (
    NOW,
    Parties,
    RequestFor,
    RequestOf,
    enrolment_at,
    pem_of,
    token_record,
)
from tests.server.databases import opened


async def test_a_token_makes_a_client(authority: Authority, request_for: RequestFor) -> None:
    store = Parties(token_record(attributes={"ward": "7", "site": "north"}))
    request = request_for()
    answer = await enrolment_at(authority, store).enrol(request, peer="a")
    peer = authority.parse_peer(pem_of(answer.certificate_chain[0]), now=NOW)
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
    limits = EnrolmentLimits(lambda: clock["now"])
    enrolment = enrolment_at(authority, Parties(token_record(uses=9)), limits=limits)
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
    limits = EnrolmentLimits(lambda: clock["now"])
    store = Parties(token_record(), token_record(b"u" * 32))
    enrolment = enrolment_at(authority, store, limits=limits)
    await enrolment.enrol(request_for(), peer="ward")
    for _ in range(20):
        clock["now"] += 60_000
        with pytest.raises(TokenError):
            await enrolment.enrol(request_for(), peer="ward")
    await enrolment.enrol(request_for(token=b"u" * 32), peer="ward")


async def test_malformed_requests_are_slowed_down_too(
    authority: Authority, request_for: RequestFor
) -> None:
    limits = EnrolmentLimits(lambda: 1000 * NOW, per_minute=5)
    enrolment = enrolment_at(authority, Parties(token_record()), limits=limits)
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
    peer = authority.parse_peer(pem_of(renewed.certificate_chain[0]), now=NOW)
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


def test_the_anchor_is_what_join_strings_name(authority: Authority) -> None:
    anchors = enrolment_at(authority, Parties()).anchors()
    assert hashlib.sha256(anchors.authority).digest() == authority.root_digest


def test_ids_of_clients_sort_by_time_and_never_repeat() -> None:
    ids = [new_client_id(now_ms, SystemEntropy()) for now_ms in range(2**40, 2**40 + 100)]
    assert ids == sorted(ids) and len(set(ids)) == 100
    assert {len(name) for name in ids} == {16}


async def test_the_database_keeps_these_promises_too(
    authority: Authority, request_for: RequestFor, tmp_path: Path
) -> None:
    store = await opened(tmp_path / "server.db", keys=[b"k" * 32], clock=lambda: 1000 * NOW)
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
