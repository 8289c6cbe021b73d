"""What no one foresees happens to a round: it goes on, or it ends, and it says which."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import pytest

from fedcore.errors import DivergenceError
from fedcore.privacy import ledger_file
from fedserver.federation.results import Results
from fedserver.store.records import TaskState
from tests.server.federation.test_rounds import CLIENTS, MASKED, SAMPLED
from tests.server.federation.world import World, task_of, world_in


async def ended(world: World) -> TaskState:
    """How the task ends while all its devices work."""
    record = await asyncio.wait_for(world.run(), 20)
    return record.state


async def test_a_released_sum_that_makes_no_model_fails_the_task_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(clients=60, minimum=1, secure="", privacy=SAMPLED)
    async with world_in(tmp_path, task, clients=60) as world:
        made = Results.make

        async def make(self: Results, *args: object, **options: object) -> object:
            await made(self, *args, **options)  # type: ignore[arg-type]
            raise DivergenceError("the model is not finite")

        monkeypatch.setattr(Results, "make", make)
        assert await ended(world) is TaskState.FAILED
        account = await world.account()
        assert account.ledger.history.reservations == 1, "a sample is drawn for no second release"


async def test_a_ledger_without_room_holds_a_round_up_and_does_not_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(rounds=1, secure=MASKED, privacy=CLIENTS.format(noise="shares"), minimum=4)
    full, write = [True], ledger_file._write

    def fails(descriptor: int, data: bytes) -> None:
        if b'"sealed"' in data and full:
            full.clear()
            raise OSError(errno.ENOSPC, "no space left")
        write(descriptor, data)

    monkeypatch.setattr(ledger_file, "_write", fails)
    async with world_in(tmp_path, task) as world:
        assert await ended(world) is TaskState.COMPLETED
    assert not full
