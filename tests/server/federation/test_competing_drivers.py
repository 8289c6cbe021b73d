"""Of several drivers over one store one does the work, wherever another was stopped meanwhile (R7).

A driver is stopped past its lease at a step, another takes the lease and ends the task, and the
first goes on as if nothing had been.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from fedcore.errors import LeaseLostError, LedgerBusyError
from fedcore.federated.payments import Accounts
from fedcore.privacy import verify
from fedserver.federation import interruptions
from fedserver.store.records import TaskState
from tests.server.federation.rivals import Rivals
from tests.server.federation.test_rounds import CLIENTS, MASKED, final_of, models_of
from tests.server.federation.world import KEY, task_of
from tests.variants import mostly_slow

PRIVATE = CLIENTS.format(noise="central")
_ONCE = ("AGGREGATING", "RELEASING", "COMPLETED", "SCRUBBED")


def rows_of(folder: Path) -> dict[str, list[tuple[object, ...]]]:
    """All that the store holds, but who may drive."""
    with closing(sqlite3.connect(folder / "fed.db")) as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return {
            name: sorted(connection.execute(f"SELECT * FROM {name}").fetchall(), key=repr)
            for (name,) in names
            if name != "task_lease"
        }


async def stopped_at(folder: Path, steps: Sequence[int], *, privacy: str = "") -> bool:
    """A task whose drivers are stopped one after the other, and go on once it has ended.

    Whether all of them came to their steps.
    """
    task = task_of(secure=MASKED, privacy=privacy, clients=3, rounds=1)
    world = Rivals(folder, task, clients=3)
    await world.start()
    await world.enrol()
    await world.submit()
    working = [asyncio.ensure_future(device.serve(world)) for device in world.devices]
    try:
        stopped = []
        for number, step in enumerate(steps):
            rival = world.rivals[-1]
            rival.store.stop_at = rival.store.steps + step
            stops = asyncio.ensure_future(rival.store.stopped.wait())
            ends = asyncio.ensure_future(ended(world, working))
            await asyncio.wait({stops, ends}, return_when=asyncio.FIRST_COMPLETED)
            came = stops.done()
            for waiting in (stops, ends):
                waiting.cancel()
            if not came:
                break
            stopped.append(rival)
            await world.overtake(f"rival {number}")
        await ended(world, working)
        await check(world, privacy=bool(privacy))
        await gone(working)
        await world.store.checkpoint()  # behind all that was still on its way
        before = rows_of(folder)
        with capture_logs() as logs:
            for rival in world.rivals:
                rival.store.go_on()
            for rival in world.rivals:
                await asyncio.wait_for(rival.federation.stop(), 10)
        assert rows_of(folder) == before, "who was overtaken changes nothing"
        assert {entry.get("code") for entry in logs if entry["event"] == "driver.interrupted"} <= {
            LeaseLostError.code
        }
        return len(stopped) == len(steps)
    finally:
        await gone(working)
        await world.stop()


async def gone(working: Sequence[asyncio.Future[None]]) -> None:
    """The devices leave."""
    for one in working:
        one.cancel()
    await asyncio.gather(*working, return_exceptions=True)


async def ended(world: Rivals, working: Sequence[asyncio.Future[None]]) -> None:
    """Waits until the task has ended and nothing of it is left to be destroyed."""
    while True:
        for one in working:
            if one.done():
                one.result()
        if await world.ended() and not await world.store.outbox_pending():
            return
        await asyncio.sleep(0.01)


async def check(world: Rivals, *, privacy: bool) -> None:
    """One release, of one attempt, that was paid for once."""
    record = await world.record()
    assert (record.state, record.rounds_completed) == (TaskState.COMPLETED, 1), record.reason
    assert world.submitted is not None
    task_id = world.submitted.task_id
    line = await world.store.models(task_id)
    assert [model.round for model in line] == [0, 1]
    for attempt in (await world.store.rounds(task_id)).rounds:
        events = await world.store.round_events(attempt.ref)
        entered = Counter(event.to_phase for event in events)
        assert max(entered[phase] for phase in _ONCE) <= 1
        assert [event.sequence for event in events] == list(range(len(events)))
    if privacy:
        found = verify(world.folder / "ledgers" / task_id)
        assert (found.released, found.reservations, found.damaged) == (1, 1, ())
    else:
        assert await final_of(world) == models_of(world.task, world)[-1]


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that was interrupted begins again at once."""
    monkeypatch.setattr(interruptions, "_PAUSE_S", 0.0)


@pytest.mark.parametrize("privacy", mostly_slow([PRIVATE, ""]), ids=["private", "masked"])
async def test_a_driver_that_was_stopped_past_its_lease_changes_nothing(
    tmp_path: Path, privacy: str
) -> None:
    assert await stopped_at(tmp_path, [60], privacy=privacy)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("privacy", ["", PRIVATE], ids=["masked", "private"])
async def test_it_changes_nothing_wherever_it_was_stopped(tmp_path: Path, privacy: str) -> None:
    step = 1
    while await stopped_at(tmp_path / str(step), [step], privacy=privacy):
        step += 1
    assert step > 100


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("privacy", ["", PRIVATE], ids=["masked", "private"])
async def test_of_three_drivers_the_last_one_ends_what_two_began(
    tmp_path: Path, privacy: str
) -> None:
    came = 0
    for first in range(5, 120, 23):
        for second in range(3, 90, 29):
            folder = tmp_path / f"{first}-{second}"
            came += await stopped_at(folder, [first, second], privacy=privacy)
    assert came > 10


async def test_two_servers_never_spend_one_budget(tmp_path: Path) -> None:
    world = Rivals(tmp_path, task_of(privacy=PRIVATE, clients=3, rounds=1), clients=3)
    await world.start()
    try:
        await world.enrol()
        await world.submit()
        assert world.submitted is not None and world.task.plan is not None
        with pytest.raises(LedgerBusyError):
            Accounts(tmp_path / "ledgers", participation_key=KEY).open(
                world.submitted.task_id, world.task.plan, checkpoint=None
            )
    finally:
        await world.stop()
