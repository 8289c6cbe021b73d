"""Whole sessions whose clients fall silent, whose programs crash, and whose network misbehaves.

A program crashes at a write to its disk, just before it or just after, and starts again from what
is there. The network then loses or repeats what was in flight, and may reorder everything.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from fedcore.entropy import SeededEntropy
from fedcore.errors import SecAggError
from fedcore.secagg.config import SessionConfig
from fedcore.secagg.effects import Erase, Persist
from fedcore.secagg.loopback import ClientHost, Disk, Loopback, ServerHost, unmask_in_threads
from fedcore.secagg.messages import (
    Abort,
    Confirmation,
    MaskRequest,
    Message,
    Roster,
    Shares,
    Survivors,
    UnmaskAnswer,
    UnmaskRequest,
    UploadChunk,
    UploadHeader,
    UploadTrailer,
    decode,
)
from fedcore.secagg.packing import Block, Layout
from fedcore.secagg.params import Profile
from fedcore.secagg.server import SecAggServer
from fedcore.secagg.session import make_loopback
from fedcore.secagg.stages import Stage
from fedcore.secagg.unmask import total_of

__all__ = [
    "EXPIRES",
    "SERVER",
    "Crash",
    "CrashingDisk",
    "InFlight",
    "Letter",
    "Moment",
    "Network",
    "Silence",
    "blocks_of",
    "configuration",
    "network_of",
]

SERVER = b""
EXPIRES = 2**40
# What must be on the sender's disk before a message of a type leaves: the end of a record's key, or
# its beginning. In semi_honest there are no signers, and the survivors stand for them.
WRITTEN_AHEAD: Mapping[int, tuple[str, ...]] = {
    Shares.code: ("/shares",),
    UploadHeader.code: ("/masking", "release/"),
    Confirmation.code: ("/confirmation",),
    UnmaskAnswer.code: ("tombstone/",),
    Roster.code: ("roster", "model"),
    MaskRequest.code: ("uploaders",),
    Survivors.code: ("survivors",),
    UnmaskRequest.code: ("survivors",),
    Abort.code: ("aborted",),
}
UPLOAD = (UploadHeader.code, UploadChunk.code, UploadTrailer.code)
ROUNDS = 4  # in which the server asks again whoever has not answered


class Silence(Enum):
    """The message instead of which a client falls silent for good: (its kind, its number)."""

    BEFORE_SHARES = (Shares, 0)
    BEFORE_UPLOAD = (UploadHeader, 0)
    BEFORE_STREAM = (UploadChunk, 0)
    WITHIN_STREAM = (UploadChunk, 1)
    BEFORE_TRAILER = (UploadTrailer, 0)
    BEFORE_CONFIRMATION = (Confirmation, 0)
    BEFORE_ANSWER = (UnmaskAnswer, 0)

    @property
    def counts_in_sum(self) -> bool:
        """Whether the client's upload was complete by then."""
        return self in (Silence.BEFORE_CONFIRMATION, Silence.BEFORE_ANSWER)


class Moment(Enum):
    """When a program stops: before a write is done, or after it and before what follows."""

    BEFORE = "before"
    AFTER = "after"


class InFlight(Enum):
    """What happens to the messages to and from a program that crashes."""

    LOST = "lost"
    TWICE = "twice"


class Crash(Exception):
    """The program has stopped."""


class CrashingDisk(Disk):
    """A disk at whose writes a program stops; `crashes` by the number of the write, from 0.

    `written`: the keys in the order of their writes. `history`: every value that ever stood there.
    """

    def __init__(self, crashes: Mapping[int, Moment] | None = None) -> None:
        super().__init__()
        self.crashes = dict(crashes or {})
        self.written: list[str] = []
        self.history: dict[str, list[bytes]] = {}

    def perform(self, effect: Persist | Erase) -> None:
        moment = self.crashes.get(len(self.written))
        self.written.append(effect.key)
        if moment is Moment.BEFORE:
            raise Crash
        super().perform(effect)
        if isinstance(effect, Persist):
            self.history.setdefault(effect.key, []).append(effect.value)
        if moment is Moment.AFTER:
            raise Crash


@dataclass(frozen=True)
class Letter:
    """A message in flight; `sender` or `to` is SERVER, the other one a client."""

    sender: bytes
    to: bytes
    data: bytes

    @property
    def name(self) -> tuple[bytes, bytes, bytes, int, bytes]:
        """What a party says once: its place in a session, read off the bytes (protocol §7)."""
        kind = self.data[1]
        place = self.data[34:42] if kind == 7 else self.data[34:38] if kind == 5 else b""
        return self.sender, self.to, self.data[2:34], kind, place


