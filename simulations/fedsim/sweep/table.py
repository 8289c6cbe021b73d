"""What came of a grid: a row for each combination of settings, over all of its seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from fedcore.console import Json
from fedsim.records import Totals
from fedsim.report.comparison_text import text_table
from fedsim.run.reading import Run
from fedsim.run.wording import NONE, duration, number, share
from fedsim.sweep.grid import Point
from fedsim.toml_text import toml_value

__all__ = ["Measured", "Row", "in_order", "render_rows", "rows_of"]


@dataclass(frozen=True, slots=True)
class Measured:
    """A mean over seeds, and the deviation of a sample, None for one seed alone.

    >>> Measured.of([0.5, 0.75]).mean, Measured.of([0.5]).deviation, Measured.of([])
    (0.625, None, None)
    """

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Measured | None:
        """The mean of these, None of none."""
        if not values:
            return None
        return cls(fmean(values), stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One combination of settings: `point` is of its first seed, `runs` those that have ended.

    `accuracy`, `loss`: of the last model on the test set. `epsilon`: the largest that was spent.
    `virtual_s`: a mean, `wall_s`: a sum. `failed`: how many runs were given up.
    """

    point: Point
    seeds: tuple[int, ...]
    runs: tuple[str, ...]
    accuracy: Measured | None
    loss: Measured | None
    epsilon: float | None
    virtual_s: float
    wall_s: float
    failed: int

    @property
    def data(self) -> dict[str, Json]:
        """For scripts."""
        return {
            "settings": {change.path: change.json for change in self.point.settings},
            "seeds": list(self.seeds),
            "runs": list(self.runs),
            "accuracy": _plain(self.accuracy),
            "loss": _plain(self.loss),
            "epsilon": self.epsilon,
            "virtual_s": self.virtual_s,
            "wall_s": self.wall_s,
            "failed": self.failed,
        }


def rows_of(found: Iterable[tuple[Point, Run | None]]) -> list[Row]:
    """Rows in the order of their points; None stands for a run that was given up."""
    groups: dict[str, list[tuple[Point, Run | None]]] = {}
    for point, run in found:
        groups.setdefault(toml_value([c.text for c in point.settings]), []).append((point, run))
    return [_row(group) for group in groups.values()]


def in_order(rows: Sequence[Row]) -> list[Row]:
    """The best first: by accuracy, where there is none by loss; what has neither is last."""

    def worth(row: Row) -> tuple[bool, float, float]:
        measured = row.accuracy is not None
        accuracy = row.accuracy.mean if row.accuracy is not None else 0.0
        loss = row.loss.mean if row.loss is not None else math.inf
        return (not measured, -accuracy, loss if math.isfinite(loss) else math.inf)

    return sorted(rows, key=worth)


def render_rows(rows: Sequence[Row]) -> str:
    """The table for a terminal."""
    names = rows[0].point.names
    head = [*names, "runs", "accuracy", "loss", "epsilon", "virtual time", "computed in"]
    cells = [
        [
            *(toml_value(change.value) for change in row.point.settings),
            f"{len(row.runs)}, {row.failed} failed" if row.failed else str(len(row.runs)),
            _shares(row.accuracy),
            _numbers(row.loss),
            NONE if row.epsilon is None else f"{row.epsilon:.2f}",
            duration(row.virtual_s),
            duration(row.wall_s),
        ]
        for row in rows
    ]
    return text_table(head, cells)


def _row(group: Sequence[tuple[Point, Run | None]]) -> Row:
    runs = [run for _, run in group if run is not None]
    tests = [test for run in runs if run.result and (test := run.result.test) is not None]
    totals = [Totals.of(run.rounds) for run in runs]
    spent = [run.rounds[-1].privacy for run in runs]
    return Row(
        point=group[0][0],
        seeds=tuple(point.seed for point, _ in group if point.seed is not None),
        runs=tuple(run.record.id for run in runs),
        accuracy=Measured.of([t.accuracy for t in tests if t.accuracy is not None]),
        loss=Measured.of([test.loss for test in tests]),
        epsilon=max((one.epsilon for one in spent if one is not None), default=None),
        virtual_s=fmean([one.virtual_s for one in totals]) if totals else 0.0,
        wall_s=math.fsum(one.wall_s for one in totals),
        failed=len(group) - len(runs),
    )


def _plain(found: Measured | None) -> Json:
    return None if found is None else {"mean": found.mean, "deviation": found.deviation}


def _shares(found: Measured | None) -> str:
    if found is None or found.deviation is None:
        return share(None if found is None else found.mean)
    return f"{share(found.mean)} ± {share(found.deviation)}"


def _numbers(found: Measured | None) -> str:
    if found is None or found.deviation is None:
        return number(None if found is None else found.mean)
    return f"{number(found.mean)} ± {number(found.deviation)}"
