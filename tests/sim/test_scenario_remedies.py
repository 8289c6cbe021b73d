"""A scenario that contradicts itself names what would do, and that is simulated when it is set."""

from __future__ import annotations

import re

import pytest

from fedcore.errors import TaskError
from fedsim import simulate
from fedsim.commands.describing import Description
from fedsim.scenario import Scenario
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


STUDIES = {
    "algorithm": {"algorithm": 'name = "scaffold"'},
    "robust": {"more": 'study = { robust = { name = "median" } }'},
    "buffered": {"algorithm": 'name = "fedbuff"', "more": BUFFERED},
}


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_needs_no_terms_of_secure_aggregation(name: str) -> None:
    """Which the default profile would refuse of so small a minimum; and which no server asks."""
    text = scenario_of(**STUDIES[name], mode="plain").text
    (line,) = re.findall(r"secure_aggregation = .*\n", text)
    assert Scenario.from_toml(text.replace(line, "")).digest == Scenario.from_toml(text).digest


def test_the_mode_plain_names_what_its_sums_do_not_need() -> None:
    text = scenario_of(mode="plain").text
    masked = text.replace('profile = "off"', 'profile = "malicious"')
    with pytest.raises(TaskError) as caught:
        Scenario.from_toml(masked)
    assert 'profile = "off" alone' in caught.value.fix
    with pytest.raises(TaskError) as caught:
        Scenario.from_toml(masked.replace('"plain"', '"fast"'))
    assert "off" not in caught.value.fix


def test_no_profile_is_told_of_that_a_mode_does_not_use() -> None:
    text = scenario_of(mode="plain", minimum=6).text
    scenario = Scenario.from_toml(text.replace('profile = "off"', 'profile = "malicious"'))
    words = " ".join(Description(scenario, World.of(scenario)).words.split())
    assert "fedavg, no secure aggregation" in words and "malicious" not in words


@pytest.mark.parametrize("misspelt", ["scafold", "fedporx", "fedbuf"])
def test_algorithms_of_studies_are_known_by_their_near_names_too(misspelt: str) -> None:
    with pytest.raises(TaskError) as caught:
        scenario_of(algorithm=f'name = "{misspelt}"', mode="plain")
    near = {"scafold": "scaffold", "fedporx": "fedprox", "fedbuf": "fedbuff"}[misspelt]
    assert f"did you mean {near!r}?" in caught.value.fix
    assert "fedsgd" in caught.value.why and "scaffold" in caught.value.why
