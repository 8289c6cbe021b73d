"""The tutorial of docs/simulation.md: commands up to the same model on real devices, and Python."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedsim import Outcome, read_run
from tests.docs.blocks import blocks_of, typed
from tests.docs.machine import Machine, served

PAGE = "docs/simulation.md"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_tutorial_runs_in_the_order_in_which_it_stands(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn", reason="its server needs the extra 'server'")
    pytest.importorskip("sklearn", reason="its clients read the digits of the extra 'demo'")
    variables, port = served()
    shown = ""
    with Machine(tmp_path, variables) as machine:
        for block in blocks_of(PAGE, "toml", "console"):
            if block.kind == "toml":
                (tmp_path / block.file).write_text(block.text, "utf-8")
            else:
                shown += machine.run(typed(block).replace("7443", port))
    assert "nothing was simulated" in shown and "Until the accuracy was reached" in shown
    runs = [read_run(tmp_path / "runs" / name) for name in ("fedavg", "fedadam")]
    assert all(run.result is not None for run in runs)
    assert len(re.findall(r'^"fed\w+" +[\d.]+ +2 ', shown, re.MULTILINE)) == 4
    assert (tmp_path / "runs/both.html").exists() and (tmp_path / "runs/sweep/sweep.html").exists()
    assert (tmp_path / "runs/fedavg/report.html").exists()
    differences = re.findall(r"^layers\S+ +max (\S+) ", shown, re.MULTILINE)
    assert len(differences) == 2 and all(float(most) == 0 for most in differences), shown


@pytest.mark.slow
def test_every_block_of_python_runs_beside_the_tutorials_scenario(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn", reason="the clients read the digits of the extra 'demo'")
    monkeypatch.chdir(tmp_path)
    (scenario,) = blocks_of(PAGE, "toml")
    (tmp_path / scenario.file).write_text(scenario.text, "utf-8")
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks_of(PAGE, "python"):
        exec(compile(block.text, f"{PAGE}, line {block.line}", "exec"), names)
    first, last = capsys.readouterr().out.splitlines()[0], names["outcome"]
    run = read_run(tmp_path / "runs/python")
    assert run.result is not None and first.startswith(f"{run.result.best_accuracy} ")
    assert isinstance(last, Outcome) and last.result.best_accuracy is not None
    assert min(float(first.split()[0]), last.result.best_accuracy) > 0.8
