"""One client of a federation without a network: it does what the device's program does.

It speaks to the interface that the services call, and can be told where to fall silent, as one
whose power failed.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedcore.data import Dataset
from fedcore.errors import FedcoreError, NotFoundError, PhaseError, PolicyError, UploadError
from fedcore.federated.contribution import Contributor
from fedcore.federated.programs import TrainingRequest
from fedcore.federated.training import stream_of
from fedcore.federated.update import UpdateLayout
from fedcore.secagg import (
    Effect,
    Erase,
    Identity,
    NeedInput,
    Persist,
    Policy,
    SecAggClient,
    Send,
    UploadChunk,
    UploadTrailer,
    decode,
)
from fedcore.secagg.messages import Message, UploadHeader
from fedcore.secagg.packing import pack, to_wire
from fedserver.authorisation import Caller
from fedserver.federation.interface import (
    Advertise,
    Assigned,
    CheckIn,
    FailureCode,
    Finished,
    Instruction,
    Outcome,
    Report,
    RetryLater,
    SecureAggregation,
    Train,
)

if TYPE_CHECKING:
    from tests.server.federation.world import World

__all__ = ["LATER", "TENANT", "Device", "Silence", "data_of"]

TENANT = "default"
_NOW, LATER = 0, 2**40
_REPEATS = 3  # of an upload, as the device's program has it


class Silence(Exception):
    """The device falls silent here."""


def data_of(name: str, *, examples: int = 24) -> Dataset:
    """A client's own data, the same for the same name."""
    draw = np.random.default_rng(stream_of(name) % 2**32)
    x = draw.normal(size=(examples, 4)).astype(np.float32)
    y = (x @ np.array([[1, 0, -1], [0, 1, 0], [1, -1, 0], [0, 0, 1]])).argmax(1)
    return Dataset(x, y.astype(np.int64))


