"""What a round's release is paid with: a reservation in the task's ledger, and its one mechanism.

A reservation is durable before a noisy sum of its round can exist: before clients are drawn, where
the plan draws them; under secure aggregation before anybody learns with whom to mask; and where
nothing is masked once it is known who takes part, for no sum is noisy before its release. A server
that dies takes it up again for the same session, so that nothing is paid for twice; a new attempt
has new noise and pays anew.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedcore.entropy import Entropy
from fedcore.errors import BudgetError, LedgerError, PlanError, ReservationError, UpdateError
from fedcore.failpoints import failpoint
from fedcore.privacy import (
    CentralMechanism,
    CentralNoise,
    CompactMechanism,
    CompactShares,
    Head,
    IntSum,
    Ledger,
    NoiseShares,
    NoisySum,
    PrivacyPlan,
    PrivateMean,
    QuantileState,
    Reservation,
    SharedMechanism,
    Uncontrolled,
    Unit,
    certificate,
    released_mean,
)
from fedcore.privacy.plan import own_plan
from fedcore.privacy.verification import read_history
from fedcore.private_rounds import spent_by_round
from fedcore.secagg import Parameters

__all__ = ["Account", "Accounts", "Expense", "Payment", "draws_clients"]

Mechanism = CentralMechanism | SharedMechanism | CompactMechanism


@dataclass(frozen=True, slots=True)
class Expense:
    """What a ledger has spent in all, and the epsilon after the release of each round."""

    epsilon: float
    by_round: Mapping[int, float]


class Accounts:
    """The ledgers of all tasks, one folder each; opened once, for one process may hold each.

    `participation_key`: 32 bytes, kept elsewhere, under which the ledgers keep who took part.
    `entropy`: a seam for tests; noise and samples come from the operating system.
    """

    def __init__(
        self, folder: Path, *, participation_key: bytes, entropy: Entropy | None = None
    ) -> None:
        self._folder, self._key, self._entropy = folder, participation_key, entropy
        self._open: dict[str, Account] = {}
        # Threads of tasks open accounts while others let go of theirs.
        self._turn = threading.RLock()

    def create(self, task_id: str, plan: PrivacyPlan) -> Account:
        """The account of a new task; one that a crash left behind is taken up, whole or not.

        Raises: PlanError, LedgerError.
        """
        folder = self._at(task_id)
        with self._turn:
            try:
                ledger = Ledger.create(folder, plan, participation_key=self._seal(plan))
            except LedgerError:
                if not folder.exists():
                    raise
                return self.open(task_id, plan, checkpoint=None)
            return self._keep(task_id, ledger)

    def open(self, task_id: str, plan: PrivacyPlan, *, checkpoint: Head | None) -> Account:
        """The account of a task. `checkpoint`: the ledger's head beside the newest model.

        Raises: RollbackError, LedgerError, PlanError.
        """
        with self._turn:
            if (found := self._open.get(task_id)) is not None:
                return found
            ledger = Ledger.open(
                self._at(task_id),
                checkpoint=checkpoint,
                plan=plan,
                participation_key=self._seal(plan),
            )
            return self._keep(task_id, ledger)

    def spent(self, task_id: str, plan: PrivacyPlan, *, checkpoint: Head | None) -> Expense:
        """What a task has spent, whichever process holds its ledger.

        Raises: RollbackError, LedgerError, PlanError.
        """
        folder = self._at(task_id)
        history, _, _ = read_history(folder, checkpoint=checkpoint)
        if own_plan(plan).digest != history.plan.digest:
            raise PlanError(
                "the ledger follows another plan",
                why="what was spent under that one says nothing of this",
                fix="restore the ledger of this task from its newest backup",
            )
        return Expense(history.epsilon(), spent_by_round(folder))

    def certificate(self, task_id: str, *, checkpoint: Head | None) -> bytes:
        """What may be said of a task's guarantee, as JSON, whichever process holds its ledger.

        Raises: RollbackError, LedgerError.
        """
        found = certificate(self._at(task_id), checkpoint=checkpoint)
        return json.dumps(found, sort_keys=True).encode()

    def let_go(self, task_id: str) -> None:
        """Lets go of a task's ledger, if it is open, for another process to hold it."""
        with self._turn:
            if (account := self._open.pop(task_id, None)) is not None:
                account.ledger.close()

    def close(self) -> None:
        """Lets go of all ledgers."""
        with self._turn:
            for account in self._open.values():
                account.ledger.close()
            self._open.clear()

    def _at(self, task_id: str) -> Path:
        return self._folder / task_id

    def _keep(self, task_id: str, ledger: Ledger) -> Account:
        key = self._seal(ledger.plan)
        self._open[task_id] = Account(ledger, participation_key=key, entropy=self._entropy)
        return self._open[task_id]

    def _seal(self, plan: PrivacyPlan) -> bytes | None:
        return self._key if isinstance(plan.sampling, Uncontrolled) else None


