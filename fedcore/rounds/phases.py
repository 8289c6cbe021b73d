"""The phases of one attempt at a round, and which of them wait for clients."""

from __future__ import annotations

from enum import Enum

__all__ = ["CLIENT_PHASES", "ENDS", "Phase"]


class Phase(Enum):
    """Where an attempt stands; the value is what databases, logs and the wire call it.

    KEYS, SHARES, CONFIRMING and UNMASKING exist under secure aggregation alone: there they and
    COLLECTING are the stages PREKEYS, SHARES, CONFIRMATIONS, ANSWERS and UPLOADS of a session.

    RELEASING: the bytes of the result are durable, and will be published.
    ABANDONED: another attempt follows. FAILED: none does, the last allowed one came to nothing.
    """

    PENDING = "PENDING"
    SELECTING = "SELECTING"
    KEYS = "KEYS"
    SHARES = "SHARES"
    COLLECTING = "COLLECTING"
    CONFIRMING = "CONFIRMING"
    UNMASKING = "UNMASKING"
    AGGREGATING = "AGGREGATING"
    RELEASING = "RELEASING"
    COMPLETED = "COMPLETED"
    SCRUBBED = "SCRUBBED"
    ABANDONED = "ABANDONED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


CLIENT_PHASES = (
    Phase.KEYS,
    Phase.SHARES,
    Phase.COLLECTING,
    Phase.CONFIRMING,
    Phase.UNMASKING,
)
ENDS = frozenset({Phase.SCRUBBED, Phase.ABANDONED, Phase.FAILED, Phase.CANCELLED})
