"""`fed sim run` says what it does, keeps data apart from progress, and goes on after a stop."""

from __future__ import annotations

import errno
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedsim.commands import following
from fedsim.records import RoundRecord, Versions
from fedsim.records.durable import disk
from fedsim.run.folder import RunFolder
from fedsim.run.reading import SavedState, read_run
from fedsim.run.simulation import plan_of
from fedsim.scenario import Scenario
from tests.sim.commands.conftest import Ended, Fed
from tests.sim.scenarios import scenario_of
from tests.variants import mostly_slow


def stop_after(monkeypatch: pytest.MonkeyPatch, round: int) -> None:
    """Ctrl-C after a round, once."""
    simulate = following.simulate_in_folder

    def interrupted(*arguments: Any, on_round: Any, **options: Any) -> Any:
        def stopping(record: Any) -> None:
            on_round(record)
            if record.round == round:
                raise KeyboardInterrupt

        return simulate(*arguments, on_round=stopping, **options)

    monkeypatch.setattr(following, "simulate_in_folder", interrupted)


def models(folder: Path) -> list[str]:
    return [record.model for record in read_run(folder).rounds]


def test_a_run_says_first_what_it_simulates_then_each_round_then_what_came_of_it(
    fed: Fed, file: Path
) -> None:
    code, out, err = fed("run", file, "--folder", "runs/a")
    run = read_run(Path("runs/a"))
    assert code == 0 and run.result is not None
    before, lines = err.split("round 1/3", 1)
    for said in (
        run.record.scenario_digest,
        run.record.task_digest,
        "12 with",
        run.record.mode.words,
    ):
        assert " ".join(said.split()) in " ".join(before.split())
    assert "round 3/3" in lines and "round 0/3" not in err
    assert run.result.model in out and "round 1/3" not in out
    assert (run.path / "report.html").exists() and list((run.path / "plots").glob("*.svg"))


def test_json_is_one_document_and_a_stream_has_a_record_a_round(fed: Fed, file: Path) -> None:
    one = json.loads(fed.done("run", file, "--format", "json"))
    assert one["command"] == "sim run" and one["data"]["result"]["totals"]["rounds"] == 3
    lines = [
        json.loads(line)["data"]
        for line in fed.done("run", file, "--format", "jsonl").split("\n")[:-1]
    ]
    assert [line["event"] for line in lines] == ["start", "round", "round", "round", "end"]
    assert [line["record"]["round"] for line in lines[1:-1]] == [0, 1, 2]
    assert lines[-1]["model"] == one["data"]["model"] == lines[-2]["record"]["model"]


def test_a_setting_is_another_for_one_run_and_the_runs_scenario_says_so(
    fed: Fed, file: Path
) -> None:
    fed.done("run", file, "--folder", "a", "--set", "training.optimizer.lr=0.25", "--rounds", "2")
    again = Scenario.from_toml(Path("a/scenario.toml"))
    assert again.task.rate(0) == 0.25 and again.task.rounds.count == 2
    assert "training.optimizer.lr = 0.25" in again.text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["small.toml", "--set", "cohort.goal=3,4"], "2 values"),
        (["small.toml", "--set", "cohort.goal"], "sets nothing"),
        (["small.toml", "--set", "cohort.gaol=3"], "goal"),
        (["small.toml", "--set", "training.optimizer.lr=.2"], "training.optimizer.lr=0.2"),
        (["small.toml", "--set", "training.optimizer.lr=-2.e-3"], "lr=-2.0e-3"),
        (["small.toml", "--set", "task.name=8th run"], 'task.name="8th run"'),
        (["--resume", "a", "--set", "cohort.goal=3"], "beside --resume"),
    ],
)
def test_a_setting_that_is_none_is_refused(
    fed: Fed, file: Path, words: list[str], said: str
) -> None:
    code, out, err = fed("run", *words)
    assert (code, out) == (4, "") and said in err


