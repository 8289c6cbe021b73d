"""A scenario that contradicts itself names what would do, and that is simulated when it is set."""

from __future__ import annotations

import pytest

from fedcore.errors import TaskError
from fedsim import simulate
from fedsim.commands.describing import Description
from fedsim.world import World
from tests.sim.run.test_simulation import WHOEVER_COMES
from tests.sim.scenarios import scenario_of

DRAWN = (
    'unit = "client", epsilon = 30.0, delta = 1e-2, population = 12, clipping_norm = 1.0,'
    ' noise = "central", sampling_rate = 1.0'
)
BUFFERED = '[clock]\nschedule = "buffered"\nconcurrency = 4\nbuffer = 2\n'


@pytest.mark.parametrize(
    ("algorithm", "more"), [("scaffold", ""), ("fedavg", BUFFERED), ("fedbuff", BUFFERED)]
)
@pytest.mark.parametrize("mode", ["fast", "plain"])
def test_what_no_server_does_under_privacy_is_told_the_whole_way_out(
    mode: str, algorithm: str, more: str
) -> None:
    terms = {"algorithm": f'name = "{algorithm}"', "more": more}
    with pytest.raises(TaskError) as caught:
        scenario_of(**terms, mode=mode, privacy=WHOEVER_COMES)
    assert caught.value.what == "a study of a task with privacy"
    assert ('set scenario.mode = "plain"' in caught.value.fix) == (mode == "fast")
    if algorithm != "fedavg":
        scenario_of(**terms, mode="plain")


def test_a_goal_above_all_clients_is_the_most_that_coins_may_draw() -> None:
    """As of a neighbouring population with one client more."""
    scenario = scenario_of(privacy=DRAWN, goal=13, minimum=11, rounds=2)
    outcome = simulate(scenario)
    assert [record.selected for record in outcome.rounds] == [12, 12]


def test_as_many_reports_are_expected_as_coins_draw() -> None:
    scenario = scenario_of(privacy=DRAWN, goal=13, minimum=11)
    expected = Description(scenario, World.of(scenario)).data["forecast"]
    assert isinstance(expected, dict) and expected["reports"] == 12
