"""Studies run from a scenario to its result, and a stop changes nothing of it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from fedcore.data import Dataset
from fedcore.errors import RoundOverError, TaskError
from fedsim.population import Population
from fedsim.records import Result, RoundRecord
from fedsim.run.folder import RunFolder
from fedsim.run.simulation import plan_of, simulate_in_folder
from fedsim.scenario import Scenario
from fedsim.world import World
from tests.sim.scenarios import scenario_of

BUFFERED = """
[clock]
schedule = "buffered"
concurrency = 6
buffer = 3
[devices]
compute = { kind = "uniform", least = 5.0, most = 50.0 }
dropout = { training = 0.1 }
"""
STUDIES = {
    "scaffold": {"algorithm": 'name = "scaffold", lr = 1.0'},
    "fednova": {"algorithm": 'name = "fednova"'},
    "feddyn": {"algorithm": 'name = "feddyn", alpha = 0.1'},
    "qfedavg": {"algorithm": 'name = "qfedavg", q = 0.5'},
    "ditto": {"algorithm": 'name = "ditto"', "clients_every": 2},
    "fedper": {"algorithm": 'name = "fedper"', "clients_every": 2},
    "krum": {"more": 'study = { robust = { name = "krum", f = 1 } }', "minimum": 6},
    "median of groups": {"more": 'study = { robust = { name = "median", groups = 3 } }'},
    "random k": {
        "more": 'study = { compression = { name = "random_k", fraction = 0.3,'
        " error_feedback = true } }"
    },
    "random k, adam": {
        "algorithm": 'name = "fedadam"',
        "more": 'study = { compression = { name = "random_k", fraction = 0.5 } }',
    },
    "fedbuff": {"algorithm": 'name = "fedbuff"', "more": BUFFERED},
}


def study_of(name: str, **options: object) -> Scenario:
    return scenario_of(**{"mode": "plain", **STUDIES[name], **options})  # type: ignore[arg-type]


def run(scenario: Scenario, root: Path) -> tuple[Result, list[RoundRecord]]:
    with RunFolder.create(root, plan_of(scenario)) as folder:
        result = simulate_in_folder(scenario, folder)
        return result, [record.repeatable() for record in folder.rounds]


QUICK = ("scaffold", "fedbuff")  # kept by clients, and buffered


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in STUDIES]
)
def test_a_study_learns_and_goes_on_after_a_stop_as_if_there_had_been_none(
    tmp_path: Path, name: str
) -> None:
    scenario = study_of(name, rounds=6)
    whole, records = run(scenario, tmp_path / "whole")
    losses = [record.test.loss for record in records if record.test]
    assert len(losses) == 6 and min(losses[1:]) < losses[0]

    def stopping(record: RoundRecord) -> None:
        if record.round == 2:
            raise KeyboardInterrupt

    with RunFolder.create(tmp_path / "parts", plan_of(scenario)) as folder:
        path = folder.path
        with pytest.raises(KeyboardInterrupt):
            simulate_in_folder(scenario, folder, on_round=stopping)
    with RunFolder.resume(path, scenario_digest=scenario.digest.hex()) as folder:
        assert simulate_in_folder(scenario, folder).model == whole.model
        assert [record.repeatable() for record in folder.rounds] == records


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(
            pytest.param(name, kind, marks=pytest.mark.slow)
            for name, kind in [
                ("scaffold", "processes"),
                ("fedbuff", "threads"),
                ("scaffold", "threads"),
                ("krum", "threads"),
                ("krum", "processes"),
                ("fedbuff", "processes"),
            ]
        ),
    ],
)
def test_workers_change_nothing_of_a_study(tmp_path: Path, name: str, kind: str) -> None:
    alone = run(study_of(name), tmp_path)
    many = run(study_of(name, workers=2, kind=kind), tmp_path)
    assert alone[1] == many[1]


def run_without_numbers(
    scenario: Scenario, root: Path, clients: Iterable[int]
) -> tuple[RoundRecord, ...]:
    """The rounds of a run in which these clients fail, because their features are NaN."""
    world = World.of(scenario)
    people, x = world.population, world.population.data.x.copy()
    for client in clients:
        x[people.partition[client]] = np.nan
    population = Population(Dataset(x, people.data.y), people.partition)
    with RunFolder.create(root, plan_of(scenario)) as folder:
        simulate_in_folder(scenario, folder, world=World(world.source, population, world.devices))
        return tuple(folder.rounds)


@pytest.mark.parametrize("name", ["fedbuff", "scaffold"])
def test_where_all_clients_fail_it_says_how_many_and_of_what(tmp_path: Path, name: str) -> None:
    with pytest.raises(RoundOverError, match=r"(step|round) 1 ") as caught:
        run_without_numbers(study_of(name), tmp_path, range(12))
    assert re.match(r"\d+ clients failed, the one at place \d+ with: FED-\d+", caught.value.why)


def test_an_update_that_fails_is_left_out_of_its_step_and_counts_as_lost(tmp_path: Path) -> None:
    records = run_without_numbers(study_of("fedbuff"), tmp_path, [2, 3, 4])
    failed = [record.lost.get("collecting", {}).get("failed", 0) for record in records]
    assert 0 < sum(failed) < 3 * len(records)
    for record, lost in zip(records, failed, strict=True):
        assert record.reported == record.funnel["reported"] == 3 - lost


def test_personal_models_are_measured_on_their_clients_rows(tmp_path: Path) -> None:
    result, _ = run(study_of("ditto"), tmp_path)
    assert result.clients is not None and result.clients.clients == 12
    assert result.personal.keys() == {"accuracy", "loss"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mode": "fast"}, "a study in the mode fast"),
        ({"algorithm": 'name = "fedbuff"', "more": ""}, "synchronous schedule"),
        (
            {
                "more": 'study = { robust = { name = "krum", f = 3 } }',
                "algorithm": 'name = "fedavg"',
            },
            "Krum",
        ),
    ],
)
def test_what_no_study_can_be_is_refused_before_the_first_round(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    with pytest.raises(TaskError, match=said):
        run(study_of("scaffold", **change), tmp_path)
