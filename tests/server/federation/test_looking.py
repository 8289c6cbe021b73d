"""A server looks for tasks whatever goes wrong with one, and lets go of those that have ended."""

from __future__ import annotations

import asyncio
import errno
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from structlog.testing import capture_logs

from fedcore.errors import LeaseLostError, LedgerError
from fedcore.federated.payments import Account, Accounts
from fedcore.privacy import ledger_file
from fedcore.rounds import Phase
from fedserver.federation import driving, interruptions
from fedserver.federation.driver import TaskDriver
from fedserver.federation.interface import Assigned, CheckIn, Finished, Outcome
from fedserver.store.records import Idempotency, RoundRef, TaskRecord, TaskState
from tests.server.federation.test_left_tasks import NOT_TAKEN_UP, figure, left
from tests.server.federation.test_rolled_back_ledgers import PRIVACY
from tests.server.federation.world import World, task_of, world_in

PLAIN = {"secure": "", "clients": 3, "rounds": 1}
PRIVATE = PLAIN | {"privacy": PRIVACY}


async def cancelled(world: World) -> None:
    assert world.federation is not None and world.submitted is not None
    request = secrets.token_bytes(16)
    once = Idempotency(world.user.principal, "CancelTask", request, bytes(32))
    await world.federation.cancel(world.user, world.submitted.task_id, reason="why", once=once)


async def forgotten(world: World) -> None:
    """Waits until no task is driven any more."""
    assert world.federation is not None
    await asyncio.gather(*world.federation._running.values())
    assert not world.federation._drivers and not world.federation._running


