"""One assignment from beginning to end: the task is checked, worked on, and what came of it told.

What the server assigned is done only for a task that its author signed, that the owner allows, and
whose data and program are here.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from fedclient.assignment import OpenAssignment
from fedclient.connection import Connection, is_passing
from fedclient.endings import Ended
from fedclient.participation import Device, Participation, sealed
from fedclient.progress import Energy, Outcome, Progress, Stage, Summary
from fedclient.release import check_budget
from fedclient.stopping import Stop
from fedclient.work import Worker
from fedcore.errors import (
    CancelledError,
    ConnectError,
    DatasetError,
    DevicePolicyError,
    EnvelopeError,
    NotFoundError,
    RefusedError,
)
from fedcore.failpoints import failpoint

if TYPE_CHECKING:
    from fedcore.data import Dataset
    from fedcore.federated.contribution import Contributor
    from fedcore.federated.programs import Program
    from fedcore.federated.task import Task
    from fedcore.v1.common_pb2 import FailureCode

__all__ = ["KnownTask", "Tasks", "take_part"]

_REPORT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class KnownTask:
    """A task, the Ed25519 key of who signed it, and this device's part in it, made when needed."""

    task: Task
    author: bytes
    contributor: Contributor | None = None


class Tasks:
    """The tasks that this process has worked on, so that nothing is compiled twice.

    `programs`: what the owner installed, by name. `worker`: the thread in which all of them work.
    """

    _MOST = 4

    def __init__(self, programs: Mapping[str, Program]) -> None:
        self._programs, self.worker = programs, Worker()
        self._known: dict[bytes, KnownTask] = {}

    def find(self, assignment: OpenAssignment, connection: Connection, stop: Stop) -> KnownTask:
        """The task of an assignment. Raises: EnvelopeError, TaskError if it is another."""
        found = self._known.get(assignment.task_digest)
        if found is None:
            found = _fetched(assignment, connection, stop)
            while len(self._known) >= self._MOST:
                del self._known[next(iter(self._known))]
            self._known[assignment.task_digest] = found
        return found

    def contributor(self, known: KnownTask) -> Contributor:
        """What makes the updates. Raises: ProgramError for a program or model that is not here."""
        from fedcore.federated.contribution import Contributor

        if known.contributor is None:
            made = Contributor(known.task, programs=self._programs)
            known = KnownTask(known.task, known.author, made)
            self._known[known.task.digest] = known
        assert known.contributor is not None
        return known.contributor


def take_part(
    device: Device, assignment: OpenAssignment, *, tasks: Tasks, datasets: Mapping[str, Dataset]
) -> Summary:
    """Works on an assignment until it is over, reports, and closes it.

    Raises: CancelledError if the owner stops it, ConnectError, or a RefusedError that passes: it
    stays open. ClientStateError if it cannot be closed.
    """
    task: Task | None = None
    try:
        known = tasks.find(assignment, device.connection, device.stop)
        task = known.task
        device.policy.check_task(known.task, author=known.author)
        _require_new(device, assignment)
        check_budget(device.policy, device.state, assignment, task=known.task)
        ended = Participation(
            device,
            assignment,
            task=known.task,
            dataset=_bound(datasets, known.task.data.dataset),
            contributor=tasks.contributor(known),
            worker=tasks.worker,
        ).run()
    except (CancelledError, ConnectError):
        raise
    except NotFoundError as error:
        ended = Ended(Outcome.DROPPED, error.what)
    except Exception as error:
        device.stop.check()
        if isinstance(error, RefusedError) and is_passing(error):
            raise  # the server has no room now: the assignment stays open
        ended = Ended.by_error(error)
    return _closed(device, task, ended)


def _fetched(assignment: OpenAssignment, connection: Connection, stop: Stop) -> KnownTask:
    from fedcore.federated.task import Task
    from fedcore.v1.client_service_pb2 import GetTaskRequest
    from fedcore.wire.envelope import TASK, Place, opened

    request = GetTaskRequest(task_id=assignment.task_id)
    envelope = connection.call(connection.clients.GetTask, request, stop=stop).task
    canonical = opened(envelope, method=TASK, place=Place(), key=envelope.key_id)
    task = Task.from_canonical(canonical)
    if not hmac.compare_digest(task.digest, assignment.task_digest):
        raise EnvelopeError(
            "the task is not the one that was assigned",
            why="its digest is another",
            fix="report it to the operator",
        )
    return KnownTask(task, envelope.key_id)


def _require_new(device: Device, assignment: OpenAssignment) -> None:
    """That this attempt was not worked on before: the owner's bounds count one update for each."""
    if device.state.charge(assignment).outcome:
        raise DevicePolicyError(
            f"attempt {assignment.attempt} at round {assignment.round + 1} is assigned again",
            why="this device's part in it is over, and it gives no second update",
            fix="report it to the operator: a server assigns each attempt once",
        )


def _bound(datasets: Mapping[str, Dataset], name: str) -> Dataset:
    if name not in datasets:
        known = ", ".join(sorted(datasets)) or "none"
        raise DatasetError(
            f"no data are bound to the name {name!r:.80}",
            why=f"the task asks for them; here there are: {known}",
            fix="bind them: fed client run --data name=path",
        )
    return datasets[name]


def _closed(device: Device, task: Task | None, ended: Ended) -> Summary:
    """Tells the server and the owner, and forgets what served this attempt alone."""
    assignment = device.state.assignment
    assert assignment is not None
    name = assignment.task_id if task is None else task.name
    charge = device.state.charge(assignment)
    failpoint("client.before_report")
    try:
        _report(device, assignment, ended, private=task is None or task.privacy is not None)
    except RefusedError as error:
        detail = f"the report was refused: {error.what}"
        device.tell(
            Progress(Stage.FINISHED, name, assignment.round, assignment.attempt, detail=detail)
        )
    device.aggregation.finish(assignment.sid, opened=ended.outcome is Outcome.COMPLETED)
    device.state.finish(assignment, ended.outcome, reason=ended.detail)
    summary = Summary(
        task=name,
        round=assignment.round,
        attempt=assignment.attempt,
        outcome=ended.outcome,
        reason=ended.reason,
        bytes_up=charge.bytes_up,
        bytes_down=charge.bytes_down,
        seconds=charge.seconds,
        energy=charge.energy,
        warning=charge.warning,
    )
    detail = ended.outcome.value + (f", {ended.reason}" if ended.reason else "")
    device.tell(Progress(Stage.FINISHED, name, assignment.round, assignment.attempt, detail=detail))
    return summary


def _report(device: Device, assignment: OpenAssignment, ended: Ended, *, private: bool) -> None:
    """`private`: what the work cost is kept here, for it grows with the data."""
    from fedcore.v1.round_service_pb2 import Report, ReportRequest

    charge = device.state.charge(assignment)
    energy = Energy() if private else charge.energy
    payload = Report(
        assignment_id=assignment.assignment_id,
        failure=cast("FailureCode.ValueType", ended.failure),
        detail=ended.detail,
        bytes_up=charge.bytes_up,
        bytes_down=charge.bytes_down,
        energy_j=energy.joules,
        energy_measured=energy.measured,
        terms=device.terms,
    ).SerializeToString(deterministic=True)
    envelope = sealed(device.identity, assignment, payload, "RoundService.Report")
    device.connection.call(
        device.connection.rounds.Report,
        ReportRequest(report=envelope),
        stop=device.stop,
        patience_s=_REPORT_S,
    )
