"""A crash undoes nothing: what was used, left, complained of or confirmed before it stays so.

Of a session that a client leaves, or that expires, no secret stays on its disk.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from fedcore.errors import PolicyError, ReuseError
from fedcore.secagg.client import SecAggClient
from fedcore.secagg.loopback import ClientHost
from fedcore.secagg.messages import (
    Abort,
    AbortReason,
    Shares,
    Survivors,
    UnmaskRequest,
    decode_as,
    encode,
)
from fedcore.secagg.params import Profile
from fedcore.secagg.sharing import CIPHERTEXT_BYTES, shares_statement
from fedcore.secagg.stages import Stage
from fedcore.secagg.transcript import bitmap_of, members_of
from tests.secagg.crashing import (
    EXPIRES,
    SERVER,
    Crash,
    CrashingDisk,
    Letter,
    Moment,
    Network,
    Silence,
    configuration,
    network_of,
)
from tests.secagg.soundness import N, assert_sound, disk_of, moments, writes
from tests.variants import mostly_slow

STAGES = [Stage.SHARES, Stage.UPLOADS, Stage.CONFIRMATIONS, Stage.ANSWERS]


def test_a_prekey_never_serves_a_second_session_whenever_the_first_crashed() -> None:
    profile = Profile.MALICIOUS
    for write in range(3, writes(profile)[0]):  # once its shares may have been sent
        net = network_of(configuration(N, profile=profile), N, crashes={3: {write: Moment.BEFORE}})
        net.run()
        client_id = list(net.hosts)[3]
        host = net.hosts[client_id]
        again = replace(net.machine.roster, nonce=bytes(32))
        for _ in range(2):
            with pytest.raises(ReuseError, match="prekey"):
                host.client.handle(again.message_for(again.indices[client_id]), now=0)
            list(host.restart())


@pytest.mark.parametrize(
    "stage",
    mostly_slow([Stage.UPLOADS, Stage.SHARES, Stage.CONFIRMATIONS]),
    ids=lambda stage: stage.name,
)
@pytest.mark.parametrize("how", mostly_slow(["aborted", "abandoned", "expired"]))
def test_a_session_that_a_client_leaves_keeps_no_secret_of_it(stage: Stage, how: str) -> None:
    """Whenever it crashes while it leaves; and the others open their sum without it."""
    for at in range(8):  # 7 writes, so the last one does not crash; an expired one erases more
        net = network_of(configuration(N, profile=Profile.MALICIOUS), N)
        net.run(until=stage)
        client_id = list(net.hosts)[4]
        host, disk = net.hosts[client_id], disk_of(net, client_id)
        leave_while_crashing(host, disk, net.machine.roster.sid, how, at)
        assert not host.client.stages
        assert host.client.prekeys_left == 0
        assert {key.partition("/")[0] for key in disk} <= {"release", "tombstone"}
    net.silent.add(client_id)
    total = net.run()
    assert total is not None
    np.testing.assert_array_equal(total, net.expected())


def leave_while_crashing(
    host: ClientHost, disk: CrashingDisk, sid: bytes, how: str, at: int
) -> None:
    """Leave a session; the program crashes `at` writes from here, starts again, and goes on."""
    disk.crashes = {len(disk.written) + at: Moment.BEFORE}
    for _ in range(2):
        try:
            match how:
                case "abandoned":
                    effects = host.client.abandon(sid)
                case "expired":
                    effects = host.client.expire(EXPIRES)
                case _:
                    effects = host.client.handle(Abort(sid, AbortReason.CANCELLED), now=0)
            assert list(host.perform(effects)) == []
            return
        except Crash:
            list(host.restart())


def test_a_session_that_has_expired_is_not_taken_up_again() -> None:
    """No vector is asked for, nothing is sent, and its secrets go."""
    for stage in STAGES:
        net = network_of(configuration(N, profile=Profile.MALICIOUS), N)
        net.run(until=stage)
        host = next(iter(net.hosts.values()))
        host.now = EXPIRES
        assert list(host.restart()) == []
        assert not host.client.stages
        assert {key.partition("/")[0] for key in host.disk} <= {"release"}


def test_a_session_that_the_policy_no_longer_takes_is_given_up_whenever_it_crashes() -> None:
    """With its prekey, of which neighbours hold shares; a prekey not used yet is kept."""
    for at in range(8):
        net = network_of(configuration(N, profile=Profile.SEMI_HONEST), N)
        net.run(until=Stage.UPLOADS)
        client_id = next(iter(net.hosts))
        host, disk = net.hosts[client_id], disk_of(net, client_id)
        list(host.offer(1, expires=EXPIRES))
        identity, policy = host.make.args
        host.make = partial(SecAggClient, identity, replace(policy, sigma_floor=100))
        disk.crashes = {len(disk.written) + at: Moment.BEFORE}
        with suppress(Crash):
            list(host.restart())
            assert at == 7  # the writes are over
            assert isinstance(host.failure, PolicyError)
        assert list(host.restart()) == []
        assert not host.client.stages
        assert {key.partition("/")[0] for key in disk} <= {"release", "tombstone", "prekey"}
        assert host.client.prekeys_left == 1


@moments
def test_a_complaint_outlives_a_crash_of_who_makes_it(moment: Moment) -> None:
    """A client deals its first neighbour a share that does not open; everyone else crashes."""
    for write in range(3, 6):
        crashes = {i: {write: moment} for i in range(1, N)}
        net = network_of(configuration(N, profile=Profile.MALICIOUS), N, crashes=crashes)
        dealer = next(iter(net.hosts))
        net.silences = {dealer: Silence.BEFORE_SHARES}
        net.run(until=Stage.SHARES)
        net.silences, net.silent = {}, set()
        (sent,) = net.hosts[dealer].restart()
        net.letters.append(Letter(dealer, SERVER, spoilt(net, dealer, decode_as(sent, Shares))))
        total = net.run()
        index = net.machine.roster.indices[dealer]
        complaints = [key for key in net.server.disk if key.startswith("complaint")]
        assert complaints == [f"complaint/{net.machine.roster.neighbours[index][0]}/{index}"]
        assert total is not None
        np.testing.assert_array_equal(total, net.expected())
        assert len(net.machine.survivors) == N


def spoilt(net: Network, dealer: bytes, shares: Shares) -> bytes:
    """The same shares, but for the first one, with a signature that is as good."""
    identity, _ = net.hosts[dealer].make.args
    ciphertexts = bytes(CIPHERTEXT_BYTES) + shares.ciphertexts[CIPHERTEXT_BYTES:]
    root = net.machine.roster.root
    signed = shares_statement(shares.sid, root, ciphertexts, shares.hashes)
    return encode(replace(shares, ciphertexts=ciphertexts, signature=identity.sign(signed)))


def test_a_second_set_is_refused_after_a_crash() -> None:
    """Before and after this client answered; and it still answers for the first one."""
    net = network_of(configuration(N, profile=Profile.MALICIOUS), N)
    net.run(until=Stage.CONFIRMATIONS)
    client_id, other = list(net.hosts)[:2]
    host, roster = net.hosts[client_id], net.machine.roster
    fewer = members_of(bytes([2**N - 1]), N)
    fewer[roster.indices[other]] = False
    (first,) = net.messages(Survivors, to=client_id)
    place = roster.neighbours[roster.indices[client_id]].index(roster.indices[other])
    signatures = first.signatures[: 64 * place] + first.signatures[64 * (place + 1) :]
    list(host.restart())
    with pytest.raises(ReuseError, match="second set"):
        host.client.handle(Survivors(roster.sid, bitmap_of(fewer), signatures), now=0)
    total = net.run()
    list(host.restart())
    (asked,) = net.messages(UnmaskRequest, to=client_id)
    with pytest.raises(ReuseError, match="second set"):
        host.client.handle(replace(asked, survivors=bitmap_of(fewer)), now=0)
    assert_sound(net, total)


def test_a_second_set_is_refused_in_semi_honest_too_after_a_crash() -> None:
    net = network_of(configuration(N, profile=Profile.SEMI_HONEST), N)
    total = net.run()
    client_id, other = list(net.hosts)[:2]
    host = net.hosts[client_id]
    fewer = members_of(bytes([2**N - 1]), N)
    fewer[net.machine.roster.indices[other]] = False
    list(host.restart())
    (asked,) = net.messages(UnmaskRequest, to=client_id)
    with pytest.raises(ReuseError, match="second set"):
        host.client.handle(replace(asked, survivors=bitmap_of(fewer)), now=0)
    assert_sound(net, total)
