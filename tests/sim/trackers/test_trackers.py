"""Trackers are told all that may be shown and nothing else, and none of them stops a run."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from fedcore.errors import ArgumentError, InstallError
from fedsim.records import Mode, Result
from fedsim.trackers.jsonl import JsonlTracker
from fedsim.trackers.mlflow import MLflowTracker
from fedsim.trackers.spec import Trackers, TrackerSpec
from fedsim.trackers.tensorboard import TensorBoardTracker
from fedsim.trackers.tracker import Tracker, scalars_of
from tests.sim.records.samples import private_record, record, run_record
from tests.sim.trackers import stand_ins

CONFIG = {"scenario.clock.seed": 1, "task.model": ["dense", 62], "note": "<b>*x*</b>"}
RESULT = Result.of(run_record(), [record(0), record(1)], ended="all rounds are over")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of before, whatever a tracker adds for MLflow."""
    for name in ("MLFLOW_DISABLE_TELEMETRY", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def follow(tracker: Tracker, *, rounds: range = range(2), private: bool = False) -> None:
    made = private_record if private else record
    tracker.start(run_record(), config=CONFIG, first_round=rounds.start)
    for round in rounds:
        tracker.round(made(round))
    tracker.end(RESULT)


def test_scalars_are_all_that_was_measured() -> None:
    found = scalars_of(record())
    assert found["test/accuracy"] == 0.879
    assert found["client accuracy/p10"] == 0.6
    assert found["personal/accuracy"] == 0.91
    assert found["clients/lost in train"] == 7
    assert found["train/loss"] == 0.412


def test_under_privacy_no_scalar_is_of_what_devices_measured() -> None:
    found = scalars_of(private_record())
    assert not [n for n in found if n.startswith(("train/", "client accuracy/", "personal/"))]
    assert found["privacy/epsilon"] == 0.4
    assert found["test/accuracy"] == 0.879  # of the released model, on nobody's device


def test_names_are_such_as_every_tool_takes() -> None:
    hostile = "../é<b>'`\n" * 100
    found = scalars_of(record(personal={hostile: 1.0}, lost={hostile: {"x": 1}}))
    assert all(re.fullmatch(r"[A-Za-z0-9_./ -]{1,200}", name) for name in found)


def test_json_lines_hold_all_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "lines.jsonl"
    follow(JsonlTracker(path))
    follow(JsonlTracker(path), rounds=range(1, 2))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["event"] for line in lines] == [
        *("start", "round", "round", "end"),
        *("start", "round", "end"),
    ]
    assert lines[0]["config"] == CONFIG
    assert [line["first_round"] for line in lines if "first_round" in line] == [0, 1]
    assert lines[1]["record"]["test"]["accuracy"] == 0.879


