"""A ledger's file and what it amounts to, kept in step: a record is durable first, then known."""

from __future__ import annotations

import hashlib
from pathlib import Path
from threading import RLock

from fedcore.errors import ArgumentError, LedgerError, ParticipationError, RollbackError
from fedcore.privacy.ledger_file import LedgerFile, payload_digest, payload_path, stored_payloads
from fedcore.privacy.ledger_history import History
from fedcore.privacy.ledger_records import (
    Chain,
    Head,
    Migrate,
    Open,
    Part,
    Record,
    Release,
    Reserve,
    encode,
)
from fedcore.privacy.participation import Participations, ParticipationTable, Seal
from fedcore.privacy.plan import PrivacyPlan
from fedcore.privacy.sampling import Uncontrolled

__all__ = [
    "Journal",
    "empty",
    "participations",
    "payload_stands",
    "read_payload",
    "require_current",
    "require_head",
    "rolled_back",
]


class Journal:
    """One writer's view of a ledger. Hold `lock` around what belongs together."""

    def __init__(self, folder: Path, file: LedgerFile, chain: Chain, seal: Seal | None) -> None:
        self.folder, self.file, self._keeps_names = folder, file, seal is not None
        self.lock = RLock()
        self._replay = _Replay(chain, seal)
        self._in_step = True

    @property
    def history(self) -> History:
        """What the records amount to."""
        return self._replay.history

    @property
    def table(self) -> ParticipationTable:
        """Who took part under the present plan."""
        return self._replay.table

    @property
    def seal(self) -> Seal:
        """What names are hashed and sealed with."""
        return self._replay.seal

    @property
    def keeps_names(self) -> bool:
        """Whether there is a key."""
        return self._keeps_names

    def require_usable(self) -> None:
        """Raises: LedgerError after a failure, when closed, and in a forked child."""
        if not self._in_step:
            self.file.fail()
        self.file.require_usable()

    def write(self, record: Record) -> Head:
        """Add a record that may follow. Interrupted, the ledger has to be opened again."""
        self.history.check(record, "the next record")
        before = self.file.head
        line, head = encode(record, before)
        self._in_step = False
        self.file.append(line, head)
        self._replay.take(record, head.seq, place=before.digest if before else b"")
        self._in_step = True
        return head

    def close(self) -> None:
        """Let go of the file, once no other thread is in the midst of a step."""
        if self.file.mine:
            with self.lock:
                self.file.close()
        else:  # whoever held the lock when this child was forked is not here to release it
            self.file.close()

    def part(self, reservation: int, names: tuple[bytes, ...]) -> None:
        """Record who takes part."""
        place = self.file.head.digest if self.file.head else b""
        self.write(Part(reservation, self.seal.close(names, place=place)))


class _Replay:
    """What records amount to and who took part, taken in one by one. Raises: LedgerError."""

    def __init__(self, chain: Chain, seal: Seal | None) -> None:
        self.history = History()
        self.table = ParticipationTable()
        self._seal = seal
        for seq, record in enumerate(chain.records):
            if isinstance(record, Open) and record.key_check != (seal.check if seal else ""):
                raise LedgerError(
                    "the participation key is not the one that the ledger was created with",
                    why="who took part could neither be read nor be bounded",
                    fix="restore the key that it was created with, which simulated runs and "
                    "servers keep in participation.key; pass none if there was none",
                )
            self.take(record, seq, place=chain.digests[seq - 1] if seq else b"")

    @property
    def seal(self) -> Seal:
        """What names are hashed and sealed with. Raises: ParticipationError where there is none."""
        if self._seal is None:
            raise ParticipationError(
                "a ledger without a participation key is asked who takes part",
                why="it keeps no names",
                fix="create the ledger with participation_key=os.urandom(32)",
            )
        return self._seal

    def take(self, record: Record, seq: int, *, place: bytes) -> None:
        """Takes in record `seq`; `place`: the digest of the chain before it."""
        self.history.add(record, seq)
        match record:
            case Open(plan=plan) | Migrate(plan=plan):
                self.table = _table(plan)
            case Reserve() if self.history.plan.rounds_a_reservation > 1:
                # Each matrix of rounds is charged for participations of its own.
                self.table = _table(self.history.plan)
            case Reserve():
                self.table.begin()
            case Part(sealed=sealed):
                self.table.admit(self.seal.open(sealed, place=place))
            case Release():
                self.table.release()
            case _:
                pass


def participations(chain: Chain, seal: Seal) -> Participations:
    """How often units took part under the last plan of a chain. Raises: LedgerError."""
    return _Replay(chain, seal).table.summary()


def read_payload(folder: Path, history: History, seq: int) -> bytes | None:
    """What record `seq` released; None where the file is gone or is not what was released."""
    if not payload_stands(folder, history, seq):
        return None
    payload = payload_path(folder, seq).read_bytes()
    return payload if hashlib.sha256(payload).hexdigest() == history.payloads[seq] else None


def payload_stands(folder: Path, history: History, seq: int) -> bool:
    """Whether what record `seq` released is there, whole; read in pieces, whatever its size."""
    try:
        return payload_digest(folder, seq) == history.payloads[seq]
    except OSError as error:
        raise LedgerError(
            "a released payload cannot be read",
            why=error.strerror or type(error).__name__,
            fix="repair the disk; the release stays charged either way",
        ) from error


def require_head(checkpoint: object) -> None:
    """Raises: ArgumentError for a checkpoint that is neither a head nor None."""
    if not isinstance(checkpoint, Head | None):
        raise ArgumentError(
            f"the head of a ledger is a {type(checkpoint).__name__}",
            why="a record's number and digest are compared with the ledger's",
            fix="pass Head.from_json() of what Head.to_json() returned, as a checkpoint carries it",
        )


def require_current(folder: Path, chain: Chain, checkpoint: Head | None) -> None:
    """Raises: RollbackError if the ledger lacks the checkpoint's record, or that of a payload."""
    held = len(chain.digests)
    if checkpoint is not None:
        if checkpoint.seq >= held:
            raise rolled_back(f"it has {held} records, and had {checkpoint.seq + 1}")
        if chain.digests[checkpoint.seq] != checkpoint.digest:
            raise rolled_back(f"its record {checkpoint.seq} is another one")
    # A payload is stored just before the record that releases it.
    if any(seq > held for seq in stored_payloads(folder)):
        raise rolled_back("a payload lies in its folder that a later record released")


def empty(folder: Path) -> LedgerError:
    """What to raise for a ledger without a record."""
    return LedgerError(
        f"the ledger in {folder} is empty",
        why="its creation was interrupted, or it was emptied",
        fix="create it again if nothing was ever released from it",
    )


def rolled_back(why: str) -> RollbackError:
    """What to raise for a ledger that is older than what it has released."""
    return RollbackError(
        "the ledger is older than what was released from it",
        why=f"{why}: what was spent since would be spent again",
        fix="restore the newest ledger; where it is lost, take the whole budget as spent",
    )


def _table(plan: PrivacyPlan) -> ParticipationTable:
    if isinstance(plan.sampling, Uncontrolled):
        return ParticipationTable(
            separation=plan.sampling.minimum_separation,
            maximum=plan.sampling.maximum_participations,
            population=plan.population,
        )
    return ParticipationTable(population=plan.population)
