"""What a task asks of its rounds: how many clients, how long, how often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from fedcore.errors import ArgumentError
from fedcore.rounds.phases import CLIENT_PHASES, Phase

__all__ = ["RoundPolicy"]


@dataclass(frozen=True, slots=True)
class RoundPolicy:
    """The terms of every attempt at every round of a task.

    `secure`: reports are masked, so keys, shares and answers are exchanged. `confirming`: clients
    sign the set of survivors first (the profile against a malicious server).
    `select`: clients that are invited. `goal`: reports that are enough, the rest is not waited for.
    `minimum`: reports without which there is no result. `durations`: milliseconds from the
    beginning of a phase to its deadline, for SELECTING and each phase of clients in use.

    Raises: ArgumentError.

    >>> durations = {Phase.SELECTING: 60_000, Phase.COLLECTING: 900_000}
    >>> policy = RoundPolicy(goal=10, minimum=8, select=13, durations=durations)
    >>> [phase.name for phase in policy.phases]
    ['COLLECTING']
    """

    goal: int
    minimum: int
    select: int
    durations: Mapping[Phase, int]
    secure: bool = False
    confirming: bool = False
    max_attempts: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "durations", MappingProxyType(dict(self.durations)))
        if not 1 <= self.minimum <= self.goal <= self.select:
            raise ArgumentError(
                f"minimum {self.minimum}, goal {self.goal} and select {self.select} do not fit",
                why="a round needs at least one report, aims at no fewer than it needs, and cannot"
                " get more reports than clients that it selects",
                fix="choose 1 <= minimum <= goal <= select",
            )
        if self.max_attempts < 1:
            raise ArgumentError(
                f"max_attempts is {self.max_attempts}",
                why="a round without an attempt has no result",
                fix="allow one attempt or more",
            )
        if self.confirming and not self.secure:
            raise ArgumentError(
                "confirming is set, and secure is not",
                why="survivors are confirmed only where secure aggregation unmasks their sum",
                fix="set both, or neither",
            )
        for phase in (Phase.SELECTING, *self.phases):
            if self.durations.get(phase, 0) < 1:
                raise ArgumentError(
                    f"the duration of {phase.name} is {self.durations.get(phase)}",
                    why="every phase that waits for clients needs a deadline",
                    fix="give it a number of milliseconds above 0",
                )

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases of clients that an attempt passes through, in order."""
        if not self.secure:
            return (Phase.COLLECTING,)
        return tuple(p for p in CLIENT_PHASES if self.confirming or p is not Phase.CONFIRMING)

    def following(self, phase: Phase) -> Phase:
        """The phase after SELECTING or a phase of clients."""
        order = (Phase.SELECTING, *self.phases, Phase.AGGREGATING)
        return order[order.index(phase) + 1]

    def needed(self, phase: Phase) -> int:
        """How many clients must be left in a phase for the attempt to go on.

        Whoever is lost up to COLLECTING sends no report. Later the reports are in, and how many
        must still confirm and answer is what the session of the secure aggregation knows: one.
        """
        return 1 if phase in (Phase.CONFIRMING, Phase.UNMASKING) else self.minimum
