"""No client ever gives both secrets of a peer, whatever it is asked and whenever it restarts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedcore.errors import AuthenticationError, ReuseError, StageError
from fedcore.secagg.config import SessionConfig
from fedcore.secagg.keys import PrekeyBundle
from fedcore.secagg.messages import Abort, AbortReason, Confirmation, UnmaskAnswer
from fedcore.secagg.params import Profile
from tests.secagg.adversary import CONFIG, POLICY, Session, World, members
from tests.secagg.stories import ALL, SEMI_HONEST, confirmed, finish, uploaded


@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
@pytest.mark.parametrize("config", [CONFIG, SEMI_HONEST], ids=["malicious", "semi_honest"])
def test_no_two_requests_get_both_secrets_of_a_peer(config: SessionConfig, restart: bool) -> None:
    world = World(policy=replace(POLICY, profile=Profile.SEMI_HONEST))
    session = uploaded(world, config)
    session.known.survivors = members(8, ALL)
    if config is CONFIG:
        session.confirm()
    session.answer()
    for seat in range(7):
        if restart:
            world.restart(seat)
        lost = session.unmask_request(range(7))  # now client 7 is said to be lost
        session.refused(seat, lost, ReuseError, stage="R4")
        assert session.send(seat, session.unmask_request(ALL)) == [
            session.known.of(UnmaskAnswer)[seat]
        ]
    session.assert_sum(ALL)


def test_a_confirmed_set_stays_the_only_one_after_a_restart() -> None:
    world = World()
    session = uploaded(world)
    session.known.survivors = members(8, ALL)
    session.confirm()
    for seat in range(7):
        (first,) = world.restart(seat)
        assert first == session.known.of(Confirmation)[seat]
        session.refused(seat, session.survivors(seat, range(7)), ReuseError, stage="R3")
        assert session.send(seat, session.survivors(seat, ALL)) == [first]
    finish(session)


def test_a_quorum_does_not_make_a_client_open_what_it_did_not_confirm() -> None:
    world = World()
    session = uploaded(world)
    session.known.survivors = members(8, ALL)
    session.confirm(range(1, 8))
    session.refused(0, session.unmask_request(ALL), StageError, stage="R4")
    finish(session)


def test_a_session_that_cannot_be_taken_up_again_is_closed_for_ever() -> None:
    """Its shares are out: with a second dealing both secrets could be had, one in each session."""
    world = World()
    session = uploaded(world)
    world.trust._revoked = frozenset({world.ids[7]})
    assert world.restart(0) == []
    assert isinstance(world.hosts[0].failure, AuthenticationError)
    world.trust._revoked = frozenset()
    session.refused(0, session.roster.message_for(0), ReuseError)
    again = Session(world, round=1, adverts=session.adverts)
    again.refused(0, again.roster.message_for(0), ReuseError)
    world.restart(0)
    session.refused(0, session.roster.message_for(0), ReuseError)
    again.refused(0, again.roster.message_for(0), ReuseError)


@pytest.mark.parametrize("end", ["answered", "aborted", "unrestorable"])
@pytest.mark.parametrize("kept", ["prekey/", "session/"], ids=["prekey", "steps"])
def test_a_used_prekey_is_not_taken_up_again_whatever_was_not_erased_yet(
    end: str, kept: str
) -> None:
    """Erasing may be late: a crash before it must not give the prekey a second session."""
    world = World()
    session = confirmed(world)
    before = dict(world.hosts[0].disk)
    if end == "answered":
        session.answer()
    elif end == "aborted":
        session.send(0, Abort(session.sid, AbortReason.CANCELLED))
    else:
        world.trust._revoked = frozenset({world.ids[7]})
        world.restart(0)
        world.trust._revoked = frozenset()
    world.hosts[0].disk |= {key: value for key, value in before.items() if key.startswith(kept)}
    world.restart(0)
    again = Session(world, round=1, adverts=session.adverts)
    again.refused(0, again.roster.message_for(0), ReuseError)
    session.refused(0, session.roster.message_for(0), ReuseError)
    assert not [key for key in world.hosts[0].disk if key.startswith(("session/",))]
    pid = PrekeyBundle.decode(session.adverts[0].bundle).pid
    assert f"prekey/{pid.hex()}" not in world.hosts[0].disk
