"""What crashes and restored backups leave on the disk, and nothing in the database refers to."""

from __future__ import annotations

from fedserver.blobs import BlobStore
from fedserver.spool import Spool
from fedserver.store.protocol import Store

__all__ = ["collect_blobs", "discard_uploads"]


async def discard_uploads(store: Store, spool: Spool) -> int:
    """Forgets uploads of no open round; how many there were. Before any round is taken up."""
    stored = await spool.stored()  # before, for what is begun meanwhile is of an open round
    known = {
        upload.upload_id
        for record in await store.open_rounds()
        for upload in await store.uploads(record.ref)
    }
    strays = sorted(stored - known)
    await spool.discard(*strays)
    return len(strays)


async def collect_blobs(store: Store, blobs: BlobStore) -> int:
    """Deletes blobs that were put a day ago or longer, and are no task's model or state."""
    known: set[bytes] = set()
    for task in await store.tasks():
        known.update(model.digest for model in await store.models(task.task_id))
        if (head := await store.head(task.task_id)) is not None:
            known.add(head.state_digest)
    return await blobs.collect(known)
