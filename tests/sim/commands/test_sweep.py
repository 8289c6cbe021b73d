"""`fed sim sweep` runs each combination once, whatever stops it, and shows the best first."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from fedsim.run.reading import read_run
from tests.sim.commands.conftest import Fed
from tests.sim.commands.test_run import stop_after
from tests.sim.scenarios import scenario_of

pytestmark = pytest.mark.slow

GRID = ("--set", "training.optimizer.lr=0.001,0.1", "--seeds", "1,2")


def results(fed: Fed, file: Path, *words: object) -> dict[str, Any]:
    said = fed.done("sweep", file, *words, "--folder", "all", "--format", "json")
    found: dict[str, Any] = json.loads(said)["data"]
    return found


def test_the_table_has_means_over_seeds_and_the_best_first(fed: Fed, file: Path) -> None:
    data = results(fed, file, *GRID)
    rows = data["rows"]
    assert {row["settings"]["training.optimizer.lr"] for row in rows} == {0.001, 0.1}
    means = [row["accuracy"]["mean"] for row in rows]
    assert means == sorted(means, reverse=True) and [row["seeds"] for row in rows] == [[1, 2]] * 2
    for row in rows:
        runs = [read_run(Path("all") / name) for name in row["runs"]]
        assert [run.record.seeds["task"] for run in runs] == [1, 2]
        found = [run.rounds[-1].test.accuracy or 0.0 for run in runs if run.rounds[-1].test]
        assert row["accuracy"] == {
            "mean": pytest.approx(fmean(found)),
            "deviation": pytest.approx(stdev(found)),
        }
    assert json.loads(Path("all/sweep.json").read_text())["rows"] == rows
    assert Path(data["page"]).read_text().startswith("<!")


def test_a_sweep_that_was_interrupted_repeats_no_run_that_has_ended(
    fed: Fed, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results(fed, file, "--set", "cohort.goal=4,5")
    before = {path: path.stat().st_mtime_ns for path in Path("all").glob("*/result.json")}
    with monkeypatch.context() as patched:
        stop_after(patched, 1)
        code, _, err = fed("sweep", file, "--set", "cohort.goal=4,5,6", "--folder", "all")
    assert code == 130 and "2 of 3 rounds are kept" in err
    rows = results(fed, file, "--set", "cohort.goal=4,5,6")["rows"]
    assert len(rows) == 3
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_one_command_finds_its_folder_again(fed: Fed, file: Path) -> None:
    first = json.loads(fed.done("sweep", file, "--seeds", "1", "--format", "json"))["data"]
    lines = fed.done("sweep", file, "--seeds", "1,2", "--format", "jsonl").splitlines()
    data = [json.loads(line)["data"] for line in lines]
    assert [one["event"] for one in data] == ["run", "run", "end"]
    assert (
        data[-1]["folder"] == first["folder"] and first["rows"][0]["accuracy"]["deviation"] is None
    )
    assert len(fed.done("list").splitlines()) == 2


def test_a_combination_that_cannot_run_is_refused_before_the_first(fed: Fed, file: Path) -> None:
    code, out, err = fed("sweep", file, "--set", "cohort.goal=6,40")
    assert (code, out) == (4, "") and "goal = 40" in err and "selects 40 of 12" in err
    assert not Path("runs").exists()


def test_a_run_that_is_given_up_does_not_keep_others_from_running(fed: Fed, file: Path) -> None:
    file.write_text(scenario_of(rounds=2, more="[devices]\ndropout = { training = 0.0 }").text)
    code, out, err = fed(
        *("sweep", file, "--set", "devices.dropout.training=0.99,0.0", "--folder", "all"),
        *("--format", "json"),
    )
    rows = json.loads(out)["data"]["rows"]
    assert code == 1 and [row["failed"] for row in rows] == [0, 1] and "given up" in err
    assert len(rows[0]["runs"]) == 1 and rows[1]["accuracy"] is None


def test_a_dry_run_lists_the_combinations(fed: Fed, file: Path) -> None:
    lines = fed.done("sweep", file, *GRID, "--dry-run").splitlines()
    assert lines[0] == "lr = 0.001, seed = 1" and len(lines) == 4
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "a sweep over nothing"),
        (["--set", "training.optimizer.lrr=0.1"], "lrr"),
        (["--set", "traning.epochs=1"], "did you mean training?"),
        (["--set", "population.partition.alpah=1.0"], "did you mean alpha?"),
        (["--set", "rounds.count.more=1"], "leads nowhere"),
        (["--set", "model.layers[9].outputs=1"], "leads nowhere"),
        (["--set", "training.epochs"], "sets nothing"),
        (["--set", "training.epochs=1,"], "sets nothing"),
        (["--set", "training.epochs=1,[2"], "sets nothing"),
        (["--set", "training.epochs=1,1"], "one value twice"),
        (["--set", "9=1"], "no path of a setting"),
        (["--set", "training.epochs=1", "--set", "training.epochs=2"], "given twice"),
        (["--set", "task.seed=1", "--seeds", "1"], "given twice"),
        (["--seeds", "1,1"], "given twice"),
        (["--seeds", "1;2"], "--seeds"),
    ],
)
def test_what_cannot_be_swept_is_refused_with_a_remedy(
    fed: Fed, file: Path, words: list[str], said: str
) -> None:
    code, out, err = fed("sweep", file, *words)
    assert (code, out) == (4, "") and said in err and "Fix: " in err
