"""What a client reports without privacy beside its update: names, fixed points and bounds.

Both ends read the statistics from here, so that a sum of integers means the same to all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from fedcore.federated.choices import METRICS, NEVER_NEGATIVE

if TYPE_CHECKING:
    from fedcore.federated.task import Task

__all__ = [
    "LARGEST_COHORT",
    "STATISTIC_BITS",
    "STATISTIC_LIMIT",
    "StatisticField",
    "grid_step",
    "statistics_of",
    "update_limit",
]

STATISTIC_BITS: Final = 64
"""The slot of a statistic."""

STATISTIC_LIMIT: Final = 2**48
"""The largest magnitude of one client's statistic, as an integer; larger ones are cut to it."""

LARGEST_COHORT: Final = 2**14
"""Clients in a round: sums of so many statistics stay below 2^62."""


@dataclass(frozen=True, slots=True)
class StatisticField:
    """One number of the block "statistics": round(value · 2^`fraction_bits`), cut to the limit.

    Every value is a sum, over a client's examples or of a count, so that totals mean something.
    `least` and `most`: of one example, or of a client's count; None for no bound but the limit's.
    """

    name: str
    fraction_bits: int
    least: int | None = None
    most: int | None = None

    def possible(self, total: int, *, over: int, reports: int) -> bool:
        """Whether so many honest reports can add up to `total`, of `over` examples or clients.

        A step for each example is left to rounding.
        """
        limit, one = reports * STATISTIC_LIMIT, over << self.fraction_bits
        slack = over + reports if self.fraction_bits else 0
        least = -limit if self.least is None else self.least * one - slack
        most = limit if self.most is None else self.most * one + slack
        return max(least, -limit) <= total <= min(most, limit)


def statistics_of(task: Task) -> tuple[StatisticField, ...]:
    """The statistics of a task, in the order of their block; none under privacy.

    "weight": min(examples, largest_weight), or largest_weight where clients count alike, so that
    a client's weight is this number over `largest_weight`. "examples": trained on. "loss": summed
    over them. "saturated": coordinates that were cut to the range. Where the task evaluates and
    reports it, also "evaluation_examples" and, summed over these, "evaluation_loss" and
    "evaluation_" with each metric's name; all 0 in rounds without an evaluation.
    """
    if task.privacy is not None:
        return ()
    # A program of one's own has the loss that it has, whatever the task calls it.
    local, loss = task.training.program == "local", task.training.loss
    lowest = 0 if local and loss in NEVER_NEGATIVE else None
    found = [
        StatisticField("weight", 0, least=1),
        StatisticField("examples", 0, least=1),
        StatisticField("loss", 20, least=lowest),
        StatisticField("saturated", 0, least=0),
    ]
    if task.evaluation.every and task.evaluation.reported:
        found.append(StatisticField("evaluation_examples", 0, least=0))
        found.append(StatisticField("evaluation_loss", 20, least=lowest))
        for name in task.evaluation.metrics:
            least, most = (0, 1) if name in METRICS else (None, None)
            found.append(StatisticField(f"evaluation_{name}", 20, least=least, most=most))
    return tuple(found)


def update_limit(task: Task) -> int:
    """The largest integer of one client's update without privacy: so many sum within a slot.

    A coordinate of delta · weight lies within ± `update.range` and becomes an integer within
    ± this limit: round(value / `grid_step`).
    """
    return int((2 ** (task.update.slot_bits - 1) - 1) // task.cohort.select)


def grid_step(task: Task) -> Fraction:
    """How much of a coordinate one integer step is, exact: range / limit."""
    return Fraction(task.update.range) / update_limit(task)
