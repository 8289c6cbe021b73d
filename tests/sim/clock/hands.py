"""Devices whose numbers are set by hand, and the policies that the tests of clocks share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedcore.rounds import CLIENT_PHASES, Phase, RoundPolicy
from fedsim.clock import Terms, Work
from fedsim.devices import NEVER, Devices, DevicesSpec, Profiles, Stage
from fedsim.devices.availability import Places, Times

INF = float("inf")
SECOND = 1000


@dataclass
class Device:
    """Examples/s, bytes/s, seconds, probabilities, and the windows in which it is there, in s."""

    compute: float = INF
    download: float = INF
    upload: float = INF
    latency_s: float = 0.0
    dropout: Mapping[Stage, float] = field(default_factory=dict)
    there: Sequence[tuple[float, float]] = ((0.0, INF),)


class Windows:
    """Availability by hand."""

    def __init__(self, devices: Sequence[Device]) -> None:
        self._of = [
            [(round(1000 * b), NEVER if e == INF else round(1000 * e)) for b, e in device.there]
            for device in devices
        ]

    def window(self, clients: Places, at: int) -> tuple[Times, Times]:
        found = [
            next((window for window in self._of[client] if window[1] > at), (NEVER, NEVER))
            for client in clients.tolist()
        ]
        both = np.array(found, np.int64).reshape(-1, 2)
        return both[:, 0], both[:, 1]

    def windows(self, clients: Places, at: int) -> tuple[Times, Times]:
        found = [w for client in clients.tolist() for w in self._of[client] if w[1] > at]
        both = np.array(found, np.int64).reshape(-1, 2)
        return both[:, 0], both[:, 1]

    def longest(self, clients: Places) -> Times:
        lengths = [[end - begin for begin, end in self._of[one]] for one in clients.tolist()]
        return np.array([min(NEVER, max(some, default=0)) for some in lengths], np.int64)


class Hands(Devices):
    """These very devices, of clients with these names."""

    def __init__(
        self, devices: Sequence[Device], *, names: Sequence[str] | None = None, seed: int = 7
    ) -> None:
        super().__init__(
            DevicesSpec(), seed=seed, names=names or [f"{i}" for i in range(len(devices))]
        )
        self._devices = list(devices)
        self.availability = Windows(self._devices)

    def profiles(self, clients: Places) -> Profiles:
        chosen = [self._devices[client] for client in clients.tolist()]

        def column(name: str) -> Any:
            return np.array([getattr(one, name) for one in chosen], np.float64)

        dropout = [[one.dropout.get(stage, 0.0) for stage in Stage] for one in chosen]
        return Profiles(
            kinds=np.zeros(len(chosen), np.int64),
            compute=column("compute"),
            download=column("download"),
            upload=column("upload"),
            latency_s=column("latency_s"),
            dropout=np.array(dropout, np.float64).reshape(-1, len(Stage)),
        )


def terms(
    *,
    goal: int,
    minimum: int | None = None,
    select: int | None = None,
    seconds: Mapping[Phase, float] | None = None,
    secure: bool = False,
    confirming: bool = False,
    max_attempts: int = 1,
    silence_s: float = 20,
    compute_s: float = 1000,
    **more: Any,
) -> Terms:
    """The terms of a round; each phase lasts 100 s at most, unless `seconds` say otherwise."""
    lasts = dict.fromkeys((Phase.SELECTING, *CLIENT_PHASES), 100.0) | dict(seconds or {})
    policy = RoundPolicy(
        goal=goal,
        minimum=minimum or goal,
        select=select or goal,
        durations={phase: round(1000 * value) for phase, value in lasts.items()},
        secure=secure,
        confirming=confirming,
        max_attempts=max_attempts,
    )
    return Terms(policy, round(1000 * silence_s), round(1000 * compute_s), **more)


def work(*examples: int, model: int = 1000, update: int = 500, **more: Any) -> Work:
    """A model of 1,000 bytes and an update of 500, for clients with so many examples each."""
    return Work(model, update, np.array(examples, np.int64), **more)
