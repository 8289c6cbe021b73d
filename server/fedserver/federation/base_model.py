"""What a round begins from is read whole before anything is spent on the round."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from fedcore.errors import BlobError
from fedserver.blobs import BlobStore
from fedserver.newest_models import not_whole
from fedserver.store.records import HeadRecord

__all__ = ["BaseModel"]

_PAUSE_S: Final = 1.0
_REST: Final = 20  # times as long as it took to read: a large file is not read all the time


class BaseModel:
    """The newest model of a task. `trouble`: why it cannot be read, None while it can.

    `pause_s`: when to look again, once it could not.
    """

    def __init__(self, blobs: BlobStore, task_id: str) -> None:
        self._blobs, self._task_id = blobs, task_id
        self.trouble: BlobError | None = None
        self.pause_s = _PAUSE_S
        self._log = structlog.get_logger("fedserver.driver").bind(task=task_id)

    async def is_whole(self, head: HeadRecord) -> bool:
        """Whether each byte of it is what was stored; if not, the log says so, once."""
        clock = asyncio.get_running_loop().time
        begun_s = clock()
        trouble = await self._examined(head)
        self.pause_s = max(_PAUSE_S, _REST * (clock() - begun_s))
        before, self.trouble = self.trouble, trouble
        if trouble is None:
            if before is not None:
                self._log.info("task.goes_on")
        elif before is None or (before.what, before.why) != (trouble.what, trouble.why):
            self._log.error(
                "task.stands_still",
                code=trouble.code,
                what=trouble.what,
                why=trouble.why,
                fix=trouble.fix,
            )
        return trouble is None

    async def _examined(self, head: HeadRecord) -> BlobError | None:
        for digest in filter(None, (head.digest, head.state_digest)):
            try:
                await self._blobs.verify(digest)
            except BlobError as error:
                return not_whole(self._task_id, digest, head.digest, error)
        return None
