"""Drivers whose calls overlap, come late, or come from within another call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from threading import Event
from typing import Any

import pytest

import fedcore.secagg.client as client_module
import fedcore.secagg.participation as participation_module
import fedcore.secagg.postings as postings_module
import fedcore.secagg.server as server_module
from fedcore.errors import (
    PackingError,
    ParameterError,
    ReuseError,
    SecAggError,
    StageError,
)
from fedcore.secagg.effects import Persist, Send
from fedcore.secagg.identity import Identity
from fedcore.secagg.loopback import LostAt
from fedcore.secagg.messages import (
    Advertise,
    Complaint,
    ComplaintReason,
    Message,
    UploadChunk,
    UploadTrailer,
    decode,
    encode,
)
from fedcore.secagg.server import SecAggServer
from fedcore.secagg.session import default_layout
from fedcore.secagg.sharing import complaint_statement
from fedcore.secagg.stages import Stage
from tests.secagg.adversary import CONFIG, EXPIRES, NOW, POLICY, Session, World, members
from tests.secagg.liars import play, session_of
from tests.secagg.picture import picture
from tests.secagg.test_malicious_holders import redealt

N = 5
EVERYONE = range(N)


# --- calls that overlap ---------------------------------------------------------------------------


@contextmanager
def held_within(call: Callable[[], object], module: Any, name: str) -> Iterator[Future[object]]:
    """`call` runs in another thread, and stands within `module.name` for as long as the context."""
    inside, go_on = Event(), Event()
    honest = getattr(module, name)

    def slow(*args: Any, **options: Any) -> Any:
        inside.set()
        assert go_on.wait(30)
        return honest(*args, **options)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as pool:
        patch.setattr(module, name, slow)
        future = pool.submit(call)
        assert inside.wait(30)
        try:
            yield future
        finally:
            go_on.set()


def said(effects: Any) -> list[Message]:
    """The messages among effects."""
    return [effect.message for effect in effects if isinstance(effect, Send)]


def test_a_client_refuses_what_is_called_while_another_call_is_not_done() -> None:
    world = World(N)
    session = Session(world)
    client, blocks = world.client(0), world.vectors[0]
    roster = session.roster.message_for(0)
    calls: list[Callable[[], object]] = [
        lambda: client.handle(roster, now=NOW),
        lambda: client.offer(1, expires=EXPIRES),
        lambda: client.repost(),
        lambda: client.commit(session.sid, blocks),
        lambda: client.upload(session.sid, blocks),
        lambda: client.settle(session.sid),
        lambda: client.abandon(session.sid),
        lambda: client.expire(EXPIRES),
        lambda: client.restore({}, now=NOW),
    ]
    before = client.prekeys_left
    with held_within(calls[0], client_module, "open_roster") as first:
        for call in calls:
            with pytest.raises(StageError, match="another call is not done"):
                call()
    assert len(said(first.result())) == 1
    assert client.prekeys_left == before - 1
    assert said(client.handle(roster, now=NOW)) == said(first.result())


def test_two_threads_get_one_confirmation_of_one_set() -> None:
    world = World(N)
    session = Session(world)
    session.deal()
    session.mask()
    client = world.client(0)
    one, other = session.survivors(0, EVERYONE), session.survivors(0, range(N - 1))
    with held_within(
        lambda: client.handle(one, now=NOW), participation_module, "check_headers"
    ) as first:
        session.refused(0, other, StageError)
    session.refused(0, other, ReuseError)
    assert said(client.handle(one, now=NOW)) == said(first.result())


def test_two_threads_deal_one_prekey_once() -> None:
    world = World(N)
    one = Session(world)
    other = Session(world, round=1, adverts=one.adverts)
    client = world.client(0)
    with held_within(
        lambda: client.handle(one.roster.message_for(0), now=NOW), client_module, "deal"
    ) as first:
        other.refused(0, other.roster.message_for(0), StageError)
    other.refused(0, other.roster.message_for(0), ReuseError)
    assert said(client.handle(one.roster.message_for(0), now=NOW)) == said(first.result())


def test_two_threads_of_a_server_keep_one_message_of_a_client() -> None:
    world = World(N)
    game = play(world, lost={3: LostAt.SHARES})
    server, host, sid = game.server, world.hosts[3], game.server.roster.sid
    host.client.handle(server.roster.message_for(3), now=NOW)
    one = session_of(host, sid).shares
    other = redealt(host, one)
    chunk = UploadChunk(sid, 0, b"")
    trailer = UploadTrailer(sid, bytes(32))
    calls: list[Callable[[], object]] = [
        lambda: server.handle(world.ids[3], other),
        lambda: server.takes(world.ids[3], chunk),
        lambda: server.finish_upload(world.ids[3], trailer, received=bytes(32), length=0),
        lambda: server.resend(world.ids[3]),
        lambda: server.close(Stage.SHARES),
        lambda: server.abort(),
        lambda: server.plan(),
    ]
    with held_within(
        lambda: server.handle(world.ids[3], one), server_module, "check_shares"
    ) as first:
        for call in calls:
            with pytest.raises(StageError, match="another call is not done"):
                call()
    assert first.result() == [Persist("shares/3", encode(one))]
    with pytest.raises(ReuseError):
        calls[0]()


@pytest.mark.parametrize("what", ["same", "other", "expire", "abandon", "restore"])
def test_a_beacon_that_calls_the_client_back_is_refused(what: str) -> None:
    back: list[Callable[[], object]] = []

    def beacon(name: str, pulse: bytes, roster: bytes) -> bool:
        for call in back:
            with pytest.raises(StageError, match="another call is not done"):
                call()
            asked.append(name)
        return True

    asked: list[str] = []
    world = World(N, policy=replace(POLICY, beacon=beacon))
    terms = replace(CONFIG, beacon="drand")
    one = Session(world, terms, pulse=b"pulse")
    other = Session(world, terms, round=1, pulse=b"pulse", adverts=one.adverts)
    roster, host = one.roster.message_for(0), world.hosts[0]
    records = dict(host.disk)
    back.append(
        {
            "same": lambda: host.client.handle(roster, now=NOW),
            "other": lambda: host.client.handle(other.roster.message_for(0), now=NOW),
            "expire": lambda: host.client.expire(EXPIRES),
            "abandon": lambda: host.client.abandon(one.sid),
            "restore": lambda: host.client.restore(records, now=NOW),
        }[what]
    )
    one.send(0, roster)
    assert len(asked) == 1 and list(host.client.stages) == [one.sid]
    other.refused(0, other.roster.message_for(0), ReuseError)
    world.restart(0)  # the beacon is asked again, and calls back in the midst of it
    assert len(asked) == 2 and list(world.client(0).stages) == [one.sid]
    world.monitor.check()


# --- prekeys and certificates ---------------------------------------------------------------------


@pytest.mark.parametrize("bound", ["slots", "roster"])
def test_one_client_too_many_is_refused_when_it_posts(
    bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it is in, nobody can be sent away, and no roster be frozen."""
    world = World(4)
    layout = default_layout(10, 3 if bound == "slots" else 9)
    if bound == "roster":
        monkeypatch.setattr(postings_module, "LARGEST_SESSION", 3)
    terms = replace(CONFIG, layout=layout)
    server = SecAggServer(terms, model_digest=bytes(32), round=0, trust=world.trust, now=NOW)
    posted = [world.prekey(i) for i in range(4)]
    for i in range(3):
        server.handle(world.ids[i], posted[i])
    before = picture(server)
    with pytest.raises(PackingError if bound == "slots" else ParameterError):
        server.handle(world.ids[3], posted[3])
    assert picture(server) == before
    assert server.handle(world.ids[0], posted[0]) == []
    server.close(Stage.PREKEYS)
    assert server.advertised == set(world.ids[:3])


