"""What a task means to those who carry it out: blocks of integers, a session, a round's policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedcore.errors import TaskError
from fedcore.federated.fields import STATISTIC_BITS, STATISTIC_LIMIT, statistics_of, update_limit
from fedcore.federated.privacy_terms import session_parameters
from fedcore.privacy import CompactShares, NoiseShares, PrivacyPlan, Unit
from fedcore.rounds import DropoutEstimate, Phase, RoundPolicy
from fedcore.secagg import Block, Layout, Profile, SessionConfig

if TYPE_CHECKING:
    from fedcore.federated.spec import SecAggSpec
    from fedcore.federated.task import Task

__all__ = ["layout_of", "policy_of", "selection_of", "session_of"]


def layout_of(task: Task) -> Layout:
    """The blocks of a resolved task. Raises: TaskError if a cohort's sum fits into no slot."""
    if task.plan is not None:
        return Layout((_private_block(task, task.plan),))
    update = Block(task.dimension, task.update.slot_bits, update_limit(task))
    return Layout((update, Block(len(statistics_of(task)), STATISTIC_BITS, STATISTIC_LIMIT)))


def session_of(task: Task) -> SessionConfig:
    """The terms of secure aggregation. Raises: TaskError for a task without."""
    terms, plan = task.secure_aggregation, task.plan
    if terms is None:
        raise TaskError(
            "a task without secure aggregation has no session",
            why="its updates are sent as they are",
            fix="look at task.secure_aggregation first",
        )
    return SessionConfig(
        task=task.digest,
        layout=task.layout,
        profile=Profile.MALICIOUS if terms.profile == "malicious" else Profile.SEMI_HONEST,
        gamma=terms.gamma,
        delta=terms.delta,
        sigma=terms.sigma,
        eta=terms.eta,
        clipping_norm=0.0 if plan is None else float(plan.clipping_norm),
        noise_multiplier=0.0 if plan is None else float(plan.noise_multiplier),
    )


def policy_of(task: Task) -> RoundPolicy:
    """Cohort, deadlines and attempts; compute and upload are one phase of a round."""
    deadlines, terms = task.deadlines, task.secure_aggregation
    seconds = {
        Phase.SELECTING: deadlines.selecting_s,
        Phase.COLLECTING: deadlines.compute_s + deadlines.upload_s,
    }
    if terms is not None:
        seconds[Phase.KEYS] = deadlines.keys_s
        seconds[Phase.SHARES] = deadlines.shares_s
        seconds[Phase.UNMASKING] = deadlines.unmasking_s
        if terms.profile == "malicious":
            seconds[Phase.CONFIRMING] = deadlines.confirming_s
    return RoundPolicy(
        secure=terms is not None,
        confirming=terms is not None and terms.profile == "malicious",
        goal=task.cohort.goal,
        minimum=task.cohort.minimum,
        select=task.cohort.select,
        durations={phase: max(1, round(1000 * value)) for phase, value in seconds.items()},
        max_attempts=task.rounds.max_attempts,
    )


def selection_of(task: Task, estimate: DropoutEstimate) -> int:
    """How many clients to select where so many are lost: from the goal to `cohort.select`.

    Under secure aggregation so many that the task's minimum of them can be summed. A task with
    privacy always selects as many as its noise was planned for.
    """
    cohort, terms = task.cohort, task.secure_aggregation
    if task.plan is not None:
        return cohort.select
    wanted = max(cohort.goal, min(estimate.selection(cohort.goal), cohort.select))
    if terms is None:
        return wanted
    enough = (n for n in range(wanted, cohort.select) if _can_be_summed(terms, n, cohort.minimum))
    return next(enough, cohort.select)


def _can_be_summed(terms: SecAggSpec, clients: int, reports: int) -> bool:
    try:
        return session_parameters(terms, clients).minimum_survivors <= reports
    except TaskError:
        return False


def _private_block(task: Task, plan: PrivacyPlan) -> Block:
    noise, norm = plan.noise, plan.contribution_norm
    if isinstance(noise, NoiseShares):
        return Block(plan.dimension, noise.slot_bits, noise.client_limit(norm), wraps=True)
    if isinstance(noise, CompactShares):
        assert noise.slot_bits is not None
        limit = min(norm, 2 ** (noise.slot_bits - 1) - 1)
        return Block(plan.wire_dimension, noise.slot_bits, limit, wraps=True)
    if plan.unit is Unit.RECORD:
        # The plan bounds the sum over all records by 2^62, whoever holds how many of them.
        return Block(plan.dimension, 64, plan.population * norm, wraps=True)
    # The central mechanism sees an exact sum, so no slot of it may overflow.
    bits = max(16, (task.cohort.select * norm).bit_length() + 1)
    return Block(plan.dimension, bits, norm)
