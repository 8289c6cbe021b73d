"""One's own program: what trains it is the device's affair, and a federation takes its arrays."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcore.federated import NumPyClientProgram, Task
from tests.examples.runs import EXAMPLES, commands, labels, run, table

FOLDER = EXAMPLES / "pytorch"
DRAW = np.random.default_rng(3)
X, Y = DRAW.normal(size=(24, 64)).astype(np.float32), DRAW.integers(0, 10, 24)
CONFIG = {"epochs": 1, "batch_size": 24, "lr": 0.1, "stream": 5, "round": 0}


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder's modules, as when its script is run."""
    monkeypatch.syspath_prepend(str(FOLDER))


def trainer(name: str) -> Any:
    return import_module(name).Trainer(X, Y)


def test_the_arrays_of_the_stand_in_are_the_tasks_and_training_lowers_their_loss(
    here: None,
) -> None:
    task = Task.from_toml(FOLDER / "task.toml").resolved()
    own = trainer("numpy_trainer")
    assert NumPyClientProgram(own).first_model(task).shape == (task.dimension,)
    first = own.get_parameters({})
    before, examples, _ = own.evaluate(first, {})
    after = own.fit([array.copy() for array in first], CONFIG | {"epochs": 50})
    assert examples == after[1] == len(Y)
    assert own.evaluate(after[0], {})[0] < before / 2


def test_the_stand_ins_step_is_the_slope_of_its_loss(here: None) -> None:
    own = trainer("numpy_trainer")
    first = [array.astype(np.float64) for array in own.get_parameters({})]
    moved = own.fit([array.copy() for array in first], CONFIG)[0]
    for place, array in enumerate(first):
        aside = DRAW.normal(size=array.shape)
        ends = []
        for sign in (1, -1):
            there = [other.copy() for other in first]
            there[place] += sign * 1e-5 * aside
            ends.append(own.evaluate(there, {})[0])
        slope = float(((array - moved[place]) / CONFIG["lr"] * aside).sum())
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(slope, rel=1e-3, abs=1e-5)


@pytest.mark.oracle
def test_a_step_in_numpy_is_one_in_pytorch(here: None) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed (the extra 'oracle')")
    theirs, ours = trainer("torch_trainer"), trainer("numpy_trainer")
    first = theirs.get_parameters({})
    assert [a.shape for a in first] == [a.shape for a in ours.get_parameters({})]
    found = [one.fit([array.copy() for array in first], CONFIG)[0] for one in (ours, theirs)]
    for ours_after, theirs_after in zip(*found, strict=True):
        np.testing.assert_allclose(ours_after, theirs_after, rtol=1e-5, atol=1e-6)
    assert ours.evaluate(first, {})[0] == pytest.approx(theirs.evaluate(first, {})[0], rel=1e-5)


def test_a_trainer_that_is_not_installed_is_named(
    here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert import_module("federation").main(["--trainer", "absent_trainer"]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("FED-1001") and "absent_trainer" in said.err


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["torch_trainer", "numpy_trainer"])
def test_fourteen_devices_train_what_the_server_does_not_know(name: str, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    if name == "torch_trainer":
        pytest.importorskip("torch", reason="PyTorch is not installed (the extra 'oracle')")
    with_torch, by_hand = commands("pytorch")
    command = with_torch if name == "torch_trainer" else by_hand
    found = run([*command.words, "--rounds", "4"], tmp_path)
    assert found.code == 0, found.err
    assert "sel 14 ok 14" in found.out
    assert labels(found.out) == labels(with_torch.shown)
    federated, pooled, best, mean, before = (share for _, [share] in table(found.out))
    assert before < mean <= best and before + 0.2 < federated < pooled