def test_quiet_says_nothing_but_the_result(fed: Fed, file: Path) -> None:
    code, out, err = fed("run", file, "-q")
    assert (code, err) == (0, "") and "accuracy" in out


def test_a_dry_run_trains_and_writes_nothing(fed: Fed, file: Path) -> None:
    data = json.loads(fed.done("run", file, "--dry-run", "--format", "json"))["data"]
    assert data["dry_run"] and data["clients"] == data["heterogeneity"]["clients"] == 12
    assert data["label"].startswith("fast: ") and data["privacy"] is None
    assert "nothing was simulated" in fed.done("run", file, "--dry-run")
    assert not Path("runs").exists()


def test_what_a_run_refuses_a_dry_run_does_and_no_folder_is_made(fed: Fed, file: Path) -> None:
    more = 'study = { robust = { name = "krum", f = 4 } }'
    file.write_text(scenario_of(mode="plain", more=more).text)
    assert fed("run", file, "--dry-run")[0] == fed("run", file, "--folder", "a")[0] == 4
    assert not Path("a").exists()


def test_each_class_of_devices_is_counted_and_one_that_nobody_has_is_warned_of(
    fed: Fed, file: Path
) -> None:
    classes = [("fast", 0.7), ("slow", 0.3), ("rare", 1e-6)]
    tables = "".join(
        f'[[devices.classes]]\nname = "{name}"\nshare = {share}\n' for name, share in classes
    )
    file.write_text(scenario_of(more=tables).text)
    told = json.loads(fed.done("run", file, "--dry-run", "--format", "json"))["data"]["devices"]
    assert sum(told.values()) == 12 and told["rare"] == 0 < told["slow"] < told["fast"]
    said = " ".join(fed.done("run", file, "--dry-run").split())
    assert f"fast {told['fast']}, slow {told['slow']}, rare 0" in said
    assert "no client has a device of the class rare" in said


def test_a_buffered_schedule_is_not_told_of_a_minimum_that_it_has_not(fed: Fed, file: Path) -> None:
    more = '[clock]\nschedule = "buffered"\nconcurrency = 4\nbuffer = 2\n'
    file.write_text(scenario_of(mode="plain", algorithm='name = "fedbuff"', more=more).text)
    said = " ".join(fed.done("run", file, "--dry-run").split())
    assert "4 clients at a time, 2 a step; each update" in said


def test_features_that_are_missing_are_counted_before_the_run_and_in_what_it_says(
    fed: Fed, file: Path
) -> None:
    x = np.random.default_rng(0).normal(size=(120, 6))
    x[:50, 2] = np.nan
    np.savez("rows.npz", x=x, y=np.arange(120) % 3)
    for standardize in ("true", "false"):
        source = f'source = {{ name = "npz", path = "rows.npz", standardize = {standardize} }}'
        file.write_text(re.sub("source = .*", source, scenario_of(rounds=1, minimum=3).text))
        data = json.loads(fed.done("run", file, "--dry-run", "--format", "json"))["data"]
        assert data["filled"] == 50
        code, out, err = fed("run", file, "--format", "json")
        assert code == 0 and "50 features were missing" in " ".join(err.split())
        assert json.loads(out)["data"]["simulated"]["filled"] == 50


def test_a_mode_without_privacy_says_so_everywhere(fed: Fed, file: Path) -> None:
    file.write_text(scenario_of(mode="plain", rounds=1).text)
    _, out, err = fed("run", file)
    assert "NOT PRIVATE" in out and "NOT PRIVATE" in err
    assert "NOT PRIVATE" in fed.done("list")


def test_what_is_expected_of_devices_is_a_warning(fed: Fed, file: Path) -> None:
    file.write_text(scenario_of(more="[devices]\ndropout = { training = 0.9 }").text)
    assert "warning" in fed.done("run", file, "--dry-run")


