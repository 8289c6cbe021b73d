"""Keystreams against published vectors and block functions in plain Python, at every offset."""

from __future__ import annotations

import hashlib
import itertools
import random
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, strategies as st

from fedcore.errors import ArgumentError, DtypeError, FedcoreError, ShapeError
from fedcore.secagg.prg import CHUNK_WORDS, MAX_WORDS, Prg, Stream, apply_streams, keystream
from tests.variants import mostly_slow

PRGS = list(Prg)
BLOCK_WORDS = {Prg.AES_128_CTR: 2, Prg.CHACHA20: 8}
LONG = 2 * CHUNK_WORDS + 37


def seed_of(number: int, prg: Prg) -> bytes:
    """Distinct seeds without any structure."""
    return hashlib.sha512(number.to_bytes(8, "little")).digest()[: prg.seed_bytes]


def aes_block(seed: bytes, number: int) -> bytes:
    """Block `number` of the keystream as SP 800-38A defines it: the encrypted counter."""
    counter = (int.from_bytes(seed[16:], "big") + number) % 2**128
    return (
        Cipher(algorithms.AES(seed[:16]), modes.ECB())
        .encryptor()
        .update(counter.to_bytes(16, "big"))
    )


def chacha_block(seed: bytes, number: int) -> bytes:
    """Block `number` of the keystream as RFC 8439, section 2.3, defines it."""
    data = b"expand 32-byte k" + seed[:32] + number.to_bytes(4, "little") + seed[32:]
    start = [int.from_bytes(data[i : i + 4], "little") for i in range(0, 64, 4)]
    v = list(start)
    rounds = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15))
    rounds += ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))
    for a, b, c, d in rounds * 10:
        for to, add, mixed, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            v[to] = (v[to] + v[add]) % 2**32
            turned = v[mixed] ^ v[to]
            v[mixed] = (turned << bits | turned >> (32 - bits)) % 2**32
    return b"".join(((x + y) % 2**32).to_bytes(4, "little") for x, y in zip(v, start, strict=True))


def by_definition(seed: bytes, prg: Prg, offset: int, words: int) -> list[int]:
    block, size = {Prg.AES_128_CTR: aes_block, Prg.CHACHA20: chacha_block}[prg], BLOCK_WORDS[prg]
    first, last = offset // size, (offset + words) // size
    data = b"".join(block(seed, number) for number in range(first, last + 1))
    begin = 8 * (offset - first * size)
    return [int.from_bytes(data[i : i + 8], "little") for i in range(begin, begin + 8 * words, 8)]


def masked(streams: list[Stream], prg: Prg, *, words: int, offset: int = 0) -> Any:
    accumulator = np.arange(words, dtype=np.uint64)
    apply_streams(accumulator, streams, prg=prg, offset=offset)
    return accumulator


def test_the_counter_mode_of_nist_sp_800_38a_section_f_5_1() -> None:
    seed = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    plaintext = bytes.fromhex(
        "6bc1bee22e409f96e93d7e117393172a ae2d8a571e03ac9c9eb76fac45af8e51"
        "30c81c46a35ce411e5fbc1191a0a52ef f69f2445df4f9b17ad2b417be66c3710"
    )
    ciphertext = bytes.fromhex(
        "874d6191b620e3261bef6864990db6ce 9806f66b7970fdff8617187bb9fffdff"
        "5ae4df3edbd5d35e5b4f09020db03eab 1e031dda2fbe03d1792170a0f3009cee"
    )
    words = keystream(seed, prg=Prg.AES_128_CTR, words=8)
    assert (words ^ np.frombuffer(plaintext, "<u8")).astype("<u8").tobytes() == ciphertext


def test_the_block_of_rfc_8439_section_2_3_2_is_block_one_of_the_stream() -> None:
    seed = bytes(range(32)) + bytes.fromhex("000000090000004a00000000")
    words = keystream(seed, prg=Prg.CHACHA20, offset=8, words=8)
    assert words.astype("<u8").tobytes() == bytes.fromhex(
        "10f1e7e4d13b5915500fdd1fa32071c4 c7d1f4c733c068030422aa9ac3d46c4e"
        "d2826446079faa0914c2d705d98b02a2 b5129cd1de164eb9cbd083e8a2503c4e"
    )


def test_the_keystream_of_rfc_8439_appendix_a_1_starts_at_block_zero() -> None:
    words = keystream(bytes(44), prg=Prg.CHACHA20, words=16)
    assert words.astype("<u8").tobytes() == bytes.fromhex(
        "76b8e0ada0f13d90405d6ae55386bd28 bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a37 6a43b8f41518a11cc387b669b2ee6586"
        "9f07e7be5551387a98ba977c732d080d cb0f29a048e3656912c6533e32ee7aed"
        "29b721769ce64e43d57133b074d839d5 31ed1f28510afb45ace10a1f4b794d6f"
    )


