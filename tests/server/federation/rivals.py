"""Several drivers over one store, any of which can be stopped between two of its calls.

A process that is stopped does nothing, and knows nothing of it when it goes on. Here what stops is
its way to the store, before a call or after it: between these it could do nothing that lasts.
"""

from __future__ import annotations

import asyncio
import functools
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from fedcore.federated.payments import Accounts
from fedcore.federated.task import Task
from fedserver.blobs import LocalBlobStore
from fedserver.federation.federation import LocalFederation
from fedserver.federation.resources import Resources
from fedserver.metrics import Metrics
from fedserver.spool import Spool
from fedserver.staging import Staging
from fedserver.store.sqlite.store import SqliteStore
from tests.server.databases import opened
from tests.server.federation.world import KEY, World

__all__ = ["LEASE_MS", "Rival", "Rivals"]

LEASE_MS = 300  # of a clock that stands still until a test moves it


class Stoppable:
    """A store whose caller stops at a step; each call has two, one before it and one after it.

    Or before the next call of a name.
    """

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.steps, self.stop_at, self.stop_before = 0, 0, ""
        self.stopped, self._going = asyncio.Event(), asyncio.Event()
        self._going.set()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        @functools.wraps(method)
        async def call(*given: Any, **named: Any) -> Any:
            if name == self.stop_before:
                self.stop_at = self.steps + 1
            await self._step()
            answer = await method(*given, **named)
            await self._step()
            return answer

        return call

    def go_on(self) -> None:
        """As after SIGCONT."""
        self.stop_at, self.stop_before = 0, ""
        self._going.set()

    async def _step(self) -> None:
        self.steps += 1
        if self.steps == self.stop_at:
            self._going.clear()
            self.stopped.set()
        await self._going.wait()


class Rival:
    """One server's side: its own way to the store, its own uploads in memory, its own drivers.

    `shared`: it knows of the others, and has ledgers of its own to open.
    """

    def __init__(self, name: str, world: Rivals, *, shared: bool = False) -> None:
        self.name = name
        self.accounts = world.accounts
        if shared:
            self.accounts = Accounts(world.folder / "ledgers", participation_key=KEY)
        self.store = Stoppable(world.store)
        folder = world.folder
        resources = Resources(
            self.store,  # type: ignore[arg-type]
            world.blobs,
            Spool(folder / "spool"),
            Metrics(),
            world.trusted,
            Staging(Spool(folder / "staging"), largest_bytes=world.largest_model),
            threads=1,
            lease_ms=LEASE_MS,
        )
        self.federation = LocalFederation(resources, self.accounts, owner=name, shared=shared)


class Rivals(World):
    """A world of several servers, of which the devices speak to one at a time.

    `names`: of those that run from the beginning and know of each other.
    """

    def __init__(
        self, folder: Path, task: Task, *, clients: int, names: Sequence[str] = ()
    ) -> None:
        super().__init__(folder, task, clients=clients)
        self._names = names
        self.now_ms = 1_000_000
        self.rivals: list[Rival] = []

    async def start(self) -> None:
        """Opens what all of them share, and starts the first."""
        self.folder.mkdir(exist_ok=True)
        self.store = await opened(self.folder / "fed.db", keys=[KEY], clock=lambda: self.now_ms)
        self.blobs = LocalBlobStore(self.folder / "blobs")
        self.accounts = Accounts(self.folder / "ledgers", participation_key=KEY)
        if not self._names:
            await self.join("first")
            return
        for name in self._names:
            self.rivals.append(Rival(name, self, shared=True))
            await self.rivals[-1].federation.start()
        self.federation = self.rivals[0].federation
        self._up.set()

    def turn_to(self, number: int) -> None:
        """From now on the devices speak to another of those that run."""
        for call in self._calls:
            call.cancel()
        self.federation = self.rivals[number].federation

    async def join(self, name: str) -> Rival:
        """One more server, which waits for the lease; from now on the devices speak to it."""
        self._up.clear()
        rival = Rival(name, self)
        self.rivals.append(rival)
        for call in self._calls:  # nobody answers them any more
            call.cancel()
        await rival.federation.start()
        self.federation = rival.federation
        self._up.set()
        return rival

    def pass_lease_time(self) -> None:
        """The lease of whoever holds it runs out, unless it is renewed now."""
        self.now_ms += LEASE_MS + 1

    async def overtake(self, name: str) -> None:
        """Lets time pass until another server has the lease that is not renewed any more.

        More than once: what was on its way to the store when its caller was stopped still arrives.
        """
        await self.join(name)
        while self.holder() != name and not await self.ended():
            self.pass_lease_time()
            await asyncio.sleep(0.01)

    def holder(self) -> str:
        """Who had the lease of the only task last; nobody once it was given back."""
        with closing(sqlite3.connect(self.folder / "fed.db")) as connection:
            found = connection.execute("SELECT owner FROM task_lease").fetchone()
        return str(found[0]) if found else ""

    async def stop(self) -> None:
        """Stops all of them."""
        for rival in self.rivals:
            rival.store.go_on()
        for rival in self.rivals:
            await rival.federation.stop()
        await self.store.close()
