"""Whoever is lost, wherever: the exact sum of the survivors, or a clean end without one."""

from __future__ import annotations

import random
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fedcore.errors import AbortError, StageError
from fedcore.secagg.loopback import LostAt
from fedcore.secagg.messages import Abort, AbortReason
from fedcore.secagg.params import Parameters, Profile
from fedcore.secagg.session import run_session, shards
from fedcore.secagg.stages import Stage
from tests.random_examples import thorough
from tests.secagg.crashing import Network, Silence, configuration, network_of
from tests.variants import mostly_slow

profiles = pytest.mark.parametrize("profile", list(Profile), ids=lambda profile: profile.name)


def kinds_of(profile: Profile) -> list[Silence]:
    """Where a client may fall silent: in semi_honest nobody confirms a set."""
    return [kind for kind in Silence if profile or kind is not Silence.BEFORE_CONFIRMATION]


losses = pytest.mark.parametrize(
    ("profile", "silence", "lost"),
    [
        pytest.param(
            profile, silence, lost, marks=[pytest.mark.slow] * (profile is Profile.SEMI_HONEST)
        )
        for profile in Profile
        for silence, lost in [
            (Silence.BEFORE_ANSWER, "nobody"),
            *((silence, lost) for silence in kinds_of(profile) for lost in ("d0", "d0+1")),
        ]
    ],
    ids=lambda choice: getattr(choice, "name", choice),
)
small = pytest.mark.parametrize("n", mostly_slow([5, 2, 3, 8]))
large = pytest.mark.parametrize("n", [64, 65, 200])

# Room for losses, where a quorum and a threshold above one corrupt client leave any.
DELTAS = {2: "0", 3: "0", 5: "1/5", 8: "1/4", 64: "1/10", 65: "1/10", 200: "1/10"}
REASONS = {
    "R1": {AbortReason.TOO_FEW_SHARES},
    "R2": {AbortReason.TOO_FEW_UPLOADS, AbortReason.WINDOW},
    "R3": {AbortReason.NO_QUORUM},
    "R4": {AbortReason.CANNOT_UNMASK},
}


def session(n: int, profile: Profile, lost: Mapping[int, Silence], *, seed: int = 0) -> Network:
    config = configuration(n, profile=profile, delta=Fraction(DELTAS[n]))
    return network_of(config, n, seed=seed, silences=lost)


def dropouts(n: int, profile: Profile) -> int:
    return configuration(n, profile=profile, delta=Fraction(DELTAS[n])).parameters(n).dropouts


def assert_exact_or_clean(net: Network, lost: Mapping[int, Silence]) -> None:
    """What must come of these losses, to everyone."""
    total = net.run()
    parameters = net.machine.roster.parameters
    ids = list(net.hosts)
    early = {ids[i] for i, silence in lost.items() if not silence.counts_in_sum}
    assert net.refused == []
    if total is None:
        assert len(lost) > parameters.dropouts
        assert_clean_end(net, lost, parameters)
        return
    assert len(early) <= parameters.dropouts
    assert net.machine.survivors == set(ids) - early
    np.testing.assert_array_equal(total, net.expected())
    assert all(not host.client.stages for i, host in enumerate(net.hosts.values()) if i not in lost)


def assert_clean_end(net: Network, lost: Mapping[int, Silence], parameters: Parameters) -> None:
    """One typed error, one reason told to everyone, no sum, and no secret kept by who is left."""
    error = net.server.failure
    assert isinstance(error, AbortError)
    assert error.code == "FED-1410"
    assert error.stage in REASONS
    (reason,) = {message.reason for message in net.messages(Abort)}
    assert reason in REASONS[error.stage]
    assert net.machine.stage is Stage.ABORTED
    with pytest.raises(StageError):
        net.machine.plan()
    for i, host in enumerate(net.hosts.values()):
        if i not in lost:
            assert not host.client.stages
            assert {key.partition("/")[0] for key in host.disk} <= {"release", "tombstone"}
    early = sum(silence is Silence.BEFORE_SHARES for silence in lost.values())
    later = sum(not silence.counts_in_sum for silence in lost.values())
    if early > parameters.dropouts:
        assert error.stage == "R1"
    elif later > parameters.dropouts:
        assert error.stage == "R2"


def lose(n: int, profile: Profile, silence: Silence, lost: str) -> None:
    count = {"nobody": 0, "d0": dropouts(n, profile), "d0+1": dropouts(n, profile) + 1}[lost]
    silences = dict.fromkeys(random.Random(n).sample(range(n), count), silence)
    assert_exact_or_clean(session(n, profile, silences), silences)


