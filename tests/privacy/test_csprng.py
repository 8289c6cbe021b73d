"""Bits against the cipher's definition, and against every way to get the same bits twice."""

from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys
import textwrap
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, strategies as st
from scipy import stats

from fedcore.entropy import Entropy, SeededEntropy, SystemEntropy
from fedcore.errors import ArgumentError, DtypeError, EntropyError
from fedcore.privacy import csprng
from fedcore.privacy.csprng import Stream
from tests.variants import mostly_slow


def seeded(seed: bytes = b"csprng") -> Stream:
    return Stream(SeededEntropy(seed))


def keystream(key: bytes, size: int) -> bytes:
    """AES-256-CTR as SP 800-38A defines it: counters from zero, each encrypted."""
    block = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()
    counters = b"".join(number.to_bytes(16, "big") for number in range(-(-size // 16)))
    return block.update(counters)[:size]


def run(script: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, timeout=60
    )


def windows(data: bytes, size: int) -> set[bytes]:
    return {data[i : i + size] for i in range(len(data) - size + 1)}


def test_the_first_block_under_a_zero_key_is_the_published_one() -> None:
    assert csprng._open(bytes(32)).update(bytes(16)).hex() == "dc95c078a2408989ad48a21492842087"


def test_a_stream_is_counter_mode_under_32_bytes_of_entropy() -> None:
    key = SeededEntropy(b"csprng").token(32)
    assert seeded().bytes(200_001) == keystream(key, 200_001)


@given(st.lists(st.integers(0, 70_000), max_size=6))
def test_how_a_stream_is_read_changes_no_bit(sizes: list[int]) -> None:
    stream = seeded()
    assert b"".join(map(stream.bytes, sizes)) == seeded().bytes(sum(sizes))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64])
def test_fill_overwrites_every_byte_of_any_shape_and_nothing_beside(dtype: Any) -> None:
    held = np.full((5, 4, 3), 7, dtype)
    seeded().fill(held[1:4])
    assert held[1:4].tobytes() == seeded().bytes(held[1:4].nbytes)
    assert (held[0] == 7).all() and (held[4] == 7).all()
    seeded().fill(np.empty((0, 3), dtype))


def test_a_key_is_used_for_a_bounded_number_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csprng, "REKEY_BYTES", 100)
    entropy = SeededEntropy(b"csprng")
    keys = [entropy.token(32) for _ in range(4)]
    expected = b"".join(keystream(key, 100) for key in keys)
    stream = seeded()
    assert stream.bytes(250) + stream.bytes(50) + stream.bytes(100) == expected


def test_two_streams_share_nothing() -> None:
    assert not windows(Stream().bytes(4096), 16) & windows(Stream().bytes(4096), 16)


def test_a_stream_cannot_be_duplicated() -> None:
    for duplicate in (copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            duplicate(Stream())
    stream = Stream()
    assert not windows(stream.bytes(4096), 16) & windows(copy.copy(stream).bytes(4096), 16)


def test_a_parent_and_its_forked_children_never_share_64_bytes() -> None:
    done = run("""
        import os, sys
        from fedcore.privacy.csprng import Stream
        stream = Stream()
        stream.bytes(1000)
        def forked():
            reading, writing = os.pipe()
            if os.fork() == 0:
                with os.fdopen(writing, "wb") as out:
                    out.write(stream.bytes(32_768))
                os._exit(0)
            os.close(writing)
            with os.fdopen(reading, "rb") as data:
                return data.read()
        children = [forked(), forked()]
        sys.stdout.buffer.write(b"".join([*children, stream.bytes(32_768)]))
    """)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) == 3 * 32_768
    parts = [windows(done.stdout[i : i + 32_768], 64) for i in range(0, 3 * 32_768, 32_768)]
    assert not any(one & other for one, other in combinations(parts, 2))


def test_a_child_draws_though_a_thread_held_the_lock_when_it_was_forked() -> None:
    done = run("""
        import os, signal
        from fedcore.privacy.csprng import Stream
        stream = Stream()
        with stream._keyed._lock:
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                os._exit(0 if len(stream.bytes(100)) == 100 else 1)
            assert os.waitpid(child, 0)[1] == 0
    """)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("entropy", [SystemEntropy(), SeededEntropy(b"threads")])
