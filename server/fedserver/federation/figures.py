"""What the figures tell of the rounds: how long they take, whom they lose, how they end."""

from __future__ import annotations

from fedcore.privacy import PrivacyPlan
from fedcore.rounds import Phase, RoundState, Transition
from fedserver.federation.results import Result
from fedserver.metrics import Metrics

__all__ = ["RoundFigures"]


class RoundFigures:
    """Of one attempt, from `state` on. `plan`: of its task's privacy, if it has one."""

    def __init__(self, metrics: Metrics, state: RoundState, *, plan: PrivacyPlan | None) -> None:
        self._metrics, self._plan = metrics, plan
        self._counted = frozenset(state.lost)

    def moved(
        self,
        before: RoundState,
        after: RoundState,
        transition: Transition,
        *,
        result: Result | None,
    ) -> None:
        """A transition is durable. `result`: of the round, once there is one."""
        metrics = self._metrics
        elapsed_s = max(0, transition.at - before.since) / 1000
        metrics.phase_seconds.labels(transition.from_phase.value).observe(elapsed_s)
        # Most were lost between two transitions, and whoever came back in time was not lost at all.
        for client in transition.lost.keys() - self._counted:
            metrics.dropouts.labels(transition.lost[client].phase.value).inc()
        self._counted = frozenset(transition.lost)
        if transition.from_phase is Phase.SELECTING and after.members:
            metrics.assignments.labels("given").inc(len(after.cohort))
        if transition.to_phase is Phase.COMPLETED:
            metrics.assignments.labels("completed").inc(len(after.survivors))
        if transition.to_phase is not Phase.SCRUBBED and (
            after.over or transition.to_phase is Phase.COMPLETED
        ):  # once an attempt: what is scrubbed was completed before
            metrics.rounds.labels(transition.to_phase.value).inc()
        if self._plan is not None and result is not None:
            metrics.epsilon_spent.labels(after.task_id).set(result.epsilon)
            metrics.epsilon_budget.labels(after.task_id).set(self._plan.epsilon)
