"""A client whose certificates expired is certified anew by its identity key, and nobody else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedcore.errors import (
    NotFoundError,
    OverloadedError,
    UnauthenticatedError,
)
from fedcore.secagg.identity import TrustStore
from fedcore.v1 import enrolment_service_pb2 as messages
from fedcore.wire.envelope import proof_statement, reissue_statement
from fedserver.authority import Authority
from fedserver.certificates import new_key
from fedserver.enrolment_limits import EnrolmentLimits, RenewalLimits
from fedserver.store.records import (
    ClientState,
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

Reissue = messages.ReissueRequest


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
        authority.parse_peer(pem_of(before.certificate_chain[0]), now=later)
    peer = authority.parse_peer(pem_of(answer.certificate_chain[0]), now=later)
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
    limits = EnrolmentLimits(lambda: clock["now"], per_minute=5)
    store, identity = Parties(token_record()), Ed25519PrivateKey.generate()
    enrolment = enrolment_at(authority, store, limits=limits)
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


async def test_a_client_is_certified_anew_as_often_as_it_could_want_and_no_more(
    authority: Authority, request_for: RequestFor, reissue_for: ReissueFor
) -> None:
    """Both ways count together, and others go on as before."""
    clock = {"now": 0.0}
    store, identity = Parties(token_record(uses=2)), Ed25519PrivateKey.generate()
    enrolment = enrolment_at(authority, store, renewals=RenewalLimits(lambda: clock["now"]))
    client_id = (await enrolment.enrol(request_for(identity))).client_id
    other = (await enrolment.enrol(request_for())).client_id
    request = reissue_for(identity, client_id)
    for _ in range(10):  # answers that were lost, or not kept before a crash
        await enrolment.renew(client_id, request.signing_request)
        await enrolment.reissue(request)
    for _ in range(3):
        kept = len(store.added)
        with pytest.raises(OverloadedError) as refused:
            await enrolment.renew(client_id, request.signing_request)
        with pytest.raises(OverloadedError):
            await enrolment.reissue(request)
        await enrolment.renew(other, request.signing_request)
        assert len(store.added) == kept + 1
        assert refused.value.retry is not None and refused.value.retry[0] <= 600_001
        clock["now"] += refused.value.retry[0] / 1000
        await enrolment.renew(client_id, request.signing_request)


async def test_no_device_that_renews_by_its_clock_is_ever_refused() -> None:
    """Also where every second answer is lost, and the device starts again each time."""
    clock = {"now": 0.0}
    limits = RenewalLimits(lambda: clock["now"])
    for _ in range(400):
        for _ in range(2):
            limits.count(b"device")
        clock["now"] += 16 * 3600
