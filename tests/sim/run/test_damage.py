"""A damaged file of a run is never gone on from, and what is said to do about it does."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from fedcore.checkpoint import load_checkpoint, save_checkpoint
from fedcore.errors import DataFormatError, FedcoreError, LedgerError, SimulationError
from fedsim import Outcome, RoundRecord, Scenario, simulate
from fedsim.run.reading import read_run
from tests.sim.run.test_simulation import RECORDS, WHOEVER_COMES
from tests.sim.run.test_studies import study_of
from tests.sim.scenarios import scenario_of
from tests.variants import mostly_slow

STATE = "client-state/00000"


class Stopped(Exception):
    """What whoever follows a run may raise."""


def stop(record: RoundRecord) -> None:
    if record.round == 1:
        raise Stopped


def stopped(scenario: Scenario, path: Path) -> Path:
    with pytest.raises(Stopped):
        simulate(scenario, folder=path, on_round=stop)
    return path


def models(outcome: Outcome) -> list[str]:
    return [record.model for record in outcome.rounds]


def as_it_was_told(path: Path, error: FedcoreError) -> None:
    """Removes what the remedy names."""
    found = re.search(r"remove (.+?) (?:from the run's folder )?and resume", error.fix)
    assert found is not None, error.fix
    for name in found[1].split(" and "):
        victim = path / name
        shutil.rmtree(victim) if victim.is_dir() else victim.unlink()


@pytest.fixture(scope="module")
def scaffold(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scenario, Path, list[str]]:
    """A study whose server and clients keep vectors, stopped after two rounds; all its models."""
    scenario = study_of("scaffold", clients=6)
    path = stopped(scenario, tmp_path_factory.mktemp("scaffold") / "run")
    return scenario, path, models(simulate(scenario))


@pytest.mark.parametrize("name", mostly_slow(["checkpoint", STATE, "client-state/commits"]))
def test_one_byte_of_what_a_resume_reads_is_refused_and_the_remedy_leads_to_the_same_end(
    tmp_path: Path, scaffold: tuple[Scenario, Path, list[str]], name: str
) -> None:
    scenario, whole, expected = scaffold
    path = Path(shutil.copytree(whole, tmp_path / "run"))
    victim = max(path.glob(f"{name}*/*" if "/" in name else f"{name}*"))
    data = victim.read_bytes()
    values = 8 + int.from_bytes(data[:8], "little")
    # The first value is of the state beside the model, of which no record of a round tells.
    victim.write_bytes(data[:values] + bytes([data[values] ^ 0x55]) + data[values + 1 :])
    with pytest.raises(DataFormatError, match="is damaged") as caught:
        simulate(scenario, folder=path)
    as_it_was_told(path, caught.value)
    assert models(simulate(scenario, folder=path)) == expected


def test_a_text_of_a_checkpoint_is_held_as_its_arrays_are(
    tmp_path: Path, scaffold: tuple[Scenario, Path, list[str]]
) -> None:
    scenario, whole, _ = scaffold
    path = Path(shutil.copytree(whole, tmp_path / "run"))
    victim = path / "checkpoint.safetensors"
    data = victim.read_bytes()
    place = data.index(b"state.clock")
    digit = re.compile(rb"[1-8]").search(data, place)
    assert digit is not None
    at = digit.start()
    victim.write_bytes(data[:at] + bytes([data[at] + 1]) + data[at + 1 :])
    with pytest.raises(DataFormatError, match="is damaged"):
        simulate(scenario, folder=path)


def test_a_state_that_is_lost_is_told_with_a_remedy_that_does(
    tmp_path: Path, scaffold: tuple[Scenario, Path, list[str]]
) -> None:
    scenario, whole, expected = scaffold
    path = Path(shutil.copytree(whole, tmp_path / "run"))
    next((path / STATE).iterdir()).unlink()
    with pytest.raises(SimulationError, match="is lost") as caught:
        simulate(scenario, folder=path)
    as_it_was_told(path, caught.value)
    assert models(simulate(scenario, folder=path)) == expected


def test_files_of_a_release_that_wrote_no_digest_are_gone_on_from(
    tmp_path: Path, scaffold: tuple[Scenario, Path, list[str]]
) -> None:
    scenario, whole, expected = scaffold
    path = Path(shutil.copytree(whole, tmp_path / "run"))
    for file in path.glob("client-state/*/*"):
        save_checkpoint(file, load_checkpoint(file).arrays)
    arrays, texts = load_checkpoint(path / "checkpoint.safetensors")
    texts.pop("digest")
    save_checkpoint(path / "checkpoint.safetensors", arrays, metadata=texts)
    assert models(simulate(scenario, folder=path)) == expected


@pytest.mark.parametrize("ended", mostly_slow([False, True]))
@pytest.mark.parametrize("name", mostly_slow(["checkpoint.safetensors", "metrics.jsonl"]))
def test_of_a_run_that_lost_rounds_or_its_checkpoint_the_remedy_begins_anew(
    tmp_path: Path, name: str, ended: bool, small: tuple[Outcome, Path]
) -> None:
    scenario, path = scenario_of(), tmp_path / "run"
    found, whole = small
    if ended:
        shutil.copytree(whole, path)
    else:
        stopped(scenario, path)
    data = (path / name).read_bytes()
    (path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(DataFormatError) as caught:
        simulate(scenario, folder=path)
    as_it_was_told(path, caught.value)
    assert models(simulate(scenario, folder=path)) == models(found)


@pytest.mark.parametrize("private", [False, True])
def test_a_result_that_is_damaged_is_written_again_once_it_is_removed(
    tmp_path: Path, private: bool, small: tuple[Outcome, Path]
) -> None:
    terms = {"privacy": RECORDS, "algorithm": 'name = "fedsgd", lr = 0.5'} if private else {}
    scenario, path = scenario_of(**terms), tmp_path / "run"  # type: ignore[arg-type]
    if private:
        found = simulate(scenario, folder=path)
    else:
        found, whole = small
        shutil.copytree(whole, path)
    written = (path / "result.json").read_bytes()
    (path / "result.json").write_bytes(written[:-20])
    with pytest.raises(DataFormatError, match=r"result\.json") as caught:
        read_run(path)
    as_it_was_told(path, caught.value)
    again = simulate(scenario, folder=path)
    assert (path / "result.json").read_bytes() == written
    assert np.array_equal(again.theta, found.theta)


def test_a_private_run_is_not_told_to_begin_anew_in_its_folder(tmp_path: Path) -> None:
    scenario = scenario_of(privacy=RECORDS, algorithm='name = "fedsgd", lr = 0.5')
    path = stopped(scenario, tmp_path / "run")
    data = (path / "checkpoint.safetensors").read_bytes()
    (path / "checkpoint.safetensors").write_bytes(data[:-1])
    with pytest.raises(DataFormatError) as caught:
        simulate(scenario, folder=path)
    assert caught.value.fix == "restore checkpoint.safetensors from a copy, or begin a new run"


@pytest.mark.parametrize("left", mostly_slow([16, None, 0, 32]))
def test_a_participation_key_that_is_lost_or_damaged_is_named_and_nothing_takes_its_place(
    tmp_path: Path, left: int | None
) -> None:
    """A key of 32 bytes can only be told to be wrong by the ledger."""
    scenario = scenario_of(privacy=WHOEVER_COMES, goal=12)
    path = stopped(scenario, tmp_path / "run")
    key = path / "participation.key"
    whole = key.read_bytes()
    key.unlink()
    if left is not None:
        key.write_bytes(bytes(left))
    with pytest.raises(LedgerError if left == 32 else DataFormatError) as caught:
        simulate(scenario, folder=path)
    assert "participation.key" in caught.value.fix and "restore" in caught.value.fix
    assert (key.read_bytes() if key.exists() else None) == (left if left is None else bytes(left))
    key.write_bytes(whole)
    assert len(simulate(scenario, folder=path).rounds) == scenario.task.rounds.count


def test_a_participation_key_under_which_no_names_are_kept_may_be_lost(tmp_path: Path) -> None:
    scenario = scenario_of(privacy=RECORDS, algorithm='name = "fedsgd", lr = 0.5')
    path = stopped(scenario, tmp_path / "run")
    (path / "participation.key").unlink()
    assert len(simulate(scenario, folder=path).rounds) == scenario.task.rounds.count
