"""A server takes into a roster only what every client will take from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fedcore.entropy import SeededEntropy
from fedcore.errors import AuthenticationError, MessageError, ParameterError, ReuseError
from fedcore.secagg.client import SecAggClient
from fedcore.secagg.config import SessionConfig
from fedcore.secagg.effects import Persist, Send
from fedcore.secagg.identity import CertificateAuthority, Identity, TrustStore
from fedcore.secagg.keys import Prekey
from fedcore.secagg.messages import Advertise, encode
from fedcore.secagg.packing import Block, Layout
from fedcore.secagg.policy import Policy
from fedcore.secagg.server import SecAggServer
from fedcore.secagg.stages import Stage

ENTROPY = SeededEntropy(b"admission")
AUTHORITY = CertificateAuthority.generate(ENTROPY)
CONFIG = SessionConfig(task=bytes(32), layout=Layout((Block(1, 21, 1),)))


def server() -> SecAggServer:
    trust = TrustStore([AUTHORITY.public_key])
    return SecAggServer(CONFIG, model_digest=bytes(32), round=0, trust=trust, now=0)


def posted(client_id: bytes, private: bytes) -> Advertise:
    key = CertificateAuthority(private).public_key
    identity = Identity(private, AUTHORITY.issue(client_id, key, expires=9))
    bundle = Prekey.generate(ENTROPY, expires=9).bundle(identity)
    return Advertise(identity.certificate.encode(), bundle.encode())


def test_two_clients_with_one_identity_key_do_not_come_into_one_roster() -> None:
    machine, first, second, shared = server(), bytes(16), bytes(15) + b"\x01", bytes(range(32))
    machine.handle(first, posted(first, shared))
    with pytest.raises(AuthenticationError, match="identity key") as refused:
        machine.handle(second, posted(second, shared))
    assert refused.value.culprit == second
    machine.handle(second, posted(second, bytes(32)))
    machine.close(Stage.PREKEYS)
    assert len(machine.roster.members) == 2


def test_a_refused_second_bundle_does_not_reserve_its_identity_key() -> None:
    machine, first, second, later = server(), bytes(16), bytes(15) + b"\x01", bytes(range(32))
    machine.handle(first, posted(first, bytes(32)))
    with pytest.raises(ReuseError):
        machine.handle(first, posted(first, later))
    assert machine.handle(second, posted(second, later)) == []


@pytest.mark.parametrize(
    ("beacon", "pulse"), [("", b"p"), ("drand", b""), ("drand", bytes(1025))], ids=len
)
def test_a_roster_is_not_frozen_with_a_pulse_that_every_client_would_refuse(
    beacon: str, pulse: bytes
) -> None:
    trust = TrustStore([AUTHORITY.public_key])
    config = replace(CONFIG, beacon=beacon)
    machine = SecAggServer(config, model_digest=bytes(32), round=0, trust=trust, now=0)
    for number in range(2):
        client_id = bytes([number]) * 16
        machine.handle(client_id, posted(client_id, bytes([number + 1]) * 32))
    with pytest.raises(MessageError, match="pulse"):
        machine.close(Stage.PREKEYS, pulse=pulse)
    machine.close(Stage.PREKEYS, pulse=b"p" * 1024 if beacon else b"")


@pytest.mark.parametrize(
    "terms",
    [
        {"round": -1},
        {"round": 2**64},
        {"round": True},
        {"round": 1.0},
        {"attempt": -1},
        {"attempt": 2**32},
        {"model_digest": b"short"},
        {"model_digest": "x" * 32},
    ],
    ids=str,
)
def test_terms_that_no_message_can_carry_open_no_session(terms: dict[str, Any]) -> None:
    trust = TrustStore([AUTHORITY.public_key])
    good: dict[str, Any] = {"model_digest": bytes(32), "round": 0, "trust": trust, "now": 0}
    with pytest.raises(ParameterError):
        SecAggServer(CONFIG, **(good | terms))


def test_a_driver_sees_who_has_posted_and_whether_they_are_enough() -> None:
    machine = server()
    assert machine.advertised == machine.uploaded == machine.pending == frozenset()
    assert not machine.sufficient
    ids = [bytes([number]) * 16 for number in range(3)]
    for number, client_id in enumerate(ids):
        machine.handle(client_id, posted(client_id, bytes([number + 1]) * 32))
        assert machine.advertised == set(ids[: number + 1])
        assert machine.sufficient == (number >= 1)
    machine.close(Stage.PREKEYS)
    assert machine.advertised == machine.pending == set(ids) and not machine.uploaded


def test_a_bundle_whose_posting_was_cut_short_is_posted_again() -> None:
    private = bytes(range(32))
    key = CertificateAuthority(private).public_key
    identity = Identity(private, AUTHORITY.issue(bytes(16), key, expires=9))
    policy = Policy(roots=(AUTHORITY.public_key,))
    effects = SecAggClient(identity, policy).offer(2, expires=9)
    records = {effect.key: effect.value for effect in effects if isinstance(effect, Persist)}
    restarted = SecAggClient(identity, policy)
    assert restarted.restore(records, now=0) == [] and restarted.prekeys_left == 2
    again = {encode(effect.message) for effect in restarted.repost() if isinstance(effect, Send)}
    assert again == {encode(effect.message) for effect in effects if isinstance(effect, Send)}
