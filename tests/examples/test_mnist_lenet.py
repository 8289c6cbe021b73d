"""A small convolutional network, written in a few lines, learns MNIST."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def example(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("mnist_lenet", root / "examples/mnist_lenet.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_model_and_training_take_fewer_than_thirty_lines(root: Path) -> None:
    tree = ast.parse((root / "examples/mnist_lenet.py").read_text("utf-8"))
    train = next(node for node in tree.body if isinstance(node, ast.FunctionDef))
    first, last = train.body[1], train.body[-1]  # after the docstring
    assert last.end_lineno is not None and last.end_lineno - first.lineno + 1 < 30


@pytest.mark.slow
@pytest.mark.timeout(900)  # a minute on two free cores
def test_five_epochs_reach_98_8_percent(
    root: Path, shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shared_data / "mnist_writers"
    if not folder.is_dir():
        pytest.skip("MNIST does not lie beside this checkout, in ../shared/data/mnist_writers")
    assert example(root).train(folder) >= 0.988
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == [f"{n}/5" for n in range(1, 6)]
