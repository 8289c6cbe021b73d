"""Programs may stop at any write and start again: the sum stays exact, and nothing is said twice.

Said twice, and differently, would be two vectors under one set of masks, two sets of survivors, or
shares of two polynomials: each gives a secret away.
"""

from __future__ import annotations

import hashlib
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fedcore.errors import MessageError, ReuseError, StageError
from fedcore.secagg.messages import UploadTrailer, encode
from fedcore.secagg.params import Profile
from fedcore.secagg.stages import Stage
from tests.random_examples import thorough
from tests.secagg.crashing import SERVER, InFlight, Moment, Silence, configuration, network_of
from tests.secagg.soundness import N, assert_sound, disk_of, writes
from tests.variants import mostly_slow

profiles = pytest.mark.parametrize(
    "profile",
    [Profile.MALICIOUS, pytest.param(Profile.SEMI_HONEST, marks=pytest.mark.slow)],
    ids=lambda profile: profile.name,
)
moments = pytest.mark.parametrize("moment", mostly_slow(Moment), ids=lambda moment: moment.value)
crashes = pytest.mark.parametrize(
    ("moment", "in_flight"),
    [
        (Moment.BEFORE, InFlight.LOST),
        pytest.param(Moment.AFTER, InFlight.TWICE, marks=pytest.mark.slow),
        pytest.param(Moment.BEFORE, InFlight.TWICE, marks=pytest.mark.slow),
        pytest.param(Moment.AFTER, InFlight.LOST, marks=pytest.mark.slow),
    ],
    ids=lambda each: each.value,
)


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@settings(max_examples=thorough(40))
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
