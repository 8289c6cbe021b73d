"""The index of errors is whole: a code that a user meets has a cause and a remedy there."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from fedcore.errors import registry


@pytest.fixture(scope="module")
def generate(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", root / "docs/errors/generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_its_generator_writes(generate: ModuleType) -> None:
    current = generate.PAGE.read_text("utf-8") == generate.page()
    assert current, "run python docs/errors/generate.py"


def test_the_page_has_an_anchor_for_every_code_and_no_other(root: Path) -> None:
    anchors = re.findall(r'<a id="(FED-\d{4})">', (root / "docs/errors.md").read_text("utf-8"))
    ours = [code for code, cls in registry().items() if cls.__module__.startswith("fedcore.")]
    assert anchors == ours


def test_every_code_has_a_cause_and_a_remedy_that_are_sentences(root: Path) -> None:
    causes = tomllib.loads((root / "docs/errors/causes.toml").read_text("utf-8"))
    ours = {code for code, cls in registry().items() if cls.__module__.startswith("fedcore.")}
    assert causes.keys() == ours
    for code, known in causes.items():
        assert known.keys() == {"cause", "remedy"}, code
        assert all(text.endswith(".") and len(text) > 10 for text in known.values()), code
