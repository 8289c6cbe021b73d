"""A new epoch: what a database must forget of the time after the backup that it was restored from.

Clients may have gone on since: what was half done when the backup was made can be finished by
nobody. So every open attempt ends, its secrets go, and no driver holds a lease (W11).
"""

from __future__ import annotations

from fedcore.rounds import Phase
from fedserver.store.records import (
    ENDED,
    NOT_NOTED,
    AssignmentState,
    RoundRef,
    Transition,
    UploadState,
)
from fedserver.store.sql.participation import end_assignments
from fedserver.store.sql.rounds import note_event
from fedserver.store.sql.rows import Row, ref_of
from fedserver.store.sql.sessions import forget_secrets
from fedserver.store.sql.transaction import Transaction, of_round

__all__ = ["begin_epoch"]


def begin_epoch(db: Transaction, reason: str) -> int:
    """Ends what was open, for this reason, and gives the new epoch."""
    for row in db.rows("SELECT * FROM round"):
        if row["phase"] not in ENDED:
            _abandon(db, row, reason)
    db.execute(
        "UPDATE task_lease SET owner = '', expires_ms = 0, attempts = 0,"
        " row_version = row_version + 1, updated_by = ?",
        db.name,
    )
    found = db.one("SELECT server_id, epoch FROM server_identity")
    assert found is not None, "opening the store makes the identity"
    epoch = int(found["epoch"]) + 1
    db.update("server_identity", {"server_id": found["server_id"]}, epoch=epoch)
    return epoch


def _abandon(db: Transaction, row: Row, reason: str) -> None:
    ref: RoundRef = ref_of(row)
    step = Transition(row["phase"], Phase.ABANDONED.value, row["sequence"] + 1, reason)
    db.update(
        "round",
        of_round(ref),
        phase=step.to_phase,
        sequence=step.sequence,
        deadline_ms=None,
        since_ms=db.now_ms,
        reason=step.reason,
        epsilon=row["epsilon"] or NOT_NOTED,  # a release has noted it; else the ledger knows
    )
    note_event(db, ref, step, actor="operator")
    end_assignments(db, ref, AssignmentState.CANCELLED, reason=step.reason)
    forget_secrets(db, ref)
    for state in (UploadState.OPEN, UploadState.SEALED):
        db.update("upload", of_round(ref) | {"state": state}, state=UploadState.ABORTED)
