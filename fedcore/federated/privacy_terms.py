"""From a task's promise to the plan that keeps it: a function of the task and one number.

That number, how much noise there is, comes from a search. Everybody else only repeats the function
and compares.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Final

from fedcore.errors import FedcoreError, NoiseRoomError, ParameterError, PlanError, TaskError
from fedcore.privacy import (
    Adaptive,
    Adjacency,
    CentralNoise,
    CompactShares,
    Flat,
    NoiseShares,
    PerLayer,
    Poisson,
    PrivacyPlan,
    Uncontrolled,
    Unit,
    rate_of,
)
from fedcore.privacy.accounting import account
from fedcore.privacy.noise import Noise
from fedcore.privacy.plan import Clipping
from fedcore.secagg import LARGEST_SESSION, Parameters, Profile, parameters

if TYPE_CHECKING:
    from fedcore.federated.spec import PrivacySpec, SecAggSpec
    from fedcore.federated.task import Task

__all__ = [
    "calibrated_plan",
    "expected_units",
    "parameters_among",
    "plan_of",
    "require_plan",
    "session_parameters",
]

_WIDEST: Final = 64  # bits of a slot
_LARGEST_EPSILON: Final = 1e6


def session_parameters(terms: SecAggSpec, clients: int) -> Parameters:
    """Degree and threshold for so many clients.

    Raises: TaskError, with the nearest number of clients for which there are any.
    """
    try:
        return parameters_among(terms, clients)
    except ParameterError as error:
        nearest = next((n for n in range(clients + 1, 65) if _works(terms, n)), None)
        raise TaskError(
            f"secure aggregation among {clients} clients: {error.what}",
            why=error.why,
            # A task writes 9/20 for what is Fraction(9, 20) in Python.
            fix=f"select {nearest} clients"
            if nearest
            else re.sub(r"Fraction\((\d+), (\d+)\)", r"\1/\2", error.fix),
            where="secure_aggregation",
        ) from error


def parameters_among(terms: SecAggSpec, clients: int) -> Parameters:
    """The same, for who tries many: nothing nearest is looked for. Raises: ParameterError."""
    return parameters(
        clients,
        profile=Profile.MALICIOUS if terms.profile == "malicious" else Profile.SEMI_HONEST,
        gamma=terms.gamma,
        delta=terms.delta,
        sigma=terms.sigma,
        eta=terms.eta,
        beacon=False,
    )


def plan_of(task: Task, noise_multiplier: Fraction) -> PrivacyPlan:
    """The plan of a task with privacy and a known dimension. Raises: PlanError, TaskError."""
    promise, parts = task.privacy, task.model.parts
    assert promise is not None and parts is not None
    of_records = promise.unit == "record"
    sampled = promise.sampling_rate is not None
    denominator = promise.denominator or max(1, round(expected_units(task)))
    return PrivacyPlan(
        unit=Unit.RECORD if of_records else Unit.CLIENT,
        adjacency=Adjacency.ADD_REMOVE if sampled else Adjacency.ZERO_OUT,
        population=promise.population,
        sampling=_sampling(task, promise),
        clipping=_clipping(promise, parts, denominator),
        noise=_noise(task, promise),
        noise_multiplier=noise_multiplier,
        denominator=denominator,
        dimension=sum(parts) + (promise.clipping == "adaptive"),
        rounds=task.rounds.count,
        epsilon=promise.epsilon,
        delta=promise.delta,
        largest_weight=promise.largest_weight,
    )


def calibrated_plan(task: Task) -> PrivacyPlan:
    """The plan with the least noise that keeps the promise.

    Raises: TaskError; PlanError; NoiseRoomError, with the nearest promise whose noise has room.
    """
    try:
        return plan_of(task, Fraction(1)).calibrated()
    except NoiseRoomError as error:
        # No task names grid steps or bits of a compact slot: they follow from the noise.
        error.fix = " or ".join(_planned_by(task)) or "take another epsilon"
        raise


def _planned_by(task: Task) -> Iterator[str]:
    """What to set, each alone, for the noise to find room. Every one was tried."""
    promise = task.privacy
    assert promise is not None
    if promise.noise == "compact" and _is_planned(task, replace(promise, noise="shares")):
        yield 'set privacy.noise = "shares"'
    if promise.noise == "shares":
        wide = replace(promise, slot_bits=_WIDEST)
        epsilon = _nearest_epsilon(task, wide, promise.epsilon)
        if epsilon is not None:
            widths = range((promise.slot_bits or 32) + 1, _WIDEST + 1)
            near = replace(promise, epsilon=epsilon)
            fits = partial(_fits, task, near)
            said = f" and privacy.epsilon = {epsilon:g}" if epsilon != promise.epsilon else ""
            yield f"set privacy.slot_bits = {widths[bisect_left(widths, True, key=fits)]}{said}"
    epsilon = _nearest_epsilon(task, promise, promise.epsilon)
    if epsilon is not None:
        yield f"set privacy.epsilon = {epsilon:g}"


def _nearest_epsilon(task: Task, promise: PrivacySpec, wanted: float) -> float | None:
    """That for whose noise there is room, within a factor of 1.25; more first, then less."""
    tried = [wanted, *(wanted * 1.25**power for power in range(1, 200))]
    tried += [wanted * 0.8**power for power in range(1, 50)]
    for each in (float(f"{one:.3g}") for one in tried if one <= _LARGEST_EPSILON):
        if _is_planned(task, replace(promise, epsilon=each)):
            return each
    return None


def _fits(task: Task, promise: PrivacySpec, slot_bits: int) -> bool:
    return _is_planned(task, replace(promise, slot_bits=slot_bits))


def _is_planned(task: Task, promise: PrivacySpec) -> bool:
    try:
        return bool(plan_of(replace(task, privacy=promise), Fraction(1)).calibrated())
    except FedcoreError:
        return False


def require_plan(task: Task, plan: PrivacyPlan) -> None:
    """That a plan is what its task says, and keeps the promise: nobody has to search for noise.

    Raises: TaskError; PlanError for terms that contradict each other.
    """
    expected = plan_of(task, plan.noise_multiplier)
    if expected != plan:
        raise TaskError(
            "the plan is not what follows from the task",
            why="every term of a plan but its noise multiplier follows from [privacy], model, "
            "rounds and cohort",
            fix="resolve the task anew",
            where="plan",
        )
    spent = account(
        plan.spend(plan.reservations),
        adjacency=plan.adjacency,
        delta=plan.failure,
        accountant="rdp",
    )
    if not spent.value <= plan.epsilon:
        raise TaskError(
            f"{plan.rounds} rounds of the plan cost epsilon = {spent.value:.4g}",
            why=f"the task promises {plan.epsilon:.4g}",
            fix="resolve the task anew",
            where="plan.noise_multiplier",
        )


def expected_units(task: Task) -> Fraction:
    """How many units a round is expected to sum over."""
    promise = task.privacy
    assert promise is not None
    if promise.sampling_rate is None:
        return Fraction(task.cohort.goal)
    return promise.sampling_rate * promise.population


def _sampling(task: Task, promise: PrivacySpec) -> Poisson | Uncontrolled:
    if promise.sampling_rate is not None:
        return Poisson(rate_of(promise.sampling_rate))
    return Uncontrolled(
        minimum_separation=promise.minimum_separation or 1,
        maximum_participations=promise.maximum_participations or task.rounds.count,
    )


def _clipping(promise: PrivacySpec, parts: tuple[int, ...], denominator: int) -> Clipping:
    norm = promise.clipping_norm
    if promise.clipping == "flat":
        return Flat(norm)
    if promise.clipping == "per_layer":
        # An equal share of the square of the norm each, rounded down: McMahan et al. 1710.06963.
        share = norm * Fraction(math.isqrt(4**24 // len(parts)), 2**24)
        return PerLayer(norms=[share] * len(parts), sizes=parts)
    return Adaptive(
        norm,
        denominator,
        target_quantile=promise.quantile or Fraction(1, 2),
        learning_rate=promise.clipping_rate or Fraction(1, 5),
    )


def _noise(task: Task, promise: PrivacySpec) -> Noise:
    if promise.noise == "central":
        return CentralNoise()
    terms = task.secure_aggregation
    if terms is None:
        raise PlanError(
            f"privacy.noise = {promise.noise!r} without secure aggregation",
            why="one client's share of noise hides nothing: only the sum of all does",
            fix='take profile = "malicious", or noise = "central" and trust the server',
        )
    clients = task.cohort.select
    # A round may begin with any number of clients from the minimum on, and with fewer clients a
    # session opens a sum of fewer: the guarantee counts on the noise of the smallest.
    survivors = session_parameters(terms, task.cohort.minimum).minimum_survivors
    corrupt = session_parameters(terms, clients).corrupt
    if promise.noise == "compact":
        return CompactShares(clients=clients, survivors=survivors, corrupt=corrupt)
    slot_bits = promise.slot_bits or 32
    # Of a client's sum over many records, half of the slot's range, in a power of two.
    limit = 2 ** ((2 ** (slot_bits - 2) // clients).bit_length() - 1)
    return NoiseShares(
        clients=clients,
        survivors=survivors,
        corrupt=corrupt,
        slot_bits=slot_bits,
        limit=limit if promise.unit == "record" else None,
    )


def _works(terms: SecAggSpec, clients: int) -> bool:
    try:
        return clients <= LARGEST_SESSION and bool(parameters_among(terms, clients))
    except ParameterError:
        return False
