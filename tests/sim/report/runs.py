"""Runs for tests of reports and comparisons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedsim.records import Evaluation, Mode, Result, RoundRecord
from fedsim.run.reading import Run
from tests.sim.records.samples import private_record, record, run_record

HOSTILE = (
    '</title><script>alert(1)</script><img src="http://a.b/c" onerror=x>\'"&\x00\x1b\u202e\ud800'
)


def run_of(rounds: list[RoundRecord], **changes: Any) -> Run:
    """A run with these rounds; `scenario`, `task` and `ended` of it, and fields of its record."""
    scenario = changes.pop("scenario", {"clock": {"seed": 1}})
    task = changes.pop("task", {"task": {"name": "digits"}})
    ended = changes.pop("ended", "all rounds are over")
    mode = rounds[0].mode if rounds else Mode.FAST
    run = run_record(**{"mode": mode} | changes)
    return Run(
        path=Path("nowhere"),
        record=run,
        scenario=scenario,
        task=task,
        rounds=tuple(rounds),
        result=Result.of(run, rounds, ended=ended) if rounds else None,
    )


def learning(*accuracies: float, **changes: Any) -> list[RoundRecord]:
    """Rounds without privacy, of these accuracies on the test set."""
    return [
        record(round, test=Evaluation(loss=1 - accuracy, accuracy=accuracy), **changes)
        for round, accuracy in enumerate(accuracies)
    ]


def learning_privately(*accuracies: float) -> list[RoundRecord]:
    """Rounds with privacy, of these accuracies on the test set."""
    return [
        private_record(round, test=Evaluation(loss=1 - accuracy, accuracy=accuracy))
        for round, accuracy in enumerate(accuracies)
    ]
