"""Whether that from which tasks go on can be read whole: their newest models, and what is beside.

Nothing here opens a store, so that it can be asked while a server runs, and changes nothing.
"""

from __future__ import annotations

import hmac
from pathlib import Path
from typing import Final

from sqlalchemy import select

from fedcore.errors import BlobError
from fedserver.blobs import damaged, digest_name
from fedserver.config import Config
from fedserver.disk import blob_error, digest_of
from fedserver.objects import ObjectAddress, Objects
from fedserver.store import schema
from fedserver.store.migrating import connected
from fedserver.store.postgres.address import Database
from fedserver.store.records import TaskState
from fedserver.store.sql.reads import all_rows

__all__ = ["BLOBS", "blobs_of", "not_whole", "tasks_without"]

BLOBS: Final = "blobs"
"""The folder of the state directory in which models lie, where they are in no bucket."""

_OF_RUNNING: Final = (
    select(schema.model_head)
    .join(schema.task, schema.model_head.c.task_id == schema.task.c.task_id)
    .where(schema.task.c.state == TaskState.RUNNING)
    .order_by(schema.task.c.submitted_ms, schema.task.c.task_id)
)


def blobs_of(config: Config) -> Path | ObjectAddress:
    """Where a server with these settings keeps its models."""
    return config.blobs or config.server.state_directory / BLOBS


def tasks_without(database: Database, blobs: Path | ObjectAddress) -> tuple[int, list[BlobError]]:
    """How many tasks run, and what is amiss with those that cannot go on from what there is.

    Reads every byte of it. Raises: StoreError; InstallError without what speaks to a bucket.
    """
    with connected(database) as connection:
        rows = all_rows(connection, _OF_RUNNING)
    objects = blobs if isinstance(blobs, Path) else Objects.connected(blobs)
    found = []
    for row in rows:
        for digest in filter(None, (row["digest"], row["state_digest"])):
            try:
                _verify(objects, digest)
            except BlobError as error:
                found.append(not_whole(row["task_id"], digest, row["digest"], error))
    return len(rows), found


def not_whole(task_id: str, digest: bytes, model: bytes, error: BlobError) -> BlobError:
    """The error of a task whose newest `model`, or the state beside it, has such an error."""
    kind = "newest model" if digest == model else "state beside the newest model"
    return BlobError(
        f"the {kind} of task {task_id} cannot be read whole",
        why=f"{digest_name(digest)}: {error.why}",
        fix="put that file back from a copy of the models, or mend what keeps it from being read; "
        "until then the task stands still and spends nothing, then it goes on by itself",
    )


def _verify(blobs: Path | Objects, digest: bytes) -> None:
    name = digest_name(digest)
    if isinstance(blobs, Objects):
        found = blobs.digest(name)
    else:
        with blob_error(f"blob {name} cannot be read"), (blobs / name).open("rb") as file:
            found = digest_of(file.fileno())
    if not hmac.compare_digest(found, digest):
        raise damaged(digest, found, fix="restore it from a copy")
