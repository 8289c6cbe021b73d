"""Steps of FedBuff: updates from models of several ages, each as soon as enough have come.

The schedule depends on nothing that is trained. So clients that start from a version are trained
together when that version is made, all of them that a later step will use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from fedsim.clock import BufferedClock, Start, Terms
from fedsim.engine import ClientReport, Engine, Facts, Study
from fedsim.modes.means import statistics_of
from fedsim.modes.passed import Passed
from fedsim.modes.rounds import all_failed
from fedsim.modes.state import Done, State, Vector
from fedsim.modes.studies import Server, mean_of_rows, study_work
from fedsim.scenario import Scenario
from fedsim.world import World

__all__ = ["BufferedRounds"]

_VERSION: Final = "version-"


class BufferedRounds:
    """The steps of a scenario's buffered schedule; a client that fails is left out of its step.

    Models that later steps need updates of stand in the state, by their version.
    """

    def __init__(self, scenario: Scenario, world: World, engine: Engine) -> None:
        self._engine = engine
        assert engine.plan.study is not None
        study = Study(engine.plan.study, scenario.task)
        self._server = Server(scenario, study, population=len(world.population))
        self._work = study_work(scenario, world)
        self._clock = BufferedClock(scenario.clock, Terms.of(scenario.task), world.devices)
        self._count = scenario.task.rounds.count
        self._schedule = self._clock.schedule(self._work, count=self._count)
        self._rows: dict[Start, tuple[Vector | None, ClientReport]] = {}

    def start(self) -> State:
        return self._server.start()

    def begin(self, number: int) -> None:
        self._rows.clear()
        self._schedule = self._clock.schedule(self._work, count=self._count, first=number)

    def kept(self, number: int) -> None:
        """Clients keep nothing."""

    def round(self, number: int, before: State) -> Done:
        own = {name: each for name, each in before.arrays.items() if not _is_version(name)}
        models = {
            int(name.removeprefix(_VERSION)): each
            for name, each in before.arrays.items()
            if _is_version(name)
        }
        models[number] = before.theta
        step = self._schedule.step(number)
        state = replace(before, arrays=own)
        self._train(models, state)
        found = [(update, *self._rows.pop(update.start)) for update in step.updates]
        reports = tuple(report for _, _, report in found)
        failing = {report.index: report.failure for report in reports if report.failure}
        given = [(row, update.weight) for update, row, _ in found if row is not None]
        if not given:
            raise all_failed(f"step {number + 1} has no update that counts", failing)
        rows = np.array([row for row, _ in given], np.float32)
        mean = mean_of_rows(rows, [weight for _, weight in given])
        after = self._server.step(state, mean, number, len(given))
        later = {v: theta for v, theta in models.items() if self._schedule.is_needed(v)}
        arrays = {**after.arrays, **{f"{_VERSION}{v}": theta for v, theta in later.items()}}
        passed = Passed.of_step(step, failed=len(reports) - len(given))
        gave = [report for report in reports if not report.failure]
        loss = statistics_of(gave)["loss"]
        return Done(replace(after, arrays=arrays), passed, reports, loss)

    def _train(self, models: Mapping[int, Vector], state: State) -> None:
        """All who start from a version that is there, and are not trained yet."""
        for version, theta in sorted(models.items()):
            waiting = [start for start in self._schedule.starts(version) if start not in self._rows]
            for turn in sorted({start.turn for start in waiting}):
                starts = [start for start in waiting if start.turn == turn]
                self._train_turn(starts, theta, state)

    def _train_turn(self, starts: list[Start], theta: Vector, state: State) -> None:
        """Starts of different clients."""
        _, sent = self._server.sent(state)
        cohort = [start.client for start in starts]
        rows, reports = self._engine.rows(cohort, theta, Facts(starts[0].version), sent=sent)
        failed = {report.index for report in reports if report.failure}
        by_place = {report.index: report for report in reports}
        given = iter(rows)
        for start in starts:
            row = None if start.client in failed else next(given).copy()
            self._rows[start] = row, by_place[start.client]


def _is_version(name: str) -> bool:
    return name.startswith(_VERSION)
