"""A run's folder belongs to one scenario and one writer, and reads back as it was written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from fedcore.autograd.ravel import Entry, Spec
from fedcore.errors import ArgumentError, CheckpointError, DataFormatError, PlanError
from fedcore.model_format import read_model
from fedsim.records import Mode
from fedsim.run.folder import RunFolder
from fedsim.run.metrics_log import line_of
from fedsim.run.reading import read_run, read_state
from tests.sim.records.samples import digest, private_record, record, theta_after
from tests.sim.run.samples import plan, state_after


def begun(root: Path, rounds: int = 3) -> Path:
    """A run of so many rounds, with a checkpoint of the last but one, that was then stopped."""
    with RunFolder.create(root, plan()) as folder:
        for round in range(rounds):
            folder.append(record(round), state_after(round) if round < rounds - 1 else None)
        return folder.path


def test_a_new_run_takes_the_first_free_number_of_its_name_and_digest(tmp_path: Path) -> None:
    names = []
    for _ in range(2):
        with RunFolder.create(tmp_path / "runs", plan("Digits & Co.")) as folder:
            names.append(folder.path.name)
    short = digest("Digits & Co.")[:8]
    assert names == [f"digits-co-{short}-1", f"digits-co-{short}-2"]
    (tmp_path / "runs" / names[0]).rename(tmp_path / "elsewhere")
    with RunFolder.create(tmp_path / "runs", plan("Digits & Co.")) as folder:
        assert folder.path.name == names[0]


@pytest.mark.parametrize("name", ["../../etc", "", "/", "a" * 300, "é\n<b>"])
def test_no_name_of_a_scenario_leads_out_of_the_root(tmp_path: Path, name: str) -> None:
    with RunFolder.create(tmp_path, plan(name)) as folder:
        assert folder.path.parent == tmp_path
        assert read_run(folder.path).record.name == name


def test_what_was_written_is_read_back_exactly(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, plan()) as folder:
        for round in range(2):
            folder.append(record(round), state_after(round))
        folder.write_model(theta_after(1))
        result = folder.finish(ended="all rounds are over")
    run = read_run(folder.path)
    assert run.rounds == (record(0), record(1))
    assert run.result == result
    assert (run.scenario, run.task) == (plan().scenario, plan().task)
    assert (folder.path / "scenario.toml").read_text() == plan().text
    state = read_state(run)
    assert state is not None
    assert state.theta.tobytes() == theta_after(1).tobytes()
    assert state.arrays["momentum"].tolist() == [1.0, 1.0, 1.0]
    assert state.texts == {"clock": "20"}


def test_the_last_model_is_a_model_file_of_named_parameters(tmp_path: Path) -> None:
    dtype = np.dtype(np.float32)
    named = Spec((Entry("layers.0.weight", (2, 2), 0), Entry("layers.0.bias", (2,), 4)), dtype)
    one = Spec((Entry("theta", (6,), 0),), dtype)
    with RunFolder.create(tmp_path, plan(mode=Mode.PLAIN)) as folder:
        for spec, known in ((named, named), (one, None)):
            with folder.write_model(theta_after(0), known).open("rb") as file:
                model = read_model(file, spec)
            assert model.vector.tobytes() == theta_after(0).tobytes()
            assert "NOT PRIVATE" in model.metadata["mode"]


def test_resuming_cuts_off_what_is_beyond_the_checkpoint_and_writes_it_again(
    tmp_path: Path,
) -> None:
    path = begun(tmp_path)
    before = (path / "metrics.jsonl").read_bytes()
    with (path / "metrics.jsonl").open("ab") as file:
        file.write(line_of(record(3))[:40])  # torn
    assert len(read_run(path).rounds) == 3
    with RunFolder.resume(path, scenario_digest=digest("digits")) as folder:
        assert folder.state is not None
        assert folder.state.rounds == len(folder.rounds) == 2
        folder.append(record(2))
    assert (path / "metrics.jsonl").read_bytes() == before


def test_a_run_without_a_checkpoint_begins_again(tmp_path: Path) -> None:
    path = begun(tmp_path, rounds=1)
    with RunFolder.resume(path, scenario_digest=digest("digits")) as folder:
        assert folder.state is None
        assert folder.rounds == ()


def test_a_run_that_has_ended_is_opened_as_it_is_and_takes_no_more(tmp_path: Path) -> None:
    path = begun(tmp_path)
    with RunFolder.resume(path, scenario_digest=digest("digits")) as folder:
        folder.append(record(2))
        result = folder.finish(ended="the accuracy that was asked for is reached")
    with RunFolder.resume(path, scenario_digest=digest("digits")) as folder:
        assert folder.result == result
        assert len(folder.rounds) == 3
        with pytest.raises(ArgumentError, match="ended"):
            folder.append(record(3))


def test_a_folder_of_another_scenario_is_refused_to_resume_and_to_begin(tmp_path: Path) -> None:
    path = begun(tmp_path)
    with pytest.raises(ArgumentError, match="another scenario"):
        RunFolder.resume(path, scenario_digest=digest("other"))
    with pytest.raises(ArgumentError) as caught:
        RunFolder.create(tmp_path, plan("other"), path=path)
    assert "another scenario" in caught.value.why
    with pytest.raises(ArgumentError) as caught:
        RunFolder.create(tmp_path, plan(), path=path)
    assert "resume" in caught.value.fix
    with pytest.raises(ArgumentError, match="not free"):
        RunFolder.create(tmp_path, plan(), path=tmp_path)
    assert len(read_run(path).rounds) == 3


def test_a_named_folder_may_be_new_or_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "deep/new"):
        with RunFolder.create(tmp_path, plan(), path=tmp_path / name) as folder:
            assert folder.run.id == Path(name).name


def test_a_second_writer_is_refused_until_the_first_has_closed(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, plan()) as folder:
        folder.append(record(0), state_after(0))
        with pytest.raises(ArgumentError, match="another process"):
            RunFolder.resume(folder.path, scenario_digest=digest("digits"))
        assert len(read_run(folder.path).rounds) == 1  # a reader needs no lock
    folder.close()
    RunFolder.resume(folder.path, scenario_digest=digest("digits")).close()


def test_a_folder_that_is_no_run_is_refused_by_all(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataFormatError, match="no folder of a run"):
            read_run(path)
        with pytest.raises(DataFormatError, match="no folder of a run"):
            RunFolder.resume(path, scenario_digest=digest("digits"))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("metrics.jsonl", lambda data: data.replace(b'"round":1', b'"round":7')),
        ("metrics.jsonl", lambda data: data.replace(b'"mode"', b'"made"', 1)),
        ("metrics.jsonl", lambda data: b"\0\n" + data),
        ("resolved.json", lambda data: data.replace(b'"format":1', b'"format":2')),
        ("resolved.json", lambda data: data[:-9]),
        ("checkpoint.safetensors", lambda data: data[:-1]),
        ("checkpoint.safetensors", lambda data: data[:-1] + bytes([data[-1] ^ 1])),
    ],
)
def test_damage_that_no_crash_makes_is_refused_and_nothing_is_cut(
    tmp_path: Path, name: str, damage: object
) -> None:
    path = begun(tmp_path)
    assert callable(damage)
    damaged = damage((path / name).read_bytes())
    (path / name).write_bytes(damaged)
    with pytest.raises(DataFormatError):
        RunFolder.resume(path, scenario_digest=digest("digits"))
    assert (path / name).read_bytes() == damaged
    with pytest.raises(DataFormatError):  # and not that it is locked
        RunFolder.resume(path, scenario_digest=digest("digits"))


def test_a_checkpoint_ahead_of_the_rounds_is_refused(tmp_path: Path) -> None:
    path = begun(tmp_path)
    first = (path / "metrics.jsonl").read_bytes().split(b"\n")[0]
    (path / "metrics.jsonl").write_bytes(first + b"\n")
    with pytest.raises(DataFormatError) as caught:
        RunFolder.resume(path, scenario_digest=digest("digits"))
    assert "2 rounds" in caught.value.why


def test_a_result_of_another_run_is_refused(tmp_path: Path) -> None:
    path = begun(tmp_path)
    with RunFolder.resume(path, scenario_digest=digest("digits")) as folder:
        folder.finish(ended="stopped")
    table = json.loads((path / "result.json").read_bytes())
    table["totals"]["rounds"] = 9
    (path / "result.json").write_text(json.dumps(table))
    with pytest.raises(DataFormatError, match="another run"):
        read_run(path)


def test_rounds_come_in_their_order_and_mode_and_with_their_own_state(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, plan()) as folder:
        with pytest.raises(ArgumentError, match="not what follows"):
            folder.append(record(1))
        with pytest.raises(ArgumentError, match="not what follows"):
            folder.append(record(0, mode=Mode.PLAIN))
        with pytest.raises(ArgumentError, match="state after"):
            folder.append(record(0), state_after(1))
        assert folder.rounds == ()


def test_a_task_with_privacy_takes_no_round_without_an_epsilon(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, plan(private=True)) as folder:
        with pytest.raises(PlanError, match="epsilon"):
            folder.append(record(0))
        folder.append(private_record(0))
    lines = (folder.path / "metrics.jsonl").read_text()
    assert json.loads(lines)["train_loss"] is None


def test_the_same_task_simulated_in_plain_needs_none(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, plan(private=True, mode=Mode.PLAIN)) as folder:
        folder.append(record(0, mode=Mode.PLAIN))
        assert len(folder.rounds) == 1


def test_a_line_that_was_half_written_is_written_again_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.write

    def half(descriptor: int, data: bytes) -> int:
        whole(descriptor, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    with RunFolder.create(tmp_path, plan()) as folder:
        folder.append(record(0))
        with monkeypatch.context() as patch:
            patch.setattr("os.write", half)
            with pytest.raises(CheckpointError):
                folder.append(record(1))
        folder.append(record(1))
        folder.append(record(2))
    assert read_run(folder.path).rounds == (record(0), record(1), record(2))


def test_a_disk_that_takes_nothing_is_said_to_and_the_run_can_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with RunFolder.create(tmp_path, plan()) as folder:
        folder.append(record(0), state_after(0))
        with monkeypatch.context() as patch:
            patch.setattr("os.write", full)
            with pytest.raises(CheckpointError, match="cannot be written") as caught:
                folder.append(record(1))
        assert "No space" in caught.value.why
    with RunFolder.resume(folder.path, scenario_digest=digest("digits")) as folder:
        folder.append(record(1))
        assert len(folder.rounds) == 2
