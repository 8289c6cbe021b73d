"""Vectors of clients that share a budget, and the words of a whole block."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedcore.secagg.packing import Block, Layout, pack

__all__ = ["WIDTHS", "crowds", "whole"]

WIDTHS = range(2, 65)


def whole(block: Block, values: Any) -> NDArray[np.uint64]:
    return pack(block, values, 0, block.words)


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
