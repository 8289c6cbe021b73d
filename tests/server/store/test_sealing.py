"""What is sealed opens with a key of the list, in its place, unchanged; and in no other way."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given, strategies as st

from fedcore.errors import ArgumentError, StoreError
from fedserver.store.sealing import Sealer
from fedserver.store.sqlite import SqliteStore

PLACE = ("session_record", "task/1/1/share/3", "value")
OLD, NEW = bytes(32), bytes([1]) * 32


@given(st.binary(max_size=200), st.lists(st.binary(min_size=32, max_size=32), max_size=3))
def test_every_key_of_the_list_opens_what_it_sealed(plain: bytes, others: list[bytes]) -> None:
    sealed = Sealer([OLD]).seal(plain, *PLACE)
    assert Sealer([*others, OLD]).open(sealed, *PLACE) == plain


def test_the_first_key_seals() -> None:
    sealed = Sealer([NEW, OLD]).seal(b"share", *PLACE)
    assert Sealer([NEW]).open(sealed, *PLACE) == b"share"
    with pytest.raises(StoreError, match="not in the list"):
        Sealer([OLD]).open(sealed, *PLACE)


@given(st.data())
def test_any_changed_bit_and_any_other_place_is_noticed(data: st.DataObject) -> None:
    sealed = bytearray(Sealer([OLD]).seal(b"share", *PLACE))
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(StoreError):
        Sealer([OLD]).open(bytes(sealed), *PLACE)


@pytest.mark.parametrize("part", range(3))
def test_a_value_cannot_be_moved(part: int) -> None:
    place = [*PLACE]
    place[part] += "x"
    with pytest.raises(StoreError, match="moved"):
        Sealer([OLD]).open(Sealer([OLD]).seal(b"share", *PLACE), *place)


def test_parts_of_a_place_do_not_run_into_each_other() -> None:
    sealed = Sealer([OLD]).seal(b"share", "ab", "c", "d")
    with pytest.raises(StoreError):
        Sealer([OLD]).open(sealed, "a", "bc", "d")


@given(st.binary(max_size=40))
def test_bytes_that_were_never_sealed_are_refused(text: bytes) -> None:
    with pytest.raises(StoreError):
        Sealer([OLD]).open(text, *PLACE)


def test_keys_must_be_keys() -> None:
    for keys in ([], [b"short"], [OLD, b""]):
        with pytest.raises(ArgumentError):
            Sealer(keys)


async def test_the_database_shows_nothing_of_a_session_or_of_an_answer(world, tmp_path) -> None:
    ref = await world.round(await world.task())
    secret = b"a share that nobody may read"
    await world.store.put_session(ref, {"share/1": secret})
    await world.store.checkpoint()
    files = [path.read_bytes() for path in tmp_path.iterdir() if path.is_file()]
    assert any(b"share/1" in data for data in files)
    assert not any(secret in data for data in files)
    assert await world.store.session(ref) == {"share/1": secret}


async def test_without_its_key_a_session_is_unreadable_and_the_rest_is_there(
    world, tmp_path
) -> None:
    ref = await world.round(await world.task())
    await world.store.put_session(ref, {"share/1": b"secret"})
    await world.store.close()
    stranger = await SqliteStore.open(tmp_path / "server.db", keys=[NEW])
    assert (await stranger.round(ref)).phase == "SELECTING"
    with pytest.raises(StoreError, match="not in the list"):
        await stranger.session(ref)
    await stranger.close()


async def test_records_of_two_rounds_cannot_be_exchanged(world, tmp_path) -> None:
    ref = await world.round(await world.task())
    await world.store.put_session(ref, {"a": b"1", "b": b"2"})
    await world.store.close()
    connection = sqlite3.connect(tmp_path / "server.db")
    with connection:
        connection.execute(
            "UPDATE session_record SET value ="
            " (SELECT value FROM session_record WHERE name = 'b') WHERE name = 'a'"
        )
    connection.close()
    with pytest.raises(StoreError, match="moved"):
        await (await world.reopen()).session(ref)


async def test_what_is_scrubbed_is_overwritten_in_the_file(world, tmp_path) -> None:
    ref = await world.round(await world.task())
    await world.store.put_session(ref, {"share/very-recognisable": b"secret" * 100})
    await world.go(ref, "ABANDONED")
    await world.store.scrub_round(ref)
    await world.store.checkpoint()
    for path in tmp_path.iterdir():
        assert b"very-recognisable" not in path.read_bytes()
