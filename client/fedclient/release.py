"""May a vector leave? The owner's policy is asked, and that it leaves is durable before it does.

Asked before a model is downloaded too, so that no work is done for nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedclient.assignment import OpenAssignment
from fedclient.policy import Policy
from fedclient.privacy_budget import guarantee_of, runs_of
from fedclient.state import State

if TYPE_CHECKING:
    from fedcore.federated.task import Task

__all__ = ["check_budget", "release"]


def check_budget(policy: Policy, state: State, assignment: OpenAssignment, *, task: Task) -> None:
    """Raises: DevicePolicyError if all tasks together would tell more than the owner allows."""
    given, place = state.given(task.digest), (assignment.round, assignment.attempt)
    if place not in given:
        policy.check_total(task, times=runs_of({*given, place}), spent=state.privacy_costs())


def release(policy: Policy, state: State, assignment: OpenAssignment, *, task: Task) -> None:
    """Charges the vector of an assignment to the owner's ledger, for good.

    Raises: DevicePolicyError if it may not go.
    """
    policy.check_release(
        round=assignment.round,
        attempt=assignment.attempt,
        rounds=task.rounds.count,
        given=state.given(task.digest),
    )
    check_budget(policy, state, assignment, task=task)
    state.give(assignment, guarantee=guarantee_of(task))
