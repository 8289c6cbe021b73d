"""A round that is paid for: the one thing with which noise may be drawn and a result released."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn, SupportsIndex, final

import numpy as np
from numpy.typing import NDArray

from fedcore.entropy import Entropy
from fedcore.errors import PlanError, ReservationError
from fedcore.privacy.csprng import Stream
from fedcore.privacy.events import Event
from fedcore.privacy.forks import this_process
from fedcore.privacy.ledger_history import Entry
from fedcore.privacy.ledger_journal import Journal
from fedcore.privacy.ledger_records import Head, Part, Release, Void
from fedcore.privacy.plan import PrivacyPlan, own_plan
from fedcore.privacy.sampling import Uncontrolled

__all__ = ["Receipt", "Reservation", "not_copyable"]


@dataclass(frozen=True)
class Receipt:
    """What was released: the reservation, the round, the payload's SHA-256 and the ledger's head.

    The head belongs into the checkpoint that is written next.
    """

    seq: int
    round: int
    sha256: str
    head: Head


@final
class Reservation:
    """One entry of the ledger, from the call that reserved it until the next one is reserved.

    In this order: `select` or `participate`, `mark_drawn`, `release`; where the plan pays for
    several rounds at once, again for each. It is of this process, of this object and of the one
    mechanism that claims it.
    """

    def __init__(
        self, journal: Journal, entry: Entry, plan: PrivacyPlan, *, resumed: bool = False
    ) -> None:
        self._journal, self._entry, self._plan = journal, entry, plan
        self._owner = this_process()
        self._mechanism: object | None = None
        self._busy = False
        self._draws = 0  # since the last release
        # Of one that is resumed nobody knows what its first process did: it may have drawn both.
        self._drawn = self._selected = resumed
        self._admitted, self._over = entry.admitted, False

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise not_copyable("a reservation")

    def __repr__(self) -> str:
        return f"Reservation(seq={self.seq}, round={self.round}, drawn={self.drawn})"

    @property
    def seq(self) -> int:
        """Its number in the ledger."""
        return self._entry.seq

    @property
    def round(self) -> int:
        """The round that is released next."""
        return self._entry.next_round

    @property
    def event(self) -> Event:
        """What was charged."""
        return self._entry.event

    @property
    def plan(self) -> PrivacyPlan:
        """The plan that it was reserved under."""
        return own_plan(self._plan)

    @property
    def plan_digest(self) -> bytes:
        """The digest of that plan."""
        return self._plan.digest

    @property
    def drawn(self) -> bool:
        """Whether noise was ever drawn for it."""
        return self._drawn

    @property
    def sampled(self) -> bool:
        """Whether the cohort was drawn by the plan's sampling, or none is to be drawn."""
        return self._selected or isinstance(self._plan.sampling, Uncontrolled)

    def select(self, *, entropy: Entropy | None = None) -> NDArray[np.int64]:
        """Draws who joins, by the plan's sampling: units (k,) of 0 … population - 1, secret.

        Once: a second sample would be the choice between two. Raises: ReservationError; PlanError
        under Uncontrolled sampling, where whoever takes part is to be recorded instead.
        """
        with self._step("select"):
            sampling = self._plan.sampling
            if isinstance(sampling, Uncontrolled):
                raise PlanError(
                    "a cohort is to be drawn under a plan without sampling",
                    why="its cost counts who takes part",
                    fix="call participate() with whoever takes part",
                )
            if self._selected:
                raise self._refused("its cohort was drawn before", "reserve the round again")
            self._selected = True
            return sampling.draw(self._plan.population, stream=Stream(entropy))

    def participate(self, units: Iterable[bytes], *, again: bool = False) -> None:
        """Records who takes part in the next release, by name, before anybody is contacted.

        All of them or, if one may not, none. May be called again for those who join later. `again`:
        whom a process that died may have recorded under this reservation is not recorded twice.
        Raises: ParticipationError, which tells how many may not and never who; ReservationError.
        """
        with self._step("take part in"):
            if why := self._journal.history.refusal(Part(self.seq, "")):
                raise self._refused(why, "reserve the next round")
            names, table = self._journal.seal.names(units), self._journal.table
            if again:
                names = tuple(name for name in names if not table.takes_part(name))
                if self._admitted and not names:
                    return
            table.check(names)
            self._journal.part(self.seq, names)
            self._admitted = True

    def claim(self, mechanism: object) -> None:
        """Binds it to the one object that draws its noise: two would show one sum under two noises.

        The first has it; asked by it again, nothing changes. Raises: ReservationError for another.
        """
        with self._step("claim"):
            if self._mechanism is None:
                self._mechanism = mechanism
            if self._mechanism is not mechanism:
                raise self._refused(
                    "another mechanism draws its noise",
                    "go on with that one, or reserve the round again",
                )

    def require_drawn(self, mechanism: object) -> None:
        """Raises: ReservationError unless `mechanism` claimed it and marked it as drawn."""
        with self._step("use"):
            if self._mechanism is not mechanism or not self._draws:
                raise self._refused(
                    "this mechanism has not drawn its noise, or not begun it",
                    "where clients add the noise, begin() before the session; let one mechanism do "
                    "both",
                )

    def mark_drawn(self) -> None:
        """From here on noise may be drawn, or a noisy sum be seen: the round cannot be voided.

        Once for each noisy step that the plan pays for. Raises: ReservationError.
        """
        with self._step("draw noise for"):
            if self._draws == self._plan.steps:
                raise self._refused(
                    f"the plan pays for {self._draws} draws of noise before a release, and they "
                    f"were made",
                    "release what came of them, or reserve again",
                )
            if isinstance(self._plan.sampling, Uncontrolled) and not self._admitted:
                raise self._refused(
                    "the plan bounds participations, and nobody was recorded",
                    "call participate() with whoever takes part, or with nobody",
                )
            self._draws += 1
            self._drawn = True

    def void(self, reason: str) -> None:
        """Take the reservation back: nobody pays for it. Only before anybody was selected.

        Once it is known who is in the cohort, another one instead would be the choice between two.
        Raises: ReservationError.
        """
        with self._step("void"):
            if self._drawn:
                raise self._refused(
                    "noise was drawn for it, so something may have been seen",
                    "let it stand; the next reservation runs the round again",
                )
            if self._selected or self._admitted:
                raise self._refused(
                    "it is known who takes part, and to draw others would bias the sample",
                    "release what arrived, be it nothing: the sum of no updates is noise",
                )
            if not isinstance(reason, str):
                raise self._refused("its reason is not a text", "say why in words")
            # Before the record: should writing it fail, it may be there all the same.
            self._over = True
            self._journal.write(Void(self.seq, reason))

    def release(self, payload: bytes) -> Receipt:
        """Makes the result durable, and with it the right to publish it; nothing to be seen before.

        Once for each round that is paid for. Raises: ReservationError; LedgerError, after which
        the result must be thrown away: opened again, the ledger serves it if it was released.
        """
        with self._step("release"):
            if not self._draws:
                raise self._refused(
                    "no noise was drawn for it since the last release",
                    "call mark_drawn(), draw the noise, and release what came of it",
                )
            if why := self._journal.history.refusal(Release(self.seq, "")):
                raise self._refused(why, "reserve the next round")
            if not isinstance(payload, bytes):
                raise self._refused(
                    f"its payload is a {type(payload).__name__}, not bytes", "pass bytes"
                )
            round_, digest = self.round, hashlib.sha256(payload).hexdigest()
            self._over = True  # until it is done
            self._journal.file.store(payload)
            head = self._journal.write(Release(self.seq, digest))
            self._over = len(self._entry.released) == self._plan.rounds_a_reservation
            self._draws, self._selected, self._admitted = 0, False, False
            return Receipt(self.seq, round_, digest, head)

    @contextmanager
    def _step(self, verb: str) -> Iterator[None]:
        """Raises: ReservationError unless the reservation is this process's, current and usable."""
        if this_process() != self._owner:
            raise ReservationError(
                f"a forked process is to {verb} a round that its parent reserved",
                why="both would spend it",
                fix="let the process that reserved it use it",
            )
        with self._journal.lock:
            # A signal handler gets past the lock of the thread that it interrupts.
            if self._busy:
                raise self._refused(
                    f"a signal handler is to {verb} it, and has interrupted another call of it",
                    "let the handler set a flag, and ask for that between two rounds",
                )
            self._busy = True
            try:
                self._journal.require_usable()
                if self._over or self._journal.history.current is not self._entry:
                    raise self._refused(
                        "it was released, was voided, or a later one was reserved",
                        "reserve the round again",
                    )
                yield
            finally:
                self._busy = False

    def _refused(self, why: str, fix: str) -> ReservationError:
        return ReservationError(f"reservation {self.seq} cannot be used so", why=why, fix=fix)


def not_copyable(what: str) -> ReservationError:
    """What to raise where something would be there twice."""
    return ReservationError(
        f"{what} is to be copied or pickled",
        why="what may be done once could then be done twice",
        fix="keep it in the process that made it",
    )
