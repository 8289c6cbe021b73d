"""Drivers whose disk fails, or who do not wait for it.

A write that fails raises out of the driver's own code, and leaves the machine ahead of its disk.
The driver here goes on with the same object, the other side repeats what it said, and then the
program starts again from that disk: whatever was said before must bind it still.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import fedcore.secagg.charges as charges_module
import fedcore.secagg.client as client_module
from fedcore.errors import PolicyError, SecAggError
from fedcore.secagg.config import SessionConfig
from fedcore.secagg.effects import Effect, Erase, Persist, Send
from fedcore.secagg.keys import PrekeyBundle
from fedcore.secagg.loopback import ClientHost, Disk
from fedcore.secagg.messages import (
    Advertise,
    Complaint,
    ComplaintReason,
    Confirmation,
    MaskRequest,
    Message,
    Roster,
    Shares,
    Survivors,
    UnmaskAnswer,
    UnmaskRequest,
    UploadHeader,
    decode,
    encode,
)
from fedcore.secagg.params import Profile
from fedcore.secagg.server import SecAggServer
from fedcore.secagg.sharing import complaint_statement
from fedcore.secagg.stages import Stage
from tests.secagg.adversary import CONFIG, EXPIRES, NOW, POLICY, Session, World, members
from tests.secagg.liars import Game, play
from tests.secagg.picture import picture
from tests.variants import mostly_slow

N = 5
EVERYONE = range(N)
STEPS: dict[type[Message], tuple[str, ...]] = {
    Shares: ("roster", "shares"),
    UploadHeader: ("roster", "shares", "mask-request", "masking"),
    Confirmation: ("roster", "shares", "mask-request", "masking", "confirmation"),
}
FROZEN: dict[type[Message], tuple[str, ...]] = {
    Roster: ("model", "roster"),
    MaskRequest: ("model", "roster", "uploaders"),
    Survivors: ("model", "roster", "uploaders", "survivors"),
    UnmaskRequest: ("model", "roster", "uploaders", "survivors"),
}


class FailingDisk(Disk):
    """A disk of which one write fails, by its number from 0: before it is done, or just after."""

    def __init__(self, fails: int, *, done: bool) -> None:
        super().__init__()
        self.fails, self.done = fails, done
        self.writes = 0

    @property
    def failed(self) -> bool:
        """Whether there were so many writes."""
        return self.writes > self.fails

    def perform(self, effect: Persist | Erase) -> None:
        if not isinstance(effect, Persist):
            return super().perform(effect)
        self.writes += 1
        if self.writes - 1 != self.fails or self.done:
            super().perform(effect)
        if self.writes - 1 == self.fails:
            raise OSError(28, "No space left on device")


class WatchedHost(ClientHost):
    """A device whose every message is compared with its disk at the moment when it leaves."""

    def perform(self, effects: Sequence[Effect]) -> Iterator[bytes]:
        for data in super().perform(effects):
            self.check(decode(data))
            yield data

    def check(self, message: Message) -> None:
        """Whatever must not be said otherwise is durable."""
        disk = self.disk
        if isinstance(message, Advertise):
            assert f"prekey/{PrekeyBundle.decode(message.bundle).pid.hex()}" in disk
        elif isinstance(message, UnmaskAnswer):
            assert disk[f"tombstone/{message.sid.hex()}"].endswith(encode(message))
        elif type(message) in STEPS:
            sid = message.sid
            records = {step: disk[f"session/{sid.hex()}/{step}"] for step in STEPS[type(message)]}
            if isinstance(message, UploadHeader):
                assert any(sid in value for key, value in disk.items() if key.startswith("release"))
            else:
                assert list(records.values())[-1] == encode(message)


def watched(world: World, disk: Disk) -> WatchedHost:
    """Client 0 of a world, on a disk of its own."""
    host = WatchedHost(world.hosts[0].make, world.hosts[0].blocks, disk=disk, now=NOW)
    world.hosts[0] = host
    return host


def write_down(host: ClientHost, effects: Sequence[Effect]) -> None:
    """Make durable what is to be, and then do nothing else."""
    for effect in effects:
        if isinstance(effect, Persist):
            host.disk.perform(effect)


def try_twice(act: Callable[[], object]) -> bool:
    """Whether a write failed; what had led to it is then repeated."""
    try:
        act()
    except OSError:
        act()
        return True
    return False


def ask_for_more(world: World, first: Session) -> None:
    """Ask client 0, which has just started again, for whatever it may have said otherwise."""
    host = world.hosts[0]
    host.blocks = [block + 1 for block in world.vectors[0]]  # trained anew
    other = Session(
        world,
        first.config,
        round=1,
        adverts=[first.adverts[0], *[world.prekey(i) for i in range(1, N)]],
    )
    other.deal(range(1, N))
    other.known.uploaders = members(N, EVERYONE)
    tries: list[Callable[[], object]] = [
        lambda: world.restart(0),
        lambda: other.send(0, other.roster.message_for(0)),
        lambda: other.send(0, other.mask_request(0)),
        lambda: first.send(0, first.roster.message_for(0)),
        lambda: first.send(0, first.mask_request(0, range(N - 1))),
        lambda: first.send(0, first.mask_request(0, EVERYONE)),
        lambda: first.send(0, first.survivors(0, range(N - 1))),
        lambda: first.send(0, first.unmask_request(range(N - 1))),
    ]
    for each in tries:
        with suppress(SecAggError):
            each()


@pytest.mark.parametrize("done", mostly_slow([True, False]), ids=["done", "undone"])
@pytest.mark.parametrize("profile", mostly_slow(reversed(Profile)))
def test_whatever_write_of_a_client_fails_no_message_goes_ahead_of_its_record(
    profile: Profile, done: bool
) -> None:
    """Nor does the client promise anything twice when it starts again from that disk."""
    for write in range(99):
        world = World(N, policy=replace(POLICY, profile=profile))
        host = watched(world, disk := FailingDisk(write, done=done))
        if not _lives_through(world, host, replace(CONFIG, profile=profile)):
            break
        world.monitor.check()
    assert write == (8 if profile is Profile.MALICIOUS else 7)
    assert not disk.failed


def _lives_through(world: World, host: WatchedHost, config: SessionConfig) -> bool:
    """Whether a write failed; the client starts again after the step in which one did."""
    not_posted = False
    try:
        posted = list(host.offer(1, expires=EXPIRES))
    except OSError:
        not_posted, posted = True, list(host.perform(host.client.repost()))
    adverts = [message for message in map(decode, posted) if isinstance(message, Advertise)]
    session = Session(world, config, adverts=[*adverts, *map(world.prekey, range(1, N))])
    session.known.uploaders = session.known.survivors = members(N, EVERYONE)
    steps: list[tuple[Callable[[], None], Callable[[int], Message]]] = [
        (lambda: session.deal(range(1, N)), session.roster.message_for),
        (lambda: session.mask(range(1, N)), session.mask_request),
        (lambda: session.confirm(range(1, N)), lambda seat: session.survivors(seat, EVERYONE)),
        (lambda: session.answer(range(1, N)), lambda seat: session.unmask_request(EVERYONE)),
    ]
    if config.profile is Profile.SEMI_HONEST:
        del steps[2]
    if not_posted:
        world.restart(0)
    for others, message in steps:
        others()
        if try_twice(partial(_tell, session, message)):
            ask_for_more(world, session)
            return True
    session.assert_sum(EVERYONE)
    return not_posted


def _tell(session: Session, message: Callable[[int], Message]) -> None:
    session.send(0, message(0))


def test_a_vector_is_charged_for_though_the_write_of_the_charge_failed() -> None:
    """The digests of the vector alone are on the disk when the program starts again."""
    world = World(N)
    host = watched(world, Disk())
    session, rival = Session(world), Session(world)
    session.deal()
    session.known.uploaders = rival.known.uploaders = members(N, EVERYONE)
    request = session.mask_request(0)
    write_down(host, host.client.handle(request, now=NOW))
    host.client.commit(session.sid, host.blocks)  # none of whose records is written
    write_down(host, host.client.handle(request, now=NOW))
    assert not [key for key in host.disk if key.startswith("release/")]
    world.restart(0)  # which looks at the disk when the upload leaves
    world.restart(0)
    rival.refused(0, rival.roster.message_for(0), PolicyError)


def test_an_interrupt_within_a_commitment_leaves_nothing_unsaid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who pressed the keys tries again: wherever it hit, all is durable before an upload."""
    for module, name in (
        (client_module, "frame_digests"),
        (client_module, "Persist"),
        (charges_module, "release_key"),
        (charges_module, "Persist"),
    ):
        for hit in range(3):
            world = World(N)
            host = watched(world, Disk())
            session = Session(world)
            session.deal()
            session.known.uploaders = members(N, EVERYONE)
            write_down(host, host.client.handle(session.mask_request(0), now=NOW))
            _interrupt(monkeypatch, module, name, hit)
            with suppress(KeyboardInterrupt):
                host.client.commit(session.sid, host.blocks)
            monkeypatch.undo()
            list(host.perform(host.client.commit(session.sid, host.blocks)))
            for message in host.client.upload(session.sid, host.blocks):
                host.check(message)
            assert host.client.stages[session.sid] == "committed"


