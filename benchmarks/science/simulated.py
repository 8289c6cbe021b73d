"""A scenario with some of its settings changed, simulated: its records, and clients' own models."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.records import RoundRecord
from fedsim.run.folder import RunFolder
from fedsim.run.own_models import own_models
from fedsim.run.simulation import plan_of, simulate
from fedsim.scenario import Scenario
from fedsim.sweep.changes import Change, scenario_with
from fedsim.world import World

__all__ = ["HERE", "Enough", "changed", "records_until", "simulated"]

HERE = Path(__file__).parent
"""Where the scenarios lie."""


class Enough(Exception):
    """Ends a run where it is good enough, and leaves its folder for whoever goes on."""


def changed(path: Path, settings: Mapping[str, Any], *, workers: int = 1) -> Scenario:
    """The scenario of a file with these settings, by their dotted paths."""
    scenario = scenario_with(path, [Change(name, value) for name, value in settings.items()])
    return replace(scenario, engine=replace(scenario.engine, workers=workers))


def records_until(scenario: Scenario, world: World, *, accuracy: float) -> Sequence[RoundRecord]:
    """The rounds of a run to the first that reaches this accuracy on the test set."""
    records: list[RoundRecord] = []

    def follow(record: RoundRecord) -> None:
        records.append(record)
        if record.test is not None and (record.test.accuracy or 0.0) >= accuracy:
            raise Enough

    with (
        tempfile.TemporaryDirectory() as root,
        suppress(Enough),
        RunFolder.create(Path(root), plan_of(scenario)) as folder,
    ):
        simulate(scenario, folder, world=world, on_round=follow)
    return records


def simulated(
    scenario: Scenario, world: World
) -> tuple[Sequence[RoundRecord], Mapping[str, NDArray[np.float32]]]:
    """The rounds of a run to its end, and by client the model (D,) that it uses itself then."""
    records: list[RoundRecord] = []
    with tempfile.TemporaryDirectory() as root:
        with RunFolder.create(Path(root), plan_of(scenario)) as folder:
            simulate(scenario, folder, world=world, on_round=records.append)
        return records, own_models(scenario, world, folder.path)
