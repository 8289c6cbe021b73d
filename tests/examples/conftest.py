"""The examples as modules, beside each other as when one of them is run."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def examples(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the examples, from which they can be imported during a test."""
    monkeypatch.syspath_prepend(str(root / "examples"))
    return root / "examples"


@pytest.fixture
def demo(examples: Path) -> ModuleType:
    pytest.importorskip("sklearn", reason="the demo's images come with scikit-learn")
    pytest.importorskip("uvicorn", reason="the demo's server needs the extra 'demo'")
    return importlib.import_module("federated_digits")
