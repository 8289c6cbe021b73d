"""An update that is not what was acknowledged is in no model, and its device is not to blame."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from fedserver.store.records import RoundRef, TaskState
from tests.server.federation.test_rounds import MASKED, final_of, models_of
from tests.server.federation.world import task_of, world_in
from tests.variants import mostly_slow


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    content[6] ^= 0x40
    path.write_bytes(content if how == "changed" else content[:-1])


@pytest.mark.parametrize("how", ["changed", "cut short"])
@pytest.mark.parametrize("secure", mostly_slow([MASKED, ""]), ids=["masked", "plain"])
async def test_an_update_that_changed_on_the_disk_ends_the_attempt_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secure: str, how: str
) -> None:
    async with world_in(tmp_path, task_of(secure=secure, clients=3, rounds=1), clients=3) as world:
        last, go = world.devices[2], asyncio.Event()
        blocks = last._blocks

        async def later(*given):  # type: ignore[no-untyped-def]
            await go.wait()
            return await blocks(*given)

        monkeypatch.setattr(last, "_blocks", later)
        running = asyncio.ensure_future(world.run())
        assert world.submitted is not None
        ref = RoundRef(world.submitted.task_id, 0, 1)
        while len(await world.store.uploads(ref, sealed_only=True)) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await world.stop()
        sealed = [path for path in (tmp_path / "spool").iterdir() if path.suffix != ".part"]
        damage(sealed[0], how)
        with capture_logs() as logs:
            await world.start()
            go.set()
            record = await asyncio.wait_for(running, 60)
        assert (record.state, record.rounds_completed) == (TaskState.COMPLETED, 1)
        first = await world.store.round(ref)
        assert first is not None and first.phase == "ABANDONED"
        assert first.reason.startswith("FED-2208" if how == "changed" else "FED-2104")
        assert not first.state["lost"], "nobody is to blame"
        [told] = [log for log in logs if log["event"] == "update.damaged"]
        assert (
            told["log_level"] == "error"
            and RoundRef(told["task"], told["round"], told["attempt"]) == ref
        )
        assert await final_of(world) == models_of(world.task, world)[-1]
