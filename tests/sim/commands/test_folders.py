"""`fed sim list`, `show`, `compare` and `export` tell what folders and scenarios hold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fedcore.data import load_examples
from fedcore.federated.task import Task
from fedsim.run.reading import read_run
from fedsim.scenario import Scenario
from fedsim.world import World
from tests.sim.commands.conftest import Ended, Fed
from tests.sim.commands.test_run import stop_after
from tests.sim.scenarios import scenario_of

STUDY = 'name = "scaffold"'


def test_a_list_has_each_run_and_what_is_damaged(fed: Fed, file: Path) -> None:
    for name in ("runs/a", "runs/more/b", "runs/c"):
        fed.done("run", file, "--folder", name, "--rounds", 1, "-q")
    Path("runs/c/metrics.jsonl").write_text("{}\n")
    Path("runs/other").mkdir()
    lines = fed.done("list").splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["a", "ended"],
        ["c", "damaged"],
        ["b", "ended"],
    ]
    data = [json.loads(line)["data"] for line in fed.done("list", "--format", "jsonl").splitlines()]
    assert [one["state"] for one in data] == ["ended", "damaged", "ended"]
    assert data[0]["accuracy"] == read_run(Path("runs/a")).rounds[-1].test.accuracy  # type: ignore[union-attr]


def test_a_run_is_shown_as_its_folder_has_it(fed: Fed, file: Path) -> None:
    fed.done("run", file, "--folder", "a", "-q")
    result = read_run(Path("a")).result
    assert result is not None
    data = json.loads(fed.done("show", "a", "--format", "json"))["data"]
    assert data["result"]["model"] == data["model"] == result.model
    assert data["rounds"] == {"done": 3, "planned": 3}
    text = fed.done("show", "a")
    assert result.model in text and result.ended in text and "a/report.html" in text


def test_of_a_run_that_was_killed_it_is_said_after_which_round_it_goes_on(
    fed: Fed, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--set", "scenario.checkpoint_every=2", "--set", "rounds.count=5")
    with monkeypatch.context() as once:
        stop_after(once, 2)
        fed("run", file, "--folder", "a", *more)
    shown = " ".join(fed.done("show", "a").split())
    assert "3 of 5 rounds, and a checkpoint of 2: it goes on after round 2" in shown
    assert "of round 3; its file is written at the end" in shown
    assert "goes on after round 2" in fed("run", "--resume", "a")[2]
    assert "written at the end" not in fed.done("show", "a")


@pytest.mark.parametrize(("held_out", "rows"), [(0.25, "held-out"), (0.0, "training")])
def test_on_which_rows_clients_are_measured_is_said_before_and_after(
    fed: Fed, file: Path, held_out: float, rows: str
) -> None:
    file.write_text(
        scenario_of(rounds=1, clients_every=1).text.replace(
            "[population]", f"[population]\nheld_out = {held_out}"
        )
    )
    assert f"12 are measured on their {rows} rows" in fed.done("run", file, "--dry-run")
    fed.done("run", file, "--folder", "measured")
    assert f" on {rows} rows, mean of 12 clients" in fed.done("show", "measured")


def test_what_is_not_there_is_refused(fed: Fed, file: Path, ended: Ended) -> None:
    ended.copied("a")
    for words in (["list", "absent"], ["show", "absent"], ["compare", "a", "absent"]):
        code, out, err = fed(*words)
        assert (code, out) == (4, "") and "absent" in err and "Fix: " in err


def test_a_comparison_tells_what_differs_and_when_a_target_was_reached(
    fed: Fed, file: Path, ended: Ended
) -> None:
    ended.copied("a")
    fed.done("run", file, "--folder", "b", "--rounds", 2, "-q")
    words = ("compare", "a", "b", "--target", 0.2, "--out", "page.html")
    data = json.loads(fed.done(*words, "--format", "json"))["data"]
    assert "task.rounds.count" in [one["setting"] for one in data["differences"]]
    assert [len(one["reached"]) for one in data["outcomes"]] == [1, 1]
    assert data["page"] == "page.html" and Path("page.html").read_text().startswith("<!")
    assert "task.rounds.count" in fed.done(*words)


def test_a_comparison_that_cannot_be_made_is_refused(fed: Fed, file: Path, ended: Ended) -> None:
    for name in ("a", "b"):
        ended.copied(name)
    for words in (["a"], ["a", "b", "--target", "2"], ["a", "b", "--out", "absent/page.html"]):
        code, out, err = fed("compare", *words)
        assert (code, out) == (4, "") and "Fix: " in err


@pytest.mark.parametrize("inside", [True, False])
def test_an_exported_task_is_that_of_the_scenario(fed: Fed, file: Path, inside: bool) -> None:
    if not inside:
        fed.done("export", file, "--out", "named.toml")
        people = file.read_text().partition("[population]")[2].partition("[training]")[0]
        head = 'scenario = { name = "small", task = "named.toml" }'
        file.write_text(f"{head}\n[population]{people}")
    scenario = Scenario.from_toml(file)
    said = json.loads(fed.done("export", file, "--out", "task.toml", "--format", "json"))["data"]
    written = Task.from_toml(Path("task.toml")).resolved()
    assert written.digest == scenario.task.digest and said["digest"] == written.digest.hex()
    assert Task.from_toml(fed.done("export", file)).resolved().digest == written.digest
    code, _, err = fed("export", file, "--out", "task.toml")
    assert code == 4 and "there already" in err


def test_what_was_simulated_with_another_setting_is_exported_with_it(fed: Fed, file: Path) -> None:
    change = ("--set", "training.optimizer.lr=0.25", "--set", "rounds.count=2")
    fed.done("run", file, "--folder", "a", *change, "-q")
    fed.done("export", file, "--out", "task.toml", *change)
    task = Task.from_toml(Path("task.toml")).resolved()
    assert task.digest.hex() == read_run(Path("a")).record.task_digest
    assert task.digest != Scenario.from_toml(file).task.digest


def test_what_a_verb_does_not_take_is_told_with_what_it_takes(fed: Fed, file: Path) -> None:
    code, _, err = fed("export", file, "--sets", "rounds.count=2")
    assert code == 4 and "usage: fed sim export" in err and "--set PATH=VALUE" in err
    code, _, err = fed("rn", file)
    assert code == 4 and "did you mean 'run'?" in err


@pytest.mark.slow
def test_exported_examples_are_those_of_the_scenarios_clients(fed: Fed, file: Path) -> None:
    said = fed.done("export", file, "--out", "task.toml", "--data", "devices", "--format", "json")
    assert json.loads(said)["data"]["data"] == "devices"
    people = World.of(Scenario.from_toml(file)).population
    assert sorted(path.stem for path in Path("devices").iterdir()) == sorted(people.names)
    for one in people:
        found = load_examples(Path("devices") / f"{one.name}.npz")
        assert np.array_equal(found.x, one.dataset.x) and np.array_equal(found.y, one.dataset.y)
    code, _, err = fed("export", file, "--data", "devices")
    assert code == 4 and "not there yet" in err
    again = (
        'source = { name = "device_files", path = "devices" }\npartition = { name = "natural" }\n'
    )
    head = 'scenario = { name = "small", task = "task.toml", evaluate_every = 0 }'
    Path("again.toml").write_text(f"{head}\n[population]\n{again}")
    models = [
        json.loads(fed.done("run", name, "-q", "--format", "json"))["data"]["model"]
        for name in (file, "again.toml")
    ]
    assert models[0] == models[1]


def test_a_study_is_not_exported(fed: Fed, file: Path) -> None:
    file.write_text(scenario_of(mode="plain", algorithm=STUDY).text)
    code, out, err = fed("export", file)
    assert (code, out) == (4, "") and "scaffold" in err and "no server" in err
