"""A server holds no name for longer than its file: some Pythons keep what is interned for ever."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from fedserver.store.records import TaskState
from tests.server.federation.test_rounds import MASKED
from tests.server.federation.world import task_of, world_in

# Ids and digests of 16 bytes and more; not those of tasks, which a server has few of.
_ITS_OWN = re.compile(r"[0-9a-f]{32}")


async def test_a_round_interns_the_name_of_no_upload_and_no_blob(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interned, intern = list[str](), sys.intern

    def noted(name: str) -> str:
        interned.append(name)
        return intern(name)

    async with world_in(tmp_path, task_of(secure=MASKED, clients=3), clients=3) as world:
        monkeypatch.setattr(sys, "intern", noted)
        str(tmp_path / "probe" / "name")
        if "probe" not in interned:
            pytest.skip("the paths of this Python intern nothing")
        assert (await world.run()).state is TaskState.COMPLETED
        monkeypatch.undo()
    assert [name for name in interned if _ITS_OWN.search(name)] == []
