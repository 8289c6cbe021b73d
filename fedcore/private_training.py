"""Training that protects every record, in one call: noisy steps, each reserved in a ledger first.

What leaves a round is its parameters and the optimiser's state, which the ledger makes durable
before anybody sees them; losses on the training set, batch sizes and gradients do not leave.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Generic, TextIO, TypeVar

import numpy as np

from fedcore.autograd.ravel import ravel
from fedcore.data.dataset import Dataset
from fedcore.entropy import Entropy, require_entropy
from fedcore.errors import BudgetError, DivergenceError, PlanError
from fedcore.metrics import Metric
from fedcore.nn.module import Module
from fedcore.optim.optimizer import Optimizer
from fedcore.optim.schedules import Schedule
from fedcore.privacy.accounting import Accountant
from fedcore.privacy.clipping import Flat
from fedcore.privacy.dpsgd import NoisySteps
from fedcore.privacy.ledger import Ledger
from fedcore.privacy.noise import CentralNoise
from fedcore.privacy.plan import Grade, PrivacyPlan
from fedcore.privacy.sampling import Poisson, rate_of
from fedcore.privacy.units import Adjacency, Unit
from fedcore.private_checks import (
    rates_of,
    require_callables,
    require_model,
    require_paid,
    require_plan,
)
from fedcore.private_rounds import TrainingState, spent_by_round, training_terms
from fedcore.progress import Calling, Report
from fedcore.record_gradients import RecordGradients
from fedcore.step import Loss
from fedcore.tensor import blas
from fedcore.tensor.random import Key
from fedcore.tensor.tensor import tensor
from fedcore.training import as_dataset, evaluate

__all__ = ["PrivatelyFitted", "RecordGradients", "fit_private", "record_plan"]

Model = TypeVar("Model", bound=Module)
Data = Dataset | tuple[Any, Any]


@dataclass(frozen=True, slots=True)
class PrivatelyFitted(Generic[Model]):
    """What `fit_private` gives: the model, by name one value a round, and what it cost.

    `rounds`: how many it was trained for, of `rounds_planned`; fewer if the budget ended before.
    `rounds_restored`: how many of them came from the ledger, trained by an earlier call.
    """

    model: Model
    history: dict[str, list[float]]
    rounds: int
    rounds_planned: int
    rounds_restored: int
    epsilon: float


def record_plan(
    model: Module,
    *,
    records: int,
    batch: int,
    epochs: int,
    epsilon: float,
    clipping_norm: Fraction | float,
    delta: float | None = None,
    grade: Grade = Grade.EXACT,
    accountant: Accountant = "rdp",
) -> PrivacyPlan:
    """The plan of `fit_private` for `model` and so many epochs, with the least noise they need.

    Each of `records` records joins a step by a coin of its own, so that about `batch` do; sums are
    divided by `batch`, whoever joined. A round of the ledger is about an epoch: records / batch
    steps. `records` is public: take an upper bound if their number is not. `clipping_norm`: of one
    record's gradient. `delta`: by default records^-1.1. `accountant`: the ledger's, which is
    created with the same; "pld" needs less noise, the extra `dp`, and seconds.
    Raises: PlanError; AccountantError; InstallError.

    >>> from fedcore import nn
    >>> plan = record_plan(
    ...     nn.Linear(64, 10, key=0), records=1438, batch=360, epochs=25, epsilon=3, clipping_norm=1
    ... )
    >>> plan.dimension, plan.rounds, plan.steps, f"{float(plan.noise_multiplier):.2f}"
    (650, 25, 4, '3.27')
    """
    require_model(model)
    if type(records) is not int or type(batch) is not int or not 1 <= batch <= records:
        raise PlanError(
            f"about {batch!r:.40} of {records!r:.40} records in a step",
            why="both are public counts, and a step takes a part of the records",
            fix="pass ints with 1 <= batch <= records",
        )
    return PrivacyPlan(
        unit=Unit.RECORD,
        adjacency=Adjacency.ADD_REMOVE,
        population=records,
        sampling=Poisson(rate_of(Fraction(batch, records))),
        clipping=Flat(clipping_norm),
        noise=CentralNoise(),
        noise_multiplier=Fraction(1),
        denominator=batch,
        dimension=ravel(model)[0].size,
        rounds=epochs,
        steps=round(records / batch),
        epsilon=epsilon,
        delta=delta,
        grade=grade,
    ).calibrated(accountant=accountant)


@blas.one_thread()
def fit_private(
    model: Model,
    dataset: Data,
    *,
    loss: Loss,
    optimizer: Optimizer,
    plan: PrivacyPlan,
    ledger: Ledger,
    schedule: Schedule | None = None,
    average: float = 0.0,
    validation: Data | None = None,
    metrics: Sequence[Metric] | None = None,
    seed: int = 0,
    chunk: int | None = None,
    entropy: Entropy | None = None,
    stop_early: bool = False,
    progress: bool | Callable[[Report], bool | None] = True,
) -> PrivatelyFitted[Model]:
    """Train `model` so that `plan` holds for every record of `dataset`, a Dataset or a pair (x, y).

    Each of `plan.rounds` rounds is reserved in `ledger`, takes `plan.steps` noisy steps on records
    drawn by the plan's sampling, and is released. Rounds that the ledger has released already are
    taken from it, so that a run which was killed goes on where it stopped and pays for nothing
    twice but a round that was under way; what it is trained with has to be the same.

    `optimizer` takes the noisy mean gradients, `schedule` replaces its rate, by step. `average`:
    decay of a running mean of the parameters, which then is the model. `validation` has to be
    public: what is measured on it is shown, as `fit` does. `seed` decides what layers draw; noise
    and sampling come from the operating system. `stop_early`: go on under a plan that costs more
    than its budget, for as many rounds as that pays for. `progress` prints a line a round, or is a
    function called with a report after each; when it returns True, training ends there.

    A record whose loss or gradient cannot be computed, because its label is no class or it holds
    NaN, contributes zero, silently: an error would tell of it. Look for such records beforehand.

    Raises before anything is paid for: PlanError if the model mixes examples (it keeps statistics
    of batches) or has not the plan's dimension, the ledger follows another plan, the rounds exceed
    the budget, or released ones were trained with something else; ArgumentError and what the layers
    raise for parts that do not fit each other. Later: BudgetError if not even one round is paid
    for; DivergenceError if parameters are no longer finite; what `progress` raises.
    """
    require_callables(loss=loss, optimizer=optimizer, metrics=metrics, progress=progress)
    require_model(model)
    data = as_dataset(dataset)
    held_out = None if validation is None else as_dataset(validation)
    if entropy is not None:
        require_entropy(entropy)
    given, rebuild = ravel(model)
    theta = given.numpy().astype(np.float32)
    require_plan(plan, ledger, parameters=theta.size, records=len(data))
    gradients = RecordGradients(rebuild, loss=loss, plan=plan, chunk=chunk)
    gradients.rehearse(data.x, data.y)
    rates = rates_of(schedule, optimizer, average, steps=plan.rounds * plan.steps)
    terms = training_terms(
        model,
        rebuild.spec,
        loss=loss,
        optimizer=optimizer,
        rates=None if schedule is None else rates,
        average=average,
        seed=seed,
    )
    state = TrainingState(theta, optimizer, terms)
    key = Key(seed, "forward")
    measure = _Measure(held_out, metrics)
    measure(model)
    require_paid(plan, ledger, stop_early=stop_early)

    report = _reporter(progress, budget=plan.epsilon)
    history: dict[str, list[float]] = {}
    before = spent_by_round(ledger.directory)
    rounds = restored = 0
    for index in range(plan.rounds):
        released = ledger.released(index)
        if released is None:
            try:
                reservation = ledger.reserve(index)
            except BudgetError:
                if index == 0:
                    raise
                report.ended(rounds, plan.rounds)
                break
            steps = NoisySteps(plan, reservation, entropy=entropy)
            for step in range(index * plan.steps, (index + 1) * plan.steps):
                drawn = steps.draw(len(data))
                total = gradients.total(
                    state.theta, data.x[drawn], data.y[drawn], key=key.fold(step)
                )
                state.apply(steps.step(total), rate=float(rates[step]), step=step)
            steps.release(state.payload())
        else:
            state.restore(released, index=index)
            restored += 1
        rounds = index + 1
        _require_finite(state, rounds)
        spent = ledger.epsilon() if released is None else before[index]
        values = {"epsilon": spent} | measure(rebuild(tensor(state.trained())))
        for name, value in values.items():
            history.setdefault(name, []).append(value)
        if report.epoch(Report(index, plan.rounds, values)):
            break
    trained = rebuild(tensor(state.trained()))
    return PrivatelyFitted(trained, history, rounds, plan.rounds, restored, ledger.epsilon())


class _Measure:
    """What a model reaches on the public data, by name; without such data, nothing."""

    def __init__(self, held_out: Dataset | None, metrics: Sequence[Metric] | None) -> None:
        self._held_out, self._metrics = held_out, metrics

    def __call__(self, model: Module) -> dict[str, float]:
        if self._held_out is None:
            return {}
        with np.errstate(all="ignore"):
            found = evaluate(model, self._held_out, metrics=self._metrics)
        return {f"val_{name}": value for name, value in found.items()}


class _Told(Calling):
    """A function that is called after each round."""

    def ended(self, rounds: int, planned: int) -> None:
        """The budget pays for no further round; `PrivatelyFitted` says so too."""


class _Lines(_Told):
    """Writes one line a round: what is spent of the budget, and what was measured."""

    def __init__(self, stream: TextIO, *, budget: float) -> None:
        self._stream, self._budget = stream, budget
        self._started = time.monotonic()

    def epoch(self, report: Report) -> bool:
        now = time.monotonic()
        took, self._started = now - self._started, now
        spent, *others = report.measures.items()
        measures = "".join(f"  {name} {value:.4f}" for name, value in others)
        self._stream.write(
            f"round {report.epoch + 1}/{report.epochs}  epsilon {spent[1]:.4f} of "
            f"{self._budget:g}{measures}  {took:.1f} s\n"
        )
        self._stream.flush()
        return False

    def ended(self, rounds: int, planned: int) -> None:
        self._stream.write(f"{rounds} of {planned} rounds: the budget pays for no further one\n")
        self._stream.flush()


def _reporter(progress: bool | Callable[[Report], bool | None], *, budget: float) -> _Told:
    if callable(progress):
        return _Told(progress)
    return _Lines(sys.stdout, budget=budget) if progress else _Told(lambda report: None)


def _require_finite(state: TrainingState, rounds: int) -> None:
    """Raises: DivergenceError: what follows would be paid for, and leave the model as it is."""
    if not np.isfinite(state.theta).all():
        raise DivergenceError(
            f"fit_private: parameters are not finite after round {rounds}",
            why="the noisy steps, at their learning rate, left the region of numbers",
            fix="lower the rate; what was spent is spent, and another rate is another run",
        )
