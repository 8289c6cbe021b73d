"""What cannot go on is told, is ended in the end or when it is cancelled, and leaves nothing."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from structlog.testing import capture_logs

from fedcore.errors import BlobError, ConsistencyError, DrainingError, LedgerError, StoreError
from fedcore.privacy import verify
from fedcore.rounds import Phase
from fedserver.disk import blob_error
from fedserver.federation import attempt, driver, interruptions
from fedserver.federation.interface import Assigned, CheckIn, RetryLater
from fedserver.federation.interruptions import Interruptions, may_pass
from fedserver.federation.journal import Journal
from fedserver.federation.masked import MaskedSession
from fedserver.federation.reports import Reports
from fedserver.store.records import Idempotency, RoundRef, TaskState
from tests.server.databases import opened
from tests.server.federation.test_left_tasks import NOT_TAKEN_UP, OTHER_KEY, figure
from tests.server.federation.test_rolled_back_ledgers import PRIVACY, ledger_of
from tests.server.federation.world import KEY, World, task_of, world_in

PLAIN = {"secure": "", "clients": 3, "rounds": 1}
NO_ROOM, BROKEN, GONE = (
    OSError(number, os.strerror(number)) for number in (errno.ENOSPC, errno.EIO, errno.ENOENT)
)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruptions, "_PAUSE_S", 0.001)
    monkeypatch.setattr(interruptions, "_LONGEST_PAUSE_S", 0.002)


def disk_error(cause: OSError) -> BlobError:
    """What a disk's error becomes."""
    with pytest.raises(BlobError) as found, blob_error("an upload cannot be read"):
        raise cause
    return found.value


def ledger_error(cause: OSError) -> LedgerError:
    """What a disk's error becomes where a ledger meets it."""
    error = LedgerError("cannot write to the ledger")
    error.__cause__ = cause
    return error


def sums_fail(monkeypatch: pytest.MonkeyPatch, cause: OSError, *, times: float) -> list[int]:
    """The first sums of a round are not made; the list has an entry for each of them."""
    sum_up, failed = Reports.sum_up, list[int]()

    async def broken(self: Reports, *arguments: Any) -> None:
        if len(failed) < times:
            failed.append(1)
            with blob_error("an upload cannot be read"):
                raise OSError(cause.errno, cause.strerror)
        await sum_up(self, *arguments)

    monkeypatch.setattr(Reports, "sum_up", broken)
    return failed


def first_of(world: World) -> RoundRef:
    """The first attempt at the first round."""
    assert world.submitted is not None
    return RoundRef(world.submitted.task_id, 0, 1)


async def cancel(world: World, why: str = "it stands still") -> None:
    assert world.federation is not None
    once = Idempotency(world.user.principal, "CancelTask", b"c" * 16, bytes(32))
    task_id = first_of(world).task_id
    await world.federation.cancel(world.user, task_id, reason=why, once=once)


async def until(true: Callable[[], bool]) -> None:
    """Waits for what nothing tells of."""
    while not true():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


async def told(world: World) -> str:
    """The trouble that `fed task list` shows."""
    assert world.federation is not None
    return (await world.federation.spent(world.user, first_of(world).task_id)).trouble


async def require_scrubbed(world: World) -> None:
    """Nothing is left of what clients sent for the first attempt, or of what could read it."""
    while await world.store.outbox_pending(limit=10):  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    assert await world.store.upload_key(first_of(world)) is None
    kept = {upload.upload_id.hex() for upload in await world.store.uploads(first_of(world))}
    assert not any(name[:32] in kept for name in os.listdir(world.folder / "spool"))


