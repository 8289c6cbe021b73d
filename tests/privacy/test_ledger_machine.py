"""Any sequence of calls, crashes and reopenings agrees with a ledger that is a few dictionaries."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fedcore.errors import BudgetError, LedgerError, ParticipationError, PlanError, ReservationError
from fedcore.privacy.ledger import Head, Ledger, Reservation, verify
from fedcore.privacy.rdp import compose, epsilon
from tests.privacy.ledger_world import KEY, bounded, plan_of
from tests.random_examples import thorough

ROUNDS, BUDGET = 6, 8
SEPARATION, MAXIMUM = 2, 3
names = st.lists(st.sampled_from([b"a", b"b", b"c"]), unique=True, min_size=1)


def _cost_of(count: int) -> float:
    plan = plan_of()
    return epsilon(compose({plan.event: count}, plan.adjacency), plan.failure)[0]


class Machine(RuleBasedStateMachine):
    """The oracle: what was reserved, drawn and released, and who took part at which release."""

    plan = plan_of(rounds=ROUNDS, epsilon=_cost_of(BUDGET))

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp()) / "ledger"
        self.ledger = Ledger.create(self.folder, self.plan, participation_key=KEY)
        self.reservation: Reservation | None = None
        self.round, self.drawn, self.named = 0, False, False
        self.spent, self.draws = 0, 0
        self.payloads: dict[int, bytes] = {}
        self.visits: list[tuple[int, set[bytes], bool]] = []  # releases before, who, released
        self.heads: list[Head] = [self.ledger.head]

    @rule(round_=st.integers(0, ROUNDS))
    def reserve(self, round_: int) -> None:
        if round_ in self.payloads:
            expected: type[Exception] | None = ReservationError
        elif round_ >= self.plan.rounds:
            expected = PlanError
        elif self.cost(self.spent + 1) > self.plan.epsilon:
            expected = BudgetError
        else:
            expected = None
        if expected:
            with pytest.raises(expected):
                self.ledger.reserve(round_)
            return
        self.reservation = self.ledger.reserve(round_)
        self.round, self.drawn, self.named = round_, False, False
        self.spent += 1
        self.visits.append((len(self.payloads), set(), False))

    @rule(round_=st.integers(0, ROUNDS), names=names, then=st.sampled_from(["release", "void", ""]))
    def run(self, round_: int, names: list[bytes], then: str) -> None:
        """A round as most are."""
        self.reserve(round_)
        if self.reservation is None:
            return
        if then != "void":
            self.participate(names)
        if then != "void" and (self.named or self.plan is Machine.plan):
            self.draw()
        if then:
            getattr(self, then)()

    @precondition(lambda self: self.reservation)
    @rule(names=names)
    def participate(self, names: list[bytes]) -> None:
        assert self.reservation
        allowed = [self.may(name) for name in names]
        assert list(self.ledger.may_participate(names)) == allowed
        if all(allowed):
            self.reservation.participate(names)
            self.visits[-1][1].update(names)
            self.named = True
        else:
            with pytest.raises(ParticipationError):
                self.reservation.participate(names)

    @precondition(lambda self: self.reservation)
    @rule()
    def draw(self) -> None:
        assert self.reservation
        if self.drawn or not (self.named or self.plan is Machine.plan):
            with pytest.raises(ReservationError):
                self.reservation.mark_drawn()
        else:
            self.reservation.mark_drawn()
            self.drawn = True
            self.draws += 1

    @precondition(lambda self: self.reservation)
    @rule()
    def release(self) -> None:
        assert self.reservation
        if not self.drawn:
            with pytest.raises(ReservationError):
                self.reservation.release(b"payload")
            return
        payload = os.urandom(8)
        self.heads.append(self.reservation.release(payload).head)
        self.payloads[self.round] = payload
        before, names, _ = self.visits[-1]
        self.visits[-1] = (before, names, True)
        self.reservation = None

    @precondition(lambda self: self.reservation)
    @rule()
    def void(self) -> None:
        assert self.reservation
        if self.drawn or self.named:
            with pytest.raises(ReservationError):
                self.reservation.void("too late")
            return
        self.reservation.void("nobody came")
        self.spent -= 1
        self.visits.pop()
        self.reservation = None

    @rule(torn=st.binary(max_size=3).filter(lambda data: b"\n" not in data and b"\0" not in data))
    def crash(self, torn: bytes) -> None:
        """The process ends; a line may have been begun."""
        self.ledger.close()
        with (self.folder / "privacy.ledger").open("ab") as file:
            file.write(torn)
        head = self.heads[-1]
        self.ledger = Ledger.open(self.folder, checkpoint=head, participation_key=KEY)
        self.reservation = None

    @rule()
    def use_what_is_over(self) -> None:
        with pytest.raises(LedgerError):
            Ledger.create(self.folder, self.plan, participation_key=KEY)
        for round_, payload in self.payloads.items():
            assert self.ledger.released(round_) == payload

    @invariant()
    def nothing_is_forgotten(self) -> None:
        assert self.ledger.spent == self.plan.spend(self.spent)
        assert self.ledger.epsilon() == self.cost(self.spent) <= self.plan.epsilon
        assert self.spent >= self.draws
        counts = Counter(name for _, names, _ in self.visits for name in names)
        found = self.ledger.participations
        assert (found.units, found.total) == (len(counts), counts.total())
        assert found.most == max(counts.values(), default=0)

    def teardown(self) -> None:
        self.ledger.close()
        found = verify(self.folder, checkpoint=self.heads[-1])
        assert found.reservations - found.voided == self.spent
        assert found.released == len(self.payloads)
        assert not found.damaged
        shutil.rmtree(self.folder.parent)

    def cost(self, count: int) -> float:
        spend = self.plan.spend(count)
        curve = compose(spend, self.plan.adjacency)
        return epsilon(curve, self.plan.failure)[0] if count else 0.0

    def may(self, name: bytes) -> bool:
        mine = [visit for visit in self.visits if name in visit[1]]
        if not mine or self.plan is Machine.plan:
            return not mine or mine[-1] is not self.visits[-1]
        before, _, released = mine[-1]
        between = len(self.payloads) - before - released
        return mine[-1] is not self.visits[-1] and len(mine) < MAXIMUM and between + 1 >= SEPARATION


class BoundedMachine(Machine):
    """The same, where nobody is sampled and everybody bounded."""

    plan = bounded(SEPARATION, MAXIMUM, rounds=ROUNDS)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


TestSampled = Machine.TestCase
TestBounded = BoundedMachine.TestCase
TestSampled.settings = TestBounded.settings = settings(
    stateful_step_count=20, max_examples=thorough(40)
)
