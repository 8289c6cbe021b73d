"""What a round begins from is read before anything is spent; if it is damaged, the task waits."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fedcore.errors import DrainingError
from fedcore.privacy import verify
from fedcore.rounds import Phase
from fedserver.federation import base_model
from fedserver.federation.base_model import BaseModel
from fedserver.federation.driver import TaskDriver
from fedserver.federation.interface import CheckIn, RetryLater
from fedserver.store.records import HeadRecord, Idempotency, RoundRef, TaskRecord, TaskState
from tests.server.federation.test_left_tasks import NOT_TAKEN_UP, figure
from tests.server.federation.test_rolled_back_ledgers import PRIVACY, ledger_of
from tests.server.federation.world import World, task_of, world_in

STANDS = "task.stands_still"


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks again a hundred times a second."""
    monkeypatch.setattr(base_model, "_PAUSE_S", 0.01)
    monkeypatch.setattr(base_model, "_REST", 0)


def lose(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def file_of(world: World, digest: bytes) -> Path:
    (path,) = (world.folder / "blobs").rglob(digest.hex())
    return path


def driver_of(world: World) -> TaskDriver:
    assert world.federation is not None and world.submitted is not None
    return world.federation._drivers[world.submitted.task_id]


async def stands(world: World) -> None:
    """Waits until the task stands still."""
    while True:
        if driver_of(world).trouble is not None:
            return
        await asyncio.sleep(0.005)


async def looked_at(world: World, monkeypatch: pytest.MonkeyPatch, *, times: int) -> None:
    """Waits until the newest model was read so many times more."""
    real, left, done = world.blobs.verify, [times], asyncio.Event()

    async def counted(digest: bytes) -> None:
        left[0] -= 1
        if left[0] <= 0:
            done.set()
        await real(digest)

    with monkeypatch.context() as patched:
        patched.setattr(world.blobs, "verify", counted)
        await done.wait()


def ask() -> CheckIn:
    some = frozenset({"toy"})
    return CheckIn(secrets.token_bytes(16), "", "1", frozenset(), some, frozenset())


@asynccontextmanager
async def between_rounds(
    folder: Path, **terms: str
) -> AsyncIterator[tuple[World, asyncio.Future[TaskRecord]]]:
    """A task of two rounds whose first is over, on a server that is down."""
    async with world_in(folder, task_of(rounds=2, secure="", **terms)) as world:
        running = asyncio.ensure_future(world.run())
        await world.in_phase(Phase.COMPLETED)
        await world.stop()
        yield world, running
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("spoil", [lose, cut, flip])
async def test_a_task_whose_newest_model_is_damaged_spends_nothing_and_goes_on_once_it_is_whole(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], None],
) -> None:
    async with between_rounds(tmp_path, privacy=PRIVACY) as (world, running):
        assert world.submitted is not None
        await world.start()
        digest = await world.final()
        await world.stop()
        path, spent = file_of(world, digest), verify(ledger_of(world)).epsilon
        whole = path.read_bytes()
        spoil(path)
        capsys.readouterr()

        await world.start()
        assert world.federation is not None
        await stands(world)
        await looked_at(world, monkeypatch, times=5)
        told = (await world.federation.spent(world.user, world.submitted.task_id)).trouble
        logged = capsys.readouterr().out
        assert logged.count(STANDS) == 1 and "driver.interrupted" not in logged
        for words in ("FED-2203", "newest model", digest.hex(), "spends nothing"):
            assert words in told and words in logged, words
        later = await world.federation.check_in(world.devices[0].caller, ask())
        assert isinstance(later, RetryLater)
        assert (later.delay_min_ms, later.delay_max_ms) == (5_000, 15_000)
        await world.federation._take_up()
        assert figure(world, NOT_TAKEN_UP) == "1.0"
        begun = await world.store.latest_attempt(world.submitted.task_id, 1)
        assert begun is None or begun.phase == "PENDING"  # opened before it was damaged
        assert verify(ledger_of(world)).epsilon == spent

        path.write_bytes(whole)
        record = await running
        assert (record.state, record.rounds_completed) == (TaskState.COMPLETED, 2)
        assert {one.ref.attempt for one in (await world.store.rounds(record.task_id)).rounds} == {1}
        assert not (await world.federation.spent(world.user, record.task_id)).trouble
        await world.federation._take_up()
        assert figure(world, NOT_TAKEN_UP) == "0.0"


async def test_what_the_algorithm_keeps_beside_the_model_is_looked_at_too(tmp_path: Path) -> None:
    async with between_rounds(tmp_path, algorithm='name = "fedavgm"') as (world, running):
        await world.start()
        assert world.submitted is not None
        head = await world.store.head(world.submitted.task_id)
        await world.stop()
        assert head is not None and head.state_digest
        path = file_of(world, head.state_digest)
        whole = path.read_bytes()
        flip(path)
        await world.start()
        await stands(world)
        trouble = driver_of(world).trouble
        assert trouble is not None and "state beside" in trouble.what
        path.write_bytes(whole)
        assert (await running).rounds_completed == 2


