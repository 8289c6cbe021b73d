"""What a client tells of itself while it takes part: where it is, and how a round ended for it."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from fedcore.console import plain

__all__ = ["Energy", "Outcome", "Progress", "Sparsely", "Stage", "Summary"]


class Stage(enum.StrEnum):
    """Where a client stands; MEASURED: the model that it was sent, on its own data."""

    WAITING = "waiting"
    ASSIGNED = "assigned"
    DOWNLOADING = "downloading"
    MEASURED = "measured"
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
    """One step of a client's way; its text is one line, on which nothing acts that a server wrote.

    `round` counts from 0, and in the text from 1. `share`: of the stage that is done, 0 to 1.

    >>> print(Progress(Stage.TRAINING, task="digits", round=2, share=0.5))
    digits round 3: training 50%
    """

    stage: Stage
    task: str = ""
    round: int = 0
    attempt: int = 0
    share: float | None = None
    detail: str = ""

    def __str__(self) -> str:
        place = f"{self.task} round {self.round + 1}: " if self.task else ""
        attempt = f" (attempt {self.attempt})" if self.attempt > 1 else ""
        share = "" if self.share is None else f" {self.share:.0%}"
        detail = f": {self.detail}" if self.detail else ""
        return plain(f"{place}{self.stage}{share}{attempt}{detail}")


class Sparsely:
    """Tells of what is new, and of a share once in each tenth of the stage or after 5 seconds.

    `now_s`: of a clock that never goes back.

    >>> tell = Sparsely(print, now_s=lambda: 0.0)
    >>> for hundredth in range(21):
    ...     tell(Progress(Stage.TRAINING, task="digits", round=2, share=hundredth / 100))
    digits round 3: training 0%
    digits round 3: training 10%
    digits round 3: training 20%
    """

    _PARTS, _PAUSE_S = 10, 5.0

    def __init__(
        self, tell: Callable[[Progress], object], *, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._tell, self._now_s = tell, now_s
        self._last, self._told_s = Progress(Stage.WAITING), now_s()

    def __call__(self, progress: Progress) -> None:
        last, share, now_s = self._last, progress.share, self._now_s()
        if (
            share is None
            or last.share is None
            or replace(progress, share=last.share) != last
            or int(share * self._PARTS) != int(last.share * self._PARTS)
            or now_s >= self._told_s + self._PAUSE_S
        ):
            self._last, self._told_s = progress, now_s
            self._tell(progress)


@dataclass(frozen=True, slots=True)
class Summary:
    """How one assignment ended. `bytes_up`, `bytes_down`: of models and updates.

    `warning`: what the owner should know and nobody else is told, as that the program failed and
    its update counted as zeros.
    """

    task: str
    round: int
    attempt: int
    outcome: Outcome
    reason: str = ""
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0
    energy: Energy = Energy()
    warning: str = ""
