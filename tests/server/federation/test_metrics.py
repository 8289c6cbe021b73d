"""The figures of a federation agree with what its store keeps of the same rounds."""

from __future__ import annotations

from pathlib import Path

from fedserver.store.records import TaskState
from tests.server.federation.world import task_of, world_in

MASKED = 'profile = "malicious"\ndelta = 0.2\ngamma = 0.0'


async def test_who_falls_silent_is_counted_once_in_its_phase_and_the_other_parts_as_completed(
    tmp_path: Path,
) -> None:
    task = task_of(minimum=4, secure=MASKED, heartbeat_s=0.5)
    async with world_in(tmp_path, task) as world:
        world.devices[2].silent_at = lambda round, place: (round, place) == (0, "upload")
        assert (await world.run()).state is TaskState.COMPLETED
        (family,) = world.metrics.dropouts.collect()
        counted = {
            sample.labels["phase"]: sample.value
            for sample in family.samples
            if sample.name.endswith("_total")
        }
        assert counted == {"COLLECTING": 1.0}
        parts = world.metrics.assignments
        assert parts.labels("given")._value.get() == 10.0
        assert parts.labels("completed")._value.get() == 9.0
