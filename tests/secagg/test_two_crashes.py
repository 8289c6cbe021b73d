"""Any two crashes in a small session, at any writes of anybody: the server never sees both secrets.

The model is exhaustive up to the names of clients, which run the same program: the two crashes are
of the server twice, of the server and a client, of one client twice, or of two clients. Each is
before or after a write to the disk, and the second may come while the first is recovered from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from functools import partial
from itertools import count
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedcore.errors import SecAggError
from fedcore.secagg.loopback import ClientHost
from fedcore.secagg.messages import (
    Confirmation,
    Survivors,
    UnmaskAnswer,
    UnmaskRequest,
    decode,
    encode,
)
from fedcore.secagg.params import Profile
from fedcore.secagg.transcript import bitmap_of
from tests.secagg.crashing import (
    SERVER,
    CrashingDisk,
    InFlight,
    Letter,
    Moment,
    Network,
    configuration,
    network_of,
)
from tests.secagg.monitor import Monitor

N = 4  # of whom one may be lost: then its mask keys are rebuilt, and of the others the self masks
PARTIES = ["server, server", "server, client", "client, same", "client, other"]
Point = tuple[int, Moment]


@dataclass
class Watched(Network):
    """A network that lets a monitor hear what the server hears.

    `away`: a client that has crashed is back only once the server has closed the stage without it.
    """

    away: bool = False
    monitor: Monitor = field(default_factory=Monitor)
    absent: set[bytes] = field(default_factory=set)

    def crash(self, who: bytes) -> None:
        if who == SERVER or not self.away:
            super().crash(who)
            return
        self.crashed.append(who)
        self.letters = [each for each in self.letters if who not in (each.sender, each.to)]
        self.absent.add(who)
        self.silent.add(who)

    def settle(self) -> None:
        """As everywhere, after those who were away have come back, for a stage has been closed."""
        back, self.absent = self.absent, set()
        for who in sorted(back):
            self.silent.discard(who)
            self.perform(who, self.hosts[who].restart)
            self.reconnect(who)
        super().settle()

    def _post(self, letter: Letter) -> bool:
        if letter.sender != SERVER:
            client = self.hosts[letter.sender].client
            self.monitor.hear(letter.sender, client, decode(letter.data))
        return super()._post(letter)


def session(profile: Profile, mode: str) -> Watched:
    """A session of `N` in which nothing goes wrong yet. `mode`: "lost", "twice" or "away"."""
    config = configuration(N, profile=profile, delta=Fraction(1, 4))
    plain = network_of(replace(config, gamma=Fraction(0)), N)
    given = {each.name: getattr(plain, each.name) for each in fields(plain)}
    given["in_flight"] = InFlight.TWICE if mode == "twice" else InFlight.LOST
    return Watched(**given, away=mode == "away")


class Outcome(NamedTuple):
    """How a session ended, and whether each of its two crashes was reached."""

    stage: str
    first: bool
    second: bool


def two_crashes(profile: Profile, mode: str, parties: str, first: Point, second: Point) -> Outcome:
    """What became of a session with these two crashes.

    `second` counts the writes of its own party; of the same one, those since the first crash.
    """
    net = session(profile, mode)
    disks = [net.hosts[client_id].disk for client_id in net.hosts]
    one = net.server.disk if parties.startswith("server") else disks[0]
    other = {
        "server, server": one,
        "server, client": disks[0],
        "client, same": one,
        "client, other": disks[1],
    }[parties]
    assert isinstance(one, CrashingDisk)
    assert isinstance(other, CrashingDisk)
    one.crashes[first[0]] = first[1]
    since = first[0] + 1 if other is one else 0
    other.crashes[since + second[0]] = second[1]
    assert_private(net, net.run())
    crashed = len(one.written) > first[0], len(other.written) > since + second[0]
    return Outcome(net.machine.stage.name, *crashed)


def assert_private(net: Watched, total: np.ndarray | None) -> None:
    """Nothing leaked, nothing was said in two forms, and a sum that came out is the right one."""
    net.monitor.check()
    assert [key for key, kinds in net.monitor.kinds().items() if len(kinds) > 1] == []
    assert [name for name, forms in net.said.items() if len(forms) > 1] == []
    if total is not None:
        np.testing.assert_array_equal(total, net.expected())
        bound = {name[0] for name in net.said if name[3] in (Confirmation.code, UnmaskAnswer.code)}
        for client_id in bound - {SERVER}:
            refuses_another_set(net, client_id)


def refuses_another_set(net: Watched, client_id: bytes) -> None:
    """A client that has signed or answered for one set of survivors does so for no other."""
    machine, host = net.machine, net.hosts[client_id]
    roster = machine.roster
    survivors = np.array([each.id in machine.survivors for each in roster.certificates])
    uploaders = np.ones(roster.n, bool)
    other = uploaders if not survivors.all() else np.arange(roster.n) != 0
    bitmap = bitmap_of(other)
    for message in (
        Survivors(roster.sid, bitmap, bytes(64 * (roster.n - 1))),
        UnmaskRequest(roster.sid, bitmap, (), b""),
    ):
        for act in (lambda: None, lambda: list(host.restart())):
            act()
            assert answers(host, encode(message)) == []


def answers(host: ClientHost, data: bytes) -> list[bytes]:
    """What a client says to a message; nothing where it refuses it."""
    try:
        return list(host.receive(data))
    except SecAggError:
        return []


def interleavings(act: Callable[[Point, Point], Outcome]) -> Iterator[Outcome]:
    """Every pair of points at which `act` crashes twice, until there are no more writes."""
    for write in count():
        found: list[Outcome] = []
        for moment in Moment:
            for later in count():
                tried = [act((write, moment), (later, again)) for again in Moment]
                found += tried
                if not any(outcome.second for outcome in tried):
                    break
        if not any(outcome.first for outcome in found):
            return
        yield from (outcome for outcome in found if outcome.first and outcome.second)


def test_of_a_client_that_is_away_for_a_stage_the_keys_alone_are_rebuilt() -> None:
    net = session(Profile.MALICIOUS, "away")
    disk = net.hosts[next(iter(net.hosts))].disk
    assert isinstance(disk, CrashingDisk)
    disk.crashes[3] = Moment.BEFORE  # the uploaders it was told: its shares are out
    total = net.run()
    assert_private(net, total)
    assert total is not None
    assert sorted(map(sorted, net.monitor.kinds().values())) == [["b"], ["b"], ["b"], ["sk"]]


@given(
    profile=st.sampled_from(Profile),
    mode=st.sampled_from(["lost", "twice", "away"]),
    parties=st.sampled_from(PARTIES),
    first=st.tuples(st.integers(0, 25), st.sampled_from(Moment)),
    second=st.tuples(st.integers(0, 25), st.sampled_from(Moment)),
)
def test_two_crashes_anywhere_show_the_server_one_kind_of_share_of_each_client(
    profile: Profile, mode: str, parties: str, first: Point, second: Point
) -> None:
    two_crashes(profile, mode, parties, first, second)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("parties", PARTIES)
@pytest.mark.parametrize("mode", ["lost", "twice", "away"])
@pytest.mark.parametrize("profile", list(Profile), ids=lambda profile: profile.name)
def test_every_two_crashes_show_the_server_one_kind_of_share_of_each_client(
    profile: Profile, mode: str, parties: str
) -> None:
    outcomes = interleavings(partial(two_crashes, profile, mode, parties))
    ended = Counter(outcome.stage for outcome in outcomes)
    print(f"{profile.name}, {mode}, {parties}: {ended.total()} pairs, {dict(ended)}")
    assert ended.total() >= 100
    assert ended["OPENED"] > 0
