"""What one client puts on the wire in a round: trained, clipped, on a grid and noised as agreed.

Without privacy an update with its statistics leaves the device. Where clients are protected, it is
an update that was clipped and rounded, where records are, a sum of clipped per-example gradients;
either with this device's share of the noise, if the plan has shares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from fedcore.entropy import Entropy
from fedcore.errors import UpdateError
from fedcore.federated.clipping import decode_clipping
from fedcore.federated.evaluation import measure
from fedcore.federated.flat import FlatModel
from fedcore.federated.programs import Program, TrainingRequest, find_program
from fedcore.federated.task import Task
from fedcore.federated.training import LocalTraining, require_wanted
from fedcore.federated.update import UpdateLayout
from fedcore.privacy import (
    CompactAdder,
    CompactShares,
    Flat,
    IntSum,
    IntUpdate,
    NoiseShares,
    PerLayer,
    PrivacyPlan,
    QuantileState,
    ShareAdder,
    Stream,
    Unit,
    draw_records,
    quantise,
)
from fedcore.private_training import RecordGradients
from fedcore.tensor import blas
from fedcore.tensor.random import Key

__all__ = ["Contributor"]

Blocks = tuple[NDArray[np.int64], ...]
Vector = NDArray[np.float32]


class Contributor:
    """One client's work for one task; keeps what it compiled between rounds.

    `task`: resolved. `programs`: what the device's owner installed, by name. `entropy`: a seam for
    tests; noise and samples come from the operating system.
    Raises: ProgramError for a program or model that is not installed.
    """

    def __init__(
        self,
        task: Task,
        *,
        programs: Mapping[str, Program] | None = None,
        entropy: Entropy | None = None,
    ) -> None:
        self.task = task
        self._contribute = _way_of(task, programs or {}, entropy)

    def contribute(self, request: TrainingRequest) -> Blocks:
        """Trains, and gives the blocks of `task.layout`, in their order, ready to pack or mask.

        Under privacy the noise is in them, drawn anew at every call: call it once an attempt, and
        keep what it gave. There a program that fails, or gives what is no update, counts as zeros
        and raises nothing, because that would depend on the data; `request.failed` is told.
        Raises: CancelledError; UpdateError for a request of another task; PlanError for a state of
        clipping that is not the plan's. Without privacy also what the program raises, and
        UpdateError for what it gives.
        """
        if request.task.digest != self.task.digest:
            raise UpdateError(
                f"a request of task {request.task.name!r} to a contributor of {self.task.name!r}",
                why="programs, clipping and noise were made for one task",
                fix="make a Contributor for each task",
            )
        return self._contribute(request)


def _way_of(
    task: Task, programs: Mapping[str, Program], entropy: Entropy | None
) -> Callable[[TrainingRequest], Blocks]:
    if task.plan is not None and task.plan.unit is Unit.RECORD:
        return _OfRecords(task, task.plan, entropy)
    name = task.training.program
    program = find_program(name, {"local": LocalTraining(), **programs})
    if task.plan is None:
        return _Plain(UpdateLayout.of(task), program)
    return _OfClient(task.plan, program, entropy)


class _Plain:
    """An update with its statistics, as it is."""

    def __init__(self, layout: UpdateLayout, program: Program) -> None:
        self._layout, self._program = layout, program

    def __call__(self, request: TrainingRequest) -> Blocks:
        found = self._program.train(request)
        return self._layout.encode(found.delta, found.weight, found.statistics)


class _OfClient:
    """An update whose length is bounded: who it comes from is what noise hides."""

    def __init__(self, plan: PrivacyPlan, program: Program, entropy: Entropy | None) -> None:
        self._plan, self._program = plan, program
        self._shares = ShareAdder(plan, entropy=entropy) if _has_shares(plan) else None
        compact = isinstance(plan.noise, CompactShares)
        self._compact = CompactAdder(plan, entropy=entropy) if compact else None

    def __call__(self, request: TrainingRequest) -> Blocks:
        state = decode_clipping(self._plan, request.clipping)
        delta, weight = self._trained(request)
        if self._compact is not None:
            return (self._compact.add(delta, round=request.round, weight=weight),)
        update = _quantised(self._plan, delta, weight, state)
        return (update.vector if self._shares is None else self._shares.add(update),)

    def _trained(self, request: TrainingRequest) -> tuple[Vector, Fraction | int]:
        """What was trained and its weight, or zeros: a failure would tell of the data.

        Zeros of every weight are the same zeros, so that theirs tells nothing.
        """
        try:
            found = self._program.train(request)
            _require_update(found.delta, request.theta)
            weighted = self._plan.largest_weight is not None
            return found.delta, self._plan.weight(found.weight) if weighted else 1
        except Exception as error:
            # Whether it was cancelled says the request: a program might say so for what data hold.
            require_wanted(request)
            request.failed(error)
            return np.zeros_like(request.theta), 1


class _OfRecords:
    """A noisy step's sum: records are drawn here, and the gradient of each is clipped."""

    def __init__(self, task: Task, plan: PrivacyPlan, entropy: Entropy | None) -> None:
        self._plan, self._flat = plan, FlatModel(task)
        self._gradients = RecordGradients(self._flat.rebuild, loss=self._flat.loss, plan=plan)
        self._stream = Stream(entropy)
        self._shares = ShareAdder(plan, entropy=entropy) if _has_shares(plan) else None

    @blas.one_thread()
    def __call__(self, request: TrainingRequest) -> Blocks:
        decode_clipping(self._plan, request.clipping)
        require_wanted(request)
        if request.evaluate:
            self._measure(request)
        total = self._total(request)
        require_wanted(request)
        return (total.vector if self._shares is None else self._shares.add(total),)

    def _measure(self, request: TrainingRequest) -> None:
        """Measures for this device alone: that it fails on a record is as secret as the record."""
        try:
            measure(self._flat, request)
        except Exception as error:
            request.failed(error)

    def _total(self, request: TrainingRequest) -> IntSum:
        theta, _ = self._flat.split(request.theta)
        data = request.dataset
        drawn = draw_records(self._plan, len(data), stream=self._stream)
        key = Key(request.task.seed, "forward", round=request.round, client=request.stream)
        return self._gradients.total(theta, data.x[drawn], data.y[drawn], key=key)


def _require_update(delta: object, theta: Vector) -> None:
    """Raises: UpdateError unless a program gave finite numbers, one for each of the model's."""
    if not isinstance(delta, np.ndarray) or delta.dtype.kind != "f" or delta.shape != theta.shape:
        raise UpdateError(
            f"a program gave an update of {_described(delta)}",
            why=f"the model has {theta.size} numbers, and an update is an array of as many floats",
            fix="return the new parameters less those of the request",
        )
    if not np.isfinite(delta).all():
        raise UpdateError(
            "a program gave an update with NaN or infinity",
            why="added up, it would leave nothing of all other updates",
            fix="lower the learning rate, and check the data with numpy.isfinite",
        )


def _described(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"shape {value.shape} and {value.dtype}"
    return f"the type {type(value).__name__}"


def _quantised(
    plan: PrivacyPlan,
    delta: Vector,
    weight: Fraction | int,
    state: QuantileState | None,
) -> IntUpdate:
    if state is not None:
        return state.quantise(delta, weight=weight)
    assert isinstance(plan.clipping, Flat | PerLayer)
    return quantise(delta, clipping=plan.clipping, grid_steps=plan.grid, weight=weight)


def _has_shares(plan: PrivacyPlan) -> bool:
    return isinstance(plan.noise, NoiseShares)
