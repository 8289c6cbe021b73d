"""One client's way through one attempt at a round: ask what to do next, do it, until it is over.

What the server repeats is answered with the same bytes, so a program that was killed goes on where
it was. The vector that leaves is on the disk before anything is bound to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fedclient.aggregation import Aggregation
from fedclient.assignment import OpenAssignment
from fedclient.connection import CALL_S, Connection
from fedclient.endings import Ended, named
from fedclient.expenses import Expenses
from fedclient.heartbeat import Heartbeat
from fedclient.policy import Policy
from fedclient.progress import Progress, Stage
from fedclient.release import release
from fedclient.state import DAY_MS, State
from fedclient.stopping import Stop
from fedclient.transfer import Source, upload
from fedclient.work import Work, Worker
from fedcore.errors import (
    AbortError,
    CancelledError,
    ClientStateError,
    ConsistencyError,
    PhaseError,
    RoundOverError,
    StageError,
)
from fedcore.failpoints import failpoint
from fedcore.secagg import Identity, IntegerSource, Message, NeedInput, decode, encode
from fedcore.secagg.messages import Advertise, Complaint, Confirmation, Roster, Shares, UnmaskAnswer
from fedcore.secagg.packing import pack, to_wire

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fedcore.data import Dataset
    from fedcore.federated.contribution import Contributor
    from fedcore.federated.task import Task
    from fedcore.v1.common_pb2 import Envelope
    from fedcore.v1.round_service_pb2 import NextResponse, Train

__all__ = ["Device", "Participation", "sealed"]

_WAIT_MS: Final = 20_000
_EARLY_S, _PAUSE_S = 1.0, 0.1
_TOO_LATE: Final = (PhaseError, RoundOverError, StageError, AbortError)


@dataclass(frozen=True)
class Device:
    """What a participation works with, the same for all of them.

    `tell`: of progress. `stop`: of the owner. `stream`: of the device's random numbers. `terms`: of
    the owner, as the server knows them.
    """

    connection: Connection
    state: State
    identity: Identity
    aggregation: Aggregation
    policy: Policy
    models: Path
    stream: int
    stop: Stop
    tell: Callable[[Progress], None]
    terms: bytes = b""


class Participation:
    """The work on `assignment` for a task that the owner allows, with its data and program."""

    def __init__(
        self,
        device: Device,
        assignment: OpenAssignment,
        *,
        task: Task,
        dataset: Dataset,
        contributor: Contributor,
        worker: Worker,
    ) -> None:
        self._device, self._assignment, self._task = device, assignment, task
        self._dataset, self._contributor, self._worker = dataset, contributor, worker
        self._work_stop = Stop()
        self._work: Future[list[NDArray[np.int64]]] | None = None
        self._heartbeat = Heartbeat(
            device.connection,
            assignment.assignment_id,
            interval_s=max(0.05, assignment.heartbeat_ms / 1000),
            work=self._work_stop,
        )

    def run(self) -> Ended:
        """Goes on until the assignment is over, and says how; the caller reports it.

        Raises: CancelledError if the owner stops it, ConnectError: the assignment stays open.
        """
        with self._device.stop.calling(self._work_stop.set):
            try:
                with self._heartbeat:
                    return self._follow()
            finally:
                self._work_stop.set("the assignment is over")

    def _follow(self) -> Ended:
        if self._assignment.train and not self._assignment.uploaded:
            self._start_work()
        while True:
            asked_s = time.monotonic()
            instruction = self._next()
            kind = instruction.WhichOneof("instruction")
            if kind == "finished":
                return Ended.by_server(instruction.finished)
            if kind is None or kind == "wait":
                if time.monotonic() - asked_s < _EARLY_S:  # a server in haste is not hurried on
                    self._device.stop.wait(_PAUSE_S)
                continue
            try:
                self._obey(kind, instruction)
            except (CancelledError, *_TOO_LATE) as error:
                self._device.stop.check()
                self._tell(Stage.WAITING, None, error.what)  # the server says how it ended
            self._save(seen=instruction.number)

    def _next(self) -> NextResponse:
        from fedcore.v1.round_service_pb2 import NextRequest

        request = NextRequest(
            assignment_id=self._assignment.assignment_id,
            seen=self._assignment.seen,
            wait_ms=_WAIT_MS,
        )
        connection = self._device.connection
        return connection.call(
            connection.rounds.Next,
            request,
            stop=self._device.stop,
            timeout_s=_WAIT_MS / 1000 + CALL_S,
        )

    def _obey(self, kind: str, instruction: NextResponse) -> None:
        if kind == "advertise":
            self._advertise()
        elif kind == "train":
            self._train(instruction.train)
        else:
            self._hear(instruction.secure_aggregation)

    # Without secure aggregation to train is to upload; with it the upload is asked for later.

    def _train(self, train: Train) -> None:
        told = train.SerializeToString(deterministic=True)
        if self._assignment.train not in (b"", told):
            # Work on the first may be done: it must not pass for work on the second.
            raise ConsistencyError(
                "an attempt is to train another model than before",
                why="who trains alone on a model of its own shows its update in any sum",
                fix="nothing is given to this attempt; report it to the operator",
            )
        self._save(train=told)
        if self._task.secure_aggregation is None:
            self._give_openly()
        elif self._work is None:
            self._start_work()

    def _start_work(self) -> None:
        if self._work is not None or self._device.state.contribution(self._assignment) is not None:
            return
        from fedcore.federated.clipping import decode_clipping

        train, plan = self._instruction(), self._task.plan
        self._device.policy.check_download(train.model_bytes)
        self._check_cost(train)
        if plan is not None and (clipping := decode_clipping(plan, train.clipping)) is not None:
            self._device.policy.check_clipping(float(clipping.norm))
        work = Work(
            self._task,
            train,
            round=self._assignment.round,
            dataset=self._dataset,
            contributor=self._contributor,
            stream=self._device.stream,
            connection=self._device.connection,
            models=self._device.models,
            stop=self._work_stop,
            expenses=self._expenses(),
            tell=self._tell,
            measured=self._tell_measured,
            failed=self._warn,
        )
        self._work = self._worker.begin(work)

    def _check_cost(self, train: Train) -> None:
        """Holds the owner's day against what of this attempt is still to be moved."""
        state, charge = self._device.state, self._device.state.charge(self._assignment)
        due = train.model_bytes + self._task.layout.upload_bytes
        self._device.policy.check_cost(
            due=max(0, due - charge.bytes_down - charge.bytes_up),
            spent=state.spent(since_ms=time.time_ns() // 1_000_000 - DAY_MS),
        )

    def _give_openly(self) -> None:
        blocks = self._blocks()
        layout = self._task.layout

        def source() -> Iterator[tuple[int, bytes]]:
            for frame in layout.frames():
                block = layout.blocks[frame.block]
                words = pack(block, blocks[frame.block], frame.start, frame.words)
                yield frame.byte, to_wire(words, frame.word_bytes)

        self._release()
        self._upload(b"", source)

    # With it, the machine says what is due.

    def _advertise(self) -> None:
        if not self._assignment.advertised:
            self._save(advertised=self._device.aggregation.advertise())
        self._send(decode(self._assignment.advertised))

    def _hear(self, data: bytes) -> None:
        message = decode(data)
        if isinstance(message, Roster) and not self._assignment.sid:
            self._save(sid=message.sid)
        aggregation = self._device.aggregation
        for effect in aggregation.hear(message, task=self._task, assignment=self._assignment):
            if isinstance(effect, NeedInput):
                self._give_masked(effect)
            else:
                self._send(effect.message)

    def _give_masked(self, need: NeedInput) -> None:
        from fedcore.federated.clipping import announced

        train = self._instruction()
        if need.model_digest != announced(train.model_digest, train.clipping):
            raise ConsistencyError(
                "the session is about another model, or other clipping, than the one to train",
                why="its digest differs from that of the instruction",
                fix="nothing is given to this session; report it to the operator",
            )
        if need.committed and self._device.state.contribution(self._assignment) is None:
            raise ClientStateError(
                "the vector that was committed is gone",
                why="only the very same one may be given to this session",
                fix="nothing is to be done: the client acts as one that was lost",
            )
        aggregation, blocks = self._device.aggregation, self._blocks()
        self._release()
        aggregation.commit(need.sid, blocks)
        self._upload(
            aggregation.header(need.sid, blocks), lambda: aggregation.masked(need.sid, blocks)
        )

    def _send(self, message: Message) -> None:
        from fedcore.v1 import secagg_service_pb2 as messages

        connection = self._device.connection
        service = connection.aggregation
        payload = messages.SecAggMessage(
            assignment_id=self._assignment.assignment_id, message=encode(message)
        ).SerializeToString(deterministic=True)
        stop = self._device.stop
        match message:
            case Advertise():
                signed = self._sealed(payload, "SecAggService.Advertise")
                connection.call(
                    service.Advertise, messages.AdvertiseRequest(message=signed), stop=stop
                )
            case Shares():
                signed = self._sealed(payload, "SecAggService.Share")
                connection.call(service.Share, messages.ShareRequest(message=signed), stop=stop)
            case Complaint():
                signed = self._sealed(payload, "SecAggService.Complain")
                request = messages.ComplainRequest(message=signed)
                connection.call(service.Complain, request, stop=stop)
            case Confirmation():
                signed = self._sealed(payload, "SecAggService.Confirm")
                connection.call(service.Confirm, messages.ConfirmRequest(message=signed), stop=stop)
            case UnmaskAnswer():
                signed = self._sealed(payload, "SecAggService.Answer")
                connection.call(service.Answer, messages.AnswerRequest(message=signed), stop=stop)
            case _:
                raise AssertionError(f"{type(message).__name__} goes by the upload")

    # The vector: made once, kept, and only then given.

    def _blocks(self) -> Sequence[IntegerSource]:
        state = self._device.state
        kept = state.contribution(self._assignment)
        if kept is not None:
            return kept
        self._start_work()
        assert self._work is not None
        blocks = self._work.result()
        state.keep_contribution(self._assignment, blocks)
        return blocks

    def _release(self) -> None:
        release(self._device.policy, self._device.state, self._assignment, task=self._task)

    def _expenses(self) -> Expenses:
        return Expenses(self._device.state, self._assignment)

    def _tell_measured(self, sums: Mapping[str, float]) -> None:
        """Tells the owner how good the model is on the device's own data, whoever else is told."""
        found = {name.removeprefix("evaluation_"): value for name, value in sums.items()}
        examples = found.pop("examples", 0)
        means = [f"{name} {value / max(1, examples):.4g}" for name, value in found.items()]
        self._tell(Stage.MEASURED, None, ", ".join([*means, f"{examples} examples"]))

    def _warn(self, error: Exception) -> None:
        """Tells the owner of a failure, and keeps its sort, for a text may hold what data hold."""
        warning = f"failed here, of which the server is not told: {named(error)}"
        self._device.state.warn(self._assignment, warning)
        self._tell(Stage.TRAINING, None, f"{warning}: {error}")

    def _upload(self, header: bytes, source: Source) -> None:
        size, sent, expenses = self._task.layout.upload_bytes, 0, self._expenses()

        def moved(count: int, size: int) -> None:
            nonlocal sent
            sent += count
            expenses.moved(up=count)
            self._tell(Stage.UPLOADING, min(1.0, sent / size))

        failpoint("client.before_upload")
        try:
            upload(
                self._device.connection,
                self._assignment.assignment_id,
                size=size,
                header=header,
                source=source,
                seal=lambda payload: self._sealed(payload, "UploadService.Commit"),
                stop=self._work_stop,
                moved=moved,
            )
        finally:
            expenses.settle()
        failpoint("client.after_upload")
        self._save(uploaded=True)
        self._tell(Stage.UPLOADED, None)

    def _instruction(self) -> Train:
        from fedcore.v1.round_service_pb2 import Train

        if not self._assignment.train:
            raise ConsistencyError(
                "a vector is asked for before a model was named",
                why="the instruction to train comes first",
                fix="report it to the operator",
            )
        return Train.FromString(self._assignment.train)

    def _sealed(self, payload: bytes, method: str) -> Envelope:
        return sealed(self._device.identity, self._assignment, payload, method)

    def _save(self, **changes: Any) -> None:
        self._assignment = replace(self._assignment, **changes)
        self._device.state.save(self._assignment)

    def _tell(self, stage: Stage, share: float | None, detail: str = "") -> None:
        # Under privacy nobody is told how fast, or in how many steps, the data are worked through.
        if stage is Stage.TRAINING and share is not None and self._task.privacy is None:
            self._heartbeat.share = share
        assignment = self._assignment
        self._device.tell(
            Progress(
                stage,
                self._task.name,
                assignment.round,
                assignment.attempt,
                share=share,
                detail=detail,
            )
        )


def sealed(identity: Identity, assignment: OpenAssignment, payload: bytes, method: str) -> Envelope:
    """The envelope over a message of an assignment, for the RPC `method`."""
    from fedcore.wire.envelope import Place, seal

    place = Place(assignment.task_id, assignment.round, assignment.attempt, assignment.nonce)
    key = identity.certificate.key
    return seal(payload, method=method, place=place, sign=identity.sign, key=key)
