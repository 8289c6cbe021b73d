"""The published layout of what a client reports without privacy, as integers that only add up.

A cut and weighted update on a grid, its weight, and sums of what was measured: the sums of all
clients give the weighted mean, in whatever order and behind whatever masks they were added.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import PlanError, UpdateError
from fedcore.federated.fields import (
    STATISTIC_LIMIT,
    StatisticField,
    grid_step,
    statistics_of,
    update_limit,
)
from fedcore.federated.task import Task

__all__ = ["Mean", "UpdateLayout"]

_BLOCK = 32_768  # coordinates in float64 that stay in the cache


@dataclass(frozen=True, slots=True, eq=False)
class Mean:
    """What a round's sums stand for.

    `vector`: the weighted mean update, float32 (D,). `weight`: the sum of weights, of which one
    client has at most 1. `reports`: how many clients are in it. `statistics`: the counts, and by
    name the means over examples of what was measured; without the latter where nobody measured.
    `impossible`: what sums say that no honest clients can have reported, such as an accuracy above
    1; neither these nor what was measured with them is among the statistics.
    """

    vector: NDArray[np.float32]
    weight: float
    reports: int
    statistics: Mapping[str, float]
    impossible: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateLayout:
    """The blocks "update" (D,) and "statistics" of a task without privacy: see `fields`."""

    dimension: int
    range: float
    step: Fraction
    limit: int
    largest_weight: int
    weighted: bool
    fields: tuple[StatisticField, ...]

    @classmethod
    def of(cls, task: Task) -> UpdateLayout:
        """The layout of a resolved task. Raises: PlanError for a task with privacy."""
        if task.privacy is not None:
            raise PlanError(
                f"task {task.name!r} is to report weights and losses",
                why="under privacy all that leaves a device is in one vector under one noise",
                fix="let Contributor encode it, by the task's plan",
            )
        return cls(
            dimension=task.dimension,
            range=task.update.range,
            step=grid_step(task),
            limit=update_limit(task),
            largest_weight=task.update.largest_weight,
            weighted=task.update.weighted,
            fields=statistics_of(task),
        )

    def encode(
        self, vector: NDArray[np.floating[Any]], weight: int, statistics: Mapping[str, float]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """One client's update (D,), trained on `weight` examples, and its statistics, as integers.

        Each coordinate is cut to ± range, weighted and rounded to the nearest step. Of `statistics`
        those are taken that the task reports; "weight", "examples" and "saturated" follow from the
        rest. Raises: UpdateError for another shape, a weight below 1, or NaN and infinity.
        """
        _require_update(vector, self.dimension)
        if type(weight) is not int or weight < 1:
            raise UpdateError(
                f"an update of weight {weight!r:.40}",
                why="it counts by how many examples it was trained on",
                fix="report the number of examples, an int of at least 1",
            )
        counted = min(weight, self.largest_weight) if self.weighted else self.largest_weight
        scale = float(Fraction(counted, self.largest_weight) / self.step)
        update, saturated = np.empty(self.dimension, np.int64), 0
        for start in range(0, self.dimension, _BLOCK):
            given = vector[start : start + _BLOCK].astype(np.float64)
            if not np.isfinite(given).all():
                raise UpdateError(
                    "an update holds NaN or infinity",
                    why="added up, it would leave nothing of all other updates",
                    fix="lower the learning rate, and check the data with numpy.isfinite",
                )
            cut = np.clip(given, -self.range, self.range)
            saturated += int(np.count_nonzero(cut != given))
            # A slot has 48 bits at most, so that a float64 names each step, and none is beyond.
            update[start : start + _BLOCK] = np.rint(cut * scale)
        own = {"weight": counted, "examples": weight, "saturated": saturated}
        return update, self.measured({**statistics, **own})

    def measured(self, values: Mapping[str, float]) -> NDArray[np.int64]:
        """The block "statistics" of one client, of values by name; what is missing counts as 0."""
        fixed = [_fixed(field, values.get(field.name, 0)) for field in self.fields]
        return np.array(fixed, np.int64)

    def mean(self, totals: Sequence[NDArray[np.int64]], reports: int) -> Mean:
        """The mean of so many reports, of the sums of their two blocks.

        Raises: UpdateError for sums of another shape, or such as no reports add up to.
        """
        shapes = [(self.dimension,), (len(self.fields),)]
        if [total.shape for total in totals] != shapes or reports < 1:
            raise UpdateError(
                f"sums of {reports} reports with shapes {[total.shape for total in totals]}",
                why=f"the layout has blocks of {shapes[0]} and {shapes[1]}, of one report or more",
                fix="pass the sums of all blocks of the task's layout",
            )
        update, measured = totals
        sums = dict(zip((field.name for field in self.fields), measured.tolist(), strict=True))
        counted = sums.pop("weight")
        fits = reports <= counted <= reports * self.largest_weight
        if not fits or max(-int(update.min()), int(update.max())) > reports * self.limit:
            raise UpdateError(
                f"sums that {reports} reports of this task do not have",
                why="one of them was not encoded as the task says, and nobody can tell which",
                fix="run the round again with other clients",
            )
        factor = float(self.step * Fraction(self.largest_weight, counted))
        vector = np.empty(self.dimension, np.float32)
        np.multiply(update, factor, out=vector, dtype=np.float64, casting="same_kind")
        weight = counted / self.largest_weight
        statistics, impossible = self._means(sums, reports)
        return Mean(vector, weight, reports, MappingProxyType(statistics), impossible)

    def _means(
        self, sums: Mapping[str, int], reports: int
    ) -> tuple[dict[str, float], tuple[str, ...]]:
        """Counts as they are, and what was summed over examples divided by their number.

        Of training and of the evaluation each all or nothing, and what no honest clients say.
        """
        found: dict[str, float] = {}
        impossible: list[str] = []
        for prefix in ("", "evaluation_"):
            part = [
                field
                for field in self.fields
                if field.name in sums and field.name.startswith("evaluation_") == bool(prefix)
            ]
            examples = sums.get(f"{prefix}examples", 0)
            wrong = [
                field.name
                for field in part
                if not field.possible(
                    sums[field.name],
                    over=examples if field.fraction_bits else reports,
                    reports=reports,
                )
            ]
            impossible += wrong
            for field in () if wrong else part:
                if not field.fraction_bits:
                    found[field.name] = sums[field.name]
                elif examples:
                    total = math.ldexp(sums[field.name], -field.fraction_bits)
                    found[field.name] = total / examples
        return found, tuple(impossible)


def _require_update(vector: NDArray[Any], dimension: int) -> None:
    if vector.shape != (dimension,) or vector.dtype.kind != "f":
        raise UpdateError(
            f"an update of {vector.dtype} with shape {vector.shape}",
            why=f"the task's model has {dimension} floating numbers",
            fix="report the new parameters less those that the round began with",
        )


def _fixed(field: StatisticField, value: float) -> int:
    """The statistic as an integer, cut to the limit. Raises: UpdateError for NaN."""
    if value != value:  # NaN, also of an integer that is beyond all floats
        raise UpdateError(
            f"the statistic {field.name!r} is NaN",
            why="added up, it would leave nothing of all others",
            fix="report sums over examples, or leave out what was not measured",
        )
    most = STATISTIC_LIMIT / 2**field.fraction_bits
    return round(math.ldexp(min(max(value, -most), most), field.fraction_bits))
