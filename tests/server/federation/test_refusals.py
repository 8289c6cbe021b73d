"""Who refused a task is not asked again at once, and is as soon as its answer may be another."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from fedserver.federation import check_ins
from fedserver.federation.interface import (
    Assigned,
    CheckIn,
    FailureCode,
    Report,
    RetryLater,
)
from fedserver.federation.left_out import LeftOut
from fedserver.store.records import RoundRef, TaskState
from tests.server.federation.device import Device
from tests.server.federation.world import World, task_of, world_in


def asked(terms: bytes) -> CheckIn:
    toy, none = frozenset({"toy"}), frozenset[str]()
    return CheckIn(secrets.token_bytes(16), "", "1", none, toy, none, terms)


class RefusesAtFirst:
    """A device whose owner allows the task only after it has refused it once."""

    def __init__(self, device: Device) -> None:
        self.device, self.refused, self._goes_on = device, 0, device._take_part
        device.terms, device._take_part = b"strict", self  # type: ignore[method-assign]

    async def __call__(self, world: World, part: Assigned) -> None:
        if self.device.terms == b"loose":
            return await self._goes_on(world, part)
        code = FailureCode.POLICY_REFUSED
        report = Report(part.assignment_id, code, "a rule", 0, 0, 0.0, False, self.device.terms)
        await world.call(lambda f: f.report(self.device.caller, report))
        self.refused, self.device.terms = self.refused + 1, b"loose"


async def test_a_task_that_all_refused_goes_on_when_their_owners_allow_it(tmp_path: Path) -> None:
    async with world_in(tmp_path, task_of(rounds=1)) as world:
        owners = [RefusesAtFirst(device) for device in world.devices]
        record = await world.run()
        assert (record.state, record.rounds_completed) == (TaskState.COMPLETED, 1)
        assert [owner.refused for owner in owners] == [1] * 5


async def test_who_is_held_back_is_told_of_which_task_why_and_for_how_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_ins, "_HELD_S", 0.01)
    async with world_in(tmp_path, task_of()) as world:
        assert world.federation is not None and world.submitted is not None
        task_id, client = world.submitted.task_id, world.devices[0].caller
        await world.waiting_for(RoundRef(task_id, 0, 1))
        world.federation._drivers[task_id].left_out.refused(client.id, "data_missing", terms=b"1")
        answer = await world.federation.check_in(client, asked(b"1"))
        assert isinstance(answer, RetryLater) and answer.held is not None
        assert (answer.held.task_id, answer.held.why) == (task_id, "data_missing")
        assert 890 < answer.held.left_s <= 900
        answer = await world.federation.check_in(client, asked(b"2"))
        assert isinstance(answer, RetryLater) and answer.held is None


def test_other_terms_end_a_refusal_and_never_what_bad_shares_brought() -> None:
    now = [0.0]
    left_out = LeftOut(lambda: now[0])
    for client in (b"same", b"other", b"bad"):
        left_out.refused(client, "policy_refused", terms=b"1")
    left_out.bar(b"bad")
    now[0] = 100.0
    left_out.comes(b"same", terms=b"1")
    left_out.comes(b"other", terms=b"2")
    left_out.comes(b"bad", terms=b"2")
    assert b"same" in left_out and b"other" not in left_out and b"bad" in left_out
    assert left_out.longest_s == 800.0
    refusal = left_out.refusal(b"same")
    assert refusal is not None and refusal.left_s == 800.0
    assert left_out.refusal(b"bad") is None
    now[0] = 900.0
    assert b"same" not in left_out and left_out.longest_s == 0.0
