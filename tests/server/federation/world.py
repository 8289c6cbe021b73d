"""A federation without a network: a real store on a real disk, and clients that are coroutines.

A client does what the device's program does, against the interface that the services call. It can
be told where to fall silent, as one whose power failed.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedcore.data import Dataset
from fedcore.entropy import SystemEntropy
from fedcore.errors import FedcoreError, PhaseError, StoreError
from fedcore.federated.contribution import Contributor
from fedcore.federated.parameters import parameters_of
from fedcore.federated.programs import TrainingRequest
from fedcore.federated.task import Task
from fedcore.federated.training import stream_of
from fedcore.rounds import Phase
from fedcore.secagg import (
    CertificateAuthority,
    Effect,
    Erase,
    Identity,
    NeedInput,
    Persist,
    Policy,
    SecAggClient,
    Send,
    TrustStore,
    UploadChunk,
    UploadTrailer,
    decode,
)
from fedcore.secagg.messages import Message, UploadHeader
from fedcore.secagg.packing import pack, to_wire
from fedcore.wire.envelope import TASK, Place, signed_bytes
from fedserver.authorisation import Caller
from fedserver.blobs import LocalBlobStore
from fedserver.federation.federation import LocalFederation
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
    Submission,
    SubmittedTask,
    Train,
)
from fedserver.federation.payments import Accounts
from fedserver.federation.resources import Resources
from fedserver.metrics import Metrics
from fedserver.model_files import load_model
from fedserver.spool import Spool
from fedserver.store.records import ClientRecord, Idempotency, RoundRef, TaskRecord, TaskState
from fedserver.store.sqlite.store import SqliteStore

__all__ = ["Device", "Silence", "World", "task_of", "world_in"]

KEY = bytes(range(32))
TENANT = "default"
_NOW, _LATER = 0, 2**40
_OVER = ("COMPLETED", "SCRUBBED", "ABANDONED", "FAILED", "CANCELLED")


class Silence(Exception):
    """The device falls silent here."""


def task_of(
    *,
    clients: int = 5,
    rounds: int = 2,
    minimum: int | None = None,
    secure: str = 'profile = "malicious"\ndelta = 0.2\ngamma = 0.0',
    privacy: str = "",
    algorithm: str = 'name = "fedavg"',
    deadline_s: float = 20.0,
    heartbeat_s: float = 0.5,
    extra: str = "",
) -> Task:
    """A small task: a linear model of 4 features and 3 classes."""
    local = 'loss = "cross_entropy"'
    if "fedsgd" not in algorithm:
        local += '\nepochs = 1\nbatch_size = 8\n[training.optimizer]\nname = "sgd"\nlr = 0.5'
    aggregation = f"[secure_aggregation]\n{secure}" if secure else ""
    text = f"""
[task]
name = "small"
seed = 3
[model]
[[model.layers]]
kind = "linear"
inputs = 4
outputs = 3
[data]
dataset = "toy"
[training]
{local}
[algorithm]
{algorithm}
{aggregation or "[secure_aggregation]" + chr(10) + 'profile = "off"'}
{privacy}
[rounds]
count = {rounds}
max_attempts = 3
[cohort]
goal = {clients}
minimum = {clients if minimum is None else minimum}
[deadlines]
selecting_s = {deadline_s}
keys_s = {deadline_s}
shares_s = {deadline_s}
compute_s = {deadline_s}
upload_s = {deadline_s}
confirming_s = {deadline_s}
unmasking_s = {deadline_s}
heartbeat_s = {heartbeat_s}
patience = 2
{extra}
"""
    return Task.from_toml(text).resolved()


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
    "uploading", "commit", "confirm", "answer".
    """

    name: str
    identity: Identity
    policy: Policy
    silent_at: Callable[[int, str], bool] = lambda round, place: False
    disk: dict[str, bytes] = field(default_factory=dict)
    outcomes: list[tuple[int, int, Outcome]] = field(default_factory=list)
    contributions: int = 0

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
            ask = CheckIn(request_id, "", "1", frozenset(), frozenset({"toy"}), frozenset())
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
            train = found.order if isinstance(found.order, Train) else train
            seen = found.number

    async def _obey(
        self, world: World, part: Assigned, found: Instruction, train: Train | None
    ) -> bool:
        """Does what it is told; whether its part is over."""
        match found.order:
            case Advertise():
                if part.assignment_id not in self._advertised:
                    self._advertised[part.assignment_id] = self.machine.offer(1, expires=_LATER)
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
        worker = self._contributors.setdefault(part.ref.task_id, Contributor(world.task))
        self.contributions += 1
        request = TrainingRequest(
            task=world.task,
            theta=theta,
            dataset=data_of(self.name),
            round=part.ref.round,
            stream=stream_of(self.name),
            clipping=train.clipping,
        )
        self._kept[part.assignment_id] = await asyncio.to_thread(worker.contribute, request)
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
        self._speak(part.ref.round, "upload")
        begun = await world.call(
            lambda f: f.begin_upload(self.caller, part.assignment_id, size=len(data), header=header)
        )
        if not begun.sealed:
            self._speak(part.ref.round, "uploading")
            rest = data[begun.committed_offset :]
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


