"""What follows a run: it is told of its start, of each round, and of its end, and of nothing else.

A tracker sees records alone, and those hold nothing that privacy does not release.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any, Final, Protocol

from fedcore.console import Json
from fedcore.errors import InstallError
from fedsim.records import Result, RoundRecord, RunRecord

__all__ = ["Tracker", "name_of", "required", "scalars_of"]

_UNSAFE: Final = re.compile(r"[^\w./ -]", re.ASCII)
_LONGEST_NAME: Final = 200


class Tracker(Protocol):
    """Follows one run. `round` and `end` are called after `start`."""

    def start(self, run: RunRecord, *, config: Mapping[str, Json], first_round: int = 0) -> None:
        """A run begins, or goes on with `first_round`: later rounds told before never were.

        `config`: its settings by dotted names.
        """
        ...

    def round(self, record: RoundRecord) -> None:
        """A round is over."""
        ...

    def end(self, result: Result | None) -> None:
        """The run has ended, or without a result was stopped."""
        ...


def scalars_of(record: RoundRecord) -> dict[str, float]:
    """The numbers of a round by name, all that were measured.

    >>> from fedsim.records import Mode, Speed
    >>> one = RoundRecord(round=0, mode=Mode.FAST, model="0" * 64, start_s=0, end_s=2.5,
    ...     speed=Speed(wall_s=1.0, trainings_per_s=3.0), selected=4, reported=3, train_loss=0.5)
    >>> scalars_of(one)["train/loss"], scalars_of(one)["clients/reported"]
    (0.5, 3.0)
    """
    return {name_of(name): float(value) for name, value in _scalars(record) if value is not None}


def _scalars(record: RoundRecord) -> Iterator[tuple[str, float | None]]:
    yield "train/loss", record.train_loss
    if (test := record.test) is not None:
        yield "test/loss", test.loss
        yield "test/accuracy", test.accuracy
        for name, value in test.metrics.items():
            yield f"test/{name}", value
    if (spread := record.clients) is not None:
        yield "client accuracy/mean", spread.mean
        yield "client accuracy/p10", spread.p10
        yield "client accuracy/p50", spread.p50
        yield "client accuracy/p90", spread.p90
    for name, value in record.personal.items():
        yield f"personal/{name}", value
    if (privacy := record.privacy) is not None:
        yield "privacy/epsilon", privacy.epsilon
        yield "privacy/budget", privacy.budget
    yield "clients/selected", record.selected
    yield "clients/reported", record.reported
    for phase, count in record.drops.items():
        yield f"clients/lost in {phase}", count
    yield "bytes/down", record.bytes_down
    yield "bytes/up", record.bytes_up
    yield "time/virtual s", record.end_s
    yield "time/wall s", record.speed.wall_s
    yield "time/trainings per s", record.speed.trainings_per_s


def name_of(text: str) -> str:
    """A name that every tool takes: letters, digits, and few signs; at most 200 characters."""
    return _UNSAFE.sub("_", text)[:_LONGEST_NAME]


def required(module: str, *, tracker: str, package: str) -> Any:
    """A module of the extra "track". Raises: InstallError where it is not installed."""
    try:
        found: ModuleType = import_module(module)
    except ImportError as error:
        raise InstallError(
            f"the tracker {tracker!r} needs {package}",
            why=str(error),
            fix="install the extra 'track', in a checkout: pip install -e '.[track]'",
        ) from error
    return found
