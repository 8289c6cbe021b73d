"""The models that clients use themselves after a run: an algorithm may make each one of its own.

The records of a run measure them on the rows that they were trained on. Whoever wants to know how
good they are on others measures these.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import DataFormatError
from fedsim.engine import Study
from fedsim.engine.client_states import ClientStates
from fedsim.engine.commits import Commits
from fedsim.engine.study_training import StudyTraining
from fedsim.modes.studies import study_plan
from fedsim.run.reading import read_run, read_state
from fedsim.scenario import Scenario
from fedsim.world import World

__all__ = ["own_models"]

_STATES: Final = "client-state"


def own_models(scenario: Scenario, world: World, path: Path) -> dict[str, NDArray[np.float32]]:
    """By client, the model (D,) that it uses itself after the run in a folder.

    It is everybody's, where the algorithm makes no other, or the client never took part. Nobody may
    write the run meanwhile.
    Raises: DataFormatError for a folder of no run of this scenario, or of one without a round.
    """
    run = read_run(path)
    state = read_state(run)
    if state is None or run.record.scenario_digest != scenario.digest.hex():
        raise DataFormatError(
            f"{path.name} holds no model of the scenario {scenario.head.name}",
            where=str(path),
            why="it has no round as yet" if state is None else "it is a run of another scenario",
            fix="simulate the scenario, and name its run's folder",
        )
    names = world.population.names
    study = _study(scenario, path)
    if study is None or not study.stateful:
        return dict.fromkeys(names, state.theta)
    places = range(len(names))
    states = ClientStates(path / _STATES, cache_bytes=0)
    try:
        states.know(places, Commits(path / _STATES).versions(places))
        training = StudyTraining(study, world.population, lanes=1, states=states)
        return {name: training.personal(state.theta, i) for i, name in enumerate(names)}
    finally:
        states.close()


def _study(scenario: Scenario, path: Path) -> Study | None:
    if not scenario.study.any:
        return None
    return Study(study_plan(scenario, path / _STATES), scenario.task)
