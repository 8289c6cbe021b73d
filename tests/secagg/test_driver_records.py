"""Drivers whose clock goes wrong, or whose records are damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from fedcore.errors import (
    MessageError,
    ParameterError,
    ReuseError,
    SecAggError,
    StageError,
)
from fedcore.secagg.effects import Effect, Erase, Persist, Send
from fedcore.secagg.keys import PrekeyBundle
from fedcore.secagg.loopback import Disk, LostAt
from fedcore.secagg.messages import (
    Advertise,
    decode,
    encode,
)
from fedcore.secagg.server import SecAggServer
from fedcore.secagg.stages import Stage
from tests.secagg.adversary import EXPIRES, NOW, POLICY, Session, World
from tests.secagg.liars import Game, play
from tests.secagg.picture import picture

N = 5
EVERYONE = range(N)


WRONG_TIMES = [1000.0, np.int64(1000), True, -1, 2**64, "1000", None, float("nan")]


@pytest.mark.parametrize("wrong", WRONG_TIMES, ids=repr)
def test_a_time_that_is_no_whole_second_is_refused_before_anything_changes(wrong: Any) -> None:
    world = World(N)
    session = Session(world)
    host, roster = world.hosts[0], session.roster.message_for(0)
    before = picture(host.client)
    calls: list[Callable[[], object]] = [
        lambda: host.client.handle(roster, now=wrong),
        lambda: host.client.expire(wrong),
        lambda: host.client.restore({}, now=wrong),
    ]
    for call in calls:
        with pytest.raises(ParameterError, match="is no time"):
            call()
        assert picture(host.client) == before
    session.deal([0])


@pytest.mark.parametrize(
    "late", [("prekey/",), ("session/",), ("prekey/", "session/")], ids="+".join
)
def test_a_late_erasure_and_a_clock_set_back_give_no_prekey_a_second_session(
    late: tuple[str, ...],
) -> None:
    """The disk loses the first erasure of some records, and none of the tombstone."""

    class LazyDisk(Disk):
        def __init__(self, records: dict[str, bytes]) -> None:
            super().__init__(records)
            self.asked: set[str] = set()

        def perform(self, effect: Persist | Erase) -> None:
            if (
                isinstance(effect, Erase)
                and effect.key.startswith(late)
                and effect.key not in self.asked
            ):
                self.asked.add(effect.key)
            else:
                super().perform(effect)

    world = World(N)
    host = world.hosts[0]
    host.disk = LazyDisk(host.disk)
    (data,) = host.offer(1, expires=NOW + 1000)
    advert = decode(data)
    assert isinstance(advert, Advertise)
    first = Session(world, adverts=[advert, *[world.prekey(i) for i in range(1, N)]])
    first.deal()
    first.mask()
    first.confirm()
    first.answer()
    assert any(key.startswith(late) for key in host.disk)
    host.now = NOW + 1000
    assert not list(host.perform(host.client.expire(host.now)))
    host.now = NOW + 999
    world.restart(0)
    again = Session(world, round=1, adverts=[advert, *[world.prekey(i) for i in range(1, N)]])
    again.refused(0, again.roster.message_for(0), ReuseError)
    world.monitor.check()


# --- the name of a session ------------------------------------------------------------------------


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("attempts", [1, 2])
def test_a_session_that_got_a_vector_is_joined_no_more_though_its_tombstone_has_expired(
    attempts: int, restart: bool
) -> None:
    """Under fresh prekeys the same name would get a second vector of the round, charged as one."""
    world = World(N, policy=replace(POLICY, attempts=attempts))
    soon = NOW + 1000

    def posted(expires: int) -> list[Advertise]:
        messages = [decode(data) for h in world.hosts for data in h.offer(1, expires=expires)]
        return [message for message in messages if isinstance(message, Advertise)]

    first = Session(world, round=7, adverts=posted(soon))
    first.deal()
    first.mask()
    first.confirm()
    first.answer()
    first.assert_sum(EVERYONE)
    for i, host in enumerate(world.hosts):
        host.now = soon
        list(host.perform(host.client.expire(soon)))
        assert not [key for key in host.disk if not key.startswith(("release/", "prekey/"))]
        if restart:
            world.restart(i)
    again = Session(world, round=7, nonce=first.nonce, adverts=posted(EXPIRES))
    assert again.sid == first.sid
    for i in EVERYONE:
        again.refused(i, again.roster.message_for(i), ReuseError, stage="R1")


# --- records --------------------------------------------------------------------------------------


def confirmed(world: World) -> Session:
    """A session in which every client has said all but the last word."""
    session = Session(world)
    session.deal()
    session.mask()
    session.confirm()
    return session


@pytest.mark.parametrize(
    "lost",
    [("shares",), ("roster",), ("mask-request",), ("masking",), ("roster", "shares"),
     ("shares", "confirmation"), ("shares", "masking", "confirmation")],
    ids="+".join,
)  # fmt: skip
def test_records_with_a_gap_close_their_session_and_its_prekey(lost: tuple[str, ...]) -> None:
    """What is missing was written before what is there, and something may have been said for it."""
    world = World(N)
    session = confirmed(world)
    host = world.hosts[0]
    for step in lost:
        del host.disk[f"session/{session.sid.hex()}/{step}"]
    assert world.restart(0) == []
    assert isinstance(host.failure, MessageError)
    assert session.sid not in host.client.stages
    assert not [key for key in host.disk if key.startswith("session/")]
    for _ in range(2):
        for seat_message in (session.roster.message_for(0), session.survivors(0, EVERYONE)):
            with pytest.raises((ReuseError, StageError)):
                session.send(0, seat_message)
        again = Session(world, round=1, adverts=session.adverts)
        again.refused(0, again.roster.message_for(0), ReuseError)
        world.restart(0)
    pid = PrekeyBundle.decode(session.adverts[0].bundle).pid
    assert f"prekey/{pid.hex()}" not in host.disk


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda value: None,
    "empty": lambda value: b"",
    "one byte less": lambda value: value[:-1],
    "half": lambda value: value[: len(value) // 2],
    "one byte more": lambda value: value + b"\0",
    "ones": lambda value: b"\xff" * len(value),
    "zeros": lambda value: bytes(len(value)),
    "short": lambda value: b"\x01",
}


def damaged(records: dict[str, bytes], change: str) -> Iterator[dict[str, bytes]]:
    """The records, one of them damaged: each in turn."""
    for key, value in records.items():
        other = DAMAGES[change](value)
        rest = {name: kept for name, kept in records.items() if name != key}
        yield rest if other is None else rest | {key: other}


@cache
def half_way() -> tuple[World, Session]:
    """A world whose clients have opened one session, and said all but the last word in another."""
    world = World(N)
    session = confirmed(world)
    first = Session(world, round=1)
    first.deal()
    first.mask()
    first.confirm()
    first.answer()
    return world, session


@pytest.mark.parametrize("change", DAMAGES)
def test_a_client_whose_records_are_damaged_says_so_or_goes_on_without_them(change: str) -> None:
    """No other error; and what it still says is nothing new under masks that were used."""
    world, session = half_way()
    good = dict(world.hosts[0].disk)
    last = f"session/{session.sid.hex()}/confirmation"
    for records in damaged(good, change):
        if change == "missing" and last not in records:
            continue  # as after a crash before it was written
        client = world.hosts[0].make()
        try:
            client.restore(records, now=NOW)
        except MessageError:
            assert picture(client) == picture(world.hosts[0].make())
            continue
        for message in (session.survivors(0, range(N - 1)), session.mask_request(0, range(N - 1))):
            with pytest.raises(SecAggError):
                client.handle(message, now=NOW)


@cache
def played(stage: Stage) -> Game:
    """A session on its way to a stage; who restores a server from its records leaves it alone."""
    return play(World(N), until=stage)


@pytest.mark.parametrize("change", DAMAGES)
@pytest.mark.parametrize("stage", [Stage.UPLOADS, Stage.ANSWERS, Stage.OPENED])
def test_a_server_whose_records_are_damaged_says_so_or_goes_on(stage: Stage, change: str) -> None:
    """No other error, neither at once nor when it is asked."""
    game = played(stage)
    world = game.world
    for records in damaged(dict(game.loopback.server.disk), change):
        with suppress(MessageError, StageError):
            server, effects = SecAggServer.restore(records, trust=world.trust)
            _ = [encode(effect.message) for effect in effects if isinstance(effect, Send)]
            _ = server.stage, server.pending, server.uploaded, server.sufficient, server.culprits
            for client_id in world.ids:
                server.resend(client_id)
            if server.stage is Stage.OPENED:
                with suppress(SecAggError):
                    server.plan()


def sent(effects: Sequence[Effect]) -> dict[bytes, bytes]:
    """The messages among effects that are nothing else, by who gets them."""
    assert all(isinstance(effect, Send) for effect in effects)
    return {one.to: encode(one.message) for one in effects if isinstance(one, Send)}


@pytest.mark.parametrize(
    ("stage", "lost_at"),
    [
        (Stage.SHARES, LostAt.SHARES),
        (Stage.UPLOADS, LostAt.UPLOADING),
        (Stage.CONFIRMATIONS, LostAt.CONFIRMATION),
        (Stage.ANSWERS, LostAt.ANSWER),
    ],
)
def test_a_restored_server_asks_again_whom_it_waits_for(stage: Stage, lost_at: LostAt) -> None:
    game = play(World(N), lost={2: lost_at}, until=stage)
    records = dict(game.loopback.server.disk)
    restored, effects = SecAggServer.restore(records, trust=game.world.trust)
    silent = game.world.ids[2]
    assert restored.pending == game.server.pending == {silent}
    assert sent(effects) == sent(game.server.resend(silent)[-1:])


def test_a_restored_server_tells_everyone_that_a_session_is_over() -> None:
    game = play(World(N), until=Stage.UPLOADS)
    told = dict(game.loopback.server.perform(game.server.abort()))
    records = dict(game.loopback.server.disk)
    restored, effects = SecAggServer.restore(records, trust=game.world.trust)
    assert restored.stage is Stage.ABORTED
    assert sent(effects) == told and told.keys() == set(game.world.ids)


def test_a_set_whose_messages_are_missing_is_no_session_to_restore() -> None:
    world = World(N)
    game = play(world, until=Stage.ANSWERS)
    records = dict(game.loopback.server.disk)
    kinds = ("model", "shares", "header", "trailer", "confirmation", "uploaders", "survivors")
    for key in [key for key in records if key.startswith(kinds)]:
        if key == "confirmation/4":  # four signers of five are a quorum
            continue
        with pytest.raises(MessageError, match="damaged"):
            SecAggServer.restore({k: v for k, v in records.items() if k != key}, trust=world.trust)


@pytest.mark.parametrize("index", [-1, N])
def test_a_message_of_nobody_in_the_roster_is_no_session_to_restore(index: int) -> None:
    world = World(N)
    records = dict(play(world, until=Stage.UPLOADS).loopback.server.disk)
    with pytest.raises(MessageError, match="damaged"):
        SecAggServer.restore(records | {f"shares/{index}": records["shares/0"]}, trust=world.trust)
