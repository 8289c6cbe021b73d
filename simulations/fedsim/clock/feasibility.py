"""Devices of which too few can ever report in time: told before the first round, where certain.

All here is the least that a device may take, and the most that it may have: whoever waits for
others, or is drawn too late, does worse. Of chances only those of 1 count: such a device is lost.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import TaskError
from fedcore.rounds import Phase
from fedsim.clock.course import milliseconds
from fedsim.clock.terms import Terms
from fedsim.clock.work import Work
from fedsim.devices import Devices, Stage
from fedsim.devices.availability import Places, Times

__all__ = ["require_reports"]

_SAMPLE: Final = 1000
_LONGEST_S: Final = 30 * 86400  # of a deadline that a task may set
_OPEN: Final[tuple[Stage, ...]] = (Stage.CHECKED_IN, Stage.TRAINING, Stage.UPLOAD)


def require_reports(terms: Terms, devices: Devices, work: Work, *, needed: int) -> None:
    """Raises: TaskError, with what would do, unless `needed` of the devices can report in time.

    Under secure aggregation one of them has to help to open the sum, too. Others than up to 1,000
    of the devices are looked at only if these are too few.
    """
    stages = _OPEN
    if terms.policy.secure:
        stages = (*_OPEN, Stage.KEYS, Stage.SHARES)
    _require(terms, devices, work, stages, needed, "report in time")
    if terms.policy.secure:
        stages = (*stages, Stage.UNMASKING)
        if terms.policy.confirming:
            stages = (*stages, Stage.CONFIRMING)
        _require(terms, devices, work, stages, 1, "help to open the sum")


def _require(
    terms: Terms,
    devices: Devices,
    work: Work,
    stages: tuple[Stage, ...],
    needed: int,
    act: str,
) -> None:
    """Raises: TaskError unless so many devices can come through all of these stages."""
    if _Reach.of(terms, devices, work, stages, devices.order[:_SAMPLE]).able.sum() >= needed:
        return
    found = _Reach.of(terms, devices, work, stages, devices.order)
    able = int(found.able.sum())
    if able >= needed:
        return
    nearest = found.nearest(needed)
    said = [*nearest.lost_for_certain(terms, devices), *nearest.late(), *nearest.away(devices)]
    raise TaskError(
        f"{able or 'none'} of {len(devices)} devices can ever {act}, and {needed}"
        f" {'has' if needed == 1 else 'have'} to",
        why="; ".join(why for why, _ in said),
        fix="; ".join(fix for _, fix in said),
        where="devices",
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Reach:
    """Of devices (n,), in milliseconds: after which of COLLECTING each has trained, and reported;
    for how long it has to be there, and is. `lost` (n, stages): whether it is lost at each of these
    `stages`, with a probability of 1.

    `compute`, `collecting`: until when it has to have trained and reported.
    """

    trained: Times
    reported: Times
    takes: Times
    there: Times
    lost: NDArray[np.bool_]
    stages: tuple[Stage, ...]
    compute: int
    collecting: int

    @classmethod
    def of(
        cls,
        terms: Terms,
        devices: Devices,
        work: Work,
        stages: tuple[Stage, ...],
        clients: Places,
    ) -> _Reach:
        profiles, policy = devices.profiles(clients), terms.policy
        download = milliseconds(profiles.latency_s + work.model_bytes / profiles.download)
        trained = download + milliseconds(work.examples[clients] / profiles.compute)
        upload = milliseconds(work.update_bytes / profiles.upload)
        ahead = 0  # of COLLECTING; under secure aggregation devices train from KEYS on
        if policy.secure:
            ahead = policy.durations[Phase.KEYS] + policy.durations[Phase.SHARES]
        begun = np.maximum(0, trained - ahead)
        return cls(
            trained=begun,
            reported=begun + upload,
            takes=trained + upload,
            there=devices.availability.longest(clients),
            lost=np.stack([profiles.probability(stage) >= 1 for stage in stages], axis=1),
            stages=stages,
            compute=terms.compute_ms,
            collecting=policy.durations[Phase.COLLECTING],
        )

    @property
    def able(self) -> NDArray[np.bool_]:
        """Who may come through."""
        in_time = (self.trained <= self.compute) & (self.reported <= self.collecting)
        return in_time & (self.takes < self.there) & ~self.lost.any(axis=1)

    def nearest(self, count: int) -> _Reach:
        """Those who come through, and so many others that are soonest done that `count` are."""
        keys = (self.reported, self.there == 0, self.lost.any(axis=1), ~self.able)
        chosen = np.lexsort(keys)[:count]
        return replace(
            self,
            trained=self.trained[chosen],
            reported=self.reported[chosen],
            takes=self.takes[chosen],
            there=self.there[chosen],
            lost=self.lost[chosen],
        )

    def lost_for_certain(self, terms: Terms, devices: Devices) -> list[tuple[str, str]]:
        """At which stages these are lost, and with which probability half as many as may be."""
        at = [
            stage.value for stage, lost in zip(self.stages, self.lost.T, strict=True) if any(lost)
        ]
        if not at:
            return []
        select = terms.policy.select
        spare = select - max(terms.policy.minimum, terms.summed(select))
        share = max(0, 50 * spare // (select * len(at))) / 100
        table = "in [[devices.classes]] " if devices.spec.classes else "devices."
        why = f"whoever is at {' or '.join(at)} is lost there with a probability of 1"
        settings = [f"dropout.{name} = {share:g}" for name in at]
        return [(why, f"set {table}{f' and {table}'.join(settings)}, or less")]

    def late(self) -> list[tuple[str, str]]:
        """What is so of the slowest of these, and which deadlines would do."""
        trained, reported = int(self.trained.max()), int(self.reported.max())
        if trained <= self.compute and reported <= self.collecting:
            return []
        compute_s = max(self.compute / 1000, ceil(trained / 1000))
        upload_s = max((self.collecting - self.compute) / 1000, ceil(reported / 1000 - compute_s))
        done = f"has trained after {trained / 1000:g} s, and reported after {reported / 1000:g} s"
        given = f"{self.compute / 1000:g} s and {self.collecting / 1000:g} s are given"
        fix = f"set deadlines.compute_s = {compute_s:g} and upload_s = {upload_s:g}, or simulate"
        if max(compute_s, upload_s) > _LONGEST_S:
            fix = "simulate"
        return [(f"the slowest that is needed {done}: {given}", f"{fix} faster devices")]

    def away(self, devices: Devices) -> list[tuple[str, str]]:
        """What is so of those who are not there for long enough, and how long would do."""
        short = self.takes >= self.there
        if not short.any():
            return []
        takes, there = int(self.takes[short].max()), int(self.there[short].min())
        fix = f"let them be there for more than {takes / 1000:g} s at a time"
        spec = devices.spec.availability
        if spec.name == "cycle":
            period_s = float(dict(spec.options)["period_s"])  # type: ignore[arg-type]
            share = min(1.0, ceil(takes / period_s + 1) / 1000)
            fix = f"set devices.availability.share = {share:g}, or simulate faster devices"
        return [(f"{takes / 1000:g} s are needed, and who is there stays {there / 1000:g} s", fix)]
