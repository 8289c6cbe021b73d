"""What a client must not forget, whenever it is killed: its promises, its work, what it has given.

Everything here is durable when a call returns. The records of secure aggregation and the vector of
the open assignment are sealed under the key of the device.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedclient.assignment import OpenAssignment
from fedclient.contributions import Contributions
from fedclient.database import Database, Value
from fedclient.privacy_budget import Guarantee, TaskCost
from fedclient.progress import Energy, Outcome
from fedclient.sealing import Seal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["DAY_MS", "Charge", "Spent", "State"]

DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Charge:
    """What one attempt at a round cost this device. `given`: a vector of it has left, or may have.

    `outcome`: empty while it is open. `warning`: what its owner should know and nobody else is
    told, as that the program failed. `reason`: why it came to nothing, as the server was told.
    """

    task: str
    task_digest: bytes
    round: int
    attempt: int
    at_ms: int
    given: bool
    outcome: str
    bytes_up: int
    bytes_down: int
    seconds: float
    energy: Energy
    warning: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Spent:
    """What was spent since a moment."""

    bytes: int = 0
    seconds: float = 0.0


class State:
    """The durable state in a folder, which it locks. `key`: 32 bytes, of the device.

    `read_only`: without a lock, also while another process works. Raises: ClientStateError, here
    and everywhere, if the disk does not keep what it is given.
    """

    def __init__(self, folder: Path, *, key: bytes, read_only: bool = False) -> None:
        self._database = Database(folder / "state.db", read_only=read_only)
        self._seal = Seal(key)
        self._contributions = Contributions(folder / "contributions", self._database, self._seal)

    def close(self) -> None:
        self._database.close()

    # What secure aggregation promised.

    def persist(self, key: str, value: bytes) -> None:
        """Keeps a record, in the place of what stood there."""
        self._database.write(
            "INSERT INTO record VALUES (?, ?)"
            " ON CONFLICT (key) DO UPDATE SET sealed=excluded.sealed",
            key,
            self._seal.sealed(key, value),
        )

    def erase(self, key: str) -> None:
        """Destroys a record, if there is one."""
        self._database.write("DELETE FROM record WHERE key=?", key)

    def records(self) -> Mapping[str, bytes]:
        """Every record, by its key. Raises: ClientStateError if one was changed."""
        found = self._database.rows("SELECT key, sealed FROM record")
        return {str(key): self._seal.opened(str(key), _bytes(sealed)) for key, sealed in found}

    # What it asks the server for.

    def request_id(self) -> bytes:
        """The name of the present check-in: the same until it is answered."""
        kept = self._setting("request_id")
        if not kept:
            kept = os.urandom(16)
            self._set("request_id", kept)
        return kept

    @property
    def retry_at_ms(self) -> int:
        """Unix milliseconds before which the server wants no check-in."""
        return int.from_bytes(self._setting("retry_at"), "big")

    def take_up(self, terms: bytes) -> None:
        """Notes what the owner allows and has installed; what was put off under others is due."""
        if self._setting("terms") != terms:
            with self._database.transaction():
                self._set("terms", terms)
                self._set("retry_at", b"")

    def answered(
        self, *, retry_at_ms: int = 0, assignment: OpenAssignment | None = None, at_ms: int = 0
    ) -> None:
        """Ends a check-in: with an assignment, or a moment before which not to ask again."""
        with self._database.transaction():
            self._set("request_id", b"")
            self._set("retry_at", retry_at_ms.to_bytes(8, "big"))
            if assignment is not None:
                self._save(assignment)
                self._database.write(
                    "INSERT OR IGNORE INTO charge (task_digest, round, attempt, task, at_ms)"
                    " VALUES (?, ?, ?, ?, ?)",
                    *_place(assignment),
                    assignment.task_id,
                    at_ms,
                )

    # What it works on.

    @property
    def assignment(self) -> OpenAssignment | None:
        """The open assignment."""
        rows = self._database.rows("SELECT value FROM assignment")
        return OpenAssignment.decode(_bytes(rows[0][0])) if rows else None

    def save(self, assignment: OpenAssignment) -> None:
        """Keeps how far the open assignment came."""
        self._save(assignment)

    def finish(self, assignment: OpenAssignment, outcome: Outcome, *, reason: str = "") -> None:
        """Closes the assignment; its vector is destroyed, what it cost stays in the ledger.

        So does how an attempt ended before it was assigned again. `reason`: what the server was
        told, which is no text that may hold data.
        """
        with self._database.transaction():
            self._database.write("DELETE FROM assignment")
            self._database.write(
                "UPDATE charge SET outcome=?, reason=?"
                " WHERE task_digest=? AND round=? AND attempt=? AND outcome=''",
                outcome.value,
                reason,
                *_place(assignment),
            )
        self._contributions.erase_all()
        self._database.checkpoint()

    def keep_contribution(
        self, assignment: OpenAssignment, blocks: Sequence[NDArray[np.int64]]
    ) -> None:
        """Keeps the vector that is about to be given: the very integers."""
        self._contributions.keep(assignment.assignment_id, blocks)

    def contribution(self, assignment: OpenAssignment) -> list[NDArray[np.int64]] | None:
        """The vector that was kept for the assignment, or None."""
        return self._contributions.load(assignment.assignment_id)

    # What it has given and spent.

    def give(self, assignment: OpenAssignment, *, guarantee: Guarantee | None = None) -> None:
        """Notes that a vector of this attempt leaves: before its first byte does.

        `guarantee`: of the whole task, None for one without differential privacy.
        """
        with self._database.transaction():
            if guarantee is not None:
                self._database.write(
                    "INSERT OR IGNORE INTO guarantee VALUES (?, ?, ?)",
                    assignment.task_digest,
                    guarantee.epsilon,
                    guarantee.delta,
                )
            self._database.write(
                "UPDATE charge SET given=1 WHERE task_digest=? AND round=? AND attempt=?",
                *_place(assignment),
            )

    def warn(self, assignment: OpenAssignment, warning: str) -> None:
        """Keeps for the owner what nobody else is told."""
        self._database.write(
            "UPDATE charge SET warning=? WHERE task_digest=? AND round=? AND attempt=?",
            warning,
            *_place(assignment),
        )

    def spend(
        self,
        assignment: OpenAssignment,
        *,
        bytes_up: int = 0,
        bytes_down: int = 0,
        seconds: float = 0.0,
        energy: Energy | None = None,
    ) -> None:
        """Adds to what the attempt has cost."""
        cost = energy or Energy()
        self._database.write(
            "UPDATE charge SET bytes_up=bytes_up+?, bytes_down=bytes_down+?, seconds=seconds+?,"
            " joules=joules+?, measured=max(measured, ?)"
            " WHERE task_digest=? AND round=? AND attempt=?",
            bytes_up,
            bytes_down,
            seconds,
            cost.joules,
            int(cost.measured),
            *_place(assignment),
        )

    def spent(self, *, since_ms: int) -> Spent:
        """What all attempts that began since then have cost."""
        [(moved, seconds)] = self._database.rows(
            "SELECT coalesce(sum(bytes_up + bytes_down), 0), coalesce(sum(seconds), 0.0)"
            " FROM charge WHERE at_ms >= ?",
            since_ms,
        )
        return Spent(_int(moved), _float(seconds))

    def given(self, task_digest: bytes) -> frozenset[tuple[int, int]]:
        """The (round, attempt) of a task for which a vector has left, or may have."""
        rows = self._database.rows(
            "SELECT round, attempt FROM charge WHERE task_digest=? AND given=1", task_digest
        )
        return frozenset((_int(round), _int(attempt)) for round, attempt in rows)

    def privacy_costs(self) -> list[TaskCost]:
        """What each task for which a vector has left may have told of this device, since ever."""
        rows = self._database.rows(
            "SELECT task_digest, max(task), max(updates), epsilon, delta FROM"
            " (SELECT task_digest, max(task) AS task, min(at_ms) AS at_ms, count(*) AS updates"
            " FROM charge WHERE given=1 GROUP BY task_digest, round)"
            " LEFT JOIN guarantee USING (task_digest) GROUP BY task_digest ORDER BY min(at_ms)"
        )
        return [
            TaskCost(
                task=str(task),
                task_digest=_bytes(digest),
                times=_int(times),
                guarantee=None if epsilon is None else Guarantee(_float(epsilon), _float(delta)),
            )
            for digest, task, times, epsilon, delta in rows
        ]

    def charge(self, assignment: OpenAssignment) -> Charge:
        """What the attempt has cost so far."""
        [row] = self._database.rows(
            "SELECT * FROM charge WHERE task_digest=? AND round=? AND attempt=?",
            *_place(assignment),
        )
        return _charge(row)

    def charges(self, *, limit: int = 100) -> list[Charge]:
        """The newest charges, newest first."""
        rows = self._database.rows("SELECT * FROM charge ORDER BY at_ms DESC LIMIT ?", limit)
        return [_charge(row) for row in rows]

    def _save(self, assignment: OpenAssignment) -> None:
        self._database.write(
            "INSERT INTO assignment VALUES (1, ?)"
            " ON CONFLICT (one) DO UPDATE SET value=excluded.value",
            assignment.encode(),
        )

    def _setting(self, name: str) -> bytes:
        rows = self._database.rows("SELECT value FROM setting WHERE name=?", name)
        return _bytes(rows[0][0]) if rows else b""

    def _set(self, name: str, value: bytes) -> None:
        self._database.write(
            "INSERT INTO setting VALUES (?, ?)"
            " ON CONFLICT (name) DO UPDATE SET value=excluded.value",
            name,
            value,
        )


def _charge(row: tuple[Value, ...]) -> Charge:
    digest, round, attempt, task, at, given, outcome, *cost, warning, reason = row
    up, down, seconds, joules, measured = cost
    return Charge(
        str(task),
        _bytes(digest),
        _int(round),
        _int(attempt),
        _int(at),
        bool(given),
        str(outcome),
        _int(up),
        _int(down),
        _float(seconds),
        Energy(_float(joules), bool(measured)),
        str(warning),
        str(reason),
    )


def _place(assignment: OpenAssignment) -> tuple[bytes, int, int]:
    return assignment.task_digest, assignment.round, assignment.attempt


def _bytes(value: object) -> bytes:
    assert isinstance(value, bytes)
    return value


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value


def _float(value: object) -> float:
    assert isinstance(value, float | int)
    return float(value)