@small
@losses
def test_a_small_session_gives_the_exact_sum_or_ends_cleanly(
    n: int, profile: Profile, silence: Silence, lost: str
) -> None:
    lose(n, profile, silence, lost)


@pytest.mark.slow
@large
@losses
def test_a_large_session_gives_the_exact_sum_or_ends_cleanly(
    n: int, profile: Profile, silence: Silence, lost: str
) -> None:
    lose(n, profile, silence, lost)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "profile", "excess"),
    [
        (64, Profile.MALICIOUS, 0),
        (65, Profile.SEMI_HONEST, 0),
        (65, Profile.MALICIOUS, 0),
        (65, Profile.MALICIOUS, 1),
        (200, Profile.MALICIOUS, 0),
        (200, Profile.SEMI_HONEST, 0),
        (200, Profile.MALICIOUS, 1),
    ],
)
def test_losses_may_be_spread_over_every_stage(n: int, profile: Profile, excess: int) -> None:
    count = dropouts(n, profile) + excess
    chosen = random.Random(n)
    kinds = kinds_of(profile)
    lost = {i: kinds[at % len(kinds)] for at, i in enumerate(chosen.sample(range(n), count))}
    assert_exact_or_clean(session(n, profile, lost), lost)


@given(
    profile=st.sampled_from(Profile),
    n=st.sampled_from([2, 3, 5, 8]),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_any_losses_at_any_stages_give_the_exact_sum_or_a_clean_end(
    profile: Profile, n: int, seed: int, data: st.DataObject
) -> None:
    lost = data.draw(
        st.dictionaries(st.integers(0, n - 1), st.sampled_from(kinds_of(profile)), max_size=n)
    )
    assert_exact_or_clean(session(n, profile, lost, seed=seed), lost)


@pytest.mark.slow
@given(profile=st.sampled_from(Profile), seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=thorough(30))
def test_any_losses_in_a_ring_give_the_exact_sum_or_a_clean_end(
    profile: Profile, seed: int, data: st.DataObject
) -> None:
    n = 65
    lost = data.draw(
        st.dictionaries(st.integers(0, n - 1), st.sampled_from(kinds_of(profile)), max_size=8)
    )
    assert_exact_or_clean(session(n, profile, lost, seed=seed), lost)


@pytest.mark.parametrize("profile", mostly_slow(reversed(Profile)), ids=lambda each: each.name)
@pytest.mark.parametrize("at", list(LostAt), ids=lambda at: at.name)
def test_a_session_in_one_call_leaves_out_who_was_lost_before_its_upload(
    profile: Profile, at: LostAt
) -> None:
    vectors = np.random.default_rng(0).integers(-1000, 1001, (8, 10))
    result = run_session(vectors, profile=profile, delta=Fraction(1, 4), dropouts={1: at, 6: at})
    left = [i for i in range(8) if i not in (1, 6) or at >= LostAt.CONFIRMATION]
    assert list(result.survivors) == left
    np.testing.assert_array_equal(result.totals[0], vectors[left].sum(axis=0))


@profiles
def test_shards_lose_clients_of_their_own_and_their_sums_add_up(profile: Profile) -> None:
    vectors = np.random.default_rng(0).integers(-1000, 1001, (20, 10))
    lost = {0: LostAt.SHARES, 6: LostAt.UPLOADING, 13: LostAt.UPLOAD, 14: LostAt.ANSWER}
    result = run_session(vectors, profile=profile, delta=Fraction(1, 6), dropouts=lost, largest=8)
    assert [parameters.n for parameters in result.parameters] == [6, 7, 7]
    left = [i for i in range(20) if i not in (0, 6, 13)]
    assert list(result.survivors) == left
    np.testing.assert_array_equal(result.totals[0], vectors[left].sum(axis=0))


def test_a_shard_that_loses_too_many_ends_the_whole_in_its_error() -> None:
    """A cohort's sum without a shard is the sum of another cohort, so there is none."""
    vectors = np.ones((20, 3), np.int64)
    second = shards(20, largest=8)[1]
    lost = {second[0]: LostAt.SHARES, second[1]: LostAt.UPLOAD}
    with pytest.raises(AbortError, match="5 of 7 clients are left at UPLOADS") as ended:
        run_session(vectors, delta=Fraction(1, 6), dropouts=lost, largest=8)
    assert ended.value.stage == "R2"
