"""A rule over means of groups: what there is of robustness where the server sees sums alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import TaskError
from fedcore.tensor.random import Key
from fedsim.algorithms.algorithm import Vector
from fedsim.robust.rule import Rule

__all__ = ["Grouped"]


@dataclass(frozen=True, kw_only=True)
class Grouped:
    """`rule` over the means of so many `groups` of clients, drawn anew in each round.

    Under secure aggregation each group is a session of its own, whose mean is a row for the rule;
    f wrong clients spoil f groups at most. Raises: TaskError for fewer groups than the rule holds
    for.
    """

    rule: Rule
    groups: int

    def __post_init__(self) -> None:
        self.rule.require(self.groups)

    def require(self, clients: int) -> None:
        """Raises: TaskError for fewer clients than groups."""
        if clients < self.groups:
            raise TaskError(
                f"{self.groups} groups of {clients} clients",
                why="each group has a client at least, and under secure aggregation several",
                fix=f"set groups to {clients} or less, or let more clients report",
                where="robust.groups",
            )

    def members(self, clients: int, *, seed: int, round: int) -> tuple[NDArray[np.int64], ...]:
        """Who is in each group, by their places, rising; sizes differ by 1 at most.

        Raises: TaskError for fewer clients than groups.

        >>> from fedsim.robust.median import Median
        >>> groups = Grouped(rule=Median(), groups=3).members(8, seed=0, round=0)
        >>> [len(group) for group in groups]
        [3, 3, 2]
        """
        self.require(clients)
        order = Key(seed, "robust groups", round=round).generator().permutation(clients)
        return tuple(np.sort(group) for group in np.array_split(order, self.groups))

    def __call__(
        self,
        updates: Vector,
        weights: NDArray[np.float64] | None = None,
        *,
        seed: int,
        round: int,
    ) -> Vector:
        """What the groups' sessions and the rule come to, for updates (n, D) that lie open."""
        alpha = np.ones(len(updates)) if weights is None else np.asarray(weights, np.float64)
        groups = self.members(len(updates), seed=seed, round=round)
        means = np.empty((self.groups, *updates.shape[1:]), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            for row, group in enumerate(groups):
                means[row] = np.average(updates[group], axis=0, weights=alpha[group])
        return self.rule(means, np.array([alpha[group].sum() for group in groups]))
