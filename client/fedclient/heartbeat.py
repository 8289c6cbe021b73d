"""A sign of life from a thread of its own, for as long as a client works on an assignment."""

from __future__ import annotations

import threading
from typing import Self

from fedclient.connection import Connection
from fedclient.stopping import Stop
from fedcore.errors import CancelledError, FedcoreError, NotFoundError, PhaseError, RoundOverError

__all__ = ["Heartbeat"]

_CALL_S = 10.0


class Heartbeat:
    """Beats every `interval_s` while it is entered; sets `work` when the assignment is over.

    `share`: how much of the local work is done, 0 to 1, for the server's dashboard.
    """

    def __init__(
        self, connection: Connection, assignment_id: bytes, *, interval_s: float, work: Stop
    ) -> None:
        self._connection, self._assignment_id = connection, assignment_id
        self._interval_s, self._work = interval_s, work
        self._over = Stop()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self.share = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._interval_s):
            try:
                self._beat()
            except (NotFoundError, PhaseError, RoundOverError) as error:
                self._work.set(error.what)
            except CancelledError:
                return
            except FedcoreError:
                continue  # one lost beat is forgiven; the next may arrive

    def _beat(self) -> None:
        from fedcore.v1.client_service_pb2 import HeartbeatRequest

        request = HeartbeatRequest(
            assignment_id=self._assignment_id, progress=round(1000 * min(max(self.share, 0), 1))
        )
        answer = self._connection.start(
            self._connection.clients.Heartbeat, request, timeout_s=_CALL_S
        ).result(self._over)
        if answer.cancel:
            self._work.set(answer.reason or "the server ended the assignment")