@given(
    st.sampled_from(PRGS),
    st.integers(0, 2**32),
    st.integers(0, 40) | st.integers(0, MAX_WORDS - 20) | st.just(MAX_WORDS - 20),
    st.integers(0, 20),
)
def test_any_words_are_those_of_the_block_function(
    prg: Prg, number: int, offset: int, words: int
) -> None:
    seed = seed_of(number, prg)
    found = keystream(seed, prg=prg, offset=offset, words=words)
    assert found.dtype == np.uint64
    assert found.tolist() == by_definition(seed, prg, offset, words)


@given(st.integers(1, 2**70), st.integers(0, 140), st.integers(0, 20))
def test_the_counter_of_aes_wraps_after_all_its_128_bits(
    before: int, offset: int, words: int
) -> None:
    for blocks in (before, before % 64 + 1):
        seed = bytes(16) + (2**128 - blocks).to_bytes(16, "big")
        found = keystream(seed, prg=Prg.AES_128_CTR, offset=offset, words=words)
        assert found.tolist() == by_definition(seed, Prg.AES_128_CTR, offset, words)


@pytest.mark.parametrize("prg", PRGS)
@given(offset=st.integers(0, LONG), words=st.integers(0, LONG))
def test_a_seek_gives_what_reading_to_there_gives(prg: Prg, offset: int, words: int) -> None:
    seed, words = seed_of(1, prg), min(words, LONG - offset)
    whole = keystream(seed, prg=prg, words=LONG)
    part = keystream(seed, prg=prg, offset=offset, words=words)
    assert np.array_equal(part, whole[offset : offset + words])


@pytest.mark.parametrize("prg", PRGS)
@given(
    cuts=st.lists(st.integers(0, LONG), max_size=4),
    negative=st.lists(st.booleans(), max_size=4),
    offset=st.integers(0, 9),
)
def test_chunks_together_are_the_whole(
    prg: Prg, cuts: list[int], negative: list[bool], offset: int
) -> None:
    streams = [Stream(seed_of(i, prg), sign) for i, sign in enumerate(negative)]
    whole = masked(streams, prg, words=LONG, offset=offset)
    parts = np.arange(LONG, dtype=np.uint64)
    edges = [0, *sorted(cuts), LONG]
    for begin, end in itertools.pairwise(edges):
        apply_streams(parts[begin:end], streams, prg=prg, offset=offset + begin)
    assert np.array_equal(parts, whole)


@pytest.mark.parametrize("prg", PRGS)
def test_streams_beyond_those_open_at_once_are_added_and_subtracted_too(prg: Prg) -> None:
    words = CHUNK_WORDS + 5
    streams = [Stream(seed_of(i, prg), i % 3 == 0) for i in range(150)]
    expected = np.arange(words, dtype=np.uint64)
    for stream in streams:
        mask = keystream(stream.seed, prg=prg, offset=11, words=words)
        expected = expected - mask if stream.negative else expected + mask
    assert np.array_equal(masked(streams, prg, words=words, offset=11), expected)


@pytest.mark.parametrize("prg", PRGS)
def test_threads_give_the_bits_of_one_thread(prg: Prg) -> None:
    streams = [Stream(seed_of(i, prg), bool(i % 2)) for i in range(70)]
    words, part = 4 * CHUNK_WORDS + 3, 10_001
    together = np.arange(words, dtype=np.uint64)

    def work(begin: int) -> None:
        apply_streams(together[begin : begin + part], streams, prg=prg, offset=5 + begin)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(0, words, part)))
    assert np.array_equal(together, masked(streams, prg, words=words, offset=5))


@given(st.sampled_from(PRGS), st.integers(2, 6), st.randoms(use_true_random=False))
def test_the_masks_of_all_pairs_cancel_in_any_order(
    prg: Prg, clients: int, order: random.Random
) -> None:
    streams = [
        Stream(seed_of(lower * clients + higher, prg), negative)
        for lower in range(clients)
        for higher in range(lower + 1, clients)
        for negative in (False, True)
    ]
    order.shuffle(streams)
    assert np.array_equal(masked(streams, prg, words=19, offset=3), np.arange(19))


