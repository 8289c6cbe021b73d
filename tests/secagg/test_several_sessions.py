"""Sessions of one client beside each other: a round gets one vector, and nothing crosses over."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from fedcore.errors import (
    AuthenticationError,
    PolicyError,
    ReuseError,
)
from fedcore.secagg.loopback import Disk
from fedcore.secagg.messages import Abort, AbortReason, Confirmation
from tests.secagg.adversary import NOW, POLICY, Session, World, members
from tests.secagg.stories import ALL, finish


def begun(world: World, **terms: Any) -> Session:
    session = Session(world, **terms)
    session.deal()
    return session


def test_a_round_gets_one_vector() -> None:
    world = World()
    begun(world)
    first = begun(world, attempt=1)  # sessions that got no vector cost nothing
    first.mask()
    second = Session(world, attempt=2)
    second.refused(0, second.roster.message_for(0), PolicyError, stage="R1")
    for i in ALL:
        world.restart(i)
    second.refused(0, second.roster.message_for(0), PolicyError, stage="R1")
    first.send(0, Abort(first.sid, AbortReason.CANCELLED))  # whoever aborts may have the vector
    second.refused(0, second.roster.message_for(0), PolicyError, stage="R1")
    finish(Session(world, round=1))


@pytest.mark.parametrize("asked", [False, True], ids=["not asked yet", "asked"])
def test_of_two_open_sessions_of_a_round_one_gets_the_vector(asked: bool) -> None:
    """The other can get none any more: it is closed, and no crash in between keeps it open."""
    world = World()
    one, other = begun(world), begun(world, attempt=1)
    other.known.uploaders = members(8, ALL)
    request = other.mask_request(0)
    if asked:  # both wait for a vector
        world.client(0).handle(request, now=NOW)
    before = dict(world.hosts[0].disk)
    one.mask()
    other.refused(0, request, ReuseError, stage="R2")
    assert set(world.client(0).stages) == {one.sid}
    charged = {key: value for key, value in world.hosts[0].disk.items() if "tomb" not in key}
    world.hosts[0].disk = Disk(before | charged)
    world.restart(0)
    other.refused(0, request, ReuseError, stage="R2")
    assert not other.uploads
    one.known.survivors = members(8, ALL)
    one.confirm()
    one.answer()
    one.assert_sum(ALL)


def test_further_attempts_are_for_the_policy_to_allow() -> None:
    world = World(policy=replace(POLICY, attempts=2))
    for attempt in (0, 1):
        begun(world, attempt=attempt).mask()
    third = Session(world, attempt=2)
    third.refused(0, third.roster.message_for(0), PolicyError, stage="R1")
    world.monitor.check()


@pytest.mark.parametrize("seed", range(3))
def test_two_sessions_at_once_do_not_touch_each_other(seed: int) -> None:
    world = World()
    sessions = [Session(world, round=round) for round in (0, 1)]
    draw = random.Random(seed)
    for step in ("deal", "mask", "confirm", "answer"):
        for session in sessions:
            if step == "mask":
                session.known.uploaders = members(8, ALL)
            if step == "confirm":
                session.known.survivors = members(8, ALL)
        turns = [(session, seat) for session in sessions for seat in ALL]
        draw.shuffle(turns)
        for session, seat in turns:
            getattr(session, step)([seat])
    for session in sessions:
        session.assert_sum(ALL)


def test_a_message_of_one_session_under_the_name_of_another_is_refused() -> None:
    world = World()
    one, other = begun(world), begun(world, round=1)
    for session in (one, other):
        session.mask()
        session.known.survivors = members(8, ALL)
    told = replace(one.survivors(0, ALL), sid=other.sid)
    other.refused(0, told, AuthenticationError, stage="R3")
    masked = replace(one.mask_request(0), sid=other.sid)
    other.refused(0, masked, ReuseError, stage="R2")
    one.confirm()
    other.confirm()
    shown = replace(one.unmask_request(ALL), sid=other.sid)
    other.refused(0, shown, AuthenticationError, stage="R4")
    for session in (one, other):
        session.answer()
        session.assert_sum(ALL)
    for a, b in ((one, other), (other, one)):
        assert a.known.of(Confirmation)[0].digest != b.known.of(Confirmation)[0].digest