class Account:
    """A task's ledger, as its rounds use it. It waits for the disk: call it in a thread."""

    def __init__(
        self, ledger: Ledger, *, participation_key: bytes | None, entropy: Entropy | None = None
    ) -> None:
        self.ledger, self.plan = ledger, ledger.plan
        self._key, self._entropy = participation_key, entropy

    def reopen(self) -> None:
        """Goes on after an error of the disk, after which a ledger refuses to. Raises: LedgerError.

        What was reserved before is taken up as after a crash.
        """
        self.ledger.close()
        self.ledger = Ledger.open(
            self.ledger.directory,
            checkpoint=self.ledger.head,
            plan=self.plan,
            participation_key=self._key,
        )

    @property
    def draws_clients(self) -> bool:
        """Whether the plan, and not who comes, decides which clients are asked."""
        return draws_clients(self.plan)

    def may_take_part(self, client_id: bytes) -> bool:
        """Whether a client's participation stays within the plan's bounds."""
        if not isinstance(self.plan.sampling, Uncontrolled):
            return True
        return bool(self.ledger.may_participate([client_id], anew=True)[0])

    def require_funds(self) -> None:
        """Raises: BudgetError unless a round more is paid for: then nobody need be asked."""
        if not self.ledger.remaining_rounds():
            raise BudgetError(
                "the privacy budget pays for no further round",
                why=f"{self.ledger.epsilon():.4g} of {self.plan.epsilon:.4g} are spent",
                fix="what was released before is the result",
            )

    def intent(self) -> bytes:
        """What has to be durable before `pay`: whatever is reserved later is of this intent."""
        return json.dumps({"after": self.ledger.head.seq}).encode()

    def pay(self, round: int, intent: bytes, *, drawn: bool = False) -> Payment:
        """Pays for a round, or finds that this `intent` has paid for it before a crash.

        `drawn`: clients were drawn under it, and may know.
        Raises: BudgetError, after which no further round is begun.
        """
        current = self.ledger.history.current
        if (
            current is not None
            and current.seq > json.loads(intent)["after"]
            and current.round == round
            and not current.released
        ):
            resumed = self.ledger.resume(current.seq, drawn=drawn)
            return Payment(self.plan, resumed, resumed=True, entropy=self._entropy)
        failpoint("release.before_reserve")
        reservation = self.ledger.reserve(round)
        failpoint("release.after_reserve")
        return Payment(self.plan, reservation, entropy=self._entropy)

    def released(self, round: int, clipping: QuantileState | None) -> PrivateMean | None:
        """What was released for a round before a crash, or None."""
        return released_mean(self.ledger, round, clipping=clipping)


class Payment:
    """One reservation and the mechanism that draws its noise."""

    def __init__(
        self,
        plan: PrivacyPlan,
        reservation: Reservation,
        *,
        resumed: bool = False,
        entropy: Entropy | None = None,
    ) -> None:
        self.plan, self.reservation, self._entropy = plan, reservation, entropy
        self._mechanism, self._resumed = _mechanism(plan, entropy), resumed

    def draw(self, population: Sequence[bytes]) -> frozenset[bytes]:
        """Which clients are asked, by the plan's sampling; once.

        `population`: all clients, each at the place that it has for good; a place that nobody has
        draws nobody.
        """
        places = self.reservation.select(entropy=self._entropy).tolist()
        return frozenset(population[place] for place in places if place < len(population))

    def begin(self, clients: Iterable[bytes], terms: Parameters | None) -> None:
        """Before the first update may be sent: who takes part, on which terms.

        `terms`: of the session, None without one. Raises: PlanError if a sum with less noise than
        planned could be opened; ParticipationError.
        """
        if isinstance(self.plan.sampling, Uncontrolled):
            self.reservation.participate(sorted(clients), again=self._resumed)
        self.take_up(terms)

    def take_up(self, terms: Parameters | None) -> None:
        """What `begin` does for a session that is open already: nobody is recorded again."""
        if isinstance(self._mechanism, CentralMechanism):
            return
        if terms is None:
            raise PlanError(
                "clients are to add their noise without secure aggregation",
                why="a share of the noise hides nobody's update by itself",
                fix="plan central noise, or let the task aggregate securely",
            )
        self._mechanism.begin(
            self.reservation, minimum_survivors=terms.minimum_survivors, corrupt=terms.corrupt
        )

    def release(
        self,
        totals: Sequence[NDArray[np.int64]],
        *,
        reports: int,
        clipping: QuantileState | None,
    ) -> PrivateMean:
        """The mean, once it is charged and durable."""
        if len(totals) != 1:
            raise UpdateError(
                f"a private sum comes in {len(totals)} blocks",
                why="all that leaves a device under privacy is in one vector under one noise",
                fix="encode updates by the layout of the task",
            )
        failpoint("release.before_publish")
        found = self._release(totals[0], reports, clipping)
        failpoint("release.after_publish")
        return found

    def give_up(self, reason: str) -> None:
        """Takes the payment back where nothing can have been seen; else it stays spent."""
        try:
            self.reservation.void(reason)
        except ReservationError:
            return

    def _release(
        self, total: NDArray[np.int64], reports: int, clipping: QuantileState | None
    ) -> PrivateMean:
        match self._mechanism:
            case CentralMechanism() as mechanism:
                exact = IntSum(total, self.plan.contribution_norm)
                return mechanism.release(exact, self.reservation, clipping=clipping)
            case SharedMechanism() as mechanism:
                noisy = NoisySum(total, shares=reports)
                return mechanism.release(noisy, self.reservation, clipping=clipping)
            case CompactMechanism() as mechanism:
                return mechanism.release(NoisySum(total, shares=reports), self.reservation)


def draws_clients(plan: PrivacyPlan) -> bool:
    """Whether a plan, and not who comes, decides which clients are asked."""
    return plan.unit is not Unit.RECORD and not isinstance(plan.sampling, Uncontrolled)


def _mechanism(plan: PrivacyPlan, entropy: Entropy | None) -> Mechanism:
    match plan.noise:
        case CentralNoise():
            return CentralMechanism(plan, entropy=entropy)
        case NoiseShares():
            return SharedMechanism(plan, entropy=entropy)
        case CompactShares():
            return CompactMechanism(plan, entropy=entropy)
        case other:
            raise PlanError(
                f"a server cannot release under {type(other).__name__}",
                why="its state is in memory alone, and a server that restarts could not go on",
                fix='plan noise "central", "shares" or "compact"',
            )
