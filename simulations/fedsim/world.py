"""A scenario's world, loaded: its data, its clients with their devices, and whether it can run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedcore.errors import TaskError
from fedsim.devices import Devices
from fedsim.partition import Heterogeneity, heterogeneity
from fedsim.population import Population
from fedsim.scenario import Scenario
from fedsim.sources import Source

__all__ = ["World"]


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """Whose data there are, and on what devices."""

    source: Source
    population: Population
    devices: Devices

    @classmethod
    def of(cls, scenario: Scenario) -> World:
        """The world of a scenario. Raises: TaskError for one in which it cannot run."""
        spec, seed = scenario.population, scenario.task.seed
        source = spec.source.load(scenario.base)
        partition = spec.partition.make(
            source.labels,
            source.ids,
            clients=spec.clients,
            seed=seed if spec.seed is None else spec.seed,
        )
        shift = None
        if spec.shift is not None:
            shift = spec.shift.make(clients=len(partition), seed=seed)
        population = Population(source.train, partition, shift=shift)
        names = population.names
        devices = Devices(scenario.devices, seed=seed, names=names, folder=scenario.base)
        world = cls(source, population, devices)
        world._require_cohort(scenario)
        world._require_classes()
        world._require_promise(scenario)
        return world

    def report(self) -> Heterogeneity:
        """How unlike the clients are."""
        return heterogeneity(self.population.partition, self.source.labels)

    def _require_cohort(self, scenario: Scenario) -> None:
        select, clients = scenario.task.cohort.select, len(self.population)
        if select > clients and scenario.clock.schedule == "synchronous":
            raise TaskError(
                f"a round selects {select} of {clients} clients",
                why="each client takes part once in a round",
                fix=f"let cohort.goal · overselection be {clients} at most, or simulate more",
                where="cohort",
            )

    def _require_classes(self) -> None:
        """Nobody learns a class that no client has."""
        source = self.source
        if source.classes is None or source.labels.ndim != 1:
            return
        held = np.unique(source.labels[self.population.partition.rows])
        missing = np.setdiff1d(np.unique(source.labels), held).tolist()
        if source.test is not None and source.test.y.ndim == 1:
            missing = sorted({*missing, *np.setdiff1d(np.unique(source.test.y), held).tolist()})
        if missing:
            raise TaskError(
                f"no client has the classes {', '.join(map(str, missing))}",
                why="the model would be measured on what nobody could teach it",
                fix="lower the partition's minimum, keep more clients, or leave the classes out",
                where="population.partition",
            )

    def _require_promise(self, scenario: Scenario) -> None:
        promise = scenario.task.privacy
        if promise is None:
            return
        by_record = promise.unit == "record"
        found = int(self.population.sizes().sum()) if by_record else len(self.population)
        if found > promise.population:
            raise TaskError(
                f"{found} {promise.unit}s, and privacy.population = {promise.population}",
                why="the promise was planned for no more, and noise for fewer would void it",
                fix=f"set privacy.population = {found}",
                where="privacy.population",
            )
