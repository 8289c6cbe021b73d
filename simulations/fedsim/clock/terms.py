"""The terms that a task's server goes by: policy, patience, and how many clients it selects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from fedcore.errors import FedcoreError
from fedcore.federated.session import selection_of
from fedcore.federated.task import Task
from fedcore.rounds import DropoutEstimate, Phase, RoundPolicy, Seen, overselection
from fedcore.secagg import SessionConfig

__all__ = ["REMEMBERED", "Terms"]

REMEMBERED: Final = 20
"""Attempts from which it is learnt how many to select: of older ones a server knows no more."""


@dataclass(frozen=True, slots=True)
class Terms:
    """`policy`: of every attempt. `session`: the terms of secure aggregation, None without.

    `silence_ms`: after which a client that is lost is missed. `compute_ms`: after which one that
    has begun no upload is, from the begin of COLLECTING. `task`: from which it is learnt how many
    to select; None: always as many as the policy says.
    """

    policy: RoundPolicy
    silence_ms: int
    compute_ms: int
    session: SessionConfig | None = None
    task: Task | None = None

    @classmethod
    def of(cls, task: Task) -> Terms:
        """Those of a resolved task."""
        deadlines = task.deadlines
        # Noise was planned for as many clients as the task selects, and nothing is learnt there.
        learns = task.plan is None and task.cohort.select > task.cohort.goal
        return cls(
            policy=task.policy(),
            silence_ms=round(1000 * deadlines.heartbeat_s * deadlines.patience),
            compute_ms=round(1000 * deadlines.compute_s),
            session=None if task.secure_aggregation is None else task.session_config(),
            task=task if learns else None,
        )

    def summed(self, select: int) -> int:
        """The fewest reports of so many clients that their session sums; 0 without a session.

        All and one more where there is no such session: the task's own checks tell of that.
        """
        if self.session is None:
            return 0
        try:
            return self.session.parameters(select).minimum_survivors
        except FedcoreError:
            return select + 1

    def after(self, seen: Sequence[Mapping[Phase, Seen]]) -> RoundPolicy:
        """The policy of the next attempt, where so many were lost in the attempts before."""
        if self.task is None:
            return self.policy
        estimate = DropoutEstimate.expecting(float(self.task.cohort.overselection))
        for attempt in seen[-REMEMBERED:]:
            estimate = overselection(estimate, attempt)
        return replace(self.policy, select=selection_of(self.task, estimate))
