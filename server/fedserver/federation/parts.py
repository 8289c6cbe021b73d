"""A client's part in a round: what it is told, what it sends, and how it ends.

What it asks goes to the attempt of its assignment; one that is over is answered from the store.
"""

from __future__ import annotations

import asyncio
from typing import Final

from fedcore.errors import PhaseError
from fedcore.rounds import CLIENT_PHASES, Arrived, Lost, Phase
from fedcore.secagg import Message
from fedcore.secagg.messages import Advertise, Complaint, Confirmation, Shares, UnmaskAnswer
from fedcore.wire.envelope import Place
from fedserver.authorisation import Caller
from fedserver.federation.attempt import Attempt
from fedserver.federation.hosting import Tasks, unknown
from fedserver.federation.interface import (
    Beat,
    FailureCode,
    Finished,
    Instruction,
    Outcome,
    Report,
    Wait,
)
from fedserver.federation.orders import FINISHED, instruction, wait
from fedserver.store.records import (
    AssignmentRecord,
    AssignmentReport,
    AssignmentState,
    RoundRef,
)

__all__ = ["Parts", "require_open", "untimely"]

_PHASE_OF: Final = {
    Advertise: Phase.KEYS,
    Shares: Phase.SHARES,
    Confirmation: Phase.CONFIRMING,
    UnmaskAnswer: Phase.UNMASKING,
}
_REFUSALS: Final = {
    FailureCode.POLICY_REFUSED,
    FailureCode.PROGRAM_MISSING,
    FailureCode.DATA_MISSING,
}
_OUTCOME: Final = {
    AssignmentState.ACTIVE: Outcome.ABANDONED,
    AssignmentState.COMPLETED: Outcome.COMPLETED,
    AssignmentState.FAILED: Outcome.DROPPED,
    AssignmentState.DROPPED: Outcome.DROPPED,
    AssignmentState.CANCELLED: Outcome.ABANDONED,
}