def _interrupt(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, hit: int) -> None:
    honest, calls = getattr(module, name), iter(range(99))

    def interrupted(*args: Any, **options: Any) -> Any:
        if next(calls) == hit:
            raise KeyboardInterrupt
        return honest(*args, **options)

    monkeypatch.setattr(module, name, interrupted)


def test_a_driver_that_awaits_its_disk_sends_nothing_before_it_is_durable() -> None:
    """It gets each message twice before the effects of the first one are done."""
    world = World(N)
    host = watched(world, Disk())
    session = Session(world)
    session.known.uploaders = members(N, EVERYONE)

    async def perform(effects: Sequence[Effect]) -> None:
        for effect in effects:
            await asyncio.sleep(0)
            if isinstance(effect, Persist | Erase):
                host.disk.perform(effect)
            elif isinstance(effect, Send):
                host.check(effect.message)
                session.keep(0, effect.message)

    async def twice(act: Callable[[], list[Effect]]) -> None:
        await asyncio.gather(*[perform(act()) for _ in range(2)])

    def told(message: Message) -> Callable[[], list[Effect]]:
        return lambda: host.client.handle(message, now=NOW)

    async def run() -> None:
        session.deal(range(1, N))
        await twice(told(session.roster.message_for(0)))
        session.mask(range(1, N))
        await twice(told(session.mask_request(0)))
        await twice(lambda: host.client.commit(session.sid, host.blocks))
        for message in host.client.upload(session.sid, host.blocks):
            host.check(message)
            world.monitor.hear(world.ids[0], host.client, message)
            session.keep(0, message)
        session.confirm(range(1, N))
        await twice(told(session.survivors(0, EVERYONE)))
        session.answer(range(1, N))
        await twice(told(session.unmask_request(EVERYONE)))

    asyncio.run(run())
    session.known.survivors = members(N, EVERYONE)
    totals = zip(session.total(), session.expected(EVERYONE), strict=True)
    assert all(np.array_equal(found, wanted) for found, wanted in totals)


