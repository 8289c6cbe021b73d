"""What the devices of a cohort do in time if nobody stops them: numbers, and no decisions."""

from __future__ import annotations

from collections.abc import Set
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedcore.rounds import Phase
from fedcore.tensor.random import Key
from fedsim.clock.timeline import Cause
from fedsim.clock.work import Work
from fedsim.devices import NEVER, Devices, Stage
from fedsim.devices.availability import Places, Times
from fedsim.devices.draws import uniforms

__all__ = ["Course", "milliseconds"]

Rows = NDArray[np.int64]

_STAGES: Final = {
    Phase.KEYS: Stage.KEYS,
    Phase.SHARES: Stage.SHARES,
    Phase.CONFIRMING: Stage.CONFIRMING,
    Phase.UNMASKING: Stage.UNMASKING,
}
_CAUSES: Final = (Cause.AWAY, Cause.DROPPED, Cause.FAILED)
_LONGEST_MS: Final = 2.0**52


def milliseconds(seconds: NDArray[np.float64]) -> Times:
    """Whole milliseconds, at most 140,000 years."""
    return np.minimum(np.rint(1000 * seconds), _LONGEST_MS).astype(np.int64)


class Course:
    """The way of each client through one attempt. Clients are named by their rows, 0 to n - 1.

    `until` (n,): when the window of each ends. `key`: from which follows who is lost, by a client's
    own stream. `failing`: clients whose program fails once they have trained.
    Shapes: gone (n,), from when on each does nothing, and what would end then does not;
    downloaded, begun (n,): when it has the model, and when it begins its upload, or NEVER.
    """

    def __init__(
        self,
        clients: Places,
        *,
        devices: Devices,
        work: Work,
        key: Key,
        until: Times,
        failing: Set[int] = frozenset(),
    ) -> None:
        self._profiles = devices.profiles(clients)
        self._streams, self._key, self._work = devices.streams[clients], key, work
        self._examples = work.examples[clients].astype(np.float64)
        self._failing = np.isin(clients, list(failing)) if failing else np.zeros(len(clients), bool)
        self.gone = until.copy()
        self._why = np.zeros(len(clients), np.int8)
        self.downloaded, self._trained, self.begun = np.full((3, len(clients)), NEVER)
        self._training = False

    @property
    def exchange(self) -> Times:
        """How long each client's message takes to the server and back, (n,)."""
        return milliseconds(self._profiles.latency_s)

    def cause(self, row: int) -> Cause:
        """Why a client does nothing more."""
        return _CAUSES[self._why[row]]

    def leaving(self) -> NDArray[np.bool_]:
        """Who leaves as soon as it has checked in, (n,)."""
        return self._drawn(np.arange(len(self.gone)), Stage.CHECKED_IN)[0]

    def lose(self, rows: Rows, at: Times, cause: Cause) -> None:
        """Lets clients do nothing more from a time on, unless they are gone before."""
        sooner = at < self.gone[rows]
        self.gone[rows[sooner]] = at[sooner]
        self._why[rows[sooner]] = _CAUSES.index(cause)

    def answers(self, phase: Phase, rows: Rows, at: int) -> Times:
        """When the answers to an invitation at `at` are whole at the server; NEVER if they are not.

        Under secure aggregation a device is told with the first answer what to train, and trains
        while keys and shares are exchanged. Shapes: rows (k,) -> (k,).
        """
        if phase is Phase.COLLECTING:
            return self._uploads(rows, at)
        traffic = self._work.traffic(phase)
        profiles = self._profiles
        seconds = traffic.down / profiles.download + traffic.up / profiles.upload
        begins = np.full(len(rows), at)
        ends = begins + milliseconds(profiles.latency_s + seconds)[rows]
        self._drop(rows, _STAGES[phase], begins, ends)
        there = ends < self.gone[rows]
        if phase is Phase.KEYS:
            self._train(rows[there], ends[there])
        return np.where(there, ends, NEVER)

    def missed(self, rows: Rows, at: int, *, silence: int) -> Times:
        """When a server that waits from `at` on notices that clients are gone, (k,).

        A program that failed is reported; else the device is silent for so long.
        """
        failed = self._why[rows] == _CAUSES.index(Cause.FAILED)
        return np.maximum(at, self.gone[rows] + np.where(failed, 0, silence))

    def _train(self, rows: Rows, begins: Times) -> None:
        self._training = True
        profiles = self._profiles
        download = profiles.latency_s + self._work.model_bytes / profiles.download
        there = begins + milliseconds(download)[rows]
        ends = there + milliseconds(self._examples / profiles.compute)[rows]
        self._drop(rows, Stage.TRAINING, begins, ends)
        failing = self._failing[rows]
        self.lose(rows[failing], ends[failing], Cause.FAILED)
        self.downloaded[rows] = np.where(there < self.gone[rows], there, NEVER)
        self._trained[rows] = ends

    def _uploads(self, rows: Rows, at: int) -> Times:
        begins = np.full(len(rows), at)
        if self._training:
            begins += self.exchange[rows]  # it is asked for what it may have had ready
        else:
            self._train(rows, begins)
        begins = np.maximum(begins, self._trained[rows])
        ends = begins + milliseconds(self._work.update_bytes / self._profiles.upload)[rows]
        self.begun[rows] = np.where(begins < self.gone[rows], begins, NEVER)
        self._drop(rows, Stage.UPLOAD, begins, ends)
        return np.where(ends < self.gone[rows], ends, NEVER)

    def _drop(self, rows: Rows, stage: Stage, begins: Times, ends: Times) -> None:
        """Loses who is lost at a stage, somewhere in its course."""
        lost, share = self._drawn(rows, stage)
        moments = begins + (share * (ends - begins)).astype(np.int64)
        self.lose(rows[lost], moments[lost], Cause.DROPPED)

    def _drawn(self, rows: Rows, stage: Stage) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Who is lost at a stage, and after which share of it."""
        probability = self._profiles.probability(stage)[rows]
        if not probability.any():
            return np.zeros(len(rows), bool), np.zeros(len(rows))
        u = uniforms(self._key.fold(stage.value), self._streams[rows])
        return u[:, 0] < probability, u[:, 1]