@pytest.mark.parametrize(
    "options", mostly_slow([["--workers", 2, "--kind", "threads"], ["--lanes", 1]])
)
def test_how_the_machine_works_changes_no_model(
    fed: Fed, file: Path, ended: Ended, options: list[object]
) -> None:
    fed.done("run", file, "--folder", "other", *options)
    assert models(Path("other")) == models(ended.copied("alone"))


def test_rounds_are_those_that_were_asked_for(fed: Fed, file: Path, ended: Ended) -> None:
    fed.done("run", file, "--folder", "some", "--rounds", 2)
    assert models(Path("some")) == models(ended.copied("all"))[:2]


@pytest.mark.parametrize("named", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_run_that_was_interrupted_goes_on_to_the_same_end(
    fed: Fed, file: Path, ended: Ended, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    whole = models(ended.copied("whole"))
    with monkeypatch.context() as patched:
        stop_after(patched, 0)
        code, out, err = fed("run", file, "--folder", "parts", "-q")
    assert (code, out) == (130, "")
    assert "1 of 3 rounds are kept" in err and "fed sim run --resume parts" in err
    assert "stopped" in fed.done("show", "parts") and "--resume parts" in fed.done("show", "parts")
    fed.done("run", "--resume", "parts", *([file] if named else []))
    assert models(Path("parts")) == whole
    again = fed.done("run", "--resume", "parts")
    assert whole[-1] in again


def test_a_run_goes_on_from_another_working_folder_and_finds_its_data(
    fed: Fed, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = 'source = { name = "csv", path = "rows.csv", target = "y" }\n'
    text = scenario_of(rounds=2, partition='name = "iid"').text
    source = next(line for line in text.split("\n") if line.startswith("source"))
    rows = [[i % 3, *((i * k) % 7 / 7 for k in range(1, 7))] for i in range(120)]
    head = "y," + ",".join("abcdef")
    lines = [",".join(map(str, row)) for row in rows]
    file.with_name("rows.csv").write_text("\n".join([head, *lines]) + "\n")
    file.write_text(text.replace(source, table))
    with monkeypatch.context() as patched:
        stop_after(patched, 0)
        assert fed("run", file, "--folder", "deep/er/run")[0] == 130
    (file.parent / "elsewhere").mkdir()
    monkeypatch.chdir(file.parent / "elsewhere")
    fed.done("run", "--resume", "../deep/er/run")


def test_other_versions_are_told_of(
    fed: Fed, ended: Ended, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended.copied("a")
    others = replace(Versions.here(), numpy="9.9")
    monkeypatch.setattr(Versions, "here", classmethod(lambda cls: others))
    _, _, err = fed("run", "--resume", "a")
    assert "warning" in err and "-> 9.9" in err


def test_trackers_follow_the_run_from_the_round_it_goes_on_with(
    fed: Fed, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        stop_after(patched, 1)
        fed("run", file, "--folder", "a", "--tracker", "jsonl=told.jsonl")
    fed.done("run", "--resume", "a", "--tracker", "jsonl=told.jsonl")
    told = [json.loads(line) for line in Path("told.jsonl").read_text().splitlines()]
    assert [line["event"] for line in told] == [
        "start",
        "round",
        "round",
        "end",
        "start",
        "round",
        "end",
    ]
    assert told[4]["first_round"] == 2 and told[3]["result"] is None and told[-1]["result"]


def test_a_tracker_that_cannot_be_used_leaves_no_folder(
    fed: Fed, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = fed("run", file, "--tracker", "tensorbord")
    assert (code, out) == (4, "") and "did you mean tensorboard?" in err
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setitem(sys.modules, "mlflow.entities", None)
    code, _, err = fed("run", file, "--tracker", "mlflow")
    assert code == 4 and "FED-1001" in err
    assert not Path("runs").exists()


def test_a_typo_is_told_with_its_line_and_what_was_meant(fed: Fed, file: Path) -> None:
    lines = file.read_text().replace("clients = 12", "cleints = 12").split("\n")
    file.write_text("\n".join(lines))
    code, out, err = fed("run", file)
    assert (code, out) == (4, "")
    assert f"small.toml:{lines.index('cleints = 12') + 1}" in err and "did you mean clients?" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run"], "no scenario"),
        (["run", "absent.toml"], "absent.toml cannot be read"),
        (["run", "small.toml", "--workers", "0"], "at --workers"),
        (["run", "small.toml", "--workers", "many"], "invalid int"),
        (["run", "small.toml", "--workers", "4096"], "4096 workers on a machine of"),
        (["run", "small.toml", "--rounds", "0"], "rounds.count"),
        (["run", "small.toml", "--program", "mine"], "name=module:attribute"),
        (["run", "small.toml", "--out", "a", "--folder", "b"], "--out beside --folder"),
        (["run", "--resume", "absent"], "no folder of a run"),
        (["run", "--resume", "absent", "--rounds", "3"], "--rounds beside --resume"),
        (["run", "small.toml", "--out", "small.toml"], "cannot be written"),
        (["run", "small.toml", "--tracker", "jsonl", "--tracker", "jsonl"], "named twice"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_remedy(
    fed: Fed, file: Path, words: list[str], said: str
) -> None:
    code, out, err = fed(*words)
    assert (code, out) == (4, "") and said in err
    assert "Fix: " in err or "it has to be a number from 1" in err


def test_workers_that_there_are_not_are_refused(fed: Fed, file: Path) -> None:
    file.write_text(scenario_of().text.replace('kind = "threads"', 'kind = "coroutines"'))
    code, _, err = fed("run", file)
    assert code == 4 and "coroutines" in err and "'processes', 'ray', 'threads'" in err


def test_a_folder_of_another_scenario_and_one_in_use_are_refused(
    fed: Fed, file: Path, ended: Ended
) -> None:
    ended.copied("a")
    other = file.with_name("other.toml")
    other.write_text(scenario_of(rounds=2).text)
    code, _, err = fed("run", other, "--resume", "a")
    assert code == 4 and "of another scenario" in err
    code, _, err = fed("run", file, "--folder", "a")
    assert code == 4 and "not free" in err
    scenario = Scenario.from_toml(file)
    with RunFolder.create(file.parent, plan_of(scenario)) as folder:
        assert "running" in fed.done("list", file.parent)
        code, _, err = fed("run", file, "--resume", folder.path)
    assert code == 4 and "written by another process" in err


def test_a_round_that_is_given_up_ends_with_1_and_keeps_what_was_finished(
    fed: Fed, file: Path
) -> None:
    lost = "[devices]\ndropout = { training = 0.99 }"
    file.write_text(scenario_of(more=lost).text)
    code, out, err = fed("run", file)
    assert (code, out) == (1, "") and "given up" in err


def test_a_disk_that_fills_up_says_what_is_kept_though_it_takes_no_report_either(
    fed: Fed, file: Path, ended: Ended, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def append(folder: RunFolder, record: RoundRecord, state: SavedState | None = None) -> None:
        with disk(folder.path):
            full() if record.round == 2 else kept(folder, record, state)

    kept = RunFolder.append
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append", append)
        patch.setattr("fedsim.report.page.write_atomically", full)
        code, _, err = fed("run", file, "--folder", "a")
    assert code == 4 and "the run in a cannot be written" in err
    assert "fed sim run --resume a" in err and "the report of" not in err
    fed.done("run", "--resume", "a")
    assert models(Path("a")) == models(ended.copied("whole"))


def test_a_program_of_ones_own_is_found_where_it_is_said_to_be(
    fed: Fed, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(file.read_text().replace("[training]", '[training]\nprogram = "mine"'))
    for options in ([], ["--program", "mine=absent.module:thing"]):
        code, _, err = fed("run", file, "--folder", "mine", *options)
        assert code == 4 and "no program" in err and not Path("mine").exists()
