"""The tutorial of docs/simulation.md, from an empty folder to the same model on real devices."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedsim.run.reading import read_run
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
