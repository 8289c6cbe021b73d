"""A server that drains selects nobody, and keeps nobody from what was begun."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import Any

from fedserver.federation.interface import Assigned, CheckIn, RetryLater
from tests.server.federation.world import task_of, world_in


def question(request_id: bytes) -> CheckIn:
    return CheckIn(request_id, "", "1", frozenset(), frozenset({"toy"}), frozenset())


async def test_who_asks_a_server_that_drains_is_told_when_to_come_back(tmp_path: Path) -> None:
    async with world_in(tmp_path, task_of(secure="")) as world:
        caller = world.devices[0].caller
        request_id = secrets.token_bytes(16)
        held = asyncio.create_task(
            world.call(lambda f: f.check_in(caller, question(secrets.token_bytes(16))))
        )
        while not world.federation._held:  # noqa: ASYNC110, nothing tells of it
            await asyncio.sleep(0)
        await world.federation.drain()
        assert isinstance(await held, RetryLater)
        answers = [
            await world.call(lambda f: f.check_in(caller, question(request_id))) for _ in range(2)
        ]
        assert answers == [RetryLater(1_000, 5_000)] * 2


async def test_who_was_selected_and_lost_the_answer_gets_it_from_a_server_that_drains(
    tmp_path: Path,
) -> None:
    async with world_in(tmp_path, task_of(secure="")) as world:
        requests = {device.caller.id: secrets.token_bytes(16) for device in world.devices}

        async def ask(device: Any) -> Any:
            asked = question(requests[device.caller.id])
            return await world.call(lambda f: f.check_in(device.caller, asked))

        selected = await asyncio.gather(*map(ask, world.devices))
        assert all(isinstance(answer, Assigned) for answer in selected)
        await world.federation.drain()
        assert await asyncio.gather(*map(ask, world.devices)) == selected
