"""A scenario's world, loaded: its data, its clients with their devices, and whether it can run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from fedcore.data import Dataset, concat
from fedcore.errors import ArgumentError, TaskError
from fedsim.devices import Devices
from fedsim.fit import require_batch, require_fit
from fedsim.partition import (
    HeldOutRows,
    Heterogeneity,
    Partition,
    heterogeneity,
    hold_out,
    rows_of_names,
)
from fedsim.population import Population
from fedsim.scenario import Scenario
from fedsim.sources import Source
from fedsim.sources.features import require_finite

__all__ = ["World"]

_NEGLIGIBLE: Final = 0.01
"""Of rows: a letter that a text has once is no mistake of a partition."""


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """Whose data there are, and on what devices."""

    source: Source
    population: Population
    devices: Devices

    @classmethod
    def of(cls, scenario: Scenario, *, source: Source | None = None) -> World:
        """The world of a scenario; `source`: its data, where they are not what it would load.

        Raises: ArgumentError for what is no scenario or no source; TaskError for one in which it
        cannot run; DatasetError for rows with features that are NaN or infinite; what loading the
        data raises.
        """
        if not isinstance(scenario, Scenario) or not isinstance(source, Source | None):
            raise ArgumentError(
                f"a world of {type(scenario).__name__}, and as source {type(source).__name__}",
                why="it is made from a Scenario, and from a Source where its rows come from Python",
                fix="pass Scenario.from_toml(path), and source=Source(Dataset(x, y), classes=...)",
            )
        spec, seed = scenario.population, scenario.task.seed
        source = spec.source.load(scenario.base) if source is None else source
        for rows in (source.train, source.test):
            if rows is not None:
                require_finite(rows)
        source, population = _people(scenario, source)
        names = population.names
        devices = Devices(scenario.devices, seed=seed, names=names, folder=scenario.base)
        world = cls(source, population, devices)
        world._require_cohort(scenario)
        world._require_classes()
        world._require_promise(scenario)
        require_batch(scenario.task, int(population.sizes().max(initial=0)))
        require_fit(scenario.task, source, tested=bool(scenario.head.evaluate_every))
        return world

    def report(self) -> Heterogeneity:
        """How unlike the clients are."""
        return heterogeneity(self.population.partition, self.source.labels)

    def _require_cohort(self, scenario: Scenario) -> None:
        select, clients = scenario.task.cohort.select, len(self.population)
        if scenario.draws_clients:
            return  # then it is the most that may be drawn, and not how many are
        if select > clients and scenario.clock.schedule == "synchronous":
            raise TaskError(
                f"a round selects {select} of {clients} clients",
                why="each client takes part once in a round",
                fix=f"let cohort.goal · overselection be {clients} at most, or simulate more",
                where="cohort",
            )

    def _require_classes(self) -> None:
        """Nobody learns a class that no client has. One that hardly occurs does no harm."""
        source = self.source
        if source.classes is None or source.labels.ndim != 1:
            return
        held = np.unique(source.labels[self.population.partition.rows])
        measured = source.labels if source.test is None else source.test.y
        lost = measured[~np.isin(measured, held)]
        if len(lost) > _NEGLIGIBLE * len(measured):
            missing = ", ".join(map(str, np.unique(lost).tolist()))
            raise TaskError(
                f"no client has the classes {missing}",
                why=f"the model would be measured on {len(lost)} rows that nobody could teach it",
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


def _people(scenario: Scenario, source: Source) -> tuple[Source, Population]:
    """The clients of a source, and that source, which may share their memory then."""
    spec, seed = scenario.population, scenario.task.seed
    of_partition = seed if spec.seed is None else spec.seed
    partition = spec.partition.make(
        source.labels, source.ids, clients=spec.clients, seed=of_partition
    )
    data, held = source.train, None
    if spec.held_out:
        partition, held = hold_out(partition, share=spec.held_out, seed=of_partition)
    elif scenario.head.evaluate_clients_every and spec.partition.name == "natural":
        source, data, held = _with_test_rows(source, partition)
    shift = None
    if spec.shift is not None:
        shift = spec.shift.make(clients=len(partition), seed=seed)
    return source, Population(data, partition, shift=shift, held_out=held)


def _with_test_rows(
    source: Source, partition: Partition
) -> tuple[Source, Dataset, HeldOutRows | None]:
    """Where the source says whose its test rows are: all rows together, and which each holds out.

    The source's training rows are then a view of them.
    """
    train, test = source.train, source.test
    if test is None or source.test_ids is None:
        return source, train, None
    found = rows_of_names(source.test_ids, partition.names)
    if not found.rows.size:
        return source, train, None
    data = concat([train, test], name=train.name)
    held = HeldOutRows(found.rows + len(train), found.offsets)
    return replace(source, train=data[: len(train)]), data, held
