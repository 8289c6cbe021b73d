"""A round of a task as a federation holds it, from the model before to the model after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from fedcore.errors import RoundOverError
from fedcore.federated.algorithms import algorithm_of
from fedcore.federated.clipping import decode_clipping, encode_clipping
from fedcore.federated.models import initial_theta
from fedcore.federated.task import Task
from fedcore.federated.update import Mean, UpdateLayout
from fedcore.privacy import Adaptive
from fedcore.secagg import total_of
from fedsim.clock import RoundTimeline, SynchronousClock, Terms, Work
from fedsim.engine import ClientReport, Engine, Facts
from fedsim.modes.ahead import Ahead
from fedsim.modes.exact import ExactSums, Totals
from fedsim.modes.means import float_mean, grid_mean
from fedsim.modes.passed import Passed
from fedsim.modes.payments import Payments
from fedsim.modes.releases import Release, Releases
from fedsim.modes.state import Done, State, Vector
from fedsim.records import Mode
from fedsim.scenario import Scenario
from fedsim.world import World

__all__ = ["TaskRounds", "all_failed", "given_up", "terms_of", "timelines_of"]


def terms_of(scenario: Scenario, world: World) -> Terms:
    """What a round goes by; where privacy draws its clients, for as many as are expected."""
    terms, promise = Terms.of(scenario.task), scenario.task.privacy
    if not scenario.draws_clients:
        return terms
    assert promise is not None and promise.sampling_rate is not None
    drawn = max(1, round(promise.sampling_rate * len(world.population)))
    return replace(terms, policy=replace(terms.policy, select=drawn, goal=drawn, minimum=1))


def timelines_of(scenario: Scenario, world: World) -> tuple[SynchronousClock, Work]:
    """The clock of a scenario's rounds, and what they ask of devices."""
    clock = SynchronousClock(
        terms_of(scenario, world), world.devices, patience_ms=scenario.clock.patience_ms
    )
    return clock, Work.of(scenario.task, world.population.sizes())


