"""Clients of a population at work, one after another: what fails for one is told of it alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import DivergenceError, FedcoreError
from fedcore.federated.algorithms import rule_of
from fedcore.federated.choices import METRICS
from fedcore.federated.evaluation import evaluate_sums
from fedcore.federated.flat import FlatModel
from fedcore.federated.programs import Program, TrainingRequest, find_program
from fedcore.federated.task import Task
from fedcore.federated.training import LocalTraining, stream_of
from fedsim.engine.jobs import Facts
from fedsim.engine.lanes import Lanes, Pupil, Trained
from fedsim.population import Population

__all__ = ["LaneTraining", "Outcome", "ProgramTraining", "Training", "request_of", "training_of"]

Vector: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What one client's training came to.

    `delta` (D,): how its model differs from the one it was sent, valid until the next is asked for;
    None where it failed. `peak`: the largest magnitude in it. `statistics`: sums over its examples,
    by name.
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

    def train(self, members: Sequence[int], theta: Vector, facts: Facts) -> Iterator[Outcome]:
        """The clients in their order, each from the model `theta` (D,); what fails is told."""
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
        self._task, self._population = task, population
        self._flat = FlatModel(task)
        assert task.training.optimizer is not None
        optimizer = rule_of(task).local(task.training.optimizer.make())
        self._lanes = Lanes(task, self._flat, optimizer, population.data, lanes=lanes)
        self._delta = np.empty(self._flat.dimension, np.float32)

    def train(self, members: Sequence[int], theta: Vector, facts: Facts) -> Iterator[Outcome]:
        pupils = [self._pupil(member) for member in members]
        done = 0
        while done < len(pupils):
            try:
                for found in self._lanes.train(pupils[done:], theta, round=facts.round):
                    yield self._outcome(found, theta, facts)
                    done += 1
            except FedcoreError:
                # Nobody knows whose data it was among those side by side: the next one by itself.
                yield self._alone(pupils[done], theta, facts)
                done += 1

    def _pupil(self, member: int) -> Pupil:
        name = self._population.names[member]
        return Pupil(member, self._population.partition[member], stream_of(name))

    def _alone(self, pupil: Pupil, theta: Vector, facts: Facts) -> Outcome:
        try:
            [found] = self._lanes.train([pupil], theta, round=facts.round)
            return self._outcome(found, theta, facts)
        except FedcoreError as error:
            return Outcome(pupil.index, None, error=error)

    def _outcome(self, found: Trained, theta: Vector, facts: Facts) -> Outcome:
        measured = self._measured(found.pupil, theta) if facts.evaluate else {}
        delta, index = self._delta, found.pupil.index
        with np.errstate(over="ignore", invalid="ignore"):
            np.subtract(found.vector, theta, out=delta)
        peak = _peak(delta)
        if not (found.finite and math.isfinite(peak)):
            return Outcome(index, None, error=_diverged(facts.round))
        statistics = {"loss": found.loss} | measured
        return Outcome(index, delta, peak, found.examples, found.steps, statistics)

    def _measured(self, pupil: Pupil, theta: Vector) -> dict[str, float]:
        return evaluate_sums(
            self._flat.model(theta),
            self._population.data[pupil.rows],
            loss=self._flat.loss,
            metrics={name: METRICS[name] for name in self._task.evaluation.metrics},
        )


class ProgramTraining:
    """By a program, each client by itself, as on a device."""

    def __init__(self, task: Task, population: Population, program: Program) -> None:
        self._task, self._population, self._program = task, population, program

    def train(self, members: Sequence[int], theta: Vector, facts: Facts) -> Iterator[Outcome]:
        for member in members:
            request = request_of(self._task, self._population, member, theta, facts)
            try:
                found = self._program.train(request)
                peak = _peak(found.delta)
                if not math.isfinite(peak):
                    raise _diverged(facts.round)
            except Exception as error:
                yield Outcome(member, None, error=error)
                continue
            yield Outcome(member, found.delta, peak, found.weight, 0, found.statistics)


def request_of(
    task: Task, population: Population, member: int, theta: Vector, facts: Facts
) -> TrainingRequest:
    """What a round asks of a client, as its device would be asked."""
    client = population[member]
    return TrainingRequest(
        task=task,
        theta=theta,
        dataset=client.dataset,
        round=facts.round,
        stream=client.stream,
        evaluate=facts.evaluate,
        clipping=bytes.fromhex(facts.clipping),
    )


def _peak(delta: Vector) -> float:
    """The largest magnitude; NaN or infinity if there is any, in two passes that write nothing."""
    return max(-float(delta.min()), float(delta.max()))


def _diverged(round: int) -> DivergenceError:
    return DivergenceError(
        f"round {round}: what a client trained is not finite",
        why="its steps left the region where the loss is finite, or its data hold NaN or infinity",
        fix="lower the task's learning rate, and check the data with numpy.isfinite",
    )
