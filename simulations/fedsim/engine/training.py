"""Clients of a population at work, one after another: what fails for one is told of it alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import DivergenceError, ProgramError, UpdateError
from fedcore.federated.algorithms import rule_of
from fedcore.federated.flat import FlatModel
from fedcore.federated.programs import (
    Program,
    TrainingRequest,
    TrainingResult,
    find_program,
)
from fedcore.federated.task import Task
from fedcore.federated.training import LocalTraining, stream_of
from fedsim.engine.jobs import Round
from fedsim.engine.lanes import Lanes, Pupil, Trained
from fedsim.engine.measuring import Measuring
from fedsim.population import Population

__all__ = [
    "LaneTraining",
    "Outcome",
    "ProgramTraining",
    "Training",
    "diverged",
    "peak_of",
    "pupil_of",
    "request_of",
    "training_of",
]

Vector: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What one client's training came to.

    `delta` (D,): how its model differs from the one it was sent, valid until the next is asked for;
    None where it failed. `peak`: a bound of the magnitudes in it. `statistics`: sums over its
    examples, by name.
    """

    index: int
    delta: Vector | None
    peak: float = 0.0
    examples: int = 0
    steps: int = 0
    statistics: Mapping[str, float] = field(default_factory=dict)
    error: Exception | None = None


class Training(Protocol):
    """How clients train."""

    def train(self, members: Sequence[int], round: Round) -> Iterator[Outcome]:
        """The clients in their order, each from the round's model (D,); what fails is told."""
        ...


def training_of(
    task: Task, population: Population, *, programs: Mapping[str, Program], lanes: int | None
) -> Training:
    """By lanes where the task's program is the built-in one, else by the program.

    Raises: ProgramError for a model or a program that is not installed.
    """
    name = task.training.program
    if name == "local" and "local" not in programs and task.algorithm.name != "fedsgd":
        return LaneTraining(task, population, lanes=lanes)
    program = find_program(name, {"local": LocalTraining(), **programs})
    return ProgramTraining(task, population, program)


class LaneTraining:
    """By the built-in program, in `Lanes`."""

    def __init__(self, task: Task, population: Population, *, lanes: int | None) -> None:
        self._population = population
        self._flat = FlatModel(task)
        assert task.training.optimizer is not None
        optimizer = rule_of(task).local(task.training.optimizer.make())
        self._lanes = Lanes(task, self._flat, optimizer, population.data, lanes=lanes)
        self._measuring = Measuring(task, self._flat, population.data)
        self._delta = np.empty(self._flat.dimension, np.float32)

    def train(self, members: Sequence[int], round: Round) -> Iterator[Outcome]:
        pupils = [pupil_of(self._population, member) for member in members]
        trained = self._lanes.attempt(pupils, round.theta, round=round.facts.round)
        for pupil, found in zip(pupils, trained, strict=True):
            if isinstance(found, Exception):
                yield Outcome(pupil.index, None, error=found)
            else:
                yield self._outcome(found, round)

    def _outcome(self, found: Trained, round: Round) -> Outcome:
        delta, index = self._delta, found.pupil.index
        with np.errstate(over="ignore", invalid="ignore"):
            np.subtract(found.vector, round.theta, out=delta)
        peak = peak_of(delta)
        if not (found.finite and math.isfinite(peak)):
            return Outcome(index, None, error=diverged(round.facts.round))
        statistics = {"loss": found.loss}
        if round.facts.evaluate:
            try:
                statistics |= self._measuring.client(round.theta, found.pupil.rows)
            except Exception as error:
                return Outcome(index, None, error=error)
        return Outcome(index, delta, peak, found.examples, found.steps, statistics)


class ProgramTraining:
    """By a program, each client by itself, as on a device."""

    def __init__(self, task: Task, population: Population, program: Program) -> None:
        self._task, self._population, self._program = task, population, program

    def train(self, members: Sequence[int], round: Round) -> Iterator[Outcome]:
        for member in members:
            request = request_of(self._task, self._population, member, round)
            try:
                found = self._trained(request)
                peak = peak_of(found.delta)
                if not math.isfinite(peak):
                    raise diverged(round.facts.round)
            except Exception as error:
                yield Outcome(member, None, error=error)
                continue
            yield Outcome(member, found.delta, peak, found.weight, 0, found.statistics)

    def _trained(self, request: TrainingRequest) -> TrainingResult:
        """What a device would send on. Raises: UpdateError; what the program raises."""
        try:
            found = self._program.train(request)
        except SystemExit as end:
            raise ProgramError(
                "a program would end the process",
                why=f"it called sys.exit({end.code!r:.40})",
                fix="let it raise an error: then the client alone has failed",
            ) from end
        delta, weight = getattr(found, "delta", None), getattr(found, "weight", 0)
        is_vector = isinstance(delta, np.ndarray) and delta.dtype.kind == "f"
        shape = delta.shape if isinstance(delta, np.ndarray) else type(delta).__name__
        if not is_vector or shape != request.theta.shape or type(weight) is not int or weight < 1:
            raise UpdateError(
                f"a program gave an update of {shape} and the weight {weight!r:.40}",
                why=f"the model has {request.theta.size} numbers, and examples are 1 or more",
                fix="return TrainingResult(new parameters less theta, number of examples)",
            )
        return found


def pupil_of(population: Population, member: int) -> Pupil:
    """A client of the population, to be trained in lanes."""
    return Pupil(member, population.partition[member], stream_of(population.names[member]))


def request_of(task: Task, population: Population, member: int, round: Round) -> TrainingRequest:
    """What a round asks of a client, as its device would be asked."""
    client = population[member]
    return TrainingRequest(
        task=task,
        theta=round.theta,
        dataset=client.dataset,
        round=round.facts.round,
        stream=client.stream,
        evaluate=round.facts.evaluate,
        clipping=bytes.fromhex(round.facts.clipping),
    )


def peak_of(vector: Vector) -> float:
    """At least the largest magnitude; NaN or infinity if there is any.

    The length is a bound that BLAS finds in one pass that writes nothing. Where that over- or
    underflows, the magnitudes themselves are looked at.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        square = float(np.dot(vector, vector)) if vector.dtype == np.float32 else math.inf
    if 1e-30 < square < math.inf:
        return math.sqrt(square) * (1 + 1e-3)
    return max(-float(vector.min()), float(vector.max()))


def diverged(round: int) -> DivergenceError:
    """Of a client whose numbers are none."""
    return DivergenceError(
        f"round {round + 1}: what a client trained is not finite",
        why="its steps left the region where the loss is finite, or its data hold NaN or infinity",
        fix="lower the task's learning rate, and check the data with numpy.isfinite",
    )