@pytest.mark.parametrize("done", mostly_slow([True, False]), ids=["done", "undone"])
def test_whatever_write_of_a_server_fails_no_message_goes_ahead_of_its_record(done: bool) -> None:
    """And the server that starts again from that disk is the one that went on."""
    for write in range(99):
        disk = FailingDisk(write, done=done)
        _serve(disk)
        if not disk.failed:
            break
    assert write == 2 + 5 * N + 4  # model and roster; five of each client; the three sets, opened


def test_a_complaint_that_is_repeated_is_written_again() -> None:
    world = World(N)
    server = play(world, until=Stage.UPLOADS).server
    sid, reason = server.roster.sid, ComplaintReason.OTHER_HASH
    statement = complaint_statement(sid, server.roster.root, 1, reason)
    complaint = Complaint(sid, 1, reason, world.identities[0].sign(statement))
    written = [server.handle(world.ids[0], complaint) for _ in range(2)]
    assert written == [[Persist("complaint/0/1", encode(complaint))]] * 2


@dataclass
class WatchedServer:
    """A server program of which every message is compared with its disk when it leaves."""

    game: Game

    def __post_init__(self) -> None:
        host = self.game.loopback.server
        honest = host.perform

        def perform(effects: Sequence[Effect]) -> Iterator[tuple[bytes, bytes]]:
            for to, data in honest(effects):
                for key in FROZEN.get(type(decode(data)), ()):
                    assert key in host.disk, key
                yield to, data

        host.perform = perform  # type: ignore[method-assign]

    def close(self) -> None:
        """End a stage; ask again whoever has not answered, as often as the disk makes it so."""
        stage = self.game.server.stage
        failed = False
        try:
            self.game.loopback.close(stage)
        except OSError:
            failed = True
        while self.game.server.pending or failed:
            try:
                self._ask_again()
                failed = False
            except OSError:
                failed = True
        assert not self.game.refused

    def _ask_again(self) -> None:
        loopback = self.game.loopback
        for client_id, device in loopback.hosts.items():  # what it said may not be durable
            loopback.to_server(client_id, device.restart())
            loopback.to_clients(loopback.server.perform(self.game.server.resend(client_id)))


def _serve(disk: FailingDisk) -> None:
    world = World(N)
    game = play(world, until=Stage.PREKEYS)
    game.loopback.server.disk = disk
    server = WatchedServer(game)
    while game.server.stage is not Stage.OPENED:
        had_failed = disk.failed
        server.close()
        if disk.failed and not had_failed:
            again, _ = SecAggServer.restore(dict(disk), trust=world.trust)
            if again.stage is Stage.ANSWERS and game.server._frozen.opened:  # nobody knows yet
                again.close(Stage.ANSWERS)
            assert picture(again._state) == picture(game.server._state)
    game.assert_sum(EVERYONE)
