"""What a server sees looks like noise, whatever the vectors are, until it sees what opens the sum.

Every threshold is set so that a sound generator crosses it with a probability below 10^-9 in all
checks together. The faults below, of which each was somebody's once, cross them by far.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, strategies as st

from fedcore.secagg import masking
from fedcore.secagg.config import SessionConfig
from fedcore.secagg.messages import UnmaskAnswer, UploadChunk, decode
from fedcore.secagg.packing import Block, Layout, pack
from fedcore.secagg.prg import Prg, Stream, apply_streams, keystream
from tests.secagg.conversation import converse
from tests.variants import mostly_slow

Words = npt.NDArray[np.uint64]

CLIENTS, WORDS = 4, 2**14
LAYOUT = Layout((Block(WORDS, 64, 2**60), Block(3 * WORDS, 21, 2**17)))
RARE = 30.0  # e^-30 = 9 · 10^-14, for each of some 4,000 bounds


def vectors(kind: str) -> list[list[npt.NDArray[np.int64]]]:
    source = np.random.default_rng(5)
    choices: Mapping[str, Callable[[Block], npt.NDArray[np.int64]]] = {
        "zero": lambda block: np.zeros(block.length, np.int64),
        "extreme": lambda block: np.full(block.length, block.limit),
        "random": lambda block: source.integers(-block.limit, block.limit, block.length),
    }
    return [[choices[kind](block) for block in LAYOUT.blocks] for _ in range(CLIENTS)]


class Seen(NamedTuple):
    """A session as the server saw it; the self masks come from the b that each client revealed."""

    y: list[Words]
    masks: list[Words]
    packed_sum: Words


def seen(kind: str, prg: Prg = Prg.AES_128_CTR) -> Seen:
    given = vectors(kind)
    config = SessionConfig(task=bytes(32), layout=LAYOUT, prg=prg)
    talk = converse(config, given, seed=kind.encode())
    schedule = talk.server.roster.schedule
    y, masks = [], []
    for i, messages in enumerate(talk.messages):
        sent = [decode(data) for data in messages]
        upload = b"".join(message.data for message in sent if isinstance(message, UploadChunk))
        y.append(np.frombuffer(upload, "<u8"))
        b = next(message.b for message in sent if isinstance(message, UnmaskAnswer))
        masks.append(keystream(schedule.self_seed(b, i), prg=prg, words=LAYOUT.words))
    packed = []
    for block, parts in zip(LAYOUT.blocks, zip(*given, strict=True), strict=True):
        beyond = replace(block, wraps=True)  # a sum may be larger than one client's integer
        packed.append(pack(beyond, np.sum(parts, axis=0), 0, block.words))
    return Seen(y, masks, np.concatenate(packed))


# The statistics


def byte_columns(words: Words) -> npt.NDArray[np.uint8]:
    return words.astype("<u8").view(np.uint8).reshape(-1, 8).T


def check_uniform(name: str, words: Words) -> None:
    """Each of the eight bytes of a word has 256 equally frequent values: chi-square.

    Bounds: Laurent and Massart, "Adaptive estimation of a quadratic functional", 2000, lemma 1.
    """
    degrees, expected = 255, len(words) / 256
    spread = 2 * math.sqrt(degrees * RARE)
    for place, column in enumerate(byte_columns(words)):
        found = ((np.bincount(column, minlength=256) - expected) ** 2 / expected).sum()
        within = degrees - spread < found < degrees + spread + 2 * RARE
        assert within, f"{name}: byte {place} has chi-square {found:.0f}, not {degrees}"


def check_serial(name: str, words: Words, lags: Sequence[int] = (1, 2, 3, 8, 1000)) -> None:
    """Words at a distance are not correlated: √N r is standard normal."""
    centred = words / 2.0**64 - 0.5
    for lag in lags:
        products = centred[lag:] * centred[:-lag]
        found = 12 * products.sum() / math.sqrt(len(products))
        assert abs(found) < math.sqrt(2 * RARE), f"{name}: lag {lag} is correlated, {found:.1f}"


def check_random(name: str, words: Words) -> None:
    check_uniform(name, words)
    check_serial(name, words)


def check_alike(name: str, one: Words, two: Words) -> None:
    """Two samples come from one distribution: Kolmogorov and Smirnov, byte by byte.

    Bound: 2 exp(−2 ε² mn/(m+n)), Wei and Dudley, "Two-sample Dvoretzky–Kiefer–Wolfowitz
    inequalities", 2012; values that come twice only lower the probability.
    """
    most = math.sqrt(RARE / 2 * (1 / len(one) + 1 / len(two)))
    for place, columns in enumerate(zip(byte_columns(one), byte_columns(two), strict=True)):
        shares = [np.bincount(c, minlength=256).cumsum() / len(c) for c in columns]
        found = abs(shares[0] - shares[1]).max()
        assert found < most, f"{name}: byte {place} differs by {found:.4f}, not {most:.4f}"


def audit(sessions: Mapping[str, Seen]) -> None:
    """All that a server might try on what it sees of these sessions."""
    for kind, session in sessions.items():
        halves = [(y[:WORDS], y[WORDS:]) for y in session.y]
        for i, y in enumerate(session.y):
            check_random(f"{kind}: y of {i}", y)
            check_random(f"{kind}: difference of the blocks of {i}", halves[i][0] - halves[i][1])
        check_random(f"{kind}: sum of all y", np.sum(session.y, axis=0))
        bare = [y - mask for y, mask in zip(session.y, session.masks, strict=True)]
        for size in range(1, CLIENTS):
            for some in itertools.combinations(range(CLIENTS), size):
                total = np.sum([bare[i] for i in some], axis=0)
                check_random(f"{kind}: sum of {some} without self masks", total)
        assert (np.sum(bare, axis=0) == session.packed_sum).all(), f"{kind}: the sum is another"
    for one, two in itertools.combinations(sessions, 2):
        for i in range(CLIENTS):
            first, second = sessions[one].y[i], sessions[two].y[i]
            check_alike(f"{one} and {two}: y of {i}", first, second)
            check_random(f"{one} and {two}: difference of y of {i}", first - second)


@pytest.mark.parametrize("prg", list(Prg))
def test_what_a_server_sees_is_noise_whatever_the_vectors_are(prg: Prg) -> None:
    audit({kind: seen(kind, prg) for kind in ("zero", "extreme", "random")})


# The tests of the tests

Masking = Callable[..., None]


def no_self_mask(words: Words, streams: Sequence[Stream], **where: Any) -> None:
    apply_streams(words, streams[1:], **where)


def no_pair_masks(words: Words, streams: Sequence[Stream], **where: Any) -> None:
    apply_streams(words, streams[:1], **where)


def one_neighbour_forgotten(words: Words, streams: Sequence[Stream], **where: Any) -> None:
    apply_streams(words, streams[:-1], **where)


def no_signs(words: Words, streams: Sequence[Stream], **where: Any) -> None:
    apply_streams(words, [Stream(stream.seed, negative=False) for stream in streams], **where)


def one_scalar_a_vector(words: Words, streams: Sequence[Stream], *, prg: Prg, offset: int) -> None:
    scalar = np.zeros(1, np.uint64)
    apply_streams(scalar, streams, prg=prg)
    words += scalar


def every_frame_from_the_start(
    words: Words, streams: Sequence[Stream], *, prg: Prg, offset: int
) -> None:
    apply_streams(words, streams, prg=prg)


def the_same_in_every_session(words: Words, streams: Sequence[Stream], **where: Any) -> None:
    apply_streams(
        words, [Stream(bytes([m]) * 32, s.negative) for m, s in enumerate(streams)], **where
    )


def low_byte_in_clear(words: Words, streams: Sequence[Stream], **where: Any) -> None:
    low = words & 0xFF
    apply_streams(words, streams, **where)
    words &= ~np.uint64(0xFF)
    words |= low


@pytest.mark.parametrize(
    ("fault", "noticed"),
    mostly_slow(
        [
            (no_self_mask, "zero: sum of all y"),
            (no_pair_masks, "without self masks"),
            (one_neighbour_forgotten, r"sum of \(0, 1, 2\) without self masks"),
            (no_signs, "the sum is another"),
            (one_scalar_a_vector, "zero: y of 0"),
            (every_frame_from_the_start, "zero: y of 0|difference of the blocks of 0"),
            (the_same_in_every_session, "sum is another|sum of|difference of y"),
            (low_byte_in_clear, "zero: y of 0: byte 0"),
        ],
        quick=3,
    ),
)
def test_a_faulty_mask_is_noticed(
    fault: Masking, noticed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masking, "apply_streams", fault)
    with pytest.raises(AssertionError, match=noticed):
        audit({kind: seen(kind) for kind in ("zero", "extreme")})


def test_samples_that_differ_a_little_are_told_apart() -> None:
    source = np.random.default_rng(1)
    one = source.integers(0, 2**64, 2 * WORDS, np.uint64)
    for shift in (0, 1):
        other = source.integers(0, 2**64, 2 * WORDS, np.uint64)
        marked = np.where(np.arange(2 * WORDS) % 16 == 0, other & ~np.uint64(0xFF), other)
        if not shift:
            check_alike("the same", one, other)
            continue
        with pytest.raises(AssertionError, match="byte 0 differs"):
            check_alike("one low byte in sixteen is zero", one, marked)
        with pytest.raises(AssertionError, match="byte 0 has chi-square"):
            check_uniform("one low byte in sixteen is zero", marked)


def test_words_that_lean_on_their_predecessors_are_noticed() -> None:
    words = np.random.default_rng(2).integers(0, 2**64, 2 * WORDS, np.uint64)
    check_serial("alone", words)
    leaning = words.copy()
    leaning[1::16] = words[0::16]
    with pytest.raises(AssertionError, match="lag 1 is correlated"):
        check_serial("one in sixteen repeats", leaning)


def test_sound_noise_hardly_ever_comes_near_the_thresholds() -> None:
    """The statistics have the mean and the spread that the bounds suppose."""
    source, samples, found = np.random.default_rng(3), 200, []
    for _ in range(samples):
        words = source.integers(0, 2**64, 2**12, np.uint64)
        counts = np.bincount(byte_columns(words)[0], minlength=256)
        found.append(((counts - 16) ** 2 / 16).sum())
        check_random("sound", words)
        check_alike("sound", words[:2048], words[2048:])
    spread = math.sqrt(2 * 255 / samples)
    assert abs(np.mean(found) - 255) < 6 * spread
    assert 0.6 < np.var(found) / (2 * 255) < 1.5


# Cancelling


@given(
    clients=st.integers(2, 6),
    words=st.integers(1, 50),
    cut=st.integers(0, 50),
    prg=st.sampled_from(Prg),
    order=st.randoms(use_true_random=False),
)
def test_masks_cancel_in_any_order_and_in_any_pieces(
    clients: int, words: int, cut: int, prg: Prg, order: Any
) -> None:
    x = [np.array([order.getrandbits(64) for _ in range(words)], np.uint64) for _ in range(clients)]
    seeds = [order.randbytes(prg.seed_bytes) for _ in range(clients)]
    todo = [(i, Stream(seeds[i], negative=False)) for i in range(clients)]
    for i, j in itertools.combinations(range(clients), 2):
        seed = order.randbytes(prg.seed_bytes)
        todo += [(i, Stream(seed, negative=False)), (j, Stream(seed, negative=True))]
    order.shuffle(todo)
    y = [vector.copy() for vector in x]
    cut = min(cut, words)
    for i, stream in todo:
        apply_streams(y[i][cut:], [stream], prg=prg, offset=cut)
        apply_streams(y[i][:cut], [stream], prg=prg)
    unmasking = [Stream(seed, negative=True) for seed in seeds]
    order.shuffle(unmasking)
    order.shuffle(y)
    total = np.sum(y, axis=0)
    apply_streams(total, unmasking, prg=prg)
    assert (total == np.sum(x, axis=0)).all()
