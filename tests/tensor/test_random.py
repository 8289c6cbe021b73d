"""Streams are fixed by their key for ever, and unrelated between keys."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedcore.errors import ArgumentError, DtypeError, ShapeError
from fedcore.tensor.random import Key, generator_from_words, stream

# Frozen: a change here changes every experiment ever run, so these numbers are never regenerated.
KNOWN = [
    (
        Key(0, ""),
        (0x6EDBE5FD9F0FF632, 0x90D501DF5AAEFCC2),
        [14383511614700833382, 10459030474951191069, 8142561382791448209],
        [2, 0, 4, 7, 1, 5, 3, 6],
    ),
    (
        Key(7, "dropout", 3, 11),
        (0x2810647F78AE797B, 0x2DB2BBC44612250A),
        [16987694774906364971, 7279080660493481110, 5577941661929239198],
        [2, 6, 0, 1, 5, 7, 4, 3],
    ),
    (
        Key(2**128 - 1, "é", 2**64 - 1, 2**64 - 1),
        (0x9A2DBD48BCC8AB55, 0x1D9E3E2E3B975971),
        [3691032087815218259, 4321792417114744175, 18084869146559393755],
        [4, 6, 1, 2, 5, 7, 0, 3],
    ),
    (
        Key(1, "init").fold("layer").fold(2),
        (0x8EA9FEFBEA8A2BFD, 0x09822827E46C292F),
        [13578589056039062288, 2052221954342661888, 728507057614423908],
        [1, 2, 6, 3, 4, 7, 5, 0],
    ),
]

u64 = st.integers(0, 2**64 - 1)
names = st.text(st.characters(codec="utf-8"), max_size=40)
keys = st.builds(
    Key,
    st.integers(0, 2**128 - 1),
    names,
    u64,
    u64,
    st.lists(st.one_of(u64, names), max_size=3).map(tuple),
)


@pytest.mark.parametrize(("key", "words", "raw", "order"), KNOWN)
def test_known_answers_never_change(
    key: Key, words: tuple[int, int], raw: list[int], order: list[int]
) -> None:
    assert key.words().tolist() == list(words)
    assert key.generator().bit_generator.random_raw(3).tolist() == raw
    assert key.generator().permutation(8).tolist() == order


@given(keys)
def test_a_stream_is_its_keys_alone(key: Key) -> None:
    again = generator_from_words(key.words().copy()).random(5)
    assert key.generator().random(5).tolist() == again.tolist()
    if not key.path:
        direct = stream(key.seed, key.purpose, round=key.round, client=key.client)
        assert direct.random(5).tolist() == again.tolist()


@given(keys, keys)
def test_equal_words_mean_equal_keys(first: Key, second: Key) -> None:
    assert (first == second) == (first.words().tolist() == second.words().tolist())


def test_no_field_can_be_mistaken_for_another() -> None:
    family = [
        Key(1, "a"),
        Key(0, "a", round=1),
        Key(0, "a", client=1),
        Key(0, "a").fold(1),
        Key(0, "a").fold("1"),
        Key(0, "a").fold("\x01"),
        Key(0, "a1"),
        Key(0, "1a"),
        Key(0, "a").fold("b").fold("c"),
        Key(0, "a").fold("bc"),
        Key(0, "a").fold("c").fold("b"),
        Key(1 << 64, "a"),
    ]
    assert len({tuple(key.words().tolist()) for key in family}) == len(family)


def test_numpy_integers_name_the_same_stream_as_python_integers() -> None:
    key = Key(np.int64(5), "a", round=np.int32(2), client=np.uint64(3))  # type: ignore[arg-type]
    assert key == Key(5, "a", 2, 3)
    assert hash(key.fold(np.int8(4))) == hash(Key(5, "a", 2, 3, (4,)))  # type: ignore[arg-type]
    assert type(key.seed) is int


def test_a_key_survives_pickling_for_worker_processes() -> None:
    key = Key(3, "shuffle", 1, 2).fold("x")
    assert pickle.loads(pickle.dumps(key)) == key


def test_draws_of_one_generator_do_not_move_another() -> None:
    ours, other = stream(1, "a", client=0), stream(1, "a", client=1)
    expected = stream(1, "a", client=0).random(10)
    other.random(1000)
    assert ours.random(10).tolist() == expected.tolist()


def test_streams_of_neighbouring_clients_are_uncorrelated() -> None:
    clients, draws = 200, 500
    table = np.stack([stream(0, "a", client=c).standard_normal(draws) for c in range(clients)])
    correlation = np.asarray(np.corrcoef(table))[np.triu_indices(clients, k=1)]
    # 19,900 correlations of 500 draws: each is N(0, 1/500) when independent, so the largest of them
    # exceeds 6 standard deviations with probability below 5e-5, and their mean square is 1/500.
    assert np.abs(correlation).max() < 6 / np.sqrt(draws)
    assert np.mean(correlation**2) * draws == pytest.approx(1, abs=6 * np.sqrt(2 / 19_900))


def test_first_draws_over_clients_are_uniform() -> None:
    first = np.array([stream(0, "a", client=c).random() for c in range(4000)])
    counts, _ = np.histogram(first, bins=20, range=(0, 1))
    chi_square = float(((counts - 200) ** 2 / 200).sum())
    assert chi_square < 52.4  # 19 degrees of freedom: exceeded with probability 5.6e-5


@pytest.mark.parametrize("field", ["seed", "round", "client"])
@pytest.mark.parametrize("value", [-1, 1 << 200, 1.5, "1", None, True])
def test_a_field_out_of_range_is_refused(field: str, value: object) -> None:
    with pytest.raises(ArgumentError, match=field) as caught:
        Key(**{"seed": 0, "purpose": "a", field: value})  # type: ignore[arg-type]
    assert caught.value.why and caught.value.fix


@pytest.mark.parametrize("purpose", ["a" * 256, "\ud800", b"a", None, 3])
def test_a_purpose_that_has_no_short_encoding_is_refused(purpose: object) -> None:
    with pytest.raises(ArgumentError, match="purpose"):
        stream(0, purpose)  # type: ignore[arg-type]


def test_folding_in_something_else_is_refused() -> None:
    with pytest.raises(ArgumentError, match="fold"):
        Key(0, "a").fold(1.0)  # type: ignore[arg-type]


def test_words_of_the_wrong_shape_or_dtype_are_refused() -> None:
    with pytest.raises(ShapeError, match="expected words"):
        generator_from_words(np.zeros((3, 2), dtype=np.uint64))
    with pytest.raises(DtypeError, match="expected uint64"):
        generator_from_words(np.zeros(2))
