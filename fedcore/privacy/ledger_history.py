"""What the records of a ledger amount to: what was spent, what was released, what may follow.

The same rules read a file and guard a writer, so that no file is written that could not be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from fedcore.errors import LedgerError, PlanError
from fedcore.privacy.accounting import pld_epsilon
from fedcore.privacy.events import Event
from fedcore.privacy.ledger_records import (
    VERSION,
    Chain,
    Close,
    Migrate,
    Open,
    Part,
    Record,
    Release,
    Reserve,
    Void,
)
from fedcore.privacy.participation import Participations
from fedcore.privacy.plan import PrivacyPlan, own_plan
from fedcore.privacy.rdp import ORDERS, compose, epsilon
from fedcore.privacy.sampling import Uncontrolled
from fedcore.privacy.units import Adjacency

__all__ = ["ACCOUNTANTS", "Entry", "History", "Segment"]

ACCOUNTANTS = ("rdp", "pld")
"""Whose figure a budget may be held against."""

_AHEAD = 16
_NOTHING: Mapping[Event, int] = {}


@dataclass
class Entry:
    """One reservation. `released`: the records that released its rounds, the first one first.

    `admitted`: somebody was recorded to take part.
    """

    seq: int
    round: int
    event: Event
    released: list[int] = field(default_factory=list)
    admitted: bool = False

    @property
    def next_round(self) -> int:
        """Of what it pays for, the first round that was not released."""
        return self.round + len(self.released)


@dataclass
class Segment:
    """The time of one plan.

    `counts`: how often each event was reserved and not voided; `rounds`: by round, the record that
    released it.
    """

    plan: PrivacyPlan
    counts: dict[Event, int] = field(default_factory=dict)
    rounds: dict[int, int] = field(default_factory=dict)

    @property
    def reservations(self) -> int:
        """How many were made and not voided."""
        return sum(self.counts.values())

    def count(self, entry: Entry, change: int) -> None:
        """Count a reservation, or count it no longer."""
        self.counts[entry.event] = self.counts.get(entry.event, 0) + change

    def release(self, entry: Entry, seq: int) -> None:
        """Note that a record has released the entry's next round."""
        self.rounds[entry.next_round] = seq
        entry.released.append(seq)

    def spend(self, more: Mapping[Event, int]) -> dict[Event, int]:
        """What was reserved and not voided, and `more`, as events that compose.

        A plan states what so many of its own events cost; any other event counts in full.
        """
        counts = dict(self.counts)
        for event, count in more.items():
            counts[event] = counts.get(event, 0) + count
        found = dict(self.plan.spend(counts.pop(self.plan.event, 0)))
        for event, count in counts.items():
            if count:
                found[event] = found.get(event, 0) + count
        return found


