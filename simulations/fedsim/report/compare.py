"""Several runs beside each other: in what they differ, how good they got, and what it cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fedcore.console import Json
from fedcore.errors import ArgumentError
from fedsim.records import Mode, RoundRecord, Totals
from fedsim.report.chart import Line, LineChart, Unit
from fedsim.report.settings import settings_of
from fedsim.run.reading import Run

__all__ = [
    "Comparison",
    "Difference",
    "Outcome",
    "Reached",
    "compare",
    "comparison_charts",
]

SHARES: Final = (0.9, 0.95)
"""Of the best accuracy of any run, the targets where none are given."""

_Value = Callable[[RoundRecord], float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A setting in which runs differ, with its value in each; None also where there is none."""

    setting: str
    values: tuple[Json, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """The first round whose accuracy on the test set was `target`, and when it ended; or None."""

    target: float
    round: int | None
    virtual_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a run: the last that was measured, and totals. `label`: unique here."""

    label: str
    name: str
    mode: Mode
    ended: bool
    rounds: int
    model: str | None
    accuracy: float | None
    best_accuracy: float | None
    loss: float | None
    epsilon: float | None
    budget: float | None
    bytes_down: int
    bytes_up: int
    virtual_s: float
    wall_s: float
    reached: tuple[Reached, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Runs in the order in which they were given. `same_model`: whether all digests agree."""

    outcomes: tuple[Outcome, ...]
    differences: tuple[Difference, ...]
    same_model: bool


def compare(runs: Sequence[Run], *, targets: Sequence[float] | None = None) -> Comparison:
    """The comparison of two runs or more, as data that `to_plain` writes.

    `targets`: accuracies on the test set, by default 90 % and 95 % of the best that any run found.
    Raises: ArgumentError for fewer runs, and for a target outside of 0 to 1.
    """
    if len(runs) < 2:
        raise ArgumentError(
            f"{len(runs)} runs cannot be compared",
            why="a comparison is between two or more",
            fix="name the folders of two or more runs",
        )
    if wrong := [target for target in targets or () if not 0 < target <= 1]:
        raise ArgumentError(
            f"{wrong[0]} is no accuracy to be reached",
            why="an accuracy is a share, above 0 and at most 1",
            fix="write 90 % as 0.9",
        )
    if targets is None:
        best = max((a for run in runs for r in run.rounds if (a := _accuracy(r))), default=None)
        targets = () if best is None else [part * best for part in SHARES]
    labels = _labels(runs)
    outcomes = tuple(_outcome(run, label, targets) for run, label in zip(runs, labels, strict=True))
    models = {outcome.model for outcome in outcomes}
    return Comparison(
        outcomes=outcomes,
        differences=_differences([settings_of(run) for run in runs]),
        same_model=len(models) == 1 and None not in models,
    )


def comparison_charts(runs: Sequence[Run]) -> Mapping[str, LineChart]:
    """One chart of all runs for each of accuracy and loss, by rounds and by virtual time."""
    measured: tuple[tuple[str, _Value, Unit], ...] = (
        ("accuracy", _accuracy, "share"),
        ("loss", _loss, "number"),
    )
    axes: tuple[tuple[str, Callable[[RoundRecord], float], Unit], ...] = (
        ("round", lambda record: record.round + 1, "count"),
        ("virtual time", lambda record: record.end_s, "seconds"),
    )
    found = {}
    for what, value, unit in measured:
        for by, x, x_unit in axes:
            lines = [
                Line(name=label, points=_points(run, x, value))
                for run, label in zip(runs, _labels(runs), strict=True)
            ]
            if any(line.points for line in lines):
                title = f"{what.capitalize()} on the test set, by {by}"
                name = f"{what}-by-{by.replace(' ', '-')}"
                found[name] = LineChart(title=title, x=by, lines=lines, unit=unit, x_unit=x_unit)
    return found


def _points(
    run: Run, x: Callable[[RoundRecord], float], value: _Value
) -> list[tuple[float, float]]:
    return [(x(record), y) for record in run.rounds if (y := value(record)) is not None]


def _labels(runs: Sequence[Run]) -> list[str]:
    """The id of each run; of a folder that was copied, with its place in the list."""
    ids = [run.record.id for run in runs]
    return [f"{id} #{i + 1}" if ids.count(id) > 1 else id for i, id in enumerate(ids)]


def _outcome(run: Run, label: str, targets: Sequence[float]) -> Outcome:
    rounds, totals = run.rounds, Totals.of(run.rounds)
    accuracies = [value for r in rounds if (value := _accuracy(r)) is not None]
    losses = [value for r in rounds if (value := _loss(r)) is not None]
    spent = rounds[-1].privacy if rounds else None
    return Outcome(
        label=label,
        name=run.record.name,
        mode=run.record.mode,
        ended=run.result is not None,
        rounds=totals.rounds,
        model=rounds[-1].model if rounds else None,
        accuracy=accuracies[-1] if accuracies else None,
        best_accuracy=max(accuracies, default=None),
        loss=losses[-1] if losses else None,
        epsilon=spent.epsilon if spent else None,
        budget=spent.budget if spent else None,
        bytes_down=totals.bytes_down,
        bytes_up=totals.bytes_up,
        virtual_s=totals.virtual_s,
        wall_s=totals.wall_s,
        reached=tuple(_reached(rounds, target) for target in targets),
    )


def _reached(rounds: Sequence[RoundRecord], target: float) -> Reached:
    first = next((r for r in rounds if (a := _accuracy(r)) is not None and a >= target), None)
    if first is None:
        return Reached(target=target, round=None, virtual_s=None)
    return Reached(target=target, round=first.round, virtual_s=first.end_s)


def _differences(settings: Sequence[Mapping[str, Json]]) -> tuple[Difference, ...]:
    names = dict.fromkeys(name for one in settings for name in one)
    found = []
    for name in names:
        values = tuple(one.get(name) for one in settings)
        # As text, because 1, 1.0 and true are equal to each other.
        if len({(name in one, repr(one.get(name))) for one in settings}) > 1:
            found.append(Difference(setting=name, values=values))
    return tuple(found)


def _accuracy(record: RoundRecord) -> float | None:
    return record.test.accuracy if record.test is not None else None


def _loss(record: RoundRecord) -> float | None:
    return record.test.loss if record.test is not None else None
