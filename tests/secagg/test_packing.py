"""Sums of packed words are packed sums, within the budget exactly and beyond it by the formula."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st
from numpy.typing import NDArray

from fedcore.errors import MessageError, PackingError
from fedcore.secagg import packing
from fedcore.secagg.packing import (
    Block,
    Frame,
    Layout,
    add_wire,
    from_wire,
    pack,
    to_wire,
    unpack,
)
from fedcore.secagg.prg import MAX_WORDS

WIDTHS = range(2, 65)

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


@pytest.fixture(params=[3, packing._CHUNK], ids=["small chunks", "one chunk"])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The size of a chunk, so small that small vectors have many, or as it is."""
    monkeypatch.setattr(packing, "_CHUNK", request.param)
    return int(request.param)


def whole(block: Block, values: Any) -> NDArray[np.uint64]:
    return pack(block, values, 0, block.words)


def plain_pack(values: list[int], bits: int) -> list[int]:
    """The formula of the protocol (§6) in integers of any size."""
    slots = 64 // bits
    words = -(-len(values) // slots)
    filled = values + [0] * (slots * words - len(values))
    return [
        sum(filled[slot * words + word] << bits * slot for slot in range(slots)) % 2**64
        for word in range(words)
    ]


def plain_unpack(words: list[int], bits: int, length: int) -> list[int]:
    """The protocol's decoder (§6): from the lowest slot, sign-extend, subtract, shift."""
    values = []
    rest = list(words)
    for _ in range(64 // bits):
        digits = [(word + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1) for word in rest]
        rest = [(word - digit) >> bits for word, digit in zip(rest, digits, strict=True)]
        values += digits
    return values[:length]


@st.composite
def crowds(draw: st.DrawFn, bits: int | None = None) -> tuple[Block, NDArray[np.int64], list[int]]:
    """A block, a vector for each client within the budget, and the exact sums."""
    bits = draw(st.sampled_from(WIDTHS)) if bits is None else bits
    clients = draw(st.integers(1, min(12, 2 ** (bits - 1) - 1)))
    most = (2 ** (bits - 1) - 1) // clients
    block = Block(draw(st.integers(1, 60)), bits, draw(st.integers(1, most) | st.just(most)))
    Layout((block,)).check_budget(clients)
    # From a seed, because drawing each integer would take most of the time.
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    vectors = rng.integers(-block.limit, block.limit, (clients, block.length), endpoint=True)
    extreme = rng.random(block.length) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    vectors[:, extreme] = block.limit * rng.choice([-1, 1], block.length)[extreme]
    return block, vectors, [sum(column) for column in vectors.T.tolist()]


# Every width has its own examples, so fewer of them.
@pytest.mark.parametrize("bits", WIDTHS)
@settings(max_examples=settings().max_examples // 5)
@given(st.data())
def test_words_add_up_to_the_sum_of_the_vectors(bits: int, data: st.DataObject) -> None:
    block, vectors, sums = data.draw(crowds(bits))
    words = np.zeros(block.words, np.uint64)
    for vector in vectors:
        words += whole(block, vector)
    assert unpack(block, words).tolist() == sums


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_whole_budget_can_be_spent_on_either_side(bits: int, sign: int) -> None:
    clients = min(2 ** (bits - 1) - 1, 1024)
    block = Block(70, bits, (2 ** (bits - 1) - 1) // clients)
    words = whole(block, np.full(70, sign * block.limit)) * np.uint64(clients)
    assert unpack(block, words).tolist() == [sign * block.limit * clients] * 70


@given(crowds())
def test_packing_is_the_formula_of_the_protocol(
    crowd: tuple[Block, NDArray[np.int64], list[int]],
) -> None:
    block, vectors, _ = crowd
    words = whole(block, vectors[0])
    assert words.dtype == np.uint64
    assert words.tolist() == plain_pack(vectors[0].tolist(), block.slot_bits)


@given(st.sampled_from(WIDTHS), st.integers(1, 60), st.data())
def test_decoding_any_words_is_the_loop_of_the_protocol(
    bits: int, length: int, data: st.DataObject
) -> None:
    block = Block(length, bits, 1)
    word = st.integers(0, 2**64 - 1) | st.sampled_from([0, 2**63, 2**63 - 1, 2**64 - 1])
    words = data.draw(st.lists(word, min_size=block.words, max_size=block.words))
    values = unpack(block, np.array(words, np.uint64))
    assert values.dtype == np.int64
    assert values.tolist() == plain_unpack(words, bits, length)


@given(st.sampled_from(WIDTHS), st.data())
def test_a_slot_that_overflows_wraps_and_moves_the_next_by_one(
    bits: int, data: st.DataObject
) -> None:
    block = Block(2 * (64 // bits), bits, 1, wraps=True)
    values = st.lists(
        st.integers(-(2**63), 2**63 - 1)
        | st.integers(-(2 ** (bits - 1)), 2**bits).filter(lambda value: -(2**63) <= value < 2**63),
        min_size=block.length,
        max_size=block.length,
    )
    vectors = data.draw(st.lists(values, min_size=1, max_size=4))
    words = np.zeros(block.words, np.uint64)
    for vector in vectors:
        words += whole(block, np.array(vector, np.int64))
    # Of the exact sums alone: each digit takes what the one below carries over.
    sums = [sum(column) for column in zip(*vectors, strict=True)]
    carry, expected = [0, 0], []
    for first in range(0, block.length, 2):
        totals = [x + c for x, c in zip(sums[first : first + 2], carry, strict=True)]
        digits = [(x + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1) for x in totals]
        carry = [(x - digit) >> bits for x, digit in zip(totals, digits, strict=True)]
        expected += digits
    assert unpack(block, words).tolist() == expected


def test_one_more_than_fits_comes_back_as_the_least_and_a_carry() -> None:
    block = Block(4, 16, 2**15 - 1, wraps=True)
    words = whole(block, np.array([2**15 - 1, -(2**15), 5, 2**15 - 1]))
    words += whole(block, np.array([1, -1, 0, 1]))
    assert unpack(block, words).tolist() == [-(2**15), -(2**15), 5, -(2**15)]
    assert plain_unpack(words.tolist(), 16, 4) == [-(2**15), -(2**15), 5, -(2**15)]


@given(crowds(), st.data())
def test_a_range_of_words_is_that_range_of_the_whole(
    crowd: tuple[Block, NDArray[np.int64], list[int]], data: st.DataObject
) -> None:
    block, vectors, _ = crowd
    start = data.draw(st.integers(0, block.words))
    count = data.draw(st.integers(0, block.words - start))
    expected = whole(block, vectors[0])[start : start + count]
    assert pack(block, vectors[0], start, count).tolist() == expected.tolist()


@pytest.mark.parametrize("bits", [2, 8, 16, 21, 24, 33, 64])
def test_chunks_do_not_change_the_words(bits: int, chunk: int) -> None:
    block = Block(1000, bits, 1)
    values = np.random.default_rng(bits).integers(-1, 2, 1000)
    words = whole(block, values)
    assert words.tolist() == plain_pack(values.tolist(), bits)
    assert unpack(block, words).tolist() == values.tolist()


def test_words_go_into_the_array_that_is_given() -> None:
    block = Block(100, 21, 9)
    values = np.arange(100) % 10
    buffer = np.full(2 * block.words, 77, np.uint64)
    for out in (buffer[::2], buffer[: block.words]):
        assert pack(block, values, 0, block.words, out=out) is out
        assert out.tolist() == whole(block, values).tolist()


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8", ">i4", "u1", "u2", "u4"])
def test_every_dtype_of_integers_packs_to_the_same_words(dtype: str) -> None:
    block = Block(50, 21, 100)
    low = 0 if dtype.startswith("u") else -100
    values = np.random.default_rng(0).integers(low, 101, 50)
    strided = np.repeat(values, 2).astype(dtype)[::2]
    assert whole(block, strided).tolist() == whole(block, values).tolist()
    assert whole(Block(50, 21, 100, wraps=True), strided).tolist() == whole(block, values).tolist()


class Recorder:
    """A source that notes which integers it was asked for."""

    def __init__(self, values: NDArray[np.int64]) -> None:
        self.values, self.windows = values, list[range]()

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, window: slice) -> NDArray[np.int64]:
        assert window.step is None
        self.windows.append(range(window.start, window.stop))
        return self.values[window].copy()


@given(st.sampled_from(WIDTHS), st.integers(1, 60), st.data())
def test_a_lazy_source_is_read_once_and_only_where_it_is_packed(
    bits: int, length: int, data: st.DataObject
) -> None:
    block = Block(length, bits, 1)
    start = data.draw(st.integers(0, block.words - 1))
    count = data.draw(st.integers(1, block.words - start))
    source = Recorder(np.ones(length, np.int64))
    words = pack(block, source, start, count)
    assert words.tolist() == whole(block, source.values)[start : start + count].tolist()
    wanted = {
        slot * block.words + word
        for slot in range(block.slots)
        for word in range(start, start + count)
    }
    read = [index for window in source.windows for index in window]
    assert sorted(read) == sorted(index for index in wanted if index < length)


def test_a_lazy_source_is_never_asked_for_more_than_a_chunk(chunk: int) -> None:
    source = Recorder(np.ones(1000, np.int64))
    whole(Block(1000, 21, 1), source)
    assert 0 < max(map(len, source.windows)) <= chunk


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


@given(st.sampled_from(WIDTHS), st.data())
def test_the_budget_is_spent_to_the_last_integer(bits: int, data: st.DataObject) -> None:
    limit = data.draw(st.integers(1, 2 ** (bits - 1) - 1))
    most = (2 ** (bits - 1) - 1) // limit
    roomy = () if most == 2**63 - 1 else (Block(1, 64, 1),)  # there the roomy one is full as well
    layout = Layout((*roomy, Block(5, bits, limit)))
    layout.check_budget(most)
    with pytest.raises(PackingError, match=f"overflow block {len(roomy)}") as caught:
        layout.check_budget(most + 1)
    assert f"2^{bits - 1}" in caught.value.why
    Layout((Block(5, bits, limit, wraps=True),)).check_budget(most + 1)


@given(crowds(), st.data())
def test_an_integer_beyond_the_limit_is_refused_with_its_place(
    crowd: tuple[Block, NDArray[np.int64], list[int]], data: st.DataObject
) -> None:
    block, vectors, _ = crowd
    index = data.draw(st.integers(0, block.length - 1))
    size = data.draw(st.integers(block.limit + 1, 2**63) | st.just(block.limit + 1))
    sign = 1 if size < 2**63 and data.draw(st.booleans()) else -1
    vectors[0, index] = sign * size
    with pytest.raises(PackingError, match=f"integer {index} of a {block}") as caught:
        whole(block, vectors[0])
    assert f"±{block.limit}" in str(caught.value)


def test_a_refusal_never_tells_the_integer() -> None:
    block = Block(9, 32, 100)
    told = set()
    for value in (101, -101, 2**31, -(2**63), 123_456_789):
        values = np.full(9, 77)
        values[4] = value
        with pytest.raises(PackingError) as caught:
            whole(block, values)
        told.add(str(caught.value))
    assert len(told) == 1 and "77" not in told.pop()


def test_the_limit_holds_in_every_chunk_and_slot(chunk: int) -> None:
    block = Block(31, 16, 100)
    for index in range(31):
        for value in (101, -101):
            values = np.zeros(31, np.int32)
            values[index] = value
            with pytest.raises(PackingError, match=f"integer {index} of"):
                whole(block, values)


def test_the_limit_itself_and_the_least_integer_are_told_apart() -> None:
    block = Block(1, 64, 2**63 - 1)
    assert unpack(block, whole(block, np.array([-(2**63) + 1]))).tolist() == [-(2**63) + 1]
    with pytest.raises(PackingError, match="limit"):
        whole(block, np.array([-(2**63)]))
    wrapping = Block(1, 64, 1, wraps=True)
    assert unpack(wrapping, whole(wrapping, np.array([-(2**63)]))).tolist() == [-(2**63)]


@pytest.mark.parametrize("values", [np.zeros(3), np.zeros(3, bool), np.zeros(3, np.uint64)])
@pytest.mark.parametrize("wraps", [False, True])
def test_values_that_are_no_signed_integers_are_refused(values: Any, wraps: bool) -> None:
    with pytest.raises(PackingError, match="dtype"):
        whole(Block(3, 16, 1, wraps), values)


@pytest.mark.parametrize("mask", [False, [False, True, False]], ids=["nothing", "one"])
@pytest.mark.parametrize("wraps", [False, True])
def test_a_masked_array_is_refused_because_what_it_masks_would_be_sent(
    mask: Any, wraps: bool
) -> None:
    with pytest.raises(PackingError, match="masked array") as refused:
        whole(Block(3, 16, 5, wraps), np.ma.masked_array([1, 2, 3], mask))
    assert "filled" in refused.value.fix


@pytest.mark.parametrize("values", [np.zeros((3, 1), int), [0, 0, 0], "abc"])
def test_values_that_are_no_flat_array_are_refused(values: Any) -> None:
    with pytest.raises(PackingError, match="not an array"):
        whole(Block(3, 16, 1), values)


@pytest.mark.parametrize("length", [0, 2, 4])
def test_a_vector_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(PackingError, match=f" {length} integers were given"):
        whole(Block(3, 16, 1), np.zeros(length, int))


@pytest.mark.parametrize(("start", "words"), [(-1, 1), (0, -1), (0, 5), (4, 1), (2**62, 0)])
def test_words_that_a_block_does_not_have_are_refused(start: int, words: int) -> None:
    with pytest.raises(PackingError, match="are not all of a block"):
        pack(Block(16, 16, 1), np.zeros(16, int), start, words)


@pytest.mark.parametrize("out", [np.zeros(3, np.uint64), np.zeros(4, np.int64), np.zeros((4, 1))])
def test_an_array_that_cannot_take_the_words_is_refused(out: Any) -> None:
    with pytest.raises(PackingError, match="out has shape"):
        pack(Block(16, 16, 1), np.zeros(16, int), 0, 4, out=out)


@pytest.mark.parametrize(
    "words", [np.zeros(3, np.uint64), np.zeros(5, np.uint64), np.zeros(4, int)]
)
def test_words_of_another_block_are_not_unpacked(words: Any) -> None:
    with pytest.raises(PackingError, match="are not those of a block"):
        unpack(Block(16, 16, 1), words)


@pytest.mark.parametrize(
    ("length", "bits", "limit"),
    [(0, 16, 1), (-1, 16, 1), (1, 1, 1), (1, 65, 1), (1, 16, 0), (1, 16, 2**15), (1, 2, 2)],
)
@pytest.mark.parametrize("wraps", [False, True])
def test_a_block_out_of_bounds_is_refused(length: int, bits: int, limit: int, wraps: bool) -> None:
    with pytest.raises(PackingError):
        Block(length, bits, limit, wraps)


@pytest.mark.parametrize("wrong", [np.int64(5), 5.0, "5", None, True], ids=repr)
@pytest.mark.parametrize("name", ["length", "slot_bits", "limit"])
def test_a_block_is_of_plain_ints_which_never_overflow(name: str, wrong: Any) -> None:
    terms: dict[str, Any] = {"length": 5, "slot_bits": 21, "limit": 100, name: wrong}
    with pytest.raises(PackingError, match=f"{name} = .* is not a plain int") as refused:
        Block(**terms)
    assert name in refused.value.fix


@pytest.mark.parametrize("wrong", [1, 2, np.True_, None], ids=repr)
def test_whether_a_block_wraps_is_a_bool(wrong: Any) -> None:
    with pytest.raises(PackingError, match=r"wraps = .* is not a bool"):
        Block(5, 21, 100, wraps=wrong)


@pytest.mark.parametrize(
    "blocks",
    [[Block(5, 21, 100)], Block(5, 21, 100), (5,), None],
    ids=["list", "bare", "5", "None"],
)
def test_a_layout_is_a_tuple_of_blocks(blocks: Any) -> None:
    with pytest.raises(PackingError, match="not a tuple of blocks"):
        Layout(blocks)


def test_a_layout_has_at_most_as_many_words_as_a_stream() -> None:
    Layout((Block(MAX_WORDS - 1, 64, 1), Block(1, 64, 1)))
    with pytest.raises(PackingError, match="not one vector"):
        Layout((Block(MAX_WORDS, 64, 1), Block(1, 64, 1)))


def test_a_layout_has_a_number_of_blocks_that_one_byte_counts() -> None:
    Layout((Block(1, 8, 1),) * 255)
    for count in (0, 256):
        with pytest.raises(PackingError, match=f"{count} blocks"):
            Layout((Block(1, 8, 1),) * count)
