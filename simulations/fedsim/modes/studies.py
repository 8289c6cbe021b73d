"""Rounds of a study: algorithms, robust rules and compression that no server runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from fedcore.federated.algorithms import algorithm_of
from fedcore.federated.models import initial_theta
from fedcore.federated.task import Task
from fedcore.federated.update import Mean
from fedsim.algorithms import AlgorithmChoice, Turnout
from fedsim.clock import Work
from fedsim.engine import ClientReport, Engine, Facts, Study, StudyPlan
from fedsim.modes.ahead import Ahead
from fedsim.modes.means import statistics_of
from fedsim.modes.passed import Passed
from fedsim.modes.rounds import given_up, timelines_of
from fedsim.modes.state import Done, State, Vector
from fedsim.robust import Grouped, Rule
from fedsim.scenario import Scenario
from fedsim.scenario_spec import StudySpec
from fedsim.world import World

__all__ = ["Server", "StudyRounds", "mean_of_rows", "rule_of", "study_plan", "study_work"]

_MEASURED: Final = 3  # examples that are measured while one is trained on


def study_plan(scenario: Scenario, states: Path) -> StudyPlan:
    """What clients do in a scenario's study; `states`: the folder of what they keep.

    Of an algorithm that servers run, clients do their part of it.
    """
    study = scenario.study
    return StudyPlan(
        algorithm=study.algorithm or _clients_part(scenario.task),
        compression=study.compression,
        states=str(states),
    )


def _clients_part(task: Task) -> AlgorithmChoice:
    """Clients of all algorithms but fedprox train alike."""
    if task.algorithm.name != "fedprox":
        return AlgorithmChoice(name="fedavg")
    return AlgorithmChoice(name="fedprox", options=task.algorithm.options)


class Server:
    """What the server of a study makes of the mean of what clients sent."""

    def __init__(self, scenario: Scenario, study: Study, *, population: int) -> None:
        self._task, self._study, self._population = scenario.task, study, population
        # Only an algorithm of the study itself has a server's part of its own.
        self._own = scenario.study.algorithm is not None
        self._algorithm = algorithm_of(scenario.task)

    def start(self) -> State:
        """The first model, and what the server keeps beside it."""
        kept = (
            self._study.algorithm.start(self._study.trained)
            if self._own
            else self._algorithm.start()
        )
        return State(initial_theta(self._task), dict(kept))

    def sent(self, state: State) -> tuple[Vector, dict[str, Vector]]:
        """The model that clients are sent, and the vectors beside it."""
        if not self._own:
            return self._algorithm.sent(state.theta, dict(state.arrays)), {}
        head = state.theta[: self._study.trained]
        return state.theta, dict(self._study.algorithm.sent(head, state.arrays))

    def step(self, state: State, mean: Vector, number: int, reports: int) -> State:
        """The state after a mean of so many clients' vectors; its clock is that before."""
        vector, remembered = self._study.decode(mean, round=number)
        if not self._own:
            whole = Mean(np.concatenate([vector, remembered]), 1.0, reports, {})
            theta, kept = self._algorithm.apply(
                state.theta, whole, dict(state.arrays), round=number
            )
            return replace(state, theta=theta, arrays=kept)
        trained = self._study.trained
        told = Turnout(round=number, reports=reports, population=self._population)
        head, arrays = self._study.algorithm.apply(
            state.theta[:trained], vector, state.arrays, told
        )
        theta = np.concatenate([head, state.theta[trained:] + remembered])
        return replace(state, theta=theta.astype(np.float32, copy=False), arrays=dict(arrays))


