"""What to expect of a scenario's rounds before the first of them, and what to warn of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedcore.rounds import Phase
from fedsim.clock.course import milliseconds
from fedsim.clock.terms import Terms
from fedsim.clock.work import Work
from fedsim.devices import Devices, Profiles, Stage

__all__ = ["Forecast", "forecast"]

_SAMPLE: Final = 1000
_LARGEST_FACTOR: Final = 10  # of overselection
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
    needed = max(policy.minimum, terms.summed(policy.select))
    found: list[str] = []
    if policy.select * rate < needed:
        found.append(
            f"{policy.select * rate:.1f} of {policy.select} clients are expected to report, and"
            f" {needed} have to: most attempts will be given up; "
            + _remedy(terms, len(devices), rate, fast)
        )
    elif policy.select * rate < policy.goal:
        found.append(
            f"{policy.select * rate:.1f} of {policy.select} clients are expected to report, and"
            f" {policy.goal} are waited for: most rounds will last until their deadline;"
            f" {_selecting(terms, len(devices), rate, policy.goal)}lower cohort.goal"
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


def _remedy(terms: Terms, clients: int, rate: float, fast: NDArray[np.bool_]) -> str:
    """What would do, where such a share of those that are selected reports."""
    easier = "lower dropout" if fast.all() else "lengthen deadlines.compute_s and upload_s"
    minimum = terms.policy.minimum
    return _selecting(terms, clients, rate, minimum) + _losing(terms, rate, minimum) + easier


def _selecting(terms: Terms, clients: int, rate: float, wanted: int) -> str:
    """How many to select for so many reports to be expected, and their sum to be opened."""
    goal = terms.policy.goal
    for select in range(terms.policy.select, _LARGEST_FACTOR * goal + 1):
        if select * rate >= max(wanted, terms.summed(select)):
            more = f"simulate {select} clients and " if select > clients else ""
            return f"{more}set cohort.overselection = {10**5 * select // goal / 10**5:g}, or "
    return ""


def _losing(terms: Terms, rate: float, wanted: int) -> str:
    """Which delta opens the sum of as many reports as are expected."""
    if terms.session is None:
        return ""
    select = terms.policy.select
    for hundredths in range(ceil(100 * terms.session.delta) + 1, 50):
        session = replace(terms.session, delta=Fraction(hundredths, 100))
        if select * rate >= max(wanted, replace(terms, session=session).summed(select)):
            return f"set secure_aggregation.delta = {hundredths / 100:g}, or "
    return ""
