"""What FedBuff's clock finds, step by step, and no farther ahead than whoever trains has to see."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from fedsim.clock.timeline import Cause
from fedsim.clock.work import Traffic

__all__ = ["BufferedSchedule", "ServerStep", "Start", "Update", "Waste"]


class Start(NamedTuple):
    """A client begins to train from a `version` of the model, for the `turn`-th time, from 1."""

    client: int
    version: int
    turn: int
    at: int


class Update(NamedTuple):
    """A start's update that was taken: when it came, and how old and how heavy it then was."""

    start: Start
    at: int
    staleness: int
    weight: float


class Waste(NamedTuple):
    """A start of which nothing was used, and why."""

    start: Start
    cause: Cause
    at: int


@dataclass(frozen=True, slots=True)
class ServerStep:
    """The step that makes version `version + 1` of these updates, in the order in which they came.

    `begin`: when the step before was made. `wasted`: what was lost or too stale since then.
    `traffic`: bytes since then. `oldest`: no later step takes an update of an older version.
    """

    version: int
    begin: int
    at: int
    updates: tuple[Update, ...]
    wasted: tuple[Waste, ...]
    traffic: Traffic
    oldest: int


class BufferedSchedule:
    """Step `first` of `steps`, which begin with step 0, and those after it, of `count` in all.

    Steps are asked for in their order. Those before are forgotten, and of those after as many are
    found as it takes until nobody trains any more from the version that the step begins with.
    """

    def __init__(self, steps: Iterator[ServerStep], *, count: int, first: int = 0) -> None:
        self._walk = islice(steps, count)
        self._number = first
        self._ahead: deque[ServerStep] = deque()
        self._uses: dict[int, dict[Start, int]] = {}
        self._last: ServerStep | None = None
        self._is_over = False

    def step(self, number: int) -> ServerStep:
        """This step, no earlier than the one asked for before. Raises: what the walk raises."""
        assert number >= self._number, "a schedule is followed forwards"
        self._number = number
        while self._ahead and self._ahead[0].version < number:
            self._forget(self._ahead.popleft())
        while not self._is_over and (self._last is None or self._last.oldest <= number):
            self._find()
        return self._ahead[0]

    def starts(self, version: int) -> tuple[Start, ...]:
        """Whom to train from a version for the step asked for last or a later one, as they began.

        They are known of that step's own version and all before it.
        """
        return tuple(sorted(self._uses.get(version, ()), key=lambda one: (one.at, one.turn)))

    def is_needed(self, version: int) -> bool:
        """Whether a step after the one asked for last takes an update of this version."""
        return any(used > self._number for used in self._uses.get(version, {}).values())

    def _find(self) -> None:
        found = next(self._walk, None)
        if found is None:
            self._is_over = True
            return
        self._last = found
        if found.version < self._number:
            return
        self._ahead.append(found)
        for update in found.updates:
            self._uses.setdefault(update.start.version, {})[update.start] = found.version

    def _forget(self, step: ServerStep) -> None:
        for update in step.updates:
            uses = self._uses[update.start.version]
            del uses[update.start]
            if not uses:
                del self._uses[update.start.version]