def study_work(scenario: Scenario, world: World) -> Work:
    """What a round of a study asks of devices: its vectors, packed as the task packs updates.

    An example that is measured counts a third of one that is trained on, whose way back through
    the model takes twice as long as its way there. Source: Kaplan et al., "Scaling laws for neural
    language models", 2020, section 2.1.
    """
    study = Study(study_plan(scenario, Path()), scenario.task)
    server = Server(scenario, study, population=len(world.population))
    _, beside = server.sent(server.start())
    sizes = world.population.sizes()
    work = Work.of(scenario.task, sizes)
    measured = -(-sizes // _MEASURED) if study.algorithm.measures else 0
    return replace(
        work,
        examples=study.algorithm.trainings * work.examples + measured,
        model_bytes=work.model_bytes + sum(vector.nbytes for vector in beside.values()),
        update_bytes=math.ceil(work.update_bytes * study.length / scenario.task.dimension),
    )


class StudyRounds:
    """Synchronous rounds of a study, in floating sums."""

    def __init__(self, scenario: Scenario, world: World, engine: Engine) -> None:
        self._task, self._engine = scenario.task, engine
        assert engine.plan.study is not None
        self._study = Study(engine.plan.study, scenario.task)
        self._server = Server(scenario, self._study, population=len(world.population))
        self._rule = rule_of(scenario.study, scenario.task.cohort.minimum)
        clock, _ = timelines_of(scenario, world)
        self._ahead = Ahead(clock, study_work(scenario, world), engine)

    def start(self) -> State:
        return self._server.start()

    def begin(self, number: int) -> None:
        self._engine.rewind(number)

    def kept(self, number: int) -> None:
        self._engine.prune(number)

    def round(self, number: int, before: State) -> Done:
        theta, sent = self._server.sent(before)
        failing: dict[int, str] = {}
        while True:
            timeline = self._ahead.round(number, before.clock, failing=failing.keys())
            if not timeline.completed:
                raise given_up(number, timeline, failing)
            if number + 1 < self._task.rounds.count:
                self._ahead.look(number + 1, timeline.after)
            survivors = timeline.last.survivors
            mean, reports = self._mean(survivors, theta, sent, Facts(number))
            if not (failed := {one.index: one.failure for one in reports if one.failure}):
                break
            self._engine.discard(number)
            failing |= failed
        self._engine.commit(number, survivors)
        after = self._server.step(before, mean, number, len(reports))
        loss = statistics_of(reports)["loss"]
        return Done(
            replace(after, clock=timeline.after), Passed.of_timeline(timeline), reports, loss
        )

    def _mean(
        self, cohort: Sequence[int], theta: Vector, sent: dict[str, Vector], facts: Facts
    ) -> tuple[Vector, tuple[ClientReport, ...]]:
        if self._rule is None:
            summed = self._engine.sum(cohort, theta, facts, sent=sent)
            weight = sum(report.weight for report in summed.reports)
            if summed.vector is None:
                return np.empty(0, np.float32), summed.reports
            return (summed.vector / np.float32(weight)).astype(np.float32), summed.reports
        rows, reports = self._engine.rows(cohort, theta, facts, sent=sent)
        if any(report.failure for report in reports):
            return np.empty(0, np.float32), reports
        by_place = {report.index: report.weight for report in reports}
        weights = np.array([by_place[place] for place in cohort], np.float64)
        if isinstance(self._rule, Grouped):
            seed, round = self._task.seed, facts.round
            return self._rule(rows, weights, seed=seed, round=round), reports
        return self._rule(rows, weights), reports


def mean_of_rows(rows: Vector, weights: Sequence[float]) -> Vector:
    """Σ w_i·row_i / n, in the order of the n rows, one or more."""
    total = np.zeros(rows.shape[1], np.float32)
    for row, weight in zip(rows, weights, strict=True):
        total += np.float32(weight) * row
    return total / np.float32(len(rows))


def rule_of(study: StudySpec, minimum: int) -> Rule | Grouped | None:
    """The robust rule, which has to hold for the smallest round that there may be.

    Raises: TaskError where it does not.
    """
    if study.robust is None:
        return None
    rule = study.robust.make()
    rule.require(minimum)
    return rule
