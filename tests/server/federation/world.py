"""A federation without a network: a real store on a real disk, and clients that are coroutines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedcore.entropy import SystemEntropy
from fedcore.errors import DrainingError, FedcoreError, LeaseLostError, StoreError
from fedcore.federated.parameters import parameters_of
from fedcore.federated.payments import Account, Accounts
from fedcore.federated.task import Task
from fedcore.rounds import Phase
from fedcore.secagg import (
    CertificateAuthority,
    Identity,
    Policy,
    TrustStore,
)
from fedcore.wire.envelope import TASK, Place, signed_bytes
from fedserver.authorisation import Caller
from fedserver.blobs import LocalBlobStore
from fedserver.federation.federation import LocalFederation
from fedserver.federation.interface import (
    ElsewhereError,
    Submission,
    SubmittedTask,
)
from fedserver.federation.resources import Resources
from fedserver.metrics import Metrics
from fedserver.model_files import load_model
from fedserver.spool import Spool
from fedserver.staging import Staging
from fedserver.store.records import ClientRecord, Idempotency, RoundRef, TaskRecord, TaskState
from tests.server.databases import opened
from tests.server.federation.device import LATER, TENANT, Device

__all__ = ["KEY", "World", "task_of", "world_in"]

KEY = bytes(range(32))
_OVER = ("COMPLETED", "SCRUBBED", "ABANDONED", "FAILED", "CANCELLED")


def task_of(
    *,
    clients: int = 5,
    rounds: int = 2,
    minimum: int | None = None,
    overselection: float = 1.0,
    secure: str = 'profile = "malicious"\ndelta = 0.2\ngamma = 0.0',
    privacy: str = "",
    algorithm: str = 'name = "fedavg"',
    deadline_s: float = 20.0,
    heartbeat_s: float = 5.0,
    seed: int = 3,
    attempts: int = 3,
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
seed = {seed}
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
max_attempts = {attempts}
[cohort]
goal = {clients}
minimum = {clients if minimum is None else minimum}
overselection = {overselection}
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


class World:
    """A server's federation on a folder, which can be stopped and started, and its devices."""

    largest_model = 64 << 20
    participation_key = KEY

    def __init__(self, folder: Path, task: Task, *, clients: int) -> None:
        self.folder, self.task, self.clients = folder, task, clients
        self.registrar = CertificateAuthority.generate(SystemEntropy())
        self.trust = TrustStore([self.registrar.public_key], remember_signatures=True)
        self.devices = [self._device(i) for i in range(clients)]
        self.author = Identity.generate(
            SystemEntropy(),
            certify=lambda key: self.registrar.issue(bytes(16), key, expires=LATER),
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
            certify=lambda key: self.registrar.issue(client_id, key, expires=LATER),
        )
        return Device(name, identity, policy)

    async def start(self) -> None:
        """Opens the store and takes up what is there."""
        self.store = await opened(self.folder / "fed.db", keys=[KEY])
        self.blobs = LocalBlobStore(self.folder / "blobs")
        resources = Resources(
            self.store,
            self.blobs,
            Spool(self.folder / "spool"),
            self.metrics,
            self.trusted,
            Staging(Spool(self.folder / "staging"), largest_bytes=self.largest_model),
            threads=1,
        )
        accounts = Accounts(self.folder / "ledgers", participation_key=self.participation_key)
        self.federation = LocalFederation(resources, accounts, owner="here")
        await self.federation.start()
        self._up.set()

    async def trusted(self) -> TrustStore:
        return self.trust

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
        assert self.federation._looking is not None
        running = [*self.federation._running.values(), self.federation._looking, *self._calls]
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

    async def submit(self, *, request: bytes = bytes(16)) -> SubmittedTask:
        """Hands the task in."""
        canonical = self.task.canonical
        signature = self.author.sign(signed_bytes(canonical, method=TASK, place=Place()))
        once = Idempotency(self.user.principal, "SubmitTask", request, bytes(32))
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
            except (StoreError, LeaseLostError, DrainingError, ElsewhereError):  # or it has ended
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

    async def account(self) -> Account:
        """The task's privacy ledger, as its driver has it, or as it is once that has let it go."""
        assert self.federation is not None
        record = await self.record()
        letting_go = self.federation._running.get(record.task_id)
        if record.state is not TaskState.RUNNING and letting_go is not None:
            await asyncio.shield(letting_go)
        if (driver := self.federation._drivers.get(record.task_id)) is not None:
            found = driver.hosted.account
        else:
            head = await self.store.head(record.task_id)
            found = self.federation._hosted(record, head).account
        assert found is not None
        return found

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
async def world_in(
    folder: Path, task: Task, *, clients: int = 5, submitted: bool = True
) -> AsyncIterator[World]:
    """A started federation with its devices enrolled and the task handed in, if it is."""
    world = World(folder, task, clients=clients)
    await world.start()
    await world.enrol()
    if submitted:
        await world.submit()
    try:
        yield world
    finally:
        await world.stop()