def test_threads_never_get_the_same_bytes(
    entropy: Entropy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csprng, "REKEY_BYTES", 16 * 1000)
    stream = Stream(entropy)
    with ThreadPoolExecutor(8) as pool:
        drawn = b"".join(pool.map(stream.bytes, [16 * 50] * 2000))
    blocks = np.frombuffer(drawn, "V16")
    assert len(set(blocks.tolist())) == len(blocks)


def test_a_seed_repeats_a_stream_under_test_and_is_refused_elsewhere() -> None:
    assert seeded(b"a").bytes(64) == seeded(b"a").bytes(64) != seeded(b"b").bytes(64)
    done = run("""
        from fedcore.entropy import SeededEntropy
        from fedcore.privacy.csprng import Stream
        Stream(SeededEntropy(b"a"))
    """)
    assert done.returncode == 1 and b"FED-1411" in done.stderr


def test_a_lookalike_of_entropy_is_refused() -> None:
    class Zero:
        def token(self, size: int) -> bytes:
            return bytes(size)

    with pytest.raises(EntropyError):
        Stream(Zero())


@given(st.one_of(st.integers(1, 300), st.integers(1, 2**63)), st.integers(0, 200))
def test_integers_lie_below_their_bound(bound: int, size: int) -> None:
    drawn = seeded().integers(bound, size)
    assert drawn.shape == (size,) and drawn.dtype == np.int64
    assert all(0 <= number < bound for number in drawn.tolist())


@pytest.mark.parametrize("bound", [1, 2, 3, 5, 6, 7, 255, 256, 257, 1000])
def test_integers_are_uniform(bound: int) -> None:
    counts = np.bincount(seeded().integers(bound, 200_000), minlength=bound)
    assert len(counts) == bound
    if bound > 1:
        assert stats.chisquare(counts).pvalue > 1e-6


def test_integers_below_three_quarters_of_a_power_of_two_prefer_no_half() -> None:
    bound = 3 * 2**61
    thirds = np.bincount(seeded().integers(bound, 100_000) // 2**61)
    assert stats.chisquare(thirds).pvalue > 1e-6


@given(st.integers(0, 60), st.data())
def test_a_choice_has_distinct_members_in_order(n: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(0, n))
    chosen = seeded().choose(n, size)
    assert chosen.dtype == np.int64 and len(chosen) == size
    assert all(a < b for a, b in zip(chosen.tolist(), chosen.tolist()[1:], strict=False))
    assert all(0 <= member < n for member in chosen.tolist())


@pytest.mark.parametrize("size", mostly_slow([3, 1, 2, 4, 5]))
def test_every_subset_is_chosen_as_often(size: int) -> None:
    stream = seeded()
    counts = Counter(tuple(stream.choose(6, size).tolist()) for _ in range(8000))
    assert len(counts) == math.comb(6, size)
    assert stats.chisquare(list(counts.values())).pvalue > 1e-6


def test_a_choice_from_very_many_takes_memory_for_the_chosen_only() -> None:
    assert len(seeded().choose(2**62, 1000)) == 1000


def test_what_cannot_be_drawn_is_refused() -> None:
    stream, gaps = seeded(), np.empty(10, np.uint8)[::2]
    fixed = np.frombuffer(bytes(8), np.uint8)
    with pytest.raises(DtypeError):
        stream.fill(np.empty(3, np.int64))
    for array in (gaps, fixed):
        with pytest.raises(ArgumentError):
            stream.fill(array)
    for bound in (0, -1, 2**63 + 1, 2.0):
        with pytest.raises(ArgumentError):
            stream.integers(bound, 1)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError):
        stream.integers(2, -1)
    for n, size in ((3, 4), (3, -1), (-1, 0)):
        with pytest.raises(ArgumentError):
            stream.choose(n, size)
    with pytest.raises(ArgumentError):
        stream.bytes(-1)
