"""What every round of a server shares: disk, database, clock, and whose certificates count."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from fedcore.entropy import Entropy, SystemEntropy
from fedcore.federated.algorithms import Algorithm
from fedcore.federated.payments import Account
from fedcore.federated.task import Task
from fedcore.rounds import RoundPolicy
from fedcore.secagg import SessionConfig, TrustStore
from fedserver.blobs import BlobStore
from fedserver.metrics import Metrics
from fedserver.spool import Spool
from fedserver.staging import Staging
from fedserver.store.protocol import Store

__all__ = ["HostedTask", "Resources", "now_ms"]


def now_ms() -> int:
    """Unix milliseconds of this machine's clock."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Resources:
    """What rounds are carried out with.

    `trust`: whose identity certificates count now, for a session that begins.
    `staging`: first models that wait for their tasks. `threads`: how many take masks off a sum.
    `lease_ms`: how long the right to drive a task holds unless it is renewed, which it is at a
    third of that; `most_attempts`: how often it may be taken without the round going on, before
    that is taken for a driver that crashes over it.
    `check_ins_per_second`: what a large population is spread to.
    """

    store: Store
    blobs: BlobStore
    spool: Spool
    metrics: Metrics
    trust: Callable[[], Awaitable[TrustStore]]
    staging: Staging
    clock: Callable[[], int] = now_ms
    threads: int = 2
    lease_ms: int = 60_000
    most_attempts: int = 10
    check_ins_per_second: float = 500.0
    entropy: Entropy = field(default_factory=SystemEntropy)


@dataclass(frozen=True, slots=True)
class HostedTask:
    """A task that is being carried out, with what follows from it once and for all.

    `account`: its privacy ledger, None without privacy. `config`: the terms of its sessions of
    secure aggregation, None without.
    """

    task_id: str
    tenant: str
    task: Task
    policy: RoundPolicy
    algorithm: Algorithm
    account: Account | None
    config: SessionConfig | None

    @property
    def ledger_head(self) -> bytes:
        """Of its privacy ledger as that is now, JSON; empty without privacy."""
        return (
            b"" if self.account is None else json.dumps(self.account.ledger.head.to_json()).encode()
        )

    async def spent(self) -> float | None:
        """The epsilon that its privacy ledger has spent in all; None without privacy."""
        return (
            None if self.account is None else await asyncio.to_thread(self.account.ledger.epsilon)
        )
