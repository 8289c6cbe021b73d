"""What a scenario's run leaves behind is that of the same task in one process, however it ran."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedcore.errors import TaskError
from fedcore.federated.reference import train_in_process
from fedsim.records import Result, RoundRecord, digest_of
from fedsim.run.folder import RunFolder
from fedsim.run.simulation import plan_of, simulate_in_folder
from fedsim.scenario import Scenario
from fedsim.world import World
from tests.sim.scenarios import scenario_of
from tests.variants import mostly_slow

RECORDS = (
    'unit = "record", epsilon = 8.0, delta = 1e-4, population = 240, clipping_norm = 1.0,'
    ' noise = "central", sampling_rate = 0.5'
)
WHOEVER_COMES = (
    'unit = "client", epsilon = 30.0, delta = 1e-2, population = 12, clipping_norm = 1.0,'
    ' noise = "central", minimum_separation = 1, maximum_participations = 4'
)
DRAWN = (
    'unit = "client", epsilon = 8.0, delta = 1e-4, population = 300, clipping_norm = 1.0,'
    ' noise = "central", sampling_rate = 0.3, clipping = "adaptive", quantile = 0.5,'
    " clipping_rate = 0.2"
)
LOSING = "[devices]\ndropout = { training = 0.2, upload = 0.1, checked_in = 0.1 }\n"


def run(scenario: Scenario, root: Path) -> tuple[Result, list[RoundRecord]]:
    with RunFolder.create(root, plan_of(scenario)) as folder:
        result = simulate_in_folder(scenario, folder)
        return result, [record.repeatable() for record in folder.rounds]


@pytest.mark.parametrize(
    "algorithm",
    mostly_slow(['name = "fedavg"', 'name = "fedadam"', 'name = "fedsgd", lr = 0.5']),
)
def test_a_run_finds_the_models_of_the_task_in_one_process(tmp_path: Path, algorithm: str) -> None:
    scenario = scenario_of(goal=12, minimum=12, algorithm=algorithm, batch_size=8)
    people = World.of(scenario).population
    expected = train_in_process(scenario.task, {one.name: one.dataset for one in people})
    _, records = run(scenario, tmp_path)
    assert [record.model for record in records] == [digest_of(theta) for theta in expected]


@pytest.mark.parametrize(
    ("mode", "workers", "kind"),
    [
        ("fast", 2, "threads"),
        pytest.param("plain", 2, "threads", marks=pytest.mark.slow),
        # A start of processes takes a second.
        pytest.param("fast", 2, "processes", marks=pytest.mark.slow),
        pytest.param("plain", 2, "processes", marks=pytest.mark.slow),
    ],
)
def test_workers_change_nothing(tmp_path: Path, mode: str, workers: int, kind: str) -> None:
    alone = run(scenario_of(mode=mode, more=LOSING), tmp_path)
    many = run(scenario_of(mode=mode, more=LOSING, workers=workers, kind=kind), tmp_path)
    assert alone[1] == many[1]
    assert alone[0].run.scenario_digest == many[0].run.scenario_digest
    assert any(record.lost for record in alone[1])


@pytest.mark.parametrize(
    "terms",
    [
        {"privacy": RECORDS, "goal": 12, "algorithm": 'name = "fedsgd", lr = 0.5'},
        pytest.param({"privacy": WHOEVER_COMES, "goal": 12}, marks=pytest.mark.slow),
        {"privacy": DRAWN, "goal": 220, "minimum": 10, "clients": 300, "rows": 1200},
    ],
    ids=["records", "clients who come", "clients drawn"],
)
def test_a_private_run_tells_what_it_spent_and_nothing_that_was_not_released(
    tmp_path: Path, terms: dict[str, object]
) -> None:
    scenario = scenario_of(**{"minimum": 12, **terms})  # type: ignore[arg-type]
    result, records = run(scenario, tmp_path)
    spent = [record.privacy.epsilon for record in records if record.privacy]
    assert len(spent) == 4 and spent == sorted(spent) and spent[0] > 0
    assert result.privacy is not None and spent[-1] <= result.privacy.budget
    assert all(record.train_loss is None for record in records)
    assert all(record.test is not None for record in records)


@pytest.mark.parametrize("stop", mostly_slow([1, 3]))
def test_a_run_that_was_stopped_goes_on_to_the_same_end(tmp_path: Path, stop: int) -> None:
    scenario = scenario_of(more=LOSING, algorithm='name = "fedadam"')
    whole = run(scenario, tmp_path / "whole")

    def stopping(record: RoundRecord) -> None:
        if record.round == stop:
            raise KeyboardInterrupt

    with RunFolder.create(tmp_path / "parts", plan_of(scenario)) as folder:
        path = folder.path
        with pytest.raises(KeyboardInterrupt):
            simulate_in_folder(scenario, folder, on_round=stopping)
    with RunFolder.resume(path, scenario_digest=scenario.digest.hex()) as folder:
        assert folder.state is not None and folder.state.rounds == stop + 1
        result = simulate_in_folder(scenario, folder)
        assert [record.repeatable() for record in folder.rounds] == whole[1]
        assert result.model == whole[0].model
        assert simulate_in_folder(scenario, folder) == result


def test_a_private_run_that_was_stopped_pays_for_no_round_twice(tmp_path: Path) -> None:
    scenario = scenario_of(
        privacy=RECORDS, goal=12, minimum=12, algorithm='name = "fedsgd", lr = 0.5'
    )
    whole, _ = run(scenario, tmp_path / "whole")

    def stopping(record: RoundRecord) -> None:
        if record.round == 1:
            raise KeyboardInterrupt

    with RunFolder.create(tmp_path / "parts", plan_of(scenario)) as folder:
        path = folder.path
        with pytest.raises(KeyboardInterrupt):
            simulate_in_folder(scenario, folder, on_round=stopping)
    with RunFolder.resume(path, scenario_digest=scenario.digest.hex()) as folder:
        result = simulate_in_folder(scenario, folder)
    assert result.privacy == whole.privacy and result.totals.rounds == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"goal": 13}, "selects 13 of 12"),
        (
            {"privacy": RECORDS.replace("240", "100"), "algorithm": 'name = "fedsgd", lr = 1.0'},
            "240 records",
        ),
        ({"mode": "exact"}, "without secure aggregation"),
        ({"mode": "plain", "privacy": WHOEVER_COMES}, "mode plain"),
        ({"clients": 300}, "300"),
    ],
)
def test_what_cannot_run_is_refused_before_the_first_round(
    change: dict[str, object], said: str
) -> None:
    with pytest.raises((TaskError, ValueError), match=said) as refused:
        World.of(scenario_of(**change))  # type: ignore[arg-type]
    assert "Fix: " in str(refused.value)
