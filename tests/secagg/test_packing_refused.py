"""Whatever is no vector of a block, no words of it, no block or no layout is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedcore.errors import PackingError
from fedcore.secagg.packing import Block, Layout, pack, unpack
from fedcore.secagg.prg import MAX_WORDS
from tests.secagg.crowds import whole


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
