"""The order in which a cohort is summed: a tree whose form follows from the cohort alone.

Sums of floating numbers depend on their order. Whoever computes which part of this tree, and when,
the sums have the same bits: for one worker or many, threads, processes or machines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Joined", "Subtree", "SumTree", "join", "total"]

T = TypeVar("T")

_FEW, _MANY = 16, 64  # leaves: enough for so many workers, and few enough to be joined quickly
_LARGE = 256  # clients from which on there are many


@dataclass(frozen=True, slots=True)
class Subtree:
    """A node of the tree: `level` 0 is a leaf, `place` counts from the left on its level."""

    level: int
    place: int

    @property
    def leaves(self) -> range:
        """The numbers of the leaves below it."""
        return range(self.place << self.level, (self.place + 1) << self.level)


@dataclass(frozen=True, slots=True)
class SumTree:
    """A balanced binary tree over the places of a cohort; leaf i holds those of `bounds[i]`.

    Leaves hold consecutive places of about the same cost, `costs[i]`, and may be empty.

    >>> [len(part.leaves) for part in SumTree.over([1.0] * 50).parts(2)]
    [4, 4, 2, 2, 1, 1, 1, 1]
    """

    bounds: tuple[range, ...]
    costs: tuple[float, ...]

    @classmethod
    def over(cls, costs: Sequence[float]) -> SumTree:
        """The tree of a cohort whose members cost so much."""
        leaves = _FEW if len(costs) < _LARGE else _MANY
        ends = np.cumsum(costs, dtype=np.float64)
        if len(costs) <= leaves:
            cuts = [min(leaf, len(costs)) for leaf in range(leaves + 1)]
        else:
            marks = ends[-1] * np.arange(1, leaves) / leaves
            inner = np.searchsorted(ends, marks, side="left").tolist()
            cuts = [0, *inner, len(costs)]
        bounds = tuple(range(begin, end) for begin, end in pairwise(cuts))
        return cls(bounds, tuple(sum(costs[place] for place in leaf) for leaf in bounds))

    def parts(self, workers: int) -> list[Subtree]:
        """Subtrees that together hold all leaves, for so many workers: the costliest come first.

        Each takes a share of half of what is left, so that few sums are joined, and at the end
        nobody waits for more than a leaf.
        """
        wide, leaves = 1 << (workers - 1).bit_length(), len(self.bounds)
        ends = [0.0, *accumulate(self.costs)]
        half_a_leaf = ends[-1] / max(1, sum(map(bool, self.bounds))) / 2
        found: list[Subtree] = []
        begin = 0
        while begin < leaves:
            left = ends[-1] - ends[begin]
            share = (left if wide == 1 else left / (2 * wide)) + half_a_leaf
            for _ in range(wide):
                if begin < leaves:
                    part = self._largest(begin, share, ends)
                    found.append(part)
                    begin = part.leaves.stop
        return sorted(found, key=self._cost, reverse=True)

    def places(self, subtree: Subtree) -> list[range]:
        """The places of the cohort in each leaf of a subtree."""
        return [self.bounds[leaf] for leaf in subtree.leaves]

    def _cost(self, subtree: Subtree) -> float:
        """Not a difference of `ends`, whose rounding may exceed what parts differ by."""
        return sum(self.costs[leaf] for leaf in subtree.leaves)

    def _largest(self, begin: int, share: float, ends: Sequence[float]) -> Subtree:
        """The largest subtree that begins with this leaf and costs no more; at least the leaf."""
        level = 0
        while begin % (2 << level) == 0 and begin + (2 << level) < len(ends):
            if ends[begin + (2 << level)] - ends[begin] > share:
                break
            level += 1
        return Subtree(level, begin >> level)


def total(
    leaves: Sequence[Sequence[T]],
    add: Callable[[T, NDArray[Any]], None],
    new: Callable[[], NDArray[Any]],
) -> NDArray[Any] | None:
    """The sum over a subtree of so many leaves, a power of two; None if all are empty.

    `add` adds a member to an array that `new` made. Members are asked for in their order.
    """
    if len(leaves) == 1:
        [members] = leaves
        if not members:
            return None
        into = new()
        for member in members:
            add(member, into)
        return into
    half = len(leaves) // 2
    left = total(leaves[:half], add, new)
    right = total(leaves[half:], add, new)
    return join(left, right)


def join(left: NDArray[Any] | None, right: NDArray[Any] | None) -> NDArray[Any] | None:
    """The sum of two nodes; that of the left one is written over."""
    if left is None or right is None:
        return right if left is None else left
    left += right
    return left


class Joined:
    """The sums of subtrees, in whatever order they come, joined as the tree says."""

    def __init__(self, tree: SumTree) -> None:
        self._height = len(tree.bounds).bit_length() - 1
        self._found: dict[Subtree, NDArray[Any] | None] = {}

    def put(self, subtree: Subtree, found: NDArray[Any] | None) -> None:
        """Takes the sum over a subtree; what has to wait for its twin is copied.

        To which of two nodes the other is added makes no difference: addition commutes to the bit.
        """
        own = False
        while subtree.level < self._height:
            twin = Subtree(subtree.level, subtree.place ^ 1)
            if twin not in self._found:
                break
            other = self._found.pop(twin)
            own = own or other is not None
            found = join(other, found)
            subtree = Subtree(subtree.level + 1, subtree.place // 2)
        self._found[subtree] = found if own or found is None else found.copy()

    def whole(self) -> NDArray[Any] | None:
        """The sum over all, None if nobody is in it. All parts have to be there."""
        return self._found[Subtree(self._height, 0)]
