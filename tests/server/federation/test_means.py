"""A mean that is made in pieces is, bit for bit, the one that is made at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fedcore.errors import UpdateError
from fedcore.federated.update import UpdateLayout
from fedcore.secagg import Block, Layout
from fedcore.secagg.packing import pack
from fedserver import accumulation
from fedserver.accumulation import Totals
from fedserver.federation.means import mean_of
from tests.random_examples import thorough
from tests.server.federation.world import task_of

LAYOUT = UpdateLayout.of(task_of(clients=5, secure=""))


def packed(layout: Layout, blocks: list[np.ndarray]) -> Totals:
    words = [
        pack(block, values, 0, block.words)
        for block, values in zip(layout.blocks, blocks, strict=True)
    ]
    return Totals(np.concatenate(words), layout)


@settings(max_examples=thorough(50), deadline=None)
@given(
    length=st.integers(1, 70),
    bits=st.sampled_from([8, 13, 16, 21, 32, 33, 64]),
    piece=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
)
def test_pieces_are_the_block_each_coordinate_once(
    length: int, bits: int, piece: int, seed: int
) -> None:
    limit = 2 ** (min(bits, 49) - 1) - 1
    layout = Layout((Block(3, 16, 100), Block(length, bits, limit)))
    draw = np.random.default_rng(seed)
    blocks = [draw.integers(-b.limit, b.limit, b.length, endpoint=True) for b in layout.blocks]
    totals = packed(layout, blocks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accumulation, "_PIECE_WORDS", piece)
        for index, block in enumerate(blocks):
            found = dict(totals.pieces(index))
            assert np.array_equal(np.concatenate([found[first] for first in sorted(found)]), block)
            assert np.array_equal(totals[index], block)


@given(seed=st.integers(0, 2**32 - 1))
def test_the_mean_in_pieces_has_the_bits_of_the_mean(seed: int) -> None:
    draw = np.random.default_rng(seed)
    reports = [
        LAYOUT.encode(draw.normal(size=LAYOUT.dimension), int(draw.integers(1, 99)), {})
        for _ in range(3)
    ]
    sums = [sum(parts) for parts in zip(*reports, strict=True)]
    layout = task_of(clients=5, secure="").layout
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accumulation, "_PIECE_WORDS", 2)
        found = mean_of(LAYOUT, packed(layout, sums), 3)
    expected = LAYOUT.mean(sums, 3)
    assert found.vector.tobytes() == expected.vector.tobytes()
    assert (found.weight, found.reports) == (expected.weight, expected.reports)
    assert found.statistics == expected.statistics


def test_one_coordinate_beyond_what_reports_add_up_to_spoils_the_mean() -> None:
    update, measured = LAYOUT.encode(np.zeros(LAYOUT.dimension), 5, {})
    update[-1] = LAYOUT.limit + 1
    layout = task_of(clients=5, secure="").layout
    words = np.concatenate(
        [
            pack(replace(block, limit=2 ** min(block.slot_bits - 2, 60)), values, 0, block.words)
            for block, values in zip(layout.blocks, (update, measured), strict=True)
        ]
    )
    with pytest.raises(UpdateError):
        mean_of(LAYOUT, Totals(words, layout), 1)
