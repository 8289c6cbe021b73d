"""The updates of one attempt: on their way, sealed, and added up as they come.

Only a seal acknowledges an update. The sum is kept in memory and is a function of the sealed set:
a server that was restarted makes it anew from the spool, so nothing is ever added twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Set

from fedcore.errors import ConsistencyError, UploadError
from fedcore.secagg import Layout, UnmaskPlan
from fedserver.accumulation import Accumulation, Totals, accumulation_of
from fedserver.spool import SealedUpload, Spool

__all__ = ["Reports"]


class Reports:
    """Sealed uploads by client, and their sum.

    `key`: under which the spool encrypts them, if it does. `threads`: how many take the masks off.
    """

    def __init__(self, layout: Layout, spool: Spool, *, key: bytes | None, threads: int) -> None:
        self.layout, self.key = layout, key
        self._spool, self._threads = spool, threads
        self._sealed: dict[bytes, SealedUpload] = {}
        self._begun: set[bytes] = set()
        self._owners: dict[bytes, bytes] = {}
        self._sum = Accumulation(layout)
        self._adding: set[asyncio.Task[None]] = set()
        self._totals: Totals | None = None

    @property
    def clients(self) -> Set[bytes]:
        """Whose update is acknowledged: a view, which is asked for every update."""
        return self._sealed.keys()

    @property
    def begun(self) -> Set[bytes]:
        """Who has begun to send an update: a view."""
        return self._begun

    @property
    def totals(self) -> Totals:
        """The sums, block by block, once `sum_up` has made them. Raises: ConsistencyError."""
        if self._totals is None:
            raise ConsistencyError(
                "the sum of a round is not made",
                why="it is asked for before the updates were added up, or after it was used",
                fix="add up the sealed updates first",
            )
        return self._totals

    @property
    def count(self) -> int:
        """How many updates are in the sum."""
        return len(self._sum.included)

    def require_size(self, size: int) -> None:
        """Raises: UploadError unless an update of this task has `size` bytes."""
        if size != self.layout.upload_bytes:
            raise UploadError(
                f"an upload of {size:,} bytes is begun",
                why=f"an update of this task has {self.layout.upload_bytes:,}",
                fix="encode the update by the layout of its task",
            )

    def owner(self, upload_id: bytes) -> bytes | None:
        """The client whose upload it is, if `own` was told: it is asked for every chunk."""
        return self._owners.get(upload_id)

    def own(self, upload_id: bytes, client: bytes) -> None:
        """Notes whose upload it is, for as long as the attempt lasts."""
        self._owners[upload_id] = client

    def begin(self, client: bytes) -> None:
        """Notes that a client has begun to send."""
        self._begun.add(client)

    def seal(self, client: bytes, upload: SealedUpload) -> None:
        """Counts an update that is durable and acknowledged, and adds it in the background."""
        self._begun.add(client)
        self._sealed[client] = upload
        task = asyncio.ensure_future(self._add(client, upload))
        self._adding.add(task)
        task.add_done_callback(self._adding.discard)

    def restore(self, client: bytes, upload: SealedUpload) -> None:
        """Takes up an update that was acknowledged before a restart; it is added at the end."""
        self._begun.add(client)
        self._sealed[client] = upload

    async def sum_up(self, members: frozenset[bytes], plan: UnmaskPlan | None) -> None:
        """Makes the sums of exactly these clients' updates, without their masks.

        Raises: DamagedUpdateError where one of them is not what was acknowledged.
        """
        while self._adding:
            await asyncio.wait(self._adding)
        if self._sum.included != members:
            uploads = {client: self._sealed[client] for client in members}
            self._sum = await accumulation_of(self.layout, self._spool, uploads, key=self.key)
        self._totals = await self._sum.total(members, plan=plan, threads=self._threads)

    def forget_sum(self) -> None:
        """Lets go of the sum's memory; it can be made anew from the sealed updates."""
        self._totals, self._sum = None, Accumulation(self.layout)

    async def _add(self, client: bytes, upload: SealedUpload) -> None:
        try:
            frames = self._spool.read_frames(upload, self.layout, key=self.key)
            await self._sum.add(client, frames)
        except Exception:
            # Half of it may be in: `sum_up` finds another set than the round's, and begins anew.
            self._sum = Accumulation(self.layout)
