"""A set of clients of which others are made: none of them ever changes, and none is copied."""

from __future__ import annotations

from hypothesis import given, strategies as st

from fedcore.rounds.sets import VersionedSet

CLIENTS = [bytes([number]) for number in range(5)]
SOME = st.sets(st.sampled_from(CLIENTS), max_size=3)
STEPS = st.lists(st.tuples(st.integers(0, 40), st.booleans(), SOME), max_size=40)


@given(SOME, STEPS)
def test_every_version_stays_the_set_that_it_was(
    first: set[bytes], steps: list[tuple[int, bool, set[bytes]]]
) -> None:
    versions = [(VersionedSet(first), frozenset(first))]
    for which, more, clients in steps:
        found, expected = versions[which % len(versions)]  # also of one that others follow
        following = (found.including if more else found.excluding)(clients)
        versions.append((following, expected | clients if more else expected - clients))
    for found, expected in versions:
        assert found == expected and hash(found) == hash(expected)
        assert len(found) == len(expected) and sorted(found) == sorted(expected)
        assert [client in found for client in CLIENTS] == [client in expected for client in CLIENTS]


@given(SOME, SOME)
def test_what_is_made_of_two_is_an_ordinary_set(first: set[bytes], second: set[bytes]) -> None:
    found = VersionedSet(first)
    for made, expected in (
        (found & second, first & second),
        (found | second, first | second),
        (found - second, first - second),
        (second - found, second - first),
    ):
        assert type(made) in (set, frozenset) and made == expected
    assert (found <= second, second <= found) == (first <= second, second <= first)
    assert VersionedSet.of(found) is found


def test_those_that_follow_each_other_share_their_memory() -> None:
    first = VersionedSet(b"%d" % number for number in range(100))
    later = first
    for number in range(100, 1_000):
        later = later.including([b"%d" % number])
    for number in range(500):
        later = later.excluding([b"%d" % number])
    assert later._turns is first._turns and len(first) == 100 and len(later) == 500


def test_what_comes_and_goes_for_ever_takes_no_more_memory() -> None:
    found = VersionedSet([b"a"])
    for _ in range(5_000):
        found = found.including([b"b"]).excluding([b"b"])
    assert found == {b"a"} and len(found._changes) < 1_100