def test_a_renewed_certificate_keeps_posted_prekeys_and_open_sessions() -> None:
    world = World(N)
    posted, opened = Session(world), Session(world, round=1)
    opened.deal()
    opened.mask()
    old = world.identities[0]
    renewed = world.authority.issue(old.id, old.certificate.key, expires=EXPIRES + 1)
    world.identities[0] = Identity(old.private_bytes(), renewed)
    assert world.restart(0)
    assert world.hosts[0].failure is None
    for session in (opened, posted):
        if session is posted:
            session.deal()
            session.mask()
        session.confirm()
        session.answer()
        session.assert_sum(EVERYONE)


def test_a_certificate_of_another_key_keeps_neither_prekeys_nor_sessions() -> None:
    world = World(N)
    posted, opened = Session(world), Session(world, round=1)
    opened.deal()
    world.identities[0] = world.certified(world.ids[0])
    assert world.restart(0) == []
    assert isinstance(world.hosts[0].failure, SecAggError)
    assert not world.client(0).stages
    with pytest.raises(SecAggError):
        posted.send(0, posted.roster.message_for(0))
    with pytest.raises(ReuseError):
        opened.send(0, opened.roster.message_for(0))


def test_prekeys_that_were_not_posted_before_a_crash_are_posted_again() -> None:
    """Those that serve a session are not."""
    world = World(N)
    host = world.hosts[0]
    used = Session(world)
    used.deal()
    for effect in host.client.offer(2, expires=EXPIRES):
        if isinstance(effect, Persist):
            host.disk.perform(effect)
    world.restart(0)
    again = [decode(data) for data in host.perform(host.client.repost())]
    assert used.adverts[0] not in again
    assert len(again) == host.client.prekeys_left == len(set(map(encode, again)))
    for round, advert in enumerate(again, start=1):
        assert isinstance(advert, Advertise)
        later = Session(
            world, round=round, adverts=[advert, *[world.prekey(i) for i in range(1, N)]]
        )
        assert len(later.send(0, later.roster.message_for(0))) == 1
    assert host.client.prekeys_left == 0


