"""Training that protects every record, in one call: noisy steps, each reserved in a ledger first.

What leaves a round is its parameters and the optimiser's state, which the ledger makes durable
before anybody sees them; losses on the training set, batch sizes and gradients do not leave.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedcore.autograd.lanes import vmap
from fedcore.autograd.per_example import clipped_sum
from fedcore.autograd.ravel import ravel
from fedcore.autograd.replay import compile
from fedcore.autograd.tape import grad
from fedcore.data.dataset import Dataset
from fedcore.entropy import Entropy
from fedcore.errors import ArgumentError, BudgetError, PlanError
from fedcore.metrics import Metric
from fedcore.nn.context import Context
from fedcore.nn.module import Module
from fedcore.nn.state import ravel_state
from fedcore.optim.optimizer import Optimizer, State
from fedcore.optim.schedules import Schedule
from fedcore.privacy.dpsgd import NoisySteps, RecordSum, require_steps
from fedcore.privacy.ledger import Ledger
from fedcore.privacy.plan import Grade, PrivacyPlan
from fedcore.privacy.values import IntSum
from fedcore.step import Loss
from fedcore.tensor import blas
from fedcore.tensor.random import Key
from fedcore.tensor.tensor import Tensor, tensor
from fedcore.training import evaluate

__all__ = ["PrivatelyFitted", "RecordGradients", "fit_private"]

Model = TypeVar("Model", bound=Module)

_WORKING_SET = 2**19
"""Gradients worked on at once, in numbers: 2 MiB, about a core's cache."""


@dataclass(frozen=True, slots=True)
class PrivatelyFitted(Generic[Model]):
    """What `fit_private` gives: the model, by name one value a round, and what it cost.

    `rounds`: how many were taken; fewer than planned if the budget ended before.
    """

    model: Model
    history: dict[str, list[float]]
    rounds: int
    epsilon: float


class RecordGradients(Generic[Model]):
    """Sums of clipped per-example gradients of a model, on the grid of a plan.

    `rebuild` makes a model of a flat theta (D,). `loss` is one of `fedcore.nn`, applied to one
    example at a time. `chunk` examples are worked on at once; in the exact grade the result has the
    same bits for all of its values. Raises: PlanError for a unit other than the record.
    """

    def __init__(
        self,
        rebuild: Callable[[Tensor], Model],
        *,
        loss: Loss,
        plan: PrivacyPlan,
        chunk: int | None = None,
    ) -> None:
        RecordSum(plan)
        self.plan = plan
        exact = plan.grade is Grade.EXACT
        fitting = _WORKING_SET // plan.dimension if exact else 512
        if chunk is not None and (type(chunk) is not int or chunk < 1):
            raise ArgumentError(
                f"gradients of {chunk!r} examples at once",
                why="a sum is worked off in parts of so many",
                fix="pass a positive int, or None",
            )
        # A product of one row is added up in another order than one of two or more, whose rows do
        # not depend on where they stand: a record's bits are to depend on that record alone.
        self._chunk = max(2, chunk or min(512, max(8, fitting)))
        self._dtype = np.float32 if exact else np.float64

        whole = np.ones(1, self._dtype)

        def of_one(theta: Tensor, x: Any, y: Any, weight: Any, key: Any) -> Tensor:
            model = rebuild(theta)
            prediction = model(tensor(x)[None], ctx=Context(model, training=True, key=key))
            value = loss(prediction, tensor(y)[None], weight=tensor(whole))
            return tensor(weight * value)

        axes = (0, 0, 0, None)
        self._compute = compile(
            vmap(grad(of_one), in_axes=(None, *axes))
            if exact
            else clipped_sum(of_one, clip_norm=_at_most(plan.clipping_norm), in_axes=axes)
        )

    def total(
        self, theta: NDArray[np.floating[Any]], x: NDArray[Any], y: NDArray[Any], *, key: Key
    ) -> IntSum:
        """The sum over the examples x (B, ...), y (B, ...) at theta (D,); of none, zero.

        `key` draws what layers draw while they train, as dropout.
        """
        found = RecordSum(self.plan)
        theta = theta.astype(self._dtype)
        words = key.words()
        for start in range(0, len(x), self._chunk):
            rows = slice(start, start + self._chunk)
            count = len(x[rows])
            weight = (np.arange(self._chunk) < count).astype(self._dtype)
            xs, ys = (self._padded(part[rows]) for part in (x, y))
            with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
                computed = self._compute(theta, xs, ys, weight, words)
            if self.plan.grade is Grade.EXACT:
                found.add(computed.numpy()[:count])
            else:
                found.add_clipped(computed[0].numpy())
        return found.total()

    def _padded(self, rows: NDArray[Any]) -> NDArray[Any]:
        """`rows` (b, ...) with rows of zeros after them, so that each chunk replays one program."""
        dtype = self._dtype if rows.dtype.kind == "f" else rows.dtype
        padded = np.zeros((self._chunk, *rows.shape[1:]), dtype)
        padded[: len(rows)] = rows
        return padded


