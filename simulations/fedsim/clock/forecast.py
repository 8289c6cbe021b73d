"""What to expect of a scenario's rounds before the first of them, and what to warn of."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import FedcoreError
from fedcore.rounds import Phase
from fedsim.clock.course import milliseconds
from fedsim.clock.terms import Terms
from fedsim.clock.work import Work
from fedsim.devices import Devices, Profiles, Stage

__all__ = ["Forecast", "forecast"]

_SAMPLE: Final = 1000
_OPEN: Final = (Stage.TRAINING, Stage.UPLOAD)
_SECURE: Final = (Stage.KEYS, Stage.SHARES, *_OPEN)
_ANSWERING: Final = (Stage.CONFIRMING, Stage.UNMASKING)


@dataclass(frozen=True, slots=True)
class Forecast:
    """`reports`: how many of an attempt's clients are expected to report, `needed`: how many must.

    `in_time`: the share of devices that are fast enough for the deadlines; `kept`: the share that
    is not lost before it reports. `warnings`: what a researcher should know before the first round.
    """

    reports: float
    needed: int
    in_time: float
    kept: float
    warnings: tuple[str, ...]


def forecast(terms: Terms, devices: Devices, work: Work) -> Forecast:
    """What the first attempt at a round comes to in expectation, by up to 1,000 of the devices.

    That clients go away in the middle of a round is not foreseen.
    """
    policy = terms.policy
    clients = devices.order[:_SAMPLE]
    profiles = devices.profiles(clients)
    trained, reported = _times(profiles, work, work.examples[clients])
    fast = (trained <= terms.compute_ms) & (reported <= policy.durations[Phase.COLLECTING])
    kept = _kept(profiles, _SECURE if policy.secure else _OPEN)
    rate = float((fast * kept).mean())
    needed = max(policy.minimum, _summed(terms))
    found: list[str] = []
    if policy.select * rate < needed:
        found.append(
            f"{policy.select * rate:.1f} of {policy.select} clients are expected to report, and"
            f" {needed} have to: most attempts will be given up; {_remedy(rate, needed, fast)}"
        )
    elif policy.select * rate < policy.goal:
        found.append(
            f"{policy.select * rate:.1f} of {policy.select} clients are expected to report, and"
            f" {policy.goal} are waited for: most rounds will last until their deadline; select"
            f" {ceil(policy.goal / rate)}, or lower cohort.goal"
        )
    answers = float(_kept(profiles, _ANSWERING).mean()) if policy.secure else 1.0
    if policy.select * rate >= needed > policy.select * rate * answers:
        found.append(
            f"{100 * (1 - answers):.0f} % of the clients are expected to be lost after they have"
            " reported: many sums will not be opened; plan with a larger secure_aggregation.delta"
        )
    return Forecast(
        reports=policy.select * rate,
        needed=needed,
        in_time=float(fast.mean()),
        kept=float(kept.mean()),
        warnings=tuple(found),
    )


def _times(
    profiles: Profiles, work: Work, examples: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """After how many milliseconds each has trained, and has reported."""
    trains = profiles.latency_s + work.model_bytes / profiles.download + examples / profiles.compute
    return milliseconds(trains), milliseconds(trains + work.update_bytes / profiles.upload)


def _kept(profiles: Profiles, stages: tuple[Stage, ...]) -> NDArray[np.float64]:
    """With which probability each gets through all of these stages."""
    through = [1 - profiles.probability(stage) for stage in stages]
    found: NDArray[np.float64] = np.prod(through, axis=0)
    return found


def _summed(terms: Terms) -> int:
    """The fewest reports of a whole cohort that its session sums; 0 without a session."""
    if terms.session is None:
        return 0
    try:
        return terms.session.parameters(terms.policy.select).minimum_survivors
    except FedcoreError:  # the task's own checks say so, with their remedy
        return 0


def _remedy(rate: float, needed: int, fast: NDArray[np.bool_]) -> str:
    if not rate:
        return "lengthen deadlines.compute_s and upload_s" if not fast.any() else "lower dropout"
    slow = 1 - fast.mean()
    longer = ", or lengthen the deadlines" if slow > 0 else ""
    return f"select {ceil(needed / rate)}{longer}"
