"""Nobody takes part sooner or more often than planned, and the ledger tells nobody who did."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from fedcore.errors import ArgumentError, LedgerError, ParticipationError
from fedcore.privacy.participation import ParticipationTable, Seal

KEY = bytes(range(32))
names = st.lists(st.binary(min_size=16, max_size=16), max_size=200)


@given(names=names, place=st.binary(max_size=32))
def test_a_sealed_list_opens_with_its_key_and_at_its_place_alone(
    names: list[bytes], place: bytes
) -> None:
    sealed = Seal(KEY).close(names, place=place)
    assert Seal(KEY).open(sealed, place=place) == tuple(names)
    for seal, where, text in (
        (Seal(bytes(32)), place, sealed),
        (Seal(KEY), place + b"x", sealed),
        (Seal(KEY), place, sealed[:-4]),
        (Seal(KEY), place, "A" + sealed[1:] if sealed[0] != "A" else "B" + sealed[1:]),
        (Seal(KEY), place, "?"),
        (Seal(KEY), place, ""),
    ):
        with pytest.raises(LedgerError):
            seal.open(text, place=where)


def test_a_sealed_list_does_not_tell_how_many_it_names() -> None:
    seal = Seal(KEY)
    sizes = {len(seal.close([bytes(16)] * count, place=b"")) for count in range(1, 65)}
    assert len(sizes) == 1
    assert seal.close([], place=b"") != seal.close([], place=b"")


def test_names_are_hashed_under_the_key() -> None:
    one, other = Seal(KEY), Seal(bytes(32))
    assert one.names([b"ann", b"bob", b"ann"]) == (
        *one.names([b"ann", b"bob"]),
        one.names([b"ann"])[0],
    )
    assert not set(one.names([b"ann"])) & set(other.names([b"ann"]))
    assert one.check != other.check


@pytest.mark.parametrize("key", [b"short", bytes(33), "a" * 32, bytearray(32)])
def test_a_key_of_another_length_or_kind_is_refused(key: object) -> None:
    with pytest.raises(ArgumentError) as caught:
        Seal(key)  # type: ignore[arg-type]
    assert repr(key) not in str(caught.value)


@given(
    separation=st.integers(1, 4),
    maximum=st.integers(1, 4),
    population=st.one_of(st.none(), st.integers(1, 5)),
    rounds=st.lists(st.tuples(st.sets(st.integers(0, 4)), st.sampled_from("rd")), max_size=30),
)
def test_the_table_admits_what_brute_force_over_the_whole_past_admits(
    separation: int, maximum: int, population: int | None, rounds: list[tuple[set[int], str]]
) -> None:
    """r: released; d: noise drawn and then a crash, so that it counts."""
    table = ParticipationTable(separation=separation, maximum=maximum, population=population)
    past: list[tuple[set[bytes], bool]] = []  # who, released
    for units, fate in rounds:
        table.begin()
        allowed: set[bytes] = set()
        for unit in sorted(units):
            name = bytes([unit]) * 16
            mine = [number for number, (who, _) in enumerate(past) if name in who]
            # Steps of noise from the last visit to now, if every draw was a release.
            apart = 1 + sum(released for _, released in past[mine[-1] + 1 :]) if mine else 99
            known = {one for who, _ in past for one in who} | allowed
            crowded = name not in known and len(known) == population
            if len(mine) < maximum and apart >= separation and not crowded:
                assert table.refused([*sorted(allowed), name]) == []
                allowed.add(name)
            else:
                assert table.refused([*sorted(allowed), name]) == [len(allowed)]
                with pytest.raises(ParticipationError):
                    table.admit([*sorted(allowed), name])
        table.admit(sorted(allowed))
        past.append((allowed, fate == "r"))
        if fate == "r":
            table.release()
    counts = [sum(name in who for who, _ in past) for name in {n for who, _ in past for n in who}]
    found = table.summary()
    assert (found.units, found.total, found.most) == (
        len(counts),
        sum(counts),
        max(counts, default=0),
    )
    if population is not None:
        rest = population * maximum - sum(counts)
        assert found.left(population=population, maximum=maximum) == rest >= 0


def test_one_name_twice_is_one_too_many() -> None:
    table = ParticipationTable()
    table.begin()
    assert table.refused([b"a", b"b", b"a"]) == [2]
    with pytest.raises(ParticipationError):
        table.admit([b"a", b"a"])
    assert table.summary().units == 0
    table.admit([b"a"])
    assert table.refused([b"a", b"b"]) == [0]
