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
from fedcore.errors import DivergenceError, UpdateError
from fedcore.federated.clipping import decode_clipping
from fedcore.federated.evaluation import measure
from fedcore.federated.flat import FlatModel
from fedcore.federated.programs import Program, TrainingRequest, TrainingResult, find_program
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
        keep what it gave. There an update that diverged counts as zeros, and nobody is told.
        Raises: CancelledError; ProgramError; UpdateError for a request of another task or model;
        PlanError for a state of clipping that is not the plan's; without privacy DivergenceError.
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
        found = self._trained(request)
        plan, weighted = self._plan, self._plan.largest_weight is not None
        weight = plan.weight(found.weight) if weighted else 1
        if self._compact is not None:
            return (self._compact.add(found.delta, round=request.round, weight=weight),)
        update = _quantised(plan, found.delta, weight, state)
        return (update.vector if self._shares is None else self._shares.add(update),)

    def _trained(self, request: TrainingRequest) -> TrainingResult:
        """What was trained, or zeros where it diverged: a failure would tell of the data."""
        try:
            found = self._program.train(request)
        except DivergenceError:
            return TrainingResult(np.zeros_like(request.theta), len(request.dataset))
        if found.delta.shape != request.theta.shape:
            raise UpdateError(
                f"a program gave an update of shape {found.delta.shape}",
                why=f"the model has {request.theta.size} numbers",
                fix="return the new parameters less those of the request",
            )
        return found


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
            measure(self._flat, request)
        total = self._total(request)
        require_wanted(request)
        return (total.vector if self._shares is None else self._shares.add(total),)

    def _total(self, request: TrainingRequest) -> IntSum:
        theta, _ = self._flat.split(request.theta)
        data = request.dataset
        drawn = draw_records(self._plan, len(data), stream=self._stream)
        key = Key(request.task.seed, "forward", round=request.round, client=request.stream)
        return self._gradients.total(theta, data.x[drawn], data.y[drawn], key=key)


def _quantised(
    plan: PrivacyPlan,
    delta: NDArray[np.float32],
    weight: Fraction | int,
    state: QuantileState | None,
) -> IntUpdate:
    if state is not None:
        return state.quantise(delta, weight=weight)
    assert isinstance(plan.clipping, Flat | PerLayer)
    return quantise(delta, clipping=plan.clipping, grid_steps=plan.grid, weight=weight)


def _has_shares(plan: PrivacyPlan) -> bool:
    return isinstance(plan.noise, NoiseShares)
