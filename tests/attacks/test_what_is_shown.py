"""Under privacy nothing but what the mechanism released is shown to whom it does not trust."""

from __future__ import annotations

import types
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from fedcore.v1 import admin_service_pb2 as admin, common_pb2 as common
from fedserver.authorisation import READERS
from fedserver.services.overview import About, Overview
from fedserver.store.records import TaskState
from tests.server.federation.test_rounds import SAMPLED
from tests.server.federation.world import task_of, world_in


async def test_who_was_drawn_in_secret_is_shown_to_operators_alone(tmp_path: Path) -> None:
    task = task_of(clients=60, minimum=1, secure="", privacy=SAMPLED, rounds=1)
    async with world_in(tmp_path, task, clients=60) as world:
        assert (await world.run()).state is TaskState.COMPLETED
        assert world.submitted is not None and world.federation is not None
        overview = Overview(
            world.store,
            world.federation,
            about=About(bytes(16), "1", 0, "sqlite"),
            now_ms=lambda: 0,
            draining=lambda: False,
            audit=cast(Any, types.SimpleNamespace(newest=b"")),
        )
        task_id = world.submitted.task_id
        place = common.RoundRef(task_id=task_id, round=0, attempt=1)
        for role in READERS:
            caller = replace(world.user, role=role)
            listed = await overview.ListRounds(caller, admin.ListRoundsRequest(task_id=task_id))
            shown = await overview.ShowRound(caller, admin.ShowRoundRequest(round=place))
            [entry] = listed.rounds
            counts = [
                count
                for found in (entry, shown.round)
                for count in (found.selected, found.reported, found.bytes_up, len(found.lost))
            ]
            words = [entry.reason, shown.waiting_for, *(t.reason for t in shown.transitions)]
            told = any(counts) or any(words) or bool(shown.participants)
            assert told is (role in ("operator", "admin")), role
            assert list(entry.metrics) == ["epsilon"]
