"""Trackers by name, and what happens to a run when one of them fails: nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Final, Self

from fedcore.console import Json
from fedcore.errors import ArgumentError, FedcoreError
from fedsim.records import Result, RoundRecord, RunRecord
from fedsim.trackers.jsonl import JsonlTracker
from fedsim.trackers.mlflow import MLflowTracker
from fedsim.trackers.tensorboard import TensorBoardTracker
from fedsim.trackers.tracker import Tracker

__all__ = ["TrackerSpec", "Trackers"]


def _jsonl(target: str, folder: Path) -> Tracker:
    return JsonlTracker(Path(target) if target else folder / "tracker.jsonl")


def _tensorboard(target: str, folder: Path) -> Tracker:
    return TensorBoardTracker(Path(target) / folder.name if target else folder / "tensorboard")


def _mlflow(target: str, folder: Path) -> Tracker:
    if "://" in target:
        return MLflowTracker(target)
    return MLflowTracker(Path(target) if target else folder.parent / "mlruns")


_MAKERS: Final[Mapping[str, Callable[[str, Path], Tracker]]] = MappingProxyType(
    {"jsonl": _jsonl, "tensorboard": _tensorboard, "mlflow": _mlflow}
)


@dataclass(frozen=True, slots=True)
class TrackerSpec:
    """A tracker by name, and where it writes: a path, for MLflow also an address, "" by the run.

    Raises: ArgumentError for a name that is none.
    """

    name: str
    target: str = ""

    def __post_init__(self) -> None:
        if self.name not in _MAKERS:
            near = get_close_matches(self.name, _MAKERS, n=1)
            raise ArgumentError(
                f"there is no tracker {self.name!r:.60}",
                why=f"there are {', '.join(_MAKERS)}",
                fix=f"did you mean {near[0]}?" if near else "take one of these",
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """The tracker of a text `name` or `name=target`.

        >>> TrackerSpec.parse("mlflow=http://localhost:5000")
        TrackerSpec(name='mlflow', target='http://localhost:5000')
        """
        name, _, target = text.partition("=")
        return cls(name.strip(), target.strip())

    def open(self, folder: Path) -> Tracker:
        """The tracker of the run in `folder`. Raises: InstallError without its package."""
        return _MAKERS[self.name](self.target, folder)


class Trackers:
    """Several trackers as one, of which one that fails is reported and then left alone.

    `failed` is told the name of a tracker and what it raised; the run goes on, because all that
    counts is in its folder. But who cannot even start is refused, while nothing has been computed.
    """

    def __init__(
        self,
        specs: Sequence[TrackerSpec],
        folder: Path,
        *,
        failed: Callable[[str, Exception], None],
    ) -> None:
        self._running = {spec: spec.open(folder) for spec in specs}
        self._failed = failed

    def start(self, run: RunRecord, *, config: Mapping[str, Json], first_round: int = 0) -> None:
        """Raises: ArgumentError if one of them cannot."""
        for spec, tracker in self._running.items():
            try:
                tracker.start(run, config=config, first_round=first_round)
            except FedcoreError:
                raise
            except Exception as error:
                raise ArgumentError(
                    f"the tracker {spec.name} cannot start",
                    where=spec.target,
                    why=f"{type(error).__name__}: {error}",
                    fix="correct where it writes to, or run without it",
                ) from error

    def round(self, record: RoundRecord) -> None:
        """Tells all that still run."""
        self._tell(lambda tracker: tracker.round(record))

    def end(self, result: Result | None) -> None:
        """Tells all that still run."""
        self._tell(lambda tracker: tracker.end(result))

    def _tell(self, call: Callable[[Tracker], None]) -> None:
        for spec, tracker in list(self._running.items()):
            try:
                call(tracker)
            except Exception as error:
                del self._running[spec]
                self._failed(spec.name, error)
