"""A server that says anything to anyone in any order, while devices crash: nothing leaks.

Several stories are told at once: two rosters under one name, one set of prekeys in two rounds,
different sets and models. Messages are well-formed, for the others are refused before they count.
"""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction

import pytest

from fedcore.errors import SecAggError
from fedcore.secagg.effects import Erase, Persist
from fedcore.secagg.loopback import Disk
from fedcore.secagg.messages import Abort, AbortReason, Message, Shares
from tests.secagg.adversary import CONFIG, POLICY, Session, World, members
from tests.secagg.monitor import Leak

N = 5  # c = 1, d₀ = 1, u_min = 4, a quorum of 4, t = 3 of k = 4; client 0 is corrupt
TERMS = replace(CONFIG, delta=Fraction(1, 5))
SETS = [range(N), [0, 1, 2, 3], [0, 2, 3, 4], [0, 1, 3, 4], [1, 2, 3, 4], [0, 1]]
STEPS = 100


class Crash(Exception):
    """The program of a device stops here."""


class LateDisk(Disk):
    """A disk that erases late: at a crash, anything erased may still be there.

    `fuse`: at which of the coming writes the program crashes, None for none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.erased: dict[str, bytes] = {}
        self.fuse: int | None = None

    def perform(self, effect: Persist | Erase) -> None:
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse < 0:
                raise Crash
        if isinstance(effect, Erase) and effect.key in self:
            self.erased[effect.key] = self[effect.key]
        super().perform(effect)

    def crash(self, draw: random.Random) -> None:
        """Bring back some of what was erased."""
        for key, value in self.erased.items():
            if key not in self and draw.random() < 0.5:
                self[key] = value


class RandomServer:
    """Draws its next word, more often than not one that leads somewhere.

    `forget`: what devices lose at a crash beyond what they may, to see that leaks are seen.
    """

    def __init__(self, draw: random.Random, *, forget: str = "") -> None:
        self.draw, self.forget = draw, forget
        self.world = World(N, corrupt=[0], policy=replace(POLICY, attempts=9))
        for host in self.world.hosts:
            host.disk = LateDisk()
        first = Session(self.world, TERMS)
        other_keys = [self.world.forged_prekey(0), *first.adverts[1:]]
        self.stories = [
            first,
            replace(first, adverts=other_keys),
            replace(first, nonce=bytes(32)),
            Session(self.world, TERMS, round=1),
        ]
        self.blanks = [
            Shares(story.sid, bytes(400), bytes(128), bytes(64)) for story in self.stories
        ]
        self.weights = [1, 1, 1, 1]
        self.sets = SETS

    def begin(self, *, anew: bool = False) -> None:
        """Turn to another story and other sets; `anew`: after all devices crashed."""
        self.weights = [1, 1, 1, 1]
        self.weights[self.draw.choice([0, 2, 3]) if anew else 0] = 12
        self.sets = self.draw.sample(SETS, 3)
        for seat in range(1, N) if anew else ():
            self._restart(seat)

    def step(self) -> None:
        """Say one thing to one client, or let its program crash."""
        seat = self.draw.randrange(1, N)
        disk = self._disk(seat)
        if self.draw.random() < (0.3 if self.forget else 0.06):
            disk.fuse = self.draw.randrange(4)
        place = self.draw.choices(range(4), self.weights)[0]
        with suppress(SecAggError, Crash):
            self.stories[place].send(seat, self._word(self.stories[place], place, seat))
        if disk.fuse is not None:
            self._restart(seat)

    def _word(self, story: Session, place: int, seat: int) -> Message:
        story.known.uploaders = members(N, self.draw.choices(SETS, [60, 1, 1, 1, 1, 0])[0])
        survivors = self.draw.choices(self.sets, [9, 2, 1])[0]
        kinds = {"shared": "M", "masking": "S", "committed": "S", "confirmed": "U"}
        likely = kinds.get(self.world.client(seat).stages.get(story.sid, ""), "RU")
        match self.draw.choice(likely if self.draw.random() < 0.7 else "RMSUUUA"):
            case "R":
                return story.roster.message_for(seat)
            case "M":
                dealt = story.known.boxes[Shares]
                story.known.boxes[Shares] = dict.fromkeys(range(N), self.blanks[place]) | dealt
                request = story.mask_request(seat)
                story.known.boxes[Shares] = dealt
                crafted = self.draw.random() < 0.02
                return replace(request, model_digest=b"\x01" * 32) if crafted else request
            case "S":
                return story.survivors(seat, survivors)
            case "U":
                forged = {0: story.confirmation_of(0, survivors)}
                return story.unmask_request(survivors, signatures=forged)
            case _:
                reason = AbortReason.CANCELLED
                return Abort(story.sid if self.draw.random() < 0.1 else bytes(32), reason)

    def _restart(self, seat: int) -> None:
        disk = self._disk(seat)
        disk.fuse = None
        disk.crash(self.draw)
        if self.forget:
            for key in [key for key in disk if self.forget in key]:
                del disk[key]
        with suppress(SecAggError):
            self.world.restart(seat)

    def _disk(self, seat: int) -> LateDisk:
        disk = self.world.hosts[seat].disk
        assert isinstance(disk, LateDisk)
        return disk


def told_at_random(seed: int, *, forget: str = "") -> RandomServer:
    server = RandomServer(random.Random(seed), forget=forget)
    for anew in (False, True):
        server.begin(anew=anew)
        for _ in range(STEPS):
            server.step()
            server.world.monitor.check()
    return server


@pytest.mark.parametrize(
    "seeds",
    [range(12), pytest.param(range(12, 300), marks=pytest.mark.slow)],
    ids=["12 servers", "288 servers"],
)
def test_nothing_leaks_whatever_a_server_says(seeds: range) -> None:
    opened = [told_at_random(seed).world.monitor.openable() for seed in seeds]
    sums = [len(summands) for found in opened for _, summands in found]
    assert len(sums) > len(seeds) // 8  # these servers do get as far as a sum
    assert min(sums) >= 3  # of all honest survivors: u_min less the corrupt one


@pytest.mark.slow
@pytest.mark.parametrize("forget", ["tombstone", "confirmation"])
def test_the_random_server_finds_what_clients_forget(forget: str) -> None:
    with pytest.raises(Leak):
        for seed in range(20):
            told_at_random(seed, forget=forget)


def test_the_random_server_finds_prekeys_that_are_taken_up_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fedcore.secagg.client.SecAggClient._burn", lambda self, pids: [])
    with pytest.raises(Leak, match="two sessions"):
        for seed in range(20):
            told_at_random(seed)
