"""What is spent is written down first: a durable ledger that a crash can only make dearer.

A round is reserved before anybody is selected and counts as spent from then on, whatever happens;
its result is durable before anybody sees it, and is then served again for nothing. A process that
dies in between has spent the round; the next one reserves it anew, or resumes the reservation if it
has the very sum that it was for.

A ledger cannot tell that it was replaced by an older copy of itself, or that a copy is spent beside
it: whoever restores a backup of the whole folder gets its budget back. So every checkpoint of the
training carries `Ledger.head`, is kept elsewhere, and is passed to `Ledger.open`, which refuses a
ledger that does not hold it. What is kept in the ledger's own folder proves nothing of the kind.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import NoReturn, SupportsIndex, final

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import BudgetError, LedgerError, PlanError, ReservationError
from fedcore.privacy.events import Event
from fedcore.privacy.ledger_file import LedgerFile
from fedcore.privacy.ledger_history import History
from fedcore.privacy.ledger_journal import (
    Journal,
    empty,
    read_payload,
    require_current,
    require_head,
    rolled_back,
)
from fedcore.privacy.ledger_records import VERSION, Chain, Close, Head, Migrate, Open, Reserve
from fedcore.privacy.participation import Participations, Seal
from fedcore.privacy.plan import PrivacyPlan, own_plan
from fedcore.privacy.rdp import compose, epsilon
from fedcore.privacy.reservation import Receipt, Reservation, not_copyable
from fedcore.privacy.sampling import Uncontrolled
from fedcore.privacy.verification import Verification, verify

__all__ = ["Head", "Ledger", "Receipt", "Reservation", "Verification", "verify"]

_AT_THE_END = "take what it released, with released(); other people's data has another ledger"
_EMPTY = Chain(records=(), digests=(), tail=0, end=0, unended=False, torn=False)


@final
class Ledger:
    """The budget of one population under one plan at a time; one process may hold it open.

    `create` or `open` it, best in a `with` statement. After an error of the disk it refuses to go
    on until it is opened again. Not for forked processes.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    @classmethod
    def create(
        cls,
        directory: str | os.PathLike[str],
        plan: PrivacyPlan,
        *,
        accountant: str = "rdp",
        order: int | None = None,
        participation_key: bytes | None = None,
    ) -> Ledger:
        """A new ledger in a folder that holds none, open. Folders that are missing are made.

        `accountant`: "rdp", the Rényi filter, or "pld", privacy loss distributions, which need the
        extra `dp`, spend less, and hold for schedules that are fixed beforehand. `order`: the Rényi
        order that counts from the start on, as one does after `migrate`, for a run that means to
        change its plan by what was released. `participation_key`: 32 bytes, for a plan that bounds
        participations.
        Raises: PlanError, AccountantError, LedgerError, InstallError.
        """
        folder = Path(directory).absolute()  # whatever becomes of the working directory
        seal, plan = None if participation_key is None else Seal(participation_key), own_plan(plan)
        _require_key(plan, seal is not None)
        planned = plan.spend(-(-plan.rounds // plan.rounds_a_reservation))
        record = Open(
            version=VERSION,
            software=_software(),
            accountant=accountant,
            order=order,
            later_order=order or epsilon(compose(planned, plan.adjacency), plan.failure)[1],
            key_check=seal.check if seal else "",
            plan=plan,
        )
        trial = History()
        if why := trial.refusal(record):
            raise PlanError(
                "a ledger cannot be created with these terms",
                why=why,
                fix='pass accountant="rdp" or "pld", and order=None or one of rdp.ORDERS',
            )
        trial.add(record, 0)
        trial.epsilon({plan.event: 1})  # an accountant that cannot state it says so now
        file = LedgerFile.create(folder)
        try:
            journal = Journal(folder, file, _EMPTY, seal)
            journal.write(record)
        except BaseException:
            file.close()
            raise
        return cls(journal)

    @classmethod
    def open(
        cls,
        directory: str | os.PathLike[str],
        *,
        checkpoint: Head | None,
        plan: PrivacyPlan | None = None,
        participation_key: bytes | None = None,
    ) -> Ledger:
        """The ledger in a folder. What was reserved and not released stays spent.

        `checkpoint`: the head that the newest checkpoint carries; None only where there is none
        yet, for nothing else tells an old copy. `plan`: what the ledger has to follow now.
        Raises: RollbackError if the ledger does not hold the checkpoint's record; LedgerBusyError;
        LedgerError; PlanError for another plan; ArgumentError for a checkpoint that is no head.
        """
        require_head(checkpoint)
        folder = Path(directory).absolute()  # whatever becomes of the working directory
        seal = None if participation_key is None else Seal(participation_key)
        try:
            file, chain = LedgerFile.open(folder)
        except LedgerError as error:
            if checkpoint is not None and isinstance(error.__cause__, FileNotFoundError):
                raise rolled_back("it is gone") from error
            raise
        try:
            require_current(folder, chain, checkpoint)
            if not chain.records:
                raise empty(folder)
            ledger = cls(Journal(folder, file, chain, seal))
            if plan is not None and own_plan(plan).digest != ledger.plan.digest:
                raise PlanError(
                    "the ledger follows another plan",
                    why="its budget was stated for that plan's noise, sampling and unit",
                    fix="open it without a plan, and migrate() it to the new one",
                )
        except BaseException:
            file.close()
            raise
        return ledger

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise not_copyable("a ledger")

    def close(self) -> None:
        """Let go of the ledger; it can be opened again. What is reserved and not released is spent.

        In a forked process this leaves the parent's ledger open.
        """
        self._journal.close()

    def finish(self) -> Head:
        """End the ledger for good: nothing is reserved from it any more.

        Raises: LedgerError, also where it was finished before.
        """
        with self._journal.lock:
            self._journal.require_usable()
            return self._journal.write(Close())

    @property
    def directory(self) -> Path:
        """The folder that holds the ledger and its payloads."""
        return self._journal.folder

    @property
    def head(self) -> Head:
        """The last record, for the next checkpoint."""
        head = self._journal.file.head
        assert head is not None
        return head

    @property
    def history(self) -> History:
        """What the records amount to, as they stand now."""
        with self._journal.lock:
            return self._journal.history.copy()

    @property
    def plan(self) -> PrivacyPlan:
        """The plan that holds now."""
        return own_plan(self._journal.history.plan)

    @property
    def spent(self) -> Mapping[Event, int]:
        """All that was spent, as events that compose."""
        with self._journal.lock:
            return self._journal.history.spend()

    @property
    def participations(self) -> Participations:
        """How many units took part under the present plan, how often, and at most."""
        with self._journal.lock:
            return self._journal.table.summary()

    def epsilon(self, delta: float | None = None) -> float:
        """What was spent, at `delta` (default: the plan's)."""
        with self._journal.lock:
            return self._journal.history.epsilon(delta=delta)

    def remaining_rounds(self) -> int:
        """How many rounds further reservations can pay for, if none of them is spent in vain.

        Where participations are bounded, at most as many as units may still come; how often one of
        them may, depends on how often it came.
        """
        with self._journal.lock:
            return self._journal.history.remaining_rounds(self._journal.table.summary())

    def reserve(self, round: int) -> Reservation:
        """Pay for a round, before anybody is selected for it; from here on it is spent.

        An earlier reservation can be used no longer. It costs the plan's event, for the plan's
        noise is drawn; to pay for another one, `migrate`.
        Raises: BudgetError if the budget does not pay for it; nothing is spent then. PlanError for
        another round than planned; ReservationError for a released round; LedgerError.
        """
        with self._journal.lock:
            self._journal.require_usable()
            history = self._journal.history
            plan = history.plan
            record = Reserve(round, plan.event)
            if type(round) is not int:
                raise PlanError(
                    f"round {round!r:.40} cannot be reserved",
                    why="rounds are counted",
                    fix="pass a plain int from 0 on",
                )
            if why := history.refusal(record):
                served = round in history.segment.rounds
                raise (ReservationError if served else PlanError)(
                    f"round {round} cannot be reserved",
                    why=why,
                    fix=_AT_THE_END
                    if history.closed
                    else f"call released({round})"
                    if served
                    else "follow the plan, or migrate() the ledger to another one",
                )
            after = history.epsilon_with(record.event)
            if not after <= plan.epsilon:
                raise BudgetError(
                    f"round {round} is not paid for",
                    why=f"with it epsilon is {after:.6g} at delta = {plan.failure:.3g}; "
                    f"the budget is {plan.epsilon:.6g}",
                    fix="stop here: what was released before is the result",
                )
            self._journal.write(record)
            assert history.current is not None
            return Reservation(self._journal, history.current, plan)

    def resume(self, seq: int, *, drawn: bool = True) -> Reservation:
        """The newest reservation, of a process that died before it released anything of it.

        Only for the very sum that it was begun for, which nobody has seen under other noise: the
        same cohort, and where clients add the noise the same session. That sum may then be released
        under it, once; nothing is charged again. `drawn`: its sample may have been looked at, so
        nobody can be drawn any more, for a second sample would be the choice between two.
        Raises: ReservationError for any other one, and for one that pays for several rounds, whose
        noise was in the memory of that process.
        """
        with self._journal.lock:
            self._journal.require_usable()
            entry = self._journal.history.current
            whole = entry is not None and not entry.released
            if entry is None or entry.seq != seq or not whole or self.plan.rounds_a_reservation > 1:
                raise ReservationError(
                    f"reservation {seq!r:.40} cannot be taken up again",
                    why="it is not the newest, was voided or released, or pays for several rounds",
                    fix="reserve the round again",
                )
            self._journal.file.discard_unreleased()
            return Reservation(self._journal, entry, self._journal.history.plan, resumed=drawn)

    def released(self, round: int) -> bytes | None:
        """The payload of a round that was released under the present plan, for nothing; else None.

        Raises: LedgerError if it is damaged or gone.
        """
        with self._journal.lock:
            self._journal.require_usable()
            seq = self._journal.history.segment.rounds.get(round)
            if seq is None:
                return None
            payload = read_payload(self.directory, self._journal.history, seq)
            if payload is None:
                raise LedgerError(
                    f"the payload of round {round} is gone, or is not what was released",
                    why="it was not drawn again, for that would be another release",
                    fix="restore it from a backup, or go on from a later round",
                )
            return payload

    def receipt(self, round: int) -> Receipt | None:
        """What a round's release was receipted with, and the head as it is now; else None."""
        with self._journal.lock:
            history = self._journal.history
            seq = history.segment.rounds.get(round)
            if seq is None:
                return None
            return Receipt(history.payers[seq], round, history.payloads[seq], self.head)

    def may_participate(self, units: Iterable[bytes], *, anew: bool = False) -> NDArray[np.bool_]:
        """Which of these may take part in the next release: (n,). For selecting among them.

        `anew`: for a round that is to be reserved again, whoever took part in what came to nothing.
        All that may, may come together: of new names no more than the plan counts units, the first.
        """
        with self._journal.lock:
            names = self._journal.seal.names(units)
            found = np.ones(len(names), bool)
            found[self._journal.table.refused(names, anew=anew)] = False
            return found

    def migrate(self, plan: PrivacyPlan) -> Head:
        """Go on under another plan, for the same unit; what was spent stays spent and composes.

        From here on the Rényi filter counts, at the order that was settled when the ledger was
        created: a plan that was changed after a look at releases is an adaptive choice. The new
        plan's budget covers all that was spent. The plan that holds already is no change.
        Raises: PlanError; BudgetError if more was spent than the new budget; LedgerError.
        """
        with self._journal.lock:
            self._journal.require_usable()
            plan = own_plan(plan)
            _require_key(plan, self._journal.keeps_names)
            history, record = self._journal.history, Migrate(plan)
            if why := history.refusal(record):
                raise PlanError(
                    "the ledger cannot go on under this plan",
                    why=why,
                    fix=_AT_THE_END
                    if history.closed
                    else "keep unit, adjacency and delta; another population has another ledger",
                )
            if plan.digest == history.plan.digest:
                return self.head
            spent = history.epsilon_under(plan)
            if not spent <= plan.epsilon:
                assert history.opened is not None
                raise BudgetError(
                    "more was spent than the new plan's budget",
                    why=f"epsilon is {spent:.6g} at delta = {plan.failure:.3g} by the Rényi order "
                    f"{history.opened.later_order}, which counts from a change of plan on; "
                    f"the new budget is {plan.epsilon:.6g}",
                    fix="take a larger budget, or stop: what was released before is the result",
                )
            return self._journal.write(record)


def _require_key(plan: PrivacyPlan, keeps_names: bool) -> None:
    if isinstance(plan.sampling, Uncontrolled) and not keeps_names:
        raise PlanError(
            "a plan that bounds participations is to be kept without a participation key",
            why="the ledger enforces the bounds, and keeps who took part under that key",
            fix="create the ledger with participation_key=os.urandom(32), kept outside of it",
        )


@cache  # every ledger names it, and to read it from the disk takes a millisecond
def _software() -> str:
    try:
        return f"fedcore {version('fedcore-fl')}"
    except PackageNotFoundError:
        return "fedcore, not installed"