async def test_a_round_whose_sum_can_never_be_made_is_abandoned_and_another_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sum_up, lost = Reports.sum_up, list[Path]()

    async def without_one(self: Reports, *arguments: Any) -> None:
        if not lost:
            upload_id = min(upload.upload_id for upload in self._sealed.values())
            (path,) = (tmp_path / "spool").glob(f"{upload_id.hex()}*")
            lost.append(path)
            path.unlink()
        self.forget_sum()  # as after a restart
        await sum_up(self, *arguments)

    monkeypatch.setattr(Reports, "sum_up", without_one)
    async with world_in(tmp_path, task_of(**PLAIN), clients=3) as world:
        assert (await world.run()).state is TaskState.COMPLETED
        first, second = (await world.store.rounds(first_of(world).task_id)).rounds
        assert (first.phase, second.phase) == ("ABANDONED", "SCRUBBED")
        assert "without getting on" in first.reason and "FED-" in first.reason
        await require_scrubbed(world)


async def test_a_sum_that_the_session_refuses_ends_the_attempt_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sum_up, failed = Reports.sum_up, list[int]()

    async def refused(self: Reports, *arguments: Any) -> None:
        if not failed:
            failed.append(1)
            raise ConsistencyError("another set of uploads is in the sum")
        await sum_up(self, *arguments)

    monkeypatch.setattr(Reports, "sum_up", refused)
    async with world_in(tmp_path, task_of(**PLAIN), clients=3) as world:
        with capture_logs() as logs:
            assert (await world.run()).state is TaskState.COMPLETED
        assert not [entry for entry in logs if entry["event"] == "driver.interrupted"]
        first, second = (await world.store.rounds(first_of(world).task_id)).rounds
        assert (first.phase, second.phase) == ("ABANDONED", "SCRUBBED")
        assert first.reason.startswith(ConsistencyError.code)
        await require_scrubbed(world)


