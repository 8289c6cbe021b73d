"""A simulation in one call, for whoever writes Python: all that came of it is what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import ArgumentError, DataFormatError
from fedcore.federated.flat import FlatModel
from fedcore.federated.task import Task
from fedcore.nn import Module
from fedsim.records import Result, RoundRecord
from fedsim.records.durable import disk
from fedsim.run.folder import ELSEWHERE, RunFolder, named
from fedsim.run.origin import write_base
from fedsim.run.reading import RESOLVED, read_run, read_state
from fedsim.run.simulation import plan_of, say_nothing, simulate_in_folder
from fedsim.scenario import Scenario
from fedsim.world import World

__all__ = ["Outcome", "begun", "simulate"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """What came of a simulation: its `result`, its `rounds`, and its last model `theta` (D,)."""

    task: Task
    result: Result
    rounds: tuple[RoundRecord, ...]
    theta: NDArray[np.float32]

    def model(self) -> Module:
        """The last model, to predict and evaluate with. Raises: as `FlatModel`."""
        return FlatModel(self.task).model(self.theta)


def simulate(
    scenario: Scenario,
    *,
    folder: str | Path | None = None,
    world: World | None = None,
    programs: Mapping[str, str] | None = None,
    on_round: Callable[[RoundRecord], None] | None = None,
) -> Outcome:
    """Simulates a scenario to its end.

    `folder`: of the run, as `fed sim run` leaves it but for the page of its plots; a run of this
    scenario that is there goes on, and one that has ended is told of again. By default nothing is
    kept. `world`: clients and data that are loaded, or are not the scenario's own. `programs`: by
    name, where in an installed module they are. `on_round` hears of each round that is over; what
    it raises ends the run.
    Raises: as `World.of`; ArgumentError for a folder of anything else, and while another call
    writes it; RoundOverError for a round that was given up; BudgetError if not even the first is
    paid for; DataFormatError for a folder that is damaged; CheckpointError if the disk takes
    nothing. What was finished stays in the folder.
    """
    _require_kinds(scenario, folder, world, on_round)
    if folder is None:
        with TemporaryDirectory() as root:
            return simulate(
                scenario,
                folder=Path(root) / "run",
                world=world,
                programs=programs,
                on_round=on_round,
            )
    with begun(scenario, Path(folder)) as opened:
        result = simulate_in_folder(
            scenario, opened, world=world, programs=programs, on_round=on_round or say_nothing
        )
        run = read_run(opened.path)
        state = read_state(run)
    if state is None:
        raise DataFormatError(
            f"{run.path.name} holds no model",
            where=str(run.path),
            why="the run has ended, and its checkpoint is gone",
            fix="restore checkpoint.safetensors, or simulate in another folder",
        )
    return Outcome(task=scenario.task, result=result, rounds=run.rounds, theta=state.theta)


def begun(scenario: Scenario, path: Path) -> RunFolder:
    """The run of a scenario in a folder: a new one, or the one that is there.

    Raises: as `RunFolder.create` and `RunFolder.resume`.
    """
    with disk(path, fix=ELSEWHERE):
        path = named(path)
        there = (path / RESOLVED).exists()
    if there:
        return RunFolder.resume(path, scenario_digest=scenario.digest.hex())
    folder = RunFolder.create(path.parent, plan_of(scenario), path=path)
    write_base(folder.path, scenario.base)
    return folder


def _require_kinds(scenario: object, folder: object, world: object, on_round: object) -> None:
    """Raises: ArgumentError for a value that is not what `simulate` takes there."""
    paths = folder is None or isinstance(folder, str | Path)
    for name, value, right, fix in (
        ("scenario", scenario, isinstance(scenario, Scenario), "pass Scenario.from_toml(path)"),
        ("folder", folder, paths, "pass a path, as a text or a pathlib.Path"),
        ("world", world, world is None or isinstance(world, World), "pass World.of(scenario)"),
        ("on_round", on_round, on_round is None or callable(on_round), "pass a function, or None"),
    ):
        if not right:
            raise ArgumentError(
                f"simulate: {name} is of the type {type(value).__name__}",
                why="nothing could be simulated with it",
                fix=fix,
            )
