"""A client's own model is what its algorithm made for it, and everybody's where it made none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedcore import nn
from fedcore.errors import DataFormatError
from fedcore.federated.evaluation import evaluate_sums
from fedcore.federated.flat import FlatModel
from fedcore.metrics import accuracy
from fedsim import Outcome
from fedsim.run.folder import RunFolder
from fedsim.run.own_models import own_models
from fedsim.run.reading import read_run, read_state
from fedsim.run.simulation import plan_of, simulate_in_folder
from fedsim.scenario import Scenario
from fedsim.world import World
from tests.sim.scenarios import scenario_of
from tests.variants import mostly_slow


def ran(scenario: Scenario, root: Path) -> Path:
    with RunFolder.create(root, plan_of(scenario)) as folder:
        simulate_in_folder(scenario, folder)
        return folder.path


def test_without_models_of_their_own_clients_use_everybodys(small: tuple[Outcome, Path]) -> None:
    scenario = scenario_of()
    world, path = World.of(scenario), small[1]
    state = read_state(read_run(path))
    assert state is not None
    found = own_models(scenario, world, path)
    assert list(found) == list(world.population.names)
    assert all(np.array_equal(theta, state.theta) for theta in found.values())


@pytest.mark.parametrize("algorithm", mostly_slow(['name = "fedper"', 'name = "ditto"']))
def test_models_of_their_own_are_those_that_the_run_measured(
    tmp_path: Path, algorithm: str
) -> None:
    scenario = scenario_of(mode="plain", algorithm=algorithm, clients_every=1)
    world, path = World.of(scenario), ran(scenario, tmp_path)
    flat, shares = FlatModel(scenario.task), []
    found = own_models(scenario, world, path)
    for client, theta in zip(world.population, found.values(), strict=True):
        sums = evaluate_sums(
            flat.model(theta), client.dataset, loss=nn.cross_entropy, metrics={"accuracy": accuracy}
        )
        shares.append(sums["evaluation_accuracy"] / sums["evaluation_examples"])
    result = read_run(path).result
    assert result is not None
    assert np.mean(shares) == pytest.approx(result.personal["accuracy"])
    assert len({theta.tobytes() for theta in found.values()}) > 1


def test_models_of_another_scenarios_run_are_refused(small: tuple[Outcome, Path]) -> None:
    other = scenario_of(rounds=5)
    with pytest.raises(DataFormatError, match="no model of the scenario"):
        own_models(other, World.of(other), small[1])


def test_a_run_without_a_round_has_no_models(tmp_path: Path) -> None:
    scenario = scenario_of()
    with RunFolder.create(tmp_path, plan_of(scenario)) as folder:
        path = folder.path
    with pytest.raises(DataFormatError, match="no round"):
        own_models(scenario, World.of(scenario), path)
