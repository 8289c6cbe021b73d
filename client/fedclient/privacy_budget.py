"""What all tasks together may have told of this device's data, so that no operator hides in many.

Each task counts once, with the epsilon and delta of its whole plan, from its first vector on and
for ever. That they add up is basic composition: Dwork and Roth, "The Algorithmic Foundations of
Differential Privacy" (2014), Theorem 3.16; also where later tasks are chosen by what earlier ones
released, as long as the limit was fixed before: Rogers et al., "Privacy Odometers and Filters"
(2016). A vector that left at a second attempt of a round counts as one of a second run of the task.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedcore.federated.task import Task

__all__ = ["Guarantee", "TaskCost", "guarantee_of", "runs_of", "spent_in_all"]


@dataclass(frozen=True, slots=True)
class Guarantee:
    """The epsilon and delta that a task promises for all of its rounds."""

    epsilon: float
    delta: float


@dataclass(frozen=True, slots=True)
class TaskCost:
    """What one task may have told. `task`: its id. `guarantee`: None if there is none, or unknown.

    `times`: the most vectors that left for one round, each at an attempt of its own.

    >>> TaskCost("t1", bytes(32), 2, Guarantee(1.5, 1e-6)).spent
    Guarantee(epsilon=3.0, delta=2e-06)
    """

    task: str
    task_digest: bytes
    times: int
    guarantee: Guarantee | None

    @property
    def spent(self) -> Guarantee:
        """All of it: without a guarantee without bound."""
        if self.guarantee is None:
            return Guarantee(math.inf, math.inf)
        return Guarantee(self.times * self.guarantee.epsilon, self.times * self.guarantee.delta)


def guarantee_of(task: Task) -> Guarantee | None:
    """What a task promises; None without differential privacy, and where delta is not known."""
    plan = task.plan
    return None if plan is None or plan.delta is None else Guarantee(plan.epsilon, plan.delta)


def runs_of(given: Iterable[tuple[int, int]]) -> int:
    """As how many runs of a task vectors count that left at these (round, attempt).

    >>> runs_of([(0, 1), (1, 1), (1, 3), (2, 1)])
    2
    """
    return max(Counter(round for round, _ in given).values(), default=0)


def spent_in_all(costs: Iterable[TaskCost]) -> Guarantee:
    """The sum over tasks."""
    spent = [cost.spent for cost in costs]
    return Guarantee(math.fsum(one.epsilon for one in spent), math.fsum(one.delta for one in spent))
