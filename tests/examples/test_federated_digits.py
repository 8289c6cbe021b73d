"""The demo's claims: averaging beats training alone, a run repeats, and the model is saved."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from fedcore.checkpoint import load_checkpoint

pytest.importorskip("sklearn", reason="the demo's images come with scikit-learn")


@pytest.fixture
def demo(root: Path) -> ModuleType:
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("demo", root / "examples/federated_digits.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def accuracy(output: str, row: str) -> float:
    found = re.search(rf"{row}\s+([\d.]+)%", output)
    assert found is not None, output
    return float(found.group(1))


def test_the_federation_beats_its_clients_and_repeats_to_the_bit(
    demo: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = []
    for name in ("first", "second"):
        demo.main(["--rounds", "15", "--out", str(tmp_path / name)])
        models.append(load_checkpoint(tmp_path / name / "model.safetensors", finite=True).arrays)
    output = capsys.readouterr().out
    assert output.count("round 15/15") == 2
    federated = accuracy(output, "federated, images stay apart")
    assert federated > 85 and federated > accuracy(output, "each block alone, mean") + 10
    assert accuracy(output, "centralised, images pooled") > 90
    for path, value in models[0].items():
        np.testing.assert_array_equal(value, models[1][path])
