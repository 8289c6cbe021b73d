"""A round of a task as a federation holds it, from the model before to the model after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import RoundOverError
from fedcore.federated.algorithms import algorithm_of
from fedcore.federated.clipping import decode_clipping, encode_clipping
from fedcore.federated.models import initial_theta
from fedcore.federated.payments import Account, Payment
from fedcore.federated.task import Task
from fedcore.federated.update import Mean, UpdateLayout
from fedcore.privacy import Adaptive, PrivateMean, Uncontrolled
from fedcore.rounds import Phase
from fedcore.secagg import total_of
from fedsim.clock import Attempt, ClockState, RoundTimeline, SynchronousClock, Terms, Work
from fedsim.clock.attempt import place_of
from fedsim.engine import ClientReport, Engine, Facts, Summed
from fedsim.modes.means import float_mean, grid_mean
from fedsim.run.records import Mode
from fedsim.scenario import Scenario
from fedsim.world import World

__all__ = ["Done", "Rounds", "State", "TaskRounds"]

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """All that the next round depends on.

    `theta` (D,): the model. `arrays`: what the server keeps beside it, by name. `clock`: where
    virtual time stands. `texts`: what else there is, by name.
    """

    theta: Vector
    arrays: Mapping[str, Vector] = field(default_factory=dict)
    clock: ClockState = field(default_factory=ClockState)
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Done:
    """A round that is over: the state after it, when its attempts were, and who reported what."""

    state: State
    timeline: RoundTimeline
    reports: tuple[ClientReport, ...]
    loss: float | None


class Rounds(Protocol):
    """Rounds of one kind, one after the other."""

    def start(self) -> State:
        """The state before the first round."""
        ...

    def round(self, number: int, before: State) -> Done:
        """A round from the state before it.

        Raises: BudgetError where privacy pays for no more; RoundOverError after the last attempt.
        """
        ...


class TaskRounds:
    """Synchronous rounds of a task, in the modes fast and plain.

    `account`: the ledger of a task with privacy, None without.
    """

    def __init__(
        self, scenario: Scenario, world: World, engine: Engine, *, account: Account | None
    ) -> None:
        self._task, self._mode = scenario.task, scenario.mode
        self._world, self._engine, self._account = world, engine, account
        self._algorithm = algorithm_of(self._task)
        patience = scenario.clock.patience_ms
        self._clock = SynchronousClock(Terms.of(self._task), world.devices, patience_ms=patience)
        self._work = Work.of(self._task, world.population.sizes())
        self._names = tuple(name.encode() for name in world.population.names)
        self._layout = None if self._task.plan else UpdateLayout.of(self._task)

    def start(self) -> State:
        theta = initial_theta(self._task)
        return State(theta, self._algorithm.start(), texts={"clipping": self._first_clipping()})

    def round(self, number: int, before: State) -> Done:
        if self._account is not None:
            self._account.require_funds()
        kept = dict(before.arrays)
        sent = self._algorithm.sent(before.theta, kept)
        every = self._task.evaluation.every
        clipping = before.texts["clipping"]
        facts = Facts(number, bool(every) and (number + 1) % every == 0, clipping)
        failing: set[int] = set()
        while True:
            payments = _Payments(self._account, number, self._names)
            timeline = self._clock.round(
                number,
                before.clock,
                self._work,
                among=payments.allowed(),
                drawn=payments.drawn if self._draws else None,
                failing=failing,
            )
            if not timeline.completed:
                payments.settle(timeline, self._task)
                raise _given_up(number, timeline)
            summed = self._engine.sum(timeline.last.survivors, sent, facts)
            failed = {report.index for report in summed.reports if report.failure}
            if self._task.plan is not None or not failed:
                break
            # Who fails is known by training alone; then the round goes as if the clock had known.
            failing |= failed
        payment = payments.settle(timeline, self._task)
        mean = self._mean(summed, payment, clipping)
        theta, arrays = self._algorithm.apply(before.theta, mean, kept, round=number)
        after = State(theta, arrays, timeline.after, {"clipping": self._clipping(mean, clipping)})
        loss = mean.statistics.get("loss") if isinstance(mean, Mean) else None
        return Done(after, timeline, summed.reports, loss)

    @property
    def _draws(self) -> bool:
        return self._account is not None and self._account.draws_clients

    def _mean(self, summed: Summed, payment: Payment | None, clipping: str) -> Mean | PrivateMean:
        if payment is not None:
            assert self._task.plan is not None and summed.vector is not None
            totals = total_of(summed.vector, self._task.layout)
            state = decode_clipping(self._task.plan, bytes.fromhex(clipping))
            return payment.release(totals, reports=len(summed.reports), clipping=state)
        if self._mode is Mode.PLAIN:
            return float_mean(self._task, summed)
        assert self._layout is not None
        return grid_mean(self._layout, summed)

    def _first_clipping(self) -> str:
        plan = self._task.plan
        if plan is None or not isinstance(plan.clipping, Adaptive):
            return ""
        state = plan.clipping.start(noise_multiplier=plan.noise_multiplier, grid_steps=plan.grid)
        return encode_clipping(state).hex()

    def _clipping(self, mean: Mean | PrivateMean, before: str) -> str:
        return encode_clipping(mean.clipping).hex() if isinstance(mean, PrivateMean) else before


class _Payments:
    """What the attempts at a round cost, as a server pays for them."""

    def __init__(self, account: Account | None, round: int, names: Sequence[bytes]) -> None:
        self._account, self._round, self._names = account, round, names
        self._paid: dict[int, Payment] = {}

    def allowed(self) -> Set[int] | None:
        """Who may take part within the plan's bounds; None for all."""
        account = self._account
        if account is None or not isinstance(account.plan.sampling, Uncontrolled):
            return None
        may = account.ledger.may_participate(list(self._names), anew=True)
        return frozenset(np.flatnonzero(may).tolist())

    def drawn(self, attempt: int) -> Set[int]:
        """Whom the plan draws for an attempt, which is paid for first."""
        places = {name: place for place, name in enumerate(self._names)}
        return frozenset(places[name] for name in self._pay(attempt).draw(self._names))

    def settle(self, timeline: RoundTimeline, task: Task) -> Payment | None:
        """Pays for each attempt that asked clients for their updates; that of the last."""
        if self._account is None:
            return None
        payment = None
        for number, attempt in enumerate(timeline.attempts, start=1):
            members = _members(attempt)
            if not members and number not in self._paid:
                continue
            payment = self._pay(number)
            if members:
                terms = None
                if task.secure_aggregation is not None:
                    terms = task.session_config().parameters(_size(attempt))
                payment.begin([self._names[place] for place in members], terms)
            if not attempt.completed:
                payment.give_up("the attempt was given up")
        return payment

    def _pay(self, attempt: int) -> Payment:
        assert self._account is not None
        if attempt not in self._paid:
            self._paid[attempt] = self._account.pay(self._round, self._account.intent())
        return self._paid[attempt]


def _members(attempt: Attempt) -> list[int]:
    """Who was asked for an update."""
    asked = [one.cohort for one in attempt.transitions if one.to_phase is Phase.COLLECTING]
    return sorted(place_of(client) for client in asked[0]) if asked else []


def _size(attempt: Attempt) -> int:
    """How many clients the session of an attempt was opened with."""
    return len(attempt.roster) or len(attempt.cohort)


def _given_up(number: int, timeline: RoundTimeline) -> RoundOverError:
    reasons = "; ".join(attempt.state.reason for attempt in timeline.attempts)
    return RoundOverError(
        f"round {number} was given up after {len(timeline.attempts)} attempts",
        why=reasons,
        fix="let fewer clients be needed (cohort.minimum), lose fewer (devices), or try more often"
        " (rounds.max_attempts)",
    )