class Parts(Tasks):
    """What assignments are asked and told."""

    async def heartbeat(self, caller: Caller, assignment_id: bytes, /, *, progress: int) -> Beat:
        """Notes a sign of life. `progress`: the finished share of the work, 0 to 1000."""
        assignment = await self._assignment(caller, assignment_id)
        attempt = self._attempt(assignment.ref)
        if attempt is None:
            found = await self._over(assignment, seen=0)
            over = isinstance(found.order, Finished)
            return Beat(over, found.deadline_ms, reason="the round is over" if over else "")
        attempt.cohort.hear(caller.id)
        told = _instruction(attempt, caller.id, seen=0)
        if told is not None and isinstance(told.order, Finished):
            return Beat(cancel=True, deadline_ms=0, reason=told.order.reason)
        return Beat(cancel=False, deadline_ms=attempt.state.deadline or 0)

    async def next(
        self, caller: Caller, assignment_id: bytes, /, *, seen: int, wait_s: float
    ) -> Instruction:
        """The instruction after number `seen`, for which it waits up to `wait_s` seconds."""
        assignment = await self._assignment(caller, assignment_id)
        loop = asyncio.get_running_loop()
        end = loop.time() + wait_s
        while (attempt := self._attempt(assignment.ref)) is not None:
            attempt.cohort.hear(caller.id)
            if (found := _instruction(attempt, caller.id, seen=seen)) is not None:
                return found
            left = end - loop.time()
            if left <= 0 or self._draining:
                return wait(attempt.state, seen=seen)
            with attempt.cohort.listening(caller.id):
                await attempt.page.turned(left)
        return await self._over(assignment, seen=seen)

    async def place(
        self, caller: Caller, /, *, assignment_id: bytes = b"", upload_id: bytes = b""
    ) -> Place:
        """The round and nonce to which envelopes of the caller's assignment, or upload, are bound.

        Raises: NotFoundError unless it is the caller's.
        """
        if upload_id:
            upload = await self._store.upload(upload_id)
            if upload is None or upload.client_id != caller.id:
                raise unknown("upload")
            assignment_id = upload.assignment_id
        found = await self._assignment(caller, assignment_id)
        return Place(found.ref.task_id, found.ref.round, found.ref.attempt, found.nonce)

    async def secagg(self, caller: Caller, assignment_id: bytes, message: Message, /) -> None:
        """Takes a client's message: durable, or refused. The same bytes again change nothing."""
        assignment = await self._assignment(caller, assignment_id)
        attempt = self._required(assignment.ref)
        if attempt.masked is None:
            raise untimely(attempt, "the round does not aggregate securely")
        attempt.cohort.hear(caller.id)
        require_open(attempt)
        phase = _PHASE_OF.get(type(message))
        if phase is not None and not attempt.state.takes(phase, caller.id):
            raise untimely(attempt, f"a {type(message).__name__} belongs to {phase.value}")
        if phase is None and not isinstance(message, Complaint):
            raise untimely(attempt, f"a {type(message).__name__} is sent with an upload")
        await attempt.keep(attempt.masked.take(caller.id, message))
        if phase is not None:
            attempt.post(Arrived(self._resources.clock(), phase, caller.id))

    async def report(self, caller: Caller, report: Report, /) -> None:
        """Ends the caller's part in a round."""
        assignment = await self._assignment(caller, report.assignment_id)
        said = AssignmentReport(
            failure=report.failure,
            detail=report.detail,
            bytes_up=report.bytes_up,
            bytes_down=report.bytes_down,
            energy_j=report.energy_j,
            energy_measured=report.energy_measured,
        )
        await self._store.report(report.assignment_id, said)
        if report.failure is FailureCode.NONE:
            return
        why = report.failure.name.lower()
        await self._store.end_assignment(
            report.assignment_id, AssignmentState.FAILED, failure=report.failure, reason=why
        )
        driver = self._drivers.get(assignment.ref.task_id)
        if driver is not None and report.failure in _REFUSALS:
            driver.left_out.refused(caller.id, why, terms=report.terms)
        if (attempt := self._attempt(assignment.ref)) is not None:
            attempt.post(Lost(self._resources.clock(), caller.id, why))

    async def _assignment(self, caller: Caller, assignment_id: bytes) -> AssignmentRecord:
        """The caller's own. Raises: NotFoundError, and as `_require_here`."""
        for driver in self._drivers.values():
            attempt = driver.attempt
            found = None if attempt is None else attempt.cohort.assignment(caller.id)
            if found is not None and found.assignment_id == assignment_id:
                return found
        kept = await self._store.assignment(assignment_id)
        if kept is None or kept.client_id != caller.id:
            raise unknown("assignment")
        await self._require_here(caller, kept.ref.task_id)
        return kept

    def _required(self, ref: RoundRef) -> Attempt:
        """The running attempt. Raises: PhaseError once it is over."""
        attempt = self._attempt(ref)
        if attempt is None:
            raise PhaseError(
                "the round is over",
                why=f"{ref} is not carried out any more, or not yet again",
                fix="ask what is next",
            )
        return attempt

    async def _over(self, assignment: AssignmentRecord, *, seen: int) -> Instruction:
        """How an attempt that is not in memory has ended, or that it will be taken up again."""
        kept = await self._store.assignment(assignment.assignment_id) or assignment
        record = await self._store.round(assignment.ref)
        if kept.state is AssignmentState.ACTIVE and record is not None:
            return Instruction(seen, record.deadline_ms or 0, Wait())
        digest = b"" if record is None else record.result_digest
        outcome = _OUTCOME[kept.state]
        reason = kept.reason or ("" if record is None else record.reason)
        model = digest if outcome is Outcome.COMPLETED else b""
        return Instruction(FINISHED, 0, Finished(outcome, reason, model))


def _instruction(attempt: Attempt, client: bytes, *, seen: int) -> Instruction | None:
    return instruction(attempt.state, client, seen=seen, train=attempt.train, due=attempt.due)


def require_open(attempt: Attempt) -> None:
    """Raises: PhaseError while a phase is closed, in a thread that has the session for itself.

    Whoever repeats what was taken before finds with the next question that it was.
    """
    if attempt.state.closing or attempt.state.phase not in CLIENT_PHASES:
        raise untimely(attempt, "the phase is being closed")


def untimely(attempt: Attempt, why: str) -> PhaseError:
    """What to raise for a message at the wrong time."""
    return PhaseError(
        f"the message does not fit a round that is {attempt.state.phase.value}",
        why=why,
        fix="ask what is next, and do that",
    )
