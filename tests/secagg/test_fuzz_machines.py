"""Whatever arrives, whenever and from whomever: a machine refuses it and is as it was before.

A session is held twice from the same seed, once in a calm and once in a storm: before each message
arrives, at its receiver, hundreds of damaged, replaced, early, late and misdirected ones do. The
storm may not change a byte of what is said in the end.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest

from fedcore.entropy import SeededEntropy
from fedcore.errors import SecAggError
from fedcore.secagg.config import SessionConfig
from fedcore.secagg.identity import TrustStore
from fedcore.secagg.loopback import ClientHost, Disk, Loopback, ServerHost
from fedcore.secagg.messages import (
    Abort,
    AbortReason,
    Advertise,
    Complaint,
    ComplaintReason,
    MaskRequest,
    Shares,
    UnmaskAnswer,
    UnmaskRequest,
    UploadChunk,
    UploadTrailer,
    decode,
    encode,
)
from fedcore.secagg.packing import Block, Layout
from fedcore.secagg.params import Profile
from fedcore.secagg.server import SecAggServer, Stage
from fedcore.secagg.session import make_loopback
from fedcore.secagg.unmask import total_of, unmask
from tests.secagg.conversation import tapped
from tests.secagg.picture import picture

CLIENTS = 5
LAYOUT = Layout((Block(5, 21, 1000), Block(3, 64, 2**40)))
VECTORS = [[np.arange(5) * (i + 1) - 9, np.array([-(2**40), i, 2**40 - i])] for i in range(CLIENTS)]
SUM = [sum(vector[block] for vector in VECTORS).tolist() for block in range(2)]
PER_PICTURE = 8
HUGE = (b"\xff", b"\xff\xff", b"\xff\xff\x00\x00", b"\xff" * 4, b"\x7f" + b"\xff" * 7, bytes(4))

TO_CLIENTS, TO_SERVER = (2, 4, 9, 11, 13), (1, 3, 5, 6, 7, 8, 10, 12)

Carried = dict[bytes, list[bytes]]


def held(
    profile: Profile, weather: Callable[[Loopback], Callable[[], None]] = lambda _: lambda: None
) -> tuple[Carried, Carried]:
    """What is said in the second of two sessions of the same clients, in that weather; the first.

    `weather` gets the second session before it begins, and returns what comes after its end.
    """
    config = SessionConfig(
        task=bytes(32), layout=LAYOUT, profile=profile, delta=Fraction(1, 5), sigma=100
    )
    entropy = SeededEntropy(b"weather")
    first, ids = make_loopback(config, VECTORS, entropy=entropy)
    other_session = tapped(first)
    aggregate(first)
    for client_id in ids:
        del first.hosts[client_id].receive  # the tap of the first session
    trust = first.server.trust
    terms: Any = {"model_digest": bytes(32), "now": 0, "entropy": entropy}
    server = SecAggServer(config, round=1, trust=trust, **terms)
    host = ServerHost(server, LAYOUT, disk=Disk(), trust=trust)
    second = Loopback(host, first.hosts)
    at_the_end = weather(second)
    this_session = tapped(second)
    aggregate(second)
    at_the_end()
    return this_session, other_session


def aggregate(loopback: Loopback) -> None:
    for client_id, host in loopback.hosts.items():
        loopback.to_server(client_id, host.offer(1, expires=2**40))
    server = loopback.server
    while server.server.stage is not Stage.OPENED:
        loopback.close(server.server.stage)
    unmask(server.accumulator, server.server.plan())
    assert [block.tolist() for block in total_of(server.accumulator, LAYOUT)] == SUM
    assert not loopback.refused


class Storm:
    """`burst` bad messages at every receiver, made of those of two calm sessions.

    `calm`: all messages of the session that is disturbed, by client; `other`: of another one.
    """

    def __init__(
        self, loopback: Loopback, calm: Carried, other: Carried, *, seed: int, burst: int
    ) -> None:
        self.loopback, self.calm, self.burst = loopback, calm, burst
        self.random = random.Random(seed)
        self.ids = [*calm, bytes(16)]
        self.corpus = [(i, data) for part in (calm, other) for i in part for data in part[i]]
        self.genuine = set(self.corpus)
        self.sid = next(data[2:34] for _, data in self.corpus if data[1] == Shares.code)
        for i in calm:
            self.corpus += [(i, encode(Abort(self.sid, reason))) for reason in AbortReason]
            for accused in range(CLIENTS):
                complaint = Complaint(self.sid, accused, ComplaintReason.OTHER_HASH, bytes(64))
                self.corpus.append((i, encode(complaint)))
        self.of_type = {
            code: [pair for pair in self.corpus if pair[1][1] == code] for code in range(1, 14)
        }
        self.counts: Counter[str] = Counter()
        self.seen: set[str] = set()
        self.arrived: set[tuple[bytes, bytes]] = set()
        for client_id, host in loopback.hosts.items():
            host.receive = self._before_client(client_id, host)  # type: ignore[method-assign]
            host._give = self._before_input(host)  # type: ignore[method-assign]
        receive = loopback.server.receive

        def at_server(client_id: bytes, data: bytes) -> Iterator[tuple[bytes, bytes]]:
            self.at_server(data[1])
            self.arrived.add((client_id, data))
            yield from receive(client_id, data)

        loopback.server.receive = at_server  # type: ignore[method-assign]

    def _before_client(self, client_id: bytes, host: ClientHost) -> Any:
        receive = host.receive

        def at_client(data: bytes) -> Iterator[bytes]:
            self.at_client(client_id, data[1])
            self.arrived.add((client_id, data))
            yield from receive(data)

        return at_client

    def _before_input(self, host: ClientHost) -> Any:
        give, name = host._give, next(i for i, h in self.loopback.hosts.items() if h is host)

        def at_input(sid: bytes) -> Iterator[bytes]:
            self.at_client(name, MaskRequest.code)
            yield from give(sid)

        return at_input

    def at_the_end(self) -> None:
        """After the sum is open."""
        self.at_server(UnmaskAnswer.code)
        for client_id in self.loopback.hosts:
            self.at_client(client_id, UnmaskRequest.code)

    def at_client(self, client_id: bytes, awaited: int) -> None:
        """A client takes nothing but another model, damaged shares, an end, or what it took."""
        host = self.loopback.hosts[client_id]
        profile = self.loopback.server.server.roster.config.profile
        free = (MaskRequest, Abort) + ((UnmaskRequest,) if profile is Profile.SEMI_HONEST else ())
        stages = ",".join(host.client.stages.values()) or f"{host.client.prekeys_left} prekeys"
        self.seen.add(stages)
        before = picture(host.client)
        for place, (_, data) in enumerate(self.mutants(awaited, TO_CLIENTS)):
            if self.early(client_id, data):
                continue
            taken = self.offered(data, lambda message: host.client.handle(message, now=0))
            if taken is None and (place + 1) % PER_PICTURE:
                continue
            if picture(host.client) != before:
                assert isinstance(taken, free), f"{stages} changed by {data.hex()}"
                assert self.sound(client_id, taken), f"{stages} changed by {data.hex()}"
                self.counts["client went on"] += 1
                # As its driver has made nothing durable, a restart takes it back.
                host.restart()
                assert picture(host.client) == before
        assert picture(host.client) == before

    def sound(self, client_id: bytes, message: Any) -> bool:
        """Whether the set that a client took has itself and enough others in it."""
        if isinstance(message, Abort):
            return True
        bitmap = message.uploaders if isinstance(message, MaskRequest) else message.survivors
        members, index = (
            int.from_bytes(bitmap, "little"),
            sorted(self.loopback.hosts).index(client_id),
        )
        enough = self.loopback.server.server.roster.parameters.minimum_survivors
        return bool(members >> index & 1) and members.bit_count() >= enough

    def at_server(self, awaited: int) -> None:
        """A server takes nothing at all: all that it acts on is signed or committed to."""
        server = self.loopback.server.server
        self.seen.add(server.stage.name)
        before = picture(server)
        for place, (sender, data) in enumerate(self.mutants(awaited, TO_SERVER)):
            if self.early(sender, data):
                continue
            taken = self.offered(data, partial(self.by_server, sender))
            if taken is not None or not (place + 1) % PER_PICTURE:
                assert picture(server) == before, f"{server.stage} changed by {data.hex()}"
        assert picture(server) == before

    def by_server(self, sender: bytes, message: Any) -> Any:
        """As the driver does it, but for chunks, which the server only judges."""
        host = self.loopback.server
        if isinstance(message, UploadChunk):
            return host.server.takes(sender, message)
        if isinstance(message, UploadTrailer):
            spool = host.spools.get(sender, b"")
            digest = hashlib.sha256(spool).digest()
            return host.server.finish_upload(sender, message, received=digest, length=len(spool))
        return host.server.handle(sender, message)

    def early(self, client_id: bytes, data: bytes) -> bool:
        """Whether the message is right, and only comes too soon: that would be no damage."""
        right = (client_id, data) in self.genuine and (client_id, data) not in self.arrived
        return right and (data[2:34] == self.sid or data[1] == Advertise.code)

    def offered(self, data: bytes, handle: Callable[[Any], Any]) -> Any:
        """The message if it was taken, None if it was refused, by an error of ours and no other."""
        self.counts["offered"] += 1
        try:
            message = decode(data)
        except SecAggError:
            self.counts["not decoded"] += 1
            return None
        try:
            handle(message)
        except SecAggError as error:
            self.counts[error.code] += 1
            return None
        self.counts["taken"] += 1
        return message

    def mutants(self, awaited: int, usual: Sequence[int]) -> Iterator[tuple[bytes, bytes]]:
        """Client and bad message: half of the type awaited, most of a type that is usual here."""
        draw = self.random
        for _ in range(self.burst):
            code = draw.choice((awaited, awaited, awaited, draw.choice(usual), draw.randint(1, 13)))
            owner, original = draw.choice(self.of_type[code] or self.corpus)
            data = bytearray(original)
            place = draw.randrange(len(data))
            match draw.randrange(8):
                case 0 | 1:
                    for _ in range(draw.randint(1, 3)):
                        data[draw.randrange(2, len(data))] ^= 1 << draw.randrange(8)
                case 2:
                    huge = draw.choice(HUGE)
                    data[place : place + len(huge)] = huge
                case 3:
                    data[place:] = draw.choice(self.of_type[data[1]])[1][place:]
                case 4:
                    data[place:] = draw.choice(self.corpus)[1][draw.randrange(200) :]
                case 5:
                    data = data[:place] if draw.random() < 0.5 else data + bytes(draw.randint(1, 9))
                case 6:
                    data[1] = draw.randrange(256)
                case _:
                    pass  # nothing is wrong with it but its time, its session or its sender
            if draw.random() < 0.5:
                data[2:34] = self.sid
            yield owner if draw.random() < 0.7 else draw.choice(self.ids), bytes(data)


def storm(profile: Profile, *, seed: int, burst: int) -> Storm:
    calm, other = held(profile)
    storms: list[Storm] = []

    def weather(loopback: Loopback) -> Callable[[], None]:
        storms.append(Storm(loopback, calm, other, seed=seed, burst=burst))
        return storms[0].at_the_end

    assert held(profile, weather) == (calm, other)
    return storms[0]


@pytest.mark.slow
@pytest.mark.parametrize("profile", Profile)
def test_a_storm_of_bad_messages_changes_neither_a_machine_nor_what_it_says(
    profile: Profile,
) -> None:
    found = storm(profile, seed=1, burst=440)
    assert found.counts["offered"] > 25_000
    for code in ("FED-1403", "FED-1404", "FED-1405", "FED-1406", "FED-1407"):
        assert found.counts[code] > 150, f"{code} is hardly ever the reason: {found.counts}"
    at_the_server = {stage.name for stage in Stage} - {"ABORTED"}
    by_clients = {"1 prekeys", "shared", "masking", "committed", "confirmed", "0 prekeys"}
    if profile is Profile.SEMI_HONEST:
        at_the_server, by_clients = at_the_server - {"CONFIRMATIONS"}, by_clients - {"confirmed"}
    assert found.seen == at_the_server | by_clients


@pytest.mark.slow
@pytest.mark.parametrize("profile", list(Profile))
@pytest.mark.parametrize("seed", range(2, 5))
def test_a_long_storm_changes_nothing_either(profile: Profile, seed: int) -> None:
    storm(profile, seed=seed, burst=3000)


# The tests of the tests: each fault is one that a machine might have.


def accept_any_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrustStore, "verify_signature", lambda *_: True)


def remember_who_was_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = SecAggServer.handle

    def handle(self: SecAggServer, client_id: bytes, message: Any) -> Any:
        try:
            return honest(self, client_id, message)
        except SecAggError:
            vars(self).setdefault("_refused", {})[client_id] = message
            raise

    monkeypatch.setattr(SecAggServer, "handle", handle)


def stumble_over_a_stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = SecAggServer.handle

    def handle(self: SecAggServer, client_id: bytes, message: Any) -> Any:
        if not isinstance(message, Advertise):
            _ = dict.fromkeys(self.advertised)[client_id]
        return honest(self, client_id, message)

    monkeypatch.setattr(SecAggServer, "handle", handle)


@pytest.mark.parametrize(
    ("fault", "noticed"),
    [
        (accept_any_signature, "AssertionError.*changed by"),
        (remember_who_was_refused, "AssertionError.*changed by"),
        (stumble_over_a_stranger, "KeyError"),
    ],
)
def test_a_storm_finds_a_machine_that_takes_keeps_or_breaks_what_it_should_not(
    fault: Callable[[pytest.MonkeyPatch], None],
    noticed: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fault(monkeypatch)
    with pytest.raises((AssertionError, KeyError)) as found:
        storm(Profile.MALICIOUS, seed=1, burst=300)
    assert re.search(noticed, repr(found.value))
