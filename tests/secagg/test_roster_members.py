"""A client accepts no roster with members that its policy would not have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fedcore.entropy import SystemEntropy
from fedcore.errors import (
    ArgumentError,
    AuthenticationError,
    MessageError,
)
from fedcore.secagg.client import SecAggClient
from fedcore.secagg.effects import Send
from fedcore.secagg.identity import CertificateAuthority, Identity, TrustStore
from fedcore.secagg.messages import Advertise
from tests.secagg.adversary import EXPIRES, NOW, Session, World
from tests.secagg.stories import finish


def outside(world: World, **policy: Any) -> tuple[SecAggClient, Session]:
    """Client 0 with a policy of its own, and a session with it and the others."""
    client = SecAggClient(world.identities[0], replace(world.policy, **policy))
    posted = [e.message for e in client.offer(1, expires=EXPIRES) if isinstance(e, Send)]
    assert isinstance(posted[0], Advertise)
    adverts = [posted[0], *[world.prekey(i) for i in range(1, 8)]]
    return client, Session(world, adverts=adverts)


def test_members_of_an_unknown_registrar_are_refused() -> None:
    world = World()
    other = CertificateAuthority.generate(SystemEntropy())
    client, session = outside(world, roots=(other.public_key,))
    with pytest.raises(AuthenticationError):
        client.handle(session.roster.message_for(0), now=NOW)


def test_revoked_members_are_refused() -> None:
    world = World()
    client, session = outside(world, revoked=frozenset({world.ids[4]}))
    with pytest.raises(AuthenticationError) as caught:
        client.handle(session.roster.message_for(0), now=NOW)
    assert caught.value.culprit == world.ids[4]
    client, session = outside(world)
    assert client.handle(session.roster.message_for(0), now=NOW)


def test_members_that_the_server_made_up_are_refused() -> None:
    world = World(corrupt=[7])
    registrar = CertificateAuthority.generate(SystemEntropy())
    sybil = Identity.generate(
        SystemEntropy(),
        certify=lambda key: registrar.issue(world.ids[7], key, expires=EXPIRES),
    )
    adverts = [world.prekey(i) for i in range(7)]
    session = Session(world, adverts=[*adverts, world.forged_prekey(7, identity=sybil)])
    error = session.refused(0, session.roster.message_for(0), AuthenticationError)
    assert error.culprit == world.ids[7]
    finish(Session(world, adverts=[*adverts, world.prekey(7)]))


def test_a_certificate_that_expires_now_is_refused() -> None:
    world = World(corrupt=[7])
    adverts = [world.prekey(i) for i in range(7)]
    for expires, valid in ((NOW, False), (NOW + 1, True)):
        identity = world.certified(world.ids[7], expires=expires)
        session = Session(world, adverts=[*adverts, world.forged_prekey(7, identity=identity)])
        if valid:
            session.deal(range(7))
        else:
            error = session.refused(0, session.roster.message_for(0), AuthenticationError)
            assert error.culprit == world.ids[7]


def test_two_members_with_one_key_are_refused() -> None:
    world = World(corrupt=[6, 7])
    key = world.identities[6]
    twin = Identity.restore(
        key.private_bytes(),
        world.authority.issue(world.ids[7], key.certificate.key, expires=EXPIRES),
    )
    adverts = [world.prekey(i) for i in range(7)]
    session = Session(world, adverts=[*adverts, world.forged_prekey(7, identity=twin)])
    session.refused(0, session.roster.message_for(0), AuthenticationError)
    finish(Session(world, adverts=[*adverts, world.prekey(7)]))


def test_one_member_twice_is_refused() -> None:
    world = World(corrupt=[7])
    adverts = [world.prekey(i) for i in range(8)]
    session = Session(world, adverts=adverts)
    roster = session.roster.message_for(0)
    twice = roster.certificates[:120] * 2 + roster.certificates[240:]
    session.refused(0, replace(roster, certificates=twice), MessageError)
    swapped = roster.certificates[120:240] + roster.certificates[:120] + roster.certificates[240:]
    session.refused(0, replace(roster, certificates=swapped), MessageError)
    finish(session)


P = 2**255 - 19
LOW_ORDER = [
    0,
    1,
    P - 1,
    P,
    P + 1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
]


@pytest.mark.parametrize("field", ["mask_key", "channel_key"])
@pytest.mark.parametrize("top_bit", [0, 1])
def test_keys_of_low_order_are_refused(field: str, top_bit: int) -> None:
    world = World(corrupt=[7])
    adverts = [world.prekey(i) for i in range(7)]
    for u in LOW_ORDER:
        key = (u | top_bit << 255).to_bytes(32, "little")
        forged = {"mask_key": world.forged_prekey(7, mask_key=key)}
        forged["channel_key"] = world.forged_prekey(7, channel_key=key)
        session = Session(world, adverts=[*adverts, forged[field]])
        error = session.refused(0, session.roster.message_for(0), AuthenticationError)
        assert error.culprit == world.ids[7]
    finish(Session(world, adverts=[*adverts, world.prekey(7)]))


@pytest.mark.parametrize("laxer", ["another root", "one more root", "nobody revoked"])
def test_a_store_that_accepts_more_than_the_policy_serves_no_client(laxer: str) -> None:
    world = World()
    policy = replace(world.policy, revoked=frozenset({world.ids[3]}))
    other = CertificateAuthority.generate(SystemEntropy()).public_key
    trust = {
        "another root": TrustStore([other], policy.revoked),
        "one more root": TrustStore([*policy.roots, other], policy.revoked),
        "nobody revoked": TrustStore(policy.roots),
    }[laxer]
    with pytest.raises(ArgumentError, match="accepts more"):
        SecAggClient(world.identities[0], policy, trust=trust)
    stricter = TrustStore(policy.roots, {*policy.revoked, world.ids[5]})
    SecAggClient(world.identities[0], policy, trust=stricter)