def test_a_part_of_an_array_is_masked_and_its_rest_left_alone() -> None:
    seed, whole = seed_of(0, Prg.AES_128_CTR), np.zeros((9, 2), np.uint64)
    apply_streams(whole[2:7, 1], [Stream(seed, negative=False)], prg=Prg.AES_128_CTR)
    expected = keystream(seed, prg=Prg.AES_128_CTR, words=5)
    assert whole.T.tolist() == [[0] * 9, [0, 0, *expected.tolist(), 0, 0]]


def test_memory_does_not_grow_with_the_vector() -> None:
    accumulator = np.zeros(40 * CHUNK_WORDS, np.uint64)
    tracemalloc.start()
    apply_streams(accumulator, [Stream(bytes(32), negative=False)], prg=Prg.AES_128_CTR)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.1 * 8 * CHUNK_WORDS  # zeros and their encryption


@pytest.mark.parametrize("prg", PRGS)
def test_every_bit_of_a_seed_changes_the_stream(prg: Prg) -> None:
    seed = seed_of(0, prg)
    number, size = int.from_bytes(seed, "big"), prg.seed_bytes
    flipped = [(number ^ 1 << bit).to_bytes(size, "big") for bit in range(8 * size)]
    starts = {keystream(s, prg=prg, words=2).tobytes() for s in [seed, *flipped]}
    assert len(starts) == 8 * size + 1


def colliding_pairs(count: int, prg: Prg) -> int:
    """How many of `count` streams have a first word that another has before them."""
    first = [keystream(seed_of(n, prg), prg=prg, words=1)[0] for n in range(count)]
    return count - len(set(first))


@pytest.mark.parametrize("prg", mostly_slow(PRGS))
def test_distinct_seeds_have_distinct_streams(prg: Prg) -> None:
    """Seeds folded to 24 bits would collide about 8 times."""
    assert colliding_pairs(2**14, prg) == 0


@pytest.mark.slow
@pytest.mark.parametrize("prg", PRGS)
def test_a_million_distinct_seeds_have_distinct_streams(prg: Prg) -> None:
    """Of 2^20 uniform words of 64 bits two are equal with a probability of 3e-8."""
    assert colliding_pairs(2**20, prg) == 0


def test_a_stream_does_not_show_its_seed() -> None:
    assert repr(Stream(b"secret", negative=True)) == "Stream(negative=True)"


@pytest.mark.parametrize("prg", PRGS)
@pytest.mark.parametrize(
    ("offset", "words"),
    [(MAX_WORDS, 1), (MAX_WORDS - 1, 2), (0, MAX_WORDS + 1), (0, 2**70), (-1, 1), (0, -1)],
)
def test_words_outside_a_stream_are_refused(prg: Prg, offset: int, words: int) -> None:
    with pytest.raises(ArgumentError):
        keystream(bytes(prg.seed_bytes), prg=prg, offset=offset, words=words)


def test_the_last_word_of_a_stream_is_the_last_of_64_gib() -> None:
    assert MAX_WORDS * 8 == 64 * 2**30
    accumulator = np.zeros(2, np.uint64)
    stream = Stream(bytes(44), negative=False)
    apply_streams(accumulator[:1], [stream], prg=Prg.CHACHA20, offset=MAX_WORDS - 1)
    with pytest.raises(ArgumentError):
        apply_streams(accumulator, [stream], prg=Prg.CHACHA20, offset=MAX_WORDS - 1)


@pytest.mark.parametrize("prg", PRGS)
@pytest.mark.parametrize("change", [-1, 1, -16])
def test_a_seed_of_another_length_is_refused_before_anything_is_added(
    prg: Prg, change: int
) -> None:
    bad = b"\xab" * (prg.seed_bytes + change)
    streams = [Stream(bytes(prg.seed_bytes), negative=False), Stream(bad, negative=False)]
    accumulator = np.zeros(3, np.uint64)
    with pytest.raises(ArgumentError) as refused:
        apply_streams(accumulator, streams, prg=prg)
    assert not accumulator.any()
    assert "abab" not in str(refused.value) and r"\xab" not in str(refused.value)
    with pytest.raises(ArgumentError):
        keystream(bad, prg=prg, words=1)


@pytest.mark.parametrize(
    ("accumulator", "error"),
    [
        (np.zeros(3, np.int64), DtypeError),
        (np.zeros(3), DtypeError),
        (np.zeros((1, 3), np.uint64), ShapeError),
        (np.zeros((), np.uint64), ShapeError),
        (np.frombuffer(bytes(24), np.uint64), ArgumentError),
    ],
)
def test_an_accumulator_of_another_kind_is_refused(
    accumulator: Any, error: type[FedcoreError]
) -> None:
    with pytest.raises(error):
        apply_streams(accumulator, [], prg=Prg.AES_128_CTR)
