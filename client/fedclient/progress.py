"""What a client tells of itself while it takes part: where it is, and how a round ended for it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["Energy", "Outcome", "Progress", "Stage", "Summary"]


class Stage(enum.StrEnum):
    """Where a client stands."""

    WAITING = "waiting"
    ASSIGNED = "assigned"
    DOWNLOADING = "downloading"
    TRAINING = "training"
    UPLOADING = "uploading"
    UPLOADED = "uploaded"
    FINISHED = "finished"


class Outcome(enum.StrEnum):
    """How a client's part in a round ended."""

    COMPLETED = "completed"
    ABANDONED = "abandoned"
    CANCELLED = "cancelled"
    DROPPED = "dropped"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Energy:
    """What work cost. `measured`: read from a counter of the machine, not estimated by its time."""

    joules: float = 0.0
    measured: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of a client's way; its text is one line.

    `share`: of the stage that is done, 0 to 1.

    >>> print(Progress(Stage.TRAINING, task="digits", round=3, share=0.5))
    digits round 3: training 50%
    """

    stage: Stage
    task: str = ""
    round: int = 0
    attempt: int = 0
    share: float | None = None
    detail: str = ""

    def __str__(self) -> str:
        place = f"{self.task} round {self.round}: " if self.task else ""
        attempt = f" (attempt {self.attempt})" if self.attempt > 1 else ""
        share = "" if self.share is None else f" {self.share:.0%}"
        return f"{place}{self.stage}{share}{attempt}" + (f": {self.detail}" if self.detail else "")


@dataclass(frozen=True, slots=True)
class Summary:
    """How one assignment ended. `bytes_up`, `bytes_down`: of models and updates."""

    task: str
    round: int
    attempt: int
    outcome: Outcome
    reason: str = ""
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0
    energy: Energy = Energy()