@blas.one_thread()
def fit_private(
    model: Model,
    dataset: Dataset,
    *,
    loss: Loss,
    optimizer: Optimizer,
    plan: PrivacyPlan,
    ledger: Ledger,
    schedule: Schedule | None = None,
    average: float = 0.0,
    validation: Dataset | None = None,
    metrics: Sequence[Metric] | None = None,
    seed: int = 0,
    chunk: int | None = None,
    entropy: Entropy | None = None,
    progress: Callable[[int, Mapping[str, float]], None] | None = None,
) -> PrivatelyFitted[Model]:
    """Train `model` so that `plan` holds for every record of `dataset`.

    Each of `plan.rounds` rounds is reserved in `ledger`, takes `plan.steps` noisy steps on records
    drawn by the plan's sampling, and is released. Rounds that the ledger has released already are
    taken from it, so that a run which was killed goes on where it stopped and pays for nothing
    twice but a round that was under way. When the budget is spent, training ends there.

    `optimizer` takes the noisy mean gradients, `schedule` replaces its rate, by step. `average`:
    decay of a running mean of the parameters, which then is the model. `validation` has to be
    public: what is measured on it is shown. `seed` decides what layers draw; noise and sampling
    come from the operating system. `progress(round, values)` is called after each.
    Raises: PlanError if the model mixes examples (it keeps statistics of batches) or has not the
    plan's dimension, or the ledger follows another plan; BudgetError if not even one round is paid
    for.
    """
    theta, rebuild = ravel(model)
    _check(theta.size, ravel_state(model)[0].size, plan, average)
    _check_data(len(dataset), plan, ledger)
    gradients = RecordGradients(rebuild, loss=loss, plan=plan, chunk=chunk)
    run = _Run(theta.numpy().copy(), optimizer.init(theta), theta.numpy().astype(np.float32))
    history: dict[str, list[float]] = {}
    rounds = 0
    for index in range(plan.rounds):
        released = ledger.released(index)
        if released is None:
            try:
                reservation = ledger.reserve(index)
            except BudgetError:
                if index == 0:
                    raise
                break
            steps = NoisySteps(plan, reservation, entropy=entropy)
            for step in range(index * plan.steps, (index + 1) * plan.steps):
                drawn = steps.draw(len(dataset))
                key = Key(seed, "forward").fold(step)
                total = gradients.total(run.theta, dataset.x[drawn], dataset.y[drawn], key=key)
                rate = optimizer.lr if schedule is None else float(schedule(step))
                run.apply(optimizer, steps.step(total), rate, average, step)
            steps.release(run.payload())
        else:
            run.restore(released)
        rounds = index + 1
        values = {"epsilon": ledger.epsilon()}
        if validation is not None:
            found = evaluate(rebuild(tensor(run.model(average))), validation, metrics=metrics)
            values |= {f"val_{name}": value for name, value in found.items()}
        for name, value in values.items():
            history.setdefault(name, []).append(value)
        if progress is not None:
            progress(index, values)
    trained = rebuild(tensor(run.model(average)))
    return PrivatelyFitted(trained, history, rounds, ledger.epsilon())


class _Run:
    """What goes from step to step, all of it computed from private gradients alone."""

    def __init__(
        self, theta: NDArray[np.float32], moments: State, mean: NDArray[np.float32]
    ) -> None:
        self.theta, self.moments, self.mean = theta, moments, mean

    def apply(
        self,
        optimizer: Optimizer,
        gradient: NDArray[np.float32],
        rate: float,
        average: float,
        step: int,
    ) -> None:
        theta, self.moments = optimizer.step(
            tensor(self.theta), tensor(gradient), self.moments, lr=rate
        )
        self.theta = theta.numpy()
        # The decay grows to `average`, so that early steps do not weigh for ever.
        decay = min(average, (1 + step) / (10 + step))
        self.mean = (decay * self.mean + (1 - decay) * self.theta).astype(np.float32)

    def model(self, average: float) -> NDArray[np.float32]:
        return (self.mean if average else self.theta).copy()

    def payload(self) -> bytes:
        arrays = [self.theta, self.mean, *(moment.numpy() for moment in self.moments)]
        return b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)

    def restore(self, payload: bytes) -> None:
        arrays = [self.theta, self.mean, *(moment.numpy() for moment in self.moments)]
        if len(payload) != sum(array.nbytes for array in arrays):
            raise PlanError(
                "a released round is not one of this model and optimiser",
                why="their parameters and state take another number of bytes",
                fix="go on with the model and optimiser that the ledger was begun with",
            )
        found, start = [], 0
        for array in arrays:
            part = payload[start : start + array.nbytes]
            found.append(np.frombuffer(part, array.dtype).reshape(array.shape).copy())
            start += array.nbytes
        self.theta, self.mean, *moments = found
        self.moments = tuple(tensor(moment) for moment in moments)


def _check(parameters: int, state: int, plan: PrivacyPlan, average: float) -> None:
    if state:
        raise PlanError(
            "private training of a model that keeps statistics of batches",
            why="a layer like BatchNorm lets every example of a batch change every other's output",
            fix="take a layer that looks at one example: GroupNorm or LayerNorm",
        )
    if parameters != plan.dimension:
        raise PlanError(
            f"a model of {parameters} parameters, planned for {plan.dimension}",
            why="the dimension of a release is public and fixed",
            fix=f"plan with dimension={parameters}",
        )
    if not 0 <= average < 1:
        raise PlanError(
            f"an average with the decay {average!r}",
            why="it is the weight of what was before",
            fix="take a number of at least 0 and below 1, like 0.99",
        )


def _check_data(records: int, plan: PrivacyPlan, ledger: Ledger) -> None:
    """What would fail later, when a round is reserved already."""
    require_steps(plan)
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


def _at_most(norm: Fraction) -> float:
    """The largest float that is not above."""
    found = float(norm)
    return math.nextafter(found, 0.0) if Fraction(found) > norm else found
