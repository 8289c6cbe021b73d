"""A TCP proxy on loopback between devices and their server, in which the network's faults live.

It runs in a thread of its own. Whatever it does to a connection follows from its seed and from the
connection's number, so that the same connections meet the same faults again.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Self, TypeVar

from tests.chaos.network.faults import Draw, Fault, undisturbed
from tests.chaos.network.link import End, Link

__all__ = ["FaultProxy"]

T = TypeVar("T")


class FaultProxy:
    """Listens from the first moment on; close it, or use it as a context manager.

    `target`: the port of this machine to which it leads, which may be told later. `draw`: what
    befalls the next connections; `faults`, `resets`: what befell those that were.
    """

    def __init__(self, target: int = 0, *, draw: Draw = undisturbed, seed: int = 0) -> None:
        self.target, self.draw, self.seed = target, draw, seed
        self.faults: list[Fault] = []
        self.resets = 0
        self._links: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._passable = asyncio.Event()
        self._passable.set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._listener = self._in_loop(self._listening())
        self.port: int = self._listener.sockets[0].getsockname()[1]

    @property
    def address(self) -> str:
        """host:port for a client."""
        return f"localhost:{self.port}"

    @property
    def open_links(self) -> int:
        """How many connections it holds now."""
        return len(self._links)

    def reset(self) -> None:
        """Resets every connection that there is."""
        self._in_loop(self._ended())

    def disturb(self, draw: Draw, *, seed: int) -> None:
        """Begins anew, as if no connection had been before: the next one is the first."""
        self.draw, self.seed = draw, seed
        self.faults, self.resets = [], 0

    @contextmanager
    def partition(self) -> Iterator[None]:
        """Nothing gets through for the length of the block; what was sent arrives after it."""
        self._in_loop(self._set_passable(False))
        try:
            yield
        finally:
            self._in_loop(self._set_passable(True))

    def close(self) -> None:
        """Ends every connection and the proxy."""
        if self._loop.is_closed():
            return
        self._in_loop(self._closed())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def _in_loop(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _listening(self) -> asyncio.Server:
        return await asyncio.start_server(self._take, "127.0.0.1", 0, backlog=1024)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        client, draw = End(reader, writer), random.Random(f"{self.seed}/{len(self.faults)}")
        fault = self.draw(draw)
        self.faults.append(fault)
        try:
            await self._led(client, fault, draw)
        except asyncio.CancelledError:
            pass  # by `reset` and `close`, which wait for it
        finally:
            client.reset()
            self._links.discard(task)

    async def _led(self, client: End, fault: Fault, draw: random.Random) -> None:
        if fault.refused:
            return
        await self._passable.wait()
        try:
            server = await End.connected(self.target)
        except OSError:
            return
        link = Link(fault, draw=draw, passable=self._passable)
        await link.join(client, server)
        self.resets += link.was_reset

    async def _set_passable(self, passable: bool) -> None:
        if passable:
            self._passable.set()
        else:
            self._passable.clear()

    async def _ended(self) -> None:
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)
        await asyncio.sleep(0)  # aborted transports close their sockets in the next turn

    async def _closed(self) -> None:
        self._listener.close()
        await self._ended()
        await asyncio.sleep(0)