class History:
    """The records of one ledger, taken in one by one. Raises: LedgerError where none may follow."""

    def __init__(self, chain: Chain | None = None) -> None:
        self.opened: Open | None = None
        self.segments: list[Segment] = []
        self.current: Entry | None = None
        self.payloads: dict[int, str] = {}
        self.payers: dict[int, int] = {}  # by the record that released: its reservation
        self.reservations = self.voided = 0
        self.closed = False
        for seq, record in enumerate(chain.records if chain else ()):
            self.add(record, seq)

    def copy(self) -> History:
        """The same for whoever reads: what is done to it changes nothing here."""
        twin = History()
        twin.opened, twin.closed = self.opened, self.closed
        twin.segments = [
            Segment(own_plan(one.plan), dict(one.counts), dict(one.rounds)) for one in self.segments
        ]
        if self.current is not None:
            twin.current = replace(self.current, released=list(self.current.released))
        twin.payloads, twin.payers = dict(self.payloads), dict(self.payers)
        twin.reservations, twin.voided = self.reservations, self.voided
        return twin

    @property
    def segment(self) -> Segment:
        """The time of the plan that holds now."""
        return self.segments[-1]

    @property
    def plan(self) -> PrivacyPlan:
        """The plan that holds now."""
        return self.segment.plan

    @property
    def order(self) -> int | None:
        """The Rényi order that counts, or None for the best."""
        assert self.opened is not None
        return self.opened.order if len(self.segments) == 1 else self.opened.later_order

    @property
    def accountant(self) -> str:
        """Whose figure the budget is held against: once a plan has changed, the Rényi filter's."""
        assert self.opened is not None
        return self.opened.accountant if len(self.segments) == 1 else "rdp"

    def spend(self, more: Mapping[Event, int] = _NOTHING) -> dict[Event, int]:
        """What all plans have spent, and `more` under the last one, as events that compose."""
        total: dict[Event, int] = {}
        for segment in self.segments:
            found = segment.spend(more if segment is self.segment else _NOTHING)
            for event, count in found.items():
                total[event] = total.get(event, 0) + count
        return total

    def epsilon(self, more: Mapping[Event, int] = _NOTHING, *, delta: float | None = None) -> float:
        """What that costs, recomputed: no figure in the file is trusted."""
        plan = self.plan
        return cost(
            self.spend(more),
            adjacency=plan.adjacency,
            delta=plan.failure if delta is None else delta,
            accountant=self.accountant,
            order=self.order,
        )

    def epsilon_under(self, plan: PrivacyPlan) -> float:
        """What it costs once the ledger goes on under another `plan`."""
        assert self.opened is not None
        return cost(
            self.spend(),
            adjacency=plan.adjacency,
            delta=plan.failure,
            accountant="rdp",
            order=self.opened.later_order,
        )

    def epsilon_with(self, event: Event) -> float:
        """What it would cost with one `event` more: to be held against the plan's budget.

        Privacy loss distributions take a tenth of a second to compose. So where a larger number
        of events is within the budget, its cost stands for that of the next, which is no larger.
        """
        if self.accountant == "pld":
            count = self.segment.counts.get(event, 0)
            for ahead in (self.plan.rounds, -(-(count + 1) // _AHEAD) * _AHEAD):
                if ahead > count + 1:
                    found = self.epsilon({event: ahead - count})
                    if found <= self.plan.epsilon:
                        return found
        return self.epsilon({event: 1})

    def remaining_rounds(self, found: Participations | None = None) -> int:
        """How many rounds further reservations can pay for, if none of them is spent in vain.

        `found`: where they are known, at most as many as units may still come.
        """
        plan = self.plan
        left = 0 if self.closed else plan.rounds - len(self.segment.rounds)
        low, high = 0, -(-left // plan.rounds_a_reservation) + 1
        while high - low > 1:
            middle = (low + high) // 2
            fits = self.epsilon({plan.event: middle}) <= plan.epsilon
            low, high = (middle, high) if fits else (low, middle)
        left = min(left, low * plan.rounds_a_reservation)
        if found is None or not isinstance(plan.sampling, Uncontrolled):
            return left
        if plan.rounds_a_reservation > 1:
            return left  # the next matrix is charged for participations of its own
        maximum = plan.sampling.maximum_participations
        return min(left, found.left(population=plan.population, maximum=maximum))

    def add(self, record: Record, seq: int) -> None:
        """Take the record in."""
        self.check(record, f"record {seq}")
        match record:
            case Open(plan=plan):
                self.opened = record
                self.segments.append(Segment(plan))
            case Migrate(plan=plan):
                self.segments.append(Segment(plan))
                self.current = None
            case Reserve(round=round_, event=event):
                self.current = Entry(seq, round_, event)
                self.segment.count(self.current, +1)
                self.reservations += 1
            case Part():
                assert self.current is not None
                self.current.admitted = True
            case Release(payload=payload):
                assert self.current is not None
                self.segment.release(self.current, seq)
                self.payloads[seq], self.payers[seq] = payload, self.current.seq
            case Void():
                assert self.current is not None
                self.segment.count(self.current, -1)
                self.voided += 1
                self.current = None
            case Close():
                self.closed = True

    def check(self, record: Record, name: str) -> None:
        """Raises: LedgerError if this record, called `name`, may not follow."""
        if why := self.refusal(record):
            raise LedgerError(
                f"{name} of the ledger, a {type(record).__name__}, cannot stand there",
                why=why,
                fix="restore the ledger from where it was written; do not edit it",
            )

    def refusal(self, record: Record) -> str:
        """Why this record may not follow, or ""."""
        if (self.opened is None) is not isinstance(record, Open):
            return "a ledger begins with its plan, and has one beginning"
        if self.closed:
            return "the ledger was closed for good"
        match record:
            case Open():
                return _refusal_to_open(record)
            case Migrate(plan=plan):
                return self._refusal_to_migrate(plan)
            case Reserve():
                return self.refusal_to_reserve(record)
            case Part() | Void() | Release():
                return self._refusal_to_use(record)
            case Close():
                return ""

    def refusal_to_reserve(self, record: Reserve) -> str:
        """Why this round may not be reserved, budget aside."""
        plan = self.plan
        if not 0 <= record.round < plan.rounds:
            return f"the plan has {plan.rounds} rounds, counted from 0 on"
        if record.round in self.segment.rounds:
            return f"round {record.round} was released, and is served again for nothing"
        if record.event != plan.event:
            return "the plan's noise costs another event"
        return ""

    def _refusal_to_migrate(self, plan: PrivacyPlan) -> str:
        if (plan.unit, plan.adjacency) != (self.plan.unit, self.plan.adjacency):
            return "costs compose only for one unit and one relation of neighbours"
        if plan.failure > self.plan.failure:
            return "delta may not grow with what was spent"
        return next(filter(None, (_reserve_for(plan.epsilon, old) for old in self.segments)), "")

    def _refusal_to_use(self, record: Part | Void | Release) -> str:
        entry = self.current
        if entry is None or record.reservation != entry.seq:
            return f"reservation {record.reservation} is not the latest, or was voided"
        if isinstance(record, Void) and entry.released:
            return f"reservation {entry.seq} has led to a release"
        if isinstance(record, Void) and entry.admitted:
            return f"it is known who takes part in what reservation {entry.seq} pays for"
        if isinstance(record, Void):
            return ""
        if len(entry.released) == self.plan.rounds_a_reservation:
            return f"all that reservation {entry.seq} paid for was released"
        if entry.next_round in self.segment.rounds:
            return f"round {entry.next_round} was released before"
        if entry.next_round >= self.plan.rounds:
            return f"the plan has {self.plan.rounds} rounds, counted from 0 on"
        return ""


def _reserve_for(budget: float, segment: Segment) -> str:
    """Why what a plan of sampled shares set aside of delta is too little under a larger budget."""
    old = segment.plan
    if not segment.counts or old.failure == old.delta or budget <= old.epsilon:
        return ""
    try:
        replace(old, epsilon=budget)
    except PlanError as error:
        return f"of an earlier plan of sampled shares, by a budget of {budget:.4g}: {error.why}"
    return ""


def cost(
    spend: Mapping[Event, int],
    *,
    adjacency: Adjacency,
    delta: float,
    accountant: str,
    order: int | None,
) -> float:
    """Epsilon of all events together."""
    if not spend:
        return 0.0
    if accountant == "pld":
        return _by_distributions(tuple(spend.items()), adjacency, delta)
    return epsilon(compose(spend, adjacency), delta, order=order)[0]


@lru_cache(maxsize=256)
def _by_distributions(
    spend: tuple[tuple[Event, int], ...], adjacency: Adjacency, delta: float
) -> float:
    return pld_epsilon(dict(spend), adjacency=adjacency, delta=delta)


def _refusal_to_open(record: Open) -> str:
    if record.version != VERSION:
        return f"its format is version {record.version}; this program reads {VERSION}"
    if record.accountant not in ACCOUNTANTS:
        return f"its accountant is none of {', '.join(ACCOUNTANTS)}"
    if record.accountant == "pld" and record.order is not None:
        return "privacy loss distributions have no Rényi order"
    if any(order not in ORDERS for order in (record.order or 2, record.later_order)):
        return f"its Rényi order is not one of {ORDERS[0]} … {ORDERS[-1]}"
    return ""