@dataclass
class Network:
    """A server, its clients, and the letters between them, until the session is over.

    `silences`: who falls silent, and when. `vectors`: what each client gives, as (d,) int64;
    `retrained`: what it gives instead after a crash. `chaos`: reorders and repeats letters.
    `said`: every message but advertisements, by its name; each should be there in one form.
    """

    loopback: Loopback
    config: SessionConfig
    vectors: Mapping[bytes, npt.NDArray[np.int64]]
    in_flight: InFlight = InFlight.LOST
    silences: Mapping[bytes, Silence] = field(default_factory=dict)
    retrained: Mapping[bytes, npt.NDArray[np.int64]] = field(default_factory=dict)
    chaos: random.Random | None = None
    letters: list[Letter] = field(default_factory=list)
    late: list[Letter] = field(default_factory=list)
    said: dict[tuple[bytes, bytes, bytes, int, bytes], set[bytes]] = field(default_factory=dict)
    silent: set[bytes] = field(default_factory=set)
    refused: list[tuple[bytes, SecAggError]] = field(default_factory=list)
    crashed: list[bytes] = field(default_factory=list)

    @property
    def server(self) -> ServerHost:
        return self.loopback.server

    @property
    def hosts(self) -> Mapping[bytes, ClientHost]:
        return self.loopback.hosts

    @property
    def machine(self) -> SecAggServer:
        return self.server.server

    def run(self, *, until: Stage = Stage.OPENED) -> npt.NDArray[np.int64] | None:
        """Close stage after stage; the sum, (d,) int64, or None if there is none, or not yet."""
        if self.machine.stage is Stage.PREKEYS:
            for client_id in self.hosts:
                self.offer(client_id)
        self.settle()
        while self.machine.stage not in (until, Stage.OPENED, Stage.ABORTED):
            refused = len(self.refused)
            self.perform(SERVER, self.close)
            if any(who == SERVER for who, _ in self.refused[refused:]):
                return None  # too few have come for a session
            self.settle()
        if self.machine.stage is not Stage.OPENED:
            return None
        accumulator = self.server.accumulator.copy()
        unmask_in_threads(accumulator, self.machine.plan(), threads=1)
        return np.concatenate(total_of(accumulator, self.server.layout))

    def expected(self) -> npt.NDArray[np.int64]:
        """The sum of the survivors' vectors."""
        return np.sum([self.vectors[client_id] for client_id in self.machine.survivors], axis=0)

    def messages(self, kind: type[Message], *, to: bytes | None = None) -> list[Message]:
        """Every different message of one kind, that anybody was sent or one party."""
        heard = [
            said
            for name, said in self.said.items()
            if name[3] == kind.code and to in (None, name[1])
        ]
        told = (decode(data) for said in heard for data in said)
        return [message for message in told if isinstance(message, kind)]

    def offer(self, client_id: bytes) -> None:
        """Let a client post a prekey."""
        self.perform(client_id, lambda: self.hosts[client_id].offer(1, expires=EXPIRES))

    def settle(self) -> None:
        """Deliver everything; ask again, some times, whoever has not answered."""
        self.deliver()
        for _ in range(ROUNDS):
            for client_id in self.machine.pending - self.silent:
                self.reconnect(client_id)
            self.deliver(orderly=True)

    def reconnect(self, client_id: bytes) -> None:
        """A client is there again: the server tells it what it should act on by now."""
        if self.machine.stage is not Stage.PREKEYS:
            self.perform(SERVER, lambda: self.server.perform(self.machine.resend(client_id)))

    def deliver(self, *, orderly: bool = False, until: Callable[[], bool] = lambda: False) -> None:
        """Carry letters until nobody has more to say, or `until` holds."""
        while self.letters and not until():
            letter = self._next(None if orderly else self.chaos)
            if letter.to == SERVER:
                self._to_server(letter)
            elif letter.to not in self.silent:
                self._to_client(letter)

    def close(self) -> Iterator[tuple[bytes, bytes]]:
        """End the present stage; for `perform`."""
        return self.server.perform(self.machine.close(self.machine.stage))

    def perform(self, who: bytes, act: Callable[[], Iterable[bytes | tuple[bytes, bytes]]]) -> None:
        """Let a program act; what it says is in flight from then on, whatever becomes of it."""
        try:
            for said in act():
                to, data = said if isinstance(said, tuple) else (SERVER, said)
                if not self._post(Letter(who, to, data)):
                    return
        except SecAggError as error:
            self.refused.append((who, error))
        except Crash:
            self.crash(who)

    def crash(self, who: bytes) -> None:
        """Stop a program, deal with what was in flight, and start it again."""
        self.crashed.append(who)
        copies = 0 if self.in_flight is InFlight.LOST else 2
        self.letters = [
            letter
            for letter in self.letters
            for _ in range(copies if who in (letter.sender, letter.to) else 1)
        ]
        if who == SERVER:
            self._recover_server()
        else:
            if who in self.retrained:
                self.hosts[who].blocks = blocks_of(self.server.layout, self.retrained[who])
            self.perform(who, self.hosts[who].restart)
            if self.machine.stage is Stage.PREKEYS:
                self.offer(who)
            self.reconnect(who)

    def _to_server(self, letter: Letter) -> None:
        self.perform(SERVER, lambda: self.server.receive(letter.sender, letter.data))

    def _to_client(self, letter: Letter) -> None:
        self.perform(letter.to, lambda: self.hosts[letter.to].receive(letter.data))

    def _post(self, letter: Letter) -> bool:
        """Whether the sender is still there after it has said this."""
        if self._falls_silent(letter):
            self.silent.add(letter.sender)
            return False
        self._check_write_ahead(letter)
        if letter.data[1] != 1:
            self.said.setdefault(letter.name, set()).add(letter.data)
        self.letters.append(letter)
        if self.chaos is not None and self.chaos.random() < 0.2:
            self.late.append(letter)
        return True

    def _check_write_ahead(self, letter: Letter) -> None:
        """Whatever may be said once is durable before it is: or a crash now would unsay it."""
        disk = self.server.disk if letter.sender == SERVER else self.hosts[letter.sender].disk
        wanted = WRITTEN_AHEAD.get(letter.data[1], ())
        if letter.data[1] == UnmaskRequest.code:
            message = decode(letter.data)
            assert isinstance(message, UnmaskRequest)
            wanted += ("signers",) * bool(message.signers)
        for name in wanted:
            assert any(key.startswith(name) or key.endswith(name) for key in disk), name

    def _falls_silent(self, letter: Letter) -> bool:
        silence = self.silences.get(letter.sender)
        if silence is None:
            return False
        kind, number = silence.value
        if letter.data[1] != kind.code:
            return False
        message = decode(letter.data)
        if not isinstance(message, UploadChunk):
            return True
        frames = self.server.layout.frames()
        return message.offset == [frame.byte for frame in frames][number]

    def _next(self, chaos: random.Random | None) -> Letter:
        if chaos is None:
            return self.letters.pop(0)
        if self.late and chaos.random() < 0.2:
            return self.late.pop(chaos.randrange(len(self.late)))
        letter = self.letters[chaos.randrange(len(self.letters))]
        if letter.data[1] in UPLOAD:  # one stream, whose parts do not overtake each other
            letter = next(
                each
                for each in self.letters
                if each.sender == letter.sender and each.data[1] in UPLOAD
            )
        self.letters.remove(letter)
        return letter

    def _recover_server(self) -> None:
        if "roster" in self.server.disk:
            self.perform(SERVER, self.server.restart)
            return
        self.server.server = SecAggServer(  # the session had not begun: another takes its place
            self.config,
            model_digest=bytes(32),
            round=0,
            trust=self.server.trust,
            now=0,
            entropy=SeededEntropy(b"another server"),
        )
        for client_id in self.hosts:
            self.offer(client_id)


