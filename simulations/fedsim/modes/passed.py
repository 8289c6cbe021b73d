"""How a round went in numbers, whatever its schedule: what its record will say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from fedsim.clock import Cause, RoundTimeline, ServerStep

__all__ = ["Passed"]


@dataclass(frozen=True, slots=True)
class Passed:
    """Times in virtual milliseconds; how many came how far, and were lost, by phase and cause."""

    begin: int
    end: int
    attempts: int
    selected: int
    reported: int
    funnel: Mapping[str, int]
    lost: Mapping[str, Mapping[str, int]]
    bytes_down: int
    bytes_up: int

    @classmethod
    def of_timeline(cls, timeline: RoundTimeline) -> Self:
        """A round of attempts; who was lost, in all of them."""
        attempt = timeline.last
        funnel = {"selected": len(attempt.cohort)}
        for transition in attempt.transitions:
            if transition.cohort:
                funnel.setdefault(transition.to_phase.value.lower(), len(transition.cohort))
        lost: dict[str, Counter[str]] = {}
        for each in timeline.attempts:
            for (phase, cause), count in each.funnel.items():
                lost.setdefault(phase.value.lower(), Counter())[cause.value] += count
        return cls(
            begin=timeline.begin,
            end=timeline.end,
            attempts=len(timeline.attempts),
            selected=len(attempt.cohort),
            reported=len(attempt.survivors),
            funnel={**funnel, "reported": len(attempt.survivors)},
            lost=lost,
            bytes_down=sum(each.bytes_down for each in timeline.attempts),
            bytes_up=sum(each.bytes_up for each in timeline.attempts),
        )

    @classmethod
    def of_step(cls, step: ServerStep, *, failed: int) -> Self:
        """A step of a buffered schedule, since the one before it.

        `failed`: clients of whose updates that the schedule takes there is none.
        """
        lost = Counter(waste.cause.value for waste in step.wasted)
        if failed:
            lost[Cause.FAILED.value] += failed
        reported = len(step.updates) - failed
        started = len(step.updates) + len(step.wasted)
        return cls(
            begin=step.begin,
            end=step.at,
            attempts=1,
            selected=started,
            reported=reported,
            funnel={"started": started, "reported": reported},
            lost={"collecting": lost} if lost else {},
            bytes_down=step.traffic.down,
            bytes_up=step.traffic.up,
        )
