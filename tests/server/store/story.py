"""The round that tests tell of a store: from its clients' enrolment to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedserver.store.protocol import Store
from fedserver.store.records import AuditEntry, MetricRecord, ModelRecord, Transition

if TYPE_CHECKING:
    from tests.server.store.conftest import World

__all__ = ["a_round"]


async def a_round(world: World) -> None:
    """One round, with a checkpoint on the way."""
    store: Store = world.store
    clients = await world.clients(2)
    base = await world.task()
    ref = await world.round(base)
    parts = [world.assignment(ref, client) for client in clients]
    await world.go(ref, "COLLECTING", assignments=parts, session={"set/1": b"members"})
    await store.checkpoint()
    for number, part in enumerate(parts):
        upload = bytes([number])
        await store.begin_upload(part.assignment_id, upload, size=10)
        audit = AuditEntry("client", "upload.seal", str(number))
        await store.seal_upload(upload, world.digest(str(number)), audit=audit)
    await world.go(ref, "AGGREGATING")
    await store.complete_round(
        ref,
        Transition("AGGREGATING", "COMPLETED", 3),
        state={},
        lease_token=world.held,
        model=ModelRecord(world.digest("second"), "task-1", base, 1, 100),
        expected_parent=base,
        metrics={"loss": MetricRecord(1.5, 2.0, "plain")},
    )
    await store.checkpoint()
    await store.scrub_round(ref, audit=AuditEntry("driver", "round.scrub", str(ref)))
