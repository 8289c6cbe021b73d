"""What rounds lead to: models, figures, and the acts that follow."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "HeadRecord",
    "MetricRecord",
    "ModelRecord",
    "OutboxEntry",
    "OutboxMessage",
]


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A model in the line of a task; `parent` is empty for the first, whose `round` is 0."""

    digest: bytes
    task_id: str
    parent: bytes
    round: int
    size: int
    # filled in
    created_ms: int = 0


@dataclass(frozen=True, slots=True)
class HeadRecord:
    """A task's newest model, and what belongs to it.

    `state_digest`: of the algorithm's state, a blob; `ledger_head`: of the privacy ledger. Empty:
    there is none.
    """

    task_id: str
    digest: bytes
    round: int
    state_digest: bytes
    ledger_head: bytes


@dataclass(frozen=True, slots=True)
class MetricRecord:
    """A figure of a round; `released_via`: "dp" or "plain"."""

    value: float
    count: float
    released_via: str


@dataclass(frozen=True, slots=True)
class OutboxMessage:
    """A side effect that must follow a transaction, at least once."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """A message that is not done yet."""

    entry_id: int
    topic: str
    payload: bytes
