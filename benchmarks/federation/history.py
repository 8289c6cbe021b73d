"""What a server has behind it: thousands of enrolled clients, and rounds that are over.

Written through the store by its own methods, so that every row is one that a server writes.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from benchmarks.federation.stage import Stage
from fedcore.entropy import SystemEntropy
from fedcore.federated.parameters import parameters_of
from fedcore.rounds import Phase, RoundState
from fedcore.rounds.records import to_record
from fedserver.blobs import LocalBlobStore
from fedserver.key_files import DATASTORE_KEYS, load_keys
from fedserver.model_files import ModelOrigin, load_model, store_model
from fedserver.store.protocol import Store
from fedserver.store.records import (
    AssignmentRecord,
    AuditEntry,
    CertificateRecord,
    ClientRecord,
    MetricRecord,
    ModelRecord,
    RoundRef,
    TokenRecord,
    Transition,
)
from fedserver.store.sqlite.store import SqliteStore

__all__ = ["add_history", "enrolled"]

_TENANT, _FAR_MS = "default", 2**50
_AT_ONCE, _COHORT = 500, 5
_ENTROPY = SystemEntropy()


async def add_history(stage: Stage, *, clients: int, rounds: int) -> None:
    """Enrols so many clients more, and lets so many rounds of the stage's task be over."""
    config = stage.config()
    keys = load_keys(config.authority_directory / DATASTORE_KEYS)
    store = await SqliteStore.open(config.database, keys=keys)
    try:
        known = await enrolled(store, clients)
        past = _Past(stage, store, known[:_COHORT])
        await past.begin()
        for number in range(rounds):
            await past.round(number)
        await past.end()
    finally:
        await store.close()


async def enrolled(store: Store, count: int) -> Sequence[bytes]:
    """The ids of so many clients more, whose keys nobody has."""
    token = _ENTROPY.token(32)
    await store.create_token(TokenRecord(token, _TENANT, count, _FAR_MS))

    async def one(number: int) -> bytes:
        client, key = _ENTROPY.token(16), _ENTROPY.token(32)
        await store.enrol(
            token,
            ClientRecord(client, _TENANT, key, f"spiffe://bench.example/c/{number}"),
            CertificateRecord(client, key, client, _FAR_MS),
            key_hash=key,
            reply=bytes(3000),
            audit=AuditEntry("anonymous", "client.enrol", client.hex()),
        )
        return client

    found: list[bytes] = []
    for start in range(0, count, _AT_ONCE):
        many = range(start, min(count, start + _AT_ONCE))
        found += await asyncio.gather(*map(one, many))
    return found


class _Past:
    """Rounds that the same clients took part in, one after the other."""

    def __init__(self, stage: Stage, store: SqliteStore, cohort: Sequence[bytes]) -> None:
        self._stage, self._store, self._cohort = stage, store, frozenset(cohort)
        self._blobs = LocalBlobStore(stage.config().server.state_directory / "blobs")
        self._spec = parameters_of(stage.task)

    async def begin(self) -> None:
        (task,) = await self._store.tasks()
        self._task = task
        lease = await self._store.acquire_lease(task.task_id, "bench", _FAR_MS)
        assert lease is not None
        self._lease = lease
        head = await self._store.head(task.task_id)
        assert head is not None
        self._head = head.digest
        self._theta, _ = await load_model(self._blobs, head.digest, self._spec)
        self._attempt = 1
        # The server that took the task has opened its first attempt.
        if (found := await self._store.latest_attempt(task.task_id, 0)) is not None:
            step = Transition(found.phase, "ABANDONED", found.sequence + 1)
            token = self._lease.token
            await self._store.advance_round(found.ref, step, state=found.state, lease_token=token)
            self._attempt = 2

    async def round(self, number: int) -> None:
        """One round from its opening to its end."""
        ref, self._attempt = RoundRef(self._task.task_id, number, self._attempt), 1
        opened = RoundState.opened(ref.task_id, round=number, attempt=ref.attempt, at=1)
        origin = ModelOrigin(self._stage.task.digest.hex(), number + 1, self._head)
        theta = self._theta + np.float32(number)
        digest = await store_model(self._blobs, theta, self._spec, origin)
        everybody = {"cohort": self._cohort, "members": self._cohort, "survivors": self._cohort}
        ended = replace(opened, phase=Phase.SCRUBBED, digest=digest, **everybody)
        token, state = self._lease.token, to_record(ended)
        await self._store.open_round(
            ref,
            phase="PENDING",
            state=to_record(opened),
            base_model=self._head,
            deadline_ms=None,
            lease_token=token,
        )
        parts = list(_parts(ref, self._cohort))
        phases = ("PENDING", "SELECTING", "COLLECTING", "AGGREGATING", "RELEASING")
        for sequence, (before, after) in enumerate(pairwise(phases), 1):
            await self._store.advance_round(
                ref,
                Transition(before, after, sequence),
                state=state,
                lease_token=token,
                assignments=parts if after == "COLLECTING" else (),
            )
            if after == "COLLECTING":
                await asyncio.gather(*map(self._upload, parts))
        size = await self._blobs.size(digest)
        await self._store.complete_round(
            ref,
            Transition("RELEASING", "COMPLETED", len(phases)),
            state=state,
            lease_token=token,
            model=ModelRecord(digest, ref.task_id, self._head, number + 1, size),
            expected_parent=self._head,
            metrics={"loss": MetricRecord(0.5, 5.0, "plain")},
        )
        await self._store.scrub_round(ref, lease_token=token)
        step = Transition("COMPLETED", "SCRUBBED", len(phases) + 1)
        await self._store.advance_round(ref, step, state=state, lease_token=token)
        self._head = digest

    async def end(self) -> None:
        """Lets a server go on."""
        await self._store.release_lease(self._lease)

    async def _upload(self, part: AssignmentRecord) -> None:
        upload = part.assignment_id
        await self._store.begin_upload(part.assignment_id, upload, size=100)
        await self._store.seal_upload(upload, hashlib.sha256(upload).digest())


def _parts(ref: RoundRef, cohort: frozenset[bytes]) -> Iterator[AssignmentRecord]:
    for client in sorted(cohort):
        yield AssignmentRecord(_ENTROPY.token(16), ref, client, bytes(32), b"", _FAR_MS)
