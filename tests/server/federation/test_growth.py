"""What a server holds in memory does not grow with the rounds that it has carried out."""

from __future__ import annotations

import gc
from collections import Counter
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

import numpy as np
import pytest

from tests.server.federation.test_rounds import MASKED
from tests.server.federation.world import task_of, world_in

_CODE = (ModuleType, type, FunctionType, CodeType)
_PLAIN = (bytes, set, frozenset, np.ndarray)


def held_by(*roots: object, outside: object) -> Counter[str]:
    """How many of our objects, and of what they are made of, can be reached from these.

    Connections, their caches and timers that have not gone off come and go, and are not ours.
    """
    seen: dict[int, object] = {id(outside): None}
    queue = list(roots)
    while queue:
        found = queue.pop()
        if id(found) in seen or isinstance(found, _CODE):
            continue
        seen[id(found)] = found
        queue += gc.get_referents(found)
    return Counter(
        type(found).__qualname__
        for found in seen.values()
        if isinstance(found, _PLAIN) or type(found).__module__.startswith("fed")
    )


async def _held_after(folder: Path, secure: str, *, rounds: int) -> Counter[str]:
    async with world_in(folder, task_of(rounds=rounds, secure=secure)) as world:
        assert world.federation is not None and world.submitted is not None
        task_id = world.submitted.task_id
        # A look that is under way holds what it looks at.
        looking, world.federation._looking = world.federation._looking, None
        assert looking is not None
        looking.cancel()
        # Of which the federation lets go in the end: what it holds would not be seen there.
        driver, ended = world.federation._drivers[task_id], world.federation._running[task_id]
        await world.run()
        await ended
        await world.store.prune(0)  # behind what the devices asked for last
        del looking, ended
        gc.collect()
        return held_by(world.federation, driver, world.store, outside=world)


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    found = [tmp_path / "few", tmp_path / "many"]
    for folder in found:
        folder.mkdir()
    return found


@pytest.mark.parametrize("secure", ["", MASKED], ids=["plain", "masked"])
async def test_more_rounds_leave_no_more_behind(folders: list[Path], secure: str) -> None:
    few = await _held_after(folders[0], secure, rounds=4)
    many = await _held_after(folders[1], secure, rounds=8)
    assert few["LocalFederation"] == 1 and not many - few
