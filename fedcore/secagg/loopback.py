"""Clients and a server in one process, with bytes between them and a dictionary for each disk.

The smallest drivers that keep the contract of the effects. What is simulated with them is what a
network carries: every message is encoded, and decoded at the other end.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from fedcore.errors import ArgumentError, MessageError, SecAggError
from fedcore.secagg.client import SecAggClient
from fedcore.secagg.effects import Effect, Erase, Fail, NeedInput, Persist, Send
from fedcore.secagg.identity import TrustStore
from fedcore.secagg.messages import (
    MaskRequest,
    Message,
    Roster,
    Survivors,
    UnmaskRequest,
    UploadChunk,
    UploadTrailer,
    decode,
    encode,
)
from fedcore.secagg.packing import IntegerSource, Layout
from fedcore.secagg.prg import CHUNK_WORDS
from fedcore.secagg.server import SecAggServer
from fedcore.secagg.stages import Stage
from fedcore.secagg.unmask import UnmaskPlan, accumulate, new_accumulator, unmask

__all__ = [
    "ClientHost",
    "Disk",
    "Loopback",
    "LostAt",
    "ServerHost",
    "check_count",
    "unmask_in_threads",
]


class LostAt(IntEnum):
    """Where in a session a client falls silent for good; its prekey is posted in any case.

    SHARES: it never hears of the roster, and deals no shares of its secrets.
    UPLOAD: it deals its shares, and never hears with whom to mask; nothing of its vector is sent.
    UPLOADING: it sends its masked vector, but not the trailer that ends it; the vector is dropped.
    CONFIRMATION: its vector has arrived and is in the sum; it never signs the set of survivors.
    ANSWER: it signs that set as well, and never reveals the shares that unmask the sum; where
    nobody signs it, in the profile SEMI_HONEST, CONFIRMATION is the same.
    """

    SHARES = 1
    UPLOAD = 2
    UPLOADING = 3
    CONFIRMATION = 4
    ANSWER = 5


_FIRST_UNHEARD: dict[type[Message], LostAt] = {
    Roster: LostAt.SHARES,
    MaskRequest: LostAt.UPLOAD,
    Survivors: LostAt.CONFIRMATION,
    UnmaskRequest: LostAt.ANSWER,
}


class Disk(dict[str, bytes]):
    """What is durable: here a dictionary."""

    def perform(self, effect: Persist | Erase) -> None:
        """Write or erase one record."""
        if isinstance(effect, Persist):
            self[effect.key] = effect.value
        else:
            self.pop(effect.key, None)


class ClientHost:
    """A device: a client, the vector it will give, its disk, and when it will be lost, if at all.

    `make`: a client as it is after a start of the program, without any state.
    """

    def __init__(
        self,
        make: Callable[[], SecAggClient],
        blocks: Sequence[IntegerSource],
        *,
        disk: Disk,
        lost_at: LostAt | None = None,
        now: int,
    ) -> None:
        self.make, self.client = make, make()
        self.blocks, self.disk, self.lost_at, self.now = blocks, disk, lost_at, now
        self.failure: SecAggError | None = None

    def offer(self, count: int, *, expires: int) -> Iterator[bytes]:
        """Post prekeys: the messages to the server."""
        return self.perform(self.client.offer(count, expires=expires))

    def restart(self) -> Iterator[bytes]:
        """Start the program again from what is on its disk: the messages that it repeats."""
        self.client = self.make()
        return self.perform(self.client.restore(dict(self.disk), now=self.now))

    def receive(self, data: bytes) -> Iterator[bytes]:
        """Take a message: the answers, each made when it is asked for. Raises: SecAggError."""
        message = decode(data)
        unheard = _FIRST_UNHEARD.get(type(message))
        if self.lost_at is not None and unheard is not None and unheard >= self.lost_at:
            return
        yield from self.perform(self.client.handle(message, now=self.now))

    def perform(self, effects: Sequence[Effect]) -> Iterator[bytes]:
        """Do what the machine asks for: each message to the server, made when it is asked for."""
        for effect in effects:
            match effect:
                case Persist() | Erase():
                    self.disk.perform(effect)
                case Send():
                    yield encode(effect.message)
                case NeedInput():
                    yield from self._give(effect.sid)
                case Fail():
                    self.failure = effect.error

    def _give(self, sid: bytes) -> Iterator[bytes]:
        try:
            effects = self.client.commit(sid, self.blocks)
        except SecAggError as error:  # this session is lost, the effects that follow are not
            self.failure = error
            return
        yield from self.perform(effects)
        if sid not in self.client.stages:
            return
        for message in self.client.upload(sid, self.blocks):
            if self.lost_at is LostAt.UPLOADING and isinstance(message, UploadTrailer):
                return
            yield encode(message)


class ServerHost:
    """A server program: the machine, its disk, one accumulator, a spool for each open upload."""

    def __init__(
        self, server: SecAggServer, layout: Layout, *, disk: Disk, trust: TrustStore
    ) -> None:
        self.server, self.layout, self.disk, self.trust = server, layout, disk, trust
        self.accumulator = new_accumulator(layout)
        self.spools: dict[bytes, bytearray] = {}
        self.failure: SecAggError | None = None

    def receive(self, client_id: bytes, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Take a message of a client: (recipient, message) for each answer. Raises: SecAggError."""
        message = decode(data)
        if isinstance(message, UploadChunk):
            self._spool(client_id, message)
        elif isinstance(message, UploadTrailer):
            yield from self._finish(client_id, message)
        else:
            yield from self.perform(self.server.handle(client_id, message))

    def perform(self, effects: Sequence[Effect]) -> Iterator[tuple[bytes, bytes]]:
        """Do what the machine asks for: (recipient, message) for each message to be sent."""
        for effect in effects:
            match effect:
                case Persist() | Erase():
                    self.disk.perform(effect)
                case Send():
                    yield effect.to, encode(effect.message)
                case Fail():
                    self.failure = effect.error

    def _spool(self, client_id: bytes, chunk: UploadChunk) -> None:
        if not self.server.takes(client_id, chunk):
            return
        spool = self.spools.setdefault(client_id, bytearray())
        if chunk.offset > len(spool):
            raise MessageError(
                f"a chunk at {chunk.offset} does not follow {len(spool)} bytes",
                why="this driver keeps the chunks of an upload in order",
                fix="send the upload again from the byte that was acknowledged",
                stage="R2",
                culprit=client_id,
            )
        spool[chunk.offset :] = chunk.data

    def restart(self) -> Iterator[tuple[bytes, bytes]]:
        """Start the program again from its disk: (recipient, message) for each that it repeats.

        Spools and the accumulator are as durable as the disk. Of the uploads in a spool, one that
        was recorded as complete is added now; any other begins again.
        """
        self.server, effects = SecAggServer.restore(self.disk, trust=self.trust)
        self._add_complete()
        self.spools.clear()
        return self.perform(effects)

    def _finish(self, client_id: bytes, trailer: UploadTrailer) -> Iterator[tuple[bytes, bytes]]:
        spool = self.spools.get(client_id, b"")
        received = hashlib.sha256(spool).digest()
        effects = self.server.finish_upload(
            client_id, trailer, received=received, length=len(spool)
        )
        yield from self.perform(effects)
        self._add_complete()

    def _add_complete(self) -> None:
        """An upload leaves its spool and enters the accumulator in one write, and so once."""
        for client_id in self.server.uploaded & self.spools.keys():
            spool = self.spools.pop(client_id)
            for frame in self.layout.frames():
                data = bytes(spool[frame.byte : frame.byte + frame.size])
                accumulate(self.accumulator, self.layout, frame.byte, data)