class TaskRounds:
    """Synchronous rounds of a task.

    `releases`: of a task with privacy, None without. `exact`: sums of masked integers; None: they
    are added up as they are.
    """

    def __init__(
        self,
        scenario: Scenario,
        world: World,
        engine: Engine,
        *,
        releases: Releases | None,
        exact: ExactSums | None = None,
    ) -> None:
        self._exact = exact
        self._task, self._mode = scenario.task, scenario.mode
        self._engine, self._releases = engine, releases
        self._algorithm = algorithm_of(self._task)
        self._clock, self._work = timelines_of(scenario, world)
        self._ahead = Ahead(self._clock, self._work, engine)
        self._names = tuple(name.encode() for name in world.population.names)
        self._layout = None if self._task.plan else UpdateLayout.of(self._task)

    def start(self) -> State:
        theta = initial_theta(self._task)
        return State(
            theta, self._algorithm.start(), texts={"clipping": _first_clipping(self._task)}
        )

    def begin(self, number: int) -> None:
        """Clients keep nothing."""

    def kept(self, number: int) -> None:
        """Clients keep nothing."""

    def round(self, number: int, before: State) -> Done:
        kept = dict(before.arrays)
        sent = self._algorithm.sent(before.theta, kept)
        clipping = before.texts["clipping"]
        facts = Facts(number, self._task.evaluation.is_due(number), clipping)
        if self._releases is None:
            timeline, mean, reports = self._open(number, before, sent, facts)
            theta, arrays = self._algorithm.apply(before.theta, mean, kept, round=number)
            after = State(theta, arrays, timeline.after, {"clipping": clipping})
            return Done(after, Passed.of_timeline(timeline), reports, mean.statistics.get("loss"))
        release, reports = self._private(number, before, sent, facts, self._releases)
        theta, arrays = self._algorithm.apply(before.theta, release.mean, kept, round=number)
        clipping = encode_clipping(release.mean.clipping).hex()
        after = State(theta, arrays, release.clock, {"clipping": clipping})
        return Done(after, release.passed, reports, None)

    def _open(
        self, number: int, before: State, sent: Vector, facts: Facts
    ) -> tuple[RoundTimeline, Mean, tuple[ClientReport, ...]]:
        """A round without privacy: who fails is known by training alone.

        Then it goes as if the clock had known; nobody else's fate changes.
        """
        failing: dict[int, str] = {}
        while True:
            timeline = self._ahead.round(number, before.clock, failing=failing.keys())
            if not timeline.completed:
                raise given_up(number, timeline, failing)
            if number + 1 < self._task.rounds.count:
                self._ahead.look(number + 1, timeline.after)
            mean, reports = self._mean(timeline, sent, facts)
            if mean is not None:
                return timeline, mean, reports
            failing |= {report.index: report.failure for report in reports if report.failure}

    def _mean(
        self, timeline: RoundTimeline, sent: Vector, facts: Facts
    ) -> tuple[Mean | None, tuple[ClientReport, ...]]:
        """The mean of a round's survivors; None if one of them failed."""
        if self._exact is not None:
            assert self._layout is not None
            totals, reports = self._exact(timeline, sent, facts)
            return self._layout.mean(totals, len(reports)) if totals else None, reports
        summed = self._engine.sum(timeline.last.survivors, sent, facts)
        if any(report.failure for report in summed.reports):
            return None, summed.reports
        if self._mode is Mode.PLAIN:
            return float_mean(self._task, summed), summed.reports
        assert self._layout is not None
        return grid_mean(self._layout, summed), summed.reports

    def _private(
        self, number: int, before: State, sent: Vector, facts: Facts, releases: Releases
    ) -> tuple[Release, tuple[ClientReport, ...]]:
        """A round whose sum a mechanism opens; clients that fail count as zeros, as on devices."""
        account = releases.account
        clipping = decode_clipping(account.plan, bytes.fromhex(facts.clipping))
        if (found := releases.found(number, clipping)) is not None:
            return found, ()
        account.require_funds()
        payments = Payments(account, self._task, number, self._names)
        timeline = self._clock.round(
            number,
            before.clock,
            self._work,
            among=payments.allowed,
            drawn=payments.drawn if account.draws_clients else None,
        )
        payment = payments.settle(timeline.attempts)
        if not timeline.completed or payment is None:
            raise given_up(number, timeline)
        totals, reports = self._totals(timeline, sent, facts)
        release = releases.release(number, payment, totals, timeline=timeline, clipping=clipping)
        return release, reports

    def _totals(
        self, timeline: RoundTimeline, sent: Vector, facts: Facts
    ) -> tuple[Totals, tuple[ClientReport, ...]]:
        if self._exact is not None:
            return self._exact(timeline, sent, facts)
        summed = self._engine.sum(timeline.last.survivors, sent, facts)
        assert summed.vector is not None
        return total_of(summed.vector, self._task.layout), summed.reports


def _first_clipping(task: Task) -> str:
    plan = task.plan
    if plan is None or not isinstance(plan.clipping, Adaptive):
        return ""
    start = plan.clipping.start(noise_multiplier=plan.noise_multiplier, grid_steps=plan.grid)
    return encode_clipping(start).hex()


def all_failed(what: str, failing: Mapping[int, str], *reasons: str) -> RoundOverError:
    """What to raise where too many failed: how many, and the first of them with its reason.

    `failing`: by their places, why each did.
    """
    place = min(failing)
    first = f"{len(failing)} clients failed, the one at place {place} with: {failing[place]}"
    return RoundOverError(
        what,
        why="; ".join((first, *reasons)),
        fix="lower the learning rate, or mend data and program, so that they do not fail",
    )


def given_up(
    number: int, timeline: RoundTimeline, failing: Mapping[int, str] = MappingProxyType({})
) -> RoundOverError:
    """What to raise for a round whose last attempt led to no model.

    `failing`: of clients whose program failed, by their places, why it did.
    """
    what = f"round {number + 1} was given up after {len(timeline.attempts)} attempts"
    reasons = "; ".join(attempt.state.reason for attempt in timeline.attempts)
    if failing:
        return all_failed(what, failing, reasons)
    return RoundOverError(
        what,
        why=reasons,
        fix="let fewer clients be needed (cohort.minimum), lose fewer (devices), or try more often"
        " (rounds.max_attempts)",
    )
