"""Programs may stop at any write and start again: the sum stays exact, and nothing is said twice.

Said twice, and differently, would be two vectors under one set of masks, two sets of survivors, or
shares of two polynomials: each gives a secret away.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from functools import cache, partial

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fedcore.errors import MessageError, PolicyError, ReuseError, StageError
from fedcore.secagg.client import SecAggClient
from fedcore.secagg.keys import Prekey
from fedcore.secagg.loopback import ClientHost
from fedcore.secagg.messages import (
    Abort,
    AbortReason,
    MaskRequest,
    Shares,
    Survivors,
    UnmaskRequest,
    UploadTrailer,
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
    InFlight,
    Letter,
    Moment,
    Network,
    Silence,
    configuration,
    network_of,
)

N = 5
STAGES = [Stage.SHARES, Stage.UPLOADS, Stage.CONFIRMATIONS, Stage.ANSWERS]
profiles = pytest.mark.parametrize("profile", list(Profile), ids=lambda profile: profile.name)
moments = pytest.mark.parametrize("moment", list(Moment), ids=lambda moment: moment.value)
crashes = pytest.mark.parametrize(
    ("moment", "in_flight"),
    [
        (Moment.BEFORE, InFlight.LOST),
        (Moment.AFTER, InFlight.TWICE),
        pytest.param(Moment.BEFORE, InFlight.TWICE, marks=pytest.mark.slow),
        pytest.param(Moment.AFTER, InFlight.LOST, marks=pytest.mark.slow),
    ],
    ids=lambda each: each.value,
)


def disk_of(net: Network, who: bytes) -> CrashingDisk:
    disk = net.server.disk if who == SERVER else net.hosts[who].disk
    assert isinstance(disk, CrashingDisk)
    return disk


@cache
def writes(profile: Profile) -> tuple[int, int]:
    """How often a client, and the server, writes in a session in which all goes well."""
    net = network_of(configuration(N, profile=profile), N)
    net.run()
    per_client = {len(disk_of(net, client_id).written) for client_id in net.hosts}
    assert len(per_client) == 1
    return per_client.pop(), len(disk_of(net, SERVER).written)


def assert_sound(net: Network, total: np.ndarray | None) -> None:
    """The exact sum of the survivors; one form of everything said; no secret left on a disk."""
    assert total is not None
    np.testing.assert_array_equal(total, net.expected())
    assert [name for name, forms in net.said.items() if len(forms) > 1] == []
    for client_id in net.machine.survivors:
        assert_forgotten(net, client_id)


def assert_forgotten(net: Network, client_id: bytes) -> None:
    """Nothing of a session that this client answered is on its disk, but what it revealed."""
    disk = disk_of(net, client_id)
    answers = [a for name, forms in net.said.items() if name[0] == client_id for a in forms]
    revealed = b"".join(data for data in answers if data[1] == 12)
    assert {key.partition("/")[0] for key in disk} <= {"release", "tombstone", "prekey"}
    left = b"".join(disk.values())
    secrets = list(secrets_of(net, client_id))
    for secret in secrets:
        assert secret not in left or secret in revealed
    shares_held = (len(secrets) - 3) // 2
    assert shares_held >= net.machine.roster.parameters.threshold
    assert sum(secret in revealed for secret in secrets) == 1 + shares_held  # b, a half of each


def secrets_of(net: Network, client_id: bytes) -> Iterator[bytes]:
    """What this client knew in the session and nobody else should: its own keys, shares held."""
    roster = net.machine.roster
    me = roster.indices[client_id]
    prekey = next(
        prekey
        for key, values in disk_of(net, client_id).history.items()
        for prekey in [Prekey.decode(values[0])] * key.startswith("prekey")
        if prekey.pid == roster.bundles[me].pid
    )
    yield from (prekey.mask_secret, prekey.channel_secret, prekey.b)
    (request,) = (m for m in net.messages(MaskRequest, to=client_id) if m.sid == roster.sid)
    dealers = roster.neighbours_in(me, members_of(request.uploaders, roster.n))
    for place, j in enumerate(dealers):
        ciphertext = request.ciphertexts[CIPHERTEXT_BYTES * place :][:CIPHERTEXT_BYTES]
        channel = roster.schedule.channel(
            prekey.channel_private, roster.bundles[j].channel_key, me, j
        )
        halves = channel.open(ciphertext)
        yield from (halves[:36], halves[36:])


def crash_once(profile: Profile, who: int, write: int, moment: Moment, in_flight: InFlight) -> None:
    net = network_of(
        configuration(N, profile=profile),
        N,
        crashes={who: {write: moment}},
        in_flight=in_flight,
    )
    total = net.run()
    assert net.crashed == [list(net.hosts)[who]]
    assert len(net.machine.survivors) == N
    assert_sound(net, total)


@profiles
@crashes
def test_a_client_that_crashes_at_any_write_goes_on_to_the_exact_sum(
    profile: Profile, moment: Moment, in_flight: InFlight
) -> None:
    for write in range(writes(profile)[0]):
        crash_once(profile, write % N, write, moment, in_flight)


@pytest.mark.slow
@profiles
@crashes
def test_every_client_that_crashes_at_any_write_goes_on_to_the_exact_sum(
    profile: Profile, moment: Moment, in_flight: InFlight
) -> None:
    for who in range(N):
        for write in range(writes(profile)[0]):
            crash_once(profile, who, write, moment, in_flight)


@profiles
@crashes
def test_a_server_that_crashes_at_any_write_goes_on_to_the_exact_sum(
    profile: Profile, moment: Moment, in_flight: InFlight
) -> None:
    for write in range(writes(profile)[1]):
        net = network_of(
            configuration(N, profile=profile),
            N,
            server_crashes={write: moment},
            in_flight=in_flight,
        )
        total = net.run()
        assert net.crashed == [SERVER]
        assert len(net.machine.survivors) == N
        assert_sound(net, total)


@profiles
@moments
def test_a_client_that_gives_another_vector_after_a_crash_acts_as_one_that_was_lost(
    profile: Profile, moment: Moment
) -> None:
    refused = 0
    for write in range(writes(profile)[0]):
        net = network_of(
            configuration(N, profile=profile),
            N,
            crashes={2: {write: moment}},
            retrained=frozenset({2}),
        )
        client_id = list(net.hosts)[2]
        total = net.run()
        host = net.hosts[client_id]
        if host.failure is None:
            assert len(net.machine.survivors) == N
        else:
            refused += 1
            assert isinstance(host.failure, ReuseError)
            assert not host.client.stages
            assert total is not None
        first = disk_of(net, client_id).written.index(f"release/{bytes(32).hex()}/0")
        if write <= first or (write == first + 1 and moment is Moment.BEFORE):
            net.vectors[client_id] = net.retrained[client_id]  # the only one it was bound to
        np.testing.assert_array_equal(total, net.expected())
        assert [name for name, forms in net.said.items() if len(forms) > 1] == []
    assert refused


@profiles
def test_an_upload_that_stops_short_is_refused_whatever_its_digest(profile: Profile) -> None:
    net = network_of(configuration(N, profile=profile), N, silences={0: Silence.WITHIN_STREAM})
    net.run(until=Stage.UPLOADS)
    short = next(iter(net.hosts))
    for received in (bytes(net.server.spools[short]), b""):
        net.server.spools[short] = bytearray(received)
        trailer = UploadTrailer(net.machine.roster.sid, hashlib.sha256(received).digest())
        with pytest.raises(MessageError) as refused:
            list(net.server.receive(short, encode(trailer)))
        assert refused.value.culprit == short
    assert short not in net.machine.uploaded
    assert_sound(net, net.run())


def test_a_spool_half_received_before_a_crash_begins_again() -> None:
    net = network_of(configuration(N, profile=Profile.MALICIOUS), N)
    net.run(until=Stage.SHARES)
    net.perform(SERVER, net.close)
    net.deliver(until=lambda: bool(net.server.spools))
    (half,) = net.server.spools
    assert 0 < len(net.server.spools[half]) < net.server.layout.upload_bytes
    net.crash(SERVER)
    assert not net.server.spools
    total = net.run()
    assert len(net.machine.survivors) == N
    assert_sound(net, total)


@profiles
@pytest.mark.parametrize("silence", [Silence.BEFORE_SHARES, Silence.BEFORE_TRAILER])
def test_a_server_that_restarts_announces_the_same_set_and_refuses_who_comes_late(
    profile: Profile, silence: Silence
) -> None:
    net = network_of(configuration(N, profile=profile), N, silences={0: silence})
    stage = Stage.SHARES if silence is Silence.BEFORE_SHARES else Stage.UPLOADS
    net.run(until=stage)
    net.perform(SERVER, net.close)
    net.crash(SERVER)
    late = next(iter(net.hosts))
    net.silences, net.silent = {}, set()
    net.perform(late, net.hosts[late].restart)
    total = net.run()
    assert {type(error) for _, error in net.refused} == {StageError}
    assert net.machine.survivors == set(net.hosts) - {late}
    assert_sound(net, total)


@profiles
@moments
def test_programs_may_crash_again_while_they_recover(profile: Profile, moment: Moment) -> None:
    crashed = 0
    for write in range(writes(profile)[0]):
        net = network_of(
            configuration(N, profile=profile),
            N,
            crashes={1: dict.fromkeys(range(write, write + 3), moment)},
        )
        total = net.run()
        crashed += len(net.crashed)
        assert len(net.machine.survivors) == N
        assert_sound(net, total)
    assert crashed >= 2 * writes(profile)[0]


@settings(max_examples=40)
@given(data=st.data())
def test_whatever_crashes_and_overtakes_whatever_the_sum_is_exact(data: st.DataObject) -> None:
    profile = data.draw(st.sampled_from(Profile))
    crashes = st.dictionaries(st.integers(0, 40), st.sampled_from(Moment), max_size=3)
    net = network_of(
        configuration(N, profile=profile),
        N,
        seed=data.draw(st.integers(0, 2**32)),
        crashes=data.draw(st.dictionaries(st.integers(0, N - 1), crashes)),
        server_crashes=data.draw(crashes),
        in_flight=data.draw(st.sampled_from(InFlight)),
        chaos=True,
    )
    total = net.run()
    assert len(net.machine.survivors) == N
    assert_sound(net, total)


@pytest.mark.slow
@profiles
def test_programs_of_a_large_session_may_crash_at_any_write(profile: Profile) -> None:
    n = 65
    rng = np.random.default_rng(1)
    for in_flight in InFlight:
        net = network_of(
            configuration(n, profile=profile, delta=Fraction(1, 10)),
            n,
            crashes={
                i: {int(rng.integers(14)): Moment(rng.choice(["before", "after"]))}
                for i in range(20)
            },
            server_crashes={int(m): Moment.AFTER for m in rng.integers(0, 5 * n, 6)},
            in_flight=in_flight,
        )
        total = net.run()
        assert len(net.crashed) >= 20 + 4
        assert len(net.machine.survivors) == n
        assert_sound(net, total)


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


@pytest.mark.parametrize("stage", STAGES[:3], ids=lambda stage: stage.name)
@pytest.mark.parametrize("how", ["abandoned", "expired", "aborted"])
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
