"""Contract: tokens are used as often as they may be, and who was revoked stays so."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from fedcore.errors import ConflictError, NotFoundError, TokenError
from fedserver.store.records import (
    AuditEntry,
    ClientState,
    Enrolled,
    Idempotency,
    TokenRecord,
)

AUDIT = AuditEntry("user:ada", "token.create", "token")


def once(request: bytes, content: bytes, response: bytes = b"answer") -> Idempotency:
    return Idempotency("user:ada", "CreateToken", request, content, response)


async def test_a_token_is_kept_with_what_it_grants(world) -> None:
    token = await world.token(uses=3)
    found = await world.store.token(token)
    assert (found.max_uses, found.uses, found.tenant) == (3, 0, "acme")
    assert found.attributes == {"site": "a"}
    assert await world.store.token(world.digest("another")) is None


async def test_exactly_as_many_enrol_as_the_token_allows_however_many_come_at_once(world) -> None:
    token = await world.token(uses=5)

    async def attempt(number: int) -> bool:
        try:
            await world.enrol(number, token)
        except TokenError as error:
            assert "used 5 times" in error.why
            return False
        return True

    assert sum(await asyncio.gather(*map(attempt, range(50)))) == 5
    assert (await world.store.token(token)).uses == 5
    assert len(await world.store.clients()) == 5


async def test_the_same_key_gets_its_first_answer_again_whatever_is_left_of_the_token(
    world,
) -> None:
    token = await world.token(uses=1)
    await world.enrol(1, token)
    world.clock.now += 1_000_000  # and the token has expired since
    client, certificate = world.applicant(2)
    again = await world.store.enrol(
        token, client, certificate, key_hash=world.digest("key 1"), reply=b"another"
    )
    assert again == Enrolled(world.client_id(1), b"reply", repeated=True)
    assert await world.store.enrolment(world.digest("key 1")) == again
    assert await world.store.enrolment(world.digest("key 2")) is None
    assert await world.store.client(client.client_id) is None


async def test_a_key_does_not_enrol_with_a_second_token(world) -> None:
    first, second = await world.token("first"), await world.token("second")
    await world.enrol(1, first)
    with pytest.raises(ConflictError):
        await world.enrol(1, second)
    assert (await world.store.token(second)).uses == 0


async def test_an_unknown_an_expired_and_a_foreign_token_are_refused_with_the_reason(world) -> None:
    token = await world.token(ttl_ms=10)
    client, certificate = world.applicant(1)
    options = {"key_hash": world.digest("key"), "reply": b""}
    with pytest.raises(TokenError, match="not known"):
        await world.store.enrol(world.digest("x"), client, certificate, **options)
    with pytest.raises(TokenError, match="not known"):
        stranger = replace(client, tenant="other")
        await world.store.enrol(token, stranger, certificate, **options)
    world.clock.now += 10
    with pytest.raises(TokenError, match="expired"):
        await world.store.enrol(token, client, certificate, **options)
    assert await world.store.clients() == ()


async def test_a_refused_enrolment_uses_nothing_of_the_token(world) -> None:
    token = await world.token()
    await world.enrol(1, token)
    client, certificate = world.applicant(2)
    thief = replace(client, identity_key=world.digest("identity 1"))
    with pytest.raises(ConflictError, match="identity key"):
        await world.store.enrol(token, thief, certificate, key_hash=world.digest("k2"), reply=b"")
    assert (await world.store.token(token)).uses == 1


async def test_a_mutation_repeated_gives_its_stored_answer_and_changes_nothing(world) -> None:
    token = TokenRecord(world.digest("t"), "acme", 1, 2_000_000)
    key = once(b"r" * 16, world.digest("body"))
    first = await world.store.create_token(token, audit=AUDIT, idempotency=key)
    assert (first.response, first.repeated) == (b"answer", False)
    other = replace(key, response=b"never kept")
    again = await world.store.create_token(token, audit=AUDIT, idempotency=other)
    assert (again.response, again.repeated) == (b"answer", True)
    assert await world.store.recall(other) == again
    assert len(await world.store.audit_entries()) == 1


async def test_a_request_id_with_other_content_is_a_conflict(world) -> None:
    token = TokenRecord(world.digest("t"), "acme", 1, 2_000_000)
    await world.store.create_token(token, idempotency=once(b"r" * 16, world.digest("body")))
    other = once(b"r" * 16, world.digest("other body"))
    with pytest.raises(ConflictError):
        await world.store.create_token(
            replace(token, token_sha256=world.digest("u")), idempotency=other
        )
    with pytest.raises(ConflictError):
        await world.store.recall(other)
    assert await world.store.token(world.digest("u")) is None
    stranger = replace(other, principal="user:eve")
    assert await world.store.recall(stranger) is None


async def test_a_mutation_that_failed_was_not_done_and_may_be_asked_for_again(world) -> None:
    await world.token("t")
    token = TokenRecord(world.digest("t"), "acme", 1, 2_000_000)
    key = once(b"r" * 16, world.digest("body"))
    with pytest.raises(ConflictError):
        await world.store.create_token(token, audit=AUDIT, idempotency=key)
    assert await world.store.recall(key) is None
    assert await world.store.audit_entries() == ()


async def test_pages_of_clients_hold_each_client_once_in_the_order_of_ids(world) -> None:
    everyone = await world.clients(7)
    found, after = [], b""
    while page := await world.store.clients(after=after, limit=3):
        found += [client.client_id for client in page]
        after = page[-1].client_id
    assert found == sorted(everyone)
    assert await world.store.clients(tenant="other") == ()
    await world.store.set_client_state(everyone[3], ClientState.REVOKED)
    (revoked,) = await world.store.clients(state=ClientState.REVOKED)
    assert revoked.client_id == everyone[3]
    assert len(await world.store.clients(state=ClientState.ACTIVE)) == 6


async def test_a_client_tells_when_it_was_seen_and_until_when_its_certificate_is_good(
    world,
) -> None:
    (one, other) = await world.clients(2)
    world.clock.now += 500
    await world.store.touch([one, b"unknown"])
    assert (await world.store.client(one)).last_seen_ms == world.clock.now
    assert (await world.store.client(other)).last_seen_ms == world.clock.now - 500
    assert (await world.store.client(one)).certificate_expires_ms == 9_000_000


async def test_revoking_a_client_revokes_its_certificates_for_good(world) -> None:
    (one,) = await world.clients(1)
    (held,) = await world.store.certificates(one)
    assert await world.store.revoked_fingerprints() == frozenset()
    await world.store.set_client_state(one, ClientState.SUSPENDED)
    assert await world.store.revoked_fingerprints() == frozenset()
    await world.store.set_client_state(one, ClientState.REVOKED, reason="lost", audit=AUDIT)
    assert await world.store.revoked_fingerprints() == {held.fingerprint}
    assert (await world.store.client(one)).certificate_expires_ms == 0
    with pytest.raises(ConflictError):
        await world.store.set_client_state(one, ClientState.ACTIVE)
    with pytest.raises(NotFoundError):
        await world.store.set_client_state(b"nobody", ClientState.REVOKED)
    (held,) = await world.store.certificates(one)
    assert (held.reason, held.revoked_ms) == ("lost", world.clock.now)


async def test_a_revoked_certificate_leaves_the_list_when_it_expires(world) -> None:
    (one,) = await world.clients(1)
    (held,) = await world.store.certificates(one)
    await world.store.revoke_certificate(held.fingerprint, reason="first")
    await world.store.revoke_certificate(held.fingerprint, reason="second")
    assert (await world.store.certificates(one))[0].reason == "first"
    assert await world.store.revoked_fingerprints() == {held.fingerprint}
    world.clock.now = held.not_after_ms
    assert await world.store.revoked_fingerprints() == frozenset()
    with pytest.raises(NotFoundError):
        await world.store.revoke_certificate(world.digest("none"), reason="")


async def test_whose_certificate_was_disowned_is_known_however_long_the_list_is(world) -> None:
    (one, other) = await world.clients(2)
    (held,) = await world.store.certificates(one)
    strangers = [world.digest(f"stranger {number}") for number in range(40_000)]
    for client in (one, other, b"nobody"):
        assert not await world.store.disowned(client, ())
        assert not await world.store.disowned(client, frozenset(strangers))
    assert await world.store.disowned(one, [*strangers, held.fingerprint])
    assert not await world.store.disowned(other, [held.fingerprint])
    await world.store.revoke_certificate(held.fingerprint, reason="lost")
    assert await world.store.disowned(one, ())
    assert not await world.store.disowned(other, ())


async def test_a_serial_and_a_fingerprint_name_one_certificate(world) -> None:
    _, certificate = world.applicant(1)
    users = replace(certificate, client_id=b"")
    await world.store.add_certificate(users)
    with pytest.raises(ConflictError, match="serial"):
        await world.store.add_certificate(replace(users, fingerprint=world.digest("f")))
    with pytest.raises(ConflictError, match="fingerprint"):
        await world.store.add_certificate(replace(users, serial=b"other"))
