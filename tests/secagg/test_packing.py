"""Sums of packed words are packed sums, within the budget exactly and beyond it by the formula."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from fedcore.errors import PackingError
from fedcore.secagg import packing
from fedcore.secagg.packing import Block, Layout, pack, unpack
from tests.secagg.crowds import WIDTHS, crowds, whole


@pytest.fixture(params=[3, packing._CHUNK], ids=["small chunks", "one chunk"])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The size of a chunk, so small that small vectors have many, or as it is."""
    monkeypatch.setattr(packing, "_CHUNK", request.param)
    return int(request.param)


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


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_whole_budget_can_be_spent_on_either_side(sign: int) -> None:
    for bits in WIDTHS:
        clients = min(2 ** (bits - 1) - 1, 1024)
        block = Block(70, bits, (2 ** (bits - 1) - 1) // clients)
        words = whole(block, np.full(70, sign * block.limit)) * np.uint64(clients)
        assert unpack(block, words).tolist() == [sign * block.limit * clients] * 70, bits


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
