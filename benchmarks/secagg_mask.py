"""Masking adds keystreams to a vector: it should cost little more than the encryption itself."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from benchmarks.figure import Figure, Target
from benchmarks.measure import compare
from benchmarks.peers import Peers
from benchmarks.registry import benchmark
from fedcore.secagg.prg import CHUNK_WORDS, Prg, Stream, apply_streams

__all__ = ["encryption_s", "secagg_mask"]

_COORDINATES = 1_000_000
_NEIGHBOURS = (104, 158)
_SLOTS = {16: 4, 21: 3, 32: 2}
"""Bits of a slot, and how many such slots a word of 64 bits holds."""
_REPEATS = 30


@benchmark(
    "secagg-mask", "What does masking cost a coordinate and neighbour, beside AES-CTR alone?"
)
def secagg_mask(_peers: Peers) -> Iterator[Figure]:
    """One core; k streams over a million coordinates, against the encryption of as many zeros."""
    for neighbours in _NEIGHBOURS:
        for bits, slots in _SLOTS.items():
            words = -(-_COORDINATES // slots)
            streams = [Stream(os.urandom(32), bool(i % 2)) for i in range(neighbours)]
            accumulator = np.zeros(words, np.uint64)
            found = compare(
                lambda a=accumulator, s=streams: _masking_s(a, s),
                {"AES-128-CTR": lambda n=words * neighbours: encryption_s(n)},
                repeats=_REPEATS,
                best=min,
            )
            yield Figure(
                f"secagg-mask.k{neighbours}-{bits}bit",
                1e9 * found.value / (_COORDINATES * neighbours),
                "ns/coordinate/neighbour",
                found.ratio,
                found.against,
                Target("ratio", "<=", 1.4),
            )


def _masking_s(accumulator: np.ndarray, streams: list[Stream]) -> float:
    begin = time.thread_time()
    apply_streams(accumulator, streams, prg=Prg.AES_128_CTR)
    return time.thread_time() - begin


def encryption_s(words: int) -> float:
    """CPU seconds of one cipher over `words` zero words, in the chunks that suit the cache best."""
    zeros, target = bytes(8 * CHUNK_WORDS), bytearray(8 * CHUNK_WORDS)
    cipher = Cipher(algorithms.AES128(os.urandom(16)), modes.CTR(os.urandom(16))).encryptor()
    full, rest = divmod(words, CHUNK_WORDS)
    begin = time.thread_time()
    for _ in range(full):
        cipher.update_into(zeros, target)
    cipher.update_into(zeros[: 8 * rest], target)
    return time.thread_time() - begin
