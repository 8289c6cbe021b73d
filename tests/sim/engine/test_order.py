"""A sum's form follows from the cohort alone: nothing depends on who adds what, and when."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, strategies as st

from fedsim.engine.order import Joined, SumTree, total

COSTS = st.lists(st.floats(0.5, 100.0), min_size=1, max_size=400)


@given(COSTS)
def test_leaves_hold_every_place_once_in_order(costs: list[float]) -> None:
    tree = SumTree.over(costs)
    assert len(tree.bounds) in (16, 64)
    assert [place for leaf in tree.bounds for place in leaf] == list(range(len(costs)))


@given(COSTS)
def test_leaves_of_many_cost_about_the_same(costs: list[float]) -> None:
    tree = SumTree.over(costs)
    shares = [sum(costs[place] for place in leaf) for leaf in tree.bounds]
    assert max(shares) <= sum(costs) / len(shares) + 2 * max(costs)


@given(COSTS, st.integers(1, 64))
@example([0.5, np.nextafter(0.5, 1.0)], 2)
def test_nobody_waits_for_more_than_a_leaf(costs: list[float], workers: int) -> None:
    tree = SumTree.over(costs)
    parts = tree.parts(workers)
    held = sorted(leaf for part in parts for leaf in part.leaves)
    assert held == list(range(len(tree.bounds)))
    took = [sum(tree.costs[leaf] for leaf in part.leaves) for part in parts]
    assert took == sorted(took, reverse=True)
    ends = [0.0] * workers
    for cost in took:  # whoever is free takes the next, as from a pool
        ends[ends.index(min(ends))] += cost
    assert max(ends) - min(ends) <= max(tree.costs) * (1 + 1e-9)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_of_nobody_the_sum_is_none(workers: int) -> None:
    tree = SumTree.over([])
    joined = Joined(tree)
    for part in tree.parts(workers):
        assert not any(tree.places(part))
        joined.put(part, None)
    assert joined.whole() is None


@given(st.integers(1, 400), st.integers(1, 64))
def test_everybody_has_work_as_long_as_there_is_a_leaf_for_each(count: int, workers: int) -> None:
    tree = SumTree.over([1.0] * count)
    with_members = [part for part in tree.parts(workers) if any(tree.places(part))]
    assert len(with_members) >= min(workers, sum(map(bool, tree.bounds)))


@given(COSTS, st.integers(1, 64), st.randoms(use_true_random=False))
def test_parts_in_any_number_and_order_give_the_same_bits(costs, count, random) -> None:
    draw = np.random.default_rng(len(costs))
    vectors = (draw.standard_normal((len(costs), 3)) * 10.0 ** draw.integers(-6, 6, 3)).astype("f4")
    tree = SumTree.over(costs)

    def add(place: int, into: np.ndarray) -> None:
        into += vectors[place]

    def summed(parts: list) -> np.ndarray:
        joined, memory = Joined(tree), np.empty(3, np.float32)
        for part in parts:
            found = total(tree.places(part), add, lambda: np.zeros(3, np.float32))
            if found is not None:
                memory[:] = found  # what a worker gives is valid until its next result
            joined.put(part, None if found is None else memory)
        return joined.whole()

    parts = tree.parts(count)
    random.shuffle(parts)
    alone, many = summed(tree.parts(1)), summed(parts)
    assert alone.tobytes() == many.tobytes()
    wide = vectors.astype(np.float64)
    # Each of at most 400 additions rounds by 2^-24 of what has come together by then.
    assert (np.abs(alone - wide.sum(0)) <= 400 * 2.0**-24 * np.abs(wide).sum(0)).all()