@dataclass
class Device:
    """One client: its data, its disk, and where it falls silent, if it does.

    `silent_at(round, place)`: whether it does so at this place: "train", "share", "upload",
    "uploading", "commit", "confirm", "answer". `lie`: what it adds to what it measured, by name.
    """

    name: str
    identity: Identity
    policy: Policy
    silent_at: Callable[[int, str], bool] = lambda round, place: False
    disk: dict[str, bytes] = field(default_factory=dict)
    outcomes: list[tuple[int, int, Outcome]] = field(default_factory=list)
    contributions: int = 0
    terms: bytes = b""
    lie: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.machine = SecAggClient(self.identity, self.policy)
        self.caller = Caller(
            "client",
            id=self.identity.id,
            name=self.identity.id.hex(),
            tenant=TENANT,
            role="client",
            identity_key=self.identity.certificate.key,
        )
        self._contributors: dict[str, Contributor] = {}
        self._advertised: dict[bytes, Sequence[Effect]] = {}
        self._kept: dict[bytes, tuple[NDArray[np.int64], ...]] = {}

    async def serve(self, world: World) -> None:
        """Takes part in every round that it is asked for, until the task has ended."""
        request_id = secrets.token_bytes(16)
        while True:
            toy, none = frozenset({"toy"}), frozenset[str]()
            ask = CheckIn(request_id, "", "1", none, toy, none, self.terms)
            answer = await world.call(lambda f, ask=ask: f.check_in(self.caller, ask))
            if isinstance(answer, Assigned):
                request_id = secrets.token_bytes(16)
                try:
                    await self._take_part(world, answer)
                except Silence:
                    await world.attempt_over(answer.ref)
            else:
                assert isinstance(answer, RetryLater)
                request_id = secrets.token_bytes(16)
                if await world.ended():
                    return
                await asyncio.sleep(min(answer.delay_min_ms / 1000, 0.05))

    def _speak(self, round: int, place: str) -> None:
        if self.silent_at(round, place):
            raise Silence

    async def _take_part(self, world: World, part: Assigned) -> None:
        seen, train = 0, None
        while True:
            found = await world.call(
                lambda f, seen=seen: f.next(self.caller, part.assignment_id, seen=seen, wait_s=1.0)
            )
            assert isinstance(found, Instruction)
            try:
                if await self._obey(world, part, found, train):
                    return
            except PhaseError:  # too late, or the server has only just come back
                await asyncio.sleep(0.01)
                continue
            except PolicyError as error:
                refused = FailureCode.POLICY_REFUSED
                report = Report(part.assignment_id, refused, error.what, 1, 2, 0.5, False)
                await world.call(lambda f, report=report: f.report(self.caller, report))
                return
            train = found.order if isinstance(found.order, Train) else train
            seen = found.number

    async def _obey(
        self, world: World, part: Assigned, found: Instruction, train: Train | None
    ) -> bool:
        """Does what it is told; whether its part is over."""
        match found.order:
            case Advertise():
                if part.assignment_id not in self._advertised:
                    self._advertised[part.assignment_id] = self.machine.offer(1, expires=LATER)
                await self._perform(world, part, self._advertised[part.assignment_id], train)
            case Train():
                if world.task.secure_aggregation is None:
                    await self._give(world, part, found.order)
            case SecureAggregation(message):
                effects = self.machine.handle(decode(message), now=_NOW)
                await self._perform(world, part, effects, train)
            case Finished(outcome):
                self.outcomes.append((part.ref.round, part.ref.attempt, outcome))
                report = Report(part.assignment_id, FailureCode.NONE, "", 1, 2, 0.5, False)
                await world.call(lambda f: f.report(self.caller, report))
                return True
        return False

    async def _perform(
        self, world: World, part: Assigned, effects: Sequence[Effect], train: Train | None
    ) -> None:
        for effect in effects:
            match effect:
                case Persist(key, value):
                    self.disk[key] = value
                case Erase(key):
                    self.disk.pop(key, None)
                case Send(message):
                    await self._send(world, part, message)
                case NeedInput(sid):
                    assert train is not None
                    await self._give_masked(world, part, train, sid)

    async def _send(self, world: World, part: Assigned, message: Message) -> None:
        place = {"Shares": "share", "Confirmation": "confirm", "UnmaskAnswer": "answer"}
        self._speak(part.ref.round, place.get(type(message).__name__, ""))
        await world.call(lambda f: f.secagg(self.caller, part.assignment_id, message))

    async def _blocks(
        self, world: World, part: Assigned, train: Train
    ) -> tuple[NDArray[np.int64], ...]:
        if part.assignment_id in self._kept:  # the very same vector, whatever happens
            return self._kept[part.assignment_id]
        self._speak(part.ref.round, "train")
        theta = await world.theta(train.model_digest)
        if (worker := self._contributors.get(part.ref.task_id)) is None:
            worker = self._contributors[part.ref.task_id] = Contributor(world.task)
        self.contributions += 1
        request = TrainingRequest(
            task=world.task,
            theta=theta,
            dataset=data_of(self.name),
            round=part.ref.round,
            stream=stream_of(self.name),
            clipping=train.clipping,
        )
        blocks = await asyncio.to_thread(worker.contribute, request)
        if self.lie:
            update, statistics = blocks
            blocks = update, statistics + UpdateLayout.of(world.task).measured(self.lie)
        self._kept[part.assignment_id] = blocks
        return self._kept[part.assignment_id]

    async def _give(self, world: World, part: Assigned, train: Train) -> None:
        blocks = await self._blocks(world, part, train)
        layout = world.task.layout
        data = b"".join(
            to_wire(
                pack(layout.blocks[frame.block], blocks[frame.block], frame.start, frame.words),
                frame.word_bytes,
            )
            for frame in layout.frames()
        )
        await self._upload(world, part, None, data)

    async def _give_masked(self, world: World, part: Assigned, train: Train, sid: bytes) -> None:
        blocks = await self._blocks(world, part, train)
        await self._perform(world, part, self.machine.commit(sid, blocks), train)
        header, data = None, b""
        for message in self.machine.upload(sid, blocks):
            match message:
                case UploadHeader():
                    header = message
                case UploadChunk():
                    data += message.data
                case UploadTrailer(_, digest):
                    assert digest == hashlib.sha256(data).digest()
        await self._upload(world, part, header, data)

    async def _upload(
        self, world: World, part: Assigned, header: UploadHeader | None, data: bytes
    ) -> None:
        refused: FedcoreError
        for _ in range(_REPEATS):
            try:
                return await self._sent(world, part, header, data)
            except (UploadError, NotFoundError) as error:
                # Another driver took over, or the server started again: begun anew, it says how
                # much of what had come was on the disk.
                refused = error
        raise refused

    async def _sent(
        self, world: World, part: Assigned, header: UploadHeader | None, data: bytes
    ) -> None:
        self._speak(part.ref.round, "upload")
        begun = await world.call(
            lambda f: f.begin_upload(self.caller, part.assignment_id, size=len(data), header=header)
        )
        if not begun.sealed:
            self._speak(part.ref.round, "uploading")
            if rest := data[begun.committed_offset :]:
                await world.call(
                    lambda f: f.put_chunk(
                        self.caller,
                        begun.upload_id,
                        offset=begun.committed_offset,
                        crc32=zlib.crc32(rest),
                        data=rest,
                    )
                )
        self._speak(part.ref.round, "commit")
        await world.call(
            lambda f: f.commit_upload(
                self.caller,
                begun.upload_id,
                size=len(data),
                sha256=hashlib.sha256(data).digest(),
            )
        )
