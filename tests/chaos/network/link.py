"""One connection through the proxy: what is read on one side is written on the other, or is not."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from dataclasses import dataclass
from typing import Final, Self

from tests.chaos.network.faults import Fault, Way

__all__ = ["End", "Link"]

_PIECE_BYTES: Final = 65_536
_PIECES: Final = 64  # on their way in one direction; whoever sends more has to wait
_STEP_S: Final = 0.1
_RESET: Final = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class End:
    """The proxy's end of a TCP connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def connected(cls, port: int) -> Self:
        """To a port of this machine. Raises: OSError."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def reset(self) -> None:
        """Ends it without a word that all is over."""
        found = self.writer.get_extra_info("socket")
        if found is not None and found.fileno() >= 0:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.writer.transport.abort()


class _OverError(Exception):
    """The byte has come at which the connection is reset."""


class Link:
    """What lies between a client and a server. `passable`: cleared while nothing gets through."""

    def __init__(self, fault: Fault, *, draw: random.Random, passable: asyncio.Event) -> None:
        self._fault, self._draw, self._passable = fault, draw, passable
        self._moved = 0
        self.was_reset = False

    async def join(self, client: End, server: End) -> None:
        """Returns when both directions have ended, or all was reset."""
        try:
            async with asyncio.TaskGroup() as group:
                self._pump(group, "up", client, server)
                self._pump(group, "down", server, client)
        except* _OverError:
            self.was_reset = True
        except* OSError:  # one end has reset it, so the other is told
            pass
        finally:
            for end in (client, server):
                end.reset()

    def _pump(self, group: asyncio.TaskGroup, way: Way, source: End, sink: End) -> None:
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_PIECES)
        group.create_task(self._take(way, source, pieces))
        group.create_task(self._give(way, sink, pieces))

    async def _take(
        self, way: Way, source: End, pieces: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        """Gives every piece the moment at which it arrives; an empty one is the end."""
        clock, due_s, data = asyncio.get_running_loop().time, 0.0, b" "
        while data:
            try:
                data = await source.reader.read(_PIECE_BYTES)
            except OSError:
                if self._fault.lost != way:
                    raise
                data = b""
            due_s = max(due_s, clock() + self._draw.uniform(*self._fault.delay_s))
            await pieces.put((due_s, data))

    async def _give(self, way: Way, sink: End, pieces: asyncio.Queue[tuple[float, bytes]]) -> None:
        clock, left = asyncio.get_running_loop().time, self._fault.lost_after
        data = b" "
        while data:
            due_s, data = await pieces.get()
            await asyncio.sleep(max(0.0, due_s - clock()))
            await self._passable.wait()
            if self._fault.lost == way:
                kept, left = data[:left], max(0, left - len(data))
                if kept:
                    await self._send(sink, kept)
                continue  # the end of the connection is lost as well
            try:
                await self._send(sink, data)
            except OSError:
                if self._fault.lost is None:
                    raise
                # That the other end is gone would have come by the way on which all is lost.

    async def _send(self, sink: End, data: bytes) -> None:
        if not data:
            sink.writer.write_eof()
            return
        after = self._fault.reset_after
        if after is not None and self._moved + len(data) >= after:
            sink.writer.write(data[: after - self._moved])
            raise _OverError
        self._moved += len(data)
        rate = self._fault.bytes_per_s
        step = len(data) if rate is None else max(1, int(rate * _STEP_S))
        for begin in range(0, len(data), step):
            sink.writer.write(data[begin : begin + step])
            await sink.writer.drain()
            if rate is not None:
                await asyncio.sleep(step / rate)