def test_a_bundle_posted_again_after_the_freeze_is_answered_with_what_is_due() -> None:
    world = World(N)
    game = play(world, lost={3: LostAt.SHARES})
    server = game.server
    lost, dealt = server.roster.members[3], server.roster.members[0]
    assert said(server.handle(world.ids[3], lost)) == [server.roster.message_for(3)]
    assert said(server.handle(world.ids[0], dealt)) == []
    with pytest.raises(StageError):
        server.handle(world.ids[0], world.prekey(0))


# --- what is said and given too late --------------------------------------------------------------


@pytest.mark.parametrize("over", ["opened", "aborted"])
def test_a_session_that_is_over_takes_no_complaint_and_writes_none_down(over: str) -> None:
    world = World(N)
    game = play(world, until=Stage.UPLOADS)
    roster = game.server.roster
    if over == "opened":
        game.run()
    else:
        game.server.abort()
    disk = game.loopback.server.disk
    records, before = dict(disk), picture(game.server)
    reason = ComplaintReason.OTHER_HASH
    for accused in range(1, N):
        statement = complaint_statement(roster.sid, roster.root, accused, reason)
        signature = world.identities[0].sign(statement)
        with pytest.raises(StageError):
            game.say(0, Complaint(roster.sid, accused, reason, signature))
    assert (dict(disk), picture(game.server)) == (records, before)
    assert not game.server.culprits


def test_an_upload_stops_when_its_session_is_left() -> None:
    """Not one frame more is masked with secrets that are erased."""
    world = World(N)
    session = Session(world)
    session.deal()
    session.known.uploaders = members(N, EVERYONE)
    client, blocks = world.client(0), world.vectors[0]
    client.handle(session.mask_request(0), now=NOW)
    client.commit(session.sid, blocks)
    for told in range(4):  # header, a chunk for each block, trailer
        upload = client.upload(session.sid, blocks)
        assert len([message for _, message in zip(range(told), upload, strict=False)]) == told
        if told == 2:
            client.abandon(session.sid)
            break
    with pytest.raises(ReuseError):
        next(upload)
    assert list(upload) == []


def test_what_is_wrong_with_an_upload_is_told_at_the_call() -> None:
    """And not when the first of its messages is asked for."""
    world = World(N)
    session = Session(world)
    client, blocks = world.client(0), world.vectors[0]
    with pytest.raises(StageError):
        client.upload(session.sid, blocks)
    session.deal()
    with pytest.raises(StageError):
        client.upload(session.sid, blocks)
    session.known.uploaders = members(N, EVERYONE)
    client.handle(session.mask_request(0), now=NOW)
    with pytest.raises(StageError):
        client.upload(session.sid, blocks)
    client.commit(session.sid, blocks)
    for wrong in (blocks[:1], [*blocks, blocks[0]], []):
        with pytest.raises(PackingError):
            client.upload(session.sid, wrong)
    assert len(list(client.upload(session.sid, blocks))) == 4
