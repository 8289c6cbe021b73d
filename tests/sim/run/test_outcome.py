"""One call simulates a scenario, and gives back what its folder would hold, kept or not."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

from fedcore.errors import ArgumentError, DataFormatError
from fedcore.training import accuracy, evaluate
from fedsim import Outcome, RoundRecord, Scenario, World, own_models, read_run, simulate
from fedsim.records import digest_of
from fedsim.run.origin import base_of
from tests.sim.scenarios import scenario_of


class Stopped(Exception):
    """What whoever follows a run may raise."""


def stop(record: RoundRecord) -> None:
    if record.round == 1:
        raise Stopped


def models(outcome: Outcome) -> list[str]:
    return [record.model for record in outcome.rounds]


def test_without_a_folder_the_same_is_found_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: tuple[Outcome, Path]
) -> None:
    scenario, heard = scenario_of(), list[RoundRecord]()
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    found = simulate(scenario, on_round=heard.append)
    assert not list((tmp_path / "scratch").iterdir())
    kept, _ = small
    assert models(found) == models(kept)
    assert found.theta.tobytes() == kept.theta.tobytes()
    assert tuple(heard) == found.rounds
    assert len(found.rounds) == scenario.task.rounds.count


def test_an_outcome_agrees_with_itself_and_with_its_folder(small: tuple[Outcome, Path]) -> None:
    found, path = small
    scenario = scenario_of()
    test = World.of(scenario).source.test
    assert digest_of(found.theta) == found.result.model == found.rounds[-1].model
    assert test is not None and found.result.test is not None
    measured = evaluate(found.model(), test, metrics=[accuracy])["accuracy"]
    assert measured == pytest.approx(found.result.test.accuracy)
    read = read_run(path)
    assert (read.result, read.rounds) == (found.result, found.rounds)
    assert all(
        np.array_equal(theta, found.theta)
        for theta in own_models(scenario, World.of(scenario), path).values()
    )


def test_what_a_follower_raises_ends_the_run_and_the_same_call_goes_on_to_the_same_models(
    tmp_path: Path, small: tuple[Outcome, Path]
) -> None:
    scenario, path, heard = scenario_of(), tmp_path / "run", list[RoundRecord]()
    with pytest.raises(Stopped):
        simulate(scenario, folder=path, on_round=stop)
    assert read_run(path).result is None
    found = simulate(scenario, folder=path, on_round=heard.append)
    assert 0 < len(heard) < len(found.rounds)
    assert models(found) == models(small[0])


def test_a_run_that_has_ended_is_told_of_again_and_not_simulated(
    tmp_path: Path, small: tuple[Outcome, Path]
) -> None:
    found, ended = small
    scenario, path = scenario_of(), Path(shutil.copytree(ended, tmp_path / "run"))
    again = simulate(scenario, folder=path, on_round=stop)
    assert (again.result, again.rounds) == (found.result, found.rounds)
    assert again.theta.tobytes() == found.theta.tobytes()
    (path / "checkpoint.safetensors").unlink()
    with pytest.raises(DataFormatError, match="no model"):
        simulate(scenario, folder=path)


def test_a_folder_may_be_empty_but_hold_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    simulate(scenario_of(), folder=tmp_path / "empty")
    with pytest.raises(ArgumentError, match="another scenario"):
        simulate(scenario_of(rounds=5), folder=tmp_path / "empty")
    with pytest.raises(ArgumentError, match="not free"):
        simulate(scenario_of(), folder=tmp_path)
    with pytest.raises(DataFormatError, match="no folder of a run"):
        read_run(tmp_path)


def test_the_commands_can_take_up_what_a_program_began(
    tmp_path: Path, small: tuple[Outcome, Path]
) -> None:
    source = tmp_path / "scenario.toml"
    source.write_text(scenario_of().text, "utf-8")
    scenario, path = Scenario.from_toml(source), tmp_path / "runs" / "one"
    with pytest.raises(Stopped):
        simulate(scenario, folder=path, on_round=stop)
    assert base_of(path).resolve() == tmp_path
    resumed = Scenario.from_toml(path / "scenario.toml", base=base_of(path))
    assert models(simulate(resumed, folder=path)) == models(small[0])