def configuration(n: int, *, profile: Profile, delta: Fraction = Fraction(1, 5)) -> SessionConfig:
    """Terms under which some of n clients may be lost; an upload has three chunks, one a block."""
    slots = 32 if n <= 64 else 21
    layout = Layout(tuple(Block(length, slots, 1000) for length in (7, 1, 5)))
    sigma = 100 if profile is Profile.MALICIOUS else 40
    return SessionConfig(bytes(32), layout, profile, delta=delta, sigma=sigma)


def network_of(
    config: SessionConfig,
    n: int,
    *,
    seed: int = 0,
    crashes: Mapping[int, Mapping[int, Moment]] | None = None,
    server_crashes: Mapping[int, Moment] | None = None,
    silences: Mapping[int, Silence] | None = None,
    retrained: frozenset[int] = frozenset(),
    in_flight: InFlight = InFlight.LOST,
    chaos: bool = False,
) -> Network:
    """n clients with vectors of their own, and what goes wrong, by the client's position."""
    rng = np.random.default_rng(seed)
    length = sum(block.length for block in config.layout.blocks)
    given = rng.integers(-1000, 1001, (n, length))
    loopback, ids = make_loopback(
        config,
        [blocks_of(config.layout, vector) for vector in given],
        entropy=SeededEntropy(seed.to_bytes(8, "little")),
    )
    loopback.server.disk = CrashingDisk(server_crashes)
    for i, client_id in enumerate(ids):
        loopback.hosts[client_id].disk = CrashingDisk((crashes or {}).get(i))
    return Network(
        loopback,
        config,
        vectors=dict(zip(ids, given, strict=True)),
        in_flight=in_flight,
        silences={ids[i]: silence for i, silence in (silences or {}).items()},
        retrained={ids[i]: given[i] // 2 + 1 for i in retrained},
        chaos=random.Random(seed) if chaos else None,
    )


def blocks_of(layout: Layout, vector: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """A whole vector (d,), cut into the blocks of a layout."""
    edges = np.cumsum([block.length for block in layout.blocks])[:-1]
    return np.split(vector, edges)
