"""What a caller of private training can get wrong, found out before a round is paid for.

A round is spent from its reservation on, whatever fails afterwards: so all that can be known is
asked before the first.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import ArgumentError, PlanError, user_line
from fedcore.metrics import check_names
from fedcore.nn.module import Module
from fedcore.nn.state import ravel_state
from fedcore.optim.schedules import Schedule
from fedcore.privacy.dpsgd import require_steps
from fedcore.privacy.ledger import Ledger
from fedcore.privacy.plan import PrivacyPlan
from fedcore.training import takes

__all__ = [
    "rates_of",
    "require_callables",
    "require_model",
    "require_paid",
    "require_plan",
]


def require_callables(
    *, loss: object, optimizer: object, metrics: object, progress: object
) -> None:
    """Raises: ArgumentError unless each can be called as it will be, as far as it says how."""
    if not takes(loss, "prediction", "target", weight="weight"):
        raise _refused("loss", loss, "loss(prediction, target, weight=...)", "nn.cross_entropy")
    init, step = getattr(optimizer, "init", None), getattr(optimizer, "step", None)
    if (
        isinstance(optimizer, type)
        or not takes(init, "theta")
        or not takes(step, "theta", "gradient", "state", lr=0.1)
    ):
        form = "init(theta) and step(theta, gradient, state, lr=...)"
        raise _refused("optimizer", optimizer, form, "optim.SGD(lr=0.1)")
    if metrics is not None:
        if not isinstance(metrics, list | tuple) or not all(
            takes(metric, "prediction", "target") for metric in metrics
        ):
            raise _refused("metrics", metrics, "each metric(prediction, target)", "[accuracy]")
        check_names(metrics)
    if not isinstance(progress, bool | np.bool_) and not takes(progress, "report"):
        raise _refused("progress", progress, "progress(report)", "True, or a function of a Report")


def require_model(model: object) -> None:
    """Raises: ArgumentError for what is no module; PlanError if it keeps statistics of batches."""
    if not isinstance(model, Module):
        raise ArgumentError(
            f"private training: the model is {model!r:.80}",
            where=user_line(),
            why="parameters are found in a module, made with its sizes",
            fix="pass an nn.Module such as nn.Sequential(...)",
        )
    if ravel_state(model)[0].size:
        raise PlanError(
            "private training of a model that keeps statistics of batches",
            why="a layer like BatchNorm lets every example of a batch change every other's output",
            fix="take a layer that looks at one example: GroupNorm or LayerNorm",
        )


def require_plan(plan: PrivacyPlan, ledger: Ledger, *, parameters: int, records: int) -> None:
    """Raises: PlanError unless the plan is for this model and data, and the ledger follows it."""
    require_steps(plan)
    if parameters != plan.dimension:
        raise PlanError(
            f"a model of {parameters} parameters, planned for {plan.dimension}",
            why="the dimension of a release is public and fixed",
            fix=f"plan with dimension={parameters}",
        )
    if ledger.plan.digest != plan.digest:
        raise PlanError(
            "a ledger that follows another plan",
            why="what it charges and has released belongs to that plan",
            fix="create a ledger with this plan, or migrate() it",
        )
    if records > plan.population:
        raise PlanError(
            f"a data set of more records than the {plan.population} that were planned for",
            why="delta and the rounding of sums were settled for so many",
            fix="plan for a population that is a public upper bound",
        )


def require_paid(plan: PrivacyPlan, ledger: Ledger, *, stop_early: bool) -> None:
    """Raises: PlanError if the budget does not pay for the plan's rounds, unless that is meant.

    Rounds that were lost to crashes are not counted: a run that has lost one goes on.
    """
    history = ledger.history
    reserved = history.segment.counts.get(plan.event, 0)
    missing = {plan.event: max(0, plan.rounds - reserved)}
    if stop_early or history.epsilon(missing) <= plan.epsilon:
        return
    paid = reserved + ledger.remaining_rounds()
    accountant = history.accountant
    raise PlanError(
        f"a budget that pays for {paid} of the plan's {plan.rounds} rounds",
        why=f"by the ledger's accountant, {accountant}, all of them cost epsilon = "
        f"{history.epsilon(missing):.4g} of {plan.epsilon:.4g}",
        fix=f'take the noise of plan.calibrated(accountant="{accountant}"), or if the plan was '
        f"calibrated by another accountant, its ledger: Ledger.create(..., accountant=...); to "
        f"train for as many rounds as are paid for, pass stop_early=True",
    )


def rates_of(
    schedule: Schedule | None, optimizer: object, average: object, *, steps: int
) -> NDArray[np.float64]:
    """The learning rate of each step. Raises: ArgumentError if one is none; PlanError."""
    if not isinstance(average, Real) or not 0 <= float(average) < 1:
        raise PlanError(
            f"an average with the decay {average!r:.80}",
            why="it is the weight of what was before",
            fix="take a number of at least 0 and below 1, like 0.99",
        )
    if schedule is None:
        return np.full(steps, _rate(getattr(optimizer, "lr", None), "the optimizer's lr"))
    if not takes(schedule, 0):
        raise _refused("schedule", schedule, "schedule(step)", "optim.constant(0.1)")
    return np.array([_rate(schedule(step), f"the rate of step {step}") for step in range(steps)])


def _rate(given: Any, name: str) -> float:
    try:
        rate = math.nan if isinstance(given, str) else float(given)
    except (TypeError, ValueError):
        rate = math.nan
    if not 0 <= rate < math.inf:
        raise ArgumentError(
            f"fit_private: {name} is {given!r:.80}",
            where=user_line(),
            why="a learning rate is finite and at least 0",
            fix="check the schedule over all steps, or use one of fedcore.optim",
        )
    return rate


def _refused(name: str, value: object, form: str, example: str) -> ArgumentError:
    return ArgumentError(
        f"fit_private: the {name} is {value!r:.80}",
        where=user_line(),
        why=f"it is called as {form}",
        fix=f"pass one that can be, like {example}",
    )
