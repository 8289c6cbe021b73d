"""How many clients an attempt selects: what the task asks for at first, then what was learnt.

It is a function of the attempts before, as they stand in the store, and of nothing else: a server
that was restarted selects as many as it would have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from fedcore.federated.session import selection_of
from fedcore.federated.task import Task
from fedcore.rounds import DropoutEstimate, RoundPolicy, overselection, seen_in
from fedcore.rounds.records import from_record
from fedserver.federation.resources import HostedTask
from fedserver.store.protocol import Store
from fedserver.store.records import RoundRef

__all__ = ["learnt_policy"]

_REMEMBERED: Final = 20  # attempts: what is older has a weight of 0.8^20, one hundredth


async def learnt_policy(hosted: HostedTask, store: Store, ref: RoundRef) -> tuple[RoundPolicy, str]:
    """The terms of that attempt, and why it selects as many clients as they say."""
    task, policy = hosted.task, hosted.policy
    if task.plan is not None:
        return policy, "selects whom its privacy was planned for"
    if policy.select == policy.goal:
        return policy, f"selects {policy.select}, as many as shall report"
    states = await store.earlier_states(ref, _REMEMBERED)
    estimate = await asyncio.to_thread(_estimate, task, states)
    select = selection_of(task, estimate)
    lost = f"{100 * (1 - estimate.reporting):.0f} % are expected to be lost"
    if not states:
        lost = "as the task asks for at first"
    elif select == task.cohort.select:
        lost = f"the most that the task allows; {lost}"
    return replace(policy, select=select), f"selects {select} for {policy.goal} reports: {lost}"


def _estimate(task: Task, states: Sequence[Mapping[str, object]]) -> DropoutEstimate:
    estimate = DropoutEstimate.expecting(float(task.cohort.overselection))
    for state in states:
        estimate = overselection(estimate, seen_in(from_record(state)))
    return estimate
