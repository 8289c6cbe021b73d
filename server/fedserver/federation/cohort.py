"""The clients of one attempt: who waits to be selected, who was, and who shows signs of life."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from fedserver.store.records import AssignmentRecord, RoundRef

__all__ = ["Cohort", "Waiting"]


@dataclass(slots=True)
class Waiting:
    """A check-in that has no answer yet: `answer` is its assignment, or None where it was left.

    `calls`: how many wait for it, for a network may say one twice.
    """

    request_id: bytes
    calls: int = 1
    answer: asyncio.Future[AssignmentRecord | None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Cohort:
    """Who takes part. `clock`: seconds that never run backwards."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: dict[bytes, Waiting] = {}
        self._assigned: dict[bytes, AssignmentRecord] = {}
        self._heard: dict[bytes, float] = {}
        self._listening: dict[bytes, int] = {}
        self._dropped: set[bytes] = set()

    def enter(self, client: bytes, request_id: bytes) -> Waiting:
        """Notes a call of a check-in; an earlier check-in of the client is left without answer."""
        old = self._waiting.get(client)
        if old is not None and not old.answer.done():
            if old.request_id == request_id:
                old.calls += 1
                return old
            old.answer.set_result(None)
        self._waiting[client] = Waiting(request_id)
        return self._waiting[client]

    @property
    def waiting(self) -> int:
        """How many check-ins have no answer yet."""
        return len(self._waiting)

    def leave(self, client: bytes, waiting: Waiting) -> bool:
        """Notes that a call has ended; whether the check-in waited, and no call of it does now."""
        waiting.calls -= 1
        if waiting.calls or self._waiting.get(client) is not waiting:
            return False
        del self._waiting[client]
        return True

    def waits(self, client: bytes, request_id: bytes) -> bool:
        """Whether a call waits for this check-in."""
        found = self._waiting.get(client)
        return found is not None and found.request_id == request_id

    def selected(
        self, ref: RoundRef, clients: Iterable[bytes], draw: Callable[[int], bytes], *, expires: int
    ) -> list[AssignmentRecord]:
        """An assignment for each client that was selected, to be made durable."""
        return [
            AssignmentRecord(
                assignment_id=draw(16),
                ref=ref,
                client_id=client,
                nonce=draw(32),
                request_id=found.request_id if (found := self._waiting.get(client)) else b"",
                expires_ms=expires,
            )
            for client in sorted(clients)
        ]

    def assign(self, assignments: Iterable[AssignmentRecord]) -> None:
        """Gives out assignments that are durable; who still waits is answered with None."""
        for assignment in assignments:
            client = assignment.client_id
            self._assigned[client] = assignment
            self._heard[client] = self._clock()
            waiting = self._waiting.pop(client, None)
            if waiting is not None and not waiting.answer.done():
                waiting.answer.set_result(assignment)
        self.dismiss()

    def dismiss(self) -> None:
        """Answers everybody who waits with None."""
        for waiting in self._waiting.values():
            if not waiting.answer.done():
                waiting.answer.set_result(None)
        self._waiting.clear()

    @property
    def assignments(self) -> tuple[AssignmentRecord, ...]:
        """Of everybody who was selected."""
        return tuple(self._assigned.values())

    def assignment(self, client: bytes) -> AssignmentRecord | None:
        """A client's assignment, if it was selected."""
        return self._assigned.get(client)

    def drop(self, client: bytes) -> bool:
        """Notes that the round goes on without a client; whether it was not known before."""
        known = client in self._dropped
        self._dropped.add(client)
        return not known

    def hear(self, client: bytes) -> None:
        """Notes a sign of life."""
        self._heard[client] = self._clock()

    @contextmanager
    def listening(self, client: bytes) -> Iterator[None]:
        """A client that waits for an answer lives until its call ends, however it ends."""
        self._listening[client] = self._listening.get(client, 0) + 1
        try:
            yield
        finally:
            self._listening[client] -= 1
            self.hear(client)

    def excuse(self, deaf_s: float) -> None:
        """Counts no silence for seconds in which the server itself could not listen."""
        now = self._clock()
        self._heard = {client: min(at + deaf_s, now) for client, at in self._heard.items()}

    def silent(self, clients: Iterable[bytes], *, longer_than_s: float) -> list[bytes]:
        """Which of these gave no sign of life for so long."""
        since = self._clock() - longer_than_s
        return [
            client
            for client in clients
            if not self._listening.get(client) and self._heard.get(client, since) <= since
        ]

    def restore(self, assignments: Iterable[AssignmentRecord]) -> None:
        """Takes up assignments after a restart, when everybody has to be heard of anew."""
        for assignment in assignments:
            self._assigned[assignment.client_id] = assignment
            self._heard[assignment.client_id] = self._clock()
