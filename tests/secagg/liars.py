"""A real server and real clients, some of which change what they send: a whole session of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from fedcore.errors import SecAggError
from fedcore.secagg.config import SessionConfig
from fedcore.secagg.effects import Effect
from fedcore.secagg.loopback import ClientHost, Disk, Loopback, LostAt, ServerHost
from fedcore.secagg.messages import Message, decode, encode
from fedcore.secagg.participation import Participation
from fedcore.secagg.server import SecAggServer
from fedcore.secagg.stages import Stage
from fedcore.secagg.unmask import total_of, unmask
from tests.secagg.adversary import CONFIG, EXPIRES, NOW, World

__all__ = ["Game", "Lie", "instead_of", "others", "play", "session_of"]

Lie = Callable[[ClientHost, Message], Sequence[Message]]
_M = TypeVar("_M", bound=Message)


def instead_of(kind: type[_M], change: Callable[[ClientHost, _M], Sequence[Message]]) -> Lie:
    """Send something else in the place of messages of one kind."""

    def lie(host: ClientHost, message: Message) -> Sequence[Message]:
        return change(host, message) if isinstance(message, kind) else [message]

    return lie


def others(*liars: int) -> list[int]:
    """Of eight clients all but these."""
    return [i for i in range(8) if i not in liars]


def session_of(host: ClientHost, sid: bytes) -> Participation:
    """What a device knows of an open session: its owner sees it all."""
    return host.client._sessions[sid]


class _Liar(ClientHost):
    """A device whose owner changes what its program sends."""

    def __init__(self, honest: ClientHost, lie: Lie) -> None:
        super().__init__(honest.make, honest.blocks, disk=Disk(), now=NOW)
        self.lie = lie

    def perform(self, effects: Sequence[Effect]) -> Iterator[bytes]:
        for data in super().perform(effects):
            for message in self.lie(self, decode(data)):
                yield encode(message)


@dataclass
class Game:
    """A session between the clients of a world and an honest server."""

    world: World
    loopback: Loopback

    @property
    def server(self) -> SecAggServer:
        """The machine."""
        return self.loopback.server.server

    @property
    def refused(self) -> list[SecAggError]:
        """What the server did not take."""
        return [error for who, error in self.loopback.refused if who == "server"]

    @property
    def named(self) -> set[int]:
        """The clients that the server names as the culprits of what it did not take."""
        assert all(error.culprit is not None for error in self.refused)
        return {self.world.ids.index(error.culprit or b"") for error in self.refused}

    def say(self, i: int, message: Message) -> None:
        """Let client i send a message to the server. Raises: what the server raises."""
        list(self.loopback.server.receive(self.world.ids[i], encode(message)))

    def run(self, until: Stage = Stage.OPENED) -> None:
        """Close stage after stage. Raises: the error with which the session ends."""
        while self.server.stage is not until:
            self.loopback.close(self.server.stage)

    def assert_sum(self, clients: Sequence[int]) -> None:
        """The exact sum of the vectors of these clients comes out."""
        self.run()
        assert self.server.survivors == {self.world.ids[i] for i in clients}
        host = self.loopback.server
        words = host.accumulator.copy()
        unmask(words, self.server.plan())
        for place, found in enumerate(total_of(words, host.layout)):
            wanted = np.sum([self.world.vectors[i][place] for i in clients], axis=0)
            np.testing.assert_array_equal(found, wanted)


def play(
    world: World,
    lies: Mapping[int, Lie] | None = None,
    *,
    lost: Mapping[int, LostAt] | None = None,
    config: SessionConfig = CONFIG,
    until: Stage = Stage.SHARES,
) -> Game:
    """A session whose prekeys are posted, driven on to `until`. Raises: as `Game.run`."""
    for i, lie in (lies or {}).items():
        world.hosts[i] = _Liar(world.hosts[i], lie)
    for i in range(world.n):
        world.hosts[i].lost_at = (lost or {}).get(i)
    server = SecAggServer(config, model_digest=bytes(32), round=0, trust=world.trust, now=NOW)
    host = ServerHost(server, config.layout, disk=Disk(), trust=world.trust)
    game = Game(world, Loopback(host, dict(zip(world.ids, world.hosts, strict=True))))
    for client_id, device in game.loopback.hosts.items():
        game.loopback.to_server(client_id, device.offer(1, expires=EXPIRES))
    game.run(until)
    return game