class Loopback:
    """The wires between a server and its clients, `hosts` by their ids.

    `refused`: the messages that were not taken, as (who refused, error).
    """

    def __init__(self, server: ServerHost, hosts: Mapping[bytes, ClientHost]) -> None:
        self.server, self.hosts = server, hosts
        self.refused: list[tuple[str, SecAggError]] = []

    def to_server(self, client_id: bytes, messages: Iterable[bytes]) -> None:
        """Carry a client's messages to the server, and on until nobody has more to say."""
        inboxes: deque[tuple[bytes, bytes]] = deque()
        self._upstream(client_id, messages, inboxes)
        self._run(inboxes)

    def to_clients(self, messages: Iterable[tuple[bytes, bytes]]) -> None:
        """Carry the server's messages to its clients, and on until nobody has more to say."""
        self._run(deque(messages))

    def close(self, stage: Stage) -> None:
        """Let the server close a stage. Raises: the error with which it ends the session."""
        self.to_clients(self.server.perform(self.server.server.close(stage)))
        if self.server.failure is not None:
            raise self.server.failure from (self.refused[0][1] if self.refused else None)

    def _run(self, inboxes: deque[tuple[bytes, bytes]]) -> None:
        while inboxes:
            client_id, data = inboxes.popleft()
            self._upstream(client_id, self._heard(client_id, data), inboxes)

    def _heard(self, client_id: bytes, data: bytes) -> Iterator[bytes]:
        try:
            yield from self.hosts[client_id].receive(data)
        except SecAggError as error:
            self.refused.append((client_id.hex(), error))

    def _upstream(
        self, client_id: bytes, messages: Iterable[bytes], inboxes: deque[tuple[bytes, bytes]]
    ) -> None:
        for data in messages:
            try:
                inboxes.extend(self.server.receive(client_id, data))
            except SecAggError as error:
                self.refused.append(("server", error))


def unmask_in_threads(
    accumulator: npt.NDArray[np.uint64], plan: UnmaskPlan, *, threads: int
) -> None:
    """Take the masks off the whole accumulator in place; each thread owns a range of it.

    Raises: ArgumentError unless `threads` is at least 1.
    """
    check_count("threads", threads, 1)
    chunks = -(-len(accumulator) // CHUNK_WORDS)
    threads = min(threads, chunks)  # more would own nothing
    if threads <= 1:
        return unmask(accumulator, plan)
    edges = [CHUNK_WORDS * (chunks * i // threads) for i in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        done = [
            pool.submit(unmask, accumulator[begin:end], plan, offset=begin)
            for begin, end in pairwise(edges)
        ]
        for future in done:
            future.result()


def check_count(name: str, value: int, least: int, most: int | None = None) -> None:
    """Raises: ArgumentError unless `value`, called `name`, is a plain int in that range."""
    if type(value) is int and least <= value and (most is None or value <= most):
        return
    bounds = f"from {least} on" if most is None else f"from {least} to {most}"
    raise ArgumentError(
        f"{name} = {value!r} is out of range",
        why=f"it is a whole number {bounds}",
        fix=f"pass a plain int {bounds}",
    )