def test_tensorboard_gets_a_start_the_settings_and_the_scalars(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    writers = stand_ins.install_tensorboard(monkeypatch)
    follow(TensorBoardTracker(Path("logs")), rounds=range(3, 5))
    (writer,) = writers
    start, settings, *rounds = writer.events
    assert (writer.folder, writer.closed) == ("logs", True)
    assert (start.step, start.session_log.status) == (3, 1)
    text = settings.summary.value[0].tensor.string_val[0].decode()
    assert Mode.FAST.words in text
    assert all(line.startswith("    ") for line in text.splitlines())
    assert [event.step for event in rounds] == [3, 4]
    told = {value.tag: value.simple_value for value in rounds[0].summary.value}
    assert told == scalars_of(record(3))


def test_mlflow_gets_the_settings_the_metrics_and_the_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept = stand_ins.install_mlflow(monkeypatch)
    follow(MLflowTracker(tmp_path / "mlruns"))
    (run,) = kept.runs.values()
    assert kept.made[0].address == (tmp_path / "mlruns").as_uri()
    assert run.params == {
        "scenario.clock.seed": "1",
        "task.model": '["dense", 62]',
        "note": "<b>*x*</b>",
    }
    assert {(m.key, m.step): m.value for m in run.metrics} == {
        (name, round): value
        for round in range(2)
        for name, value in scalars_of(record(round)).items()
    }
    assert run.tags["mode"] == Mode.FAST.words
    assert (run.tags["model"], run.status) == (RESULT.model, "FINISHED")


def test_mlflow_goes_on_with_the_run_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = stand_ins.install_mlflow(monkeypatch)
    first = MLflowTracker("http://localhost:5000")
    first.start(run_record(), config=CONFIG)
    first.round(record(0))
    first.end(None)
    assert [run.status for run in kept.runs.values()] == ["KILLED"]
    follow(MLflowTracker("http://localhost:5000"), rounds=range(1, 2))
    (run,) = kept.runs.values()
    assert sorted({metric.step for metric in run.metrics}) == [0, 1]
    assert run.status == "FINISHED"


def test_mlflow_takes_more_settings_than_fit_into_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = stand_ins.install_mlflow(monkeypatch)
    many = {f"setting.{i}": "x" * 9_000 for i in range(250)} | {"empty": ""}
    MLflowTracker("http://localhost:5000").start(run_record(), config=many)
    (run,) = kept.runs.values()
    assert len(run.params) == 251
    assert max(map(len, run.params.values())) <= 500


def test_mlflow_is_told_not_to_tell_its_makers_unless_its_user_has_chosen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_ins.install_mlflow(monkeypatch)
    MLflowTracker("http://localhost:5000")
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert "MLFLOW_ALLOW_FILE_STORE" not in os.environ
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    MLflowTracker(tmp_path)
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "false"
    assert os.environ["MLFLOW_ALLOW_FILE_STORE"] == "true"


@pytest.mark.parametrize(
    ("name", "package"), [("tensorboard", "tensorboard"), ("mlflow", "mlflow-skinny")]
)
def test_a_package_that_is_absent_is_named_with_its_extra(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in [name, *(m for m in sys.modules if m.startswith(f"{name}."))]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InstallError, match=package) as caught:
        TrackerSpec(name).open(tmp_path)
    assert caught.value.code == "FED-1001"
    assert "[track]" in caught.value.fix


def test_an_unknown_tracker_is_refused_with_the_nearest_that_there_is() -> None:
    with pytest.raises(ArgumentError) as caught:
        TrackerSpec.parse("tensorbord=logs")
    assert "tensorboard" in caught.value.fix


def test_every_tracker_has_a_place_beside_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    writers, kept = (
        stand_ins.install_tensorboard(monkeypatch),
        stand_ins.install_mlflow(monkeypatch),
    )
    folder = tmp_path / "runs" / "digits-1"
    for spec in ("jsonl", "tensorboard", "mlflow", f"tensorboard={tmp_path}", f"mlflow={tmp_path}"):
        follow(TrackerSpec.parse(spec).open(folder))
    assert (folder / "tracker.jsonl").exists()
    assert [w.folder for w in writers] == [str(folder / "tensorboard"), str(tmp_path / "digits-1")]
    assert [c.address for c in kept.made] == [
        (folder.parent / "mlruns").as_uri(),
        tmp_path.as_uri(),
    ]


class Broken(JsonlTracker):
    """A tracker that fails in its second round."""

    def round(self, record: Any) -> None:
        if record.round == 1:
            raise ConnectionError("the server is gone")
        super().round(record)


def test_a_tracker_that_fails_is_reported_once_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    specs = [TrackerSpec("jsonl", str(broken)), TrackerSpec("jsonl", str(path))]
    with monkeypatch.context() as patch:
        patch.setattr(
            "fedsim.trackers.spec.JsonlTracker",
            lambda path: (Broken if path == broken else JsonlTracker)(path),
        )
        failures: list[tuple[str, str]] = []
        trackers = Trackers(
            specs, tmp_path, failed=lambda name, error: failures.append((name, str(error)))
        )
    follow(trackers, rounds=range(3))
    assert failures == [("jsonl", "the server is gone")]
    assert len(path.read_text().splitlines()) == 5
    assert len(broken.read_text().splitlines()) == 2


def test_a_tracker_that_cannot_start_is_refused_before_the_first_round(tmp_path: Path) -> None:
    trackers = Trackers(
        [TrackerSpec("jsonl", str(tmp_path))], tmp_path, failed=lambda name, error: None
    )
    with pytest.raises(ArgumentError, match="cannot start"):
        trackers.start(run_record(), config=CONFIG)
