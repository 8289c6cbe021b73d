"""From what the engine summed to a round's mean, where nobody is promised privacy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedcore.errors import RoundOverError
from fedcore.federated.task import Task
from fedcore.federated.update import Mean, UpdateLayout
from fedsim.engine import ClientReport, Summed

__all__ = ["float_mean", "grid_mean", "statistics_of"]


def float_mean(task: Task, summed: Summed) -> Mean:
    """Of floating sums: the mean by weight. Raises: RoundOverError if nobody gave anything."""
    reports = _given(summed.reports)
    if summed.vector is None or not reports:
        raise _nobody()
    weight = sum(report.weight for report in reports)
    vector = (summed.vector / np.float32(weight)).astype(np.float32)
    largest = task.update.largest_weight if task.update.weighted else 1
    return Mean(vector, weight / largest, len(reports), statistics_of(reports))


def grid_mean(layout: UpdateLayout, summed: Summed) -> Mean:
    """Of sums on the grid: what a server makes of the same integers, to the bit.

    Raises: RoundOverError if nobody gave anything.
    """
    reports = _given(summed.reports)
    if summed.vector is None or not reports:
        raise _nobody()
    measured = sum(
        layout.measured(
            {
                **report.measured,
                "loss": report.loss,
                "weight": report.weight,
                "examples": report.examples,
                "saturated": report.saturated,
            }
        )
        for report in reports
    )
    return layout.mean([summed.vector.astype(np.int64), np.asarray(measured)], len(reports))


def statistics_of(reports: Sequence[ClientReport]) -> dict[str, float]:
    """Counts, and means over examples of what was measured, by the names of a `Mean`."""
    examples = sum(report.examples for report in reports)
    found: dict[str, float] = {
        "examples": examples,
        "saturated": sum(report.saturated for report in reports),
        "loss": sum(report.loss for report in reports) / max(1, examples),
    }
    names = {name for report in reports for name in report.measured}
    sums = {name: sum(report.measured.get(name, 0.0) for report in reports) for name in names}
    if measured := sums.get("evaluation_examples"):
        found["evaluation_examples"] = measured
        for name in sorted(names - {"evaluation_examples"}):
            found[name] = sums[name] / measured
    return found


def _given(reports: Sequence[ClientReport]) -> list[ClientReport]:
    return [report for report in reports if not report.failure]


def _nobody() -> RoundOverError:
    return RoundOverError(
        "a round without any update",
        why="every client of its cohort failed",
        fix="look at the reports' failures: the learning rate, and the data",
    )