class World:
    """A server's federation on a folder, which can be stopped and started, and its devices."""

    def __init__(self, folder: Path, task: Task, *, clients: int) -> None:
        self.folder, self.task, self.clients = folder, task, clients
        self.registrar = CertificateAuthority.generate(SystemEntropy())
        self.trust = TrustStore([self.registrar.public_key], remember_signatures=True)
        self.devices = [self._device(i) for i in range(clients)]
        self.author = Identity.generate(
            SystemEntropy(),
            certify=lambda key: self.registrar.issue(bytes(16), key, expires=_LATER),
        )
        self.user = Caller(
            "user",
            name="ada",
            tenant=TENANT,
            role="researcher",
            identity_key=self.author.certificate.key,
        )
        self.metrics = Metrics()
        self.federation: LocalFederation | None = None
        self.submitted: SubmittedTask | None = None
        self._up = asyncio.Event()
        self._calls: set[asyncio.Future[object]] = set()

    def _device(self, number: int) -> Device:
        name = f"device-{number}"
        client_id = number.to_bytes(16, "big")
        policy = Policy(
            roots=(self.registrar.public_key,), smallest_cohort=2, gamma_floor=0, attempts=9
        )
        policy = _lenient(policy)
        identity = Identity.generate(
            SystemEntropy(),
            certify=lambda key: self.registrar.issue(client_id, key, expires=_LATER),
        )
        return Device(name, identity, policy)

    async def start(self) -> None:
        """Opens the store and takes up what is there."""
        self.store = await SqliteStore.open(self.folder / "fed.db", keys=[KEY])
        self.blobs = LocalBlobStore(self.folder / "blobs")
        resources = Resources(
            self.store,
            self.blobs,
            Spool(self.folder / "spool"),
            self.metrics,
            lambda: self.trust,
            threads=1,
        )
        accounts = Accounts(self.folder / "ledgers", participation_key=KEY)
        self.federation = LocalFederation(resources, accounts, owner="here")
        await self.federation.start()
        self._up.set()

    async def stop(self) -> None:
        """Stops as a process that is told to."""
        self._up.clear()
        assert self.federation is not None
        await self.federation.stop()
        await self.store.close()

    async def crash(self) -> None:
        """Stops as a process that is killed: whatever was under way is lost; then starts again."""
        self._up.clear()
        assert self.federation is not None
        running = [*self.federation._running.values(), *self._calls]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        self.federation._accounts.close()
        await self.store.close()
        await self.start()

    async def in_phase(self, phase: Phase, *, round: int = 0) -> None:
        """Waits until the task's round is in a phase, or beyond it."""
        order = list(Phase)
        assert self.submitted is not None
        while True:
            found = await self.store.latest_attempt(self.submitted.task_id, round)
            if found is not None and order.index(Phase(found.phase)) >= order.index(phase):
                return
            await asyncio.sleep(0.005)

    async def waiting_for(self, ref: RoundRef) -> str:
        """What an attempt waits for, as soon as it waits."""
        while True:
            assert self.federation is not None
            found = await self.federation.show_round(self.user, ref)
            if found.waiting_for:
                return found.waiting_for
            await asyncio.sleep(0.01)

    async def eventually(self, phase: Phase, *, round: int = 0) -> bool:
        """Waits until the latest attempt at a round is in exactly this phase."""
        assert self.submitted is not None
        while True:
            found = await self.store.latest_attempt(self.submitted.task_id, round)
            if found is not None and found.phase == phase.value:
                return True
            await asyncio.sleep(0.01)

    async def enrol(self) -> None:
        """Makes the devices known."""
        from fedserver.store.records import CertificateRecord, TokenRecord

        await self.store.create_token(TokenRecord(bytes(32), TENANT, 10_000, 2**50))
        for device in self.devices:
            key = device.identity.certificate.key
            await self.store.enrol(
                bytes(32),
                ClientRecord(device.identity.id, TENANT, key, f"spiffe://x/{device.name}"),
                CertificateRecord(device.identity.id, key, device.identity.id, 2**50),
                key_hash=key,
                reply=b"",
            )

    async def submit(self) -> SubmittedTask:
        """Hands the task in."""
        canonical = self.task.canonical
        signature = self.author.sign(signed_bytes(canonical, method=TASK, place=Place()))
        once = Idempotency(self.user.principal, "SubmitTask", bytes(16), bytes(32))
        assert self.federation is not None
        self.submitted = await self.federation.submit(
            self.user, Submission(canonical, signature, b""), once=once
        )
        return self.submitted

    async def call(self, ask):  # type: ignore[no-untyped-def]
        """Asks the federation, again and again while it is down or the time is not right."""
        while True:
            await self._up.wait()
            answer = asyncio.ensure_future(ask(self.federation))
            self._calls.add(answer)
            answer.add_done_callback(self._calls.discard)
            try:
                return await answer
            except asyncio.CancelledError:
                me = asyncio.current_task()
                if me is None or me.cancelling():  # the device, and not the server's crash
                    raise
            except StoreError:
                await asyncio.sleep(0.01)
            except FedcoreError:
                if self._up.is_set():
                    raise
                await asyncio.sleep(0.01)

    async def record(self) -> TaskRecord:
        """The task as the store has it."""
        await self._up.wait()
        assert self.submitted is not None
        found = await self.store.task(self.submitted.task_id)
        assert found is not None
        return found

    async def ended(self) -> bool:
        """Whether the task has ended."""
        return (await self.record()).state is not TaskState.RUNNING

    async def attempt_over(self, ref: RoundRef) -> None:
        """Waits until an attempt is over, with or without a model, or the task has ended."""
        while True:
            await self._up.wait()
            try:
                found = await self.store.round(ref)
                if (found is not None and found.phase in _OVER) or await self.ended():
                    return
            except FedcoreError:
                pass
            await asyncio.sleep(0.02)

    async def theta(self, digest: bytes) -> NDArray[np.float32]:
        """A model's vector."""
        return (await load_model(self.blobs, digest, parameters_of(self.task)))[0]

    async def run(self) -> TaskRecord:
        """Lets all devices work until the task has ended."""
        working = [asyncio.ensure_future(device.serve(self)) for device in self.devices]
        try:
            while not await self.ended():
                for one in working:
                    if one.done() and one.exception() is not None:
                        raise one.exception()  # type: ignore[misc]
                await asyncio.sleep(0.02)
        finally:
            for one in working:
                one.cancel()
            await asyncio.gather(*working, return_exceptions=True)
        return await self.record()

    async def final(self) -> bytes:
        """The digest of the newest model."""
        assert self.submitted is not None
        head = await self.store.head(self.submitted.task_id)
        assert head is not None
        return head.digest


def _lenient(policy: Policy) -> Policy:
    from dataclasses import replace
    from fractions import Fraction

    return replace(policy, sigma_floor=1, delta_ceiling=Fraction(1), gamma_floor=Fraction(0))


@asynccontextmanager
async def world_in(folder: Path, task: Task, *, clients: int = 5) -> AsyncIterator[World]:
    """A started federation with its devices enrolled and the task handed in."""
    world = World(folder, task, clients=clients)
    await world.start()
    await world.enrol()
    await world.submit()
    try:
        yield world
    finally:
        await world.stop()