def lock_once(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The next lock of a ledger is refused by the operating system."""
    lock, left = ledger_file._lock, [1]

    def refused(descriptor: int, folder: Path) -> None:
        if left:
            left.clear()
            raise OSError(number, "of a disk")
        lock(descriptor, folder)

    monkeypatch.setattr(ledger_file, "_lock", refused)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EIO, errno.EMFILE])
async def test_a_ledger_that_cannot_be_opened_for_a_moment_is_opened_at_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    async with world_in(tmp_path, task_of(**PRIVATE), clients=3) as world:
        await world.stop()
        lock_once(monkeypatch, number)
        await world.start()
        assert world.federation is not None and figure(world, NOT_TAKEN_UP) == "1.0"
        await world.federation._take_up()
        assert figure(world, NOT_TAKEN_UP) == "0.0" and not world.federation._left
        assert (await world.run()).state is TaskState.COMPLETED


async def test_a_task_for_which_there_was_no_memory_is_taken_up_at_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_in(tmp_path, task_of(**PRIVATE), clients=3) as world:
        await world.stop()

        def no_memory(*_: object, **__: object) -> NoReturn:
            raise MemoryError

        with monkeypatch.context() as short:
            short.setattr(Accounts, "open", no_memory)
            await world.start()
        assert world.federation is not None and world.federation._left
        await world.federation._take_up()
        assert not world.federation._left and len(world.federation._drivers) == 1


async def test_a_ledger_that_is_damaged_is_not_touched_again_until_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with left(tmp_path) as (world, _):
        assert world.federation is not None

        def never(*_: object) -> NoReturn:
            raise AssertionError("its ledger is opened again")

        monkeypatch.setattr(world.federation, "_hosted", never)
        await world.federation._take_up()
        assert figure(world, NOT_TAKEN_UP) == "1.0"


async def test_a_task_with_which_everything_goes_wrong_keeps_no_other_from_going_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_in(tmp_path, task_of(**PLAIN, seed=8), clients=3) as world:
        assert world.submitted is not None
        bad, world.task = world.submitted.task_id, task_of(**PLAIN)
        good = await world.submit(request=b"another request.")
        await world.stop()
        task_of_record = driving.task_of

        def broken(record: TaskRecord) -> Any:
            if record.task_id == bad:
                raise RuntimeError("a mistake")
            return task_of_record(record)

        monkeypatch.setattr(driving, "task_of", broken)
        with capture_logs() as logs:
            await world.start()
        assert world.federation is not None
        assert good.task_id in world.federation._drivers
        traces = [entry["exc_info"] for entry in logs if entry.get("task") == bad]
        assert any(isinstance(error, RuntimeError) for error in traces)
        said = (await world.federation.spent(world.user, good.task_id)).trouble
        assert not said and figure(world, NOT_TAKEN_UP) == "1.0"
        assert (await world.run()).state is TaskState.COMPLETED
        monkeypatch.undo()


async def test_the_looking_goes_on_after_any_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_in(tmp_path, task_of(**PLAIN), clients=3) as world:
        assert world.federation is not None
        looked, twice = list[int](), asyncio.Event()

        async def broken() -> None:
            looked.append(1)
            if len(looked) > 1:
                twice.set()
            raise OSError(errno.EIO, "of a disk")

        await world.stop()
        await world.start()
        assert world.federation._looking is not None
        world.federation._looking.cancel()
        monkeypatch.setattr(world.federation, "_take_up", broken)
        world.federation._lease_ms = 10
        world.federation._looking = asyncio.create_task(world.federation._look())
        await asyncio.wait_for(twice.wait(), 10)
        assert not world.federation._looking.done()


async def test_a_lease_that_another_took_first_breaks_off_no_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with left(tmp_path) as (world, _):
        assert world.federation is not None
        await cancelled(world)

        def lost(*_: object, **__: object) -> NoReturn:
            raise LeaseLostError("another has it")

        with monkeypatch.context() as patched:
            patched.setattr(driving, "held", lost)
            await world.federation._take_up()
        await world.federation._take_up()
        assert await world.eventually(Phase.CANCELLED)


async def test_a_driver_goes_on_where_its_ledger_is_not_opened_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interruptions, "_PAUSE_S", 0.001)
    reopen, tried = Account.reopen, list[int]()

    def refused(self: Account) -> None:
        tried.append(1)
        if len(tried) < 5:
            self.ledger.close()
            raise OSError(errno.ENOLCK, "of a disk")
        reopen(self)

    monkeypatch.setattr(Account, "reopen", refused)
    pay, failed = Account.pay, list[int]()

    def broken(self: Account, *arguments: Any, **options: Any) -> Any:
        if not failed:
            failed.append(1)
            raise LedgerError("cannot write to the ledger")
        return pay(self, *arguments, **options)

    monkeypatch.setattr(Account, "pay", broken)
    async with world_in(tmp_path, task_of(**PRIVATE), clients=3) as world:
        assert (await world.run()).state is TaskState.COMPLETED
        assert len(tried) == 5
        (only,) = (await world.store.rounds(world.submitted.task_id)).rounds  # type: ignore[union-attr]
        assert only.phase == "SCRUBBED"


async def test_a_task_whose_driver_dies_is_taken_up_at_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_in(tmp_path, task_of(**PRIVATE), clients=3) as world:
        await world.stop()

        async def dies(self: TaskDriver) -> None:
            raise OSError(errno.EIO, "of a disk")

        with monkeypatch.context() as patched, capture_logs() as logs:
            patched.setattr(TaskDriver, "run", dies)
            await world.start()
            await forgotten(world)
        assert any(entry["event"] == "driver.lost" for entry in logs)
        assert world.federation is not None
        await world.federation._take_up()
        assert (await world.run()).state is TaskState.COMPLETED


async def test_of_a_task_that_has_ended_nothing_stays_open(tmp_path: Path) -> None:
    async with world_in(tmp_path, task_of(**PRIVATE), clients=3) as world:
        assert world.federation is not None
        for number in range(3):
            if number:
                world.task = task_of(**PRIVATE, seed=100 + number)
                await world.submit(request=bytes([number]) * 16)
            await cancelled(world)
        await forgotten(world)
        assert not world.federation._accounts._open


async def test_who_asks_for_a_task_that_has_ended_is_still_answered(tmp_path: Path) -> None:
    async with world_in(tmp_path, task_of(**PLAIN), clients=3) as world:
        federation, submitted = world.federation, world.submitted
        assert federation is not None and submitted is not None
        toy, none = frozenset({"toy"}), frozenset[str]()
        asks = [CheckIn(secrets.token_bytes(16), "", "1", none, toy, none) for _ in world.devices]

        async def answers() -> list[Any]:
            pairs = zip(world.devices, asks, strict=True)
            return await asyncio.gather(*(federation.check_in(d.caller, a) for d, a in pairs))

        given = await answers()
        await cancelled(world)
        await forgotten(world)
        caller, part = world.devices[0].caller, given[0].assignment_id
        told = await federation.next(caller, part, seen=0, wait_s=5.0)
        assert isinstance(told.order, Finished) and told.order.outcome is Outcome.ABANDONED
        assert (await federation.heartbeat(caller, part, progress=0)).cancel
        ref = RoundRef(submitted.task_id, 0, 1)
        assert not (await federation.show_round(world.user, ref)).waiting_for
        await asyncio.wait_for(
            federation.changed(world.user, ref.task_id, after=10_000, wait_s=60.0), 5
        )
        # Whose answer was lost on its way, and who asks again while another task runs.
        world.task = task_of(**PLAIN, seed=9)
        await world.submit(request=b"another request.")
        again = await answers()
        assert all(isinstance(answer, Assigned) for answer in again) and again == given


async def test_who_waits_for_a_change_hears_that_a_task_was_let_go(tmp_path: Path) -> None:
    async with world_in(tmp_path, task_of(**PRIVATE), clients=3) as world:
        assert world.federation is not None and world.submitted is not None
        task_id = world.submitted.task_id
        waiting = asyncio.ensure_future(
            world.federation.changed(world.user, task_id, after=10_000, wait_s=60.0)
        )
        await asyncio.sleep(0)
        await cancelled(world)
        await asyncio.wait_for(waiting, 10)


async def test_who_hangs_up_has_still_cancelled_the_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_in(tmp_path, task_of(**PLAIN), clients=3) as world:
        running = asyncio.ensure_future(world.run())
        await world.in_phase(Phase.COLLECTING)
        assert world.federation is not None
        (driven,) = world.federation._drivers.values()
        asked, set_state = asyncio.Event(), world.store.set_task_state

        async def slow(*arguments: Any, **options: Any) -> Any:
            answer = await set_state(*arguments, **options)
            asked.set()
            await asyncio.sleep(0)
            return answer

        monkeypatch.setattr(world.store, "set_task_state", slow)
        asking = asyncio.ensure_future(cancelled(world))
        await asked.wait()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert driven.ended  # and not once its round takes a step, for which it may wait long
        assert (await running).state is TaskState.CANCELLED
        assert await world.eventually(Phase.CANCELLED)


async def test_nothing_is_released_of_a_task_that_was_cancelled_behind_its_drivers_back(
    tmp_path: Path,
) -> None:
    """As by another server, while this one stood still."""
    async with world_in(tmp_path, task_of(**PRIVATE), clients=3) as world:
        assert world.federation is not None and world.submitted is not None
        going, ready = asyncio.Event(), asyncio.Barrier(4)
        for device in world.devices:
            device._sent = _held_up(device._sent, ready, going)  # type: ignore[method-assign]
        running = [asyncio.ensure_future(device.serve(world)) for device in world.devices]
        await asyncio.wait_for(ready.wait(), 10)
        task_id = world.submitted.task_id
        with capture_logs() as logs:
            await world.store.set_task_state(task_id, TaskState.CANCELLED, reason="withdrawn")
            going.set()
            assert await asyncio.wait_for(world.eventually(Phase.CANCELLED), 20)
            await forgotten(world)
        assert not [entry for entry in logs if entry["event"] == "driver.interrupted"]
        assert len(await world.store.models(task_id)) == 1
        record = await world.store.round(RoundRef(task_id, 0, 1))
        assert record is not None and record.reason == "withdrawn" and record.epsilon > 0
        assert await world.store.upload_key(record.ref) is None
        for one in running:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _held_up(
    send: Callable[..., Awaitable[None]], ready: asyncio.Barrier, going: asyncio.Event
) -> Callable[..., Awaitable[None]]:
    async def sent(*arguments: Any) -> None:
        await ready.wait()
        await going.wait()
        await send(*arguments)

    return sent
