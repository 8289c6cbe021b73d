"""Several servers over one store: who has a task's lease answers for it, and others say so."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from fedcore.errors import DrainingError, LedgerError
from fedcore.federated.payments import Account
from fedcore.federated.task import Task
from fedcore.rounds import Phase
from fedserver.authorisation import Caller
from fedserver.federation import attempt, check_ins
from fedserver.federation.federation import LocalFederation
from fedserver.federation.interface import (
    Assigned,
    CheckIn,
    ElsewhereError,
    FailureCode,
    Finished,
    Outcome,
    Report,
    RetryLater,
)
from fedserver.store.records import Idempotency, RoundRef, TaskState
from tests.server.federation.rivals import Rival, Rivals
from tests.server.federation.test_competing_drivers import ended, gone
from tests.server.federation.test_rounds import CLIENTS, MASKED, final_of, models_of
from tests.server.federation.world import task_of
from tests.variants import mostly_slow

FIRST, SECOND = "10.0.0.1:7443", "10.0.0.2:7443"


@asynccontextmanager
async def servers_in(folder: Path, task: Task, *, clients: int = 3) -> AsyncIterator[Rivals]:
    """Two servers, the first of which has the task."""
    world = Rivals(folder, task, clients=clients, names=(FIRST, SECOND))
    await world.start()
    try:
        await world.enrol()
        await world.submit()
        await driven(world.rivals[0], world)
        yield world
    finally:
        await world.stop()


async def driven(rival: Rival, world: Rivals) -> None:
    """Waits until a server drives the task, and the others know of it."""
    assert world.submitted is not None
    while True:
        lease = await world.store.lease(world.submitted.task_id)
        driver = rival.federation._drivers.get(world.submitted.task_id)
        if lease and lease.owner == rival.name and driver is not None and driver.attempt:
            break
        await asyncio.sleep(0.01)
    for other in world.rivals:
        if not other.store.stop_at:  # else it would be waited for
            await other.federation._take_up()


async def overtaken(world: Rivals) -> None:
    """Lets time pass until the second server has had the lease; the devices speak to it.

    More than once: what was on its way to the store when its caller was stopped still arrives.
    """
    world.turn_to(1)
    while world.holder() == world.rivals[0].name:
        world.pass_lease_time()
        await world.rivals[1].federation._take_up()
        await asyncio.sleep(0.01)


def ask_of(task_id: str = "") -> CheckIn:
    none = frozenset[str]()
    return CheckIn(secrets.token_bytes(16), task_id, "1", none, frozenset({"toy"}), none)


async def assigned(world: Rivals) -> list[Assigned]:
    """An assignment for every device, from the first server."""
    federation = world.rivals[0].federation
    answers = await asyncio.gather(
        *(federation.check_in(device.caller, ask_of()) for device in world.devices)
    )
    assert all(isinstance(answer, Assigned) for answer in answers)
    return [answer for answer in answers if isinstance(answer, Assigned)]


def calls_of(
    caller: Caller, given: Assigned
) -> dict[str, Callable[[LocalFederation], Awaitable[object]]]:
    """Everything that is asked about an assignment."""
    one, task_id = given.assignment_id, given.ref.task_id
    report = Report(one, FailureCode.INTERNAL, "", 0, 0, 0.0, False)
    return {
        "heartbeat": lambda f: f.heartbeat(caller, one, progress=0),
        "next": lambda f: f.next(caller, one, seen=0, wait_s=0),
        "place": lambda f: f.place(caller, assignment_id=one),
        "begin_upload": lambda f: f.begin_upload(caller, one, size=1, header=None),
        "report": lambda f: f.report(caller, report),
        "check_in": lambda f: f.check_in(caller, ask_of()),
        "check_in for it": lambda f: f.check_in(caller, ask_of(task_id)),
        "show_round": lambda f: f.show_round(caller, given.ref),
        "changed": lambda f: f.changed(caller, task_id, after=10**6, wait_s=0),
    }


async def test_a_new_task_is_left_to_the_server_that_it_was_handed_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Rivals(tmp_path, task_of(clients=3), clients=3, names=(FIRST, SECOND))
    await world.start()
    try:
        first, second = (rival.federation for rival in world.rivals)
        for one in (first, second):
            object.__setattr__(one._resources, "clock", lambda: world.now_ms)
        monkeypatch.setattr(first, "_drive", lambda hosted: None)  # it stands still just then
        await world.enrol()
        submitted = await world.submit()
        await second._take_up()
        assert not second._drivers and submitted.task_id in second._others
        first._accounts.let_go(submitted.task_id)
        world.pass_lease_time()
        await second._take_up()
        assert [*second._drivers] == [submitted.task_id]
    finally:
        await world.stop()


async def test_every_call_about_a_task_of_another_server_names_that_server(
    tmp_path: Path,
) -> None:
    async with servers_in(tmp_path, task_of(secure="", clients=3)) as world:
        first, second = (rival.federation for rival in world.rivals)
        given, caller = (await assigned(world))[0], world.devices[0].caller
        for name, call in calls_of(caller, given).items():
            with pytest.raises(ElsewhereError) as found:
                await call(second)
            assert (found.value.address, found.value.passed) == (FIRST, {given.ref.task_id}), name
        instruction = await first.next(caller, given.assignment_id, seen=0, wait_s=0)
        assert not isinstance(instruction.order, Finished)
        # What the store alone knows, any of them tells.
        assert (await second.task(caller, given.ref.task_id)).canonical == world.task.canonical


async def test_a_call_is_passed_on_for_a_task_once(tmp_path: Path) -> None:
    async with servers_in(tmp_path, task_of(secure="", clients=3)) as world:
        second = world.rivals[1].federation
        given = (await assigned(world))[0]
        caller = replace(world.devices[0].caller, passed=frozenset({given.ref.task_id}))
        for name, call in calls_of(caller, given).items():
            if name in ("heartbeat", "next", "place", "begin_upload", "report"):
                with pytest.raises(DrainingError):
                    await call(second)
            else:
                await call(second)  # from the store, or later: for nobody else


async def test_a_device_that_asks_while_nobody_has_its_task_is_told_to_come_again(
    tmp_path: Path,
) -> None:
    async with servers_in(tmp_path, task_of(secure="", clients=3)) as world:
        second = world.rivals[1].federation
        given, caller = (await assigned(world))[0], world.devices[0].caller
        second._draining = True  # it takes nothing up
        world.pass_lease_time()
        await world.rivals[0].federation.stop()
        await second._take_up()
        for name in ("heartbeat", "next", "report", "check_in"):
            with pytest.raises(DrainingError):
                await calls_of(caller, given)[name](second)
        second._draining = False
        await driven_by(world, 1)
        beat = await second.heartbeat(caller, given.assignment_id, progress=0)
        assert not beat.cancel


async def driven_by(world: Rivals, number: int) -> None:
    await world.rivals[number].federation._take_up()
    await driven(world.rivals[number], world)


async def test_devices_meet_at_the_task_that_was_submitted_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_ins, "_HELD_S", 0.05)
    async with servers_in(tmp_path, task_of(secure="", clients=3)) as world:
        first, second = (rival.federation for rival in world.rivals)
        assert world.submitted is not None
        earlier, caller = world.submitted.task_id, world.devices[0].caller
        world.task, world.federation = task_of(secure="", clients=3, seed=4), second
        world.now_ms += 1
        later = (await world.submit(request=b"2" * 16)).task_id
        await driven(world.rivals[1], world)
        for federation in (second, first):  # each drives one of them
            assert sorted(federation._drivers) in ([earlier], [later])
        with pytest.raises(ElsewhereError) as found:
            await second.check_in(caller, ask_of())
        assert (found.value.address, found.value.passed) == (FIRST, {earlier})
        there = replace(caller, passed=found.value.passed)
        assert isinstance(await first.check_in(caller, ask_of()), RetryLater)
        # One that the first task does without is passed on to the second, and no further.
        first._drivers[earlier].left_out.refused(caller.id, "policy_refused")
        with pytest.raises(ElsewhereError) as found:
            await first.check_in(there, ask_of())
        assert (found.value.address, found.value.passed) == (SECOND, {earlier, later})
        there = replace(caller, passed=found.value.passed)
        assert isinstance(await second.check_in(there, ask_of()), RetryLater)


@pytest.mark.parametrize(
    "privacy", mostly_slow([CLIENTS.format(noise="central"), ""]), ids=["private", "open"]
)
async def test_uploads_that_another_server_has_sealed_are_in_the_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, privacy: str
) -> None:
    """The second server has looked at the folder of uploads before there were any."""

    def stands_still(account: Account) -> None:
        raise LedgerError("a server that stands still opens no ledger", why="it is not told to")

    monkeypatch.setattr(Account, "reopen", stands_still)
    task = task_of(secure=MASKED, clients=3, rounds=1, privacy=privacy)
    async with servers_in(tmp_path, task) as world:
        working = [asyncio.ensure_future(device.serve(world)) for device in world.devices]
        try:
            assert world.submitted is not None
            ref, sealed = RoundRef(world.submitted.task_id, 0, 1), 0
            while not sealed:
                sealed = len(await world.store.uploads(ref, sealed_only=True))
                await asyncio.sleep(0.001)
            stopped = world.rivals[0]
            stopped.store.stop_at = stopped.store.steps + 1
            await asyncio.wait_for(stopped.store.stopped.wait(), 20)
            if privacy:  # a ledger is let go of by nobody but its holder, who may be killed
                await asyncio.to_thread(stopped.accounts.close)
            await overtaken(world)
            await asyncio.wait_for(ended(world, working), 60)
            record = await world.record()
            assert (record.state, record.rounds_completed) == (TaskState.COMPLETED, 1)
            if not privacy:
                assert await final_of(world) == models_of(world.task, world)[-1]
        finally:
            await gone(working)


@pytest.mark.parametrize("secure", mostly_slow([MASKED, ""]), ids=["masked", "plain"])
async def test_updates_that_another_server_has_sealed_are_destroyed_with_the_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secure: str
) -> None:
    """The first stands still between the model and the scrub, which the second does."""
    async with servers_in(tmp_path, task_of(secure=secure, clients=3, rounds=1)) as world:
        first = world.rivals[0]

        def stands_still(name: str) -> None:
            if name == "scrub.before" and not first.store.stop_at:
                first.store.stop_at = first.store.steps + 1

        monkeypatch.setattr(attempt, "failpoint", stands_still)
        working = [asyncio.ensure_future(device.serve(world)) for device in world.devices]
        try:
            await asyncio.wait_for(first.store.stopped.wait(), 30)
            assert len(os.listdir(tmp_path / "spool")) == 3
            await overtaken(world)
            while await world.store.outbox_pending():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert os.listdir(tmp_path / "spool") == []
        finally:
            await gone(working)


async def test_a_ledger_is_shown_by_any_server_and_let_go_of_by_its_holder_alone(
    tmp_path: Path,
) -> None:
    task = task_of(secure=MASKED, clients=3, privacy=CLIENTS.format(noise="central"))
    async with servers_in(tmp_path, task) as world:
        first, second = (rival.federation for rival in world.rivals)
        assert world.submitted is not None
        task_id = world.submitted.task_id
        assert await second.spent(world.user, task_id) == await first.spent(world.user, task_id)
        assert await second.certificate(world.user, task_id)
        world.rivals[0].store.stop_at = world.rivals[0].store.steps + 1
        await asyncio.wait_for(world.rivals[0].store.stopped.wait(), 20)
        world.pass_lease_time()
        await second._take_up()
        assert task_id not in second._drivers, "who stands still has the ledger, and may go on"
        world.rivals[0].store.go_on()
        await first.stop()
        await driven_by(world, 1)


async def test_who_is_overtaken_lets_go_of_the_task(tmp_path: Path) -> None:
    async with servers_in(tmp_path, task_of(secure="", clients=3)) as world:
        first = world.rivals[0]
        assert world.submitted is not None
        first.store.stop_at = first.store.steps + 1
        await asyncio.wait_for(first.store.stopped.wait(), 20)
        await overtaken(world)
        first.store.go_on()
        while world.submitted.task_id in first.federation._drivers:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await first.federation._take_up()
        with pytest.raises(ElsewhereError):
            await first.federation.check_in(world.devices[0].caller, ask_of())


async def test_a_round_ends_at_once_though_its_task_is_cancelled_by_who_was_overtaken(
    tmp_path: Path,
) -> None:
    """By the first server, which stood still and does not know yet who drives the task now."""
    task = task_of(secure="", clients=3, rounds=1, deadline_s=600.0, heartbeat_s=60.0)
    async with servers_in(tmp_path, task) as world:
        given, caller = (await assigned(world))[0], world.devices[0].caller
        first, second = world.rivals
        once = Idempotency(world.user.principal, "CancelTask", bytes(16), bytes(32))
        first.store.stop_before = "set_task_state"
        cancelling = asyncio.ensure_future(
            first.federation.cancel(world.user, given.ref.task_id, reason="withdrawn", once=once)
        )
        await asyncio.wait_for(first.store.stopped.wait(), 20)
        await overtaken(world)
        await driven(second, world)
        first.store.go_on()
        await cancelling
        await second.federation._take_up()
        assert await asyncio.wait_for(world.eventually(Phase.CANCELLED), 20)
        assert (await second.federation.heartbeat(caller, given.assignment_id, progress=0)).cancel
        record = await world.store.round(given.ref)
        assert record is not None and record.reason == "withdrawn"


async def test_a_task_is_cancelled_where_it_is_driven(tmp_path: Path) -> None:
    async with servers_in(tmp_path, task_of(secure="", clients=3)) as world:
        first, second = (rival.federation for rival in world.rivals)
        assert world.submitted is not None
        once = Idempotency(world.user.principal, "CancelTask", bytes(16), bytes(32))
        task_id = world.submitted.task_id
        with pytest.raises(ElsewhereError):
            await second.cancel(world.user, task_id, reason="enough", once=once)
        assert not await world.ended()
        await first.cancel(world.user, task_id, reason="enough", once=once)
        assert await world.ended()


async def test_what_a_cancelled_task_left_is_destroyed_by_the_next_server(tmp_path: Path) -> None:
    """The one that was told is killed before it has ended the round."""
    async with servers_in(tmp_path, task_of(secure=MASKED, clients=3)) as world:
        given = (await assigned(world))[0]
        await world.store.set_task_state(given.ref.task_id, TaskState.CANCELLED, reason="enough")
        first, second = world.rivals
        first.store.stop_at = first.store.steps + 1
        first.federation._drivers[given.ref.task_id].cancel("enough")
        await asyncio.wait_for(first.store.stopped.wait(), 20)
        await overtaken(world)
        while True:
            record = await world.store.round(given.ref)
            over = record is not None and record.phase == Phase.CANCELLED.value
            if over and not await world.store.outbox_pending():
                break
            await asyncio.sleep(0.01)
        assert not await world.store.session(given.ref)
        order = await second.federation.next(
            world.devices[0].caller, given.assignment_id, seen=0, wait_s=0
        )
        assert isinstance(order.order, Finished)
        assert order.order.outcome in (Outcome.CANCELLED, Outcome.ABANDONED)


async def test_who_asks_before_a_round_is_taken_up_is_not_told_that_it_is_over(
    tmp_path: Path,
) -> None:
    async with servers_in(tmp_path, task_of(secure="", clients=3)) as world:
        given, caller = (await assigned(world))[0], world.devices[0].caller
        first = world.rivals[0].federation
        driver = first._drivers[given.ref.task_id]
        kept, driver.attempt = driver.attempt, None  # as between a start and its taking up
        for name in ("heartbeat", "next", "place", "begin_upload", "report"):
            with pytest.raises(DrainingError):
                await calls_of(caller, given)[name](first)
        driver.attempt = kept
        beat = await first.heartbeat(caller, given.assignment_id, progress=0)
        assert not beat.cancel
