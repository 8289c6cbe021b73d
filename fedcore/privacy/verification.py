"""What a ledger proves to a reader who has neither its key nor its lock, and trusts no figure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedcore.errors import LedgerError
from fedcore.privacy.claims import Claims
from fedcore.privacy.events import Event
from fedcore.privacy.ledger_file import read_file
from fedcore.privacy.ledger_history import History
from fedcore.privacy.ledger_journal import (
    empty,
    participations,
    payload_stands,
    require_current,
    require_head,
    rolled_back,
)
from fedcore.privacy.ledger_records import Head
from fedcore.privacy.participation import Participations, Seal
from fedcore.privacy.plan import PrivacyPlan

__all__ = ["Verification", "read_history", "read_participations", "verify"]


@dataclass(frozen=True)
class Verification:
    """What was found; `epsilon` at `delta` was computed from the events and plans, not read.

    `plans`: how many there were one after the other; `plan`: the last. `reservations`, `voided`,
    `released`: counts of records. `damaged`: rounds of the last plan whose payload is gone or is
    not what was released. `torn`: whether a line that was never finished follows.
    """

    head: Head
    plan: PrivacyPlan
    plans: int
    reservations: int
    voided: int
    released: int
    damaged: tuple[int, ...]
    torn: bool
    closed: bool
    spent: Mapping[Event, int]
    epsilon: float
    delta: float

    @property
    def unreleased(self) -> int:
        """Reservations that were spent beyond those that were released, as after a crash."""
        return max(0, self.reservations - self.voided - self.released)

    @property
    def within_budget(self) -> bool:
        """Whether what was spent is what the last plan allows."""
        return self.epsilon <= self.plan.epsilon


def verify(directory: str | os.PathLike[str], *, checkpoint: Head | None = None) -> Verification:
    """Reads a ledger from its first byte to its last: chain, order of records, payloads, cost.

    Of the chain it proves that nothing was changed in the middle; that nothing is missing at the
    end only a `checkpoint` proves.
    Raises: LedgerError, RollbackError for a ledger that does not hold together; a damaged payload
    is reported instead, for it changes nothing of what was spent.
    """
    folder = Path(directory)
    history, head, torn = read_history(folder, checkpoint=checkpoint)
    segment = history.segment
    damaged = [
        round_
        for round_, seq in sorted(segment.rounds.items())
        if not payload_stands(folder, history, seq)
    ]
    return Verification(
        head=head,
        plan=history.plan,
        plans=len(history.segments),
        reservations=history.reservations,
        voided=history.voided,
        released=len(history.payloads),
        damaged=tuple(damaged),
        torn=torn,
        closed=history.closed,
        spent=history.spend(),
        epsilon=history.epsilon(),
        delta=Claims(history).delta,
    )


def read_history(folder: Path, *, checkpoint: Head | None = None) -> tuple[History, Head, bool]:
    """The records of a folder's ledger, its head, and whether its last line is torn.

    Raises: LedgerError, RollbackError; ArgumentError for a checkpoint that is no head.
    """
    require_head(checkpoint)
    try:
        chain = read_file(folder)
    except LedgerError as error:
        if checkpoint is not None and isinstance(error.__cause__, FileNotFoundError):
            raise rolled_back("it is gone") from error
        raise
    require_current(folder, chain, checkpoint)
    history, head = History(chain), chain.head
    if head is None:
        raise empty(folder)
    return history, head, chain.torn


def read_participations(folder: Path, seal: Seal) -> Participations:
    """How often units took part under the last plan of a folder's ledger.

    Raises: LedgerError, also for another key than the one that the ledger was created with.
    """
    return participations(read_file(folder), seal)
