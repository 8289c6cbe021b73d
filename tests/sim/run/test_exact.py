"""What is masked and unmasked by real sessions is what is summed without masks."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedcore.federated.reference import train_in_process
from fedsim.records import digest_of
from fedsim.world import World
from tests.sim.run.test_simulation import run
from tests.sim.scenarios import scenario_of
from tests.variants import mostly_slow

MASKED = 'profile = "malicious", gamma = 0.1, delta = 0.2'
HONEST = MASKED.replace("malicious", "semi_honest")
A_FEW = "[devices]\ndropout = { keys = 0.03, upload = 0.05, confirming = 0.05, unmasking = 0.05 }\n"
RECORDS = (
    'unit = "record", epsilon = 8.0, delta = 1e-4, population = 240, clipping_norm = 1.0,'
    ' noise = "shares", sampling_rate = 0.5'
)


@pytest.mark.parametrize(
    ("secure", "workers"),
    mostly_slow([(MASKED, 2), (HONEST, 1), (MASKED, 1), (HONEST, 2)]),
)
def test_exact_and_fast_are_the_same_to_the_bit(tmp_path: Path, secure: str, workers: int) -> None:
    terms = {
        "secure": secure,
        "goal": 16,
        "minimum": 13,
        "more": A_FEW,
        "clients": 20,
        "rounds": 3,
    }
    exact = run(scenario_of(mode="exact", workers=workers, **terms), tmp_path)  # type: ignore[arg-type]
    fast = run(scenario_of(mode="fast", **terms), tmp_path)  # type: ignore[arg-type]
    assert [record.model for record in exact[1]] == [record.model for record in fast[1]]
    assert any(record.lost for record in exact[1])
    assert [record.lost for record in exact[1]] == [record.lost for record in fast[1]]


def test_an_exact_run_finds_the_models_of_the_task_in_one_process(tmp_path: Path) -> None:
    scenario = scenario_of(mode="exact", secure=MASKED, goal=12, minimum=10, rounds=2, batch_size=8)
    people = World.of(scenario).population
    expected = train_in_process(scenario.task, {one.name: one.dataset for one in people})
    _, records = run(scenario, tmp_path)
    assert [record.model for record in records] == [digest_of(theta) for theta in expected]


def test_shares_of_noise_come_through_masks_and_are_paid_for(tmp_path: Path) -> None:
    scenario = scenario_of(
        mode="exact",
        secure=MASKED,
        privacy=RECORDS,
        goal=12,
        minimum=10,
        rounds=2,
        algorithm='name = "fedsgd", lr = 0.5',
    )
    result, records = run(scenario, tmp_path)
    assert result.privacy is not None and 0 < result.privacy.epsilon <= 8.0
    assert len({record.model for record in records}) == 2
