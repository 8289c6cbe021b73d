"""What a run would refuse before its first round is refused before there is a run."""

from __future__ import annotations

import re

import pytest

from fedcore.errors import TaskError
from fedsim import simulate
from fedsim.modes.foreseen import require_possible
from fedsim.scenario import Scenario
from fedsim.world import World
from tests.sim.scenarios import scenario_of

BUFFERED = '[clock]\nschedule = "buffered"\nconcurrency = {concurrency}\nbuffer = 2\n'


def buffered(concurrency: int) -> Scenario:
    return scenario_of(
        mode="plain",
        rounds=1,
        algorithm='name = "fedbuff"',
        more=BUFFERED.format(concurrency=concurrency),
    )


def robust(rule: str, value: int) -> Scenario:
    more = f"study = {{ robust = {{ {rule.format(value)} }} }}"
    return scenario_of(mode="plain", rounds=1, goal=9, minimum=7, more=more)


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (buffered, 50),
        (lambda value: robust('name = "krum", f = {}', value), 4),
        (lambda value: robust('name = "multi_krum", m = {}', value), 40),
        (lambda value: robust('name = "bulyan", f = {}', value), 3),
        (lambda value: robust('name = "median", groups = {}', value), 20),
    ],
    ids=["concurrency", "krum", "multi_krum", "bulyan", "groups"],
)
def test_it_is_foreseen_and_runs_by_the_number_that_is_said_to_do(make: object, value: int) -> None:
    assert callable(make)
    scenario = make(value)
    with pytest.raises(TaskError) as caught:
        require_possible(scenario, World.of(scenario))
    found = re.search(r"to (\d+)", caught.value.fix)
    assert found is not None and int(found[1]) < value
    assert len(simulate(make(int(found[1]))).rounds) == 1


@pytest.mark.parametrize(
    "study", ['robust = { name = "median" }', 'compression = { name = "random_k" }']
)
def test_what_a_buffered_schedule_would_not_heed_is_refused(study: str) -> None:
    more = BUFFERED.format(concurrency=4) + f"[study]\n{study}"
    with pytest.raises(TaskError, match="buffered schedule"):
        scenario_of(mode="plain", algorithm='name = "fedbuff"', more=more)
