"""The small server's part that holds rounds: who takes part, what is awaited, and the sums."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from fedcore.federated.models import initial_theta
from fedcore.federated.parameters import parameters_of
from fedcore.federated.task import Task
from fedcore.model_format import encode_model
from fedcore.secagg import SecAggServer, Stage, accumulate, new_accumulator, total_of, unmask
from fedcore.v1 import round_service_pb2
from tests.client.authority import Authority
from tests.client.enrolling import FakeEnrolment
from tests.client.seats import Seat

__all__ = ["FakeRounds"]


class FakeRounds(FakeEnrolment):
    """Rounds of `task` for `goal` clients; `manual`: a stage is closed by the test alone."""

    def __init__(self, task: Task, *, goal: int, rounds: int, authority: Authority) -> None:
        super().__init__(authority)
        self.task, self.goal, self.rounds = task, goal, rounds
        arrays = task.model.arrays
        self.theta = np.zeros(task.dimension, np.float32) if arrays else initial_theta(task)
        self.models = dict[bytes, bytes]()
        self.round, self.attempt = 0, 1
        self.seats: dict[bytes, Seat] = {}
        self.totals: list[list[Any]] = []
        self.ended: dict[int, tuple[int, str]] = {}
        self.session: SecAggServer | None = None
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.manual = False
        self._open_round()

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 20) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, timeout_s), "the server waited in vain"

    def _open_round(self) -> None:
        data = b"".join(
            encode_model(
                self.theta,
                parameters_of(self.task),
                metadata={"round": str(self.round), "attempt": "0"},
            )
        )
        self.digest = hashlib.sha256(data).digest()
        self.models[self.digest] = data
        if self.task.secure_aggregation is not None:
            self.session = SecAggServer(
                self.task.session_config(),
                model_digest=self.digest,
                round=self.round,
                attempt=self.attempt,
                trust=self.trust,
                now=int(time.time()) + 600,
            )

    def present(self) -> list[Seat]:
        place = (self.round, self.attempt)
        return [seat for seat in self.seats.values() if (seat.round, seat.attempt) == place]

    def sealed(self) -> list[Seat]:
        return [seat for seat in self.present() if seat.upload and seat.upload.sealed]

    def go_on(self) -> None:
        """Closes what nobody is awaited for any more."""
        if self.manual:
            return
        here = self.present()
        if len(here) < self.goal or self.round in self.ended:
            return
        if self.session is None:
            if len(self.sealed()) == len(here):
                self._sum_up(here)
            return
        stage = self.session.stage
        ready = (
            len(self.session.advertised) >= self.goal
            if stage is Stage.PREKEYS
            else not self.session.pending
        )
        if stage is not Stage.OPENED and ready:
            self.close(stage)
            self.go_on()

    def close(self, stage: Stage) -> None:
        assert self.session is not None
        self.session.close(stage)
        if self.session.stage is Stage.OPENED:
            survivors = self.session.survivors
            self._sum_up([seat for seat in self.present() if seat.client in survivors])
        self.changed.notify_all()

    def _sum_up(self, seats: list[Seat]) -> None:
        layout = self.task.layout
        total = new_accumulator(layout)
        for seat in seats:
            assert seat.upload is not None
            for frame in layout.frames():
                data = seat.upload.data[frame.byte : frame.byte + frame.size]
                accumulate(total, layout, frame.byte, data)
        if self.session is not None:
            unmask(total, self.session.plan())
        self.totals.append([block.copy() for block in total_of(total, layout)])
        self.end(round_service_pb2.Finished.OUTCOME_COMPLETED)

    def end(self, outcome: int, reason: str = "") -> None:
        with self.changed:
            self.ended[self.round] = (outcome, reason)
            self.changed.notify_all()

    def next_round(self, *, attempt: bool = False) -> None:
        with self.changed:
            if attempt:
                self.attempt += 1
                self.ended.pop(self.round, None)
            else:
                self.round, self.attempt = self.round + 1, 1
            self._open_round()
            self.changed.notify_all()
