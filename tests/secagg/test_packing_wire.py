"""On the wire lie those bytes of a word that its slots reach, and frames cover every word once."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, strategies as st
from numpy.typing import NDArray

from fedcore.errors import MessageError
from fedcore.secagg.packing import Block, Frame, Layout, add_wire, from_wire, to_wire, unpack
from tests.secagg.crowds import WIDTHS, crowds, whole

# Slot bits: slots, bytes sent a word, bits sent a coordinate (rounded down to hundredths).
TABLE: dict[int, tuple[int, int, str]] = {
    8: (8, 8, "8"),
    9: (7, 8, "9.14"),
    10: (6, 8, "10.66"),
    11: (5, 7, "11.2"),
    12: (5, 8, "12.8"),
    **dict.fromkeys((13, 14), (4, 7, "14")),
    **dict.fromkeys((15, 16), (4, 8, "16")),
    **dict.fromkeys((17, 18), (3, 7, "18.66")),
    **dict.fromkeys((19, 20, 21), (3, 8, "21.33")),
    **dict.fromkeys((22, 23, 24), (2, 6, "24")),
    **dict.fromkeys((25, 26, 27, 28), (2, 7, "28")),
    **dict.fromkeys((29, 30, 31, 32), (2, 8, "32")),
    **dict.fromkeys(range(33, 41), (1, 5, "40")),
    **dict.fromkeys(range(41, 49), (1, 6, "48")),
    **dict.fromkeys(range(49, 57), (1, 7, "56")),
    **dict.fromkeys(range(57, 65), (1, 8, "64")),
}


@pytest.mark.parametrize("bits", TABLE)
def test_slots_and_bytes_are_those_of_the_table(bits: int) -> None:
    slots, word_bytes, wire_bits = TABLE[bits]
    block = Block(10, bits, 1)
    assert (block.slots, block.word_bytes) == (slots, word_bytes)
    assert (
        Fraction(wire_bits)
        <= Fraction(8 * word_bytes, slots)
        < Fraction(wire_bits) + Fraction(1, 100)
    )


@pytest.mark.parametrize("bits", WIDTHS)
def test_no_slot_reaches_beyond_the_bytes_sent(bits: int) -> None:
    block = Block(10, bits, 1)
    assert block.slots * bits <= 8 * block.word_bytes <= 64
    assert block.word_bytes >= 5


@given(st.lists(st.integers(0, 2**64 - 1), max_size=5), st.integers(1, 8), st.sampled_from("<>"))
def test_the_low_bytes_of_a_word_travel_in_one_order_however_it_lies_in_memory(
    values: list[int], size: int, order: str
) -> None:
    sent = b"".join(value.to_bytes(8, "little")[:size] for value in values)
    assert to_wire(np.array(values, f"{order}u8"), size) == sent


@given(crowds(), st.data())
def test_cutting_words_for_the_wire_commutes_with_adding_them(
    crowd: tuple[Block, NDArray[np.int64], list[int]], data: st.DataObject
) -> None:
    block, vectors, sums = crowd
    seed = data.draw(st.integers(0, 2**32))
    masks = np.random.default_rng(seed).integers(0, 2**64, vectors.shape, np.uint64)
    masks = masks[:, : block.words]
    total = np.zeros(block.words, np.uint64)
    for vector, mask in zip(vectors, masks, strict=True):
        wire = to_wire(whole(block, vector) + mask, block.word_bytes)
        assert len(wire) == block.words * block.word_bytes
        add_wire(total, wire, block.word_bytes)
    assert unpack(block, total - masks.sum(0, np.uint64)).tolist() == sums


@given(st.lists(st.integers(0, 2**64 - 1), max_size=20), st.integers(5, 8))
@example([2**64 - 1] * 3, 7)
def test_the_wire_carries_the_low_bytes_of_each_word(words: list[int], word_bytes: int) -> None:
    wire = to_wire(np.array(words, np.uint64), word_bytes)
    assert wire == b"".join(word.to_bytes(8, "little")[:word_bytes] for word in words)
    back = from_wire(wire, word_bytes)
    assert back.dtype == np.uint64
    assert back.tolist() == [word % 2 ** (8 * word_bytes) for word in words]


def test_words_with_gaps_between_them_travel_alike() -> None:
    words = np.arange(20, dtype=np.uint64) << np.uint64(40)
    assert to_wire(words[::2], 7) == to_wire(words[::2].copy(), 7)


@pytest.mark.parametrize("size", [1, 6, 8, 15])
def test_a_word_that_is_cut_short_is_refused(size: int) -> None:
    with pytest.raises(MessageError, match="not whole words"):
        from_wire(bytes(size), 7)


def test_adding_from_the_wire_touches_only_the_slice_that_is_given() -> None:
    total = np.full(6, 2**64 - 1, np.uint64)
    add_wire(total[2:4], to_wire(np.array([1, 2**50], np.uint64), 7), 7)
    assert total.tolist() == [2**64 - 1] * 2 + [0, 2**50 - 1] + [2**64 - 1] * 2


@pytest.mark.parametrize("size", [0, 7, 13, 15, 21])
def test_another_number_of_words_than_the_slice_has_is_not_added(size: int) -> None:
    total = np.zeros(2, np.uint64)
    with pytest.raises(MessageError, match="not 2 words"):
        add_wire(total, b"x" * size, 7)
    assert not total.any()


BLOCKS = st.builds(Block, st.integers(1, 10**6), st.sampled_from(WIDTHS), st.just(1))


@given(st.lists(BLOCKS, min_size=1, max_size=4))
@example([Block(131_072 * 3, 21, 1)])
@example([Block(131_072 * 3 + 1, 21, 1), Block(1, 64, 1)])
@example([Block(4 * 10**9, 16, 1)])
def test_frames_cover_every_word_once_and_in_order(blocks: list[Block]) -> None:
    layout = Layout(tuple(blocks))
    frames = list(layout.frames())
    word = byte = 0
    for frame in frames:
        block = layout.blocks[frame.block]
        first = sum(other.words for other in blocks[: frame.block])
        assert (frame.word, frame.byte, frame.start) == (word, byte, word - first)
        assert frame.start + frame.words <= block.words
        assert frame.word_bytes == block.word_bytes
        assert frame.size == frame.words * frame.word_bytes
        assert 0 < frame.words <= 131_072 and frame.size <= 2**20
        word, byte = word + frame.words, byte + frame.size
    assert (word, byte) == (layout.words, layout.upload_bytes)
    fewest = sum(-(-block.words // 131_072) for block in blocks)
    assert len(frames) == fewest


def test_frames_of_two_blocks_are_these() -> None:
    layout = Layout((Block(400_000, 21, 1000), Block(3, 24, 100)))
    assert list(layout.frames()) == [
        Frame(block=0, start=0, word=0, words=131_072, word_bytes=8, byte=0),
        Frame(block=0, start=131_072, word=131_072, words=2_262, word_bytes=8, byte=2**20),
        Frame(block=1, start=0, word=133_334, words=2, word_bytes=6, byte=1_066_672),
    ]


def test_the_upload_of_a_million_coordinates_has_the_size_of_the_design() -> None:
    assert Layout((Block(10**6, 21, 1000),)).upload_bytes == 2_666_672
    assert Layout((Block(10**6, 16, 30),)).upload_bytes == 2_000_000