async def test_who_dealt_bad_shares_is_on_record_also_where_the_sum_is_never_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the attempt is then ended without what proves it."""
    sums_fail(monkeypatch, GONE, times=float("inf"))
    task = task_of(clients=6, minimum=5, rounds=1)
    async with world_in(tmp_path, task, clients=6) as world:
        bad = world.devices[5].identity.id
        proven = {bad: "its shares contradict each other"}
        monkeypatch.setattr(MaskedSession, "culprits", lambda _: proven)
        running = asyncio.ensure_future(world.run())
        await world.eventually(Phase.ABANDONED)
        assert await world.store.barred_clients(first_of(world).task_id) == {bad}
        running.cancel()


async def test_a_disk_that_is_full_for_a_while_loses_no_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = sums_fail(monkeypatch, NO_ROOM, times=40)
    async with world_in(tmp_path, task_of(**PLAIN), clients=3) as world:
        assert (await world.run()).state is TaskState.COMPLETED
        (only,) = (await world.store.rounds(first_of(world).task_id)).rounds
        assert (only.ref.attempt, len(failed)) == (1, 40)
        lease = await world.store.acquire_lease(only.ref.task_id, "here", 60_000)
        assert lease is not None and lease.attempts == 1


HOUR_S = 3600.0


@pytest.mark.parametrize(
    ("error", "hours"),
    [
        (disk_error(NO_ROOM), 24),
        (disk_error(OSError(errno.EDQUOT, "a quota")), 24),
        (ledger_error(NO_ROOM), 24),
        (StoreError("the disk is full"), 24),
        (disk_error(BROKEN), 1),
        (ledger_error(BROKEN), 1),
        (BROKEN, 1),
        (MemoryError(), 1),
    ],
    ids=[
        "full",
        "quota",
        "ledger full",
        "database",
        "disk",
        "ledger",
        "no error of ours",
        "memory",
    ],
)
def test_what_may_pass_is_waited_for_by_time_and_longest_where_somebody_has_to_make_room(
    monkeypatch: pytest.MonkeyPatch, error: Exception, hours: int
) -> None:
    monkeypatch.undo()  # the pauses as they are
    passing = Interruptions(10)
    paused_s = passing.note(error)
    while not passing.too_many(starts=1_000_000):
        pause_s = passing.note(error)
        assert pause_s <= 10
        paused_s += pause_s
    assert hours * HOUR_S < paused_s < hours * HOUR_S + 60
    assert may_pass(error)
    passing.forget()
    passing.note(error)
    assert not passing.too_many(starts=1_000_000)


@pytest.mark.parametrize(
    "error",
    [disk_error(GONE), GONE, BlobError("a blob is damaged"), ValueError("a mistake")],
    ids=["gone", "gone, no error of ours", "damaged", "mistake"],
)
def test_what_is_gone_or_damaged_does_not_pass_and_is_tried_a_few_times(error: Exception) -> None:
    lasting = Interruptions(10)
    assert not may_pass(error)
    for _ in range(10):
        assert not lasting.too_many(starts=10)
        lasting.note(error)
    assert lasting.too_many(starts=11) and lasting.last
    assert lasting.trouble is not None
    lasting.forget()
    assert lasting.trouble is None and not lasting.last


async def test_what_stands_still_is_told_and_is_cancelled_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = sums_fail(monkeypatch, NO_ROOM, times=float("inf"))
    async with world_in(tmp_path, task_of(**PLAIN), clients=3) as world:
        assert world.federation is not None
        with capture_logs() as logs:
            running = asyncio.ensure_future(world.run())
            await until(lambda: len(failed) > 3)
        line = next(entry for entry in logs if entry["event"] == "driver.interrupted")
        assert "ENOSPC" in line["why"] and "make room" in line["fix"]
        while not (said := await told(world)):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        assert all(words in said for words in ("FED-2203", "ENOSPC", "make room"))
        while figure(world, NOT_TAKEN_UP) != "1.0":
            await world.federation._take_up()

        # The longest pause that a driver makes, for who asks meanwhile.
        monkeypatch.setattr(interruptions, "_LONGEST_PAUSE_S", 60.0)
        monkeypatch.setattr(interruptions, "_PAUSE_S", 60.0)
        found = world.federation._drivers[first_of(world).task_id]
        before = len(failed)
        await until(lambda: len(failed) > before and found.attempt is None)
        part, *_ = await world.store.assignments(first_of(world))
        caller = next(d.caller for d in world.devices if d.identity.id == part.client_id)
        with pytest.raises(DrainingError) as refused:
            await world.federation.next(caller, part.assignment_id, seen=0, wait_s=0.1)
        assert refused.value.retry == (5_000, 15_000)

        await cancel(world)
        assert (await asyncio.wait_for(running, 10)).state is TaskState.CANCELLED
        await world.eventually(Phase.CANCELLED)
        await require_scrubbed(world)
        assert not await told(world)


async def test_what_cannot_be_destroyed_of_a_cancelled_task_is_told_until_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_in(tmp_path, task_of(**PLAIN), clients=3) as world:
        assert world.federation is not None
        running = asyncio.ensure_future(world.run())
        await world.in_phase(Phase.COLLECTING)

        async def broken(_: Journal) -> NoReturn:
            raise disk_error(BROKEN)

        with monkeypatch.context() as patched:
            patched.setattr(Journal, "scrub", broken)
            await cancel(world)
            while figure(world, NOT_TAKEN_UP) != "1.0":
                await world.federation._take_up()
                await asyncio.sleep(0.005)
            assert "EIO" in await told(world)
        await require_scrubbed(world)
        await until(lambda: not world.federation._drivers)  # type: ignore[union-attr]
        await world.federation._take_up()
        assert figure(world, NOT_TAKEN_UP) == "0.0" and not await told(world)
        await running


async def test_a_task_behind_one_that_stands_still_gets_the_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = sums_fail(monkeypatch, NO_ROOM, times=float("inf"))
    async with world_in(tmp_path, task_of(**PLAIN), clients=3) as world:
        assert world.federation is not None
        running = asyncio.ensure_future(world.run())
        await until(lambda: len(failed) > 3)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        first, world.task = first_of(world).task_id, task_of(**PLAIN, seed=9)
        second = await world.submit(request=b"another request.")
        assert second.task_id != first
        for task_id, answer in ((first, RetryLater), ("", Assigned)):
            toy, none = frozenset({"toy"}), frozenset[str]()
            asks = [
                CheckIn(secrets.token_bytes(16), task_id, "1", none, toy, none)
                for _ in world.devices
            ]
            found = await asyncio.gather(
                *(
                    world.federation.check_in(device.caller, ask)
                    for device, ask in zip(world.devices, asks, strict=True)
                )
            )
            assert {type(one) for one in found} == {answer}


async def test_a_round_whose_model_is_gone_is_ended_and_scrubbed_when_it_is_cancelled(
    tmp_path: Path,
) -> None:
    async with world_in(tmp_path, task_of(**PLAIN), clients=3) as world:
        assert world.federation is not None
        world.devices[2].silent_at = lambda round, place: place == "upload"
        running = asyncio.ensure_future(world.run())
        await world.in_phase(Phase.COLLECTING)
        await until(lambda: any(one.contributions for one in world.devices))
        await world.stop()
        (model,) = (tmp_path / "blobs").glob("??/??/*")
        model.rename(tmp_path / "lost")
        await world.start()
        await cancel(world)
        await world.eventually(Phase.CANCELLED)
        await require_scrubbed(world)
        running.cancel()


async def test_a_round_that_ends_its_driver_is_given_up_without_being_taken_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_in(tmp_path, task_of(**PLAIN), clients=3) as world:
        await world.waiting_for(first_of(world))
        await world.stop()
        store = await opened(tmp_path / "fed.db", keys=[KEY])
        for _ in range(11):  # processes that were killed, each of which had the lease
            assert await store.acquire_lease(first_of(world).task_id, "here", 60_000)
        await store.close()

        async def never(*_: object, **__: object) -> NoReturn:
            raise AssertionError("it is taken up again")

        monkeypatch.setattr(driver, "take_up", never)
        await world.start()
        assert (await world.run()).state is TaskState.COMPLETED
        first, second = (await world.store.rounds(first_of(world).task_id)).rounds
        assert (first.phase, second.phase) == ("ABANDONED", "SCRUBBED")


@pytest.mark.parametrize("kept", [True, False], ids=["published", "ended"])
async def test_what_was_released_is_published_or_ended_where_nobody_can_take_it_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    """And is paid for once, whichever it is."""
    failpoint, hit = attempt.failpoint, asyncio.Event()

    def disk(name: str) -> None:
        if name == "complete.before_commit":
            hit.set()
            raise BROKEN
        failpoint(name)

    task = task_of(privacy=PRIVACY, secure="", rounds=1)
    async with world_in(tmp_path, task) as world:
        assert world.federation is not None
        monkeypatch.setattr(attempt, "failpoint", disk)
        running = asyncio.ensure_future(world.run())
        await hit.wait()
        await world.stop()
        monkeypatch.setattr(attempt, "failpoint", failpoint)
        before = verify(ledger_of(world))
        world.participation_key = OTHER_KEY
        await world.start()
        ref = first_of(world)
        assert ref.task_id in world.federation._left
        record = await world.store.round(ref)
        assert record is not None and record.phase == "RELEASING"
        if not kept:
            await world.blobs.delete(record.result_digest)
        await cancel(world)
        await world.federation._take_up()
        record = await world.store.round(ref)
        assert record is not None and record.phase == ("SCRUBBED" if kept else "ABANDONED")
        models = await world.store.models(ref.task_id)
        assert len(models) == 1 + kept
        await require_scrubbed(world)
        after = verify(ledger_of(world))
        assert (after.released, after.reservations) == (before.released, before.reservations)
        assert after.epsilon == before.epsilon
        running.cancel()