@pytest.mark.parametrize("secure", ["", 'profile = "malicious"\ndelta = 0.2\ngamma = 0.0'])
async def test_a_model_that_is_lost_while_an_attempt_waits_for_clients_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secure: str
) -> None:
    monkeypatch.setattr("fedserver.federation.attempt._WHOLE_S", 0.0)
    async with world_in(tmp_path, task_of(rounds=1, privacy=PRIVACY, secure=secure)) as world:
        assert world.submitted is not None
        await world.waiting_for(RoundRef(world.submitted.task_id, 0, 1))
        path = file_of(world, await world.final())
        whole = path.read_bytes()
        lose(path)
        running = asyncio.ensure_future(world.run())
        await stands(world)
        assert verify(ledger_of(world)).reservations == 0
        path.write_bytes(whole)
        record = await running
        assert (record.state, record.rounds_completed) == (TaskState.COMPLETED, 1)
        assert verify(ledger_of(world)).reservations == 1


async def test_an_open_round_keeps_its_devices_work_and_ends_if_it_is_cancelled(
    tmp_path: Path,
) -> None:
    async with world_in(tmp_path, task_of(rounds=1, secure="")) as world:
        assert world.submitted is not None
        world.devices[0].silent_at = lambda round, place: place == "upload"
        running = asyncio.ensure_future(world.run())
        await world.in_phase(Phase.COLLECTING)
        await world.stop()
        lose(next((world.folder / "blobs").glob("??/??/*")))

        await world.start()
        assert world.federation is not None
        await stands(world)
        ref = RoundRef(world.submitted.task_id, 0, 1)
        part = (await world.store.assignments(ref))[0]
        with pytest.raises(DrainingError) as refused:
            await world.federation.next(
                world.devices[0].caller, part.assignment_id, seen=0, wait_s=0.1
            )
        assert refused.value.retry == (5_000, 15_000)
        assert await world.store.upload_key(ref) is not None

        once = Idempotency(world.user.principal, "CancelTask", b"c" * 16, bytes(32))
        await world.federation.cancel(world.user, ref.task_id, reason="it is lost", once=once)
        assert (await running).state is TaskState.CANCELLED
        await asyncio.gather(*world.federation._running.values())
        record = await world.store.round(ref)
        assert record is not None and (record.phase, record.reason) == ("CANCELLED", "it is lost")
        assert await world.store.upload_key(ref) is None
        assert not [*(world.folder / "spool").iterdir()]
        assert not (await world.federation.spent(world.user, ref.task_id)).trouble


async def test_devices_work_for_another_task_meanwhile(tmp_path: Path) -> None:
    async with world_in(tmp_path, task_of(secure=""), submitted=False) as world:
        first = await world.submit()
        await world.waiting_for(RoundRef(first.task_id, 0, 1))
        await world.stop()
        lose(file_of(world, first.model_digest))
        await world.start()
        await stands(world)
        world.task = task_of(rounds=1, secure="", seed=4)
        second = await world.submit(request=b"2" * 16)
        assert second.task_id != first.task_id and second.model_digest != first.model_digest
        assert (await world.run()).state is TaskState.COMPLETED
        assert await world.store.latest_attempt(first.task_id, 0) is not None
        waiting = await world.store.task(first.task_id)
        assert waiting is not None and waiting.state is TaskState.RUNNING


async def test_a_model_is_read_for_an_attempt_and_not_for_each_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_in(tmp_path, task_of(rounds=2, secure=""), submitted=False) as world:
        real, read = BaseModel.is_whole, Counter[bytes]()

        async def counted(base: BaseModel, head: HeadRecord) -> bool:
            read[head.digest] += 1
            return await real(base, head)

        monkeypatch.setattr(BaseModel, "is_whole", counted)
        await world.submit()
        record = await world.run()
        assert record.rounds_completed == 2
        began = {one.base_model for one in (await world.store.rounds(record.task_id)).rounds}
        assert read == dict.fromkeys(began, 1) and len(began) == 2


async def test_a_server_that_drains_while_it_reads_a_model_opens_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_in(tmp_path, task_of(secure=""), submitted=False) as world:
        assert world.federation is not None
        real, reading, go_on = world.blobs.verify, asyncio.Event(), asyncio.Event()

        async def slow(digest: bytes) -> None:
            reading.set()
            await go_on.wait()
            await real(digest)

        monkeypatch.setattr(world.blobs, "verify", slow)
        submitted = await world.submit()
        await reading.wait()
        await world.federation.drain()
        go_on.set()
        await world.federation.stop()
        assert await world.store.latest_attempt(submitted.task_id, 0) is None
